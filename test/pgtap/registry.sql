-- The registry: what is refused and how, making devices, and who may do what.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;
BEGIN;
SELECT no_plan();

-- 1. tables, and what they must have
SELECT has_table('iot'::name, t::name) FROM unnest(ARRAY['parameter', 'device_type', 'device_group', 'device',
	'sensor', 'app_user', 'user_group', 'user_group_member', 'access_grant', 'adapter']) t;
SELECT results_eq(
	$$SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'iot'::regnamespace
		AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		AND obj_description(c.oid, 'pg_class') IS NULL ORDER BY 1$$,
	ARRAY[]::text[], 'every table has a comment');
SELECT results_eq(
	$$SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'iot'::regnamespace
		AND obj_description(p.oid, 'pg_proc') IS NULL ORDER BY 1$$,
	ARRAY[]::text[], 'every public function has a comment');
SELECT results_eq(
	$$SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'iot'::regnamespace
		AND c.relkind IN ('r', 'p', 'v') AND pg_get_userbyid(c.relowner) <> 'iot_owner'$$,
	ARRAY[]::text[], 'every table belongs to iot_owner');

-- 2. seeds
SELECT is((SELECT array_agg(name) FROM iot.device_group), '{default}', 'one device group');
SELECT is((SELECT array_agg(name) FROM iot.device_type), '{default}', 'one device type');
SELECT results_eq('SELECT name, kind, url, enabled FROM iot.adapter',
	$$VALUES ('mqtt', 'mqtt', 'mqtt://127.0.0.1:1883', false)$$, 'one adapter, disabled');

-- 3. parameters
CREATE FUNCTION parameter(name text, low float8 = NULL, high float8 = NULL, labels jsonb = NULL,
	unit text = NULL) RETURNS void LANGUAGE sql AS
	'INSERT INTO iot.parameter (name, value_min, value_max, labels, unit)
		VALUES (name, low, high, labels, unit)';
SELECT throws_ok($$SELECT parameter('a b')$$, '22023', 'invalid name of a parameter: "a b"');
SELECT throws_ok($$SELECT parameter('')$$, '22023', 'invalid name of a parameter: ""');
SELECT throws_ok($$SELECT parameter(repeat('x', 65))$$, '22023', NULL, 'a name of 65 characters');
SELECT throws_ok($$SELECT parameter(NULL)$$, '23502', NULL, 'a name is needed');
SELECT throws_ok(format('SELECT parameter(''p'', %L, NULL)', v), '22023',
	'bounds of parameter "p" must be finite numbers', 'lower bound ' || v)
	FROM unnest(ARRAY['NaN', 'Infinity', '-Infinity']) v;
SELECT throws_ok(format('SELECT parameter(''p'', NULL, %L)', v), '22023',
	'bounds of parameter "p" must be finite numbers', 'upper bound ' || v)
	FROM unnest(ARRAY['NaN', 'Infinity', '-Infinity']) v;
SELECT throws_ok($$SELECT parameter('p', 2, 1)$$, '22023',
	'bounds of parameter "p" are the wrong way round: 2 is above 1');
SELECT lives_ok($$SELECT parameter('same', 1, 1)$$, 'bounds may be the same');
SELECT throws_ok($$SELECT parameter('p', labels => '[1]')$$, '22023',
	'labels of parameter "p" must be a JSON object');
SELECT throws_ok($$SELECT parameter('p', labels => '{"ON": "1"}')$$, '22023',
	'label "ON" of parameter "p" does not stand for a finite number');
SELECT throws_ok($$SELECT parameter('p', labels => '{"ON": null}')$$, '22023', NULL, 'null is no number');
SELECT throws_ok($$SELECT parameter('p', labels => '{"ON": 1e400}')$$, '22023', NULL, '1e400 is not finite');
SELECT throws_ok(format('SELECT parameter(''p'', labels => %L)', jsonb_build_object(w, 1)), '22023',
	format('label "%s" of parameter "p" reads as a number', w))
	FROM unnest(ARRAY['1', '-2.5e3', 'NaN', 'Infinity', '1e400']) w;
SELECT throws_ok(format('SELECT parameter(''p'', labels => %L)', jsonb_build_object(w, 1)), '22023',
	NULL, format('"%s" is no word', w)) FROM unnest(ARRAY['', ' ON', E'O\nN', repeat('x', 65)]) w;
