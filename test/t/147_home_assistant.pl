# Devices that announce themselves, through a real broker and without a row or a program of ours: they
# are found when the adapter starts, later, and when they answer its greeting; what they say is stored,
# what they are told is confirmed, and whoever announces nonsense disturbs nobody.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

# Publishes until it is stored: a device does not know who has subscribed by now.
sub says
{
	my ($device, $parameter, $value, $topic, $payload) = @_;

	$iot->poll("SELECT EXISTS (SELECT FROM iot.sensor s JOIN iot.device d USING (device_id)"
		  . " JOIN iot.parameter p USING (parameter_id) WHERE d.name = '$device' AND p.name = '$parameter')");
	IotTest::poll_until(sub { $broker->publish($topic, $payload); return $iot->value($device, $parameter) eq $value; },
		"$device says $parameter");
	pass("$device: $parameter is taken from $topic");
	return;
}

sub online_is
{
	my ($device, $online, $what) = @_;

	$iot->online_is($device, $online);
	pass($what);
	return;
}

# Sends a command, has the device answer with $reply what came to $topic, and gives what came.
sub carried_out
{
	my ($command, $payload) = $iot->command_answered($broker, @_);

	is($command->{status}, 'COMPLETED', "$_[0]: its state confirms $_[1]");
	return $payload;
}

sub announce
{
	my ($where, $config) = @_;

	$broker->publish("homeassistant/$where/config", $config, retain => 1);
	return;
}

sub refused
{
	my ($count) = @_;

	return $iot->poll("SELECT count(*) = $count FROM iot.dead_letter WHERE reason = 'refused_announcement'");
}

# what devices have left at the broker before we come: as ESPHome does, and as bridges do
my $living = '"avty_t":"living/status","dev":{"ids":["a4cf12"],"name":"Living room"}';
announce('sensor/living/temperature', qq({"unit_of_meas":"°C","stat_t":"living/sensor/temperature/state",$living}));
announce('switch/living/relay', qq({"stat_t":"living/switch/relay/state","cmd_t":"living/switch/relay/command",$living}));
announce('device/porch', '{"dev":{"ids":["0x01"]},"o":{"name":"bridge"},"stat_t":"zb/porch",'
	  . '"avty":[{"t":"zb/bridge/state","val_tpl":"{{ value_json.state }}"},{"t":"zb/porch/availability","val_tpl":"{{ value_json.state }}"}],'
	  . '"cmps":{"humidity":{"p":"sensor","unit_of_meas":"%","val_tpl":"{{ value_json.humidity }}"},'
	  . '"lamp":{"p":"light","schema":"json","brightness":true,"bri_scl":254,"cmd_t":"zb/porch/set"},"update":{"p":"update","x":1}}}');
announce('sensor/bad/words', '{"stat_t":"bad/v","val_tpl":"{{ states(1) }}"}');
$broker->publish('living/status', 'online', retain => 1);
my $greeting = $broker->watch('homeassistant/status');
$iot->psql(IotTest::recipe("Home Assistant's discovery", 'sql'));
$iot->use_broker($broker, options => json($iot->psql(q{SELECT options FROM iot.adapter WHERE name = 'mqtt'})));

# no answer is late on a slow machine
$iot->poll('SELECT count(*) = 2 FROM iot.device');
$iot->psql(q{UPDATE iot.device_type SET ack_timeout = '2 min', command_ttl = '10 min'});
is($iot->psql('SELECT string_agg(d.name || g.name, chr(10) ORDER BY d.name) FROM iot.device d JOIN iot.device_group g USING (device_group_id)'),
	"0x01house\na4cf12house", 'they are devices of the group that the options name');
online_is('a4cf12', 'true', 'its presence, as the broker kept it');
says('a4cf12', 'temperature', '21.5', 'living/sensor/temperature/state', '21.5');
says('a4cf12', 'relay', '0', 'living/switch/relay/state', 'OFF');
is(carried_out('a4cf12', 'relay', 'ON', 'living/switch/relay/command', 'living/switch/relay/state', 'ON'), 'ON', 'it is told its word');
is($iot->value('a4cf12', 'relay'), '1', 'and its state is the value');
$broker->publish('living/status', 'offline', retain => 1);
online_is('a4cf12', 'false', 'its last will');
says('0x01', 'humidity', '55', 'zb/porch', '{"humidity":55,"state":"OFF","brightness":3}');
is(carried_out('0x01', 'lamp', 'ON', 'zb/porch/set', 'zb/porch', '{"state":"ON","brightness":3}'), '{"state": "ON"}', 'JSON there');
is(carried_out('0x01', 'lamp_brightness', 200, 'zb/porch/set', 'zb/porch', '{"state":"ON","brightness":200}'), '{"brightness": 200}', 'and back');
$broker->publish('zb/porch/availability', '{"state":"online"}', retain => 1);
online_is('0x01', 'true', 'its presence in JSON');
$broker->publish('zb/bridge/state', '{"state":"offline"}', retain => 1);
refused(1);
is($iot->psql(q{SELECT topic || ' ' || error FROM iot.dead_letter}),
	'homeassistant/sensor/bad/words/config template "{{ states(1) }}" is not supported', 'what cannot be taken over is a dead letter that says why');
is($iot->psql(q{SELECT error FROM iot.discovery WHERE topic LIKE '%/device/%'}), 'update: component "update" is not supported',
	'a part that cannot is told beside those that can');

# one that keeps nothing at the broker answers the greeting
is(($greeting->wait_for(1, 'homeassistant/status'))[0]->{payload}, 'online', 'the adapter says that it is there');
$broker->publish('homeassistant/sensor/shy/config', '{"stat_t":"shy/v","dev":{"ids":"shy"}}');
says('shy', 'shy', '7', 'shy/v', '7');

