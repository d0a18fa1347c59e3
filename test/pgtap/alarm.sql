-- Alarm rules: sequences in event time, what is written, and what people do with alarms.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;

SELECT no_plan();

-- the seed
SELECT results_eq(
	'SELECT name, kind, scope, severity, value_min, value_max, enabled, parameter_id FROM iot.alarm_rule ORDER BY name',
	$$VALUES ('temperature-orange', 'range', 'all', 'orange', 40::float8, 50::float8, false, NULL::uuid),
		('temperature-red', 'range', 'all', 'red', 50, 100, false, NULL)$$,
	'two zones of temperature are seeded, disabled');
SELECT throws_ok($$UPDATE iot.alarm_rule SET enabled = true$$, '22023', NULL,
	'and cannot be enabled before there is a temperature');
INSERT INTO iot.parameter (name, unit) VALUES ('temperature', '°C'), ('humidity', '%');
SELECT is((SELECT count(*) FROM iot.alarm_rule r JOIN iot.parameter p USING (parameter_id)
	WHERE p.name = 'temperature'), 2::bigint, 'which they find when it comes');

SELECT iot.create_device('boiler', ARRAY['temperature', 'humidity']) AS boiler \gset
INSERT INTO iot.device_type (name) VALUES ('kiln');
INSERT INTO iot.device_group (name) VALUES ('hall');
SELECT iot.create_device('kiln', ARRAY['temperature'], device_type => 'kiln', device_group => 'hall') AS kiln \gset
SELECT date_trunc('hour', now()) - interval '1 day' AS t \gset
SELECT parameter_id AS temperature FROM iot.parameter WHERE name = 'temperature' \gset

CREATE FUNCTION at(seconds float8) RETURNS timestamptz LANGUAGE sql STABLE AS
	'SELECT date_trunc(''hour'', now()) - interval ''1 day'' + seconds * interval ''1 s''';
-- "seconds value, seconds value ...", in one statement
CREATE FUNCTION feed(device text, points text) RETURNS integer LANGUAGE sql AS $$
	SELECT iot.ingest(device, jsonb_agg(jsonb_build_object(
			'ts', at(split_part(btrim(p), ' ', 1)::float8),
			'temperature', split_part(btrim(p), ' ', 2)::float8) ORDER BY place))
		FROM regexp_split_to_table(points, ',') WITH ORDINALITY AS s (p, place)
$$;
-- "rule opened-closed", "rule opened-" while open, in seconds
CREATE FUNCTION told(device text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s-%s', a.rule, extract(epoch FROM a.opened_at - at(0))::float8,
			extract(epoch FROM a.closed_at - at(0))::float8), ', ' ORDER BY a.opened_at, a.rule)
		FROM iot.alarm a JOIN iot.device d USING (device_id) WHERE d.name = $1
$$;
CREATE FUNCTION rule(name text, set text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
	DELETE FROM iot.alarm_rule WHERE name NOT LIKE 'temperature-%';
	DELETE FROM iot.alarm;
	DELETE FROM iot.measurement;
	DELETE FROM iot.sensor_value;
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, value_min)
		SELECT rule.name, 'range', p.parameter_id, 80 FROM iot.parameter p WHERE p.name = 'temperature';
	IF set IS NOT NULL THEN
		EXECUTE format('UPDATE iot.alarm_rule SET %s WHERE name = %L', set, rule.name);
	END IF;
END
$$;

