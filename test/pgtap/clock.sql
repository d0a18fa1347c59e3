-- What becomes of rows when the clock is set (I39).  A clock that was set back by an hour is played by
-- rows of an hour from now.
-- In a database of its own, without workers and without a transaction around all.
SET client_min_messages TO warning;
SELECT no_plan();

INSERT INTO iot.parameter (name) VALUES ('level');
INSERT INTO iot.device_type (name, offline_after) VALUES ('chatty', '5 min');
INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
SELECT iot.create_device(n, ARRAY['level'], device_type => 'chatty', adapter => 'own')
	FROM unnest(ARRAY['ahead', 'before', 'final', 'taken']) n \g /dev/null
SELECT iot.send_command(n, 'level', 1, ttl => '30 s') FROM unnest(ARRAY['final', 'taken']) n \g /dev/null
SELECT count(iot.adapter_sent(p.command_id)) FROM iot.adapter_poll('own', 10) p WHERE p.device = 'final' \g /dev/null
SELECT iot.send_command(n, 'level', 1, ttl => '30 s') FROM unnest(ARRAY['ahead', 'before']) n \g /dev/null

CREATE VIEW story AS
	SELECT d.name, c.created_at, c.deadline, s.updated_at
	FROM iot.command c JOIN iot.device d USING (device_id)
		LEFT JOIN iot.saga_step s ON s.device_id = c.device_id AND s.command_id = c.command_id AND s.service = 'adapter';
CREATE TABLE truth AS SELECT * FROM story;

CREATE PROCEDURE go_ahead() LANGUAGE sql AS $$
	UPDATE iot.command c SET created_at = c.created_at + interval '1 hour', deadline = c.deadline + interval '1 hour'
		FROM iot.device d WHERE d.device_id = c.device_id AND d.name <> 'before';
	UPDATE iot.saga_step s SET updated_at = s.updated_at + interval '1 hour'
		FROM iot.device d WHERE d.device_id = s.device_id AND d.name = 'taken';
$$;
CREATE FUNCTION moved(name text) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s %s %s', s.created_at - t.created_at, s.deadline - t.deadline, s.updated_at - t.updated_at)
	FROM story s JOIN truth t USING (name) WHERE s.name = $1
$$;

-- commands
CALL go_ahead();
SELECT is(iot_internal.clock_was_set('-1 hour', 1), true, 'a row at a time: there may be more');
SELECT is(iot_internal.clock_was_set('-1 hour', 1), true, 'and more');
SELECT is(iot_internal.clock_was_set('-1 hour', 10), false, 'until there is none');
SELECT is(moved('ahead'), '00:00:00 00:00:00 ', 'a command has its time back');
SELECT is(moved('taken'), '00:00:00 00:00:00 00:00:00', 'and so has one that is with its adapter');
SELECT is(moved('before'), '00:00:00 00:00:00 ', 'one of the new time stays');
SELECT is(moved('final'), '01:00:00 01:00:00 00:00:00', 'and so does what has ended');
CALL go_ahead();
SELECT is(iot_internal.clock_was_set('0', 10), false, 'at a start nobody knows by how much');
SELECT ok((SELECT bool_and(c.created_at <= clock_timestamp() AND c.deadline = c.created_at + interval '30 s')
	FROM iot.command c WHERE c.finished_at IS NULL), 'so a command has no more time than it was given');

-- deliveries
INSERT INTO iot.notification (event_id, event, channel, audience, title, body, event_at)
	VALUES (iot_internal.uuidv7(), 't', 'push', 'viewers', 't', '{}', now());
CREATE VIEW due AS SELECT d.recipient, date_trunc('minute', d.next_attempt_at - clock_timestamp() + interval '30 s') AS left
	FROM iot.delivery d;
INSERT INTO iot.delivery (seq, channel, recipient, status, attempts, next_attempt_at, not_before)
	SELECT n.seq, 'push', v.recipient, v.status, 1, now() + v.next, now() + v.quiet
	FROM iot.notification n, (VALUES ('later', 'PENDING', interval '1 hour', NULL::interval),
		('soon', 'PENDING', '9 min', NULL), ('quiet', 'PENDING', '2 hours', '2 hours'),
		('after', 'PENDING', '3 hours', '2 hours'), ('done', 'DELIVERED', '1 hour', NULL))
		AS v(recipient, status, next, quiet);
SELECT is(iot_internal.clock_was_set('-1 hour', 10), false, 'deliveries');
SELECT is((SELECT string_agg(d.recipient || ' ' || d.left, ', ' ORDER BY d.recipient) FROM due d),
	'after 02:00:00, done 01:00:00, later 00:00:00, quiet 02:00:00, soon 00:09:00',
	'none is put off for longer than attempts ever are, and none comes in somebody''s quiet hours');

-- devices
SELECT count(iot.ingest(n, '{"level": 1}')) FROM unnest(ARRAY['ahead', 'before']) n \g /dev/null
CREATE TABLE seen AS SELECT * FROM iot.device_state;
UPDATE iot.device_state s SET last_seen_at = s.last_seen_at + interval '1 hour', silence_at = s.silence_at + interval '1 hour'
	FROM iot.device d WHERE d.device_id = s.device_id AND d.name = 'ahead';
SELECT is(iot_internal.clock_was_set('-1 hour', 10), false, 'devices');
SELECT is((SELECT string_agg(d.name || ' ' || (s.last_seen_at > o.last_seen_at AND s.last_seen_at < clock_timestamp()
			AND s.silence_at = s.last_seen_at + interval '5 min'), ', ' ORDER BY d.name)
		FROM iot.device_state s JOIN seen o USING (device_id) JOIN iot.device d USING (device_id)),
	'ahead true, before false', 'one that was heard in the future was heard now, and has its full time');

-- workers
INSERT INTO iot.worker (name, kind, adapter_id, pid, state, started_at, state_at, heartbeat_at)
	SELECT 'adapter:own', 'mqtt adapter', a.adapter_id, 1, 'connected', now(), now() - interval '1 day', now()
	FROM iot.adapter a WHERE a.name = 'own';
SELECT is(iot_internal.clock_was_set('0', 10), false, 'a start');
SELECT ok((SELECT w.state_at < now() - interval '23 hours' FROM iot.worker w), 'begins nothing anew');
SELECT is(iot_internal.clock_was_set('1 hour', 10), false, 'set forward');
SELECT ok((SELECT w.state_at > now() - interval '1 min' FROM iot.worker w), 'an adapter listens from now on');
UPDATE iot.maintenance SET last_run_at = now() + interval '1 hour';
SELECT is(iot_internal.clock_was_set('-1 hour', 10), false, 'set back');
SELECT ok((SELECT m.last_run_at <= clock_timestamp() FROM iot.maintenance m), 'maintenance is not put off');

SELECT * FROM finish();
