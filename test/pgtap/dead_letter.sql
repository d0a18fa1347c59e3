-- What could not be used: counted, replayed once its cause is mended, discarded, capped.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

INSERT INTO iot.parameter (name) VALUES ('temperature'), ('humidity'), ('pressure');
SELECT iot.create_device('boiler', '{temperature}') AS boiler \gset

CREATE FUNCTION take(topic text, payload text, retained boolean DEFAULT false) RETURNS bigint
LANGUAGE sql AS $$
	SELECT iot_internal.ingest_messages('mqtt', ARRAY[topic], ARRAY[payload::bytea], ARRAY[retained]);
	SELECT max(dead_letter_id) FROM iot.dead_letter
$$;
CREATE FUNCTION letters() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM iot.dead_letter';
-- puts a letter's arrival into the past
CREATE FUNCTION age(letter bigint, age interval) RETURNS timestamptz LANGUAGE sql AS
	'UPDATE iot.dead_letter SET received_at = date_trunc(''second'', now()) - age
		WHERE dead_letter_id = letter RETURNING received_at';

SELECT no_plan();

-- replay: the cause is mended
SELECT take('iot/boiler/telemetry', '{"temperature":20,"humidity":40}') AS letter \gset
SELECT results_eq(format('SELECT reason, received_at > now() - interval ''1 minute'', retained
		FROM iot.dead_letter WHERE dead_letter_id = %s', :letter),
	$$VALUES ('unknown_parameter', true, false)$$, 'a letter knows how its message came');
SELECT is(iot.replay_dead_letter(:letter), 'unknown_parameter', 'what is not mended says so');
SELECT is(letters(), 1::bigint, 'and stays one letter');
SELECT results_eq('SELECT count(*) FROM iot.measurement', ARRAY[1::bigint],
	'what was stored of it when it came is stored once');
INSERT INTO iot.sensor (device_id, parameter_id)
	SELECT :'boiler', parameter_id FROM iot.parameter WHERE name = 'humidity';
SELECT is(iot.replay_dead_letter(:letter), NULL, 'what is mended is taken');
SELECT is(letters(), 0::bigint, 'and its letter is gone');
SELECT results_eq('SELECT p.name, m.value FROM iot.measurement m JOIN iot.parameter p USING (parameter_id)
	ORDER BY 1', $$VALUES ('humidity', 40::float8), ('temperature', 20)$$, 'both values are there, once');
SELECT is((SELECT count(DISTINCT ts) FROM iot.measurement), 1::bigint, 'at the time of arrival');
SELECT throws_ok(format('SELECT iot.replay_dead_letter(%s)', :letter), '42704',
	format('dead letter %s does not exist', :letter), 'it cannot be replayed twice');
SELECT throws_ok(format('SELECT iot.%s(NULL)', f), '22004', 'id of a dead letter must not be null',
	'no letter is none that was taken') FROM unnest(ARRAY['replay_dead_letter', 'discard_dead_letter']) AS f;

-- the reason is that of today
SELECT take('iot/pump/telemetry', '{"pressure":"high"}') AS letter \gset
SELECT is(iot.replay_dead_letter(:letter), 'unknown_device', 'a device that nobody made');
SELECT iot.create_device('pump', '{pressure}') AS pump \gset
SELECT is(iot.replay_dead_letter(:letter), 'wrong_type', 'the next reason comes to light');
SELECT results_eq('SELECT reason, error FROM iot.dead_letter',
	$$VALUES ('wrong_type', '"high" is neither a number nor a label of "pressure"')$$, 'and stands in the letter');
UPDATE iot.sensor SET labels = '{"low":0,"high":1}' WHERE device_id = :'pump';
SELECT is(iot.replay_dead_letter(:letter), NULL, 'until there is none');

-- what is newer stays
SELECT take('iot/valve/telemetry', '{"temperature":1}') AS telemetry \gset
SELECT take('iot/valve/status', 'offline') AS status \gset
SELECT take('iot/valve/attributes', '{"fw":"1","serial":"x"}') AS attributes \gset
SELECT age(:telemetry, '1 hour') AS at, age(:status, '1 hour') IS NOT NULL AS s,
	age(:attributes, '1 hour') IS NOT NULL AS a \gset
SELECT iot.create_device('valve', '{temperature}') AS valve \gset
SELECT is(iot_internal.ingest_messages('mqtt',
	'{iot/valve/telemetry,iot/valve/status,iot/valve/attributes}',
	ARRAY['{"temperature":2}', 'online', '{"fw":"2"}']::bytea[], '{f,f,f}') ->> 'stored', '1', 'a newer word');
SELECT last_seen_at AS seen FROM iot.device_state WHERE device_id = :'valve' \gset
CREATE TEMP TABLE mark AS SELECT max(id) AS id FROM iot.event;
SELECT results_eq('SELECT iot.replay_dead_letter(dead_letter_id) FROM iot.dead_letter',
	ARRAY[NULL, NULL, NULL]::text[], 'old letters are taken');
SELECT results_eq(format('SELECT value FROM iot.measurement WHERE device_id = %L AND ts = %L', :'valve', :'at'),
	ARRAY[1::float8], 'a value at its time');
SELECT results_eq(format('SELECT value FROM iot.sensor_value WHERE device_id = %L', :'valve'),
	ARRAY[2::float8], 'the current value stays');
SELECT results_eq(format('SELECT online, attributes, last_seen_at FROM iot.device_state WHERE device_id = %L',
	:'valve'), format('VALUES (true, %L::jsonb, %L::timestamptz)', '{"fw":"2","serial":"x"}', :'seen'),
	'so do status and newer attributes, and nobody was seen');
SELECT is((SELECT count(*) FROM iot.event e, mark WHERE e.id > mark.id), 0::bigint, 'nothing is told');

-- acknowledgements
SELECT take('iot/valve/command/ack', '{"id":"00000000-0000-7000-8000-000000000001","ok":true}') IS NULL AS none \gset
SELECT iot_internal.dead_letter_add('mqtt', 'valve', 'iot/valve/command/ack',
	'{"id":"00000000-0000-7000-8000-000000000001","ok":true}', 'unknown_command', NULL) AS letter \gset
SELECT is(iot.replay_dead_letter(:letter), 'unknown_command', 'an answer to nothing stays that');
SELECT iot.send_command('valve', 'temperature', 5) AS command \gset
SELECT iot_internal.adapter_take(adapter_id, 10) IS NOT NULL AS taken FROM iot.adapter WHERE name = 'mqtt' \gset
UPDATE iot.dead_letter SET payload = format('{"id":"%s","ok":true}', :'command')::bytea;
SELECT is(iot.replay_dead_letter(:letter), NULL, 'an answer to a command is heard');
SELECT is((SELECT status FROM iot.command WHERE command_id = :'command'), 'COMPLETED', 'and ends it');

-- the SQL door's conflicts
SELECT iot.ingest('valve', '{"temperature":7}', '2026-01-01') IS NULL AS none \gset
UPDATE iot.retention SET keep = '100 years' WHERE relation = 'measurement';
SELECT iot.ingest('valve', '{"temperature":7}', '2026-01-01') AS stored \gset
SELECT iot.ingest('valve', '{"temperature":8}', '2026-01-01') AS conflict \gset
SELECT dead_letter_id AS letter FROM iot.dead_letter \gset
SELECT is(iot.replay_dead_letter(:letter), 'conflict', 'a conflict stays one');
DELETE FROM iot.measurement WHERE device_id = :'valve' AND value = 7;
SELECT is(iot.replay_dead_letter(:letter), NULL, 'until the first value is gone');
SELECT results_eq(format('SELECT value FROM iot.measurement WHERE device_id = %L AND ts = %L', :'valve', '2026-01-01'),
	ARRAY[8::float8], 'then the second one is stored at its time');

-- what cannot be replayed
SELECT take('iot/valve/telemetry', repeat('x', 65537)) AS letter \gset
SELECT throws_ok(format('SELECT iot.replay_dead_letter(%s)', :letter), '55000',
	format('dead letter %s cannot be replayed: its payload was cut at "iot.max_payload_size"', :letter),
	'half a message is none');
SELECT iot_internal.dead_letter_add(NULL, 'valve', 'alarm.opened', '{}', 'notification_failed', 'x') AS event \gset
SELECT throws_ok(format('SELECT iot.replay_dead_letter(%s)', :event), '55000',
	format('dead letter %s cannot be replayed: it is no message', :event), 'an event is no message');
SELECT iot_internal.dead_letter_add('gone', 'valve', 'x', '{}', 'unknown_topic', 'x') AS gone \gset
SELECT throws_ok(format('SELECT iot.replay_dead_letter(%s)', :gone), '55000',
	format('dead letter %s cannot be replayed: its adapter does not exist any more', :gone), 'nor where its adapter is gone');
SELECT take('iot/valve/telemetry', '{"temperature":1}', true) AS retained \gset
SELECT is(iot.replay_dead_letter(:retained), 'retained', 'a retained message is no new one now either');

-- counts
SELECT results_eq('SELECT reason, adapter, count FROM iot.dead_letter_count ORDER BY 1',
	$$VALUES ('notification_failed', NULL, 1::bigint), ('retained', 'mqtt', 1), ('too_large', 'mqtt', 1),
		('unknown_topic', 'gone', 1)$$, 'counts by reason and adapter');

-- discard, and who may
SELECT lives_ok(format('SELECT iot.discard_dead_letter(%s)', :gone), 'a letter is discarded');
SELECT throws_ok(format('SELECT iot.discard_dead_letter(%s)', :gone), '42704',
	format('dead letter %s does not exist', :gone), 'once');
CREATE ROLE letter_reader;
GRANT iot_operator TO letter_reader;
GRANT EXECUTE ON FUNCTION iot.replay_dead_letter(bigint), iot.discard_dead_letter(bigint) TO letter_reader;
SET ROLE letter_reader;
SELECT throws_ok(format('SELECT iot.replay_dead_letter(%s)', :event), '42501', 'permission denied for dead letters',
	'replaying is for administrators, whatever was granted');
SELECT throws_ok(format('SELECT iot.discard_dead_letter(%s)', :event), '42501', 'permission denied for dead letters',
	'and so is discarding');
SELECT throws_ok('SELECT * FROM iot.dead_letter_count', '42501', NULL, 'and counting');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION iot.replay_dead_letter(bigint), iot.discard_dead_letter(bigint) FROM letter_reader;
DROP ROLE letter_reader;

-- the cap
DELETE FROM iot.dead_letter;
INSERT INTO iot.dead_letter (reason, error) SELECT 'empty', i FROM generate_series(1, 100) i;
SELECT throws_ok($$UPDATE iot.retention SET max_rows = 5 WHERE relation = 'command'$$, '22023', NULL,
	'only dead letters are limited by number');
SELECT throws_ok($$UPDATE iot.retention SET max_rows = -1 WHERE relation = 'dead_letter'$$, '22023', NULL,
	'a limit is no negative number');
UPDATE iot.retention SET max_rows = 100 WHERE relation = 'dead_letter';
SELECT is(iot_internal.trim_dead_letters(5), false, 'as many as may be stay');
UPDATE iot.retention SET max_rows = 90 WHERE relation = 'dead_letter';
DELETE FROM iot.dead_letter WHERE error::int BETWEEN 50 AND 53;
SELECT is(iot_internal.trim_dead_letters(5), true, 'those beyond go a batch at a time');
SELECT is(iot_internal.trim_dead_letters(5), false, 'down to the limit');
SELECT results_eq('SELECT count(*), min(error::int), max(error::int) FROM iot.dead_letter', 'VALUES (90::bigint, 7, 100)',
	'the oldest go, and gaps are no letters');
UPDATE iot.retention SET max_rows = 0 WHERE relation = 'dead_letter';
DO 'BEGIN WHILE iot_internal.maintain_step() LOOP END LOOP; END';
SELECT is(letters(), 0::bigint, 'maintenance does it, too, and none may stay');
INSERT INTO iot.dead_letter (reason) VALUES ('empty');
UPDATE iot.retention SET max_rows = NULL WHERE relation = 'dead_letter';
SELECT is(iot_internal.trim_dead_letters(5), false, 'without a limit all stay');
SELECT is(letters(), 1::bigint, 'until retention takes them');

SELECT * FROM finish();
