-- Who may call what.  Nobody may anything by default.

DO $privilege$
DECLARE
	routine record;
BEGIN
	FOR routine IN
		SELECT p.oid::pg_catalog.regprocedure AS name,
			CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind,
			p.prosecdef AS definer
		FROM pg_catalog.pg_proc p
		WHERE p.pronamespace = 'iot'::pg_catalog.regnamespace
			OR p.pronamespace = 'iot_internal'::pg_catalog.regnamespace LOOP
		-- in an update also what an earlier version gave to our roles; never what users gave to theirs
		EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM PUBLIC, iot_worker, iot_pushd, iot_broker, '
			'iot_viewer, iot_operator, iot_admin, iot_anon', routine.kind, routine.name);
		-- not the installing superuser's power, but that over the tables alone
		IF routine.definer THEN
			EXECUTE pg_catalog.format('ALTER %s %s OWNER TO iot_owner', routine.kind, routine.name);
		END IF;
	END LOOP;
END
$privilege$;

REVOKE ALL ON SCHEMA iot, iot_internal FROM PUBLIC;
GRANT USAGE ON SCHEMA iot TO iot_viewer, iot_operator, iot_admin, iot_worker, iot_pushd;
GRANT USAGE, CREATE ON SCHEMA iot TO iot_owner;
GRANT USAGE ON SCHEMA iot_internal TO iot_owner, iot_worker, iot_pushd, iot_admin;
-- functions of the owner call each other
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA iot, iot_internal TO iot_owner;

-- defaults, views and whoever asks need these
GRANT EXECUTE ON FUNCTION iot_internal.uuidv7(), iot_internal.current_username(),
	iot_internal.is_admin() TO iot_viewer, iot_operator, iot_admin, iot_worker, iot_pushd;
GRANT EXECUTE ON FUNCTION iot.may(text, uuid, text)
	TO iot_viewer, iot_operator, iot_admin, iot_worker, iot_pushd;
GRANT EXECUTE ON FUNCTION iot.create_device(text, text[], text, text, text, uuid)
	TO iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot_internal.check_epoch(), iot_internal.epoch_state(),
	iot_internal.schema_version() TO iot_worker, iot_pushd, iot_admin;
GRANT EXECUTE ON FUNCTION
	iot_internal.worker_heartbeat(text, text, uuid, integer, text, text, jsonb),
	iot_internal.worker_adapters(), iot_internal.worker_forget(),
	iot_internal.adapter_config(uuid, integer), iot_internal.adapter_session(uuid, integer, text[]),
	iot_internal.register_devices(uuid, text[], text[], text[])
	TO iot_worker;
GRANT EXECUTE ON FUNCTION iot_internal.maintain_step() TO iot_worker, iot_admin;
GRANT EXECUTE ON PROCEDURE iot.maintain() TO iot_worker, iot_admin;
GRANT EXECUTE ON FUNCTION iot.resume() TO iot_admin;
GRANT USAGE ON SCHEMA iot TO pg_monitor;
GRANT EXECUTE ON FUNCTION iot.status(), iot.check(), iot_internal.metrics()
	TO iot_operator, iot_admin, pg_monitor;
