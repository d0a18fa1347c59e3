# No PUBACK before COMMIT (I9), nothing lost by our faults (I10), repeats stored once (I11), and
# every value counted (I12).

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
# at log_type debug the broker writes a line per packet
my $broker = IotTest::Broker->new('main', conf => 'log_type debug');

$iot->parameter('temperature', min => 0, max => 100);
$iot->parameter('pressure');
$iot->device('boiler-1', [ 'temperature', 'pressure' ]);
$iot->use_broker($broker);

my $topic = 'iot/boiler-1/telemetry';
my $base = $iot->psql('SELECT (extract(epoch FROM now())::bigint - 50000) * 1000');

sub message
{
	my ($n) = @_;
	my $ts = $base + $n * 1000;

	return qq({"ts":$ts,"values":{"temperature":$n}});
}

sub pubacks
{
	my ($offset) = @_;

	return () = $broker->log_content($offset) =~ /Received PUBACK from iot-/g;
}

# the insert waits for a lock: no PUBACK
my $session = $iot->session;
my $mark = $broker->log_size;
my $log = $iot->log_size;
$session->query_safe('BEGIN; LOCK TABLE iot.measurement IN SHARE MODE');
$broker->publish($topic, message(1));
$iot->poll("SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"
	  . " AND wait_event_type = 'Lock'");
is(scalar(pubacks($mark)), 0, 'I9: no PUBACK while the transaction is open');
$iot->wait_for_log(qr/gives messages back to MQTT broker/, $log);
is(scalar(pubacks($mark)), 0, 'I9: nor when the batch was given back');
$session->query_safe('COMMIT');
$broker->wait_for_log(qr/Received PUBACK from iot-/, $mark);
is($iot->psql('SELECT count(*) FROM iot.measurement'),
	'1', 'I9: when the PUBACK is there, so is the row');

# killed while the transaction is open: delivered again
$session->query_safe('BEGIN; LOCK TABLE iot.measurement IN SHARE MODE');
$mark = $broker->log_size;
$broker->publish($topic, message(2));
$iot->poll("SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"
	  . " AND wait_event_type = 'Lock'");
my $pid = $iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
kill('KILL', $pid);
$session = undef;
$iot->poll('SELECT count(*) = 2 FROM iot.measurement');
pass('I10: a measurement whose transaction was cut off by kill -9 is stored');

# a stream, and the adapter killed again and again
my $total = 1500;
my @messages = map { message($_) } 3 .. $total;
foreach my $part (0 .. 2)
{
	my $to = $part == 2 ? $#messages : $part * 500 + 499;

	$broker->publish_lines($topic, [ @messages[ $part * 500 .. $to ] ]);
	$iot->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
	$pid = $iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
	kill('KILL', $pid);
}
$iot->poll("SELECT count(*) = $total FROM iot.measurement");
is($iot->psql("SELECT count(DISTINCT ts) FROM iot.measurement WHERE value ="
		  . " (extract(epoch FROM ts) * 1000 - $base) / 1000"),
	$total, 'I10, I11: every measurement is there once, with its own value');
$iot->poll("SELECT count(*) = 1 FROM iot.worker WHERE kind = 'mqtt adapter' AND state = 'connected'"
	  . " AND heartbeat_at > now() - interval '5 s'");

# every value is counted under exactly one heading; what was delivered again comes before this conflict
my $third = $base + 3000;
$broker->publish($topic, '{"ts":' . $third . ',"values":{"temperature":78}}');
poll_until(sub { my %now = counters(); $now{conflict} }, 'nothing is delivered again any more');
my %before = counters();
sub counters
{
	my ($row) = $iot->rows(
		"SELECT counters FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'");

	return %{ $row->{counters} };
}
my $letters = $iot->psql('SELECT count(*) FROM iot.dead_letter');
my ($earlier, $earliest) = ($base - 1000, $base - 2000);
my @payloads = (
	message(3),															# a repeat
	'{"ts":' . $third . ',"values":{"temperature":77}}',				# a conflict
	'{"ts":' . $earlier . ',"values":{"temperature":1,"pressure":2}}',	# two values
	'{"ts":' . $earliest . ',"values":{"temperature":1,"nothing":2}}',	# one, and one unknown
	'{"temperature":', "{\"temperature\":1\xff" . '}', '[]', '{"temperature":NaN}',
	'{"temperature":1e400}', '{"temperature":true}',
	'{"ts":"1970-01-01T00:00:00Z","values":{"temperature":1}}',
	'{"ts":"2106-02-07T00:00:00Z","values":{"temperature":1}}', '');
$broker->publish($topic, $_) foreach @payloads;
$broker->publish('iot/nobody/telemetry', '{"temperature":1}');
$broker->publish($topic, '{"temperature":"' . ('x' x 100_000) . '"}');
$broker->publish($topic, message(3));
$broker->publish($topic, message($total + 1));
$iot->poll("SELECT count(*) = 1 FROM iot.measurement WHERE value = $total + 1");
my %after = counters();
my %delta = map { $_ => ($after{$_} || 0) - ($before{$_} || 0) }
  qw(received stored duplicate conflict rejected messages);
is($delta{received}, $delta{stored} + $delta{duplicate} + $delta{conflict} + $delta{rejected},
	'I12: received = stored + duplicate + conflict + rejected');
my $by_reason = 0;
$by_reason += $after{$_} - ($before{$_} || 0) foreach grep { /^rejected_/ } keys %after;
is($by_reason, $delta{rejected}, 'I12: what is rejected is counted by its reason');
is($after{rejected_unknown_parameter}, 1, 'such as a parameter that nobody knows');
is($delta{messages}, 17, 'every message was taken');
is($delta{stored}, 4, 'four values were stored');
is($delta{duplicate}, 2, 'two were repeats');
is($delta{conflict}, 1, 'one contradicted an earlier one');
is($iot->psql('SELECT count(*) FROM iot.dead_letter') - $letters,
	$delta{rejected} + $delta{conflict}, 'and what was not stored is a dead letter');
is($iot->psql("SELECT value FROM iot.measurement WHERE ts = to_timestamp($third / 1000.0)"),
	'3', 'the first value of a key stays');
is($iot->psql("SELECT count(*) FROM iot.dead_letter WHERE reason IS NULL OR adapter IS NULL"),
	'0', 'each with its reason and adapter');
note($iot->psql('SELECT reason, count(*) FROM iot.dead_letter GROUP BY 1 ORDER BY 1'));

done_testing();
