-- Notifications: rules and their validation, audiences, once per recipient, reading, book-keeping.
-- In a database of its own, without workers and without a transaction around all: the log shows an
-- event to no one before its commit.
SET client_min_messages TO warning;
SELECT plan(126);

INSERT INTO iot.parameter (name, unit) VALUES ('t-temperature', '°C');
INSERT INTO iot.device_group (name) VALUES ('t-plant'), ('t-lab');
SELECT iot.create_device('t-boiler', ARRAY['t-temperature'], 't-plant') AS boiler \gset
SELECT iot.create_device('t-fridge', ARRAY['t-temperature'], 't-lab') AS fridge \gset
INSERT INTO iot.app_user (username) VALUES ('t-anna'), ('t-bert'), ('t-carl');
INSERT INTO iot.app_user (username, enabled) VALUES ('t-dora', false);
INSERT INTO iot.user_group (name) VALUES ('t-crew'), ('t-labs');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE (g.name, u.username) IN (VALUES ('t-crew', 't-anna'), ('t-crew', 't-bert'),
		('t-crew', 't-dora'), ('t-labs', 't-carl'));
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, 'view' FROM iot.user_group g, iot.device_group d
	WHERE (g.name, d.name) IN (VALUES ('t-crew', 't-plant'), ('t-labs', 't-lab'));
INSERT INTO iot.secret (name, value) VALUES ('t-key', 'k3y');

-- 1. the seed
SELECT results_eq(
	$$SELECT event, channel, audience, enabled FROM iot.notification_rule ORDER BY event$$,
	$$VALUES ('adapter.value_set_error', 'push', 'viewers', true),
		('adapter.value_set_sent', 'push', 'viewers', true),
		('alarm.acknowledged', 'push', 'viewers', false),
		('alarm.assigned', 'push', 'viewers', false),
		('alarm.closed', 'push', 'viewers', true),
		('alarm.commented', 'push', 'viewers', false),
		('alarm.opened', 'push', 'viewers', true),
		('alarm.severity_changed', 'push', 'viewers', true),
		('dm.value_set_cancelled', 'push', 'viewers', false),
		('dm.value_set_error', 'push', 'viewers', true)$$,
	'seeded rules');
UPDATE iot.notification_rule SET title = 'mine' WHERE event = 'adapter.value_set_sent';
DELETE FROM iot.notification_rule WHERE event = 'dm.value_set_error';
SELECT lives_ok('SELECT iot.install()', 'install() can be run again');
SELECT results_eq(
	$$SELECT event, title FROM iot.notification_rule WHERE title = 'mine' OR event = 'dm.value_set_error'$$,
	$$VALUES ('adapter.value_set_sent', 'mine')$$,
	'and leaves alone what users edited or deleted');
UPDATE iot.notification_rule SET enabled = false;

-- 2. patterns and templates
SELECT is(iot_internal.event_matches(p, e), expected, format('%s on %s', p, e))
	FROM (VALUES ('adapter.*', 'adapter.value_set_sent', true), ('adapter.*', 'adapter', false),
		('*', 'x', true), ('*.opened', 'alarm.opened', true), ('a*c*e', 'abcde', true),
		('a*c*e', 'abcdef', false), ('alarm.opened', 'alarm.opened', true),
		('alarm.opened', 'alarm.opened2', false)) AS v (p, e, expected);
SELECT is(iot_internal.render_template('{device}: {value}{unit}|{nothing}|{on}|{list}|{none}|{{value}|}',
		'{"device":"b\"1","value":21.50,"unit":" °C","on":true,"list":[1,"a"],"none":null}'),
	'b"1: 21.50 °C||true|[1, "a"]||{value}|}', 'templates take every kind of value');
