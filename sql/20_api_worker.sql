-- What workers ask and say, besides the work itself.

CREATE OR REPLACE FUNCTION iot_internal.worker_heartbeat(
	name text, kind text, adapter_id uuid, pid integer, state text, detail text, counters jsonb)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
	INSERT INTO iot.worker AS w
			(name, kind, adapter_id, pid, state, detail, counters, started_at, state_at, heartbeat_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, pg_catalog.clock_timestamp(),
			pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp())
		ON CONFLICT ON CONSTRAINT worker_pkey DO UPDATE SET
			kind = excluded.kind, adapter_id = excluded.adapter_id, pid = excluded.pid,
			state = excluded.state, detail = excluded.detail, counters = excluded.counters,
			started_at = CASE WHEN w.pid IS DISTINCT FROM excluded.pid
				THEN excluded.started_at ELSE w.started_at END,
			state_at = CASE WHEN (w.pid, w.state) IS DISTINCT FROM (excluded.pid, excluded.state)
				THEN excluded.state_at ELSE w.state_at END,
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
				WHERE a.adapter_id = w.adapter_id AND a.enabled AND a.kind = 'mqtt'
					AND w.name = 'adapter:' || a.name);
$function$;

-- Everything an adapter is configured by, as it stands in its row; no row where no process of ours
-- should run.  Topics are those of every device type, so that a new device finds us subscribed;
-- "live" are those whose retained copies mean nothing.
CREATE OR REPLACE FUNCTION iot_internal.adapter_config(adapter_id uuid)
RETURNS TABLE (name text, url text, username text, password_file text, password text,
	client_id text, keepalive text, ca_file text, cert_file text, key_file text, protocol text,
	qos text, batch_size text, max_in_flight text, device_credentials text,
	live_topics text[], state_topics text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
	SELECT a.name, a.url, o ->> 'username', o ->> 'password_file',
		(SELECT s.value FROM iot.secret s WHERE s.name = o ->> 'password_secret'),
		o ->> 'client_id', o ->> 'keepalive', o ->> 'ca_file', o ->> 'cert_file', o ->> 'key_file',
		o ->> 'protocol', o ->> 'qos', o ->> 'batch_size', o ->> 'max_in_flight',
		o ->> 'device_credentials',
		(SELECT pg_catalog.array_agg(DISTINCT x.topic)
			FROM iot.device_type dt CROSS JOIN LATERAL
				(VALUES (dt.telemetry_topic), (dt.ack_topic)) AS x (topic)),
		(SELECT pg_catalog.array_agg(DISTINCT x.topic)
			FROM iot.device_type dt CROSS JOIN LATERAL
				(VALUES (dt.attributes_topic), (dt.status_topic)) AS x (topic))
	FROM iot.adapter a CROSS JOIN LATERAL (SELECT a.options) AS x (o)
	WHERE a.adapter_id = $1 AND a.enabled AND a.kind = 'mqtt';
$function$;

-- Shared memory's view: the launcher, and the workers of this database, running or wanted.
CREATE OR REPLACE FUNCTION iot_internal.worker_slots()
RETURNS TABLE (name text, kind text, adapter_id uuid, pid integer, state text, detail text,
	starts integer, started_at timestamptz, beat_at timestamptz, counters jsonb)
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'iot_worker_slots_sql';

GRANT USAGE ON SCHEMA iot_internal TO iot_worker;
GRANT EXECUTE ON FUNCTION
	iot_internal.worker_heartbeat(text, text, uuid, integer, text, text, jsonb),
	iot_internal.worker_adapters(), iot_internal.worker_forget(),
	iot_internal.adapter_config(uuid)
	TO iot_worker;
