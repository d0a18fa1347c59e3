-- Device types that speak their own way: values at paths, one value to a topic, words, scales, other
-- words for online; and commands in the words that such devices listen to.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

INSERT INTO iot.parameter (name, unit) VALUES ('temperature', '°C'), ('humidity', '%'), ('level', '%');
INSERT INTO iot.parameter (name, labels) VALUES ('power', '{"OFF": 0, "ON": 1}');
INSERT INTO iot.device_type (name) VALUES ('empty');
INSERT INTO iot.device_type (name, telemetry_topic, more_telemetry_topics, status_topic, command_topic,
		command_template, ack_mode)
	VALUES ('tasmota', 'tele/{device}/SENSOR', ARRAY['tele/{device}/STATE', 'stat/{device}/RESULT'],
		'tele/{device}/LWT', 'cmnd/{device}/{parameter}', '{word}', 'echo');
INSERT INTO iot.device_type (name, telemetry_topic, command_topic, command_template)
	VALUES ('plain', 'home/+/{device}/{parameter}', 'home/{device}/set', '{"{parameter}": {json}, "n": "{word}"}');
INSERT INTO iot.device_type (name, telemetry_topic, status_topic, status_path, online_word, offline_word)
	VALUES ('odd', 'odd/{device}/{parameter}', 'odd/{device}/lwt', '$.net.link', 'up', '0');

CREATE FUNCTION map(device_type text, parameter text, path text, name text DEFAULT NULL,
	scale float8 DEFAULT 1, shift float8 DEFAULT 0, labels jsonb DEFAULT NULL,
	command_template text DEFAULT NULL) RETURNS void LANGUAGE sql AS
	'INSERT INTO iot.device_type_mapping
			(device_type_id, parameter_id, path, name, scale, shift, labels, command_template)
		SELECT t.device_type_id, p.parameter_id, $3, $4, $5, $6, $7, $8
			FROM iot.device_type t, iot.parameter p WHERE t.name = $1 AND p.name = $2';
CREATE FUNCTION take(topic text, payload bytea, retained boolean DEFAULT false) RETURNS jsonb
LANGUAGE sql AS
	'SELECT jsonb_object_agg(key, value) FROM jsonb_each(
			iot_internal.ingest_messages(''mqtt'', ARRAY[topic], ARRAY[payload], ARRAY[retained]) - ''acks'')
		WHERE value <> ''0'' AND value <> ''{}''';
CREATE FUNCTION value(device text, parameter text) RETURNS float8 LANGUAGE sql AS
	'SELECT v.value FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)
		JOIN iot.device d USING (device_id) WHERE d.name = $1 AND p.name = $2';

SELECT no_plan();

-- 1. what is written is judged
SELECT throws_ok(format($$SELECT map('empty', 'level', path => %L)$$, path), '22023',
	format('invalid path of parameter "level" of device type "empty": %s', error))
	FROM (VALUES ('level', 'path does not begin with "$"'), ('$.', 'path lacks a key after "."'),
		('$[x]', 'path has neither a number, nor a key between quotation marks, nor "*" between "[" and "]"'),
		('$.a b', 'path has something other than "." or "[" after a step')) t (path, error);
SELECT throws_ok(format($$SELECT map('empty', 'level', '$', %s)$$, t), '22023', NULL, t)
	FROM unnest(ARRAY[$$name => 'a/b'$$, $$name => ''$$, $$name => '+'$$, 'scale => 0',
		$$scale => 'NaN'$$, $$shift => 'Infinity'$$, $$labels => '5'$$, $$labels => '{"1": 1}'$$,
		$$command_template => '{x}'$$, $$command_template => '{"a":{word}}'$$]) t;
SELECT throws_ok(format('UPDATE iot.device_type SET %s WHERE name = ''empty''', t), '22023', NULL, t)
	FROM unnest(ARRAY[$$telemetry_topic = 'a/{device}/{room}'$$,
		$$telemetry_topic = 'a/{device}/{parameter}/{parameter}'$$, $$telemetry_topic = 'a/{parameter}'$$,
		$$status_topic = 'a/{device}/{parameter}'$$, $$command_topic = '+/{device}'$$,
		$$more_telemetry_topics = '{a}'$$, $$more_telemetry_topics = '{NULL}'$$,
		$$more_telemetry_topics = ARRAY['iot/{device}/status']$$, $$more_telemetry_topics = ARRAY['iot/{device}/command']$$,
		$$more_telemetry_topics = array_fill('a/{device}'::text, ARRAY[17])$$,
		$$status_path = 'state'$$, $$online_word = ''$$, $$online_word = 'OFFLINE'$$,
		$$offline_word = 'online'$$]) t;
SELECT throws_ok($$UPDATE iot.device_type SET command_topic = 'a/{device}/{room}' WHERE name = 'empty'$$,
	'22023', 'invalid command_topic of device type "empty": topic template has a placeholder other than {device} and {parameter}');

