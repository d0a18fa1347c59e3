# Both scenarios of the saga, from SQL to a device over a real broker and back: a command that the
# device carries out, and one that it refuses; then each way of confirming.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature', unit => '°C', min => 0, max => 100);
$iot->device('boiler-1', ['temperature']);
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => ['boiler-1'], refuse_above => 80, drop_seen => 1);
my $watch = $broker->watch('iot/+/command');

sub steps
{
	my ($id) = @_;

	return $iot->psql("SELECT string_agg(service || ' ' || status, ', ' ORDER BY service)"
		  . " FROM iot.saga_step WHERE command_id = '$id'");
}

sub events
{
	my ($id) = @_;

	return $iot->psql("SELECT string_agg(type, ', ' ORDER BY id) FROM iot.event"
		  . " WHERE aggregatetype = 'command' AND aggregateid = '$id'");
}

sub values_of
{
	return $iot->psql('SELECT v.value, v.desired, v.version FROM iot.sensor_value v'
		  . " JOIN iot.device d USING (device_id) WHERE d.name = '$_[0]'");
}

# carried out
my $log = $iot->log_size;
my $good = $iot->send_command('boiler-1', 'temperature', 21.5);
my $row = $iot->wait_for_command($good);
is($row->{status}, 'COMPLETED', 'a command that the device carries out is completed');
is($row->{attempts}, 1, 'after one attempt');
is(steps($good), 'adapter COMPLETED, device COMMITTED', 'both services say so');
is(events($good), 'command.value_set, dm.value_set_approved, adapter.value_set_sent',
	'the log holds each event once, in order');
is(values_of('boiler-1'), '21.5|21.5|1', 'the value stands');
my ($message) = $watch->wait_for(1);
is_deeply(
	$message->{json},
	{ id => $good, parameter => 'temperature', action => 'set', value => 21.5, version => 1 },
	'the device got what is documented');
is($message->{retained}, 0, 'not retained');
is($message->{qos}, 1, 'at QoS 1');
my @executed = $sim->executed;
is(scalar(@executed), 1, 'and carried it out once');
$iot->wait_for_log(qr/command $good sent to device "boiler-1": temperature = 21\.5, attempt 1/, $log);
$iot->wait_for_log(qr/command $good completed by device "boiler-1"/, $log);
pass('the log has a line per change, naming command and device');

# refused by the device, rolled back
my $bad = $iot->send_command('boiler-1', 'temperature', 90);
$row = $iot->wait_for_command($bad);
is($row->{status}, 'CANCELLED', 'a command that the device refuses is cancelled');
like($row->{error}, qr/above the device's limit/, "with the device's own words");
is(steps($bad), 'adapter FAILED, device CANCELLED', 'both services say so');
is(events($bad),
	'command.value_set, dm.value_set_approved, adapter.value_set_error, dm.value_set_cancelled',
	'the log tells the compensation');
is(values_of('boiler-1'), '21.5|21.5|1', 'the value before it is back');

# refused by Device Service: nothing reaches the device
my $out = $iot->send_command('boiler-1', 'temperature', 101);
$row = $iot->wait_for_command($out);
is($row->{status}, 'FAILED', 'a command out of bounds fails at once');
my $last = $iot->send_command('boiler-1', 'temperature', 2, action => 'add', expected => 21.5);
is($iot->wait_for_command($last)->{status}, 'COMPLETED', 'add is completed');
is($watch->messages, 3, 'the command out of bounds was not published');
is(($watch->messages)[2]{json}{value}, 23.5, 'add travels as the value that results');

# the device's answer in another form: the value comes back
$iot->psql("INSERT INTO iot.device_type (name, ack_mode, ack_timeout, max_attempts)"
	  . " VALUES ('echoing', 'echo', '1 s', 2), ('trusting', 'broker', '1 s', 2)");
$iot->device('echo-1', ['temperature'], type => 'echoing');
$iot->device('trust-1', ['temperature'], type => 'trusting');
my $echo = $iot->simulator($broker, devices => ['echo-1'], echo => 1);
my $trust = $iot->simulator($broker, devices => ['trust-1'], silent => 1);
my $echoed = $iot->send_command('echo-1', 'temperature', 33.25);
is($iot->wait_for_command($echoed)->{status}, 'COMPLETED', 'ack_mode echo: the value confirms');
is($iot->psql('SELECT value FROM iot.measurement m JOIN iot.device d USING (device_id)'
		  . " WHERE d.name = 'echo-1'"), '33.25', 'and is a measurement like any other');

# the broker's word is enough, where somebody is subscribed
my $trusted = $iot->send_command('trust-1', 'temperature', 40.123456789);
is($iot->wait_for_command($trusted)->{status}, 'COMPLETED', "ack_mode broker: the broker's word");
$iot->wait_for_log(qr/command $trusted sent to device "trust-1": temperature = 40\.123456789, attempt 1/, $log);
$trust->stop;
$watch->stop;
my $alone = $iot->send_command('trust-1', 'temperature', 50);
$row = $iot->wait_for_command($alone);
is($row->{status}, 'CANCELLED', 'and nobody subscribed is an error');
is($row->{error}, 'nobody is subscribed', 'that says so');
is(values_of('trust-1'), '40.123456789|40.123456789|1', 'and is rolled back');

# every step of it is in the counters; what a new connection had to send again is published twice
$iot->poll("SELECT (counters ->> 'commands_completed')::int = 4"
	  . " AND (counters ->> 'commands_failed')::int = 2"
	  . " AND (counters ->> 'commands_published')::int >= 6"
	  . " FROM iot.worker WHERE kind = 'mqtt adapter'");
pass('counters of the adapter agree');
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), '0', 'no dead letter');

done_testing();
