-- Presence by silence: a device of a type with "offline_after" that says nothing for so long is
-- offline until it speaks.  See src/device_state.c for the other half.

-- Looks at those devices whose time has come, at most so many, and returns how many it told offline,
-- or -1 where there may be more to look at.
--
-- silence_at is a reminder and not the judgement: it stays where it is while messages come, and
-- moves on here.  What is judged is last_seen_at, under the row's lock, so that a message at the very
-- edge either was before and keeps the device online, or comes after.  Half a second is added, for
-- what its writer may have left unwritten: nobody is offline too early.
--
-- While our own adapter has no broker nobody is heard, which says nothing about devices; after it
-- has come back each has its full time again.
CREATE OR REPLACE FUNCTION iot_internal.sweep_silence(max_devices integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $function$
DECLARE
	at timestamptz := clock_timestamp();
	looked integer;
	told integer;
BEGIN
	-- the usual case, and no more than a look into an index
	IF NOT EXISTS (SELECT FROM iot.device_state s WHERE s.silence_at <= at) THEN
		RETURN 0;
	END IF;
	WITH listening AS MATERIALIZED (
		SELECT w.adapter_id, w.state_at AS since
		FROM iot_internal.worker_slots() o
			JOIN iot.worker w ON w.adapter_id = o.adapter_id AND w.pid = o.pid
		WHERE o.state = 'connected' AND w.state = 'connected'),
	locked AS MATERIALIZED (
		SELECT s.device_id, s.last_seen_at, s.online, s.online_at
		FROM iot.device_state s
		WHERE s.silence_at <= at ORDER BY s.silence_at LIMIT max_devices
		FOR NO KEY UPDATE SKIP LOCKED),
	due AS MATERIALIZED (
		SELECT k.device_id, d.name, k.last_seen_at, k.online IS DISTINCT FROM false AS was_online,
			CASE WHEN d.enabled THEN t.offline_after END AS offline_after,
			a.kind <> 'mqtt' OR l.adapter_id IS NOT NULL AS heard,
			greatest(coalesce(k.last_seen_at, k.online_at), l.since) + t.offline_after
				+ interval '500 ms' AS silent_at
		FROM locked k
			JOIN iot.device d ON d.device_id = k.device_id
			JOIN iot.device_type t ON t.device_type_id = d.device_type_id
			JOIN iot.adapter a ON a.adapter_id = d.adapter_id
			LEFT JOIN listening l ON l.adapter_id = d.adapter_id),
	written AS (
		UPDATE iot.device_state s SET
			silence_at = CASE
				WHEN u.offline_after IS NULL THEN NULL
				WHEN NOT u.heard THEN at + u.offline_after
				WHEN u.silent_at > at THEN u.silent_at END,
			silent = s.silent OR j.judged,
			online = CASE WHEN j.judged THEN false ELSE s.online END,
			online_at = CASE WHEN j.judged AND u.was_online THEN at ELSE s.online_at END
		FROM due u
			CROSS JOIN LATERAL (SELECT coalesce(u.offline_after IS NOT NULL AND u.heard
				AND u.silent_at <= at, false)) AS j (judged)
		WHERE s.device_id = u.device_id
		RETURNING u.device_id, u.name, u.last_seen_at, j.judged AND u.was_online AS fell_silent),
	events AS (
		INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
			SELECT iot_internal.uuidv7(), 'device', w.device_id::text, 'device.offline',
				jsonb_strip_nulls(jsonb_build_object('device', w.name, 'reason', 'silence',
					'last_seen_at', w.last_seen_at)), w.device_id
			FROM written w WHERE w.fell_silent
		RETURNING 1)
	SELECT (SELECT count(*) FROM written), (SELECT count(*) FROM events) INTO looked, told;
	RETURN CASE WHEN looked >= max_devices THEN -1 ELSE told END;
END
$function$;

-- A type or a device whose rule changes is looked at by the new one; a device that is silent already
-- stays so until it speaks.
CREATE OR REPLACE FUNCTION iot_internal.silence_rearm() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	UPDATE iot.device_state s
		SET silence_at = coalesce(s.last_seen_at, s.online_at) + t.offline_after
		FROM iot.device d JOIN iot.device_type t ON t.device_type_id = d.device_type_id
		WHERE s.device_id = d.device_id AND NOT s.silent
			AND CASE tg_table_name WHEN 'device' THEN d.device_id = (to_jsonb(NEW) ->> 'device_id')::uuid
				ELSE t.device_type_id = (to_jsonb(NEW) ->> 'device_type_id')::uuid END;
	RETURN NULL;
END
$function$;