-- sequences: what comes one by one, all at once, and in disorder within a statement is the same
CREATE TEMP TABLE sequence (title text, set text, points text, alarms text);
INSERT INTO sequence VALUES
	('range', 'value_min = 40, value_max = 50',
		'0 39.9, 1 40, 2 49.9, 3 50, 4 45, 5 100', 'r 1-3, r 4-5'),
	('range open below', 'value_min = NULL, value_max = 5', '0 6, 1 5, 2 4.9, 3 -300, 4 5', 'r 2-4'),
	('range with close bounds', 'value_min = 40, value_max = 50, close_min = 35, close_max = 55',
		'0 36, 1 45, 2 36, 3 54, 4 34, 5 36, 6 45, 7 55', 'r 1-4, r 6-7'),
	('above', $$kind = 'threshold', value_min = NULL, comparison = '>', threshold = 80$$,
		'0 80, 1 80.1, 2 80', 'r 1-2'),
	('at least', $$kind = 'threshold', value_min = NULL, comparison = '>=', threshold = 80$$,
		'0 79, 1 80, 2 79.9', 'r 1-2'),
	('below', $$kind = 'threshold', value_min = NULL, comparison = '<', threshold = -18$$,
		'0 -18, 1 -19, 2 -18', 'r 1-2'),
	('at most', $$kind = 'threshold', value_min = NULL, comparison = '<=', threshold = 0$$,
		'0 1, 1 0, 2 0.1', 'r 1-2'),
	('hysteresis', $$kind = 'threshold', value_min = NULL, comparison = '>', threshold = 80, close_threshold = 75$$,
		'0 81, 1 79, 2 81, 3 76, 4 75, 5 79, 6 81', 'r 0-4, r 6-'),
	('hysteresis below', $$kind = 'threshold', value_min = NULL, comparison = '<', threshold = 5, close_threshold = 8$$,
		'0 4, 1 7.9, 2 8, 3 5, 4 4', 'r 0-2, r 4-'),
	('repetition', 'repeat_count = 3',
		'0 90, 1 90, 2 10, 3 90, 4 90, 5 90, 6 90, 7 10, 8 90', 'r 5-7'),
	('duration', $$duration = '10 s'$$,
		'0 90, 5 90, 9 10, 20 90, 25 90, 30 90, 35 10', 'r 30-35'),
	('duration that passes between two measurements', $$duration = '10 s'$$,
		'0 90, 60 90, 70 10', 'r 10-70'),
	('duration that passes before the value is back', $$duration = '10 s'$$, '0 90, 60 10', 'r 10-60'),
	('duration that is not reached', $$duration = '10 s'$$, '0 90, 10 10, 11 90, 20 10', NULL),
	('duration and repetition', $$duration = '10 s', repeat_count = 3$$,
		'0 90, 20 90, 30 90, 31 10, 40 90, 41 90, 42 90, 50 90, 51 10', 'r 30-31, r 50-51'),
	('shortest time open', $$min_open = '10 s'$$,
		'0 90, 1 10, 2 90, 3 10, 5 90, 12 10, 13 90, 14 10, 30 10', 'r 0-12, r 13-23'),
	('shortest time open passes in between', $$min_open = '10 s'$$, '0 90, 1 10, 60 90, 61 90', 'r 0-10, r 60-'),
	('closed by people alone', 'auto_close = false', '0 90, 1 10, 2 90', 'r 0-');

CREATE FUNCTION run_one_by_one(s sequence) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	point text;
BEGIN
	PERFORM rule('r', s.set);
	FOREACH point IN ARRAY regexp_split_to_array(s.points, ',') LOOP
		PERFORM feed('boiler', point);
	END LOOP;
	RETURN told('boiler');
END
$$;
CREATE FUNCTION run_at_once(s sequence) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM rule('r', s.set);
	PERFORM feed('boiler', s.points);
	RETURN told('boiler');
END
$$;
-- rows come as they are, in the wrong order
CREATE FUNCTION run_backwards(s sequence) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM rule('r', s.set);
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT d.device_id, p.parameter_id, at(split_part(btrim(x), ' ', 1)::float8),
				split_part(btrim(x), ' ', 2)::float8
			FROM iot.device d, iot.parameter p,
				regexp_split_to_table(s.points, ',') WITH ORDINALITY AS o (x, place)
			WHERE d.name = 'boiler' AND p.name = 'temperature' ORDER BY place DESC;
	RETURN told('boiler');
END
$$;
SELECT is(run_one_by_one(s), s.alarms, s.title || ', one by one') FROM sequence s;
SELECT is(run_at_once(s), s.alarms, s.title || ', at once') FROM sequence s;
SELECT is(run_backwards(s), s.alarms, s.title || ', in the wrong order') FROM sequence s;

