-- How people want to be told: mutes, quiet hours, languages, time zones, and e-mail as bytes.
-- In a database of its own, without workers and without a transaction around all.
SET client_min_messages TO warning;
SELECT no_plan();

INSERT INTO iot.parameter (name, unit) VALUES ('temperature', '°C');
INSERT INTO iot.device_group (name) VALUES ('plant'), ('lab');
SELECT iot.create_device('boiler', ARRAY['temperature'], 'plant') AS boiler \gset
SELECT iot.create_device('fridge', ARRAY['temperature'], 'lab') AS fridge \gset
SELECT iot.create_device('hidden', ARRAY['temperature']) AS hidden \gset
INSERT INTO iot.app_user (username, email) VALUES ('anna', 'anna@example.org'), ('bert', 'bert@example.org'), ('carl', NULL);
INSERT INTO iot.user_group (name) VALUES ('crew');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u;
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, 'view' FROM iot.user_group g, iot.device_group d WHERE d.name <> 'default';
UPDATE iot.notification_rule SET enabled = false;

CREATE FUNCTION as_user(username text) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('request.jwt.claims', json_build_object('sub', username)::text, false)
$$;
SELECT current_user AS me \gset
SELECT set_config('iot.authenticators', :'me', false) \g /dev/null

-- 1. what users and mail servers may say
SELECT is(iot_internal.is_mail_address(a), ok, a) FROM (VALUES ('a.b+c@example.org', true), ('a@localhost', true),
	('a@b@c', false), ('a b@c.org', false), (E'a@c.org\nBcc: x@y.org', false), ('<a@c.org>', false), ('a@c.org,b@c.org', false),
	('"a"@c.org', false), ('ä@c.org', false), ('a@-c.org', false), ('a@c..org', false), (repeat('a', 65) || '@c.org', false)) AS v(a, ok);
SELECT throws_ok(format('UPDATE iot.app_user SET %s WHERE username = ''anna''', change), '22023', message, change)
	FROM (VALUES ('email = ''anna''', 'invalid email of user "anna"'), ('language = ''German''', 'invalid language "German"'),
		('time_zone = ''Mars/Olympus''', 'unknown time zone "Mars/Olympus"'), ('time_zone = ''CET-1''', 'unknown time zone "CET-1"'))
		AS v(change, message);
INSERT INTO iot.secret (name, value) VALUES ('mail-key', 's3cret');
PREPARE server (text, text, jsonb) AS INSERT INTO iot.mail_server (name, url, sender, options) VALUES ('m', $1, $2, $3);
SELECT throws_ok(format('EXECUTE server(%L, %L, %L)', url, sender, options), state, message, message)
	FROM (VALUES ('http://h', 'a@b.org', '{}', '22023', 'invalid url of mail server "m"'),
		('smtp://u:p@h', 'a@b.org', '{}', '22023', 'invalid url of mail server "m"'),
		('smtp://h/x', 'a@b.org', '{}', '22023', 'invalid url of mail server "m"'),
		(E'smtp://h\n', 'a@b.org', '{}', '22023', 'invalid url of mail server "m"'),
		('smtp://h', 'a', '{}', '22023', 'invalid sender of mail server "m"'),
		('smtp://h', 'a@b.org', '[]', '22023', 'options of mail server "m" must be a JSON object'),
		('smtp://h', 'a@b.org', '{"secret":"mail-key"}', '22023', 'unknown option "secret" of mail server "m"'),
		('smtp://h', 'a@b.org', '{"starttls":"maybe"}', '22023', 'invalid option "starttls" of mail server "m"'),
		('smtps://h', 'a@b.org', '{"starttls":"never"}', '22023', 'option "starttls" of mail server "m" does not go with "smtps://"'),
		('smtp://h', 'a@b.org', '{"username":"u"}', '22023', 'mail server "m" has only one of user and password'),
		('smtp://h', 'a@b.org', '{"username":"u","password_secret":"none"}', '42704', 'secret "none" does not exist'),
		('smtp://h', 'a@b.org', '{"username":"u","password_secret":"mail-key","starttls":"never"}', '22023',
			'mail server "m" would be told its password in clear'),
		('smtp://h', 'a@b.org', '{"timeout":"2 min"}', '22023', 'invalid option "timeout" of mail server "m"'),
		('smtp://h', 'a@b.org', '{"max_attempts":101}', '22023', 'invalid option "max_attempts" of mail server "m"'),
		('smtp://h', 'a@b.org', '{"ca_file":"x"}', '22023', 'option "ca_file" of mail server "m" must be an absolute path'))
		AS v(url, sender, options, state, message);
