-- Sending commands: what is taken, what is refused, what raises; repeats; who may.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

INSERT INTO iot.parameter (name, unit, value_min, value_max) VALUES ('temperature', '°C', 0, 100);
INSERT INTO iot.parameter (name, labels) VALUES ('valve', '{"OFF": 0, "ON": 1}');
INSERT INTO iot.parameter (name) VALUES ('free');
INSERT INTO iot.parameter (name) VALUES ('foreign');
SELECT iot.create_device('boiler', ARRAY['temperature', 'valve', 'free']) AS boiler \gset
SELECT iot.create_device('furnace', ARRAY['temperature']) AS furnace \gset
UPDATE iot.sensor SET value_max = 1000 WHERE device_id = :'furnace';

CREATE FUNCTION status(command uuid) RETURNS text LANGUAGE sql AS
	'SELECT c.status FROM iot.command c WHERE c.command_id = command';
CREATE FUNCTION error(command uuid) RETURNS text LANGUAGE sql AS
	'SELECT c.error FROM iot.command c WHERE c.command_id = command';
CREATE FUNCTION types(command uuid) RETURNS text[] LANGUAGE sql AS
	'SELECT array_agg(e.type ORDER BY e.id) FROM iot.event e WHERE e.aggregateid = command::text';
CREATE FUNCTION current(device uuid, parameter text) RETURNS double precision LANGUAGE sql AS
	'SELECT v.value FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)
		WHERE v.device_id = device AND p.name = parameter';

SELECT no_plan();

-- a command that is taken
SELECT iot.send_command('boiler', 'temperature', 21.5) AS command \gset
SELECT is(status(:'command'), 'COMMITTED', 'a command within bounds is on its way');
SELECT is(types(:'command'), ARRAY['command.value_set', 'dm.value_set_approved'],
	'both services told what they did, in this order');
SELECT is(current(:'boiler', 'temperature'), 21.5::float8, 'the value is current at once');
SELECT results_eq(
	format($$SELECT v.source, v.version, v.last_version, v.desired, v.desired_version, v.reported
		FROM iot.sensor_value v WHERE v.device_id = %L AND v.value = 21.5$$, :'boiler'),
	$$VALUES ('command', 1::bigint, 1::bigint, 21.5::float8, 1::bigint, NULL::float8)$$,
	'its source, version and the desired value are those of the command');
SELECT results_eq(
	format('SELECT s.service, s.status, s.error FROM iot.saga_step s WHERE s.command_id = %L', :'command'),
	$$VALUES ('device', 'COMMITTED', NULL::text)$$, 'Device Service has committed its step');
SELECT results_eq(
	format($$SELECT c.action, c.value, c.target_value, c.previous_value, c.version, c.username,
		c.deadline - c.created_at FROM iot.command c WHERE c.command_id = %L$$, :'command'),
	$$VALUES ('set', 21.5::float8, 21.5::float8, NULL::float8, 1::bigint, current_user::text COLLATE "default",
		interval '60 s')$$, 'the command says who wanted what until when');
SELECT is((SELECT e.payload FROM iot.event e
		WHERE e.aggregateid = :'command' AND e.type = 'dm.value_set_approved'),
	jsonb_build_object('command_id', :'command', 'device', 'boiler', 'parameter', 'temperature',
		'action', 'set', 'value', 21.5, 'target_value', 21.5, 'version', 1, 'unit', '°C',
		'username', current_user),
	'the event says the same, and nothing that does not apply');
SELECT iot.send_command(:'boiler', 'free', 1) AS command \gset
SELECT is(current(:'boiler', 'free'), 1::float8, 'a device is found by its id as well');
SELECT iot.send_command(replace(upper(:'boiler'), '-', ''), 'free', 2) AS command \gset
SELECT is(current(:'boiler', 'free'), 2::float8, 'in another spelling of the id, too');

-- bounds
SELECT iot.send_command('boiler', 'temperature', 0) AS low \gset
SELECT is(status(:'low'), 'COMMITTED', 'the minimum is allowed');
SELECT iot.send_command('boiler', 'temperature', 100) AS high \gset
SELECT is(status(:'high'), 'COMMITTED', 'the maximum is allowed');
SELECT iot.send_command('boiler', 'temperature', 100.0000001) AS above \gset
SELECT is(status(:'above'), 'FAILED', 'more than the maximum is refused');
SELECT is(error(:'above'), 'value 100.0000001 is above the maximum 100 °C', 'and says why');
SELECT iot.send_command('boiler', 'temperature', -5e-324) AS below \gset
SELECT is(error(:'below'), 'value -5e-324 is below the minimum 0 °C', 'less than the minimum is refused');
SET extra_float_digits = -10;
SELECT is(error(iot.send_command('boiler', 'temperature', 123456789.5)), 'value 123456789.5 is above the maximum 100 °C',
	'numbers are told in full, whatever the session says of digits');