-- I14: late measurements are stored only
SELECT rule('r') \g /dev/null
SELECT feed('boiler', '10 10') \g /dev/null
SELECT feed('boiler', '5 90') \g /dev/null
SELECT is(told('boiler'), NULL, 'I14: a late measurement opens nothing');
SELECT feed('boiler', '20 90') \g /dev/null
SELECT feed('boiler', '15 10') \g /dev/null
SELECT is(told('boiler'), 'r 20-', 'I14: nor does it close anything');
SELECT feed('boiler', '12 90, 25 91, 18 10') \g /dev/null
SELECT is(told('boiler'), 'r 20-', 'I14: of a statement, only what is newer counts');
SELECT feed('boiler', '30 10') \g /dev/null
SELECT is(told('boiler'), 'r 20-30', 'the next newer one closes it');
INSERT INTO iot.measurement SELECT :'boiler', :'temperature', now() + interval '3 days', 99;
SELECT is(told('boiler'), 'r 20-30', 'a time in the far future is nobody''s present');

-- I15: open and close alternate
SELECT rule('r') \g /dev/null
SELECT feed('boiler', string_agg(i || ' ' || CASE WHEN random() < 0.5 THEN 90 ELSE 10 END, ','))
	FROM generate_series(1, 300) i \g /dev/null
SELECT is_empty($$
	SELECT FROM (SELECT e.type, lag(e.type) OVER (ORDER BY e.id) AS before FROM iot.event e
		WHERE e.aggregateid IN (SELECT alarm_id::text FROM iot.alarm)) x
	WHERE x.type = coalesce(x.before, 'alarm.closed')$$, 'I15: openings and closings alternate');
SELECT cmp_ok((SELECT count(*) FROM iot.alarm), '>', 10::bigint, 'over many alarms');

-- I16: what is no number never comes near a rule
SELECT throws_ok(format('INSERT INTO iot.measurement VALUES (%L, %L, now(), ''NaN'')', :'boiler', :'temperature'),
	'23514', NULL, 'I16: NaN is no measurement');
SELECT throws_ok(format($$INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold)
		VALUES ('nan', 'threshold', %L, '>', 'NaN')$$, :'temperature'),
	'22023', 'alarm rule "nan": threshold must be a finite number', 'I16: nor a threshold');

-- scopes
SELECT rule('r') \g /dev/null
INSERT INTO iot.alarm_rule (name, kind, parameter_id, device_type_id, value_min)
	SELECT 'by-type', 'range', :'temperature', device_type_id, 80 FROM iot.device_type WHERE name = 'kiln';
INSERT INTO iot.alarm_rule (name, kind, parameter_id, device_group_id, value_min)
	SELECT 'by-group', 'range', :'temperature', device_group_id, 80 FROM iot.device_group WHERE name = 'hall';
INSERT INTO iot.alarm_rule (name, kind, parameter_id, device_id, value_min)
	VALUES ('by-device', 'range', :'temperature', :'boiler', 80);
SELECT results_eq('SELECT name, scope FROM iot.alarm_rule WHERE name LIKE ''by-%'' ORDER BY name',
	$$VALUES ('by-device', 'device'), ('by-group', 'group'), ('by-type', 'type')$$,
	'the scope is what is named');
SELECT feed('boiler', '0 90') \g /dev/null
SELECT feed('kiln', '0 90') \g /dev/null
SELECT is(told('boiler'), 'by-device 0-, r 0-', 'rules of all and of the device');
SELECT is(told('kiln'), 'by-group 0-, by-type 0-, r 0-', 'rules of all, of the type and of the group');
SELECT iot.ingest('boiler', '{"humidity": 99}') \g /dev/null
SELECT is((SELECT count(*) FROM iot.alarm), 5::bigint, 'other parameters have other rules');

-- an alarm never outlives what it is about in the open
UPDATE iot.device SET device_group_id = (SELECT device_group_id FROM iot.device_group WHERE name = 'default')
	WHERE name = 'kiln';
SELECT results_eq('SELECT rule, status, close_reason FROM iot.alarm WHERE closed_at IS NOT NULL',
	$$VALUES ('by-group', 'CLOSED', 'the alarm rule is not about this device any more')$$,
	'a device that leaves the group leaves its alarm');
