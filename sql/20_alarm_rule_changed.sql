-- What follows where rules change, and the devices that they are about.  Rows are locked in the order
-- that src/alarm.c tells; what a statement changes is therefore seen to all at once, at its end.

-- The devices that a rule is about.
CREATE OR REPLACE FUNCTION iot_internal.alarm_devices(rule_id uuid) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	rule record;
BEGIN
	SELECT r.scope, r.device_type_id, r.device_group_id, r.device_id INTO rule
		FROM iot.alarm_rule r WHERE r.alarm_rule_id = alarm_devices.rule_id;
	IF rule.scope = 'all' THEN
		RETURN QUERY SELECT d.device_id FROM iot.device d;
	ELSIF rule.scope = 'type' THEN
		RETURN QUERY SELECT d.device_id FROM iot.device d WHERE d.device_type_id = rule.device_type_id;
	ELSIF rule.scope = 'group' THEN
		RETURN QUERY SELECT d.device_id FROM iot.device d WHERE d.device_group_id = rule.device_group_id;
	ELSIF rule.scope = 'device' THEN
		RETURN NEXT rule.device_id;
	END IF;
END
$function$;

-- The other way round: the rules about a device, those about all devices only where something falls due
-- although nothing is measured.  Each by an index of its own: of rules about others none is read.
CREATE OR REPLACE FUNCTION iot_internal.awaiting_rules(device_id uuid) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $function$
#variable_conflict use_column
DECLARE
	device record;
BEGIN
	SELECT d.device_type_id, d.device_group_id INTO device
		FROM iot.device d WHERE d.device_id = awaiting_rules.device_id;
	RETURN QUERY
		SELECT r.alarm_rule_id FROM iot.alarm_rule r
			WHERE r.scope = 'all' AND r.enabled AND (r.kind = 'no_data' OR r.time_zone IS NOT NULL)
		UNION ALL
		SELECT r.alarm_rule_id FROM iot.alarm_rule r WHERE r.device_type_id = device.device_type_id
		UNION ALL
		SELECT r.alarm_rule_id FROM iot.alarm_rule r WHERE r.device_group_id = device.device_group_id
		UNION ALL
		SELECT r.alarm_rule_id FROM iot.alarm_rule r WHERE r.device_id = awaiting_rules.device_id;
END
$function$;

