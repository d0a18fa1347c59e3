# A broker that says what no broker should: packets out of place in every state of the connection,
# lengths that lie, properties without end, valid packets with bytes changed by chance, and bytes
# that come one at a time.  The adapter's process lives, does not spin, and serves again afterwards
# (I34).  Where libmosquitto is older than 2.0.18, it aborts at a property that it does not know: then
# the adapter ends alone, says why, and is started again.
#
# IOT_MUTATIONS and IOT_SEED change how many packets are changed by chance, and how.

use strict;
use warnings;

use POSIX ();
use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotTest::Impersonator qw(packet publish accepted string);

my $mutations = $ENV{IOT_MUTATIONS} || 60;
my $seed = $ENV{IOT_SEED} || 20;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');
$iot->parameter('temperature', min => 0, max => 100);
$iot->device("boiler-$_", ['temperature']) foreach 1 .. 9;
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => ['boiler-1']);
my $session = $iot->session;
my $false = IotTest::Impersonator->new;
my $ticks = POSIX::sysconf(&POSIX::_SC_CLK_TCK);
my $mark = $iot->log_size;
my $starts = 0;

# The adapter's process, which may be about to be started.
sub adapter_pid
{
	return poll_until(
		sub {
			$session->query_safe(
				"SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
		},
		'the adapter runs');
}

# Seconds of processor time that the adapter has had.
sub cpu
{
	my $pid = adapter_pid();
	my @fields = split ' ', (PostgreSQL::Test::Utils::slurp_file("/proc/$pid/stat") =~ /\) (.*)/)[0];

	return ($fields[11] + $fields[12]) / $ticks;
}

# A changed row is a new start, without the patience that failures teach.
sub start_over
{
	my $keepalive = 60 + ++$starts % 1000;

	$session->query_safe(qq(UPDATE iot.adapter SET options = '{"keepalive":$keepalive}'));
	return;
}

# In one conversation that has come to the state, says one thing after the other until the adapter
# has enough; how many it has heard.
sub converse
{
	my ($state, @sayings) = @_;
	my $talk = $false->reach($state);
	my $said = 0;

	foreach my $bytes (@sayings)
	{
		last unless $talk->say($bytes);
		$said++;
		last unless $talk->listen(0.02);
	}
	$talk->close;
	start_over();
	return $said;
}

# Whether no process has ended since the beginning but by the one way that is known.
sub unharmed
{
	my $log = $iot->log_content($mark);
	my $ended = () = $log =~ /exited with exit code/g;
	my $gave_up = () = $log =~ /FATAL: .*the MQTT library gave up on what it received/g;

	return adapter_pid() && $log !~ /terminated by signal/ && $ended <= $gave_up;
}

sub lives
{
	my ($what) = @_;

	ok(unharmed(), "I34: the adapter lives after $what");
	return;
}

my @valid = (
	accepted(),
	accepted(pack('C N C n C N C n C n', 0x11, 3600, 0x21, 100, 0x27, 65536, 0x22, 10, 0x13, 30)
		  . chr(0x1f) . string('welcome') . chr(0x26) . string('a') . string('b')),
	packet(0x90, "\0\1\0\1"), packet(0xb0, "\0\1\0\0"),
	publish('iot/boiler-1/telemetry', '{"temperature":21.5}', 7),
	publish('iot/boiler-1/telemetry', '[{"ts":1732310400000,"values":{"temperature":1}}]', 8),
	publish('iot/boiler-1/attributes', '{"firmware":"1.2"}', 9),
	publish('iot/boiler-1/status', 'online', 10),
	publish('iot/boiler-1/command/ack', '{"id":"0192f1c4-7e3b-7abc-8def-0123456789ab","ok":true}', 11),
	publish('iot/boiler-1/telemetry', '{"temperature":1}', 12,
		pack('C N', 0x02, 60) . chr(0x03) . string('application/json') . chr(0x08) . string('iot/x')
		  . pack('C n', 0x23, 1) . chr(0x26) . string('k') . string('v') . chr(0x01) . "\1"),
	packet(0x30, string('iot/boiler-1/telemetry') . "\0" . '{"temperature":2}'),
	packet(0x40, "\0\1"), packet(0x40, "\0\1\x10\0"), packet(0x50, "\0\1"), packet(0x62, "\0\1"),
	packet(0x70, "\0\1"), packet(0xd0, ''),
	packet(0xe0, "\x8b" . number_of(chr(0x1f) . string('going'))), packet(0xf0, "\x18\0"));

