# When messages are committed: a lone one at once, whatever "batch_time" says; a stream no more often
# than that; and nothing that answers a command waits.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
# at log_type debug the broker writes a line per packet
my $broker = IotTest::Broker->new('main', conf => 'log_type debug');

$iot->parameter('temperature');
$iot->device($_, ['temperature']) foreach qw(boiler-1 boiler-2);
my $wait = 6;
$iot->use_broker($broker, options => { batch_time => $wait * 1000 });
my $topic = 'iot/boiler-1/telemetry';
my $base = (time() - 10000) * 1000;

sub publish
{
	my ($n) = @_;

	$broker->publish($topic, '{"ts":' . ($base + $n) . qq(,"temperature":$n}));
	return;
}

sub stored
{
	my ($n) = @_;

	return $iot->poll("SELECT count(*) = 1 FROM iot.measurement WHERE value = $n");
}

# the first after a pause
cmp_ok(elapsed(sub { publish(1); stored(1); }), '<', $wait, 'a lone message waits for no timer');

# the next one is part of a stream: it is there, and neither stored nor acknowledged
my $mark = $broker->log_size;
publish(2);
my $sent = qr/Sending PUBLISH to iot-\S+ \(d0, q1, r0, m(\d+), '\Q$topic\E'/;
$broker->wait_for_log($sent, $mark);
publish(3);
$broker->wait_for_log(qr/(?:$sent.*){2}/s, $mark);
is($iot->psql('SELECT count(*) FROM iot.measurement'), '1', 'what streams in behind it is gathered');
unlike($broker->log_content($mark), qr/Received PUBACK from iot-/, 'and not acknowledged yet');
stored(3);
is($iot->psql('SELECT count(DISTINCT xmin::text) FROM iot.measurement WHERE value > 1'), '1',
	'and stored with one transaction');

# commands: neither their sending nor their answers wait
my $sim = $iot->simulator($broker, devices => ['boiler-2']);
publish(4);
cmp_ok(
	elapsed(
		sub {
			is($iot->wait_for_command($iot->send_command('boiler-2', 'temperature', 5))->{status},
				'COMPLETED', 'a command is answered in the middle of a stream');
		}),
	'<', $wait, 'without waiting for the timer');
stored(4);

# a stop in the middle of a stream loses nothing
publish(6);
$iot->poll('SELECT count(*) = 1 FROM iot.measurement WHERE value = 6', timeout => 60);
$mark = $broker->log_size;
publish(7);
$broker->wait_for_log($sent, $mark);
$iot->psql(q(UPDATE iot.adapter SET options = options || '{"batch_time": 0}'));
stored(7);
pass('I10: a configuration that changes while messages are held loses none');

done_testing();
