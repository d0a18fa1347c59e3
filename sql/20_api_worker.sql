-- What workers ask and say, besides the work itself.

CREATE OR REPLACE FUNCTION iot_internal.worker_gate(
	OUT version integer, OUT paused boolean, OUT system_identifier bigint, OUT database_oid oid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
	SELECT v.version, e.paused, e.system_identifier, e.database_oid
		INTO worker_gate.version, worker_gate.paused,
			worker_gate.system_identifier, worker_gate.database_oid
		FROM iot.schema_version v CROSS JOIN iot.epoch e;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.worker_heartbeat(
	name text, kind text, adapter_id uuid, pid integer, state text, detail text, counters jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
	INSERT INTO iot.worker AS w
			(name, kind, adapter_id, pid, state, detail, counters, started_at, heartbeat_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, pg_catalog.clock_timestamp(),
			pg_catalog.clock_timestamp())
		ON CONFLICT ON CONSTRAINT worker_pkey DO UPDATE SET
			kind = excluded.kind, adapter_id = excluded.adapter_id, pid = excluded.pid,
			state = excluded.state, detail = excluded.detail, counters = excluded.counters,
			started_at = CASE WHEN w.pid IS DISTINCT FROM excluded.pid
				THEN excluded.started_at ELSE w.started_at END,
			heartbeat_at = excluded.heartbeat_at;
END
$function$;

-- Adapters that need a process of ours.
CREATE OR REPLACE FUNCTION iot_internal.worker_adapters()
RETURNS TABLE (adapter_id uuid, name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
	SELECT a.adapter_id, a.name FROM iot.adapter a
		WHERE a.enabled AND a.kind = 'mqtt' ORDER BY a.name;
$function$;

-- Rows of workers that are neither running nor wanted any more.
CREATE OR REPLACE FUNCTION iot_internal.worker_forget() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
	DELETE FROM iot.worker w
		WHERE w.adapter_id IS NOT NULL
			AND w.heartbeat_at < pg_catalog.clock_timestamp() - interval '20 s'
			AND NOT EXISTS (SELECT FROM iot.adapter a
				WHERE a.adapter_id = w.adapter_id AND a.enabled AND a.kind = 'mqtt');
$function$;

-- Everything an adapter is configured by.  Who compares two results sees whether it has to
-- connect again; topics are those of every device type, so that a new device finds us subscribed.
CREATE OR REPLACE FUNCTION iot_internal.adapter_config(adapter_id uuid)
RETURNS TABLE (name text, url text, options jsonb, password text, topics text[], qualities text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
	SELECT a.name, a.url, a.options,
		(SELECT s.value FROM iot.secret s WHERE s.name = a.options ->> 'password_secret'),
		t.topics, t.qualities
	FROM iot.adapter a CROSS JOIN (
		SELECT pg_catalog.array_agg(d.topic ORDER BY d.topic) AS topics,
			pg_catalog.array_agg(d.quality ORDER BY d.topic) AS qualities
		FROM (SELECT x.topic, pg_catalog.min(x.quality) AS quality
			FROM iot.device_type dt CROSS JOIN LATERAL (VALUES
				(dt.telemetry_topic, 'stream'), (dt.ack_topic, 'stream'),
				(dt.attributes_topic, 'state'), (dt.status_topic, 'state')) AS x (topic, quality)
			GROUP BY x.topic) AS d) AS t
	WHERE a.adapter_id = $1 AND a.enabled AND a.kind = 'mqtt';
$function$;

-- Shared memory's view: the launcher, and the workers of this database, running or wanted.
CREATE OR REPLACE FUNCTION iot_internal.worker_slots()
RETURNS TABLE (name text, kind text, adapter_id uuid, pid integer, state text, detail text,
	starts integer, started_at timestamptz, beat_at timestamptz, counters jsonb)
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'iot_worker_slots_sql';

GRANT USAGE ON SCHEMA iot_internal TO iot_worker;
GRANT EXECUTE ON FUNCTION iot_internal.worker_gate(),
	iot_internal.worker_heartbeat(text, text, uuid, integer, text, text, jsonb),
	iot_internal.worker_adapters(), iot_internal.worker_forget(),
	iot_internal.adapter_config(uuid)
	TO iot_worker;
