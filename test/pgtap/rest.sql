-- REST: the requests that PostgREST would make for each use case, and the answers that it would give.
-- http() below stands for it: it takes on the role that the token names, sets the same settings, calls
-- functions by the names of the body's keys, and turns SQLSTATEs into statuses by the table of its
-- documentation.  No transaction around all: each request is one of its own.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT no_plan();

SELECT session_user AS super \gset
CREATE ROLE rest_authenticator NOINHERIT;
GRANT iot_anon, iot_viewer, iot_operator, iot_admin TO rest_authenticator;
SET iot.authenticators = 'rest_authenticator';

CREATE FUNCTION claims(token text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT convert_from(decode(rpad(translate(part, '-_', '+/'), (length(part) + 3) / 4 * 4, '='),
		'base64'), 'UTF8')::jsonb
	FROM split_part(token, '.', 2) AS part
$$;
CREATE FUNCTION status_of(state text, is_anonymous boolean) RETURNS integer LANGUAGE sql AS $$
	SELECT CASE
		WHEN state LIKE 'PT___' THEN substr(state, 3)::integer
		WHEN state IN ('23503', '23505') THEN 409
		WHEN state = '25006' THEN 405
		WHEN state IN ('42883', '42P01') THEN 404
		WHEN state = '42501' THEN CASE WHEN is_anonymous THEN 401 ELSE 403 END
		WHEN state ~ '^(0L|0P|28)' THEN 403
		WHEN state = '53400' OR state ~ '^(09|25|2D|38|39|3B|40|54|55|57|58|F0|HV|XX)' THEN 500
		WHEN state ~ '^(08|53)' THEN 503
		ELSE 400 END
$$;
-- the call of a function, or NULL where none has arguments of these names
CREATE FUNCTION call_of(function text, keys text[]) RETURNS text LANGUAGE sql AS $$
	SELECT format('SELECT %s FROM (SELECT %s FROM json_to_record($1) AS _(%s)) pgrst_body,'
			' LATERAL iot.%I(%s) pgrst_call',
			CASE WHEN p.proretset THEN 'coalesce(json_agg(pgrst_call), ''[]'')'
				ELSE 'to_json(pgrst_call)' END,
			coalesce(string_agg(quote_ident(a.name), ', '), '1'),
			coalesce(string_agg(format('%I %s', a.name, format_type(a.type, NULL)), ', ') FILTER (WHERE a.name IS NOT NULL), '"_" text'),
			p.proname, string_agg(format('%I := pgrst_body.%I', a.name, a.name), ', ') FILTER (WHERE a.name IS NOT NULL))
	FROM pg_proc p LEFT JOIN LATERAL unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[])
		AS a (name, type) ON a.name = ANY (keys)
	WHERE p.pronamespace = 'iot'::regnamespace AND p.proname = function
		AND coalesce(p.proargnames[:p.pronargs], '{}') @> keys
		AND keys @> coalesce(p.proargnames[:p.pronargs - p.pronargdefaults], '{}')
	GROUP BY p.oid
$$;
CREATE FUNCTION query_of(method text, path text, keys text[]) RETURNS text LANGUAGE sql AS $$
	SELECT CASE method
		WHEN 'GET' THEN format('SELECT coalesce(json_agg(t), ''[]'') FROM (SELECT %s FROM iot.%I %s) t',
			coalesce(substring(path FROM 'select=([^&]*)'), '*'), split_part(path, '?', 1),
			(SELECT 'WHERE ' || string_agg(format('%I = %L', m[1], m[2]), ' AND ')
				FROM regexp_matches(path, '[?&]([a-z_]+)=eq\.([^&]*)', 'g') AS m))
		WHEN 'POST' THEN format('WITH made AS (INSERT INTO iot.%I (%s) SELECT %2$s'
			' FROM json_to_recordset($1) AS _(%s) RETURNING *) SELECT json_agg(made) FROM made', path,
			(SELECT string_agg(quote_ident(k), ', ') FROM unnest(keys) k),
			(SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ')
				FROM pg_attribute a WHERE a.attrelid = to_regclass('iot.' || path) AND a.attname = ANY (keys)))
	END
$$;
CREATE FUNCTION http(method text, path text, token text DEFAULT NULL, body jsonb DEFAULT '{}',
	headers jsonb DEFAULT '{}', OUT status integer, OUT answer jsonb)
