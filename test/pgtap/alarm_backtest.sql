-- Trying rules on the past: what live rules did and what a backtest says are the same, on random
-- sequences of every kind; who may ask, and what is refused.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;
SET TimeZone = 'UTC';

SELECT no_plan();

INSERT INTO iot.parameter (name) VALUES ('temperature'), ('valve');
SELECT iot.create_device('boiler', ARRAY['temperature', 'valve']) AS boiler \gset
UPDATE iot.device_state SET attributes = '{"limit": 55, "low": "no number"}';
INSERT INTO iot.device_state (device_id, attributes) SELECT :'boiler', '{"limit": 55, "low": "no number"}'
	ON CONFLICT (device_id) DO UPDATE SET attributes = excluded.attributes;

CREATE FUNCTION at(seconds float8) RETURNS timestamptz LANGUAGE sql STABLE AS
	'SELECT date_trunc(''week'', now()) - interval ''14 days'' + seconds * interval ''1 s''';
CREATE FUNCTION seconds(at timestamptz) RETURNS float8 LANGUAGE sql STABLE AS
	'SELECT extract(epoch FROM $1 - at(0))::float8';
CREATE FUNCTION pick(VARIADIC words text[]) RETURNS text LANGUAGE sql VOLATILE AS
	'SELECT words[1 + floor(random() * cardinality(words))::integer]';
CREATE FUNCTION number(low integer, high integer) RETURNS integer LANGUAGE sql VOLATILE AS
	'SELECT low + floor(random() * (high - low + 1))::integer';

