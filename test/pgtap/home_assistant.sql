-- Devices by what they announce for Home Assistant: one part after the other or all at once, short
-- names and long ones, changes and withdrawals, and whatever strangers may announce.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

INSERT INTO iot.device_group (name) VALUES ('house');
CREATE FUNCTION announce(topic text, config jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	hint text;
BEGIN
	RETURN (SELECT i::text FROM iot.import_home_assistant('homeassistant/' || topic || '/config', config, 'house') i);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN SQLSTATE || ' ' || message || CASE WHEN hint = '' THEN ' NO HINT' ELSE '' END;
END $$;
CREATE FUNCTION take(topic text, payload text, retained boolean DEFAULT false) RETURNS jsonb
LANGUAGE sql AS
	'SELECT jsonb_object_agg(key, value) FROM jsonb_each(
			iot_internal.ingest_messages(''mqtt'', ARRAY[topic], ARRAY[convert_to(payload, ''UTF8'')], ARRAY[retained]) - ''acks'')
		WHERE value <> ''0'' AND value <> ''{}'' AND key <> ''messages''';
CREATE FUNCTION value(device text, parameter text) RETURNS float8 LANGUAGE sql AS
	'SELECT v.value FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)
		JOIN iot.device d USING (device_id) WHERE d.name = $1 AND p.name = $2';
CREATE FUNCTION sent() RETURNS text LANGUAGE sql AS $$
	SELECT f.topic || ' ' || f.payload FROM iot.adapter a,
		iot_internal.adapter_take(a.adapter_id, 100) f WHERE a.name = 'mqtt' $$;
CREATE VIEW mapped AS
	SELECT d.name AS device, p.name AS parameter, p.unit, s.value_min, s.value_max, s.labels, m.path, m.scale,
		m.telemetry_topic, m.command_topic, m.command_template, m.command_labels
	FROM iot.device d JOIN iot.device_type_mapping m USING (device_type_id) JOIN iot.parameter p USING (parameter_id)
		LEFT JOIN iot.sensor s USING (device_id, parameter_id);

SELECT no_plan();

-- 1. as ESPHome does: a topic for each value, bare texts, one announcement for each
\set dev '"dev":{"ids":"a4cf12","name":"Living room","mf":"espressif"}'
SELECT is(announce('sensor/living/temperature', ('{"unit_of_meas":"°C","stat_t":"living/sensor/temperature/state",
		"avty_t":"living/status","uniq_id":"t1","stat_cla":"measurement",' || :'dev' || '}')::jsonb),
	'(a4cf12,{temperature},t,{})', 'a sensor makes its device');
SELECT is(announce('switch/living/relay', ('{"stat_t":"living/switch/relay/state","cmd_t":"living/switch/relay/command",
		"avty_t":"living/status",' || :'dev' || '}')::jsonb), '(a4cf12,{relay},f,{})', 'a switch is one part more of it');
SELECT is(announce('number/living/level', ('{"~":"living/number/level","stat_t":"~/state","cmd_t":"~/command","min":0,"max":10.5,
		"exp_aft":600,' || :'dev' || '}')::jsonb), '(a4cf12,{level},f,{})', 'a number with bounds; "~" is put in');
SELECT results_eq('SELECT * FROM mapped ORDER BY parameter',
	$$VALUES ('a4cf12', 'level', NULL::text, 0::float8, 10.5::float8, NULL::jsonb, '$', 1::float8, 'living/number/level/state',
			'living/number/level/command', '{word}', NULL::jsonb),
		('a4cf12', 'relay', NULL, NULL, NULL, '{"ON":1,"OFF":0}', '$', 1, 'living/switch/relay/state',
			'living/switch/relay/command', '{word}', NULL),
		('a4cf12', 'temperature', '°C', NULL, NULL, NULL, '$', 1, 'living/sensor/temperature/state', NULL, NULL, NULL)$$,
	'with all that was said of it');
SELECT results_eq($$SELECT t.name, t.only_device, t.ack_mode, t.status_topic, t.offline_after, g.name, d.description
		FROM iot.device d JOIN iot.device_type t USING (device_type_id) JOIN iot.device_group g USING (device_group_id)$$,
	$$VALUES ('ha:a4cf12', 'a4cf12', 'echo', 'living/status', interval '10 min', 'house', 'Living room')$$, 'its type is its own');
SELECT results_eq($$SELECT e.payload - 'adapter' FROM iot.event e WHERE e.type = 'device.registered'$$,
	$$VALUES ('{"device": "a4cf12", "device_type": "ha:a4cf12", "device_group": "house", "parameters": ["temperature"]}'::jsonb)$$,
	'that it is there is an event');
SELECT is(take('living/sensor/temperature/state', '21.5'), '{"stored": 1, "received": 1}', 'what it says is taken');
SELECT is(take('living/switch/relay/state', 'ON'), '{"stored": 1, "received": 1}', 'in its words');
SELECT is(ARRAY[value('a4cf12', 'temperature'), value('a4cf12', 'relay')], '{21.5,1}'::float8[], 'each value its own');
SELECT is(take('living/sensor/humidity/state', '3') -> 'reasons', '{"unknown_topic": 1}', 'what it has not announced is not');
SELECT is(take('living/sensor/temperature/state', 'warm') -> 'reasons', '{"wrong_type": 1}', 'nor is what is none');
SELECT is(take('living/status', 'online', true), '{"statuses": 1}', 'its presence');
SELECT is((SELECT f.online FROM iot.fleet f WHERE f.device = 'a4cf12'), true, '... is known');
SELECT is(take('living/status', 'offline'), '{"statuses": 1}', 'either way');
SELECT is((SELECT f.online FROM iot.fleet f WHERE f.device = 'a4cf12'), false, '... it is offline');
SELECT iot.send_command('a4cf12', 'relay', 'OFF') AS command \gset
SELECT is(sent(), 'living/switch/relay/command OFF', 'a command where it listens');
SELECT iot.send_command('a4cf12', 'level', 7.5) AS command \gset
SELECT is(sent(), 'living/number/level/command 7.5', 'and another one elsewhere');
SELECT iot.send_command('a4cf12', 'level', 11) AS command \gset
SELECT is((SELECT c.status FROM iot.command c WHERE c.command_id = :'command'), 'FAILED', 'within bounds');

-- 2. the same again is the same, other words are a change, an empty topic takes it back
SELECT is(announce('number/living/level', ('{"~":"living/number/level","stat_t":"~/state","cmd_t":"~/command","min":0,"max":10.5,
		"exp_aft":600,' || :'dev' || '}')::jsonb), '(a4cf12,{level},f,)', 'again');
UPDATE iot.sensor s SET value_max = 9 FROM iot.parameter p WHERE p.parameter_id = s.parameter_id AND p.name = 'level';
SELECT FROM announce('number/living/level', ('{"~":"living/number/level","stat_t":"~/state","cmd_t":"~/command","min":0,"max":10.5,
		"exp_aft":600,' || :'dev' || '}')::jsonb);
SELECT is((SELECT value_max FROM mapped WHERE parameter = 'level'), 9::float8, 'leaves what people have changed');
SELECT is(announce('number/living/level', ('{"~":"living/number/level","stat_t":"~/get","cmd_t":"set/~","cmd_tpl":"{{ value }} %","max":20,' || :'dev' || '}')::jsonb),
	'(a4cf12,{level},f,{})', 'a change');
SELECT results_eq($$SELECT value_min, value_max, telemetry_topic, command_topic, command_template FROM mapped WHERE parameter = 'level'$$,
	$$VALUES (1::float8, 20::float8, 'living/number/level/get', 'set/living/number/level', '{word} %')$$, '... is taken over');
SELECT is((SELECT t.offline_after FROM iot.device_type t WHERE t.name = 'ha:a4cf12'), NULL, 'silence means nothing any more');
SELECT is(announce('switch/living/relay', NULL), '(a4cf12,{},f,{})', 'taken back');
SELECT is((SELECT array_agg(parameter ORDER BY parameter) FROM mapped), '{level,temperature}', '... it is no part of the device');
SELECT is(value('a4cf12', 'relay'), 0::float8, 'what it was is kept');
SELECT is(take('living/switch/relay/state', 'OFF') -> 'reasons', '{"unknown_topic": 1}', 'what it says now is not');
SELECT is(announce('switch/living/relay', NULL), NULL, 'once more is nothing');
SELECT is(announce('switch/living/relay', ('{"stat_t":"living/switch/relay/state","cmd_t":"living/switch/relay/command",
		"pl_on":"1","pl_off":"0",' || :'dev' || '}')::jsonb), '(a4cf12,{relay},f,{})', 'it may come back in other words');
SELECT is(take('living/switch/relay/state', '0'), '{"stored": 1, "received": 1}', '... of numbers');
SELECT iot.send_command('a4cf12', 'relay', 1) AS command \gset
SELECT is(sent(), 'living/switch/relay/command 1', '... both ways');

-- 3. a device at once, with one topic for all and JSON in it
SELECT is(announce('device/porch', '{"dev":{"ids":["zigbee2mqtt_0x01"],"name":"Porch"},"o":{"name":"bridge"},"stat_t":"zb/porch",
		"avty":[{"t":"zb/bridge/state","val_tpl":"{{ value_json.state }}"},
			{"t":"zb/porch/availability","val_tpl":"{{ value_json.state }}","pl_avail":"up","pl_not_avail":"down"}],
		"cmps":{"temperature":{"p":"sensor","unit_of_meas":"°C","val_tpl":"{{ value_json.temperature }}","uniq_id":"a"},
			"voltage":{"p":"sensor","unit_of_meas":"V","val_tpl":"{{ value_json[\"voltage\"] | float / 1000 }}"},
			"occupancy":{"p":"binary_sensor","val_tpl":"{{value_json.occupancy}}","pl_on":true,"pl_off":false},
			"lamp":{"p":"light","schema":"json","brightness":true,"bri_scl":254,"cmd_t":"zb/porch/set"},
			"mode":{"p":"select","ops":["off","eco","comfort"],"val_tpl":"{{ value_json.mode }}","cmd_t":"zb/porch/set/mode"},
			"door":{"p":"lock","val_tpl":"{{ value_json.lock }}","stat_locked":"LOCK","stat_unlocked":"UNLOCK","pl_lock":"lock","pl_unlk":"unlock",
				"cmd_t":"zb/porch/set","cmd_tpl":"{\"lock\": \"{{ value }}\", \"for\": [1]}"},
			"relay":{"p":"switch","val_tpl":"{{ value_json.relay }}","stat_on":"on","stat_off":"off","cmd_t":"zb/porch/set/relay"},
			"gone":{"p":"sensor"},
			"update":{"p":"update","cmd_t":"x"},
			"clever":{"p":"sensor","val_tpl":"{% if value_json.a %}1{% endif %}"}}}'),
	'(zigbee2mqtt_0x01,"{door,lamp,lamp_brightness,mode,occupancy,relay,temperature,voltage}",t,'
		'"{""clever: template \\""{% if value_json.a %}1{% endif %}\\"" is not supported"",""update: component \\""update\\"" is not supported""}")',
	'a device at once; what cannot be taken is told');
SELECT is((SELECT a.error FROM iot.discovery a WHERE a.topic LIKE '%/porch/%'),
	'clever: template "{% if value_json.a %}1{% endif %}" is not supported; update: component "update" is not supported', '... and stays known');
SELECT is(take('zb/porch', '{"temperature":7,"voltage":2995,"occupancy":true,"state":"ON","brightness":127,"mode":"eco","lock":"UNLOCK","relay":"on","linkquality":3}'),
	'{"stored": 8, "received": 8}', 'one message with all of it');
SELECT is((SELECT array_agg(value('zigbee2mqtt_0x01', p) ORDER BY p)
	FROM unnest(ARRAY['door', 'lamp', 'lamp_brightness', 'mode', 'occupancy', 'relay', 'temperature', 'voltage']) p),
	'{0,1,127,1,1,1,7,2.995}'::float8[], 'in our numbers');
SELECT is(take('zb/porch/availability', '{"state":"up"}'), '{"statuses": 1}', 'its own presence, not its bridge''s');
SELECT is((SELECT f.online FROM iot.fleet f WHERE f.device = 'zigbee2mqtt_0x01'), true, 'in its words');
SELECT is(take('zb/bridge/state', '{"state":"offline"}') -> 'reasons', '{"unknown_topic": 1}', 'the other topic is nobody''s');
CREATE TABLE wish (parameter text, value float8, sent text);
INSERT INTO wish VALUES ('lamp', 1, 'zb/porch/set {"state": "ON"}'), ('lamp_brightness', 200, 'zb/porch/set {"brightness": 200}'),
	('mode', 2, 'zb/porch/set/mode comfort'), ('door', 1, 'zb/porch/set {"lock": "lock", "for": [1]}'), ('relay', 0, 'zb/porch/set/relay OFF');
SELECT format(s, w.parameter, w.value, w.sent) FROM wish w, unnest(ARRAY[
	'SELECT FROM iot.send_command(''zigbee2mqtt_0x01'', %L, %s)',
	'SELECT is(sent(), %3$L, %1$L || '' is told in its words'')']) WITH ORDINALITY AS u (s, place) ORDER BY w.parameter, u.place \gexec

-- 4. devices that share a topic each hear it
SELECT is(announce('sensor/hub/' || d, format('{"stat_t":"hub/all","val_tpl":"{{ value_json.%s }}","avty_t":"hub/lwt","dev":{"ids":["hub %1$s"]}}', d)::jsonb),
	format('(ha_hub_%s,{%1$s},t,{})', d), 'a name that is none here: ' || d) FROM unnest(ARRAY['n', 's']) d;
SELECT is(take('hub/all', '{"n":1,"s":2}'), '{"stored": 2, "received": 2}', 'a message for both');
SELECT is(value('ha_hub_n', 'n') || ' ' || value('ha_hub_s', 's'), '1 2', 'each its own');
SELECT is(take('hub/lwt', 'offline'), '{"statuses": 2}', 'and so their presence');
SELECT is((SELECT external_id FROM iot.device WHERE name = 'ha_hub_n'), 'hub n', 'called as they call themselves');
SELECT is(take('hub/all', '{"n":"x","s":"y"}'), '{"received": 2, "rejected": 2, "reasons": {"wrong_type": 2}}', 'what is wrong is wrong for each');
UPDATE iot.device SET enabled = false WHERE name = 'ha_hub_n';
SELECT is(take('hub/all', '{"n":3,"s":4}'), '{"stored": 1, "received": 2, "rejected": 1, "reasons": {"disabled_device": 1}}', 'or for one of them');

-- 5. templates
CREATE FUNCTION place(template text) RETURNS text LANGUAGE sql AS 'SELECT p.path || '' '' || p.scale FROM iot_internal.discovery_path(template) p';
SELECT is(place(t), wanted, t) FROM (VALUES ('{{ value }}', '$ 1'), ('{{value_json}}', '$ 1'), ('{{ value_json.a }}', '$.a 1'),
	('{{- value_json.a.b_2[''c d''][0]["e"] -}}', '$.a.b_2[''c d''][0]["e"] 1'), ('{{ value_json.a | float }}', '$.a 1'),
	('{{ value|float * 0.1 }}', '$ 0.1'), ('{{ (value_json.a | float) / 1000 }}', '$.a 0.001'), ('{{ value_json[''AM2301''].Temperature }}', '$[''AM2301''].Temperature 1'))
	t (t, wanted);
SELECT throws_ok(format('SELECT place(%L)', t), '0A000', NULL, translate(left(t, 60), E'\n', ' ')) FROM unnest(ARRAY['', 'x', '{{ value_json.a }} W', '{{ value_json.a + 1 }}',
	'{{ value_json.a | round(1) }}', '{{ value_json.a | int }}', '{{ states("x") }}', '{{ value_json.a if value_json.a }}', '{{ value_json.a }}{{ value_json.b }}',
	'{{ value_json.a-b }}', '{{ value_json["a'']}}', '{{ value_json[-1] }}', '{{ value / 0 }}', '{{ value_json.a or 0 }}', '{{ value[0:2] }}', '{{ value_jsonx }}',
	'{{ value_json["a\"] }}', '{{ value_json' || repeat('.a', 200) || ' }}', repeat('{{ ', 100000), '{{ value_json' || repeat('[0]', 100000), E'{{ value_json["\n"] }}']) t;
SELECT is(iot_internal.discovery_command(t, false), wanted, t) FROM (VALUES ('{{ value }}', '{word}'), ('{{value}}%', '{word}%'),
	('{"a": {{ value }}, "b": "{{ value }}"}', '{"a": {value}, "b": "{word}"}'), ('[{{ value | float }}]', '[{value}]')) t (t, wanted);
SELECT throws_ok(format('SELECT iot_internal.discovery_command(%L, true)', t), '0A000', NULL, t) FROM unnest(ARRAY['ON', '', '{{ value | int }}',
	'{{ value }}{% x %}', '{{ value }}{{ now() }}', '{id}{{ value }}', '{"a": {{ value }}}']) t;

-- 6. what cannot be taken over is told, and nothing of it is left
CREATE FUNCTION left_over() RETURNS bigint LANGUAGE sql AS 'SELECT (SELECT count(*) FROM iot.device) + (SELECT count(*) FROM iot.device_type)
	+ (SELECT count(*) FROM iot.parameter) + (SELECT count(*) FROM iot.device_type_mapping) + (SELECT count(*) FROM iot.discovery)';
SELECT left_over() AS before \gset
SELECT iot.create_device('boiler-1', '{temperature}') AS boiler \gset
INSERT INTO iot.device_type (name, telemetry_topic, more_telemetry_topics) VALUES ('native', 'z2m/{device+}', ARRAY['a.b/+/{parameter}/{device}']);
SELECT left_over() AS before \gset
SELECT is(announce(topic, config::jsonb), error, left(coalesce(config, topic), 80)) FROM (VALUES
	('sensor/x/y/z', '{}', '22023 "homeassistant/sensor/x/y/z/config" is no topic of an announcement'),
	('sensor', '{}', '22023 "homeassistant/sensor/config" is no topic of an announcement'),
	('sensor//y', '{}', '22023 "homeassistant/sensor//y/config" is no topic of an announcement'),
	('sensor/x', '[]', '22023 announcement must be a JSON object'), ('sensor/x', '7', '22023 announcement must be a JSON object'),
	('sensor/x', 'null', '22023 announcement must be a JSON object'),
	('sensor/x', '{}', '0A000 sensor "x" has no state topic'),
	('vacuum/x', '{"stat_t":"a"}', '0A000 component "vacuum" is not supported'),
	('light/x', '{"stat_t":"a","schema":"template"}', '0A000 component "light" with schema "template" is not supported'),
	('sensor/x y', '{"stat_t":"a"}', '22023 "x y" cannot be the name of a parameter'),
	('sensor/x', '{"stat_t":"a/+"}', '22023 invalid state_topic "a/+": topic without {device} has a placeholder or a wildcard'),
	('sensor/x', '{"stat_t":"a/{device}"}', '22023 invalid state_topic "a/{device}": topic without {device} has a placeholder or a wildcard'),
	('sensor/x', '{"stat_t":"$SYS/x"}', '22023 invalid state_topic "$SYS/x": topics that begin with "$" belong to the broker'),
	('sensor/x', '{"stat_t":""}', '22023 invalid state_topic "": topic is empty'),
	('switch/x', '{"stat_t":"a","cmd_t":"b/#"}', '22023 invalid command_topic "b/#": topic without {device} has a placeholder or a wildcard'),
	('sensor/x', '{"stat_t":"iot/boiler-1/telemetry"}', '42710 topic "iot/boiler-1/telemetry" is one of device type "default"'),
	('switch/x', '{"stat_t":"a","cmd_t":"iot/boiler-1/command"}', '42710 topic "iot/boiler-1/command" is one of device type "default"'),
	('sensor/x', '{"stat_t":"a","avty_t":"iot/boiler-1/status"}', '42710 topic "iot/boiler-1/status" is one of device type "default"'),
	('sensor/x', '{"stat_t":"z2m/hall/lamp"}', '42710 topic "z2m/hall/lamp" is one of device type "native"'),
	('sensor/x', '{"stat_t":"a.b/1/2/3"}', '42710 topic "a.b/1/2/3" is one of device type "native"'),
	('sensor/x', '{"stat_t":"t","dev":{"ids":["boiler-1"]}}', '42710 device "boiler-1" is there and did not announce itself at this adapter'),
	('sensor/x', '{"stat_t":"t","dev":{"ids":["boiler#1"]}}', '22023 a device cannot be called "boiler#1"'),
	('sensor/x', '{"stat_t":"t","dev":{"ids":"hub+n"}}', '22023 a device cannot be called "hub+n"'),
	('sensor/x', '{"stat_t":"t","dev":{"ids":"hub/n"}}', '42710 name "ha_hub_n" of device "hub/n" is taken'),
	('sensor/temperature', '{"stat_t":"t","unit_of_meas":"°F"}', '22023 parameter "temperature" is in "°C" and not in "°F"'),
	('sensor/x', '{"stat_t":"t","unit_of_meas":"0123456789012345678901234567890123456789"}', '22023 unit of parameter "x" is not a text of 1 to 32 characters'),
	('sensor/other/relay', '{"stat_t":"t","dev":{"ids":["a4cf12"]}}', '42710 device "a4cf12" has announced the same at "homeassistant/switch/living/relay/config"'),
	('sensor/x', '{"stat_t":"t","dev_cla":"timestamp"}', '0A000 value of sensor "x" is neither a number nor a word'),
	('sensor/x', '{"stat_t":"t","e":""}', '0A000 value of sensor "x" is neither a number nor a word'),
	('switch/x', '{"stat_t":"t","pl_on":"A","pl_off":"A"}', '22023 words for on and off are the same: "A"'),
	('switch/x', '{"stat_t":"t","pl_on":"1","pl_off":"OFF"}', '0A000 words for on and off are partly numbers, or other numbers for commands than for values'),
	('switch/x', '{"stat_t":"t","pl_on":"nan"}', '22023 label "nan" of parameter "x" of device type "ha:x" reads as a number'),
	('switch/x', '{"stat_t":"t","cmd_t":"c","cmd_tpl":"{{ value }}{{ x }}"}', '0A000 template "{{ value }}{{ x }}" is not supported'),
	('switch/x', '{"stat_t":"t","cmd_t":"c","cmd_tpl":"{\"a\": \"{{ value }}\""}', '22023 command_template of parameter "x" of device type "ha:x" would not give valid JSON'),
	('binary_sensor/x', '{"stat_t":"t","off_dly":5}', '0A000 binary_sensor "x" wants its off_delay observed'),
	('light/x', '{"stat_t":"t","on_cmd_type":"first"}', '0A000 light "x" wants its on_command_type observed'),
	('select/x', '{"stat_t":"t"}', '22023 options must be an array of 1 to 256 texts'),
	('select/x', '{"stat_t":"t","ops":["1","b"]}', '0A000 options are partly numbers'),
	('number/x', '{"stat_t":"t","min":5,"max":1}', '22023 bounds of the sensor of parameter "x" are the wrong way round: 5 is above 1'),
	('number/x', '{"stat_t":"t","min":"low"}', '22P02 invalid input syntax for type double precision: "low" NO HINT'),
	('number/x', '{"stat_t":"t","max":1e400}', '22003 "1' || repeat('0', 400) || '" is out of range for type double precision NO HINT'),
	('sensor/x', '{"stat_t":"t","exp_aft":1e30}', '22003 integer out of range NO HINT'),
	('sensor/x', '{"stat_t":"t","avty":5}', '22023 availability must be an array of at most 16 objects'),
	('sensor/x', '{"stat_t":"t","avty":[5]}', '22023 availability must be an array of at most 16 objects'),
	('sensor/x', '{"stat_t":"t","avty_t":"l","avty_tpl":"{{ x }}"}', '0A000 template "{{ x }}" is not supported'),
	('sensor/x', '{"stat_t":"t","avty_t":"l","pl_avail":"offline"}', '22023 online_word and offline_word of device type "ha:x" are the same'),
	('device/x', '{"dev":{"ids":"x"}}', '22023 components must be an object of at most 64 members'),
	('device/x', '{"cmps":{}}', '0A000 announcement has nothing that can be taken'),
	('device/x', '{"cmps":{"a":5,"b":{"p":"sensor"}}}', '0A000 announcement has nothing that can be taken'),
	('device/x', '{"cmps":{"a":{"p":"siren","x":1}}}', '0A000 announcement has nothing that can be taken: a: component "siren" is not supported'),
	('device/x', '{"cmps":{"a":{"stat_t":"a"}}}', '0A000 announcement has nothing that can be taken: a: component "" is not supported'),
	('device/x', (SELECT jsonb_build_object('cmps', jsonb_object_agg('c' || i, '{"p":"sensor","stat_t":"a"}'::jsonb))::text FROM generate_series(1, 65) i),
		'22023 components must be an object of at most 64 members'),
	('sensor/x', jsonb_build_object('stat_t', 'a', 'x', repeat('x', 66000))::text, '54000 announcement is larger than 64 kB'),
	('sensor/' || repeat('x', 1100), '{}', '22023 "homeassistant/sensor/' || repeat('x', 129) || '" is no topic of an announcement')) t (topic, config, error);
SELECT is(left_over(), :before::bigint, 'and leaves nothing behind');
SELECT is(announce('sensor/x', '{"stat_t":"t","dev":5,"unit_of_meas":null,"ops":null}'), '22023 options must be an array of 1 to 256 texts', 'odd types');
SELECT is(announce('sensor/0f8fad5bd9cb469fa16570867728950e/v', '{"stat_t":"odd/v"}'), '(ha_0f8fad5bd9cb469fa16570867728950e,{v},t,{})', 'an id that no name can be');
SELECT is(announce('sensor/plug_1_power', '{"stat_t":"odd/p","dev":{"cns":[["mac","plug_1"]]}}'), '(plug_1,{power},t,{})', 'an object id with its device''s name before it');
SELECT is(announce('sensor/lonely', '{"stat_t":"odd/l"}'), '(lonely,{lonely},t,{})', 'a part without a device is one');

-- 7. a device that moves, or is deleted and comes back
SELECT is(announce('sensor/plug_1_power', '{"stat_t":"odd/p","dev":{"ids":"plug_2"}}'), '(plug_2,{plug_1_power},t,{})', 'a part may go to another device');
SELECT is((SELECT array_agg(device || ' ' || parameter) FROM mapped WHERE telemetry_topic = 'odd/p'), '{"plug_2 plug_1_power"}', '... and is with it alone');
DELETE FROM iot.device WHERE name = 'lonely';
SELECT is((SELECT count(*) FROM iot.discovery WHERE topic LIKE '%/lonely/%'), 0::bigint, 'who is deleted has announced nothing');
SELECT is(announce('sensor/lonely', '{"stat_t":"odd/m"}'), '(lonely,{lonely},t,{})', 'and may come again');
SELECT is(take('odd/m', '5'), '{"stored": 1, "received": 1}', '... as before');

-- 8. types with one device, as people write them
INSERT INTO iot.device_type (name, only_device, telemetry_topic, status_topic, command_topic, command_template, ack_mode)
	VALUES ('gate', 'the gate', 'garden/gate', 'garden/gate/lwt', 'garden/gate/set', '{word}', 'echo');
SELECT throws_ok(format('UPDATE iot.device_type SET %s WHERE name = ''gate''', t), '22023', NULL, t)
	FROM unnest(ARRAY[$$telemetry_topic = 'garden/+'$$, $$telemetry_topic = 'garden/{parameter}'$$, $$status_topic = 'a/#'$$, $$only_device = 'a+b'$$,
		$$only_device = ''$$, $$only_device = NULL$$, $$device_path = '$.*'$$, $$only_device = repeat('x', 129)$$]) t;
