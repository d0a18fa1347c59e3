-- Plans that were made when a table had one row, and are kept when it has grown: whoever looks up
-- commands or deliveries reads as few rows for each as before.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

INSERT INTO iot.parameter (name) VALUES ('level');
INSERT INTO iot.adapter (name, kind) VALUES ('one', 'test');
SELECT iot.create_device('pump-0', '{level}', adapter => 'one') \g /dev/null
SELECT iot.send_command('pump-0', 'level', 0) \g /dev/null
CREATE FUNCTION tell(first integer, last integer) RETURNS void LANGUAGE sql AS $$
	INSERT INTO iot.notification (seq, event_id, event, channel, audience, title, body, event_at)
		SELECT n, iot_internal.uuidv7(), 'told', c, 'viewers', '', '{}', now()
			FROM (SELECT n, (ARRAY['push', 'webhook'])[1 + n % 2] AS c FROM generate_series(first, last) n) s;
	INSERT INTO iot.delivery (seq, channel, recipient)
		SELECT n.seq, n.channel, 'hook' FROM iot.notification n WHERE n.seq BETWEEN first AND last
$$;
INSERT INTO iot.webhook (name, url) VALUES ('hook', 'http://127.0.0.1:1/');
SELECT tell(1, 1) \g /dev/null
ANALYZE iot.delivery, iot.notification, iot.device, iot.device_type, iot.parameter, iot.sensor, iot.sensor_value, iot.command, iot.saga_step;

-- a session's plans are made by its first commands: this one's by three, that end in each of the ways
\connect -
-- as the daemon has it
SET jit = off;
SET enable_seqscan = off;
SET client_min_messages = warning;
CREATE FUNCTION take() RETURNS bigint LANGUAGE sql AS $$
	WITH taken AS (
		SELECT coalesce(array_agg(t.device_id), '{}') AS devices, coalesce(array_agg(t.command_id), '{}') AS commands
			FROM iot.adapter a CROSS JOIN iot_internal.adapter_take(a.adapter_id, 100) t
			WHERE a.name = 'one')
	SELECT count(a.command_id) FROM taken t
		CROSS JOIN iot_internal.adapter_attempt(t.devices, t.commands) a
$$;
-- The outcome of each command, answered by itself: every third one by its device, the next refused, and
-- the third when it is too late.
CREATE TABLE sent (command_id uuid, device text, way bigint);
CREATE FUNCTION answer() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	command sent;
BEGIN
	FOR command IN SELECT * FROM sent LOOP
		IF command.way = 0 THEN
			UPDATE iot.command c SET deadline = c.created_at WHERE c.command_id = command.command_id;
			PERFORM iot_internal.expire_commands(10);
		END IF;
		RETURN QUERY SELECT r.outcome FROM iot_internal.adapter_result(ARRAY[command.device],
			ARRAY[command.command_id], ARRAY[command.way <> 2], ARRAY['no']) r;
	END LOOP;
	TRUNCATE sent;
END
$$;
-- Rows that this session has read of a table since it last told the statistics.
CREATE FUNCTION rows_read(name text) RETURNS bigint LANGUAGE sql AS $$
	SELECT coalesce(s.seq_tup_read, 0) + coalesce(s.idx_tup_fetch, 0) FROM pg_stat_xact_user_tables s
		WHERE s.schemaname = 'iot' AND s.relname = name
$$;

-- Every delivery of a webhook is sent, half of those by push are taken, and the others fall due again.
CREATE FUNCTION deliver(times integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	count bigint := 0;
BEGIN
	FOR n IN 1 .. times LOOP
		count := count + (SELECT count(r.status) FROM iot_internal.webhook_take('{}', '{}', 1, 1) t
			CROSS JOIN iot_internal.delivery_result(ARRAY[t.seq], '{webhook}', ARRAY[t.webhook], '{t}', '{f}',
				'{NULL}') r);
		count := count + iot_internal.push_delivered(ARRAY(SELECT d.seq FROM iot.delivery d
			WHERE d.status = 'PENDING' AND d.channel = 'push' ORDER BY d.next_attempt_at LIMIT 1), '{hook}');
		count := count + iot_internal.push_due(1);
	END LOOP;
	RETURN count;
END
$$;

SELECT no_plan();
SELECT iot.send_command('pump-0', 'level', n) FROM generate_series(1, 2) n \g /dev/null
SELECT is(take(), 3::bigint, 'three commands are taken up and tried');
INSERT INTO sent SELECT c.command_id, d.name, row_number() OVER (ORDER BY c.command_id) % 3
	FROM iot.command c JOIN iot.device d ON d.device_id = c.device_id WHERE c.status = 'COMMITTED';
SELECT results_eq('SELECT answer()', ARRAY['applied', 'applied', 'late'], 'and end in each of the ways');
SELECT iot_internal.adapter_in_flight(a.adapter_id) FROM iot.adapter a WHERE a.name = 'one' \g /dev/null

SELECT tell(2, 5) \g /dev/null
SELECT is(deliver(1), 3::bigint, 'a webhook is sent, a push is taken, another falls due');

-- the tables grow, and nobody tells the planner
SELECT iot.create_device('pump-' || n, '{level}', adapter => 'one') FROM generate_series(1, 300) n \g /dev/null
SELECT iot.send_command('pump-' || n, 'level', n) FROM generate_series(1, 300) n \g /dev/null

SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
SELECT is((SELECT sum(take()) FROM generate_series(1, 4)), 300::numeric, 'three hundred are taken up and tried');
SELECT cmp_ok(rows_read(t), '<', 300 * 12::bigint, format('with few rows of %s read for each', t))
	FROM unnest('{command,device,device_type,sensor,saga_step,parameter}'::text[]) t;
COMMIT;

SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
SELECT count(*) AS in_flight FROM iot.adapter a CROSS JOIN iot_internal.adapter_in_flight(a.adapter_id) \gset
SELECT is(:in_flight, 300, 'all are in flight');
SELECT cmp_ok(rows_read(t), '<', 300 * 12::bigint, format('with few rows of %s read for each', t))
	FROM unnest('{command,device,device_type,sensor,saga_step,parameter}'::text[]) t;
COMMIT;

INSERT INTO sent SELECT c.command_id, d.name, row_number() OVER (ORDER BY c.command_id) % 3
	FROM iot.command c JOIN iot.device d ON d.device_id = c.device_id WHERE c.status = 'COMMITTED';
SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
SELECT results_eq('SELECT outcome, count(*) FROM answer() AS a (outcome) GROUP BY 1 ORDER BY 1',
	$$VALUES ('applied', 200::bigint), ('late', 100)$$, 'and all end');
SELECT cmp_ok(rows_read(t), '<', 300 * 12::bigint, format('with few rows of %s read for each', t))
	FROM unnest('{command,device,sensor_value,saga_step,parameter}'::text[]) t;
COMMIT;

SELECT tell(1001, 1200) \g /dev/null
SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
SELECT is(deliver(50), 150::bigint, 'deliveries go out');
SELECT cmp_ok(rows_read(t), '<', 150 * 12::bigint, format('with few rows of %s read for each', t))
	FROM unnest('{delivery,notification}'::text[]) t;
COMMIT;

SELECT * FROM finish();
