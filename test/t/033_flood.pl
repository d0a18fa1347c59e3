# A backlog and a flood: the adapter's memory stays bounded (I32), commands still get through, and
# what is too large is told apart from what is merely large.
#
# Runs alone: it takes all the processors that there are.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
# saving at each change would take the broker minutes here
my $broker = IotTest::Broker->new('main', autosave => 0);

$iot->parameter($_) foreach qw(temperature pressure humidity);
$iot->device("boiler-$_", [qw(temperature pressure humidity)]) foreach 1 .. 20;
$iot->device('idle-1', ['temperature']);
$iot->use_broker($broker);

# a backlog while the adapter is away
$iot->psql('UPDATE iot.adapter SET enabled = false');
$iot->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
my $messages = 1000;
my $flood = IotTest::Simulator->new($broker, prefix => 'boiler-', count => 20, rate => 'max',
	messages => $messages, parameters => 'temperature=1,pressure=2,humidity=3',
	exit_when_done => 1);
is($flood->wait_exit(120), 0, 'twenty devices said a thousand things each');
my $total = 20 * $messages * 3;
$iot->psql('UPDATE iot.adapter SET enabled = true');
$iot->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
my $pid = $iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
my $idle = $iot->simulator($broker, devices => ['idle-1']);

my $peak = 0;
sub look
{
	my ($kb) = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;

	$peak = $kb if $kb > $peak;
	return $kb;
}
# device times of one millisecond each: a repeat within it is a duplicate or a conflict
my $counted = "SELECT coalesce(sum((counters ->> 'received')::bigint), 0) >= $total"
  . " FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'";
my $session = $iot->session;
my $command = $iot->send_command('idle-1', 'temperature', 1);
poll_until(sub { look(); $session->query_safe($counted) eq 't' }, 'the backlog is taken in', 120);
cmp_ok($peak, '<', 64 * 1024, "I32: at most 64 MB of anonymous memory ($peak kB)");
is($iot->wait_for_command($command)->{status}, 'COMPLETED', 'a command went through meanwhile');
my ($row) = $iot->rows(
	"SELECT counters FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'");
my %c = (duplicate => 0, conflict => 0, rejected => 0, %{ $row->{counters} });
is($c{stored} + $c{duplicate} + $c{conflict} + $c{rejected}, $c{received},
	'I12: every value is counted once');
is($iot->psql('SELECT count(*) FROM iot.measurement'), $c{stored}, 'and stored where it says so');

# large payloads, while nothing can be stored
my $letters = $iot->psql('SELECT count(*) FROM iot.dead_letter');
$session->query_safe('BEGIN; LOCK TABLE iot.measurement, iot.dead_letter IN SHARE MODE');
my $padding = 'x' x 60_000;
$broker->publish_lines('iot/boiler-1/telemetry',
	[ map { qq({"temperature":"$padding"}) } 1 .. 1000 ]);
$iot->poll("SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"
	  . " AND wait_event_type = 'Lock'");
poll_until(sub { look() && $session->query_safe(
		"SELECT coalesce(sum((counters ->> 'given_back')::bigint), 0) > 0"
		  . " FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'") eq 't' },
	'the batch is given back');
$session->query_safe('COMMIT');
poll_until(sub { look(); $session->query_safe(
		"SELECT count(*) >= $letters + 1000 FROM iot.dead_letter") eq 't' },
	'all are taken in');
cmp_ok($peak, '<', 64 * 1024, "I32: nor with 60 MB of payloads before a locked table ($peak kB)");
is($iot->psql("SELECT count(DISTINCT reason) FROM iot.dead_letter WHERE dead_letter_id > $letters"
		  . " AND reason = 'wrong_type'"), '1', 'payloads within the limit are judged');

# over the limit
$broker->publish('iot/boiler-1/telemetry', '{"temperature":"' . 'x' x 100_000 . '"}');
$iot->poll("SELECT count(*) = 1 FROM iot.dead_letter WHERE reason = 'too_large'");
cmp_ok($iot->psql("SELECT max(length(payload)) FROM iot.dead_letter WHERE reason = 'too_large'"),
	'<=', 65_537, 'a payload over the limit is a dead letter, cut short');
$broker->publish('iot/boiler-1/telemetry', '{"temperature":"' . 'x' x 900_000 . '"}');
$broker->publish('iot/boiler-2/telemetry', '{"temperature":42.5}');
$iot->poll('SELECT count(*) = 1 FROM iot.measurement WHERE value = 42.5');
is($iot->psql("SELECT count(*) FROM iot.dead_letter WHERE reason = 'too_large'"),
	'1', 'I32: one that is far over it never reaches us');
is($iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"),
	$pid, 'and the adapter is the same process as before');

done_testing();
