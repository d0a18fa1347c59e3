-- Users: who may register, what a password must be, what a login gives, and what ends a token.
-- test/t/095_users.pl has what needs a server of its own: keys, waiting, iot-pushd.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
BEGIN;
SELECT no_plan();

SET LOCAL iot.authenticators = 'users_authenticator';
CREATE ROLE users_authenticator NOINHERIT;
GRANT iot_anon, iot_viewer, iot_operator, iot_admin TO users_authenticator;
CREATE ROLE users_plain IN ROLE iot_operator;

-- what a statement answers, or its SQLSTATE and message
CREATE FUNCTION answer(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE statement INTO answer;
	RETURN coalesce(answer, 'null');
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ' ' || sqlerrm;
END
$$;
CREATE FUNCTION claims(token text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT convert_from(decode(rpad(translate(part, '-_', '+/'), (length(part) + 3) / 4 * 4, '='),
		'base64'), 'UTF8')::jsonb
	FROM split_part(token, '.', 2) AS part
$$;
-- a request with a token, as PostgREST makes it
CREATE FUNCTION request(token text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	claims jsonb := coalesce(claims(token), '{"role":"iot_anon"}');
BEGIN
	PERFORM set_config('role', claims ->> 'role', true),
		set_config('request.jwt.claims', claims::text, true);
	RETURN coalesce(nullif(answer('SELECT iot.check_request()'), ''), 'null') ||
		' ' || answer(statement);
END
$$;
CREATE FUNCTION login(username text, password text) RETURNS text LANGUAGE sql AS $$
	SELECT l.token FROM iot.login(username, password) AS l
$$;

-- registering
SELECT isnt(iot.register_user('anna', 'correct horse', 'anna@example.org'), NULL, 'a superuser registers');
SELECT is((SELECT u.role || ' ' || u.enabled || ' ' || u.email FROM iot.app_user u WHERE username = 'anna'),
	'iot_operator true anna@example.org', 'an operator, unless something else is said');
SELECT matches((SELECT s.password_hash FROM iot.app_user_secret s JOIN iot.app_user USING (app_user_id)
		WHERE username = 'anna'),
	'^\$scrypt\$ln=15,r=8,p=3\$[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=$', 'the password is kept as its hash');
SELECT isnt(iot_internal.hash_password('same password'), iot_internal.hash_password('same password'),
	'no two hashes are alike');
SELECT throws_ok($$SELECT iot.register_user('anna', 'another horse')$$, '23505', 'user "anna" already exists');
SELECT throws_ok($$SELECT iot.register_user('a b', 'correct horse')$$, '22023', 'invalid username "a b"');
SELECT throws_ok($$SELECT iot.register_user('', 'correct horse')$$, '22023', 'invalid username ""');
SELECT throws_ok(format($$SELECT iot.register_user(%L, 'correct horse')$$, repeat('x', 65)), '22023');
SELECT throws_ok($$SELECT iot.register_user(NULL, 'correct horse')$$, '22004');
SELECT throws_ok($$SELECT iot.register_user('bert', NULL)$$, '22004');
SELECT throws_ok($$SELECT iot.register_user('bert', '7 chars')$$, '22023', 'password is too short');
SELECT throws_ok(format($$SELECT iot.register_user('bert', %L)$$, repeat('x', 1001)), '22023', 'password is too long');
SELECT throws_ok($$SELECT iot.register_user('bertbert', 'BertBert')$$, '22023', 'password is the name of the user');
SELECT throws_ok($$SELECT iot.register_user('bert', 'correct horse', 'nowhere')$$, '22023', 'invalid email of user "bert"');
SELECT throws_ok($$SELECT iot.register_user('bert', 'correct horse', role => 'postgres')$$, '22023', 'invalid role "postgres"');
SELECT lives_ok(format($$SELECT iot.register_user('long', %L)$$, repeat('ä', 1000)), 'a password of 1000 characters');
SELECT isnt(iot.register_user('chief', 'chief of all', role => 'iot_admin'), NULL, 'an administrator is registered');
SELECT lives_ok($$SELECT iot.register_user('view', 'only looking', role => 'iot_viewer')$$);
INSERT INTO iot.app_user (username) VALUES ('nopass'), ('stopped');
SELECT iot.reset_password('stopped', 'was stopped') \g /dev/null
UPDATE iot.app_user SET enabled = false WHERE username = 'stopped';

-- who may
SELECT is((SELECT count(*) FROM unnest('{iot_viewer,iot_operator,iot_admin,iot_anon,iot_worker,iot_pushd}'::text[]) r,
		unnest('{iot.app_user_secret,iot.revoked_token}'::regclass[]) t
		WHERE has_any_column_privilege(r, t, 'SELECT, INSERT, UPDATE, REFERENCES')), 0::bigint,
	'nobody reads or writes hashes and revoked tokens');
SET LOCAL SESSION AUTHORIZATION users_authenticator;
SELECT request(NULL, $$SELECT iot.register_user('self', 'made myself')$$) AS closed \gset
SELECT request(NULL, $$SELECT iot.reset_password('anna', 'stolen pass')$$) AS reset \gset
SELECT request(NULL, $$SELECT iot.logout()$$) AS logout \gset
SELECT request(NULL, $$SELECT count(*) FROM iot.app_user$$) AS read \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'closed'::text, 'null 42501 permission denied to register a user', 'nobody registers himself by default');
SELECT is(:'reset'::text, 'null 42501 permission denied for function reset_password', 'nor resets a password');
SELECT is(:'logout'::text, 'null 42501 permission denied for function logout', 'nor logs out who is not in');
SELECT is(:'read'::text, 'null 42501 permission denied for table app_user', 'nor sees who there is');
SET LOCAL iot.self_registration = on;
SET LOCAL SESSION AUTHORIZATION users_authenticator;
SELECT request(NULL, $$SELECT 'made' FROM iot.register_user('self', 'made myself')$$) AS open \gset
SELECT request(NULL, $$SELECT iot.register_user('self2', 'made myself', role => 'iot_admin')$$) AS admin \gset
SELECT request(NULL, $$SELECT iot.register_user('users_plain', 'made myself')$$) AS role \gset
SELECT request(NULL, $$SELECT iot.register_user('self', 'made myself')$$) AS taken \gset
RESET SESSION AUTHORIZATION;
SET LOCAL iot.self_registration = off;
SELECT is(:'open'::text, 'null made', 'where it is open, he does');
SELECT is((SELECT role FROM iot.app_user WHERE username = 'self'), 'iot_viewer', '... to look only');
SELECT is(:'admin'::text, 'null 42501 permission denied to choose a role', '... and chooses no role');
SELECT is(:'role'::text, 'null 23505 user "users_plain" already exists', '... nor a name that a role has');
SELECT is(:'taken'::text, 'null 23505 user "self" already exists', '... nor somebody else''s');

-- logging in
SELECT answer($$SELECT login('anna', 'wrong horse')$$) AS wrong,
	answer($$SELECT login('nobody', 'wrong horse')$$) AS nobody,
	answer($$SELECT login('nopass', 'wrong horse')$$) AS nopass,
	answer($$SELECT login('stopped', 'was stopped')$$) AS stopped,
	answer($$SELECT login('anna', 'correct horsE')$$) AS letter,
	answer(format($$SELECT login('long', %L)$$, repeat('ä', 1001))) AS longer \gset
SELECT is(:'wrong'::text, '28P01 invalid username or password', 'a wrong password');
SELECT is(:'nobody'::text, :'wrong', 'an unknown name says the same');
SELECT is(:'nopass'::text, :'wrong', 'and a user without a password');
SELECT is(:'stopped'::text, :'wrong', 'and a disabled one with the right password');
SELECT is(:'letter'::text, :'wrong', 'letters count');
SELECT is(:'longer'::text, :'wrong', 'and all of them');
SELECT throws_ok($$SELECT iot.login(NULL, 'x')$$, '22004');
SELECT is((SELECT l.username FROM iot.login('long', repeat('ä', 1000)) AS l), 'long', 'a long password is good');
SELECT l.token AS token, l.expires_at AS expires_at FROM iot.login('anna', 'correct horse') AS l \gset
SELECT is(claims(:'token') - '{iat,exp,jti}'::text[], '{"sub":"anna","role":"iot_operator"}', 'a token says who and as what');
SELECT ok((claims(:'token') ->> 'iat')::bigint BETWEEN extract(epoch FROM clock_timestamp()) - 60
	AND extract(epoch FROM clock_timestamp()) + 1, '... since when');
SELECT is((claims(:'token') ->> 'exp')::bigint, (claims(:'token') ->> 'iat')::bigint + 12 * 3600, '... and until when');
SELECT is(to_timestamp((claims(:'token') ->> 'exp')::bigint), :'expires_at'::timestamptz, '... as the answer does');
SET LOCAL iot.token_ttl = '90 s';
SET LOCAL iot.jwt_audience = 'plant';
SELECT is((c ->> 'exp')::bigint - (c ->> 'iat')::bigint || ' ' || (c ->> 'aud'), '90 plant', 'time and audience are settings')
	FROM claims(login('anna', 'correct horse')) AS c;
RESET iot.token_ttl;
RESET iot.jwt_audience;
SELECT is((SELECT array_agg(e.type || ' ' || (e.payload ->> 'username') ORDER BY e.id) FROM iot.event e
		WHERE e.xid = pg_current_xact_id() AND e.aggregatetype = 'user' AND e.type LIKE 'user.login%'
			AND e.payload ->> 'username' = 'anna'),
	'{user.login_failed anna,user.login_failed anna,user.login anna,user.login anna}',
	'logins are events, and so are those that failed');
SELECT ok(NOT EXISTS (SELECT FROM iot.event e WHERE e.payload::text ~ 'horse|scrypt'), 'no event tells a password');

-- too many
SET LOCAL iot.login_max_failures = 2;
SELECT iot.register_user('busy', 'busy as a bee') \g /dev/null
SELECT answer($$SELECT login('busy', 'not that one')$$) AS first,
	answer($$SELECT login('busy', 'nor that one')$$) AS second,
	answer($$SELECT login('busy', 'busy as a bee')$$) AS third,
	answer($$SELECT login('unknown', 'not that one')$$) AS u1,
	answer($$SELECT login('unknown', 'nor that one')$$) AS u2,
	answer($$SELECT login('unknown', 'nor that one')$$) AS u3 \gset
SELECT is(:'second'::text, :'first', 'two failures');
SELECT is(:'third'::text, 'PT429 too many failed logins', 'and the right password comes too late');
SELECT is(:'u3'::text, :'third', 'a name that nobody has is no different');
SELECT throws_ok($$SELECT iot.change_password('busy as a bee', 'another bee')$$, '42501',
	'the session is not that of a user', 'a role is no user unless there is one of its name');
RESET iot.login_max_failures;

-- a token in use
SET LOCAL SESSION AUTHORIZATION users_authenticator;
SELECT request(:'token', 'SELECT current_user') AS role \gset
SELECT request(:'token', $$SELECT iot.register_user('more', 'correct horse')$$) AS register \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'role'::text, 'null iot_operator', 'a token is good');
SELECT is(:'register'::text, 'null 42501 permission denied to register a user', 'for what its user may');

-- logging out ends this token; another of the same user goes on
SELECT login('anna', 'correct horse') AS other \gset
SET LOCAL SESSION AUTHORIZATION users_authenticator;
SELECT request(:'token', 'SELECT iot.logout()') AS out \gset
SELECT request(:'token', 'SELECT iot.logout()') AS again \gset
SELECT request(:'other', 'SELECT current_user') AS other_goes_on \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'out'::text, 'null ', 'logged out');
SELECT is(:'again'::text, 'PT401 the token does not count 42501 the session is not that of a user', 'then the token is nobody''s');
SELECT is(:'other_goes_on'::text, 'null iot_operator', 'the other one is not touched');