-- 2. values at paths
SELECT iot.create_device('kitchen', '{temperature,humidity,power}', device_type => 'tasmota');
SELECT map('tasmota', 'temperature', '$.*.Temperature');
SELECT map('tasmota', 'humidity', '$.AM2301.Humidity', scale => 0.1);
SELECT map('tasmota', 'power', '$.POWER', name => 'POWER');
SELECT is(take('tele/kitchen/SENSOR',
	'{"Time":"2024-05-01T12:00:00","AM2301":{"Temperature":21.4,"Humidity":546},"TempUnit":"C"}'),
	'{"messages": 1, "received": 2, "stored": 2}', 'values deep in a message');
SELECT is(value('kitchen', 'temperature'), 21.4::float8, 'of any member');
SELECT is(value('kitchen', 'humidity'), 54.6::float8, 'in our measure');
SELECT is(take('tele/kitchen/STATE',
	'{"Time":"2024-05-01T12:00:00","UptimeSec":66972,"POWER":"ON","Wifi":{"RSSI":100}}'),
	'{"messages": 1, "received": 1, "stored": 1}', 'another topic of the type');
SELECT is(value('kitchen', 'power'), 1::float8, 'with its words');
SELECT is(take('stat/kitchen/RESULT', '{"POWER":"OFF"}'), '{"messages": 1, "received": 1, "stored": 1}',
	'and a third one');
SELECT is(take('stat/kitchen/RESULT', '{"PulseTime1":{"Set":0}}'), '{"messages": 1}',
	'what nobody asked for is passed over');
SELECT is(take('tele/kitchen/SENSOR', '{"AM2301":{"Temperature":null,"Humidity":"560"}}'),
	'{"messages": 1, "received": 1, "stored": 1}', 'null is no value, and a number in quotes is one');
SELECT is(value('kitchen', 'humidity'), 56::float8, '... the right one');
SELECT is((SELECT count(*) FROM iot.dead_letter), 0::bigint, 'nothing of this is a dead letter');
SELECT is((SELECT s.last_seen_at > now() - interval '1 minute' FROM iot.device_state s), true,
	'the device is heard from');

-- 3. what cannot be used is told, as ever
SELECT is(take('tele/kitchen/SENSOR', payload::bytea) -> 'reasons', jsonb_build_object(reason, 1), payload)
	FROM (VALUES ('{"AM2301":{"Temperature":"warm"}}', 'wrong_type'),
		('{"AM2301":{"Temperature":{"a":1}}}', 'wrong_type'),
		('{"AM2301":{"Temperature":1e400}}', 'not_finite'),
		('{"AM2301":', 'malformed_json'), ('', 'malformed_json'), ('{"a":"\\u0000"}', 'malformed_json')) t (payload, reason);
SELECT is(take('tele/kitchen/SENSOR', '\xff') -> 'reasons', '{"invalid_utf8": 1}', 'invalid UTF-8');
SELECT is(take('tele/kitchen/SENSOR', '{"AM2301":{"Temperature":3}}', true) -> 'reasons', '{"retained": 1}',
	'a retained message says nothing about when');
SELECT results_eq('SELECT d.device, d.topic, d.error FROM iot.dead_letter d ORDER BY d.dead_letter_id LIMIT 1',
	$$VALUES ('kitchen', 'tele/kitchen/SENSOR', '"warm" is neither a number nor a label of "temperature"')$$,
	'by the name of the parameter');
SELECT iot.create_device('bath', '{power}', device_type => 'tasmota');
SELECT is(take('tele/bath/SENSOR', '{"AM2301":{"Temperature":3}}') -> 'reasons', '{"unknown_parameter": 1}',
	'a value that is mapped and has no sensor');
SELECT is(take('tele/bath/SENSOR', '{"DS18B20":{"Temperature":4}}') -> 'reasons', '{"unknown_parameter": 1}',
	'... again');
INSERT INTO iot.sensor SELECT d.device_id, p.parameter_id FROM iot.device d, iot.parameter p
	WHERE d.name = 'bath' AND p.name = 'temperature';
SELECT is(iot.replay_dead_letter(d.dead_letter_id), NULL, 'comes back when there is one')
	FROM iot.dead_letter d WHERE d.device = 'bath' ORDER BY d.dead_letter_id;
SELECT is(value('bath', 'temperature'), 4::float8, '... in the order in which it came');
SELECT is(take('stat/bath/OTHER', '{"POWER":"ON"}') -> 'reasons', '{"unknown_topic": 1}', 'another topic is none of it');
SELECT is(take('tele/stranger/STATE', '{"POWER":"ON"}') -> 'reasons', '{"unknown_device": 1}', 'nor is another device');

-- 4. one value to a topic
SELECT iot.create_device('fan', '{level,power,temperature}', device_type => 'plain');
SELECT is(take('home/attic/fan/level', '28'), '{"messages": 1, "received": 1, "stored": 1}', 'a bare number');
SELECT is(take('home/attic/fan/power', ' ON '), '{"messages": 1, "received": 1, "stored": 1}', 'a bare word');
SELECT is(take('home/attic/fan/temperature', '"21.5"'), '{"messages": 1, "received": 1, "stored": 1}', 'a JSON string');
SELECT is(ARRAY[value('fan', 'level'), value('fan', 'power'), value('fan', 'temperature')],
	'{28,1,21.5}'::float8[], 'each its parameter''s');
