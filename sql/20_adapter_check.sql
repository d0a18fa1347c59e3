-- What adapters are told, and which files and secrets options may name, is judged when it is written, as
-- all of the registry is: see 20_registry_check.sql.

-- A file that options name is read as the server's own user, and a password goes to whatever broker
-- the url names: only who may read the server's files anyway may name one.
CREATE OR REPLACE FUNCTION iot_internal.check_files(what text, old_options jsonb, new_options jsonb)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	key text;
BEGIN
	IF iot_internal.reads_files() THEN
		RETURN;
	END IF;
	FOREACH key IN ARRAY ARRAY['password_file', 'ca_file', 'cert_file', 'key_file'] LOOP
		IF new_options ? key AND new_options -> key IS DISTINCT FROM old_options -> key THEN
			RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
				MESSAGE = format('permission denied to set option "%s" of %s', key, what),
				HINT = 'Options that name a file of the server need role pg_read_server_files; a password can be a row of iot.secret.';
		END IF;
	END LOOP;
END
$function$;

-- One option of an adapter of kind mqtt.
CREATE OR REPLACE FUNCTION iot_internal.check_mqtt_option(what text, key text, option jsonb)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	string text := CASE jsonb_typeof(option) WHEN 'string' THEN option #>> '{}' END;
	low integer;
	high integer;
	topic jsonb;
	error text;
