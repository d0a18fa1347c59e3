-- What a broker delivers: topics of every kind, hostile ones among them; everything is counted.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

INSERT INTO iot.parameter (name) VALUES ('temperature'), ('humidity');
INSERT INTO iot.parameter (name, labels) VALUES ('power', '{"OFF": 0, "ON": 1}');
INSERT INTO iot.adapter (name, url, enabled) VALUES ('second', 'mqtt://127.0.0.1:1884', false);
INSERT INTO iot.device_type (name, telemetry_topic, status_topic)
	VALUES ('tasmota', 'tele/{device}/SENSOR', 'tele/{device}/LWT');
SELECT iot.create_device('boiler', '{temperature,humidity,power}') AS boiler \gset
SELECT iot.create_device('plug', '{power}', device_type => 'tasmota') AS plug \gset
SELECT iot.create_device('elsewhere', '{power}', adapter => 'second') AS elsewhere \gset
SELECT iot.create_device('asleep', '{power}') AS asleep \gset
UPDATE iot.device SET enabled = false WHERE name = 'asleep';
SELECT (extract(epoch FROM date_trunc('second', now())) * 1000)::bigint AS ms \gset

CREATE FUNCTION take(topic text, payload bytea, retained boolean DEFAULT false) RETURNS jsonb
LANGUAGE sql AS
	'SELECT iot_internal.ingest_messages(''mqtt'', ARRAY[topic], ARRAY[payload], ARRAY[retained])';
