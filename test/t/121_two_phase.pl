# Two-phase commit: every way in which people write is prepared, then rolled back, then prepared again
# and committed.  Prepared, nobody sees anything of it; rolled back, nothing is left; committed, all is
# there.  The list comes from the catalogue, so that a function that is new has to be added here.
# At last the workers: what was prepared goes out when it is committed, by their polling, and never
# when it was rolled back.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use IotTest;

my $folder = PostgreSQL::Test::Utils::tempdir;
append_to_file("$folder/jwt.key", 'a key of thirty-two bytes or more');
chmod 0600, "$folder/jwt.key";
my $iot = IotTest->new('main', databases => '', cron => 1, conf => "iot.jwt_key_file = '$folder/jwt.key'");

$iot->psql(q{
	INSERT INTO iot.parameter (name, value_min, value_max, labels)
		VALUES ('temperature', 0, 100, '{"LOW": 10}');
	INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
	SELECT iot.create_device(name, ARRAY['temperature'], adapter => 'own')
		FROM unnest(ARRAY['boiler-1', 'boiler-2', 'boiler-3', 'boiler-4']) AS name;
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, severity)
		SELECT 'hot', 'threshold', parameter_id, '>', 80, 'red' FROM iot.parameter;
	SELECT iot.register_user(current_user, 'correct horse', role => 'iot_admin');
	SELECT iot.register_user('anna', 'correct horse')});
# one row at least in every table that people write
$iot->user('anna', level => 'manage');
$iot->psql(q{
	INSERT INTO iot.webhook (name, url) VALUES ('hook', 'https://example.org/hook');
	INSERT INTO iot.mail_server (name, url, sender) VALUES ('mail', 'smtp://127.0.0.1', 'iot@example.org');
	INSERT INTO iot.escalation_step (notification_rule_id, step, after, audience)
		SELECT notification_rule_id, 1, '1 hour', 'user:anna' FROM iot.notification_rule
		WHERE event = 'alarm.opened'});

# A call, what has to be there before, and what is true once it is committed and is not before, without
# which it only reads.  Some lock tables, so that nobody can look while they are prepared.
my $alarm = q{(SELECT alarm_id FROM iot.alarm WHERE status = 'OPENED')};
my $letter = q{(SELECT max(dead_letter_id) FROM iot.dead_letter)};
my $batch = '(SELECT command_batch_id FROM iot.command_batch ORDER BY command_batch_id DESC LIMIT 1)';
my $newest = '(SELECT command_id FROM iot.command ORDER BY command_id DESC LIMIT 1)';
my $dead = q{INSERT INTO iot.dead_letter (adapter, device, topic, payload, reason)
	VALUES ('mqtt', 'boiler-9', 'iot/boiler-9/telemetry', '{"temperature":77}', 'unknown_device')};