-- changing the password ends all
SET LOCAL SESSION AUTHORIZATION users_authenticator;
SELECT request(:'other', $$SELECT iot.change_password('wrong horse', 'battery staple')$$) AS wrong \gset
SELECT request(:'other', $$SELECT iot.change_password('correct horse', 'short')$$) AS short \gset
SELECT request(:'other', $$SELECT iot.change_password('correct horse', 'battery staple')$$) AS changed \gset
SELECT request(:'other', 'SELECT 1') AS after \gset
SELECT request(NULL, $$SELECT login('anna', 'correct horse')$$) AS old_password \gset
SELECT request(NULL, $$SELECT login('anna', 'battery staple')$$) AS fresh \gset
SELECT substr(:'fresh', 6) AS fresh \gset
SELECT request(:'fresh', 'SELECT current_user') AS fresh_counts \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'wrong'::text, 'null 28P01 invalid password', 'to change a password one knows it');
SELECT is(:'short'::text, 'null 22023 password is too short', 'the new one must be one');
SELECT is(:'changed'::text, 'null ', 'changed');
SELECT is(:'after'::text, 'PT401 the token does not count 1', 'and the token has ended');
SELECT is(:'old_password'::text, 'null 28P01 invalid username or password', 'the old one is no good');
SELECT is(:'fresh_counts'::text, 'null iot_operator', 'a token of the same moment counts');