SELECT is(iot_internal.template_names('{a} {b_2} {{c} { d } {}'), ARRAY['a', 'b_2'], 'placeholders found');
SELECT is(iot_internal.render_template('', '{}'), '', 'an empty template');
SELECT throws_ok($$SELECT iot_internal.render_template('{a}', '[1]')$$, '22023',
	'values of a template must be a JSON object', 'values that are no object');

-- 3. what a rule must not say
PREPARE rule (text, text, text, text) AS
	INSERT INTO iot.notification_rule (name, event, channel, audience, title)
	VALUES ('t-bad', $1, $2, $3, $4);
SELECT throws_ok($$EXECUTE rule('a b', 'push', 'viewers', 'x')$$, '22023',
	'invalid event pattern "a b"', 'pattern with a blank');
SELECT throws_ok($$EXECUTE rule('', 'push', 'viewers', 'x')$$, '22023',
	'invalid event pattern ""', 'empty pattern');
SELECT throws_ok(format('INSERT INTO iot.notification_rule (name, event, title) VALUES (%L, ''a'', ''x'')', n),
	'22023', format('invalid name of a notification rule: "%s"', n), 'a name that is none')
	FROM unnest(ARRAY['', ' x', E'a\nb']) AS n;
SELECT throws_ok($$EXECUTE rule('a', 'pigeon', 'viewers', 'x')$$, '22023',
	'invalid channel "pigeon" of notification rule "t-bad"', 'unknown channel');
SELECT throws_ok($$EXECUTE rule('a', 'push', 'everybody', 'x')$$, '22023',
	'invalid audience "everybody"', 'unknown audience');
SELECT throws_ok($$EXECUTE rule('a', 'push', 'user:t-nobody', 'x')$$, '42704',
	'user "t-nobody" does not exist', 'unknown user');
SELECT throws_ok($$EXECUTE rule('a', 'push', 'group:t-none', 'x')$$, '42704',
	'user group "t-none" does not exist', 'unknown group');
SELECT throws_ok($$EXECUTE rule('a', 'webhook', 'webhook:t-none', 'x')$$, '42704',
	'webhook "t-none" does not exist', 'unknown webhook');
SELECT throws_ok($$EXECUTE rule('a', 'webhook', 'viewers', 'x')$$, '22023',
	'audience "viewers" does not fit channel "webhook"', 'a webhook needs its name');
SELECT throws_ok($$EXECUTE rule('a', 'push', 'webhook:t-none', 'x')$$, '22023',
	'audience "webhook:t-none" does not fit channel "push"', 'push has no webhooks');
SELECT throws_ok($$EXECUTE rule('a', 'push', 'viewers', '{device} {colour}')$$, '22023',
	'unknown placeholder in title of notification rule: {colour}', 'unknown placeholder');
SELECT throws_ok($$EXECUTE rule('a', 'push', 'viewers', ' ')$$, '22023',
	'invalid title or body of notification rule "t-bad"', 'empty title');
SELECT is((SELECT count(*) FROM iot.notification_rule WHERE name = 't-bad'), 0::bigint,
	'none of them was written');

-- 4. what a webhook must not be
PREPARE hook (text, jsonb) AS INSERT INTO iot.webhook (name, url, options) VALUES ('t-bad', $1, $2);
SELECT throws_ok(format('EXECUTE hook(%L, ''{}'')', url), '22023', 'invalid url of webhook "t-bad"', url)
	FROM unnest(ARRAY['ftp://h/', 'file:///etc/passwd', 'http://', 'http://u:p@h/', 'https://h /x',
		E'http://h/\n']) AS u(url);
