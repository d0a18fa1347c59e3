-- Measurements that go sooner than others, by device type.
--
-- Partitions hold the rows of all types, so that these are deleted: a pass goes through the
-- partitions in which rows have grown too old since the pass before, in batches by the primary key,
-- each committed on its own, and takes up where it stopped (iot.type_sweep).  Once a day, and after
-- somebody has changed a retention, a pass goes through all of them, for rows that came late and for
-- devices that changed their type.  Rollups are not concerned: they have a retention of their own,
-- and no measurement goes before they hold it.

-- The next batch of the pass that is under way, or of a new one, for about half a second; true where
-- there is more.  Runs within maintenance, of which there is one at a time.
CREATE OR REPLACE FUNCTION iot_internal.delete_old_of_types(batch integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms' SET jit = off AS $function$
DECLARE
	started timestamptz := clock_timestamp();
	kept interval := (SELECT r.keep FROM iot.retention r WHERE r.relation = 'measurement');
	-- what is not rolled up yet stays
	rolled_up timestamptz := least(
		(SELECT min(n.oldest) FROM iot.rollup_note n),
		(SELECT min(p.due_at) - interval '1 minute' FROM iot.rollup_pending p
			WHERE p.width = 'minute'));
	wanted text;
	sweep record;
	part record;
	last record;
	deleted bigint := 0;
BEGIN
	SELECT string_agg(format('%s %s', t.device_type_id, t.retention), ', ' ORDER BY t.device_type_id)
		INTO wanted FROM iot.device_type t WHERE t.retention < kept;
	IF wanted IS NULL THEN
		RETURN false;
	END IF;
	SELECT s.* INTO STRICT sweep FROM iot.type_sweep s;
	IF sweep.began_at IS NULL OR sweep.retentions IS DISTINCT FROM wanted THEN
		sweep.is_full := sweep.retentions IS DISTINCT FROM wanted
			OR coalesce(sweep.full_at, '-infinity') < now() - interval '1 day';
		sweep.began_at := now();
		sweep.retentions := wanted;
		sweep.lower := '-infinity';
		sweep.device_id := NULL;
	END IF;
	LOOP
		SELECT p.partition, p.lower, p.upper INTO part
			FROM iot_internal.partitions('iot.measurement') p
			WHERE p.lower >= sweep.lower
				AND EXISTS (SELECT FROM iot.device_type t
					WHERE t.retention < kept AND p.lower < sweep.began_at - t.retention
						AND (sweep.is_full OR p.upper > sweep.swept_at - t.retention))
			ORDER BY p.lower LIMIT 1;
		IF NOT FOUND THEN
			UPDATE iot.type_sweep s SET began_at = NULL, retentions = sweep.retentions,
				swept_at = sweep.began_at,
				full_at = CASE WHEN sweep.is_full THEN sweep.began_at ELSE s.full_at END;
			RETURN false;
		END IF;
		IF part.lower > sweep.lower OR sweep.device_id IS NULL THEN
			sweep.lower := part.lower;
			sweep.device_id := '00000000-0000-0000-0000-000000000000';
			sweep.parameter_id := sweep.device_id;
			sweep.ts := '-infinity';
		END IF;
		EXECUTE format($sql$
			WITH old AS MATERIALIZED (
				SELECT x.device_id, x.parameter_id, o.ts
				FROM (
					SELECT s.device_id, s.parameter_id, least($1 - t.retention, $2) AS before
					FROM iot.device_type t
						JOIN iot.device d ON d.device_type_id = t.device_type_id
						JOIN iot.sensor s ON s.device_id = d.device_id
					WHERE t.retention < $3 AND (s.device_id, s.parameter_id) >= ($4, $5)
					ORDER BY s.device_id, s.parameter_id) x
				CROSS JOIN LATERAL (
					SELECT m.ts FROM %1$s m
					WHERE m.device_id = x.device_id AND m.parameter_id = x.parameter_id
						AND m.ts < x.before
						AND m.ts > CASE WHEN x.device_id = $4 AND x.parameter_id = $5
							THEN $6 ELSE '-infinity' END
					ORDER BY m.ts LIMIT $7) o
				LIMIT $7),
			gone AS (
				DELETE FROM %1$s m USING old o
					WHERE m.device_id = o.device_id AND m.parameter_id = o.parameter_id
						AND m.ts = o.ts)
			SELECT o.device_id, o.parameter_id, o.ts, count(*) OVER () AS rows FROM old o
			ORDER BY o.device_id DESC, o.parameter_id DESC, o.ts DESC LIMIT 1$sql$, part.partition)
			INTO last
			USING sweep.began_at, coalesce(rolled_up, 'infinity'), kept, sweep.device_id,
				sweep.parameter_id, sweep.ts, batch - deleted;
		deleted := deleted + coalesce(last.rows, 0);
		IF deleted < batch THEN
			sweep.lower := part.upper;
			sweep.device_id := NULL;
		ELSE
			sweep.device_id := last.device_id;
			sweep.parameter_id := last.parameter_id;
			sweep.ts := last.ts;
		END IF;
		EXIT WHEN deleted >= batch OR clock_timestamp() > started + interval '500 ms';
	END LOOP;
	UPDATE iot.type_sweep SET began_at = sweep.began_at, is_full = sweep.is_full,
		retentions = sweep.retentions, lower = sweep.lower, device_id = sweep.device_id,
		parameter_id = sweep.parameter_id, ts = sweep.ts;
	RETURN true;
END
$function$;
