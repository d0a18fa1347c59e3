-- The contract for adapters, from taking a command up to its end, on time, late or never.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

INSERT INTO iot.parameter (name, labels) VALUES ('level', '{"LOW": 1, "say \"high\"": 2}');
INSERT INTO iot.parameter (name) VALUES ('speed');
INSERT INTO iot.adapter (name, kind) VALUES ('one', 'test'), ('two', 'test');
INSERT INTO iot.device_type (name, ack_timeout, max_attempts, command_topic, command_template) VALUES
	('quick', '10 ms', 2, 'site/{device}/set', NULL),
	('worded', '1 hour', 3, 'iot/{device}/command', '{"{parameter}": "{word}", "n": {value}, "id": "{id}"}'),
	('plain', '1 hour', 3, 'cmnd/{device}/POWER', '{action} {value} {device} v{version}');
SELECT iot.create_device('pump', ARRAY['level', 'speed'], adapter => 'one') AS pump \gset
SELECT iot.create_device('lamp', ARRAY['level'], device_type => 'worded', adapter => 'two') AS lamp \gset
SELECT iot.create_device('plug', ARRAY['level'], device_type => 'plain', adapter => 'two') AS plug \gset
SELECT iot.create_device('mute', ARRAY['level'], device_type => 'quick', adapter => 'one') AS mute \gset
SELECT a.adapter_id AS one FROM iot.adapter a WHERE a.name = 'one' \gset

CREATE FUNCTION story(command uuid) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', c.status, (SELECT string_agg(concat_ws(':', s.service, s.status, s.error), ' '
			ORDER BY s.service DESC) FROM iot.saga_step s WHERE s.command_id = c.command_id),
		CASE WHEN c.late THEN 'late' END)
	FROM iot.command c WHERE c.command_id = command
$$;
CREATE FUNCTION types(command uuid) RETURNS text[] LANGUAGE sql AS
	'SELECT array_agg(e.type ORDER BY e.id) FROM iot.event e WHERE e.aggregateid = command::text';
CREATE FUNCTION current(device uuid) RETURNS float8 LANGUAGE sql AS
	'SELECT v.value FROM iot.sensor_value v WHERE v.device_id = device';
