-- Partitions by time: which there are, which are missing, and making them.
--
-- How long a new one is stands in iot.retention.  Ranges begin where counting in such lengths comes
-- to in UTC, weeks on a Monday and months on their first day; where others are there already, as
-- after a change, a new one fills what they leave free, so that none overlaps.

-- Partitions of a table with the range that each covers.  A range without an end is infinite.
CREATE OR REPLACE FUNCTION iot_internal.partitions(parent regclass)
RETURNS TABLE (partition regclass, lower timestamptz, upper timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO' SET timezone = 'UTC' AS $function$
	SELECT c.oid::pg_catalog.regclass,
		coalesce(pg_catalog.substring(b.bound, $$FROM \('([^']*)'\)$$)::timestamptz, '-infinity'),
		coalesce(pg_catalog.substring(b.bound, $$TO \('([^']*)'\)$$)::timestamptz, 'infinity')
	FROM pg_catalog.pg_inherits i
		JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
		CROSS JOIN LATERAL pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS b (bound)
	WHERE i.inhparent = parent AND b.bound <> 'DEFAULT'
$function$;

-- Where the range that a time falls into begins, as wide as it is by itself.
CREATE OR REPLACE FUNCTION iot_internal.partition_start(width interval, ts timestamptz)
RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
	-- a month is no number of days, though it compares as one
	SELECT CASE WHEN extract(month FROM width) > 0
		THEN date_trunc('month', ts, 'UTC')
		ELSE date_bin(width, ts, timestamptz '2000-01-03 00:00+00') END
$function$;

-- Make a partition of a table, and bring in the rows of its time that had to go to the DEFAULT
-- partition meanwhile; true where it had to move some.  Gives up with lock_not_available rather
-- than queue behind a long transaction, since everybody else would queue behind us.
--
-- Partitions of measurements are only ever added to: what vacuum finds in them it freezes at once,
-- and it comes soon, since history is read from the index alone where all is known to be visible.
CREATE OR REPLACE FUNCTION iot_internal.make_partition(
	parent regclass, lower timestamptz, upper timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO' SET timezone = 'UTC' SET lock_timeout = '200ms' AS $function$
DECLARE
	time_column text := CASE parent WHEN 'iot.event'::regclass THEN 'created_at' ELSE 'ts' END;
	parent_name text := (SELECT c.relname FROM pg_class c WHERE c.oid = parent);
	partition text := format('iot.%I', parent_name || to_char(lower,
		CASE WHEN date_trunc('day', lower) = lower THEN '_YYYYMMDD' ELSE '_YYYYMMDD_HH24' END));
	fallback text := format('iot.%I', parent_name || '_default');
	range text := format('%1$I >= %2$L AND %1$I < %3$L', time_column, lower, upper);
	strays boolean;
BEGIN
	EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS '
		'INCLUDING INDEXES INCLUDING STORAGE INCLUDING COMPRESSION) %s', partition, parent,
		CASE parent WHEN 'iot.measurement'::regclass THEN
			'WITH (autovacuum_freeze_min_age = 0, autovacuum_vacuum_insert_scale_factor = 0.05)'
		END);
	-- the check spares ATTACH the reading of the rows, under its locks
	EXECUTE format('ALTER TABLE %s ADD CONSTRAINT range_check CHECK (%s)', partition, range);
	EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %s)', fallback, range) INTO strays;
	IF strays THEN
		-- most of them beside the writers, what came meanwhile under the locks; without the first a
		-- writer who is already on the way to the DEFAULT partition would be refused there
		EXECUTE format('WITH gone AS (DELETE FROM %s WHERE %s RETURNING *) '
			'INSERT INTO %s SELECT * FROM gone', fallback, range, partition);
		EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', parent);
		EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', fallback);
		EXECUTE format('WITH gone AS (DELETE FROM %s WHERE %s RETURNING *) '
			'INSERT INTO %s SELECT * FROM gone', fallback, range, partition);
	END IF;
	EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
		parent, partition, lower, upper);
	EXECUTE format('ALTER TABLE %s DROP CONSTRAINT range_check', partition);
	RETURN strays;
END
$function$;

-- Ranges for which a table needs a partition and has none: those of the coming week, and those of
-- rows in its DEFAULT partition that are neither too old to keep nor from a far future.
CREATE OR REPLACE FUNCTION iot_internal.missing_partitions(parent regclass)
RETURNS TABLE (lower timestamptz, upper timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC' AS $function$
#variable_conflict use_column
DECLARE
	kept record;
	-- every range begins and ends at a full hour
	hour timestamptz;
	until timestamptz := date_trunc('day', now()) + interval '8 days';
	taken tstzmultirange;
	start timestamptz;
	free tstzrange;
BEGIN
	SELECT r.keep, r.partition_width AS width INTO kept
		FROM iot.retention r JOIN pg_class c ON c.relname = r.relation WHERE c.oid = parent;
	SELECT coalesce(range_agg(tstzrange(p.lower, p.upper)), '{}') INTO taken
		FROM iot_internal.partitions(parent) p;
	FOR hour IN EXECUTE format(
			'SELECT generate_series(date_trunc(''hour'', now()), $1 - interval ''1 hour'', ''1 hour'')
			UNION SELECT date_trunc(''hour'', s.%1$I) FROM iot.%2$I s
				WHERE s.%1$I >= $2 AND s.%1$I < $1
			ORDER BY 1',
			CASE parent WHEN 'iot.event'::regclass THEN 'created_at' ELSE 'ts' END,
			(SELECT c.relname || '_default' FROM pg_class c WHERE c.oid = parent))
			USING until, now() - kept.keep LOOP
		CONTINUE WHEN taken @> hour;
		start := iot_internal.partition_start(kept.width, hour);
		SELECT f.range INTO free
			FROM unnest(tstzmultirange(tstzrange(start, start + kept.width)) - taken) AS f (range)
			WHERE f.range @> hour;
		taken := taken + tstzmultirange(free);
		lower := pg_catalog.lower(free);
		upper := pg_catalog.upper(free);
		RETURN NEXT;
	END LOOP;
END
$function$;
