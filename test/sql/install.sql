-- Installing: what the script says and refuses, and what is a member of the extension afterwards.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION iot SCHEMA public;
CREATE EXTENSION iot;
RESET client_min_messages;

-- only functions and their schema are members, so that a dump carries the data
SELECT d.classid::regclass AS catalog
	FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'iot'
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	GROUP BY 1 ORDER BY 1::text;
SELECT extname, extversion, extrelocatable, extnamespace::regnamespace FROM pg_extension
	WHERE extname = 'iot';
ALTER EXTENSION iot SET SCHEMA public;

-- the roles
SELECT rolname, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication
	FROM pg_roles WHERE rolname LIKE 'iot%' ORDER BY rolname;
SELECT m.rolname AS member, r.rolname AS role FROM pg_auth_members a
	JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
	WHERE r.rolname LIKE 'iot%' OR m.rolname LIKE 'iot%' ORDER BY 1, 2;

-- first rows
SELECT name, kind, url, options, enabled FROM iot.adapter;
SELECT name, description FROM iot.device_group;
SELECT name, description, ack_mode, ack_timeout, max_attempts, command_ttl, telemetry_topic,
	attributes_topic, status_topic, command_topic, ack_topic, command_template FROM iot.device_type \gx
SELECT relation, keep, cap FROM iot.retention ORDER BY relation;
SELECT version FROM iot.schema_version;
SELECT paused, first_event_id, notification_floor FROM iot.epoch;

-- partitions: a week ahead, named by day
SELECT parent, count(*) AS partitions, min(lower) = date_trunc('day', now(), 'UTC') AS from_today,
		max(upper) = date_trunc('day', now(), 'UTC') + interval '8 days' AS a_week_ahead
	FROM unnest(ARRAY['iot.event', 'iot.measurement', 'iot.rollup_minute']::regclass[]) AS parent,
		iot_internal.partitions(parent) GROUP BY parent ORDER BY parent::text;

-- what only some may do
SET ROLE iot_viewer;
SELECT iot.install();
SELECT iot.migrate();
SELECT iot.purge();
SELECT iot.resume();
SELECT iot.schedule_maintenance();
CALL iot.maintain();
SELECT * FROM iot.check();
SELECT iot.status();
SELECT iot.create_device('x', '{}');
SELECT * FROM iot.device;
SELECT iot_internal.check_epoch();
SET ROLE iot_operator;
SELECT iot.resume();
SELECT iot.create_device('x', '{}');
SELECT jsonb_typeof(iot.status());
SET ROLE iot_admin;
CALL iot.maintain();
SELECT iot.resume();
SELECT iot.purge();
INSERT INTO iot.secret (name, value) VALUES ('key', 'k3y');
SELECT name FROM iot.secret;
SELECT value FROM iot.secret;
UPDATE iot.schema_version SET version = 2;
INSERT INTO iot.event (aggregatetype, aggregateid, type, payload) VALUES ('x', 'x', 'x', '{}');
SELECT iot.create_device('x', '{}') IS NOT NULL AS made;
RESET ROLE;
CREATE ROLE regress_nobody;
SET ROLE regress_nobody;
SELECT iot.may('postgres', NULL, 'view');
RESET ROLE;
DROP ROLE regress_nobody;

-- a device and its first errors, as a newcomer meets them
SELECT iot.create_device('boiler-1', ARRAY['temperature']);
INSERT INTO iot.parameter (name, value_min, value_max) VALUES ('temperature', 90, 5);
INSERT INTO iot.parameter (name, unit, value_min, value_max) VALUES ('temperature', '°C', 5, 90);
SELECT iot.create_device('boiler 1', ARRAY['temperature']);
SELECT iot.create_device('boiler-1', ARRAY['temperature']) IS NOT NULL AS made;
SELECT iot.create_device('boiler-1', '{}');
UPDATE iot.adapter SET url = 'mqtt://anna:secret@localhost';
UPDATE iot.adapter SET options = '{"passwort_file": "/etc/iot/password"}';
UPDATE iot.device_type SET command_topic = 'iot/command';
SELECT iot.may('anna', (SELECT device_id FROM iot.device WHERE name = 'boiler-1'), 'own');

\set VERBOSITY terse
DROP EXTENSION iot;
\set VERBOSITY default
SET client_min_messages = warning;
DROP EXTENSION iot CASCADE;
SELECT count(*) FROM iot.device;
CREATE EXTENSION iot;
RESET client_min_messages;
SELECT iot.create_device('boiler-1', ARRAY['temperature']) IS NOT NULL AS same;
