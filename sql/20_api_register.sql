-- Devices that register themselves, where the options of their adapter say into which group and as
-- which type.

-- Each row of the arguments is a parameter that a stranger named in telemetry, and the template of the
-- topic where he did.  Parameters that do not exist are passed over, and whoever names no other is no
-- device.  The adapter's row is locked until the end of the transaction: of several processes that hear
-- of one device the first makes it, and the limit holds.  True where one of them is a device now.
CREATE OR REPLACE FUNCTION iot_internal.register_devices(
	adapter_id uuid, names text[], templates text[], parameters text[]) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	rule record;
	stranger record;
	room bigint;
	made uuid;
	known boolean := false;
BEGIN
	SELECT a.name AS adapter, g.device_group_id, g.name AS device_group, t.device_type_id,
			t.name AS device_type, t.telemetry_topic,
			coalesce((a.options ->> 'register_limit')::bigint, 1000) AS register_limit
		INTO rule
		FROM iot.adapter a
			JOIN iot.device_group g ON g.name = a.options ->> 'register_group'
			JOIN iot.device_type t ON t.name = a.options ->> 'register_type'
		WHERE a.adapter_id = register_devices.adapter_id
		FOR NO KEY UPDATE OF a;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	FOR stranger IN
		SELECT u.name, array_agg(DISTINCT p.parameter_id) AS parameter_ids,
			array_agg(DISTINCT p.name) AS parameters
		FROM unnest(names, templates, parameters) AS u (name, template, parameter)
			JOIN iot.parameter p ON p.name = u.parameter
		WHERE u.template = rule.telemetry_topic
		GROUP BY u.name
		ORDER BY u.name LOOP
		IF room IS NULL THEN
			SELECT rule.register_limit - count(*) INTO room FROM iot.device d
				WHERE d.adapter_id = register_devices.adapter_id
					AND d.device_group_id = rule.device_group_id
					AND d.device_type_id = rule.device_type_id;
		END IF;
		IF room <= 0 THEN
			RETURN known OR EXISTS (SELECT FROM iot.device d WHERE d.name = ANY (names));
		END IF;
		known := true;
		INSERT INTO iot.device (name, device_group_id, device_type_id, adapter_id)
			VALUES (stranger.name, rule.device_group_id, rule.device_type_id,
				register_devices.adapter_id)
			ON CONFLICT DO NOTHING
			RETURNING device_id INTO made;
		CONTINUE WHEN NOT FOUND;
		room := room - 1;
		INSERT INTO iot.sensor (device_id, parameter_id)
			SELECT made, s.parameter_id FROM unnest(stranger.parameter_ids) AS s (parameter_id);
		INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
			VALUES (iot_internal.uuidv7(), 'device', made::text, 'device.registered',
				jsonb_build_object('device', stranger.name, 'adapter', rule.adapter,
					'device_group', rule.device_group, 'device_type', rule.device_type,
					'parameters', to_jsonb(stranger.parameters)), made);
	END LOOP;
	RETURN known;
END
$function$;
