-- Alarm rules as rows: what is refused, whom they wait for, bounds from attributes, what is written
-- and told, rules that fail.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;
SET TimeZone = 'UTC';

SELECT no_plan();

INSERT INTO iot.parameter (name, unit) VALUES ('temperature', '°C'), ('valve', NULL);
SELECT iot.create_device('boiler', ARRAY['temperature', 'valve']) AS boiler \gset
INSERT INTO iot.device_group (name) VALUES ('hall');
SELECT parameter_id AS temperature FROM iot.parameter WHERE name = 'temperature' \gset

CREATE FUNCTION at(seconds float8) RETURNS timestamptz LANGUAGE sql STABLE AS
	'SELECT date_trunc(''hour'', now()) - interval ''1 day'' + seconds * interval ''1 s''';
CREATE FUNCTION feed(device text, seconds float8, vals jsonb) RETURNS integer LANGUAGE sql AS
	'SELECT iot.ingest(device, vals, at(seconds))';
CREATE FUNCTION told(device text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s-%s', a.rule, extract(epoch FROM a.opened_at - at(0))::float8,
			extract(epoch FROM a.closed_at - at(0))::float8), ', ' ORDER BY a.opened_at, a.rule)
		FROM iot.alarm a JOIN iot.device d USING (device_id) WHERE d.name = $1
$$;
CREATE FUNCTION clock(seconds float8) RETURNS void LANGUAGE sql AS
	'SELECT iot_internal.set_alarm_clock(at(seconds))';
CREATE FUNCTION fresh() RETURNS void LANGUAGE sql AS $$
	DELETE FROM iot.alarm_rule WHERE name NOT LIKE 'temperature-%';
	DELETE FROM iot.alarm;
	DELETE FROM iot.measurement;
	DELETE FROM iot.sensor_value;
$$;

-- a name is for people
INSERT INTO iot.alarm_rule (name, kind, comparison, threshold, enabled) VALUES ('too hot, überhitzt', 'threshold', '>', 1, false);
SELECT throws_ok(format('INSERT INTO iot.alarm_rule (name, kind, comparison, threshold, enabled) VALUES (%L, ''threshold'', ''>'', 1, false)', n),
		'22023', NULL, format('a name cannot be %L', n))
	FROM unnest(ARRAY['', ' x', 'x ', E'a\nb', repeat('x', 101)]) AS n;

-- what is refused
CREATE FUNCTION refused(columns text, vals text, message text) RETURNS text LANGUAGE sql AS $$
	SELECT throws_ok(format('INSERT INTO iot.alarm_rule (name, parameter_id, %s) SELECT %L, parameter_id, %s FROM iot.parameter WHERE name = ''temperature''',
		columns, 'x', vals), '22023', 'alarm rule "x": ' || message, message)
$$;
SELECT refused('kind, comparison', $$'rate', '>'$$, 'it has no threshold');
SELECT refused('kind, threshold', $$'rate', 1$$, 'invalid comparison "NULL"');
SELECT refused('kind, comparison, threshold, per', $$'rate', '>', 1, '0'$$, 'per is out of range');
SELECT refused('kind, comparison, threshold, per', $$'threshold', '>', 1, '1 s'$$, 'a rule of kind "threshold" has no per');
SELECT refused('kind', $$'no_data'$$, 'it needs a timeout from 1 second to 1 year');
SELECT refused('kind, timeout', $$'no_data', '1 ms'$$, 'it needs a timeout from 1 second to 1 year');
SELECT refused('kind, timeout, severity, red_timeout', $$'no_data', '1 h', 'orange', '1 min'$$, 'red_timeout is out of range');
SELECT refused('kind, timeout, duration', $$'no_data', '1 h', '1 s'$$, 'repeat_count and duration have no use where nothing is measured');
SELECT refused('kind, timeout, repeat_count', $$'no_data', '1 h', 2$$, 'repeat_count and duration have no use where nothing is measured');
SELECT refused('kind, timeout, threshold', $$'no_data', '1 h', 2$$, 'a rule of kind "no_data" has no threshold');
SELECT refused('kind', $$'condition'$$, 'it has no condition');
SELECT refused('kind, condition', $$'condition', '$.temperature'$$,
	'condition is no predicate over a device: single boolean result is expected');