INSERT INTO iot.mail_server (name, url, sender, sender_name, options) VALUES
	('m', 'smtps://mail.example.org', 'iot@example.org', 'Wärme & Co', '{"username":"u","password_secret":"mail-key","max_attempts":2}');
SELECT throws_ok($$INSERT INTO iot.mail_server (name, url, sender) VALUES ('n', 'smtp://h', 'a@b.org')$$, '23505', NULL,
	'one mail server is enabled');
SELECT throws_ok($$DELETE FROM iot.secret WHERE name = 'mail-key'$$, '2BP01', 'secret "mail-key" is used by mail server "m"',
	'a secret in use stays');

-- 2. everybody sets his own
SELECT set_config('request.jwt.claims', '{"sub":"stranger"}', false) \g /dev/null
SELECT throws_ok('SELECT iot.mute()', '42501', 'no user is named, or none whom iot knows', 'strangers have no preferences');
SELECT as_user('anna') \g /dev/null
SELECT lives_ok($$SELECT iot.set_preferences(language => 'de-AT', time_zone => 'Europe/Vienna')$$, 'language and zone');
SELECT lives_ok($$SELECT iot.set_preferences(email => 'anna2@example.org')$$, 'what is not named stays');
SELECT results_eq('SELECT * FROM iot.preferences()',
	$$VALUES ('anna', 'anna2@example.org', 'de-AT', 'Europe/Vienna', NULL::time, NULL::time, NULL::int[], NULL::boolean)$$, 'written');
SELECT iot.set_preferences(email => '') \g /dev/null
SELECT is((SELECT email FROM iot.preferences()), NULL, 'an empty text takes away');
SELECT iot.set_preferences(email => 'anna@example.org') \g /dev/null
SELECT throws_ok($$SELECT iot.set_preferences(email => E'a@b.org\r\nBcc: c@d.org')$$, '22023', NULL, 'no second line in an address');
SELECT throws_ok($$SELECT iot.mute('a b')$$, '22023', 'invalid event pattern "a b"', 'a pattern that is none');
SELECT throws_ok($$SELECT iot.mute(until => now())$$, '22023', 'until must be in the future', 'the past');
GRANT USAGE ON SCHEMA public TO iot_viewer;
SET ROLE iot_viewer;
SELECT throws_ok($$SELECT iot.mute(device => 'hidden')$$, '42501', 'permission denied for device "hidden"', 'a device that the user may not view');
RESET ROLE;
SELECT throws_ok($$SELECT iot.mute(device_group => 'none')$$, '42704', 'device group "none" does not exist, or nothing in it may be viewed', 'no such group');
SELECT throws_ok($$SELECT iot.mute(device => 'boiler', device_group => 'lab')$$, '22023', NULL, 'two scopes');
SELECT throws_ok($$SELECT iot.set_quiet_hours('22:00', NULL)$$, '22023', NULL, 'quiet hours without an end');
SELECT throws_ok($$SELECT iot.set_quiet_hours('22:00', '06:00', '{0}')$$, '22023', 'weekdays of quiet hours must be days of the week', 'a day that is none');
SELECT throws_ok($$SELECT iot.set_quiet_hours('22:00', '06:00', '{}')$$, '22023', 'weekdays of quiet hours must be days of the week', 'no days');
SELECT throws_ok($$SELECT iot.set_quiet_hours('22:00', '06:00', '{1,NULL}')$$, '22023', 'weekdays of quiet hours must be days of the week', 'a day that is not known');
SELECT throws_ok($$SELECT iot.set_quiet_hours('22:00', '06:00', allow_red => NULL)$$, '22004', NULL, 'neither red alarms nor none');

