-- Presence: silence and the status topic, told apart and together; who sees iot.fleet.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

INSERT INTO iot.parameter (name) VALUES ('temperature');
INSERT INTO iot.adapter (name, kind) VALUES ('bus', 'modbus');
INSERT INTO iot.device_type (name, offline_after) VALUES ('chatty', '1 minute');
INSERT INTO iot.device_group (name) VALUES ('cellar');
SELECT iot.create_device('probe', '{temperature}', device_type => 'chatty', adapter => 'bus') AS probe \gset
SELECT iot.create_device('boiler', '{temperature}', device_type => 'chatty') AS boiler \gset
SELECT iot.create_device('plain', '{temperature}', device_group => 'cellar') AS plain \gset

CREATE TEMP TABLE mark AS SELECT coalesce(max(id), 0) AS id FROM iot.event;
-- what was told since this was last asked
CREATE FUNCTION told() RETURNS text LANGUAGE sql AS $$
	WITH new AS (SELECT e.id, e.type || ' ' || (e.payload ->> 'device') || ' ' || (e.payload ->> 'reason') AS what
		FROM iot.event e, mark WHERE e.id > mark.id AND e.aggregatetype = 'device'),
	moved AS (UPDATE mark SET id = (SELECT max(id) FROM new) WHERE EXISTS (SELECT FROM new))
	SELECT coalesce(string_agg(what, ', ' ORDER BY id), 'nothing') FROM new
$$;
-- as if all that a device has said were so much older; the change of the registry makes this session
-- forget when it last wrote that down
CREATE FUNCTION rewind(device uuid, age interval) RETURNS void LANGUAGE sql AS
	'UPDATE iot.device_state SET last_seen_at = last_seen_at - $2, silence_at = silence_at - $2
		WHERE device_id = $1;
	UPDATE iot.device SET description = ''rewound'' WHERE device_id = $1';
CREATE FUNCTION state(device uuid) RETURNS text LANGUAGE sql AS
	'SELECT concat_ws('' '', coalesce(online::text, ''unknown''), coalesce(connected::text, ''unknown''), silent::text,
		silence_at IS NOT NULL) FROM iot.device_state WHERE device_id = device';
CREATE FUNCTION say(topic text, payload text, retained boolean DEFAULT false) RETURNS jsonb LANGUAGE sql AS
	'SELECT iot_internal.ingest_messages(a.name, ARRAY[topic], ARRAY[payload::bytea], ARRAY[retained])
		FROM iot.device d JOIN iot.adapter a USING (adapter_id) WHERE d.name = split_part(topic, ''/'', 2)';

SELECT no_plan();

-- bounds
SELECT throws_ok($$UPDATE iot.device_type SET offline_after = '0.5 s' WHERE name = 'chatty'$$, '22023', NULL,
	'silence is a second at least');

-- silence and back
SELECT is((say('iot/probe/telemetry', '{"temperature":1}') ->> 'stored')::int, 1, 'a device speaks');
SELECT is(told(), 'device.online probe message', 'the first message says that it is there');
SELECT is(state(:'probe'), 'true unknown false t', 'online, without a word about its connection');
SELECT is((SELECT silence_at - last_seen_at FROM iot.device_state WHERE device_id = :'probe'), interval '1 minute',
	'and it will be looked at');
SELECT is(iot_internal.sweep_silence(10), 0, 'not yet');
SELECT rewind(:'probe', '59 s') IS NULL AS aged \gset
SELECT is(iot_internal.sweep_silence(10), 0, 'nor a second before its time');
SELECT is(told(), 'nothing', '... nothing is told');
SELECT rewind(:'probe', '2 s') IS NULL AS aged \gset
SELECT is(iot_internal.sweep_silence(10), 1, 'then it is silent');
SELECT is(told(), 'device.offline probe silence', 'which is told');
SELECT is(state(:'probe'), 'false unknown true f', 'silent and therefore offline; no more looked at');
SELECT is(iot_internal.sweep_silence(10), 0, 'it is told once');
SELECT is((say('iot/probe/telemetry', '{"temperature":2}') ->> 'stored')::int, 1, 'it speaks again');
SELECT is(told(), 'device.online probe message', 'and is back with the first message');
SELECT is(state(:'probe'), 'true unknown false t', 'looked at again');
SELECT is((say('iot/probe/telemetry', '{"temperature":3}') ->> 'stored')::int, 1, 'the next one');
SELECT is(told(), 'nothing', '... tells nothing new');
SELECT is((say('iot/probe/attributes', '{"fw":"1"}') ->> 'attributes')::int, 1, 'nor do attributes');
SELECT is(told(), 'nothing', '... of a device that is online');

