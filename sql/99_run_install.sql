-- Make the tables, unless a restore is going to bring them: every pg_dump script sets row_security
-- to off before anything else.
SET LOCAL client_min_messages TO notice;

DO $install$
BEGIN
	IF pg_catalog.current_setting('row_security') = 'off' THEN
		RAISE NOTICE 'iot made functions only: row_security is off, as it is while a dump is restored'
			USING HINT = 'The dump brings the tables. Otherwise run "SELECT iot.install()".';
	ELSE
		PERFORM iot.install();
	END IF;
END
$install$;
