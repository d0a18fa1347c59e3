-- One rule on every path: who sees which rows, who changes them, and at what cost.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
BEGIN;
SELECT no_plan();

-- what a statement answers to the role that asks, or the SQLSTATE that it gets
CREATE FUNCTION answer(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	found text;
BEGIN
	EXECUTE statement INTO found;
	RETURN coalesce(found, 'nothing');
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END
$$;
-- rows that a statement changes, or the SQLSTATE; what it did is taken back
CREATE FUNCTION changes(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	changed bigint;
BEGIN
	EXECUTE statement;
	GET DIAGNOSTICS changed = ROW_COUNT;
	RAISE EXCEPTION '%', changed USING ERRCODE = 'P0TAP';
EXCEPTION
	WHEN SQLSTATE 'P0TAP' THEN RETURN sqlerrm;
	WHEN OTHERS THEN RETURN sqlstate;
END
$$;
CREATE FUNCTION plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	plan text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		plan := plan || line || E'\n';
	END LOOP;
	RETURN plan;
END
$$;

INSERT INTO iot.parameter (name) VALUES ('temperature');
INSERT INTO iot.device_group (name) VALUES ('plant'), ('lab'), ('cellar'), ('yard');
INSERT INTO iot.adapter (name, kind) VALUES ('bus', 'own');
SELECT iot.create_device(d, '{temperature}', g, adapter => 'bus')
	FROM (VALUES ('boiler', 'plant'), ('fridge', 'lab'), ('pump', 'cellar'), ('lamp', 'yard')) AS v (d, g);
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, now() - n * interval '1 min', n
	FROM iot.sensor s, generate_series(1, 3) n;
INSERT INTO iot.alarm_rule (name, kind, severity, parameter_id, value_min, scope, device_group_id, device_id)
	SELECT v.name, 'range', 'red', p.parameter_id, 1000, v.scope, g.device_group_id, d.device_id
	FROM (VALUES ('of-all', 'all', NULL, NULL), ('of-plant', 'group', 'plant', NULL),
			('of-lab', 'group', 'lab', NULL), ('of-boiler', 'device', NULL, 'boiler'),
			('of-lamp', 'device', NULL, 'lamp')) AS v (name, scope, "group", device)
		CROSS JOIN iot.parameter p
		LEFT JOIN iot.device_group g ON g.name = v."group" LEFT JOIN iot.device d ON d.name = v.device;
SELECT count(iot.send_command(d.name, 'temperature', 20)) AS sent FROM iot.device d \gset

-- anna manages the plant, operates the lab and views the cellar; nobody looks after the yard
CREATE ROLE row_anna IN ROLE iot_operator;
CREATE ROLE row_vera IN ROLE iot_viewer;
CREATE ROLE row_dora IN ROLE iot_operator;
CREATE ROLE row_otto IN ROLE iot_operator;
CREATE ROLE row_chief IN ROLE iot_admin;
CREATE ROLE row_login IN ROLE iot_operator;
INSERT INTO iot.app_user (username, enabled) VALUES ('row_anna', true), ('row_vera', true),
	('row_dora', false), ('row_claimed', true);
INSERT INTO iot.user_group (name) VALUES ('crew'), ('guests');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE (g.name, u.username) IN (('crew', 'row_anna'), ('crew', 'row_vera'), ('crew', 'row_dora'),
		('crew', 'row_claimed'));
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, v.level
	FROM (VALUES ('plant', 'manage'), ('lab', 'operate'), ('cellar', 'view')) AS v ("group", level)
		JOIN iot.device_group d ON d.name = v."group" JOIN iot.user_group g ON g.name = 'crew';

-- what of every table that people read a role sees: devices by name, else how many rows
CREATE FUNCTION sights() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(t.relation || '=' || answer(CASE
			WHEN t.relation IN ('device', 'device_group', 'alarm_rule') THEN
				format('SELECT string_agg(name, '','' ORDER BY name) FROM iot.%I', t.relation)
			WHEN t.relation = 'fleet' THEN
				'SELECT string_agg(device, '','' ORDER BY device) FROM iot.fleet'
			ELSE format('SELECT count(*) FROM iot.%I', t.relation) END), ' ' ORDER BY t.relation)
	FROM unnest(ARRAY['device', 'device_group', 'fleet', 'sensor', 'sensor_value', 'measurement',
		'command', 'saga_step', 'alarm_rule', 'device_type', 'app_user', 'user_group',
		'user_group_member', 'access_grant', 'adapter']) AS t (relation)
$$;
\set seen 'access_grant=3 adapter=0 alarm_rule=of-all,of-boiler,of-lab,of-plant,temperature-orange,temperature-red app_user=1 command=3 device=boiler,fridge,pump device_group=cellar,lab,plant device_type=1 fleet=boiler,fridge,pump measurement=9 saga_step=3 sensor=3 sensor_value=3 user_group=1 user_group_member=1'
\set unseen 'access_grant=0 adapter=0 alarm_rule=nothing app_user=0 command=0 device=nothing device_group=nothing device_type=0 fleet=nothing measurement=0 saga_step=0 sensor=0 sensor_value=0 user_group=0 user_group_member=0'
SET LOCAL ROLE row_anna;
SELECT sights() AS anna \gset
SELECT answer($$SELECT count(*) FROM iot.event WHERE type LIKE 'audit.%'$$) AS anna_audit,
	answer('SELECT count(DISTINCT device_id) FROM iot.event') AS anna_events,
	answer('SELECT 1 FROM iot.webhook') AS anna_webhook, answer('SELECT 1 FROM iot.dead_letter') AS anna_letter,
	answer('SELECT 1 FROM iot.secret') AS anna_secret, answer('SELECT url FROM iot.adapter') AS anna_url,
	answer('SELECT 1 FROM iot.audit') AS anna_view \gset
SET LOCAL ROLE row_vera;
SELECT sights() AS vera \gset
SET LOCAL ROLE row_dora;
SELECT sights() AS dora \gset
SET LOCAL ROLE row_otto;
SELECT sights() AS otto \gset
SET LOCAL ROLE row_chief;
SELECT answer('SELECT count(*) FROM iot.device') AS chief, answer('SELECT count(*) FROM iot.measurement') AS chief_measurement,
	answer('SELECT count(*) > 10 FROM iot.audit') AS chief_audit \gset
RESET ROLE;
SELECT is(:'anna'::text, :'seen'::text, 'a user sees what his groups were granted, whatever the level');
SELECT is(:'vera'::text, :'seen'::text, 'as does who only views');
SELECT is(:'dora'::text, :'unseen'::text, 'who is disabled sees nothing');
SELECT is(:'otto'::text, :'unseen'::text, 'who is unknown neither');
SELECT is(concat_ws(' ', :'anna_audit', :'anna_events', :'anna_webhook', :'anna_letter', :'anna_secret', :'anna_url', :'anna_view'),
	'0 3 42501 42501 42501 42501 42501', 'events of viewed devices, but what is for administrators');
SELECT is(concat_ws(' ', :'chief', :'chief_measurement', :'chief_audit'), '4 12 true', 'who administers sees all');

-- claims count where the login role is an authenticator, and nowhere else
SELECT set_config('request.jwt.claims', '{"sub": "row_anna"}', true);
SET LOCAL SESSION AUTHORIZATION row_login;
SELECT sights() AS forged \gset
RESET SESSION AUTHORIZATION;
SET LOCAL iot.authenticators = 'row_login';
SELECT set_config('request.jwt.claims', '{"sub": "row_claimed"}', true);
SET LOCAL SESSION AUTHORIZATION row_login;
SELECT sights() AS claimed \gset
SELECT set_config('request.jwt.claims', '{"sub": "row_dora"}', true);
SELECT sights() AS disabled \gset
SELECT set_config('request.jwt.claims', '', true);
SELECT sights() AS nobody \gset
RESET SESSION AUTHORIZATION;
SET LOCAL iot.authenticators = '';
SELECT is(:'forged'::text, :'unseen'::text, 'forged claims have no effect');
SELECT is(:'claimed'::text, :'seen'::text, 'an authenticator''s have');
SELECT is(:'disabled'::text, :'unseen'::text, 'but not for who is disabled');
SELECT is(:'nobody'::text, :'unseen'::text, 'and without any, nothing is seen');

-- rows of others are not told by a condition that is cheap and loud
CREATE FUNCTION leak(anything text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
	RAISE EXCEPTION 'leaked %', anything USING ERRCODE = 'P0LEA';
END
$$;
SET LOCAL ROLE row_otto;
SELECT string_agg(answer(format('SELECT 1 FROM iot.%I t WHERE leak(t::text)', r)), ' ') AS leaked
	FROM unnest(ARRAY['device', 'measurement', 'command', 'alarm_rule', 'event', 'notification', 'fleet',
		'sensor_value', 'app_user', 'parameter']) AS r \gset
RESET ROLE;
SELECT is(:'leaked'::text, repeat('nothing ', 9) || 'nothing', 'no condition of the caller''s looks at rows that he may not see');

-- who changes what
SET LOCAL ROLE row_anna;
SELECT concat_ws(' ',
	changes($$UPDATE iot.device SET description = 'x'$$),
	changes($$DELETE FROM iot.device$$),
	changes($$UPDATE iot.device SET device_group_id = (SELECT device_group_id FROM iot.device_group WHERE name = 'lab') WHERE name = 'boiler'$$),
	changes($$UPDATE iot.sensor SET value_max = 50$$),
	changes($$INSERT INTO iot.device (name, device_group_id, device_type_id, adapter_id)
		SELECT 'new', device_group_id, device_type_id, adapter_id FROM iot.device WHERE name = 'boiler'$$),
	changes($$INSERT INTO iot.device (name, device_group_id, device_type_id, adapter_id)
		SELECT 'new', device_group_id, device_type_id, adapter_id FROM iot.device WHERE name = 'fridge'$$),
	changes($$SELECT iot.create_device('new', '{}', 'plant')$$),
	changes($$SELECT iot.create_device('new', '{}', 'lab')$$),
	changes($$UPDATE iot.device SET external_id = 'the boiler' WHERE name = 'boiler'$$),
	changes($$UPDATE iot.device SET external_id = 'iot/fridge' WHERE name = 'boiler'$$)) AS devices \gset
SELECT concat_ws(' ',
	changes($$UPDATE iot.alarm_rule SET enabled = false$$),
	changes($$DELETE FROM iot.alarm_rule$$),
	changes($$INSERT INTO iot.alarm_rule (name, kind, value_min, device_group_id, parameter_id)
		SELECT 'r', 'range', 1, g.device_group_id, p.parameter_id FROM iot.device_group g, iot.parameter p WHERE g.name = 'plant'$$),
	changes($$INSERT INTO iot.alarm_rule (name, kind, value_min, device_group_id, parameter_id)
		SELECT 'r', 'range', 1, g.device_group_id, p.parameter_id FROM iot.device_group g, iot.parameter p WHERE g.name = 'lab'$$),
	changes($$INSERT INTO iot.alarm_rule (name, kind, value_min, device_id, parameter_id)
		SELECT 'r', 'range', 1, d.device_id, p.parameter_id FROM iot.device d, iot.parameter p WHERE d.name = 'boiler'$$),
	changes($$INSERT INTO iot.alarm_rule (name, kind, value_min, device_id, parameter_id)
		SELECT 'r', 'range', 1, d.device_id, p.parameter_id FROM iot.device d, iot.parameter p WHERE d.name = 'fridge'$$),
	changes($$INSERT INTO iot.alarm_rule (name, kind, value_min, parameter_id)
		SELECT 'r', 'range', 1, p.parameter_id FROM iot.parameter p$$),
	changes($$UPDATE iot.alarm_rule SET device_group_id = NULL, scope = 'all' WHERE name = 'of-plant'$$)) AS rules \gset
SELECT concat_ws(' ', changes($$SELECT iot.send_command('boiler', 'temperature', 1)$$),
	changes($$SELECT iot.send_command('fridge', 'temperature', 1)$$), changes($$SELECT iot.send_command('pump', 'temperature', 1)$$),
	changes($$SELECT iot.ingest('fridge', '{"temperature": 1}', now())$$), changes($$SELECT iot.ingest('pump', '{"temperature": 1}', now())$$),
	changes($$SELECT * FROM iot.last_values('pump')$$), changes($$SELECT * FROM iot.last_values('lamp')$$)) AS functions \gset
SELECT string_agg(DISTINCT changes(format(statement, t)), ' ') AS refused
	FROM unnest(ARRAY['parameter', 'device_group', 'device_type', 'device_type_mapping', 'adapter', 'app_user',
			'user_group', 'user_group_member', 'access_grant', 'webhook', 'notification_rule', 'secret', 'retention',
			'measurement', 'command', 'event', 'alarm']) AS t,
		unnest(ARRAY['INSERT INTO iot.%I DEFAULT VALUES', 'DELETE FROM iot.%I', 'TRUNCATE iot.%I CASCADE',
			'COPY iot.%I FROM ''/dev/null''']) AS statement \gset
RESET ROLE;
SELECT is(:'devices'::text, '1 1 42501 1 1 42501 1 42501 1 42501', 'devices and sensors: where managed, before and after, and under no topic of others');
SELECT is(:'rules'::text, '2 2 1 42501 1 42501 42501 42501', 'rules about managed groups and devices, and none about all');
SELECT is(:'functions'::text, '1 1 42501 1 42501 1 42501', 'functions by the same levels');
SELECT is(:'refused'::text, '42501', 'everything else is an administrator''s');

-- whoever only views writes nothing anywhere, and calls nothing that does
SELECT is(count(*) > 40, true, 'there are relations to try')
	FROM pg_class WHERE relnamespace = 'iot'::regnamespace AND relkind IN ('r', 'p', 'v');
SET LOCAL ROLE row_vera;
SELECT coalesce(string_agg(format('%s: %s', statement, answered), ', '), 'none') AS written FROM (
	SELECT c.relkind, s.statement, changes(s.statement) AS answered
	FROM pg_class c CROSS JOIN LATERAL (
			SELECT quote_ident(a.attname) AS name FROM pg_attribute a
			WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum LIMIT 1) AS k
		CROSS JOIN LATERAL (VALUES (format('INSERT INTO %s DEFAULT VALUES', c.oid::regclass)),
			(format('UPDATE %s SET %s = NULL', c.oid::regclass, k.name)),
			(format('DELETE FROM %s', c.oid::regclass)), (format('TRUNCATE %s', c.oid::regclass))) AS s (statement)
	WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p', 'v')
		AND NOT (c.relkind = 'v' AND s.statement LIKE 'TRUNCATE%')) AS t
	WHERE answered <> '42501' AND NOT (relkind = 'v' AND answered = '55000')	-- joins take no writes
	\gset
RESET ROLE;
SELECT is(:'written'::text, 'none', 'who only views writes to no table and no view');
SELECT is((SELECT string_agg(p.proname, ' ' ORDER BY p.proname) FROM pg_proc p
		WHERE p.pronamespace = 'iot'::regnamespace AND p.provolatile = 'v'
			AND has_function_privilege('iot_viewer', p.oid, 'EXECUTE')
			AND p.proname NOT IN ('wait_for_command', 'backtest_alarm_rule', 'check_request', 'login', 'logout', 'change_password',
				'register_user', 'mark_notifications_read', 'mute', 'unmute', 'set_preferences', 'set_quiet_hours')),
	NULL, 'and calls nothing that changes more than what is his own');

-- one evaluation a query of what is about the user, and indexes as without policies
CREATE TABLE plans (query text, plan text);
GRANT INSERT ON plans TO row_anna;
SET LOCAL enable_seqscan = off;
SET LOCAL ROLE row_anna;
INSERT INTO plans SELECT q, plan_of(q) FROM unnest(ARRAY[
	$$SELECT avg(value) FROM iot.measurement$$,
	$$SELECT value FROM iot.measurement WHERE device_id = '019abc00-0000-7000-8000-000000000000'
		AND parameter_id = '019abc00-0000-7000-8000-000000000001' AND ts > '2026-01-01'$$,
	$$SELECT name FROM iot.device WHERE name = 'boiler'$$,
	$$SELECT name FROM iot.device$$,
	$$SELECT status FROM iot.command WHERE command_id = '019abc00-0000-7000-8000-000000000000'$$,
	$$SELECT online FROM iot.fleet WHERE device = 'boiler'$$]) AS q;
RESET ROLE;
RESET enable_seqscan;
SELECT matches(plan, 'InitPlan 1', 'InitPlan: ' || query) FROM plans;
SELECT is(count(*) FILTER (WHERE plan ~ 'SubPlan'), 0::bigint, 'none asks for each row') FROM plans;
SELECT matches(plan, 'Filter: iot_internal.device_in_groups', 'a scan probes for each row')
	FROM plans WHERE query LIKE 'SELECT avg%';
SELECT matches(plan, 'Index Cond: \(\(device_id = [^)]*\) AND \(parameter_id = [^)]*\) AND \(ts > ',
	'a series is read by its key') FROM plans WHERE query LIKE 'SELECT value%';
SELECT matches(plan, 'Index.* using device_name_key|device_name_key', 'a device by its name')
	FROM plans WHERE query LIKE '%FROM iot.device WHERE%';
SELECT matches(plan, 'device_device_group_id_idx', 'devices by their groups') FROM plans WHERE query = 'SELECT name FROM iot.device';
SELECT matches(plan, 'command_command_id_idx', 'a command by its id') FROM plans WHERE query LIKE 'SELECT status%';
SELECT matches(plan, 'device_name_key', 'a row of the fleet by its device') FROM plans WHERE query LIKE 'SELECT online%';

-- in one query, groups as they are in its snapshot; in the next as they are then
SET LOCAL ROLE row_anna;
PREPARE mine AS SELECT string_agg(DISTINCT d.name, ',' ORDER BY d.name)
	FROM iot.measurement m JOIN iot.device d ON d.device_id = m.device_id;
EXECUTE mine \gset before_
RESET ROLE;
UPDATE iot.device SET device_group_id = (SELECT device_group_id FROM iot.device_group WHERE name = 'yard')
	WHERE name = 'fridge';
DELETE FROM iot.access_grant a USING iot.device_group g
	WHERE g.device_group_id = a.device_group_id AND g.name = 'cellar';
SET LOCAL ROLE row_anna;
EXECUTE mine \gset after_
RESET ROLE;
SELECT is(:'before_string_agg'::text, 'boiler,fridge,pump', 'a prepared query');
SELECT is(:'after_string_agg'::text, 'boiler', 'follows devices that move and grants that end');

SELECT * FROM finish();
ROLLBACK;