-- a reminder is not the judgement
UPDATE iot.device_state SET silence_at = now() - interval '1 s' WHERE device_id = :'probe';
SELECT is(iot_internal.sweep_silence(10), 0, 'a reminder that has come finds a newer message');
SELECT ok((SELECT silence_at - last_seen_at BETWEEN interval '60 s' AND interval '61 s' FROM iot.device_state
	WHERE device_id = :'probe'), 'and moves on');

-- the status topic, with silence
SELECT is((say('iot/probe/status', 'online') ->> 'statuses')::int, 1, 'a status');
SELECT is(told(), 'nothing', 'says nothing new of a device that is online');
SELECT is((say('iot/probe/status', 'offline') ->> 'statuses')::int, 1, 'a last will');
SELECT is(told(), 'device.offline probe status', 'is told');
SELECT is(state(:'probe'), 'false false false t', 'disconnected, though not silent');
SELECT is((say('iot/probe/telemetry', '{"temperature":4}') ->> 'stored')::int, 1, 'a measurement that was under way');
SELECT is(told(), 'nothing', 'does not undo a last will');
SELECT rewind(:'probe', '2 minutes') IS NULL AS aged \gset
SELECT is(iot_internal.sweep_silence(10), 0, 'silence after it');
SELECT is(told(), 'nothing', 'is not told twice');
SELECT is(state(:'probe'), 'false false true f', 'both are known');
SELECT is((say('iot/probe/status', 'online', true) ->> 'statuses')::int, 1, 'the broker''s copy of a status');
SELECT is(told(), 'nothing', 'is no sign of life');
SELECT is(state(:'probe'), 'false true true f', 'connected, but silent');
SELECT is((say('iot/probe/status', 'online') ->> 'statuses')::int, 1, 'the device''s own');
SELECT is(told(), 'device.online probe message', 'is one');
SELECT is(state(:'probe'), 'true true false t', 'and all is well');

-- one batch of both
SELECT is((iot_internal.ingest_messages('bus', '{iot/probe/status,iot/probe/telemetry,iot/probe/status}',
	ARRAY['offline', '{"temperature":5}', 'online']::bytea[], '{f,f,f}') ->> 'statuses')::int, 2, 'a batch of both');
SELECT is(told(), 'device.offline probe status, device.online probe status', 'tells each change once');

-- nobody is heard while our adapter has no broker
SELECT is((say('iot/boiler/telemetry', '{"temperature":1}') ->> 'stored')::int, 1, 'a device behind a broker');
SELECT is(told(), 'device.online boiler message', 'is online');
SELECT rewind(:'boiler', '1 hour') IS NULL AS aged \gset
SELECT is(iot_internal.sweep_silence(10), 0, 'no adapter of ours listens');
SELECT is(told(), 'nothing', 'so silence says nothing');
SELECT ok((SELECT silence_at > now() + interval '50 s' FROM iot.device_state WHERE device_id = :'boiler'),
	'it is looked at later');

-- devices whose silence means nothing
SELECT is((say('iot/plain/telemetry', '{"temperature":1}') ->> 'stored')::int, 1, 'a type without the rule');
SELECT is(told() || ' ' || state(:'plain'), 'nothing unknown unknown false f', 'is told nothing of');
UPDATE iot.device SET adapter_id = (SELECT adapter_id FROM iot.adapter WHERE name = 'bus') WHERE name = 'plain';
SELECT rewind(:'plain', '1 hour') IS NULL AS aged \gset
UPDATE iot.device_type SET offline_after = '10 s' WHERE name = 'default';
SELECT is(iot_internal.sweep_silence(10), 1, 'until the rule comes');
SELECT is(told(), 'device.offline plain silence', 'then it is');
UPDATE iot.device_type SET offline_after = NULL WHERE name = 'default';
SELECT is((say('iot/plain/telemetry', '{"temperature":2}') ->> 'stored')::int, 1, 'where the rule has gone');
SELECT is(told() || ' ' || state(:'plain'), 'device.online plain message true unknown false f',
	'a device still comes back, once and for all');