RESET extra_float_digits;
SELECT is(types(:'below'), ARRAY['command.value_set', 'dm.value_set_error'], 'a refusal is an event');
SELECT is((SELECT array_agg(s.service || ' ' || s.status || ' ' || s.error) FROM iot.saga_step s
	WHERE s.command_id = :'below'), ARRAY['device FAILED value -5e-324 is below the minimum 0 °C'],
	'and a step');
SELECT isnt((SELECT c.finished_at FROM iot.command c WHERE c.command_id = :'below'), NULL,
	'and final');
SELECT is(current(:'boiler', 'temperature'), 100::float8, 'a refused command changes no value');
SELECT iot.send_command('furnace', 'temperature', 900) AS hot \gset
SELECT is(status(:'hot'), 'COMMITTED', 'a bound of the sensor goes before that of the parameter');
SELECT iot.send_command('furnace', 'temperature', -1) AS cold \gset
SELECT is(status(:'cold'), 'FAILED', 'and the other bound stays that of the parameter');
SELECT iot.send_command('boiler', 'free', -1.7976931348623157e308) AS far \gset
SELECT is(status(:'far'), 'COMMITTED', 'a missing bound is open');

-- add
SELECT iot.create_device('counter', ARRAY['free', 'temperature']) AS counter \gset
SELECT iot.send_command('counter', 'free', 1, 'add') AS command \gset
SELECT is(status(:'command') || ': ' || error(:'command'), 'FAILED: no current value to add to',
	'there must be something to add to');
SELECT is((SELECT v.version FROM iot.sensor_value v WHERE v.device_id = :'counter'), 0::bigint,
	'a refused command takes no version');
SELECT iot.send_command('counter', 'free', 10) AS command \gset
SELECT iot.send_command('counter', 'free', -2.5, action => 'add') AS command \gset
SELECT is(current(:'counter', 'free'), 7.5::float8, 'add adds');
SELECT results_eq(
	format($$SELECT c.value, c.target_value, c.previous_value, c.previous_version, c.version
		FROM iot.command c WHERE c.command_id = %L$$, :'command'),
	$$VALUES (-2.5::float8, 7.5::float8, 10::float8, 1::bigint, 2::bigint)$$,
	'the command keeps operand, result, and what was there before');
SELECT iot.send_command('counter', 'free', 1, 'add', expected => 7.5) AS command \gset
SELECT is(current(:'counter', 'free'), 8.5::float8, 'add with the expected value there');
SELECT iot.send_command('counter', 'free', 1, 'add', expected => 7.5) AS command \gset
SELECT is(error(:'command'), 'current value is 8.5, not 7.5 as expected',
	'add with another value there');
SELECT iot.send_command('counter', 'temperature', 1, 'add', expected => 0) AS command \gset
SELECT is(error(:'command'), 'no current value, 0 expected', 'no value is not zero');
SELECT iot.send_command('counter', 'free', 1.7e308) AS command \gset
SELECT iot.send_command('counter', 'free', 1.7e308, 'add') AS command \gset
SELECT is(error(:'command'), 'result is out of range', 'a sum that is not finite is refused');
SELECT iot.send_command('counter', 'temperature', 60) AS command \gset
SELECT iot.send_command('counter', 'temperature', 41, 'add') AS command \gset
SELECT is(error(:'command'), 'value 101 is above the maximum 100 °C', 'bounds hold for the sum');
SELECT iot.send_command('counter', 'temperature', 5, 'set', expected => 61) AS command \gset
SELECT is(status(:'command'), 'FAILED', 'set honours an expected value, too');

-- words
SELECT iot.send_command('boiler', 'valve', 'ON') AS command \gset
SELECT is(current(:'boiler', 'valve'), 1::float8, 'a word is its number');
SELECT iot.send_command('boiler', 'valve', word => '0') AS command \gset
SELECT is(current(:'boiler', 'valve'), 0::float8, 'a number may come as text');
SELECT iot.send_command('boiler', 'temperature', word => ' 2.5e1') AS command \gset
SELECT is(current(:'boiler', 'temperature'), 25::float8, 'also without labels');
SELECT throws_ok($$SELECT iot.send_command('boiler', 'valve', 'on')$$, '22023',
	'"on" is neither a number nor a word of parameter "valve"', 'words are taken as written');
