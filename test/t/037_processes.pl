# Several processes of one adapter share its telemetry (option "processes"): each has a session of its
# own at the broker, whose queue outlives the process; the first one alone sends commands and hears
# their answers; and a process that is no longer wanted empties its session before it goes.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
# at log_type debug the broker writes a line per packet
my $broker = IotTest::Broker->new('main', conf => 'log_type debug');
my $id = $iot->psql("SELECT 'iot-' || adapter_id FROM iot.adapter WHERE name = 'mqtt'");

$iot->parameter('temperature', min => 0, max => 100000);
$iot->device("boiler-$_", ['temperature']) foreach 1 .. 20;
my $base = (time() - 40000) * 1000;
my $next = 1;

# Publishes so many messages, each with a value of its own.
sub publish
{
	my ($count) = @_;
	my %lines;

	foreach (1 .. $count)
	{
		my $ts = $base + $next;

		push @{ $lines{ 1 + $next % 20 } }, qq({"ts":$ts,"values":{"temperature":$next}});
		$next++;
	}
	$broker->publish_lines("iot/boiler-$_/telemetry", $lines{$_}) foreach sort keys %lines;
	return;
}

sub processes
{
	my ($count) = @_;

	$iot->psql("UPDATE iot.adapter SET options = options || '{\"processes\":$count}'");
	$iot->poll("SELECT count(*) = $count AND count(*) FILTER (WHERE state = 'connected') = $count"
		  . " FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'");
	return;
}

sub counters
{
	my %sum;

	foreach my $row ($iot->rows("SELECT counters FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'"))
	{
		$sum{$_} += $row->{counters}{$_} foreach keys %{ $row->{counters} };
	}
	return %sum;
}

sub all_stored
{
	my ($what) = @_;

	$iot->poll('SELECT count(*) >= ' . ($next - 1) . ' FROM iot.measurement');
	return is($iot->psql('SELECT count(*), count(DISTINCT value) FROM iot.measurement'),
		($next - 1) . '|' . ($next - 1), $what);
}

$iot->use_broker($broker);
my $mark = $broker->log_size;
processes(3);
is($iot->psql("SELECT string_agg(name, ' ' ORDER BY name) FROM iot_internal.worker_slots()"
		  . " WHERE kind = 'mqtt adapter'"), 'adapter:mqtt adapter:mqtt/2 adapter:mqtt/3',
	'three processes');
foreach my $client ($id, "$id-2", "$id-3")
{
	like($broker->log_content($mark), qr{^\S+ \Q$client\E 1 \$share/\Q$id\E/iot/\+/telemetry$}m,
		"$client shares the telemetry");
}
unlike($broker->log_content($mark), qr{^\S+ \Q$id\E-[23] 1 (?!\$share/\Q$id\E/iot/\+/telemetry$)}m,
	'and the others hear nothing else');
$iot->poll("SELECT filters @> '{\$share/$id/iot/+/telemetry}' AND NOT filters @> '{iot/+/telemetry}'"
	  . ' FROM iot.adapter_session WHERE number = 1');
like($broker->log_content($mark), qr{Received UNSUBSCRIBE from \Q$id\E\n\S+\s+iot/\+/telemetry$}m,
	'the first one has left the topic that it had alone');

publish(600);
all_stored('what is shared is stored once');
my @rows = $iot->rows("SELECT counters FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'");
is(scalar(grep { ($_->{counters}{stored} || 0) > 0 } @rows), 3, 'by all of them');
my %c = (duplicate => 0, conflict => 0, rejected => 0, counters());
is($c{stored} + $c{duplicate} + $c{conflict} + $c{rejected}, $c{received},
	'I12: every value is counted once');

# commands
my $sim = $iot->simulator($broker, devices => [ 'boiler-1', 'boiler-2' ]);
is($iot->wait_for_command($iot->send_command("boiler-$_", 'temperature', 50 + $_))->{status},
	'COMPLETED', "a command to boiler-$_ is answered") foreach 1, 2;
is(scalar($sim->records('received')), 2, 'each was sent once');
is($iot->psql("SELECT string_agg(name, ' ') FROM iot_internal.worker_slots()"
		  . " WHERE counters ? 'commands_published'"), 'adapter:mqtt', 'by the first process');

# a process that ends is replaced, and its queue is there when it comes back
my $pid = $iot->psql("SELECT pid FROM iot_internal.worker_slots() WHERE name = 'adapter:mqtt/2'");
$iot->psql("SELECT pg_terminate_backend($pid)");
publish(600);
$iot->poll("SELECT pid <> $pid AND state = 'connected' FROM iot_internal.worker_slots()"
	  . " WHERE name = 'adapter:mqtt/2'");
all_stored('I10: nothing is lost where one of them is terminated');
$pid = $iot->psql("SELECT pid FROM iot_internal.worker_slots() WHERE name = 'adapter:mqtt/3'");
kill('KILL', $pid);
publish(600);
all_stored('I10: nor where one is killed, and the server with it');

# fewer of them: what waits in a session that goes is not lost
my $session = $iot->session;
$iot->poll("SELECT count(*) = 3 FROM iot_internal.worker_slots() WHERE state = 'connected'");
$session->query_safe('BEGIN; LOCK TABLE iot.measurement IN SHARE MODE');
publish(600);
my $log = $iot->log_size;
$iot->psql("UPDATE iot.adapter SET options = options || '{\"processes\":1}'");
$iot->wait_for_log(qr/(?:adapter "mqtt" was changed: connecting anew.*){3}/s, $log);
$session->query_safe('COMMIT');
$iot->wait_for_log(qr/adapter:mqtt\/$_ stops: its session at the broker is empty/, $log) foreach 2, 3;
all_stored('what was on its way to them is stored');
$iot->poll('SELECT count(*) = 1 FROM iot.adapter_session');
$iot->poll("SELECT count(*) = 1 FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'");
pass('and they are gone');
publish(600);
all_stored('I10: nothing goes to a queue that nobody reads');

# filters of one's own
$iot->psql("UPDATE iot.adapter SET options = options || '{\"processes\":2,\"topics\":[\"iot/+/telemetry\",\"iot/+/command/#\"]}'");
$iot->poll("SELECT count(*) = 2 FROM iot.adapter_session WHERE NOT filters @> '{iot/+/status}'");
$iot->poll("SELECT count(*) = 2 FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter' AND state = 'connected'");
is($iot->psql("SELECT string_agg(number || ' ' || array_to_string(filters, ' '), '; ' ORDER BY number)"
		  . ' FROM iot.adapter_session'),
	"1 \$share/$id/iot/+/telemetry iot/+/command/#; 2 \$share/$id/iot/+/telemetry",
	'filters that are given replace those of the device types, and answers come to the first process');
publish(100);
all_stored('and are used');
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 60))->{status},
	'COMPLETED', 'for commands as well');

done_testing();