UPDATE iot.alarm_rule SET enabled = false WHERE name = 'by-type';
SELECT is((SELECT close_reason FROM iot.alarm WHERE rule = 'by-type'), 'the alarm rule was disabled',
	'a disabled rule closes its alarms');
DELETE FROM iot.alarm_rule WHERE name = 'by-device';
SELECT is((SELECT close_reason FROM iot.alarm WHERE rule = 'by-device'), 'the alarm rule was deleted',
	'so does one that is deleted');
SELECT is((SELECT count(*) FROM iot.alarm a JOIN iot.event e ON e.aggregateid = a.alarm_id::text
		WHERE e.type = 'alarm.closed' AND e.payload ->> 'reason' = a.close_reason), 3::bigint,
	'each is an event');
SELECT feed('boiler', '1 90') \g /dev/null
SELECT is((SELECT count(*) FROM iot.alarm WHERE rule = 'by-device' AND status = 'OPENED'), 0::bigint,
	'and no such rule judges any more');

-- rules that change are what they are at the next measurement
SELECT rule('r') \g /dev/null
SELECT feed('boiler', '0 70') \g /dev/null
UPDATE iot.alarm_rule SET value_min = 60 WHERE name = 'r';
SELECT feed('boiler', '1 70') \g /dev/null
SELECT is(told('boiler'), 'r 1-', 'a new bound counts at once');
BEGIN;
UPDATE iot.alarm_rule SET value_min = 80 WHERE name = 'r';
SELECT feed('boiler', '2 70') \g /dev/null
SELECT is(told('boiler'), 'r 1-2', 'in the changing transaction too');
ROLLBACK;
SELECT feed('boiler', '3 70') \g /dev/null
SELECT is(told('boiler'), 'r 1-', 'and not after its rollback');

-- silence, judged by the sweep
SELECT rule('r', $$duration = '1 hour', repeat_count = 2$$) \g /dev/null
SELECT feed('boiler', '0 90, 600 90') \g /dev/null
SELECT is(iot_internal.alarm_sweep(100), 0, 'nothing is due before its time');
SELECT cmp_ok((SELECT due_at FROM iot.alarm_rule_state), '>', now() + interval '49 minutes',
	'which is counted from the last measurement, by the server''s clock');
SELECT cmp_ok((SELECT due_at FROM iot.alarm_rule_state), '<', now() + interval '51 minutes',
	'however old its own time was');
UPDATE iot.alarm_rule_state SET due_at = now() - interval '1 s';
SELECT is(iot_internal.alarm_sweep(100), 1, 'then it is due');
SELECT is(told('boiler'), 'r 3600-', 'and opened at the time of the device at which it fell due');
SELECT is((SELECT value FROM iot.alarm), 90::float8, 'with the value that held');
SELECT is(iot_internal.alarm_sweep(100), 0, 'once');
SELECT feed('boiler', '4000 90') \g /dev/null
SELECT is(told('boiler'), 'r 3600-', 'a measurement after it finds it open');
SELECT rule('r', $$min_open = '1 hour'$$) \g /dev/null
SELECT feed('boiler', '0 90, 10 20') \g /dev/null
SELECT is(told('boiler'), 'r 0-', 'an alarm that must stay open stays open');
UPDATE iot.alarm_rule_state SET due_at = now() - interval '1 s';
SELECT is(iot_internal.alarm_sweep(100), 1, 'until it is due');
SELECT is(told('boiler'), 'r 0-3600', 'and is closed by silence');
SELECT is((SELECT close_reason FROM iot.alarm), 'temperature is 20 °C', 'the reason is the value');
SELECT rule('r', $$duration = '1 hour'$$) \g /dev/null
SELECT feed('boiler', '0 90') \g /dev/null
UPDATE iot.alarm_rule SET duration = '2 hours' WHERE name = 'r';
SELECT is((SELECT count(*) FROM iot.alarm_rule_state), 0::bigint, 'a rule that changes begins anew');

