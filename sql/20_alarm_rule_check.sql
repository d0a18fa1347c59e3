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

-- The columns of a level are named by its prefixes: value_min and close_min, red_min and red_close_min.
CREATE OR REPLACE FUNCTION iot_internal.check_alarm_range(
	rule text, prefix text, close_prefix text, value_min double precision,
	value_max double precision, close_min double precision, close_max double precision,
	in_attribute boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.alarm_rule_finite(rule, prefix || 'min', value_min),
		iot_internal.alarm_rule_finite(rule, prefix || 'max', value_max),
		iot_internal.alarm_rule_finite(rule, close_prefix || 'min', close_min),
		iot_internal.alarm_rule_finite(rule, close_prefix || 'max', close_max);
	IF value_min IS NULL AND value_max IS NULL AND NOT in_attribute THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			format('a range needs %1$smin or %1$smax', prefix),
			format('The alarm opens where %1$smin <= value < %1$smax; a bound that is NULL is open.',
				prefix));
	ELSIF value_min >= value_max THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			format('no value is in the range from %s to below %s', value_min, value_max),
			format('%1$smin is in the range, %1$smax is not.', prefix));
	ELSIF (value_min IS NULL AND close_min IS NOT NULL) OR close_min > value_min
		OR (value_max IS NULL AND close_max IS NOT NULL) OR close_max < value_max THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			'the bounds at which it closes must not lie within the range',
			format('The alarm stays open while %1$smin <= value < %1$smax, which holds all of the range; NULL is the bound of the range.',
				close_prefix));
	END IF;
END
$function$;

-- Likewise, threshold and red_threshold.
CREATE OR REPLACE FUNCTION iot_internal.check_alarm_threshold(
	rule text, prefix text, comparison text, threshold double precision,
	close_threshold double precision) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.alarm_rule_finite(rule, prefix || 'threshold', threshold),
		iot_internal.alarm_rule_finite(rule, prefix || 'close_threshold', close_threshold);
	IF threshold IS NULL AND close_threshold IS NOT NULL THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			format('%1$sclose_threshold has no use without %1$sthreshold', prefix),
			'It says how far the value must come back from the threshold.');
	ELSIF (starts_with(comparison, '>') AND close_threshold > threshold)
		OR (starts_with(comparison, '<') AND close_threshold < threshold) THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			format('%1$sclose_threshold is on the wrong side of the threshold', prefix),
			format('The alarm stays open while the value compares so with %sclose_threshold: below the threshold for ">", above it for "<".',
				prefix));
	END IF;
END
$function$;

-- Raises an error for a jsonpath that says anything but yes or no of a device.
CREATE OR REPLACE FUNCTION iot_internal.check_alarm_condition(rule text, field text, condition jsonpath)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	problem text;
BEGIN
	IF condition IS NULL THEN
		RETURN;
	END IF;
	BEGIN
		-- a device that has measured nothing
		PERFORM jsonb_path_match('{}', condition);
	EXCEPTION WHEN data_exception OR undefined_object OR feature_not_supported THEN
		problem := SQLERRM;
	END;
	IF problem IS NOT NULL OR length(condition::text) > 4000 THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			format('%s is no predicate over a device: %s', field, coalesce(problem, 'it is too long')),
			'Write what is true or false of the newest values by parameter, such as $.temperature > 80 && $.valve == 0; attributes are below $.attributes.');
	END IF;
END
$function$;