my $me = $iot->psql('SELECT current_user');
my @calls = (
	[ q{SELECT iot.create_device('boiler-9', ARRAY['temperature'])}, '',
		q{EXISTS (SELECT FROM iot.device WHERE name = 'boiler-9')} ],
	[ q{SELECT count(*) FROM iot.import_zigbee2mqtt('[{"friendly_name": "lamp", "definition": {"exposes":
		[{"type": "numeric", "property": "load", "access": 1}]}}]', device_type => 'lamps')},
		q{INSERT INTO iot.device_type (name) VALUES ('lamps')},
		q{EXISTS (SELECT FROM iot.device WHERE name = 'lamp')} ],
	[ q{SELECT count(*) FROM iot.import_home_assistant('homeassistant/sensor/plug/power/config',
		'{"stat_t": "plug/power", "dev": {"ids": "plug"}}')}, '',
		q{EXISTS (SELECT FROM iot.device WHERE name = 'plug')} ],
	[ q{SELECT iot.send_command('boiler-1', 'temperature', 20)}, '',
		q{(SELECT count(*) FROM iot.command WHERE value = 20 AND status = 'COMMITTED') = 1} ],
	[ q{SELECT iot.send_command('boiler-2', 'temperature', 'LOW')}, '',
		q{(SELECT count(*) FROM iot.command WHERE value = 10 AND status = 'COMMITTED') = 1} ],
	[ q{SELECT count(*) FROM iot.adapter_poll('own', 10)}, '',
		q{(SELECT count(*) FROM iot.saga_step WHERE service = 'adapter') = 2} ],
	[ "SELECT iot.adapter_sent($newest)", '', qq{(SELECT status FROM iot.command
		WHERE command_id = $newest) = 'COMPLETED'} ],
	[ q{SELECT iot.adapter_error((SELECT command_id FROM iot.command WHERE value = 20), 'no')}, '',
		q{(SELECT status FROM iot.command WHERE value = 20) = 'CANCELLED'} ],
	[ "SELECT iot.wait_for_command($newest)" ],
	[ q{SELECT iot.send_group_command('default', 'temperature', 30)}, '',
		q{(SELECT total FROM iot.command_batch) > 0} ],
	[ "SELECT iot.pause_group_command($batch)", '', q{(SELECT status FROM iot.command_batch) = 'PAUSED'} ],
	[ "SELECT iot.resume_group_command($batch)", '', q{(SELECT status FROM iot.command_batch) = 'RUNNING'} ],
	[ "SELECT iot.cancel_group_command($batch)", '',
		q{(SELECT status FROM iot.command_batch) = 'CANCELLED'} ],
	[ q{SELECT iot.ingest('boiler-3', '{"temperature": 90}')}, '',
		q{(SELECT count(*) FROM iot.alarm WHERE status = 'OPENED') = 1} ],
	[ "SELECT iot.acknowledge_alarm($alarm)", '', "(SELECT acknowledged_at IS NOT NULL FROM iot.alarm)" ],
	[ "SELECT iot.assign_alarm($alarm, 'anna')", '', "(SELECT assignee = 'anna' FROM iot.alarm)" ],
	[ "SELECT iot.comment_alarm($alarm, 'seen')", '', 'EXISTS (SELECT FROM iot.alarm_comment)' ],
	[ "SELECT iot.close_alarm($alarm)", '', "(SELECT status = 'CLOSED' FROM iot.alarm)" ],
	[ q{SELECT count(*) FROM iot.backtest_alarm_rule((SELECT alarm_rule_id FROM iot.alarm_rule
		WHERE name = 'hot'),
		now() - interval '1 day', now())} ],
	[ "SELECT iot.replay_dead_letter($letter)", $dead,
		'EXISTS (SELECT FROM iot.measurement WHERE value = 77)' ],
	[ "SELECT iot.discard_dead_letter($letter)", $dead,
		'(SELECT count(*) FROM iot.dead_letter) = 0' ],
	[ q{SELECT iot.create_device_credential('boiler-1')}, '',
		'(SELECT count(*) FROM iot.device_credential) = 1' ],
	[ q{SELECT iot.rotate_device_credential('boiler-1')}, '',
		'(SELECT count(*) FROM iot.device_credential) = 2' ],
	[ q{SELECT iot.disable_device_credential('boiler-1')}, '',
		'NOT (SELECT bool_or(enabled) FROM iot.device_credential)' ],
	[ q{SELECT iot.enable_device_credential('boiler-1')}, '',
		'(SELECT bool_and(enabled) FROM iot.device_credential)' ],
	[ q{SELECT iot.delete_device_credential('boiler-1')}, '',
		'(SELECT count(*) FROM iot.device_credential) = 0' ],
	[ q{SELECT iot.mark_notifications_read(0)}, '', 'EXISTS (SELECT FROM iot.notification_read)' ],
	[ q{SELECT iot.set_preferences(time_zone => 'Asia/Tokyo')}, '',
		q{(SELECT time_zone FROM iot.app_user WHERE username = current_user) = 'Asia/Tokyo'} ],
	[ q{SELECT iot.mute('alarm.*')}, '', 'EXISTS (SELECT FROM iot.notification_mute)' ],
	[ q{SELECT iot.unmute('alarm.*')}, '', 'NOT EXISTS (SELECT FROM iot.notification_mute)' ],
	[ q{SELECT iot.set_quiet_hours('22:00', '06:00')}, '', 'EXISTS (SELECT FROM iot.quiet_hours)' ],
	[ q{SELECT iot.register_user('bert', 'correct horse')}, '',
		q{EXISTS (SELECT FROM iot.app_user WHERE username = 'bert')} ],
	[ q{SELECT iot.login('bert', 'correct horse')}, '',
		q{EXISTS (SELECT FROM iot.event WHERE type = 'user.login')} ],
	[ q{SELECT iot.logout(true)}, '', q{EXISTS (SELECT FROM iot.event WHERE type = 'user.logout')} ],
	[ q{SELECT iot.change_password('correct horse', 'another horse')}, '',
		q{EXISTS (SELECT FROM iot.event WHERE type = 'user.password_changed')} ],
	[ q{SELECT iot.reset_password('bert', 'another horse')}, '',
		q{EXISTS (SELECT FROM iot.event WHERE type = 'user.password_reset')} ],
	[ q{SELECT iot.revoke_tokens('bert')}, '',
		q{EXISTS (SELECT FROM iot.event WHERE type = 'user.tokens_revoked')} ],
	[ qq{SET LOCAL iot.authenticators = '$me'; SET LOCAL request.jwt.claims = '{"sub": "anna", "iat": 9999999999}';
		SELECT iot.check_request()} ],
	[ 'SELECT iot.status()' ],
	[ 'SELECT count(*) FROM iot."check"()' ],
	[ 'CALL iot.maintain()', q{INSERT INTO iot.dead_letter (reason, created_at)
		VALUES ('malformed_json', now() - interval '31 days')},
		'(SELECT count(*) FROM iot.dead_letter) = 0' ],
	[ 'SELECT iot.schedule_maintenance()', '', 'EXISTS (SELECT FROM cron.job)' ],
	[ 'SELECT iot.unschedule_maintenance()', '', 'NOT EXISTS (SELECT FROM cron.job)' ],
	[ 'SELECT iot.resume()', 'UPDATE iot.epoch SET paused = true',
		'NOT (SELECT paused FROM iot.epoch)' ],
	[ 'SELECT iot.migrate()', 'DROP TRIGGER device_service ON iot.event',
		q{EXISTS (SELECT FROM pg_trigger WHERE tgname = 'device_service')}, 'locks' ],
	[ 'SELECT iot.install()', 'DROP VIEW iot.fleet', q{to_regclass('iot.fleet') IS NOT NULL}, 'locks' ],
	[ 'SELECT iot.purge()', '', q{to_regnamespace('iot') IS NULL}, 'locks' ]);

