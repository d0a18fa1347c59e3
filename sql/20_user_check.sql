-- What is written of users and of what they may do is judged when it is written, as all of the registry
-- is: see 20_registry_check.sql.

-- Addresses as browsers know them, ASCII alone: no quotes, no brackets, nothing that could end a line
-- or begin another address.
CREATE OR REPLACE FUNCTION iot_internal.is_mail_address(address text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN length(address) <= 254 AND address ~
		'^[A-Za-z0-9.!#$%&''*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$';
END
$function$;

-- Raises an error for what is no language tag; NULL is none.
CREATE OR REPLACE FUNCTION iot_internal.check_language(language text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF language !~ '^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid language "%s"', left(language, 100)),
			HINT = 'Write a language tag such as "de" or "pt-BR".';
	END IF;
END
$function$;

-- Raises an error for what is no time zone; NULL is none, and what was there before is not looked at.
CREATE OR REPLACE FUNCTION iot_internal.check_time_zone(time_zone text, before text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	-- reading the list of zones takes its time
	IF time_zone IS NOT NULL AND time_zone IS DISTINCT FROM before
		AND NOT EXISTS (SELECT FROM pg_timezone_names z WHERE z.name = time_zone) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('unknown time zone "%s"', left(time_zone, 100)),
			HINT = 'Names are those of pg_timezone_names, such as "Europe/Berlin".';
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_app_user() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF NEW.username !~ '^[^[:cntrl:]*]{1,128}$' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid username "%s"', left(NEW.username, 150)),
			HINT = 'It has 1 to 128 characters, no "*" and no control characters.';
	END IF;
	IF NOT iot_internal.is_mail_address(NEW.email) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid email of user "%s"', NEW.username),
			HINT = 'Write "name@example.org", in ASCII; leave it NULL where there is none.';
	END IF;
	IF NEW.role <> ALL (ARRAY['iot_viewer', 'iot_operator', 'iot_admin']) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('invalid role "%s" of user "%s"', left(NEW.role, 100), NEW.username),
			HINT = 'Roles are "iot_viewer", "iot_operator" and "iot_admin".';
	END IF;
	PERFORM iot_internal.check_language(NEW.language);
	PERFORM iot_internal.check_time_zone(
		NEW.time_zone, CASE WHEN TG_OP = 'UPDATE' THEN OLD.time_zone END);
	-- whoever has a token for the name will pass every check: no sign-up may hand it out
	IF (TG_OP = 'INSERT' OR NEW.username <> OLD.username)
		AND iot_internal.is_admin_role(NEW.username)
		AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = session_user) THEN
		RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
			MESSAGE = format('user "%s" would have the name of a role that administers', NEW.username),
			HINT = 'A superuser may insert it. Otherwise choose another name.';
	END IF;
	-- tokens name the role, and one that is taken away must not live on in them
	IF TG_OP = 'UPDATE' AND NEW.role <> OLD.role THEN
		NEW.tokens_valid_from := iot_internal.next_second(OLD.tokens_valid_from);
	END IF;
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_access_grant() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.level_rank(NEW.level);
	RETURN NEW;
END
$function$;
