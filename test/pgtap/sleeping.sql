-- Commands to devices that sleep: they wait for a sign of life, within their time.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

INSERT INTO iot.parameter (name) VALUES ('level'), ('speed');
INSERT INTO iot.adapter (name, kind) VALUES ('one', 'test');
INSERT INTO iot.device_type (name, send_when, ack_timeout, max_attempts) VALUES ('sleeper', 'awake', '10 ms', 1);
SELECT iot.create_device('probe', '{level,speed}', device_type => 'sleeper', adapter => 'one') AS probe \gset
SELECT iot.create_device('other', '{level}', device_type => 'sleeper', adapter => 'one') AS other \gset
SELECT iot.create_device('pump', '{level}', adapter => 'one') AS pump \gset

CREATE FUNCTION story(command uuid) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', c.status, (SELECT string_agg(concat_ws(':', s.service, s.status, s.error), ' '
			ORDER BY s.service DESC) FROM iot.saga_step s WHERE s.command_id = c.command_id))
	FROM iot.command c WHERE c.command_id = command
$$;
CREATE FUNCTION types(command uuid) RETURNS text[] LANGUAGE sql AS
	'SELECT array_agg(e.type ORDER BY e.id) FROM iot.event e WHERE e.aggregateid = command::text';
CREATE FUNCTION polled() RETURNS text LANGUAGE sql AS
	$$SELECT coalesce(string_agg(concat_ws(' ', p.device, p.parameter, p.value, p.attempts), ', '
			ORDER BY p.created_at, p.version), 'nothing')
		FROM iot.adapter_poll('one', 10) p$$;
CREATE FUNCTION say(topic text, payload text, retained boolean DEFAULT false) RETURNS void LANGUAGE sql AS
	'SELECT iot_internal.ingest_messages(''one'', ARRAY[topic], ARRAY[payload::bytea], ARRAY[retained])';
CREATE FUNCTION outlive(command uuid) RETURNS void LANGUAGE sql AS
	'UPDATE iot.command c SET deadline = c.created_at WHERE c.command_id = command';

SELECT no_plan();

SELECT throws_ok($$UPDATE iot.device_type SET send_when = 'later'$$, '22023', 'invalid send_when of device type "default": "later"',
	'a device type knows two ways');
SELECT is((SELECT DISTINCT t.send_when FROM iot.device_type t WHERE t.name <> 'sleeper'), 'now', 'the usual one');

-- waiting
SELECT iot.send_command('probe', 'level', 1) AS a \gset
SELECT iot.send_command('pump', 'level', 2) AS b \gset
SELECT iot.send_command('other', 'level', 3) AS c \gset
SELECT is(polled(), 'pump level 2 1', 'who sleeps is sent nothing, others are');
SELECT is(story(:'a'), 'COMMITTED device:COMMITTED', 'no adapter has taken it up');
SELECT results_eq(format('SELECT service, event, status, detail FROM iot.timeline(%L) OFFSET 1', :'a'),
	$$VALUES ('device', 'dm.value_set_approved', 'COMMITTED', 'no value becomes 1, version 1'),
		('adapter', NULL, 'WAITING', 'for a sign of life of the device')$$, 'it is told that it waits');
SELECT is((SELECT count(*) FROM iot.timeline(:'b') t WHERE t.status = 'WAITING'), 0::bigint, 'of others it is not');
SELECT iot.send_command('probe', 'level', 4) AS d \gset
SELECT iot.send_command('probe', 'speed', 5) AS e \gset
SELECT is(polled(), 'nothing', 'nor is it sent anything later');

-- what is no sign of life
SELECT say('iot/probe/status', 'offline');
SELECT say('iot/pump/telemetry', '{"level": 7}');
SELECT is(polled(), 'nothing', 'a last will is none, nor is what another device says');