SELECT throws_ok(format('EXECUTE hook(''http://h'', %L)', options), state, message, options)
	FROM (VALUES ('[]', '22023', 'options of webhook "t-bad" must be a JSON object'),
		('{"colour":1}', '22023', 'unknown option "colour" of webhook "t-bad"'),
		('{"timeout":"never"}', '22023', 'invalid option "timeout" of webhook "t-bad"'),
		('{"timeout":"61 s"}', '22023', 'invalid option "timeout" of webhook "t-bad"'),
		('{"timeout":5}', '22023', 'option "timeout" of webhook "t-bad" must be a string'),
		('{"max_attempts":0}', '22023', 'invalid option "max_attempts" of webhook "t-bad"'),
		('{"max_attempts":"3"}', '22023', 'invalid option "max_attempts" of webhook "t-bad"'),
		('{"ca_file":"ca.pem"}', '22023', 'option "ca_file" of webhook "t-bad" must be an absolute path'),
		('{"secret":"t-none"}', '42704', 'secret "t-none" does not exist'))
		AS v (options, state, message);

-- 5. events become notifications
INSERT INTO iot.webhook (name, url, options) VALUES ('t-hook', 'http://127.0.0.1:9/x?token=1',
	'{"secret":"t-key","timeout":"3 s","max_attempts":2}');
SELECT throws_ok($$UPDATE iot.webhook SET name = 't-other' WHERE name = 't-hook'$$, '0A000',
	'webhook "t-hook" cannot be renamed', 'deliveries go by its name');
INSERT INTO iot.notification_rule (name, event, channel, audience, title, body, created_at) VALUES
	('t-1', 't.crew', 'push', 'group:t-crew', '{device}: {parameter} {value}{unit} by {username}', '{error}', now()),
	('t-2', 't.*', 'push', 'viewers', 'for viewers', '', now() + interval '1 s'),
	('t-3', 't.*', 'webhook', 'webhook:t-hook', 'for {event}', '', now() + interval '2 s'),
	('t-4', 't.*', 'webhook', 'webhook:t-hook', 'again', '', now() + interval '3 s'),
	('t-5', 't.author', 'push', 'author', 'for the author', '', now());
SELECT throws_ok($$DELETE FROM iot.webhook WHERE name = 't-hook'$$, '23503', NULL,
	'a webhook that rules name stays');

CREATE FUNCTION pg_temp.emit(type text, device uuid, payload jsonb) RETURNS uuid LANGUAGE sql AS $$
	INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
	VALUES (iot_internal.uuidv7(), 'test', 'x', type, payload, device) RETURNING event_id
$$;
SELECT is(iot_internal.notify_events(10), ROW(0, 0, 0, 0), 'nothing happened so far');
SELECT pg_temp.emit('t.crew', :'boiler',
	'{"device":"t-boiler","parameter":"t-temperature","value":21.5,"unit":"°C","username":"t-bert","error":"no"}') AS crew \gset
SELECT pg_temp.emit('other', :'boiler', '{}') AS other \gset
SELECT is(iot_internal.notify_events(10), ROW(2, 2, 2, 1), 'read, written, push and webhook deliveries');
SELECT is(iot_internal.notify_events(10), ROW(0, 0, 0, 0), 'each event once');
SELECT results_eq(
	$$SELECT event, channel, audience, username, device, title, body ->> 'text', body ->> 'value'
		FROM iot.notification ORDER BY seq$$,
	$$VALUES ('t.crew', 'push', 'group:t-crew', 't-bert', 't-boiler',
			't-boiler: t-temperature 21.5°C by t-bert', 'no', '21.5'),
		('t.crew', 'webhook', 'webhook:t-hook', 't-bert', 't-boiler', 'for t.crew', NULL, '21.5')$$,
	'words and payload; a rule that reaches nobody new writes nothing');
SELECT results_eq(
	$$SELECT channel, recipient, status, attempts FROM iot.delivery ORDER BY channel, recipient$$,
	$$VALUES ('push', 't-anna', 'PENDING', 1), ('push', 't-bert', 'PENDING', 1),
		('webhook', 't-hook', 'PENDING', 0)$$,
	'I7: per channel a recipient is told once; disabled users and strangers are not');
SELECT ok(next_attempt_at > now(), 'the first hint counts as an attempt')
	FROM iot.delivery WHERE recipient = 't-anna';

