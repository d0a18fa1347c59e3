-- History by buckets equals that of the measurements themselves, whatever is rolled up by then: at the
-- edges, for late data, repetitions, the last minutes, in any time zone, and after retention.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;
SET timezone = 'UTC';
SELECT setseed(0.42) \g /dev/null

INSERT INTO iot.parameter (name, unit) VALUES ('temperature', '°C'), ('humidity', '%'), ('other', NULL);
SELECT iot.create_device('boiler', ARRAY['temperature', 'humidity']) AS boiler \gset
SELECT iot.create_device('furnace', ARRAY['temperature']) AS furnace \gset

CREATE FUNCTION sensor(device text, parameter text, OUT device_id uuid, OUT parameter_id uuid)
LANGUAGE sql STABLE AS
	'SELECT s.device_id, s.parameter_id FROM iot.sensor s JOIN iot.device d USING (device_id)
		JOIN iot.parameter p USING (parameter_id) WHERE d.name = device AND p.name = parameter';
-- what history by buckets has to be, made of measurements and the server's own aggregates
CREATE FUNCTION raw(device text, parameter text, since timestamptz, until timestamptz, bucket interval)
RETURNS TABLE (ts timestamptz, value float8, min float8, max float8, avg float8, count bigint)
LANGUAGE sql STABLE AS $$
	SELECT b.start, (array_agg(m.value ORDER BY m.ts DESC))[1], min(m.value), max(m.value),
		avg(m.value), count(*)
	FROM sensor(device, parameter) s
		JOIN iot.measurement m ON m.device_id = s.device_id AND m.parameter_id = s.parameter_id,
		LATERAL (SELECT CASE WHEN extract(epoch FROM bucket) % 86400 = 0
			THEN date_bin(bucket, m.ts::timestamp, '2000-01-03')::timestamptz
			ELSE date_bin(bucket, m.ts, '2000-01-03 00:00+00') END) b (start)
	WHERE m.ts >= since AND m.ts < until GROUP BY b.start
$$;
-- rows that only one of the two has; means may differ in their last digits
CREATE FUNCTION differences(device text, parameter text, since timestamptz, until timestamptz,
	bucket interval) RETURNS bigint LANGUAGE sql STABLE AS $$
	SELECT count(*) FROM iot.history(device, parameter, since, until, bucket) h
		FULL JOIN raw(device, parameter, since, until, bucket) r ON r.ts = h.ts
	WHERE h.ts IS NULL OR r.ts IS NULL OR (h.value, h.min, h.max, h.count) <> (r.value, r.min, r.max, r.count)
		OR abs(h.avg - r.avg) > 1e-9 * greatest(abs(r.min), abs(r.max))
