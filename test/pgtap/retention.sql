-- How wide partitions are, and measurements that go sooner than others by their device type.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;
SET timezone = 'UTC';

INSERT INTO iot.parameter (name) VALUES ('temperature'), ('humidity');
INSERT INTO iot.device_type (name, retention) VALUES ('chatty', '3 hours'), ('usual', NULL),
	('longer', '10 years');
INSERT INTO iot.device_type (name, retention) VALUES ('weekly', '7 days');
SELECT iot.create_device('chatty-' || n, '{temperature,humidity}', device_type => 'chatty') FROM generate_series(1, 3) n \g /dev/null
SELECT iot.create_device(t, '{temperature}', device_type => t) FROM unnest('{usual,longer,weekly}'::text[]) t \g /dev/null

-- what lies between the partitions of a table, over all times that have one
CREATE FUNCTION gaps(parent regclass) RETURNS SETOF tstzrange LANGUAGE sql STABLE AS $$
	SELECT unnest(tstzmultirange(tstzrange(min(p.lower), max(p.upper))) - range_agg(tstzrange(p.lower, p.upper)))
	FROM iot_internal.partitions(parent) p
$$;
CREATE FUNCTION drop_ahead(parent regclass, since timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	p record;
BEGIN
	FOR p IN SELECT * FROM iot_internal.partitions(parent) q WHERE q.lower >= since LOOP
		EXECUTE format('DROP TABLE %s', p.partition);
	END LOOP;
END
$$;
CREATE FUNCTION failure() RETURNS text LANGUAGE sql AS 'SELECT last_error FROM iot.maintenance';
CREATE TEMP TABLE today AS SELECT date_trunc('day', now()) AS day;

SELECT no_plan();

-- widths: what is there stays, what is made afterwards is as wide as said, and nothing overlaps or is left out
SELECT is(count(*), 8::bigint, 'a partition for each day of the coming week') FROM iot_internal.partitions('iot.measurement');
UPDATE iot.retention SET partition_width = '6 hours' WHERE relation = 'measurement';
SELECT drop_ahead('iot.measurement', day + interval '3 days') FROM today \g /dev/null
CALL iot.maintain();
SELECT is(failure(), NULL, 'maintenance with six hours');
SELECT results_eq($$SELECT upper - lower, count(*) FROM iot_internal.partitions('iot.measurement') GROUP BY 1 ORDER BY 1$$,
	$$VALUES (interval '6 hours', 20::bigint), ('1 day', 3)$$, 'days that are there stay, new ones have six hours');
SELECT is_empty($$SELECT gaps('iot.measurement')$$, 'without a gap');
SELECT ok(to_regclass(format('iot.measurement_%s', to_char(day + interval '3 days', 'YYYYMMDD'))) IS NOT NULL
	AND to_regclass(format('iot.measurement_%s_18', to_char(day + interval '3 days', 'YYYYMMDD'))) IS NOT NULL,
	'they are named after their beginning') FROM today;
UPDATE iot.retention SET partition_width = '1 hour' WHERE relation = 'measurement';
SELECT drop_ahead('iot.measurement', day + interval '6 days 18 hours') FROM today \g /dev/null
CALL iot.maintain();
SELECT is(count(*), 30::bigint, 'an hour') FROM iot_internal.partitions('iot.measurement') p WHERE p.upper - p.lower = '1 hour';
UPDATE iot.retention SET partition_width = '7 days' WHERE relation = 'measurement';
SELECT drop_ahead('iot.measurement', day + interval '5 days') FROM today \g /dev/null
CALL iot.maintain();
SELECT is(failure(), NULL, 'maintenance with weeks');
SELECT is_empty($$SELECT gaps('iot.measurement')$$, 'without a gap after another change');
SELECT ok(max(upper) >= (SELECT day FROM today) + interval '8 days', 'the coming week is there') FROM iot_internal.partitions('iot.measurement');
SELECT is(extract(isodow FROM max(upper)), 1::numeric, 'a week ends on a Monday') FROM iot_internal.partitions('iot.measurement');
SELECT is(extract(hour FROM max(upper)), 0::numeric, 'at midnight of UTC') FROM iot_internal.partitions('iot.measurement');

-- months; and a gap that older partitions leave is filled, and no more
UPDATE iot.retention SET partition_width = '1 month' WHERE relation = 'measurement';
SELECT drop_ahead('iot.measurement', '-infinity') \g /dev/null
SELECT iot_internal.make_partition('iot.measurement', '2024-02-03', '2024-02-04') AS made,
	iot_internal.make_partition('iot.measurement', '2024-02-20', '2024-02-21') AS made_too \gset
UPDATE iot.retention SET keep = '100 years' WHERE relation = 'measurement';
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT d.device_id, s.parameter_id, t, 1 FROM iot.device d JOIN iot.sensor s USING (device_id),
		unnest('{2024-02-01 07:00,2024-02-11,2024-02-29 23:59,2023-12-31,2024-02-03 12:00}'::timestamptz[]) t
	WHERE d.name = 'usual';
CALL iot.maintain();
SELECT is(failure(), NULL, 'maintenance with months');
SELECT results_eq($$SELECT lower, upper FROM iot_internal.partitions('iot.measurement') WHERE lower < '2025-01-01' ORDER BY 1$$,
	$$VALUES (timestamptz '2023-12-01', timestamptz '2024-01-01'), ('2024-02-01', '2024-02-03'),
		('2024-02-03', '2024-02-04'), ('2024-02-04', '2024-02-20'), ('2024-02-20', '2024-02-21'),
		('2024-02-21', '2024-03-01')$$, 'months begin on their first day, and fill what is free');
SELECT is_empty('SELECT FROM iot.measurement_default', 'rows have left the DEFAULT partition');
SELECT is((SELECT count(*) FROM iot.measurement), 5::bigint, 'none is lost');
SELECT is_empty($$SELECT FROM iot_internal.missing_partitions('iot.measurement')$$, 'then nothing is missing');
DELETE FROM iot.measurement;
SELECT drop_ahead('iot.measurement', '-infinity') \g /dev/null
UPDATE iot.retention SET keep = '365 days', partition_width = '1 day' WHERE relation = 'measurement';
UPDATE iot.retention SET partition_width = '12 hours' WHERE relation = 'event';
SELECT drop_ahead('iot.event', '-infinity') \g /dev/null
CALL iot.maintain();
SELECT is(count(*), 8::bigint, 'days again') FROM iot_internal.partitions('iot.measurement');
SELECT cmp_ok(count(*), '>=', 15::bigint, 'the event log has widths of its own') FROM iot_internal.partitions('iot.event');

SELECT throws_ok(format($$UPDATE iot.retention SET partition_width = %L WHERE relation = 'measurement'$$, w), '22023', NULL,
	'no width: ' || w) FROM unnest('{0,59 minutes,90 minutes,32 days,2 months,1 year,1 month 1 day,-1 day}'::text[]) w;
SELECT throws_ok($$UPDATE iot.retention SET partition_width = NULL WHERE relation = 'measurement'$$, '22023', NULL,
	'a partitioned table has a width');
SELECT throws_ok($$UPDATE iot.retention SET partition_width = '1 day' WHERE relation = 'command'$$, '22023', NULL,
	'no other has');

-- history is read from the index alone, once vacuum has been there
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, day + n * interval '1 s', n
	FROM iot.sensor s JOIN iot.device d USING (device_id), today, generate_series(0, 5000) n WHERE d.name = 'usual';
VACUUM ANALYZE iot.measurement;
CREATE FUNCTION plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	lines text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) ' || query LOOP
		lines := lines || line || E'\n';
	END LOOP;
	RETURN lines;