-- a rule of the viewers reaches those whom the first did not
SELECT pg_temp.emit('t.crew', :'fridge', '{}') AS fridge_event \gset
SELECT is(iot_internal.notify_events(10), ROW(1, 3, 2, 1), 'a device of another group');
SELECT results_eq(
	format($$SELECT n.audience, d.recipient FROM iot.notification n JOIN iot.delivery d USING (seq, channel)
		WHERE n.event_id = %L AND n.channel = 'push' ORDER BY n.seq$$, :'fridge_event'),
	$$VALUES ('group:t-crew', '*'), ('viewers', 't-carl')$$,
	'audience and permission together; "*" waits for whoever becomes eligible');
UPDATE iot.notification_rule SET enabled = false WHERE name IN ('t-1', 't-2', 't-4');
SELECT pg_temp.emit('t.author', :'boiler', '{"username":"t-anna"}') AS anna_event \gset
SELECT pg_temp.emit('t.author', :'boiler', '{"username":"t-carl"}') AS carl_event \gset
SELECT pg_temp.emit('t.author', :'boiler', '{}') AS no_author \gset
SELECT pg_temp.emit('t.author', NULL, '{"username":"t-anna"}') AS no_device \gset
SELECT pg_temp.emit('t.author', iot_internal.uuidv7(), '{"username":"t-anna"}') AS gone \gset
SELECT pg_temp.emit('t.author', :'boiler', '["no object"]') AS array_event \gset
SELECT is(iot_internal.notify_events(4), ROW(4, 7, 3, 4), 'a window');
SELECT is(iot_internal.notify_events(4), ROW(2, 2, 0, 2), 'the rest of the backlog');
SELECT results_eq(
	$$SELECT n.username, n.device_id IS NULL, d.recipient FROM iot.notification n
		JOIN iot.delivery d USING (seq, channel)
		WHERE n.event = 't.author' AND n.channel = 'push' ORDER BY n.seq$$,
	$$VALUES ('t-anna', false, 't-anna'), ('t-carl', false, '*'), ('t-anna', true, '*')$$,
	'the author, if allowed to view the device; nothing for a device that is gone');

-- 6. reading
CREATE FUNCTION pg_temp.as_user(username text) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('request.jwt.claims', json_build_object('sub', username)::text, false)
$$;
SELECT current_user AS me \gset
SELECT set_config('iot.authenticators', :'me', false);
SELECT pg_temp.as_user('t-anna');
SELECT results_eq('SELECT event, title, read FROM iot.notifications()',
	$$VALUES ('t.crew', 't-boiler: t-temperature 21.5°C by t-bert', false),
		('t.author', 'for the author', false)$$,
	'what anna was told: of her group, of her devices, once');
SELECT is((SELECT min(seq) FROM iot.notifications()) + 0, iot.mark_notifications_read((SELECT min(seq) FROM iot.notifications())),
	'marking returns the position');
SELECT results_eq('SELECT read FROM iot.notifications()', 'VALUES (true), (false)', 'read up to there');
SELECT is(iot.mark_notifications_read(0), (SELECT min(seq) FROM iot.notifications()),
	'the position never goes back');
SELECT is(iot.mark_notifications_read(1000000000), (SELECT max(seq) FROM iot.notification),
	'nor beyond what exists');
SELECT throws_ok('SELECT iot.mark_notifications_read(-1)', '22023', NULL, 'a negative position');
SELECT throws_ok('SELECT iot.mark_notifications_read(NULL)', '22023', NULL, 'no position');
SELECT results_eq('SELECT seq FROM iot.notifications(NULL)', 'SELECT seq FROM iot.notifications()', 'NULL is no position');
SELECT is_empty(format('SELECT * FROM iot.notifications(%s)', (SELECT max(seq) FROM iot.notification)),
	'nothing after the last');