-- 3. quiet hours: local times, weekdays, midnight, and the changes of the clock
SELECT is(iot_internal.quiet_until(s, e, d, z, a::timestamptz), u::timestamptz, what)
	FROM (VALUES
		(time '22:00', time '06:00', '{1,2,3,4,5,6,7}'::int[], 'Europe/Vienna', '2026-11-25 21:30+01', NULL, 'before'),
		('22:00', '06:00', '{1,2,3,4,5,6,7}', 'Europe/Vienna', '2026-11-25 22:00+01', '2026-11-26 06:00+01', 'at the begin'),
		('22:00', '06:00', '{1,2,3,4,5,6,7}', 'Europe/Vienna', '2026-11-26 05:59+01', '2026-11-26 06:00+01', 'after midnight'),
		('22:00', '06:00', '{1,2,3,4,5,6,7}', 'Europe/Vienna', '2026-11-26 06:00+01', NULL, 'at the end'),
		('22:00', '06:00', '{3}', 'Europe/Vienna', '2026-11-26 03:00+01', '2026-11-26 06:00+01', 'Wednesday''s reach into Thursday'),
		('22:00', '06:00', '{4}', 'Europe/Vienna', '2026-11-26 03:00+01', NULL, 'Thursday''s begin in the evening'),
		('12:00', '13:00', '{1,2,3,4,5,6,7}', 'Asia/Tokyo', '2026-11-25 03:30+00', '2026-11-25 04:00+00', 'in the user''s zone'),
		('00:00', '24:00', '{6,7}', 'UTC', '2026-11-28 10:00+00', '2026-11-30 00:00+00', 'a weekend is one'),
		('08:00', '08:00', '{3}', 'UTC', '2026-11-25 09:00+00', '2026-11-26 08:00+00', 'a whole day'),
		('22:00', '06:00', '{1,2,3,4,5,6,7}', 'Europe/Vienna', '2026-10-25 01:00+02', '2026-10-25 06:00+01', 'the night that is longer'),
		('02:15', '02:45', '{7}', 'Europe/Vienna', '2026-03-29 00:59+00', NULL, 'hours that the clock skips'))
		AS v(s, e, d, z, a, u, what);

-- 4. what is muted or put off
CREATE FUNCTION emit(type text, device uuid, payload jsonb DEFAULT '{}') RETURNS uuid LANGUAGE sql AS $$
	INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
	VALUES (iot_internal.uuidv7(), 'test', 'x', type, payload, device) RETURNING event_id
$$;
CREATE FUNCTION told(id uuid) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s %s', d.recipient, d.channel, CASE WHEN d.status = 'MUTED' THEN 'muted'
			WHEN d.not_before IS NULL THEN 'now' ELSE 'later' END), ', ' ORDER BY d.recipient, d.channel)
		FROM iot.notification n JOIN iot.delivery d USING (seq, channel) WHERE n.event_id = id
$$;
INSERT INTO iot.notification_rule (name, event, channel, audience, title, body) VALUES
	('push', 't.*', 'push', 'group:crew', '{device} {event}', ''), ('mail', 't.*', 'email', 'group:crew', '{device} {event}', 'at {at}'),
	('alarms', 'alarm.*', 'push', 'user:anna', '{severity}', '');
SELECT iot_internal.notify_events(100) \g /dev/null
SELECT emit('t.a', :'boiler') AS id \gset
SELECT is(iot_internal.notify_events(100), ROW(1, 2, 3, 2), 'on two channels');
SELECT is(told(:'id'), 'anna email now, anna push now, bert email now, bert push now, carl push now',
	'I7: once per recipient and channel; whoever has no address gets no mail');
SELECT iot.mute('t.a') \g /dev/null
SELECT iot.mute('t.b', device => 'fridge', until => now() + interval '1 hour') \g /dev/null
SELECT iot.mute('t.c', device_group => 'plant') \g /dev/null
SELECT iot.mute('t.c', device_group => 'plant') \g /dev/null
SELECT results_eq('SELECT event, device, device_group, until = ''infinity'' FROM iot.mutes()',
	$$VALUES ('t.a', NULL, NULL, true), ('t.b', 'fridge', NULL, false), ('t.c', NULL, 'plant', true)$$, 'each mute once');
CREATE TEMP TABLE muted AS SELECT type, device, emit(type, CASE device WHEN 'boiler' THEN :'boiler' ELSE :'fridge' END::uuid) AS id
	FROM unnest(ARRAY['t.a', 't.b', 't.c']) AS type, unnest(ARRAY['boiler', 'fridge']) AS device;