# all rows, and what is armed
$iot->psql(<<'EOC');
CREATE FUNCTION public.rows_of(what regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	digest text;
BEGIN
	EXECUTE format('SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM %s t', what)
		INTO digest;
	RETURN coalesce(digest, '');
END
$$;
CREATE FUNCTION public.state() RETURNS text LANGUAGE sql AS $$
	SELECT md5(string_agg(c.oid::regclass || public.rows_of(c.oid::regclass), ' ' ORDER BY c.relname))
		|| (SELECT count(*) FROM pg_trigger) || ' ' || (SELECT count(*) FROM pg_class)
		|| (SELECT count(*) FROM cron.job)
	FROM pg_class c WHERE c.relnamespace = to_regnamespace('iot') AND c.relkind = 'r'
$$;
EOC
my $session = $iot->session;
my $number = 0;

# Prepared and rolled back, then prepared and committed.
sub twice
{
	my ($statement, $probe, $what, $locks) = @_;
	my $before = $session->query_safe('SELECT public.state()');
	my $name = 'two_phase_' . ++$number;

	foreach my $end ('ROLLBACK PREPARED', 'COMMIT PREPARED')
	{
		my $answer = $session->query("BEGIN; $statement; PREPARE TRANSACTION '$name'");

		if ($answer =~ /^(?:ERROR|FATAL):[^\n]*/m)
		{
			fail("$what can be prepared: $&");
			$session->query('ROLLBACK');
			return;
		}
		is($session->query_safe('SELECT public.state()'), $before, "$what: prepared, nobody sees it")
		  if $end eq 'COMMIT PREPARED' && !$locks;
		$session->query_safe("$end '$name'");
		is($session->query_safe('SELECT public.state()'), $before, "$what: rolled back, nothing is left")
		  if $end eq 'ROLLBACK PREPARED';
	}
	if (!defined $probe)
	{
		is($session->query_safe('SELECT public.state()'), $before, "$what: only reads");
	}
	else
	{
		is($session->query_safe("SELECT $probe"), 't', "$what: committed, it is there");
	}
	return;
}

my %called;
my @functions = split /\n/, $iot->psql(q{SELECT p.proname || '/' || row_number() OVER (PARTITION BY
		p.proname ORDER BY p.oid) FROM pg_proc p WHERE p.pronamespace = 'iot'::regnamespace
		AND p.provolatile = 'v' ORDER BY p.proname COLLATE "C", 1});
$called{ $_ . '/' . ++$called{"$_ in all"} } = 1
  foreach map { $_->[0] =~ /\biot\."?(\w+)"?\(/ } @calls;
is_deeply([ sort grep { m{/} } keys %called ], [ sort @functions ],
	'every public function that may write is called below');

# Tables that people write themselves: their triggers run in the same transaction.
foreach my $line (split /\n/, $iot->psql(q{
		SELECT c.relname, min(a.attname) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND a.attnum > 0 AND NOT a.attisdropped
			AND has_column_privilege('iot_admin', c.oid, a.attnum, 'UPDATE')
			AND NOT has_column_privilege('iot_pushd', c.oid, a.attnum, 'UPDATE')
		GROUP BY 1 ORDER BY c.relname COLLATE "C"}))
{
	my ($table, $column) = split /\|/, $line;
	my $columns = $iot->psql("SELECT string_agg(format('%1\$I = t.%1\$I', a.attname), ', ')"
		  . " FROM pg_attribute a WHERE a.attrelid = 'iot.$table'::regclass AND a.attnum > 0"
		  . " AND NOT a.attisdropped AND has_column_privilege('iot_admin', a.attrelid, a.attnum,"
		  . " 'UPDATE')");

	twice("UPDATE iot.$table t SET $columns", 'true', "table $table");
}

foreach my $call (@calls)
{
	my ($statement, $first, $probe, $locks) = @$call;
	my ($what) = $statement =~ /\b(iot\."?\w+"?\()/;

	$session->query_safe($first) if $first;
	is($session->query_safe("SELECT coalesce($probe, false)"), 'f', "$what): not yet") if defined $probe;
	twice($statement, $probe, "$what)", $locks);
}
$session->close;
is($iot->psql('SELECT count(*) FROM pg_prepared_xacts'), '0', 'nothing stays prepared');

# With workers and a broker.
$iot->psql('CREATE EXTENSION iot');
$iot->psql("ALTER SYSTEM SET iot.databases = 'iot'");
$iot->psql('SELECT pg_reload_conf()');
my $broker = IotTest::Broker->new('main');
$iot->parameter('temperature', min => 0, max => 100);
$iot->device("boiler-$_", ['temperature']) foreach 1 .. 4;
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, prefix => 'boiler-', count => 4);
my $watch = $broker->watch('iot/+/command');

my %id;
foreach my $n (1 .. 3)
{
	$id{$n} = $iot->psql(
		"BEGIN; SELECT iot.send_command('boiler-$n', 'temperature', $n); PREPARE TRANSACTION 'c$n'");
}
# later transactions pass them, and the cursor with them
foreach my $value (11 .. 13)
{
	is($iot->wait_for_command($iot->send_command('boiler-4', 'temperature', $value))->{status},
		'COMPLETED', "a command beside the prepared ones goes through ($value)");
}
is($iot->psql("SELECT count(*) FROM iot.command WHERE finished_at IS NULL"), '0',
	'the prepared ones are not seen');
$iot->psql("ROLLBACK PREPARED 'c1'");
$iot->psql("COMMIT PREPARED 'c2'");
is($iot->wait_for_command($id{2})->{status}, 'COMPLETED', 'committed, a command reaches its device');

# the server crashes with one that is prepared: it is there afterwards, and so is its turn
$iot->node->stop('immediate');
$iot->node->start;
is($iot->psql('SELECT gid FROM pg_prepared_xacts'), 'c3', 'a crash keeps what is prepared');
is($iot->wait_for_command($iot->send_command('boiler-4', 'temperature', 14))->{status},
	'COMPLETED', 'and the cursor passes it again');
$iot->psql("COMMIT PREPARED 'c3'");
is($iot->wait_for_command($id{3})->{status}, 'COMPLETED', 'until it is committed, and sent');
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 15))->{status},
	'COMPLETED', 'the device of the one rolled back takes the next');
my %sent = map { $_->{json}{id} => 1 } $watch->messages;
ok(!$sent{ $id{1} }, 'and was never sent the one before');
is($iot->psql("SELECT count(*) FROM iot.command WHERE command_id = '$id{1}'"), '0', 'which left no row');
$iot->poll("SELECT count(*) = 7 FROM iot.notification WHERE event = 'adapter.value_set_sent'");
is($iot->psql("SELECT count(*) FROM (SELECT event_id FROM iot.notification GROUP BY 1, channel"
		  . ' HAVING count(*) > 1) n'), '0', 'I7: each of 7 outcomes is told once');

done_testing();
