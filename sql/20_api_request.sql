-- What the live page asks through iot-pushd: a fixed list of named queries and orders, for users
-- whose token the daemon has verified.
--
-- iot_internal.request() is called by the daemon alone.  It becomes the user, as PostgREST does: role
-- and claims for the rest of the transaction.  What follows then runs with that user's rights and
-- under row-level security, so that nothing here asks who may see what.  Parameters are typed by
-- their record definitions; no text of a client ever becomes a statement.

CREATE OR REPLACE FUNCTION iot_internal.request_refuse(problem text, hint text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem, HINT = hint;
END
$function$;

-- An error as clients are told of it.
CREATE OR REPLACE FUNCTION iot_internal.request_error(id jsonb, code text, message text, detail text,
	hint text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT jsonb_strip_nulls(jsonb_build_object('op', 'error', 'id', id, 'code', code,
		'message', message, 'detail', nullif(detail, ''), 'hint', nullif(hint, '')))::text
$function$;

-- How many rows a page may have.
CREATE OR REPLACE FUNCTION iot_internal.request_limit(wanted integer) RETURNS integer
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF wanted NOT BETWEEN 1 AND 200 THEN
		PERFORM iot_internal.request_refuse('limit is out of range', 'Give 1 to 200.');
	END IF;
	RETURN coalesce(wanted, 50);
END
$function$;

-- Rows as the answer has them; one more than were asked for tells that there are others.
CREATE OR REPLACE FUNCTION iot_internal.request_page(rows jsonb, max_rows integer) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT jsonb_build_object('rows', CASE WHEN jsonb_array_length(rows) > max_rows
			THEN rows - max_rows ELSE rows END, 'more', jsonb_array_length(rows) > max_rows)
$function$;

-- {}: who is asking.
CREATE OR REPLACE FUNCTION iot_internal.request_me(params jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN jsonb_build_object('user', iot_internal.current_username(), 'role', current_user,
		'open_alarms', (SELECT count(*) FROM iot.open_alarm),
		'devices', (SELECT count(*) FROM iot.fleet));
END
$function$;

-- {"search", "group", "after", "limit"}: devices by name, with their current values and alarms.
CREATE OR REPLACE FUNCTION iot_internal.request_fleet(params jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	asked record;
	max_rows integer;
	found jsonb;
BEGIN
	SELECT * INTO asked FROM jsonb_to_record(params)
		AS p (search text, "group" text, after text, "limit" integer);
	max_rows := iot_internal.request_limit(asked."limit");
	SELECT coalesce(jsonb_agg(to_jsonb(f) - 'device_id' || jsonb_build_object(
			'values', coalesce((
				SELECT jsonb_agg(jsonb_build_object('parameter', p.name, 'value', v.value,
					'unit', p.unit, 'labels', coalesce(s.labels, p.labels), 'at', v.value_at)
					ORDER BY p.name)
				FROM iot.sensor_value v
					JOIN iot.sensor s
						ON s.device_id = v.device_id AND s.parameter_id = v.parameter_id
					JOIN iot.parameter p ON p.parameter_id = v.parameter_id
				WHERE v.device_id = f.device_id AND v.value IS NOT NULL), '[]'),
			'alarms', (
				SELECT jsonb_build_object('open', count(*),
					'unacknowledged', count(*) FILTER (WHERE a.acknowledged_at IS NULL),
					'red', count(*) FILTER (WHERE a.severity = 'red'))
				FROM iot.alarm a WHERE a.device_id = f.device_id AND a.status = 'OPENED'))
			ORDER BY f.device), '[]') INTO found
		FROM (SELECT * FROM iot.fleet f
			WHERE (asked.after IS NULL OR f.device > asked.after)
				AND (asked.search IS NULL OR strpos(lower(f.device), lower(asked.search)) > 0)
				AND (asked."group" IS NULL OR f."group" = asked."group")
			ORDER BY f.device LIMIT max_rows + 1) AS f;
	RETURN iot_internal.request_page(found, max_rows);
END
$function$;

-- {"device"}: all that a view of one device shows, but for what has queries of its own.
CREATE OR REPLACE FUNCTION iot_internal.request_device(params jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	asked record;
	me text := iot_internal.current_username();
	found jsonb;
BEGIN
	SELECT * INTO asked FROM jsonb_to_record(params) AS p (device text);
	SELECT to_jsonb(f) - 'device_id' || jsonb_build_object(
			'attributes', coalesce((SELECT s.attributes FROM iot.device_state s
				WHERE s.device_id = f.device_id), '{}'),
			'may_operate', iot_internal.is_admin() OR iot.may(me, f.device_id, 'operate'),
			'sensors', coalesce((
				SELECT jsonb_agg(jsonb_build_object('parameter', p.name, 'unit', p.unit,
					'value_min', coalesce(s.value_min, p.value_min),
					'value_max', coalesce(s.value_max, p.value_max),
					'labels', coalesce(s.labels, p.labels),
					'value', v.value, 'at', v.value_at, 'source', v.source) ORDER BY p.name)
				FROM iot.sensor s
					JOIN iot.parameter p ON p.parameter_id = s.parameter_id
					LEFT JOIN iot.sensor_value v
						ON v.device_id = s.device_id AND v.parameter_id = s.parameter_id
				WHERE s.device_id = f.device_id), '[]')) INTO found
		FROM iot.fleet f WHERE f.device = asked.device;
	IF found IS NULL THEN
		RAISE EXCEPTION 'device "%" does not exist', left(coalesce(asked.device, 'NULL'), 100)
			USING ERRCODE = 'undefined_object',
				HINT = 'Give the name of a device that you may view.';
	END IF;
	RETURN found;
END
$function$;

-- {"device", "parameter", "since", "until", "points"}: what a plot of so many points needs.  Where
-- there is more, buckets with their least and greatest value, never more than were asked for.
CREATE OR REPLACE FUNCTION iot_internal.request_history(params jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	asked record;
	until timestamptz;
	width interval;
	found jsonb;
BEGIN
	SELECT * INTO asked FROM jsonb_to_record(params)
		AS p (device text, parameter text, since timestamptz, until timestamptz, points integer);
	until := coalesce(asked.until, now());
	IF asked.since IS NULL OR asked.since >= until THEN
		PERFORM iot_internal.request_refuse('since must be before until', 'Give ISO 8601 times.');
	ELSIF asked.points NOT BETWEEN 10 AND 2000 THEN
		PERFORM iot_internal.request_refuse('points is out of range', 'Give 10 to 2000.');
	END IF;
	-- raw values of an hour or so; else buckets of whole minutes, which come from the rollups
	IF until - asked.since > interval '2 hours' THEN
		width := make_interval(mins => greatest(1, ceil(extract(epoch FROM until - asked.since)
			/ 60 / coalesce(asked.points, 400)))::integer);
		SELECT coalesce(jsonb_agg(jsonb_build_array(extract(epoch FROM h.ts) * 1000, h.avg, h.min,
				h.max) ORDER BY h.ts), '[]') INTO found
			FROM iot.history(asked.device, asked.parameter, asked.since, until, width) AS h;
	ELSE
		SELECT coalesce((SELECT jsonb_agg(jsonb_build_array(extract(epoch FROM p.ts) * 1000, p.value,
				p.value, p.value) ORDER BY p.ts)
				FROM jsonb_to_recordset(iot.lttb(h.ts, h.value, coalesce(asked.points, 400)))
					AS p (ts timestamptz, value double precision)), '[]') INTO found
			FROM iot.history(asked.device, asked.parameter, asked.since, until) AS h;
	END IF;
	RETURN jsonb_build_object('points', found, 'bucket_s', extract(epoch FROM width));
END
$function$;

-- {"device", "open", "after", "limit"}: alarms, newest first; after is the alarm_id of the last one
-- of the page before.
CREATE OR REPLACE FUNCTION iot_internal.request_alarms(params jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	asked record;
	max_rows integer;
	found jsonb;
BEGIN
	SELECT * INTO asked FROM jsonb_to_record(params)
		AS p (device text, open boolean, after uuid, "limit" integer);
	max_rows := iot_internal.request_limit(asked."limit");
	SELECT coalesce(jsonb_agg(to_jsonb(r) ORDER BY r.alarm_id DESC), '[]') INTO found
		FROM (SELECT a.alarm_id, d.name AS device, p.name AS parameter, p.unit, a.rule, a.severity,
				a.status, a.value, a.message, a.opened_at, a.closed_at, a.closed_by, a.close_reason,
				a.acknowledged_at, a.acknowledged_by, a.assignee
			FROM iot.alarm a
				JOIN iot.device d ON d.device_id = a.device_id
				LEFT JOIN iot.parameter p ON p.parameter_id = a.parameter_id
			WHERE (asked.device IS NULL OR d.name = asked.device)
				AND (a.status = 'OPENED' OR NOT coalesce(asked.open, true))
				AND (asked.after IS NULL OR a.alarm_id < asked.after)
			ORDER BY a.alarm_id DESC LIMIT max_rows + 1) AS r;
	RETURN iot_internal.request_page(found, max_rows);
END
$function$;

-- {"device", "after", "limit"}: commands, newest first.
CREATE OR REPLACE FUNCTION iot_internal.request_commands(params jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	asked record;
	max_rows integer;
	found jsonb;
BEGIN
	SELECT * INTO asked FROM jsonb_to_record(params)
		AS p (device text, after uuid, "limit" integer);
	max_rows := iot_internal.request_limit(asked."limit");
	SELECT coalesce(jsonb_agg(to_jsonb(r) ORDER BY r.command_id DESC), '[]') INTO found
		FROM (SELECT c.command_id, d.name AS device, p.name AS parameter, p.unit, c.action, c.value,
				c.target_value, c.username, c.status, c.error, c.superseded, c.late, c.attempts,
				c.created_at, c.deadline, c.finished_at
			FROM iot.command c
				JOIN iot.device d ON d.device_id = c.device_id
				LEFT JOIN iot.parameter p ON p.parameter_id = c.parameter_id
			WHERE (asked.device IS NULL OR d.name = asked.device)
				AND (asked.after IS NULL OR c.command_id < asked.after)
			ORDER BY c.command_id DESC LIMIT max_rows + 1) AS r;
	RETURN iot_internal.request_page(found, max_rows);
END
$function$;

-- {"command_id"}: what happened to a command, service by service.
CREATE OR REPLACE FUNCTION iot_internal.request_timeline(params jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	asked record;
BEGIN
	SELECT * INTO asked FROM jsonb_to_record(params) AS p (command_id uuid);
	RETURN jsonb_build_object('command_id', asked.command_id,
		'status', (SELECT c.status FROM iot.command c WHERE c.command_id = asked.command_id),
		'steps', (SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]')
			FROM iot.timeline(asked.command_id) AS t));
END
$function$;

-- {"head", "limit"}: the user's newest notifications, newest first; head is the "seq" of "ready" or
-- of an event that came later.
CREATE OR REPLACE FUNCTION iot_internal.request_notifications(params jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
	asked record;
	max_rows integer;
	found jsonb;
BEGIN
	SELECT * INTO asked FROM jsonb_to_record(params) AS p (head bigint, "limit" integer);
	max_rows := iot_internal.request_limit(asked."limit");
	IF asked.head IS NULL THEN
		PERFORM iot_internal.request_refuse('head is missing', 'Give the "seq" of "ready".');
	END IF;
	-- of all users' numbers the last few thousand; older ones are for the tables
	SELECT coalesce(jsonb_agg(to_jsonb(r) ORDER BY r.seq DESC), '[]') INTO found
		FROM (SELECT n.* FROM iot.notifications(greatest(asked.head - 5000, 0)) AS n
			ORDER BY n.seq DESC LIMIT max_rows + 1) AS r;
	RETURN iot_internal.request_page(found, max_rows);
END
$function$;

-- Values are numbers or the parameter's words, as iot.send_command() takes them.
CREATE OR REPLACE FUNCTION iot_internal.request_command(params jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	asked record;
	sent_id uuid;
BEGIN
	SELECT * INTO asked FROM jsonb_to_record(params)
		AS p (device text, parameter text, value text, action text, expected double precision,
			request_id uuid, ttl interval);
	IF asked.value IS NULL THEN
		PERFORM iot_internal.request_refuse('value is missing',
			'Give a number, or one of the parameter''s words.');
	END IF;
	sent_id := iot.send_command(device => asked.device, parameter => asked.parameter,
		word => asked.value, action => coalesce(asked.action, 'set'), expected => asked.expected,
		request_id => asked.request_id, ttl => asked.ttl);
	RETURN (SELECT jsonb_build_object('command_id', c.command_id, 'status', c.status,
			'error', c.error)
		FROM iot.command c WHERE c.command_id = sent_id);
END
$function$;

-- {"alarm_id", "comment"}
CREATE OR REPLACE FUNCTION iot_internal.request_alarm(op text, params jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	asked record;
BEGIN
	SELECT * INTO asked FROM jsonb_to_record(params)
		AS p (alarm_id uuid, comment text, username text);
	RETURN jsonb_build_object('alarm_id', asked.alarm_id, 'changed', CASE op
		WHEN 'acknowledge' THEN iot.acknowledge_alarm(asked.alarm_id, asked.comment)
		WHEN 'close' THEN iot.close_alarm(asked.alarm_id, asked.comment)
		WHEN 'comment' THEN iot.comment_alarm(asked.alarm_id, asked.comment)
		WHEN 'assign' THEN iot.assign_alarm(asked.alarm_id, asked.username) END);
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.request_query(query text, params jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	CASE query
		WHEN 'me' THEN RETURN iot_internal.request_me(params);
		WHEN 'fleet' THEN RETURN iot_internal.request_fleet(params);
		WHEN 'device' THEN RETURN iot_internal.request_device(params);
		WHEN 'history' THEN RETURN iot_internal.request_history(params);
		WHEN 'alarms' THEN RETURN iot_internal.request_alarms(params);
		WHEN 'commands' THEN RETURN iot_internal.request_commands(params);
		WHEN 'timeline' THEN RETURN iot_internal.request_timeline(params);
		WHEN 'notifications' THEN RETURN iot_internal.request_notifications(params);
		ELSE
			PERFORM iot_internal.request_refuse(
				format('unknown query "%s"', left(coalesce(query, 'NULL'), 50)),
				'Queries are me, fleet, device, history, alarms, commands, timeline and notifications.');
	END CASE;
END
$function$;

-- The role that a user acts as; NULL for one who may not come in.
CREATE OR REPLACE FUNCTION iot_internal.request_role(username text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN (SELECT u.role FROM iot.app_user u
		WHERE u.username = request_role.username AND u.enabled);
END
$function$;

-- Answers one message of a user: {"op": "result"} with its data, or {"op": "error"}.  Raises only
-- where the session itself is not fit for it.
CREATE OR REPLACE FUNCTION iot_internal.request(username text, claims jsonb, message jsonb)
RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	op text := message ->> 'op';
	params jsonb := CASE op WHEN 'query' THEN coalesce(nullif(message -> 'params', 'null'), '{}')
		ELSE message - 'op' - 'id' END;
	acts_as text := iot_internal.request_role(username);
	data jsonb;
	answer text;
	state text;
	problem text;
	detail text;
	hint text;
BEGIN
	IF NOT iot_internal.is_authenticator() THEN
		RAISE EXCEPTION 'role "%" of iot-pushd may not speak for users', session_user
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Add it to iot.authenticators.';
	ELSIF acts_as IS NULL OR NOT pg_has_role(session_user, acts_as, 'MEMBER') THEN
		RETURN iot_internal.request_error(message -> 'id', '42501', 'permission denied', NULL,
			CASE WHEN acts_as IS NULL THEN 'The user is not known, or disabled.'
				ELSE format('Requests of role "%s" are not served here.', acts_as) END);
	END IF;
	BEGIN
		PERFORM set_config('request.jwt.claims', (claims || jsonb_build_object('sub', username,
				'role', acts_as))::text, true),
			set_config('role', acts_as, true);
		IF jsonb_typeof(params) <> 'object' THEN
			PERFORM iot_internal.request_refuse('params must be a JSON object',
				'Use {} for none.');
		END IF;
		CASE
			WHEN op = 'query' THEN
				data := iot_internal.request_query(message ->> 'query', params);
			WHEN op = 'command' THEN
				data := iot_internal.request_command(params);
			WHEN op = ANY (ARRAY['acknowledge', 'close', 'comment', 'assign']) THEN
				data := iot_internal.request_alarm(op, params);
			WHEN op = 'read' THEN
				data := jsonb_build_object('read_to',
					iot.mark_notifications_read((params ->> 'seq')::bigint));
			WHEN op = 'logout' THEN
				PERFORM iot.logout();
				data := '{}';
			ELSE
				PERFORM iot_internal.request_refuse('unknown op', NULL);
		END CASE;
		answer := jsonb_build_object('op', 'result', 'id', message -> 'id', 'data', data)::text;
		IF octet_length(answer) > 200000 THEN
			RAISE EXCEPTION 'the answer is too large'
				USING ERRCODE = 'program_limit_exceeded', HINT = 'Ask for fewer rows.';
		END IF;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, problem = MESSAGE_TEXT,
			detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		answer := iot_internal.request_error(message -> 'id', state, problem, detail, hint);
	END;
	RETURN answer;
END
$function$;

-- Trades a name and a password for a token: {"op": "token"}, or {"op": "error"}.
CREATE OR REPLACE FUNCTION iot_internal.request_log_in(username text, password text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	state text;
	problem text;
	hint text;
BEGIN
	RETURN (SELECT jsonb_build_object('op', 'token', 'user', l.username, 'token', l.token,
			'expires_at', l.expires_at)::text
		FROM iot.login(request_log_in.username, request_log_in.password) AS l);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, problem = MESSAGE_TEXT,
		hint = PG_EXCEPTION_HINT;
	RETURN iot_internal.request_error(NULL, state, problem, NULL, hint);
END
$function$;
