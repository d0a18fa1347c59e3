-- The registry's functions: making a device, and the one rule of who may do what.

-- Order of access levels, each including those below it.
CREATE OR REPLACE FUNCTION iot_internal.level_rank(level text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	rank integer := array_position(ARRAY['view', 'operate', 'manage'], level);
BEGIN
	IF rank IS NULL THEN
		RAISE EXCEPTION 'invalid access level "%"', level
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Levels are "view", "operate" and "manage".';
	END IF;
	RETURN rank;
END
$function$;

-- Roles that pass every check: superusers and whoever holds iot_admin's privileges.  In a session of
-- an authenticator names are what tokens claim: one that is spelt like such a role gives nobody its
-- powers, unless the session administers by its own role.
CREATE OR REPLACE FUNCTION iot_internal.is_admin_role(username text) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN EXISTS (
		SELECT FROM pg_roles r
		WHERE r.rolname = is_admin_role.username
			AND (r.rolsuper OR pg_has_role(r.oid, 'iot_admin', 'USAGE')))
		AND (NOT iot_internal.is_authenticator() OR iot_internal.is_admin());
END
$function$;

-- Users who pass every check: such roles, and enabled users whose role in iot.app_user is iot_admin,
-- which is what their tokens say.
CREATE OR REPLACE FUNCTION iot_internal.is_admin_user(username text) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN EXISTS (
		SELECT FROM iot.app_user u
		WHERE u.username = is_admin_user.username AND u.enabled AND u.role = 'iot_admin')
		OR iot_internal.is_admin_role(is_admin_user.username);
END
$function$;

-- Never raises but for a level that does not exist: whoever or whatever is unknown, NULL or
-- disabled may nothing.  PL/pgSQL, because a session then plans it once.
CREATE OR REPLACE FUNCTION iot.may(username text, device_id uuid, level text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	levels text[] := ARRAY['view', 'operate', 'manage'];
	group_id uuid;
BEGIN
	-- a level includes those below it
	levels := levels[array_position(levels, may.level):];
	IF cardinality(levels) = 0 OR levels IS NULL THEN
		PERFORM iot_internal.level_rank(may.level);
		RETURN false;
	END IF;
	SELECT d.device_group_id INTO group_id FROM iot.device d WHERE d.device_id = may.device_id;
	IF NOT FOUND OR may.username IS NULL THEN
		RETURN false;
	END IF;
	RETURN EXISTS (
			SELECT FROM iot.app_user u
				JOIN iot.user_group_member m ON m.app_user_id = u.app_user_id
				JOIN iot.access_grant g ON g.user_group_id = m.user_group_id
			WHERE u.username = may.username
				AND u.enabled
				AND g.device_group_id = group_id
				AND g.level = ANY (levels))
		OR iot_internal.is_admin_user(may.username);
END
$function$;
COMMENT ON FUNCTION iot.may(text, uuid, text) IS
	'whether a user may view, operate or manage a device';

-- Whether the caller may put devices into a group.
CREATE OR REPLACE FUNCTION iot_internal.may_manage_group(device_group_id uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.is_admin() OR device_group_id = ANY (iot_internal.granted_groups('manage'))
$function$;

-- Calling it again with the same arguments gives the same device, so that a script can be run
-- twice; with others it is an error, since nothing is changed in silence.  A fleet is registered by one
-- session, whose plans must not be those for the table that it began with: hence no enable_seqscan.
CREATE OR REPLACE FUNCTION iot.create_device(
	name text,
	parameters text[],
	device_group text DEFAULT 'default',
	device_type text DEFAULT 'default',
	adapter text DEFAULT 'mqtt',
	id uuid DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	wanted_group uuid := (SELECT g.device_group_id FROM iot.device_group g
		WHERE g.name = create_device.device_group);
	wanted_type uuid := (SELECT t.device_type_id FROM iot.device_type t
		WHERE t.name = create_device.device_type);
	wanted_adapter uuid := (SELECT a.adapter_id FROM iot.adapter a
		WHERE a.name = create_device.adapter);
	wanted_parameters uuid[];
	unknown text;
	present iot.device;
	difference text;
	made uuid;
BEGIN
	IF create_device.name IS NULL OR parameters IS NULL
		OR EXISTS (SELECT FROM unnest(parameters) AS w (parameter) WHERE w.parameter IS NULL) THEN
		RAISE EXCEPTION 'name and parameters of a device must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'A device without parameters has an empty array: ''{}''.';
	END IF;
	IF array_ndims(parameters) > 1 THEN
		RAISE EXCEPTION 'parameters of a device must be a list of names'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give an array of one dimension, such as ARRAY[''temperature'', ''valve''].';
	END IF;
	IF wanted_group IS NULL THEN
		RAISE EXCEPTION 'device group "%" does not exist', device_group
			USING ERRCODE = 'undefined_object',
				HINT = 'Insert it into iot.device_group first.';
	END IF;
	IF NOT iot_internal.may_manage_group(wanted_group) THEN
		RAISE EXCEPTION 'permission denied for device group "%"', device_group
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Making a device needs level "manage" on its group in iot.access_grant, or role iot_admin.';
	END IF;
	IF wanted_type IS NULL THEN
		RAISE EXCEPTION 'device type "%" does not exist', device_type
			USING ERRCODE = 'undefined_object',
				HINT = 'Insert it into iot.device_type first.';
	END IF;
	IF wanted_adapter IS NULL THEN
		RAISE EXCEPTION 'adapter "%" does not exist', adapter
			USING ERRCODE = 'undefined_object',
				HINT = 'Insert it into iot.adapter first.';
	END IF;
	SELECT w.parameter INTO unknown
		FROM unnest(parameters) WITH ORDINALITY AS w (parameter, place)
		WHERE NOT EXISTS (SELECT FROM iot.parameter p WHERE p.name = w.parameter)
		ORDER BY w.place LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'parameter "%" does not exist', unknown
			USING ERRCODE = 'undefined_object',
				HINT = 'Insert it into iot.parameter first.';
	END IF;
	wanted_parameters := ARRAY(SELECT p.parameter_id FROM iot.parameter p
		WHERE p.name = ANY (parameters) ORDER BY p.parameter_id);

	INSERT INTO iot.device (device_id, name, device_group_id, device_type_id, adapter_id)
		VALUES (coalesce(id, iot_internal.uuidv7()), create_device.name,
			wanted_group, wanted_type, wanted_adapter)
		ON CONFLICT DO NOTHING
		RETURNING device_id INTO made;
	IF made IS NOT NULL THEN
		INSERT INTO iot.sensor (device_id, parameter_id)
			SELECT made, w.parameter_id FROM unnest(wanted_parameters) AS w (parameter_id);
		RETURN made;
	END IF;

	SELECT d.* INTO present FROM iot.device d WHERE d.name = create_device.name;
	IF NOT FOUND AND EXISTS (SELECT FROM iot.device d WHERE d.external_id = create_device.name) THEN
		RAISE EXCEPTION 'name "%" is the external_id of another device', create_device.name
			USING ERRCODE = 'duplicate_object',
				HINT = 'Topics and messages could not tell one from the other; choose another name.';
	ELSIF NOT FOUND THEN
		RAISE EXCEPTION 'device id % is taken', id
			USING ERRCODE = 'duplicate_object',
				HINT = 'Leave the id out, and one is made.';
	END IF;
	difference := CASE
		WHEN present.device_id <> id THEN 'Its id is ' || present.device_id || '.'
		WHEN present.device_group_id <> wanted_group THEN 'It is in another device group.'
		WHEN present.device_type_id <> wanted_type THEN 'It is of another device type.'
		WHEN present.adapter_id <> wanted_adapter THEN 'It has another adapter.'
		WHEN wanted_parameters <> ARRAY(SELECT s.parameter_id FROM iot.sensor s
				WHERE s.device_id = present.device_id ORDER BY s.parameter_id)
			THEN 'It has other parameters.' END;
	IF difference IS NOT NULL THEN
		RAISE EXCEPTION 'device "%" already exists', create_device.name
			USING ERRCODE = 'duplicate_object', DETAIL = difference,
				HINT = 'Change its rows in iot.device and iot.sensor, or choose another name.';
	END IF;
	RETURN present.device_id;
END
$function$;
COMMENT ON FUNCTION iot.create_device(text, text[], text, text, text, uuid) IS
	'make a device with a sensor for each parameter; the same call again gives the same device';
