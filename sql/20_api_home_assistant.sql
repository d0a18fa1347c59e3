-- Devices that announce themselves by Home Assistant's MQTT discovery.  What is announced becomes a
-- device of a type of its own, whose parameters have topics of their own; what cannot be taken over
-- is an error that says why, and never a guess.

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

-- The device type that has the topic for all of its devices, or NULL.  A stranger may announce any
-- topic; those of devices that did not announce themselves are not his.
CREATE OR REPLACE FUNCTION iot_internal.topic_owner(topic text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT t.name FROM iot.device_type t
		CROSS JOIN LATERAL unnest(ARRAY[t.telemetry_topic, t.attributes_topic, t.status_topic,
			t.command_topic, t.ack_topic] || t.more_telemetry_topics) AS x (template)
	WHERE t.only_device IS NULL
		AND topic ~ ('^' || replace(replace(replace(replace(
			regexp_replace(x.template, '([].^$*+?(){}|\\[])', '\\\1', 'g'),
			'\{device\+\}', '.+'), '\{device\}', '[^/]+'), '\{parameter\}', '[^/]+'), '\+', '[^/]*') || '$')
	ORDER BY t.name LIMIT 1
$function$;

-- What the type of a device that announced itself says of its presence.
CREATE OR REPLACE FUNCTION iot_internal.discovery_settle(device_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	said jsonb := (SELECT a.presence FROM iot.discovery a
		WHERE a.device_id = discovery_settle.device_id AND a.presence IS NOT NULL ORDER BY a.topic LIMIT 1);
	silence interval := (SELECT make_interval(secs => min(a.expire_after)) FROM iot.discovery a
		WHERE a.device_id = discovery_settle.device_id);
	type_id uuid := (SELECT t.device_type_id
		FROM iot.device d JOIN iot.device_type t ON t.device_type_id = d.device_type_id
		WHERE d.device_id = discovery_settle.device_id AND t.only_device IS NOT NULL
			AND (t.status_topic, t.status_path, t.online_word, t.offline_word, t.offline_after) IS DISTINCT FROM
				(coalesce(said ->> 'topic', 'iot/{device}/status'), said ->> 'path', said ->> 'online',
					said ->> 'offline', silence));
BEGIN
	IF type_id IS NOT NULL THEN
		UPDATE iot.device_type t SET status_topic = coalesce(said ->> 'topic', 'iot/{device}/status'),
				status_path = said ->> 'path', online_word = said ->> 'online',
				offline_word = said ->> 'offline', offline_after = silence
			WHERE t.device_type_id = type_id;
	END IF;
END
$function$;

-- Takes from a device the parameters that are announced no more.  Sensors stay, and with them all that
-- was measured.
CREATE OR REPLACE FUNCTION iot_internal.discovery_withdraw(device_id uuid, parameters text[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
	DELETE FROM iot.device_type_mapping m
		USING iot.device d, iot.device_type t, iot.parameter p
		WHERE d.device_id = $1 AND t.device_type_id = d.device_type_id AND t.only_device IS NOT NULL
			AND m.device_type_id = d.device_type_id AND p.parameter_id = m.parameter_id AND p.name = ANY ($2)
$function$;

-- The device that calls itself so, made where it is not there.
CREATE OR REPLACE FUNCTION iot_internal.discovery_device(
	spoken text, description text, adapter_id uuid, device_group_id uuid, OUT device_id uuid, OUT device text,
	OUT device_type_id uuid, OUT made boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	present record;
BEGIN
	IF spoken !~ '^[^+#[:cntrl:]]+$' OR octet_length(spoken) > 128 THEN
		RAISE EXCEPTION 'a device cannot be called "%"', left(spoken, 150)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Its first identifier is a text of 1 to 128 bytes on one line without "+" and "#".';
	END IF;
	SELECT d.device_id, d.name, d.adapter_id, d.device_type_id, t.only_device INTO present
		FROM iot.device d JOIN iot.device_type t ON t.device_type_id = d.device_type_id
		WHERE coalesce(d.external_id, d.name) = spoken;
	made := NOT FOUND;
	IF made THEN
		device := CASE WHEN spoken ~ '^[A-Za-z0-9_.:-]{1,64}$' THEN spoken
			ELSE left('ha_' || regexp_replace(spoken, '[^A-Za-z0-9_.:-]', '_', 'g'), 64) END;
		IF device ~* '^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})$' THEN
			device := 'ha_' || device;
		END IF;
		IF EXISTS (SELECT FROM iot.device d WHERE d.name = discovery_device.device)
			OR EXISTS (SELECT FROM iot.device_type t WHERE t.name = left('ha:' || discovery_device.device, 64)
				AND t.only_device IS DISTINCT FROM spoken) THEN
			RAISE EXCEPTION 'name "%" of device "%" is taken', device, spoken
				USING ERRCODE = 'duplicate_object', HINT = 'Give the other device, or its type, another name.';
		END IF;
		INSERT INTO iot.device_type AS t (name, only_device, ack_mode)
			VALUES (left('ha:' || device, 64), spoken, 'echo')
			ON CONFLICT (name) DO UPDATE SET only_device = excluded.only_device
			RETURNING t.device_type_id INTO device_type_id;
		IF EXISTS (SELECT FROM iot.device_type_mapping m WHERE m.device_type_id = discovery_device.device_type_id) THEN
			-- of one that was deleted
			DELETE FROM iot.device_type_mapping m WHERE m.device_type_id = discovery_device.device_type_id;
		END IF;
		INSERT INTO iot.device AS d (name, external_id, description, device_group_id, device_type_id, adapter_id)
			VALUES (device, nullif(spoken, device), description, discovery_device.device_group_id,
				discovery_device.device_type_id, discovery_device.adapter_id)
			RETURNING d.device_id INTO device_id;
		RETURN;
	END IF;
	IF present.only_device IS DISTINCT FROM spoken OR present.adapter_id <> discovery_device.adapter_id THEN
		RAISE EXCEPTION 'device "%" is there and did not announce itself at this adapter', present.name
			USING ERRCODE = 'duplicate_object',
				HINT = 'What is announced changes no device that was made otherwise.';
	END IF;
	device_id := present.device_id;
	device := present.name;
	device_type_id := present.device_type_id;
END
$function$;

-- Takes in what stands at a topic of the broker, NULL where nothing does any more.  Judged to the end
-- before anything is written.
CREATE OR REPLACE FUNCTION iot_internal.discovery_import(
	adapter_id uuid, device_group_id uuid, prefix text, topic text, config jsonb, max_topics bigint)
RETURNS TABLE (device text, parameters text[], made boolean, ignored text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	levels text[] := string_to_array(substr(topic, length(prefix) + 2), '/');
	object text;
	whole jsonb;
	identity jsonb;
	spoken text;
	base text := config ->> '~';
	old iot.discovery;
	found record;
	entity record;
	value record;
	taken jsonb := '[]';
	before jsonb;
	presence jsonb;
	silence integer;
	wrong text;
	hint text;
BEGIN
	IF left(topic, length(prefix) + 1) <> prefix || '/' OR levels[cardinality(levels)] <> 'config'
		OR NOT cardinality(levels) BETWEEN 3 AND 4 OR '' = ANY (levels) OR octet_length(topic) > 1024 THEN
		RAISE EXCEPTION '"%" is no topic of an announcement', left(topic, 150)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('It is "%s/<component>/[<node>/]<object>/config", or "%1$s/device/<object>/config".', prefix);
	END IF;
	-- two announcements of a device come one after the other, and the limit holds
	PERFORM FROM iot.adapter a WHERE a.adapter_id = discovery_import.adapter_id FOR NO KEY UPDATE;
	SELECT a.* INTO old FROM iot.discovery a
		WHERE a.adapter_id = discovery_import.adapter_id AND a.topic = discovery_import.topic;
	ignored := '{}';
	made := false;
	parameters := '{}';
	IF config IS NULL THEN
		IF old.topic IS NULL THEN
			RETURN;
		END IF;
		DELETE FROM iot.discovery a
			WHERE a.adapter_id = discovery_import.adapter_id AND a.topic = discovery_import.topic;
		PERFORM iot_internal.discovery_withdraw(old.device_id, old.parameters);
		PERFORM iot_internal.discovery_settle(old.device_id);
		device := (SELECT d.name FROM iot.device d WHERE d.device_id = old.device_id);
		IF device IS NOT NULL THEN
			RETURN NEXT;
		END IF;
		RETURN;
	END IF;
	IF jsonb_typeof(config) <> 'object' THEN
		RAISE EXCEPTION 'announcement must be a JSON object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Give what is retained at the topic, or NULL where that is empty.';
	END IF;
	IF old.config = config AND old.device_id IS NOT NULL AND NOT old.refused THEN
		SELECT d.name INTO device FROM iot.device d WHERE d.device_id = old.device_id;
		parameters := old.parameters;
		ignored := string_to_array(old.error, '; ');
		RETURN NEXT;
		RETURN;
	END IF;
	IF octet_length(config::text) > 65536 THEN
		RAISE EXCEPTION 'announcement is larger than 64 kB' USING ERRCODE = 'program_limit_exceeded',
			HINT = 'A device can announce its parts one by one.';
	END IF;
	IF old.topic IS NULL AND (SELECT count(*) FROM iot.discovery a
			WHERE a.adapter_id = discovery_import.adapter_id) >= max_topics THEN
		RAISE EXCEPTION 'there are % announcements already', max_topics USING ERRCODE = 'program_limit_exceeded',
			HINT = 'Raise "discovery_limit" in the adapter''s options, or have devices that are gone empty their topics.';
	END IF;

	whole := iot_internal.discovery_keys(config, base);
	identity := CASE WHEN jsonb_typeof(whole -> 'device') = 'object'
		THEN iot_internal.discovery_keys(whole -> 'device', NULL) ELSE '{}' END;
	object := levels[cardinality(levels) - 1];
	spoken := coalesce(CASE WHEN jsonb_typeof(identity -> 'identifiers') = 'array'
			THEN identity #>> '{identifiers,0}' ELSE identity ->> 'identifiers' END,
		identity #>> '{connections,0,1}', levels[cardinality(levels) - 2 + (cardinality(levels) = 3)::integer]);
	IF levels[1] = 'device' AND (jsonb_typeof(whole -> 'components') IS DISTINCT FROM 'object'
			OR (SELECT count(*) FROM jsonb_object_keys(whole -> 'components')) > 64) THEN
		RAISE EXCEPTION 'components must be an object of at most 64 members' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Each is announced as under a topic of its own, and has a "platform".';
	END IF;
	FOR entity IN
		SELECT levels[1] AS component, object AS object, whole AS keys WHERE levels[1] <> 'device'
		UNION ALL
		SELECT k.keys ->> 'platform', c.key, whole - 'components' || k.keys
			FROM jsonb_each(CASE WHEN levels[1] = 'device' THEN whole -> 'components' ELSE '{}' END) AS c
				CROSS JOIN LATERAL (SELECT iot_internal.discovery_keys(CASE jsonb_typeof(c.value)
					WHEN 'object' THEN c.value ELSE '{}' END, base)) AS k (keys)
			-- a platform alone takes the component away
			WHERE k.keys - 'platform' <> '{}'
	LOOP
		before := taken;
		BEGIN
			FOR value IN SELECT v.* FROM iot_internal.discovery_values(coalesce(entity.component, ''),
					CASE WHEN starts_with(entity.object, spoken || '_') AND length(entity.object) > length(spoken) + 1
						THEN substr(entity.object, length(spoken) + 2) ELSE entity.object END, entity.keys) v LOOP
				wrong := (SELECT p.unit FROM iot.parameter p WHERE p.name = value.parameter AND p.unit <> value.unit);
				IF wrong IS NOT NULL THEN
					RAISE EXCEPTION 'parameter "%" is in "%" and not in "%"', value.parameter, wrong, left(value.unit, 40)
						USING ERRCODE = 'invalid_parameter_value',
							HINT = 'Parameters are one for all devices; rename the one that is there.';
				END IF;
				IF EXISTS (SELECT FROM jsonb_array_elements(taken) AS t WHERE t.value ->> 'parameter' = value.parameter) THEN
					RAISE EXCEPTION 'parameter "%" is announced twice', value.parameter
						USING ERRCODE = 'duplicate_object', HINT = 'Each part of a device has a name of its own.';
				END IF;
				PERFORM iot_internal.discovery_refuse_owned(value.telemetry_topic);
				PERFORM iot_internal.discovery_refuse_owned(value.command_topic);
				taken := taken || to_jsonb(value);
			END LOOP;
			presence := coalesce(presence, iot_internal.discovery_presence(entity.keys, base));
			-- 0 is for ever
			silence := least(silence, nullif(greatest((entity.keys ->> 'expire_after')::numeric::integer, 0), 0));
			silence := CASE WHEN silence > 2592000 THEN 2592000 ELSE silence END;
		EXCEPTION WHEN feature_not_supported OR data_exception OR duplicate_object THEN
			IF levels[1] <> 'device' THEN
				RAISE;
			END IF;
			GET STACKED DIAGNOSTICS wrong = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
			taken := before;
			ignored := ignored || format('%s: %s', left(entity.object, 64), wrong);
		END;
	END LOOP;
	IF taken = '[]' THEN
		RAISE EXCEPTION 'announcement has nothing that can be taken%', coalesce(': ' || ignored[1], '')
			USING ERRCODE = 'feature_not_supported', HINT = coalesce(hint, 'It has components with a "platform" and a "state_topic".');
	END IF;
	PERFORM iot_internal.discovery_refuse_owned(presence ->> 'topic');
	parameters := ARRAY(SELECT t.value ->> 'parameter' FROM jsonb_array_elements(taken) AS t ORDER BY 1);

	found := iot_internal.discovery_device(spoken, left(identity ->> 'name', 200), adapter_id, device_group_id);
	device := found.device;
	made := found.made;
	wrong := (SELECT a.topic FROM iot.discovery a WHERE a.device_id = found.device_id
		AND (a.adapter_id, a.topic) <> (discovery_import.adapter_id, discovery_import.topic)
		AND a.parameters && discovery_import.parameters LIMIT 1);
	IF wrong IS NOT NULL THEN
		RAISE EXCEPTION 'device "%" has announced the same at "%"', device, wrong
			USING ERRCODE = 'duplicate_object', HINT = 'Parameters are called by the object id, whatever the component.';
	END IF;
	-- each statement on the registry costs its readers something, whether it changes anything or not
	IF old.device_id <> found.device_id OR NOT old.parameters <@ parameters THEN
		PERFORM iot_internal.discovery_withdraw(old.device_id, old.parameters);
	END IF;
	IF EXISTS (SELECT unnest(parameters) EXCEPT SELECT p.name FROM iot.parameter p WHERE p.name = ANY (parameters)) THEN
		INSERT INTO iot.parameter (name, unit)
			SELECT v.parameter, v.unit FROM jsonb_to_recordset(taken) AS v (parameter text, unit text)
			ON CONFLICT (name) DO NOTHING;
	END IF;
	INSERT INTO iot.device_type_mapping (device_type_id, parameter_id, path, scale, shift, labels, telemetry_topic,
			command_topic, command_template, command_labels)
		SELECT found.device_type_id, p.parameter_id, v.path, v.scale, v.shift, nullif(v.labels, 'null'),
			v.telemetry_topic, v.command_topic, v.command_template, nullif(v.command_labels, 'null')
		FROM jsonb_to_recordset(taken) AS v (parameter text, path text, scale double precision,
				shift double precision, labels jsonb, telemetry_topic text, command_topic text,
				command_template text, command_labels jsonb)
			JOIN iot.parameter p ON p.name = v.parameter
		ON CONFLICT (device_type_id, parameter_id) DO UPDATE SET path = excluded.path, scale = excluded.scale,
			shift = excluded.shift, labels = excluded.labels, telemetry_topic = excluded.telemetry_topic,
			command_topic = excluded.command_topic, command_template = excluded.command_template,
			command_labels = excluded.command_labels;
	INSERT INTO iot.sensor (device_id, parameter_id, value_min, value_max, labels)
		SELECT found.device_id, p.parameter_id, v.value_min, v.value_max, nullif(v.labels, 'null')
		FROM jsonb_to_recordset(taken) AS v (parameter text, value_min double precision,
				value_max double precision, labels jsonb)
			JOIN iot.parameter p ON p.name = v.parameter
		ON CONFLICT (device_id, parameter_id) DO UPDATE SET value_min = excluded.value_min,
			value_max = excluded.value_max, labels = excluded.labels;
	INSERT INTO iot.discovery (adapter_id, topic, device_id, config, parameters, presence, expire_after, error)
		VALUES (discovery_import.adapter_id, discovery_import.topic, found.device_id, discovery_import.config,
			discovery_import.parameters, presence, silence,
			nullif(left(array_to_string(ignored, '; '), 4000), ''))
		ON CONFLICT (adapter_id, topic) DO UPDATE SET device_id = excluded.device_id, config = excluded.config,
			parameters = excluded.parameters, presence = excluded.presence, expire_after = excluded.expire_after,
			refused = false, error = excluded.error, updated_at = excluded.updated_at;
	IF old.device_id <> found.device_id THEN
		PERFORM iot_internal.discovery_settle(old.device_id);
	END IF;
	PERFORM iot_internal.discovery_settle(found.device_id);
	IF made THEN
		INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
			SELECT iot_internal.uuidv7(), 'device', found.device_id::text, 'device.registered',
				jsonb_build_object('device', device, 'adapter', a.name, 'device_group', g.name,
					'device_type', t.name, 'parameters', to_jsonb(parameters)), found.device_id
			FROM iot.adapter a, iot.device_group g, iot.device_type t
			WHERE a.adapter_id = discovery_import.adapter_id
				AND g.device_group_id = discovery_import.device_group_id
				AND t.device_type_id = found.device_type_id;
	END IF;
	RETURN NEXT;
END
$function$;

-- An error where the topic is that of devices that did not announce themselves.
CREATE OR REPLACE FUNCTION iot_internal.discovery_refuse_owned(topic text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	owner text := iot_internal.topic_owner(topic);
BEGIN
	IF owner IS NOT NULL THEN
		RAISE EXCEPTION 'topic "%" is one of device type "%"', left(topic, 150), owner
			USING ERRCODE = 'duplicate_object',
				HINT = 'Who announces it would listen to others, or speak for them.';
	END IF;
END
$function$;

-- The same for what comes to an adapter, whose options say where and into which group; why it is refused, and
-- whether that is news.  An error that is not the announcement's fault is one.
CREATE OR REPLACE FUNCTION iot_internal.discover(
	adapter_id uuid, topic text, config jsonb, OUT error text, OUT is_new boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	rule record;
	state text;
BEGIN
	SELECT g.device_group_id, a.options ->> 'discovery_prefix' AS prefix,
			coalesce((a.options ->> 'discovery_limit')::bigint, 1000) AS max_topics INTO rule
		FROM iot.adapter a LEFT JOIN iot.device_group g ON g.name = a.options ->> 'discovery_group'
		WHERE a.adapter_id = discover.adapter_id;
	is_new := true;
	IF rule.device_group_id IS NULL OR rule.prefix IS NULL THEN
		error := 'the device group of such devices does not exist';
		RETURN;
	END IF;
	BEGIN
		PERFORM iot_internal.discovery_import(adapter_id, rule.device_group_id, rule.prefix, topic, config, rule.max_topics);
		RETURN;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS error = MESSAGE_TEXT, state = RETURNED_SQLSTATE;
		IF state !~ '^(0A|22|23|42|54)' THEN
			RAISE;
		END IF;
	END;
	is_new := NOT EXISTS (SELECT FROM iot.discovery a WHERE a.adapter_id = discover.adapter_id
		AND a.topic = discover.topic AND a.refused AND a.error = left(discover.error, 4000));
	IF is_new THEN
		INSERT INTO iot.discovery (adapter_id, topic, config, refused, error)
			SELECT discover.adapter_id, discover.topic,
				CASE WHEN octet_length(config::text) > 65536 THEN '{}' ELSE coalesce(config, '{}') END, true, left(discover.error, 4000)
			WHERE (SELECT count(*) FROM iot.discovery a WHERE a.adapter_id = discover.adapter_id) < rule.max_topics
				OR EXISTS (SELECT FROM iot.discovery a WHERE a.adapter_id = discover.adapter_id AND a.topic = discover.topic)
			ON CONFLICT (adapter_id, topic) DO UPDATE SET refused = true, error = excluded.error,
				updated_at = excluded.updated_at;
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot.import_home_assistant(
	topic text,
	config jsonb,
	device_group text DEFAULT 'default',
	adapter text DEFAULT 'mqtt',
	discovery_prefix text DEFAULT 'homeassistant')
RETURNS TABLE (device text, parameters text[], made boolean, ignored text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	group_id uuid := (SELECT g.device_group_id FROM iot.device_group g
		WHERE g.name = import_home_assistant.device_group);
	own_id uuid := (SELECT a.adapter_id FROM iot.adapter a WHERE a.name = import_home_assistant.adapter);
BEGIN
	IF NOT iot_internal.is_admin() THEN
		RAISE EXCEPTION 'permission denied to import devices'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Parameters and mappings are written by members of iot_admin.';
	END IF;
	IF topic IS NULL OR discovery_prefix IS NULL THEN
		RAISE EXCEPTION 'topic and discovery_prefix must not be null' USING ERRCODE = 'null_value_not_allowed',
			HINT = 'Give the topic at which the announcement is retained.';
	END IF;
	IF group_id IS NULL OR own_id IS NULL THEN
		RAISE EXCEPTION '% does not exist', CASE WHEN own_id IS NULL THEN format('adapter "%s"', adapter)
				ELSE format('device group "%s"', device_group) END
			USING ERRCODE = 'undefined_object', HINT = 'Insert it first.';
	END IF;
	RETURN QUERY SELECT i.device, i.parameters, i.made, i.ignored FROM iot_internal.discovery_import(
		own_id, group_id, discovery_prefix, import_home_assistant.topic, import_home_assistant.config, 1000000) i;
END
$function$;
COMMENT ON FUNCTION iot.import_home_assistant(text, jsonb, text, text, text) IS
	'make or change a device by what it announced at a topic of Home Assistant''s MQTT discovery; with NULL take back what it announced there';
