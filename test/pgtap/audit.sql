-- Who did what to the registry, to grants and to rules: an event for each row, for administrators.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
BEGIN;
SELECT no_plan();

CREATE FUNCTION told(OUT event text, OUT username text, OUT name text, OUT old jsonb, OUT new jsonb) RETURNS SETOF record
LANGUAGE sql AS $$
	SELECT a.event, a.username, a.name, a.old,
			a.new - ARRAY['created_at', 'app_user_id', 'user_group_id', 'device_group_id', 'parameter_id', 'device_id']
		FROM iot.audit a WHERE a.id > current_setting('test.seen')::bigint ORDER BY a.id
$$;
CREATE FUNCTION seen() RETURNS text LANGUAGE sql AS $$
	SELECT set_config('test.seen', coalesce(max(e.id), 0)::text, true) FROM iot.event e
$$;

SELECT is((SELECT count(*) FROM iot.event), 0::bigint, 'what comes with the installation, nobody did');
SELECT ok(bool_and(n = 4), 'every table of the registry is audited, for every way to change it')
	FROM (SELECT count(t.oid) AS n FROM unnest(ARRAY['parameter', 'device_group', 'device_type', 'adapter',
			'device', 'sensor', 'app_user', 'user_group', 'user_group_member', 'access_grant', 'secret',
			'retention', 'alarm_rule', 'webhook', 'notification_rule']) AS r
		LEFT JOIN pg_trigger t ON t.tgrelid = ('iot.' || r)::regclass
			AND t.tgfoid = 'iot_internal.audit'::regproc
		GROUP BY r) q;

CREATE ROLE audit_chief IN ROLE iot_admin;
CREATE ROLE audit_web IN ROLE iot_operator;
SELECT seen() \gset
SET LOCAL ROLE audit_chief;
INSERT INTO iot.app_user (username) VALUES ('audit_anna');
INSERT INTO iot.user_group (name) VALUES ('crew');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u;
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, 'view' FROM iot.user_group g, iot.device_group d;
UPDATE iot.access_grant SET level = 'manage';
UPDATE iot.access_grant SET level = 'manage';
INSERT INTO iot.secret (name, value) VALUES ('key', 'hush');
UPDATE iot.secret SET value = 'hush hush';
UPDATE iot.device_group SET description = 'ours' WHERE name = 'default';
DELETE FROM iot.user_group_member;
RESET ROLE;
SELECT results_eq('SELECT event, username, name, old ->> ''level'', new ->> ''level'' FROM told()', $$VALUES
	('audit.app_user_inserted', 'audit_chief', 'audit_anna', NULL, NULL),
	('audit.user_group_inserted', 'audit_chief', 'crew', NULL, NULL),
	('audit.user_group_member_inserted', 'audit_chief', NULL, NULL, NULL),
	('audit.access_grant_inserted', 'audit_chief', NULL, NULL, 'view'),
	('audit.access_grant_updated', 'audit_chief', NULL, 'view', 'manage'),
	('audit.secret_inserted', 'audit_chief', 'key', NULL, NULL),
	('audit.secret_updated', 'audit_chief', 'key', NULL, NULL),
	('audit.device_group_updated', 'audit_chief', 'default', NULL, NULL),
	('audit.user_group_member_deleted', 'audit_chief', NULL, NULL, NULL)$$,
	'who did what; what changes nothing is not told');
SELECT results_eq($$SELECT old, new FROM told() WHERE event LIKE '%_updated' AND name IS NOT NULL$$, $$VALUES
	('{"value": "(hidden)"}'::jsonb, '{"value": "(hidden)"}'::jsonb),
	('{"description": "devices that nobody put elsewhere"}', '{"description": "ours"}')$$,
	'of a change the columns that changed');
SELECT is(count(*), 0::bigint, 'no secret is told') FROM iot.event WHERE payload::text LIKE '%hush%';
SELECT is(count(*), 0::bigint, 'no such event is about a device') FROM iot.event WHERE device_id IS NOT NULL;

-- by a user who is no role, through a function
SELECT seen() \gset
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u;
INSERT INTO iot.parameter (name) VALUES ('temperature');
SELECT seen() \gset
SET LOCAL iot.authenticators = 'audit_web';
SELECT set_config('request.jwt.claims', '{"sub": "audit_anna"}', true) \gset
SET LOCAL SESSION AUTHORIZATION audit_web;
SELECT iot.create_device('boiler', '{temperature}') AS boiler \gset
SELECT iot.send_command('boiler', 'temperature', 5) \gset
UPDATE iot.device SET name = 'kettle';
DELETE FROM iot.device;
RESET SESSION AUTHORIZATION;
SELECT results_eq('SELECT event, username, name FROM told()', $$VALUES
	('audit.device_inserted', 'audit_anna', 'boiler'), ('audit.sensor_inserted', 'audit_anna', NULL),
	('command.value_set', 'audit_anna', 'boiler'), ('audit.device_updated', 'audit_anna', 'kettle'),
	('audit.device_deleted', 'audit_anna', 'kettle'), ('audit.sensor_deleted', 'audit_anna', NULL)$$,
	'users of a token by their names, with their commands, and what goes with a row');

SELECT iot.create_device('stove', '{temperature}') \gset
SELECT seen() \gset
SET LOCAL SESSION AUTHORIZATION audit_web;
SELECT iot.send_group_command('default', 'temperature', 7) AS batch \gset
SELECT iot.pause_group_command(:'batch'), iot.pause_group_command(:'batch') \gset
SELECT iot.cancel_group_command(:'batch') \gset
RESET SESSION AUTHORIZATION;
SELECT results_eq('SELECT event, username, new ->> ''status'' FROM told()', $$VALUES
	('audit.command_batch_inserted', 'audit_anna', 'RUNNING'), ('audit.command_batch_updated', 'audit_anna', 'PAUSED'),
	('audit.command_batch_updated', 'audit_anna', 'CANCELLED')$$, 'what people do about a batch');

-- a row whose key changes is another row; a table that is emptied is told as such
SELECT seen() \gset
UPDATE iot.secret SET name = 'other';
TRUNCATE iot.access_grant;
SELECT results_eq('SELECT event, name FROM told() ORDER BY event, name', $$VALUES
	('audit.access_grant_truncated', NULL), ('audit.secret_deleted', 'key'), ('audit.secret_inserted', 'other')$$,
	'keys that change, and TRUNCATE');

-- rules for everything do not tell of each row of a bulk load
UPDATE iot.notification_rule SET enabled = false;
INSERT INTO iot.notification_rule (name, event, title) VALUES ('all', '*', 'x');
SELECT is(iot_internal.notified_types(), ARRAY['*'], '"*" stands for all but audit events');
SELECT is(iot_internal.is_of_types('audit.device_inserted', '{*}') OR NOT iot_internal.is_of_types('alarm.opened', '{*}'),
	false, 'for whoever counts what is unread too');
UPDATE iot.notification_rule SET event = 'audit.*' WHERE name = 'all';
SELECT is(iot_internal.notified_types(), NULL, 'unless a rule asks for them');
UPDATE iot.notification_rule SET event = 'audit.device_deleted' WHERE name = 'all';
SELECT is(iot_internal.notified_types(), ARRAY['audit.device_deleted'], 'or for some');
UPDATE iot.notification_rule SET enabled = false;
SELECT is(iot_internal.notified_types(), '{}'::text[], 'no rule, no type');

SELECT * FROM finish();
ROLLBACK;
