-- Making the tables, and adopting those of an earlier installation.

CREATE OR REPLACE FUNCTION iot_internal.require_superuser(what text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
		RAISE EXCEPTION 'permission denied to call %', what
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Only a superuser may do this.';
	END IF;
END
$function$;

-- Each area's part of a job, in the order in which their tables refer to each other.
CREATE OR REPLACE FUNCTION iot_internal.run_areas(job text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	area text;
BEGIN
	FOREACH area IN ARRAY
			ARRAY['registry', 'credential', 'saga', 'telemetry', 'rollup', 'alarm', 'notification',
				'push', 'operation', 'audit', 'access', 'comment'] LOOP
		IF to_regprocedure(format('iot_internal.%s_%s()', job, area)) IS NOT NULL THEN
			EXECUTE format('SELECT iot_internal.%s_%s()', job, area);
		END IF;
	END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.own() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	relation record;
BEGIN
	FOR relation IN
		SELECT c.oid::regclass AS name, CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind
		FROM pg_class c
		WHERE c.relnamespace = 'iot'::regnamespace
			AND c.relkind = ANY (ARRAY['r', 'p', 'v']::"char"[])
			AND c.relowner <> 'iot_owner'::regrole LOOP
		EXECUTE format('ALTER %s %s OWNER TO iot_owner', relation.kind, relation.name);
	END LOOP;
END
$function$;

-- An extension's script replaces no view that is not the extension's, and views outlive it.  Those who
-- arm detach again.
CREATE OR REPLACE FUNCTION iot_internal.attach_views() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	name regclass;
BEGIN
	FOR name IN
		SELECT c.oid FROM pg_class c
		WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind = 'v'
			AND NOT EXISTS (SELECT FROM pg_depend d
				WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') LOOP
		EXECUTE format('ALTER EXTENSION iot ADD VIEW %s', name);
	END LOOP;
END
$function$;

-- Until the end of the transaction no worker begins one; see src/worker_hold.c.
CREATE OR REPLACE FUNCTION iot_internal.hold_workers() RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'iot_hold_workers';

-- Takes all tables and views before any of them is changed, so that nobody's transaction has one and
-- waits for another that we have.  Where that happens on the way we notice first, let go of all, and begin
-- anew; those who come meanwhile wait at the devices, which most ask for first.  Partitions may be many,
-- and are reached through their tables alone.
CREATE OR REPLACE FUNCTION iot_internal.hold_tables() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET deadlock_timeout = '10 ms' AS $function$
DECLARE
	kinds "char"[] := ARRAY['r', 'p', 'v']::"char"[];
BEGIN
	FOR turn IN 1 .. 1000 LOOP
		BEGIN
			EXECUTE (SELECT format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE',
					string_agg('ONLY ' || c.oid::regclass, ', ' ORDER BY c.relname <> 'device', c.oid))
				FROM pg_class c
				WHERE c.relnamespace = 'iot'::regnamespace AND NOT c.relispartition AND c.relkind = ANY (kinds));
			RETURN;
		EXCEPTION
			WHEN deadlock_detected THEN
				PERFORM pg_sleep(random() * 0.02);
			-- somebody's own view of what its owner may not read
			WHEN insufficient_privilege THEN
				kinds := ARRAY['r', 'p']::"char"[];
		END;
	END LOOP;
	RAISE EXCEPTION 'could not lock the tables of iot'
		USING ERRCODE = 'lock_not_available', HINT = 'Try again when less is going on.';
END
$function$;

-- Everything that depends on the functions of this version and not on the rows: defaults, triggers,
-- views, policies, grants, comments.  Can be run at any time, and makes the same again.
CREATE OR REPLACE FUNCTION iot_internal.arm() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning AS $function$
BEGIN
	-- before, since arming may call the owner's functions; after, for the views that it makes
	PERFORM iot_internal.own();
	PERFORM iot_internal.attach_views();
	PERFORM iot_internal.run_areas('arm');
	PERFORM iot_internal.own();
END
$function$;

-- What an extension's script makes belongs to the extension; the users' data must not: a dump
-- carries the tables, and DROP EXTENSION leaves them alone.
CREATE OR REPLACE FUNCTION iot_internal.detach() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	member record;
BEGIN
	FOR member IN
		SELECT c.oid::regclass AS name,
			CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
		FROM pg_depend d
			JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'iot'
			JOIN pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_class'::regclass
			AND d.refclassid = 'pg_extension'::regclass
			AND d.deptype = 'e'
			AND c.relnamespace = 'iot'::regnamespace LOOP
		EXECUTE format('ALTER EXTENSION iot DROP %s %s', member.kind, member.name);
	END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION iot.migrate() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	version integer;
BEGIN
	PERFORM iot_internal.require_superuser('iot.migrate()');
	PERFORM iot_internal.hold_workers();
	IF to_regclass('iot.schema_version') IS NULL THEN
		RAISE EXCEPTION 'iot has no tables in this database'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Run "SELECT iot.install()".';
	END IF;
	-- before, since who locks a view needs its owner's rights to the tables
	PERFORM iot_internal.own();
	PERFORM iot_internal.hold_tables();
	SELECT v.version INTO version FROM iot.schema_version v FOR UPDATE;
	IF version > iot_internal.schema_version() THEN
		RAISE EXCEPTION 'the tables of iot have version %, its functions know version %',
				version, iot_internal.schema_version()
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Install the newer extension and run "ALTER EXTENSION iot UPDATE".';
	END IF;
	FOR step IN coalesce(version, iot_internal.schema_version()) + 1
			.. iot_internal.schema_version() LOOP
		EXECUTE format('SELECT iot_internal.migrate_to_%s()', step);
		UPDATE iot.schema_version SET version = step, migrated_at = now();
	END LOOP;
	PERFORM iot_internal.arm();
	PERFORM iot_internal.audit_tables();
	PERFORM iot_internal.detach();
END
$function$;
COMMENT ON FUNCTION iot.migrate() IS
	'bring the tables to the version of the functions, and arm them again';

CREATE OR REPLACE FUNCTION iot.install() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.require_superuser('iot.install()');
	IF to_regclass('iot.schema_version') IS NOT NULL THEN
		PERFORM iot.migrate();
		RETURN;
	END IF;
	PERFORM iot_internal.run_areas('install');
	PERFORM iot_internal.arm();
	PERFORM iot_internal.run_areas('seed');
	PERFORM iot_internal.maintain_step();
	-- what came with the installation, nobody did
	PERFORM iot_internal.audit_tables();
	PERFORM iot_internal.detach();
END
$function$;
COMMENT ON FUNCTION iot.install() IS
	'make the tables where there are none, adopt and arm those that are there';

CREATE OR REPLACE FUNCTION iot.resume() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	state text;
BEGIN
	IF NOT iot_internal.is_admin() THEN
		RAISE EXCEPTION 'permission denied to call iot.resume()'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Adapters and deliveries of a copy are released by a member of iot_admin.';
	END IF;
	state := iot_internal.check_epoch();
	IF state = 'ok' THEN
		RAISE NOTICE 'iot is not paused';
	ELSIF state = 'paused' THEN
		-- The original may have sent these already, or long ago: here they end at their deadline,
		-- which is now, rather than reach a device or keep later ones waiting.
		UPDATE iot.command c SET deadline = now()
			FROM iot.epoch e
			WHERE c.finished_at IS NULL AND c.status = 'COMMITTED'
				AND c.created_at < e.created_at AND c.deadline > now();
		-- and what was being rolled out waits for somebody who wants it here
		UPDATE iot.command_batch b SET status = 'PAUSED'
			FROM iot.epoch e
			WHERE b.finished_at IS NULL AND b.status = 'RUNNING' AND b.created_at < e.created_at;
		-- the original goes on reminding of its alarms, and escalating them
		DELETE FROM iot.escalation s USING iot.epoch e WHERE s.created_at < e.created_at;
		UPDATE iot.epoch SET paused = false;
	ELSE
		RAISE EXCEPTION 'iot cannot be resumed: its state is "%"', state
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'SELECT * FROM iot.check() says what to do first.';
	END IF;
END
$function$;
COMMENT ON FUNCTION iot.resume() IS
	'let the adapters and deliveries of a restored or cloned database speak to the world';
