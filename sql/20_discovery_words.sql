-- What an announcement says, in our words: parameters, topics, words for values, presence.  Nothing is
-- written here; see 20_api_home_assistant.sql.

-- An announcement with the long names of the keys that are looked at, and with "~" put in.
CREATE OR REPLACE FUNCTION iot_internal.discovery_keys(config jsonb, base text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT coalesce(jsonb_object_agg(k.key,
			CASE WHEN k.key ~ '(^|_)topic$' AND jsonb_typeof(e.value) = 'string' AND base IS NOT NULL THEN
				to_jsonb(CASE WHEN t.topic LIKE '~%' THEN base || substr(t.topic, 2)
					WHEN t.topic LIKE '%~' THEN left(t.topic, -1) || base ELSE t.topic END)
				ELSE e.value END ORDER BY a.long IS NULL), '{}')
	FROM jsonb_each(config) AS e
		LEFT JOIN (VALUES ('avty', 'availability'), ('avty_t', 'availability_topic'),
			('avty_tpl', 'availability_template'), ('bri_cmd_t', 'brightness_command_topic'),
			('bri_cmd_tpl', 'brightness_command_template'), ('bri_scl', 'brightness_scale'),
			('bri_stat_t', 'brightness_state_topic'), ('bri_val_tpl', 'brightness_value_template'),
			('cmd_t', 'command_topic'), ('cmd_tpl', 'command_template'), ('cmp', 'components'), ('cmps', 'components'),
			('cns', 'connections'), ('dev', 'device'), ('dev_cla', 'device_class'), ('e', 'encoding'),
			('exp_aft', 'expire_after'), ('ids', 'identifiers'), ('off_dly', 'off_delay'),
			('on_cmd_type', 'on_command_type'), ('ops', 'options'), ('p', 'platform'),
			('pl_avail', 'payload_available'), ('pl_lock', 'payload_lock'),
			('pl_not_avail', 'payload_not_available'), ('pl_off', 'payload_off'), ('pl_on', 'payload_on'),
			('pl_unlk', 'payload_unlock'), ('stat_locked', 'state_locked'), ('stat_off', 'state_off'),
			('stat_on', 'state_on'), ('stat_t', 'state_topic'), ('stat_unlocked', 'state_unlocked'),
			('stat_val_tpl', 'state_value_template'), ('t', 'topic'),
			('unit_of_meas', 'unit_of_measurement'), ('val_tpl', 'value_template')) AS a (short, long)
			ON a.short = e.key
		CROSS JOIN LATERAL (SELECT coalesce(a.long, e.key)) AS k (key)
		CROSS JOIN LATERAL (SELECT e.value #>> '{}') AS t (topic)
$function$;

-- What a template takes of a message: a place, and what it multiplies by.  Templates are programs in a
-- language of their own; only those are taken that do no more than this.
CREATE OR REPLACE FUNCTION iot_internal.discovery_path(template text, OUT path text, OUT scale double precision)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	part text[];
BEGIN
	path := '$';
	scale := 1;
	IF template IS NULL THEN
		RETURN;
	END IF;
	IF length(template) <= 300 THEN
		part := regexp_match(template, $re$^\s*\{\{-?\s*\(?\s*value(?:_json((?:\.[A-Za-z_][A-Za-z0-9_]*|\[(?:'[^'"\\[:cntrl:]]+'|"[^'"\\[:cntrl:]]+"|[0-9]{1,4})\])*))?\s*(?:\|\s*float\s*)?\)?\s*(?:([*/])\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*)?(?:\|\s*(?:float|string)\s*)?-?\}\}\s*$$re$);
	END IF;
	IF part IS NULL OR part[3]::numeric = 0 THEN
		RAISE EXCEPTION 'template "%" is not supported', left(template, 100)
			USING ERRCODE = 'feature_not_supported',
				HINT = 'Taken are {{ value }}, {{ value_json.a.b }} and {{ value_json["a b"][0] }}, with "| float", and with "*" or "/" and a number.';
	END IF;
	path := '$' || coalesce(part[1], '');
	scale := CASE part[2] WHEN '*' THEN part[3]::numeric WHEN '/' THEN 1 / part[3]::numeric ELSE 1 END;
END
$function$;

-- The same of commands, as a template of ours.
CREATE OR REPLACE FUNCTION iot_internal.discovery_command(template text, has_words boolean) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	value constant text := E'\x01';
	bare text := regexp_replace(template, '\{\{-?\s*value\s*(\|\s*(float|string)\s*)?-?\}\}', value, 'g');
	is_json boolean := bare ~ '^\s*[[{"]';
BEGIN
	IF template IS NULL THEN
		RETURN '{word}';
	END IF;
	IF is_json THEN
		bare := replace(bare, '"' || value || '"', '"{word' || value || '}"');
	END IF;
	IF length(template) > 1000 OR strpos(bare, value) = 0 OR bare ~ '\{[{%#]' OR bare ~ '\{[a-z][a-z0-9_]*\}'
		OR is_json AND has_words AND replace(bare, '{word' || value || '}', '') ~ value THEN
		RAISE EXCEPTION 'template "%" is not supported', left(template, 100)
			USING ERRCODE = 'feature_not_supported',
				HINT = 'Taken are {{ value }} and texts or JSON around it; a word in JSON stands between quotation marks.';
	END IF;
	bare := replace(bare, '{word' || value || '}', '{word}');
	RETURN replace(bare, value, CASE WHEN is_json THEN '{value}' ELSE '{word}' END);
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.reads_as_number(word text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT word ~ '^\s*[+-]?([0-9]{1,15}(\.[0-9]{0,15})?|\.[0-9]{1,15})\s*$'
$function$;

-- Words for 0 and 1, of values and of commands; numbers in their place are a scale.
CREATE OR REPLACE FUNCTION iot_internal.discovery_words(
	state_off text, state_on text, command_off text, command_on text,
	OUT labels jsonb, OUT command_labels jsonb, OUT scale double precision, OUT shift double precision)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	words constant text[] := ARRAY[state_off, state_on, command_off, command_on];
	numbers bigint := (SELECT count(*) FROM unnest(words) AS w (word) WHERE iot_internal.reads_as_number(w.word));
BEGIN
	scale := 1;
	shift := 0;
	IF state_off = state_on OR command_off = command_on THEN
		RAISE EXCEPTION 'words for on and off are the same: "%"', left(coalesce(state_on, command_on), 64)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'They are payload_on and payload_off, or state_on and state_off.';
	ELSIF numbers = 4 AND state_off::numeric = command_off::numeric AND state_on::numeric = command_on::numeric
		AND state_off::numeric <> state_on::numeric THEN
		scale := 1 / (state_on::numeric - state_off::numeric);
		shift := - state_off::numeric / (state_on::numeric - state_off::numeric);
	ELSIF numbers = 0 THEN
		labels := jsonb_build_object(state_off, 0, state_on, 1);
		-- what a template makes of a JSON boolean
		IF state_off = ANY (ARRAY['True', 'False']) AND state_on = ANY (ARRAY['True', 'False']) THEN
			labels := jsonb_build_object(lower(state_off), 0, lower(state_on), 1) || labels;
		END IF;
		command_labels := jsonb_build_object(command_off, 0, command_on, 1);
	ELSE
		RAISE EXCEPTION 'words for on and off are partly numbers, or other numbers for commands than for values'
			USING ERRCODE = 'feature_not_supported',
				HINT = 'Taken are words, or the same two numbers for both.';
	END IF;
END
$function$;

-- Words for 0, 1, 2 and so on; NULL where they are numbers and need none.
CREATE OR REPLACE FUNCTION iot_internal.discovery_options(options jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	numbers bigint;
BEGIN
	IF jsonb_typeof(options) IS DISTINCT FROM 'array' OR NOT jsonb_array_length(options) BETWEEN 1 AND 256 THEN
		RAISE EXCEPTION 'options must be an array of 1 to 256 texts' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'They are the words that the value can be.';
	END IF;
	numbers := (SELECT count(*) FROM jsonb_array_elements_text(options) AS o (word)
		WHERE iot_internal.reads_as_number(o.word));
	IF numbers = jsonb_array_length(options) THEN
		RETURN NULL;
	ELSIF numbers > 0 THEN
		RAISE EXCEPTION 'options are partly numbers' USING ERRCODE = 'feature_not_supported',
			HINT = 'Taken are words alone, or numbers alone.';
	END IF;
	RETURN (SELECT jsonb_object_agg(o.word, o.place - 1)
		FROM jsonb_array_elements_text(options) WITH ORDINALITY AS o (word, place));
END
$function$;

-- A topic of an announcement, or an error.
CREATE OR REPLACE FUNCTION iot_internal.discovery_topic(entity jsonb, key text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	topic text := entity ->> key;
	error text := iot_internal.own_topic_error(topic);
BEGIN
	IF error IS NOT NULL THEN
		RAISE EXCEPTION 'invalid % "%": %', key, left(topic, 100), error
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is a topic of 1 to 1024 bytes and 32 levels at most.';
	END IF;
	RETURN topic;
END
$function$;

-- The parameters that one entity gives its device: a sensor, a switch.
CREATE OR REPLACE FUNCTION iot_internal.discovery_values(component text, object text, entity jsonb)
RETURNS TABLE (parameter text, unit text, value_min double precision, value_max double precision,
	labels jsonb, command_labels jsonb, scale double precision, shift double precision, path text,
	telemetry_topic text, command_topic text, command_template text)
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	template record;
	is_light boolean := component = 'light';
	is_json boolean := is_light AND entity ->> 'schema' = 'json';
BEGIN
	IF component <> ALL (ARRAY['sensor', 'binary_sensor', 'switch', 'number', 'select', 'lock', 'light'])
		OR is_light AND coalesce(entity ->> 'schema', 'basic') <> ALL (ARRAY['basic', 'default', 'json']) THEN
		RAISE EXCEPTION 'component "%"% is not supported', left(component, 64),
				CASE WHEN is_light THEN format(' with schema "%s"', left(entity ->> 'schema', 64)) ELSE '' END
			USING ERRCODE = 'feature_not_supported',
				HINT = 'Taken are sensor, binary_sensor, switch, number, select, lock, and light with schema "default" or "json".';
	END IF;
	IF object !~ '^[A-Za-z0-9_.:-]{1,64}$' THEN
		RAISE EXCEPTION '"%" cannot be the name of a parameter', left(object, 100)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is the object id in the topic, or the key in components: 1 to 64 letters A to Z, digits, and "_", ".", ":", "-".';
	END IF;
	IF entity ->> 'state_topic' IS NULL THEN
		RAISE EXCEPTION '% "%" has no state topic', component, object
			USING ERRCODE = 'feature_not_supported',
				HINT = 'What never says its state gives no measurement, and nothing would confirm its commands.';
	END IF;
	IF coalesce(entity ->> 'encoding', 'utf-8') <> 'utf-8' OR entity ->> 'device_class' = ANY (ARRAY['timestamp', 'date']) THEN
		RAISE EXCEPTION 'value of % "%" is neither a number nor a word', component, object
			USING ERRCODE = 'feature_not_supported',
				HINT = 'Times and bodies that are not UTF-8 are not taken.';
	END IF;
	-- others would make up values, or send more than one command
	IF component = 'binary_sensor' AND entity ? 'off_delay'
		OR is_light AND coalesce(entity ->> 'on_command_type', 'last') <> 'last' THEN
		RAISE EXCEPTION '% "%" wants its % observed', component, object,
				CASE WHEN is_light THEN 'on_command_type' ELSE 'off_delay' END
			USING ERRCODE = 'feature_not_supported',
				HINT = 'Only what a device says itself is stored, and a command is one message.';
	END IF;
	template := iot_internal.discovery_path(CASE WHEN NOT is_light THEN entity ->> 'value_template'
		WHEN NOT is_json THEN entity ->> 'state_value_template' END);
	parameter := object;
	unit := CASE WHEN component = ANY (ARRAY['sensor', 'number']) THEN entity ->> 'unit_of_measurement' END;
	path := CASE WHEN is_json THEN '$.state' ELSE template.path END;
	scale := 1;
	shift := 0;
	telemetry_topic := iot_internal.discovery_topic(entity, 'state_topic');
	IF component = ANY (ARRAY['switch', 'number', 'select', 'lock', 'light']) THEN
		command_topic := iot_internal.discovery_topic(entity, 'command_topic');
	END IF;
	IF component = 'sensor' AND entity ? 'options' OR component = 'select' THEN
		labels := iot_internal.discovery_options(entity -> 'options');
		command_labels := labels;
	ELSIF component = 'lock' THEN
		SELECT w.labels, w.command_labels, w.scale, w.shift INTO labels, command_labels, scale, shift
			FROM iot_internal.discovery_words(coalesce(entity ->> 'state_unlocked', 'UNLOCKED'),
				coalesce(entity ->> 'state_locked', 'LOCKED'), coalesce(entity ->> 'payload_unlock', 'UNLOCK'),
				coalesce(entity ->> 'payload_lock', 'LOCK')) w;
	ELSIF component = ANY (ARRAY['binary_sensor', 'switch', 'light']) THEN
		SELECT w.labels, w.command_labels, w.scale, w.shift INTO labels, command_labels, scale, shift
			FROM (SELECT CASE WHEN is_json THEN 'OFF' ELSE coalesce(entity ->> 'payload_off', 'OFF') END,
				CASE WHEN is_json THEN 'ON' ELSE coalesce(entity ->> 'payload_on', 'ON') END) AS p (off, "on"),
				iot_internal.discovery_words(
					CASE WHEN component = 'switch' THEN coalesce(entity ->> 'state_off', p.off) ELSE p.off END,
					CASE WHEN component = 'switch' THEN coalesce(entity ->> 'state_on', p."on") ELSE p."on" END,
					p.off, p."on") w;
	ELSIF component = 'number' THEN
		value_min := coalesce((entity ->> 'min')::double precision, 1);
		value_max := coalesce((entity ->> 'max')::double precision, 100);
	END IF;
	IF labels IS NOT NULL AND template.scale <> 1 THEN
		RAISE EXCEPTION 'template of % "%" multiplies words', component, object
			USING ERRCODE = 'feature_not_supported', HINT = 'Only numbers can be multiplied.';
	END IF;
	scale := scale * template.scale;
	-- a command is what the template of the value would make of it, and has none of the scale
	IF command_topic IS NOT NULL AND template.scale <> 1 THEN
		RAISE EXCEPTION '% "%" takes commands in another measure than it reports', component, object
			USING ERRCODE = 'feature_not_supported', HINT = 'A template that multiplies is taken where there are no commands.';
	END IF;
	command_labels := CASE WHEN command_topic IS NOT NULL AND command_labels <> labels THEN command_labels END;
	command_template := CASE WHEN command_topic IS NULL THEN NULL WHEN is_json THEN '{"state": {json}}'
		ELSE iot_internal.discovery_command(entity ->> 'command_template', labels IS NOT NULL) END;
	RETURN NEXT;

	-- how bright a light is, by itself
	IF is_json AND entity ->> 'brightness' = 'true'
		OR is_light AND NOT is_json AND entity ? 'brightness_state_topic' THEN
		parameter := left(object, 53) || '_brightness';
		template := iot_internal.discovery_path(CASE WHEN NOT is_json THEN entity ->> 'brightness_value_template' END);
		IF template.scale <> 1 THEN
			RAISE EXCEPTION '% "%" takes commands in another measure than it reports', component, parameter
				USING ERRCODE = 'feature_not_supported', HINT = 'A template that multiplies is taken where there are no commands.';
		END IF;
		path := CASE WHEN is_json THEN '$.brightness' ELSE template.path END;
		labels := NULL;
		command_labels := NULL;
		scale := 1;
		shift := 0;
		value_min := 0;
		value_max := coalesce((entity ->> 'brightness_scale')::double precision, 255);
		IF is_json THEN
			command_template := CASE WHEN command_topic IS NOT NULL THEN '{"brightness": {json}}' END;
		ELSE
			telemetry_topic := iot_internal.discovery_topic(entity, 'brightness_state_topic');
			command_topic := iot_internal.discovery_topic(entity, 'brightness_command_topic');
			command_template := CASE WHEN command_topic IS NOT NULL
				THEN iot_internal.discovery_command(entity ->> 'brightness_command_template', false) END;
		END IF;
		RETURN NEXT;
	END IF;
END
$function$;

-- Where and how an entity says online and offline; NULL where it does not.  Of several topics the one
-- is taken that is closest to its state topic: others are those of its gateway.
CREATE OR REPLACE FUNCTION iot_internal.discovery_presence(entity jsonb, base text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	given jsonb := entity -> 'availability';
	state constant text[] := string_to_array(entity ->> 'state_topic', '/');
	chosen jsonb;
	template record;
BEGIN
	IF entity ? 'availability_topic' THEN
		given := jsonb_build_array(jsonb_build_object('topic', entity ->> 'availability_topic',
			'value_template', entity ->> 'availability_template',
			'payload_available', entity ->> 'payload_available',
			'payload_not_available', entity ->> 'payload_not_available'));
	ELSIF given IS NULL THEN
		RETURN NULL;
	ELSIF jsonb_typeof(given) = 'object' THEN
		given := jsonb_build_array(given);
	END IF;
	IF jsonb_typeof(given) <> 'array' OR jsonb_array_length(given) > 16
		OR EXISTS (SELECT FROM jsonb_array_elements(given) AS g WHERE jsonb_typeof(g.value) <> 'object') THEN
		RAISE EXCEPTION 'availability must be an array of at most 16 objects' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Each has a "topic".';
	END IF;
	SELECT k.keys INTO chosen
		FROM jsonb_array_elements(given) WITH ORDINALITY AS g (item, place)
			CROSS JOIN LATERAL (SELECT iot_internal.discovery_keys(g.item, base)) AS k (keys)
		WHERE k.keys ? 'topic'
		ORDER BY (SELECT count(*) FROM generate_subscripts(state, 1) AS i
			WHERE state[:i] = (string_to_array(k.keys ->> 'topic', '/'))[:i]) DESC, g.place DESC
		LIMIT 1;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	template := iot_internal.discovery_path(chosen ->> 'value_template');
	IF template.scale <> 1 THEN
		RAISE EXCEPTION 'template of availability multiplies words'
			USING ERRCODE = 'feature_not_supported', HINT = 'Only numbers can be multiplied.';
	END IF;
	RETURN jsonb_strip_nulls(jsonb_build_object('topic', iot_internal.discovery_topic(chosen, 'topic'),
		'path', nullif(template.path, '$'), 'online', chosen ->> 'payload_available',
		'offline', chosen ->> 'payload_not_available'));
END
$function$;