SELECT pg_temp.as_user('t-carl');
SELECT results_eq('SELECT event, device, title FROM iot.notifications()',
	$$VALUES ('t.crew', 't-fridge', 'for viewers')$$, 'carl sees his devices only');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE g.name = 't-crew' AND u.username = 't-carl';
SELECT results_eq('SELECT event, device, title FROM iot.notifications()',
	$$VALUES ('t.crew', 't-boiler', 't-boiler: t-temperature 21.5°C by t-bert'),
		('t.crew', 't-fridge', 't-fridge:   by'), ('t.author', 't-boiler', 'for the author')$$,
	'permission is asked when reading');
SELECT ok(iot_internal.may_receive('t-carl', seq), 'the push daemon gets the same answer')
	FROM iot.notifications();
SELECT ok(NOT iot_internal.may_receive('t-carl', n.seq), 'one telling per event')
	FROM iot.notification n WHERE n.event_id = :'fridge_event' AND n.audience = 'viewers';
SELECT pg_temp.as_user('t-dora');
SELECT is_empty('SELECT * FROM iot.notifications()', 'a disabled user sees nothing');
SELECT set_config('request.jwt.claims', '', false);
SELECT is_empty('SELECT * FROM iot.notifications()', 'nor does nobody');
SELECT throws_ok('SELECT iot.mark_notifications_read(1)', '42501', 'no user is named', 'nobody has no position');

SELECT results_eq(
	$$SELECT d.name, u.username FROM iot.device d, iot.app_user u
		WHERE iot.may(u.username, d.device_id, 'view') ORDER BY 1, 2$$,
	$$SELECT d.name, (a.usernames)[v.ordinal]
		FROM (SELECT array_agg(u.username) AS usernames FROM iot.app_user u) a,
			iot_internal.push_viewers(ARRAY(SELECT d.device_id FROM iot.device d), a.usernames) v
			JOIN iot.device d ON d.device_id = v.device_id ORDER BY 1, 2$$,
	'asking for many gives what asking for each gives');

-- 7. push back-off
SELECT ok(bool_and(d.next_attempt_at > n.created_at), 'what has just been told is not due at once')
	FROM iot.delivery d JOIN iot.notification n USING (seq) WHERE d.channel = 'push';
UPDATE iot.delivery SET next_attempt_at = now() + interval '1 hour' WHERE channel = 'push';
SELECT is(iot_internal.push_due(100), 0, 'nothing is due yet');
UPDATE iot.delivery SET next_attempt_at = now() - interval '1 s' WHERE channel = 'push';
UPDATE iot.delivery SET attempts = 9 WHERE channel = 'push' AND recipient = 't-bert';
SELECT is(iot_internal.push_due(2), 2, 'at most so many');
SELECT cmp_ok(iot_internal.push_due(100), '>', 0, 'and then the rest');
SELECT ok(next_attempt_at BETWEEN clock_timestamp() + interval '50 s' AND clock_timestamp() + interval '60 s'
		AND attempts = 10 AND last_error IS NOT NULL, 'the wait ends at a minute')
	FROM iot.delivery WHERE channel = 'push' AND recipient = 't-bert';
SELECT ok(bool_and(next_attempt_at <= clock_timestamp() + interval '2 s' AND attempts = 2), 'and begins with seconds')
	FROM iot.delivery WHERE channel = 'push' AND recipient = 't-carl';

-- 8. webhook book-keeping
SELECT is((SELECT count(*) FROM iot_internal.webhook_take('{}', '{t-hook}', 8, 4)), 0::bigint, 'a held webhook is left alone');
SELECT is((SELECT count(*) FROM iot_internal.webhook_take('{t-hook,t-hook,t-hook,t-hook}', '{}', 8, 4)), 0::bigint,
	'and a busy one');