END
$$;
SELECT matches(plan(format('SELECT ts, value FROM iot.measurement WHERE device_id = %L AND parameter_id = %L
		AND ts >= %L AND ts < %L ORDER BY ts', s.device_id, s.parameter_id, day, day + interval '100 s')),
	'Index Only Scan(.|\n)*Heap Fetches: 0', 'a series is read from the index')
	FROM iot.sensor s JOIN iot.device d USING (device_id), today WHERE d.name = 'usual';
SELECT ok(relfrozenxid::text::bigint >= (SELECT max(xmin::text::bigint) FROM iot.measurement), 'and vacuum has frozen the partition')
	FROM pg_class, today WHERE oid = format('iot.measurement_%s', to_char(day, 'YYYYMMDD'))::regclass;
DELETE FROM iot.measurement;
TRUNCATE iot.rollup_note, iot.rollup_pending;

-- retention by device type.  Rows of ten days, every ten minutes.
CREATE TEMP TABLE present AS SELECT now() AS at;
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, at - n * interval '10 minutes' - interval '1 s', n
	FROM iot.sensor s, present, generate_series(0, 1439) n;
CREATE FUNCTION counts() RETURNS TABLE (type text, rows bigint, oldest interval) LANGUAGE sql STABLE AS $$
	SELECT t.name, count(*), date_trunc('hour', (SELECT at FROM present) - min(m.ts))
	FROM iot.measurement m JOIN iot.device d USING (device_id) JOIN iot.device_type t USING (device_type_id)
	GROUP BY 1 ORDER BY 1
$$;
-- those that are not rolled up stay, however old
SELECT iot_internal.make_partition('iot.measurement', m.lower, m.upper) FROM iot_internal.missing_partitions('iot.measurement') m \g /dev/null
SELECT is(iot_internal.delete_old_of_types(100000), false, 'a pass finds nothing to delete');
SELECT is((SELECT count(*) FROM iot.measurement), 9 * 1440::bigint, 'what is not rolled up stays');
DO $$BEGIN WHILE iot_internal.rollup_step(20000) OR EXISTS (SELECT FROM iot.rollup_note) LOOP END LOOP; END$$;
CREATE TEMP TABLE before AS SELECT * FROM iot.history('chatty-1', 'temperature', date_trunc('hour', (SELECT at FROM present) - interval '5 days'),
	date_trunc('hour', (SELECT at FROM present)), '1 hour');

-- a batch at a time, each in reach of an interruption; who comes later takes up where it stopped
UPDATE iot.type_sweep SET full_at = now() - interval '25 hours';
CREATE TEMP TABLE step (step int, more boolean, rows bigint);
CREATE PROCEDURE sweep(batch int) LANGUAGE plpgsql AS $$
DECLARE
	more boolean := true;
	n int := 0;
BEGIN
	WHILE more AND n < 1000 LOOP
		n := n + 1;
		more := iot_internal.delete_old_of_types(batch);
		INSERT INTO step SELECT n, more, count(*) FROM iot.measurement;
		COMMIT;
	END LOOP;
END
$$;
CALL sweep(500);
SELECT cmp_ok(max(gone), '<=', 500::bigint, 'no step deletes more than it may')
	FROM (SELECT lag(rows, 1, 9 * 1440::bigint) OVER (ORDER BY step) - rows AS gone FROM step) s;
SELECT results_eq('SELECT type, rows, oldest FROM counts()',
	$$VALUES ('chatty', 6 * 18::bigint, interval '2 hours'), ('longer', 1440, '239 hours'),
		('usual', 1440, '239 hours'), ('weekly', 1008, '167 hours')$$, 'rows go by the retention of their type');
SELECT is((SELECT began_at FROM iot.type_sweep), NULL, 'the pass is over');
SELECT results_eq($$SELECT * FROM iot.history('chatty-1', 'temperature', date_trunc('hour', (SELECT at FROM present) - interval '5 days'),
	date_trunc('hour', (SELECT at FROM present)), '1 hour')$$, 'SELECT * FROM before', 'history by the hour stays as it was');

-- what comes late is stored, and goes with the pass of the next day
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, at - interval '4 days 2 s', 1
	FROM iot.sensor s JOIN iot.device d USING (device_id), present WHERE d.name = 'chatty-2';
DO $$BEGIN WHILE iot_internal.rollup_step(20000) OR EXISTS (SELECT FROM iot.rollup_note) LOOP END LOOP; END$$;
CALL sweep(500);
SELECT is((SELECT rows FROM counts() WHERE type = 'chatty'), 6 * 18 + 2::bigint, 'a pass of the hour is for what has grown old since');
UPDATE iot.type_sweep SET full_at = now() - interval '25 hours';
CALL sweep(500);
SELECT is((SELECT rows FROM counts() WHERE type = 'chatty'), 6 * 18::bigint, 'a pass of the day takes stragglers');

-- a change counts at once, and through maintenance; so does a pass that was under way
UPDATE iot.device_type SET retention = '1 day' WHERE name = 'usual';
SELECT iot_internal.delete_old_of_types(10) AS more \gset
SELECT is(:'more'::text, 't', 'a pass has begun');
UPDATE iot.device_type SET retention = '2 days' WHERE name = 'weekly';
CALL iot.maintain();
SELECT is(failure(), NULL, 'maintenance');
SELECT results_eq($$SELECT type, rows FROM counts()$$,
	$$VALUES ('chatty', 6 * 18::bigint), ('longer', 1440), ('usual', 144), ('weekly', 288)$$, 'shorter retentions are applied');
UPDATE iot.device SET device_type_id = (SELECT device_type_id FROM iot.device_type WHERE name = 'chatty') WHERE name = 'longer';
UPDATE iot.type_sweep SET full_at = now() - interval '25 hours';
CALL iot.maintain();
SELECT is((SELECT rows FROM counts() WHERE type = 'chatty'), 7 * 18::bigint, 'a device goes by the type that it has');
UPDATE iot.epoch SET paused = true;
UPDATE iot.device_type SET retention = '1 hour' WHERE name = 'chatty';
CALL iot.maintain();
SELECT is((SELECT rows FROM counts() WHERE type = 'chatty'), 7 * 18::bigint, 'a copy that nobody has resumed keeps all');
UPDATE iot.epoch SET paused = false;
CALL iot.maintain();
SELECT is((SELECT rows FROM counts() WHERE type = 'chatty'), 7 * 6::bigint, 'until then');
SELECT throws_ok($$UPDATE iot.device_type SET retention = '59 minutes' WHERE name = 'usual'$$, '22023',
	'retention of device type "usual" is below an hour');

SELECT * FROM finish();
