-- What adapters do to commands: the workers' own functions, and over them the contract for an
-- adapter in any language.
--
-- Workers live long and keep their plans, and begin when tables are small: a plan that reads a
-- whole table, or all commands of a device, would be kept while these grow.  So all of these look up
-- by whole keys, in subqueries that no statistics can turn round (src/plan.h); and
-- planning anew for the values at hand, which cannot change such a plan, cost a quarter of an
-- adapter's time.

CREATE OR REPLACE FUNCTION iot_internal.command_payload(
	template text, command_id uuid, device text, parameter text, value double precision,
	version bigint, labels jsonb, scale double precision, shift double precision) RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'iot_command_payload';

CREATE OR REPLACE FUNCTION iot_internal.adapter_take(adapter_id uuid, max_commands integer)
RETURNS TABLE (device_id uuid, command_id uuid, device text, parameter_id uuid, parameter text,
	value double precision, version bigint, attempts integer, created_at timestamptz,
	deadline timestamptz, ack_mode text, ack_timeout_ms integer, max_attempts integer, topic text,
	payload text)
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET enable_memoize = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_adapter_take';

-- Lets go of the commands that wait for a sign of life of these devices, and tells their adapters by
-- an event for each; how many.  A command that somebody holds is being ended.
CREATE OR REPLACE FUNCTION iot_internal.release_commands(device_ids uuid[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $function$
#variable_conflict use_column
DECLARE
	released integer;
BEGIN
	WITH waiting AS MATERIALIZED (
		SELECT c.device_id, c.command_id FROM iot.command c
			WHERE c.device_id = ANY (device_ids) AND c.finished_at IS NULL
				AND c.status = 'COMMITTED' AND c.due_at IS NULL
				AND c.deadline > clock_timestamp()
				AND NOT EXISTS (SELECT FROM iot.saga_step s
					WHERE s.device_id = c.device_id AND s.command_id = c.command_id
						AND s.service = 'adapter' OFFSET 0)
			FOR NO KEY UPDATE SKIP LOCKED
	), due AS (
		UPDATE iot.command c SET due_at = clock_timestamp()
			FROM waiting w
			WHERE c.device_id = ANY (ARRAY[w.device_id]) AND c.command_id = ANY (ARRAY[w.command_id])
			RETURNING c.device_id, c.command_id, c.parameter_id, c.version
	)
	INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
		SELECT iot_internal.uuidv7(), 'command', c.command_id::text, 'adapter.value_set_due',
				jsonb_build_object('command_id', c.command_id, 'device', d.name,
					'parameter', p.name, 'version', c.version), c.device_id
			FROM due c
				CROSS JOIN LATERAL (SELECT k.name FROM iot.device k
					WHERE k.device_id = c.device_id OFFSET 0) AS d
				CROSS JOIN LATERAL (SELECT k.name FROM iot.parameter k
					WHERE k.parameter_id = c.parameter_id OFFSET 0) AS p
			ORDER BY c.version, c.command_id;
	GET DIAGNOSTICS released = ROW_COUNT;
	RETURN released;
END
$function$;

-- What waited waits no longer by the rules of before.
CREATE OR REPLACE FUNCTION iot_internal.release_on_change() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF TG_ARGV[0] = 'device' THEN
		PERFORM iot_internal.release_commands(ARRAY[NEW.device_id]);
	ELSE
		PERFORM iot_internal.release_commands(ARRAY(SELECT d.device_id FROM iot.device d
			WHERE d.device_type_id = NEW.device_type_id));
	END IF;
	RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.adapter_in_flight(adapter_id uuid)
RETURNS TABLE (device_id uuid, command_id uuid, device text, parameter_id uuid, parameter text,
	value double precision, version bigint, attempts integer, created_at timestamptz,
	deadline timestamptz, ack_mode text, ack_timeout_ms integer, max_attempts integer, topic text,
	payload text)
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET enable_memoize = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_adapter_in_flight';

CREATE OR REPLACE FUNCTION iot_internal.adapter_attempt(device_ids uuid[], command_ids uuid[])
RETURNS TABLE (command_id uuid)
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET enable_memoize = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_adapter_attempt';

CREATE OR REPLACE FUNCTION iot_internal.adapter_result(
	devices text[], command_ids uuid[], oks boolean[], errors text[] DEFAULT NULL)
RETURNS TABLE (command_id uuid, outcome text)
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET enable_memoize = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_adapter_result';

CREATE OR REPLACE FUNCTION iot_internal.expire_commands(max_commands integer DEFAULT 1000)
RETURNS integer
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET enable_memoize = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_expire_commands';

-- An adapter has its place in the log from its first moment, so that what is sent before its
-- program first runs is not missed; and holds nothing back once it is gone.
CREATE OR REPLACE FUNCTION iot_internal.adapter_consumer() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF TG_OP = 'INSERT' THEN
		PERFORM iot_internal.consumer_register('adapter:' || NEW.adapter_id);
	ELSE
		DELETE FROM iot.consumer c WHERE c.name = 'adapter:' || OLD.adapter_id;
	END IF;
	RETURN NULL;
END
$function$;

-- Each command is handed out once, and again when ack_timeout of the device type has gone by
-- without an answer, up to max_attempts; then it has timed out.  Where the device type says that
-- commands are sent when the device is awake, that is not before its next sign of life.  One
-- unanswered command per sensor: the next is handed out when the one before it is final.
CREATE OR REPLACE FUNCTION iot.adapter_poll(adapter text, max_commands integer DEFAULT 100)
RETURNS TABLE (command_id uuid, device_id uuid, device text, parameter text, action text,
	value double precision, version bigint, attempts integer, created_at timestamptz,
	deadline timestamptz, payload text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_material = off SET enable_memoize = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $function$
#variable_conflict use_column
DECLARE
	wanted_id uuid;
	timed_out record;
	due record;
	sent uuid[];
BEGIN
	IF max_commands IS NULL OR max_commands < 1 THEN
		RAISE EXCEPTION 'number of commands must be positive'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Ask for as many commands as you can send at once.';
	END IF;
	-- one poll of an adapter at a time; the other waits for the end of this transaction
	SELECT a.adapter_id INTO wanted_id FROM iot.adapter a
		WHERE a.name = adapter_poll.adapter FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'adapter "%" does not exist', adapter_poll.adapter
			USING ERRCODE = 'undefined_object', HINT = 'Adapters are rows of iot.adapter.';
	END IF;
	PERFORM FROM iot_internal.adapter_take(wanted_id, greatest(max_commands, 100));

	SELECT array_agg(f.device) AS devices, array_agg(f.command_id) AS command_ids,
			array_agg(NULL::boolean) AS oks, array_agg('timed out'::text) AS errors
		INTO timed_out
		FROM iot_internal.adapter_in_flight(wanted_id) f
			CROSS JOIN LATERAL (SELECT k.updated_at FROM iot.saga_step k
				WHERE k.device_id = f.device_id AND k.command_id = f.command_id
					AND k.service = 'adapter' OFFSET 0) AS s
		WHERE f.attempts >= f.max_attempts
			AND s.updated_at + f.ack_timeout_ms * interval '1 ms' <= clock_timestamp();
	IF timed_out.devices IS NOT NULL THEN
		PERFORM FROM iot_internal.adapter_result(
			timed_out.devices, timed_out.command_ids, timed_out.oks, timed_out.errors);
	END IF;

	SELECT array_agg(f.device_id) AS device_ids, array_agg(f.command_id) AS command_ids
		INTO due
		FROM (
			SELECT f.device_id, f.command_id
			FROM iot_internal.adapter_in_flight(wanted_id) f
				CROSS JOIN LATERAL (SELECT k.updated_at FROM iot.saga_step k
					WHERE k.device_id = f.device_id AND k.command_id = f.command_id
						AND k.service = 'adapter' OFFSET 0) AS s
			WHERE (f.attempts = 0 OR f.attempts < f.max_attempts
					AND s.updated_at + f.ack_timeout_ms * interval '1 ms' <= clock_timestamp())
				AND f.deadline > clock_timestamp()
				AND NOT EXISTS (
					SELECT FROM iot.command c
					WHERE c.device_id = f.device_id AND c.parameter_id = f.parameter_id
						AND c.finished_at IS NULL AND c.status = 'COMMITTED'
						AND c.version < f.version OFFSET 0)
			ORDER BY f.created_at, f.version
			LIMIT max_commands) f;
	IF due.device_ids IS NULL THEN
		RETURN;
	END IF;
	UPDATE iot.saga_step s SET updated_at = clock_timestamp()
		FROM unnest(due.device_ids, due.command_ids) AS x(device_id, command_id)
		WHERE s.device_id = ANY (ARRAY[x.device_id]) AND s.command_id = ANY (ARRAY[x.command_id])
			AND s.service = 'adapter';
	sent := ARRAY(SELECT t.command_id
		FROM iot_internal.adapter_attempt(due.device_ids, due.command_ids) t);
	RETURN QUERY
	SELECT f.command_id, f.device_id, f.device, f.parameter, 'set'::text, f.value, f.version,
		f.attempts, f.created_at, f.deadline, f.payload
	FROM iot_internal.adapter_in_flight(wanted_id) f
	WHERE f.command_id = ANY (sent)
	ORDER BY f.created_at, f.version;
END
$function$;
COMMENT ON FUNCTION iot.adapter_poll(text, integer) IS
	'commands for a program that serves an adapter: send each, then answer adapter_sent or adapter_error';

CREATE OR REPLACE FUNCTION iot_internal.adapter_answer(command_id uuid, ok boolean, error text)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	device text;
BEGIN
	SELECT d.name INTO device
		FROM iot.command c JOIN iot.device d ON d.device_id = c.device_id
		WHERE c.command_id = adapter_answer.command_id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'command % does not exist', adapter_answer.command_id
			USING ERRCODE = 'undefined_object',
				HINT = 'Answer with an id that iot.adapter_poll() gave.';
	END IF;
	RETURN (SELECT r.outcome FROM iot_internal.adapter_result(
		ARRAY[device], ARRAY[adapter_answer.command_id], ARRAY[ok], ARRAY[error]) r);
END
$function$;

CREATE OR REPLACE FUNCTION iot.adapter_sent(command_id uuid) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.adapter_answer(adapter_sent.command_id, true, NULL)
$function$;
COMMENT ON FUNCTION iot.adapter_sent(uuid) IS
	'the device confirmed a command; returns applied, late or duplicate';

CREATE OR REPLACE FUNCTION iot.adapter_error(command_id uuid, error text) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.adapter_answer(adapter_error.command_id, false, adapter_error.error)
$function$;
COMMENT ON FUNCTION iot.adapter_error(uuid, text) IS
	'the device refused a command, which is rolled back; returns applied, late or duplicate';