SELECT refused('kind, condition', $$'condition', '$.temperature > $limit'$$,
	'condition is no predicate over a device: could not find jsonpath variable "limit"');
SELECT refused('kind, condition, stay_condition', $$'condition', '$.a > 1', '5'$$,
	'stay_condition is no predicate over a device: single boolean result is expected');
SELECT refused('kind, condition, severity, red_condition', $$'condition', '$.a > 1', 'orange', '$.a'$$,
	'red_condition is no predicate over a device: single boolean result is expected');
SELECT refused('kind, condition, severity, red_stay_condition', $$'condition', '$.a > 1', 'orange', '$.a > 2'$$,
	'red_stay_condition has no use without red_condition');
SELECT refused('kind, condition', $$'condition', ('$.a == "' || repeat('x', 5000) || '"')::jsonpath$$,
	'condition is no predicate over a device: it is too long');
SELECT throws_ok($$INSERT INTO iot.alarm_rule (name, kind, condition) VALUES ('x', 'condition', '$.a >')$$, '42601', NULL,
	'nor is what is no jsonpath');
SELECT refused('kind, comparison, threshold, red_threshold', $$'threshold', '>', 1, 2$$, 'only an orange rule has a red level');
SELECT refused('kind, severity, comparison, threshold, red_threshold', $$'threshold', 'orange', '>', 2, 1$$,
	'red_threshold is on the wrong side of the threshold');
SELECT refused('kind, severity, comparison, threshold, red_threshold', $$'threshold', 'orange', '<', 1, 2$$,
	'red_threshold is on the wrong side of the threshold');
SELECT refused('kind, severity, comparison, threshold, red_threshold, red_close_threshold', $$'threshold', 'orange', '>', 1, 2, 3$$,
	'red_close_threshold is on the wrong side of the threshold');
SELECT refused('kind, severity, comparison, threshold, red_close_threshold', $$'threshold', 'orange', '>', 1, 2$$,
	'red_close_threshold has no use without red_threshold');
SELECT refused('kind, severity, comparison, threshold, red_threshold', $$'threshold', 'orange', '>', 1, 'NaN'$$,
	'red_threshold must be a finite number');
SELECT refused('kind, comparison, threshold_attribute, close_threshold', $$'threshold', '>', 'limit', 1$$,
	'close_threshold has no use without threshold');
SELECT refused('kind, severity, value_min, red_close_min', $$'range', 'orange', 1, 2$$, 'a range needs red_min or red_max');
SELECT refused('kind, severity, value_min, red_min, red_max', $$'range', 'orange', 1, 5, 5$$, 'no value is in the range from 5 to below 5');
SELECT refused('kind, severity, value_min, red_min, red_close_min', $$'range', 'orange', 1, 5, 6$$,
	'the bounds at which it closes must not lie within the range');
SELECT refused('kind, value_min, time_zone', $$'range', 1, 'UTC'$$, 'its time zone has no use without a schedule');
SELECT refused('kind, value_min, weekdays', $$'range', 1, '{1}'$$, 'its schedule needs a time zone');
SELECT refused('kind, value_min, weekdays, time_zone', $$'range', 1, '{1}', 'Mars/Olympus'$$, 'unknown time zone "Mars/Olympus"');
SELECT refused('kind, value_min, weekdays, time_zone', $$'range', 1, '{1}', '../etc/passwd'$$, 'unknown time zone "../etc/passwd"');
SELECT refused('kind, value_min, weekdays, time_zone', $$'range', 1, '{0}', 'UTC'$$, 'invalid weekdays');
SELECT refused('kind, value_min, weekdays, time_zone', $$'range', 1, '{}', 'UTC'$$, 'invalid weekdays');
SELECT refused('kind, value_min, weekdays, time_zone', $$'range', 1, '{1,NULL}', 'UTC'$$, 'invalid weekdays');
SELECT refused('kind, value_min, from_time, time_zone', $$'range', 1, '8:00', 'UTC'$$, 'its hours need a beginning and another end');
SELECT refused('kind, value_min, from_time, to_time, time_zone', $$'range', 1, '8:00', '8:00', 'UTC'$$,
	'its hours need a beginning and another end');