SELECT iot.create_device('gate', '{relay,temperature}', device_type => 'gate') AS gate \gset
UPDATE iot.device SET external_id = 'the gate' WHERE name = 'gate';
SELECT is(take('garden/gate', '{"temperature":3}'), '{"stored": 1, "received": 1}', 'it has a topic for itself');
SELECT is(take('garden/gate/lwt', 'online'), '{"statuses": 1}', '... and one for its presence');
INSERT INTO iot.device_type_mapping (device_type_id, parameter_id, path, telemetry_topic)
	SELECT t.device_type_id, p.parameter_id, '$', 'garden/gate/relay' FROM iot.device_type t, iot.parameter p WHERE t.name = 'gate' AND p.name = 'relay';
INSERT INTO iot.device_type_mapping (device_type_id, parameter_id, path)
	SELECT t.device_type_id, p.parameter_id, '$.temperature' FROM iot.device_type t, iot.parameter p WHERE t.name = 'gate' AND p.name = 'temperature';
SELECT is(take('garden/gate/relay', '1'), '{"stored": 1, "received": 1}', 'a value with a topic of its own');
SELECT is(take('garden/gate', '{"temperature":4}'), '{"stored": 1, "received": 1}', 'beside those on the common one');
SELECT is(ARRAY[value('gate', 'relay'), value('gate', 'temperature')], '{1,4}'::float8[], 'each its own');
SELECT is(announce('sensor/x', c::jsonb), '42710 ' || e, c) FROM (VALUES
	('{"stat_t":"x/v","dev":{"ids":"the gate"}}', 'device "gate" is there and did not announce itself at this adapter'),
	('{"stat_t":"garden/gate"}', 'topic "garden/gate" is one of device type "gate"'),
	('{"stat_t":"garden/gate/relay"}', 'topic "garden/gate/relay" is one of device type "gate"')) t (c, e);
