-- Make the tables, unless a restore is going to bring them: every pg_dump script sets row_security
-- to off before anything else.  Then let the extension go of them: they are the users' data, not
-- ours (a dump must carry them, DROP EXTENSION must not).
SET LOCAL client_min_messages TO notice;

DO $install$
DECLARE
	member pg_catalog.record;
BEGIN
	IF pg_catalog.current_setting('row_security') = 'off' THEN
		RAISE NOTICE 'iot made functions only: row_security is off, as it is while a dump is restored'
			USING HINT = 'The dump brings the tables. Otherwise run "SELECT iot.install()".';
		RETURN;
	END IF;
	PERFORM iot.install();
	FOR member IN
		SELECT c.oid::pg_catalog.regclass AS name,
			CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
		FROM pg_catalog.pg_depend d
			JOIN pg_catalog.pg_class c ON c.oid = d.objid
		WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
			AND d.refobjid = (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = 'iot')
			AND d.deptype = 'e' LOOP
		EXECUTE pg_catalog.format('ALTER EXTENSION iot DROP %s %s', member.kind, member.name);
	END LOOP;
END
$install$;