SELECT is(take('home/attic/fan/speed', '28') -> 'reasons', '{"unknown_parameter": 1}', 'a parameter that it has not');
SELECT is(take('home/attic/fan/level', '{"value":5}') -> 'reasons', '{"wrong_type": 1}', 'an object is no value');
SELECT is(take('home/fan/level', '28') -> 'reasons', '{"unknown_topic": 1}', 'a level too few');
SELECT map('plain', 'level', '$.value', name => 'speed', scale => 100);
SELECT map('plain', 'power', '$', labels => '{"an": 1, "aus": 0}');
SELECT is(take('home/attic/fan/speed', '{"value":0.29,"unit":"share"}'), '{"messages": 1, "received": 1, "stored": 1}',
	'by the device''s own word, at a path, in its own measure');
SELECT is(value('fan', 'level'), 29::float8, '... and nothing but 29');
SELECT is(take('home/attic/fan/power', 'aus'), '{"messages": 1, "received": 1, "stored": 1}', 'in its own words');
SELECT is(take('home/attic/fan/power', 'ON') -> 'reasons', '{"wrong_type": 1}', 'which replace ours');
SELECT is(take('home/attic/fan/level', '28'), '{"messages": 1}', 'what is not mapped is passed over');

-- 5. online and offline
SELECT iot.create_device('gate', '{power}', device_type => 'odd');
SELECT is(take('odd/gate/lwt', '{"net":{"link":"UP"}}'), '{"messages": 1, "statuses": 1}', 'its own word for online');
SELECT is((SELECT s.online FROM iot.device_state s JOIN iot.device d USING (device_id) WHERE d.name = 'gate'), true, 'is online');
SELECT is(take('odd/gate/lwt', '{"net":{"link":0}}'), '{"messages": 1, "statuses": 1}', 'and a number for offline');
SELECT is((SELECT s.online FROM iot.device_state s JOIN iot.device d USING (device_id) WHERE d.name = 'gate'), false, 'is offline');
SELECT is(take('odd/gate/lwt', payload::bytea) -> 'reasons', jsonb_build_object(reason, 1), payload)
	FROM (VALUES ('{"net":{}}', 'wrong_type'), ('online', 'wrong_type'), ('{"net":{"link":"online"}}', 'wrong_type'),
		('{', 'malformed_json')) t (payload, reason);
SELECT is(take('tele/kitchen/LWT', 'Online'), '{"messages": 1, "statuses": 1}', 'others say the usual words');

-- 6. commands
SELECT map('odd', 'power', '$', name => 'relay', command_template => '{"relay":{json},"of":"{device}"}');
CREATE FUNCTION sent() RETURNS text LANGUAGE sql AS $$
	SELECT f.topic || ' ' || f.payload FROM iot.adapter a,
		iot_internal.adapter_take(a.adapter_id, 100) f WHERE a.name = 'mqtt' $$;
SELECT iot.send_command('kitchen', 'power', 1);
SELECT is(sent(), 'cmnd/kitchen/POWER ON', 'topic and payload in the device''s words');
SELECT iot.send_command('fan', 'power', 0);
SELECT is(sent(), 'home/fan/set {"power": "aus", "n": "aus"}', 'a word is JSON by itself');
SELECT iot.send_command('fan', 'level', 29);
SELECT is(sent(), 'home/fan/set {"speed": 0.29, "n": "0.29"}', 'and so is a number, in the device''s measure');
SELECT iot.send_command('gate', 'power', 1);
SELECT is(sent(), 'iot/gate/command {"relay":"ON","of":"gate"}', 'a payload for the parameter alone');
SELECT is(iot_internal.command_payload('{{json}{json}{x}', iot_internal.uuidv7(), 'd', 'p', 2, 1, NULL, 1, 0), '{json}2',
	'what only looks like the placeholder stays');

-- 7. devices that register themselves speak like that, too
INSERT INTO iot.device_group (name) VALUES ('newcomers');
UPDATE iot.adapter SET options = '{"register_group": "newcomers", "register_type": "tasmota"}' WHERE name = 'mqtt';
SELECT is(take('tele/hall/SENSOR', '{"SI7021":{"Temperature":19.5},"power":1}'), '{"messages": 1, "received": 1, "stored": 1}',
	'a stranger of the type');
SELECT results_eq($$SELECT p.name FROM iot.sensor s JOIN iot.device d USING (device_id) JOIN iot.parameter p USING (parameter_id)
	WHERE d.name = 'hall'$$, $$VALUES ('temperature')$$, 'has what was found in its message');