sub number_of { return IotTest::Impersonator::number(length $_[0]) . $_[0]; }

$session->query_safe("UPDATE iot.adapter SET url = '" . $false->url . "'");

# what is out of place: every type of packet, empty and with something in it, in each state
foreach my $state (qw(connected accepted subscribed))
{
	my $heard = 0;

	foreach my $type (0 .. 15)
	{
		$heard += converse($state, packet($type << 4, ''), packet($type << 4 | 2, "\0\1\0\0"));
	}
	cmp_ok($heard, '>=', 16, "every type of packet is heard while $state");
	lives("packets out of place while $state");
}

# the same while a command waits for its acknowledgement by the broker
foreach my $n (2 .. 6)
{
	my $talk = $false->reach('subscribed');
	my $body = "\0\0\0\0";

	$session->query_safe("SELECT iot.send_command('boiler-$n', 'temperature', 1::float8)");
	# it may be one that was made before the adapter took the row of start_over(), and is given up for that
	$talk = $false->reach('subscribed') unless $talk->wait_for(3, 1);
	ok($talk->wait_for(3, 1), 'a command comes');
	$talk->say(packet($_, $body)) foreach 0x40, 0x50, 0x62, 0x70;
	# its own number, in packets that belong to QoS 2, and then twice in the right one
	my ($topic, $rest) = unpack 'n/a* a*', ($talk->heard(3))[0]->[1];
	my $mid = substr $rest, 0, 2;

	$talk->say(packet((0x50, 0x70, 0x62, 0x40, 0xe0)[ $n - 2 ], $mid . "\x87\0"));
	$talk->say(packet(0x40, $mid) x 2);
	$talk->listen(0.05);
	$talk->close;
	start_over();
}
lives('answers to commands that are none');

# lengths that lie, packets that end too soon, and properties that do not
my @lies = (
	"\x32\xff\xff\xff\x7f" . string('iot/boiler-1/telemetry'),
	"\x32\x80\x80\x80\x80\x01" . string('iot/boiler-1/telemetry'),
	"\x32\x80\x00",
	packet(0x32, string('iot/boiler-1/telemetry') . "\0"),
	packet(0x32, string('iot/boiler-1/telemetry') . "\0\1\xff\xff\xff\x7f{}"),
	packet(0x32, string('iot/boiler-1/telemetry') . "\0\1\x05\x26\0\x40ab"),
	packet(0x32, string('iot/boiler-1/telemetry') . "\0\0\0{}"),
	packet(0x32, "\xff\xff" . 'x' x 100),
	publish('iot/boiler-1/telemetry', '{}', 1, chr(0x26) . string('k' x 60_000) . string('v' x 60_000)),
	publish('iot/boiler-1/telemetry', '{}', 1, (chr(0x26) . string('k') . string('v')) x 20_000),
	publish('iot/boiler-1/telemetry', '{}', 1, "\x01\1" x 1000),
	publish('iot/boiler-1/telemetry', '{}', 1, "\x7e\0"),
	publish('iot/' . 'x' x 60_000 . '/telemetry', '{}', 1),
	publish("iot/boiler-1\0/telemetry", '{}', 1),
	publish('iot/boiler-1/telemetry', '{"temperature":' . '9' x 200_000 . '}', 1),
	packet(0x90, "\0\1\0" . "\1" x 60_000),
	packet(0xd0, 'x' x 1000));