-- a random rule of a kind, as columns to be set
CREATE FUNCTION random_rule(kind text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	severity text := pick('orange', 'red');
	two boolean := severity = 'orange' AND random() < 0.6;
	up boolean := random() < 0.5;
	threshold integer := number(40, 60);
	columns text;
BEGIN
	columns := format('kind = %L, severity = %L', kind, severity);
	IF kind = 'range' THEN
		columns := columns || format(', value_min = %s, value_max = %s', threshold - 10, threshold + 10)
			|| pick('', format(', close_min = %s, close_max = %s', threshold - 15, threshold + 20))
			|| pick('', ', value_max_attribute = ''limit''', ', value_min_attribute = ''low''')
			|| CASE WHEN two THEN format(', red_min = %s, red_max = %s', threshold + 10, threshold + 30)
				|| pick('', format(', red_close_min = %s', threshold + 5)) ELSE '' END;
	ELSIF kind IN ('threshold', 'rate') THEN
		columns := columns || format(', comparison = %L, threshold = %s', pick(CASE WHEN up THEN '>' ELSE '<' END,
				CASE WHEN up THEN '>=' ELSE '<=' END), threshold)
			|| pick('', format(', close_threshold = %s', threshold + CASE WHEN up THEN -10 ELSE 10 END))
			|| pick('', ', threshold_attribute = ''limit''')
			|| CASE WHEN two THEN format(', red_threshold = %s', threshold + CASE WHEN up THEN 20 ELSE -20 END)
				|| pick('', format(', red_close_threshold = %s', threshold + CASE WHEN up THEN 10 ELSE -10 END)) ELSE '' END
			|| CASE WHEN kind = 'rate' THEN format(', per = ''%s s''', number(60, 20000)) ELSE '' END;
	ELSIF kind = 'no_data' THEN
		columns := columns || format(', timeout = ''%s s''', number(100, 4000))
			|| CASE WHEN two THEN format(', red_timeout = ''%s s''', number(4000, 9000)) ELSE '' END;
	ELSE
		columns := columns || format(', condition = ''$.temperature > %s && $.valve == %s''', threshold, number(0, 1))
			|| pick('', ', parameter_id = NULL')
			|| pick('', format(', stay_condition = ''$.temperature > %s''', threshold - 20))
			|| CASE WHEN two THEN format(', red_condition = ''$.temperature > %s''', threshold + 20)
				|| pick('', ', red_stay_condition = ''$.temperature > $.attributes.limit''') ELSE '' END;
	END IF;
	IF kind <> 'no_data' THEN
		columns := columns || pick('', format(', repeat_count = %s', number(1, 4)))
			|| pick('', format(', duration = ''%s s''', number(1, 4000)));
	END IF;
	columns := columns || pick('', '', format(', min_open = ''%s s''', number(1, 5000)))
		|| pick('', '', format(', time_zone = ''Europe/Berlin'', from_time = %L, to_time = %L',
				make_time(number(0, 11), number(0, 59), 0), make_time(number(12, 23), number(0, 59), 0)),
			format(', time_zone = ''UTC'', from_time = %L, to_time = %L',
				make_time(number(12, 23), number(0, 59), 0), make_time(number(0, 11), number(0, 59), 0))
				|| pick('', ', weekdays = ''{1,3}'''));
	IF columns !~ 'min_open' THEN
		columns := columns || pick('', '', '', ', auto_close = false');
	END IF;
	RETURN columns;
END
$$;

CREATE FUNCTION rule(set text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM iot.alarm_rule WHERE name NOT LIKE 'temperature-%';
	DELETE FROM iot.alarm;
	DELETE FROM iot.measurement;
	DELETE FROM iot.sensor_value;
	PERFORM iot_internal.set_alarm_clock(at(0));
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, value_min, enabled)
		SELECT 'r', 'range', p.parameter_id, 80, false FROM iot.parameter p WHERE p.name = 'temperature';
	EXECUTE format('UPDATE iot.alarm_rule SET enabled = true, %s%s WHERE name = ''r''', set,
		CASE WHEN set !~ '\mvalue_min =' THEN ', value_min = NULL' END);
END
$$;
-- measurements of random times and values, several in a statement or one; between them the clock
-- goes on and somebody sweeps, or does not
CREATE FUNCTION play() RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	clock float8 := 0;
	statement integer;
	device uuid := (SELECT device_id FROM iot.device WHERE name = 'boiler');
	times float8[];
	vals float8[];
	valves float8[];
BEGIN
	FOR statement IN 1..number(4, 12) LOOP
		times := '{}';
		vals := '{}';
		valves := '{}';
		FOR i IN 1..number(1, 5) LOOP
			clock := clock + CASE WHEN random() < 0.8 THEN number(1, 2000) ELSE number(2000, 30000) END;
			times := times || clock;
			-- NULL: this one was not measured then
			vals := vals || CASE WHEN random() < 0.85 THEN number(20, 90) END::float8;
			valves := valves || CASE WHEN random() < 0.5 THEN number(0, 1) END::float8;
		END LOOP;
		PERFORM iot_internal.set_alarm_clock(at(clock));
		INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
			SELECT device, p.parameter_id, at(u.ts), u.value
				FROM (SELECT 'temperature' AS name, t.* FROM unnest(times, vals) AS t (ts, value)
						UNION ALL SELECT 'valve', v.* FROM unnest(times, valves) AS v (ts, value)) AS u
					JOIN iot.parameter p USING (name)
				WHERE u.value IS NOT NULL ORDER BY random();
		IF random() < 0.5 THEN
			clock := clock + CASE WHEN random() < 0.5 THEN number(1, 1000) ELSE number(1000, 40000) END;
			PERFORM iot_internal.set_alarm_clock(at(clock + 0.5));
			PERFORM iot_internal.alarm_sweep(100);
			clock := clock + 1;
		END IF;
	END LOOP;
	clock := clock + number(1, 20000) + 0.5;
	PERFORM iot_internal.set_alarm_clock(at(clock));
	PERFORM iot_internal.alarm_sweep(100);
	RETURN clock;
END
$$;
CREATE FUNCTION live() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s-%s %s %s', seconds(a.opened_at), seconds(a.closed_at), a.highest_severity, a.value),
			', ' ORDER BY a.opened_at, a.closed_at)
		FROM iot.alarm a
$$;
CREATE FUNCTION backtested(until float8) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s-%s %s %s', seconds(b.opened_at), seconds(b.closed_at), b.severity, b.value),
			', ' ORDER BY b.opened_at, b.closed_at)
		FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, at(0), at(until)) b
		WHERE r.name = 'r'
