-- Maintenance: partitions ahead of time (20_partition), and rows that have been kept long enough.
--
-- Work comes in steps that end within a second or two, each a transaction of its own, because no
-- snapshot of ours may hold back vacuum, nor a lock of ours hold up a device.

-- As src/consumer.c reads lists of types: NULL is all, '*' all but audit events.
CREATE OR REPLACE FUNCTION iot_internal.is_of_types(type text, types text[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN types IS NULL OR type = ANY (types)
		OR ('*' = ANY (types) AND NOT starts_with(type, 'audit.'));
END
$function$;

-- Types of events that a consumer reads, as above.  A cursor that finds nothing of its own stays
-- behind for a while, which is no lag.
CREATE OR REPLACE FUNCTION iot_internal.consumer_types(consumer text) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT CASE WHEN consumer = 'notifier' THEN iot_internal.notified_types()
		WHEN starts_with(consumer, 'adapter:') THEN ARRAY['dm.value_set_approved', 'adapter.value_set_due'] END
$function$;

-- Whether a consumer can still want rows of a partition of the log: those of its types that were not
-- visible in its last snapshot.  Rows that came with a copy are not offered at all.
CREATE OR REPLACE FUNCTION iot_internal.has_unread(
	partition regclass, last pg_snapshot, types text[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	unread boolean;
BEGIN
	EXECUTE format(
		'SELECT EXISTS (
			SELECT FROM %s e
			WHERE e.xid >= pg_snapshot_xmin($1)
				AND NOT pg_visible_in_snapshot(e.xid, $1)
				AND iot_internal.is_of_types(e.type, $2)
				AND e.id > (SELECT p.first_event_id FROM iot.epoch p))', partition)
		INTO unread USING last, types;
	RETURN unread;
END
$function$;

-- Consumers whose position counts: not those of adapters that are gone or switched off, whose
-- commands expire anyway.
CREATE OR REPLACE FUNCTION iot_internal.live_consumers()
RETURNS TABLE (name text, last pg_snapshot, advanced_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT c.name, c.last, c.advanced_at FROM iot.consumer c
	WHERE c.live
		AND (NOT pg_catalog.starts_with(c.name, 'adapter:')
			OR EXISTS (
				SELECT FROM iot.adapter a
				WHERE 'adapter:' || a.adapter_id::pg_catalog.text = c.name AND a.enabled))
$function$;

-- Drop one partition whose rows have all been kept long enough; true where one went.
CREATE OR REPLACE FUNCTION iot_internal.drop_partition(parent regclass) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms' AS $function$
DECLARE
	kept record;
	old record;
	reader record;
BEGIN
	SELECT r.keep, r.cap INTO kept FROM iot.retention r
		JOIN pg_class c ON c.relname = r.relation WHERE c.oid = parent;
	FOR old IN
		SELECT p.partition, p.upper FROM iot_internal.partitions(parent) p
		WHERE p.upper <= now() - kept.keep ORDER BY p.upper LOOP
		IF parent = 'iot.event'::regclass THEN
			SELECT c.name, c.advanced_at INTO reader FROM iot_internal.live_consumers() c
				WHERE iot_internal.has_unread(old.partition, c.last,
					iot_internal.consumer_types(c.name))
				ORDER BY c.advanced_at LIMIT 1;
			IF FOUND THEN
				-- later partitions are unread as well
				EXIT WHEN kept.cap IS NULL OR old.upper > now() - kept.cap;
				INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload)
					VALUES (iot_internal.uuidv7(), 'consumer', reader.name, 'system.events_lost',
						jsonb_build_object('consumer', reader.name,
							'partition', old.partition::text, 'until', old.upper,
							'advanced_at', reader.advanced_at));
				RAISE WARNING 'consumer "%" has not read events of partition %, which are too old to keep',
						reader.name, old.partition
					USING HINT = 'See "cap" in iot.retention, and why the consumer does not advance.';
			END IF;
		END IF;
		EXECUTE format('DROP TABLE %s', old.partition);
		RETURN true;
	END LOOP;
	RETURN false;
END
$function$;

-- Delete at most a batch of rows that have been kept long enough; true where there may be more.
CREATE OR REPLACE FUNCTION iot_internal.delete_old(relation text, batch integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms' AS $function$
DECLARE
	before timestamptz := now() - (SELECT r.keep FROM iot.retention r
		WHERE r.relation = delete_old.relation);
	deleted bigint;
BEGIN
	IF relation = 'command' THEN
		DELETE FROM iot.command_batch b USING (
				SELECT o.command_batch_id FROM iot.command_batch o
				WHERE o.finished_at < before LIMIT 10) AS old
			WHERE b.command_batch_id = old.command_batch_id;
		DELETE FROM iot.command c USING (
				SELECT o.device_id, o.command_id FROM iot.command o
				WHERE o.created_at < before
					AND o.status = ANY (ARRAY['COMPLETED', 'FAILED', 'CANCELLED'])
				LIMIT batch) AS old
			WHERE c.device_id = old.device_id AND c.command_id = old.command_id;
		GET DIAGNOSTICS deleted = ROW_COUNT;
	ELSIF relation = 'notification' THEN
		WITH gone AS (
			DELETE FROM iot.notification n USING (
					SELECT o.seq FROM iot.notification o WHERE o.created_at < before
					LIMIT batch) AS old
				WHERE n.seq = old.seq RETURNING n.seq),
		counted AS (
			SELECT count(*) AS rows, max(g.seq) AS seq FROM gone g),
		-- who asks for what came before this is told to start afresh
		floor AS (
			UPDATE iot.epoch e SET notification_floor = greatest(e.notification_floor, c.seq)
				FROM counted c WHERE c.rows > 0)
		SELECT c.rows INTO deleted FROM counted c;
	ELSIF relation = 'delivery' THEN
		-- one that is still to be made lives as long as its notification
		DELETE FROM iot.delivery d USING (
				SELECT o.seq, o.channel, o.recipient FROM iot.delivery o
				WHERE o.created_at < before AND o.status <> 'PENDING'
				LIMIT batch) AS old
			WHERE d.seq = old.seq AND d.channel = old.channel AND d.recipient = old.recipient;
		GET DIAGNOSTICS deleted = ROW_COUNT;
	ELSIF relation = 'alarm' THEN
		-- an open one lives on, and a device's clock alone does not make an alarm old
		DELETE FROM iot.alarm a USING (
				SELECT o.device_id, o.alarm_id FROM iot.alarm o
				WHERE o.status = 'CLOSED' AND o.closed_at < before AND o.created_at < before
				LIMIT batch) AS old
			WHERE a.device_id = old.device_id AND a.alarm_id = old.alarm_id;
		GET DIAGNOSTICS deleted = ROW_COUNT;
	ELSIF relation = 'dead_letter' THEN
		DELETE FROM iot.dead_letter l USING (
				SELECT o.dead_letter_id FROM iot.dead_letter o WHERE o.created_at < before
				ORDER BY o.created_at LIMIT batch) AS old
			WHERE l.dead_letter_id = old.dead_letter_id;
		GET DIAGNOSTICS deleted = ROW_COUNT;
	ELSIF relation = 'measurement' THEN
		-- what never had a day of its own
		DELETE FROM iot.measurement_default m USING (
				SELECT o.device_id, o.parameter_id, o.ts FROM iot.measurement_default o
				WHERE o.ts < before LIMIT batch) AS old
			WHERE m.device_id = old.device_id AND m.parameter_id = old.parameter_id
				AND m.ts = old.ts;
		GET DIAGNOSTICS deleted = ROW_COUNT;
	ELSIF relation = 'rollup_minute' THEN
		DELETE FROM iot.rollup_minute_default m USING (
				SELECT o.device_id, o.parameter_id, o.ts FROM iot.rollup_minute_default o
				WHERE o.ts < before LIMIT batch) AS old
			WHERE m.device_id = old.device_id AND m.parameter_id = old.parameter_id
				AND m.ts = old.ts;
		GET DIAGNOSTICS deleted = ROW_COUNT;
	ELSIF relation = 'rollup_hour' THEN
		DELETE FROM iot.rollup_hour h USING (
				SELECT o.device_id, o.parameter_id, o.ts FROM iot.rollup_hour o
				WHERE o.ts < before ORDER BY o.ts LIMIT batch) AS old
			WHERE h.device_id = old.device_id AND h.parameter_id = old.parameter_id
				AND h.ts = old.ts;
		GET DIAGNOSTICS deleted = ROW_COUNT;
	END IF;
	RETURN deleted >= batch;
END
$function$;

-- Delete at most a batch of the oldest dead letters beyond iot.retention.max_rows; true where there may
-- be more.  Most calls are two looks into an index: counting is for when the ids leave room for too
-- many.
CREATE OR REPLACE FUNCTION iot_internal.trim_dead_letters(batch integer) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms' SET enable_seqscan = off SET jit = off AS $function$
DECLARE
	kept bigint := (SELECT r.max_rows FROM iot.retention r WHERE r.relation = 'dead_letter');
	first_id bigint;
	last_id bigint;
	deleted bigint;
BEGIN
	IF kept IS NULL THEN
		RETURN false;
	END IF;
	first_id := (SELECT min(l.dead_letter_id) FROM iot.dead_letter l);
	last_id := (SELECT max(l.dead_letter_id) FROM iot.dead_letter l);
	IF first_id IS NULL OR last_id - first_id < kept THEN
		RETURN false;
	END IF;
	DELETE FROM iot.dead_letter l USING (
			SELECT o.dead_letter_id FROM iot.dead_letter o
			WHERE o.dead_letter_id <= (
				SELECT b.dead_letter_id FROM iot.dead_letter b
				ORDER BY b.dead_letter_id DESC OFFSET kept LIMIT 1)
			ORDER BY o.dead_letter_id LIMIT batch) AS beyond
		WHERE l.dead_letter_id = beyond.dead_letter_id;
	GET DIAGNOSTICS deleted = ROW_COUNT;
	RETURN deleted >= batch;
END
$function$;

-- One step of maintenance, a transaction of a second or two; true where another should follow.  One
-- session at a time; whoever comes second leaves it to the first.  A copy that nobody has resumed
-- keeps all its rows: they may be why it was restored.
CREATE OR REPLACE FUNCTION iot_internal.maintain_step() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms' SET jit = off AS $function$
DECLARE
	state text;
	parent regclass;
	relation text;
	missing record;
	failure text;
	more boolean := false;
	keeps_rollups boolean;
BEGIN
	PERFORM FROM iot.maintenance FOR UPDATE SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	state := iot_internal.check_epoch();
	IF state <> 'ok' AND state <> 'paused' THEN
		RETURN false;
	END IF;

	FOREACH parent IN ARRAY ARRAY['iot.event', 'iot.measurement', 'iot.rollup_minute']::regclass[] LOOP
		FOR missing IN SELECT m.lower, m.upper FROM iot_internal.missing_partitions(parent) m LOOP
			BEGIN
				-- locks on rows that moved are not held while others are waited for
				IF iot_internal.make_partition(parent, missing.lower, missing.upper) THEN
					RETURN true;
				END IF;
			EXCEPTION WHEN OTHERS THEN
				failure := format('could not make the partition of %s for %s: %s',
					parent, missing.lower, sqlerrm);
			END;
		END LOOP;
	END LOOP;

	BEGIN
		more := iot_internal.rollup_step(5000);
	EXCEPTION WHEN OTHERS THEN
		failure := format('could not roll up measurements: %s', sqlerrm);
	END;
	keeps_rollups := state <> 'ok' OR NOT iot_internal.rollup_raise_floor();

	IF state = 'ok' THEN
		DELETE FROM iot.consumer c
			WHERE starts_with(c.name, 'adapter:')
				AND NOT EXISTS (SELECT FROM iot.adapter a
					WHERE 'adapter:' || a.adapter_id::text = c.name);
		DELETE FROM iot.worker w WHERE w.heartbeat_at < now() - interval '1 day';
		PERFORM iot_internal.end_credentials();
		-- a broker that has not come by now does not get it any more
		DELETE FROM iot.device_credential_password p WHERE p.created_at < now() - interval '7 days';
		FOREACH relation IN ARRAY
				ARRAY['command', 'alarm', 'delivery', 'notification', 'dead_letter', 'measurement',
					'rollup_minute', 'rollup_hour'] LOOP
			CONTINUE WHEN keeps_rollups AND starts_with(relation, 'rollup');
			BEGIN
				more := iot_internal.delete_old(relation, 5000) OR more;
			EXCEPTION WHEN OTHERS THEN
				failure := format('could not delete old rows of iot.%s: %s', relation, sqlerrm);
			END;
		END LOOP;
		BEGIN
			more := iot_internal.delete_old_of_types(5000) OR more;
		EXCEPTION WHEN OTHERS THEN
			failure := format('could not delete old measurements by device type: %s', sqlerrm);
		END;
		BEGIN
			more := iot_internal.trim_dead_letters(5000) OR more;
		EXCEPTION WHEN OTHERS THEN
			failure := format('could not delete dead letters beyond "max_rows": %s', sqlerrm);
		END;
		FOREACH parent IN ARRAY
				ARRAY['iot.event', 'iot.measurement', 'iot.rollup_minute']::regclass[] LOOP
			CONTINUE WHEN keeps_rollups AND parent = 'iot.rollup_minute'::regclass;
			BEGIN
				more := iot_internal.drop_partition(parent) OR more;
			EXCEPTION WHEN OTHERS THEN
				failure := format('could not drop an old partition of %s: %s', parent, sqlerrm);
			END;
		END LOOP;
	END IF;

	IF failure IS NOT NULL THEN
		RAISE WARNING '%', failure
			USING HINT = 'Maintenance tries again with its next run.';
	END IF;
	IF NOT more THEN
		UPDATE iot.maintenance SET last_run_at = clock_timestamp(), last_error = failure;
	END IF;
	RETURN more;
END
$function$;

CREATE OR REPLACE PROCEDURE iot.maintain()
LANGUAGE c AS 'MODULE_PATHNAME', 'iot_maintain_sql';
COMMENT ON PROCEDURE iot.maintain() IS
	'make partitions ahead of time and apply iot.retention; commits as it goes outside a transaction block';
