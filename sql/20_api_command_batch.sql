-- Commands for fleets: a batch of one ordinary command per device, made by the notifier at a rate.

-- Access is by device group, so one device of each group that the batch has speaks for all.
CREATE OR REPLACE FUNCTION iot_internal.may_command_batch(command_batch_id uuid, level text)
RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.is_admin() OR coalesce((
		SELECT bool_and(iot.may(iot_internal.current_username(), g.device_id, $2)) FROM (
			SELECT DISTINCT ON (d.device_group_id) d.device_id
			FROM iot.command_batch_item i JOIN iot.device d ON d.device_id = i.device_id
			WHERE i.command_batch_id = $1) g), false)
$function$;

-- The caller must have seen to it that the user may.
CREATE OR REPLACE FUNCTION iot_internal.send_command_as(
	username text, device text, parameter text, value double precision, request_id uuid,
	ttl interval) RETURNS uuid
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off
AS 'MODULE_PATHNAME', 'iot_send_command_as';

CREATE OR REPLACE FUNCTION iot.send_group_command(
	device_group text,
	parameter text,
	value double precision,
	rate integer DEFAULT 10,
	abort_ratio real DEFAULT NULL,
	ttl interval DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	author text := iot_internal.current_username();
	administered boolean := iot_internal.is_admin();
	group_id uuid := (SELECT g.device_group_id FROM iot.device_group g WHERE g.name = $1);
	wanted_parameter uuid := (SELECT p.parameter_id FROM iot.parameter p WHERE p.name = $2);
	some_device uuid;
	targets integer;
	made uuid := iot_internal.uuidv7();
BEGIN
	IF $1 IS NULL OR $2 IS NULL OR $3 IS NULL OR $4 IS NULL THEN
		RAISE EXCEPTION 'device_group, parameter, value and rate must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Only abort_ratio and ttl may be null.';
	END IF;
	IF $3 = ANY (ARRAY['NaN', 'Infinity', '-Infinity']::double precision[]) THEN
		RAISE EXCEPTION 'value is not a finite number'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'NaN and infinities cannot be sent to a device.';
	END IF;
	IF $4 NOT BETWEEN 1 AND 10000 THEN
		RAISE EXCEPTION 'rate is out of range'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is between 1 and 10000 commands a second.';
	END IF;
	IF NOT $5 BETWEEN 0 AND 1 OR $5 = 'NaN' THEN
		RAISE EXCEPTION 'abort_ratio is out of range'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is a share between 0 and 1, or NULL to go on whatever fails.';
	END IF;
	IF NOT $6 BETWEEN interval '10 ms' AND interval '31 days' THEN
		RAISE EXCEPTION 'time to live of a command is out of range'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It must lie between 10 ms and 31 days.';
	END IF;
	IF group_id IS NULL THEN
		RAISE EXCEPTION 'device group "%" does not exist', $1
			USING ERRCODE = 'undefined_object', HINT = 'Device groups are rows of iot.device_group.';
	END IF;
	IF wanted_parameter IS NULL THEN
		RAISE EXCEPTION 'parameter "%" does not exist', $2
			USING ERRCODE = 'undefined_object', HINT = 'Parameters are rows of iot.parameter.';
	END IF;
	some_device := (SELECT d.device_id FROM iot.device d
			JOIN iot.sensor s ON s.device_id = d.device_id AND s.parameter_id = wanted_parameter
		WHERE d.device_group_id = group_id AND d.enabled LIMIT 1);
	IF some_device IS NULL THEN
		RAISE EXCEPTION 'no enabled device of group "%" has parameter "%"', $1, $2
			USING ERRCODE = 'undefined_object',
				HINT = 'A row of iot.sensor gives a device a parameter.';
	END IF;
	-- access is by group: what goes for one device goes for all
	IF author IS NULL OR NOT administered AND NOT iot.may(author, some_device, 'operate') THEN
		RAISE EXCEPTION 'permission denied for device group "%"', $1
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = coalesce(format('User "%s" lacks level "operate" on it.', author),
					'The session names no user.'),
				HINT = 'Levels are granted in iot.access_grant, from user group to device group.';
	END IF;
	targets := (SELECT count(*) FROM iot.device d
			JOIN iot.sensor s ON s.device_id = d.device_id AND s.parameter_id = wanted_parameter
		WHERE d.device_group_id = group_id AND d.enabled);
	INSERT INTO iot.command_batch (command_batch_id, device_group, parameter, value, rate,
			abort_ratio, ttl, username, administered, total, rated_at)
		VALUES (made, $1, $2, $3, $4, $5, $6, author, administered, targets,
			clock_timestamp() - make_interval(secs => 1.0 / $4));
	INSERT INTO iot.command_batch_item (command_batch_id, device_id, position)
		SELECT made, d.device_id, row_number() OVER (ORDER BY d.name)
		FROM iot.device d
			JOIN iot.sensor s ON s.device_id = d.device_id AND s.parameter_id = wanted_parameter
		WHERE d.device_group_id = group_id AND d.enabled;
	GET DIAGNOSTICS targets = ROW_COUNT;
	UPDATE iot.command_batch b SET total = targets
		WHERE b.command_batch_id = made AND b.total <> targets;
	PERFORM iot_internal.audit_command_batch(made, 'inserted');
	RETURN made;
END
$function$;
COMMENT ON FUNCTION iot.send_group_command(text, text, double precision, integer, real, interval) IS
	'send a value to every enabled device of a group that has the parameter, so many a second; stops at a share of failures; returns the batch';

-- What people do about a batch, in the words of sql/20_audit.sql; what workers do is no such event.
CREATE OR REPLACE FUNCTION iot_internal.audit_command_batch(command_batch_id uuid, verb text)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload)
		SELECT iot_internal.uuidv7(), 'command_batch', $1::text, 'audit.command_batch_' || verb,
			jsonb_build_object('username', iot_internal.current_username(), 'new',
				jsonb_build_object('status', b.status, 'device_group', b.device_group,
					'parameter', b.parameter, 'value', b.value, 'total', b.total))
		FROM iot.command_batch b WHERE b.command_batch_id = $1
