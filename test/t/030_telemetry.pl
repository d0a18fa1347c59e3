# What devices tell through a real broker: measurements of every shape, status, attributes; late
# ones (I14), hostile ones, and a registry that changes meanwhile.  No worker ever stops for it.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main', conf => 'log_type debug');

$iot->parameter('temperature', unit => '°C');
$iot->parameter('valve', labels => { CLOSED => 0, OPEN => 1, true => 1, false => 0 });
$iot->device('boiler-1', [ 'temperature', 'valve' ]);
$iot->device('boiler-2', ['temperature']);
$iot->use_broker($broker);
my $pid = $iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
my $second = time() - 3600;

sub value
{
	my ($device, $parameter) = @_;

	return $iot->psql('SELECT v.value FROM iot.sensor_value v JOIN iot.device d USING (device_id)'
		  . " JOIN iot.parameter p USING (parameter_id) WHERE d.name = '$device' AND p.name = '$parameter'");
}

sub stored
{
	return $iot->psql('SELECT count(*) FROM iot.measurement');
}

# shapes
my $ms = $second * 1000;
$broker->publish('iot/boiler-1/telemetry', qq({"ts":$ms,"values":{"temperature":20,"valve":"OPEN"}}));
$iot->poll('SELECT count(*) = 2 FROM iot.measurement');
is(value('boiler-1', 'valve'), '1', 'a word of the labels is a number');
is($iot->psql('SELECT DISTINCT extract(epoch FROM ts)::bigint FROM iot.measurement'),
	$second, 'at the time that the device said');
my $iso = $iot->psql("SELECT to_char(to_timestamp($second + 60) AT TIME ZONE 'UTC',"
	  . q{ 'YYYY-MM-DD"T"HH24:MI:SS"Z"')});
$broker->publish('iot/boiler-1/telemetry',
	qq([{"ts":"$iso","temperature":21,"valve":false},{"temperature":22}]));
$iot->poll('SELECT count(*) = 5 FROM iot.measurement');
is(value('boiler-1', 'temperature'), '22', 'an array of both kinds');
is(value('boiler-1', 'valve'), '0', 'and a boolean');
cmp_ok(
	$iot->psql('SELECT abs(extract(epoch FROM now() - max(ts))) FROM iot.measurement'), '<', 30,
	'without a time that of arrival counts');

# I14
my $newer = ($second + 7200 - 60) * 1000;
$broker->publish('iot/boiler-2/telemetry', qq({"ts":$newer,"temperature":50}));
foreach my $age (3000, 100, 2000)
{
	my $late = $ms - $age * 1000;

	$broker->publish('iot/boiler-2/telemetry', qq({"ts":$late,"temperature":$age}));
}
$iot->poll('SELECT count(*) = 9 FROM iot.measurement');
is(value('boiler-2', 'temperature'), '50', 'I14: late measurements are stored only');

# a batch in disorder, with repeats
my @lines = map { '{"ts":' . ($ms + 1000 * (($_ * 37) % 500)) . ',"temperature":' . (($_ * 37) % 500) . '}' }
	1 .. 1500;
$iot->device('boiler-3', ['temperature']);
$broker->publish_lines('iot/boiler-3/telemetry', \@lines);
$iot->poll("SELECT (counters ->> 'received')::int = 1509 FROM iot_internal.worker_slots()"
	  . " WHERE kind = 'mqtt adapter'");
is(stored(), 509, 'I11: each is stored once');
is(value('boiler-3', 'temperature'), '499', 'I14: and the newest is current');
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), '0', 'nothing of all this is a dead letter');