UPDATE iot.device_type SET name = 'mine' WHERE name = 'ha:plug_2';
SELECT is(announce('sensor/plug_2_more', '{"stat_t":"odd/more","dev":{"ids":"plug_2"}}'),
	'42710 device "plug_2" is there and did not announce itself at this adapter', 'a type with another name is people''s own');
SELECT throws_ok($$UPDATE iot.device_type SET only_device = NULL, telemetry_topic = 'g/{device}', status_topic = 's/{device}', command_topic = 'c/{device}' WHERE name = 'gate'$$,
	'22023', 'parameters of device type "gate" have topics of their own, and only_device is missing');
SELECT throws_ok(format($$INSERT INTO iot.device_type_mapping (device_type_id, parameter_id, %s) SELECT t.device_type_id, p.parameter_id, %L
	FROM iot.device_type t, iot.parameter p WHERE t.name = %L AND p.name = 'level'$$, c, v, t), '22023', NULL, c || ' ' || v)
	FROM (VALUES ('telemetry_topic', 'a', 'native'), ('command_topic', 'a', 'native'), ('telemetry_topic', 'a/+', 'gate'), ('command_topic', 'a/{device}', 'gate'),
		('command_labels', '5', 'gate')) t (c, v, t);
UPDATE iot.device_type SET only_device = 'nobody' WHERE name = 'gate';
SELECT is(take('garden/gate', '{"temperature":5}') -> 'reasons', '{"unknown_device": 1}', 'a topic of somebody who is not there');
INSERT INTO iot.device_group (name) VALUES ('newcomers');
UPDATE iot.adapter SET options = '{"register_group": "newcomers", "register_type": "default"}' WHERE name = 'mqtt';
SELECT is(take('garden/gate', '{"temperature":5}') -> 'reasons', '{"unknown_device": 1}', '... does not make him');
UPDATE iot.device_type SET only_device = 'the gate' WHERE name = 'gate';
SELECT is(iot.replay_dead_letter(d.dead_letter_id), NULL, 'and can be taken in later')
	FROM iot.dead_letter d WHERE d.topic = 'garden/gate' ORDER BY d.dead_letter_id LIMIT 1;
