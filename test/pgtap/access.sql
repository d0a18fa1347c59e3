-- Who is who: a name in a token is a name, and gives nobody the powers of a role that is spelt alike.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
BEGIN;
SELECT no_plan();

SELECT current_user AS super \gset
CREATE ROLE access_authenticator NOINHERIT;
CREATE ROLE access_web IN ROLE iot_operator;
CREATE ROLE access_chief IN ROLE iot_admin;
GRANT access_web, access_chief TO access_authenticator;
INSERT INTO iot.app_user (username) VALUES ('known');
INSERT INTO iot.parameter (name) VALUES ('temperature');
SELECT iot.create_device('boiler-1', '{temperature}') AS boiler \gset
SELECT iot.send_command('boiler-1', 'temperature', 20) AS command \gset

-- what a user of PostgREST may call; its role may not use pgTAP's own tables
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE statement INTO answer;
	RETURN answer;
EXCEPTION WHEN insufficient_privilege THEN
	RETURN sqlstate;
END
$$;
CREATE FUNCTION attempts(boiler uuid, command uuid) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ',
		attempt($a$SELECT 'sent' FROM iot.send_command('boiler-1', 'temperature', 21)$a$),
		attempt(format('SELECT count(*) FROM iot.timeline(%L)', command)),
		attempt($a$SELECT count(*) FROM iot.last_values('boiler-1')$a$),
		attempt($a$SELECT iot.ingest('boiler-1', '{"temperature":1}')$a$),
		attempt(format('SELECT iot.may(%L, %L, %L)',
			current_setting('request.jwt.claims')::json->>'sub', boiler, 'view')))
$$;
CREATE FUNCTION claim(name text) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('request.jwt.claims', json_build_object('sub', name)::text, true)
$$;

SET LOCAL iot.authenticators = 'access_authenticator';
SELECT claim(:'super');
SET LOCAL SESSION AUTHORIZATION access_authenticator;
SET LOCAL ROLE access_web;
SELECT attempts(:'boiler', :'command') AS as_super \gset
SELECT claim('access_chief');
SELECT attempts(:'boiler', :'command') AS as_chief \gset
SET LOCAL ROLE access_chief;
SELECT claim('stranger');
SELECT attempts(:'boiler', :'command') AS unknown \gset
SELECT claim('known');
SELECT attempts(:'boiler', :'command') AS by_role \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'as_super'::text, '42501 42501 42501 42501 false', 'a token for a superuser''s name opens nothing');
SELECT is(:'as_chief'::text, '42501 42501 42501 42501 false', 'nor one for an administrator''s');
SELECT is(:'by_role'::text, 'sent 2 1 1 false', 'a session whose role administers passes, whichever user it speaks for');
SELECT is(:'unknown'::text, '42501 42501 42501 42501 false', 'but not for one that is unknown');

-- elsewhere the claims are just a setting
SET LOCAL iot.authenticators = '';
SELECT claim(:'super');
SET LOCAL ROLE access_web;
SELECT attempts(:'boiler', :'command') AS elsewhere \gset
RESET ROLE;
SELECT is(:'elsewhere'::text, '42501 42501 42501 42501 true', 'nobody names himself');

-- a registered administrator passes without any grant, until he is disabled
RESET SESSION AUTHORIZATION;
INSERT INTO iot.app_user (username, role) VALUES ('registered_chief', 'iot_admin');
SELECT is((SELECT array_agg(iot.may('registered_chief', :'boiler', l)) FROM unnest('{view,operate,manage}'::text[]) AS l),
	'{t,t,t}', 'a user whose role is iot_admin passes');
SELECT ok('registered_chief' = ANY (iot_internal.admin_usernames()), '... and is told what administrators are told');
UPDATE iot.app_user SET enabled = false WHERE username = 'registered_chief';
SELECT is(iot.may('registered_chief', :'boiler', 'view'), false, '... not when disabled');

-- such a name is not given away
SET LOCAL SESSION AUTHORIZATION access_chief;
SELECT attempt($$INSERT INTO iot.app_user (username) VALUES ('access_chief') RETURNING username$$) AS own,
	attempt($$INSERT INTO iot.app_user (username) VALUES ('anna') RETURNING username$$) AS plain,
	attempt($$UPDATE iot.app_user SET username = 'access_chief' RETURNING username$$) AS renamed \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'own'::text, '42501', 'an administrator registers no user with the name of one');
SELECT is(:'plain'::text, 'anna', 'but any other');
SELECT is(:'renamed'::text, '42501', 'and gives nobody such a name later');
SELECT lives_ok($$INSERT INTO iot.app_user (username) VALUES ('access_chief')$$, 'a superuser may');

SELECT * FROM finish();
ROLLBACK;
