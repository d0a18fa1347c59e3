-- Roles are the cluster's, not the database's: a second database or a restore finds them.
DO $roles$
DECLARE
	role pg_catalog.text;
BEGIN
	FOREACH role IN ARRAY ARRAY['iot_owner', 'iot_worker', 'iot_pushd', 'iot_broker',
			'iot_viewer', 'iot_operator', 'iot_admin', 'iot_anon'] LOOP
		IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role) THEN
			BEGIN
				EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role);
			EXCEPTION WHEN duplicate_object OR unique_violation THEN
				NULL;			-- an installation in another database was first
			END;
		END IF;
	END LOOP;
END
$roles$;