SELECT throws_ok($$INSERT INTO iot.alarm_rule (name, kind, timeout) VALUES ('x', 'no_data', '1 h')$$, '22023',
	'alarm rule "x": it has no parameter', 'only a condition needs no parameter');

-- what is filled in
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold)
	VALUES ('x-rate', 'rate', :'temperature', '>', 1), ('x-threshold', 'threshold', :'temperature', '>', 1);
INSERT INTO iot.alarm_rule (name, kind, parameter_id, timeout) VALUES ('x-silence', 'no_data', :'temperature', '1 h');
INSERT INTO iot.alarm_rule (name, kind, condition) VALUES ('x-condition', 'condition', '$.temperature > 1');
SELECT results_eq('SELECT name, per, message FROM iot.alarm_rule WHERE name LIKE ''x-%'' ORDER BY name',
	$$VALUES ('x-condition', NULL::interval, '{device}: {rule}'),
		('x-rate', '1 minute', '{device}: {parameter} changes by {value} {unit} in 00:01:00'),
		('x-silence', NULL, '{device} does not report {parameter}'),
		('x-threshold', NULL, '{device}: {parameter} is {value} {unit}')$$, 'each kind has its own words');

-- what they say
SELECT fresh() \g /dev/null
SELECT clock(0) \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold)
	VALUES ('rate', 'rate', :'temperature', '>', 10);
INSERT INTO iot.alarm_rule (name, kind, parameter_id, timeout) VALUES ('silence', 'no_data', :'temperature', '1 h');
INSERT INTO iot.alarm_rule (name, kind, condition) VALUES ('condition', 'condition', '$.temperature > 80 && $.valve == 0');
SELECT feed('boiler', 0, '{"temperature": 50}'), feed('boiler', 60, '{"temperature": 92}'),
	feed('boiler', 70, '{"valve": 0}'), clock(3700), iot_internal.alarm_sweep(100) \g /dev/null
SELECT results_eq('SELECT a.rule, p.name, a.value, a.message FROM iot.alarm a JOIN iot.parameter p USING (parameter_id) ORDER BY a.rule',
	$$VALUES ('condition', 'valve', 0::float8, 'boiler: condition'),
		('rate', 'temperature', 42, 'boiler: temperature changes by 42 °C in 00:01:00'),
		('silence', 'temperature', 92, 'boiler does not report temperature')$$, 'the measurement that opened it is named');
SELECT feed('boiler', 3700, '{"temperature": 93, "valve": 1}') \g /dev/null
SELECT results_eq('SELECT a.rule, a.close_reason FROM iot.alarm a ORDER BY a.rule',
	format($$VALUES ('condition', 'valve is 1'), ('rate', 'temperature changes by %s °C'), ('silence', 'temperature is 93 °C')$$,
		1 * (60.0::float8 / 3640)), 'and so is the one that closed it');

-- severity, in the table and in events
SELECT fresh() \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, parameter_id, severity, comparison, threshold, red_threshold, message)
	VALUES ('hot', 'threshold', :'temperature', 'orange', '>', 80, 100, '{severity} {value}');
SELECT feed('boiler', 0, '{"temperature": 90}'), feed('boiler', 1, '{"temperature": 120}') \g /dev/null
SELECT results_eq('SELECT severity, highest_severity, severity_at, value, message FROM iot.alarm',
	$$VALUES ('red', 'red', at(1), 90::float8, 'orange 90')$$, 'severity rises');
SELECT feed('boiler', 2, '{"temperature": 85}'), feed('boiler', 3, '{"temperature": 20}') \g /dev/null
SELECT results_eq('SELECT severity, highest_severity, severity_at, status FROM iot.alarm',
	$$VALUES ('orange', 'red', at(2), 'CLOSED')$$, 'and falls');