UPDATE iot.adapter SET options = '{"register_group": "newcomers", "register_type": "plain"}' WHERE name = 'mqtt';
SELECT is(take('home/x/lamp/power', 'an'), '{"messages": 1, "received": 1, "stored": 1}', 'or what its topic names');
SELECT is(take('home/x/oven/power', '{"a":'), '{"messages": 1, "received": 1, "rejected": 1, "reasons": {"unknown_device": 1}}',
	'nobody registers with a broken message');

-- 8. changes are taken into use at once, and what is mapped stays
UPDATE iot.device_type_mapping SET scale = 1 FROM iot.parameter p
	WHERE p.parameter_id = device_type_mapping.parameter_id AND p.name = 'humidity';
SELECT is(take('tele/kitchen/SENSOR', '{"AM2301":{"Humidity":61}}'), '{"messages": 1, "received": 1, "stored": 1}', 'another scale');
SELECT is(value('kitchen', 'humidity'), 61::float8, '... holds for the next message');
SELECT throws_ok($$DELETE FROM iot.parameter WHERE name = 'humidity'$$, '23503', NULL, 'a parameter that is mapped stays');
DELETE FROM iot.device_type_mapping;
SELECT is(take('tele/kitchen/SENSOR', '{"humidity":62}'), '{"messages": 1, "received": 1, "stored": 1}',
	'without a mapping the default form is back');

-- 9. what the broker lets such a device do
SELECT results_eq($$SELECT t.action, t.topic FROM iot.device_topic t JOIN iot.device d USING (device_id)
	WHERE d.name = 'kitchen' ORDER BY 1, 2$$,
	$$VALUES ('publish', 'iot/kitchen/attributes'), ('publish', 'iot/kitchen/command/ack'),
		('publish', 'stat/kitchen/RESULT'), ('publish', 'tele/kitchen/LWT'), ('publish', 'tele/kitchen/SENSOR'),
		('publish', 'tele/kitchen/STATE'), ('subscribe', 'cmnd/kitchen/+')$$, 'all its topics');
SELECT is(array_agg(rule ORDER BY rule COLLATE "C") FILTER (WHERE rule LIKE '%cmnd%'),
	'{"publishClientReceive true 1 cmnd/kitchen/+","subscribePattern true 1 cmnd/kitchen/+"}',
	'a filter is allowed as one')
	FROM iot.device d, unnest(iot_internal.dynsec_acls(d.device_id)) rule WHERE d.name = 'kitchen';

-- 10. times
INSERT INTO iot.device_type (name, telemetry_topic, time_path, time_unit)
	VALUES ('clocked', 'clocked/{device}', '$.meta.at', 's');
SELECT throws_ok(format('UPDATE iot.device_type SET %s WHERE name = ''clocked''', t), '22023', NULL, t)
	FROM unnest(ARRAY[$$time_path = 'at'$$, $$time_unit = 'min'$$, $$time_zone = 'Mars/Olympus'$$]) t;
SELECT iot.create_device('meter', '{temperature}', device_type => 'clocked') AS meter \gset
SELECT map('clocked', 'temperature', '$.t');
CREATE FUNCTION stored_at(device uuid, value float8) RETURNS timestamptz LANGUAGE sql AS
	'SELECT m.ts FROM iot.measurement m WHERE m.device_id = $1 AND m.value = $2';
SELECT extract(epoch FROM date_trunc('hour', now()))::bigint AS hour \gset
SELECT is(take('clocked/meter', format('{"meta":{"at":%s.5},"t":1}', :hour)::bytea),
	'{"messages": 1, "received": 1, "stored": 1}', 'seconds since 1970');
SELECT is(stored_at(:'meter', 1), to_timestamp(:hour + 0.5), '... and a half');
SELECT is(take('clocked/meter', format('{"meta":{"at":"%s"},"t":2}',
	to_char(to_timestamp(:hour) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))::bytea),
	'{"messages": 1, "received": 1, "stored": 1}', 'ISO 8601');
SELECT is(stored_at(:'meter', 2), to_timestamp(:hour), '... is read, too');
SELECT is(take('clocked/meter', payload::bytea) -> 'reasons', '{"invalid_time": 1}', payload)
	FROM unnest(ARRAY['{"meta":{"at":"2024-05-01T12:00:00"},"t":3}', '{"meta":{"at":"noon"},"t":3}',
		'{"meta":{"at":{}},"t":3}', '{"meta":{"at":1e300},"t":3}']) payload;
SELECT is(take('clocked/meter', '{"t":4}'), '{"messages": 1, "received": 1, "stored": 1}', 'none is that of arrival');
SELECT is(take('clocked/meter', format('{"meta":{"at":%s},"t":5}', :hour + 1)::bytea, true),
	'{"messages": 1, "received": 1, "stored": 1}', 'with a time a retained message is as good');
UPDATE iot.device_type SET time_zone = 'Asia/Kolkata' WHERE name = 'clocked';
SELECT is(take('clocked/meter', format('{"meta":{"at":"%s"},"t":6}',
	to_char(to_timestamp(:hour + 2) AT TIME ZONE 'Asia/Kolkata', 'YYYY-MM-DD HH24:MI:SS'))::bytea),
	'{"messages": 1, "received": 1, "stored": 1}', 'a clock of a known zone');
