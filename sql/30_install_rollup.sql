-- Measurements by the minute and by the hour, and what of them is still to be made.

CREATE OR REPLACE FUNCTION iot_internal.install_rollup() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $install$
BEGIN
	-- class "device".  No foreign keys, as in iot.measurement: rollups outlive what they are made of.
	CREATE TABLE iot.rollup_minute (
		device_id uuid NOT NULL,
		parameter_id uuid NOT NULL,
		ts timestamptz NOT NULL,
		count bigint NOT NULL,
		min double precision NOT NULL,
		max double precision NOT NULL,
		avg double precision NOT NULL,
		last_value double precision NOT NULL,
		last_at timestamptz NOT NULL,
		CONSTRAINT rollup_minute_pkey PRIMARY KEY (device_id, parameter_id, ts)
	) PARTITION BY RANGE (ts);
	CREATE TABLE iot.rollup_minute_default PARTITION OF iot.rollup_minute DEFAULT;
	CREATE TABLE iot.rollup_hour (
		device_id uuid NOT NULL,
		parameter_id uuid NOT NULL,
		ts timestamptz NOT NULL,
		count bigint NOT NULL,
		min double precision NOT NULL,
		max double precision NOT NULL,
		avg double precision NOT NULL,
		last_value double precision NOT NULL,
		last_at timestamptz NOT NULL,
		CONSTRAINT rollup_hour_pkey PRIMARY KEY (device_id, parameter_id, ts)
	);
	CREATE INDEX rollup_hour_ts_idx ON iot.rollup_hour (ts);

	-- class "local".  Writers of measurements only add here.
	CREATE TABLE iot.rollup_note (
		oldest timestamptz NOT NULL,
		total integer NOT NULL,
		device_ids uuid[] NOT NULL,
		parameter_ids uuid[] NOT NULL,
		starts timestamptz[] NOT NULL,
		lengths smallint[] NOT NULL
	);
	CREATE INDEX rollup_note_oldest_idx ON iot.rollup_note (oldest);
	-- rows are made to fill their pages, and live for seconds
	ALTER TABLE iot.rollup_note ALTER COLUMN device_ids SET STORAGE PLAIN,
		ALTER COLUMN parameter_ids SET STORAGE PLAIN,
		ALTER COLUMN starts SET STORAGE PLAIN,
		ALTER COLUMN lengths SET STORAGE PLAIN;
	CREATE TABLE iot.rollup_pending (
		device_id uuid NOT NULL,
		parameter_id uuid NOT NULL,
		width text NOT NULL,
		ts timestamptz NOT NULL,
		due_at timestamptz NOT NULL,
		CONSTRAINT rollup_pending_pkey PRIMARY KEY (device_id, parameter_id, width, ts),
		CONSTRAINT rollup_pending_width_check CHECK (width IN ('minute', 'hour'))
	);
	CREATE INDEX rollup_pending_due_at_idx ON iot.rollup_pending (width, due_at);
	CREATE TABLE iot.rollup_state (
		only_row boolean CONSTRAINT rollup_state_pkey PRIMARY KEY DEFAULT true CHECK (only_row),
		minute_floor timestamptz NOT NULL DEFAULT '-infinity',
		hour_floor timestamptz NOT NULL DEFAULT '-infinity',
		stepped_at timestamptz,
		more_notes boolean NOT NULL DEFAULT false
	) WITH (fillfactor = 50);
END
$install$;