SELECT results_eq($$SELECT type, payload ->> 'severity', payload ->> 'previous_severity', payload ->> 'value',
			payload ->> 'message', (payload ->> 'changed_at')::timestamptz, (payload ->> 'opened_at')::timestamptz
		FROM iot.event WHERE aggregateid = (SELECT alarm_id::text FROM iot.alarm) ORDER BY id$$,
	$$VALUES ('alarm.opened', 'orange', NULL, '90', 'orange 90', NULL, at(0)),
		('alarm.severity_changed', 'red', 'orange', '120', 'red 120', at(1), at(0)),
		('alarm.severity_changed', 'orange', 'red', '85', 'orange 85', at(2), at(0)),
		('alarm.closed', 'orange', NULL, '20', 'orange 90', NULL, at(0))$$, 'each of which is an event');
SELECT feed('boiler', 10, '{"temperature": 120}') \g /dev/null
UPDATE iot.alarm_rule SET red_threshold = NULL WHERE name = 'hot';
SELECT feed('boiler', 11, '{"temperature": 120}') \g /dev/null
SELECT is((SELECT severity FROM iot.alarm WHERE status = 'OPENED'), 'orange', 'a rule that loses its red level falls to its own');

-- bounds from attributes
SELECT fresh() \g /dev/null
SELECT iot.create_device('other', ARRAY['temperature']) AS other \gset
CREATE FUNCTION attributes(device text, attributes jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO iot.device_state (device_id, attributes) SELECT d.device_id, attributes.attributes
		FROM iot.device d WHERE d.name = attributes.device
		ON CONFLICT (device_id) DO UPDATE SET attributes = excluded.attributes
$$;
CREATE FUNCTION opens(device text, attributes jsonb, vals float8[]) RETURNS float8[] LANGUAGE plpgsql AS $$
DECLARE
	opened float8[] := '{}';
	value float8;
BEGIN
	PERFORM attributes(device, attributes);
	FOREACH value IN ARRAY vals LOOP
		DELETE FROM iot.alarm;
		DELETE FROM iot.measurement;
		DELETE FROM iot.sensor_value;
		PERFORM feed(device, 0, jsonb_build_object('temperature', value));
		IF EXISTS (SELECT FROM iot.alarm a) THEN
			opened := opened || value;
		END IF;
	END LOOP;
	RETURN opened;
END
$$;
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, close_threshold, threshold_attribute)
	VALUES ('limit', 'threshold', :'temperature', '>', 80, 75, 'limit');
SELECT is(opens('boiler', '{"limit": 60}', '{59,60,61,81}'), '{61,81}', 'a device has a threshold of its own');
SELECT is(opens('other', '{}', '{59,60,61,81}'), '{81}', 'or the rule''s');
SELECT is(opens('boiler', '{"limit": "60"}', '{61,81}'), '{81}', 'which is no word');
SELECT is(opens('boiler', '{"limit": 1e400}', '{61,81}'), '{81}', 'I16: nor beyond all numbers');
SELECT attributes('boiler', '{"limit": 60}') \g /dev/null
SELECT fresh() \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, close_threshold, threshold_attribute)
	VALUES ('limit', 'threshold', :'temperature', '>', 80, 75, 'limit');
SELECT feed('boiler', 0, '{"temperature": 61}'), feed('boiler', 1, '{"temperature": 56}'),
	feed('boiler', 2, '{"temperature": 55}') \g /dev/null
SELECT is(told('boiler'), 'limit 0-2', 'the closing bound keeps its distance');
UPDATE iot.alarm_rule SET threshold = NULL, close_threshold = NULL WHERE name = 'limit';
SELECT is(opens('boiler', '{}', '{-1e9,61,81,1e9}'), '{}', 'no bound at all holds nothing');
SELECT fresh() \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, parameter_id, value_min_attribute, value_max_attribute)
	VALUES ('range', 'range', :'temperature', 'low', 'high');
