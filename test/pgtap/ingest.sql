-- Measurements through every door: what is stored once, what is refused, what is current.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;

INSERT INTO iot.parameter (name, unit) VALUES ('temperature', '°C'), ('humidity', '%'), ('other', NULL);
INSERT INTO iot.parameter (name, labels) VALUES ('power', '{"OFF": 0, "ON": 1, "true": 1, "false": 0}');
SELECT iot.create_device('boiler', ARRAY['temperature', 'humidity', 'power']) AS boiler \gset
SELECT iot.create_device('furnace', ARRAY['temperature', 'power']) AS furnace \gset
UPDATE iot.sensor SET labels = '{"LOW": -1}'
	WHERE device_id = :'furnace'
		AND parameter_id = (SELECT parameter_id FROM iot.parameter WHERE name = 'power');
SELECT date_trunc('second', now()) - interval '1 hour' AS t \gset

CREATE FUNCTION stored(device uuid, parameter text) RETURNS TABLE (ts timestamptz, value float8)
LANGUAGE sql AS
	'SELECT m.ts, m.value FROM iot.measurement m JOIN iot.parameter p USING (parameter_id)
		WHERE m.device_id = device AND p.name = parameter ORDER BY m.ts';
CREATE FUNCTION value(device uuid, parameter text) RETURNS float8 LANGUAGE sql AS
	'SELECT v.value FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)
		WHERE v.device_id = device AND p.name = parameter';
CREATE FUNCTION parameter(name text) RETURNS uuid LANGUAGE sql STABLE AS
	'SELECT p.parameter_id FROM iot.parameter p WHERE p.name = $1';
CREATE FUNCTION ms(ts timestamptz) RETURNS text LANGUAGE sql AS
	'SELECT (extract(epoch FROM ts) * 1000)::bigint::text';

SELECT no_plan();

-- the shapes
SELECT is(iot.ingest('boiler', '{"temperature": 21.5, "humidity": 40}', :'t'), 2,
	'an object of values is stored');
SELECT results_eq(format('SELECT * FROM stored(%L, %L)', :'boiler', 'temperature'),
	format('VALUES (%L::timestamptz, 21.5::float8)', :'t'), 'with the time of the call');
SELECT is(iot.ingest(:'boiler', format('{"ts": %s, "values": {"temperature": 22}}',
		ms(:'t'::timestamptz + '1 s'))::jsonb), 1, 'an object with a time in milliseconds, by id');
SELECT is(iot.ingest('boiler', jsonb_build_array(
		jsonb_build_object('ts', :'t'::timestamptz + '2 s', 'values', '{"temperature": 23}'::jsonb),
		jsonb_build_object('ts', :'t'::timestamptz + '3 s', 'temperature', 24, 'humidity', 41))), 3,
	'an array of objects with ISO 8601 times');
SELECT results_eq(format('SELECT value FROM stored(%L, %L)', :'boiler', 'temperature'),
	ARRAY[21.5, 22, 23, 24]::float8[], 'each at its own time');
SELECT is(value(:'boiler', 'temperature'), 24::float8, 'the newest is the current value');
SELECT results_eq(
	format($$SELECT v.value_at, v.source, v.version, v.last_version, v.reported, v.reported_at
		FROM iot.sensor_value v WHERE v.device_id = %L AND v.parameter_id = parameter('temperature')$$,
		:'boiler'),
	format($$VALUES (%L::timestamptz + '3 s', 'measurement', 3::bigint, 3::bigint, 24::float8,
		%1$L::timestamptz + '3 s')$$, :'t'),
	'each statement that brought something newer gave one version');

-- words
SELECT is(iot.ingest('boiler', '{"power": "ON"}', :'t'), 1, 'a label of the parameter is a number');
SELECT is(value(:'boiler', 'power'), 1::float8, 'the one that it stands for');
SELECT is(iot.ingest('boiler', '{"power": false}', :'t'::timestamptz + '1 s'), 1,
	'so is a boolean, where the labels name it');