SELECT lives_ok($$SELECT parameter('valve', 0, 1, '{"OFF": 0, "ON": 1, "HALB AUF": 0.5}', '°')$$,
	'words, a unit and bounds');
SELECT throws_ok($$SELECT parameter('valve')$$, '23505', NULL, 'names are unique');

-- 4. devices
SELECT iot.create_device('boiler', ARRAY['valve', 'same']) AS boiler \gset
SELECT is(iot.create_device('boiler', ARRAY['same', 'valve', 'valve']), :'boiler',
	'the same call again gives the same device');
SELECT is(iot.create_device('boiler', ARRAY['valve', 'same'], id => :'boiler'), :'boiler',
	'also with its id');
SELECT is((SELECT count(*)::int FROM iot.sensor), 2, 'a sensor for each parameter');
SELECT throws_ok($$SELECT iot.create_device('boiler', ARRAY['valve'])$$, '42710',
	'device "boiler" already exists', 'other parameters');
SELECT throws_ok($$SELECT iot.create_device('boiler', ARRAY['valve', 'same'], id => gen_random_uuid())$$,
	'42710', 'device "boiler" already exists', 'another id');
SELECT throws_ok(format('SELECT iot.create_device(%L, %L, id => %L)', 'other', '{}', :'boiler'), '42710',
	format('device id %s is taken', :'boiler'));
SELECT throws_ok($$SELECT iot.create_device('x', ARRAY['pressure'])$$, '42704',
	'parameter "pressure" does not exist');
SELECT throws_ok($$SELECT iot.create_device('x', '{}', 'g')$$, '42704', 'device group "g" does not exist');
SELECT throws_ok($$SELECT iot.create_device('x', '{}', NULL)$$, '42704', NULL, 'no group');
SELECT throws_ok($$SELECT iot.create_device('x', '{}', device_type => 't')$$, '42704',
	'device type "t" does not exist');
SELECT throws_ok($$SELECT iot.create_device('x', '{}', adapter => 'a')$$, '42704',
	'adapter "a" does not exist');
SELECT throws_ok($$SELECT iot.create_device(NULL, '{}')$$, '22004', NULL, 'a name is needed');
SELECT throws_ok($$SELECT iot.create_device('x', NULL)$$, '22004', NULL, 'parameters are needed');
SELECT throws_ok($$SELECT iot.create_device('x', ARRAY['valve', NULL])$$, '22004', NULL, 'each of them');
SELECT throws_ok($$SELECT iot.create_device('x', ARRAY[['valve', 'temperature']])$$, '22023',
	'parameters of a device must be a list of names', 'not a table');
SELECT throws_ok($$INSERT INTO iot.adapter (name, kind) VALUES ('a/b', 'modbus')$$, '22023',
	'invalid name of an adapter: "a/b"');
SELECT throws_ok($$INSERT INTO iot.user_group (name) VALUES ('a/b')$$, '22023',
	'invalid name of a user group: "a/b"');
SELECT throws_ok($$INSERT INTO iot.app_user (username, role) VALUES ('x', 'postgres')$$, '22023',
	'invalid role "postgres" of user "x"');
SELECT throws_ok($$SELECT iot.create_device('a/b', '{}')$$, '22023', 'invalid name of a device: "a/b"');
SELECT throws_ok($$SELECT iot.create_device('+', '{}')$$, '22023', NULL, 'a wildcard is no name');
SELECT throws_ok($$SELECT iot.create_device('7d3b1e0c-0000-0000-0000-0000000000ab', '{}')$$, '22023',
	'name of a device reads as a uuid: "7d3b1e0c-0000-0000-0000-0000000000ab"');
SELECT throws_ok($$SELECT iot.create_device('7D3B1E0C0000000000000000000000AB', '{}')$$, '22023', NULL,
	'nor one without dashes');
SELECT is(iot.create_device('with-id', '{}', id => '01900000-0000-7000-8000-000000000001'),
	'01900000-0000-7000-8000-000000000001', 'an id can be given');
SELECT throws_ok($$DELETE FROM iot.parameter WHERE name = 'valve'$$, '23503', NULL,
	'a parameter with sensors stays');