-- what is written
SELECT rule('r', $$message = '{device} {rule} {severity}: {parameter} {value} {unit}!', severity = 'orange'$$) \g /dev/null
SELECT feed('boiler', '0 90.5') \g /dev/null
SELECT alarm_id AS alarm FROM iot.alarm \gset
SELECT is((SELECT message FROM iot.alarm), 'boiler r orange: temperature 90.5 °C!', 'the message is rendered');
SELECT results_eq(format($$SELECT aggregatetype, device_id, payload - 'alarm_rule_id' FROM iot.event
		WHERE type = 'alarm.opened' AND aggregateid = %L$$, :'alarm'),
	format($$VALUES ('alarm', %L::uuid, jsonb_build_object('alarm_id', %L, 'rule', 'r', 'severity', 'orange',
		'device', 'boiler', 'parameter', 'temperature', 'value', 90.5, 'unit', '°C',
		'message', 'boiler r orange: temperature 90.5 °C!',
		'opened_at', to_char(at(0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"')))$$,
		:'boiler', :'alarm'), 'the event says all of it');
SELECT results_eq('SELECT device, parameter, rule, severity, value, unit FROM iot.open_alarm',
	$$VALUES ('boiler', 'temperature', 'r', 'orange', 90.5::float8, '°C')$$, 'iot.open_alarm shows it');

-- people
INSERT INTO iot.app_user (username) VALUES ('anna'), ('bert'), ('carl');
INSERT INTO iot.user_group (name) VALUES ('operators'), ('viewers');
INSERT INTO iot.user_group_member SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE (g.name, u.username) IN (('operators', 'anna'), ('viewers', 'bert'));
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT u.user_group_id, d.device_group_id, CASE u.name WHEN 'operators' THEN 'operate' ELSE 'view' END
	FROM iot.user_group u, iot.device_group d WHERE d.name = 'default';
CREATE ROLE anna IN ROLE iot_operator;
CREATE ROLE bert IN ROLE iot_operator;
CREATE ROLE carl IN ROLE iot_operator;
GRANT USAGE ON SCHEMA public TO iot_operator;

SET ROLE bert;
SELECT throws_ok(format('SELECT iot.acknowledge_alarm(%L)', :'alarm'), '42501',
	'permission denied for device "boiler"', 'who may only view cannot acknowledge');
SELECT throws_ok(format('SELECT iot.close_alarm(%L)', :'alarm'), '42501', NULL, 'nor close');
SELECT throws_ok(format('SELECT iot.assign_alarm(%L, ''bert'')', :'alarm'), '42501', NULL, 'nor assign');
SELECT throws_ok(format('SELECT iot.comment_alarm(%L, ''x'')', :'alarm'), '42501', NULL, 'nor comment');
SELECT is((SELECT count(*) FROM iot.open_alarm), 1::bigint, 'but sees it');
SELECT is((SELECT count(*) FROM iot.alarm WHERE status = 'OPENED'), 1::bigint, 'by the table too');
RESET ROLE;
SET ROLE carl;
SELECT is((SELECT count(*) FROM iot.open_alarm), 0::bigint, 'who may not view the device sees nothing');
RESET ROLE;
SET ROLE anna;
SELECT throws_ok('SELECT iot.acknowledge_alarm(''00000000-0000-0000-0000-000000000000'')', '42704',
	'alarm 00000000-0000-0000-0000-000000000000 does not exist', 'an alarm that is not there');
SELECT ok(iot.acknowledge_alarm(:'alarm', 'on my way'), 'who may operate acknowledges');
SELECT ok(NOT iot.acknowledge_alarm(:'alarm', 'again'), 'once');
SELECT ok(iot.comment_alarm(:'alarm', 'looks bad'), 'comments');
SELECT ok(NOT iot.comment_alarm(:'alarm', 'looks bad'), 'the same words count once');
SELECT throws_ok(format('SELECT iot.comment_alarm(%L, '' '')', :'alarm'), '22023', NULL, 'no words are no comment');
SELECT ok(iot.assign_alarm(:'alarm', 'bert'), 'assigns');
SELECT ok(NOT iot.assign_alarm(:'alarm', 'bert'), 'once');
SELECT throws_ok(format('SELECT iot.assign_alarm(%L, ''carl'')', :'alarm'), '22023',
	'user "carl" may not view the device of the alarm', 'to somebody who may see it');
SELECT ok(iot.close_alarm(:'alarm', 'valve replaced'), 'closes');
SELECT ok(NOT iot.close_alarm(:'alarm'), 'once');
SELECT ok(iot.assign_alarm(:'alarm', NULL), 'and assigns to nobody');
RESET ROLE;
SELECT results_eq('SELECT status, closed_by, close_reason, acknowledged_by, assignee, assigned_by FROM iot.alarm',
	$$VALUES ('CLOSED', 'anna', 'valve replaced', 'anna', NULL::text, 'anna')$$, 'who and what is written down');
SELECT results_eq('SELECT username, comment FROM iot.alarm_comment ORDER BY alarm_comment_id',
	$$VALUES ('anna', 'on my way'), ('anna', 'looks bad'), ('anna', 'valve replaced')$$, 'so are comments');
SELECT results_eq(format($$SELECT type, payload ->> 'username', coalesce(payload ->> 'comment', payload ->> 'reason', payload ->> 'assignee')
		FROM iot.event WHERE aggregateid = %L ORDER BY id$$, :'alarm'),
	$$VALUES ('alarm.opened', NULL, NULL), ('alarm.acknowledged', 'anna', 'on my way'),
		('alarm.commented', 'anna', 'looks bad'), ('alarm.assigned', 'anna', 'bert'),
		('alarm.closed', 'anna', 'valve replaced'), ('alarm.assigned', 'anna', NULL)$$,
	'and each is an event, once');
SELECT is((SELECT array_agg(DISTINCT payload ->> 'opened_at') FROM iot.event WHERE aggregateid = :'alarm'),
	ARRAY[(SELECT to_char(at(0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'))], 'all of them say when it opened');
SELECT is((SELECT (payload ->> 'closed_at')::timestamptz FROM iot.event WHERE aggregateid = :'alarm' AND type = 'alarm.closed'),
	(SELECT closed_at FROM iot.alarm WHERE alarm_id = :'alarm'), 'and when it closed, to the microsecond');
SELECT feed('boiler', '1 91') \g /dev/null
SELECT is((SELECT count(*) FROM iot.open_alarm), 1::bigint,
	'a measurement that is still bad opens another alarm');
DROP ROLE anna, bert, carl;
REVOKE USAGE ON SCHEMA public FROM iot_operator;

-- I7: who is told
DELETE FROM iot.notification;
SELECT iot_internal.notify_events(10000) \g /dev/null
SELECT results_eq($$SELECT event, channel, audience, title, body ->> 'text' FROM iot.notification
		WHERE body ->> 'alarm_id' = (SELECT alarm_id::text FROM iot.alarm WHERE status = 'OPENED')$$,
	$$VALUES ('alarm.opened', 'push', 'viewers', 'orange alarm of boiler: r', 'boiler r orange: temperature 91 °C!')$$,
	'I7: an alarm that opens is one notification');
SELECT is((SELECT count(*) FROM iot.notification WHERE event = 'alarm.closed' AND body ->> 'alarm_id' = :'alarm'),
	1::bigint, 'I7: so is its end');

-- what goes wrong with an alarm costs no measurement
SELECT rule('r') \g /dev/null
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.rule = 'r' THEN RAISE EXCEPTION 'not with me'; END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON iot.alarm FOR EACH ROW EXECUTE FUNCTION refuse();
INSERT INTO iot.alarm_rule (name, kind, parameter_id, value_min) VALUES ('s', 'range', :'temperature', 80);
SELECT is(feed('boiler', '0 90'), 1, 'a rule whose alarm cannot be written costs no measurement');
SELECT is(told('boiler'), 's 0-', 'nor the alarm of another rule');
DROP TRIGGER refuse ON iot.alarm;
SELECT feed('boiler', '1 90') \g /dev/null
SELECT is(told('boiler'), 's 0-, r 1-', 'and it opens with the next one');

-- what is refused
CREATE FUNCTION refused(columns text, vals text, message text) RETURNS text LANGUAGE sql AS $$
	SELECT throws_ok(format('INSERT INTO iot.alarm_rule (name, parameter_id, %s) SELECT %L, parameter_id, %s FROM iot.parameter WHERE name = ''temperature''',
		columns, 'x', vals), '22023', 'alarm rule "x": ' || message, message)
$$;
SELECT refused('kind', $$'magic'$$, 'invalid kind "magic"');
SELECT refused('kind', 'NULL', 'invalid kind "NULL"');
SELECT refused('kind', $$'range'$$, 'a range needs value_min or value_max');
SELECT refused('kind, value_min, value_max', $$'range', 5, 5$$, 'no value is in the range from 5 to below 5');
SELECT refused('kind, value_min, close_min', $$'range', 5, 6$$, 'the bounds at which it closes must not lie within the range');
SELECT refused('kind, value_min, close_max', $$'range', 5, 6$$, 'the bounds at which it closes must not lie within the range');
SELECT refused('kind, value_min, threshold', $$'range', 5, 6$$, 'a rule of kind "range" has no threshold');
SELECT refused('kind, threshold', $$'threshold', 5$$, 'invalid comparison "NULL"');
SELECT refused('kind, comparison', $$'threshold', '>'$$, 'it has no threshold');
SELECT refused('kind, comparison, threshold', $$'threshold', '=', 5$$, 'invalid comparison "="');
SELECT refused('kind, comparison, threshold, close_threshold', $$'threshold', '>', 5, 6$$, 'close_threshold is on the wrong side of the threshold');
SELECT refused('kind, comparison, threshold, close_threshold', $$'threshold', '<=', 5, 4$$, 'close_threshold is on the wrong side of the threshold');
SELECT refused('kind, comparison, threshold, value_max', $$'threshold', '>', 5, 4$$, 'a rule of kind "threshold" has no value_max');
SELECT refused('kind, value_min', $$'range', 'Infinity'$$, 'value_min must be a finite number');
SELECT refused('kind, value_min, severity', $$'range', 5, 'mauve'$$, 'invalid severity "mauve"');
SELECT refused('kind, value_min, scope', $$'range', 5, 'world'$$, 'invalid scope "world"');
SELECT refused('kind, value_min, scope', $$'range', 5, 'group'$$, 'scope "group" does not go with what it names');
SELECT refused('kind, value_min, device_group_id, device_type_id',
	$$'range', 5, (SELECT device_group_id FROM iot.device_group LIMIT 1), (SELECT device_type_id FROM iot.device_type LIMIT 1)$$,
	'it names more than one scope');
SELECT refused('kind, value_min, repeat_count', $$'range', 5, 0$$, 'repeat_count is out of range');
SELECT refused('kind, value_min, duration', $$'range', 5, '-1 s'$$, 'duration is out of range');
SELECT refused('kind, value_min, min_open', $$'range', 5, '31 days'$$, 'min_open is out of range');
SELECT refused('kind, value_min, min_open, auto_close', $$'range', 5, '1 s', false$$, 'min_open has no use without auto_close');
SELECT refused('kind, value_min, message', $$'range', 5, 'hello {world}'$$, 'unknown placeholder in its message: {world}');

-- retention: closed alarms that are old by both clocks go, open ones stay
UPDATE iot.alarm SET created_at = now() - interval '2 years', opened_at = now() - interval '2 years',
	closed_at = CASE WHEN status = 'CLOSED' THEN now() - interval '2 years' END;
INSERT INTO iot.alarm (device_id, alarm_rule_id, rule, parameter_id, severity, status, opened_at, closed_at)
	SELECT s.device_id, iot_internal.uuidv7(), 'of a clock in 1970', s.parameter_id, 'red', 'CLOSED',
			'1970-01-01', '1970-01-02'
		FROM iot.sensor s LIMIT 1;
SELECT count(*) AS open_alarms FROM iot.alarm WHERE status = 'OPENED' \gset
SELECT ok(NOT iot_internal.delete_old('alarm', 5000), 'retention takes closed alarms');
SELECT is((SELECT count(*) FROM iot.alarm WHERE status = 'OPENED'), :open_alarms::bigint, 'open ones stay');
SELECT is((SELECT array_agg(rule) FROM iot.alarm WHERE status = 'CLOSED'), ARRAY['of a clock in 1970'],
	'and those that are old by the device''s clock alone');

SELECT * FROM finish();