SELECT is(value(:'boiler', 'power'), 0::float8, 'with the number that they say');
SELECT is(iot.ingest('furnace', '{"power": "LOW"}', :'t'), 1, 'a sensor''s labels hide the parameter''s');
SELECT throws_ok($$SELECT iot.ingest('furnace', '{"power": "ON"}')$$, '22023',
	'cannot take measurements of device "furnace": "ON" is neither a number nor a label of "power"',
	'which then are no labels');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": true}')$$, '22023', NULL,
	'a boolean without a label is no measurement');

-- once
SELECT is(iot.ingest('boiler', '{"temperature": 21.5}', :'t'), 0, 'what is there already is not new');
SELECT is_empty('SELECT FROM iot.dead_letter', 'and no dead letter');
SELECT is(iot.ingest('boiler', '{"temperature": 99, "humidity": 40}', :'t'), 0,
	'another value for the same time is not stored');
SELECT results_eq(
	'SELECT adapter, device, reason, convert_from(payload, ''UTF8'')::jsonb FROM iot.dead_letter',
	$$VALUES (NULL::text, 'boiler', 'conflict', '{"temperature": 99, "humidity": 40}'::jsonb)$$,
	'but kept with the reason');
SELECT results_eq(format('SELECT value FROM stored(%L, %L) LIMIT 1', :'boiler', 'temperature'),
	ARRAY[21.5::float8], 'the first value stays');
SELECT is(iot.ingest('boiler', '[{"temperature": 50}, {"temperature": 51}]',
		:'t'::timestamptz + '4 s'), 2, 'values without times of their own never collide');
SELECT is(value(:'boiler', 'temperature'), 51::float8, 'and the later one counts');
DELETE FROM iot.dead_letter;

-- any order
CREATE TEMP TABLE permutation AS
	SELECT array_agg(o ORDER BY r) AS orders FROM (
		SELECT g, o, row_number() OVER (PARTITION BY g ORDER BY md5(g || '/' || o)) AS r
		FROM generate_series(1, 20) g, generate_series(1, 6) o) s GROUP BY g;
CREATE FUNCTION settles(orders bigint[], n bigint) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	o bigint;
	id uuid := iot.create_device('shuffled-' || n, ARRAY['temperature']);
	t timestamptz := date_trunc('second', now()) - interval '1 hour';
BEGIN
	FOREACH o IN ARRAY orders LOOP
		PERFORM iot.ingest(id::text, jsonb_build_object('temperature', o), t + o * interval '1 s');
	END LOOP;
	RETURN value(id, 'temperature');
END
$$;
SELECT results_eq(
	'SELECT DISTINCT settles(orders, row_number() OVER ()) FROM permutation',
	ARRAY[6::float8], 'whatever the order of arrival, the newest by device time is current');
SELECT is((SELECT count(DISTINCT orders) FROM permutation) > 10, true, 'of many different orders');
SELECT is(iot.ingest('boiler', '{"temperature": -5}', :'t'::timestamptz - interval '1 s'), 1,
	'a late measurement is stored');
SELECT is(value(:'boiler', 'temperature'), 51::float8, 'and moves nothing back');

-- what is refused, with nothing written
SELECT count(*) AS before FROM iot.measurement \gset
SELECT throws_ok($$SELECT iot.ingest('nobody', '{"temperature": 1}')$$, '42704',
	'device "nobody" does not exist', 'an unknown device');
SELECT throws_ok($$SELECT iot.ingest('a''; DROP TABLE iot.device; --', '{"temperature": 1}')$$,
	'42704', NULL, 'a name that no device can have');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": 1, "pressure": 2}')$$, '42704',
	'cannot take measurements of device "boiler": device has no parameter "pressure"',
	'a parameter that does not exist');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"other": 2}')$$, '42704', NULL,
	'a parameter of other devices');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": 1e400}')$$, '22023',
	'cannot take measurements of device "boiler": value of "temperature" is not a finite number',
	'a number that no double can hold');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": "NaN"}')$$, '22023', NULL,
	'a word that only the server would read as a number');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": "Infinity"}')$$, '22023', NULL,
	'another');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": null}')$$, '22023', NULL, 'null');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": {"a": 1}}')$$, '22023', NULL,
	'an object');
