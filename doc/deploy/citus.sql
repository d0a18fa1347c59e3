-- Distributes the tables of the extension iot by their class, with Citus (doc/scale-out.md):
--
--   psql -X -d 'host=coordinator.example dbname=iot' -f citus.sql
--   SELECT place, relation, class FROM iot_citus.plan();     what would be done
--   SELECT * FROM iot_citus.distribute();                    does it
--
-- as a superuser, where extensions citus and iot are there, before there are devices.

\set ON_ERROR_STOP on
BEGIN;

CREATE SCHEMA iot_citus;
REVOKE ALL ON SCHEMA iot_citus FROM PUBLIC;

-- Tables of the reference class are whole on every node, those of the device class are split by
-- device_id, and local ones stay what they are.
CREATE FUNCTION iot_citus.class() RETURNS TABLE (relation text, class text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT unnest(ARRAY['access_grant', 'adapter', 'alarm_rule', 'app_user', 'app_user_secret', 'device',
		'device_credential', 'device_credential_password', 'device_group', 'device_type', 'device_type_mapping',
		'escalation_step', 'mail_server', 'notification_mute', 'notification_rule',
		'notification_text', 'parameter', 'quiet_hours', 'retention', 'revoked_token', 'secret',
		'sensor', 'user_group', 'user_group_member', 'webhook']), 'reference'
	UNION ALL SELECT unnest(ARRAY['alarm', 'alarm_comment', 'alarm_rule_state', 'command',
		'device_state', 'measurement', 'rollup_hour', 'rollup_minute', 'rollup_pending',
		'saga_step', 'sensor_value']), 'device'
	UNION ALL SELECT unnest(ARRAY['adapter_session', 'alarm_rule_error', 'command_batch',
		'command_batch_item', 'consumer', 'dead_letter', 'delivery', 'discovery', 'dynsec', 'dynsec_change',
		'dynsec_client', 'dynsec_role', 'epoch', 'escalation', 'event', 'maintenance',
		'notification', 'notification_read', 'rollup_note', 'rollup_state', 'schema_version',
		'type_sweep', 'worker']), 'local'
$function$;

-- Statements in an order in which each table comes after those that it refers to: Citus wants the
-- target of a foreign key distributed first.
CREATE FUNCTION iot_citus.plan() RETURNS TABLE (place integer, relation text, class text, statement text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	unknown text;
	done regclass[] := '{}';
	first text;
	next record;
BEGIN
	SELECT c.relname INTO unknown FROM pg_class c
		WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p')
			AND NOT c.relispartition
			AND c.relname NOT IN (SELECT k.relation FROM iot_citus.class() k)
		ORDER BY c.relname LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'table "%" has no class', unknown
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Take the file citus.sql of the version that is installed.';
	END IF;
	place := 0;
	LOOP
		SELECT c.oid::regclass AS id, k.relation, k.class INTO next
			FROM iot_citus.class() k
				JOIN pg_class c ON c.relname = k.relation AND c.relnamespace = 'iot'::regnamespace
			WHERE k.class <> 'local' AND c.oid::regclass <> ALL (done)
				AND NOT EXISTS (SELECT FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'
					AND f.confrelid <> c.oid AND f.confrelid::regclass <> ALL (done))
			ORDER BY k.class = 'device', k.relation COLLATE "C" LIMIT 1;
		EXIT WHEN NOT FOUND;
		done := done || next.id;
		place := place + 1;
		relation := next.relation;
		class := next.class;
		statement := CASE next.class
			WHEN 'reference' THEN format('SELECT create_reference_table(%L)', 'iot.' || next.relation)
			ELSE format('SELECT create_distributed_table(%L, %L, colocate_with => %L)',
				'iot.' || next.relation, 'device_id', coalesce(first, 'none')) END;
		IF next.class = 'device' THEN
			first := coalesce(first, 'iot.' || next.relation);
		END IF;
		RETURN NEXT;
	END LOOP;
END
$function$;

CREATE FUNCTION iot_citus.distribute() RETURNS TABLE (relation text, class text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	step record;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'citus') THEN
		RAISE EXCEPTION 'extension "citus" is not installed in this database'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Preload citus on every node, and run CREATE EXTENSION citus.';
	END IF;
	-- ours use what their trigger is told, and never the name of its table
	PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
	FOR step IN SELECT * FROM iot_citus.plan() AS p ORDER BY p.place LOOP
		EXECUTE step.statement;
		relation := step.relation;
		class := step.class;
		RETURN NEXT;
	END LOOP;
END
$function$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA iot_citus FROM PUBLIC;
COMMIT;
