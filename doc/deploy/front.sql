-- Makes a database the front of cells (doc/scale-out.md): functions that find the cell of a device, or
-- ask all of them, through PL/Proxy.
--
--   psql -X -d 'host=front.example dbname=front' -f front.sql
--
-- as a superuser, in a database of its own, on any server with PL/Proxy; the extension iot is not
-- needed there.  Then tell it the cells:
--
--   INSERT INTO iot_front.cell (cell, conninfo) VALUES
--       ('north', 'host=north.example dbname=iot user=iot_front connect_timeout=2'), …;
--   SELECT iot_front.share_out();

\set ON_ERROR_STOP on
BEGIN;

CREATE EXTENSION IF NOT EXISTS plproxy;
CREATE SCHEMA plproxy;
SELECT format('CREATE ROLE %I NOLOGIN', r.role)
	FROM (VALUES ('iot_front_owner'), ('iot_front_user')) AS r (role)
	WHERE NOT EXISTS (SELECT FROM pg_roles p WHERE p.rolname = r.role) \gexec
CREATE SCHEMA iot_front AUTHORIZATION iot_front_owner;
GRANT USAGE ON SCHEMA iot_front TO iot_front_user;

-- A connection string is read by the owner alone.  Passwords belong into a passfile of the account
-- that the server runs as all the same: errors of libpq end in logs.
CREATE TABLE iot_front.cell (
	cell text CONSTRAINT cell_pkey PRIMARY KEY,
	conninfo text NOT NULL CONSTRAINT cell_conninfo_key UNIQUE,
	CONSTRAINT cell_cell_check CHECK (cell ~ '^[a-z0-9_-]{1,32}$')
);
-- Which cell holds the devices of a slot.  There are 64 and always will be: a device's slot is told
-- by its id, and only this table says where that is.
CREATE TABLE iot_front.slot (
	slot integer CONSTRAINT slot_pkey PRIMARY KEY,
	cell text NOT NULL CONSTRAINT slot_cell_fkey REFERENCES iot_front.cell,
	CONSTRAINT slot_slot_check CHECK (slot BETWEEN 0 AND 63)
);
-- Login roles whose request.jwt.claims name the user, like iot.authenticators.
CREATE TABLE iot_front.authenticator (
	role name CONSTRAINT authenticator_pkey PRIMARY KEY
);
-- PL/Proxy reads both tables anew where this has grown; seen together with what has changed.
CREATE TABLE iot_front.version (
	only_row boolean CONSTRAINT version_pkey PRIMARY KEY DEFAULT true CHECK (only_row),
	version integer NOT NULL DEFAULT 1
);
INSERT INTO iot_front.version DEFAULT VALUES;

CREATE FUNCTION iot_front.changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	UPDATE iot_front.version SET version = version + 1;
	RETURN NULL;
END
$function$;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON iot_front.cell
	FOR EACH STATEMENT EXECUTE FUNCTION iot_front.changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON iot_front.slot
	FOR EACH STATEMENT EXECUTE FUNCTION iot_front.changed();

-- What PL/Proxy asks.
CREATE FUNCTION plproxy.get_cluster_version(cluster_name text) RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT v.version FROM iot_front.version v WHERE cluster_name = 'iot'
$function$;
CREATE FUNCTION plproxy.get_cluster_partitions(cluster_name text) RETURNS SETOF text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF (SELECT count(*) FROM iot_front.slot) <> 64 THEN
		RAISE EXCEPTION 'devices cannot be placed'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'Not every slot has a cell.',
				HINT = 'Fill iot_front.cell, and call iot_front.share_out().';
	END IF;
	RETURN QUERY SELECT c.conninfo FROM iot_front.slot s JOIN iot_front.cell c ON c.cell = s.cell
		ORDER BY s.slot;