# a change, and a withdrawal
announce('sensor/living/temperature', qq({"unit_of_meas":"°C","stat_t":"living/t","val_tpl":"{{ value_json.t }}",$living}));
says('a4cf12', 'temperature', '22', 'living/t', '{"t":22}');
announce('switch/living/relay', '');
$iot->poll(q{SELECT NOT EXISTS (SELECT FROM iot.discovery WHERE topic LIKE '%/switch/%')});
$iot->poll(q{SELECT NOT 'living/switch/relay/state' = ANY (filters) FROM iot.adapter_session});
pass('what is taken back is listened to no more');
is($iot->value('a4cf12', 'relay'), '1', 'and is not forgotten');

# one announcement by hand, by the script of the page
my $script = IotTest::recipe("Home Assistant's discovery", 'psql');
my $port = $broker->port;
$broker->publish('homeassistant/sensor/bed/temperature/config', '{"stat_t":"bed/t","dev":{"ids":"bed"}}', retain => 1);
$iot->poll(q{SELECT EXISTS (SELECT FROM iot.device WHERE name = 'bed')});
$script =~ s/-p 1883/-p $port/ or die 'no port in the script';
is($iot->psql($script), 'bed|{temperature}|f|', 'by hand it is the same');

# a device with topics of its own, by the recipe of the page
$iot->psql(IotTest::recipe('One device, with topics of its own', 'sql'));
$iot->device('gate', ['temperature'], type => 'gate');
says('gate', 'temperature', '3', 'garden/gate', '{"temperature":3}');
is(carried_out('gate', 'temperature', 5, 'garden/gate/set', 'garden/gate', '{"temperature":5}'), '5', 'it is told there');

# many topics, which are subscribed to by several in one packet
announce('device/wide', '{"dev":{"ids":"wide"},"cmps":{' . join(',', map { qq("v$_":{"p":"sensor","stat_t":"wide/$_"}) } 1 .. 64) . '}}');
says('wide', 'v64', '64', 'wide/64', '64');
$broker->publish("wide/$_", $_) foreach 1 .. 63;
$iot->poll(q{SELECT count(*) = 64 AND bool_and('v' || v.value = p.name) FROM iot.sensor_value v
	JOIN iot.parameter p USING (parameter_id) JOIN iot.device d USING (device_id) WHERE d.name = 'wide'});
pass('all of many topics are heard');

# hostile ones
my $starts = $iot->psql(q{SELECT starts FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'});
announce("sensor/hostile/x$_->[0]", $_->[1]) foreach [ 1, '{"stat_t":' ], [ 2, '[]' ], [ 3, "\xff" ], [ 4, '{}' ],
  [ 5, '{"stat_t":"iot/boiler/telemetry"}' ], [ 6, '{"stat_t":"#"}' ], [ 7, '{"stat_t":"v","dev":{"ids":"a+b"}}' ],
  [ 8, '{"stat_t":"v","avty":' . '[' x 500 . ']' x 500 . '}' ], [ 9, '{"stat_t":"v","exp_aft":1e300}' ],
  [ 10, '{"x":"' . 'x' x 70000 . '"}' ], [ 11, '{"stat_t":"v","val_tpl":"' . '{{ ' x 5000 . '"}' ];
announce('sensor/hostile/later', '{"stat_t":"later/v","dev":{"ids":"later"}}');
says('later', 'later', '8', 'later/v', '8');
is($iot->psql(q{SELECT string_agg(DISTINCT right(split_part(topic, '/', 4), -1) || reason, ' ') FROM iot.dead_letter WHERE topic LIKE '%hostile%'}),
	'10too_large 11refused_announcement 1malformed_json 2wrong_type 3invalid_utf8 4refused_announcement 5refused_announcement '
	  . '6refused_announcement 7refused_announcement 8malformed_json 9refused_announcement', 'I12, I13: each is a dead letter with its reason');
is($iot->psql(q{SELECT starts FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'}), $starts, 'I34: no process ended by it');
is($iot->psql("SELECT (counters ->> 'received')::int = sum(value::int) FROM iot_internal.worker_slots(), jsonb_each_text(counters)"
	  . " WHERE kind = 'mqtt adapter' AND key IN ('stored', 'duplicate', 'conflict', 'rejected') GROUP BY counters"), 't',
	'I12: and all is counted');

# coming back, the adapter hears all of it again
my $state = q{SELECT md5(string_agg(t::text, ' ' ORDER BY topic)) FROM iot.discovery t};
my $before = $iot->psql($state);
my $refusals = q{SELECT count(*) FROM iot.dead_letter WHERE reason = 'refused_announcement'};
my $letters = $iot->psql($refusals);
my $malformed = q{SELECT count(*) FROM iot.dead_letter WHERE reason = 'malformed_json'};
my $heard = $iot->psql($malformed);
$iot->psql(q{UPDATE iot.adapter SET options = options || '{"batch_size": 500}'});
$iot->poll("SELECT ($malformed) > $heard");
announce('sensor/hostile/last', '{"stat_t":"last/v","dev":{"ids":"last"}}');
$iot->poll(q{SELECT EXISTS (SELECT FROM iot.device WHERE name = 'last')});
is($iot->psql($refusals), $letters, 'what was refused is no dead letter once more');
$iot->psql(q{DELETE FROM iot.device WHERE name = 'last'});
is($iot->psql($state), $before, 'and nothing has changed');
is($iot->psql(q{SELECT count(*) FROM iot.dead_letter WHERE reason NOT IN ('refused_announcement', 'malformed_json', 'wrong_type', 'invalid_utf8', 'too_large')}),
	0, 'nothing else was lost');
done_testing();