SELECT throws_ok($$SELECT iot.ingest('boiler', '17')$$, '22023', NULL, 'no object at all');
SELECT throws_ok($$SELECT iot.ingest('boiler', '[]')$$, '22023', NULL, 'nothing');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"ts": "noon", "temperature": 1}')$$, '22007', NULL,
	'a time that is none');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"ts": "2026-01-01T00:00:00", "temperature": 1}')$$,
	'22007', NULL, 'a time without a zone');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"ts": 0, "temperature": 1}')$$, '22008',
	'cannot take measurements of device "boiler": time is before all that is kept',
	'a device clock in 1970');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"ts": "2106-02-07T06:28:15Z", "temperature": 1}')$$,
	'22008', 'cannot take measurements of device "boiler": time is more than a day ahead',
	'a device clock in 2106');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": 1}', now() - interval '366 days')$$,
	'22008', NULL, 'a time before the retention');
SELECT lives_ok($$SELECT iot.ingest('boiler', '{"humidity": 1}', now() + interval '23 hours')$$,
	'a clock that is a little fast is taken');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": 1}', 'infinity')$$, '22008', NULL,
	'no time at all');
SELECT throws_ok($$SELECT iot.ingest('boiler', '{"temperature": 1}', '-infinity')$$, '22008', NULL,
	'nor before all times');
SELECT throws_ok($$SELECT iot.ingest('boiler', NULL)$$, '22004', NULL, 'null measurements');
SELECT throws_ok($$SELECT iot.ingest(NULL, '{}')$$, '22004', NULL, 'a null device');
SELECT throws_ok($$SELECT iot.ingest('boiler', jsonb_build_object('temperature', repeat('x', 70000)))$$,
	'54000', NULL, 'more than iot.max_payload_size');
SELECT is((SELECT count(*) FROM iot.measurement), :before + 1::bigint,
	'of all these only the fast clock''s value is stored');
UPDATE iot.device SET enabled = false WHERE name = 'furnace';
SELECT throws_ok($$SELECT iot.ingest('furnace', '{"temperature": 1}')$$, '55000',
	'device "furnace" is disabled', 'a disabled device');
UPDATE iot.device SET enabled = true WHERE name = 'furnace';
SELECT lives_ok($$SELECT iot.ingest('furnace', '{"temperature": 1}')$$, 'and one enabled again');
SELECT is_empty('SELECT FROM iot.dead_letter', 'who hears an error needs no dead letter');

-- the registry as it is now
UPDATE iot.device SET name = 'oven' WHERE name = 'furnace';
SELECT throws_ok($$SELECT iot.ingest('furnace', '{"temperature": 1}')$$, '42704', NULL,
	'a device answers to its new name only');
SELECT is(iot.ingest('oven', '{"temperature": 5}', :'t'), 1, 'to that it does');
INSERT INTO iot.sensor (device_id, parameter_id) VALUES (:'furnace', parameter('humidity'));
SELECT is(iot.ingest('oven', '{"humidity": 5}', :'t'), 1, 'a new sensor is known at once');
UPDATE iot.parameter SET labels = '{"DRY": 10}' WHERE name = 'humidity';
SELECT is(iot.ingest('oven', '{"humidity": "DRY"}', :'t'::timestamptz + '1 s'), 1, 'so is a new label');
UPDATE iot.retention SET keep = '2 hours' WHERE relation = 'measurement';
SELECT throws_ok(format($$SELECT iot.ingest('oven', '{"humidity": 3}', %L::timestamptz - interval '2 hours')$$,
	:'t'), '22008', NULL, 'and a shorter retention');
UPDATE iot.retention SET keep = '365 days' WHERE relation = 'measurement';
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is(iot.ingest('oven', '{"humidity": 4}', :'t'::timestamptz + '2 s'), 1,
	'works under REPEATABLE READ too');
COMMIT;
BEGIN;
DELETE FROM iot.sensor WHERE device_id = :'furnace' AND parameter_id = parameter('humidity');
SAVEPOINT before;
SELECT throws_ok($$SELECT iot.ingest('oven', '{"humidity": 1}')$$, '42704', NULL,
	'within a transaction its own changes count');