CREATE TEMP TABLE taken AS SELECT * FROM iot_internal.webhook_take('{t-hook,t-hook}', '{}', 8, 4);
SELECT results_eq('SELECT webhook, attempt, url, timeout_ms, ca_file, secret, problem FROM taken',
	$$VALUES ('t-hook', 1, 'http://127.0.0.1:9/x?token=1', 3000, NULL, 'k3y', NULL),
		('t-hook', 1, 'http://127.0.0.1:9/x?token=1', 3000, NULL, 'k3y', NULL)$$, 'taken with what is needed');
SELECT is((SELECT body::jsonb - 'at' - 'seq' - 'event_id' FROM taken ORDER BY seq LIMIT 1),
	jsonb_build_object('event', 't.crew', 'device', 't-boiler', 'device_id', :'boiler', 'username', 't-bert',
		'title', 'for t.crew', 'data', '{"device":"t-boiler","parameter":"t-temperature","value":21.5,"unit":"°C","username":"t-bert","error":"no"}'::jsonb),
	'the notification as JSON');
SELECT is((SELECT body::jsonb ->> 'event_id' FROM taken ORDER BY seq LIMIT 1), :'crew', 'with the id of the event');
SELECT results_eq($$SELECT w.status, w.attempts FROM (SELECT min(seq) AS a, max(seq) AS b FROM taken) t,
		iot_internal.delivery_result(ARRAY[t.a, t.b], '{webhook,webhook}', '{t-hook,t-hook}', '{t,f}', '{f,f}', '{NULL,boom}') w ORDER BY w.seq$$,
	$$VALUES ('DELIVERED', 1), ('PENDING', 1)$$, 'outcomes are recorded');
SELECT ok(d.last_error = 'boom' AND d.started_at IS NULL
		AND d.next_attempt_at BETWEEN clock_timestamp() AND clock_timestamp() + interval '1 s', 'to be tried again')
	FROM iot.delivery d WHERE d.seq = (SELECT max(seq) FROM taken);
UPDATE iot.delivery SET next_attempt_at = now() WHERE seq = (SELECT max(seq) FROM taken);
SELECT is((SELECT count(*) FROM iot_internal.webhook_take('{}', '{}', 100, 100)), 7::bigint, 'all that are due');
SELECT results_eq($$SELECT w.status, w.attempts FROM (SELECT max(seq) AS b FROM taken) t,
		iot_internal.delivery_result(ARRAY[t.b], '{webhook}', '{t-hook}', '{f}', '{f}', '{bang}') w$$,
	$$VALUES ('FAILED', 2)$$, 'max_attempts ends it');
SELECT is((SELECT last_error FROM iot.delivery WHERE status = 'FAILED'), 'bang', 'with the reason');
SELECT is(iot_internal.delivery_recover(), 6, 'what a dead notifier had under way');
SELECT is((SELECT count(*) FROM iot.delivery WHERE started_at IS NOT NULL), 0::bigint, 'is due again');
-- past the trigger that keeps a secret in use
SET session_replication_role = replica;
DELETE FROM iot.secret WHERE name = 't-key';
RESET session_replication_role;
SELECT is(problem, 'secret "t-key" does not exist', 'never unsigned where a signature is due')
	FROM iot_internal.webhook_take('{}', '{}', 1, 1);
DELETE FROM iot.notification_rule WHERE channel = 'webhook';
SELECT lives_ok($$DELETE FROM iot.webhook WHERE name = 't-hook'$$, 'a webhook that no rule names can go');
SELECT is((SELECT count(*) FROM iot.delivery WHERE channel = 'webhook' AND status = 'PENDING'), 0::bigint,
	'and nothing waits for it any more');

-- 9. an event that cannot be told blocks nothing
UPDATE iot.notification_rule SET enabled = true WHERE name = 't-2';
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER t_refuse BEFORE INSERT ON iot.notification FOR EACH ROW
	WHEN (NEW.body ? 'poison') EXECUTE FUNCTION pg_temp.refuse();
