\echo Use "CREATE EXTENSION iot" to load this file. \quit

SET LOCAL search_path TO pg_catalog, pg_temp;
-- functions come before the tables that they read, and in a restore before all data
SET LOCAL check_function_bodies TO off;

-- Whoever owns a schema decides what its names mean.  Schema iot must belong to the installer or a
-- superuser, and must not hold functions that calls of ours could be led to.
DO $guard$
DECLARE
	owner pg_catalog.oid;
	intruder pg_catalog.text;
BEGIN
	SELECT n.nspowner INTO owner FROM pg_catalog.pg_namespace n WHERE n.nspname = 'iot';
	IF owner <> (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
		AND NOT (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = owner) THEN
		RAISE EXCEPTION 'schema "iot" belongs to role "%"', pg_catalog.pg_get_userbyid(owner)
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Give the schema to a superuser, or drop it, and install again.';
	END IF;
	SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text INTO intruder
		FROM pg_catalog.pg_proc p
		WHERE p.pronamespace = 'iot'::pg_catalog.regnamespace LIMIT 1;
	IF intruder IS NOT NULL THEN
		RAISE EXCEPTION 'schema "iot" already holds function %', intruder
			USING ERRCODE = 'duplicate_function',
				HINT = 'The schema must hold nothing but tables of iot. Move or drop the function.';
	END IF;
	-- tables of an earlier installation are adopted, but nobody else's: triggers and defaults of
	-- theirs would run with the powers of whoever writes
	SELECT c.oid::pg_catalog.regclass::pg_catalog.text INTO intruder
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
		WHERE c.relnamespace = 'iot'::pg_catalog.regnamespace
			AND NOT r.rolsuper AND r.rolname <> 'iot_owner' AND r.rolname <> current_user
		ORDER BY c.oid LIMIT 1;
	IF intruder IS NOT NULL THEN
		RAISE EXCEPTION 'relation % belongs to somebody else', intruder
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Schema "iot" must hold nothing but tables of iot. Move or drop the relation.';
	END IF;
	IF pg_catalog.to_regnamespace('iot_internal') IS NOT NULL THEN
		RAISE EXCEPTION 'schema "iot_internal" already exists'
			USING ERRCODE = 'duplicate_schema',
				HINT = 'The extension makes this schema itself. Rename or drop the one that is there.';
	END IF;
END
$guard$;

CREATE SCHEMA iot_internal;