-- Has the sweep look at what falls due although nothing is measured: the silence of sensors, and the
-- edges of schedules for those that have measured something.  Of these rules on all their devices, and
-- on these devices by all their rules.
CREATE OR REPLACE FUNCTION iot_internal.await_alarms(rules uuid[], devices uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $function$
DECLARE
	clock timestamptz := iot_internal.alarm_now();
BEGIN
	IF NOT EXISTS (SELECT FROM iot.alarm_rule r
			WHERE r.enabled AND (r.kind = 'no_data' OR r.time_zone IS NOT NULL)) THEN
		RETURN;
	END IF;
	INSERT INTO iot.alarm_rule_state (device_id, alarm_rule_id, since, judged_at, due_at)
		SELECT DISTINCT ON (w.device_id, w.alarm_rule_id) w.device_id, w.alarm_rule_id,
				CASE WHEN r.kind = 'no_data' AND s.reported_at IS NULL THEN clock END,
				CASE WHEN r.kind <> 'no_data' THEN clock END,
				CASE WHEN r.kind = 'no_data' AND r.time_zone IS NULL
					THEN coalesce(s.reported_at, clock) + r.timeout ELSE clock END
			FROM (
				SELECT d.device_id, u.alarm_rule_id FROM unnest(await_alarms.rules) AS u (alarm_rule_id)
					CROSS JOIN LATERAL iot_internal.alarm_devices(u.alarm_rule_id) AS d (device_id)
				UNION ALL
				SELECT u.device_id, r.alarm_rule_id FROM unnest(await_alarms.devices) AS u (device_id)
					CROSS JOIN LATERAL iot_internal.awaiting_rules(u.device_id) AS r (alarm_rule_id)) AS w
				-- each looked up by its key, as IOT_EACH in src/plan.h has it
				CROSS JOIN LATERAL (SELECT k.* FROM iot.alarm_rule k
					WHERE k.alarm_rule_id = w.alarm_rule_id AND k.enabled OFFSET 0) AS r
				CROSS JOIN LATERAL (SELECT FROM iot.device k
					WHERE k.device_id = w.device_id AND k.enabled OFFSET 0) AS d
				CROSS JOIN LATERAL (SELECT k.parameter_id, v.reported_at
					FROM iot.sensor k LEFT JOIN LATERAL (SELECT k2.reported_at FROM iot.sensor_value k2
						WHERE k2.device_id = k.device_id AND k2.parameter_id = k.parameter_id
						OFFSET 0) AS v ON true
					WHERE k.device_id = w.device_id
						AND (r.parameter_id IS NULL OR k.parameter_id = r.parameter_id) OFFSET 0) AS s
			WHERE r.kind = 'no_data' OR (r.time_zone IS NOT NULL AND s.reported_at IS NOT NULL)
			ORDER BY w.device_id, w.alarm_rule_id
		ON CONFLICT (device_id, alarm_rule_id) DO NOTHING;
END
$function$;

-- Closes open alarms that no rule is about any more, which would stay open for ever, and those of rules
-- that have come to be about another parameter: of all alarms, or of these rules and these devices.
-- Planned for what is there each time.
CREATE OR REPLACE FUNCTION iot_internal.close_orphaned_alarms(
	moved_rules uuid[] DEFAULT NULL, rules uuid[] DEFAULT NULL, devices uuid[] DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off AS $function$
DECLARE
	alarms uuid[];
	reasons text[];
BEGIN
	IF rules IS NULL AND devices IS NULL THEN
		alarms := ARRAY(SELECT a.alarm_id FROM iot.alarm a WHERE a.status = 'OPENED');
	ELSE
		alarms := ARRAY(
			SELECT a.alarm_id FROM unnest(rules) AS u (alarm_rule_id)
				CROSS JOIN LATERAL (SELECT k.alarm_id FROM iot.alarm k
					WHERE k.alarm_rule_id = u.alarm_rule_id AND k.closed_at IS NULL OFFSET 0) AS a
			UNION ALL
			SELECT a.alarm_id FROM unnest(devices) AS u (device_id)
				CROSS JOIN LATERAL (SELECT k.alarm_id FROM iot.alarm k
					WHERE k.device_id = u.device_id AND k.status = 'OPENED' OFFSET 0) AS a);
	END IF;
	IF alarms = '{}' THEN
		RETURN 0;
	END IF;
	SELECT array_agg(o.alarm_id), array_agg(o.reason) INTO alarms, reasons FROM (
		SELECT a.alarm_id, CASE
				WHEN r.alarm_rule_id = ANY (moved_rules) THEN 'the alarm rule is about another parameter'
				WHEN r.alarm_rule_id IS NULL THEN 'the alarm rule was deleted'
				WHEN NOT r.enabled THEN 'the alarm rule was disabled'
				WHEN NOT d.enabled THEN 'the device was disabled'
				ELSE 'the alarm rule is not about this device any more' END AS reason
			FROM iot.alarm a
				JOIN iot.device d ON d.device_id = a.device_id
				LEFT JOIN iot.alarm_rule r ON r.alarm_rule_id = a.alarm_rule_id
			WHERE a.alarm_id = ANY (alarms) AND a.status = 'OPENED'
				AND (r.alarm_rule_id = ANY (moved_rules) OR NOT coalesce(
					r.enabled AND (d.enabled OR r.kind <> 'no_data')
					AND (r.scope = 'all' OR r.device_type_id = d.device_type_id
						OR r.device_group_id = d.device_group_id OR r.device_id = d.device_id), false))
			ORDER BY a.device_id, a.alarm_id FOR NO KEY UPDATE OF a) AS o;
	IF alarms IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM FROM iot.alarm_rule_state s
		WHERE (s.device_id, s.alarm_rule_id) IN (SELECT a.device_id, a.alarm_rule_id
			FROM iot.alarm a WHERE a.alarm_id = ANY (alarms))
		ORDER BY s.device_id, s.alarm_rule_id FOR UPDATE;
	RETURN (SELECT count(*) FROM unnest(alarms, reasons) AS u (alarm_id, reason)
		WHERE iot_internal.end_alarm(u.alarm_id, NULL, u.reason));
END
$function$;

-- What a rule remembers is of what it was: a rule that judges otherwise begins anew, and its open
-- alarms are judged by the next measurement.  Errors are of what it was, too.
CREATE OR REPLACE FUNCTION iot_internal.alarm_rule_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off AS $function$
DECLARE
	changed uuid[];
	moved uuid[];
	awaiting uuid[];
	ended uuid[];
BEGIN
	IF TG_OP = 'DELETE' THEN
		SELECT array_agg(o.alarm_rule_id) INTO changed FROM old_rules o;
		ended := changed;
	ELSE
		SELECT array_agg(n.alarm_rule_id), array_agg(n.alarm_rule_id) FILTER (WHERE n.enabled),
				array_agg(n.alarm_rule_id)
					FILTER (WHERE n.enabled AND (n.kind = 'no_data' OR n.time_zone IS NOT NULL))
			INTO changed, ended, awaiting FROM new_rules n;
	END IF;
	IF TG_OP = 'UPDATE' THEN
		SELECT array_agg(o.alarm_rule_id) INTO moved
			FROM old_rules o JOIN new_rules n ON n.alarm_rule_id = o.alarm_rule_id
			WHERE n.parameter_id IS DISTINCT FROM o.parameter_id;
	END IF;
	IF TG_OP <> 'INSERT' AND changed IS NOT NULL THEN
		PERFORM iot_internal.close_orphaned_alarms(moved, changed);
		DELETE FROM iot.alarm_rule_state s USING (
				SELECT o.device_id, o.alarm_rule_id FROM iot.alarm_rule_state o
				WHERE o.alarm_rule_id = ANY (changed)
				ORDER BY o.device_id, o.alarm_rule_id FOR UPDATE) AS gone
			WHERE s.device_id = gone.device_id AND s.alarm_rule_id = gone.alarm_rule_id;
		DELETE FROM iot.alarm_rule_error e USING (
				SELECT o.alarm_rule_id FROM iot.alarm_rule_error o WHERE o.alarm_rule_id = ANY (ended)
				ORDER BY o.alarm_rule_id FOR UPDATE) AS gone
			WHERE e.alarm_rule_id = gone.alarm_rule_id;
	END IF;
	IF awaiting IS NOT NULL THEN
		PERFORM iot_internal.await_alarms(awaiting, NULL);
	END IF;
	RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.alarm_device_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	devices uuid[];
BEGIN
	SELECT array_agg(n.device_id) INTO devices
		FROM old_devices o JOIN new_devices n ON n.device_id = o.device_id
		WHERE (n.device_type_id, n.device_group_id, n.enabled)
			IS DISTINCT FROM (o.device_type_id, o.device_group_id, o.enabled);
	IF devices IS NOT NULL THEN
		PERFORM iot_internal.close_orphaned_alarms(devices => devices);
		PERFORM iot_internal.await_alarms(NULL, devices);
	END IF;
	RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.alarm_sensor_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	devices uuid[];
BEGIN
	SELECT array_agg(DISTINCT i.device_id) INTO devices FROM inserted i;
	IF devices IS NOT NULL THEN
		PERFORM iot_internal.await_alarms(NULL, devices);
	END IF;
	RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.alarm_rules_truncated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.close_orphaned_alarms();
	RETURN NULL;
END
$function$;

-- A rule that is there before its parameter, "temperature-red" before "temperature", gets it when it
-- comes.
CREATE OR REPLACE FUNCTION iot_internal.alarm_rule_parameter() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	UPDATE iot.alarm_rule r SET parameter_id = NEW.parameter_id
		WHERE r.parameter_id IS NULL AND r.kind <> 'condition' AND starts_with(r.name, NEW.name || '-');
	RETURN NULL;
END
$function$;