-- an administrator
SELECT login('chief', 'chief of all') AS chief \gset
SET LOCAL SESSION AUTHORIZATION users_authenticator;
SELECT request(:'fresh', $$SELECT iot.revoke_tokens('anna')$$) AS by_anna \gset
SELECT request(:'chief', $$SELECT iot.revoke_tokens('anna')$$) AS revoked \gset
SELECT request(:'chief', $$SELECT iot.revoke_tokens('nobody')$$) AS unknown \gset
SELECT request(:'fresh', 'SELECT 1') AS fresh_ended \gset
SELECT request(:'chief', $$SELECT 'made' FROM iot.register_user('dora', 'made by chief')$$) AS made \gset
SELECT request(:'chief', $$SELECT iot.reset_password('dora', 'given by chief')$$) AS reset \gset
SELECT request(NULL, $$SELECT login('dora', 'given by chief') IS NOT NULL$$) AS dora \gset
SELECT request(:'chief', $$SELECT password_hash FROM iot.app_user_secret LIMIT 1$$) AS hash \gset
SELECT request(:'chief', $$SELECT iot_internal.is_admin()$$) AS before \gset
SELECT request(:'chief', $$UPDATE iot.app_user SET enabled = false WHERE username = 'chief' RETURNING 1$$) AS stop \gset
SELECT request(:'chief', $$SELECT iot_internal.is_admin()$$) AS stopped \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'by_anna'::text, 'null 42501 permission denied for function revoke_tokens', 'an operator revokes nobody''s tokens');
SELECT is(:'revoked'::text, 'null ', 'an administrator does');
SELECT is(:'unknown'::text, 'null 42704 user "nobody" does not exist', '... of users that there are');
SELECT is(:'fresh_ended'::text, 'PT401 the token does not count 1', '... and they end');
SELECT is(:'made'::text, 'null made', '... registers users');
SELECT is(:'reset'::text, 'null ', '... resets a password');
SELECT is(:'dora'::text, 'null true', '... which is good');
SELECT is(:'hash'::text, 'null 42501 permission denied for table app_user_secret', '... and reads no hash');
SELECT is(:'before'::text || ' / ' || :'stopped', 'null true / PT401 the token does not count false',
	'a disabled administrator is none, whatever role the token names');

