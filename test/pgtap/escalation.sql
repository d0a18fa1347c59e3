-- Reminders and escalation, with a clock that the test sets: who is told when, how often, and when not.
-- In a database of its own, without workers and without a transaction around all.
SET client_min_messages TO warning;
SELECT no_plan();

INSERT INTO iot.parameter (name, unit) VALUES ('temperature', '°C');
INSERT INTO iot.device_group (name) VALUES ('plant');
SELECT iot.create_device('boiler', ARRAY['temperature'], 'plant') AS boiler \gset
INSERT INTO iot.app_user (username, email) VALUES ('anna', 'anna@example.org'), ('bert', NULL), ('chief', 'chief@example.org');
INSERT INTO iot.user_group (name) VALUES ('crew'), ('chiefs');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE (g.name, u.username) IN (VALUES ('crew', 'anna'), ('crew', 'bert'), ('chiefs', 'chief'));
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, 'operate' FROM iot.user_group g, iot.device_group d WHERE d.name = 'plant';
INSERT INTO iot.webhook (name, url) VALUES ('pager', 'http://127.0.0.1:9/');
UPDATE iot.notification_rule SET enabled = false;

-- what is refused
SELECT throws_ok($$INSERT INTO iot.notification_rule (name, event, title, remind_every) VALUES ('x', 'device.offline', 'x', '5 min')$$,
	'22023', 'notification rule "x" can neither remind nor escalate', 'nobody acknowledges a device');
SELECT throws_ok(format($$INSERT INTO iot.notification_rule (name, event, title, remind_every, remind_max)
		VALUES ('x', 'alarm.opened', 'x', %L, %L)$$, every, most), '22023', NULL, every || ' ' || most)
	FROM (VALUES ('59 s', 1), ('31 days', 1), ('1 min', 0), ('1 min', 1001)) AS v(every, most);
INSERT INTO iot.notification_rule (name, event, audience, title, body) VALUES
	('r', 'alarm.opened', 'group:crew', '{device} {severity}', 'step {step} reminder {reminder}: {message}'),
	('other', 'device.*', 'viewers', 'x', '');
PREPARE step (text, int, interval, text, text) AS
	INSERT INTO iot.escalation_step (notification_rule_id, step, after, channel, audience)
	SELECT notification_rule_id, $2, $3, $4, $5 FROM iot.notification_rule WHERE name = $1;
SELECT throws_ok(format('EXECUTE step(%L, %s, %L, %L, %L)', rule, step, after, channel, audience), state, message, title)
	FROM (VALUES
		('r', 0, '5 min', 'push', 'viewers', '22023', 'step 0 of an escalation is out of range', 'steps begin with 1'),
		('r', 1, '0 s', 'push', 'viewers', '22023', 'time of escalation step 1 is out of range', 'a step takes its time'),
		('r', 1, '5 min', 'pigeon', 'viewers', '22023', 'invalid channel "pigeon" of escalation step 1', 'unknown channel'),
		('r', 1, '5 min', 'push', 'group:none', '42704', 'user group "none" does not exist', 'unknown group'),
		('r', 1, '5 min', 'email', 'webhook:pager', '22023', 'audience "webhook:pager" does not fit channel "email"', 'no mail to webhooks'),
		('other', 1, '5 min', 'push', 'viewers', '22023', 'notification rule "other" can neither remind nor escalate', 'devices do not escalate'))
		AS v(rule, step, after, channel, audience, state, message, title);
EXECUTE step('r', 1, '5 min', 'email', 'group:chiefs');
EXECUTE step('r', 2, '15 min', 'webhook', 'webhook:pager');
SELECT throws_ok($$UPDATE iot.notification_rule SET event = 'device.*' WHERE name = 'r'$$, '22023', NULL,
	'a rule with steps stays one of alarms');
SELECT throws_ok($$DELETE FROM iot.webhook WHERE name = 'pager'$$, '23503', 'webhook "pager" is used by notification rule "r"',
	'a webhook that steps name stays');

-- An alarm and its event; as many seconds after it as one likes.
CREATE FUNCTION alarm(severity text DEFAULT 'red') RETURNS uuid LANGUAGE sql AS $$
	INSERT INTO iot.alarm (device_id, alarm_rule_id, rule, parameter_id, severity, message, opened_at)
		SELECT s.device_id, iot_internal.uuidv7(), 'too hot', s.parameter_id, alarm.severity, 'hot', now() FROM iot.sensor s
		RETURNING alarm_id