SELECT is(stored_at(:'meter', 6), to_timestamp(:hour + 2), '... tells the time');

-- 11. devices that are called otherwise elsewhere
SELECT throws_ok(format('UPDATE iot.device SET external_id = %L WHERE name = ''fan''', x), '22023', NULL, x)
	FROM unnest(ARRAY['', 'a+', '#', E'a\nb', repeat('x', 129)]) x;
UPDATE iot.device SET external_id = 'grüner fan' WHERE name = 'fan';
SELECT throws_ok($$UPDATE iot.device SET external_id = 'kitchen' WHERE name = 'bath'$$, '23505', NULL,
	'nobody is called as another one');
SELECT throws_ok($$UPDATE iot.device SET external_id = 'grüner fan' WHERE name = 'bath'$$, '23505', NULL, 'here or elsewhere');
UPDATE iot.device SET external_id = 'old-name' WHERE name = 'bath';
SELECT throws_ok($$SELECT iot.create_device('old-name', '{power}')$$, '42710',
	'name "old-name" is the external_id of another device');
SELECT is(take('home/attic/grüner fan/temperature', '23'), '{"messages": 1, "received": 1, "stored": 1}', 'a topic has that name');
SELECT is(take('home/attic/fan/temperature', '24') -> 'reasons', '{"unknown_device": 1}', 'and no other');
SELECT is(iot.ingest('fan', '{"temperature":25}', now() + interval '1 second'), 1, 'functions have ours');
SELECT is(value('fan', 'temperature'), 25::float8, 'of one and the same device');
UPDATE iot.device SET external_id = 'fan' WHERE name = 'hall';
SELECT is(take('tele/fan/SENSOR', '{"temperature":1}'), '{"messages": 1, "received": 1, "stored": 1}', 'a name may move on');
SELECT is(iot.ingest('fan', '{"temperature":26}', now() + interval '2 seconds'), 1, 'without confusion');
SELECT is(value('fan', 'temperature'), 26::float8, 'of one');
SELECT is(value('hall', 'temperature'), 1::float8, 'and the other');
SELECT iot.send_command('fan', 'level', 7);
SELECT is(sent(), 'home/grüner fan/set {"level": 7, "n": "7"}', 'commands go where it listens');
SELECT is((SELECT count(*) FROM iot.device_topic t JOIN iot.device d USING (device_id)
	WHERE d.name = 'fan' AND t.topic LIKE '%/grüner fan/%'), 5::bigint, 'as does what the broker lets it do');

-- 12. gateways
SELECT throws_ok($$INSERT INTO iot.device_type (name, telemetry_topic) VALUES ('gateway', 'v1/gateway/telemetry')$$,
	'22023', 'invalid telemetry_topic of device type "gateway": topic template lacks {device}');
SELECT throws_ok(format('INSERT INTO iot.device_type (name, device_path, %s) VALUES (''gateway'', ''$.*'', ''a'')', c),
	'22023', NULL, c) FROM unnest(ARRAY['status_topic', 'ack_topic', 'command_topic']) c;
INSERT INTO iot.device_type (name, telemetry_topic, attributes_topic, device_path, command_topic, command_template)
	VALUES ('gateway', 'v1/gateway/telemetry', 'v1/gateway/attributes', '$.*', 'v1/gateway/rpc',
		'{"device":"{device}","data":{"id":"{id}","method":"{parameter}","params":{json}}}');
INSERT INTO iot.device_type (name, telemetry_topic, device_path)
	VALUES ('bridge', 'bridge/up', '$.from'), ('hub', 'hub/{parameter}', '$.all.*');
SELECT throws_ok($$UPDATE iot.device_type SET device_path = NULL WHERE name = 'gateway'$$, '22023', NULL, 'one needs the other');
SELECT iot.create_device('device-a', '{temperature,power}', device_type => 'gateway') AS device_a \gset
SELECT iot.create_device('device-b', '{temperature}', device_type => 'gateway');
UPDATE iot.device SET external_id = 'Device A' WHERE name = 'device-a';
SELECT is(take('v1/gateway/telemetry', format(
		'{"Device A":[{"ts":%s,"values":{"temperature":42,"power":"ON"}},{"ts":%s,"values":{"temperature":43}}],"device-b":{"temperature":1}}',
		:hour * 1000::bigint, :hour * 1000::bigint + 1)::bytea),
	'{"messages": 1, "received": 4, "stored": 4}', 'a gateway speaks for its devices');
SELECT is(stored_at(:'device_a', 42), to_timestamp(:hour), 'each value at its time');
SELECT is(value('device-b', 'temperature'), 1::float8, 'each device with its own');
SELECT is(take('v1/gateway/telemetry',
		'{"Device A":{"temperature":"hot"},"device-b":{"temperature":"cold"},"Device C":{"temperature":1},"a\\nb":1,"device-a":{"temperature":1}}'),
	'{"messages": 1, "received": 5, "rejected": 5, "reasons": {"wrong_type": 2, "unknown_device": 3}}', 'what is wrong is told of each');