-- a measurement is
SELECT iot.ingest('probe', '{"level": 8}');
SELECT is(polled(), 'probe level 1 1, probe speed 5 1', 'a measurement is: one command of each sensor');
SELECT is(types(:'a'), ARRAY['command.value_set', 'dm.value_set_approved', 'adapter.value_set_due'], 'which is in the log');
SELECT is((SELECT e.payload FROM iot.event e WHERE e.aggregateid = :'a' AND e.type = 'adapter.value_set_due'),
	jsonb_build_object('command_id', :'a', 'device', 'probe', 'parameter', 'level', 'version', 1), '... with what applies');
SELECT iot.ingest('probe', '{"level": 9}');
SELECT is((SELECT count(*) FROM iot.event e WHERE e.type = 'adapter.value_set_due'), 3::bigint, 'once for each command');
SELECT is(iot.adapter_sent(:'a'), 'applied', 'the device confirms');
SELECT is(story(:'a'), 'COMPLETED device:COMMITTED adapter:COMPLETED', 'and that is that');
SELECT results_eq(format('SELECT service, event, status, detail FROM iot.timeline(%L) OFFSET 2', :'a'),
	$$VALUES ('adapter', 'adapter.value_set_due', NULL, 'the device is awake'),
		('adapter', NULL, 'PROCESSING', NULL),
		('adapter', 'adapter.value_set_sent', 'COMPLETED', 'confirmed')$$, 'told in its order');
SELECT is(polled(), 'probe level 4 1', 'the sensor''s next has its turn');
SELECT iot.adapter_sent(:'d'), iot.adapter_sent(:'e') \gset ignored_
SELECT is(story(:'c'), 'COMMITTED device:COMMITTED', 'another device sleeps on');

-- so are attributes and its own "online"
SELECT say('iot/other/attributes', '{"battery": 80}');
SELECT is(polled(), 'other level 3 1', 'attributes are a sign of life');
SELECT iot.adapter_sent(:'c') \gset ignored_
SELECT iot.send_command('other', 'level', 6) AS f \gset
SELECT is(polled(), 'nothing', 'a command sent after it waits for the next');
SELECT say('iot/other/status', 'online');
SELECT is(polled(), 'other level 6 1', 'which may be that it is online');

-- the attempt counts from when it is sent, and its end is as usual
UPDATE iot.saga_step SET updated_at = updated_at - interval '10 ms' WHERE command_id = :'f' AND service = 'adapter';
SELECT is(polled(), 'nothing', 'who was awake and does not answer');
SELECT is(story(:'f'), 'CANCELLED device:CANCELLED:timed out adapter:FAILED:timed out', '... has not executed it');
SELECT iot.send_command('probe', 'level', 10) AS g \gset
SELECT polled() \gset ignored_
SELECT outlive(:'g');
SELECT iot.ingest('probe', '{"speed": 1}');
SELECT is(polled(), 'nothing', 'a command past its time is not sent any more');
SELECT is(iot_internal.expire_commands(10), 1, 'it ends');
SELECT is(story(:'g'), 'CANCELLED device:CANCELLED:timed out adapter:FAILED:timed out', 'as one that nobody answered');
SELECT is((SELECT c.attempts FROM iot.command c WHERE c.command_id = :'g'), 0, '... and that was never tried');

-- the rules change
SELECT iot.send_command('probe', 'level', 11) AS h \gset
SELECT iot.send_command('other', 'level', 12) AS i \gset
SELECT is(polled(), 'nothing', 'two that wait');
UPDATE iot.device SET device_type_id = (SELECT device_type_id FROM iot.device_type WHERE name = 'default')
	WHERE device_id = :'probe';
SELECT is(polled(), 'probe level 11 1', 'a device of another type need not be awake');
UPDATE iot.device_type SET send_when = 'now' WHERE name = 'sleeper';
SELECT is(polled(), 'other level 12 1', 'nor one whose type says so');
SELECT iot.send_command('other', 'level', 13) AS j \gset
SELECT iot.adapter_sent(:'i') \gset ignored_
SELECT is(polled(), 'other level 13 1', 'from then on they are sent at once');

SELECT * FROM finish();