SELECT throws_ok($$SELECT iot.send_command('boiler', 'temperature', 'ON')$$, '22023',
	'"ON" is neither a number nor a word of parameter "temperature"', 'words belong to a parameter');

-- what makes no sense raises and writes nothing
CREATE TABLE before AS SELECT (SELECT count(*) FROM iot.command) AS commands,
	(SELECT count(*) FROM iot.event) AS events, (SELECT sum(v.last_version) FROM iot.sensor_value v) AS versions;
CREATE TABLE bad (call text, sqlstate text, message text);
INSERT INTO bad VALUES
	($$'nobody', 'temperature', 1$$, '42704', 'device "nobody" does not exist'),
	($$gen_random_uuid()::text, 'temperature', 1$$, '42704', NULL),
	($$'', 'temperature', 1$$, '42704', 'device "" does not exist'),
	($$'boiler''; DROP TABLE iot.command --', 'temperature', 1$$, '42704', NULL),
	($$'boiler', 'nothing', 1$$, '42704', 'parameter "nothing" does not exist'),
	($$'boiler', '', 1$$, '42704', 'parameter "" does not exist'),
	($$'boiler', 'foreign', 1$$, '42704', 'device "boiler" has no parameter "foreign"'),
	($$'boiler', 'temperature', 'NaN'::float8$$, '22023', 'value is not a finite number'),
	($$'boiler', 'temperature', 'Infinity'::float8$$, '22023', 'value is not a finite number'),
	($$'boiler', 'temperature', '-Infinity'::float8$$, '22023', 'value is not a finite number'),
	($$'boiler', 'temperature', 'NaN'$$, '22023', 'value is not a finite number'),
	($$'boiler', 'temperature', '-inf'$$, '22023', 'value is not a finite number'),
	($$'boiler', 'temperature', '1e400'$$, '22023', '"1e400" is neither a number nor a word of parameter "temperature"'),
	($$'boiler', 'temperature', ''$$, '22023', '"" is neither a number nor a word of parameter "temperature"'),
	($$'boiler', 'temperature', '1x'$$, '22023', '"1x" is neither a number nor a word of parameter "temperature"'),
	($$'boiler', 'temperature', 1, 'add', expected => 'NaN'$$, '22023', 'expected value is not a finite number'),
	($$'boiler', 'temperature', 1, 'increase'$$, '22023', 'unknown action "increase"'),
	($$'boiler', 'temperature', 1, 'SET'$$, '22023', 'unknown action "SET"'),
	($$'boiler', 'temperature', 1, ttl => '0'$$, '22023', 'time to live of a command is out of range'),
	($$'boiler', 'temperature', 1, ttl => '-1 s'$$, '22023', 'time to live of a command is out of range'),
	($$'boiler', 'temperature', 1, ttl => '1000000 years'$$, '22023', 'time to live of a command is out of range'),
	($$'boiler', 'temperature', 1, ttl => '-1000000 years'$$, '22023', 'time to live of a command is out of range'),
	($$'boiler', 'temperature', 1, ttl => '1 year'$$, '22023', 'time to live of a command is out of range'),
	($$NULL, 'temperature', 1$$, '22004', 'device must not be null'),
	($$'boiler', NULL, 1$$, '22004', 'parameter must not be null'),
	($$'boiler', 'temperature', NULL::float8$$, '22004', 'value must not be null'),
	($$'boiler', 'temperature', NULL::text$$, '22004', 'word must not be null'),
	($$'boiler', 'temperature', 1, NULL$$, '22004', 'action must not be null');
SELECT throws_ok('SELECT iot.send_command(' || b.call || ')', b.sqlstate::char(5), b.message, b.call)
	FROM bad b;
SELECT results_eq(
	'SELECT (SELECT count(*) FROM iot.command), (SELECT count(*) FROM iot.event),
		(SELECT sum(v.last_version) FROM iot.sensor_value v)',
	'SELECT * FROM before', 'none of them wrote anything');

-- I8: the same request
SELECT iot.send_command('boiler', 'temperature', 30, 'add', 25,
	request_id => '11111111-1111-1111-1111-111111111111') AS once \gset
SELECT is(status(:'once'), 'COMMITTED', 'a request with an id');
SELECT is(iot.send_command('boiler', 'temperature', 30, 'add', 25,
	request_id => '11111111-1111-1111-1111-111111111111'), :'once'::uuid, 'I8: sent again, the same command');
SELECT is(iot.send_command(:'boiler', 'temperature', '30', 'add', 25,
	request_id => '11111111-1111-1111-1111-111111111111', ttl => '5 s'), :'once'::uuid,
	'I8: also by id, as a word, with less time');
