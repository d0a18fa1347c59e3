-- Every kind of alarm rule, by sequences in event time: one measurement at a time, as many as can be
-- at once, and by backtest, which must all come to the same.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;
SET TimeZone = 'UTC';

SELECT no_plan();

INSERT INTO iot.parameter (name, unit, labels) VALUES ('temperature', '°C', NULL),
	('valve', NULL, '{"OFF": 0, "ON": 1}');
SELECT iot.create_device('boiler', ARRAY['temperature', 'valve']) AS boiler \gset
SELECT parameter_id AS temperature FROM iot.parameter WHERE name = 'temperature' \gset

-- seconds after a Monday's midnight
CREATE FUNCTION at(seconds float8) RETURNS timestamptz LANGUAGE sql STABLE AS
	'SELECT date_trunc(''week'', now()) - interval ''14 days'' + seconds * interval ''1 s''';
CREATE FUNCTION seconds(at timestamptz) RETURNS float8 LANGUAGE sql STABLE AS
	'SELECT extract(epoch FROM $1 - at(0))::float8';
-- "opened-closed severity", "opened- severity" while open; "orange/red" where it was higher before
CREATE FUNCTION told() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s-%s %s', seconds(a.opened_at), seconds(a.closed_at),
			CASE a.severity WHEN a.highest_severity THEN a.severity ELSE a.severity || '/' || a.highest_severity END),
			', ' ORDER BY a.opened_at)
		FROM iot.alarm a