-- a role that is taken away does not live on in a token
UPDATE iot.app_user SET enabled = true WHERE username = 'chief';
SELECT login('chief', 'chief of all') AS demoted \gset
UPDATE iot.app_user SET role = 'iot_operator' WHERE username = 'chief';
SET LOCAL SESSION AUTHORIZATION users_authenticator;
SELECT request(:'demoted', 'SELECT current_user') AS demoted \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'demoted'::text, 'PT401 the token does not count iot_admin', 'a change of role ends tokens');
SELECT is(claims(login('chief', 'chief of all')) ->> 'role', 'iot_operator', '... and new ones name the new role');

-- claims that nobody issued
SET LOCAL SESSION AUTHORIZATION users_plain;
SELECT set_config('request.jwt.claims', claims(:'chief')::text, true) \g /dev/null
SELECT answer('SELECT iot.check_request()') AS checked,
	answer($$SELECT iot.register_user('forged', 'correct horse')$$) AS forged,
	'' AS none \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'checked'::text, '55000 role "users_plain" speaks for itself, not for users', 'claims of a plain role are told to be none');
SELECT is(:'forged'::text, '42501 permission denied to register a user', 'and give it nothing');
SET LOCAL SESSION AUTHORIZATION users_authenticator;
SELECT set_config('role', 'iot_operator', true), set_config('request.jwt.claims', '{"sub":"anna","role":"iot_operator"}', true) \g /dev/null
SELECT answer('SELECT iot.check_request()') AS undated \gset
SELECT set_config('request.jwt.claims', '{"sub":"nopass","role":"iot_operator"}', true) \g /dev/null
SELECT answer('SELECT iot.check_request()') AS foreign_provider \gset
SELECT set_config('request.jwt.claims', '{"sub":"anna","iat":1e400}', true) \g /dev/null
SELECT answer('SELECT iot.check_request()') AS future \gset
SELECT set_config('request.jwt.claims', '{"sub":["anna"],"iat":"x","jti":{}}', true) \g /dev/null
SELECT answer('SELECT iot.check_request()') AS shapes \gset
SELECT set_config('request.jwt.claims', '"anna"', true) \g /dev/null
SELECT answer('SELECT iot.check_request()') AS text \gset
SELECT set_config('request.jwt.claims', '', true) \g /dev/null
SELECT answer('SELECT iot.check_request()') AS empty \gset
RESET SESSION AUTHORIZATION;
SELECT is(:'undated'::text, 'PT401 the token does not count', 'once tokens were revoked, one without a date is refused');
SELECT is(:'foreign_provider'::text, '', 'before, it is not: providers may leave it out');
SELECT is(:'future'::text, '', 'a number beyond all times is one');
SELECT is(:'shapes'::text, 'PT401 the token does not count', 'claims of other types name nobody');
SELECT is(:'text'::text, 'PT401 the token does not count', 'nor claims that are no object');
SELECT is(:'empty'::text, 'PT401 the token does not count', 'nor none at all, with a role of its own');