# hostile payloads and topics
my %hostile = (
	empty => ['iot/boiler-1/telemetry', '', 'malformed_json'],
	truncated => ['iot/boiler-1/telemetry', '{"temperature":', 'malformed_json'],
	nan => ['iot/boiler-1/telemetry', '{"temperature":NaN}', 'malformed_json'],
	infinite => ['iot/boiler-1/telemetry', '{"temperature":1e400}', 'not_finite'],
	nul => ['iot/boiler-1/telemetry', '{"temperature\u0000":1}', 'malformed_json'],
	utf8 => ['iot/boiler-1/telemetry', "{\"temperature\":\"\xff\"}", 'invalid_utf8'],
	deep => ['iot/boiler-1/telemetry', '[' x 50000, 'malformed_json'],
	key => ['iot/boiler-1/telemetry', '{"' . ('k' x 50000) . '":1}', 'unknown_parameter'],
	word => ['iot/boiler-1/telemetry', '{"temperature":"hot"}', 'wrong_type'],
	object => ['iot/boiler-1/telemetry', '{"temperature":{"value":1}}', 'wrong_type'],
	1970 => ['iot/boiler-1/telemetry', '{"ts":0,"temperature":1}', 'out_of_time_range'],
	2106 => ['iot/boiler-1/telemetry', '{"ts":4294967295000,"temperature":1}', 'out_of_time_range'],
	parameter => ['iot/boiler-1/telemetry', '{"pressure":1}', 'unknown_parameter'],
	stranger => ['iot/nobody/telemetry', '{"temperature":1}', 'unknown_device'],
	sql => ["iot/x';DROP TABLE iot.device;--/telemetry", '{"temperature":1}', 'unknown_device'],
	status => ['iot/boiler-1/status', 'perhaps', 'wrong_type'],
	attributes => ['iot/boiler-1/attributes', '[]', 'wrong_type'],
	ack => ['iot/boiler-1/command/ack', '{"ok":true}', 'wrong_type']);
foreach my $name (sort keys %hostile)
{
	my ($topic, $payload, $reason) = @{ $hostile{$name} };

	$broker->publish($topic, $payload);
}
$iot->poll('SELECT count(*) = ' . keys(%hostile) . ' FROM iot.dead_letter');
foreach my $name (sort keys %hostile)
{
	my ($topic, $payload, $reason) = @{ $hostile{$name} };
	my $hex = unpack('H*', $payload);

	is( $iot->psql("SELECT reason FROM iot.dead_letter WHERE payload = '\\x$hex' AND adapter = 'mqtt'"
			  . ' AND topic = ' . IotTest::literal($topic)),
		$reason, "$name is kept, as $reason");
}
is(stored(), 509, 'and nothing of it is stored');
$broker->publish('iot/boiler-1/telemetry', '{"temperature":23}');
$iot->poll('SELECT count(*) = 510 FROM iot.measurement');
pass('the next good one is');

# status, retained and by last will
$broker->publish('iot/boiler-1/status', 'online', retain => 1);
$iot->poll("SELECT count(*) = 1 FROM iot.event WHERE type = 'device.online'");
$broker->publish('iot/boiler-1/status', 'online', retain => 1);
$broker->publish('iot/boiler-1/status', 'offline', retain => 1);
$iot->poll("SELECT count(*) = 1 FROM iot.event WHERE type = 'device.offline'");
is($iot->psql("SELECT string_agg(type, ' ' ORDER BY id) FROM iot.event WHERE type LIKE 'device.%'"),
	'device.online device.offline', 'a change of status is told once');
is( $iot->psql('SELECT online, last_seen_at > now() - interval \'1 min\' FROM iot.device_state'
		  . " JOIN iot.device USING (device_id) WHERE name = 'boiler-1'"),
	'f|t', 'and is in the state');

# attributes
$broker->publish('iot/boiler-1/attributes', '{"firmware":"1.0","net":{"rssi":-50}}');
$broker->publish('iot/boiler-1/attributes', '{"firmware":"1.1"}');
$iot->poll("SELECT attributes = '{\"firmware\":\"1.1\",\"net\":{\"rssi\":-50}}' FROM iot.device_state"
	  . " JOIN iot.device USING (device_id) WHERE name = 'boiler-1'");
pass('attributes are merged');

