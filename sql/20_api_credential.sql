-- What devices log in to the broker with.  A password is made here, shown once, and kept as a hash; a
-- credential has a user name of its own, so that an old one and its successor can be valid together.

-- Finds a device by name or id, and checks that the caller may manage it.
CREATE OR REPLACE FUNCTION iot_internal.manage_device(
	device text, OUT device_id uuid, OUT name text, OUT adapter_id uuid, OUT username text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
	-- no name reads as a uuid
	IF manage_device.device ~* '^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})$' THEN
		manage_device.device_id := manage_device.device::uuid;
	END IF;
	SELECT d.device_id, d.name, d.adapter_id
		INTO manage_device.device_id, manage_device.name, manage_device.adapter_id
		FROM iot.device d
		WHERE d.name = manage_device.device OR d.device_id = manage_device.device_id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'device "%" does not exist', manage_device.device
			USING ERRCODE = 'undefined_object',
				HINT = 'Give the name or the device_id of a row of iot.device.';
	END IF;
	manage_device.username := iot_internal.current_username();
	IF manage_device.username IS NULL OR NOT (iot_internal.is_admin()
			OR iot.may(manage_device.username, manage_device.device_id, 'manage')) THEN
		RAISE EXCEPTION 'permission denied for device "%"', manage_device.name
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = CASE WHEN manage_device.username IS NULL THEN 'The session names no user.'
					ELSE format('User "%s" lacks level "manage" on the device''s group.',
						manage_device.username) END,
				HINT = 'Levels are granted in iot.access_grant, from user group to device group.';
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.credential_event(
	type text, device_id uuid, device text, username text, by text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.event_append(type, 'device', device_id::text, device_id,
		jsonb_strip_nulls(jsonb_build_object('device', device, 'credential', credential_event.username,
			'username', by)))
$function$;

-- A user name that no credential has: the device's, or the device's with a number.  "~" is in no name of
-- a device, so that these are nobody else's.
CREATE OR REPLACE FUNCTION iot_internal.free_credential_username(device text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	wanted text := device;
	number integer := 1;
BEGIN
	LOOP
		IF EXISTS (SELECT FROM iot.adapter a WHERE a.kind = 'mqtt'
				AND a.options ->> 'username' = wanted) THEN
			RAISE EXCEPTION 'user name "%" is that of an adapter', wanted
				USING ERRCODE = 'duplicate_object',
					HINT = 'Rename the device, or let the adapter log in under another name.';
		END IF;
		EXIT WHEN NOT EXISTS (SELECT FROM iot.device_credential c WHERE c.username = wanted);
		number := number + 1;
		wanted := format('%s~%s', device, number);
	END LOOP;
	RETURN wanted;
END
$function$;

-- 244 bits from the server's source of strong random numbers: a hash of it needs no slowness, since
-- nobody will guess it.  The hash is sha256 of salt and password, in hex, which brokers know how to
-- check.  The password itself stays only where the adapter has to hand it to a broker.
CREATE OR REPLACE FUNCTION iot_internal.add_credential(
	device_id uuid, device text, adapter_id uuid, valid_until timestamptz,
	OUT username text, OUT password text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	made uuid := iot_internal.uuidv7();
	salt text := encode(uuid_send(gen_random_uuid()), 'hex');
	delivered boolean := iot_internal.has_dynsec(add_credential.adapter_id);
BEGIN
	add_credential.username := iot_internal.free_credential_username(device);
	add_credential.password := rtrim(translate(encode(
		uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64'), '+/', '-_'), '=');
	INSERT INTO iot.device_credential
			(credential_id, device_id, username, password_hash, salt, valid_until, broker_state)
		VALUES (made, add_credential.device_id, add_credential.username,
			encode(sha256(convert_to(salt || add_credential.password, 'UTF8')), 'hex'), salt,
			add_credential.valid_until, CASE WHEN delivered THEN 'waiting' END);
	IF delivered THEN
		INSERT INTO iot.device_credential_password (credential_id, password)
			VALUES (made, add_credential.password);
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot.create_device_credential(
	device text, valid_until timestamptz DEFAULT NULL, OUT username text, OUT password text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	found record := iot_internal.manage_device(device);
BEGIN
	IF create_device_credential.valid_until <= clock_timestamp() THEN
		RAISE EXCEPTION 'credential would have ended already'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Leave "valid_until" out where it is to stay.';
	END IF;
	-- one at a time for a device
	PERFORM FROM iot.device d WHERE d.device_id = found.device_id FOR NO KEY UPDATE;
	PERFORM iot_internal.end_credentials(found.device_id);
	IF EXISTS (SELECT FROM iot.device_credential c WHERE c.device_id = found.device_id) THEN
		RAISE EXCEPTION 'device "%" has a credential', found.name
			USING ERRCODE = 'duplicate_object',
				HINT = 'iot.rotate_device_credential() makes another one; iot.delete_device_credential() takes it away.';
	END IF;
	SELECT a.username, a.password
		INTO create_device_credential.username, create_device_credential.password
		FROM iot_internal.add_credential(found.device_id, found.name, found.adapter_id,
			create_device_credential.valid_until) a;
	PERFORM iot_internal.credential_event('device.credential_created', found.device_id, found.name,
		create_device_credential.username, found.username);
END
$function$;
COMMENT ON FUNCTION iot.create_device_credential(text, timestamptz) IS
	'what a device logs in to the broker with; the password is shown this once';

CREATE OR REPLACE FUNCTION iot.rotate_device_credential(
	device text, overlap interval DEFAULT '1 day', OUT username text, OUT password text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	found record := iot_internal.manage_device(device);
	until timestamptz := clock_timestamp() + overlap;
BEGIN
	IF overlap IS NULL OR overlap < interval '0' THEN
		RAISE EXCEPTION 'overlap must not be negative or null'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For so long the old credential works beside the new one; ''0'' ends it at once.';
	END IF;
	PERFORM FROM iot.device d WHERE d.device_id = found.device_id FOR NO KEY UPDATE;
	PERFORM iot_internal.end_credentials(found.device_id);
	IF NOT EXISTS (SELECT FROM iot.device_credential c WHERE c.device_id = found.device_id) THEN
		RAISE EXCEPTION 'device "%" has no credential', found.name
			USING ERRCODE = 'undefined_object',
				HINT = 'Make one by iot.create_device_credential().';
	END IF;
	SELECT a.username, a.password
		INTO rotate_device_credential.username, rotate_device_credential.password
		FROM iot_internal.add_credential(found.device_id, found.name, found.adapter_id, NULL) a;
	UPDATE iot.device_credential c SET valid_until = until
		WHERE c.device_id = found.device_id AND c.username <> rotate_device_credential.username
			AND (c.valid_until IS NULL OR c.valid_until > until);
	PERFORM iot_internal.credential_event('device.credential_rotated', found.device_id, found.name,
		rotate_device_credential.username, found.username);
	-- what ends at once does so here
	IF overlap = interval '0' THEN
		PERFORM iot_internal.end_credentials(found.device_id);
	END IF;
END
$function$;
COMMENT ON FUNCTION iot.rotate_device_credential(text, interval) IS
	'another credential for a device; what it has works until the overlap ends';

-- Switches one or all of a device's credentials; how many there are of these.
CREATE OR REPLACE FUNCTION iot_internal.switch_credential(device text, username text, enabled boolean)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	found record := iot_internal.manage_device(device);
	credential record;
	number integer := 0;
BEGIN
	FOR credential IN SELECT c.credential_id, c.username, c.enabled FROM iot.device_credential c
		WHERE c.device_id = found.device_id
			AND (switch_credential.username IS NULL OR c.username = switch_credential.username)
		ORDER BY c.username FOR NO KEY UPDATE LOOP
		number := number + 1;
		CONTINUE WHEN credential.enabled = switch_credential.enabled;
		UPDATE iot.device_credential c SET enabled = switch_credential.enabled
			WHERE c.credential_id = credential.credential_id;
		PERFORM iot_internal.credential_event(
			CASE WHEN switch_credential.enabled THEN 'device.credential_enabled'
				ELSE 'device.credential_disabled' END,
			found.device_id, found.name, credential.username, found.username);
	END LOOP;
	IF number = 0 THEN
		PERFORM iot_internal.no_credential(found.name, switch_credential.username);
	END IF;
	RETURN number;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.no_credential(device text, username text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'undefined_object',
		MESSAGE = CASE WHEN username IS NULL THEN format('device "%s" has no credential', device)
			ELSE format('device "%s" has no credential "%s"', device, username) END,
		HINT = 'iot.device_credentials() lists those that it has.';
END
$function$;

CREATE OR REPLACE FUNCTION iot.disable_device_credential(device text, username text DEFAULT NULL)
RETURNS integer
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.switch_credential(device, username, false)
$function$;
COMMENT ON FUNCTION iot.disable_device_credential(text, text) IS
	'lock a device out, live session included: by one credential, or by all that it has';

CREATE OR REPLACE FUNCTION iot.enable_device_credential(device text, username text DEFAULT NULL)
RETURNS integer
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_internal.switch_credential(device, username, true)
$function$;
COMMENT ON FUNCTION iot.enable_device_credential(text, text) IS
	'undo iot.disable_device_credential()';

CREATE OR REPLACE FUNCTION iot.delete_device_credential(device text, username text DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	found record := iot_internal.manage_device(device);
	gone text;
	number integer := 0;
BEGIN
	FOR gone IN DELETE FROM iot.device_credential c
		WHERE c.device_id = found.device_id
			AND (delete_device_credential.username IS NULL OR c.username = delete_device_credential.username)
		RETURNING c.username LOOP
		number := number + 1;
		PERFORM iot_internal.credential_event('device.credential_deleted', found.device_id, found.name,
			gone, found.username);
	END LOOP;
	IF number = 0 THEN
		PERFORM iot_internal.no_credential(found.name, delete_device_credential.username);
	END IF;
	RETURN number;
END
$function$;
COMMENT ON FUNCTION iot.delete_device_credential(text, text) IS
	'take one credential away from a device, or all that it has';

CREATE OR REPLACE FUNCTION iot.device_credentials(device text)
RETURNS TABLE (username text, enabled boolean, valid_until timestamptz, broker_state text,
	broker_error text, created_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	found record := iot_internal.manage_device(device);
BEGIN
	RETURN QUERY SELECT c.username, c.enabled, c.valid_until, c.broker_state, c.broker_error, c.created_at
		FROM iot.device_credential c
		WHERE c.device_id = found.device_id
			AND iot_internal.credential_works(true, c.valid_until)
		ORDER BY c.created_at, c.username;
END
$function$;
COMMENT ON FUNCTION iot.device_credentials(text) IS
	'credentials of a device, and whether its broker has them; no passwords';

-- Deletes credentials whose time is over: those of a device, of an adapter's devices, or all; how many
-- went.
CREATE OR REPLACE FUNCTION iot_internal.end_credentials(
	device_id uuid DEFAULT NULL, adapter_id uuid DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	gone record;
	number integer := 0;
BEGIN
	FOR gone IN DELETE FROM iot.device_credential c USING iot.device d
		WHERE c.valid_until <= clock_timestamp() AND d.device_id = c.device_id
			AND (end_credentials.device_id IS NULL OR d.device_id = end_credentials.device_id)
			AND (end_credentials.adapter_id IS NULL OR d.adapter_id = end_credentials.adapter_id)
		RETURNING d.device_id, d.name, c.username LOOP
		number := number + 1;
		PERFORM iot_internal.credential_event('device.credential_ended', gone.device_id, gone.name,
			gone.username, NULL);
	END LOOP;
	RETURN number;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.credential_works(enabled boolean, valid_until timestamptz)
RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT enabled AND (valid_until IS NULL OR valid_until > clock_timestamp())
$function$;

-- The topic, or the filter of topics where several are the device's own.
CREATE OR REPLACE FUNCTION iot_internal.topic_of_device(template text, device text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT replace(replace(replace(template, '{device}', device), '{device+}', device),
		'{parameter}', '+')
$function$;

-- What keeps a device out, for iot.check().
CREATE OR REPLACE FUNCTION iot_internal.check_credentials()
RETURNS TABLE (severity text, finding text, hint text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
	SELECT 'warning', format('adapter "%s" has no user name at its broker: who may log in without one may give commands',
			a.name),
		'Set the options "username" and "password_file", and "allow_anonymous false" at the broker; see doc/mqtt-broker.md.'
	FROM iot.adapter a
	WHERE a.enabled AND a.kind = 'mqtt' AND NOT a.options ?| ARRAY['username', 'cert_file']
	UNION ALL
	SELECT 'error', format('adapter "%s" cannot keep device credentials at its broker: %s', a.name, s.error),
		'Load the dynamic security plugin there and let the adapter''s user read and write its control topic; see doc/mqtt-broker.md.'
	FROM iot.dynsec s JOIN iot.adapter a ON a.adapter_id = s.adapter_id
	WHERE a.enabled AND s.error IS NOT NULL AND iot_internal.has_dynsec(a.adapter_id)
	UNION ALL
	SELECT 'error', format('the broker lacks the credentials of %s devices, among them "%s"',
			count(DISTINCT d.device_id), min(d.name)),
		'Their passwords are not kept: SELECT iot.rotate_device_credential(device, ''0''); and tell each device.'
	FROM iot.device_credential c JOIN iot.device d ON d.device_id = c.device_id
	WHERE c.broker_state = 'missing'
		AND iot_internal.credential_works(true, c.valid_until)
	HAVING count(*) > 0
	UNION ALL
	SELECT 'error', format('the broker refused the credentials of %s devices, among them "%s": %s',
			count(DISTINCT d.device_id), min(d.name), min(c.broker_error)),
		'See iot.device_credentials(device).'
	FROM iot.device_credential c JOIN iot.device d ON d.device_id = c.device_id
	WHERE c.broker_state = 'refused'
		AND iot_internal.credential_works(true, c.valid_until)
	HAVING count(*) > 0
$function$;
