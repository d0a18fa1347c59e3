-- Rollups: measurements by the minute and by the hour, right for late data.
--
-- Whoever writes measurements notes in the same transaction which minutes of which sensors they fall
-- into (iot.rollup_note).  A step takes notes in, so that each minute is pending once however many
-- notes speak of it (iot.rollup_pending), and makes those minutes anew that are over: from the
-- measurements themselves, so that late ones and repetitions come out right.  Hours are made of
-- minutes in the same way.  Notes are taken when nothing is left to be made, so that a minute which is
-- written again and again is made once in a round, and none waits behind it.  What a reader's snapshot shows as noted or pending is not to be trusted
-- yet; everything else equals the measurements.

CREATE OR REPLACE FUNCTION iot_internal.mean_transition(internal, double precision, bigint)
RETURNS internal LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_mean_transition_sql';
CREATE OR REPLACE FUNCTION iot_internal.mean_final(internal)
RETURNS double precision LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_mean_final_sql';
CREATE OR REPLACE AGGREGATE iot_internal.mean(value double precision, weight bigint) (
	SFUNC = iot_internal.mean_transition, STYPE = internal,
	FINALFUNC = iot_internal.mean_final, PARALLEL = SAFE);
COMMENT ON AGGREGATE iot_internal.mean(double precision, bigint) IS
	'weighted mean, for which no finite values are too large';

CREATE OR REPLACE FUNCTION iot_internal.last_transition(internal, double precision, timestamptz)
RETURNS internal LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_last_transition_sql';
CREATE OR REPLACE FUNCTION iot_internal.last_final(internal)
RETURNS double precision LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_last_final_sql';
CREATE OR REPLACE AGGREGATE iot_internal.last(value double precision, ts timestamptz) (
	SFUNC = iot_internal.last_transition, STYPE = internal,
	FINALFUNC = iot_internal.last_final, PARALLEL = SAFE);
COMMENT ON AGGREGATE iot_internal.last(double precision, timestamptz) IS 'the value of the latest time';