SELECT is(opens('boiler', '{"low": 10, "high": 20}', '{9,10,19,20}'), '{10,19}', 'a range of the device''s own');
SELECT is(opens('boiler', '{"low": 10}', '{9,10,19,20}'), '{}', 'without one of its bounds holds nothing');
UPDATE iot.alarm_rule SET value_min = -5, value_max = 5 WHERE name = 'range';
SELECT is(opens('boiler', '{"low": 1}', '{-6,-5,1,4,5}'), '{1,4}', 'where a bound is missing the rule''s counts');
SELECT fresh() \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, condition) VALUES ('condition', 'condition', '$.temperature > $.attributes.limit');
SELECT is(opens('boiler', '{"limit": 60}', '{60,61}'), '{61}', 'a condition sees attributes');
SELECT is(opens('boiler', '{}', '{60,61}'), '{}', 'or sees that there are none');

-- whom silence is waited for
CREATE FUNCTION awaited() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(d.name || ' ' || extract(epoch FROM s.due_at - at(0))::float8, ', ' ORDER BY d.name)
		FROM iot.alarm_rule_state s JOIN iot.device d USING (device_id) JOIN iot.alarm_rule r USING (alarm_rule_id)
		WHERE s.due_at IS NOT NULL
$$;
SELECT fresh() \g /dev/null
SELECT feed('boiler', 50, '{"temperature": 1}'), clock(100) \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, parameter_id, timeout) VALUES ('silence', 'no_data', :'temperature', '100 s');
SELECT is(awaited(), 'boiler 150, other 200', 'from the last measurement, or from when the rule was made');
SELECT clock(110) \g /dev/null
SELECT iot.create_device('later', ARRAY['temperature']) AS later \gset
SELECT iot.create_device('unlike', ARRAY['valve']) AS unlike \gset
SELECT is(awaited(), 'boiler 150, later 210, other 200', 'or from when the sensor was');
SELECT feed('boiler', 120, '{"temperature": 1}') \g /dev/null
SELECT is(awaited(), 'boiler 220, later 210, other 200', 'a first measurement is noted');
SELECT feed('boiler', 125, '{"temperature": 1}'), feed('boiler', 130, '{"temperature": 1}') \g /dev/null
SELECT is(awaited(), 'boiler 220, later 210, other 200', 'others write nothing');
SELECT clock(220), iot_internal.alarm_sweep(100) \g /dev/null
SELECT is(awaited(), 'boiler 230', 'the sweep looks again, until it is due');
SELECT is(told('later') || ', ' || told('other'), 'silence 210-, silence 200-', 'sensors that never measured are silent too');
SELECT is((SELECT value FROM iot.alarm LIMIT 1), NULL, 'and have no value');
SELECT iot.close_alarm(alarm_id) FROM iot.alarm JOIN iot.device USING (device_id) WHERE name = 'other' \g /dev/null
SELECT clock(500), iot_internal.alarm_sweep(100) \g /dev/null
SELECT is(told('other'), 'silence 200-220', 'what people close does not open again by going on');
SELECT feed('other', 600, '{"temperature": 1}') \g /dev/null
SELECT is(told('other'), 'silence 200-220', 'nor when it ends');
SELECT clock(701), iot_internal.alarm_sweep(100) \g /dev/null
SELECT is(told('other'), 'silence 200-220, silence 700-', 'but when it comes again');
UPDATE iot.device SET enabled = false WHERE name = 'other';
SELECT is((SELECT close_reason FROM iot.alarm WHERE opened_at = at(700)), 'the device was disabled',
	'a disabled device is not waited for');
SELECT clock(900), iot_internal.alarm_sweep(100) \g /dev/null
SELECT is((SELECT count(*) FROM iot.alarm_rule_state s WHERE s.device_id = :'other' AND s.due_at IS NOT NULL), 0::bigint,
	'nor looked at');
DELETE FROM iot.alarm_rule_state WHERE device_id = :'other';
UPDATE iot.device SET enabled = true WHERE name = 'other';
SELECT is((SELECT due_at FROM iot.alarm_rule_state WHERE device_id = :'other'), at(700), 'before it is enabled');
UPDATE iot.alarm_rule SET device_group_id = g.device_group_id, scope = 'group' FROM iot.device_group g
	WHERE g.name = 'hall' AND alarm_rule.name = 'silence';