LANGUAGE plpgsql AS $$
DECLARE
	claims jsonb := coalesce(claims(token), '{"role":"iot_anon"}');
	is_call boolean := path LIKE '/rpc/%';
	target text := regexp_replace(path, '^/(rpc/)?', '');
	call text;
	keys text[] := ARRAY(SELECT jsonb_object_keys(CASE jsonb_typeof(body) WHEN 'array' THEN body -> 0 ELSE body END));
	hint text;
BEGIN
	PERFORM set_config('transaction_read_only', CASE method WHEN 'GET' THEN 'on' ELSE 'off' END, true),
		set_config('search_path', 'iot, public', true),
		set_config('role', claims ->> 'role', true),
		set_config('request.jwt.claims', claims::text, true),
		set_config('request.method', method, true),
		set_config('request.path', path, true),
		set_config('request.headers', headers::text, true);
	PERFORM iot.check_request();
	IF is_call AND method = 'GET' THEN
		SELECT jsonb_object_agg(m[1], m[2]) INTO body
			FROM regexp_matches(target, '[?&]([a-z_]+)=([^&]*)', 'g') AS m;
		body := coalesce(body, '{}');
		keys := ARRAY(SELECT jsonb_object_keys(body));
		target := split_part(target, '?', 1);
	END IF;
	call := CASE
		WHEN NOT is_call THEN public.query_of(method, target, keys)
		ELSE public.call_of(target, keys) END;
	IF call IS NULL THEN
		status := 404;
		answer := '{"code":"PGRST202"}';
		RETURN;
	END IF;
	EXECUTE call INTO answer USING
		(CASE WHEN is_call OR jsonb_typeof(body) = 'array' THEN body ELSE jsonb_build_array(body) END)::json;
	status := CASE WHEN is_call THEN CASE WHEN answer IS NULL OR answer = '""' THEN 204 ELSE 200 END
		WHEN method = 'POST' THEN 201 ELSE 200 END;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	status := public.status_of(sqlstate, claims ->> 'role' = 'iot_anon');
	answer := jsonb_build_object('code', sqlstate, 'message', sqlerrm, 'hint', hint);