SELECT iot_internal.notify_events(100) \g /dev/null
SELECT results_eq('SELECT type, device, split_part(told(id), '', bert'', 1) FROM muted ORDER BY 1, 2',
	$$VALUES ('t.a', 'boiler', 'anna email muted, anna push muted'), ('t.a', 'fridge', 'anna email muted, anna push muted'),
		('t.b', 'boiler', 'anna email now, anna push now'), ('t.b', 'fridge', 'anna email muted, anna push muted'),
		('t.c', 'boiler', 'anna email muted, anna push muted'), ('t.c', 'fridge', 'anna email now, anna push now')$$,
	'by event, by device, by group');
SELECT is((SELECT count(*) FROM iot.notifications() WHERE event = 't.a' AND device = 'fridge'), 1::bigint, 'muted things stay in the inbox');
CREATE TEMP TABLE live AS SELECT n.seq, n.event, n.device FROM iot.notification n WHERE n.channel = 'push';
SELECT results_eq($$SELECT l.event, l.device, e.recipients FROM live l JOIN iot_internal.push_eligible(ARRAY(SELECT seq FROM live), '{anna,bert}') e USING (seq)
		WHERE l.seq > (SELECT min(seq) FROM live) ORDER BY 1, 2$$,
	$$VALUES ('t.a', 'boiler', '{2}'::int[]), ('t.a', 'fridge', '{2}'), ('t.b', 'boiler', '{1,2}'), ('t.b', 'fridge', '{2}'),
		('t.c', 'boiler', '{2}'), ('t.c', 'fridge', '{1,2}')$$, 'and are not pushed');
SELECT is(bool_and(iot_internal.may_receive(u, l.seq) = EXISTS (SELECT FROM iot_internal.push_eligible(ARRAY[l.seq], ARRAY[u]))), true,
	'asked one by one the answer is the same') FROM live l, unnest(ARRAY['anna', 'bert']) AS u;
SELECT ok(iot.unmute('t.a'), 'taken back');
SELECT ok(NOT iot.unmute('t.a'), 'once');
SELECT ok(iot.unmute('t.c', device_group => 'plant'), 'in the same words');
SELECT ok(NOT iot.unmute('t.b', device => 'none'), 'not in others');
SELECT ok(iot.unmute('t.b', device => 'fridge'), 'each of them');

-- quiet hours around now, whatever the time is
SELECT iot.set_quiet_hours((now() AT TIME ZONE 'Europe/Vienna' - interval '1 hour')::time,
	(now() AT TIME ZONE 'Europe/Vienna' + interval '1 hour')::time) \g /dev/null
SELECT emit('t.d', :'boiler') AS id \gset
SELECT emit('alarm.opened', :'boiler', '{"severity":"orange"}') AS orange \gset
SELECT emit('alarm.opened', :'boiler', '{"severity":"red"}') AS red \gset
SELECT emit('alarm.closed', :'boiler', '{"severity":"red"}') AS closed \gset
SELECT is(iot_internal.notify_events(100), ROW(4, 5, 3, 1), 'what is put off counts when it is due');
SELECT is(told(:'id'), 'anna email later, anna push later, bert email now, bert push now, carl push now', 'put off for who wants quiet');
SELECT is(told(:'orange') || told(:'red') || told(:'closed'), 'anna push lateranna push nowanna push later', 'a red alarm that opens comes through');
SELECT iot.set_quiet_hours((now() AT TIME ZONE 'Europe/Vienna' - interval '1 hour')::time,
	(now() AT TIME ZONE 'Europe/Vienna' + interval '1 hour')::time, allow_red => false) \g /dev/null
SELECT emit('alarm.opened', :'boiler', '{"severity":"red"}') AS red \gset
SELECT iot_internal.notify_events(100) \g /dev/null
SELECT is(told(:'red'), 'anna push later', 'unless it must not');
SELECT seq AS later FROM iot.notification WHERE event_id = :'id' AND channel = 'push' \gset
SELECT is_empty(format('SELECT FROM iot_internal.push_eligible(ARRAY[%s], ''{anna}'')', :later), 'not pushed now');
SELECT ok(d.not_before BETWEEN now() + interval '59 min' AND now() + interval '61 min' AND d.next_attempt_at = d.not_before AND d.attempts = 0,
	'but at the end of the quiet hours') FROM iot.delivery d WHERE d.seq = :later AND d.recipient = 'anna';
