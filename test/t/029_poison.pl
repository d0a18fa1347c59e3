# One message that the database refuses costs that message; trouble of the database's own costs
# none (I13).

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature');
$iot->device('boiler-1', ['temperature']);
$iot->use_broker($broker);
my $topic = 'iot/boiler-1/telemetry';
my $base = (time() - 40000) * 1000;

sub messages
{
	my ($from, $to) = @_;

	return [ map { '{"ts":' . ($base + $_ * 1000) . qq(,"values":{"temperature":$_}}) } $from .. $to ];
}

my $pid = $iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");

# an operator's own rule refuses some values
$iot->psql(<<'EOC');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.value::integer % 100 = 13 THEN
		RAISE EXCEPTION 'value % brings bad luck', NEW.value USING ERRCODE = 'check_violation';
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON iot.measurement FOR EACH ROW
	EXECUTE FUNCTION public.refuse();
EOC
$broker->publish_lines($topic, messages(1, 1000));
$iot->poll('SELECT (SELECT count(*) FROM iot.measurement)'
	  . ' + (SELECT count(*) FROM iot.dead_letter) = 1000');
is($iot->psql('SELECT count(*) FROM iot.measurement'), '990', 'I13: the good ones are stored');
is($iot->psql("SELECT count(*) FROM iot.dead_letter WHERE reason = 'refused_by_database'"
		  . " AND error LIKE 'value % brings bad luck' AND topic = '$topic' AND adapter = 'mqtt'"),
	'10', 'I13: each bad one is a dead letter, once, with the error');
is($iot->psql("SELECT convert_from(payload, 'UTF8')::json -> 'values' ->> 'temperature'"
		  . ' FROM iot.dead_letter ORDER BY dead_letter_id LIMIT 1'), '13', 'and its payload');
is($iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"),
	$pid, 'no worker restarted');
my ($row) = $iot->rows(
	"SELECT counters FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'");
my %counters = %{ $row->{counters} };
is($counters{received}, 1000, 'I12: all are counted');
is($counters{stored}, 990, 'I12: as stored');
is($counters{rejected}, 10, 'I12: or rejected');
is($counters{given_back} || 0, 0, 'and none was handed back');

# a full disk is nobody's fault
my $log = $iot->log_size;
$iot->psql(<<'EOC');
CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full';
END $$;
EOC
$broker->publish_lines($topic, messages(2001, 2050));
$iot->wait_for_log(qr/gives messages back to MQTT broker/, $log);
$iot->wait_for_log(qr/LOG:  no space left on device/, $log);
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), '10', 'a full disk makes no dead letter');
$iot->psql('DROP TRIGGER refuse ON iot.measurement');
$iot->poll('SELECT count(*) = 50 FROM iot.measurement WHERE value BETWEEN 2001 AND 2050');
$iot->wait_for_log(qr/the database takes messages again/, $log);
pass('and loses nothing: it is all delivered again');
is($iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"),
	$pid, 'no worker restarted');

# what a worker does counts for pg_stat and autovacuum within a second (I24)
$iot->psql("SELECT pg_stat_reset()");
$broker->publish_lines($topic, messages(3001, 3010));
$iot->poll('SELECT count(*) = 10 FROM iot.measurement WHERE value BETWEEN 3001 AND 3010');
my $seconds = elapsed(
	sub {
		$iot->poll("SELECT coalesce(sum(n_tup_ins), 0) >= 10 FROM pg_stat_user_tables"
			  . " WHERE schemaname = 'iot' AND relname LIKE 'measurement%'");
	});
cmp_ok($seconds, '<', 1.5, sprintf('I24: what workers write is soon in pg_stat (%.2f s)', $seconds));

# our transactions are short, so that vacuum is not held back (I20)
is($iot->psql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'iot %'"
		  . " AND xact_start < now() - interval '2 s'"), '0', 'I20: no worker sits in a transaction');
my $session = $iot->session;
$session->query_safe('BEGIN; LOCK TABLE iot.measurement IN SHARE MODE');
$broker->publish_lines($topic, messages(4001, 4010));
my $longest = 0;
my $until = time() + 5;
poll_until(
	sub {
		my $age = $iot->psql("SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)"
			  . " FROM pg_stat_activity WHERE backend_type LIKE 'iot %' AND backend_xmin IS NOT NULL");

		$longest = $age if $age > $longest;
		return time() > $until;
	},
	'five seconds pass');
cmp_ok($longest, '>', 0.5, 'a worker that waits for a lock is seen waiting');
cmp_ok($longest, '<', 2, sprintf('I20: but it gives up before two seconds (%.2f s)', $longest));
$session->query_safe('COMMIT');
$iot->poll('SELECT count(*) = 10 FROM iot.measurement WHERE value BETWEEN 4001 AND 4010');
pass('and stores what it could not before');

# a copy that nobody has resumed keeps silent
$log = $iot->log_size;
my $watch = $broker->watch('iot/boiler-1/command');
$iot->psql('UPDATE iot.epoch SET paused = true');
$iot->wait_for_log(qr/iot worker is idle: paused; run "SELECT iot.resume\(\)"/, $log);
$iot->poll("SELECT state = 'idle' FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'");
$iot->psql("SELECT iot.send_command('boiler-1', 'temperature', 1)");
$broker->publish_lines($topic, messages(5001, 5001));
$iot->poll("SELECT count(*) = 1 FROM iot.worker WHERE kind = 'notifier'"
	  . " AND heartbeat_at > now() - interval '1 s' AND heartbeat_at > (SELECT created_at + interval '1 s'"
	  . ' FROM iot.command)');
is(scalar($watch->messages), 0, 'paused: no command leaves');
is($iot->psql('SELECT count(*) FROM iot.measurement WHERE value = 5001'),
	'0', 'paused: no message is taken');
$iot->psql('UPDATE iot.epoch SET paused = false');
$watch->wait_for(1);
$iot->poll('SELECT count(*) = 1 FROM iot.measurement WHERE value = 5001');
pass('resumed: both go on');

done_testing();