UPDATE iot.adapter SET options = '{}' WHERE name = 'mqtt';

-- 9. who may
CREATE ROLE ha_anna IN ROLE iot_operator;
GRANT EXECUTE ON FUNCTION iot.import_home_assistant(text, jsonb, text, text, text) TO ha_anna;
CREATE FUNCTION as_anna() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL ROLE ha_anna;
	PERFORM iot.import_home_assistant('homeassistant/sensor/x/config', '{}');
	RETURN 'allowed';
EXCEPTION WHEN insufficient_privilege THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT is(as_anna(), '42501 permission denied to import devices', 'administrators alone import');
DROP OWNED BY ha_anna;
DROP ROLE ha_anna;
SELECT throws_ok($$SELECT iot.import_home_assistant('homeassistant/sensor/x/config', '{}', 'nowhere')$$, '42704', 'device group "nowhere" does not exist');
SELECT throws_ok($$SELECT iot.import_home_assistant('homeassistant/sensor/x/config', '{}', adapter => 'none')$$, '42704', 'adapter "none" does not exist');
SELECT throws_ok($$SELECT iot.import_home_assistant(NULL, '{}')$$, '22004', NULL, 'no topic');
SELECT is((SELECT i.device FROM iot.import_home_assistant('my/ha/sensor/p/config', '{"stat_t":"odd/q"}', discovery_prefix => 'my/ha') i), 'p', 'another prefix');