-- the caller's search_path is not trusted
CREATE SCHEMA evil;
CREATE FUNCTION evil.yes(numeric, numeric) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.>= (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = evil.yes);
GRANT USAGE ON SCHEMA evil TO PUBLIC;
SET LOCAL SESSION AUTHORIZATION users_authenticator;
SELECT set_config('search_path', 'evil, pg_catalog', true), set_config('request.jwt.claims', claims(:'fresh')::text, true),
	public.answer('SELECT iot.check_request()') AS evil FROM (SELECT set_config('role', 'iot_operator', true)) q \gset
RESET SESSION AUTHORIZATION;
SET LOCAL search_path = public, pg_catalog;
SELECT is(:'evil'::text, 'PT401 the token does not count', 'the caller''s operators are not asked');

-- twice in one second: a token that was given in between ends with the second time
CREATE FUNCTION public.ended_twice() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	id uuid := (SELECT app_user_id FROM iot.app_user WHERE username = 'anna');
	given numeric;
BEGIN
	UPDATE iot.app_user SET tokens_valid_from = date_trunc('second', clock_timestamp()) + interval '5 s' WHERE app_user_id = id;
	-- as iot.login() would date it
	given := (SELECT ceil(extract(epoch FROM tokens_valid_from)) FROM iot.app_user WHERE app_user_id = id);
	PERFORM iot_internal.end_tokens(id);
	RETURN NOT iot_internal.token_counts('anna', given, gen_random_uuid()::text);
END $$;
SELECT ok(public.ended_twice(), 'who ends tokens again ends those that were given since');

SELECT * FROM finish();
ROLLBACK;