$$;
-- severities as events told them: each change is one, from what it was to what it is
CREATE FUNCTION told_twice() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM (SELECT e.payload ->> 'severity' AS severity,
				lag(e.payload ->> 'severity') OVER (PARTITION BY e.aggregateid ORDER BY e.id) AS before, e.type,
				e.payload ->> 'previous_severity' AS previous
			FROM iot.event e WHERE e.aggregateid IN (SELECT alarm_id::text FROM iot.alarm)) x
		WHERE CASE x.type WHEN 'alarm.opened' THEN x.before IS NOT NULL
			WHEN 'alarm.severity_changed' THEN x.before = x.severity OR x.before <> x.previous
			ELSE x.before <> x.severity END
$$;

CREATE TEMP TABLE outcome (kind text, number integer, set text, alarms text, backtest text, told_twice bigint);
CREATE FUNCTION try(kind text, sequences integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	set text;
	until float8;
BEGIN
	FOR i IN 1..sequences LOOP
		set := random_rule(kind);
		PERFORM rule(set);
		until := play();
		INSERT INTO outcome VALUES (kind, i, set, live(), backtested(until), told_twice());
	END LOOP;
END
$$;
SELECT setseed(0.42);
SELECT try(k, 80) FROM unnest(ARRAY['range', 'threshold', 'rate', 'no_data', 'condition']) AS k \g /dev/null
SELECT is((SELECT format('%s: %s, live %s, backtest %s', o.number, o.set, o.alarms, o.backtest) FROM outcome o
		WHERE o.kind = k AND o.alarms IS DISTINCT FROM o.backtest LIMIT 1), NULL,
	format('%s: live and backtest are the same on %s random sequences, with %s alarms, %s of them red', k,
		count(*), sum(cardinality(string_to_array(o.alarms, ','))), sum(array_length(string_to_array(o.alarms, ' red '), 1) - 1)))
	FROM unnest(ARRAY['range', 'threshold', 'rate', 'no_data', 'condition']) AS k JOIN outcome o ON o.kind = k
	GROUP BY k ORDER BY k;
SELECT cmp_ok(count(o.alarms), '>', 30::bigint, k || ': most of them have alarms')
	FROM unnest(ARRAY['range', 'threshold', 'rate', 'no_data', 'condition']) AS k JOIN outcome o ON o.kind = k
	GROUP BY k ORDER BY k;
SELECT is(sum(told_twice), 0::numeric, 'I15: openings, severities and closings of an alarm follow each other in its events')
	FROM outcome;
SELECT is((SELECT count(*) FROM outcome WHERE set ~ 'time_zone' AND alarms IS NOT NULL) > 30, true,
	'many of them by a schedule');

-- whom it is for
SELECT iot_internal.set_alarm_clock(NULL) \g /dev/null
INSERT INTO iot.device_group (name) VALUES ('hall');
SELECT iot.create_device('kiln', ARRAY['temperature'], device_group => 'hall') AS kiln \gset
SELECT iot.create_device('silent', ARRAY['temperature']) AS silent \gset
DELETE FROM iot.measurement;
DELETE FROM iot.alarm_rule WHERE name = 'r';
DELETE FROM iot.alarm;
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, duration, enabled)
	SELECT 'r', 'threshold', parameter_id, '>', 80, '10 s', false FROM iot.parameter WHERE name = 'temperature';
SELECT alarm_rule_id AS rule FROM iot.alarm_rule WHERE name = 'r' \gset
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT d.device_id, p.parameter_id, at(i), CASE WHEN i % 100 < 50 THEN 90 ELSE 10 END
		FROM iot.device d, iot.parameter p, generate_series(0, 2999) AS i
		WHERE d.name <> 'silent' AND p.name = 'temperature';
CREATE FUNCTION tried(since float8, until float8) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s-%s', b.device, seconds(b.opened_at), seconds(b.closed_at)), ', '
			ORDER BY b.device, b.opened_at)
		FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, at(since), at(until)) b
		WHERE r.name = 'r'
