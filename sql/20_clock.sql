-- What becomes of rows when the system's clock is set.

-- For the notifier, before it judges anything by the new time: set_by is how far the clock was set,
-- below zero where back, or zero at a start, when nobody knows.  Whether there is more than max_rows
-- of a kind.
--
-- Set forward, what is due by the new time is due: nothing reaches a device that was meant for
-- earlier.  But nobody's silence is told by a clock: each device has its full time again.
--
-- Set back, rows of before lie in the future.  A command keeps the time that it had left: its row is
-- moved by as much.  Next attempts are not put off longer than they ever are, and a device was last
-- heard now.  Each of these leaves nothing in the future, so that doing it again changes nothing.
CREATE OR REPLACE FUNCTION iot_internal.clock_was_set(set_by interval, max_rows integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $function$
DECLARE
	at timestamptz := clock_timestamp();
	back interval := greatest(-set_by, interval '0');
	changed integer;
	more boolean := false;
BEGIN
	UPDATE iot.worker w SET state_at = at
		WHERE w.adapter_id IS NOT NULL AND (set_by <> interval '0' OR w.state_at > at);
	UPDATE iot.maintenance m SET last_run_at = at WHERE m.last_run_at > at;
	UPDATE iot.dynsec s SET settled_at = at WHERE s.settled_at > at;

	-- by the clock itself: what was sent a moment ago is older than that, whatever was waited for
	WITH ahead AS MATERIALIZED (
		SELECT c.device_id, c.command_id,
				greatest(back, c.created_at - clock_timestamp()) AS moved
			FROM iot.command c
			WHERE c.finished_at IS NULL AND c.created_at > clock_timestamp()
			ORDER BY c.device_id, c.command_id LIMIT max_rows FOR NO KEY UPDATE),
	steps AS (
		UPDATE iot.saga_step s SET updated_at = s.updated_at - a.moved
			FROM ahead a
			WHERE s.device_id = a.device_id AND s.command_id = a.command_id
				AND s.service = 'adapter' AND s.updated_at > clock_timestamp())
	UPDATE iot.command c SET created_at = c.created_at - a.moved, deadline = c.deadline - a.moved
		FROM ahead a WHERE c.device_id = a.device_id AND c.command_id = a.command_id;
	GET DIAGNOSTICS changed = ROW_COUNT;
	more := more OR changed >= max_rows;

	-- ten minutes are the longest pause between two attempts
	UPDATE iot.delivery d SET next_attempt_at = greatest(at, d.not_before)
		FROM (SELECT q.seq, q.channel, q.recipient FROM iot.delivery q
			WHERE q.status = 'PENDING' AND q.next_attempt_at > at + interval '10 min'
				AND (q.not_before IS NULL OR q.next_attempt_at > q.not_before)
			ORDER BY q.seq, q.channel, q.recipient LIMIT max_rows FOR NO KEY UPDATE) p
		WHERE d.seq = p.seq AND d.channel = p.channel AND d.recipient = p.recipient;
	GET DIAGNOSTICS changed = ROW_COUNT;
	more := more OR changed >= max_rows;

	UPDATE iot.device_state s
		SET last_seen_at = at, silence_at = least(s.silence_at, at + p.offline_after)
		FROM (SELECT k.device_id, t.offline_after
			FROM iot.device_state k
				JOIN iot.device d ON d.device_id = k.device_id
				JOIN iot.device_type t ON t.device_type_id = d.device_type_id
			WHERE k.last_seen_at > clock_timestamp()
			ORDER BY k.device_id LIMIT max_rows FOR NO KEY UPDATE OF k) p
		WHERE s.device_id = p.device_id;
	GET DIAGNOSTICS changed = ROW_COUNT;
	RETURN more OR changed >= max_rows;
END
$function$;
