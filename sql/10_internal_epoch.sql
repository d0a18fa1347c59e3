-- Which copy of the data this is.

CREATE OR REPLACE FUNCTION iot_internal.system_identifier() RETURNS bigint
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_system_identifier_sql';

CREATE OR REPLACE FUNCTION iot_internal.timeline() RETURNS integer
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_timeline_sql';

-- Version of the tables that these functions know; iot.schema_version holds that of the data.  Asked by
-- every transaction of a worker: so it is one that the planner puts its value in place of, which needs
-- it to have no settings of its own, and its body names nothing.  A plan that was kept is made anew
-- when an update replaces the function.
CREATE OR REPLACE FUNCTION iot_internal.schema_version() RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT 1';

-- What the tables say of this server, without writing anything:
--   ok        the data is at home here and workers may work
--   paused    a copy that nobody has resumed
--   foreign   the data came from another server or database, and nobody has noticed yet
--   promoted  a new timeline of the same server, not noticed yet
--   outdated  the tables are older than the functions: iot.migrate()
--   newer     the functions are older than the tables: ALTER EXTENSION iot UPDATE
--   standby   nothing can be written
--   absent    there are no tables, or not all of their rows and grants yet: iot.install()
CREATE OR REPLACE FUNCTION iot_internal.epoch_state() RETURNS text
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_epoch_state';

-- The state as above, after the tables have been told of a new server or timeline.  Whoever is about
-- to speak to the world asks this first, and is silent unless the answer is "ok".
--
-- Cursors start at now: transaction numbers of another server mean nothing here.
CREATE OR REPLACE FUNCTION iot_internal.check_epoch() RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	state text := iot_internal.epoch_state();
BEGIN
	IF state <> 'foreign' AND state <> 'promoted' THEN
		RETURN state;
	END IF;
	PERFORM FROM iot.epoch FOR UPDATE;
	state := iot_internal.epoch_state();	-- another session may have been first
	IF state = 'foreign' THEN
		UPDATE iot.epoch SET
			epoch = iot_internal.uuidv7(),
			system_identifier = iot_internal.system_identifier(),
			database_oid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()),
			timeline = iot_internal.timeline(),
			paused = true,
			first_event_id = coalesce((SELECT max(e.id) FROM iot.event e), 0),
			created_at = now();
		UPDATE iot.consumer SET last = pg_current_snapshot(), target = NULL, after_id = NULL,
			advanced_at = now();
		-- what workers of the other server said of themselves
		DELETE FROM iot.worker;
		RAISE LOG 'iot: this database is a copy; adapters and deliveries pause until iot.resume()';
	ELSIF state = 'promoted' THEN
		UPDATE iot.epoch SET epoch = iot_internal.uuidv7(), timeline = iot_internal.timeline(),
			created_at = now();
	END IF;
	RETURN iot_internal.epoch_state();
END
$function$;
