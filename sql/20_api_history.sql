-- What devices said: the values of a sensor over time, as they came or by buckets.

-- Raises where the arguments of iot.history() are of no use.
CREATE OR REPLACE FUNCTION iot_internal.check_history(
	since timestamptz, until timestamptz, bucket interval) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF since IS NULL OR until IS NULL THEN
		RAISE EXCEPTION 'since and until must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Values from since on are returned, up to until, which is now where it is not given.';
	END IF;
	IF NOT isfinite(since) OR NOT isfinite(until) THEN
		RAISE EXCEPTION 'since and until must be finite'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The oldest measurements are as old as iot.retention says.';
	END IF;
	IF since > until THEN
		RAISE EXCEPTION 'since must not be later than until'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Values from since on are returned, up to until, which is now where it is not given.';
	END IF;
	IF extract(month FROM bucket) <> 0 OR extract(year FROM bucket) <> 0
		OR bucket <= interval '0' OR abs(extract(epoch FROM bucket)) > 3e11 THEN
		RAISE EXCEPTION 'invalid bucket: %', bucket
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A bucket is longer than nothing and has no months or years: "5 minutes", "1 day". Without one, values come as they are.';
	END IF;
END
$function$;

-- Parts of [since, until) by where the buckets of a sensor can be made from: hours, minutes, and
-- for what remains the measurements themselves.  Those are
--   * the edges, where the range begins or ends within a minute or an hour;
--   * the last minutes, and whatever measurements of this snapshot are not rolled up yet;
--   * what retention has removed of the rollups, or may have;
--   * minutes and hours in which a bucket ends.
CREATE OR REPLACE FUNCTION iot_internal.history_parts(
	device_id uuid, parameter_id uuid, since timestamptz, until timestamptz, bucket interval,
	OUT hours tstzmultirange, OUT minutes tstzmultirange, OUT rows tstzmultirange)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	origin constant timestamptz := '2000-01-01 00:00+00';
	minute constant interval := interval '1 minute';
	hour constant interval := interval '1 hour';
	width numeric := extract(epoch FROM bucket);
	horizon timestamptz := date_bin(minute, now() - interval '5 minutes', origin);
	state record;
	fresh tstzmultirange;
	hours_pending tstzmultirange;
	split_minutes tstzmultirange := '{}';
	split_hours tstzmultirange := '{}';
BEGIN
	hours := '{}';
	minutes := '{}';
	rows := tstzmultirange(tstzrange(since, until));
	IF bucket IS NULL OR width % 60 <> 0 THEN
		RETURN;
	END IF;
	SELECT s.minute_floor, s.hour_floor INTO state FROM iot.rollup_state s;

	-- what is not rolled up yet, by the hour
	SELECT coalesce(range_agg(tstzrange(f.ts, f.ts + hour)), '{}')
			+ tstzmultirange(tstzrange(horizon, NULL))
		INTO fresh
		FROM (SELECT DISTINCT date_bin(hour, u.ts, origin) AS ts
			FROM (SELECT m.ts
				FROM iot.rollup_note n,
					unnest(n.device_ids, n.parameter_ids, n.starts, n.lengths)
						AS r (device_id, parameter_id, start, length),
					generate_series(r.start, r.start + (r.length - 1) * minute, minute) AS m (ts)
				WHERE n.oldest < least(horizon, until)
					AND n.device_ids @> ARRAY[history_parts.device_id]
					AND r.device_id = history_parts.device_id
					AND r.parameter_id = history_parts.parameter_id
				UNION ALL
				SELECT p.ts FROM iot.rollup_pending p
				WHERE p.device_id = history_parts.device_id
					AND p.parameter_id = history_parts.parameter_id
					AND p.width = 'minute') u
			WHERE u.ts < horizon AND u.ts >= since - minute AND u.ts < until) f;
	-- ends of local days that are no ends of a minute or an hour of UTC
	IF width % 86400 = 0 THEN
		SELECT coalesce(range_agg(tstzrange(date_bin(minute, e.ts, origin),
					date_bin(minute, e.ts, origin) + minute))
				FILTER (WHERE date_bin(minute, e.ts, origin) <> e.ts), '{}'),
				coalesce(range_agg(tstzrange(date_bin(hour, e.ts, origin),
					date_bin(hour, e.ts, origin) + hour))
				FILTER (WHERE date_bin(hour, e.ts, origin) <> e.ts), '{}')
			INTO split_minutes, split_hours
			FROM (SELECT g.day::timestamptz AS ts FROM generate_series(
				date_bin(bucket, since::timestamp, timestamp '2000-01-03'),
				until::timestamp, bucket) AS g (day)) e;
	END IF;

	IF width % 3600 = 0 THEN
		SELECT coalesce(range_agg(tstzrange(p.ts, p.ts + hour)), '{}') INTO hours_pending
			FROM iot.rollup_pending p
			WHERE p.device_id = history_parts.device_id
				AND p.parameter_id = history_parts.parameter_id
				AND p.width = 'hour';
		hours := iot_internal.whole_units(hour, greatest(since, state.hour_floor), least(until, horizon))
			- fresh - hours_pending - split_hours;
	END IF;
	minutes := iot_internal.whole_units(minute, greatest(since, state.minute_floor), least(until, horizon))
		- fresh - split_minutes - hours;
	rows := rows - hours - minutes;
END
$function$;