$$;
CREATE FUNCTION emit(type text, alarm uuid) RETURNS void LANGUAGE sql AS
	$$SELECT iot_internal.alarm_event(type, alarm, NULL, NULL)$$;
CREATE FUNCTION after(distance interval, OUT what text) LANGUAGE plpgsql AS $$
DECLARE
	last bigint := coalesce((SELECT max(seq) FROM iot.notification), 0);
BEGIN
	PERFORM iot_internal.escalate((SELECT max(created_at) FROM iot.event WHERE type = 'alarm.opened') + distance, 100);
	what := (SELECT string_agg(format('%s %s: %s', d.channel, d.recipient, n.body ->> 'text'), ', ' ORDER BY n.seq, d.recipient)
		FROM iot.notification n JOIN iot.delivery d USING (seq, channel) WHERE n.seq > last);
END $$;
CREATE FUNCTION seen() RETURNS TABLE (events int, notifications int, pushes int, transfers int) LANGUAGE sql AS
	'SELECT * FROM iot_internal.notify_events(100)';
SELECT * FROM seen() \g /dev/null

-- steps
SELECT alarm() AS alarm \gset
SELECT emit('alarm.opened', :'alarm') \g /dev/null
SELECT results_eq('SELECT * FROM seen()', 'VALUES (1, 1, 2, 0)', 'the rule tells its own audience at once');
SELECT results_eq('SELECT step, sent, due_at - created_at BETWEEN interval ''0'' AND interval ''15 min'' FROM iot.escalation ORDER BY step',
	'VALUES (1, 0, true), (2, 0, true)', 'and its steps are pending');
SELECT is(after('299 s'), NULL, 'nothing before its time');
SELECT is(after('301 s'), 'email chief: step 1 reminder : hot', 'the first step');
SELECT is(after('302 s'), NULL, 'once');
SELECT is(after('20 min'), 'webhook pager: step 2 reminder : hot', 'the second');
SELECT is_empty('SELECT FROM iot.escalation', 'and nothing is left');
SELECT is((SELECT count(*) FROM (SELECT DISTINCT event_id FROM iot.notification) n), 3::bigint,
	'each of them is an outcome of its own to whoever tells repeats by its id');
SELECT results_eq($$SELECT n.body ->> 'severity', n.body ->> 'alarm_id' FROM iot.notification n WHERE n.channel = 'webhook'$$,
	format('VALUES (''red'', %L)', :'alarm'), 'with what the event carried');

-- an outage: what fell due meanwhile is told, in its order
SELECT alarm() AS alarm \gset
SELECT emit('alarm.opened', :'alarm') \g /dev/null
SELECT seen() \g /dev/null
SELECT is(after('1 hour'), 'email chief: step 1 reminder : hot, webhook pager: step 2 reminder : hot', 'late, but told');

-- cancelled by acknowledging, by closing, by what happens to the rule
CREATE FUNCTION opened() RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
	made uuid := alarm();
BEGIN
	PERFORM emit('alarm.opened', made);
	RETURN made;
END $$;
SELECT opened() AS alarm \gset
SELECT seen() \g /dev/null
SELECT iot.acknowledge_alarm(:'alarm') \g /dev/null
SELECT is(after('1 hour'), NULL, 'an acknowledged alarm escalates no more');
SELECT opened() AS alarm \gset
SELECT seen() \g /dev/null
SELECT iot.close_alarm(:'alarm') \g /dev/null
SELECT is(after('1 hour'), NULL, 'nor does one that is closed');
SELECT is_empty('SELECT FROM iot.escalation', 'and nothing stays behind');
SELECT opened() AS alarm \gset
SELECT iot.acknowledge_alarm(:'alarm') \g /dev/null
SELECT seen() \g /dev/null
SELECT is_empty('SELECT FROM iot.escalation', 'one that was acknowledged before anybody was told never begins');
SELECT opened() AS alarm \gset
SELECT seen() \g /dev/null
UPDATE iot.notification_rule SET enabled = false WHERE name = 'r';
SELECT is(after('1 hour'), NULL, 'a rule that is disabled takes its steps with it');
UPDATE iot.notification_rule SET enabled = true WHERE name = 'r';
SELECT opened() AS alarm \gset
SELECT seen() \g /dev/null
DELETE FROM iot.escalation_step WHERE step = 2;
SELECT is(after('1 hour'), 'email chief: step 1 reminder : hot', 'a step that is deleted is not told');
DELETE FROM iot.alarm;
DELETE FROM iot.escalation_step;