UPDATE iot.delivery SET not_before = now() - interval '1 s', next_attempt_at = now() - interval '1 s' WHERE not_before < 'infinity';
SELECT ok(iot_internal.push_due(100) > 0, 'then hinted at');
SELECT results_eq(format('SELECT recipients FROM iot_internal.push_pending(''{anna}'', 0, NULL, 100) WHERE seq = %s', :later),
	$$VALUES ('{1}'::int[])$$, 'and pushed');
SELECT is((SELECT last_error FROM iot.delivery WHERE seq = :later AND recipient = 'anna'), NULL, 'which was no failure');
SELECT iot.set_quiet_hours(NULL, NULL) \g /dev/null
SELECT is((SELECT quiet_starts FROM iot.preferences()), NULL, 'quiet hours are taken back');

-- 5. languages and zones
INSERT INTO iot.notification_text (notification_rule_id, language, title, body)
	SELECT notification_rule_id, 'de', '{device}: Ereignis {event}', 'um {at} (offen {opened_at})' FROM iot.notification_rule WHERE name = 'push';
SELECT throws_ok(format($$INSERT INTO iot.notification_text (notification_rule_id, language, title) SELECT notification_rule_id, %L, %L
		FROM iot.notification_rule WHERE name = 'push'$$, language, title), '22023', message, message)
	FROM (VALUES ('Deutsch', 'x', 'invalid language "Deutsch"'), ('fr', ' ', 'invalid title or body of notification rule "push"'),
		('fr', '{couleur}', 'unknown placeholder in title of notification rule: {couleur}')) AS v(language, title, message);