-- 10. what an adapter hears, where its options let devices announce themselves
SELECT is(take('homeassistant/sensor/new/config', '{"stat_t":"new/v"}') -> 'reasons', '{"unknown_topic": 1}', 'off by default');
UPDATE iot.adapter SET options = '{"discovery_prefix": "homeassistant", "discovery_group": "newcomers"}' WHERE name = 'mqtt';
SELECT is(take('homeassistant/sensor/new/config', '{"stat_t":"new/v","dev":{"ids":"new"}}', true), '{"announcements": 1}', 'on, retained or not');
SELECT is((SELECT g.name FROM iot.device d JOIN iot.device_group g USING (device_group_id) WHERE d.name = 'new'), 'newcomers', 'in the group of the options');
SELECT is(take('new/v', '5'), '{"stored": 1, "received": 1}', 'it is heard at once');
SELECT is(take('homeassistant/sensor/new/config', '{"stat_t":"new/v","dev":{"ids":"new"}}', true), '{"announcements": 1}', 'again');
SELECT is(take('homeassistant/sensor/new/config', ''), '{"announcements": 1}', 'and taken back');
SELECT is(take('new/v', '5') -> 'reasons', '{"unknown_topic": 1}', '... it is heard no more');
SELECT is(take(topic, payload) -> 'reasons', jsonb_build_object(reason, 1), left(topic || ' ' || payload, 80)) FROM (VALUES
	('homeassistant/sensor/bad/config', '{"stat_t":', 'malformed_json'), ('homeassistant/sensor/bad/config', '[]', 'wrong_type'),
	('homeassistant/sensor/bad/config', '"x"', 'wrong_type'), ('homeassistant/sensor/bad/config', ' ', 'malformed_json'),
	('homeassistant/sensor/bad/config', '{"a":"\u0000"}', 'malformed_json'),
	('homeassistant/sensor/bad/config', repeat('[', 10000), 'malformed_json'), ('homeassistant/sensor/bad/config', '{"a":1e999999}', 'malformed_json'),
	('homeassistant/sensor/bad/config', repeat(' ', 2000000), 'too_large'),
	('homeassistant/sensor/bad/config', '{}', 'refused_announcement'), ('homeassistant/vacuum/bad/config', '{"stat_t":"x"}', 'refused_announcement'),
	('homeassistant/device/bad/config', '{"cmps":{"a":{"p":"sensor","stat_t":"x","val_tpl":"{{ x }}"}}}', 'refused_announcement'),
	('homeassistant/sensor/config', '{}', 'unknown_topic'), ('homeassistant/a/b/c/d/config', '{}', 'unknown_topic'),
	('homeassistant/sensor/bad/state', '{}', 'unknown_topic')) t (topic, payload, reason);
