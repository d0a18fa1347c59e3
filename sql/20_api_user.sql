-- Users: registering, passwords, logging in, and the tokens that come of it.
--
-- Passwords travel as parameters.  What can be told of them is their hash, in a table that only the
-- owner of these functions reads.

-- Checks and hashes; src/login.c.
CREATE OR REPLACE FUNCTION iot_internal.check_login(username text, password text, hash text)
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'iot_login_check';

CREATE OR REPLACE FUNCTION iot_internal.hash_password(password text) RETURNS text
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'iot_login_hash_password';

CREATE OR REPLACE FUNCTION iot_internal.take_login_failures()
RETURNS TABLE (username text, failed_at timestamptz)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'iot_login_take_failures';

CREATE OR REPLACE FUNCTION iot_internal.sign_token(claims json) RETURNS text
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'iot_token_sign';

CREATE OR REPLACE FUNCTION iot.check_request() RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'iot_check_request';
COMMENT ON FUNCTION iot.check_request() IS
	'refuse tokens that were revoked or whose user is unknown or disabled: PostgREST''s db-pre-request';

-- Whether a token that is signed and has not expired still counts: its user is known and enabled, and
-- it was not revoked.  issued_at and token_id are its claims "iat" and "jti".
CREATE OR REPLACE FUNCTION iot_internal.token_counts(username text, issued_at numeric, token_id text)
RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN EXISTS (
			SELECT FROM iot.app_user u
			WHERE u.username = token_counts.username AND u.enabled
				AND (u.tokens_valid_from IS NULL
					OR token_counts.issued_at >= extract(epoch FROM u.tokens_valid_from)))
		AND NOT EXISTS (
			SELECT FROM iot.revoked_token r WHERE r.token_id = token_counts.token_id);
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.user_event(
	type text, username text, payload jsonb DEFAULT '{}', at timestamptz DEFAULT clock_timestamp())
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload)
		VALUES (iot_internal.uuidv7(), 'user', left(username, 128), type,
			jsonb_build_object('username', left(username, 128), 'at', at) || payload);
END
$function$;

-- Makes events of the logins that failed, which could write nothing themselves; how many.
CREATE OR REPLACE FUNCTION iot_internal.record_login_failures() RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	failure record;
	failures integer := 0;