foreach my $bytes (@lies)
{
	converse('subscribed', $bytes, publish('iot/boiler-1/telemetry', '{}', 2));
}
lives('lengths that lie');
my @limits = (
	pack('C N', 0x27, 1), pack('C N', 0x27, 0), pack('C n', 0x21, 0), pack('C n', 0x21, 1),
	pack('C n', 0x13, 0), pack('C n', 0x13, 1), "\x24\0", "\x25\0", "\x28\0", "\x2a\0",
	chr(0x12) . string('x' x 60_000), chr(0x26) . string('k' x 60_000) . string('v'), "\x24\2");
foreach my $properties (@limits)
{
	converse('connected', accepted($properties), packet(0x90, "\0\1\0\1"));
}
lives('limits that leave no room');
foreach my $bytes (@valid)
{
	converse('subscribed', substr($bytes, 0, length($bytes) / 2));
}
lives('packets cut in the middle');

# bytes that come one at a time, and a packet that never ends
foreach my $state (qw(connected subscribed))
{
	my $talk = $false->reach($state);
	my $before = cpu();
	my $start = time();

	$talk->drip($state eq 'connected' ? accepted(chr(0x26) . string('key') . string('value')) :
		publish('iot/boiler-1/telemetry', '{"temperature":3}', 3), 0.05);
	$talk->say("\x32\x80\x80\x80\x10\0\x10");
	$talk->listen(0.2) while $talk->is_open && time() - $start < 5;
	cmp_ok(cpu() - $before, '<', 1, "a drop at a time costs no time of the processor while $state");
	$talk->close;
	start_over();
}
lives('bytes one at a time');

# valid packets, changed by chance
srand($seed);
sub pick { return $_[ int rand @_ ]; }
sub change
{
	my ($bytes) = @_;

	foreach (0 .. int rand 3)
	{
		my $at = int rand length $bytes;
		my $how = int rand 6;

		if ($how == 0) { substr($bytes, $at, 1) ^= chr(1 << int rand 8); }
		elsif ($how == 1) { substr($bytes, $at, 1) = pick("\0", "\xff", "\x7f", "\x80", "\1"); }
		elsif ($how == 2) { substr($bytes, $at, 0) = pick("\0", "\xff\xff", "\x26\0\1k\0\1v", 'x' x 130); }
		elsif ($how == 3) { substr($bytes, $at, 1 + int rand 4) = ''; }
		elsif ($how == 4) { $bytes .= substr($bytes, $at); }
		else { $bytes = substr($bytes, 0, $at) . pick(@valid); }
		last unless length $bytes;
	}
	return $bytes;
}
my $heard = 0;
foreach my $n (1 .. int(($mutations + 5) / 6))
{
	my $state = pick(qw(connected accepted subscribed subscribed subscribed));
	my @sayings = map { change(pick(@valid)) } 1 .. 6;

	$heard += converse($state, @sayings);
	next if unharmed();
	fail("I34: the adapter lives after (seed $seed) $state: " . join ' ', map { unpack 'H*', $_ } @sayings);
	last;
}
cmp_ok($heard, '>', $mutations / 6, "$heard changed packets are heard");
lives("packets changed by chance (IOT_SEED=$seed)");

# and now the real one
my $before = cpu();
my $broker_mark = $broker->log_size;
$session->query_safe("UPDATE iot.adapter SET url = '" . $broker->url . "'");
$broker->wait_for_log(qr{ \d iot/\+/command/ack$}m, $broker_mark);
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 1))->{status},
	'COMPLETED', 'and works with the real broker again');
unlike($iot->log_content($mark), qr/terminated by signal/, 'I34: no process was ended by a signal');
cmp_ok(cpu() - $before, '<', 2, 'and is at rest');

done_testing();
