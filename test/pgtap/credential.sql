-- Device credentials: who may make them, what is kept of them, and what other brokers read.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;

SELECT no_plan();

SELECT iot.create_device('boiler', '{}') AS boiler \gset
INSERT INTO iot.device_group (name) VALUES ('hall');
SELECT iot.create_device('kiln', '{}', device_group => 'hall') AS kiln \gset
INSERT INTO iot.app_user (username) VALUES ('anna'), ('ben');
INSERT INTO iot.user_group (name) VALUES ('anna'), ('ben');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g JOIN iot.app_user u ON u.username = g.name;
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, CASE g.name WHEN 'anna' THEN 'manage' ELSE 'operate' END
	FROM iot.user_group g, iot.device_group d WHERE d.name = 'default';
CREATE ROLE anna IN ROLE iot_operator;
CREATE ROLE ben IN ROLE iot_operator;
CREATE ROLE viewer IN ROLE iot_viewer;

CREATE FUNCTION told(type text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(concat_ws(' ', e.payload ->> 'device', e.payload ->> 'credential',
			e.payload ->> 'username'), ', ' ORDER BY e.id)
		FROM iot.event e WHERE e.type = 'device.credential_' || $1
$$;

-- who may
SET SESSION AUTHORIZATION anna;
SELECT c.username AS username, c.password AS password FROM iot.create_device_credential('boiler') c \gset
SELECT throws_ok($$SELECT iot.create_device_credential('kiln')$$, '42501',
	'permission denied for device "kiln"', 'level "manage" counts for the device''s own group');
SELECT throws_ok('SELECT * FROM iot.device_credential', '42501', NULL, 'nobody reads the table');
SET SESSION AUTHORIZATION ben;
SELECT throws_ok(format('SELECT iot.%s', f), '42501', 'permission denied for device "boiler"',
		f || ' needs level "manage"')
	FROM unnest(ARRAY['create_device_credential(''boiler'')', 'rotate_device_credential(''boiler'')',
		'disable_device_credential(''boiler'')', 'enable_device_credential(''boiler'')',
		'delete_device_credential(''boiler'')', 'device_credentials(''boiler'')']) f;
SET SESSION AUTHORIZATION viewer;
SELECT throws_ok($$SELECT iot.create_device_credential('boiler')$$, '42501',
	'permission denied for function create_device_credential', 'a viewer does not even get so far');
RESET SESSION AUTHORIZATION;
SET ROLE iot_admin;
SELECT throws_ok('SELECT password_hash FROM iot.device_credential', '42501', NULL,
	'administrators read no hashes');
SELECT lives_ok('SELECT username, broker_state FROM iot.device_credential', 'but the rest');
SELECT throws_ok('SELECT * FROM iot.' || t, '42501', NULL, t || ' is not for people')
	FROM unnest(ARRAY['device_credential_password', 'broker_authentication', 'broker_acl']) t;
RESET ROLE;

-- what is kept
SELECT is(:'username'::text, 'boiler', 'a device logs in by its name');
SELECT results_eq(
	'SELECT username, password_hash, length(salt), valid_until, broker_state FROM iot.device_credential',
	format('VALUES (''boiler'', encode(sha256(convert_to((SELECT salt FROM iot.device_credential) || %L, ''UTF8'')), ''hex''), 32, NULL::timestamptz, NULL::text)', :'password'),
	'sha256 of salt and password, and no more');
SELECT is((SELECT count(*) FROM iot.device_credential_password), 0::bigint,
	'no password waits where the adapter does not hand it out');
SELECT is(told('created'), 'boiler boiler anna', 'an event says who did it');
SELECT is((SELECT count(*) FROM iot.event WHERE payload::text LIKE '%' || :'password' || '%'), 0::bigint,
	'and not the password');

-- refusals
SELECT throws_ok($$SELECT iot.create_device_credential('boiler')$$, '42710', 'device "boiler" has a credential',
	'one is made once');
SELECT throws_ok($$SELECT iot.create_device_credential('nobody')$$, '42704', 'device "nobody" does not exist',
	'for a device that exists');
SELECT throws_ok($$SELECT iot.create_device_credential('kiln', now() - interval '1 s')$$, '22023',
	'credential would have ended already', 'and has not ended');
SELECT throws_ok($$SELECT iot.rotate_device_credential('kiln')$$, '42704', 'device "kiln" has no credential',
	'what is rotated is there');
SELECT throws_ok(format('SELECT iot.rotate_device_credential(''boiler'', %s)', o), '22023',
	'overlap must not be negative or null', 'for ' || o) FROM unnest(ARRAY['''-1 s''', 'NULL']) o;
SELECT throws_ok($$SELECT iot.disable_device_credential('boiler', 'boiler~2')$$, '42704',
	'device "boiler" has no credential "boiler~2"', 'what is disabled as well');
SELECT throws_ok($$SELECT iot.delete_device_credential('kiln')$$, '42704',
	'device "kiln" has no credential', 'and what is deleted');
UPDATE iot.adapter SET options = '{"username": "kiln"}';
SELECT throws_ok($$SELECT iot.create_device_credential('kiln')$$, '42710',
	'user name "kiln" is that of an adapter', 'no device logs in as an adapter');
UPDATE iot.adapter SET options = '{}';
SELECT throws_ok($$UPDATE iot.adapter SET options = '{"username": "boiler"}'$$, '42710',
	'user name "boiler" is that of a device', 'and no adapter as a device');
SELECT throws_ok($$UPDATE iot.adapter SET options = '{"device_credentials": "yes"}'$$, '22023',
	'invalid option "device_credentials" of adapter "mqtt": "yes"', 'an option has two values');

-- by id
SELECT is((SELECT count(*) FROM iot.device_credentials(:'boiler')), 1::bigint, 'a device is found by id');

-- what other brokers read
SELECT results_eq('SELECT username, is_superuser FROM iot.broker_authentication',
	$$VALUES ('boiler', false)$$, 'who may log in');
SELECT results_eq('SELECT permission, action, topic FROM iot.broker_acl WHERE username = ''boiler'' ORDER BY action, topic',
	$$VALUES ('allow', 'publish', 'iot/boiler/attributes'), ('allow', 'publish', 'iot/boiler/command/ack'),
		('allow', 'publish', 'iot/boiler/status'), ('allow', 'publish', 'iot/boiler/telemetry'),
		('allow', 'subscribe', 'iot/boiler/command')$$, 'and what for');
SELECT is(iot.disable_device_credential('boiler'), 1, 'one is disabled');
SELECT is_empty('SELECT FROM iot.broker_authentication', 'and may not log in');
SELECT is_empty('SELECT FROM iot.broker_acl', 'nor do anything');
SELECT is(iot.disable_device_credential('boiler'), 1, 'disabling it again is no error');
SELECT is(told('disabled'), 'boiler boiler ' || current_user, 'and is not told again');
SELECT is(iot.enable_device_credential('boiler', 'boiler'), 1, 'one is enabled by its name');
UPDATE iot.device SET enabled = false WHERE name = 'boiler';
SELECT is_empty('SELECT FROM iot.broker_authentication', 'a disabled device may not log in');
UPDATE iot.device SET enabled = true WHERE name = 'boiler';

-- rotating
SELECT username AS second FROM iot.rotate_device_credential('boiler', '1 hour') \gset
SELECT is(:'second'::text, 'boiler~2', 'the second has a name of its own');
SELECT results_eq($$SELECT username, valid_until BETWEEN now() AND now() + interval '61 min' FROM iot.device_credentials('boiler')$$,
	$$VALUES ('boiler', true), ('boiler~2', NULL::boolean)$$, 'the first has an end');
SELECT is((SELECT count(DISTINCT topic) FROM iot.broker_acl), 5::bigint, 'both are for the same topics');
SELECT username AS third FROM iot.rotate_device_credential('boiler', '1 day') \gset
SELECT results_eq($$SELECT username, valid_until < now() + interval '2 hours' FROM iot.device_credentials('boiler') ORDER BY username$$,
	$$VALUES ('boiler', true), ('boiler~2', false), ('boiler~3', NULL::boolean)$$,
	'an end that was set already stays');
UPDATE iot.device_credential SET valid_until = clock_timestamp() WHERE username = 'boiler';
SELECT is((SELECT count(*) FROM iot.broker_authentication), 2::bigint, 'what has ended may not log in');
SELECT is((SELECT count(*) FROM iot.device_credentials('boiler')), 2::bigint, 'nor is it listed');
SELECT is(iot_internal.end_credentials(), 1, 'its row goes');
SELECT is(told('ended'), 'boiler boiler', 'with an event');
SELECT username AS fourth FROM iot.rotate_device_credential('boiler', '0') \gset
SELECT is(:'fourth'::text, 'boiler', 'a name that is free again is used again');
SELECT results_eq($$SELECT username FROM iot.device_credentials('boiler')$$, $$VALUES ('boiler')$$,
	'an overlap of nothing ends all others');

-- renamed, and deleted
UPDATE iot.device SET name = 'oven' WHERE name = 'boiler';
SELECT results_eq('SELECT DISTINCT username, split_part(topic, ''/'', 2) FROM iot.broker_acl',
	$$VALUES ('boiler', 'oven')$$, 'a renamed device keeps its user name and gets new topics');
SELECT iot.create_device('boiler', '{}') \g /dev/null
SELECT is((SELECT username FROM iot.create_device_credential('boiler')), 'boiler~2',
	'another one of the old name does not get its user name');
SELECT is(iot.delete_device_credential('oven'), 1, 'credentials are deleted');
SELECT is(told('deleted'), 'oven boiler ' || current_user, 'with an event');
DELETE FROM iot.device WHERE name = 'boiler';
SELECT is_empty('SELECT FROM iot.device_credential', 'and go with their device');

-- an adapter that hands them out
UPDATE iot.adapter SET options = '{"device_credentials": "dynsec"}';
SELECT password AS waiting FROM iot.create_device_credential('kiln') \gset
SELECT results_eq('SELECT password FROM iot.device_credential_password', format('VALUES (%L)', :'waiting'),
	'its password waits');
SELECT is((SELECT broker_state FROM iot.device_credential), 'waiting', 'and is waited for');
SELECT is((SELECT count(*) FROM iot.dynsec_change), 1::bigint, 'its adapter is told');
UPDATE iot.device_type SET description = 'x';
UPDATE iot.device SET description = 'x';
SELECT is((SELECT count(*) FROM iot.dynsec_change), 1::bigint, 'but of nothing else');
-- a device that goes, though nothing is known of it at the broker yet
SELECT iot.create_device('brief', '{}') AS brief \gset
DELETE FROM iot.device WHERE name = 'brief';
SELECT is((SELECT count(*) FROM iot.dynsec_change WHERE device_id = :'brief'), 1::bigint,
	'a device that goes is looked at, whatever is on its way');
DELETE FROM iot.dynsec_change WHERE device_id = :'brief';

-- who is to be locked out comes before who is to be let in, however many these are
SELECT iot.create_device('many-' || n, '{}') FROM generate_series(1, 300) n \g /dev/null
SELECT iot.create_device_credential('many-' || n) FROM generate_series(1, 300) n \g /dev/null
SELECT adapter_id AS adapter FROM iot.adapter \gset
INSERT INTO iot.dynsec_client (adapter_id, username, device_id, credential_id, rolename, disabled)
	SELECT :'adapter', c.username, c.device_id, c.credential_id, 'iot-device-' || c.username, false
	FROM iot.device_credential c WHERE c.username = 'many-250';
INSERT INTO iot.dynsec_role (adapter_id, rolename, device_id, acls)
	SELECT :'adapter', 'iot-device-' || c.username, c.device_id, iot_internal.dynsec_acls(c.device_id)
	FROM iot.device_credential c WHERE c.username = 'many-250';
SELECT iot.disable_device_credential('many-250') \g /dev/null
SELECT results_eq(
	format($$SELECT c.value ->> 'command', coalesce(c.value ->> 'username', c.value ->> 'rolename')
		FROM iot_internal.dynsec_collect(%L, 'tag', 3) w, jsonb_array_elements(w.said) c$$, :'adapter'),
	$$VALUES ('disableClient', 'many-250'), ('createRole', 'iot-device-kiln'), ('createClient', 'kiln')$$,
	'who is to be locked out comes first');
SELECT is((SELECT w.asked::text LIKE '%' || p.password || '%'
		FROM iot_internal.dynsec_collect(:'adapter', 'tag', 3) w, iot.device_credential_password p
			JOIN iot.device_credential c USING (credential_id) WHERE c.username = 'kiln'), false,
	'what is remembered of a request holds no password');

UPDATE iot.device_credential_password SET created_at = now() - interval '8 days';
CALL iot.maintain();
SELECT is_empty('SELECT FROM iot.device_credential_password', 'a password waits for a week at most');

-- what the doctor says
SELECT is((SELECT count(*) FROM iot.check() WHERE finding LIKE 'adapter "mqtt" has no user name%'),
	0::bigint, 'an adapter that is disabled may have no user name');
UPDATE iot.adapter SET enabled = true;
SELECT is((SELECT count(*) FROM iot.check() WHERE finding LIKE 'adapter "mqtt" has no user name%'),
	1::bigint, 'an adapter that is anonymous is told');
SELECT is((SELECT iot.status() #>> '{device_credentials,at_broker,waiting}'), '301', 'status counts them');

SELECT * FROM finish();