BEGIN
	IF key = ANY (ARRAY['processes', 'keepalive', 'qos', 'batch_size', 'batch_time', 'max_in_flight',
			'register_limit', 'discovery_limit']) THEN
		low := CASE WHEN key = 'keepalive' THEN 10 WHEN key = 'qos' OR key = 'batch_time' THEN 0 ELSE 1 END;
		high := CASE key WHEN 'processes' THEN 16 WHEN 'keepalive' THEN 3600 WHEN 'qos' THEN 1
			WHEN 'register_limit' THEN 1000000 ELSE 10000 END;
		IF jsonb_typeof(option) <> 'number' OR option::text !~ '^[0-9]{1,7}$'
			OR NOT option::integer BETWEEN low AND high THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('invalid option "%s" of %s: %s', key, what, option),
				HINT = format('It is a whole number%s from %s to %s.', CASE key WHEN 'keepalive' THEN ' of seconds'
					WHEN 'batch_time' THEN ' of milliseconds' ELSE '' END, low, high);
		END IF;
	ELSIF key = 'protocol' THEN
		IF string IS NULL OR string <> ALL (ARRAY['5', '3.1.1']) THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('invalid option "protocol" of %s: %s', what, option),
				HINT = 'It is "5" or "3.1.1", between quotation marks.';
		END IF;
	ELSIF key = 'device_credentials' THEN
		IF string IS NULL OR string <> ALL (ARRAY['none', 'dynsec']) THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('invalid option "device_credentials" of %s: %s', what, option),
				HINT = 'It is "dynsec" where the adapter is to keep them in mosquitto''s dynamic security plugin, else "none".';
		END IF;
	ELSIF key = ANY (ARRAY['password_file', 'ca_file', 'cert_file', 'key_file']) THEN
		IF string IS NULL OR string !~ '^/[^[:cntrl:]]+$' THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('option "%s" of %s must be an absolute path', key, what),
				HINT = 'The file is read by the server''s operating system user.';
		END IF;
	ELSIF key = ANY (ARRAY['username', 'client_id', 'password_secret']) THEN
		IF string IS NULL OR string !~ '^[^[:cntrl:]]{1,128}$' THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('option "%s" of %s must be a text of 1 to 128 characters', key, what),
				HINT = 'Leave the option out where it is not needed.';
		END IF;
		IF key = 'password_secret' AND NOT EXISTS (
				SELECT FROM iot.secret s WHERE s.name = string) THEN
			RAISE EXCEPTION 'secret "%" does not exist', string
				USING ERRCODE = 'undefined_object', HINT = 'Insert it into iot.secret first.';
		END IF;
	ELSIF key = 'topics' THEN
		IF jsonb_typeof(option) <> 'array' OR NOT jsonb_array_length(option) BETWEEN 1 AND 100 THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('option "topics" of %s must be an array of 1 to 100 filters', what),
				HINT = 'Leave it out to subscribe to the topics of the device types.';
		END IF;
		FOR topic IN SELECT e.value FROM jsonb_array_elements(option) AS e LOOP
			error := CASE WHEN jsonb_typeof(topic) = 'string'
				THEN iot_internal.topic_filter_error(topic #>> '{}') ELSE 'filter is not a text' END;
			IF error IS NOT NULL THEN
				RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
					MESSAGE = format('invalid filter %s in option "topics" of %s: %s',
						left(topic::text, 100), what, error),
					HINT = 'A filter is a topic in which "+" stands for a level and "#", at the end, for all that follow: "plant/+/telemetry".';
			END IF;
		END LOOP;
	ELSIF key = 'discovery_prefix' THEN
		error := CASE WHEN string IS NULL THEN 'it is not a text' WHEN octet_length(string) > 100
			THEN 'it is longer than 100 bytes' ELSE iot_internal.own_topic_error(string) END;
		IF error IS NOT NULL THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('invalid option "discovery_prefix" of %s: %s', what, error),
				HINT = 'It is what topics of announcements begin with, such as "homeassistant".';
		END IF;
	ELSIF key = ANY (ARRAY['register_group', 'discovery_group']) THEN
		IF string IS NULL OR NOT EXISTS (SELECT FROM iot.device_group g WHERE g.name = string) THEN
			RAISE EXCEPTION USING ERRCODE = 'undefined_object',
				MESSAGE = format('device group %s, into which %s registers devices, does not exist', option, what),
				HINT = 'Insert it into iot.device_group first.';
		END IF;
	ELSIF key = 'register_type' THEN
		IF string IS NULL OR NOT EXISTS (SELECT FROM iot.device_type t WHERE t.name = string) THEN
			RAISE EXCEPTION USING ERRCODE = 'undefined_object',
				MESSAGE = format('device type %s, as which %s registers devices, does not exist', option, what),
				HINT = 'Insert it into iot.device_type first.';
		END IF;
	ELSIF key = ANY (ARRAY['password', 'secret']) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('options of %s must not hold a password', what),
			HINT = 'Put it into a file and name that in "password_file", or into iot.secret and name it in "password_secret".';
	ELSE
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('unknown option "%s" of %s', key, what),
			HINT = 'Known are "username", "password_file", "password_secret", "client_id", "keepalive", "ca_file", "cert_file", "key_file", "protocol", "processes", "qos", "topics", "batch_size", "batch_time", "max_in_flight", "device_credentials", "register_group", "register_type", "register_limit", "discovery_prefix", "discovery_group" and "discovery_limit".';
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_adapter() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	what text := format('adapter "%s"', NEW.name);
	hint text := 'Write "mqtt://host:port" or "mqtts://host:port".';
	port text;
	key text;
	option jsonb;
BEGIN
	PERFORM iot_internal.check_name('adapter', NEW.name);
	IF NEW.kind !~ '^[a-z][a-z0-9_-]{0,31}$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid kind of %s: "%s"', what, NEW.kind),
			HINT = '"mqtt" is built in; any other is a lower case word of 1 to 32 characters.';
	END IF;
	IF jsonb_typeof(NEW.options) <> 'object' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('options of %s must be a JSON object', what),
			HINT = 'Use ''{}'' for none.';
	END IF;
	IF TG_OP = 'UPDATE' THEN
		NEW.updated_at := clock_timestamp();
	END IF;
	IF NEW.kind <> 'mqtt' THEN
		RETURN NEW;
	END IF;

	IF NEW.url IS NULL OR NEW.url !~ '^mqtts?://' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid url of %s', what),
			HINT = hint;
	ELSIF NEW.url ~ '@' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('url of %s must not hold user information', what),
			HINT = 'Use the options "username" and "password_file" or "password_secret".';
	ELSIF NEW.url !~ '^mqtts?://([A-Za-z0-9]([A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?/?$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid url of %s', what),
			HINT = hint;
	END IF;
	port := substring(NEW.url FROM ':([0-9]+)/?$');
	IF NOT port::integer BETWEEN 1 AND 65535 THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid port in url of %s: %s', what, port),
			HINT = 'Ports are from 1 to 65535.';
	END IF;
	FOR key, option IN SELECT e.key, e.value FROM jsonb_each(NEW.options) AS e LOOP
		PERFORM iot_internal.check_mqtt_option(what, key, option);
	END LOOP;
	-- what stands there already was looked at when it was written, but not as another kind's option,
	-- nor for another broker, who would be told the password
	PERFORM iot_internal.check_files(what,
		CASE WHEN TG_OP = 'INSERT' OR OLD.kind <> 'mqtt' THEN '{}'
			WHEN OLD.url IS DISTINCT FROM NEW.url THEN OLD.options - 'password_file'
			ELSE OLD.options END, NEW.options);
	IF NEW.options ?& ARRAY['password_file', 'password_secret'] THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('%s has two passwords', what),
			HINT = 'Use either "password_file" or "password_secret".';
	END IF;
	IF NEW.options ?| ARRAY['password_file', 'password_secret'] AND NOT NEW.options ? 'username' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('%s has a password and no user', what),
			HINT = 'Add the option "username".';
	END IF;
	IF NEW.options ? 'register_group' <> NEW.options ? 'register_type'
		OR NEW.options ? 'register_limit' AND NOT NEW.options ? 'register_group' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('%s has only part of the options for registering devices', what),
			HINT = 'The options "register_group" and "register_type" go together, and "register_limit" goes with them.';
	END IF;
	IF NEW.options ? 'discovery_prefix' <> NEW.options ? 'discovery_group'
		OR NEW.options ? 'discovery_limit' AND NOT NEW.options ? 'discovery_prefix' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('%s has only part of the options for devices that announce themselves', what),
			HINT = 'The options "discovery_prefix" and "discovery_group" go together, and "discovery_limit" goes with them.';
	END IF;
	-- it would be kept out by the device's password
	IF EXISTS (SELECT FROM iot.device_credential c WHERE c.username = NEW.options ->> 'username') THEN
		RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
			MESSAGE = format('user name "%s" is that of a device', NEW.options ->> 'username'),
			HINT = 'Let the adapter log in under another name.';
	END IF;
	IF NEW.options ? 'cert_file' <> NEW.options ? 'key_file' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('%s has only one of certificate and key', what),
			HINT = 'The options "cert_file" and "key_file" go together.';
	END IF;
	IF NEW.options ?| ARRAY['ca_file', 'cert_file', 'key_file'] AND NEW.url !~ '^mqtts:' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('%s has options for TLS and a url without it', what),
			HINT = 'Write "mqtts://" in the url.';
	END IF;
	RETURN NEW;
