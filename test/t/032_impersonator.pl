# Something else than a broker answers: whatever it says, the adapter lives and comes back to the
# real one (I34).

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Test::More;

use IotTest;
use IotTest::Impersonator qw(packet publish accepted);

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature', min => 0, max => 100);
$iot->device('boiler-1', ['temperature']);
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => ['boiler-1']);
my $pid = $iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");

my $listener = IO::Socket::INET->new(
	Listen => 5, LocalAddr => '127.0.0.1', LocalPort => 0, ReuseAddr => 1) or die "listen: $!";
my $port = $listener->sockport;

my $accepted = accepted();
my $session = $accepted . packet(0x90, pack('n C C', 1, 0, 1)) . packet(0x90, pack('n C C', 2, 0, 1))
  . packet(0x90, pack('n C C', 3, 0, 1)) . packet(0x90, pack('n C C', 4, 0, 1));

srand(20);
my @sayings = (
	[ 'nothing, and closes', '' ],
	[ 'another protocol', "HTTP/1.1 400 Bad Request\r\n\r\n" ],
	[ 'noise', join('', map { chr(int(rand(256))) } 1 .. 4096) ],
	[ 'a refusal', packet(0x20, "\0\x87\0") ],
	[ 'a refusal that does not exist', packet(0x20, "\0\xee\0") ],
	[ 'an acceptance cut short', "\x20\x03\0" ],
	[ 'a length that never ends', "\x20\xff\xff\xff\xff\xff\xff" ],
	[ 'an empty acceptance', packet(0x20, '') ],
	[ 'properties that do not parse', packet(0x20, "\0\0\x7f\xff\xff") ],
	[ 'subscriptions nobody asked for', $accepted . packet(0x90, pack('n C', 999, 0) . "\1" x 200) ],
	[ 'a subscription without an answer', $accepted . packet(0x90, pack('n C', 1, 0)) ],
	[ 'acknowledgements of what was never sent',
		$session . join('', map { packet(0x40, pack('n', $_)) } 1 .. 500) ],
	[ 'a publish without a topic', $session . publish('', '{"temperature":1}') ],
	[ 'a publish cut short', $session . "\x32\x7f\0\x20iot/" ],
	[ 'a topic longer than the packet', $session . packet(0x32, "\xff\xffiot") ],
	[ 'a publish of 200 MB that never comes', $session . "\x32\x80\x80\x80\x60\0\3iot" ],
	[ 'a topic of invalid UTF-8', $session . publish("iot/\xff\xfe/telemetry", '{}') ],
	[ 'QoS 3', $session . packet(0x36, pack('n/a* n C', 'iot/boiler-1/telemetry', 1, 0)) ],
	[ 'a goodbye with a reason', $session . packet(0xe0, "\x8e\0") ],
	[ 'a request of its own', $session . packet(0x10, 'MQTT') . packet(0xc0, '') ],
	[ 'authentication halfway', $session . packet(0xf0, "\x18\0") ],
	[ 'the same message for ever', $session . publish('iot/nobody/telemetry', '{}') x 3000 ]);

my $mark = $iot->log_size;
my $told = 0;
$iot->psql("UPDATE iot.adapter SET url = 'mqtt://127.0.0.1:$port'");
foreach my $saying (@sayings)
{
	my ($what, $bytes) = @$saying;
	my $keepalive = 60 + ++$told;
	my $ready = IO::Select->new($listener);

	die "the adapter does not come back after: $what" unless $ready->can_read(30);
	my $socket = $listener->accept;
	my $request = '';

	# the connection's first packet; what follows may come or not
	$socket->sysread($request, 65536);
	local $SIG{PIPE} = 'IGNORE';
	$socket->syswrite($bytes) if length $bytes;
	IO::Select->new($socket)->can_read(0.2);
	$socket->close;
	# a changed row is a new start, without the patience that failures teach
	$iot->psql(qq(UPDATE iot.adapter SET options = '{"keepalive":$keepalive}'));
	like($request, qr/\A\x10.*MQTT\x05/s, "knocks again, and hears $what");
}
is($iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"),
	$pid, "I34: it is still the same process, after $told answers that no broker gives");
unlike($iot->log_content($mark), qr/terminated by signal|exited with exit code/,
	'I34: no process ended');
$mark = $broker->log_size;
$iot->psql("UPDATE iot.adapter SET url = '" . $broker->url . "'");
$broker->wait_for_log(qr{ \d iot/\+/command/ack$}m, $mark);
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 1))->{status},
	'COMPLETED', 'and works with the real broker again');

done_testing();
