-- Makes a database with the extension a cell, one of several that are used as one (doc/scale-out.md):
--
--   psql -X -v cell=north -d 'host=north.example dbname=iot' -f cell.sql
--
-- as a superuser.  It can be run again.  The front database logs in as role iot_front, which may speak
-- for users here as iot-pushd does: whoever holds its password is trusted with all of them.

\set ON_ERROR_STOP on
BEGIN;

SELECT 'CREATE ROLE iot_front LOGIN NOINHERIT' WHERE NOT EXISTS (
	SELECT FROM pg_roles WHERE rolname = 'iot_front') \gexec
GRANT iot_viewer, iot_operator, iot_admin TO iot_front;
-- holds in its sessions alone, beside what the server's own list says of others
ALTER ROLE iot_front SET iot.authenticators = 'iot_front';
ALTER ROLE iot_front SET statement_timeout = '8s';

-- Topics of this cell's own: what its adapter subscribes to is what its devices send.  The defaults
-- hold for device types that are still to come, so that these are made by one statement everywhere.
SELECT format('UPDATE iot.device_type SET %1$I = replace(%1$I, ''iot/{device}/'', %3$L)
		WHERE %1$I LIKE ''iot/{device}/%%'';
	ALTER TABLE iot.device_type ALTER COLUMN %1$I SET DEFAULT %2$L',
		t.topic || '_topic',
		'iot/' || :'cell' || '/{device}/' || t.rest,
		'iot/' || :'cell' || '/{device}/')
	FROM (VALUES ('telemetry', 'telemetry'), ('attributes', 'attributes'), ('status', 'status'),
		('command', 'command'), ('ack', 'command/ack')) AS t (topic, rest) \gexec

CREATE SCHEMA IF NOT EXISTS iot_cell;
REVOKE ALL ON SCHEMA iot_cell FROM PUBLIC;

SELECT format('CREATE OR REPLACE FUNCTION iot_cell.name() RETURNS text
	LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp RETURN %L::text', :'cell') \gexec

-- For the rest of the transaction the session is this user, as PostgREST would make it.
CREATE OR REPLACE FUNCTION iot_cell.become(username text, claims jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	acts_as text := iot_internal.request_role(username);
BEGIN
	IF NOT iot_internal.is_authenticator() OR acts_as IS NULL THEN
		RAISE EXCEPTION 'permission denied for user "%"', username
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'A user has a row in iot.app_user of every cell.';
	END IF;
	PERFORM set_config('request.jwt.claims', (claims || jsonb_build_object('sub', username,
			'role', acts_as))::text, true),
		set_config('role', acts_as, true);
END
$function$;

CREATE OR REPLACE FUNCTION iot_cell.create_device(username text, claims jsonb, device text,
	parameters text[], device_group text, device_type text, device_id uuid) RETURNS uuid
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_cell.become(username, claims);
	RETURN iot.create_device(name => device, parameters => create_device.parameters,
		device_group => create_device.device_group, device_type => create_device.device_type,
		id => create_device.device_id);
END
$function$;

CREATE OR REPLACE FUNCTION iot_cell.ingest(username text, claims jsonb, device text,
	measurements jsonb, ts timestamptz) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_cell.become(username, claims);
	RETURN iot.ingest(device, measurements, ts);
END
$function$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA iot_cell FROM PUBLIC;
GRANT USAGE ON SCHEMA iot_cell, iot_internal TO iot_front;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA iot_cell TO iot_front;
GRANT EXECUTE ON FUNCTION iot_internal.request(text, jsonb, jsonb), iot_internal.request_role(text),
	iot_internal.request_error(jsonb, text, text, text, text), iot_internal.is_authenticator()
	TO iot_front;

COMMIT;