SELECT is(awaited(), NULL, 'a rule that is about others waits for others');
UPDATE iot.device SET device_group_id = g.device_group_id FROM iot.device_group g
	WHERE g.name = 'hall' AND device.name = 'later';
SELECT is(awaited(), 'later 1000', 'when they are there');
DELETE FROM iot.sensor WHERE device_id = :'later';
SELECT clock(2000), iot_internal.alarm_sweep(100) \g /dev/null
SELECT is((SELECT count(*) FROM iot.alarm WHERE device_id = :'later' AND status = 'OPENED'), 0::bigint,
	'a sensor that is gone is not');
DELETE FROM iot.alarm_rule WHERE name = 'silence';
SELECT is(awaited(), NULL, 'nor is anything without a rule');

-- rules of one sensor that fall due at once, some of which mean nothing any more
SELECT fresh(), clock(0) \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, parameter_id, timeout)
	VALUES ('a', 'no_data', :'temperature', '10 s'), ('z', 'no_data', :'temperature', '10 s');
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, duration)
	SELECT name, 'threshold', :'temperature', '>', 80, '20 s' FROM unnest(ARRAY['b', 'c', 'd']) AS u (name);
INSERT INTO iot.alarm_rule (name, kind, parameter_id, timeout) VALUES ('y', 'no_data', :'temperature', '10 s');
INSERT INTO iot.alarm_rule (name, kind, condition, duration) VALUES ('e', 'condition', '$.temperature > 80', '20 s'),
	('f', 'condition', '$.temperature > 85', '20 s');
SELECT feed('boiler', 0, '{"temperature": 90}') \g /dev/null
UPDATE iot.device SET enabled = false WHERE name = 'boiler';
SELECT clock(30), iot_internal.alarm_sweep(100) \g /dev/null
SELECT is(told('boiler'), 'b 20-, c 20-, d 20-, e 20-, f 20-', 'each rule of a sensor is judged by itself');
UPDATE iot.device SET enabled = true WHERE name = 'boiler';
SELECT iot_internal.alarm_sweep(100) \g /dev/null
SELECT is((SELECT count(*) FROM iot.alarm WHERE device_id = :'boiler' AND rule IN ('a', 'y', 'z')), 3::bigint,
	'and silence again when it means something');

-- rules that fail
SELECT iot_internal.set_alarm_clock(NULL) \g /dev/null
SELECT fresh() \g /dev/null
SELECT attributes('boiler', '{"since": "2020-01-01T00:00:00"}') \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, condition)
	VALUES ('broken', 'condition', '$.attributes.since.datetime() < "2020-01-01T00:00:00+00:00".datetime()'),
		('whole', 'condition', '$.temperature > 80');
CREATE FUNCTION failures() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s %s', r.name, r.enabled, e.errors), ', ')
		FROM iot.alarm_rule_error e JOIN iot.alarm_rule r USING (alarm_rule_id)
$$;
SELECT is(feed('boiler', 0, '{"temperature": 90}'), 1, 'a condition that cannot be evaluated costs no measurement');
SELECT is(told('boiler'), 'whole 0-', 'nor another rule');
SELECT is(failures(), 'broken t 1', 'but is counted');
SELECT is((SELECT error || ' ' || d.name FROM iot.alarm_rule_error e JOIN iot.device d USING (device_id)),
	'cannot convert value from timestamp to timestamptz without time zone usage boiler', 'with the reason and where');
SELECT feed('boiler', i, '{"temperature": 90}') FROM generate_series(1, 8) i \g /dev/null
SELECT iot_internal.alarm_sweep(100) \g /dev/null
SELECT is(failures(), 'broken t 9', 'nine times are not ten');
SELECT is((SELECT finding FROM iot.check() WHERE finding LIKE 'alarm rule%'),
	'alarm rule "broken" failed 9 times in a row: cannot convert value from timestamp to timestamptz without time zone usage',
	'the doctor tells of it');