ROLLBACK;
SELECT is(iot.ingest('oven', '{"humidity": 6}', :'t'::timestamptz + '3 s'), 1,
	'and when it is rolled back they never did');

-- the table itself as a door
CREATE TEMP TABLE batch AS
	SELECT :'boiler'::uuid AS device_id, parameter('temperature') AS parameter_id,
		now() - interval '10 min' + i * interval '1 s' AS ts, i::float8 AS value
	FROM generate_series(1, 300) i ORDER BY md5(i::text);
INSERT INTO iot.measurement SELECT * FROM batch;
SELECT is(value(:'boiler', 'temperature'), 300::float8, 'INSERT moves the current value on');
SELECT is((SELECT v.version FROM iot.sensor_value v
	WHERE v.device_id = :'boiler' AND v.parameter_id = parameter('temperature')), 5::bigint,
	'once for the statement');
PREPARE one AS INSERT INTO iot.measurement VALUES ($1, $2, $3, $4);
SELECT throws_ok($$EXECUTE one(gen_random_uuid(), parameter('temperature'), now(), 1)$$, '23503',
	'measurement of a sensor that does not exist', 'a device that does not exist');
SELECT throws_ok(format($$EXECUTE one(%L, parameter('other'), now(), 1)$$, :'boiler'), '23503', NULL,
	'a sensor that the device does not have');
SELECT throws_ok(format($$EXECUTE one(%L, parameter('humidity'), now(), 'NaN')$$, :'boiler'), '23514', NULL,
	'NaN is no measurement');
SELECT throws_ok(format($$EXECUTE one(%L, parameter('humidity'), now(), 'Infinity')$$, :'boiler'),
	'23514', NULL, 'nor is infinity');
SELECT throws_ok(format($$EXECUTE one(%L, parameter('humidity'), now(), '-Infinity')$$, :'boiler'),
	'23514', NULL, 'nor minus infinity');
SELECT throws_ok(format($$EXECUTE one(%L, parameter('humidity'), 'infinity', 1)$$, :'boiler'), '22008',
	'time of a measurement must be finite', 'and its time is finite');
SELECT throws_ok(format($$EXECUTE one(%L, parameter('humidity'), %L, 1)$$, :'boiler', :'t'), '23505', NULL,
	'and its own');
SELECT value(:'boiler', 'humidity') AS humidity \gset
SELECT lives_ok(format($$EXECUTE one(%L, parameter('humidity'), now() + interval '5 days', 77)$$, :'boiler'),
	'a time days ahead can be stored');
SELECT is(value(:'boiler', 'humidity'), :humidity::float8, 'but is nobody''s present');
SELECT lives_ok('INSERT INTO iot.measurement SELECT * FROM batch WHERE false', 'no row is no work');

INSERT INTO iot.parameter (parameter_id, name)
	VALUES ('00000000-0000-7000-8000-000000000001', 'flow');
SELECT iot.create_device('pump', '{flow}', id => '00000000-0000-7000-8000-000000000002') AS pump \gset
SELECT iot.create_device('dam', '{flow}', id => '00000000-0000-7000-8000-000000000003') AS dam \gset
COPY iot.measurement FROM stdin;
00000000-0000-7000-8000-000000000003	00000000-0000-7000-8000-000000000001	2001-01-01 00:00:03+00	13
00000000-0000-7000-8000-000000000002	00000000-0000-7000-8000-000000000001	2001-01-01 00:00:02+00	2
00000000-0000-7000-8000-000000000002	00000000-0000-7000-8000-000000000001	2001-01-01 00:00:03+00	3
00000000-0000-7000-8000-000000000003	00000000-0000-7000-8000-000000000001	2001-01-01 00:00:02+00	12
00000000-0000-7000-8000-000000000002	00000000-0000-7000-8000-000000000001	2001-01-01 00:00:01+00	1
\.
SELECT results_eq($$SELECT d.name, v.value, v.version FROM iot.sensor_value v
		JOIN iot.device d USING (device_id) WHERE d.name IN ('pump', 'dam') ORDER BY d.name$$,
	$$VALUES ('dam', 13::float8, 1::bigint), ('pump', 3::float8, 1::bigint)$$,
	'COPY moves the current values of all its sensors on, however old');