UPDATE iot.notification_rule SET body = 'at {at}' WHERE name = 'push';
UPDATE iot.app_user SET time_zone = 'America/New_York' WHERE username = 'bert';
SELECT emit('t.e', :'boiler', '{"opened_at":"2026-07-01T12:00:00+00:00"}') AS id \gset
SELECT iot_internal.notify_events(100) \g /dev/null
SELECT n.seq AS worded, to_char(event_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS utc,
		to_char(event_at AT TIME ZONE 'Europe/Vienna', 'YYYY-MM-DD HH24:MI:SS') AS vienna,
		to_char(event_at AT TIME ZONE 'America/New_York', 'YYYY-MM-DD HH24:MI:SS') AS york
	FROM iot.notification n WHERE n.event_id = :'id' AND n.channel = 'push' \gset
SELECT is((SELECT title || ' | ' || (body ->> 'text') FROM iot.notification WHERE seq = :worded), 'boiler t.e | at ' || :'utc', 'as written: the rule''s words, in UTC');
CREATE FUNCTION inbox() RETURNS text LANGUAGE sql AS $$
	SELECT title || ' | ' || (body ->> 'text') FROM iot.notifications() WHERE event = 't.e' $$;
SELECT matches(inbox(), '^boiler: Ereignis t.e \| um ' || :'vienna' || ' \+0[12]:00 \(offen 2026-07-01 14:00:00 \+02:00\)$', 'de-AT reads de, and Vienna''s time');
SELECT as_user('bert') \g /dev/null
SELECT matches(inbox(), '^boiler t.e \| at ' || :'york' || ' -0[45]:00$', 'no language: the rule''s words, in New York''s time');
SELECT as_user('carl') \g /dev/null
SELECT is(inbox(), 'boiler t.e | at ' || :'utc', 'neither: as written');
SELECT results_eq(format($$SELECT recipients, message::jsonb ->> 'title' FROM iot_internal.push_events(ARRAY[%s], '{carl,bert,anna}') ORDER BY 1$$, :worded),
	$$VALUES ('{1}'::int[], 'boiler t.e'), ('{2}', 'boiler t.e'), ('{3}', 'boiler: Ereignis t.e')$$, 'and so it is pushed');
UPDATE iot.notification_rule SET title = 'changed' WHERE name = 'push';
DELETE FROM iot.notification_text;
SELECT as_user('anna') \g /dev/null
SELECT matches(inbox(), '^boiler: Ereignis', 'a rule that changes does not change what was told');
SELECT is(iot_internal.local_time(t, z), l, t) FROM (VALUES ('2026-01-01T00:00:00.5Z', 'Asia/Kolkata', '2026-01-01 05:30:00 +05:30'),
	('soon', 'UTC', 'soon'), ('2026-99-01T00:00', 'UTC', '2026-99-01T00:00')) AS v(t, z, l);

-- 6. e-mail
SELECT is(iot_internal.mail_words(w), e, e) FROM (VALUES ('plain words', 'plain words'), (E'two\r\nBcc: x@y.org', 'two Bcc: x@y.org'),
	('größer', '=?UTF-8?B?Z3LDtsOfZXI=?='), ('=?x', '=?UTF-8?B?PT94?=')) AS v(w, e);
SELECT ok(bool_and(length(l) <= 76) AND count(*) > 3, 'long words are folded, ' || count(*) || ' lines')
	FROM regexp_split_to_table(iot_internal.mail_words(repeat('ä€😀x', 20)), E'\r\n') AS l;
SELECT is((SELECT convert_from(string_agg(decode(m[1], 'base64'), '' ORDER BY place), 'UTF8')
		FROM regexp_matches(iot_internal.mail_words(repeat('ä€😀x', 20)), '=\?UTF-8\?B\?([^?]+)\?=', 'g') WITH ORDINALITY AS r(m, place)),
	repeat('ä€😀x', 20), 'and are whole');
SELECT is(bool_and(convert_from(decode(m[1], 'base64'), 'UTF8') <> ''), true, 'cut between characters')
	FROM regexp_matches(iot_internal.mail_words(repeat('ä€😀x', 20)), '=\?UTF-8\?B\?([^?]+)\?=', 'g') AS m;
SELECT is(iot_internal.mail_phrase(n), e, e) FROM (VALUES ('iot', 'iot'), ('a, "b"', '"a, \"b\""'), ('Wärme', '=?UTF-8?B?V8Okcm1l?=')) AS v(n, e);
UPDATE iot.delivery SET status = 'DELIVERED' WHERE status = 'PENDING';
SELECT emit('t.f', :'boiler', '{"alarm_id":"0197a3c2-0000-7000-8000-000000000000"}') AS id \gset
SELECT emit('t.g', :'fridge') AS gone \gset
SELECT iot_internal.notify_events(100) \g /dev/null
SELECT is((SELECT count(*) FROM iot_internal.email_take('{}', '{m}', 4, 4)), 0::bigint, 'a held server is left alone');
SELECT is((SELECT count(*) FROM iot_internal.email_take('{m,m,m,m}', '{}', 4, 4)), 0::bigint, 'and a busy one');
DELETE FROM iot.access_grant g USING iot.device_group d WHERE d.device_group_id = g.device_group_id AND d.name = 'lab';
UPDATE iot.app_user SET enabled = false WHERE username = 'bert';
CREATE TEMP TABLE taken AS SELECT * FROM iot_internal.email_take('{m}', '{}', 4, 5);
SELECT results_eq('SELECT recipient, server, url, timeout_ms, starttls, username, password, problem, sender, address FROM taken',
	$$VALUES ('anna', 'm', 'smtps://mail.example.org', 30000, true, 'u', 's3cret', NULL, 'iot@example.org', 'anna@example.org')$$, 'what is due');
SELECT results_eq($$SELECT n.event, d.recipient, d.last_error FROM iot.delivery d JOIN iot.notification n USING (seq, channel)
		WHERE d.channel = 'email' AND d.status = 'FAILED' ORDER BY 1, 2$$,
	$$VALUES ('t.f', 'bert', 'the user is gone or disabled'), ('t.g', 'anna', 'the user may not view the device any more'),
		('t.g', 'bert', 'the user is gone or disabled')$$, 'I26: permission is asked when sending');
SELECT is((SELECT regexp_replace(regexp_replace(split_part(message, E'\r\n\r\n', 1), 'Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000', 'Date: D'),
		:'id', 'ID') FROM taken),
	concat_ws(E'\r\n', 'Date: D', 'From: =?UTF-8?B?V8Okcm1lICYgQ28=?= <iot@example.org>', 'To: <anna@example.org>', 'Subject: boiler t.f',
		'Message-ID: <ID.' || left(md5('anna@example.org'), 12) || '@example.org>', 'References: <alarm.0197a3c2-0000-7000-8000-000000000000@example.org>',
		'Auto-Submitted: auto-generated', 'X-Iot-Event: t.f', 'MIME-Version: 1.0', 'Content-Type: text/plain; charset=utf-8',
		'Content-Transfer-Encoding: base64'), 'the headers of a message');
SELECT matches((SELECT convert_from(decode(split_part(message, E'\r\n\r\n', 2), 'base64'), 'UTF8') FROM taken),
	E'^at \\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d \\+0[12]:00\r\n$', 'its words, in the reader''s time');
SELECT ok((SELECT message ~ '^[\x01-\x7f]*$' FROM taken), 'nothing but ASCII');
SELECT results_eq($$SELECT r.status, r.attempts FROM taken t, iot_internal.delivery_result(ARRAY[t.seq], '{email}', '{anna}', '{f}', '{f}', '{"SMTP: 451 later"}') r$$,
	$$VALUES ('PENDING', 1)$$, 'a refusal for now');
UPDATE iot.delivery SET next_attempt_at = now() WHERE status = 'PENDING';
SELECT is((SELECT t.message = a.message FROM iot_internal.email_take('{}', '{}', 4, 4) a, taken t), true, 'the next attempt brings the same bytes');
SELECT results_eq($$SELECT r.status, r.attempts FROM taken t, iot_internal.delivery_result(ARRAY[t.seq], '{email}', '{anna}', '{f}', '{f}', '{"SMTP: 451 later"}') r$$,
	$$VALUES ('FAILED', 2)$$, 'max_attempts ends it');
UPDATE iot.delivery SET status = 'PENDING', attempts = 0 WHERE channel = 'email' AND recipient = 'anna' AND last_error LIKE 'SMTP%';
SELECT results_eq($$SELECT r.status FROM taken t, iot_internal.delivery_result(ARRAY[t.seq], '{email}', '{anna}', '{f}', '{t}', '{"SMTP: 550 no"}') r$$,
	$$VALUES ('FAILED')$$, 'so does a refusal for good');

-- 7. what the doctor says
UPDATE iot.app_user SET enabled = true;
CREATE FUNCTION found() RETURNS text LANGUAGE sql AS
	$$SELECT coalesce(string_agg(severity || ': ' || finding, '; ' ORDER BY finding), '') FROM iot_internal.check_delivery()$$;
SELECT is(found(), 'warning: deliveries of the channel "email" were given up in the last day, 4 in all: the user may not view the device any more; '
	|| 'warning: rules tell people by e-mail who have no address: carl', 'who cannot be told, and what was given up');
UPDATE iot.delivery SET status = 'DELIVERED' WHERE status = 'FAILED';
UPDATE iot.app_user SET email = 'carl@example.org' WHERE username = 'carl';
SELECT is(found(), '', 'nothing');
UPDATE iot.mail_server SET enabled = false;
SELECT is(found(), 'error: rules tell people by e-mail and no mail server is enabled', 'no mail server');
UPDATE iot.notification_rule SET enabled = false WHERE channel = 'email';
SELECT is(found(), '', 'which nobody misses where no rule asks for it');

-- 8. roles
SELECT is(has_table_privilege(r, t, 'SELECT'), false, r || ' ' || t)
	FROM unnest(ARRAY['iot_viewer', 'iot_operator', 'iot_worker', 'iot_pushd']) AS r,
		unnest(ARRAY['iot.mail_server', 'iot.notification_mute', 'iot.quiet_hours']) AS t;
SELECT is(has_function_privilege('iot_viewer', f, 'EXECUTE'), true, f)
	FROM unnest(ARRAY['iot.mute(text,text,text,timestamptz)', 'iot.set_quiet_hours(time,time,integer[],boolean)', 'iot.set_preferences(text,text,text)']) AS f;
DELETE FROM iot.app_user WHERE username = 'anna';
SELECT is_empty('SELECT FROM iot.quiet_hours UNION ALL SELECT FROM iot.notification_mute', 'whoever goes takes his preferences along');

SELECT * FROM finish();
