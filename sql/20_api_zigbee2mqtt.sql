-- Devices of a Zigbee2MQTT bridge, from the list that it keeps at the broker.

-- What a device of that list has: each numeric, binary or enum value that it publishes, on its own or
-- as a feature of a light and the like.  Labels are only where every word can be one.
CREATE OR REPLACE FUNCTION iot_internal.zigbee2mqtt_exposes(device jsonb)
RETURNS TABLE (parameter text, unit text, value_min double precision, value_max double precision,
	labels jsonb)
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $function$
	SELECT DISTINCT ON (e.item ->> 'property') e.item ->> 'property', substring(e.item ->> 'unit' FROM '^[^[:cntrl:]]{1,32}$'),
		CASE WHEN k.kind = 'numeric' AND jsonb_typeof(e.item -> 'value_min') = 'number'
			AND jsonb_typeof(e.item -> 'value_max') = 'number'
			THEN least((e.item ->> 'value_min')::double precision, (e.item ->> 'value_max')::double precision) END,
		CASE WHEN k.kind = 'numeric' AND jsonb_typeof(e.item -> 'value_min') = 'number'
			AND jsonb_typeof(e.item -> 'value_max') = 'number'
			THEN greatest((e.item ->> 'value_min')::double precision, (e.item ->> 'value_max')::double precision) END,
		(SELECT jsonb_object_agg(w.word, w.place - 1) FROM
			jsonb_array_elements_text(CASE WHEN k.kind = 'binary'
				THEN jsonb_build_array(e.item -> 'value_off', e.item -> 'value_on')
				WHEN jsonb_typeof(e.item -> 'values') = 'array' THEN e.item -> 'values' ELSE '[]' END)
				WITH ORDINALITY AS w (word, place)
			HAVING bool_and(w.word ~ '^[[:alpha:]_][^[:cntrl:]]{0,62}[^[:cntrl:][:space:]]?$'
				AND w.word !~* '^(nan|inf|infinity)$' AND w.word !~ '\s$'))
	FROM (SELECT p.item FROM jsonb_path_query(device, '$.definition.exposes[*]') AS p (item)
		UNION ALL
		SELECT p.item FROM jsonb_path_query(device, '$.definition.exposes[*] ? (@.type == "light"
			|| @.type == "switch" || @.type == "cover" || @.type == "fan" || @.type == "lock"
			|| @.type == "climate").features[*]') AS p (item)) e
		CROSS JOIN LATERAL (SELECT e.item ->> 'type') AS k (kind)
	WHERE k.kind = ANY (ARRAY['numeric', 'binary', 'enum'])
		AND e.item ->> 'property' ~ '^[A-Za-z0-9_:-]{1,64}$'
		AND CASE WHEN jsonb_typeof(e.item -> 'access') = 'number'
			THEN (e.item ->> 'access')::numeric % 2 = 1 ELSE false END
	ORDER BY e.item ->> 'property'
$function$;

CREATE OR REPLACE FUNCTION iot.import_zigbee2mqtt(
	devices jsonb,
	device_group text DEFAULT 'default',
	device_type text DEFAULT 'zigbee2mqtt',
	adapter text DEFAULT 'mqtt')
RETURNS TABLE (device text, external_id text, parameters text[], made boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	name_pattern constant text := '^[A-Za-z0-9_.:-]{1,64}$';
	type_id uuid := (SELECT t.device_type_id FROM iot.device_type t
		WHERE t.name = import_zigbee2mqtt.device_type);
	item jsonb;
	id uuid;
BEGIN
	IF NOT iot_internal.is_admin() THEN
		RAISE EXCEPTION 'permission denied to import devices'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Parameters and mappings are written by members of iot_admin.';
	END IF;
	IF jsonb_typeof(devices) IS DISTINCT FROM 'array' THEN
		RAISE EXCEPTION 'devices must be a JSON array'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give what is retained on the topic "zigbee2mqtt/bridge/devices".';
	END IF;
	FOR item IN SELECT d.value FROM jsonb_array_elements(devices) AS d LOOP
		external_id := item ->> 'friendly_name';
		device := CASE WHEN external_id ~ name_pattern THEN external_id ELSE item ->> 'ieee_address' END;
		-- the coordinator is none, nor is what the bridge does not support
		CONTINUE WHEN external_id IS NULL OR device IS NULL OR device !~ name_pattern
			OR jsonb_typeof(item -> 'definition') IS DISTINCT FROM 'object';
		INSERT INTO iot.parameter (name, unit)
			SELECT x.parameter, x.unit FROM iot_internal.zigbee2mqtt_exposes(item) x
			ON CONFLICT (name) DO NOTHING;
		INSERT INTO iot.device_type_mapping (device_type_id, parameter_id, path)
			SELECT type_id, p.parameter_id, format('$[''%s'']', p.name)
			FROM iot_internal.zigbee2mqtt_exposes(item) x JOIN iot.parameter p ON p.name = x.parameter
			WHERE type_id IS NOT NULL
			ON CONFLICT (device_type_id, parameter_id) DO NOTHING;
		SELECT d.device_id, d.name INTO id, device FROM iot.device d
			WHERE coalesce(d.external_id, d.name) = import_zigbee2mqtt.external_id;
		made := NOT FOUND;
		IF made THEN
			device := CASE WHEN external_id ~ name_pattern THEN external_id ELSE item ->> 'ieee_address' END;
			id := iot.create_device(device, '{}', device_group => import_zigbee2mqtt.device_group,
				device_type => import_zigbee2mqtt.device_type, adapter => import_zigbee2mqtt.adapter);
			UPDATE iot.device d SET external_id = import_zigbee2mqtt.external_id
				WHERE d.device_id = id AND d.name <> import_zigbee2mqtt.external_id;
		END IF;
		INSERT INTO iot.sensor (device_id, parameter_id, value_min, value_max, labels)
			SELECT id, p.parameter_id, x.value_min, x.value_max, x.labels
			FROM iot_internal.zigbee2mqtt_exposes(item) x JOIN iot.parameter p ON p.name = x.parameter
			ON CONFLICT (device_id, parameter_id) DO NOTHING;
		parameters := ARRAY(SELECT x.parameter FROM iot_internal.zigbee2mqtt_exposes(item) x);
		RETURN NEXT;
	END LOOP;
END
$function$;
COMMENT ON FUNCTION iot.import_zigbee2mqtt(jsonb, text, text, text) IS
	'make devices, sensors, parameters and mappings from the list that Zigbee2MQTT keeps on bridge/devices; what is there already stays as it is';
