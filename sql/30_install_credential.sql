-- What devices log in to the broker with, and what the broker is known to have of it.

CREATE OR REPLACE FUNCTION iot_internal.install_credential() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $install$
BEGIN
	-- class "reference"
	CREATE TABLE iot.device_credential (
		credential_id uuid CONSTRAINT device_credential_pkey PRIMARY KEY,
		device_id uuid NOT NULL
			CONSTRAINT device_credential_device_id_fkey REFERENCES iot.device ON DELETE CASCADE,
		username text NOT NULL CONSTRAINT device_credential_username_key UNIQUE,
		password_hash text NOT NULL,
		salt text NOT NULL,
		enabled boolean NOT NULL DEFAULT true,
		valid_until timestamptz,
		broker_state text,
		broker_error text,
		created_at timestamptz NOT NULL DEFAULT now(),
		CONSTRAINT device_credential_broker_state_check
			CHECK (broker_state IN ('waiting', 'present', 'missing', 'refused'))
	);
	CREATE INDEX device_credential_device_id_idx ON iot.device_credential (device_id);
	CREATE INDEX device_credential_valid_until_idx ON iot.device_credential (valid_until)
		WHERE valid_until IS NOT NULL;
	CREATE INDEX device_credential_refused_idx ON iot.device_credential (device_id)
		WHERE broker_state = 'refused';
	-- for as long as the broker does not have it: see sql/20_dynsec.sql
	CREATE TABLE iot.device_credential_password (
		credential_id uuid CONSTRAINT device_credential_password_pkey PRIMARY KEY
			CONSTRAINT device_credential_password_credential_id_fkey
			REFERENCES iot.device_credential ON DELETE CASCADE,
		password text NOT NULL,
		created_at timestamptz NOT NULL DEFAULT now()
	);

	-- class "local": one talk with a broker's dynamic security plugin, what it said it has, and the
	-- devices that are to be looked at
	CREATE TABLE iot.dynsec (
		adapter_id uuid CONSTRAINT dynsec_pkey PRIMARY KEY
			CONSTRAINT dynsec_adapter_id_fkey REFERENCES iot.adapter ON DELETE CASCADE,
		phase text NOT NULL,
		position integer NOT NULL DEFAULT 0,
		tag text,
		asked jsonb,
		failures integer NOT NULL DEFAULT 0,
		error text,
		settled_at timestamptz,
		CONSTRAINT dynsec_phase_check CHECK (phase IN ('clients', 'roles', 'apply', 'failed'))
	);
	CREATE TABLE iot.dynsec_client (
		adapter_id uuid NOT NULL
			CONSTRAINT dynsec_client_adapter_id_fkey REFERENCES iot.adapter ON DELETE CASCADE,
		username text NOT NULL,
		device_id uuid NOT NULL,
		credential_id uuid NOT NULL,
		rolename text,
		disabled boolean NOT NULL,
		CONSTRAINT dynsec_client_pkey PRIMARY KEY (adapter_id, username)
	);
	CREATE INDEX dynsec_client_adapter_id_device_id_idx ON iot.dynsec_client (adapter_id, device_id);
	CREATE TABLE iot.dynsec_role (
		adapter_id uuid NOT NULL
			CONSTRAINT dynsec_role_adapter_id_fkey REFERENCES iot.adapter ON DELETE CASCADE,
		rolename text NOT NULL,
		device_id uuid NOT NULL,
		acls text[] NOT NULL,
		CONSTRAINT dynsec_role_pkey PRIMARY KEY (adapter_id, rolename)
	);
	CREATE INDEX dynsec_role_adapter_id_device_id_idx ON iot.dynsec_role (adapter_id, device_id);
	CREATE TABLE iot.dynsec_change (
		adapter_id uuid NOT NULL
			CONSTRAINT dynsec_change_adapter_id_fkey REFERENCES iot.adapter ON DELETE CASCADE,
		priority smallint NOT NULL,
		change_id bigint GENERATED ALWAYS AS IDENTITY,
		device_id uuid NOT NULL,
		CONSTRAINT dynsec_change_pkey PRIMARY KEY (adapter_id, priority, change_id)
	);
END
$install$;