SELECT results_eq($$SELECT d.topic, d.error FROM iot.dead_letter d WHERE d.reason = 'refused_announcement' ORDER BY d.dead_letter_id$$,
	$$VALUES ('homeassistant/sensor/bad/config', 'sensor "bad" has no state topic'), ('homeassistant/vacuum/bad/config', 'component "vacuum" is not supported'),
		('homeassistant/device/bad/config', 'announcement has nothing that can be taken: a: template "{{ x }}" is not supported')$$, 'it says why');
SELECT is(take('homeassistant/sensor/bad/config', '{}', true), '{"announcements": 1}', 'the same again is no news');
SELECT is(take('homeassistant/sensor/bad/config', '{"stat_t":"+"}') -> 'reasons', '{"refused_announcement": 1}', 'another error is');
SELECT results_eq($$SELECT d.device_id, d.refused, d.error FROM iot.discovery d WHERE d.topic = 'homeassistant/sensor/bad/config'$$,
	$$VALUES (NULL::uuid, true, 'invalid state_topic "+": topic without {device} has a placeholder or a wildcard')$$, 'the last one is kept');
SELECT is((SELECT c.finding FROM iot.check() c WHERE c.finding LIKE '%announcements%'), 'adapter "mqtt" has refused announcements of devices: 3', 'iot.check() says so');
SELECT is(take('homeassistant/sensor/bad/config', '{"stat_t":"bad/v"}'), '{"announcements": 1}', 'a good one is taken');
SELECT is(take('homeassistant/sensor/bad/config', '{"stat_t":"+"}') -> 'reasons', '{"refused_announcement": 1}', 'a bad one after it is not');
SELECT is(take('bad/v', '5'), '{"stored": 1, "received": 1}', '... and changes nothing');
SELECT is(take('homeassistant/sensor/bad/config', '{"stat_t":"bad/v"}'), '{"announcements": 1}', 'the good one once more');
SELECT is((SELECT d.refused || ' ' || coalesce(d.error, 'none') FROM iot.discovery d WHERE d.topic = 'homeassistant/sensor/bad/config'), 'false none', '... clears it');
SELECT iot.create_device('mine', '{}', device_group => 'house') AS mine \gset
SELECT is(take('homeassistant/sensor/mine/v/config', '{"stat_t":"mine/v"}') -> 'reasons', '{"refused_announcement": 1}', 'a device of ours is nobody else''s');
SELECT is(iot.replay_dead_letter(d.dead_letter_id), 'refused_announcement', 'taken in again it is refused again')
	FROM iot.dead_letter d WHERE d.topic = 'homeassistant/sensor/mine/v/config';
