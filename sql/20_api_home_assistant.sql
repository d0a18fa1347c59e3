-- Devices that announce themselves by Home Assistant's MQTT discovery.  What is announced becomes a
-- device of a type of its own, whose parameters have topics of their own; what cannot be taken over
-- is an error that says why, and never a guess.

-- Whether a type of that name, with one device, is of those that announce themselves: who gives it another
-- name keeps announcements away from it.
CREATE OR REPLACE FUNCTION iot_internal.is_announced(device_type text, only_device text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT only_device IS NOT NULL AND starts_with(device_type, 'ha:')
$function$;

-- The device type that has the topic, or NULL.  A stranger may announce any topic; those of devices that
-- did not announce themselves are not his.
CREATE OR REPLACE FUNCTION iot_internal.topic_owner(topic text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT t.name FROM iot.device_type t
		CROSS JOIN LATERAL unnest(ARRAY[t.telemetry_topic, t.attributes_topic, t.status_topic,
			t.command_topic, t.ack_topic] || t.more_telemetry_topics
			|| ARRAY(SELECT unnest(ARRAY[m.telemetry_topic, m.command_topic])
				FROM iot.device_type_mapping m WHERE m.device_type_id = t.device_type_id)) AS x (template)
	-- iot_internal.is_announced(), spelt out for a thousand types
	WHERE (t.only_device IS NULL OR NOT starts_with(t.name, 'ha:'))
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
		WHERE d.device_id = discovery_settle.device_id AND iot_internal.is_announced(t.name, t.only_device)
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
		WHERE d.device_id = $1 AND t.device_type_id = d.device_type_id
			AND iot_internal.is_announced(t.name, t.only_device)
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
	SELECT d.device_id, d.name, d.adapter_id, d.device_type_id,
			iot_internal.is_announced(t.name, t.only_device) AND t.only_device = spoken AS announced INTO present
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
	IF present.announced IS NOT TRUE OR present.adapter_id <> discovery_device.adapter_id THEN
		RAISE EXCEPTION 'device "%" is there and did not announce itself at this adapter', present.name
			USING ERRCODE = 'duplicate_object',
				HINT = 'What is announced changes no device that was made otherwise.';
	END IF;
	device_id := present.device_id;
	device := present.name;
	device_type_id := present.device_type_id;
END
$function$;

-- Takes in what stands at a topic of the broker, NULL where nothing does any more.  Whatever
-- is wrong with it is an error, and nothing of it is written then.
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