$function$;

-- Locks a batch that the caller may operate and gives its status.
CREATE OR REPLACE FUNCTION iot_internal.lock_command_batch(command_batch_id uuid) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	found_status text;
BEGIN
	SELECT b.status INTO found_status FROM iot.command_batch b
		WHERE b.command_batch_id = $1 FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'command batch % does not exist', $1
			USING ERRCODE = 'undefined_object',
				HINT = 'It may not be committed yet, or be older than iot.retention keeps.';
	END IF;
	IF NOT iot_internal.may_command_batch($1, 'operate') THEN
		RAISE EXCEPTION 'permission denied for command batch %', $1
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Level "operate" on the device group of each of its devices is needed.';
	END IF;
	RETURN found_status;
END
$function$;

-- Whoever stops a batch twice meant it once; what has ended cannot be stopped.
CREATE OR REPLACE FUNCTION iot_internal.set_command_batch(command_batch_id uuid, wanted text)
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	current text := iot_internal.lock_command_batch($1);
BEGIN
	IF current = wanted THEN
		RETURN current;
	END IF;
	IF current <> ALL (ARRAY['RUNNING', 'PAUSED']) THEN
		RAISE EXCEPTION 'command batch % has ended: it is %', $1, current
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Send another one with iot.send_group_command().';
	END IF;
	UPDATE iot.command_batch b SET status = wanted,
			rated_at = clock_timestamp() - make_interval(secs => 1.0 / b.rate)
		WHERE b.command_batch_id = $1;
	PERFORM iot_internal.audit_command_batch($1, 'updated');
	IF wanted = 'CANCELLED' THEN
		PERFORM iot_internal.drop_waiting($1, 'cancelled');
	END IF;
	RETURN wanted;
END
$function$;

-- What has not been sent never will be; what has been goes its way.
CREATE OR REPLACE FUNCTION iot_internal.drop_waiting(command_batch_id uuid, why text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	UPDATE iot.command_batch_item i SET status = 'CANCELLED'
		WHERE i.command_batch_id = $1 AND i.status = 'WAITING';
	PERFORM iot_internal.tell_command_batch($1, why);
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.tell_command_batch(command_batch_id uuid, what text)
RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload)
		SELECT iot_internal.uuidv7(), 'command_batch', $1::text, 'command_batch.' || $2,
			jsonb_build_object('command_batch_id', b.command_batch_id, 'device_group', b.device_group,
				'parameter', b.parameter, 'value', b.value, 'username', b.username, 'total', b.total,
				'ended', b.ended, 'failed', b.failed)
		FROM iot.command_batch b WHERE b.command_batch_id = $1
$function$;

CREATE OR REPLACE FUNCTION iot.pause_group_command(command_batch_id uuid) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.set_command_batch($1, 'PAUSED')
$function$;
COMMENT ON FUNCTION iot.pause_group_command(uuid) IS
	'send no further commands of a batch until it is resumed; returns its status';