-- 5. sensors override bounds one by one
SELECT lives_ok($$UPDATE iot.sensor SET value_max = 0.5 FROM iot.parameter p
	WHERE p.parameter_id = sensor.parameter_id AND p.name = 'valve'$$, 'an upper bound of its own');
SELECT throws_ok($$UPDATE iot.sensor SET value_max = -1 FROM iot.parameter p
	WHERE p.parameter_id = sensor.parameter_id AND p.name = 'valve'$$, '22023',
	'bounds of the sensor of parameter "valve" are the wrong way round: 0 is above -1');
SELECT throws_ok($$UPDATE iot.parameter SET value_min = 0.7 WHERE name = 'valve'$$, '22023',
	'bounds of parameter "valve" contradict those of its sensor of device "boiler"');
SELECT throws_ok($$UPDATE iot.sensor SET value_min = 'NaN'$$, '22023', NULL, 'NaN is no bound');
SELECT throws_ok($$UPDATE iot.sensor SET labels = '5'$$, '22023', NULL, 'labels are checked');

-- 6. device types
SELECT throws_ok(format('UPDATE iot.device_type SET %I = %L', column_name, template), '22023',
	format('invalid %s of device type "default": %s', column_name, error))
	FROM unnest(ARRAY['telemetry_topic', 'attributes_topic', 'status_topic', 'command_topic',
		'ack_topic']) column_name,
	(VALUES ('x', 'topic template lacks {device}'), ('{device}/x+', 'topic contains a wildcard'),
		('{device}/#', 'topic contains a wildcard'), ('', 'topic is empty'),
		('a{device}/b', '{device} does not fill a whole level'),
		('{device}/{device}', 'topic template has {device} more than once'),
		('$SYS/{device}', 'topics that begin with "$" belong to the broker'),
		(repeat('x', 1010) || '/{device}', 'topics of this template may be longer than 1024 bytes'))
		AS t (template, error);
SELECT throws_ok($$UPDATE iot.device_type SET ack_topic = 'iot/{device}/status'$$, '22023',
	'ack_topic and status_topic of device type "default" are the same');
SELECT lives_ok($$UPDATE iot.device_type SET telemetry_topic = 'zigbee2mqtt/{device}',
	command_topic = 'zigbee2mqtt/{device}/set'$$, 'other topics');
SELECT throws_ok(format('UPDATE iot.device_type SET %s', t), '22023', NULL, t)
	FROM unnest(ARRAY[$$ack_mode = 'none'$$, $$ack_timeout = '1 ms'$$, $$ack_timeout = '2 days'$$,
		'max_attempts = 0', 'max_attempts = 101', $$command_ttl = '0'$$, $$command_ttl = '31 days'$$,
		$$command_template = ''$$, $$command_template = '{"a":{word}}'$$,
		$$command_template = '{"a":{value}'$$, $$name = 'a/b'$$]) t;
SELECT throws_ok($$UPDATE iot.device_type SET command_template = '{"v":{valu},"x":"{secret}"}'$$, '22023',
	'unknown placeholder {valu}, {secret} in command_template of device type "default"');
SELECT lives_ok(format('UPDATE iot.device_type SET command_template = %L', t), t)
	FROM unnest(ARRAY['{word}', 'POWER {value}', '{"state":"{word}","id":"{id}","v":{version}}',
		'[{value}]']) t;

-- 7. adapters
SELECT throws_ok(format('UPDATE iot.adapter SET url = %L', u), '22023', NULL, format('url %s', u))
	FROM unnest(ARRAY['', 'localhost', 'http://h', 'mqtt://', 'mqtt://h/topic', 'mqtt://h:0',
		'mqtt://h:65536', 'mqtt://h:x', 'mqtt://h ', 'mqtt://[::1', E'mqtt://h\n']) u;
SELECT throws_ok($$UPDATE iot.adapter SET url = 'mqtt://anna:pw@h'$$, '22023',
	'url of adapter "mqtt" must not hold user information');
SELECT throws_ok($$UPDATE iot.adapter SET url = NULL$$, '22023', 'invalid url of adapter "mqtt"');
SELECT lives_ok(format('UPDATE iot.adapter SET url = %L', u), format('url %s', u))
	FROM unnest(ARRAY['mqtt://h', 'mqtt://10.0.0.1:1883', 'mqtts://broker.example.org:8883/',
		'mqtt://[::1]:1883']) u;