END
$function$;
-- Text between servers, which may be of different versions.  The cell's statement_timeout is shorter.
CREATE FUNCTION plproxy.get_cluster_config(IN cluster_name text, OUT key text, OUT val text)
RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
	VALUES ('disable_binary', '1'), ('connection_lifetime', '1800'), ('query_timeout', '10')
$function$;

-- The ways into the cells, for the owner alone: they say who the user is.  PL/Proxy notes with a NOTICE
-- that it connects anew, which is nobody's business.
CREATE FUNCTION iot_front.on_slot(slot integer, username text, claims jsonb, message jsonb)
RETURNS TABLE (cell text, answer text) LANGUAGE plproxy SET client_min_messages = warning AS $function$
	CLUSTER 'iot';
	RUN ON slot;
	SELECT iot_cell.name() AS cell, iot_internal.request(username, claims, message) AS answer;
$function$;
CREATE FUNCTION iot_front.on_all(username text, claims jsonb, message jsonb)
RETURNS TABLE (cell text, answer text) LANGUAGE plproxy SET client_min_messages = warning AS $function$
	CLUSTER 'iot';
	RUN ON ALL;
	SELECT iot_cell.name() AS cell, iot_internal.request(username, claims, message) AS answer;
$function$;
CREATE FUNCTION iot_front.on_slot_create_device(slot integer, username text, claims jsonb, device text,
	parameters text[], device_group text, device_type text, device_id uuid)
RETURNS uuid LANGUAGE plproxy SET client_min_messages = warning AS $function$
	CLUSTER 'iot';
	RUN ON slot;
	SELECT iot_cell.create_device(username, claims, device, parameters, device_group, device_type,
		device_id);
$function$;
CREATE FUNCTION iot_front.on_slot_ingest(slot integer, username text, claims jsonb, device text,
	measurements jsonb, ts timestamptz)
RETURNS integer LANGUAGE plproxy SET client_min_messages = warning AS $function$
	CLUSTER 'iot';
	RUN ON slot;
	SELECT iot_cell.ingest(username, claims, device, measurements, ts);
$function$;

-- A device's id follows from its name, and its slot from its id: so one name has one cell, where it is
-- unique, and nothing needs to be looked up.
CREATE FUNCTION iot_front.device_id(device text) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN md5('iot device ' || device)::uuid;
CREATE FUNCTION iot_front.slot_of(device_id uuid) RETURNS integer
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN ('x' || substr(md5(device_id::text), 1, 2))::bit(8)::integer & 63;

CREATE FUNCTION iot_front.cell_of(device text) RETURNS text
LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT s.cell FROM iot_front.slot s
	WHERE s.slot = iot_front.slot_of(iot_front.device_id(device))
$function$;

-- Gives the slots that have no cell to those that have fewest, by name; never moves one that has a cell.
CREATE FUNCTION iot_front.share_out() RETURNS TABLE (cell text, slots bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	free integer;
BEGIN
	LOCK TABLE iot_front.slot IN SHARE ROW EXCLUSIVE MODE;
	FOR free IN SELECT n FROM generate_series(0, 63) AS n
		WHERE NOT EXISTS (SELECT FROM iot_front.slot s WHERE s.slot = n) ORDER BY n LOOP
		INSERT INTO iot_front.slot (slot, cell)
			SELECT free, c.cell FROM iot_front.cell c LEFT JOIN iot_front.slot s ON s.cell = c.cell
			GROUP BY c.cell ORDER BY count(s.slot), c.cell LIMIT 1;
	END LOOP;
	RETURN QUERY SELECT c.cell, count(s.slot) FROM iot_front.cell c
		LEFT JOIN iot_front.slot s ON s.cell = c.cell GROUP BY c.cell ORDER BY c.cell;
END
$function$;

-- Who is asking: the token's user in a session of an authenticator, else the session's role.
CREATE FUNCTION iot_front.claims() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT CASE WHEN EXISTS (SELECT FROM iot_front.authenticator a WHERE a.role = session_user)
		THEN coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb, '{}')
		ELSE jsonb_build_object('sub', session_user) END