BEGIN
	FOR failure IN SELECT f.username, f.failed_at FROM iot_internal.take_login_failures() AS f LOOP
		PERFORM iot_internal.user_event('user.login_failed', failure.username, '{}',
			failure.failed_at);
		failures := failures + 1;
	END LOOP;
	RETURN failures;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_password_rules(username text, password text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF password IS NULL THEN
		RAISE EXCEPTION 'password must not be null'
			USING ERRCODE = 'null_value_not_allowed', HINT = 'It has 8 to 1000 characters.';
	END IF;
	IF length(password) NOT BETWEEN 8 AND 1000 THEN
		RAISE EXCEPTION 'password is too %',
				CASE WHEN length(password) < 8 THEN 'short' ELSE 'long' END
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It has 8 to 1000 characters.';
	END IF;
	IF lower(password) = lower(username) THEN
		RAISE EXCEPTION 'password is the name of the user'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Choose one that nobody guesses.';
	END IF;
END
$function$;

-- When tokens count again once those that there are have been ended.  Tokens say no better than in whole
-- seconds when they were issued: what was issued in this one ends too, and iot.login() dates the next
-- one accordingly.
CREATE OR REPLACE FUNCTION iot_internal.next_second(before timestamptz) RETURNS timestamptz
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
	-- a token that was given since the last time may be of the second that comes, too
	SELECT greatest(date_trunc('second', clock_timestamp()), date_trunc('second', before))
		+ interval '1 s'
$function$;

CREATE OR REPLACE FUNCTION iot_internal.end_tokens(app_user_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	UPDATE iot.app_user u SET tokens_valid_from = iot_internal.next_second(u.tokens_valid_from)
		WHERE u.app_user_id = end_tokens.app_user_id;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.set_password(app_user_id uuid, username text, password text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.check_password_rules(username, password);
	INSERT INTO iot.app_user_secret (app_user_id, password_hash)
		VALUES (app_user_id, iot_internal.hash_password(password))
		ON CONFLICT ON CONSTRAINT app_user_secret_pkey DO UPDATE
			SET password_hash = excluded.password_hash, changed_at = excluded.changed_at;
	PERFORM iot_internal.end_tokens(app_user_id);
END
$function$;

-- The user of this name for an administrator's act on him.
CREATE OR REPLACE FUNCTION iot_internal.require_user(username text) RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	found uuid := (SELECT u.app_user_id FROM iot.app_user u
		WHERE u.username = require_user.username);
BEGIN
	IF found IS NULL THEN
		RAISE EXCEPTION 'user "%" does not exist', username
			USING ERRCODE = 'undefined_object', HINT = 'Users are rows of iot.app_user.';
	END IF;
	RETURN found;
END
$function$;

-- Who registers himself may nothing until a group takes him in, and has no name that a role of the
-- server has.
CREATE OR REPLACE FUNCTION iot.register_user(
	username text,
	password text,
	email text DEFAULT NULL,
	role text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_variable
DECLARE
	administers boolean := iot_internal.is_admin();
	made uuid;
BEGIN
	IF NOT administers AND NOT current_setting('iot.self_registration')::boolean THEN
		RAISE EXCEPTION 'permission denied to register a user'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Users are registered by iot_admin, unless "iot.self_registration" is on.';
	END IF;
	IF username IS NULL THEN
		RAISE EXCEPTION 'username must not be null' USING ERRCODE = 'null_value_not_allowed',
			HINT = 'It has 1 to 64 letters, digits and characters of "_.@+-".';
	END IF;
	IF username !~ '^[A-Za-z0-9_.@+-]{1,64}$' THEN
		RAISE EXCEPTION 'invalid username "%"', left(username, 100)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It has 1 to 64 letters, digits and characters of "_.@+-".';
	END IF;
	PERFORM iot_internal.check_password_rules(username, password);
	IF NOT administers THEN
		IF role IS NOT NULL THEN
			RAISE EXCEPTION 'permission denied to choose a role'
				USING ERRCODE = 'insufficient_privilege', HINT = 'Leave "role" out.';
		END IF;
		role := 'iot_viewer';
	END IF;
	IF role <> ALL (ARRAY['iot_viewer', 'iot_operator', 'iot_admin']) THEN
		RAISE EXCEPTION 'invalid role "%"', left(role, 100)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Roles are "iot_viewer", "iot_operator" and "iot_admin".';
	END IF;
	IF NOT (NOT administers AND EXISTS (
			SELECT FROM pg_roles r WHERE r.rolname = username)) THEN
		-- tokens of somebody who had the name before are not his
		INSERT INTO iot.app_user (username, email, role, tokens_valid_from)
			VALUES (username, email, coalesce(role, 'iot_operator'),
				date_trunc('second', clock_timestamp()))
			ON CONFLICT ON CONSTRAINT app_user_username_key DO NOTHING
			RETURNING app_user_id INTO made;
	END IF;
	IF made IS NULL THEN
		RAISE EXCEPTION 'user "%" already exists', username
			USING ERRCODE = 'unique_violation',
				HINT = 'Choose another name; whoever is there gets another password by iot.reset_password().';
	END IF;
	INSERT INTO iot.app_user_secret (app_user_id, password_hash)
		VALUES (made, iot_internal.hash_password(password));
	RETURN made;
END
$function$;
COMMENT ON FUNCTION iot.register_user(text, text, text, text) IS
	'make a user with a password; by iot_admin, or by anybody where iot.self_registration is on

username: 1 to 64 letters, digits and "_.@+-"
password: 8 to 1000 characters
email: where the user can be reached
role: iot_viewer, iot_operator (the default) or iot_admin; only iot_admin may choose';

-- A name that nobody has, one that is disabled and one without a password take as long as a wrong
-- password, and say the same.
CREATE OR REPLACE FUNCTION iot.login(
	INOUT username text, password text, OUT token text, OUT expires_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	known record;
	issued_at bigint;
	ttl integer;
BEGIN
	IF username IS NULL OR password IS NULL THEN
		RAISE EXCEPTION 'username and password must not be null'
			USING ERRCODE = 'null_value_not_allowed', HINT = 'Give both.';
	END IF;
	SELECT u.app_user_id, u.role, u.tokens_valid_from, s.password_hash INTO known
		FROM iot.app_user u JOIN iot.app_user_secret s ON s.app_user_id = u.app_user_id
		WHERE u.username = login.username AND u.enabled;
	IF NOT iot_internal.check_login(username, left(password, 1001), known.password_hash) THEN
		RAISE EXCEPTION 'invalid username or password'
			USING ERRCODE = 'invalid_password',
				HINT = 'An administrator can reset a password: iot.reset_password().';
	END IF;
	ttl := extract(epoch FROM current_setting('iot.token_ttl')::interval);
	-- whole seconds, and not before what was revoked a moment ago
	issued_at := greatest(floor(extract(epoch FROM clock_timestamp())),
		ceil(extract(epoch FROM known.tokens_valid_from)));
	expires_at := to_timestamp(issued_at + ttl);
	token := iot_internal.sign_token(json_strip_nulls(json_build_object(
		'sub', username,
		'role', known.role,
		'aud', nullif(current_setting('iot.jwt_audience'), ''),
		'iat', issued_at,
		'exp', issued_at + ttl,
		'jti', iot_internal.uuidv7())));
	PERFORM iot_internal.record_login_failures();
	PERFORM iot_internal.user_event('user.login', username);
END
$function$;
COMMENT ON FUNCTION iot.login(text, text) IS
	'a token for PostgREST and iot-pushd, and when it expires

username: as registered
password: sent as a parameter, never as part of a statement that is logged';

-- The row of the acting user; raises where there is none.
CREATE OR REPLACE FUNCTION iot_internal.require_current_user(
	OUT app_user_id uuid, OUT username text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	SELECT u.app_user_id, u.username INTO app_user_id, username
		FROM iot.app_user u WHERE u.username = iot_internal.current_username() AND u.enabled;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'the session is not that of a user'
			USING ERRCODE = 'insufficient_privilege', HINT = 'Log in first: iot.login().';
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot.logout(everywhere boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	me record;
	claims jsonb;
BEGIN
	SELECT u.app_user_id, u.username INTO me FROM iot_internal.require_current_user() AS u;
	IF NOT coalesce(everywhere, false) THEN
		IF iot_internal.is_authenticator() THEN
			claims := current_setting('request.jwt.claims', true);
		END IF;
		IF jsonb_typeof(claims -> 'jti') IS DISTINCT FROM 'string' THEN
			RAISE EXCEPTION 'the session has no token that could be logged out alone'
				USING ERRCODE = 'object_not_in_prerequisite_state',
					HINT = 'Tokens of iot.login() have a "jti"; everywhere => true ends all tokens.';
		END IF;
		DELETE FROM iot.revoked_token r WHERE r.expires_at < now();
		INSERT INTO iot.revoked_token (token_id, app_user_id, expires_at)
			VALUES (claims ->> 'jti', me.app_user_id,
				CASE WHEN (claims -> 'exp') < to_jsonb(100000000000)
					THEN to_timestamp((claims ->> 'exp')::double precision) ELSE 'infinity' END)
			ON CONFLICT ON CONSTRAINT revoked_token_pkey DO NOTHING;
	ELSE
		PERFORM iot_internal.end_tokens(me.app_user_id);
	END IF;
	PERFORM iot_internal.user_event('user.logout', me.username,
		jsonb_build_object('everywhere', coalesce(everywhere, false)));
END
$function$;
COMMENT ON FUNCTION iot.logout(boolean) IS
	'revoke the token of this request, or every token of its user

everywhere: true for all of the user''s tokens';

CREATE OR REPLACE FUNCTION iot.change_password(old_password text, new_password text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	me record;
BEGIN
	SELECT u.app_user_id, u.username INTO me FROM iot_internal.require_current_user() AS u;
	PERFORM iot_internal.check_password_rules(me.username, new_password);
	IF NOT iot_internal.check_login(me.username, coalesce(left(old_password, 1001), ''),
			(SELECT s.password_hash FROM iot.app_user_secret s
				WHERE s.app_user_id = me.app_user_id)) THEN
		RAISE EXCEPTION 'invalid password'
			USING ERRCODE = 'invalid_password',
				HINT = 'An administrator can reset it: iot.reset_password().';
	END IF;
	PERFORM iot_internal.set_password(me.app_user_id, me.username, new_password);
	PERFORM iot_internal.user_event('user.password_changed', me.username);
END
$function$;
COMMENT ON FUNCTION iot.change_password(text, text) IS
	'give the acting user another password; all of the user''s tokens end

old_password: the one that is good now
new_password: 8 to 1000 characters';

CREATE OR REPLACE FUNCTION iot.reset_password(username text, new_password text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	whose uuid;
BEGIN
	IF NOT iot_internal.is_admin() THEN
		RAISE EXCEPTION 'permission denied to reset a password'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'iot_admin may; for one''s own there is iot.change_password().';
	END IF;
	whose := iot_internal.require_user(username);
	PERFORM iot_internal.set_password(whose, username, new_password);
	PERFORM iot_internal.user_event('user.password_reset', username,
		jsonb_build_object('by', iot_internal.current_username()));
END
$function$;
COMMENT ON FUNCTION iot.reset_password(text, text) IS
	'give a user another password, as iot_admin; all of the user''s tokens end

username: whose
new_password: 8 to 1000 characters';

CREATE OR REPLACE FUNCTION iot.revoke_tokens(username text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF NOT iot_internal.is_admin() THEN
		RAISE EXCEPTION 'permission denied to revoke tokens'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'iot_admin may; for one''s own there is iot.logout(everywhere => true).';
	END IF;
	PERFORM iot_internal.end_tokens(iot_internal.require_user(username));
	PERFORM iot_internal.user_event('user.tokens_revoked', username,
		jsonb_build_object('by', iot_internal.current_username()));
END
$function$;
COMMENT ON FUNCTION iot.revoke_tokens(text) IS
	'end every token of a user, as iot_admin

username: whose';