$$;
CREATE FUNCTION backtested(until float8) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s-%s %s', seconds(b.opened_at), seconds(b.closed_at), b.severity),
			', ' ORDER BY b.opened_at)
		FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, at(0), at(until)) b
		WHERE r.name = 'r'
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
CREATE FUNCTION store(ps float8[], names text[], vals float8[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT d.device_id, p.parameter_id, at(u.ts), u.value
			FROM unnest(ps, names, vals) AS u (ts, name, value)
				JOIN iot.parameter p USING (name) JOIN iot.device d ON d.name = 'boiler'
$$;
-- "seconds value", "seconds parameter=value ..." or "seconds sweep", one after another
CREATE FUNCTION play(points text, at_once boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	point text;
	word text;
	ps float8[] := '{}';
	names text[] := '{}';
	vals float8[] := '{}';
BEGIN
	FOREACH point IN ARRAY regexp_split_to_array(points, ' *, *') || '0 end'::text LOOP
		IF (NOT at_once OR point ~ '(sweep|end)$') AND cardinality(ps) > 0 THEN
			PERFORM iot_internal.set_alarm_clock(at(ps[cardinality(ps)]));
			PERFORM store(ps, names, vals);
			ps := '{}';
			names := '{}';
			vals := '{}';
		END IF;
		IF point ~ 'sweep$' THEN
			PERFORM iot_internal.set_alarm_clock(at(split_part(point, ' ', 1)::float8));
			PERFORM iot_internal.alarm_sweep(100);
			CONTINUE;
		END IF;
		CONTINUE WHEN point = '0 end';
		FOREACH word IN ARRAY (regexp_split_to_array(point, ' +'))[2:] LOOP
			ps := ps || split_part(point, ' ', 1)::float8;
			names := names || CASE WHEN word ~ '=' THEN split_part(word, '=', 1) ELSE 'temperature' END;
			vals := vals || CASE WHEN word ~ '=' THEN split_part(word, '=', 2) ELSE word END::float8;
		END LOOP;
	END LOOP;
END
$$;

CREATE TEMP TABLE sequence (number integer GENERATED ALWAYS AS IDENTITY, title text, set text, points text,
	until float8, alarms text);
INSERT INTO sequence (title, set, points, until, alarms) VALUES
	-- rate
	('rate', $$kind = 'rate', comparison = '>', threshold = 10$$,
		'0 10, 60 20, 120 31, 180 41', 200, '120-180 red'),
	('a first measurement is no change', $$kind = 'rate', comparison = '>', threshold = -1e9$$,
		'0 1000000', 10, NULL),
	('falling', $$kind = 'rate', comparison = '<', threshold = -5$$,
		'0 100, 60 94, 120 93', 200, '60-120 red'),
	('falling at least so fast', $$kind = 'rate', comparison = '<=', threshold = -6$$,
		'0 100, 60 94, 120 93', 200, '60-120 red'),
	('rate per hour', $$kind = 'rate', comparison = '>=', threshold = 3600, per = '1 hour'$$,
		'0 0, 1 1, 2 1', 10, '1-2 red'),
	('rate with hysteresis', $$kind = 'rate', comparison = '>', threshold = 10, close_threshold = 5$$,
		'0 0, 60 11, 120 17, 180 21', 200, '60-180 red'),
	('rate with repetition', $$kind = 'rate', comparison = '>', threshold = 10, repeat_count = 2$$,
		'0 0, 60 11, 120 12, 180 30, 240 50, 300 50', 400, '240-300 red'),
	('rate that lasts', $$kind = 'rate', comparison = '>', threshold = 10, duration = '90 s'$$,
		'0 0, 60 11, 120 23, 180 40, 240 40', 400, '150-240 red'),
	('rate of two severities', $$kind = 'rate', severity = 'orange', comparison = '>', threshold = 10, red_threshold = 20$$,
		'0 0, 60 15, 120 40, 180 55, 240 55', 400, '60-240 orange/red'),
	('I16: a change beyond all numbers is none', $$kind = 'rate', comparison = '>', threshold = 10$$,
		'0 -1.7e308, 60 1.7e308', 100, NULL),
	-- no data
	('silence', $$kind = 'no_data', timeout = '60 s'$$, '0 1, 30 1, 90 1, 151 1', 152, '150-151 red'),
	('silence that is noticed', $$kind = 'no_data', timeout = '60 s'$$,
		'0 1, 59 sweep, 61 sweep, 100 1', 110, '60-100 red'),
	('silence that goes on', $$kind = 'no_data', timeout = '60 s'$$, '0 1, 500 sweep', 500, '60- red'),
	('two silences', $$kind = 'no_data', timeout = '60 s'$$,
		'0 1, 61 sweep, 100 1, 159 sweep, 160 sweep, 300 1', 310, '60-100 red, 160-300 red'),
	('silence from the beginning', $$kind = 'no_data', timeout = '60 s'$$,
		'59 sweep, 60 sweep, 70 1', 80, '60-70 red'),
	('silence that turns red', $$kind = 'no_data', severity = 'orange', timeout = '60 s', red_timeout = '2 minutes'$$,
		'0 1, 119 sweep, 121 sweep, 300 1', 301, '60-300 red'),
	('silence with a shortest time open', $$kind = 'no_data', timeout = '60 s', min_open = '100 s'$$,
		'0 1, 70 1, 120 1, 161 1', 165, '60-160 red'),
	('silence comes back within the shortest time open', $$kind = 'no_data', timeout = '60 s', min_open = '100 s'$$,
		'0 1, 61 sweep, 70 1, 131 sweep, 200 sweep, 210 1', 211, '60-210 red'),
	('silence that people end', $$kind = 'no_data', timeout = '60 s', auto_close = false$$,
		'0 1, 61 sweep, 100 1', 110, '60- red'),
	('silence within hours', $$kind = 'no_data', timeout = '1 hour', time_zone = 'UTC', from_time = '08:00', to_time = '10:00'$$,
		'100 1, 25000 sweep, 28801 sweep, 36001 sweep, 40000 1', 40001, '28800-36000 red'),
	('silence that begins within hours', $$kind = 'no_data', timeout = '1 hour', time_zone = 'UTC', from_time = '08:00', to_time = '10:00'$$,
		'30000 1, 40000 1', 40001, '28800-30000 red, 33600-36000 red'),
	-- conditions
	('condition', $$kind = 'condition', parameter_id = NULL, condition = '$.temperature > 80 && $.valve == 0'$$,
		'0 temperature=90 valve=1, 1 valve=0, 2 temperature=70', 10, '1-2 red'),
	('values of one time belong together', $$kind = 'condition', parameter_id = NULL, condition = '$.temperature > 80 && $.valve == 0'$$,
		'0 temperature=70 valve=0, 1 temperature=90 valve=1, 2 valve=0', 10, '2- red'),
	('a value that is not there is none', $$kind = 'condition', parameter_id = NULL, condition = '$.temperature > 80 && $.valve == 0'$$,
		'0 temperature=90, 1 temperature=91', 10, NULL),
	('or there', $$kind = 'condition', parameter_id = NULL, condition = '!(exists($.valve))'$$,
		'0 temperature=90, 1 valve=0', 10, '0-1 red'),
	('condition of a parameter', $$kind = 'condition', condition = '$.temperature > 80 && $.valve == 0'$$,
		'0 temperature=90 valve=1, 1 valve=0, 2 temperature=90, 3 valve=1, 4 temperature=90', 10, '2-4 red'),
	('condition with hysteresis', $$kind = 'condition', parameter_id = NULL, condition = '$.temperature > 80 && $.valve == 0',
			stay_condition = '$.temperature > 75'$$,
		'0 temperature=90 valve=0, 1 valve=1, 2 temperature=76, 3 temperature=75', 10, '0-3 red'),
	('condition of two severities', $$kind = 'condition', severity = 'orange', parameter_id = NULL, condition = '$.temperature > 80',
			red_condition = '$.temperature > 80 && $.valve == 0', red_stay_condition = '$.temperature > 85 && $.valve < 2'$$,
		'0 temperature=90 valve=1, 1 valve=0, 2 valve=1, 3 temperature=84, 4 temperature=1', 10, '0-4 orange/red'),
	('condition that lasts', $$kind = 'condition', parameter_id = NULL, condition = '$.temperature > 80 && $.valve == 0', duration = '10 s'$$,
		'0 temperature=90 valve=0, 5 temperature=91, 9 valve=1, 20 valve=0, 25 valve=0, 31 sweep, 40 valve=1', 50, '30-40 red'),
	('condition that repeats', $$kind = 'condition', parameter_id = NULL, condition = '$.temperature > 80', repeat_count = 3$$,
		'0 temperature=90 valve=0, 1 valve=1, 2 valve=1, 3 temperature=1', 10, '2-3 red'),
	-- severities
	('severity rises and falls', $$kind = 'threshold', severity = 'orange', comparison = '>', threshold = 80, close_threshold = 75,
			red_threshold = 100, red_close_threshold = 95$$,
		'0 81, 1 101, 2 96, 3 95, 4 76, 5 75', 10, '0-5 orange/red'),
	('straight into red', $$kind = 'threshold', severity = 'orange', comparison = '>', threshold = 80, red_threshold = 100$$,
		'0 150, 1 10', 10, '0-1 red'),
	('severity of zones', $$kind = 'range', severity = 'orange', value_min = 40, value_max = 50, red_min = 50, red_max = 100$$,
		'0 39, 1 45, 2 50, 3 100', 10, '1-3 red'),
	('severity falls before it is over', $$kind = 'range', severity = 'orange', value_min = 40, value_max = 50, red_min = 50, red_max = 100$$,
		'0 99, 1 45, 2 39', 10, '0-2 orange/red'),
	('severity only rises where people close', $$kind = 'threshold', severity = 'orange', comparison = '>', threshold = 80, red_threshold = 100,
			auto_close = false$$,
		'0 90, 1 110, 2 90, 3 10', 10, '0- red'),
	('each severity lasts by itself', $$kind = 'threshold', severity = 'orange', comparison = '>', threshold = 80, red_threshold = 100,
			duration = '10 s'$$,
		'0 90, 5 110, 20 110, 30 10', 40, '10-30 red'),
	('silence makes it rise', $$kind = 'threshold', severity = 'orange', comparison = '>', threshold = 80, red_threshold = 100,
			duration = '10 s'$$,
		'0 90, 5 110, 10 sweep, 14 sweep, 16 sweep', 17, '10- red'),
	('each severity repeats by itself', $$kind = 'threshold', severity = 'orange', comparison = '>', threshold = 80, red_threshold = 100,
			repeat_count = 2$$,
		'0 110, 1 90, 2 110, 3 90, 4 110, 5 110, 6 10', 10, '1-6 red'),
	('severity within the shortest time open', $$kind = 'threshold', severity = 'orange', comparison = '>', threshold = 80, red_threshold = 100,
			min_open = '10 s'$$,
		'0 110, 1 10, 2 90, 3 10, 11 10', 20, '0-10 orange/red'),
	-- schedules; 8:00 is 28800, 17:00 is 61200, a day 86400
	('hours', $$kind = 'threshold', comparison = '>', threshold = 80, time_zone = 'UTC', from_time = '08:00', to_time = '17:00'$$,
		'3600 90, 28799 sweep, 30000 90, 40000 10, 50000 90, 61300 90, 62000 10', 70000, '28800-40000 red, 50000-61200 red'),
	('edges in silence', $$kind = 'threshold', comparison = '>', threshold = 80, time_zone = 'UTC', from_time = '08:00', to_time = '17:00'$$,
		'3600 90, 28799 sweep, 28800 sweep, 61199 sweep, 61201 sweep', 61201, '28800-61200 red'),
	('edges of several days', $$kind = 'threshold', comparison = '>', threshold = 80, time_zone = 'UTC', from_time = '08:00', to_time = '17:00'$$,
		'3600 90, 150000 10', 150001, '28800-61200 red, 115200-147600 red'),
	('an edge counts as a measurement', $$kind = 'threshold', comparison = '>', threshold = 80, repeat_count = 2,
			time_zone = 'UTC', from_time = '08:00', to_time = '17:00'$$,
		'3600 90, 3601 90, 28801 sweep, 30000 90, 30001 10', 30002, '30000-30001 red'),
	('hours at night are of the day on which they begin', $$kind = 'threshold', comparison = '>', threshold = 80, weekdays = '{1}',
			time_zone = 'UTC', from_time = '22:00', to_time = '06:00'$$,
		'18000 90, 79199 90, 79200 90, 104400 90, 108000 90, 200000 90', 200001, '79200-108000 red'),
	('weekdays', $$kind = 'threshold', comparison = '>', threshold = 80, weekdays = '{2,3}', time_zone = 'UTC'$$,
		'0 90, 86399 90, 90000 90, 180000 90, 259200 90, 300000 90', 300001, '86400-259200 red'),
	('hours of elsewhere', $$kind = 'threshold', comparison = '>', threshold = 80, time_zone = 'Asia/Kolkata', from_time = '08:00', to_time = '09:00'$$,
		'0 90, 20000 10', 20001, '9000-12600 red'),
	('hours and a duration', $$kind = 'threshold', comparison = '>', threshold = 80, duration = '1 hour',
			time_zone = 'UTC', from_time = '08:00', to_time = '17:00'$$,
		'3600 90, 28801 sweep, 32401 sweep, 59000 10, 60000 90, 70000 90', 70001, '32400-59000 red'),
	('hours and a shortest time open', $$kind = 'threshold', comparison = '>', threshold = 80, min_open = '1 hour',
			time_zone = 'UTC', from_time = '08:00', to_time = '17:00'$$,
		'61100 90, 61201 sweep, 64701 sweep', 64702, '61100-64700 red'),
	('who closes by hand closes after hours too', $$kind = 'threshold', comparison = '>', threshold = 80, auto_close = false,
			time_zone = 'UTC', from_time = '08:00', to_time = '17:00'$$,
		'30000 90, 61201 sweep, 70000 10', 70001, '30000- red');

CREATE FUNCTION run(s sequence, at_once boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM rule(s.set);
	PERFORM play(s.points, at_once);
	RETURN told();
END
$$;
CREATE FUNCTION highest(alarms text) RETURNS text LANGUAGE sql AS
	'SELECT replace($1, ''orange/red'', ''red'')';
CREATE FUNCTION run_backtest(s sequence) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM rule(s.set);
	UPDATE iot.alarm_rule SET enabled = false WHERE name = 'r';
	PERFORM play(s.points, true);
	PERFORM iot_internal.set_alarm_clock(at(s.until));
	RETURN backtested(s.until);
END
$$;
SELECT is(run(s, false), s.alarms, s.title || ', one by one') FROM sequence s ORDER BY number;
SELECT is(run(s, true), s.alarms, s.title || ', at once') FROM sequence s ORDER BY number;
SELECT is(run_backtest(s), highest(s.alarms), s.title || ', by backtest of a disabled rule') FROM sequence s ORDER BY number;

-- late measurements are stored only, whatever the kind
CREATE FUNCTION late(set text, points text, late text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	before text;
BEGIN
	PERFORM rule(set);
	PERFORM play(points, false);
	before := told();
	PERFORM play(late, false);
	RETURN is(told(), before, 'I14: ' || late || ' is late after ' || points);
END
$$;
SELECT late($$kind = 'rate', comparison = '>', threshold = 10$$, '0 0, 60 11, 120 12', '90 1000');
SELECT late($$kind = 'rate', comparison = '>', threshold = 10$$, '0 0, 60 11', '30 11');
SELECT late($$kind = 'no_data', timeout = '60 s'$$, '0 1, 100 1, 161 sweep', '90 1');
SELECT late($$kind = 'condition', parameter_id = NULL, condition = '$.temperature > 80 && $.valve == 0'$$,
	'0 temperature=90 valve=1, 10 temperature=91 valve=1', '5 valve=0 temperature=92');
SELECT rule($$kind = 'condition', parameter_id = NULL, condition = '$.temperature > 80 && $.valve == 0'$$),
	play('0 temperature=90 valve=1, 10 temperature=91, 5 valve=0', false) \g /dev/null
SELECT is(told(), '10- red', 'what is late for one sensor is not for another, and counts as of the newest');
SELECT late($$kind = 'threshold', severity = 'orange', comparison = '>', threshold = 80, red_threshold = 100$$,
	'0 90, 10 85', '5 120');
SELECT late($$kind = 'threshold', comparison = '>', threshold = 80, time_zone = 'UTC', from_time = '08:00', to_time = '17:00'$$,
	'29000 90, 30000 91', '29500 10');

-- what comes after time alone has passed a verdict counts as of then
SELECT rule($$kind = 'no_data', timeout = '60 s'$$), play('0 1, 100 sweep, 50 1', false) \g /dev/null
SELECT is(told(), '60-60 red', 'a measurement that was under way when its silence was noticed ends it, and not before it began');
SELECT rule($$kind = 'threshold', comparison = '>', threshold = 80, time_zone = 'UTC', from_time = '08:00', to_time = '17:00'$$),
	play('3600 90, 28801 sweep, 28799 10', false) \g /dev/null
SELECT is(told(), '28800-28800 red', 'as does one that was under way at an edge');
SELECT play('28802 95', false) \g /dev/null
SELECT is(told(), '28800-28800 red, 28802- red', 'and the next is judged as ever');

SELECT * FROM finish();
