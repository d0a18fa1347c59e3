-- What the platform knows about itself: version of the tables, identity of this copy, retention,
-- workers.

CREATE OR REPLACE FUNCTION iot_internal.install_operation() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $install$
BEGIN
	CREATE TABLE iot.schema_version (
		version integer NOT NULL,
		only_row boolean CONSTRAINT schema_version_pkey PRIMARY KEY DEFAULT true CHECK (only_row),
		migrated_at timestamptz NOT NULL DEFAULT now()
	);
	CREATE TABLE iot.epoch (
		only_row boolean CONSTRAINT epoch_pkey PRIMARY KEY DEFAULT true CHECK (only_row),
		epoch uuid NOT NULL,
		system_identifier bigint NOT NULL,
		database_oid oid NOT NULL,
		timeline integer NOT NULL,
		paused boolean NOT NULL DEFAULT false,
		first_event_id bigint NOT NULL DEFAULT 0,
		notification_floor bigint NOT NULL DEFAULT 0,
		created_at timestamptz NOT NULL DEFAULT now()
	);
	CREATE TABLE iot.retention (
		relation text CONSTRAINT retention_pkey PRIMARY KEY,
		keep interval NOT NULL,
		cap interval,
		max_rows bigint,
		partition_width interval,
		CONSTRAINT retention_keep_check CHECK (keep >= interval '1 hour'),
		CONSTRAINT retention_cap_check CHECK (cap >= keep),
		CONSTRAINT retention_max_rows_check CHECK (max_rows >= 0),
		CONSTRAINT retention_partition_width_check CHECK ((partition_width IS NOT NULL)
			= (relation IN ('event', 'measurement', 'rollup_minute')))
	);
	CREATE TABLE iot.maintenance (
		only_row boolean CONSTRAINT maintenance_pkey PRIMARY KEY DEFAULT true CHECK (only_row),
		last_run_at timestamptz,
		last_error text
	);
	CREATE TABLE iot.worker (
		name text CONSTRAINT worker_pkey PRIMARY KEY,
		kind text NOT NULL,
		adapter_id uuid,
		pid integer,
		state text NOT NULL,
		state_at timestamptz NOT NULL DEFAULT now(),
		detail text,
		counters jsonb NOT NULL DEFAULT '{}',
		started_at timestamptz NOT NULL DEFAULT now(),
		heartbeat_at timestamptz NOT NULL DEFAULT now()
	) WITH (fillfactor = 50);
END
$install$;
