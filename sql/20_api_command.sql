-- Commands: sending, waiting, looking back; and the log that carries them.
--
-- enable_seqscan is off where plans are kept: a session that began with a small table must not go
-- on reading all of it when it has grown.

CREATE OR REPLACE FUNCTION iot.send_command(
	device text,
	parameter text,
	value double precision,
	action text DEFAULT 'set',
	expected double precision DEFAULT NULL,
	request_id uuid DEFAULT NULL,
	ttl interval DEFAULT NULL) RETURNS uuid
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
AS 'MODULE_PATHNAME', 'iot_send_command';
COMMENT ON FUNCTION iot.send_command(text, text, double precision, text, double precision, uuid, interval) IS
	'send a value to a device; returns the command, which is on its way when this is committed';

CREATE OR REPLACE FUNCTION iot.send_command(
	device text,
	parameter text,
	word text,
	action text DEFAULT 'set',
	expected double precision DEFAULT NULL,
	request_id uuid DEFAULT NULL,
	ttl interval DEFAULT NULL) RETURNS uuid
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
AS 'MODULE_PATHNAME', 'iot_send_command_word';
COMMENT ON FUNCTION iot.send_command(text, text, text, text, double precision, uuid, interval) IS
	'send one of the parameter''s words, or a number as text, to a device';

CREATE OR REPLACE FUNCTION iot.wait_for_command(
	command_id uuid,
	timeout interval DEFAULT '10 s') RETURNS text
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
AS 'MODULE_PATHNAME', 'iot_wait_for_command';
COMMENT ON FUNCTION iot.wait_for_command(uuid, interval) IS
	'wait until a committed command is final and return its status; raises 55P03 when the time is over';

-- Transitions are told by events; those whose event retention has dropped, and taking a command
-- up, which is no event, by the steps.
CREATE OR REPLACE FUNCTION iot.timeline(command_id uuid)
RETURNS TABLE (at timestamptz, service text, event text, status text, detail text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	command iot.command;
BEGIN
	SELECT c.* INTO command FROM iot.command c WHERE c.command_id = timeline.command_id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'command % does not exist', timeline.command_id
			USING ERRCODE = 'undefined_object',
				HINT = 'It may not be committed yet, or be older than iot.retention keeps.';
	END IF;
	IF NOT iot_internal.is_admin()
		AND NOT iot.may(iot_internal.current_username(), command.device_id, 'view') THEN
		RAISE EXCEPTION 'permission denied for command %', timeline.command_id
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Level "view" on the device''s group is granted in iot.access_grant.';
	END IF;
	RETURN QUERY
	WITH told AS (
		SELECT e.created_at, e.id, e.type, e.payload,
			CASE split_part(e.type, '.', 1)
				WHEN 'dm' THEN 'device'
				ELSE split_part(e.type, '.', 1)
			END AS service,
			CASE e.type
				WHEN 'command.value_set' THEN 'PROCESSING'
				WHEN 'dm.value_set_approved' THEN 'COMMITTED'
				WHEN 'dm.value_set_error' THEN 'FAILED'
				WHEN 'dm.value_set_cancelled' THEN 'CANCELLED'
				WHEN 'adapter.value_set_sent' THEN 'COMPLETED'
				WHEN 'adapter.value_set_error' THEN 'FAILED'
			END AS status
		FROM iot.event e
		WHERE e.aggregateid = command.command_id::text
			AND e.aggregatetype = 'command'
			AND e.created_at >= command.created_at - interval '1 hour'
	), stepped AS (
		SELECT s.service, s.created_at AS at,
			CASE s.service WHEN 'adapter' THEN 'PROCESSING' ELSE 'COMMITTED' END AS status,
			NULL::text AS error
		FROM iot.saga_step s
		WHERE s.device_id = command.device_id AND s.command_id = command.command_id
			AND (s.updated_at > s.created_at OR s.status = 'PROCESSING')
		UNION ALL
		SELECT s.service, s.updated_at, s.status, s.error
		FROM iot.saga_step s
		WHERE s.device_id = command.device_id AND s.command_id = command.command_id
			AND s.status <> 'PROCESSING'
		UNION ALL
		-- unless the sign of life has come, which is told by an event
		SELECT 'adapter', (SELECT max(e.created_at) FROM told e), 'WAITING',
			'for a sign of life of the device'
		WHERE command.status = 'COMMITTED' AND command.due_at IS NULL
			AND EXISTS (SELECT FROM iot.device d
					JOIN iot.device_type t ON t.device_type_id = d.device_type_id
				WHERE d.device_id = command.device_id AND t.send_when = 'awake')
			AND NOT EXISTS (SELECT FROM iot.saga_step s
				WHERE s.device_id = command.device_id AND s.command_id = command.command_id
					AND s.service = 'adapter')
	)
	SELECT coalesce(t.created_at, s.at),
		coalesce(t.service, s.service),
		t.type,
		coalesce(t.status, s.status),
		CASE t.type
			WHEN 'command.value_set' THEN concat_ws(' ', t.payload->>'action',
				t.payload->>'parameter', t.payload->>'value', t.payload->>'unit',
				'by', t.payload->>'username')
			WHEN 'dm.value_set_approved' THEN concat(coalesce(t.payload->>'previous_value', 'no value'),
				' becomes ', t.payload->>'target_value', ', version ', t.payload->>'version')
			WHEN 'dm.value_set_cancelled' THEN CASE
				WHEN (t.payload->>'superseded')::boolean THEN 'a newer value stays'
				ELSE concat(coalesce(t.payload->>'previous_value', 'no value'), ' put back') END
			WHEN 'adapter.value_set_sent' THEN 'confirmed'
			WHEN 'adapter.value_set_due' THEN 'the device is awake'
			ELSE coalesce(t.payload->>'error', s.error)
		END
	FROM told t
		FULL JOIN stepped s ON s.service = t.service AND s.status = t.status
	ORDER BY 1, coalesce(s.status, '') = 'WAITING', t.id NULLS FIRST;
END
$function$;
COMMENT ON FUNCTION iot.timeline(uuid) IS
	'what happened to a command, service by service';

-- Device Service, on the log (see src/device_service.c).
CREATE OR REPLACE FUNCTION iot_internal.device_service() RETURNS trigger
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_device_service';

CREATE OR REPLACE FUNCTION iot_internal.consumer_register(name text) RETURNS void
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_consumer_register';

-- A page is found by the index on xid or by that on id.  The planner cannot know how little is
-- new, and a plan per poll and per partition would cost more than the poll.
CREATE OR REPLACE FUNCTION iot_internal.consumer_read(
	consumer text,
	types text[] DEFAULT NULL,
	max_rows integer DEFAULT 1000)
RETURNS TABLE (id bigint, event_id uuid, type text, aggregatetype text, aggregateid text,
	device_id uuid, payload jsonb, created_at timestamptz)
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_consumer_read';