SELECT results_eq($$SELECT d.device, d.reason, d.error, length(d.payload) > 100 FROM iot.dead_letter d
	WHERE d.topic = 'v1/gateway/telemetry' ORDER BY d.dead_letter_id$$,
	$$VALUES ('device-a', 'wrong_type', '"hot" is neither a number nor a label of "temperature" (and 1 more)', true),
		(NULL, 'unknown_device', 'no device of that name has this topic (and 2 more)', true)$$,
	'... once, with all of the message');
SELECT iot.create_device('Device-C', '{temperature}', device_type => 'gateway');
UPDATE iot.device SET external_id = 'Device C' WHERE name = 'Device-C';
SELECT is(iot.replay_dead_letter(d.dead_letter_id), 'wrong_type', 'which can be taken in again')
	FROM iot.dead_letter d WHERE d.topic = 'v1/gateway/telemetry' AND d.reason = 'unknown_device';
SELECT is(value('Device-C', 'temperature'), 1::float8, '... for those who are known by now');
SELECT is(take('v1/gateway/telemetry', payload::bytea) -> 'reasons', jsonb_build_object(reason, 1), payload)
	FROM (VALUES ('{}', 'wrong_type'), ('[]', 'wrong_type'), ('7', 'wrong_type'), ('', 'malformed_json'),
		('{"Device A":', 'malformed_json'), ('{"Device A":7}', 'wrong_type'), ('{"Device A":{"temperature":1e400}}', 'not_finite'), ('{"device-b":{"temperature":1,"temperature":2}}', 'malformed_json'))
		t (payload, reason);
SELECT is(take('v1/gateway/attributes', '{"Device A":{"firmware":"1.2"},"device-b":{"firmware":"1.3"}}'),
	'{"messages": 1, "attributes": 2}', 'attributes come the same way');
SELECT is((SELECT s.attributes FROM iot.device_state s WHERE s.device_id = :'device_a'), '{"firmware": "1.2"}', 'each its own');
SELECT iot.send_command('device-a', 'temperature', 3) AS command \gset
SELECT is(sent(), format('v1/gateway/rpc {"device":"Device A","data":{"id":"%s","method":"temperature","params":3}}', :'command'),
	'a command names its device');
SELECT results_eq($$SELECT t.action, t.topic FROM iot.device_topic t JOIN iot.device d USING (device_id) WHERE d.name = 'device-a' ORDER BY 2$$,
	$$VALUES ('publish', 'iot/Device A/command/ack'), ('publish', 'iot/Device A/status')$$,
	'but nobody may speak for others by its credential');
SELECT iot.create_device('b7', '{temperature,level}', device_type => 'bridge');
SELECT iot.create_device('12', '{temperature}', device_type => 'bridge');
SELECT map('bridge', 'temperature', '$.t');
SELECT is(take('bridge/up', '{"from":"b7","t":5}'), '{"messages": 1, "received": 1, "stored": 1}', 'a message that names its device');
SELECT is(take('bridge/up', '{"from":12,"t":6}'), '{"messages": 1, "received": 1, "stored": 1}', 'by a number perhaps');
SELECT is(value('b7', 'temperature') || ' ' || value('12', 'temperature'), '5 6', 'each its own');
SELECT is(take('bridge/up', payload::bytea) -> 'reasons', jsonb_build_object(reason, 1), payload)
	FROM (VALUES ('{"t":5}', 'wrong_type'), ('{"from":{},"t":5}', 'wrong_type'), ('{"from":"kitchen","t":5}', 'unknown_device')) t (payload, reason);
SELECT iot.create_device('h1', '{level}', device_type => 'hub');
SELECT is(take('hub/level', '{"all":{"h1":7,"h2":8}}'),
	'{"messages": 1, "received": 2, "stored": 1, "rejected": 1, "reasons": {"unknown_device": 1}}', 'one parameter of many devices');
SELECT is(value('h1', 'level'), 7::float8, '... for the one that is ours');
UPDATE iot.adapter SET options = '{"register_group": "newcomers", "register_type": "gateway"}' WHERE name = 'mqtt';
SELECT is(take('v1/gateway/telemetry', '{"device-d":{"temperature":1},"Device E":{"temperature":1}}'),
	'{"messages": 1, "received": 2, "stored": 1, "rejected": 1, "reasons": {"unknown_device": 1}}',
	'strangers register where their name can be one of ours');
UPDATE iot.adapter SET options = '{}' WHERE name = 'mqtt';
SELECT is(iot_internal.ingest_messages('mqtt', ARRAY['v1/gateway/telemetry', 'iot/x/telemetry', 'home/attic/grüner fan/level'],
		ARRAY['{"device-b":{"temperature":2},"device-d":{"temperature":2}}', '{"a":1}', '9']::bytea[], '{f,f,f}') - 'acks' - 'reasons',
	'{"messages": 3, "received": 4, "stored": 3, "rejected": 1, "duplicate": 0, "conflict": 0, "attributes": 0, "statuses": 0, "announcements": 0}',
	'among others in one batch');