SELECT attributes('boiler', '{"since": "2020-01-01T00:00:00+00:00"}') \g /dev/null
SELECT feed('boiler', 10, '{"temperature": 90}') \g /dev/null
SELECT is(failures(), NULL, 'a rule that works again begins anew');
SELECT attributes('boiler', '{"since": "2020-01-01T00:00:00"}') \g /dev/null
SELECT is(iot.ingest('boiler', jsonb_agg(jsonb_build_object('ts', at(i), 'temperature', 90))), 10,
	'ten in a row are kept') FROM generate_series(11, 20) i;
SELECT is(failures(), 'broken t 10', 'and counted');
SELECT iot_internal.alarm_sweep(100) \g /dev/null
SELECT is(failures(), 'broken f 10', 'the rule is disabled');
SELECT is((SELECT left(finding, 66) FROM iot.check() WHERE finding LIKE 'alarm rule%'),
	'alarm rule "broken" was disabled, since it failed 10 times in a ro', 'and the doctor tells of that');
SELECT results_eq($$SELECT aggregatetype, device_id, payload - 'failed_at' FROM iot.event WHERE type = 'alarm_rule.disabled'$$,
	format($$SELECT 'alarm_rule', %L::uuid, jsonb_build_object('alarm_rule_id', alarm_rule_id, 'rule', 'broken', 'severity', 'red',
		'device', 'boiler', 'errors', 10, 'error', 'cannot convert value from timestamp to timestamptz without time zone usage')
		FROM iot.alarm_rule WHERE name = 'broken'$$, :'boiler'), 'which is an event');
SELECT iot_internal.alarm_sweep(100) \g /dev/null
SELECT is((SELECT count(*) FROM iot.event WHERE type = 'alarm_rule.disabled'), 1::bigint, 'once');
SELECT is((SELECT count(*) FROM iot.measurement), 20::bigint, 'and all measurements are there');
SELECT feed('boiler', 30, '{"temperature": 91}') \g /dev/null
SELECT is(failures(), 'broken f 10', 'a disabled rule fails no more');
UPDATE iot.alarm_rule SET enabled = true, condition = '$.temperature > 80' WHERE name = 'broken';
SELECT is(failures(), NULL, 'one that is put right begins anew');
SELECT feed('boiler', 31, '{"temperature": 91}') \g /dev/null
SELECT is(told('boiler'), 'whole 0-, broken 31-', 'and judges');

SELECT fresh() \g /dev/null
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.rule = 'refused' THEN RAISE EXCEPTION 'not with me'; END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON iot.alarm FOR EACH ROW EXECUTE FUNCTION refuse();
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold)
	VALUES ('refused', 'threshold', :'temperature', '>', 80);
SELECT feed('boiler', i * 2, '{"temperature": 90}'), feed('boiler', i * 2 + 1, '{"temperature": 10}')
	FROM generate_series(0, 9) i \g /dev/null
SELECT is(failures(), 'refused t 10', 'a rule whose alarm cannot be written fails');
SELECT iot_internal.alarm_sweep(100) \g /dev/null
SELECT is(failures(), 'refused f 10', 'and is disabled as well');
SELECT is((SELECT payload ->> 'error' FROM iot.event WHERE type = 'alarm_rule.disabled' ORDER BY id DESC LIMIT 1), 'not with me',
	'with what was said');
SELECT is((SELECT count(*) FROM iot.measurement), 20::bigint, 'no measurement is lost');
DROP TRIGGER refuse ON iot.alarm;

-- the clocks change in Berlin in the nights of 2024-03-31 and 2024-10-27
SELECT fresh() \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, time_zone, from_time, to_time, enabled)
	VALUES ('night', 'threshold', :'temperature', '>', 80, 'europe/berlin', '01:30', '03:30', false);
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	VALUES (:'boiler', :'temperature', '2024-03-30 20:00+00', 90), (:'boiler', :'temperature', '2024-10-26 20:00+00', 90);
SELECT results_eq($$SELECT b.opened_at, b.closed_at FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, '2024-03-30 20:00+00', '2024-04-01 00:00+00') b
		WHERE r.name = 'night'$$,
	$$VALUES ('2024-03-31 00:30+00'::timestamptz, '2024-03-31 01:30+00'::timestamptz), ('2024-03-31 23:30+00', NULL)$$,
	'hours over which the clock jumps are an hour shorter');
