-- What a change of the registry reads does not grow with the registry: devices, sensors, rules, alarms.
-- Nor does what a session reads again that knows other devices.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

-- a session whose plans are made for tables of a row
INSERT INTO iot.parameter (name) VALUES ('level'), ('heat');
INSERT INTO iot.device_group (name) VALUES ('north'), ('south');
SELECT iot.create_device('pump-0', '{level}') \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, comparison, threshold, parameter_id)
	SELECT 'high', 'threshold', '>', 10, parameter_id FROM iot.parameter WHERE name = 'level';
SELECT iot.ingest('pump-0', '{"level": 11}') \g /dev/null
ANALYZE;
\connect -
SET client_min_messages = warning;
-- Rows that this session has read of a table since it last told the statistics.
CREATE FUNCTION rows_read(name text) RETURNS bigint LANGUAGE sql AS $$
	SELECT coalesce(s.seq_tup_read, 0) + coalesce(s.idx_tup_fetch, 0) FROM pg_stat_xact_user_tables s
		WHERE s.schemaname = 'iot' AND s.relname = name
$$;
CREATE FUNCTION few_read(times integer, doing text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT cmp_ok(rows_read(t), '<', times * 24::bigint, format('with few rows of %s read for %s', t, doing))
		FROM unnest('{device,sensor,sensor_value,device_state,device_group,device_type,parameter,alarm_rule,alarm,alarm_rule_state}'::text[]) t
$$;
CREATE FUNCTION pump(number integer) RETURNS uuid LANGUAGE sql STABLE SET enable_seqscan = off AS
	$$SELECT device_id FROM iot.device WHERE name = 'pump-' || number$$;

SELECT no_plan();

-- 1. what is deleted is looked for in the tables that point to it
SELECT results_eq($$
	SELECT c.conname::text FROM pg_constraint c
		WHERE c.contype = 'f' AND c.connamespace = 'iot'::regnamespace
			AND NOT EXISTS (SELECT FROM pg_index i
				WHERE i.indrelid = c.conrelid AND i.indpred IS NULL AND i.indisvalid
					AND (SELECT array_agg(k ORDER BY k)
						FROM unnest((i.indkey::int2[])[0:cardinality(c.conkey) - 1]) k)
						= (SELECT array_agg(k ORDER BY k) FROM unnest(c.conkey) k)) ORDER BY 1$$,
	ARRAY[]::text[], 'every foreign key has an index that begins with its columns');

CREATE FUNCTION touch() RETURNS void LANGUAGE sql AS $$
	UPDATE iot.device SET enabled = NOT enabled WHERE name = 'pump-0';
	UPDATE iot.alarm_rule SET threshold = threshold + 1 WHERE name = 'high'
$$;
SELECT touch() FROM generate_series(1, 10) \g /dev/null

-- 2. devices, one by one and many at once
SELECT iot.create_device('pump-' || n, '{level}') FROM generate_series(1, 10) n \g /dev/null
SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
SELECT iot.create_device('pump-' || n, '{level}') FROM generate_series(11, 600) n \g /dev/null
SELECT few_read(590, 'each of 590 devices in one transaction');
COMMIT;

-- open alarms on all of them, rules on single devices that say nothing, and rules about silence
INSERT INTO iot.alarm (device_id, alarm_id, alarm_rule_id, rule, parameter_id, severity, opened_at)
	SELECT d.device_id, iot_internal.uuidv7(), r.alarm_rule_id, r.name, r.parameter_id, r.severity, now()
		FROM iot.device d, iot.alarm_rule r WHERE d.name LIKE 'pump-_%' AND d.name <> 'pump-0' AND r.name = 'high';
INSERT INTO iot.alarm_rule (name, kind, comparison, threshold, parameter_id, device_id)
	SELECT 'own-' || d.name, 'threshold', '>', 1000, s.parameter_id, d.device_id
		FROM iot.device d JOIN iot.sensor s ON s.device_id = d.device_id WHERE d.name LIKE 'pump-%';
CREATE TABLE silent AS SELECT 'silent-' || d.name AS name, s.parameter_id, d.device_id
	FROM iot.device d JOIN iot.sensor s ON s.device_id = d.device_id WHERE d.name LIKE 'pump-%';
SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
INSERT INTO iot.alarm_rule (name, kind, timeout, parameter_id, device_id)
	SELECT name, 'no_data', '1 h', parameter_id, device_id FROM silent;
SELECT few_read(601, 'each of 601 rules in one statement');
COMMIT;
SELECT is((SELECT count(*) FROM iot.alarm_rule_state), 601::bigint, 'each waits for its own device');

SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
SELECT iot.create_device('late-' || n, '{level,heat}') FROM generate_series(1, 20) n \g /dev/null
SELECT few_read(20, 'each device beside 1202 rules');
COMMIT;

-- 3. changes of one device and of one rule
-- cascades are the server's own statements, and planned by what it knows
ANALYZE iot.device, iot.sensor;
CREATE FUNCTION reads_few(doing text, statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN QUERY SELECT few_read(4, doing);
END
$$;
SELECT pg_stat_force_next_flush() \g /dev/null
SELECT reads_few('a device that moves', $$UPDATE iot.device SET device_group_id =
	(SELECT device_group_id FROM iot.device_group WHERE name = 'south') WHERE device_id = pump(22)$$);
SELECT pg_stat_force_next_flush() \g /dev/null
SELECT reads_few('a device that is disabled',
	'UPDATE iot.device SET enabled = false WHERE device_id = pump(32)');
SELECT pg_stat_force_next_flush() \g /dev/null
SELECT reads_few('a device that is deleted', 'DELETE FROM iot.device WHERE device_id = pump(42)');
SELECT pg_stat_force_next_flush() \g /dev/null
SELECT reads_few('a rule that changes',
	$$UPDATE iot.alarm_rule SET threshold = 5 WHERE name = 'own-pump-52'$$);
SELECT pg_stat_force_next_flush() \g /dev/null
SELECT reads_few('a rule that is deleted', $$DELETE FROM iot.alarm_rule WHERE name = 'silent-pump-62'$$);
SELECT pg_stat_force_next_flush() \g /dev/null
SELECT reads_few('a parameter that gets a unit', $$UPDATE iot.parameter SET unit = 'm' WHERE name = 'level'$$);

-- 4. what a session reads again of rules and of devices that have not changed
SELECT iot.ingest('pump-70', '{"level": 1}', now() - interval '1 h') \g /dev/null
UPDATE iot.device SET description = 'moved' WHERE device_id = pump(71);
SELECT pg_stat_force_next_flush() \g /dev/null
SELECT reads_few('a measurement after another device has changed',
	$$SELECT iot.ingest('pump-70', '{"level": 2}')$$);
SELECT iot.create_device('new-1', '{level}') \g /dev/null
SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
SELECT iot.ingest('pump-70', '{"level": 3}') \g /dev/null
SELECT is(rows_read('parameter'), 0::bigint, 'a device that is known is not read again when another is made');
COMMIT;

-- 5. and yet everybody knows what has changed
SELECT is(iot.ingest('new-1', '{"level": 1}'), 1, 'a device speaks');
INSERT INTO iot.sensor (device_id, parameter_id)
	SELECT d.device_id, p.parameter_id FROM iot.device d, iot.parameter p WHERE d.name = 'new-1' AND p.name = 'heat';
SELECT is(iot.ingest('new-1', '{"heat": 1}'), 1, 'and of a sensor that it has got since');
BEGIN;
SELECT iot.create_device('new-2', '{level}') \g /dev/null
SELECT is(iot.ingest('new-2', '{"level": 1}'), 1, 'a device speaks in the transaction that has made it');
INSERT INTO iot.sensor (device_id, parameter_id)
	SELECT d.device_id, p.parameter_id FROM iot.device d, iot.parameter p WHERE d.name = 'new-2' AND p.name = 'heat';
SELECT is(iot.ingest('new-2', '{"heat": 1}'), 1, 'and of a sensor that it has got there since');
COMMIT;
SELECT is(iot.ingest('new-2', '{"heat": 2}', now() + interval '1 s'), 1, 'which it keeps');

-- 6. what a session keeps of a device: of a fleet of a hundred thousand none has to be forgotten
CREATE TABLE fleet AS SELECT array_agg(name) AS names FROM
	(SELECT 'one-of-the-fleet-' || n AS name FROM generate_series(1, 2000) n) f;
WITH made AS (
	INSERT INTO iot.device (name, device_group_id, device_type_id, adapter_id)
		SELECT n, d.device_group_id, d.device_type_id, d.adapter_id FROM fleet f, unnest(f.names) n, iot.device d
			WHERE d.name = 'pump-1' RETURNING device_id)
INSERT INTO iot.sensor (device_id, parameter_id)
	SELECT m.device_id, p.parameter_id FROM made m, iot.parameter p;
CREATE FUNCTION kept() RETURNS bigint LANGUAGE sql AS
	$$SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts WHERE name = 'iot devices'$$;
CREATE FUNCTION speak(number integer) RETURNS bigint LANGUAGE sql AS $$
	SELECT (a ->> 'stored')::bigint FROM fleet f CROSS JOIN LATERAL iot_internal.ingest_messages('mqtt',
		ARRAY(SELECT 'iot/' || n || '/telemetry' FROM unnest(f.names) n),
		ARRAY(SELECT convert_to(format('{"level": 1, "heat": %s}', number), 'UTF8') FROM unnest(f.names)),
		ARRAY(SELECT false FROM unnest(f.names))) a
$$;
SELECT kept() AS before \gset
SELECT is(speak(1), 4000::bigint, 'two thousand devices speak');
SELECT cmp_ok(kept() - :before, '>', 2000 * 100::bigint, 'each is known');
SELECT cmp_ok(kept() - :before, '<', 2000 * 300::bigint, 'in less than three hundred bytes');

SELECT * FROM finish();
