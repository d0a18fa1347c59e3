-- The registry: tables of class "reference", small and seldom written, and everywhere the same
-- where data are spread over machines.

CREATE OR REPLACE FUNCTION iot_internal.install_registry() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $install$
BEGIN
	CREATE TABLE iot.parameter (
		parameter_id uuid CONSTRAINT parameter_pkey PRIMARY KEY,
		name text NOT NULL CONSTRAINT parameter_name_key UNIQUE,
		unit text,
		value_min double precision,
		value_max double precision,
		labels jsonb,
		description text,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT parameter_name_check CHECK (name ~ '^[A-Za-z0-9_.:-]{1,64}$'),
		CONSTRAINT parameter_bounds_check CHECK (value_min <= value_max)
	);
	CREATE TABLE iot.device_group (
		device_group_id uuid CONSTRAINT device_group_pkey PRIMARY KEY,
		name text NOT NULL CONSTRAINT device_group_name_key UNIQUE,
		description text,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT device_group_name_check CHECK (name ~ '^[A-Za-z0-9_.:-]{1,64}$')
	);
	CREATE TABLE iot.device_type (
		device_type_id uuid CONSTRAINT device_type_pkey PRIMARY KEY,
		name text NOT NULL CONSTRAINT device_type_name_key UNIQUE,
		description text,
		ack_mode text NOT NULL DEFAULT 'device',
		ack_timeout interval NOT NULL DEFAULT '5 s',
		max_attempts integer NOT NULL DEFAULT 3,
		command_ttl interval,
		send_when text NOT NULL DEFAULT 'now',
		offline_after interval,
		retention interval,
		telemetry_topic text NOT NULL DEFAULT 'iot/{device}/telemetry',
		more_telemetry_topics text[],
		ignored_topics text[],
		attributes_topic text NOT NULL DEFAULT 'iot/{device}/attributes',
		status_topic text NOT NULL DEFAULT 'iot/{device}/status',
		command_topic text NOT NULL DEFAULT 'iot/{device}/command',
		ack_topic text NOT NULL DEFAULT 'iot/{device}/command/ack',
		command_template text,
		status_path text,
		online_word text,
		offline_word text,
		device_path text,
		only_device text,
		time_path text,
		time_unit text NOT NULL DEFAULT 'ms',
		time_zone text,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT device_type_name_check CHECK (name ~ '^[A-Za-z0-9_.:-]{1,64}$'),
		CONSTRAINT device_type_ack_mode_check CHECK (ack_mode IN ('device', 'echo', 'broker')),
		CONSTRAINT device_type_ack_timeout_check
			CHECK (ack_timeout BETWEEN interval '10 ms' AND interval '1 day'),
		CONSTRAINT device_type_max_attempts_check CHECK (max_attempts BETWEEN 1 AND 100),
		CONSTRAINT device_type_command_ttl_check
			CHECK (command_ttl BETWEEN interval '10 ms' AND interval '30 days'),
		CONSTRAINT device_type_send_when_check CHECK (send_when IN ('now', 'awake')),
		CONSTRAINT device_type_offline_after_check
			CHECK (offline_after BETWEEN interval '1 s' AND interval '30 days'),
		CONSTRAINT device_type_retention_check CHECK (retention >= interval '1 hour'),
		CONSTRAINT device_type_time_unit_check CHECK (time_unit IN ('ms', 's'))
	);
	CREATE TABLE iot.device_type_mapping (
		device_type_id uuid NOT NULL CONSTRAINT device_type_mapping_device_type_id_fkey
			REFERENCES iot.device_type ON DELETE CASCADE,
		parameter_id uuid NOT NULL
			CONSTRAINT device_type_mapping_parameter_id_fkey REFERENCES iot.parameter,
		path text NOT NULL DEFAULT '$',
		name text,
		scale double precision NOT NULL DEFAULT 1,
		shift double precision NOT NULL DEFAULT 0,
		labels jsonb,
		telemetry_topic text,
		command_topic text,
		command_template text,
		command_labels jsonb,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT device_type_mapping_pkey PRIMARY KEY (device_type_id, parameter_id),
		CONSTRAINT device_type_mapping_name_check CHECK (name ~ '^[^/+#[:cntrl:]]{1,64}$'),
		CONSTRAINT device_type_mapping_scale_check CHECK (scale <> 0)
	);
	CREATE INDEX device_type_mapping_parameter_id_idx ON iot.device_type_mapping (parameter_id);
	CREATE TABLE iot.adapter (
		adapter_id uuid CONSTRAINT adapter_pkey PRIMARY KEY,
		name text NOT NULL CONSTRAINT adapter_name_key UNIQUE,
		kind text NOT NULL DEFAULT 'mqtt',
		url text,
		options jsonb NOT NULL DEFAULT '{}',
		enabled boolean NOT NULL DEFAULT true,
		created_at timestamptz NOT NULL DEFAULT now(),
		updated_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT adapter_name_check CHECK (name ~ '^[A-Za-z0-9_.:-]{1,64}$'),
		CONSTRAINT adapter_kind_check CHECK (kind ~ '^[a-z][a-z0-9_-]{0,31}$')
	);
	-- class "local".  What each process of an adapter has left at the broker.
	CREATE TABLE iot.adapter_session (
		adapter_id uuid NOT NULL
			CONSTRAINT adapter_session_adapter_id_fkey REFERENCES iot.adapter ON DELETE CASCADE,
		number integer NOT NULL,
		filters text[] NOT NULL,
		CONSTRAINT adapter_session_pkey PRIMARY KEY (adapter_id, number)
	);
	CREATE TABLE iot.device (
		device_id uuid CONSTRAINT device_pkey PRIMARY KEY,
		name text NOT NULL CONSTRAINT device_name_key UNIQUE,
		external_id text,
		device_group_id uuid NOT NULL
			CONSTRAINT device_device_group_id_fkey REFERENCES iot.device_group,
		device_type_id uuid NOT NULL
			CONSTRAINT device_device_type_id_fkey REFERENCES iot.device_type,
		adapter_id uuid NOT NULL CONSTRAINT device_adapter_id_fkey REFERENCES iot.adapter,
		enabled boolean NOT NULL DEFAULT true,
		description text,
		created_at timestamptz NOT NULL DEFAULT now(),
		-- a name that reads as a uuid could not be told from a device_id
		CONSTRAINT device_name_check CHECK (
			name ~ '^[A-Za-z0-9_.:-]{1,64}$'
			AND name !~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
			AND name !~* '^[0-9a-f]{32}$'),
		CONSTRAINT device_external_id_check CHECK (
			external_id ~ '^[^+#[:cntrl:]]+$' AND octet_length(external_id) <= 128)
	);
	-- what it is called in topics and messages
	CREATE UNIQUE INDEX device_external_id_name_key ON iot.device ((coalesce(external_id, name)));
	-- class "local".  What devices at an adapter's broker have announced of themselves.
	CREATE TABLE iot.discovery (
		adapter_id uuid NOT NULL
			CONSTRAINT discovery_adapter_id_fkey REFERENCES iot.adapter ON DELETE CASCADE,
		topic text NOT NULL,
		device_id uuid CONSTRAINT discovery_device_id_fkey REFERENCES iot.device ON DELETE CASCADE,
		config jsonb NOT NULL,
		parameters text[] NOT NULL DEFAULT '{}',
		presence jsonb,
		expire_after integer,
		refused boolean NOT NULL DEFAULT false,
		error text,
		created_at timestamptz NOT NULL DEFAULT now(),
		updated_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT discovery_pkey PRIMARY KEY (adapter_id, topic)
	);
	CREATE INDEX discovery_device_id_idx ON iot.discovery (device_id);
	CREATE INDEX device_device_group_id_idx ON iot.device (device_group_id);
	CREATE INDEX device_device_type_id_idx ON iot.device (device_type_id);
	-- all three: how many are registered is counted in the index
	CREATE INDEX device_adapter_id_device_group_id_device_type_id_idx
		ON iot.device (adapter_id, device_group_id, device_type_id);
	CREATE TABLE iot.sensor (
		device_id uuid NOT NULL
			CONSTRAINT sensor_device_id_fkey REFERENCES iot.device ON DELETE CASCADE,
		parameter_id uuid NOT NULL CONSTRAINT sensor_parameter_id_fkey REFERENCES iot.parameter,
		value_min double precision,
		value_max double precision,
		labels jsonb,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT sensor_pkey PRIMARY KEY (device_id, parameter_id),
		CONSTRAINT sensor_bounds_check CHECK (value_min <= value_max)
	);
	-- both columns: taken for the whole key it must be no worse than the key
	CREATE INDEX sensor_parameter_id_device_id_idx ON iot.sensor (parameter_id, device_id);
	-- those that a change of the parameter's bounds may contradict
	CREATE INDEX sensor_bounds_idx ON iot.sensor (parameter_id)
		WHERE num_nonnulls(value_min, value_max) = 1;
	CREATE TABLE iot.app_user (
		app_user_id uuid CONSTRAINT app_user_pkey PRIMARY KEY,
		username text NOT NULL CONSTRAINT app_user_username_key UNIQUE,
		email text,
		language text,
		time_zone text,
		role text NOT NULL DEFAULT 'iot_operator',
		enabled boolean NOT NULL DEFAULT true,
		tokens_valid_from timestamptz,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT app_user_username_check CHECK (username ~ '^[^[:cntrl:]*]{1,128}$'),
		CONSTRAINT app_user_role_check CHECK (role IN ('iot_viewer', 'iot_operator', 'iot_admin'))
	);
	-- readable by the owner alone, like what is revoked: only functions look at them
	CREATE TABLE iot.app_user_secret (
		app_user_id uuid CONSTRAINT app_user_secret_pkey PRIMARY KEY
			CONSTRAINT app_user_secret_app_user_id_fkey REFERENCES iot.app_user ON DELETE CASCADE,
		password_hash text NOT NULL,
		changed_at timestamptz NOT NULL DEFAULT now()
	);
	CREATE TABLE iot.revoked_token (
		token_id text CONSTRAINT revoked_token_pkey PRIMARY KEY,
		app_user_id uuid NOT NULL CONSTRAINT revoked_token_app_user_id_fkey
			REFERENCES iot.app_user ON DELETE CASCADE,
		expires_at timestamptz NOT NULL,
		created_at timestamptz NOT NULL DEFAULT now()
	);
	CREATE INDEX revoked_token_app_user_id_idx ON iot.revoked_token (app_user_id);
	CREATE INDEX revoked_token_expires_at_idx ON iot.revoked_token (expires_at);
	CREATE TABLE iot.user_group (
		user_group_id uuid CONSTRAINT user_group_pkey PRIMARY KEY,
		name text NOT NULL CONSTRAINT user_group_name_key UNIQUE,
		description text,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT user_group_name_check CHECK (name ~ '^[A-Za-z0-9_.:-]{1,64}$')
	);
	CREATE TABLE iot.user_group_member (
		user_group_id uuid NOT NULL CONSTRAINT user_group_member_user_group_id_fkey
			REFERENCES iot.user_group ON DELETE CASCADE,
		app_user_id uuid NOT NULL CONSTRAINT user_group_member_app_user_id_fkey
			REFERENCES iot.app_user ON DELETE CASCADE,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT user_group_member_pkey PRIMARY KEY (user_group_id, app_user_id)
	);
	CREATE INDEX app_user_admin_idx ON iot.app_user (username)
		WHERE role = 'iot_admin' AND enabled;
	CREATE INDEX user_group_member_app_user_id_idx ON iot.user_group_member (app_user_id);
	CREATE TABLE iot.access_grant (
		user_group_id uuid NOT NULL CONSTRAINT access_grant_user_group_id_fkey
			REFERENCES iot.user_group ON DELETE CASCADE,
		device_group_id uuid NOT NULL CONSTRAINT access_grant_device_group_id_fkey
			REFERENCES iot.device_group ON DELETE CASCADE,
		level text NOT NULL,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT access_grant_pkey PRIMARY KEY (user_group_id, device_group_id),
		CONSTRAINT access_grant_level_check CHECK (level IN ('view', 'operate', 'manage'))
	);
	CREATE INDEX access_grant_device_group_id_idx ON iot.access_grant (device_group_id);
	-- secrets that options name; readable by owner and worker alone
	CREATE TABLE iot.secret (
		name text CONSTRAINT secret_pkey PRIMARY KEY,
		value text NOT NULL,
		created_at timestamptz NOT NULL DEFAULT now()
	);
END
$install$;