$function$;

-- What an answer holds; an error of the cell as if it were one of ours.
CREATE FUNCTION iot_front.data(answer jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF answer ->> 'op' = 'error' THEN
		RAISE EXCEPTION USING ERRCODE = answer ->> 'code', MESSAGE = answer ->> 'message',
			DETAIL = coalesce(answer ->> 'detail', 'The cell says so.'),
			HINT = coalesce(answer ->> 'hint', 'Correct the call, and try again.');
	END IF;
	RETURN answer -> 'data';
END
$function$;

-- What PL/Proxy says of a connection is an internal error to it.
CREATE FUNCTION iot_front.away(device text, problem text, hint text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RAISE EXCEPTION 'cell "%" of device "%" does not answer', iot_front.cell_of(device), device
		USING ERRCODE = 'connection_failure', DETAIL = problem, HINT = away.hint;
END
$function$;

-- Asks the cell of a device.  An error that is raised there is not about the request: request()
-- answers those.
CREATE FUNCTION iot_front.ask(device text, message jsonb,
	hint text DEFAULT 'Try again later.') RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	claims jsonb := iot_front.claims();
	answer jsonb;
BEGIN
	BEGIN
		SELECT s.answer::jsonb INTO answer
			FROM iot_front.on_slot(iot_front.slot_of(iot_front.device_id(device)),
				claims ->> 'sub', claims, message) AS s;
	EXCEPTION WHEN object_not_in_prerequisite_state THEN
		RAISE;
	WHEN OTHERS THEN
		PERFORM iot_front.away(device, SQLERRM, ask.hint);
	END;
	RETURN iot_front.data(answer);
END
$function$;

-- Asks every cell, at once where all are there.  One that does not answer is left out with a warning.
CREATE FUNCTION iot_front.ask_all(message jsonb) RETURNS TABLE (cell text, data jsonb)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	claims jsonb := iot_front.claims();
	answers jsonb := '{}';
	one record;
BEGIN
	BEGIN
		SELECT jsonb_object_agg(a.cell, a.answer::jsonb) INTO answers
			FROM iot_front.on_all(claims ->> 'sub', claims, message) AS a;
	EXCEPTION WHEN object_not_in_prerequisite_state THEN
		RAISE;
	WHEN OTHERS THEN
		-- one after the other, to know which
		FOR one IN SELECT s.cell, min(s.slot) AS slot FROM iot_front.slot s GROUP BY s.cell LOOP
			BEGIN
				SELECT answers || jsonb_build_object(one.cell, s.answer::jsonb) INTO answers
					FROM iot_front.on_slot(one.slot, claims ->> 'sub', claims, message) AS s;
			EXCEPTION WHEN OTHERS THEN
				RAISE WARNING 'cell "%" does not answer', one.cell USING DETAIL = SQLERRM;
			END;
		END LOOP;
	END;
	RETURN QUERY SELECT a.key, iot_front.data(a.value) FROM jsonb_each(answers) AS a ORDER BY a.key;
END
$function$;

-- What users call.

CREATE FUNCTION iot_front.create_device(device text, parameters text[],
	device_group text DEFAULT 'default', device_type text DEFAULT 'default') RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	claims jsonb := iot_front.claims();
	device_id uuid := iot_front.device_id(device);
BEGIN
	RETURN iot_front.on_slot_create_device(iot_front.slot_of(device_id), claims ->> 'sub', claims,
		device, parameters, device_group, device_type, device_id);
EXCEPTION WHEN internal_error THEN
	PERFORM iot_front.away(device, SQLERRM, 'Make it again; it is made once.');
END
$function$;
COMMENT ON FUNCTION iot_front.create_device(text, text[], text, text) IS
	'make a device in its cell; the same call again gives the same device';

-- The request id makes sending safe to repeat: without an answer nobody knows whether the cell had
-- committed.
CREATE FUNCTION iot_front.send_command(device text, parameter text, value text,
	action text DEFAULT 'set', expected double precision DEFAULT NULL,
	request_id uuid DEFAULT gen_random_uuid(), ttl interval DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN (iot_front.ask(device, jsonb_strip_nulls(jsonb_build_object('op', 'command',
			'device', device, 'parameter', parameter, 'value', value, 'action', action,
			'expected', expected, 'request_id', request_id, 'ttl', ttl)),
		format('It may have taken the command. Send it again with request_id => %L.', request_id))
		->> 'command_id')::uuid;
END
$function$;
COMMENT ON FUNCTION iot_front.send_command(text, text, text, text, double precision, uuid, interval) IS
	'send a command by the device''s cell, in a transaction of that cell''s own';

CREATE FUNCTION iot_front.command_status(device text, command_id uuid) RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT iot_front.ask(device, jsonb_build_object('op', 'query', 'query', 'timeline',
		'params', jsonb_build_object('command_id', command_id))) ->> 'status'
$function$;
COMMENT ON FUNCTION iot_front.command_status(text, uuid) IS
	'status of a command; NULL where the device''s cell has none that the caller may see';

CREATE FUNCTION iot_front.ingest(device text, measurements jsonb, ts timestamptz DEFAULT now())
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	claims jsonb := iot_front.claims();
BEGIN
	RETURN iot_front.on_slot_ingest(iot_front.slot_of(iot_front.device_id(device)),
		claims ->> 'sub', claims, device, measurements, ts);
EXCEPTION WHEN internal_error THEN
	PERFORM iot_front.away(device, SQLERRM, 'Send it again with its time; it is stored once.');
END
$function$;
COMMENT ON FUNCTION iot_front.ingest(text, jsonb, timestamptz) IS
	'store measurements of a device in its cell; returns how many are new';

CREATE FUNCTION iot_front.last_values(device text)
RETURNS TABLE (parameter text, value double precision, unit text, ts timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT s.parameter, s.value, s.unit, s.at
	FROM jsonb_to_recordset(iot_front.ask(device, jsonb_build_object('op', 'query', 'query', 'device',
			'params', jsonb_build_object('device', device))) -> 'sensors')
		AS s (parameter text, value double precision, unit text, at timestamptz)
	WHERE s.value IS NOT NULL ORDER BY s.parameter
$function$;
COMMENT ON FUNCTION iot_front.last_values(text) IS
	'current value of each parameter of a device, and since when';

CREATE FUNCTION iot_front.history(device text, parameter text, since timestamptz,
	until timestamptz DEFAULT now(), points integer DEFAULT 400)
RETURNS TABLE (ts timestamptz, avg double precision, min double precision, max double precision)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT to_timestamp((p ->> 0)::double precision / 1000), (p ->> 1)::double precision,
		(p ->> 2)::double precision, (p ->> 3)::double precision
	FROM jsonb_array_elements(iot_front.ask(device, jsonb_build_object('op', 'query',
		'query', 'history', 'params', jsonb_build_object('device', device, 'parameter', parameter,
			'since', since, 'until', until, 'points', points))) -> 'points') AS p
$function$;
COMMENT ON FUNCTION iot_front.history(text, text, timestamptz, timestamptz, integer) IS
	'values of a sensor over time, as many points as a plot needs';

-- A page over all cells: each gives its first rows after that name, so the first of all are among them.
CREATE FUNCTION iot_front.fleet(after text DEFAULT NULL, max_rows integer DEFAULT 50)
RETURNS TABLE (cell text, device text, "group" text, type text, online boolean, last_seen_at timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT a.cell, d.device, d."group", d.type, d.online, d.last_seen_at
	FROM iot_front.ask_all(jsonb_build_object('op', 'query', 'query', 'fleet',
			'params', jsonb_strip_nulls(jsonb_build_object('after', after, 'limit', max_rows)))) AS a
		CROSS JOIN jsonb_to_recordset(a.data -> 'rows') AS d (device text, "group" text, type text,
			online boolean, last_seen_at timestamptz)
	ORDER BY d.device LIMIT max_rows
$function$;
COMMENT ON FUNCTION iot_front.fleet(text, integer) IS
	'devices of all cells by name, up to 200 after a name; cells that do not answer are left out with a warning';

CREATE FUNCTION iot_front.open_alarms(after uuid DEFAULT NULL, max_rows integer DEFAULT 50)
RETURNS TABLE (cell text, alarm_id uuid, device text, parameter text, rule text, severity text,
	value double precision, opened_at timestamptz, acknowledged_at timestamptz)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT a.cell, r.alarm_id, r.device, r.parameter, r.rule, r.severity, r.value, r.opened_at,
		r.acknowledged_at
	FROM iot_front.ask_all(jsonb_build_object('op', 'query', 'query', 'alarms',
			'params', jsonb_strip_nulls(jsonb_build_object('after', after, 'limit', max_rows)))) AS a
		CROSS JOIN jsonb_to_recordset(a.data -> 'rows') AS r (alarm_id uuid, device text,
			parameter text, rule text, severity text, value double precision,
			opened_at timestamptz, acknowledged_at timestamptz)
	ORDER BY r.alarm_id DESC LIMIT max_rows
$function$;
COMMENT ON FUNCTION iot_front.open_alarms(uuid, integer) IS
	'open alarms of all cells, newest first, up to 200 before an alarm_id; cells that do not answer are left out with a warning';

CREATE FUNCTION iot_front.acknowledge_alarm(device text, alarm_id uuid, comment text DEFAULT NULL)
RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT (iot_front.ask(device, jsonb_strip_nulls(jsonb_build_object('op', 'acknowledge',
		'alarm_id', alarm_id, 'comment', comment))) ->> 'changed')::boolean
$function$;
COMMENT ON FUNCTION iot_front.acknowledge_alarm(text, uuid, text) IS
	'acknowledge an alarm of a device; whether that changed anything';

COMMENT ON FUNCTION iot_front.cell_of(text) IS 'which cell a device''s name belongs to';
COMMENT ON FUNCTION iot_front.share_out() IS
	'give slots that have no cell to the cells that have fewest; slots of each cell';

-- Whoever is not the owner comes in through the functions above.
SELECT format('ALTER %s %s OWNER TO iot_front_owner', r.kind, r.name)
	FROM (SELECT 'TABLE', c.oid::regclass::text
			FROM pg_class c WHERE c.relnamespace = 'iot_front'::regnamespace AND c.relkind = 'r'
		UNION ALL
		SELECT 'FUNCTION', p.oid::regprocedure::text FROM pg_proc p
			JOIN pg_language l ON l.oid = p.prolang
			WHERE p.pronamespace = 'iot_front'::regnamespace AND l.lanname <> 'plproxy'
		UNION ALL
		SELECT 'FUNCTION', p.oid::regprocedure::text FROM pg_proc p
			WHERE p.pronamespace = 'plproxy'::regnamespace AND p.proname LIKE 'get_cluster_%'
		) AS r (kind, name) \gexec
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA iot_front FROM PUBLIC;
GRANT USAGE ON SCHEMA plproxy TO iot_front_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA iot_front TO iot_front_owner;
GRANT EXECUTE ON FUNCTION iot_front.cell_of(text),
	iot_front.create_device(text, text[], text, text),
	iot_front.send_command(text, text, text, text, double precision, uuid, interval),
	iot_front.command_status(text, uuid),
	iot_front.ingest(text, jsonb, timestamptz),
	iot_front.last_values(text),
	iot_front.history(text, text, timestamptz, timestamptz, integer),
	iot_front.fleet(text, integer),
	iot_front.open_alarms(uuid, integer),
	iot_front.acknowledge_alarm(text, uuid, text) TO iot_front_user;

COMMIT;