$$;
SELECT is(tried(0, 60), 'boiler 10-50, kiln 10-50', 'each device has its own alarms');
SELECT is(tried(0, 50), 'boiler 10-, kiln 10-', 'what the time leaves open is open');
SELECT is(tried(45, 145), 'boiler 110-, kiln 110-', 'it begins as if the rule were made then');
SELECT is(tried(2945, 3500), NULL, 'and nothing is there where nothing was measured');
SELECT is((SELECT count(*) FROM iot.backtest_alarm_rule(:'rule', at(0), at(3000))), 60::bigint,
	'over many measurements');
SELECT is((SELECT count(*) FROM iot.alarm), 0::bigint, 'none of which is written');
UPDATE iot.alarm_rule SET device_group_id = g.device_group_id, scope = 'group'
	FROM iot.device_group g WHERE g.name = 'hall' AND alarm_rule_id = :'rule';
SELECT is(tried(0, 60), 'kiln 10-50', 'only devices that the rule is about');
UPDATE iot.alarm_rule SET device_group_id = NULL, scope = 'all' WHERE alarm_rule_id = :'rule';
SELECT is((SELECT count(*) FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, at(0), at(60))
	WHERE r.name = 'temperature-red'), 2::bigint, 'a rule of the seed is one like others');
SELECT throws_ok('SELECT * FROM iot.backtest_alarm_rule(''00000000-0000-0000-0000-000000000000'', now() - interval ''1 day'', now())',
	'42704', 'alarm rule 00000000-0000-0000-0000-000000000000 does not exist', 'a rule that is not there');
SELECT throws_ok(format('SELECT * FROM iot.backtest_alarm_rule(%L, now(), now())', :'rule'), '22023',
	'invalid time range', 'no time');
SELECT throws_ok(format('SELECT * FROM iot.backtest_alarm_rule(%L, ''-infinity'', now())', :'rule'), '22023',
	'invalid time range', 'all of time');
SELECT throws_ok(format('SELECT * FROM iot.backtest_alarm_rule(%L, NULL, now())', :'rule'), '22023',
	'invalid time range', 'from nowhere');
INSERT INTO iot.app_user (username) VALUES ('bert'), ('carl');
INSERT INTO iot.user_group (name) VALUES ('viewers');
INSERT INTO iot.user_group_member SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE g.name = 'viewers' AND u.username = 'bert';
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT u.user_group_id, d.device_group_id, 'view' FROM iot.user_group u, iot.device_group d
		WHERE u.name = 'viewers' AND d.name = 'default';
CREATE ROLE bert IN ROLE iot_viewer;
CREATE ROLE carl IN ROLE iot_viewer;
SET ROLE bert;
SELECT count(*) || ' ' || max(device) AS seen FROM iot.backtest_alarm_rule(:'rule', current_date - 100, now()) \gset
RESET ROLE;
SELECT is(:'seen'::text, '30 boiler', 'who may view a device tries rules on it, and on no other');
SET ROLE carl;
SELECT count(*) AS seen FROM iot.backtest_alarm_rule(:'rule', current_date - 100, now()) \gset
RESET ROLE;
SELECT is(:'seen'::text, '0', 'who may view none tries it on none');
SELECT throws_ok(format('SET ROLE carl; SELECT * FROM iot_internal.backtest_alarm_device(%L, %L, now(), now())',
	:'rule', :'kiln'), '42501', NULL, 'and cannot go round that');
RESET ROLE;
DROP ROLE bert, carl;
CREATE FUNCTION is_cancelled(rule uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM FROM generate_series(1, 1000000), iot.backtest_alarm_rule(rule, current_date - 100, now());
	RETURN false;
EXCEPTION WHEN query_canceled THEN
	RETURN true;
END
$$;
SET statement_timeout = '200 ms';
SELECT is_cancelled(:'rule') AS cancelled \gset
RESET statement_timeout;
SELECT ok(:'cancelled', 'it can be cancelled');

SELECT * FROM finish();