SELECT results_eq($$SELECT b.opened_at, b.closed_at FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, '2024-10-26 20:00+00', '2024-10-28 00:00+00') b
		WHERE r.name = 'night'$$,
	$$VALUES ('2024-10-26 23:30+00'::timestamptz, '2024-10-27 02:30+00'::timestamptz)$$,
	'and an hour longer when it jumps back');
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, time_zone, from_time, to_time, enabled)
	VALUES ('gone', 'threshold', :'temperature', '>', 80, 'Europe/Berlin', '02:10', '02:50', false);
SELECT is((SELECT count(*) FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, '2024-03-30 20:00+00', '2024-04-03 00:00+00') b
		WHERE r.name = 'gone' AND b.closed_at - b.opened_at <> interval '40 minutes'), 0::bigint,
	'hours that the clock leaves out are none, or as long as ever');

INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, time_zone, weekdays, from_time, to_time, enabled)
	VALUES ('sunday', 'threshold', :'temperature', '>', 80, 'Europe/Berlin', '{7}', '02:30', '03:10', false);
SELECT results_eq($$SELECT b.opened_at, b.closed_at FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, '2024-03-30 20:00+00', '2024-04-14 00:00+00') b
		WHERE r.name = 'sunday'$$,
	$$VALUES ('2024-04-07 00:30+00'::timestamptz, '2024-04-07 01:10+00'::timestamptz)$$,
	'a week without any is no end');
SELECT results_eq($$SELECT b.opened_at, b.closed_at FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, '4713-01-01 BC', '2024-04-08') b
		WHERE r.name = 'sunday'$$,
	$$VALUES ('2024-04-07 00:30+00'::timestamptz, '2024-04-07 01:10+00'::timestamptz)$$,
	'nor is the beginning of time');

-- two-phase commit carries all of it
SELECT fresh() \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, parameter_id, severity, comparison, threshold, duration, time_zone, weekdays)
	VALUES ('lasting', 'threshold', :'temperature', 'red', '>', 80, '10 s', 'UTC', '{1,2,3,4,5,6}');
INSERT INTO iot.alarm_rule (name, kind, parameter_id, timeout) VALUES ('silence', 'no_data', :'temperature', '1 day');
INSERT INTO iot.alarm_rule (name, kind, condition) VALUES ('condition', 'condition', '$.temperature > 80 && $.valve == 0'),
	('broken', 'condition', '$.attributes.since.datetime() < "2020-01-01T00:00:00+00:00".datetime()');
BEGIN;
SELECT feed('boiler', 0, '{"temperature": 90, "valve": 0}') \g /dev/null
PREPARE TRANSACTION 'alarms';
SELECT is(told('boiler'), NULL, 'a prepared transaction has opened nothing yet');
COMMIT PREPARED 'alarms';
SELECT is(told('boiler'), 'condition 0-', 'until it is committed');
SELECT is(failures(), 'broken t 1', 'with its failures');
SELECT is((SELECT count(*) FROM iot.alarm_rule_state s JOIN iot.alarm_rule r USING (alarm_rule_id)
	WHERE s.due_at IS NOT NULL AND s.device_id = :'boiler'), 2::bigint, 'and what is due');
BEGIN;
SELECT feed('boiler', 1, '{"valve": 1}') \g /dev/null
PREPARE TRANSACTION 'alarms';
ROLLBACK PREPARED 'alarms';
SELECT is(told('boiler'), 'condition 0-', 'or is not');
SELECT feed('boiler', 2, '{"valve": 1}') \g /dev/null
SELECT is(told('boiler'), 'condition 0-2', 'and leaves nothing locked');

SELECT * FROM finish();