UPDATE iot.device SET name = 'mine-2' WHERE name = 'mine';
SELECT is(iot.replay_dead_letter(d.dead_letter_id), NULL, 'until nothing speaks against it')
	FROM iot.dead_letter d WHERE d.topic = 'homeassistant/sensor/mine/v/config';
SELECT is((SELECT count(*) FROM mapped WHERE device = 'mine'), 1::bigint, '... the device is there');
SELECT count(*) AS topics FROM iot.discovery \gset
UPDATE iot.adapter SET options = options || jsonb_build_object('discovery_limit', :topics + 1) WHERE name = 'mqtt';
SELECT is(take('homeassistant/sensor/n1/config', '{"stat_t":"n/1"}'), '{"announcements": 1}', 'as many as the limit says');
SELECT is(take('homeassistant/sensor/n2/config', '{"stat_t":"n/2"}') -> 'reasons', '{"refused_announcement": 1}', 'and no more');
SELECT is(take('homeassistant/sensor/n1/config', '{"stat_t":"n/3"}'), '{"announcements": 1}', 'those that are there may change');
SELECT is((SELECT count(*) FROM iot.discovery), :topics + 1::bigint, 'nothing is kept of who came too late');
SELECT is((SELECT c.finding FROM iot.check() c WHERE c.finding LIKE '%as it may%'), format('adapter "mqtt" has as many announcements as it may: %s', :topics + 1), 'iot.check() says so');
UPDATE iot.adapter SET options = options || '{"discovery_limit": 1000}' WHERE name = 'mqtt';
UPDATE iot.device_group SET name = 'elsewhere' WHERE name = 'newcomers';
SELECT is(take('homeassistant/sensor/n2/config', '{"stat_t":"n/2"}') -> 'reasons', '{"refused_announcement": 1}', 'without their group nobody is taken in');
SELECT is((SELECT count(*) FROM iot.check() c WHERE c.finding LIKE '%their group does not exist'), 1::bigint, 'iot.check() says so');
UPDATE iot.device_group SET name = 'newcomers' WHERE name = 'elsewhere';

-- 11. many devices with one topic: a batch is as small as it has to be
SELECT is(iot_internal.ingest_messages('mqtt', array_agg(format('homeassistant/sensor/many%s/config', i)),
		array_agg(convert_to(format('{"stat_t":"many","dev":{"ids":"many%s"}}', i), 'UTF8')), array_agg(true)) ->> 'announcements', '300', 'a batch of announcements')
	FROM generate_series(1, 300) i;
SELECT is(take('many', '1'), '{"stored": 300, "received": 300}', 'one message for many');
SELECT throws_ok($$SELECT iot_internal.ingest_messages('mqtt', array_fill('many'::text, ARRAY[200]), array_fill('1'::bytea, ARRAY[200]), array_fill(false, ARRAY[200]))$$,
	'22000', 'messages of the batch are for too many devices');
UPDATE iot.adapter SET options = '{}' WHERE name = 'mqtt';

SELECT * FROM finish();
