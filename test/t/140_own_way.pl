# Devices that speak their own way, by the recipes of doc/devices.md: what Tasmota, Zigbee2MQTT and
# ThingsBoard gateways say and listen to, through a real broker, there and back.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

sub value { return $iot->value(@_); }

sub online_is
{
	my ($device, $online, $what) = @_;

	$iot->online_is($device, $online);
	pass($what);
	return;
}

sub stored { return $iot->poll("SELECT count(*) = $_[0] FROM iot.measurement"); }

# Sends a command, has the device answer with $reply what came to $topic, and gives what came.
sub carried_out
{
	my ($command, $payload) = $iot->command_answered($broker, @_);

	is($command->{status}, 'COMPLETED', "$_[0]: its echo confirms $_[1]");
	return $payload;
}

sub recipe { return $iot->psql(IotTest::recipe($_[0], 'sql')); }

recipe($_) foreach 'Tasmota', 'Zigbee2MQTT', 'ThingsBoard gateways';
$iot->psql(q{INSERT INTO iot.device_type (name) VALUES ('press')});
recipe('Online and offline');
$iot->psql(q{UPDATE iot.device_type SET status_topic = 'press/{device}/state' WHERE name = 'press'});
$iot->psql(q{INSERT INTO iot.device_type (name, telemetry_topic) VALUES ('plain', 'home/+/{device}/{parameter}')});
# no answer is late on a slow machine
$iot->psql(q{UPDATE iot.device_type SET ack_timeout = '2 min', command_ttl = '10 min'});
$iot->device('press-1', ['temperature'], type => 'press');
$iot->device('fan', ['humidity', 'power'], type => 'plain');
$iot->use_broker($broker);

# Tasmota
$broker->publish('tele/kitchen/SENSOR',
	'{"Time":"2024-05-01T12:00:00","AM2301":{"Temperature":21.4,"Humidity":54.6},"TempUnit":"C"}');
stored(2);
is(value('kitchen', 'temperature'), '21.4', 'Tasmota: a value deep in its message');
is(value('kitchen', 'humidity'), '54.6', 'and another');
$broker->publish('tele/kitchen/STATE',
	'{"Time":"2024-05-01T12:00:00","UptimeSec":66972,"POWER":"OFF","Wifi":{"RSSI":100}}');
stored(3);
is(value('kitchen', 'power'), '0', 'its state on another topic');
is(carried_out('kitchen', 'power', 'ON', 'cmnd/kitchen/POWER', 'stat/kitchen/RESULT', '{"POWER":"ON"}'),
	'ON', 'it is told what it understands');
is(value('kitchen', 'power'), '1', 'and what it answers is the value');
$broker->publish('tele/kitchen/LWT', 'Online', retain => 1);
online_is('kitchen', 'true', 'Online is online');
$broker->publish('tele/kitchen/LWT', 'Offline', retain => 1);
online_is('kitchen', 'false', 'Offline is offline');

# Zigbee2MQTT
$broker->publish('zigbee2mqtt/bridge/state', '{"state":"online"}');
$broker->publish('zigbee2mqtt/ground floor/hall',
	'{"temperature":27.34,"occupancy":true,"battery":97,"voltage":2995,"linkquality":120,"action":""}');
stored(7);
is(value('hall', 'temperature'), '27.34', 'Zigbee2MQTT: a value');
is(value('hall', 'occupancy'), '1', 'a boolean');
is(value('hall', 'voltage'), '2.995', 'and one in our own measure');
is(carried_out('porch', 'state', 'ON', 'zigbee2mqtt/porch/set', 'zigbee2mqtt/porch',
		'{"state":"ON","brightness":12,"color":{"x":0.1,"y":0.2}}'), '{"state": "ON"}', 'it is told a word as JSON');
is(carried_out('porch', 'brightness', 200, 'zigbee2mqtt/porch/set', 'zigbee2mqtt/porch',
		'{"state":"ON","brightness":200}'), '{"brightness": 200}', 'and a number as one');
$broker->publish('zigbee2mqtt/porch/availability', '{"state":"online"}', retain => 1);
online_is('porch', 'true', 'its availability in JSON');
$broker->publish('zigbee2mqtt/porch/availability', '{"state":"offline"}', retain => 1);
online_is('porch', 'false', 'and back');

# the list that its bridge keeps, by the script of the page
my $list = '[{"ieee_address":"0x1","friendly_name":"Coordinator","definition":null},{"ieee_address":"0x2","friendly_name":"upstairs/blind",'
  . '"definition":{"exposes":[{"type":"cover","features":[{"type":"numeric","property":"position","access":7,"unit":"%",'
  . '"value_min":0,"value_max":100}]}]}}]';
my $script = IotTest::recipe('Zigbee2MQTT', 'psql');
my $port = $broker->port;
$broker->publish('zigbee2mqtt/bridge/devices', $list, retain => 1);
$script =~ s/-p 1883/-p $port/ or die 'no port in the script';
is($iot->psql($script), '0x2|upstairs/blind|{position}|t', 'the list of its bridge makes devices');
is(carried_out('0x2', 'position', 40, 'zigbee2mqtt/upstairs/blind/set', 'zigbee2mqtt/upstairs/blind',
		'{"position":40}'), '{"position": 40}', 'that can be told something at once');

# others
$broker->publish('press/press-1/state', '{"connected":true}', retain => 1);
online_is('press-1', 'true', 'a word of its own, at a path of its own');
$broker->publish('press/press-1/state', '{"connected":false}', retain => 1);
online_is('press-1', 'false', 'and the other');
$broker->publish('home/attic/fan/humidity', '28');
$broker->publish('home/attic/fan/power', 'ON');
stored(14);
is(value('fan', 'humidity') . ' ' . value('fan', 'power'), '28 1', 'a bare value, to the parameter that its topic names');

# ThingsBoard gateways
my $ms = (time() - 60) * 1000;
$broker->publish('v1/gateway/telemetry',
	qq({"Device A":[{"ts":$ms,"values":{"temperature":42,"humidity":80}},{"ts":$ms.5,"values":{"temperature":43}}]}));
stored(17);
is(value('device-a', 'temperature'), '43', 'a gateway: a device by its own name');
is($iot->psql("SELECT extract(epoch FROM ts) * 1000 = $ms FROM iot.measurement WHERE value = 42"), 't', 'at the time that it says');
my $call = json(carried_out('device-a', 'temperature', 20, 'v1/gateway/rpc', 'v1/gateway/telemetry',
		'{"Device A":{"temperature":20}}'));
is_deeply([ $call->{device}, @{ $call->{data} }{qw(method params)} ], [ 'Device A', 'temperature', 20 ],
	'it is told whom a call is for');
$broker->publish('v1/gateway/attributes', '{"Device A":{"firmware":"1.2"}}');
$iot->poll(q{SELECT count(*) = 1 FROM iot.device_state WHERE attributes ->> 'firmware' = '1.2'});
pass('and tells attributes');

is($iot->psql('SELECT string_agg(reason || error, chr(10)) FROM iot.dead_letter'), '', 'nothing of all this is a dead letter');
is($iot->psql("SELECT counters ->> 'received' = counters ->> 'stored' FROM iot_internal.worker_slots()"
	  . " WHERE kind = 'mqtt adapter'"), 't', 'I12: and all of it is counted');
done_testing();
