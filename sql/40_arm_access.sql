-- Who sees and changes which rows.  Comes after all other tables are armed.
--
-- Every table has row-level security, so that one that nobody thought of is closed to people.  The
-- owner, hence every function that runs with his rights, passes; so do superusers, and with them
-- pg_dump.

CREATE OR REPLACE FUNCTION iot_internal.arm_access() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
DECLARE
	people constant text := 'iot_viewer, iot_operator';
	known constant text := '(SELECT iot_internal.is_user())';
	me constant text := '(SELECT iot_internal.current_username())';
	viewed constant text := '((SELECT iot_internal.granted_groups(''view''))::uuid[])';
	managed constant text := '((SELECT iot_internal.granted_groups(''manage''))::uuid[])';
	in_own_groups constant text :=
		'user_group_id = ANY ((SELECT iot_internal.own_user_groups())::uuid[])';
	in_viewed constant text := format('iot_internal.device_in_groups(device_id, %s)', viewed);
	in_managed constant text := format('iot_internal.device_in_groups(device_id, %s)', managed);
	relation regclass;
	role text;
	command text;
BEGIN
	-- those who work for everybody: as far as their grants go, all rows
	FOR relation IN
		SELECT c.oid FROM pg_class c
		WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind = ANY (ARRAY['r', 'p']::"char"[])
			AND NOT c.relispartition ORDER BY c.relname LOOP
		EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
		FOREACH role IN ARRAY ARRAY['iot_admin', 'iot_worker', 'iot_pushd'] LOOP
			IF has_any_column_privilege(role, relation, 'SELECT, INSERT, UPDATE')
				OR has_table_privilege(role, relation, 'DELETE') THEN
				PERFORM iot_internal.make_policy(relation, role, 'ALL', role,
					-- a role may administer, and the token that took it on be revoked
					CASE role WHEN 'iot_admin' THEN '(SELECT iot_internal.is_admin())' ELSE 'true' END);
			ELSE
				EXECUTE format('DROP POLICY IF EXISTS %I ON %s', role, relation);
			END IF;
		END LOOP;
	END LOOP;

	-- rows of a device, for whoever may view it
	FOREACH relation IN ARRAY ARRAY['iot.sensor', 'iot.device_state', 'iot.sensor_value',
			'iot.measurement', 'iot.rollup_minute', 'iot.rollup_hour', 'iot.command',
			'iot.saga_step', 'iot.command_batch_item', 'iot.alarm', 'iot.alarm_comment',
			'iot.event']::regclass[] LOOP
		PERFORM iot_internal.make_policy(relation, 'view', 'SELECT', people, in_viewed);
		EXECUTE format('GRANT SELECT ON %s TO %s', relation, people);
	END LOOP;
	PERFORM
		iot_internal.make_policy('iot.device', 'view', 'SELECT', people,
			'device_group_id = ANY ' || viewed),
		iot_internal.make_policy('iot.device_group', 'view', 'SELECT', people,
			'device_group_id = ANY ' || viewed),
		iot_internal.make_policy('iot.command_batch', 'view', 'SELECT', people,
			'iot_internal.may_command_batch(command_batch_id, ''view'')'),
		-- what is said about all devices is no secret, what about a type of them neither
		iot_internal.make_policy('iot.alarm_rule', 'view', 'SELECT', people, format(
			'CASE scope WHEN ''group'' THEN device_group_id = ANY %s WHEN ''device'' THEN %s ELSE %s END',
			viewed, in_viewed, known)),
		iot_internal.make_policy('iot.parameter', 'known_user', 'SELECT', people, known),
		iot_internal.make_policy('iot.device_type', 'known_user', 'SELECT', people, known),
		iot_internal.make_policy('iot.device_type_mapping', 'known_user', 'SELECT', people, known);

	-- one's own
	PERFORM
		iot_internal.make_policy('iot.app_user', 'own', 'SELECT', people,
			'enabled AND username = ' || me),
		iot_internal.make_policy('iot.notification_read', 'own', 'SELECT', people,
			format('%s AND username = %s', known, me)),
		iot_internal.make_policy('iot.delivery', 'own', 'SELECT', people,
			format('%s AND channel = ''push'' AND recipient = %s', known, me)),
		-- as iot.notifications() decides
		iot_internal.make_policy('iot.notification', 'told', 'SELECT', people, format(
			'channel = ''push'' AND %s'
			' AND CASE audience WHEN ''author'' THEN username = %s'
				' ELSE audience = ANY ((SELECT iot_internal.own_audiences())::text[]) END'
			' AND NOT iot_internal.told_before(event_id, seq)', in_viewed, me));
	PERFORM
		iot_internal.make_policy('iot.user_group', 'own', 'SELECT', people, in_own_groups),
		iot_internal.make_policy('iot.access_grant', 'own', 'SELECT', people, in_own_groups),
		iot_internal.make_policy('iot.user_group_member', 'own', 'SELECT', people,
			'app_user_id IN (SELECT u.app_user_id FROM iot.app_user u WHERE u.username = ' || me || ')');
	GRANT SELECT ON iot.device, iot.device_group, iot.command_batch, iot.alarm_rule, iot.parameter,
		iot.device_type, iot.device_type_mapping, iot.notification_read, iot.delivery, iot.notification, iot.app_user,
		iot.user_group, iot.user_group_member, iot.access_grant TO iot_viewer, iot_operator;
	-- for views that show its name to administrators: no row passes
	GRANT SELECT (adapter_id, name) ON iot.adapter TO iot_viewer, iot_operator;

	-- devices, their sensors and the rules about them, for whoever manages their group: before and
	-- after a change
	FOREACH command IN ARRAY ARRAY['INSERT', 'UPDATE', 'DELETE'] LOOP
		PERFORM
			iot_internal.make_policy('iot.device', 'manage_' || lower(command), command,
				'iot_operator', 'device_group_id = ANY ' || managed),
			iot_internal.make_policy('iot.sensor', 'manage_' || lower(command), command,
				'iot_operator', in_managed),
			iot_internal.make_policy('iot.alarm_rule', 'manage_' || lower(command), command,
				'iot_operator', format('CASE scope WHEN ''group'' THEN device_group_id = ANY %s'
					' WHEN ''device'' THEN %s ELSE false END', managed, in_managed));
	END LOOP;
	GRANT INSERT, UPDATE, DELETE ON iot.device, iot.sensor, iot.alarm_rule TO iot_operator;
END
$arm$;
