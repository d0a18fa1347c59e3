-- Alarm rules are judged when they are written: a rule that is there can be used.

CREATE OR REPLACE FUNCTION iot_internal.alarm_placeholders() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT ARRAY['device', 'parameter', 'value', 'unit', 'rule', 'severity']
$function$;

CREATE OR REPLACE FUNCTION iot_internal.alarm_rule_refuse(
	rule text, problem text, hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
		MESSAGE = format('alarm rule "%s": %s', rule, problem), HINT = hint;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.alarm_rule_finite(
	rule text, field text, number double precision) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF number = ANY (ARRAY['NaN', 'Infinity', '-Infinity']::double precision[]) THEN
		PERFORM iot_internal.alarm_rule_refuse(rule, field || ' must be a finite number',
			'Leave it NULL where there is none.');
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_alarm_range(
	rule text, value_min double precision, value_max double precision,
	close_min double precision, close_max double precision) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.alarm_rule_finite(rule, 'value_min', value_min),
		iot_internal.alarm_rule_finite(rule, 'value_max', value_max),
		iot_internal.alarm_rule_finite(rule, 'close_min', close_min),
		iot_internal.alarm_rule_finite(rule, 'close_max', close_max);
	IF value_min IS NULL AND value_max IS NULL THEN
		PERFORM iot_internal.alarm_rule_refuse(rule, 'a range needs value_min or value_max',
			'The alarm opens where value_min <= value < value_max; a bound that is NULL is open.');
	ELSIF value_min >= value_max THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			format('no value is in the range from %s to below %s', value_min, value_max),
			'value_min is in the range, value_max is not.');
	ELSIF (value_min IS NULL AND close_min IS NOT NULL) OR close_min > value_min
		OR (value_max IS NULL AND close_max IS NOT NULL) OR close_max < value_max THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			'the bounds at which it closes must not lie within the range',
			'The alarm stays open while close_min <= value < close_max, which holds all of the range; NULL is the bound of the range.');
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_alarm_threshold(
	rule text, comparison text, threshold double precision, close_threshold double precision)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.alarm_rule_finite(rule, 'threshold', threshold),
		iot_internal.alarm_rule_finite(rule, 'close_threshold', close_threshold);
	IF comparison IS NULL OR comparison <> ALL (ARRAY['>', '>=', '<', '<=']) THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			format('invalid comparison "%s"', coalesce(left(comparison, 20), 'NULL')),
			'A threshold compares by ">", ">=", "<" or "<=".');
	ELSIF threshold IS NULL THEN
		PERFORM iot_internal.alarm_rule_refuse(rule, 'it has no threshold',
			'The alarm opens where the value compares so with the threshold.');
	ELSIF (starts_with(comparison, '>') AND close_threshold > threshold)
		OR (starts_with(comparison, '<') AND close_threshold < threshold) THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			'close_threshold is on the wrong side of the threshold',
			'The alarm stays open while the value compares so with close_threshold: below the threshold for ">", above it for "<".');
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_alarm_rule() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	given text[];
	unknown text;