# a retained measurement is not a new one, whenever the adapter connects
$iot->psql('TRUNCATE iot.dead_letter');
my $mark = $broker->log_size;
$broker->publish('iot/boiler-1/telemetry', '{"temperature":999}', retain => 1);
# without a time of its own it is stored again unless the broker has heard that it was (I11)
$broker->wait_for_log(
	qr{Sending PUBLISH to iot-\S+ \(d0, q1, r0, m(\d+), 'iot/boiler-1/telemetry'.*Received PUBACK from iot-\S+ \(Mid: \1,}s,
	$mark);
$iot->poll('SELECT count(*) = 511 FROM iot.measurement');
$iot->psql("UPDATE iot.adapter SET enabled = false WHERE name = 'mqtt'");
$iot->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
$iot->use_broker($broker);
$broker->publish('iot/boiler-1/telemetry', '{"temperature":24}');
$iot->poll('SELECT count(*) > 511 FROM iot.measurement');
is($iot->psql('SELECT count(*) FROM iot.measurement WHERE value = 999'), '1',
	'what a broker has retained is stored once');
is(value('boiler-1', 'temperature'), '24', 'and is not current again');
$pid = $iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");

# the registry changes under the worker
$broker->publish('iot/newcomer/telemetry', '{"temperature":1}');
$iot->poll("SELECT count(*) = 1 FROM iot.dead_letter WHERE reason = 'unknown_device'");
$iot->device('newcomer', ['temperature']);
$broker->publish('iot/newcomer/telemetry', '{"temperature":2,"valve":"OPEN"}');
$iot->poll("SELECT count(*) = 1 FROM iot.dead_letter WHERE reason = 'unknown_parameter'");
is(value('newcomer', 'temperature'), '2', 'a new device is known at once');
$iot->psql("INSERT INTO iot.sensor (device_id, parameter_id) SELECT d.device_id, p.parameter_id"
	  . " FROM iot.device d, iot.parameter p WHERE d.name = 'newcomer' AND p.name = 'valve'");
$broker->publish('iot/newcomer/telemetry', '{"valve":"OPEN"}');
$iot->poll("SELECT count(*) = 1 FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)"
	  . " JOIN iot.device d USING (device_id) WHERE d.name = 'newcomer' AND p.name = 'valve'");
pass('so is a new sensor');
$iot->psql("UPDATE iot.device SET enabled = false WHERE name = 'newcomer'");
$broker->publish('iot/newcomer/telemetry', '{"temperature":3}');
$iot->poll("SELECT count(*) = 1 FROM iot.dead_letter WHERE reason = 'disabled_device'");
is(value('newcomer', 'temperature'), '2', 'a disabled device is not heard');
$iot->psql("DELETE FROM iot.device WHERE name = 'newcomer'");
$broker->publish('iot/newcomer/telemetry', '{"temperature":4}');
$iot->poll("SELECT count(*) = 2 FROM iot.dead_letter WHERE reason = 'unknown_device'");
pass('nor is one that is gone');
$iot->psql("INSERT INTO iot.device_type (name, telemetry_topic) VALUES ('plug', 'tele/{device}/SENSOR')");
$iot->device('plug-1', ['temperature'], type => 'plug');
poll_until(
	sub {
		$broker->publish('tele/plug-1/SENSOR', "{\"ts\":$ms,\"temperature\":7}");
		return (value('plug-1', 'temperature') // '') eq '7';
	},
	'a new topic is subscribed to');
pass('and the topic of a new device type is subscribed to');

# nothing is uncounted, and nobody stopped
my ($row) = $iot->rows("SELECT counters FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'");
my %counters = %{ $row->{counters} };
is( $counters{received},
	$counters{stored} + $counters{duplicate} + $counters{conflict} + $counters{rejected},
	'I12: received = stored + duplicate + conflict + rejected');
is($iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"),
	$pid, 'the worker is the same');
unlike($iot->log_content, qr/terminated by signal|PANIC/, 'and none died');

done_testing();