-- The whole minutes or hours of a range.
CREATE OR REPLACE FUNCTION iot_internal.whole_units(
	unit interval, since timestamptz, until timestamptz) RETURNS tstzmultirange
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT CASE WHEN w.first < w.last THEN tstzmultirange(tstzrange(w.first, w.last)) ELSE '{}' END
	FROM (SELECT date_bin(unit, since + unit - interval '1 microsecond', o.ts) AS first,
			date_bin(unit, until, o.ts) AS last
		FROM (VALUES (timestamptz '2000-01-01 00:00+00')) AS o (ts)) w
$function$;

-- STABLE matters: what is noted, rolled up and measured is read under one snapshot.
CREATE OR REPLACE FUNCTION iot.history(
	device text,
	parameter text,
	since timestamptz,
	until timestamptz DEFAULT now(),
	bucket interval DEFAULT NULL)
RETURNS TABLE (ts timestamptz, value double precision, min double precision,
	max double precision, avg double precision, count bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	found_id uuid := iot_internal.viewable_device(history.device);
	found_parameter uuid;
	parts record;
BEGIN
	SELECT p.parameter_id INTO found_parameter
		FROM iot.parameter p JOIN iot.sensor s ON s.parameter_id = p.parameter_id
		WHERE p.name = history.parameter AND s.device_id = found_id;
	IF NOT FOUND THEN
		IF NOT EXISTS (SELECT FROM iot.parameter p WHERE p.name = history.parameter) THEN
			RAISE EXCEPTION 'parameter "%" does not exist', history.parameter
				USING ERRCODE = 'undefined_object',
					HINT = 'Give the name of a row of iot.parameter.';
		END IF;
		RAISE EXCEPTION 'device "%" has no parameter "%"', history.device, history.parameter
			USING ERRCODE = 'undefined_object',
				HINT = 'The parameters of a device are its rows in iot.sensor.';
	END IF;
	PERFORM iot_internal.check_history(since, until, bucket);

	IF bucket IS NULL THEN
		RETURN QUERY EXECUTE $sql$
			SELECT m.ts, m.value, m.value, m.value, m.value, 1::bigint
			FROM iot.measurement m
			WHERE m.device_id = $1 AND m.parameter_id = $2 AND m.ts >= $3 AND m.ts < $4
			ORDER BY m.ts$sql$
			USING found_id, found_parameter, since, until;
		RETURN;
	END IF;

	SELECT p.hours, p.minutes, p.rows INTO parts
		FROM iot_internal.history_parts(found_id, found_parameter, since, until, bucket) p;
	-- Planned for these arguments, so that partitions outside of them are passed over.  Buckets of
	-- whole days are days of the session's time zone, weeks begin on a Monday; shorter ones are
	-- counted in UTC.  "OFFSET 0" has each span read by its key, not all of the time between them.
	RETURN QUERY EXECUTE $sql$
		SELECT CASE WHEN $9
				THEN date_bin($5, b.ts::timestamp, timestamp '2000-01-03')::timestamptz
				ELSE date_bin($5, b.ts, timestamptz '2000-01-03 00:00+00') END AS start,
			iot_internal.last(b.last_value, b.last_at), min(b.min), max(b.max),
			iot_internal.mean(b.avg, b.count), sum(b.count)::bigint
		FROM (
			SELECT h.ts, h.count, h.min, h.max, h.avg, h.last_value, h.last_at
			FROM unnest($6) AS r (span) CROSS JOIN LATERAL (
				SELECT * FROM iot.rollup_hour u
				WHERE u.device_id = $1 AND u.parameter_id = $2
					AND u.ts >= lower(r.span) AND u.ts < upper(r.span) OFFSET 0) h
			UNION ALL
			SELECT m.ts, m.count, m.min, m.max, m.avg, m.last_value, m.last_at
			FROM unnest($7) AS r (span) CROSS JOIN LATERAL (
				SELECT * FROM iot.rollup_minute u
				WHERE u.device_id = $1 AND u.parameter_id = $2 AND u.ts >= $3 AND u.ts < $4
					AND u.ts >= lower(r.span) AND u.ts < upper(r.span) OFFSET 0) m
			UNION ALL
			SELECT v.ts, 1, v.value, v.value, v.value, v.value, v.ts
			FROM unnest($8) AS r (span) CROSS JOIN LATERAL (
				SELECT u.ts, u.value FROM iot.measurement u
				WHERE u.device_id = $1 AND u.parameter_id = $2 AND u.ts >= $3 AND u.ts < $4
					AND u.ts >= lower(r.span) AND u.ts < upper(r.span) OFFSET 0) v) b
		GROUP BY start
		ORDER BY start$sql$
		USING found_id, found_parameter, since, until, bucket, parts.hours, parts.minutes, parts.rows,
			extract(epoch FROM bucket) % 86400 = 0;
END
$function$;
COMMENT ON FUNCTION iot.history(text, text, timestamptz, timestamptz, interval) IS
	'values of a sensor from since on and before until, as they came, or by buckets with their last value, min, max, avg and count';

CREATE OR REPLACE FUNCTION iot_internal.lttb_transition(internal, timestamptz, double precision, integer)
RETURNS internal LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_lttb_transition_sql';
CREATE OR REPLACE FUNCTION iot_internal.lttb_final(internal)
RETURNS jsonb LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_lttb_final_sql';
CREATE OR REPLACE AGGREGATE iot.lttb(ts timestamptz, value double precision, points integer) (
	SFUNC = iot_internal.lttb_transition, STYPE = internal,
	FINALFUNC = iot_internal.lttb_final, PARALLEL = SAFE);
COMMENT ON AGGREGATE iot.lttb(timestamptz, double precision, integer) IS
	'the points that show the shape of a series best, as [{"ts":…,"value":…},…]: largest triangle three buckets';