-- reminders
UPDATE iot.notification_rule SET remind_every = '10 min', remind_max = 3 WHERE name = 'r';
SELECT alarm('orange') AS alarm \gset
SELECT emit('alarm.opened', :'alarm') \g /dev/null
SELECT seen() \g /dev/null
SELECT is(after('599 s'), NULL, 'no reminder before its time');
SELECT is(after('601 s'), 'push anna: step  reminder 1: hot, push bert: step  reminder 1: hot', 'the first, to the same audience');
UPDATE iot.alarm SET severity = 'red', message = 'hotter';
SELECT is(after('45 min'), 'push anna: step  reminder 2: hotter, push bert: step  reminder 2: hotter',
	'after an outage one of those that were missed, with what is so now');
SELECT is((SELECT title FROM iot.notification ORDER BY seq DESC LIMIT 1), 'boiler red', 'severity as well');
SELECT is(after('54 min'), NULL, 'the next is counted from there');
SELECT is(after('56 min'), 'push anna: step  reminder 3: hotter, push bert: step  reminder 3: hotter', 'the third');
SELECT is(after('1 day'), NULL, 'remind_max ends it');
SELECT is_empty('SELECT FROM iot.escalation', 'and nothing is left');
UPDATE iot.notification_rule SET remind_every = NULL WHERE name = 'r';
EXECUTE step('r', 1, '5 min', 'push', 'group:chiefs');
UPDATE iot.escalation_step SET remind_every = '1 min', remind_max = 2;
DELETE FROM iot.alarm;
SELECT alarm() AS alarm \gset
SELECT emit('alarm.opened', :'alarm') \g /dev/null
SELECT seen() \g /dev/null
SELECT is(after(distance), words, 'a step that reminds, after ' || distance)
	FROM (VALUES (interval '5 min', 'push chief: step 1 reminder : hot'), ('6 min', 'push chief: step 1 reminder 1: hot'),
		('6 min 30 s', NULL), ('7 min', 'push chief: step 1 reminder 2: hot'), ('9 min', NULL)) AS v(distance, words);

-- a change of severity
UPDATE iot.notification_rule SET event = 'alarm.*' WHERE name = 'r';
DELETE FROM iot.alarm;
SELECT alarm('orange') AS alarm \gset
SELECT emit('alarm.severity_changed', :'alarm') \g /dev/null
SELECT seen() \g /dev/null
SELECT is_empty('SELECT FROM iot.escalation', 'orange does not escalate');
UPDATE iot.alarm SET severity = 'red';
SELECT emit('alarm.severity_changed', :'alarm'), emit('alarm.opened', :'alarm') \g /dev/null
SELECT seen() \g /dev/null
SELECT results_eq('SELECT step, event FROM iot.escalation', $$VALUES (1, 'alarm.severity_changed')$$,
	'red does, and what runs already is not doubled');

-- one that cannot be told stops nothing
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON iot.notification FOR EACH ROW EXECUTE FUNCTION refuse();
SELECT is(after('1 day'), NULL, 'a trigger that refuses');
DROP TRIGGER refuse ON iot.notification;
SELECT results_eq('SELECT topic, reason, error FROM iot.dead_letter', $$VALUES ('alarm.severity_changed', 'notification_failed', 'refused')$$,
	'leaves a dead letter');
SELECT is((SELECT sent FROM iot.escalation), 1, 'and the step goes on');

-- events that only look like alarms
SELECT iot_internal.event_append('alarm.opened', 'alarm', 'x', :'boiler', payload)
	FROM (VALUES ('{"alarm_id":"no uuid"}'::jsonb), ('[]'), ('{"alarm_id":7}')) AS v(payload) \g /dev/null
SELECT lives_ok('SELECT seen()', 'break nothing');
SELECT is((SELECT count(*) FROM iot.escalation), 1::bigint, 'and begin nothing');

-- a copy: the original goes on reminding
UPDATE iot.epoch SET paused = true, created_at = now() + interval '1 s';
SELECT iot.resume() \g /dev/null
SELECT is_empty('SELECT FROM iot.escalation', 'a copy that is resumed reminds of nothing that came with it');
SELECT is(has_table_privilege(r, 'iot.escalation', 'SELECT'), r = 'iot_admin', r)
	FROM unnest(ARRAY['iot_admin', 'iot_operator', 'iot_pushd']) AS r;
SET ROLE iot_worker;
SELECT events AS worked FROM iot_internal.escalate(now(), 10) \gset
RESET ROLE;
SELECT is(:worked, 0, 'the worker may work');

SELECT * FROM finish();
