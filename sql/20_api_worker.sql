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

-- How many processes an adapter is to have.
CREATE OR REPLACE FUNCTION iot_internal.adapter_processes(options jsonb) RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT coalesce((options ->> 'processes')::integer, 1)
$function$;

-- Processes of ours that are needed: those of each adapter by their numbers, and one for each
-- session that a process more has left at the broker and that still holds messages.
CREATE OR REPLACE FUNCTION iot_internal.worker_adapters()
RETURNS TABLE (adapter_id uuid, name text, number integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
	SELECT a.adapter_id, a.name, n.number
		FROM iot.adapter a CROSS JOIN LATERAL (
			SELECT pg_catalog.generate_series(1, iot_internal.adapter_processes(a.options))
			UNION
			SELECT s.number FROM iot.adapter_session s WHERE s.adapter_id = a.adapter_id) n (number)
		WHERE a.enabled AND a.kind = 'mqtt' ORDER BY a.name, n.number;
$function$;

-- Rows of workers that are neither running nor wanted any more.
CREATE OR REPLACE FUNCTION iot_internal.worker_forget() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
	DELETE FROM iot.worker w
		WHERE w.adapter_id IS NOT NULL
			AND w.heartbeat_at < pg_catalog.clock_timestamp() - interval '20 s'
			AND NOT EXISTS (SELECT FROM iot_internal.worker_adapters() x
				WHERE x.adapter_id = w.adapter_id
					AND w.name = 'adapter:' || x.name || CASE x.number WHEN 1 THEN '' ELSE '/' || x.number END);
$function$;

-- Everything an adapter is configured by, as it stands in its row; no row where no process of ours
-- should run.  Topics are those of every device type, so that a new device finds us subscribed;
-- the retained copies of "state" are wanted, and only "shared" may be spread over several processes:
-- what confirms a command must come to the process that sent it.
CREATE OR REPLACE FUNCTION iot_internal.adapter_config(adapter_id uuid, number integer)
RETURNS TABLE (name text, url text, username text, password_file text, password text,
	client_id text, keepalive text, ca_file text, cert_file text, key_file text, protocol text,
	qos text, batch_size text, batch_time text, max_in_flight text, device_credentials text,
	processes integer, registers text, discovery_prefix text,
	topics text[], shared_topics text[], own_topics text[], state_topics text[],
	session_filters text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
	SELECT a.name, a.url, o ->> 'username', o ->> 'password_file',
		(SELECT s.value FROM iot.secret s WHERE s.name = o ->> 'password_secret'),
		o ->> 'client_id', o ->> 'keepalive', o ->> 'ca_file', o ->> 'cert_file', o ->> 'key_file',
		o ->> 'protocol', o ->> 'qos', o ->> 'batch_size', o ->> 'batch_time', o ->> 'max_in_flight',
		o ->> 'device_credentials', iot_internal.adapter_processes(o), o ->> 'register_group', o ->> 'discovery_prefix',
		CASE WHEN o ? 'topics'
			THEN ARRAY(SELECT t.topic FROM pg_catalog.jsonb_array_elements_text(o -> 'topics') AS t (topic)) END,
		(SELECT pg_catalog.array_agg(DISTINCT x.topic)
			FROM iot.device_type dt CROSS JOIN LATERAL
				pg_catalog.unnest(dt.telemetry_topic || dt.more_telemetry_topics) AS x (topic)
			WHERE dt.ack_mode <> 'echo'),
		(SELECT pg_catalog.array_agg(DISTINCT x.topic)
			FROM (SELECT CASE dt.ack_mode WHEN 'echo' THEN dt.telemetry_topic || dt.more_telemetry_topics END
					|| dt.ack_topic AS topics FROM iot.device_type dt
				UNION ALL SELECT ARRAY[m.telemetry_topic] FROM iot.device_type_mapping m
					WHERE m.telemetry_topic IS NOT NULL) AS u
				CROSS JOIN LATERAL pg_catalog.unnest(u.topics) AS x (topic)),
		(SELECT pg_catalog.array_agg(DISTINCT x.topic)
			FROM iot.device_type dt CROSS JOIN LATERAL
				(VALUES (dt.attributes_topic), (dt.status_topic)) AS x (topic))
			|| CASE WHEN o ? 'discovery_prefix' THEN ARRAY[(o ->> 'discovery_prefix') || '/+/+/config',
				(o ->> 'discovery_prefix') || '/+/+/+/config'] END,
		(SELECT s.filters FROM iot.adapter_session s
			WHERE s.adapter_id = a.adapter_id AND s.number = $2)
	FROM iot.adapter a CROSS JOIN LATERAL (SELECT a.options) AS x (o)
	WHERE a.adapter_id = $1 AND a.enabled AND a.kind = 'mqtt'
		AND ($2 <= iot_internal.adapter_processes(o) OR EXISTS (SELECT FROM iot.adapter_session s
			WHERE s.adapter_id = a.adapter_id AND s.number = $2));
$function$;

-- What a session at the broker is subscribed to; written before the broker is asked, so that a
-- filter that is no longer wanted is always known.  NULL: the session is gone.
CREATE OR REPLACE FUNCTION iot_internal.adapter_session(adapter_id uuid, number integer, filters text[])
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
	IF $3 IS NULL THEN
		DELETE FROM iot.adapter_session s WHERE s.adapter_id = $1 AND s.number = $2;
		RETURN;
	END IF;
	INSERT INTO iot.adapter_session AS s (adapter_id, number, filters)
		SELECT a.adapter_id, $2, $3 FROM iot.adapter a WHERE a.adapter_id = $1
		ON CONFLICT ON CONSTRAINT adapter_session_pkey DO UPDATE SET filters = excluded.filters;
END
$function$;

-- Shared memory's view: the launcher, and the workers of this database, running or wanted.
CREATE OR REPLACE FUNCTION iot_internal.worker_slots()
RETURNS TABLE (name text, kind text, adapter_id uuid, pid integer, state text, detail text,
	starts integer, started_at timestamptz, beat_at timestamptz, counters jsonb)
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'iot_worker_slots_sql';