SELECT throws_ok(format('UPDATE iot.adapter SET options = %L', o), '22023', NULL, format('options %s', o))
	FROM unnest(ARRAY['[]', '5', '{"foo": 1}', '{"password": "x"}', '{"keepalive": 9}',
		'{"keepalive": 3601}', '{"keepalive": "60"}', '{"keepalive": 60.5}', '{"qos": 2}',
		'{"batch_size": 0}', '{"batch_size": 10001}', '{"max_in_flight": -1}', '{"protocol": 5}',
		'{"protocol": "4"}', '{"ca_file": "x"}', '{"ca_file": "/x"}', '{"username": ""}',
		'{"username": 5}', '{"client_id": null}', '{"password_file": "/x"}',
		'{"processes": 0}', '{"processes": 17}', '{"processes": "2"}', '{"batch_time": -1}',
		'{"batch_time": 10001}', '{"topics": "iot/#"}', '{"topics": []}', '{"topics": [1]}',
		'{"topics": ["a/+b"]}', '{"topics": ["a/#/b"]}', '{"topics": ["$share/g/a"]}', '{"topics": [""]}',
		'{"register_group": "default"}', '{"register_type": "default"}', '{"register_limit": 5}',
		'{"register_group": "default", "register_type": "default", "register_limit": 0}',
		'{"discovery_prefix": "ha"}', '{"discovery_group": "default"}', '{"discovery_limit": 5}',
		'{"discovery_prefix": "", "discovery_group": "default"}', '{"discovery_prefix": 5, "discovery_group": "default"}',
		'{"discovery_prefix": "a/+", "discovery_group": "default"}', '{"discovery_prefix": "$SYS", "discovery_group": "default"}',
		'{"discovery_prefix": "a{device}", "discovery_group": "default"}',
		'{"discovery_prefix": "ha", "discovery_group": "default", "discovery_limit": 10001}']) o;
SELECT throws_ok(format('UPDATE iot.adapter SET options = %L', o), '42704', NULL, format('options %s', o))
	FROM unnest(ARRAY['{"register_group": "nowhere", "register_type": "default"}',
		'{"register_group": "default", "register_type": "nothing"}',
		'{"register_group": null, "register_type": "default"}',
		'{"discovery_prefix": "ha", "discovery_group": "nowhere"}']) o;
SELECT throws_ok($$UPDATE iot.adapter SET options = '{"username": "u", "password_secret": "broker"}'$$,
	'42704', 'secret "broker" does not exist');
INSERT INTO iot.secret (name, value) VALUES ('broker', 'pw'), ('free', 'x');
SELECT lives_ok($$UPDATE iot.adapter SET url = 'mqtts://h', options = '{"username": "u",
	"password_secret": "broker", "client_id": "c", "keepalive": 10, "qos": 0, "batch_size": 10000,
	"max_in_flight": 1, "protocol": "3.1.1", "ca_file": "/ca", "cert_file": "/c", "key_file": "/k",
	"processes": 16, "batch_time": 0, "topics": ["plant/+/telemetry", "a/#", "#"],
	"register_group": "default", "register_type": "default", "register_limit": 5,
	"discovery_prefix": "home/assistant", "discovery_group": "default", "discovery_limit": 10000}'$$,
	'every option there is');
SELECT throws_ok($$UPDATE iot.adapter SET url = 'mqtt://h'$$, '22023',
	'adapter "mqtt" has options for TLS and a url without it');
SELECT throws_ok($$UPDATE iot.adapter SET options = options - 'cert_file'$$, '22023',
	'adapter "mqtt" has only one of certificate and key');
SELECT throws_ok($$UPDATE iot.adapter SET options = options || '{"password_file": "/p"}'$$, '22023',
	'adapter "mqtt" has two passwords');
SELECT throws_ok($$UPDATE iot.adapter SET options = options - 'username'$$, '22023',
	'adapter "mqtt" has a password and no user');
SELECT throws_ok($$UPDATE iot.adapter SET kind = 'MQTT'$$, '22023', NULL, 'kinds are lower case');
SELECT lives_ok($$INSERT INTO iot.adapter (name, kind, url, options)
	VALUES ('lora', 'lora', 'anything', '{"whatever": 1}')$$, 'other kinds mean what they like');
SELECT throws_ok($$DELETE FROM iot.secret WHERE name = 'broker'$$, '2BP01',
	'secret "broker" is used by adapter "mqtt"');