SELECT throws_ok($$COPY iot.measurement FROM PROGRAM
	'echo 00000000-0000-7000-8000-000000000002,00000000-0000-7000-8000-000000000009,2001-01-01,1'
	(FORMAT csv)$$, '23503', 'measurement of a sensor that does not exist',
	'COPY of a sensor that does not exist is an error');
SELECT throws_ok($$COPY iot.measurement FROM PROGRAM
	'echo 00000000-0000-7000-8000-000000000002,00000000-0000-7000-8000-000000000001,2001-01-01,NaN'
	(FORMAT csv)$$, '23514', NULL, 'so is one of NaN');
SELECT is(value(:'pump', 'flow'), 3::float8, 'and nothing of it stays');

-- late data and commands
SELECT iot.send_command('boiler', 'temperature', 60) AS command \gset
SELECT is(value(:'boiler', 'temperature'), 60::float8, 'a command sets the value');
SELECT is(iot.ingest('boiler', '{"temperature": 61}', :'t'::timestamptz + '5 s'), 1, 'a late measurement');
SELECT is(value(:'boiler', 'temperature'), 60::float8, 'does not take it away');
SELECT is(iot.ingest('boiler', '{"temperature": 62}'), 1, 'a newer one');
SELECT results_eq(
	format($$SELECT v.value, v.source, v.desired, v.reported FROM iot.sensor_value v
		WHERE v.device_id = %L AND v.parameter_id = parameter('temperature')$$, :'boiler'),
	$$VALUES (62::float8, 'measurement', 60::float8, 62::float8)$$, 'does, and what was desired stays');

-- every write can be part of a two-phase commit
BEGIN;
SELECT iot.ingest('boiler', '{"temperature": 64}', now() + interval '1 min') AS prepared \gset
PREPARE TRANSACTION 'measurement';
SELECT is(value(:'boiler', 'temperature'), 62::float8, 'what is prepared is not there yet');
COMMIT PREPARED 'measurement';
SELECT is(value(:'boiler', 'temperature'), 64::float8, 'and is, once it is committed');

-- who may
CREATE ROLE ingest_anna IN ROLE iot_operator;
INSERT INTO iot.app_user (username) VALUES ('ingest_anna');
SET SESSION AUTHORIZATION ingest_anna;
\set ON_ERROR_STOP off
SELECT iot.ingest('boiler', '{"temperature": 1}');
\set anna_state :SQLSTATE
INSERT INTO iot.measurement VALUES (gen_random_uuid(), gen_random_uuid(), now(), 1);
\set insert_state :SQLSTATE
SELECT iot_internal.ingest_messages('mqtt', '{}', '{}', '{}');
\set messages_state :SQLSTATE
\set ON_ERROR_STOP on
RESET SESSION AUTHORIZATION;
SELECT is(:'anna_state'::text, '42501', 'who has no grant may not bring measurements in');
SELECT is(:'insert_state'::text, '42501', 'nor write the table');
SELECT is(:'messages_state'::text, '42501', 'nor play an adapter');
INSERT INTO iot.user_group (name) VALUES ('crew');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u;
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT u.user_group_id, d.device_group_id, 'operate' FROM iot.user_group u, iot.device_group d;
SET SESSION AUTHORIZATION ingest_anna;
SELECT iot.ingest('boiler', '{"temperature": 63}') AS anna \gset
RESET SESSION AUTHORIZATION;
SELECT is(:anna, 1, 'with level "operate" she may');
SELECT table_privs_are('iot', 'measurement_default', role, '{}', role || ' cannot write past the trigger')
	FROM unnest('{iot_worker,iot_admin,iot_operator,iot_viewer,iot_pushd}'::text[]) AS role;
SELECT is_empty(
	$$SELECT c.relname, a.grantee::regrole FROM pg_class c
		JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'iot.measurement'::regclass,
		aclexplode(c.relacl) a WHERE a.grantee <> c.relowner$$,
	'nor can anybody in any partition');

DROP ROLE ingest_anna;
SELECT * FROM finish();