CREATE OR REPLACE FUNCTION iot.resume_group_command(command_batch_id uuid) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.set_command_batch($1, 'RUNNING')
$function$;
COMMENT ON FUNCTION iot.resume_group_command(uuid) IS
	'go on with a batch that was paused; returns its status';

CREATE OR REPLACE FUNCTION iot.cancel_group_command(command_batch_id uuid) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.set_command_batch($1, 'CANCELLED')
$function$;
COMMENT ON FUNCTION iot.cancel_group_command(uuid) IS
	'send no further commands of a batch, for good; those on their way go on; returns its status';

-- Sends what a batch may send now, at most so many; returns how many devices it dealt with.
--
-- The request id of a command is that of batch and device, so that whatever becomes of us a device
-- gets one.  Rights are asked for again when a command is sent.  A name in a token may be spelt like
-- an administrator's role: that gives nobody its powers here.  A device whose last command is not
-- committed yet goes to the end of the queue, rather than have all others wait.
CREATE OR REPLACE FUNCTION iot_internal.send_batch(command_batch_id uuid, max_commands integer)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	batch iot.command_batch;
	item record;
	dealt integer := 0;
	lost integer := 0;
	blocked integer := 0;
	made uuid;
BEGIN
	SELECT b.* INTO batch FROM iot.command_batch b WHERE b.command_batch_id = $1;
	FOR item IN
		SELECT i.device_id FROM iot.command_batch_item i
		WHERE i.command_batch_id = batch.command_batch_id AND i.status = 'WAITING'
		ORDER BY i.position LIMIT max_commands LOOP
		dealt := dealt + 1;
		BEGIN
			IF NOT batch.administered AND (iot_internal.is_admin_user(batch.username)
				OR NOT iot.may(batch.username, item.device_id, 'operate')) THEN
				RAISE EXCEPTION 'user "%" may not operate the device', batch.username
					USING ERRCODE = 'insufficient_privilege';
			END IF;
			made := iot_internal.send_command_as(batch.username, item.device_id::text,
				batch.parameter, batch.value,
				md5(batch.command_batch_id::text || item.device_id::text)::uuid, batch.ttl);
			UPDATE iot.command_batch_item i
				SET status = 'SENT', command_id = made, sent_at = clock_timestamp()
				WHERE i.command_batch_id = batch.command_batch_id AND i.device_id = item.device_id;
		EXCEPTION
			WHEN lock_not_available THEN
				blocked := blocked + 1;
				UPDATE iot.command_batch_item i SET position = i.position + batch.total
					WHERE i.command_batch_id = batch.command_batch_id AND i.device_id = item.device_id;
			WHEN data_exception OR integrity_constraint_violation
				OR syntax_error_or_access_rule_violation OR object_not_in_prerequisite_state
				OR raise_exception THEN
				lost := lost + 1;
				UPDATE iot.command_batch_item i SET status = 'FAILED', error = sqlerrm
					WHERE i.command_batch_id = batch.command_batch_id AND i.device_id = item.device_id;
		END;
		-- other duties wait for us
		EXIT WHEN blocked >= 3;
	END LOOP;
	IF lost > 0 THEN
		UPDATE iot.command_batch b SET ended = b.ended + lost, failed = b.failed + lost
			WHERE b.command_batch_id = batch.command_batch_id;
	END IF;
	RETURN dealt;
END
$function$;