SELECT throws_ok($$UPDATE iot.secret SET name = 'b' WHERE name = 'broker'$$, '2BP01', NULL,
	'it keeps its name');
SELECT lives_ok($$UPDATE iot.secret SET value = 'new' WHERE name = 'broker'$$, 'and can change');
SELECT lives_ok($$DELETE FROM iot.secret WHERE name = 'free'$$, 'another can go');

-- 8. users and rights
SELECT throws_ok(format('INSERT INTO iot.app_user (username) VALUES (%L)', u), '22023', NULL,
	format('username %L', u)) FROM unnest(ARRAY['', '*', E'a\tb', repeat('x', 129)]) u;
SELECT throws_ok($$INSERT INTO iot.app_user (username, email) VALUES ('a', 'b')$$, '22023',
	'invalid email of user "a"');
INSERT INTO iot.device_group (name) VALUES ('plant'), ('lab');
INSERT INTO iot.app_user (username) VALUES ('viewer'), ('operator'), ('manager'), ('nobody'), ('two');
INSERT INTO iot.user_group (name) VALUES ('view'), ('operate'), ('manage');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE (g.name, u.username) IN (VALUES ('view', 'viewer'), ('operate', 'operator'),
		('manage', 'manager'), ('view', 'two'), ('operate', 'two'));
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, g.name FROM iot.user_group g, iot.device_group d
	WHERE d.name = 'plant';
SELECT throws_ok($$UPDATE iot.access_grant SET level = 'own'$$, '22023', 'invalid access level "own"');
SELECT iot.create_device('press', '{}', 'plant') AS press \gset
SELECT iot.create_device('oven', '{}', 'lab') AS oven \gset
SELECT is(
	(SELECT string_agg(CASE WHEN iot.may(u, :'press', l) THEN left(l, 1) ELSE '-' END, '' ORDER BY o)
		FROM unnest(ARRAY['view', 'operate', 'manage']) WITH ORDINALITY AS t (l, o)),
	expected, format('%s may %s', coalesce(u, 'NULL'), expected))
	FROM (VALUES ('viewer', 'v--'), ('operator', 'vo-'), ('manager', 'vom'), ('nobody', '---'),
		('two', 'vo-'), ('unknown', '---'), (NULL, '---'), ('', '---'), ('postgres', 'vom'),
		('iot_admin', 'vom'), ('iot_operator', '---'), ('iot_owner', '---'), ('iot_worker', '---'),
		('iot_pushd', '---'), ('VIEWER', '---'), ('postgres' || repeat('x', 60), '---'))
		AS t (u, expected);
SELECT ok(NOT iot.may('manager', :'oven', 'view'), 'another group is another group');
SELECT ok(NOT iot.may('postgres', NULL, 'view'), 'nobody may anything with no device');
SELECT ok(NOT iot.may('postgres', gen_random_uuid(), 'view'), 'nor with one that does not exist');
SELECT ok(NOT iot.may('postgres', :'press', NULL), 'nor at no level');
SELECT throws_ok(format('SELECT iot.may(%L, %L, %L)', u, d, 'admin'), '22023',
	'invalid access level "admin"', 'a level that does not exist is an error, whoever asks')
	FROM (VALUES ('postgres', :'press'), (NULL, NULL)) AS t (u, d);
UPDATE iot.app_user SET enabled = false WHERE username = 'manager';
SELECT ok(NOT iot.may('manager', :'press', 'view'), 'a disabled user may nothing');
UPDATE iot.app_user SET enabled = true WHERE username = 'manager';
DELETE FROM iot.access_grant WHERE level = 'manage';
SELECT ok(NOT iot.may('manager', :'press', 'view'), 'nor one whose grant is gone');
CREATE ROLE chief IN ROLE iot_admin;
SELECT ok(iot.may('chief', :'oven', 'manage'), 'a member of iot_admin may all');
ALTER ROLE chief NOINHERIT;
SELECT ok(NOT iot.may('chief', :'oven', 'manage') OR current_setting('server_version_num')::int >= 160000,
	'unless he would have to SET ROLE first');

