-- What devices say last.

-- A device that the caller may view, by name or id; raises where there is none, or he may not.
CREATE OR REPLACE FUNCTION iot_internal.viewable_device(device text) RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	me text := iot_internal.current_username();
	found_id uuid;
BEGIN
	-- a device's name never reads as a uuid
	IF device ~* '^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})$' THEN
		SELECT d.device_id INTO found_id FROM iot.device d WHERE d.device_id = device::uuid;
	ELSE
		SELECT d.device_id INTO found_id FROM iot.device d WHERE d.name = device;
	END IF;
	IF found_id IS NULL THEN
		RAISE EXCEPTION 'device "%" does not exist', device
			USING ERRCODE = 'undefined_object',
				HINT = 'Give the name or the id of a row of iot.device.';
	END IF;
	IF NOT iot_internal.is_admin()
		AND NOT iot.may(me, found_id, 'view') THEN
		RAISE EXCEPTION 'permission denied for device "%"', device
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = CASE WHEN me IS NULL THEN 'The session names no user.'
					ELSE format('User "%s" lacks level "view" on the device''s group.', me) END,
				HINT = 'Levels are granted in iot.access_grant, from user group to device group.';
	END IF;
	RETURN found_id;
END
$function$;

-- Parameters that have no value yet are not listed.
CREATE OR REPLACE FUNCTION iot.last_values(device text)
RETURNS TABLE (parameter text, value double precision, unit text, ts timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	found_id uuid := iot_internal.viewable_device(last_values.device);
BEGIN
	RETURN QUERY
	SELECT p.name, v.value, p.unit, v.value_at
	FROM iot.sensor_value v JOIN iot.parameter p ON p.parameter_id = v.parameter_id
	WHERE v.device_id = found_id AND v.value IS NOT NULL
	ORDER BY p.name;
END
$function$;
COMMENT ON FUNCTION iot.last_values(text) IS
	'current value of each parameter of a device, and since when';