BEGIN
	PERFORM iot_internal.check_name('alarm rule', NEW.name);
	-- what it is about
	given := array_remove(ARRAY[
		CASE WHEN NEW.device_type_id IS NOT NULL THEN 'type' END,
		CASE WHEN NEW.device_group_id IS NOT NULL THEN 'group' END,
		CASE WHEN NEW.device_id IS NOT NULL THEN 'device' END], NULL);
	IF cardinality(given) > 1 THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'it names more than one scope',
			'Give one of device_type_id, device_group_id and device_id, or none for all devices.');
	END IF;
	NEW.scope := coalesce(NEW.scope, given[1], 'all');
	IF NEW.scope <> ALL (ARRAY['all', 'type', 'group', 'device']) THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name,
			format('invalid scope "%s"', left(NEW.scope, 50)),
			'Scopes are "all", "type", "group" and "device".');
	ELSIF NEW.scope <> coalesce(given[1], 'all') THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name,
			format('scope "%s" does not go with what it names', NEW.scope),
			'Scope "type" goes with device_type_id, "group" with device_group_id, "device" with device_id, and "all" with none of them.');
	END IF;
	IF NEW.parameter_id IS NULL AND NEW.enabled THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'it has no parameter',
			'Give the parameter_id of a row of iot.parameter, or disable the rule.');
	END IF;
	IF NEW.severity <> ALL (ARRAY['orange', 'red']) THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name,
			format('invalid severity "%s"', left(NEW.severity, 50)),
			'Severities are "orange" and "red".');
	END IF;

	IF NEW.kind IS NULL OR NEW.kind <> ALL (ARRAY['range', 'threshold']) THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name,
			format('invalid kind "%s"', coalesce(left(NEW.kind, 50), 'NULL')),
			'Kinds are "range" and "threshold".');
	ELSIF NEW.kind = 'range' THEN
		IF NEW.comparison IS NOT NULL OR NEW.threshold IS NOT NULL
			OR NEW.close_threshold IS NOT NULL THEN
			PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'a range has no threshold',
				'Use value_min, value_max, close_min and close_max, or kind "threshold".');
		END IF;
		PERFORM iot_internal.check_alarm_range(NEW.name, NEW.value_min, NEW.value_max,
			NEW.close_min, NEW.close_max);
	ELSE
		IF num_nonnulls(NEW.value_min, NEW.value_max, NEW.close_min, NEW.close_max) > 0 THEN
			PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'a threshold has no range',
				'Use comparison, threshold and close_threshold, or kind "range".');
		END IF;
		PERFORM iot_internal.check_alarm_threshold(NEW.name, NEW.comparison, NEW.threshold,
			NEW.close_threshold);
	END IF;

	IF NOT NEW.repeat_count BETWEEN 1 AND 1000000 THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'repeat_count is out of range',
			'It is the number of measurements in a row, from 1 to 1000000.');
	END IF;
	IF NOT NEW.duration BETWEEN interval '0' AND interval '30 days' THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'duration is out of range',
			'It is from 0 to 30 days.');
	END IF;
	IF NOT NEW.min_open BETWEEN interval '0' AND interval '30 days' THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'min_open is out of range',
			'It is from 0 to 30 days.');
	END IF;
	IF NEW.min_open > interval '0' AND NOT NEW.auto_close THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'min_open has no use without auto_close',
			'Alarms that people close stay open until they do.');
	END IF;

	IF length(NEW.message) > 1000 THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'its message is too long',
			'A message has at most 1000 characters.');
	END IF;
	SELECT string_agg(DISTINCT format('{%s}', n), ', ') INTO unknown
		FROM unnest(iot_internal.template_names(NEW.message)) AS t (n)
		WHERE n <> ALL (iot_internal.alarm_placeholders());
	IF unknown IS NOT NULL THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name,
			format('unknown placeholder in its message: %s', unknown),
			format('Known are {%s}. Write "{{" for a plain brace.',
				array_to_string(iot_internal.alarm_placeholders(), '}, {')));
	END IF;
	IF TG_OP = 'UPDATE' THEN
		NEW.updated_at := clock_timestamp();
	END IF;
	RETURN NEW;
END
$function$;

-- What a rule remembers is of what it was: a rule that judges otherwise begins anew, and its open
-- alarms are judged by the next measurement.
CREATE OR REPLACE FUNCTION iot_internal.alarm_rule_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	DELETE FROM iot.alarm_rule_state s WHERE s.alarm_rule_id = OLD.alarm_rule_id;
	IF TG_OP = 'UPDATE' AND NEW.parameter_id IS DISTINCT FROM OLD.parameter_id THEN
		PERFORM iot_internal.end_alarm(a.alarm_id, NULL, 'the alarm rule is about another parameter')
			FROM iot.alarm a
			WHERE a.alarm_rule_id = OLD.alarm_rule_id AND a.status = 'OPENED';
	END IF;
	RETURN NULL;
END
$function$;

-- An alarm that no rule is about any more would stay open for ever.
CREATE OR REPLACE FUNCTION iot_internal.close_orphaned_alarms() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	closed integer;
BEGIN
	SELECT count(*) INTO closed FROM (
		SELECT iot_internal.end_alarm(a.alarm_id, NULL, CASE
				WHEN r.alarm_rule_id IS NULL THEN 'the alarm rule was deleted'
				WHEN NOT r.enabled THEN 'the alarm rule was disabled'
				ELSE 'the alarm rule is not about this device any more' END)
		FROM iot.alarm a
			JOIN iot.device d ON d.device_id = a.device_id
			LEFT JOIN iot.alarm_rule r ON r.alarm_rule_id = a.alarm_rule_id
		WHERE a.status = 'OPENED'
			AND NOT coalesce(r.enabled AND CASE r.scope
				WHEN 'all' THEN true
				WHEN 'type' THEN r.device_type_id = d.device_type_id
				WHEN 'group' THEN r.device_group_id = d.device_group_id
				ELSE r.device_id = d.device_id END, false)
		ORDER BY a.device_id, a.alarm_id) AS o;
	RETURN closed;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.alarm_scope_changed() RETURNS trigger
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
		WHERE r.parameter_id IS NULL AND starts_with(r.name, NEW.name || '-');
	RETURN NULL;
END
$function$;
