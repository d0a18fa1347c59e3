-- Devices that register themselves, where their adapter's options let them, and only there.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

INSERT INTO iot.parameter (name) VALUES ('temperature'), ('humidity'), ('pressure');
INSERT INTO iot.device_group (name) VALUES ('newcomers');
INSERT INTO iot.device_type (name, telemetry_topic, status_topic, attributes_topic)
	VALUES ('plug', 'tele/{device}/SENSOR', 'tele/{device}/LWT', 'tele/{device}/INFO');

CREATE FUNCTION take(VARIADIC messages text[]) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_object_agg(key, value) FROM jsonb_each(iot_internal.ingest_messages('mqtt',
			ARRAY(SELECT split_part(m, ' ', 1) FROM unnest(messages) m),
			ARRAY(SELECT convert_to(substr(m, strpos(m, ' ') + 1), 'UTF8') FROM unnest(messages) m),
			ARRAY(SELECT false FROM unnest(messages))) - 'acks')
		WHERE value <> '0' AND value <> '{}' AND key <> 'messages'
$$;
CREATE VIEW registered AS
	SELECT d.name, g.name AS device_group, t.name AS device_type, a.name AS adapter,
		(SELECT string_agg(p.name, ' ' ORDER BY p.name) FROM iot.sensor s
			JOIN iot.parameter p USING (parameter_id) WHERE s.device_id = d.device_id) AS parameters
	FROM iot.device d JOIN iot.device_group g USING (device_group_id)
		JOIN iot.device_type t USING (device_type_id) JOIN iot.adapter a USING (adapter_id);

SELECT no_plan();

-- off
SELECT is(take('tele/plug-1/SENSOR {"temperature":1}'),
	'{"received": 1, "rejected": 1, "reasons": {"unknown_device": 1}}', 'off by default');
SELECT is_empty('TABLE registered', 'no device');

-- on
UPDATE iot.adapter SET options = '{"register_group": "newcomers", "register_type": "plug", "register_limit": 4}'
	WHERE name = 'mqtt';
SELECT is(take('tele/plug-1/SENSOR {"temperature":1,"humidity":2,"colour":3}'),
	'{"received": 3, "stored": 2, "rejected": 1, "reasons": {"unknown_parameter": 1}}',
	'a stranger is taken in, but for a parameter that does not exist');
SELECT results_eq('TABLE registered',
	$$VALUES ('plug-1', 'newcomers', 'plug', 'mqtt', 'humidity temperature')$$,
	'in the group and as the type of the options, with the parameters of its first payload');
SELECT results_eq($$SELECT e.aggregatetype, e.payload, e.device_id = d.device_id
		FROM iot.event e, iot.device d WHERE e.type = 'device.registered' AND d.name = 'plug-1'$$,
	$$VALUES ('device', '{"device": "plug-1", "adapter": "mqtt", "device_group": "newcomers",
		"device_type": "plug", "parameters": ["humidity", "temperature"]}'::jsonb, true)$$,
	'and that is an event');
SELECT is(take('tele/plug-1/SENSOR {"temperature":2,"pressure":3}'),
	'{"received": 2, "stored": 1, "rejected": 1, "reasons": {"unknown_parameter": 1}}',
	'what it says later brings it no more parameters');

-- one batch: what else it says in it is heard, whatever the order
SELECT is(take('tele/plug-2/LWT online', 'tele/plug-2/SENSOR {"humidity":1}', 'tele/plug-2/INFO {"fw":1}',
		'tele/plug-2/SENSOR {"temperature":1}'),
	'{"received": 2, "stored": 2, "statuses": 1, "attributes": 1}', 'a batch that introduces a device');
SELECT is((SELECT s.online FROM iot.device_state s JOIN iot.device d USING (device_id)
	WHERE d.name = 'plug-2'), true, 'its status counts');

-- who is not taken in
SELECT is(take(m), '{"received": 1, "rejected": 1, "reasons": {"unknown_device": 1}}', m)
	FROM unnest(ARRAY['iot/plug-9/telemetry {"temperature":1}', 'tele/plug-9/LWT online',
		'tele/plug-9/INFO {"fw":1}', 'tele/plug-9/SENSOR {"colour":1}', 'tele/plug-9/SENSOR {"temperature":',
		'tele/plug-9/SENSOR []', 'tele/plug~9/SENSOR {"temperature":1}',
		'tele/0f8fad5b-d9cb-469f-a165-70867728950e/SENSOR {"temperature":1}',
		'tele/plug-9/SENSOR {"ts":"yesterday","temperature":1}']) m;
SELECT is((SELECT count(*) FROM registered), 2::bigint, 'other topics, payloads and names make no device');
SELECT is(take('nobody/knows/this {"temperature":1}'),
	'{"received": 1, "rejected": 1, "reasons": {"unknown_topic": 1}}', 'nor does a topic of no type');

-- a device that is gone, or whose message cannot be stored
SELECT is(take('tele/plug-3/SENSOR {"ts":0,"temperature":1}'),
	'{"received": 1, "rejected": 1, "reasons": {"out_of_time_range": 1}}',
	'a clock that is wrong does not keep a device out');
SELECT is((SELECT parameters FROM registered WHERE name = 'plug-3'), 'temperature', 'only its measurement');

-- the limit
SELECT is(take('tele/plug-4/SENSOR {"temperature":1}', 'tele/plug-5/SENSOR {"temperature":1}'),
	'{"received": 2, "stored": 1, "rejected": 1, "reasons": {"unknown_device": 1}}',
	'there is room for as many as the limit says');
SELECT is(take('tele/plug-5/SENSOR {"temperature":1}', 'tele/plug-4/SENSOR {"temperature":2}'),
	'{"received": 2, "stored": 1, "rejected": 1, "reasons": {"unknown_device": 1}}', 'and no more');
SELECT results_eq($$SELECT finding FROM iot.check() WHERE finding LIKE 'adapter %register%'$$,
	$$VALUES ('adapter "mqtt" has registered as many devices as it may: 4')$$, 'iot.check() says so');
UPDATE iot.adapter SET options = options || '{"register_limit": 5}' WHERE name = 'mqtt';
SELECT is(take('tele/plug-5/SENSOR {"temperature":1}'), '{"received": 1, "stored": 1}',
	'until there is room again');

-- group and type may go
UPDATE iot.device_group SET name = 'moved' WHERE name = 'newcomers';
SELECT is(take('tele/plug-6/SENSOR {"temperature":1}'),
	'{"received": 1, "rejected": 1, "reasons": {"unknown_device": 1}}',
	'a group that is no longer there registers nobody');
SELECT results_eq($$SELECT finding FROM iot.check() WHERE finding LIKE 'adapter %register%'$$,
	$$VALUES ('adapter "mqtt" cannot register devices: their group or type does not exist')$$,
	'iot.check() says so');
-- a letter that is taken in again registers nobody: its time is over
UPDATE iot.device_group SET name = 'newcomers' WHERE name = 'moved';
UPDATE iot.adapter SET options = options || '{"register_limit": 50}' WHERE name = 'mqtt';
SELECT is((SELECT count(*) FROM registered), 5::bigint, 'five devices in all');
SELECT is((SELECT count(*) FROM iot.event WHERE type = 'device.registered'), 5::bigint, 'and five events');

SELECT * FROM finish();