END
$function$;

-- A secret that somebody's options name stays, under its name.
CREATE OR REPLACE FUNCTION iot_internal.check_secret() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	reader text;
	gone text;
BEGIN
	IF TG_OP = 'DELETE' THEN
		gone := OLD.name;
	ELSE
		PERFORM iot_internal.check_name('secret', NEW.name);
		IF NEW.value = '' THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('secret "%s" is empty', NEW.name),
				HINT = 'Delete the row where there is none.';
		END IF;
		IF TG_OP = 'UPDATE' THEN
			gone := CASE WHEN NEW.name <> OLD.name THEN OLD.name END;
		END IF;
	END IF;
	IF gone IS NOT NULL THEN
		SELECT u.what INTO reader FROM (
			SELECT format('adapter "%s"', a.name) AS what FROM iot.adapter a
				WHERE a.kind = 'mqtt' AND a.options ->> 'password_secret' = gone
			UNION ALL
			SELECT format('webhook "%s"', w.name) FROM iot.webhook w
				WHERE w.options ->> 'secret' = gone
			UNION ALL
			SELECT format('mail server "%s"', m.name) FROM iot.mail_server m
				WHERE m.options ->> 'password_secret' = gone) u
			LIMIT 1;
		IF FOUND THEN
			RAISE EXCEPTION 'secret "%" is used by %', gone, reader
				USING ERRCODE = 'dependent_objects_still_exist',
					HINT = 'Change its options first.';
		END IF;
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$function$;