SELECT pg_temp.emit('t.x', :'boiler', '{"poison":1}') AS poison \gset
SELECT pg_temp.emit('t.x', :'boiler', '{"good":1}') AS good \gset
SELECT throws_ok('SELECT iot_internal.notify_events(10)', '23514', 'refused', 'a poisoned window fails');
SELECT isnt(iot_internal.notify_skip('refused'), NULL, 'one event is passed over');
SELECT results_eq($$SELECT device, topic, reason, error, convert_from(payload, 'UTF8')::jsonb ->> 'poison'
		FROM iot.dead_letter$$,
	$$VALUES ('t-boiler', 't.x', 'notification_failed', 'refused', '1')$$, 'into the dead letters');
SELECT is(iot_internal.notify_events(10), ROW(1, 1, 3, 0), 'and the next is told');
SELECT is(iot_internal.notify_skip('x'), NULL, 'nothing more to pass over');

-- 10. what the roles may do; a refusal ends the script
RESET iot.authenticators;
SET ROLE iot_admin;
INSERT INTO iot.notification_rule (name, event, audience, title)
	VALUES ('t-admin', 'admin.*', 'group:t-crew', '{event}');
INSERT INTO iot.webhook (name, url) VALUES ('t-admin', 'https://example.org/');
UPDATE iot.delivery SET status = 'PENDING', attempts = 0, next_attempt_at = now() WHERE status = 'FAILED';
SELECT count(*) AS readable FROM iot.notification \gset
SELECT count(*) AS own FROM iot.notifications() \gset
RESET ROLE;
SELECT ok(:readable > 0, 'an administrator writes rules and webhooks, and reads all');
SET ROLE iot_worker;
SELECT events AS worked FROM iot_internal.notify_events(10) \gset
RESET ROLE;
SELECT is(:worked, 0, 'the worker may work');
SELECT is(has_table_privilege(r, t, p), p = 'SELECT' AND t <> 'iot.webhook' AND r <> 'iot_anon',
		format('%s: %s on %s, of which rows are a matter of policies', r, p, t))
	FROM unnest(ARRAY['iot_viewer', 'iot_operator', 'iot_anon']) AS r,
		unnest(ARRAY['iot.notification', 'iot.delivery', 'iot.webhook']) AS t,
		unnest(ARRAY['SELECT', 'INSERT']) AS p;
SELECT is(has_function_privilege('iot_viewer', 'iot_internal.notify_events(integer)', 'EXECUTE'), false,
	'nobody but the worker moves its cursor');


-- 11. more recipients than a statement writes, whom several rules reach
INSERT INTO iot.app_user (username) SELECT 't-many-' || n FROM generate_series(1, 5001) n;
INSERT INTO iot.user_group (name) VALUES ('t-many');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g JOIN iot.app_user u ON starts_with(u.username, 't-many-')
		WHERE g.name = 't-many';
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, 'view' FROM iot.user_group g
		CROSS JOIN (SELECT DISTINCT d.device_group_id FROM iot.device d WHERE d.name = 't-boiler') d
		WHERE g.name = 't-many';
INSERT INTO iot.notification_rule (name, event, audience, title) VALUES
	('t-many-1', 't-many.x', 'user:t-many-7', '1'), ('t-many-2', 't-many.*', 'group:t-many', '2'),
	('t-many-3', 't-*', 'group:t-many', '3');
INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
	SELECT iot_internal.uuidv7(), 't', 't', 't-many.x', '{}', d.device_id FROM iot.device d WHERE d.name = 't-boiler';
SELECT is(iot_internal.notify_events(10), ROW(1, 2, 5001, 0), 'each of them once');
SELECT results_eq($$SELECT n.title, count(DISTINCT d.recipient) FROM iot.notification n JOIN iot.delivery d ON d.seq = n.seq
		WHERE n.event = 't-many.x' GROUP BY 1 ORDER BY 1$$,
	$$VALUES ('1', 1::bigint), ('2', 5000)$$, 'by the first rule that reaches him');

SELECT * FROM finish();