-- A turn of all batches that are not over: hears what became of their commands, gives up where too
-- many failed, sends what the rate allows, and closes what has nothing left to wait for.  Returns how
-- many devices it dealt with; at most so many, and then there may be more.
CREATE OR REPLACE FUNCTION iot_internal.roll_out(max_commands integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms' SET enable_seqscan = off SET jit = off AS $function$
DECLARE
	batch iot.command_batch;
	at timestamptz;
	allowed integer;
	sent integer;
	dealt integer := 0;
BEGIN
	FOR batch IN
		SELECT b.* FROM iot.command_batch b WHERE b.finished_at IS NULL
		ORDER BY b.command_batch_id FOR NO KEY UPDATE SKIP LOCKED LOOP
		WITH over AS (
			SELECT i.command_batch_id, i.device_id, c.status, CASE WHEN c.command_id IS NULL
				THEN 'the command is gone, with its device' ELSE c.error END AS error
			FROM iot.command_batch_item i
				-- by key for each, and below: plans are kept from when there were few
				LEFT JOIN LATERAL (
					SELECT k.command_id, k.status, k.error, k.finished_at FROM iot.command k
					WHERE k.device_id = i.device_id AND k.command_id = i.command_id
					OFFSET 0) AS c ON true
			WHERE i.command_batch_id = batch.command_batch_id AND i.status = 'SENT'
				AND (c.command_id IS NULL OR c.finished_at IS NOT NULL)),
		heard AS (
			UPDATE iot.command_batch_item i
				SET status = CASE o.status WHEN 'COMPLETED' THEN 'COMPLETED' ELSE 'FAILED' END,
					error = o.error
				FROM over o
				WHERE i.command_batch_id = ANY (ARRAY[o.command_batch_id])
					AND i.device_id = ANY (ARRAY[o.device_id])
				RETURNING i.status),
		counted AS (
			SELECT count(*) AS ended, count(*) FILTER (WHERE h.status = 'FAILED') AS failed
			FROM heard h)
		UPDATE iot.command_batch b SET ended = b.ended + n.ended, failed = b.failed + n.failed
			FROM counted n WHERE b.command_batch_id = batch.command_batch_id AND n.ended > 0
			RETURNING b.ended, b.failed INTO batch.ended, batch.failed;
		SELECT b.* INTO batch FROM iot.command_batch b
			WHERE b.command_batch_id = batch.command_batch_id;

		IF batch.status = 'RUNNING' AND NOT iot_internal.too_many_failed(batch.total, batch.ended,
				batch.failed, batch.abort_ratio) THEN
			at := clock_timestamp();
			-- time without a worker, or by a clock that was set, is not made good by a burst
			batch.rated_at := least(greatest(batch.rated_at, at - interval '1 s'), at);
			allowed := least(max_commands - dealt,
				floor(extract(epoch FROM at - batch.rated_at) * batch.rate + 0.000001));
			IF allowed > 0 THEN
				sent := iot_internal.send_batch(batch.command_batch_id, allowed);
				dealt := dealt + sent;
				batch.rated_at := batch.rated_at
					+ make_interval(secs => sent::double precision / batch.rate);
			END IF;
			UPDATE iot.command_batch b SET rated_at = batch.rated_at
				WHERE b.command_batch_id = batch.command_batch_id AND b.rated_at <> batch.rated_at;
			SELECT b.* INTO batch FROM iot.command_batch b
				WHERE b.command_batch_id = batch.command_batch_id;
		END IF;

		IF batch.status = ANY (ARRAY['RUNNING', 'PAUSED']) AND iot_internal.too_many_failed(batch.total, batch.ended,
				batch.failed, batch.abort_ratio)
			AND EXISTS (SELECT FROM iot.command_batch_item i
				WHERE i.command_batch_id = batch.command_batch_id AND i.status = 'WAITING') THEN
			batch.status := 'ABORTED';
			UPDATE iot.command_batch b SET status = 'ABORTED'
				WHERE b.command_batch_id = batch.command_batch_id;
			PERFORM iot_internal.drop_waiting(batch.command_batch_id, 'aborted');
		END IF;
		IF NOT EXISTS (SELECT FROM iot.command_batch_item i
				WHERE i.command_batch_id = batch.command_batch_id AND i.status = 'WAITING')
			AND NOT EXISTS (SELECT FROM iot.command_batch_item i
				WHERE i.command_batch_id = batch.command_batch_id AND i.status = 'SENT') THEN
			UPDATE iot.command_batch b SET finished_at = clock_timestamp(),
					status = CASE WHEN b.status = ANY (ARRAY['RUNNING', 'PAUSED'])
						THEN 'COMPLETED' ELSE b.status END
				WHERE b.command_batch_id = batch.command_batch_id;
			IF batch.status = ANY (ARRAY['RUNNING', 'PAUSED']) THEN
				PERFORM iot_internal.tell_command_batch(batch.command_batch_id, 'completed');
			END IF;
		END IF;
		EXIT WHEN dealt >= max_commands;
	END LOOP;
	RETURN dealt;
END
$function$;

-- The share is of the devices that have ended; as long as few have, as if ten had (or all of a
-- smaller batch), so that the first to fail does not stand for all.  Decimal, since three of ten are
-- not 0.3 otherwise.
CREATE OR REPLACE FUNCTION iot_internal.too_many_failed(
	total integer, ended integer, failed integer, abort_ratio real) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT coalesce(failed > 0 AND failed >= abort_ratio::numeric * greatest(ended, least(10, total)), false)
$function$;