SELECT is(types(:'once'), ARRAY['command.value_set', 'dm.value_set_approved'], 'I8: it happened once');
SELECT is(current(:'boiler', 'temperature'), 55::float8, 'I8: and was added once');
SELECT throws_ok(format($$SELECT iot.send_command(%s, request_id => '11111111-1111-1111-1111-111111111111')$$, a.call),
	'22023', 'request id 11111111-1111-1111-1111-111111111111 was used with other arguments',
	'I8: another ' || a.what)
	FROM (VALUES ('value', $$'boiler', 'temperature', 31, 'add', 25$$),
		('action', $$'boiler', 'temperature', 30, 'set', 25$$),
		('parameter', $$'boiler', 'free', 30, 'add', 25$$),
		('expected value', $$'boiler', 'temperature', 30, 'add', 26$$),
		('expectation, none', $$'boiler', 'temperature', 30, 'add'$$)) a(what, call);
SELECT isnt(iot.send_command('furnace', 'temperature', 30,
	request_id => '11111111-1111-1111-1111-111111111111'), :'once'::uuid, 'I8: an id belongs to a device');
SELECT iot.send_command('boiler', 'temperature', 500,
	request_id => '22222222-2222-2222-2222-222222222222') AS refused \gset
SELECT is(iot.send_command('boiler', 'temperature', 500,
	request_id => '22222222-2222-2222-2222-222222222222'), :'refused'::uuid, 'I8: a refused one stays refused');
UPDATE iot.device SET enabled = false WHERE name = 'boiler';
SELECT is(iot.send_command('boiler', 'temperature', 500,
	request_id => '22222222-2222-2222-2222-222222222222'), :'refused'::uuid, 'I8: whatever became of the device');
SELECT throws_ok($$SELECT iot.send_command('boiler', 'temperature', 1)$$, '55000',
	'device "boiler" is disabled', 'a disabled device takes nothing new');
UPDATE iot.device SET enabled = true WHERE name = 'boiler';

-- time to live
INSERT INTO iot.device_type (name, command_ttl) VALUES ('slow', '2 days');
SELECT iot.create_device('snail', ARRAY['free'], device_type => 'slow') AS snail \gset
SELECT iot.send_command('snail', 'free', 1) AS of_type \gset
SELECT iot.send_command('snail', 'free', 1, ttl => '90 s') AS of_call \gset
SET iot.command_ttl = '5 min';
SELECT iot.send_command('boiler', 'free', 1) AS of_setting \gset
RESET iot.command_ttl;
SELECT is((SELECT array_agg(c.deadline - c.created_at ORDER BY c.created_at) FROM iot.command c
	WHERE c.command_id = ANY (ARRAY[:'of_type', :'of_call', :'of_setting']::uuid[])),
	ARRAY['2 days', '90 s', '5 min']::interval[], 'the call goes before the type, the type before the setting');

-- digits survive whatever the session shows
SET extra_float_digits = -10;
SELECT iot.send_command('boiler', 'free', 0.1::float8 + 0.2::float8) AS command \gset
RESET extra_float_digits;
SELECT is((SELECT (e.payload->>'value')::float8 FROM iot.event e
	WHERE e.aggregateid = :'command' AND e.type = 'command.value_set'), 0.1::float8 + 0.2::float8,
	'an event loses no digit');

-- a sender may change his mind
BEGIN;
SELECT iot.send_command('boiler', 'free', 77) AS command \gset
SAVEPOINT s;
SELECT iot.send_command('boiler', 'free', 78) AS other \gset
ROLLBACK TO s;
COMMIT;
SELECT is(status(:'other'), NULL, 'a rolled back savepoint leaves no command');
SELECT is(current(:'boiler', 'free'), 77::float8, 'nor its value');

-- waiting
SELECT throws_ok($$SELECT iot.wait_for_command(gen_random_uuid())$$, '42704', NULL,
	'nobody waits for a command that is not there');
SELECT throws_ok($$SELECT iot.wait_for_command(NULL)$$, '22004', NULL, 'nor for none');
SELECT throws_ok($$SELECT iot.wait_for_command(iot.send_command('boiler', 'free', 5), '1 hour')$$, '55000',
	NULL, 'one''s own uncommitted command is an error at once');
SELECT is(iot.wait_for_command(:'refused', '1 hour'), 'FAILED', 'a final command is not waited for');
SELECT throws_ok(format('SELECT iot.wait_for_command(%L, %L)', :'once', '1 hour'), '55000',
	'iot workers are not running in this database', 'nobody waits where no worker will ever come');
INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
SELECT iot.create_device('mine', ARRAY['free'], adapter => 'own') AS mine \gset
SELECT iot.send_command('mine', 'free', 1) AS mine \gset
SELECT throws_ok(format('SELECT iot.wait_for_command(%L, %L)', :'mine', '20 ms'), '55P03',
	format('timed out while waiting for command %s', :'mine'), 'the time is over');
SELECT throws_ok(format('SELECT iot.wait_for_command(%L, %L)', :'mine', '-1 s'), '55P03', NULL,
	'no time is over at once');
SELECT throws_ok('SELECT * FROM iot.timeline(gen_random_uuid())', '42704', NULL, 'no timeline of nothing');
SELECT results_eq(format('SELECT service, event, status, detail FROM iot.timeline(%L)', :'above'),
	$$VALUES ('command', 'command.value_set', 'PROCESSING', 'set temperature 100.0000001 °C by ' || current_user::text COLLATE "default"),
		('device', 'dm.value_set_error', 'FAILED', 'value 100.0000001 is above the maximum 100 °C')$$,
	'the timeline of a refused command');

-- permissions
CREATE ROLE saga_test_anna IN ROLE iot_operator;
CREATE ROLE saga_test_otto IN ROLE iot_operator;
CREATE ROLE saga_test_vera IN ROLE iot_operator, iot_viewer;
CREATE ROLE saga_test_nobody;
INSERT INTO iot.app_user (username) VALUES ('saga_test_anna'), ('saga_test_vera');
INSERT INTO iot.user_group (name) VALUES ('operators'), ('viewers');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE (g.name, u.username) IN (('operators', 'saga_test_anna'), ('viewers', 'saga_test_vera'));
INSERT INTO iot.device_group (name) VALUES ('plant');
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, CASE g.name WHEN 'operators' THEN 'operate' ELSE 'view' END
	FROM iot.user_group g, iot.device_group d WHERE d.name = 'plant';
SELECT iot.create_device('pump', ARRAY['temperature'], device_group => 'plant') AS pump \gset
GRANT SELECT ON before TO PUBLIC;

SET ROLE saga_test_anna;
SELECT lives_ok($$SELECT iot.send_command('pump', 'temperature', 40)$$, 'who may operate may send');
SELECT throws_ok($$SELECT iot.send_command('boiler', 'temperature', 40)$$, '42501',
	'permission denied for device "boiler"', 'not to the devices of others');
SELECT throws_ok($$SELECT iot.adapter_sent(gen_random_uuid())$$, '42501', NULL,
	'and nobody answers for a device');
SELECT throws_ok($$SELECT * FROM iot.adapter_poll('own', 1)$$, '42501', NULL, 'nor takes its commands');
SELECT throws_ok($$INSERT INTO iot.event (aggregatetype, aggregateid, type, payload)
	VALUES ('command', 'x', 'adapter.value_set_error', '{}')$$, '42501', NULL, 'or forges an event');
RESET ROLE;
SELECT is((SELECT c.username FROM iot.command c WHERE c.device_id = :'pump'), 'saga_test_anna',
	'the command names who sent it, not who owns the function');
SELECT c.command_id AS command FROM iot.command c WHERE c.device_id = :'pump' \gset
SET ROLE saga_test_vera;
SELECT throws_ok($$SELECT iot.send_command('pump', 'temperature', 41)$$, '42501',
	'permission denied for device "pump"', 'who may view may not send');
SELECT isnt_empty(format('SELECT * FROM iot.timeline(%L)', :'command'), 'but look');
SELECT throws_ok(format('SELECT iot.wait_for_command(%L)', :'command'), '55000', NULL, 'and wait');
SELECT throws_ok(format('SELECT iot.wait_for_command(%L)', :'once'), '42501', NULL, 'not for others'' devices');
SELECT throws_ok(format('SELECT * FROM iot.timeline(%L)', :'once'), '42501', NULL, 'nor look at them');
SET ROLE saga_test_otto;
SELECT throws_ok($$SELECT iot.send_command('pump', 'temperature', 41)$$, '42501',
	'permission denied for device "pump"', 'who is no user may nothing');
SET ROLE saga_test_nobody;
SELECT throws_ok($$SELECT iot.send_command('pump', 'temperature', 41)$$, '42501', NULL,
	'who has no role of ours may not even ask');
RESET ROLE;
SELECT is((SELECT count(*) FROM iot.command c WHERE c.device_id = :'pump'), 1::bigint,
	'of all these one command came');

DROP ROLE saga_test_anna, saga_test_otto, saga_test_vera, saga_test_nobody;
SELECT * FROM finish();