END
$$;
-- what a test wants to know of an answer: its status, and its text or the code of its error
CREATE FUNCTION said(status integer, answer jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', status, CASE WHEN status >= 400 THEN answer ->> 'code' ELSE answer::text END)
$$;

SELECT iot.register_user('chief', 'chief of all', role => 'iot_admin') \g /dev/null
SELECT iot.register_user('anna', 'anna''s secret') \g /dev/null
INSERT INTO iot.device_group (name) VALUES ('plant'), ('lab');
INSERT INTO iot.user_group (name) VALUES ('crew');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u WHERE u.username = 'anna';
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, 'operate'
	FROM iot.user_group g, iot.device_group d WHERE d.name = 'plant';
INSERT INTO iot.adapter (name, kind) VALUES ('played', 'test');

SET SESSION AUTHORIZATION rest_authenticator;
-- register and log in
SELECT said(r.status, r.answer) AS closed FROM http('POST', '/rpc/register_user', NULL, '{"username":"bert","password":"bert''s own"}') r \gset
RESET SESSION AUTHORIZATION;
SET iot.self_registration = on;
SET SESSION AUTHORIZATION rest_authenticator;
SELECT r.status AS registered FROM http('POST', '/rpc/register_user', NULL, '{"username":"bert","password":"bert''s own"}') r \gset
SELECT said(r.status, r.answer) AS taken FROM http('POST', '/rpc/register_user', NULL, '{"username":"anna","password":"bert''s own"}') r \gset
SELECT said(r.status, r.answer) AS short FROM http('POST', '/rpc/register_user', NULL, '{"username":"carl","password":"short"}') r \gset
SELECT said(r.status, r.answer) AS wrong FROM http('POST', '/rpc/login', NULL, '{"username":"anna","password":"guess"}') r \gset
SELECT said(r.status, r.answer) AS misspelt FROM http('POST', '/rpc/login', NULL, '{"user":"anna","password":"guess"}') r \gset
SELECT said(r.status, r.answer) AS by_get FROM http('GET', '/rpc/login?username=bert&password=bert''s own') r \gset
SELECT r.status || ' ' || (SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(r.answer) k) AS login,
	r.answer ->> 'token' AS anna FROM http('POST', '/rpc/login', NULL, '{"username":"anna","password":"anna''s secret"}') r \gset
SELECT r.answer ->> 'token' AS chief FROM http('POST', '/rpc/login', NULL, '{"username":"chief","password":"chief of all"}') r \gset
SELECT r.answer ->> 'token' AS bert FROM http('POST', '/rpc/login', NULL, '{"username":"bert","password":"bert''s own"}') r \gset
SELECT claims(:'bert') ->> 'role' AS bert_role \gset

-- a device with a sensor
SELECT said(r.status, r.answer -> 0 -> 'name') AS parameter FROM http('POST', '/parameter', :'chief',
	'[{"name":"temperature","unit":"°C","value_min":5,"value_max":90},{"name":"valve","labels":{"OFF":0,"ON":1}}]'
	#- '{1,labels}' #- '{0,unit}' #- '{0,value_min}' #- '{0,value_max}') r \gset
SELECT said(r.status, r.answer -> 0 -> 'value_max') AS level FROM http('POST', '/parameter', :'chief',
	'{"name":"level","unit":"%","value_min":0,"value_max":100}') r \gset
SELECT said(r.status, r.answer) AS twice FROM http('POST', '/parameter', :'chief', '{"name":"level"}') r \gset
SELECT said(r.status, r.answer) AS by_anna FROM http('POST', '/parameter', :'anna', '{"name":"mine"}') r \gset
SELECT said(r.status, r.answer) AS by_anon FROM http('POST', '/parameter', NULL, '{"name":"mine"}') r \gset
SELECT r.status AS made, r.answer ->> 0 AS tank FROM http('POST', '/rpc/create_device', :'chief',
	'{"name":"tank-1","parameters":["level","valve"],"device_group":"plant","adapter":"played"}') r \gset
SELECT r.answer = to_jsonb(:'tank'::text) AS again FROM http('POST', '/rpc/create_device', :'chief',
	'{"name":"tank-1","parameters":["level","valve"],"device_group":"plant","adapter":"played"}') r \gset
SELECT said(r.status, r.answer) AS unmanaged FROM http('POST', '/rpc/create_device', :'anna',
	'{"name":"tank-2","parameters":["level"],"device_group":"plant"}') r \gset
SELECT r.status AS elsewhere FROM http('POST', '/rpc/create_device', :'chief',
	'{"name":"lab-1","parameters":["level"],"device_group":"lab","adapter":"played"}') r \gset

-- set a value: accepted by the device; the chief plays it
SELECT r.status AS sent, r.answer ->> 0 AS command FROM http('POST', '/rpc/send_command', :'anna',
	'{"device":"tank-1","parameter":"level","value":40}',
	'{"x-request-id":"11111111-1111-4111-8111-111111111111"}') r \gset
SELECT r.answer = to_jsonb(:'command'::text) AS repeated FROM http('POST', '/rpc/send_command', :'anna',
	'{"device":"tank-1","parameter":"level","value":40}',
	'{"x-request-id":"11111111-1111-4111-8111-111111111111"}') r \gset
SELECT said(r.status, r.answer) AS reused FROM http('POST', '/rpc/send_command', :'anna',
	'{"device":"tank-1","parameter":"level","value":41}',
	'{"x-request-id":"11111111-1111-4111-8111-111111111111"}') r \gset
SELECT said(r.status, r.answer) AS no_uuid FROM http('POST', '/rpc/send_command', :'anna',
	'{"device":"tank-1","parameter":"level","value":41}', '{"x-request-id":"42"}') r \gset
SELECT r.answer ->> 0 AS own_id FROM http('POST', '/rpc/send_command', :'anna',
	'{"device":"tank-1","parameter":"valve","value":1,"request_id":"22222222-2222-4222-8222-222222222222"}',
	'{"x-request-id":"42"}') r \gset
SELECT r.status || ' ' || jsonb_array_length(r.answer) AS polled FROM http('POST', '/rpc/adapter_poll', :'chief',
	'{"adapter":"played","max_commands":10}') r \gset
SELECT said(r.status, r.answer) AS confirmed FROM http('POST', '/rpc/adapter_sent', :'chief',
	jsonb_build_object('command_id', :'command')) r \gset
SELECT said(r.status, r.answer) AS accepted FROM http('POST', '/rpc/wait_for_command', :'anna',
	jsonb_build_object('command_id', :'command', 'timeout', '5 s')) r \gset
-- refused by the device
SELECT r.answer ->> 0 AS refused FROM http('POST', '/rpc/send_command', :'anna',
	'{"device":"tank-1","parameter":"level","value":70}') r \gset
SELECT jsonb_array_length(r.answer) AS n FROM http('POST', '/rpc/adapter_poll', :'chief', '{"adapter":"played"}') r \gset
SELECT r.status AS told FROM http('POST', '/rpc/adapter_error', :'chief',
	jsonb_build_object('command_id', :'refused', 'error', 'valve stuck')) r \gset
SELECT said(r.status, r.answer) AS refused_status FROM http('POST', '/rpc/wait_for_command', :'anna',
	jsonb_build_object('command_id', :'refused')) r \gset
SELECT (SELECT string_agg(t ->> 'event', ' ' ORDER BY t ->> 'at', o) FROM jsonb_array_elements(r.answer)
	WITH ORDINALITY AS e (t, o) WHERE t ->> 'event' IS NOT NULL) AS timeline
	FROM http('GET', '/rpc/timeline?command_id=' || :'refused', :'anna') r \gset
-- out of bounds: the Device Service refuses, and nobody waits
SELECT r.answer ->> 0 AS beyond FROM http('POST', '/rpc/send_command', :'anna',
	'{"device":"tank-1","parameter":"level","value":101}') r \gset
SELECT said(r.status, r.answer) AS beyond_status FROM http('POST', '/rpc/wait_for_command', :'anna',
	jsonb_build_object('command_id', :'beyond')) r \gset
SELECT r.answer -> -1 ->> 'detail' AS beyond_why FROM http('GET', '/rpc/timeline?command_id=' || :'beyond', :'anna') r \gset
-- and what is no command at all
SELECT said(r.status, r.answer) AS nowhere FROM http('POST', '/rpc/send_command', :'anna', '{"device":"none","parameter":"level","value":1}') r \gset
SELECT said(r.status, r.answer) AS others FROM http('POST', '/rpc/send_command', :'anna', '{"device":"lab-1","parameter":"level","value":1}') r \gset
SELECT said(r.status, r.answer) AS anonymous FROM http('POST', '/rpc/send_command', NULL, '{"device":"tank-1","parameter":"level","value":1}') r \gset
SELECT said(r.status, r.answer) AS stranger FROM http('POST', '/rpc/send_command', :'bert', '{"device":"tank-1","parameter":"level","value":1}') r \gset
SELECT said(r.status, r.answer) AS nan FROM http('POST', '/rpc/send_command', :'anna', '{"device":"tank-1","parameter":"level","value":"NaN"}') r \gset
SELECT said(r.status, r.answer) AS shape FROM http('POST', '/rpc/send_command', :'anna', '{"device":"tank-1","parameter":"level","value":"much"}') r \gset
SELECT said(r.status, r.answer) AS by_get_2 FROM http('GET', '/rpc/send_command?device=tank-1&parameter=level&value=1', :'anna') r \gset

-- read a sensor
SELECT r.status AS ingested FROM http('POST', '/rpc/ingest', :'anna', '{"device":"tank-1","measurements":{"level":42.5}}') r \gset
SELECT r.status || ' ' || (SELECT string_agg(concat_ws('=', v ->> 'parameter', v ->> 'value', v ->> 'unit'), ' ' ORDER BY v ->> 'parameter')
	FROM jsonb_array_elements(r.answer) v) AS last FROM http('GET', '/rpc/last_values?device=tank-1', :'anna') r \gset
SELECT said(r.status, r.answer) AS last_others FROM http('GET', '/rpc/last_values?device=lab-1', :'anna') r \gset
SELECT r.status || ' ' || (SELECT string_agg(v ->> 'value', ' ') FROM jsonb_array_elements(r.answer) v) AS history
	FROM http('GET', '/rpc/history?device=tank-1&parameter=level&since=2020-01-01', :'anna') r \gset
SELECT said(r.status, r.answer) AS fleet FROM http('GET', '/fleet?select=device,enabled&enabled=eq.true', :'anna') r \gset

-- alarms and rules
SELECT r.status AS ruled FROM http('POST', '/alarm_rule', :'chief', jsonb_build_object('name', 'full', 'kind', 'threshold',
	'parameter_id', (SELECT answer -> 0 ->> 'parameter_id' FROM http('GET', '/parameter?name=eq.level', :'chief')),
	'comparison', '>', 'threshold', 95, 'severity', 'red')) r \gset
SELECT said(r.status, r.answer) AS bad_rule FROM http('POST', '/alarm_rule', :'chief', '{"name":"none","kind":"threshold"}') r \gset
SELECT said(r.status, r.answer) AS rules FROM http('GET', '/alarm_rule?name=eq.full&select=name,severity', :'chief') r \gset
SELECT r.status AS opened FROM http('POST', '/rpc/ingest', :'anna', '{"device":"tank-1","measurements":{"level":99}}') r \gset
SELECT said(r.status, r.answer #- '{0,alarm_id}') AS alarms, r.answer -> 0 ->> 'alarm_id' AS alarm
	FROM http('GET', '/open_alarm?select=alarm_id,device,parameter,value,severity', :'anna') r \gset
SELECT said(r.status, r.answer) AS acknowledged FROM http('POST', '/rpc/acknowledge_alarm', :'anna',
	jsonb_build_object('alarm_id', :'alarm', 'comment', 'on my way')) r \gset
SELECT said(r.status, r.answer) AS acknowledged_by FROM http('GET', '/open_alarm?select=acknowledged_by', :'anna') r \gset
SELECT said(r.status, r.answer) AS anna_rules FROM http('GET', '/alarm_rule?name=eq.full&select=name', :'anna') r \gset
SELECT said(r.status, r.answer) AS anna_devices FROM http('GET', '/device?select=name', :'anna') r \gset
SELECT said(r.status, r.answer) AS bert_devices FROM http('GET', '/device?select=name', :'bert') r \gset
SELECT said(r.status, r.answer) AS anna_commands FROM http('GET', '/command?select=status,value&status=eq.FAILED', :'anna') r \gset
SELECT said(r.status, r.answer) AS anna_manages FROM http('POST', '/device', :'anna',
	(SELECT jsonb_build_object('name', 'mine', 'device_group_id', answer -> 0 -> 'device_group_id',
		'device_type_id', answer -> 0 -> 'device_type_id', 'adapter_id', answer -> 0 -> 'adapter_id')
		FROM http('GET', '/device?name=eq.tank-1', :'anna'))) r \gset
SELECT said(r.status, r.answer) AS bert_alarms FROM http('GET', '/open_alarm', :'bert') r \gset
RESET SESSION AUTHORIZATION;

-- notifications: the notifier's turn, then list and clear
SELECT sum(n.events) > 0 FROM generate_series(1, 5), iot_internal.notify_events(200) n \g /dev/null
SET SESSION AUTHORIZATION rest_authenticator;
SELECT r.status || ' ' || (SELECT string_agg(n ->> 'event' || ' ' || (n ->> 'read'), ', ' ORDER BY (n ->> 'seq')::int)
	FROM jsonb_array_elements(r.answer) n) AS listed, (SELECT max((n ->> 'seq')::int) FROM jsonb_array_elements(r.answer) n) AS last_seq
	FROM http('GET', '/rpc/notifications', :'anna') r \gset
SELECT said(r.status, r.answer) AS marked FROM http('POST', '/rpc/mark_notifications_read', :'anna',
	jsonb_build_object('up_to_seq', :last_seq)) r \gset
SELECT count(*) FILTER (WHERE NOT (n ->> 'read')::boolean) AS unread
	FROM http('GET', '/rpc/notifications', :'anna') r, jsonb_array_elements(r.answer) n \gset
SELECT said(r.status, r.answer) AS bert_notifications FROM http('GET', '/rpc/notifications', :'bert') r \gset
SELECT said(r.status, r.answer) AS out FROM http('POST', '/rpc/logout', :'anna') r \gset
SELECT said(r.status, r.answer) AS after FROM http('GET', '/rpc/notifications', :'anna') r \gset
RESET SESSION AUTHORIZATION;

SELECT is(:'closed'::text, '401 42501', 'registering oneself is closed by default');
SELECT is(:'registered'::text, '200', 'register');
SELECT is(:'bert_role'::text, 'iot_viewer', '... to look only');
SELECT is(:'taken'::text, '409 23505', 'a name that is taken');
SELECT is(:'short'::text, '400 22023', 'a password that is too short');
SELECT is(:'wrong'::text, '403 28P01', 'a wrong password');
SELECT is(:'misspelt'::text, '404 PGRST202', 'no such argument');
SELECT is(:'by_get'::text, '405 25006', 'no login by GET, whose address would be logged');
SELECT is(:'login'::text, '200 expires_at token username', 'log in');
SELECT is(:'parameter'::text, '201 "temperature"', 'insert parameters, two at once');
SELECT is(:'level'::text, '201 100', 'and one with all it has');
SELECT is(:'twice'::text, '409 23505', 'not twice');
SELECT is(:'by_anna'::text, '403 42501', 'nor by an operator');
SELECT is(:'by_anon'::text, '401 42501', 'nor without a token');
SELECT is(:'made'::text || ' ' || :'again', '200 t', 'create a device; again it is the same');
SELECT is(:'unmanaged'::text, '403 42501', 'not in a group that one does not manage');
SELECT is(:'sent'::text || ' ' || :'repeated', '200 t', 'set a value; a repeated request makes no second command');
SELECT is(:'reused'::text, '400 22023', 'X-Request-Id names one request only');
SELECT is(:'no_uuid'::text, '400 22P02', '... and is a uuid');
SELECT isnt(:'own_id'::text, '', '... and gives way to request_id');
SELECT is(:'polled'::text || ' / ' || :'confirmed', '200 2 / 200 "applied"', 'the device accepts it');
SELECT is(:'accepted'::text, '200 "COMPLETED"', '... which the sender learns');
SELECT is(:'refused_status'::text, '200 "CANCELLED"', 'a value that the device refuses');
SELECT is(:'timeline'::text, 'command.value_set dm.value_set_approved adapter.value_set_error dm.value_set_cancelled',
	'... is rolled back');
SELECT is(:'beyond_status'::text, '200 "FAILED"', 'a value out of bounds');
SELECT matches(:'beyond_why'::text, '101', '... says so');
SELECT is(:'nowhere'::text, '400 42704', 'a device that does not exist');
SELECT is(:'others'::text, '403 42501', 'a device of another group');
SELECT is(:'anonymous'::text, '401 42501', 'without a token');
SELECT is(:'stranger'::text, '403 42501', 'with that of somebody who may nothing');
SELECT is(:'nan'::text, '400 22023', 'a value that is no number');
SELECT is(:'shape'::text, '400 22P02', 'nor has the shape of one');
SELECT is(:'by_get_2'::text, '405 25006', 'GET changes nothing');
SELECT is(:'last'::text, '200 level=42.5=% valve=1', 'read a sensor');
SELECT is(:'last_others'::text, '403 42501', '... that one may view');
SELECT is(:'history'::text, '200 42.5', 'its history');
SELECT is(:'fleet'::text, '200 [{"device": "tank-1", "enabled": true}]', 'list devices');
SELECT is(:'ruled'::text || ' ' || :'bad_rule', '201 400 22023', 'insert alarm rules');
SELECT is(:'rules'::text, '200 [{"name": "full", "severity": "red"}]', 'list alarm rules');
SELECT is(:'anna_rules'::text, '200 [{"name": "full"}]', '... as whoever may view devices that they judge');
SELECT is(:'anna_devices'::text || ' ' || :'bert_devices', '200 [{"name": "tank-1"}] 200 []', 'rows of tables go by the same rule');
SELECT is(:'anna_commands'::text, '200 [{"value": 101, "status": "FAILED"}]', '... those of commands too');
SELECT is(:'anna_manages'::text, '403 42501', '... and writing to them');
SELECT is(:'alarms'::text, '200 [{"value": 99, "device": "tank-1", "severity": "red", "parameter": "level"}]', 'list alarms');
SELECT is(:'acknowledged'::text || ' ' || :'acknowledged_by', '200 true 200 [{"acknowledged_by": "anna"}]', 'acknowledge one');
SELECT is(:'bert_alarms'::text, '200 []', 'nobody sees those of others');
SELECT is(:'listed'::text, '200 adapter.value_set_sent false, adapter.value_set_error false, dm.value_set_error false, alarm.opened false',
	'list notifications');
SELECT is(:'marked'::text || ' ' || :'unread', '200 ' || :'last_seq' || ' 0', 'clear them');
SELECT is(:'bert_notifications'::text, '200 []', 'nobody is told of what he may not view');
SELECT is(:'out'::text, '204 ""', 'log out');
SELECT is(:'after'::text, '401 PT401', 'then the token is refused');
SELECT is((SELECT c.username FROM iot.command c WHERE c.command_id = :'command'), 'anna', 'commands know who sent them');

-- headers of whoever is not PostgREST
SELECT set_config('request.headers', '{"x-request-id":"33333333-3333-4333-8333-333333333333"}', false) \g /dev/null
SELECT iot.send_command('lab-1', 'level', 1) AS plain \gset
SELECT is((SELECT c.request_id FROM iot.command c WHERE c.command_id = :'plain'), NULL, 'elsewhere headers are just a setting');

-- what PostgREST reads from the catalogs
SELECT is(array_agg(p.oid::regprocedure ORDER BY p.oid), NULL, 'every argument has a name')
	FROM pg_proc p WHERE p.pronamespace = 'iot'::regnamespace AND p.prokind <> 'a' AND p.pronargs > 0
		AND (p.proargnames IS NULL OR '' = ANY (p.proargnames[:p.pronargs]));
SELECT is(array_agg(p.oid::regprocedure ORDER BY p.oid), NULL, 'every function is described')
	FROM pg_proc p WHERE p.pronamespace = 'iot'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT is(array_agg(c.oid::regclass ORDER BY c.oid), NULL, 'every table and view is described')
	FROM pg_class c WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p', 'v')
		AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT is(array_agg(p.oid::regprocedure || ' ' || a ORDER BY p.oid), NULL, 'every argument is described')
	FROM pg_proc p, unnest(p.proargnames[:p.pronargs]) a
	WHERE p.pronamespace = 'iot'::regnamespace AND p.prokind = 'f'
		AND strpos(obj_description(p.oid, 'pg_proc'), E'\n' || a || ': ') = 0;
SELECT is(array_agg(format('%s.%s', a.attrelid::regclass, a.attname) ORDER BY a.attrelid::regclass::text, a.attnum), NULL,
		'every column that operators read is described')
	FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
		AND a.attnum > 0 AND NOT a.attisdropped AND has_column_privilege('iot_operator', c.oid, a.attnum, 'SELECT')
		AND col_description(c.oid, a.attnum) IS NULL;
-- PROCESSING is what nobody but the sender's own transaction could see
SELECT is(string_agg(format('%s.%s: %s', k.conrelid::regclass, a.attname, w.word[1]), ', '), NULL, '... which names what a column may hold')
	FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
		CROSS JOIN LATERAL regexp_matches(pg_get_constraintdef(k.oid), '''([A-Za-z_]+)''::text', 'g') AS w (word)
	WHERE k.contype = 'c' AND cardinality(k.conkey) = 1 AND k.connamespace = 'iot'::regnamespace
		AND pg_get_constraintdef(k.oid) ~ '= ANY \(ARRAY' AND (k.conrelid::regclass::text, w.word[1]) <> ('iot.command', 'PROCESSING')
		AND strpos(col_description(a.attrelid, a.attnum), w.word[1]) = 0;
SELECT is(array_agg(e), NULL, 'what embeds in what')
	FROM unnest('{sensor>parameter,sensor>device,device>device_group,device>device_type,device>adapter,
		device_state>device,sensor_value>sensor,command>device,saga_step>command,alarm>device,alarm_comment>alarm,
		alarm_rule>parameter,alarm_rule>device_group,user_group_member>app_user,user_group_member>user_group,
		access_grant>user_group,access_grant>device_group}'::text[]) AS e
	WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f'
		AND k.conrelid = to_regclass('iot.' || split_part(e, '>', 1))
		AND k.confrelid = to_regclass('iot.' || split_part(e, '>', 2)));
SELECT is(array_agg(DISTINCT v.oid::regclass || ': ' || p.oid::regprocedure), NULL,
		'no view calls a volatile function, so that it can be counted')
	FROM pg_class v JOIN pg_rewrite r ON r.ev_class = v.oid
		JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_proc'::regclass
		JOIN pg_proc p ON p.oid = d.refobjid
	WHERE v.relnamespace = 'iot'::regnamespace AND v.relkind = 'v' AND p.provolatile = 'v'
		AND has_table_privilege('iot_operator', v.oid, 'SELECT');

SELECT * FROM finish();
DROP OWNED BY rest_authenticator;
DROP ROLE rest_authenticator;