-- The columns that a kind of rule has besides those of all.
CREATE OR REPLACE FUNCTION iot_internal.alarm_kind_columns(kind text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	-- not in SQL: it is called for each kind of each rule, and would be planned each time
	RETURN CASE kind
		WHEN 'range' THEN ARRAY['value_min', 'value_max', 'close_min', 'close_max',
			'value_min_attribute', 'value_max_attribute', 'red_min', 'red_max', 'red_close_min',
			'red_close_max']
		WHEN 'threshold' THEN ARRAY['comparison', 'threshold', 'close_threshold',
			'threshold_attribute', 'red_threshold', 'red_close_threshold']
		WHEN 'rate' THEN ARRAY['comparison', 'threshold', 'close_threshold',
			'threshold_attribute', 'red_threshold', 'red_close_threshold', 'per']
		WHEN 'no_data' THEN ARRAY['timeout', 'red_timeout']
		WHEN 'condition' THEN ARRAY['condition', 'stay_condition', 'red_condition',
			'red_stay_condition'] END;
END
$function$;

-- Checks the columns of each kind; rule is the row as an object.
CREATE OR REPLACE FUNCTION iot_internal.check_alarm_kind(rule jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	name text := rule ->> 'name';
	kind text := rule ->> 'kind';
	kinds text[] := ARRAY['range', 'threshold', 'rate', 'no_data', 'condition'];
	foreign_column text;
BEGIN
	IF kind IS NULL OR kind <> ALL (kinds) THEN
		PERFORM iot_internal.alarm_rule_refuse(name,
			format('invalid kind "%s"', coalesce(left(kind, 50), 'NULL')),
			'Kinds are "range", "threshold", "rate", "no_data" and "condition".');
	END IF;
	SELECT c.c INTO foreign_column
		FROM unnest(kinds) AS k (k), unnest(iot_internal.alarm_kind_columns(k.k)) WITH ORDINALITY AS c (c, place)
		WHERE rule ->> c.c IS NOT NULL AND c.c <> ALL (iot_internal.alarm_kind_columns(kind))
		ORDER BY k.k, c.place LIMIT 1;
	IF FOUND THEN
		PERFORM iot_internal.alarm_rule_refuse(name,
			format('a rule of kind "%s" has no %s', kind, foreign_column),
			format('It has %s.', array_to_string(iot_internal.alarm_kind_columns(kind), ', ')));
	END IF;
	IF rule ->> 'severity' <> 'orange' AND EXISTS (
			SELECT FROM jsonb_each_text(rule) AS e WHERE starts_with(e.key, 'red_')
				AND e.value IS NOT NULL) THEN
		PERFORM iot_internal.alarm_rule_refuse(name, 'only an orange rule has a red level',
			'Set severity to "orange": that of the level that comes first.');
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_alarm_no_data(
	rule text, timeout interval, red_timeout interval, repeat_count integer, duration interval)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF timeout IS NULL OR NOT timeout BETWEEN interval '1 s' AND interval '1 year' THEN
		PERFORM iot_internal.alarm_rule_refuse(rule, 'it needs a timeout from 1 second to 1 year',
			'The alarm opens when nothing was measured for so long.');
	ELSIF NOT red_timeout BETWEEN timeout AND interval '1 year' THEN
		PERFORM iot_internal.alarm_rule_refuse(rule, 'red_timeout is out of range',
			'It is from the timeout to 1 year.');
	ELSIF repeat_count <> 1 OR duration <> interval '0' THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			'repeat_count and duration have no use where nothing is measured',
			'The timeout is the time that it takes.');
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.time_zone_valid(name text) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_alarm_time_zone_valid_sql';

CREATE OR REPLACE FUNCTION iot_internal.check_alarm_schedule(
	rule text, time_zone text, weekdays integer[], from_time time, to_time time) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF num_nonnulls(weekdays, from_time, to_time) = 0 THEN
		IF time_zone IS NOT NULL THEN
			PERFORM iot_internal.alarm_rule_refuse(rule, 'its time zone has no use without a schedule',
				'Give weekdays, or from_time and to_time, or both.');
		END IF;
		RETURN;
	END IF;
	IF time_zone IS NULL THEN
		PERFORM iot_internal.alarm_rule_refuse(rule, 'its schedule needs a time zone',
			'Give the name of one, such as "Europe/Berlin" or "UTC".');
	ELSIF NOT iot_internal.time_zone_valid(time_zone) THEN
		PERFORM iot_internal.alarm_rule_refuse(rule,
			format('unknown time zone "%s"', left(time_zone, 50)),
			'Give the name of one, such as "Europe/Berlin" or "UTC"; pg_timezone_names lists them.');
	ELSIF num_nonnulls(from_time, to_time) = 1 OR from_time = to_time THEN
		PERFORM iot_internal.alarm_rule_refuse(rule, 'its hours need a beginning and another end',
			'Give from_time and to_time; from 22:00 to 06:00 ends on the next day; NULL for both is the whole day.');
	ELSIF cardinality(weekdays) = 0 OR array_position(weekdays, NULL) IS NOT NULL
		OR NOT weekdays <@ ARRAY[1, 2, 3, 4, 5, 6, 7] THEN
		PERFORM iot_internal.alarm_rule_refuse(rule, 'invalid weekdays',
			'Give an array of numbers: 1 is Monday, 7 is Sunday.');
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_alarm_rule() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	given text[];
	unknown text;
BEGIN
	-- people read it: it may be a phrase
	IF NEW.name !~ '^[^[:cntrl:]]{1,100}$' OR NEW.name <> btrim(NEW.name) THEN
		PERFORM iot_internal.alarm_rule_refuse(left(NEW.name, 100), 'its name is not valid',
			'A name has 1 to 100 characters, no blanks at its ends and no control characters.');
	END IF;
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
	IF NEW.severity <> ALL (ARRAY['orange', 'red']) THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name,
			format('invalid severity "%s"', left(NEW.severity, 50)),
			'Severities are "orange" and "red".');
	END IF;
	PERFORM iot_internal.check_alarm_kind(to_jsonb(NEW));
	IF NEW.parameter_id IS NULL AND NEW.enabled AND NEW.kind <> 'condition' THEN
		PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'it has no parameter',
			'Give the parameter_id of a row of iot.parameter, or disable the rule.');
	END IF;

	IF NEW.kind = 'range' THEN
		PERFORM iot_internal.check_alarm_range(NEW.name, 'value_', 'close_', NEW.value_min,
			NEW.value_max, NEW.close_min, NEW.close_max,
			num_nonnulls(NEW.value_min_attribute, NEW.value_max_attribute) > 0);
		IF num_nonnulls(NEW.red_min, NEW.red_max, NEW.red_close_min, NEW.red_close_max) > 0 THEN
			PERFORM iot_internal.check_alarm_range(NEW.name, 'red_', 'red_close_', NEW.red_min,
				NEW.red_max, NEW.red_close_min, NEW.red_close_max, false);
		END IF;
	ELSIF NEW.kind = ANY (ARRAY['threshold', 'rate']) THEN
		IF NEW.comparison IS NULL OR NEW.comparison <> ALL (ARRAY['>', '>=', '<', '<=']) THEN
			PERFORM iot_internal.alarm_rule_refuse(NEW.name,
				format('invalid comparison "%s"', coalesce(left(NEW.comparison, 20), 'NULL')),
				'A threshold compares by ">", ">=", "<" or "<=".');
		ELSIF NEW.threshold IS NULL AND NEW.threshold_attribute IS NULL THEN
			PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'it has no threshold',
				'The alarm opens where the value compares so with the threshold.');
		END IF;
		PERFORM iot_internal.check_alarm_threshold(NEW.name, '', NEW.comparison, NEW.threshold,
				NEW.close_threshold),
			iot_internal.check_alarm_threshold(NEW.name, 'red_', NEW.comparison,
				NEW.red_threshold, NEW.red_close_threshold);
		IF (starts_with(NEW.comparison, '>') AND NEW.red_threshold < NEW.threshold)
			OR (starts_with(NEW.comparison, '<') AND NEW.red_threshold > NEW.threshold) THEN
			PERFORM iot_internal.alarm_rule_refuse(NEW.name,
				'red_threshold is on the wrong side of the threshold',
				'What is red is orange before: give a red_threshold further out.');
		END IF;
		IF NEW.kind = 'rate' THEN
			NEW.per := coalesce(NEW.per, interval '1 minute');
			IF NOT NEW.per BETWEEN interval '1 ms' AND interval '30 days' THEN
				PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'per is out of range',
					'It is the time in which the value changes by the threshold, from 1 millisecond to 30 days.');
			END IF;
		END IF;
	ELSIF NEW.kind = 'no_data' THEN
		PERFORM iot_internal.check_alarm_no_data(NEW.name, NEW.timeout, NEW.red_timeout,
			NEW.repeat_count, NEW.duration);
	ELSE
		IF NEW.condition IS NULL THEN
			PERFORM iot_internal.alarm_rule_refuse(NEW.name, 'it has no condition',
				'Give a jsonpath predicate, such as $.temperature > 80 && $.valve == 0.');
		ELSIF NEW.red_stay_condition IS NOT NULL AND NEW.red_condition IS NULL THEN
			PERFORM iot_internal.alarm_rule_refuse(NEW.name,
				'red_stay_condition has no use without red_condition',
				'It says how long an alarm stays red that is.');
		END IF;
		PERFORM iot_internal.check_alarm_condition(NEW.name, 'condition', NEW.condition),
			iot_internal.check_alarm_condition(NEW.name, 'stay_condition', NEW.stay_condition),
			iot_internal.check_alarm_condition(NEW.name, 'red_condition', NEW.red_condition),
			iot_internal.check_alarm_condition(NEW.name, 'red_stay_condition', NEW.red_stay_condition);
	END IF;
	PERFORM iot_internal.check_alarm_schedule(NEW.name, NEW.time_zone, NEW.weekdays,
		NEW.from_time, NEW.to_time);

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

	NEW.message := coalesce(NEW.message, CASE NEW.kind
		WHEN 'rate' THEN format('{device}: {parameter} changes by {value} {unit} in %s', NEW.per)
		WHEN 'no_data' THEN '{device} does not report {parameter}'
		WHEN 'condition' THEN '{device}: {rule}'
		ELSE '{device}: {parameter} is {value} {unit}' END);
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