-- Minutes that are over are made of measurements, at most max of them; returns how many there were.
-- Since measurements are only added, one that was made of as many rows stays; where there were more,
-- retention has taken them.
--
-- The bounds of time come as parameters of a statement that is planned for them, so that partitions
-- without any of the minutes are passed over.
CREATE OR REPLACE FUNCTION iot_internal.rollup_minutes(max integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
	device_ids uuid[];
	parameter_ids uuid[];
	starts timestamptz[];
	first timestamptz;
	last timestamptz;
BEGIN
	SELECT array_agg(d.device_id), array_agg(d.parameter_id), array_agg(d.ts), min(d.ts), max(d.ts)
		INTO device_ids, parameter_ids, starts, first, last
		FROM (SELECT p.device_id, p.parameter_id, p.ts FROM iot.rollup_pending p
			WHERE p.width = 'minute' AND p.due_at <= now()
			ORDER BY p.due_at LIMIT rollup_minutes.max) d;
	IF starts IS NULL THEN
		RETURN 0;
	END IF;
	EXECUTE $sql$
		INSERT INTO iot.rollup_minute AS r (device_id, parameter_id, ts, count, min, max, avg,
				last_value, last_at)
			SELECT d.device_id, d.parameter_id, d.ts, m.count, m.min, m.max, m.avg, m.last_value,
				m.last_at
			FROM unnest($1, $2, $3) AS d (device_id, parameter_id, ts) CROSS JOIN LATERAL (
				SELECT count(*), min(v.value), max(v.value), iot_internal.mean(v.value, 1) AS avg,
					iot_internal.last(v.value, v.ts) AS last_value, max(v.ts) AS last_at
				FROM iot.measurement v
				WHERE v.device_id = d.device_id AND v.parameter_id = d.parameter_id
					AND v.ts >= d.ts AND v.ts < d.ts + interval '1 minute'
					AND v.ts >= $4 AND v.ts < $5) m
			WHERE m.count > 0
			ORDER BY d.device_id, d.parameter_id, d.ts
			ON CONFLICT (device_id, parameter_id, ts) DO UPDATE SET
				count = excluded.count, min = excluded.min, max = excluded.max, avg = excluded.avg,
				last_value = excluded.last_value, last_at = excluded.last_at
				WHERE r.count < excluded.count$sql$
		USING device_ids, parameter_ids, starts, first, last + interval '1 minute';
	DELETE FROM iot.rollup_pending p
		USING unnest(device_ids, parameter_ids, starts) AS d (device_id, parameter_id, ts)
		WHERE p.device_id = d.device_id AND p.parameter_id = d.parameter_id
			AND p.width = 'minute' AND p.ts = d.ts;
	INSERT INTO iot.rollup_pending (device_id, parameter_id, width, ts, due_at)
		SELECT d.device_id, d.parameter_id, 'hour', d.ts, d.ts + interval '1 hour'
		FROM (SELECT DISTINCT u.device_id, u.parameter_id,
				date_bin('1 hour', u.ts, timestamptz '2000-01-01 00:00+00') AS ts
			FROM unnest(device_ids, parameter_ids, starts) AS u (device_id, parameter_id, ts)) d
		ON CONFLICT DO NOTHING;
	RETURN cardinality(starts);
END
$function$;

-- The same for hours, which are made of minutes.
CREATE OR REPLACE FUNCTION iot_internal.rollup_hours(max integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
	device_ids uuid[];
	parameter_ids uuid[];
	starts timestamptz[];
	first timestamptz;
	last timestamptz;
BEGIN
	SELECT array_agg(d.device_id), array_agg(d.parameter_id), array_agg(d.ts), min(d.ts), max(d.ts)
		INTO device_ids, parameter_ids, starts, first, last
		FROM (SELECT p.device_id, p.parameter_id, p.ts FROM iot.rollup_pending p
			WHERE p.width = 'hour' AND p.due_at <= now()
			ORDER BY p.due_at LIMIT rollup_hours.max) d;
	IF starts IS NULL THEN
		RETURN 0;
	END IF;
	EXECUTE $sql$
		INSERT INTO iot.rollup_hour AS r (device_id, parameter_id, ts, count, min, max, avg,
				last_value, last_at)
			SELECT d.device_id, d.parameter_id, d.ts, m.count, m.min, m.max, m.avg, m.last_value,
				m.last_at
			FROM unnest($1, $2, $3) AS d (device_id, parameter_id, ts) CROSS JOIN LATERAL (
				SELECT sum(v.count)::bigint AS count, min(v.min), max(v.max),
					iot_internal.mean(v.avg, v.count) AS avg,
					iot_internal.last(v.last_value, v.last_at) AS last_value, max(v.last_at) AS last_at
				FROM iot.rollup_minute v
				WHERE v.device_id = d.device_id AND v.parameter_id = d.parameter_id
					AND v.ts >= d.ts AND v.ts < d.ts + interval '1 hour'
					AND v.ts >= $4 AND v.ts < $5) m
			WHERE m.count > 0
			ORDER BY d.device_id, d.parameter_id, d.ts
			ON CONFLICT (device_id, parameter_id, ts) DO UPDATE SET
				count = excluded.count, min = excluded.min, max = excluded.max, avg = excluded.avg,
				last_value = excluded.last_value, last_at = excluded.last_at
				WHERE r.count < excluded.count$sql$
		USING device_ids, parameter_ids, starts, first, last + interval '1 hour';
	DELETE FROM iot.rollup_pending p
		USING unnest(device_ids, parameter_ids, starts) AS d (device_id, parameter_id, ts)
		WHERE p.device_id = d.device_id AND p.parameter_id = d.parameter_id
			AND p.width = 'hour' AND p.ts = d.ts;
	RETURN cardinality(starts);
END
$function$;

-- Notes of about max minutes become pending ones; returns how many minutes there were.
CREATE OR REPLACE FUNCTION iot_internal.rollup_take_notes(max integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
	minutes integer;
BEGIN
	WITH taken AS MATERIALIZED (
		DELETE FROM iot.rollup_note n
			WHERE n.ctid = ANY (ARRAY(
				SELECT s.ctid FROM (
					SELECT o.ctid, sum(o.total) OVER (ROWS UNBOUNDED PRECEDING) - o.total AS before
					FROM (SELECT r.ctid, r.total FROM iot.rollup_note r
						LIMIT rollup_take_notes.max) o) s
				WHERE s.before < rollup_take_notes.max))
			RETURNING n.total, n.device_ids, n.parameter_ids, n.starts, n.lengths),
	pending AS (
		INSERT INTO iot.rollup_pending (device_id, parameter_id, width, ts, due_at)
			SELECT DISTINCT u.device_id, u.parameter_id, 'minute', m.ts, m.ts + interval '1 minute'
			FROM taken t, unnest(t.device_ids, t.parameter_ids, t.starts, t.lengths)
				AS u (device_id, parameter_id, start, length),
				generate_series(u.start, u.start + (u.length - 1) * interval '1 minute',
					interval '1 minute') AS m (ts)
			ON CONFLICT DO NOTHING)
	SELECT coalesce(sum(t.total), 0) INTO minutes FROM taken t;
	RETURN minutes;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.rollup_is_due(width text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN EXISTS (SELECT FROM iot.rollup_pending p
		WHERE p.width = rollup_is_due.width AND p.due_at <= now());
END
$function$;

-- One step, a transaction of about a tenth of a second; true where another should follow at once, until
-- the round is over.  One session at a time, since whoever had the older snapshot could otherwise write
-- last; who comes second leaves it to the first.  Waits for no writer of measurements, and lets none wait.
CREATE OR REPLACE FUNCTION iot_internal.rollup_step(max integer DEFAULT 1000) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
	-- a minute costs less to take than to make anew
	most_noted integer := rollup_step.max * 6;
	left_over boolean;
BEGIN
	PERFORM FROM iot.rollup_state FOR UPDATE SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	-- a transaction whose snapshot is older than the step before fails here
	UPDATE iot.rollup_state s SET stepped_at = clock_timestamp() RETURNING s.more_notes INTO left_over;
	IF NOT iot_internal.rollup_is_due('minute') AND NOT iot_internal.rollup_is_due('hour') THEN
		left_over := iot_internal.rollup_take_notes(most_noted) >= most_noted;
		UPDATE iot.rollup_state s SET more_notes = left_over WHERE s.more_notes <> left_over;
	END IF;
	PERFORM iot_internal.rollup_minutes(rollup_step.max);
	IF iot_internal.rollup_is_due('minute') THEN
		RETURN true;
	END IF;
	-- each hour once, when the round has made its minutes
	PERFORM iot_internal.rollup_hours(rollup_step.max);
	RETURN left_over OR iot_internal.rollup_is_due('hour');
END
$function$;
COMMENT ON FUNCTION iot_internal.rollup_step(integer) IS
	'roll up measurements by the minute and the hour, a bounded part of what is pending; true where there is more';

-- Before retention takes rollups: from now on readers do without those that are too old to keep.
-- False where somebody is rolling up just now; then they stay for this time.
CREATE OR REPLACE FUNCTION iot_internal.rollup_raise_floor() RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM FROM iot.rollup_state FOR UPDATE SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	UPDATE iot.rollup_state s SET
		minute_floor = greatest(s.minute_floor, now() - (SELECT r.keep FROM iot.retention r
			WHERE r.relation = 'rollup_minute')),
		hour_floor = greatest(s.hour_floor, now() - (SELECT r.keep FROM iot.retention r
			WHERE r.relation = 'rollup_hour'));
	RETURN true;
END
$function$;