$$;
CREATE FUNCTION all_equal(what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	first timestamptz := date_trunc('hour', now()) - interval '4 days';
	since timestamptz;
	until timestamptz;
BEGIN
	FOR n IN 1..12 LOOP
		since := first + random() * interval '3 days';
		until := since + random() * interval '3 days';
		-- some edges lie on those of minutes and hours
		IF n % 3 = 1 THEN
			since := date_trunc('hour', since);
			until := date_trunc('minute', until);
		ELSIF n % 3 = 2 THEN
			since := date_trunc('minute', since);
			until := date_trunc('hour', until) + interval '1 hour';
		END IF;
		RETURN NEXT is(string_agg(b || ': ' || d, ', '), NULL, format('%s, %s to %s', what, since, until))
			FROM unnest('{1 second, 1 minute, 7 minutes, 90 seconds, 1 hour, 6 hours, 1 day, 2 days}'::interval[]) b,
				LATERAL (SELECT differences('boiler', 'temperature', since, until, b)) AS x (d)
			WHERE d <> 0;
	END LOOP;
	RETURN NEXT is(differences('boiler', 'temperature', first, now() + interval '1 day', '1 hour'), 0::bigint,
		what || ', to the present and beyond');
END
$$;
-- A round that begins with a minute which has just ended takes no notes: those are the next one's.
CREATE PROCEDURE roll_up(max int DEFAULT 1000) LANGUAGE plpgsql AS $$
BEGIN
	WHILE iot_internal.rollup_step(max) OR EXISTS (SELECT FROM iot.rollup_note) LOOP END LOOP;
END
$$;
CREATE FUNCTION load(since interval, until interval, rows int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT s.device_id, s.parameter_id, now() - since + random() * (since - until), random() * 100 - 50
		FROM sensor('boiler', 'temperature') s, generate_series(1, rows)
		ON CONFLICT DO NOTHING
$$;

SELECT no_plan();

-- nothing yet
SELECT is_empty($$SELECT * FROM iot.history('boiler', 'temperature', now() - interval '1 day')$$,
	'no measurements, no history');
SELECT is_empty($$SELECT * FROM iot.history('boiler', 'temperature', now() - interval '1 day',
	bucket => '1 hour')$$, 'nor by the hour');

-- as they came
SELECT date_trunc('hour', now()) - interval '3 hours' AS t \gset
SELECT iot.ingest('furnace', jsonb_build_array(
	jsonb_build_object('ts', :'t'::timestamptz, 'temperature', 1),
	jsonb_build_object('ts', :'t'::timestamptz + '30 s', 'temperature', 5),
	jsonb_build_object('ts', :'t'::timestamptz + '90 s', 'temperature', 3))) AS stored \gset
PREPARE furnace(timestamptz, timestamptz, interval) AS
	SELECT * FROM iot.history('furnace', 'temperature', $1, $2, $3);
SELECT results_eq(format('EXECUTE furnace(%1$L, %1$L::timestamptz + interval ''1 hour'', NULL)', :'t'),
	format($$VALUES (%1$L::timestamptz, 1::float8, 1::float8, 1::float8, 1::float8, 1::bigint),
		(%1$L::timestamptz + interval '30 s', 5, 5, 5, 5, 1), (%1$L::timestamptz + interval '90 s', 3, 3, 3, 3, 1)$$,
		:'t'), 'without a bucket values are returned as they came');
SELECT results_eq(format($$EXECUTE furnace(%1$L, %1$L::timestamptz + interval '90 s', NULL)$$, :'t'),
	format($$VALUES (%1$L::timestamptz, 1::float8, 1::float8, 1::float8, 1::float8, 1::bigint),
		(%1$L::timestamptz + interval '30 s', 5, 5, 5, 5, 1)$$, :'t'),
	'since belongs to the range, until does not');
SELECT is_empty(format($$EXECUTE furnace(%1$L, %1$L, NULL)$$, :'t'), 'an empty range has no values');
SELECT is_empty(format($$EXECUTE furnace(%1$L, %1$L, '1 hour')$$, :'t'), 'nor buckets');
\set minutes 'VALUES (%1$L::timestamptz, 5::float8, 1::float8, 5::float8, 3::float8, 2::bigint), (%1$L::timestamptz + interval ''1 minute'', 3, 3, 3, 3, 1)'
SELECT results_eq(format($$EXECUTE furnace(%1$L, %1$L::timestamptz + interval '1 hour', '1 minute')$$, :'t'),
	format(:'minutes', :'t'), 'a bucket has its last value, min, max, avg and count');
CALL roll_up();
SELECT results_eq(format($$EXECUTE furnace(%1$L, %1$L::timestamptz + interval '1 hour', '1 minute')$$, :'t'),
	format(:'minutes', :'t'), 'the same once it is rolled up');
SELECT results_eq(format($$EXECUTE furnace(%1$L, %1$L::timestamptz + interval '1 hour', '1 hour')$$, :'t'),
	format($$VALUES (%L::timestamptz, 3::float8, 1::float8, 5::float8, 3::float8, 3::bigint)$$, :'t'),
	'and by the hour');
SELECT results_eq('SELECT ts, count, min, max, avg, last_value, last_at FROM iot.rollup_minute ORDER BY ts',
	format($$VALUES (%1$L::timestamptz, 2::bigint, 1::float8, 5::float8, 3::float8, 5::float8,
			%1$L::timestamptz + interval '30 s'),
		(%1$L::timestamptz + interval '1 minute', 1, 3, 3, 3, 3, %1$L::timestamptz + interval '90 s')$$, :'t'),
	'rollups by the minute');
SELECT results_eq('SELECT ts, count, min, max, avg, last_value, last_at FROM iot.rollup_hour',
	format($$VALUES (%1$L::timestamptz, 3::bigint, 1::float8, 5::float8, 3::float8, 3::float8,
		%1$L::timestamptz + interval '90 s')$$, :'t'), 'and by the hour');
SELECT is_empty('SELECT * FROM iot.rollup_pending', 'nothing is pending');
SELECT is_empty('SELECT * FROM iot.rollup_note', 'nor noted');
SELECT ok(NOT iot_internal.rollup_step(), 'a step without work says so');

-- duplicates change nothing
SELECT iot.ingest('furnace', jsonb_build_object('ts', :'t'::timestamptz + '30 s', 'temperature', 5)) AS again,
	iot.ingest('furnace', jsonb_build_object('ts', :'t'::timestamptz + '30 s', 'temperature', 9)) AS other \gset
SELECT is(:again + :other, 0, 'a repetition and a conflict are not stored');
SELECT is_empty('SELECT * FROM iot.rollup_note', 'nor noted');

-- minutes that follow each other are noted as one, up to sixteen
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, :'t'::timestamptz - interval '5 hours' + n * interval '30 s', n
	FROM sensor('furnace', 'temperature') s, generate_series(0, 199) n WHERE n NOT BETWEEN 50 AND 59
	ORDER BY n;
SELECT results_eq('SELECT sum(total), sum(cardinality(starts)) FROM iot.rollup_note', 'VALUES (95::bigint, 7::bigint)',
	'ninety-five minutes in seven runs');
SELECT is(differences('furnace', 'temperature', :'t'::timestamptz - interval '5 hours', :'t', b), 0::bigint,
	'noted in runs, by ' || b) FROM unnest('{1 minute,1 hour}'::interval[]) b;
CALL roll_up(16);
SELECT is((SELECT count(*) FROM iot.rollup_minute WHERE ts < :'t'), 95::bigint, 'each is rolled up');
SELECT is(differences('furnace', 'temperature', :'t'::timestamptz - interval '5 hours', :'t', b), 0::bigint,
	'and equal, by ' || b) FROM unnest('{1 minute,1 hour}'::interval[]) b;

-- who writes the same minutes again between all steps has each made once, and no minute waits for ever
CREATE FUNCTION write_again(second int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT s.device_id, s.parameter_id, date_trunc('hour', now()) - interval '10 hours' + n * interval '1 minute'
				+ second * interval '1 s', n
			FROM sensor('furnace', 'temperature') s, generate_series(0, 29) n
$$;
CREATE FUNCTION steps_of_round() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	FOR step IN 1 .. 20 LOOP
		PERFORM write_again(step);
		IF NOT iot_internal.rollup_step(10) THEN
			RETURN step;
		END IF;
	END LOOP;
END
$$;
SELECT is(steps_of_round(), 3, 'thirty minutes that are written all the time are a round of three steps of ten');
SELECT is((SELECT count(*) FROM iot.rollup_minute WHERE ts < :'t'::timestamptz - interval '6 hours'), 30::bigint,
	'which makes each of them');
SELECT is(differences('furnace', 'temperature', :'t'::timestamptz - interval '8 hours', :'t'::timestamptz - interval '5 hours', b),
	0::bigint, 'and history knows what came meanwhile, by ' || b) FROM unnest('{1 minute,1 hour}'::interval[]) b;
CALL roll_up(10);
SELECT is(differences('furnace', 'temperature', :'t'::timestamptz - interval '8 hours', :'t'::timestamptz - interval '5 hours', b),
	0::bigint, 'as the next round does, by ' || b) FROM unnest('{1 minute,1 hour}'::interval[]) b;

-- random data, in each stage of being rolled up
SELECT load('4 days', '-1 minute', 4000) \g /dev/null
SELECT all_equal('only noted');
SELECT iot_internal.rollup_step(200) AS more \gset
SELECT is(:'more'::text, 't', 'a step leaves what is too much for one');
SELECT all_equal('begun');
CALL roll_up(200);
SELECT all_equal('rolled up');
SELECT cmp_ok((SELECT count(*) FROM iot.rollup_minute), '>', 2000::bigint, 'minutes there are');
SELECT is_empty($$SELECT * FROM iot.rollup_pending p, iot.rollup_state s
	WHERE p.due_at <= s.stepped_at - interval '1 minute'$$, 'nothing is pending that is over');
SELECT is((SELECT sum(r.count) FROM iot.rollup_hour r JOIN sensor('boiler', 'temperature') s USING (device_id, parameter_id)),
	(SELECT count(*)::numeric FROM iot.measurement m JOIN sensor('boiler', 'temperature') s USING (device_id, parameter_id)
		WHERE m.ts < (SELECT min(p.ts) FROM iot.rollup_pending p WHERE p.width = 'hour')), 'hours that are over hold every measurement once');
SELECT load('4 days', '1 hour', 300) \g /dev/null
SELECT all_equal('late data');
SELECT iot_internal.rollup_take_notes(100000) AS notes \gset
SELECT all_equal('late data, pending');
SELECT iot_internal.rollup_minutes(10000) AS minutes \gset
SELECT all_equal('late data, hours pending');
CALL roll_up();
SELECT all_equal('late data, rolled up');

-- the parts that history is made of: rollups are used where they can be
SELECT results_eq(format($$SELECT p.hours, p.minutes, p.rows FROM sensor('furnace', 'temperature') s,
		iot_internal.history_parts(s.device_id, s.parameter_id, %1$L::timestamptz - interval '30 minutes 10 s',
			%1$L::timestamptz + interval '1 hour 20 s', '1 hour') p$$, :'t'),
	format($$SELECT tstzmultirange(tstzrange(t, t + interval '1 hour')),
		tstzmultirange(tstzrange(t - interval '30 minutes', t)),
		tstzmultirange(tstzrange(t - interval '30 minutes 10 s', t - interval '30 minutes'),
			tstzrange(t + interval '1 hour', t + interval '1 hour 20 s')) FROM (VALUES (%L::timestamptz)) v (t)$$, :'t'),
	'whole hours come from hours, whole minutes from minutes, edges from measurements');
SELECT results_eq(format($$SELECT p.hours, p.minutes FROM sensor('furnace', 'temperature') s,
		iot_internal.history_parts(s.device_id, s.parameter_id, %1$L, %1$L::timestamptz + interval '1 hour', '90 s') p$$, :'t'),
	$$VALUES ('{}'::tstzmultirange, '{}'::tstzmultirange)$$, 'buckets that end within a minute, from measurements');

-- time zones: days are those of the session, even where they end within an hour of UTC or have 23 hours
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, timestamptz '2020-03-22 00:00+00' + n * interval '7 minutes', n
	FROM sensor('boiler', 'humidity') s, generate_series(1, 3000) n;
CALL roll_up();
CREATE FUNCTION in_zone(zone text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('timezone', zone, true);
	RETURN (SELECT string_agg(b || ': ' || differences('boiler', 'humidity', '2020-03-23 11:17:13+00',
			'2020-04-05 05:21:00+00', b), ', ')
		FROM unnest('{1 hour, 1 day, 3 days, 7 days}'::interval[]) b
		WHERE differences('boiler', 'humidity', '2020-03-23 11:17:13+00', '2020-04-05 05:21:00+00', b) <> 0);
END
$$;
SELECT is(in_zone(z), NULL, 'days in ' || z)
	FROM unnest('{UTC,Europe/Berlin,Asia/Kathmandu,Australia/Lord_Howe,America/St_Johns,Pacific/Chatham}'::text[]) z;
SET timezone = 'Europe/Berlin';
SELECT results_eq($$SELECT ts, count FROM iot.history('boiler', 'humidity', '2020-03-28', '2020-03-31', '1 day')$$,
	$$VALUES (timestamptz '2020-03-28', 206::bigint), ('2020-03-29', 197), ('2020-03-30', 206)$$,
	'the day that the clocks change has 23 hours');
SELECT is((SELECT min(ts) FROM iot.history('boiler', 'humidity', '2020-03-25', '2020-04-05', '7 days')),
	timestamptz '2020-03-23', 'weeks begin on a Monday');
SET timezone = 'UTC';

-- values that a sum cannot hold
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, timestamptz '2020-01-01 00:00+00' + n * interval '1 s',
		CASE WHEN n % 3 = 0 THEN -1.7e308 ELSE 1.7e308 END
	FROM sensor('furnace', 'temperature') s, generate_series(0, 299) n;
SELECT lives_ok('CALL roll_up()', 'the largest values are rolled up');
SELECT results_eq($$SELECT min, max, round((avg / 1.7e308)::numeric, 9), count FROM iot.history('furnace', 'temperature',
		'2020-01-01', '2020-01-02', '1 hour')$$,
	$$VALUES (-1.7e308::float8, 1.7e308::float8, round(1 / 3::numeric, 9), 300::bigint)$$, 'and have a mean');

-- the present: a minute that is not over waits, and history does not
SELECT iot.ingest('furnace', '{"temperature": 77}') AS stored \gset
CALL roll_up();
SELECT is((SELECT count FROM iot.history('furnace', 'temperature', now() - interval '10 s', now() + interval '1 s', '1 minute')
		ORDER BY ts DESC LIMIT 1), 1::bigint, 'the last seconds are in history');
SELECT is((SELECT value FROM iot.history('furnace', 'temperature', now() - interval '1 hour', bucket => '1 hour')
		ORDER BY ts DESC LIMIT 1), 77::float8, 'until is now where it is not given');

-- current values: the newest by the device's clock, of the parameters that have one
SELECT iot.create_device('kiln', '{other,temperature,humidity}') AS kiln \gset
SELECT is_empty($$SELECT * FROM iot.last_values('kiln')$$, 'no value yet');
SELECT iot.ingest('kiln', jsonb_build_object('ts', :'t'::timestamptz, 'values', '{"temperature":5,"humidity":40}'::jsonb)) AS a,
	iot.ingest('kiln', jsonb_build_object('ts', :'t'::timestamptz + '2 s', 'temperature', 7)) AS b,
	iot.ingest('kiln', jsonb_build_object('ts', :'t'::timestamptz + '1 s', 'temperature', 6)) AS c \gset
SELECT results_eq($$SELECT * FROM iot.last_values('kiln')$$, format($$VALUES ('humidity', 40::float8, '%%', %1$L::timestamptz),
	('temperature', 7, '°C', %1$L::timestamptz + interval '2 s')$$, :'t'), 'a late value changes no current one');
SELECT results_eq(format('SELECT * FROM iot.last_values(%L)', :'kiln'), $$SELECT * FROM iot.last_values('kiln')$$, 'by its id too');
SELECT results_eq(format('SELECT * FROM iot.last_values(%L)', replace(:'kiln', '-', '')), $$SELECT * FROM iot.last_values('kiln')$$, 'and without dashes');

-- retention: minutes go before hours, measurements before both, and what is there stays right
UPDATE iot.retention SET keep = '30 hours' WHERE relation = 'rollup_minute';
CALL iot.maintain();
SELECT is((SELECT last_error FROM iot.maintenance), NULL, 'maintenance');
SELECT cmp_ok((SELECT min(ts) FROM iot.rollup_minute), '>=', now() - interval '54 hours', 'old minutes are gone');
SELECT cmp_ok((SELECT min(ts) FROM iot.rollup_hour), '<', now() - interval '3 days', 'their hours are not');
SELECT all_equal('minutes gone');
UPDATE iot.retention SET keep = '365 days' WHERE relation = 'rollup_minute';
CALL iot.maintain();
SELECT all_equal('minutes kept longer again');
CREATE TEMP TABLE present AS SELECT date_trunc('hour', now()) AS hour;
CREATE TEMP TABLE before AS SELECT * FROM iot.history('boiler', 'temperature',
	(SELECT hour FROM present) - interval '3 days', (SELECT hour FROM present) - interval '2 days', '1 hour');
UPDATE iot.retention SET keep = '24 hours' WHERE relation = 'measurement';
-- a partition that a vacuum holds goes the next time
DO $$
BEGIN
	FOR i IN 1 .. 100 LOOP
		CALL iot.maintain();
		EXIT WHEN NOT EXISTS (SELECT FROM iot.measurement WHERE ts < now() - interval '49 hours');
	END LOOP;
END $$;
SELECT is_empty($$SELECT FROM iot.measurement WHERE ts < now() - interval '49 hours'$$, 'old measurements are gone');
SELECT results_eq($$SELECT * FROM iot.history('boiler', 'temperature', (SELECT hour FROM present) - interval '3 days',
	(SELECT hour FROM present) - interval '2 days', '1 hour')$$, 'SELECT * FROM before', 'history by the hour is not');
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, (SELECT hour FROM present) - interval '2 days 23 hours 30 minutes', 1
	FROM sensor('boiler', 'temperature') s ON CONFLICT DO NOTHING;
CALL roll_up();
SELECT results_eq($$SELECT ts, count FROM iot.history('boiler', 'temperature', (SELECT hour FROM present) - interval '3 days',
	(SELECT hour FROM present) - interval '2 days', '1 hour')$$, 'SELECT ts, count FROM before',
	'nor is it replaced by a straggler');
UPDATE iot.retention SET keep = '2 days' WHERE relation = 'rollup_hour';
CALL iot.maintain();
SELECT is_empty($$SELECT FROM iot.rollup_hour WHERE ts < now() - interval '2 days'$$, 'hours go at their time');
UPDATE iot.retention SET keep = '3650 days' WHERE relation = 'rollup_hour';
UPDATE iot.retention SET keep = '365 days' WHERE relation = 'measurement';

-- corrections by hand, as the documentation has them
DELETE FROM iot.measurement m USING sensor('boiler', 'temperature') s
	WHERE m.device_id = s.device_id AND m.parameter_id = s.parameter_id
		AND m.ts BETWEEN now() - interval '4 hours' AND now() - interval '3 hours';
DELETE FROM iot.rollup_minute WHERE device_id = :'boiler' AND ts >= date_trunc('day', now() - interval '1 day');
DELETE FROM iot.rollup_hour WHERE device_id = :'boiler' AND ts >= date_trunc('day', now() - interval '1 day');
INSERT INTO iot.rollup_pending (device_id, parameter_id, width, ts, due_at)
	SELECT DISTINCT device_id, parameter_id, 'minute', date_trunc('minute', ts), now()
		FROM iot.measurement WHERE device_id = :'boiler' AND ts >= date_trunc('day', now() - interval '1 day')
	ON CONFLICT DO NOTHING;
CALL roll_up();
SELECT is(differences('boiler', 'temperature', now() - interval '20 hours', now(), b), 0::bigint,
	'after a correction by hand, by ' || b) FROM unnest('{1 minute,1 hour,1 day}'::interval[]) b;

-- the doctor sees where nobody rolls up
SELECT load('1 hour', '0', 10) \g /dev/null
SELECT is((SELECT count(*) FROM iot.check() WHERE finding LIKE 'measurements were rolled up last%'), 0::bigint,
	'new measurements may wait');
UPDATE iot.rollup_state SET stepped_at = now() - interval '20 minutes';
SELECT is((SELECT count(*) FROM iot.check() WHERE finding LIKE 'measurements were rolled up last%'), 1::bigint,
	'but not for long');
CALL roll_up();
SELECT is((SELECT count(*) FROM iot.check() WHERE finding LIKE 'measurements were rolled up last%'), 0::bigint,
	'until they have been');

-- errors
PREPARE history(text, text, timestamptz, timestamptz, interval) AS SELECT * FROM iot.history($1, $2, $3, $4, $5);
SELECT throws_ok($$EXECUTE history('nothing', 'temperature', now(), now(), NULL)$$, '42704',
	'device "nothing" does not exist');
SELECT throws_ok($$EXECUTE history('boiler', 'nothing', now(), now(), NULL)$$, '42704',
	'parameter "nothing" does not exist');
SELECT throws_ok($$EXECUTE history('boiler', 'other', now(), now(), NULL)$$, '42704',
	'device "boiler" has no parameter "other"');
SELECT throws_ok($$EXECUTE history('boiler', 'temperature', NULL, now(), NULL)$$, '22004',
	'since and until must not be null');
SELECT throws_ok($$EXECUTE history('boiler', 'temperature', '-infinity', now(), NULL)$$, '22023',
	'since and until must be finite');
SELECT throws_ok($$EXECUTE history('boiler', 'temperature', now(), now() - interval '1 s', NULL)$$, '22023',
	'since must not be later than until');
SELECT throws_ok(format($$EXECUTE history('boiler', 'temperature', now(), now(), %L)$$, b), '22023', NULL,
	'no bucket: ' || b) FROM unnest('{0,-1 minute,1 month,1 year 1 day,20000 years}'::text[]) b;
SELECT lives_ok(format($$EXECUTE history(%L, 'temperature', now() - interval '1 hour', now(), '1 microsecond')$$, :'boiler'),
	'a device by its id, and the smallest bucket');

-- who may
CREATE ROLE history_anna IN ROLE iot_viewer;
INSERT INTO iot.app_user (username) VALUES ('history_anna');
SET SESSION AUTHORIZATION history_anna;
\set ON_ERROR_STOP off
SELECT * FROM iot.history('boiler', 'temperature', now());
\set history_state :SQLSTATE
SELECT count(*) AS table_rows FROM iot.rollup_hour \gset
SELECT iot_internal.rollup_step();
\set step_state :SQLSTATE
\set ON_ERROR_STOP on
RESET SESSION AUTHORIZATION;
SELECT is(:'history_state'::text, '42501', 'who has no grant reads no history');
SELECT is(:'table_rows'::text, '0', 'nor the tables behind it');
SELECT is(:'step_state'::text, '42501', 'nor rolls up');
INSERT INTO iot.user_group (name) VALUES ('crew');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u;
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT u.user_group_id, d.device_group_id, 'view' FROM iot.user_group u, iot.device_group d;
SET SESSION AUTHORIZATION history_anna;
SELECT count(*) AS seen, jsonb_array_length(iot.lttb(ts, value, 2)) AS points
	FROM iot.history('furnace', 'temperature', now() - interval '1 hour') \gset
RESET SESSION AUTHORIZATION;
SELECT is(:seen, 1, 'with level "view" she does');
SELECT is(:points, 1, 'and plots it');

DROP ROLE history_anna;
SELECT * FROM finish();
