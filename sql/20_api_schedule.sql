-- pg_cron as the clock of maintenance, and the way out.

-- Where pg_cron keeps its jobs: here, elsewhere, or nowhere.
CREATE OR REPLACE FUNCTION iot_internal.cron_place() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	home text := current_setting('cron.database_name', true);
BEGIN
	IF EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
		RETURN 'here';
	ELSIF home IS NOT NULL AND home <> current_database() THEN
		RETURN format('in database "%s"', home);
	ELSIF home IS NOT NULL THEN
		RETURN 'in this database, after CREATE EXTENSION pg_cron';
	END IF;
	RETURN 'in the database that "cron.database_name" names, after pg_cron was installed and preloaded';
END
$function$;

CREATE OR REPLACE FUNCTION iot.schedule_maintenance() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	place text := iot_internal.cron_place();
	statement text := format(
		'SELECT cron.schedule_in_database(%L, %L, %L, %L)',
		'iot maintenance of ' || current_database(), '7 * * * *', 'CALL iot.maintain()',
		current_database());
BEGIN
	PERFORM iot_internal.require_superuser('iot.schedule_maintenance()');
	IF place = 'here' THEN
		EXECUTE statement;
	ELSE
		RAISE NOTICE 'maintenance is not scheduled: pg_cron is not in this database'
			USING HINT = format('Run this %s: %s;', place, statement);
	END IF;
	RETURN statement;
END
$function$;
COMMENT ON FUNCTION iot.schedule_maintenance() IS
	'have pg_cron run iot.maintain() each hour; returns the statement, to be run where pg_cron lives if that is elsewhere';

CREATE OR REPLACE FUNCTION iot.unschedule_maintenance() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	place text := iot_internal.cron_place();
	job text := 'iot maintenance of ' || current_database();
	statement text := format('SELECT cron.unschedule(j.jobid) FROM cron.job j WHERE j.jobname = %L',
		job);
BEGIN
	PERFORM iot_internal.require_superuser('iot.unschedule_maintenance()');
	IF place = 'here' THEN
		EXECUTE statement;
	ELSIF current_setting('cron.database_name', true) IS NOT NULL THEN
		RAISE NOTICE 'pg_cron is not in this database: a job for it may be left'
			USING HINT = format('Run this %s: %s;', place, statement);
	END IF;
	RETURN statement;
END
$function$;
COMMENT ON FUNCTION iot.unschedule_maintenance() IS
	'undo iot.schedule_maintenance(); returns the statement, to be run where pg_cron lives if that is elsewhere';

-- Everything goes, and what cannot go is told: one row each.
CREATE OR REPLACE FUNCTION iot.purge() RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	roles text[] := ARRAY['iot_owner', 'iot_worker', 'iot_pushd', 'iot_broker', 'iot_viewer',
		'iot_operator', 'iot_admin', 'iot_anon'];
	listed boolean := EXISTS (
		SELECT FROM regexp_split_to_table(current_setting('iot.databases', true), '\s*,\s*') AS d (name)
		WHERE d.name = current_database() OR d.name = quote_ident(current_database()));
	here oid := (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
	place text := iot_internal.cron_place();
	home text := current_setting('cron.database_name', true);
	role text;
	held text;
BEGIN
	PERFORM iot_internal.require_superuser('iot.purge()');
	PERFORM iot.unschedule_maintenance();
	IF place <> 'here' AND home IS NOT NULL THEN
		RETURN NEXT format('perhaps a job of pg_cron, %s: %s', place, iot.unschedule_maintenance());
	END IF;
	IF listed THEN
		RETURN NEXT format('database "%s" in the setting "iot.databases"', current_database());
	END IF;
	-- from here on nothing of ours may be called
	EXECUTE 'DROP EXTENSION iot CASCADE';
	EXECUTE 'DROP SCHEMA iot CASCADE';
	FOREACH role IN ARRAY roles LOOP
		CONTINUE WHEN NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role);
		SELECT string_agg(DISTINCT CASE
				WHEN d.dbid = here THEN 'objects of this database outside iot'
				WHEN d.dbid = 0 THEN 'objects of the whole server'
				ELSE format('database "%s"', b.datname) END, ', ')
			INTO held
			FROM pg_shdepend d LEFT JOIN pg_database b ON b.oid = d.dbid
			WHERE d.refclassid = 'pg_authid'::regclass
				AND d.refobjid = (SELECT r.oid FROM pg_roles r WHERE r.rolname = role);
		IF held IS NULL THEN
			EXECUTE format('DROP ROLE %I', role);
		ELSE
			RETURN NEXT format('role "%s", used by %s', role, held);
		END IF;
	END LOOP;
END
$function$;
COMMENT ON FUNCTION iot.purge() IS
	'remove the extension, all its data, its roles and its job; returns what it had to leave';