SELECT is((SELECT d.payload FROM iot.dead_letter d WHERE d.topic = 'iot/x/telemetry'), '{"a":1}'::bytea, 'each dead letter has its own message');
SELECT is(take('v1/gateway/telemetry', (SELECT '{' || string_agg(format('"d%s":0', i), ',') || '}' FROM generate_series(1, 5000) i)::bytea)
	-> 'reasons', '{"unknown_device": 5000}', 'many names of nobody');
SELECT is((SELECT count(*) FROM iot.dead_letter d WHERE d.error LIKE '%(and 4999 more)'), 1::bigint, '... are one dead letter');
SELECT is(take('v1/gateway/telemetry', (SELECT '{' || string_agg(format('"d%s":0', i), ',') || '}' FROM generate_series(1, 10001) i)::bytea)
	-> 'reasons', '{"too_large": 1}', 'more than 10000 are too many');

-- 13. names over several levels
SELECT throws_ok(format('UPDATE iot.device_type SET %s WHERE name = ''empty''', t), '22023', NULL, t)
	FROM unnest(ARRAY[$$ignored_topics = ARRAY['#']$$, $$ignored_topics = ARRAY['a/#/b']$$, $$ignored_topics = ARRAY['']$$,
		$$ignored_topics = array_fill('a'::text, ARRAY[17])$$, $$telemetry_topic = 'a/{device+}/#'$$,
		$$telemetry_topic = '{device}/{device+}'$$]) t;
INSERT INTO iot.device_type (name, telemetry_topic, status_topic, command_topic, ignored_topics, command_template)
	VALUES ('nested', 'z/{device+}', 'z/{device+}/availability', 'z/{device+}/set',
		ARRAY['z/bridge/#', 'z/{device+}/set', 'z/{device+}/get'], '{"{parameter}":{json}}');
SELECT iot.create_device('lamp-1', '{power,level}', device_type => 'nested') AS lamp \gset
SELECT iot.create_device('lamp-2', '{power,level}', device_type => 'nested');
UPDATE iot.device SET external_id = 'hall/lamp 1' WHERE name = 'lamp-1';
SELECT map('nested', 'power', '$.state');
SELECT is(take('z/hall/lamp 1', '{"state":"ON","linkquality":7}'), '{"messages": 1, "received": 1, "stored": 1}', 'a name of two levels');
SELECT is(take('z/lamp-2', '{"state":"ON"}'), '{"messages": 1, "received": 1, "stored": 1}', 'and one of one');
SELECT is(take('z/hall/lamp 1/availability', '{"state":"online"}'), '{"messages": 1, "statuses": 1}', 'status has it, too');
SELECT is(take(topic, '{"state":"ON"}'), '{"messages": 1}', topic || ' is ignored')
	FROM unnest(ARRAY['z/bridge/state', 'z/bridge/response/x/y', 'z/hall/lamp 1/set', 'z/lamp-2/get']) topic;
SELECT is(take('z/bridge/big', convert_to(repeat('x', 2000000), 'UTF8')), '{"messages": 1}', 'however large');
SELECT is(take(topic, '{"state":"ON"}') -> 'reasons', '{"unknown_device": 1}', topic || ' is somebody''s')
	FROM unnest(ARRAY['z/hall', 'z/hall/lamp 2', 'z/hall/lamp 1/x']) topic;
SELECT iot.send_command('lamp-1', 'power', 0);
SELECT is(sent(), 'z/hall/lamp 1/set {"power":"OFF"}', 'a command to it');
SELECT is((SELECT array_agg(t.topic ORDER BY t.topic) FROM iot.device_topic t WHERE t.device_id = :'lamp' AND t.topic LIKE 'z/%'),
	ARRAY['z/hall/lamp 1', 'z/hall/lamp 1/availability', 'z/hall/lamp 1/set'], 'what the broker lets it do');

-- 14. the list of a Zigbee2MQTT bridge
INSERT INTO iot.device_type (name, telemetry_topic, command_topic, command_template)
	VALUES ('zigbee2mqtt', 'zigbee2mqtt/{device+}', 'zigbee2mqtt/{device+}/set', '{"{parameter}":{json}}');
