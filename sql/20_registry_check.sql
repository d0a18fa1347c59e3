-- Everything that is written to the registry is judged when it is written: a typing error is told to
-- who makes it, not to who wonders next week why a device is silent.

CREATE OR REPLACE FUNCTION iot_internal.topic_template_error(
	template text, column_name text, may_lack_device boolean)
RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_topic_template_error_sql';

CREATE OR REPLACE FUNCTION iot_internal.topic_filter_error(filter text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_topic_filter_error_sql';

CREATE OR REPLACE FUNCTION iot_internal.command_template_unknown(template text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_command_template_unknown_sql';

CREATE OR REPLACE FUNCTION iot_internal.path_error(path text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_path_error_sql';

CREATE OR REPLACE FUNCTION iot_internal.check_name(what text, name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF name !~ '^[A-Za-z0-9_.:-]{1,64}$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid name of %s %s: "%s"', CASE WHEN what ~ '^[aeio]' THEN 'an' ELSE 'a' END,
				what, left(name, 100)),
			HINT = 'A name has 1 to 64 letters A to Z, digits, and "_", ".", ":", "-".';
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_bounds(
	what text, value_min double precision, value_max double precision) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF value_min = ANY (ARRAY['NaN', 'Infinity', '-Infinity']::double precision[])
		OR value_max = ANY (ARRAY['NaN', 'Infinity', '-Infinity']::double precision[]) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('bounds of %s must be finite numbers', what),
			HINT = 'Leave a bound NULL where there is none.';
	END IF;
	IF value_min > value_max THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('bounds of %s are the wrong way round: %s is above %s', what, value_min, value_max),
			HINT = 'Both bounds are inclusive, and value_min is the lower one.';
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_labels(what text, labels jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	hint text := 'Labels are a JSON object of words and finite numbers, such as {"OFF": 0, "ON": 1}.';
	word text;
	number jsonb;
	reads_as_number boolean;
BEGIN
	IF labels IS NULL THEN
		RETURN;
	END IF;
	IF jsonb_typeof(labels) <> 'object' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('labels of %s must be a JSON object', what),
			HINT = hint;
	END IF;
	FOR word, number IN SELECT e.key, e.value FROM jsonb_each(labels) AS e LOOP
		IF word !~ '^[^[:cntrl:]]{1,64}$' OR word ~ '^\s|\s$' THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('label "%s" of %s is not a word of 1 to 64 characters', left(word, 100), what),
				HINT = hint;
		END IF;
		-- send_command() takes a word or a number as text; one text must not be both
		BEGIN
			PERFORM word::double precision;
			reads_as_number := true;
		EXCEPTION
			WHEN invalid_text_representation THEN
				reads_as_number := false;
			WHEN numeric_value_out_of_range THEN
				reads_as_number := true;
		END;
		IF reads_as_number THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('label "%s" of %s reads as a number', word, what),
				HINT = hint;
		END IF;
		BEGIN
			IF jsonb_typeof(number) <> 'number' THEN
				RAISE numeric_value_out_of_range;
			END IF;
			PERFORM number::double precision;
		EXCEPTION WHEN numeric_value_out_of_range THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('label "%s" of %s does not stand for a finite number', word, what),
				HINT = hint;
		END;
	END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_parameter() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	what text := format('parameter "%s"', NEW.name);
	device text;
BEGIN
	PERFORM iot_internal.check_name('parameter', NEW.name);
	PERFORM iot_internal.check_bounds(what, NEW.value_min, NEW.value_max);
	PERFORM iot_internal.check_labels(what, NEW.labels);
	IF NEW.unit !~ '^[^[:cntrl:]]{1,32}$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('unit of %s is not a text of 1 to 32 characters', what),
			HINT = 'Leave the unit NULL where there is none.';
	END IF;
	IF TG_OP = 'INSERT' OR (NEW.value_min, NEW.value_max)
			IS NOT DISTINCT FROM (OLD.value_min, OLD.value_max) THEN
		RETURN NEW;
	END IF;
	-- a sensor that overrides one bound takes the other from here
	SELECT d.name INTO device
		FROM iot.sensor s JOIN iot.device d ON d.device_id = s.device_id
		WHERE s.parameter_id = NEW.parameter_id AND num_nonnulls(s.value_min, s.value_max) = 1
			AND coalesce(s.value_min, NEW.value_min) > coalesce(s.value_max, NEW.value_max)
		LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('bounds of %s contradict those of its sensor of device "%s"', what, device),
			HINT = 'Change the bounds in iot.sensor first.';
	END IF;
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_sensor() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	parameter record;
	what text;
BEGIN
	SELECT p.name, p.value_min, p.value_max INTO parameter
		FROM iot.parameter p WHERE p.parameter_id = NEW.parameter_id;
	what := format('the sensor of parameter "%s"', parameter.name);
	PERFORM iot_internal.check_bounds(what, NEW.value_min, NEW.value_max);
	PERFORM iot_internal.check_labels(what, NEW.labels);
	PERFORM iot_internal.check_bounds(what,
		coalesce(NEW.value_min, parameter.value_min), coalesce(NEW.value_max, parameter.value_max));
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_device() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.check_name('device', NEW.name);
	IF NEW.name ~* '^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('name of a device reads as a uuid: "%s"', NEW.name),
			HINT = 'Functions take a device by name or by id, and could not tell one from the other.';
	END IF;
	-- a level more could make another device's topic of it
	IF NEW.external_id LIKE '%/%' AND NOT iot_internal.is_admin()
		AND (TG_OP = 'INSERT' OR NEW.external_id IS DISTINCT FROM OLD.external_id) THEN
		RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
			MESSAGE = format('permission denied for external_id "%s" of device "%s"', left(NEW.external_id, 150), NEW.name),
			HINT = 'Only a member of iot_admin may give a device a name with "/" in it.';
	END IF;
	IF NEW.external_id !~ '^[^+#[:cntrl:]]+$' OR octet_length(NEW.external_id) > 128 THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid external_id of device "%s": "%s"', NEW.name, left(NEW.external_id, 150)),
			HINT = 'It is what the device is called in topics and messages: 1 to 128 bytes on one line without "+" and "#"; NULL where that is its name.';
	END IF;
	RETURN NEW;
END
$function$;

-- Tables of which only the name can be wrong.
CREATE OR REPLACE FUNCTION iot_internal.check_group() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.check_name(replace(TG_TABLE_NAME, '_', ' '), NEW.name);
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_device_type() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	what text := format('device type "%s"', NEW.name);
	topic record;
	error text;
BEGIN
	PERFORM iot_internal.check_name('device type', NEW.name);
	IF NEW.ack_mode <> ALL (ARRAY['device', 'echo', 'broker']) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid ack_mode of %s: "%s"', what, NEW.ack_mode),
			HINT = 'A device confirms by "device", "echo" or "broker".';
	END IF;
	IF NOT NEW.ack_timeout BETWEEN interval '10 ms' AND interval '1 day' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('ack_timeout of %s is out of range', what),
			HINT = 'It is between 10 ms and 1 day.';
	END IF;
	IF NOT NEW.max_attempts BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('max_attempts of %s is out of range', what),
			HINT = 'It is between 1 and 100.';
	END IF;
	IF NOT NEW.command_ttl BETWEEN interval '10 ms' AND interval '30 days' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('command_ttl of %s is out of range', what),
			HINT = 'It is between 10 ms and 30 days, or NULL for the setting "iot.command_ttl".';
	END IF;
	IF NEW.send_when <> ALL (ARRAY['now', 'awake']) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid send_when of %s: "%s"', what, NEW.send_when),
			HINT = 'Commands are sent "now", or when the device is "awake".';
	END IF;
	IF NOT NEW.offline_after BETWEEN interval '1 s' AND interval '30 days' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('offline_after of %s is out of range', what),
			HINT = 'It is between 1 s and 30 days, or NULL where silence means nothing.';
	END IF;
	IF NEW.retention < interval '1 hour' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('retention of %s is below an hour', what),
			HINT = 'NULL is for as long as iot.retention says.';
	END IF;
	FOR topic IN
		SELECT t.key, t.template, min(t.key) OVER same AS first, max(t.key) OVER same AS last
		FROM (VALUES ('telemetry_topic', NEW.telemetry_topic),
			('attributes_topic', NEW.attributes_topic), ('status_topic', NEW.status_topic),
			('command_topic', NEW.command_topic), ('ack_topic', NEW.ack_topic)
			UNION ALL SELECT 'more_telemetry_topics', coalesce(m.template, '')
				FROM unnest(NEW.more_telemetry_topics) AS m (template)
			UNION ALL SELECT 'ignored_topics', coalesce(i.template, '')
				FROM unnest(NEW.ignored_topics) AS i (template))
			AS t (key, template)
		WINDOW same AS (PARTITION BY t.template, t.key = 'ignored_topics') LOOP
		error := iot_internal.topic_template_error(topic.template, topic.key,
			NEW.only_device IS NOT NULL OR CASE topic.key
				WHEN 'command_topic' THEN coalesce(NEW.command_template LIKE '%{device}%', false)
				WHEN 'status_topic' THEN false WHEN 'ack_topic' THEN false
				ELSE NEW.device_path IS NOT NULL END);
		IF error IS NULL AND NEW.only_device IS NOT NULL AND topic.key <> 'ignored_topics'
			AND strpos(topic.template, '{device') = 0 THEN
			error := iot_internal.own_topic_error(topic.template);
		END IF;
		IF error IS NOT NULL THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('invalid %s of %s: %s', topic.key, what, error),
				HINT = CASE
					WHEN topic.key = 'ignored_topics' THEN 'It may have {device}, or {device+} for one level or more, "+" for levels that do not matter, and "#" for the rest: "zigbee2mqtt/bridge/#".'
					WHEN topic.key LIKE '%telemetry%' THEN 'It has {device} or {device+} once, as a whole level, unless device_path is set, and may have {parameter} once, and "+" for levels that do not matter: "home/+/{device}/{parameter}".'
					WHEN topic.key = 'command_topic' THEN 'It has {device} or {device+} once, as a whole level, unless command_template has it, may have {parameter} once, and has no wildcards: "cmnd/{device}/{parameter}".'
					ELSE 'It has {device} or {device+} once, as a whole level, and may have "+" for levels that do not matter: "iot/{device}/status".' END;
		END IF;
		IF topic.first <> topic.last THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('%s and %s of %s are the same', topic.first, topic.last, what),
				HINT = 'What a message means is told by its topic alone.';
		END IF;
	END LOOP;
	IF cardinality(NEW.more_telemetry_topics) > 16 OR cardinality(NEW.ignored_topics) > 16 THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('more_telemetry_topics or ignored_topics of %s are more than 16', what),
			HINT = 'Each costs a look at every message; "+" and {parameter} cover many topics.';
	END IF;
	IF NEW.only_device !~ '^[^+#[:cntrl:]]+$' OR octet_length(NEW.only_device) > 128 THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid only_device of %s: "%s"', what, left(NEW.only_device, 150)),
			HINT = 'It is the name or the external_id of the device; NULL where topics or messages say who speaks.';
	END IF;
	IF NEW.only_device IS NOT NULL AND NEW.device_path IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('%s has both device_path and only_device', what),
			HINT = 'Either messages name their devices, or there is only one.';
	END IF;
	IF NEW.only_device IS NULL AND EXISTS (SELECT FROM iot.device_type_mapping m
			WHERE m.device_type_id = NEW.device_type_id
				AND (m.telemetry_topic IS NOT NULL OR m.command_topic IS NOT NULL)) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('parameters of %s have topics of their own, and only_device is missing', what),
			HINT = 'Such topics do not say whose they are.';
	END IF;
	PERFORM iot_internal.check_path('status_path', what, NEW.status_path);
	PERFORM iot_internal.check_path('device_path', what, NEW.device_path);
	PERFORM iot_internal.check_path('time_path', what, NEW.time_path);
	IF NEW.time_unit <> ALL (ARRAY['ms', 's']) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid time_unit of %s: "%s"', what, left(NEW.time_unit, 100)),
			HINT = 'Times that are numbers count "ms" or "s" since 1970.';
	END IF;
	PERFORM iot_internal.check_time_zone(
		NEW.time_zone, CASE WHEN TG_OP = 'UPDATE' THEN OLD.time_zone END);
	PERFORM iot_internal.check_status_words(what, NEW.online_word, NEW.offline_word);
	IF NEW.command_template IS NOT NULL THEN
		PERFORM iot_internal.check_command_template(what, NEW.command_template);
	END IF;
	RETURN NEW;
END
$function$;

-- Why this cannot be a topic of one device that it does not name; NULL where it can.
CREATE OR REPLACE FUNCTION iot_internal.own_topic_error(topic text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT CASE WHEN topic ~ '[{}+#]' THEN 'topic without {device} has a placeholder or a wildcard'
		ELSE iot_internal.topic_template_error(topic, 'status_topic', true) END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_path(key text, what text, path text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	error text := iot_internal.path_error(path);
BEGIN
	IF error IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid %s of %s: %s', key, what, error),
			HINT = 'Write "$.AM2301.Temperature", "$[''a key''][0]", or "$.*.Humidity" for the first member that has it; "$" is the message itself.';
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_status_words(what text, online_word text, offline_word text)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF online_word !~ '^[^[:cntrl:]]{1,64}$' OR offline_word !~ '^[^[:cntrl:]]{1,64}$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('online_word or offline_word of %s is not a word of 1 to 64 characters', what),
			HINT = 'Leave them NULL for "online" and "offline".';
	END IF;
	IF lower(coalesce(online_word, 'online')) = lower(coalesce(offline_word, 'offline')) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('online_word and offline_word of %s are the same', what),
			HINT = 'Upper and lower case make no difference.';
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_device_type_mapping() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	what text;
	only_device text;
	key text;
	topic text;
	error text;
BEGIN
	SELECT format('parameter "%s" of device type "%s"', p.name, t.name), t.only_device INTO what, only_device
		FROM iot.parameter p, iot.device_type t
		WHERE p.parameter_id = NEW.parameter_id AND t.device_type_id = NEW.device_type_id;
	FOR key, topic IN SELECT t.key, t.topic FROM (VALUES ('telemetry_topic', NEW.telemetry_topic),
			('command_topic', NEW.command_topic)) AS t (key, topic) WHERE t.topic IS NOT NULL LOOP
		error := CASE WHEN only_device IS NULL THEN 'its device type has no only_device'
			ELSE iot_internal.own_topic_error(topic) END;
		IF error IS NOT NULL THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('invalid %s of %s: %s', key, what, error),
				HINT = 'A parameter has a topic of its own where one device alone is of the type; it has neither placeholders nor wildcards.';
		END IF;
	END LOOP;
	PERFORM iot_internal.check_path('path', what, NEW.path);
	IF NEW.name !~ '^[^/+#[:cntrl:]]{1,64}$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid name of %s: "%s"', what, left(NEW.name, 100)),
			HINT = 'It is what devices of the type call the parameter, as one level of a topic; NULL where that is its own name.';
	END IF;
	IF NEW.scale = ANY (ARRAY['NaN', 'Infinity', '-Infinity', 0]::double precision[])
		OR NEW.shift = ANY (ARRAY['NaN', 'Infinity', '-Infinity']::double precision[]) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('scale and shift of %s must be finite, and scale not 0', what),
			HINT = 'A value is what the device says, times scale, plus shift.';
	END IF;
	PERFORM iot_internal.check_labels(what, NEW.labels);
	PERFORM iot_internal.check_labels('commands of ' || what, NEW.command_labels);
	IF NEW.command_template IS NOT NULL THEN
		PERFORM iot_internal.check_command_template(what, NEW.command_template);
	END IF;
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_command_template(what text, template text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	unknown text := iot_internal.command_template_unknown(template);
BEGIN
	IF length(template) > 8192 OR template ~ '^\s*$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('command_template of %s is empty or too long', what),
			HINT = 'It has 1 to 8192 characters, or is NULL for the usual payload.';
	END IF;
	IF unknown IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('unknown placeholder %s in command_template of %s', unknown, what),
			HINT = 'Known are {id}, {device}, {parameter}, {action}, {value}, {version}, {word} and {json}.';
	END IF;
	-- what begins like JSON must be JSON once it is filled in
	IF template ~ '^\s*([["]|\{(?![a-z][a-z0-9_]*\}))' THEN
		BEGIN
			PERFORM regexp_replace(regexp_replace(template, '\{(value|version|json)\}', '0', 'g'),
				'\{(id|device|parameter|action|word)\}', 'x', 'g')::jsonb;
		EXCEPTION WHEN data_exception THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('command_template of %s would not give valid JSON', what),
				HINT = 'Only {value} and {version} are numbers, and {json} is JSON by itself; put the others between quotation marks.';
		END;
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_retention() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET intervalstyle = 'postgres' AS $function$
BEGIN
	IF NEW.relation <> ALL (ARRAY['event', 'measurement', 'rollup_minute', 'rollup_hour', 'command',
			'alarm', 'notification', 'delivery', 'dead_letter']) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('retention knows no table "%s"', NEW.relation),
			HINT = 'It is for event, measurement, rollup_minute, rollup_hour, command, alarm, notification, delivery and dead_letter.';
	END IF;
	IF NEW.keep < interval '1 hour' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('retention of %s is below an hour', NEW.relation),
			HINT = 'Rows that are still needed for work in progress must not go.';
	END IF;
	-- for so long a request id finds its command again
	IF NEW.relation = 'command' AND NEW.keep < interval '7 days' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = 'commands are kept for 7 days at least',
			HINT = 'A request id that is sent again must find its command.';
	END IF;
	IF NEW.cap IS NOT NULL AND NEW.relation <> 'event' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('retention of %s has no cap', NEW.relation),
			HINT = 'Only the event log is kept for its readers beyond "keep", until "cap".';
	END IF;
	IF NEW.max_rows IS NOT NULL AND NEW.relation <> 'dead_letter' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('retention of %s is not by number of rows', NEW.relation),
			HINT = 'Only dead letters are, since strangers can send any number of them.';
	END IF;
	IF NEW.max_rows < 0 THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('"max_rows" of %s is below zero', NEW.relation),
			HINT = 'NULL is for no limit.';
	END IF;
	IF (NEW.partition_width IS NOT NULL)
			<> (NEW.relation = ANY (ARRAY['event', 'measurement', 'rollup_minute'])) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format(CASE WHEN NEW.partition_width IS NULL
				THEN '"partition_width" of %s is missing' ELSE '%s has no partitions' END, NEW.relation),
			HINT = 'Partitions have event, measurement and rollup_minute: by default one for each day.';
	END IF;
	-- a month is no number of days, though it compares as one
	IF NOT (CASE WHEN extract(month FROM NEW.partition_width) <> 0
			OR extract(year FROM NEW.partition_width) <> 0
		THEN NEW.partition_width::text = '1 mon'
		ELSE extract(epoch FROM NEW.partition_width) BETWEEN 3600 AND 31 * 86400
			AND extract(epoch FROM NEW.partition_width) % 3600 = 0 END) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid "partition_width" of %s: %s', NEW.relation, NEW.partition_width),
			HINT = 'It is a number of full hours up to 31 days, or 1 month.';
	END IF;
	IF NEW.cap < NEW.keep THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('the cap of %s is below what is kept anyway', NEW.relation),
			HINT = '"cap" is at least "keep", or NULL to keep events until every consumer has read them.';
	END IF;
	RETURN NEW;
END
$function$;