-- a disabled device
UPDATE iot.device SET enabled = false WHERE name = 'probe';
SELECT rewind(:'probe', '2 minutes') IS NULL AS aged \gset
SELECT is(iot_internal.sweep_silence(10), 0, 'nobody waits for a disabled device');
SELECT is(told(), 'nothing', '... nothing is told');
UPDATE iot.device SET enabled = true WHERE name = 'probe';
SELECT is(iot_internal.sweep_silence(10), 1, 'until it is enabled');
SELECT is(told(), 'device.offline probe silence', '... and silent still');

-- many at once, a page at a time
INSERT INTO iot.device (name, device_group_id, device_type_id, adapter_id)
	SELECT 'm' || i, g.device_group_id, t.device_type_id, a.adapter_id
	FROM generate_series(1, 25) i, iot.device_group g, iot.device_type t, iot.adapter a
	WHERE g.name = 'default' AND t.name = 'chatty' AND a.name = 'bus';
INSERT INTO iot.device_state (device_id, online, last_seen_at, silence_at)
	SELECT device_id, true, now() - interval '1 hour', now() - interval '59 minutes' FROM iot.device WHERE name ~ '^m\d';
SELECT results_eq('SELECT iot_internal.sweep_silence(10) FROM generate_series(1, 3)', ARRAY[-1, -1, 5],
	'a sweep has a bound and says when there may be more');
SELECT ok(told() ~ '^(device.offline m\d+ silence,? ?){25}$', 'each is told once');
-- as it is planned where there are many devices; a page at a time is what the sweep reads
CREATE FUNCTION plan(query text) RETURNS text LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE line text; lines text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP lines := lines || line || E'\n'; END LOOP;
	RETURN lines;
END $$;
SELECT matches(plan('SELECT FROM iot.device_state s WHERE s.silence_at <= now() ORDER BY s.silence_at LIMIT 10'),
	'device_state_silence_at_idx', 'by an index');

-- iot.fleet
CREATE ROLE presence_anna;
GRANT iot_viewer TO presence_anna;
INSERT INTO iot.app_user (username) VALUES ('presence_anna');
INSERT INTO iot.user_group (name) VALUES ('cellar-people');
INSERT INTO iot.user_group_member (user_group_id, app_user_id) SELECT user_group_id, app_user_id
	FROM iot.user_group, iot.app_user WHERE name = 'cellar-people' AND username = 'presence_anna';
SET ROLE presence_anna;
SELECT is((SELECT count(*) FROM iot.fleet), 0::bigint, 'who may view nothing sees nothing');
RESET ROLE;
INSERT INTO iot.access_grant (user_group_id, device_group_id, level) SELECT user_group_id, device_group_id, 'view'
	FROM iot.user_group u, iot.device_group d WHERE u.name = 'cellar-people' AND d.name = 'cellar';
SET ROLE presence_anna;
SELECT results_eq('SELECT device, "group", type, adapter, enabled, online, connected, silent FROM iot.fleet',
	$$VALUES ('plain', 'cellar', 'default', NULL, true, true, NULL::boolean, false)$$,
	'others what they may view, adapters not among it');
CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
	$$BEGIN IF $1 <> 'plain' THEN RAISE 'leaked %', $1; END IF; RETURN true; END$$;
SELECT lives_ok('SELECT * FROM iot.fleet WHERE pg_temp.leak(device)', 'and a cheap condition of theirs no more');
SELECT throws_ok('UPDATE iot.fleet SET enabled = false', NULL, NULL, 'nobody writes through it');
RESET ROLE;
SELECT is((SELECT count(*) FROM iot.fleet), (SELECT count(*) FROM iot.device), 'administrators see all');
REVOKE iot_viewer FROM presence_anna;
DROP FUNCTION pg_temp.leak(text);
DROP OWNED BY presence_anna;
DROP ROLE presence_anna;

SELECT * FROM finish();