-- 9. who may make devices
CREATE ROLE maker IN ROLE iot_operator;
INSERT INTO iot.app_user (username) VALUES ('maker');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE g.name = 'operate' AND u.username = 'maker';
SET LOCAL ROLE maker;
DO $$ BEGIN
	PERFORM iot.create_device('mine', '{}', 'plant');
	RAISE 'it was made';
EXCEPTION WHEN insufficient_privilege THEN
	IF sqlerrm <> 'permission denied for device group "plant"' THEN RAISE; END IF;
END $$;
RESET ROLE;
SELECT pass('level "operate" makes no device');
UPDATE iot.access_grant SET level = 'manage' WHERE level = 'operate';
SET LOCAL ROLE maker;
SELECT iot.create_device('mine', '{}', 'plant') AS mine \gset
RESET ROLE;
SELECT ok(iot.may('maker', :'mine', 'manage'), 'level "manage" does');

-- 10. files of the server are not every admin's to name
CREATE ROLE files_admin IN ROLE iot_admin;
GRANT USAGE ON SCHEMA public TO files_admin;
SELECT ok(NOT pg_has_role('files_admin', 'pg_read_server_files', 'USAGE'), 'an admin who may not read them');
SET LOCAL ROLE files_admin;
SELECT throws_ok($$UPDATE iot.adapter
	SET options = '{"username": "x", "password_file": "/etc/passwd"}' WHERE name = 'mqtt'$$,
	'42501', 'permission denied to set option "password_file" of adapter "mqtt"');
SELECT throws_ok($$INSERT INTO iot.adapter (name, url, options)
	VALUES ('spy', 'mqtts://127.0.0.1', '{"ca_file": "/etc/passwd"}')$$,
	'42501', 'permission denied to set option "ca_file" of adapter "spy"');
SELECT throws_ok($$INSERT INTO iot.webhook (name, url, options)
	VALUES ('spy', 'https://127.0.0.1', '{"ca_file": "/etc/passwd"}')$$,
	'42501', 'permission denied to set option "ca_file" of webhook "spy"');
SELECT lives_ok($$UPDATE iot.adapter SET options = options || '{"batch_size": 7}' WHERE name = 'mqtt'$$,
	'other options are');
RESET ROLE;
UPDATE iot.adapter SET options = '{"username": "x", "password_file": "/p"}' WHERE name = 'mqtt';
SET LOCAL ROLE files_admin;
SELECT lives_ok($$UPDATE iot.adapter SET options = options || '{"batch_size": 8}' WHERE name = 'mqtt'$$,
	'and a file that stands there may stay');
SELECT throws_ok($$UPDATE iot.adapter SET url = 'mqtt://elsewhere' WHERE name = 'mqtt'$$,
	'42501', 'permission denied to set option "password_file" of adapter "mqtt"',
	'but its password goes to no other broker');
INSERT INTO iot.adapter (name, kind, options)
	VALUES ('disguise', 'other', '{"username": "x", "password_file": "/etc/passwd"}');
SELECT throws_ok($$UPDATE iot.adapter SET kind = 'mqtt', url = 'mqtt://elsewhere' WHERE name = 'disguise'$$,
	'42501', 'permission denied to set option "password_file" of adapter "disguise"',
	'nor is another kind a way around');
RESET ROLE;
GRANT pg_read_server_files TO files_admin;
SET LOCAL ROLE files_admin;
SELECT lives_ok($$UPDATE iot.adapter SET options = options || '{"password_file": "/q"}' WHERE name = 'mqtt'$$,
	'who may read them may name them');
RESET ROLE;

-- 11. retention
SELECT throws_ok($$UPDATE iot.retention SET keep = '6 days' WHERE relation = 'command'$$, '22023',
	'commands are kept for 7 days at least');
SELECT throws_ok($$UPDATE iot.retention SET keep = '59 min', cap = NULL WHERE relation = 'event'$$, '22023',
	'retention of event is below an hour');
SELECT throws_ok($$UPDATE iot.retention SET cap = '1 day' WHERE relation = 'event'$$, '22023',
	'the cap of event is below what is kept anyway');
SELECT throws_ok($$UPDATE iot.retention SET cap = '1 year' WHERE relation = 'command'$$, '22023',
	'retention of command has no cap');
SELECT throws_ok($$INSERT INTO iot.retention (relation, keep) VALUES ('x', '1 day')$$, '22023',
	'retention knows no table "x"');

SELECT * FROM finish();
ROLLBACK;