CREATE FUNCTION elapse(command uuid, amount interval) RETURNS void LANGUAGE sql AS
	'UPDATE iot.saga_step s SET updated_at = s.updated_at - amount WHERE s.command_id = command
		AND s.service = ''adapter''';
CREATE FUNCTION outlive(command uuid) RETURNS void LANGUAGE sql AS
	'UPDATE iot.command c SET deadline = c.created_at WHERE c.command_id = command';

SELECT no_plan();

-- taking, confirming
SELECT iot.send_command('pump', 'level', 1) AS a \gset
SELECT iot.send_command('pump', 'speed', 7.25) AS b \gset
SELECT iot.send_command('pump', 'level', 2) AS c \gset
SELECT is((SELECT count(*) FROM iot.adapter_poll('two', 10)), 0::bigint, 'an adapter gets nobody else''s commands');
SELECT results_eq(
	$$SELECT device, parameter, action, value, version, attempts FROM iot.adapter_poll('one', 10)$$,
	$$VALUES ('pump', 'level', 'set', 1::float8, 1::bigint, 1), ('pump', 'speed', 'set', 7.25, 1, 1)$$,
	'one command of each sensor is handed out');
SELECT is(story(:'a'), 'COMMITTED device:COMMITTED adapter:PROCESSING', 'its step shows that it is in flight');
SELECT is((SELECT count(*) FROM iot.adapter_poll('one', 10)), 0::bigint, 'none is handed out again at once');
SELECT is(iot.adapter_sent(:'a'), 'applied', 'the device has confirmed');
SELECT is(story(:'a'), 'COMPLETED device:COMMITTED adapter:COMPLETED', 'that completes it');
SELECT is(types(:'a'), ARRAY['command.value_set', 'dm.value_set_approved', 'adapter.value_set_sent'], 'and is told');
SELECT is((SELECT e.payload - 'command_id' FROM iot.event e
		WHERE e.aggregateid = :'a' AND e.type = 'adapter.value_set_sent'),
	jsonb_build_object('device', 'pump', 'parameter', 'level', 'action', 'set', 'value', 1,
		'target_value', 1, 'version', 1, 'attempts', 1, 'username', current_user),
	'with all that applies');
SELECT is((SELECT array_agg(p.command_id) FROM iot.adapter_poll('one', 10) p), ARRAY[:'c']::uuid[],
	'then the next command of the sensor has its turn');
SELECT is(iot.wait_for_command(:'a'), 'COMPLETED', 'who waited knows');
SELECT results_eq(format('SELECT service, event, status, detail FROM iot.timeline(%L)', :'a'),
	$$VALUES ('command', 'command.value_set', 'PROCESSING', 'set level 1 by ' || current_user::text COLLATE "default"),
		('device', 'dm.value_set_approved', 'COMMITTED', 'no value becomes 1, version 1'),
		('adapter', NULL, 'PROCESSING', NULL),
		('adapter', 'adapter.value_set_sent', 'COMPLETED', 'confirmed')$$,
	'the timeline of a confirmed command');

-- I6: repeats change nothing
CREATE TABLE kept AS SELECT c.*, c.xmin AS row_xmin FROM iot.command c WHERE c.command_id = :'a';
SELECT is(iot.adapter_sent(:'a'), 'duplicate', 'I6: confirmed twice');
SELECT is(iot.adapter_error(:'a', 'no'), 'duplicate', 'I6: refused after it was confirmed');
SELECT results_eq(format('SELECT c.*, c.xmin FROM iot.command c WHERE c.command_id = %L', :'a'),
	'SELECT * FROM kept', 'I6: the row has not been touched');
SELECT is(cardinality(types(:'a')), 3, 'I6: and no event was written');

-- refusing
SELECT is(iot.adapter_error(:'c', 'too high'), 'applied', 'the device has refused');
SELECT is(story(:'c'), 'CANCELLED device:CANCELLED:too high adapter:FAILED:too high', 'that cancels it');
SELECT is(types(:'c'), ARRAY['command.value_set', 'dm.value_set_approved', 'adapter.value_set_error',
	'dm.value_set_cancelled'], 'and is told by both services');
SELECT is((SELECT v.value FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)
	WHERE v.device_id = :'pump' AND p.name = 'level'), 1::float8, 'the earlier value is back');
SELECT is(iot.adapter_error(:'c', 'too high'), 'duplicate', 'I6: refused twice');
SELECT is(iot.adapter_sent(:'c'), 'duplicate', 'I6: confirmed after it was refused');
SELECT results_eq(format('SELECT service, event, status, detail FROM iot.timeline(%L)', :'c'),
	$$VALUES ('command', 'command.value_set', 'PROCESSING', 'set level 2 by ' || current_user::text COLLATE "default"),
		('device', 'dm.value_set_approved', 'COMMITTED', '1 becomes 2, version 2'),
		('adapter', NULL, 'PROCESSING', NULL),
		('adapter', 'adapter.value_set_error', 'FAILED', 'too high'),
		('device', 'dm.value_set_cancelled', 'CANCELLED', '1 put back')$$,
	'the timeline of a refused command');
SELECT is(iot.adapter_error(:'b', NULL), 'applied', 'a refusal without a reason');
SELECT is(story(:'b'), 'CANCELLED device:CANCELLED:refused without a reason adapter:FAILED:refused without a reason',
	'is one as well');
SELECT is((SELECT v.value FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)
	WHERE v.device_id = :'pump' AND p.name = 'speed'), NULL, '"no value" is put back, too');

-- what is sent to a device
SELECT iot.send_command('pump', 'level', 0.1) AS a \gset
SELECT is((SELECT p.payload FROM iot.adapter_poll('one', 1) p),
	format('{"id":"%s","parameter":"level","action":"set","value":0.1,"version":3}', :'a'),
	'the documented payload');
SELECT is(iot.adapter_sent(:'a'), 'applied');
SELECT iot.send_command('pump', 'level', 5, 'add') AS b \gset
SELECT is((SELECT p.payload::jsonb - 'id' FROM iot.adapter_poll('one', 1) p),
	'{"parameter": "level", "action": "set", "value": 5.1, "version": 4}', 'on the wire add is a set of the sum');
SELECT is(iot.adapter_sent(:'b'), 'applied');
SELECT iot.send_command('lamp', 'level', 'say "high"') AS a \gset
SELECT is((SELECT p.payload::jsonb FROM iot.adapter_poll('two', 1) p),
	jsonb_build_object('level', 'say "high"', 'n', 2, 'id', :'a'), 'a template speaks the device''s words');
SELECT iot.send_command('plug', 'level', 1e21) AS b \gset
SELECT is((SELECT p.payload FROM iot.adapter_poll('two', 1) p), 'set 1e+21 plug v1', 'a template need not be JSON');
SELECT is((SELECT t.topic FROM iot_internal.adapter_in_flight((SELECT d.adapter_id FROM iot.device d
	WHERE d.name = 'plug')) t WHERE t.device = 'plug'), 'cmnd/plug/POWER', 'topics are the type''s');

-- answers that nobody can use
SELECT throws_ok($$SELECT iot.adapter_sent(gen_random_uuid())$$, '42704', NULL, 'an unknown command');
SELECT throws_ok($$SELECT * FROM iot.adapter_poll('nobody', 1)$$, '42704', 'adapter "nobody" does not exist');
SELECT throws_ok($$SELECT * FROM iot.adapter_poll('one', 0)$$, '22023', NULL, 'no command asked for');
SELECT results_eq(
	format($$SELECT r.outcome FROM iot_internal.adapter_result(
		ARRAY['pump', 'plug', 'lamp', 'lamp', 'nobody', NULL], ARRAY[%1$L, %1$L, %1$L, %1$L, %1$L, NULL]::uuid[],
		ARRAY[true, true, true, false, true, true], ARRAY[NULL, NULL, NULL, 'x', NULL, NULL]) r$$, :'a'),
	$$VALUES ('unknown'), ('unknown'), ('applied'), ('duplicate'), ('unknown'), ('unknown')$$,
	'a device answers for its own commands only, and the first answer counts');
SELECT is(story(:'a'), 'COMPLETED device:COMMITTED adapter:COMPLETED', 'the first it was');
SELECT is((SELECT count(*) FROM iot_internal.adapter_result('{}', '{}', '{}', NULL)), 0::bigint, 'no answers');
SELECT throws_ok($$SELECT * FROM iot_internal.adapter_result('{a,b}', ARRAY[gen_random_uuid()], '{t}')$$, '2202E',
	NULL, 'crooked arrays');
SELECT throws_ok($$SELECT * FROM iot_internal.adapter_result('{a}', NULL, '{t}')$$, '22004', NULL, 'no array');

-- the adapter gives up on what a sweep of deadlines has ended: nobody answered, and nothing is late (I6)
SELECT iot.send_command('lamp', 'level', 1, ttl => '10 ms') AS a \gset
SELECT pg_sleep_until(c.deadline) FROM iot.command c WHERE c.command_id = :'a' \g /dev/null
SELECT is(iot_internal.expire_commands(), 1, 'a sweep ends it');
SELECT is((SELECT r.outcome FROM iot_internal.adapter_result('{lamp}', ARRAY[:'a']::uuid[], '{NULL}', '{timed out}') r),
	'duplicate', 'an adapter that gives up afterwards tells nothing new');
SELECT is((SELECT c.late FROM iot.command c WHERE c.command_id = :'a'), false, 'I6: which is no late answer');
SELECT is((SELECT r.outcome FROM iot_internal.adapter_result('{lamp}', ARRAY[:'a']::uuid[], '{f}', '{no}') r),
	'late', 'the device''s own is');
SELECT is((SELECT c.late FROM iot.command c WHERE c.command_id = :'a'), true, 'and is recorded');

-- many at once
SELECT iot.create_device('m' || i, ARRAY['level'], adapter => 'two') FROM generate_series(1, 250) i \g /dev/null
SELECT iot.send_command('m' || i, 'level', i) FROM generate_series(1, 250) i \g /dev/null
CREATE TABLE many AS SELECT p.* FROM iot.adapter_poll('two', 1000) p WHERE starts_with(p.device, 'm');
SELECT is((SELECT count(*) FROM many), 250::bigint, 'a batch is handed out');
SELECT results_eq(
	$$SELECT r.outcome, count(*) FROM iot_internal.adapter_result(
		(SELECT array_agg(m.device ORDER BY m.value) FROM many m),
		(SELECT array_agg(m.command_id ORDER BY m.value) FROM many m),
		(SELECT array_agg(m.value > 100 ORDER BY m.value) FROM many m),
		(SELECT array_agg(CASE WHEN m.value <= 100 THEN 'no' END ORDER BY m.value) FROM many m)) r GROUP BY 1$$,
	$$VALUES ('applied', 250::bigint)$$, 'and answered in one call');
SELECT results_eq($$SELECT c.status, c.superseded, count(*) FROM iot.command c JOIN many m USING (command_id)
	GROUP BY 1, 2 ORDER BY 1$$, $$VALUES ('CANCELLED', false, 100::bigint), ('COMPLETED', false, 150)$$,
	'each its own way');
SELECT is((SELECT count(*) FROM iot.sensor_value v JOIN iot.device d USING (device_id)
	WHERE d.name ~ '^m[0-9]' AND v.value IS NULL), 100::bigint, 'with each value put back');

-- no answer: again after ack_timeout, up to max_attempts, then timed out
SELECT iot.send_command('mute', 'level', 1) AS a \gset
SELECT is((SELECT p.attempts FROM iot.adapter_poll('one', 10) p), 1, 'the first attempt');
SELECT elapse(:'a', '10 ms');
SELECT is((SELECT p.attempts FROM iot.adapter_poll('one', 10) p), 2, 'the second, when no answer came');
SELECT elapse(:'a', '10 ms');
SELECT is((SELECT count(*) FROM iot.adapter_poll('one', 10)), 0::bigint, 'there is no third');
SELECT is(story(:'a'), 'CANCELLED device:CANCELLED:timed out adapter:FAILED:timed out', 'I1: it has timed out');
SELECT is((SELECT c.attempts FROM iot.command c WHERE c.command_id = :'a'), 2, 'after two attempts');
SELECT is(current(:'mute'), NULL, 'and is rolled back');

-- I6: late
SELECT is(iot.adapter_sent(:'a'), 'late', 'I6: an answer after the end is late');
SELECT is(story(:'a'), 'CANCELLED device:CANCELLED:timed out adapter:FAILED:timed out late',
	'I6: recorded, never applied');
SELECT is(current(:'mute'), NULL, 'I6: nor its value');
SELECT is((types(:'a'))[5], 'adapter.value_set_late', 'I6: there is an event');
SELECT is(iot.adapter_error(:'a', 'no'), 'duplicate', 'I6: once');
SELECT is(cardinality(types(:'a')), 5, 'I6: and no other');

-- I1: deadlines
SELECT iot.send_command('pump', 'level', 60) AS a \gset
SELECT iot.send_command('pump', 'level', 61) AS b \gset
SELECT iot.send_command('pump', 'level', 62, ttl => '1 hour') AS c \gset
SELECT is(iot_internal.expire_commands(), 0, 'nothing is due');
SELECT outlive(:'a');
SELECT outlive(:'b');
SELECT is((SELECT count(*) FROM iot.adapter_poll('one', 10)), 0::bigint, 'what is past its deadline is not sent');
SELECT is(iot_internal.expire_commands(1), 1, 'deadlines are swept in portions');
SELECT is(iot_internal.expire_commands(), 1, 'to the last');
SELECT is(iot_internal.expire_commands(), 0, 'once');
SELECT is(story(:'a'), 'CANCELLED device:CANCELLED:timed out adapter:FAILED:timed out',
	'I1: never answered, rolled back');
SELECT is((SELECT v.value FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)
	WHERE v.device_id = :'pump' AND p.name = 'level'), 62::float8, 'a newer command stays');
SELECT is((SELECT p.command_id FROM iot.adapter_poll('one', 10) p), :'c'::uuid, 'and has its turn');
SELECT is(iot.adapter_error(:'c', 'no'), 'applied');
SELECT is((SELECT v.value FROM iot.sensor_value v JOIN iot.parameter p USING (parameter_id)
	WHERE v.device_id = :'pump' AND p.name = 'level'), 5.1::float8, 'what all three wrote over is back');
SELECT is(iot.adapter_error(:'b', 'no'), 'late', 'a late refusal');
SELECT is((SELECT e.payload->>'error' FROM iot.event e WHERE e.aggregateid = :'b'
	AND e.type = 'adapter.value_set_late'), 'no', 'says why');

-- attempts are counted only for what may still be sent
SELECT iot.send_command('pump', 'level', 70) AS a \gset
SELECT iot.send_command('pump', 'speed', 70) AS b \gset
SELECT is((SELECT count(*) FROM iot_internal.adapter_take(:'one', 10)), 2::bigint, 'taken up');
SELECT is((SELECT count(*) FROM iot_internal.adapter_take(:'one', 10)), 0::bigint, 'once');
SELECT is((SELECT array_agg(f.attempts) FROM iot_internal.adapter_in_flight(:'one') f), '{0,0}', 'not yet tried');
SELECT outlive(:'b');
SELECT is(ARRAY(SELECT t FROM iot_internal.adapter_attempt(ARRAY[:'pump', :'pump']::uuid[],
	ARRAY[:'a', :'b']::uuid[]) t), ARRAY[:'a']::uuid[], 'no attempt after the deadline');
SELECT is(iot_internal.expire_commands(), 1);
SELECT is((SELECT array_agg(f.command_id) FROM iot_internal.adapter_in_flight(:'one') f), ARRAY[:'a']::uuid[],
	'what has ended is not in flight');

-- a copy acts on nobody until it is resumed (decision 12), nor do functions on foreign tables
SELECT iot.send_command('mute', 'level', 1) AS b \gset
SELECT outlive(:'b');
UPDATE iot.epoch SET paused = true;
SELECT iot.send_command('mute', 'level', 2) AS c \gset
SELECT is(story(:'c'), 'COMMITTED device:COMMITTED', 'a paused copy takes commands');
SELECT is((SELECT count(*) FROM iot_internal.adapter_take(:'one', 10)), 0::bigint, 'but sends none');
SELECT is((SELECT count(*) FROM iot_internal.adapter_in_flight(:'one')), 0::bigint, 'repeats none');
SELECT is((SELECT count(*) FROM iot_internal.adapter_attempt(ARRAY[:'pump']::uuid[], ARRAY[:'a']::uuid[])),
	0::bigint, 'tries none');
SELECT is(iot_internal.expire_commands(), 0, 'and ends none');
UPDATE iot.epoch SET paused = false;
UPDATE iot.schema_version SET version = version + 1;
SELECT is((SELECT count(*) FROM iot_internal.adapter_take(:'one', 10)), 0::bigint, 'tables of another version');
UPDATE iot.schema_version SET version = version - 1;
SELECT is(iot_internal.expire_commands(), 1, 'resumed, deadlines hold');
SELECT is((SELECT array_agg(t.command_id) FROM iot_internal.adapter_take(:'one', 10) t), ARRAY[:'c']::uuid[],
	'and commands go');

-- a device that is switched off is sent nothing; its commands end by their deadline
SELECT is(iot.adapter_sent(:'c'), 'applied');
SELECT iot.send_command('mute', 'level', 3) AS a \gset
UPDATE iot.device SET enabled = false WHERE name = 'mute';
SELECT is((SELECT count(*) FROM iot_internal.adapter_take(:'one', 10)), 0::bigint, 'nothing for a disabled device');
UPDATE iot.device SET enabled = true WHERE name = 'mute';
SELECT outlive(:'a');
SELECT is(iot_internal.expire_commands(), 1, 'its command has ended');

-- an adapter whose cursor was lost reads what the log still has
DELETE FROM iot.consumer WHERE name = 'adapter:' || :'one';
SELECT iot.send_command('mute', 'level', 4) AS a \gset
SELECT is((SELECT array_agg(t.command_id) FROM iot_internal.adapter_take(:'one', 10) t), ARRAY[:'a']::uuid[],
	'each command is taken once, also from the start of the log');

-- events that name nobody's command pass
SELECT lives_ok($$INSERT INTO iot.event (aggregatetype, aggregateid, type, payload, device_id) VALUES
	('command', 'x', 'command.value_set', '{}', gen_random_uuid()),
	('command', gen_random_uuid()::text, 'command.value_set', '{}', gen_random_uuid()),
	('command', gen_random_uuid()::text, 'adapter.value_set_error', '[]', gen_random_uuid()),
	('command', gen_random_uuid()::text, 'adapter.value_set_error', '{}', NULL)$$, 'strange events');
INSERT INTO iot.event (aggregatetype, aggregateid, type, payload, device_id)
	SELECT 'command', c.command_id::text, x.type, '{}', c.device_id
	FROM iot.command c, (VALUES ('command.value_set'), ('adapter.value_set_error')) x(type)
	WHERE c.status NOT IN ('PROCESSING', 'COMMITTED');
DELETE FROM iot.event WHERE payload = '{}';

-- I2: only legal transitions; folding the log gives the stored state
CREATE TABLE folded AS
	SELECT c.command_id, c.status,
		array_agg(replace(e.type, 'value_set_', '') ORDER BY e.id) AS types
	FROM iot.command c JOIN iot.event e ON e.aggregateid = c.command_id::text
	GROUP BY c.command_id, c.status;
SELECT is_empty($$
	SELECT f.* FROM folded f
	WHERE f.status IS DISTINCT FROM CASE array_to_string(array_remove(f.types, 'adapter.late'), ' ')
		WHEN 'command.value_set dm.error' THEN 'FAILED'
		WHEN 'command.value_set dm.approved' THEN 'COMMITTED'
		WHEN 'command.value_set dm.approved adapter.sent' THEN 'COMPLETED'
		WHEN 'command.value_set dm.approved adapter.error dm.cancelled' THEN 'CANCELLED' END$$,
	'I2: each log folds to the stored status');
SELECT is_empty($$
	SELECT c.command_id FROM iot.command c
		LEFT JOIN iot.saga_step d ON d.command_id = c.command_id AND d.service = 'device'
		LEFT JOIN iot.saga_step a ON a.command_id = c.command_id AND a.service = 'adapter'
	WHERE (c.status, d.status, coalesce(a.status, 'none')) NOT IN (VALUES
		('FAILED', 'FAILED', 'none'), ('COMMITTED', 'COMMITTED', 'none'), ('COMMITTED', 'COMMITTED', 'PROCESSING'),
		('COMPLETED', 'COMMITTED', 'COMPLETED'), ('CANCELLED', 'CANCELLED', 'FAILED'))$$,
	'I2: the steps of each command agree with it');
SELECT is_empty($$SELECT c.command_id FROM iot.command c WHERE (c.finished_at IS NULL) <> (c.status = 'COMMITTED')$$,
	'I2: what is final has an end, and nothing else');

SELECT * FROM finish();