SELECT '[{"ieee_address":"0x00124b0001","friendly_name":"Coordinator","type":"Coordinator","definition":null},
	{"ieee_address":"0x00158d0001","friendly_name":"ground floor/plug","type":"Router","definition":{"model":"SP","exposes":[
		{"type":"switch","features":[{"type":"binary","name":"state","property":"state","access":7,"value_on":"ON","value_off":"OFF","value_toggle":"TOGGLE"}]},
		{"type":"numeric","name":"power","property":"load","access":5,"unit":"W"},
		{"type":"numeric","name":"countdown","property":"countdown","access":2,"value_min":0,"value_max":9},
		{"type":"enum","name":"mode","property":"mode","access":7,"values":["off","previous","on"]},
		{"type":"enum","name":"speed","property":"fan_speed","access":7,"values":["1","2"]},
		{"type":"composite","property":"color","features":[{"type":"numeric","property":"x","access":7}]},
		{"type":"text","property":"serial","access":1}, {"type":"numeric","property":"a/b","access":1}, 7, null]}},
	{"ieee_address":"0x00158d0002","friendly_name":"lamp7","type":"Router","definition":{"exposes":[
		{"type":"light","features":[{"type":"binary","property":"state","access":7,"value_on":"ON","value_off":"OFF"},
			{"type":"numeric","property":"brightness","access":7,"value_min":0,"value_max":254}]},
		{"type":"binary","property":"contact","access":1,"value_on":false,"value_off":true}]}},
	{"ieee_address":"0x00158d0003","friendly_name":"new one","definition":null}, 5, {"friendly_name":"x/y","definition":{}}]' AS devices \gset
SELECT results_eq(format('SELECT * FROM iot.import_zigbee2mqtt(%L)', :'devices'),
	$$VALUES ('0x00158d0001', 'ground floor/plug', '{fan_speed,load,mode,state}'::text[], true),
		('lamp7', 'lamp7', '{brightness,contact,state}', true)$$, 'devices and what they have');
SELECT results_eq(format('SELECT device, made FROM iot.import_zigbee2mqtt(%L)', :'devices'),
	$$VALUES ('0x00158d0001', false), ('lamp7', false)$$, 'once, however often it is called');
SELECT results_eq($$SELECT d.name, p.name, p.unit, s.value_min, s.value_max, s.labels FROM iot.sensor s JOIN iot.device d USING (device_id)
		JOIN iot.parameter p USING (parameter_id) JOIN iot.device_type t USING (device_type_id) WHERE t.name = 'zigbee2mqtt' ORDER BY 1, 2$$,
	$$VALUES ('0x00158d0001', 'fan_speed', NULL, NULL::float8, NULL::float8, NULL::jsonb), ('0x00158d0001', 'load', 'W', NULL, NULL, NULL),
		('0x00158d0001', 'mode', NULL, NULL, NULL, '{"off": 0, "previous": 1, "on": 2}'),
		('0x00158d0001', 'state', NULL, NULL, NULL, '{"OFF": 0, "ON": 1}'),
		('lamp7', 'brightness', NULL, 0, 254, NULL), ('lamp7', 'contact', NULL, NULL, NULL, '{"true": 0, "false": 1}'),
		('lamp7', 'state', NULL, NULL, NULL, '{"OFF": 0, "ON": 1}')$$, 'with bounds and words');
SELECT is(take('zigbee2mqtt/ground floor/plug', '{"state":"ON","load":12.5,"mode":"previous","fan_speed":"2","linkquality":90}'),
	'{"messages": 1, "received": 4, "stored": 4}', 'and what they say is taken');
SELECT is(value('0x00158d0001', 'mode') || ' ' || value('0x00158d0001', 'fan_speed'), '1 2', 'in their words');
SELECT iot.send_command('lamp7', 'state', 'ON');
SELECT is(sent(), 'zigbee2mqtt/lamp7/set {"state":"ON"}', 'as they are told');
SELECT throws_ok($$SELECT * FROM iot.import_zigbee2mqtt('{}')$$, '22023', 'devices must be a JSON array');
SELECT throws_ok(format('SELECT * FROM iot.import_zigbee2mqtt(%L, device_type => ''nothing'')', replace(:'devices', 'lamp7', 'lamp9')),
	'42704', 'device type "nothing" does not exist');
CREATE ROLE mapping_anna IN ROLE iot_operator;
GRANT EXECUTE ON FUNCTION iot.import_zigbee2mqtt(jsonb, text, text, text) TO mapping_anna;
CREATE FUNCTION as_anna() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL ROLE mapping_anna;
	PERFORM iot.import_zigbee2mqtt('[]');
	RETURN 'allowed';
EXCEPTION WHEN insufficient_privilege THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT is(as_anna(), '42501 permission denied to import devices', 'administrators alone import');
DROP OWNED BY mapping_anna;
DROP ROLE mapping_anna;

-- 15. a long list of paths in a large message ends
INSERT INTO iot.parameter (name) SELECT 'p' || i FROM generate_series(1, 200) i;
SELECT iot.create_device('wide', ARRAY(SELECT 'p' || i FROM generate_series(1, 200) i), device_type => 'tasmota');
SELECT count(map('tasmota', 'p' || i, '$.*[*].*.p' || i)) FROM generate_series(1, 200) i;
SELECT is(take('tele/wide/STATE', ('{"a":[' || string_agg(format('{"b":{"p%s":%s}}', i, i), ',') || ']}')::bytea),
	'{"messages": 1, "received": 200, "stored": 200}', 'with all of them found')
	FROM generate_series(1, 1000) i;

SELECT finish();