-- counters without those that are zero, and without the acknowledgements
CREATE FUNCTION counts(answer jsonb) RETURNS jsonb LANGUAGE sql AS
	'SELECT jsonb_object_agg(key, value) FROM jsonb_each(answer - ''acks'')
		WHERE value <> ''0'' AND value <> ''{}''';
-- one message that is refused for this reason, with a dead letter that says so
CREATE FUNCTION refused(topic text, payload bytea, reason text, description text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT is(counts(take(topic, payload)),
		jsonb_build_object('messages', 1, 'received', 1, 'rejected', 1,
			'reasons', jsonb_build_object(reason, 1)), description);
	RETURN NEXT results_eq('DELETE FROM iot.dead_letter d RETURNING d.adapter, d.topic, d.payload, d.reason',
		format('SELECT %L::text, %L::text, %L::bytea, %L::text', 'mqtt', topic, payload, reason),
		'... kept as it came');
END
$$;
CREATE FUNCTION value(device uuid, parameter text) RETURNS float8 LANGUAGE sql AS
	'SELECT v.value FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)
		WHERE v.device_id = device AND p.name = parameter';

SELECT no_plan();

-- telemetry
SELECT is(counts(take('iot/boiler/telemetry', format('{"ts":%s,"values":{"temperature":1,"power":"ON"}}', :ms)::bytea)),
	'{"messages": 1, "received": 2, "stored": 2}', 'telemetry is stored');
SELECT is(counts(take('iot/boiler/telemetry', format('{"ts":%s,"values":{"temperature":1,"power":"ON"}}', :ms)::bytea)),
	'{"messages": 1, "received": 2, "duplicate": 2}', 'what is delivered twice is stored once (I11)');
SELECT is(counts(take('iot/boiler/telemetry', format('{"ts":%s,"temperature":2,"power":1}', :ms)::bytea)),
	'{"messages": 1, "received": 2, "duplicate": 1, "conflict": 1, "reasons": {"conflict": 1}}',
	'another value for the same time is a conflict');
SELECT results_eq('DELETE FROM iot.dead_letter RETURNING device, reason', $$VALUES ('boiler', 'conflict')$$,
	'and a dead letter');
SELECT is(counts(take('tele/plug/SENSOR', '{"power":"ON"}')), '{"messages": 1, "received": 1, "stored": 1}',
	'a device type has topics of its own');
SELECT is(value(:'plug', 'power'), 1::float8, 'and the same words');
SELECT is(counts(iot_internal.ingest_messages('mqtt',
		array_fill('iot/boiler/telemetry'::text, ARRAY[3]),
		ARRAY['{"humidity":1}', '{"humidity":2}', '{"humidity":3}']::bytea[], '{f,f,f}')),
	'{"messages": 3, "received": 3, "stored": 3}', 'messages that come together are each stored');
SELECT is(value(:'boiler', 'humidity'), 3::float8, 'in the order in which they came');
SELECT is(counts(iot_internal.ingest_messages('mqtt', '{}', '{}', '{}')), NULL, 'no message is no work');

-- a message that is good in part
SELECT is(counts(take('iot/boiler/telemetry',
		'{"temperature":5,"a":1,"b":2,"power":"maybe","humidity":null}')),
	'{"messages": 1, "received": 5, "stored": 1, "rejected": 4,
		"reasons": {"unknown_parameter": 2, "wrong_type": 2}}',
	'what can be used of a message is');
SELECT results_eq('DELETE FROM iot.dead_letter RETURNING reason, error',
	$$VALUES ('unknown_parameter', 'device has no parameter "a" (and 1 more)'),
		('wrong_type', '"maybe" is neither a number nor a label of "power" (and 1 more)')$$,
	'the rest is kept once for each reason');

-- payloads that are nothing (malformed, truncated, NaN, wrong types, UTF-8, depth)
SELECT refused('iot/boiler/telemetry', ''::bytea, 'malformed_json', 'an empty payload');
SELECT refused('iot/boiler/telemetry', '{"temperature":', 'malformed_json', 'a truncated one');
SELECT refused('iot/boiler/telemetry', '{"temperature":1}{', 'malformed_json', 'one with more behind it');
SELECT refused('iot/boiler/telemetry', '{"temperature":NaN}', 'malformed_json', 'NaN');
SELECT refused('iot/boiler/telemetry', '{"temperature":-Infinity}', 'malformed_json', 'infinity');
SELECT refused('iot/boiler/telemetry', '{"temperature":1e400}', 'not_finite', 'a number too large');
SELECT refused('iot/boiler/telemetry', '{"temperature":-1e400}', 'not_finite', 'a number too small');
SELECT refused('iot/boiler/telemetry', '{"temperature":1,"temperature":2}', 'malformed_json', 'a key twice');
SELECT refused('iot/boiler/telemetry', '\x7b2261223a22ff227d', 'invalid_utf8', 'invalid UTF-8');
SELECT refused('iot/boiler/telemetry', '\xff'::bytea, 'invalid_utf8', 'one byte that is none');
SELECT refused('iot/boiler/telemetry', '\x00'::bytea, 'malformed_json', 'a zero byte');
SELECT refused('iot/boiler/telemetry', '{"a":"\\u0000"}', 'malformed_json', 'an escaped zero byte');
SELECT refused('iot/boiler/telemetry', ('[' || repeat('[', 60000))::bytea, 'malformed_json', 'a deep one');
SELECT refused('iot/boiler/telemetry', ('{"' || repeat('k', 60000) || '":1}')::bytea, 'unknown_parameter',
	'a long key');
SELECT refused('iot/boiler/telemetry', '"ON"', 'wrong_type', 'a string');
SELECT refused('iot/boiler/telemetry', '{}', 'empty', 'an object without values');
SELECT refused('iot/boiler/telemetry', '{"ts":"soon","temperature":1}', 'invalid_time', 'a time that is none');
SELECT refused('iot/boiler/telemetry', '{"ts":0,"temperature":1}', 'out_of_time_range', 'a clock in 1970');
SELECT refused('iot/boiler/telemetry', '{"ts":4294967295000,"temperature":1}', 'out_of_time_range',
	'a clock in 2106');
SELECT is(counts(take('iot/boiler/telemetry', repeat('x', 65537)::bytea)),
	'{"messages": 1, "received": 1, "rejected": 1, "reasons": {"too_large": 1}}', 'one that is too large');
SELECT results_eq('DELETE FROM iot.dead_letter RETURNING reason, octet_length(payload)',
	$$VALUES ('too_large', 65536)$$, '... is kept as far as one may be');

-- topics that are nothing
SELECT refused('iot/nobody/telemetry', '{"temperature":1}', 'unknown_device', 'an unknown device');
SELECT refused('iot/a''; DROP TABLE iot.device; --/telemetry', '{"temperature":1}', 'unknown_device',
	'SQL for a name');
SELECT refused('iot/' || :'boiler' || '/telemetry', '{"temperature":1}', 'unknown_device', 'an id for a name');
SELECT refused('iot/+/telemetry', '{"temperature":1}', 'unknown_device', 'a wildcard for a name');
SELECT refused('iot/' || repeat('x', 900) || '/telemetry', '{}', 'unknown_device', 'a long name');
SELECT refused('iot/boiler', '{"temperature":1}', 'unknown_topic', 'a topic too short');
SELECT refused('iot/boiler/telemetry/x', '{"temperature":1}', 'unknown_topic', 'a topic too long');
SELECT refused(repeat('/', 200), '{"temperature":1}', 'unknown_topic', 'two hundred levels');
SELECT refused('$SYS/broker/uptime', '1', 'unknown_topic', 'the broker''s own');
SELECT refused('', '1', 'unknown_topic', 'no topic');
SELECT refused('iot/boiler/command', '1', 'unknown_topic', 'our own');
SELECT refused('iot/plug/telemetry', '{"power":1}', 'unknown_device', 'a topic of another device type');
SELECT refused('iot/elsewhere/telemetry', '{"power":1}', 'wrong_adapter', 'a device of another adapter');
SELECT refused('iot/asleep/telemetry', '{"power":1}', 'disabled_device', 'a disabled device');
SELECT is((take(repeat('x', 65535), '1') -> 'reasons'), '{"unknown_topic": 1}', 'a topic of 65 535 bytes');
SELECT results_eq('DELETE FROM iot.dead_letter RETURNING octet_length(topic)', ARRAY[1024],
	'... is kept as far as anybody reads');

-- what the broker has retained
SELECT is(counts(take('iot/boiler/telemetry', '{"temperature":7}', true)),
	'{"messages": 1, "received": 1, "rejected": 1, "reasons": {"retained": 1}}',
	'a retained message without a time is no new measurement');
DELETE FROM iot.dead_letter;
SELECT is(counts(take('iot/boiler/telemetry', format('{"ts":%s,"temperature":1}', :ms)::bytea, true)),
	'{"messages": 1, "received": 1, "duplicate": 1}', 'one with a time is what it is');

-- status
CREATE TEMP TABLE mark AS SELECT coalesce(max(id), 0) AS id FROM iot.event;
CREATE FUNCTION told() RETURNS SETOF text LANGUAGE sql AS
	'SELECT e.type || '' '' || (e.payload ->> ''device'') || '' '' || e.aggregatetype
		FROM iot.event e, mark WHERE e.id > mark.id ORDER BY e.id';
SELECT is(counts(take('iot/boiler/status', 'online', true)), '{"messages": 1, "statuses": 1}',
	'a status is no measurement');
SELECT results_eq(format('SELECT online FROM iot.device_state WHERE device_id = %L', :'boiler'), ARRAY[true],
	'the device is online');
SELECT take('iot/boiler/status', 'online', true) IS NOT NULL AS again \gset
SELECT results_eq('SELECT told()', ARRAY['device.online boiler device'], 'which is told once');
SELECT iot_internal.ingest_messages('mqtt', array_fill('iot/boiler/status'::text, ARRAY[3]),
	'{offline,online,offline}', '{f,f,t}') IS NOT NULL AS flapping \gset
SELECT results_eq('SELECT told()', ARRAY['device.online boiler device', 'device.offline boiler device',
	'device.online boiler device', 'device.offline boiler device'], 'and so is every change');
SELECT results_eq(format('SELECT online FROM iot.device_state WHERE device_id = %L', :'boiler'), ARRAY[false],
	'the last one stands');
SELECT take('tele/plug/LWT', '{"state":"Online"}') IS NOT NULL AS plugged \gset
SELECT results_eq(format('SELECT online, last_seen_at IS NOT NULL FROM iot.device_state WHERE device_id = %L',
	:'plug'), 'VALUES (true, true)', 'as an object, in any case');
SELECT refused('iot/boiler/status', 'asleep', 'wrong_type', 'another word');

-- attributes
SELECT is(counts(take('iot/boiler/attributes', '{"fw":"1.2","net":{"rssi":-60}}')),
	'{"messages": 1, "attributes": 1}', 'attributes are no measurement');
SELECT iot_internal.ingest_messages('mqtt', array_fill('iot/boiler/attributes'::text, ARRAY[2]),
	ARRAY['{"fw":"1.3"}', '{"name":"Öfchen","net":1}']::bytea[], '{f,f}') IS NOT NULL AS more \gset
SELECT results_eq(format('SELECT attributes FROM iot.device_state WHERE device_id = %L', :'boiler'),
	ARRAY['{"fw": "1.3", "net": 1, "name": "Öfchen"}'::jsonb], 'they are merged key by key');
SELECT refused('iot/boiler/attributes', '[1]', 'wrong_type', 'attributes that are no object');
SELECT refused('iot/boiler/attributes', '{"a":1e20000}', 'malformed_json', 'a number that nothing holds');
SELECT is(counts(iot_internal.ingest_messages('mqtt', array_fill('iot/boiler/attributes'::text, ARRAY[3]),
		ARRAY['{"x":1}', '{"y":1e-20000}', '{"z":01}']::bytea[], '{f,f,f}')),
	'{"messages": 3, "attributes": 1, "received": 2, "rejected": 2, "reasons": {"malformed_json": 2}}',
	'what only the server refuses does not cost the batch');
SELECT results_eq(format('SELECT attributes -> ''x'' FROM iot.device_state WHERE device_id = %L', :'boiler'),
	ARRAY['1'::jsonb], 'the rest of it is stored');
DELETE FROM iot.dead_letter;
SELECT iot_internal.ingest_messages('mqtt', array_fill('iot/boiler/attributes'::text, ARRAY[6]),
	(SELECT array_agg(format('{"k%s":"%s"}', i, (SELECT string_agg(md5(i || '/' || j), '')
		FROM generate_series(1, 1900) j))::bytea) FROM generate_series(1, 6) i), '{f,f,f,f,f,f}') AS grown \gset
SELECT is(counts(:'grown'), '{"messages": 6, "attributes": 4, "received": 2, "rejected": 2,
	"reasons": {"too_large": 2}}', 'they do not grow for ever');
DELETE FROM iot.dead_letter;

-- acknowledgements
SELECT is(take('iot/boiler/command/ack', '{"id":"00000000-0000-7000-8000-000000000001","ok":true}') -> 'acks',
	'[{"ok": true, "device": "boiler", "command_id": "00000000-0000-7000-8000-000000000001"}]',
	'an acknowledgement is handed on');
SELECT is(take('iot/boiler/command/ack',
		'{"id":"00000000-0000-7000-8000-000000000001","ok":false,"error":"too hot"}') -> 'acks' -> 0 ->> 'error',
	'too hot', 'with its error');
SELECT refused('iot/boiler/command/ack', '{"id":"7","ok":true}', 'wrong_type', 'an id that is none');
SELECT refused('iot/boiler/command/ack', 'ok', 'malformed_json', 'no JSON');
SELECT is(counts(take('iot/boiler/command/ack', '{"id":"00000000-0000-7000-8000-000000000001","ok":true}', true)),
	'{"messages": 1, "received": 1, "rejected": 1, "reasons": {"retained": 1}}', 'a retained one');
DELETE FROM iot.dead_letter;

-- nothing is uncounted (I12): one batch of everything
CREATE TEMP TABLE batch AS
	SELECT i, (ARRAY['iot/boiler/telemetry', 'iot/nobody/telemetry', 'tele/plug/SENSOR', 'x'])[1 + i % 4] AS topic,
		(ARRAY[
			format('{"ts":%s,"temperature":%s}', :ms - (i % 50) * 1000, i % 3),
			'{"humidity":4,"power":"ON"}', '{', '{"power":"OFF"}', '{"b":1}', '{"humidity":1e999}'
		])[1 + i % 6]::bytea AS payload, i % 7 = 0 AS retained
	FROM generate_series(1, 2000) i;
SELECT iot_internal.ingest_messages('mqtt', array_agg(topic ORDER BY i), array_agg(payload ORDER BY i),
	array_agg(retained ORDER BY i)) AS answer FROM batch \gset
SELECT is((:'answer'::jsonb ->> 'received')::int,
	(SELECT sum(n::int) FROM unnest(ARRAY[:'answer'::jsonb ->> 'stored', :'answer'::jsonb ->> 'duplicate',
		:'answer'::jsonb ->> 'conflict', :'answer'::jsonb ->> 'rejected']) n)::int,
	'received = stored + duplicate + conflict + rejected');
SELECT is((SELECT sum(value::int) FROM jsonb_each_text(:'answer'::jsonb -> 'reasons'))::int,
	(:'answer'::jsonb ->> 'conflict')::int + (:'answer'::jsonb ->> 'rejected')::int,
	'and each refusal has a reason');
SELECT is((SELECT count(DISTINCT (topic, payload)) FROM batch WHERE payload = '{' OR topic = 'x'
		OR topic = 'iot/nobody/telemetry'),
	(SELECT count(DISTINCT (topic, payload)) FROM iot.dead_letter WHERE payload = '{' OR topic = 'x'
		OR topic = 'iot/nobody/telemetry'), 'every refused message is kept');
SELECT throws_ok($$SELECT iot_internal.ingest_messages('nothing', '{}', '{}', '{}')$$, '42704', NULL,
	'an adapter that does not exist');
SELECT throws_ok($$SELECT iot_internal.ingest_messages('mqtt', '{a}', '{}', '{}')$$, '2202E', NULL,
	'messages without payloads');

-- large batches are written as if they were all new
SELECT iot.create_device('fast', '{temperature}') AS fast \gset
-- one base for all calls: the clock goes on between them
CREATE TEMP TABLE fast_base AS
	SELECT (extract(epoch FROM date_trunc('second', now())) * 1000)::bigint - 10000 AS ms;
CREATE FUNCTION many(first integer, last integer, step double precision DEFAULT 0) RETURNS jsonb LANGUAGE sql AS $$
	SELECT counts(iot_internal.ingest_messages('mqtt', array_agg('iot/fast/telemetry'::text),
		array_agg(format('{"ts":%s,"temperature":%s}',
			(SELECT b.ms FROM fast_base b) + n, n + step)::bytea ORDER BY n),
		array_agg(false)) - 'messages')
	FROM generate_series(first, last) n
$$;
SELECT is(many(1, 100), '{"received": 100, "stored": 100}', 'a hundred new ones');
SELECT is(many(51, 150), '{"received": 100, "stored": 50, "duplicate": 50}', 'half of them delivered again');
SELECT is(many(151, 250), '{"received": 100, "stored": 100}', 'new ones after that');
SELECT is(many(201, 300, 0.5), '{"received": 100, "stored": 50, "conflict": 50, "reasons": {"conflict": 50}}',
	'half of them with other values');
SELECT is((SELECT count(*) FROM iot.dead_letter WHERE device = 'fast' AND reason = 'conflict'), 50::bigint,
	'each of which is a dead letter');
-- until nothing of the kind happened for some time
DO $$ BEGIN FOR i IN 1 .. 40 LOOP PERFORM many(1000 + i, 1000 + i); END LOOP; END $$;
SELECT is(many(2001, 2100), '{"received": 100, "stored": 100}', 'and boldly again');
SELECT is(many(2051, 2150, 0.5), '{"received": 100, "stored": 50, "conflict": 50, "reasons": {"conflict": 50}}',
	'with the same result');
SELECT is((SELECT (count(*), sum(value))::text FROM iot.measurement WHERE device_id = :'fast'),
	(SELECT (count(*), sum(v)::float8)::text FROM (SELECT generate_series(1, 250)::float8 UNION ALL
		SELECT generate_series(251, 300) + 0.5 UNION ALL SELECT generate_series(1001, 1040) UNION ALL
		SELECT generate_series(2001, 2100) UNION ALL SELECT generate_series(2101, 2150) + 0.5) AS u (v)),
	'the first value of each key stays');
SELECT is(value(:'fast', 'temperature'), 2150.5::float8, 'and the newest is current');
-- another table's unique constraint is not ours to explain
CREATE TABLE only_once (n integer PRIMARY KEY);
GRANT ALL ON only_once TO iot_owner, iot_worker;
CREATE FUNCTION once() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.only_once VALUES (1); RETURN NEW; END';
CREATE TRIGGER once BEFORE INSERT ON iot.measurement FOR EACH ROW EXECUTE FUNCTION once();
DO $$ BEGIN FOR i IN 1 .. 40 LOOP
	DELETE FROM public.only_once; PERFORM many(3000 + i, 3000 + i); DELETE FROM public.only_once; END LOOP; END $$;
SELECT throws_ok('SELECT many(4001, 4100)', '23505', NULL, 'a violation that is no repeat is the caller''s');
DROP TRIGGER once ON iot.measurement;
SELECT throws_ok($$INSERT INTO iot.measurement VALUES (iot_internal.uuidv7(), iot_internal.uuidv7(), now(), 1)$$,
	'23503', NULL, 'and sensors are looked up after it as before');

SELECT * FROM finish();
