-- mosquitto's dynamic security plugin, kept as iot.device_credential says.
--
-- The adapter's process only carries texts: iot_internal.dynsec_turn() takes what the plugin answered
-- last, and gives what to ask next.  A talk begins anew with each connection.  It lists the plugin's
-- clients and roles page by page and remembers those that are ours (iot.dynsec_client, iot.dynsec_role);
-- from then on devices that change are looked at one by one, and commands make good what differs.
--
-- Ours is what carries our mark in its "textname": adapter, device, credential.  Nothing else at the
-- broker is touched, and a name that somebody else holds there is an error told by iot.check().
--
-- The plugin takes passwords only, not hashes.  So a password waits in iot.device_credential_password
-- until the plugin has confirmed it, a week at most, and is deleted then.  A broker that loses its
-- file cannot be given it again: that is told, and the credential has to be rotated.

CREATE OR REPLACE FUNCTION iot_internal.has_dynsec(adapter_id uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT EXISTS (SELECT FROM iot.adapter a
		WHERE a.adapter_id = has_dynsec.adapter_id AND a.kind = 'mqtt'
			AND a.options ->> 'device_credentials' = 'dynsec')
$function$;

-- Devices whose credentials or topics change are looked at by the adapter's process; those that are to
-- be locked out before those that are to be let in.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	old jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) ELSE '{}' END;
	new jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) ELSE '{}' END;
BEGIN
	IF TG_TABLE_NAME = 'device_type' THEN
		INSERT INTO iot.dynsec_change (adapter_id, priority, device_id)
			SELECT d.adapter_id, 1, d.device_id FROM iot.device d
			WHERE d.device_type_id = (new ->> 'device_type_id')::uuid
				AND iot_internal.has_dynsec(d.adapter_id)
				AND EXISTS (SELECT FROM iot.device_credential c WHERE c.device_id = d.device_id);
	ELSIF TG_TABLE_NAME = 'device' THEN
		-- the one that it has left as well, whose broker may be taking a credential in right now
		INSERT INTO iot.dynsec_change (adapter_id, priority, device_id)
			SELECT DISTINCT a.adapter_id::uuid, 0, (old ->> 'device_id')::uuid
			FROM (VALUES (old ->> 'adapter_id'), (new ->> 'adapter_id')) AS a (adapter_id)
			WHERE iot_internal.has_dynsec(a.adapter_id::uuid)
				AND (old ->> 'adapter_id' IS DISTINCT FROM new ->> 'adapter_id'
					OR EXISTS (SELECT FROM iot.device_credential c
						WHERE c.device_id = (old ->> 'device_id')::uuid));
	ELSE
		INSERT INTO iot.dynsec_change (adapter_id, priority, device_id)
			SELECT d.adapter_id, CASE TG_OP WHEN 'INSERT' THEN 1 ELSE 0 END, d.device_id
			FROM iot.device d
			WHERE d.device_id = coalesce(new ->> 'device_id', old ->> 'device_id')::uuid
				AND iot_internal.has_dynsec(d.adapter_id);
	END IF;
	RETURN NULL;
END
$function$;

-- The rules of a device's role, each as "type allow priority topic", in order.  Whatever the plugin's
-- defaults are: its own topics and nothing else.  Receiving is ruled too, since a client that takes
-- over another one's session by its client id would be sent what waits there.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_acls(device_id uuid) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT array_agg(a.rule ORDER BY a.rule COLLATE "C") FROM (
		SELECT format('%s true 1 %s', CASE WHEN k.type = 'subscribeLiteral' AND t.topic LIKE '%+%'
			THEN 'subscribePattern' ELSE k.type END, t.topic) AS rule
		FROM iot.device_topic t
			JOIN (VALUES ('publish', 'publishClientSend'), ('subscribe', 'publishClientReceive'),
				('subscribe', 'subscribeLiteral')) AS k (action, type) ON k.action = t.action
		WHERE t.device_id = dynsec_acls.device_id
		UNION ALL
		VALUES ('publishClientSend false 0 #'), ('publishClientSend false 0 $CONTROL/#'),
			('publishClientReceive false 0 #'),
			-- "#" stands for names that begin with "$" as well, but not since 2.1
			('subscribePattern false 0 #'), ('subscribePattern false 0 $share/#'),
			('subscribePattern false 0 $SYS/#'), ('subscribePattern false 0 $CONTROL/#'),
			('unsubscribePattern true 0 #')) a
$function$;

CREATE OR REPLACE FUNCTION iot_internal.dynsec_rules_json(acls text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT jsonb_agg(jsonb_build_object('acltype', split_part(r.rule, ' ', 1),
			'allow', split_part(r.rule, ' ', 2)::boolean, 'priority', split_part(r.rule, ' ', 3)::integer,
			'topic', substring(r.rule FROM '^[^ ]+ [^ ]+ [^ ]+ (.*)$')) ORDER BY r.place)
	FROM unnest(acls) WITH ORDINALITY AS r (rule, place)
$function$;

-- The inverse, for what the plugin lists.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_rules(acls jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT coalesce(array_agg(a.rule ORDER BY a.rule COLLATE "C"), '{}') FROM (
		SELECT format('%s %s %s %s', r.value ->> 'acltype', r.value ->> 'allow',
			coalesce(r.value ->> 'priority', '0'), r.value ->> 'topic') AS rule
		FROM jsonb_array_elements(acls) r) a
$function$;

CREATE OR REPLACE FUNCTION iot_internal.dynsec_mark(adapter_id uuid, device_id uuid, credential_id uuid)
RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT concat_ws(' ', 'iot', adapter_id, device_id, credential_id)
$function$;

-- Part 2 is the adapter, 3 the device, 4 the credential; NULL where the text is no mark of ours.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_mark_part(mark text, part integer) RETURNS uuid
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT CASE WHEN mark ~ '^iot( [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}){2,3}$'
		THEN nullif(split_part(mark, ' ', part), '')::uuid END
$function$;

-- Commands that make the broker have of a device what its rows want, in the order in which they must
-- come.  Each is what the plugin is told, under "say", with what is then known: "client" or "role".  A
-- credential that the broker ought to have, and that nobody can give it any more, comes as "lost".
CREATE OR REPLACE FUNCTION iot_internal.dynsec_commands(adapter_id uuid, device_id uuid)
RETURNS SETOF jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	device record;
	known record;
	credential record;
	role text;
	rules text[];
	disabled boolean;
BEGIN
	SELECT d.name, d.enabled INTO device FROM iot.device d
		WHERE d.device_id = dynsec_commands.device_id AND d.adapter_id = dynsec_commands.adapter_id
			AND EXISTS (SELECT FROM iot.device_credential c WHERE c.device_id = d.device_id);
	IF FOUND THEN
		role := 'iot-device-' || device.name;
		rules := iot_internal.dynsec_acls(dynsec_commands.device_id);
		SELECT r.device_id, r.acls INTO known FROM iot.dynsec_role r
			WHERE r.adapter_id = dynsec_commands.adapter_id AND r.rolename = role;
		IF NOT FOUND OR known.acls <> rules OR known.device_id <> dynsec_commands.device_id THEN
			RETURN NEXT jsonb_build_object('role', role, 'rules', rules, 'say', jsonb_build_object(
				'command', CASE WHEN FOUND THEN 'modifyRole' ELSE 'createRole' END,
				'rolename', role, 'acls', iot_internal.dynsec_rules_json(rules),
				'textname', iot_internal.dynsec_mark(dynsec_commands.adapter_id,
					dynsec_commands.device_id, NULL)));
		END IF;
	END IF;
	FOR credential IN
		SELECT c.credential_id, c.username, NOT (c.enabled AND device.enabled) AS disabled,
			p.password, c.broker_state,
			k.credential_id AS known_id, k.rolename, k.disabled AS known_disabled
		FROM iot.device_credential c
			LEFT JOIN iot.device_credential_password p ON p.credential_id = c.credential_id
			LEFT JOIN iot.dynsec_client k ON k.adapter_id = dynsec_commands.adapter_id
				AND k.username = c.username
		WHERE role IS NOT NULL AND c.device_id = dynsec_commands.device_id
		ORDER BY c.created_at, c.username LOOP
		disabled := credential.known_disabled;
		IF credential.known_id IS DISTINCT FROM credential.credential_id THEN
			-- a name that another credential had, perhaps of another device
			IF credential.known_id IS NOT NULL THEN
				RETURN NEXT jsonb_build_object('client', credential.username, 'gone', true,
					'say', jsonb_build_object('command', 'deleteClient', 'username', credential.username));
			END IF;
			IF credential.password IS NULL THEN
				IF credential.broker_state IS DISTINCT FROM 'missing' THEN
					RETURN NEXT jsonb_build_object('lost', credential.credential_id);
				END IF;
				CONTINUE;
			END IF;
			RETURN NEXT jsonb_build_object('client', credential.username, 'rolename', role,
				'credential_id', credential.credential_id, 'say', jsonb_build_object(
				'command', 'createClient', 'username', credential.username,
				'password', credential.password,
				'roles', jsonb_build_array(jsonb_build_object('rolename', role)),
				'textname', iot_internal.dynsec_mark(dynsec_commands.adapter_id,
					dynsec_commands.device_id, credential.credential_id)));
			disabled := false;
		ELSIF credential.rolename IS DISTINCT FROM role THEN
			RETURN NEXT jsonb_build_object('client', credential.username, 'rolename', role,
				'say', jsonb_build_object('command', 'modifyClient', 'username', credential.username,
					'roles', jsonb_build_array(jsonb_build_object('rolename', role))));
		END IF;
		IF disabled <> credential.disabled THEN
			RETURN NEXT jsonb_build_object('client', credential.username, 'disabled', credential.disabled,
				'say', jsonb_build_object('username', credential.username,
					'command', CASE WHEN credential.disabled THEN 'disableClient' ELSE 'enableClient' END));
		END IF;
	END LOOP;
	FOR known IN SELECT k.username FROM iot.dynsec_client k
		WHERE k.adapter_id = dynsec_commands.adapter_id AND k.device_id = dynsec_commands.device_id
			AND NOT EXISTS (SELECT FROM iot.device_credential c
				WHERE c.username = k.username AND c.device_id = dynsec_commands.device_id
					AND role IS NOT NULL)
		ORDER BY k.username LOOP
		RETURN NEXT jsonb_build_object('client', known.username, 'gone', true,
			'say', jsonb_build_object('command', 'deleteClient', 'username', known.username));
	END LOOP;
	FOR known IN SELECT r.rolename FROM iot.dynsec_role r
		WHERE r.adapter_id = dynsec_commands.adapter_id AND r.device_id = dynsec_commands.device_id
			AND r.rolename IS DISTINCT FROM role
		ORDER BY r.rolename LOOP
		RETURN NEXT jsonb_build_object('role', known.rolename, 'gone', true,
			'say', jsonb_build_object('command', 'deleteRole', 'rolename', known.rolename));
	END LOOP;
END
$function$;

-- Takes in a page of what the plugin has; how many are on it, others' included.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_listed(adapter_id uuid, phase text, answer jsonb)
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	page jsonb := answer #> ARRAY['data', phase];
BEGIN
	IF answer ? 'error' OR jsonb_typeof(page) IS DISTINCT FROM 'array' THEN
		RAISE EXCEPTION 'the plugin does not list its %: %', phase,
				coalesce(answer ->> 'error', 'it answers in another form')
			USING ERRCODE = 'data_exception';
	END IF;
	IF phase = 'clients' THEN
		INSERT INTO iot.dynsec_client AS k
				(adapter_id, username, device_id, credential_id, rolename, disabled)
			SELECT dynsec_listed.adapter_id, c.value ->> 'username',
				iot_internal.dynsec_mark_part(c.value ->> 'textname', 3),
				iot_internal.dynsec_mark_part(c.value ->> 'textname', 4),
				-- more roles than one are not of our making, and are put right
				CASE WHEN jsonb_array_length(c.value -> 'roles') = 1
					THEN c.value #>> '{roles,0,rolename}' END,
				coalesce((c.value ->> 'disabled')::boolean, false)
			FROM jsonb_array_elements(page) c
			WHERE iot_internal.dynsec_mark_part(c.value ->> 'textname', 2) = dynsec_listed.adapter_id
				AND iot_internal.dynsec_mark_part(c.value ->> 'textname', 4) IS NOT NULL
			ON CONFLICT DO NOTHING;
	ELSE
		INSERT INTO iot.dynsec_role AS r (adapter_id, rolename, device_id, acls)
			SELECT dynsec_listed.adapter_id, c.value ->> 'rolename',
				iot_internal.dynsec_mark_part(c.value ->> 'textname', 3),
				iot_internal.dynsec_rules(c.value -> 'acls')
			FROM jsonb_array_elements(page) c
			WHERE iot_internal.dynsec_mark_part(c.value ->> 'textname', 2) = dynsec_listed.adapter_id
			ON CONFLICT DO NOTHING;
	END IF;
	RETURN jsonb_array_length(page);
END
$function$;

-- What one command came to.  What is gone may have been gone before.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_done(adapter_id uuid, asked jsonb, error text)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	gone boolean := coalesce((asked ->> 'gone')::boolean, false);
	device uuid := (asked ->> 'device_id')::uuid;
BEGIN
	IF error IS NOT NULL AND NOT (gone AND error ~ 'not found') THEN
		UPDATE iot.device_credential c
			SET broker_state = 'refused',
				broker_error = left(format('%s: %s', asked ->> 'command', error), 500)
			WHERE c.device_id = device
				AND (NOT asked ? 'client' OR c.username = asked ->> 'client');
	ELSIF asked ? 'role' AND gone THEN
		DELETE FROM iot.dynsec_role r
			WHERE r.adapter_id = dynsec_done.adapter_id AND r.rolename = asked ->> 'role';
	ELSIF asked ? 'role' THEN
		INSERT INTO iot.dynsec_role AS r (adapter_id, rolename, device_id, acls)
			VALUES (dynsec_done.adapter_id, asked ->> 'role', device,
				ARRAY(SELECT jsonb_array_elements_text(asked -> 'rules')))
			ON CONFLICT (adapter_id, rolename) DO UPDATE
				SET device_id = excluded.device_id, acls = excluded.acls;
	ELSIF gone THEN
		DELETE FROM iot.dynsec_client k
			WHERE k.adapter_id = dynsec_done.adapter_id AND k.username = asked ->> 'client';
	ELSIF asked ? 'credential_id' THEN
		INSERT INTO iot.dynsec_client AS k
				(adapter_id, username, device_id, credential_id, rolename, disabled)
			VALUES (dynsec_done.adapter_id, asked ->> 'client', device,
				(asked ->> 'credential_id')::uuid, asked ->> 'rolename', false)
			ON CONFLICT (adapter_id, username) DO UPDATE
				SET device_id = excluded.device_id, credential_id = excluded.credential_id,
					rolename = excluded.rolename, disabled = excluded.disabled;
	ELSE
		UPDATE iot.dynsec_client k
			SET rolename = coalesce(asked ->> 'rolename', k.rolename),
				disabled = coalesce((asked ->> 'disabled')::boolean, k.disabled)
			WHERE k.adapter_id = dynsec_done.adapter_id AND k.username = asked ->> 'client';
	END IF;
END
$function$;

-- Notes what the broker has of a device now, and forgets the passwords that it has taken.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_noted(adapter_id uuid, device_id uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET jit = off AS $function$
	UPDATE iot.device_credential c SET broker_state = 'present', broker_error = NULL
		FROM iot.dynsec_client k
		WHERE k.adapter_id = dynsec_noted.adapter_id AND k.username = c.username
			AND k.credential_id = c.credential_id AND c.device_id = dynsec_noted.device_id
			AND c.broker_state IS DISTINCT FROM 'present'
			AND (c.broker_state IS DISTINCT FROM 'refused'
				OR NOT EXISTS (SELECT FROM iot_internal.dynsec_commands($1, $2)));
	DELETE FROM iot.device_credential_password p
		USING iot.device_credential c, iot.dynsec_client k
		WHERE c.device_id = dynsec_noted.device_id AND p.credential_id = c.credential_id
			AND k.adapter_id = dynsec_noted.adapter_id AND k.username = c.username
			AND k.credential_id = c.credential_id;
$function$;

-- Begins a talk: what was known of the broker is forgotten.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_begin(adapter_id uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	DELETE FROM iot.dynsec_client k WHERE k.adapter_id = dynsec_begin.adapter_id;
	DELETE FROM iot.dynsec_role r WHERE r.adapter_id = dynsec_begin.adapter_id;
	INSERT INTO iot.dynsec AS s (adapter_id, phase) VALUES (dynsec_begin.adapter_id, 'clients')
		ON CONFLICT (adapter_id) DO UPDATE
			SET phase = 'clients', position = 0, tag = NULL, asked = NULL, settled_at = NULL;
$function$;

-- Takes in an answer to what was asked last.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_answer(adapter_id uuid, answer jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	talk record;
	listed integer;
	asked record;
	device uuid;
BEGIN
	SELECT s.adapter_id, s.phase, s.tag, s.asked INTO talk FROM iot.dynsec s
		WHERE s.adapter_id = dynsec_answer.adapter_id;
	IF jsonb_typeof(answer -> 'responses') IS DISTINCT FROM 'array' THEN
		RAISE EXCEPTION 'the plugin answers in another form' USING ERRCODE = 'data_exception';
	END IF;
	IF talk.phase = ANY (ARRAY['clients', 'roles']) THEN
		listed := iot_internal.dynsec_listed(talk.adapter_id, talk.phase, answer #> '{responses,0}');
		IF listed >= iot_internal.dynsec_page() THEN
			UPDATE iot.dynsec s SET position = s.position + listed, tag = NULL
				WHERE s.adapter_id = talk.adapter_id;
			RETURN;
		ELSIF talk.phase = 'clients' THEN
			UPDATE iot.dynsec s SET phase = 'roles', position = 0, tag = NULL
				WHERE s.adapter_id = talk.adapter_id;
			RETURN;
		END IF;
		-- both lists are there: look at everybody who is on them or should be
		DELETE FROM iot.dynsec_change g WHERE g.adapter_id = talk.adapter_id;
		INSERT INTO iot.dynsec_change (adapter_id, priority, device_id)
			SELECT talk.adapter_id, 1, u.device_id FROM (
				SELECT c.device_id FROM iot.device_credential c
					JOIN iot.device d ON d.device_id = c.device_id
					WHERE d.adapter_id = talk.adapter_id
				UNION SELECT k.device_id FROM iot.dynsec_client k WHERE k.adapter_id = talk.adapter_id
				UNION SELECT r.device_id FROM iot.dynsec_role r WHERE r.adapter_id = talk.adapter_id) u;
		UPDATE iot.dynsec s SET phase = 'apply', position = 0, tag = NULL, failures = 0, error = NULL
			WHERE s.adapter_id = talk.adapter_id;
		RETURN;
	END IF;
	FOR asked IN
		SELECT a.value, r.response IS NOT NULL AS answered, r.response ->> 'error' AS error
		FROM jsonb_array_elements(talk.asked -> 'commands') WITH ORDINALITY AS a (value, place)
			LEFT JOIN LATERAL (SELECT x.value FROM jsonb_array_elements(answer -> 'responses') x
				WHERE x.value ->> 'correlationData' = talk.tag || '/' || a.place) AS r (response) ON true
		ORDER BY a.place LOOP
		PERFORM iot_internal.dynsec_done(talk.adapter_id, asked.value,
			CASE WHEN asked.answered THEN asked.error ELSE 'no answer' END);
	END LOOP;
	FOR device IN SELECT DISTINCT (a.value ->> 'device_id')::uuid
		FROM jsonb_array_elements(talk.asked -> 'commands') a LOOP
		PERFORM iot_internal.dynsec_noted(talk.adapter_id, device);
	END LOOP;
	DELETE FROM iot.dynsec_change g
		WHERE g.adapter_id = talk.adapter_id
			AND g.change_id IN (SELECT x::bigint FROM jsonb_array_elements_text(talk.asked -> 'changes') x);
	UPDATE iot.dynsec s SET tag = NULL, asked = NULL WHERE s.adapter_id = talk.adapter_id;
END
$function$;

-- Clients and roles that are listed at a time: with rules, so that the answer stays far below the
-- largest packet that the adapter takes.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_page() RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
	SELECT 100
$function$;

-- Commands for the devices that changed, at most so many (of the first device: all), and no name in
-- them twice but for one device's, since each was worked out from what is known before.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_collect(
	adapter_id uuid, tag text, max_commands integer, OUT asked jsonb, OUT said jsonb, OUT more boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	looked_at CONSTANT integer := 200;
	change record;
	command jsonb;
	commands jsonb;
	names text[] := '{}';
	of_device text[];
	changes bigint[] := '{}';
	ended bigint[] := '{}';
	number integer := 0;
	looked integer := 0;
BEGIN
	asked := '[]';
	said := '[]';
	more := false;
	FOR change IN
		SELECT g.device_id, array_agg(g.change_id) AS ids FROM (
			SELECT w.device_id, w.priority, w.change_id FROM iot.dynsec_change w
			WHERE w.adapter_id = dynsec_collect.adapter_id
			ORDER BY w.priority, w.change_id LIMIT looked_at) g
		GROUP BY g.device_id ORDER BY min(g.priority), min(g.change_id) LOOP
		looked := looked + cardinality(change.ids);
		commands := '[]';
		of_device := '{}';
		FOR command IN SELECT c FROM iot_internal.dynsec_commands(
				dynsec_collect.adapter_id, change.device_id) c LOOP
			IF command ? 'lost' THEN
				PERFORM iot_internal.dynsec_lost((command ->> 'lost')::uuid);
			ELSE
				commands := commands || command;
				of_device := of_device || coalesce('c' || (command ->> 'client'), 'r' || (command ->> 'role'));
			END IF;
		END LOOP;
		IF commands = '[]' THEN
			PERFORM iot_internal.dynsec_noted(dynsec_collect.adapter_id, change.device_id);
			ended := ended || change.ids;
			CONTINUE;
		END IF;
		IF number > 0 AND (names && of_device
				OR number + jsonb_array_length(commands) > max_commands
				OR pg_column_size(said) + pg_column_size(commands) > 65536) THEN
			more := true;
			EXIT;
		END IF;
		names := names || of_device;
		changes := changes || change.ids;
		FOR command IN SELECT c.value FROM jsonb_array_elements(commands) c LOOP
			number := number + 1;
			said := said || (command -> 'say'
				|| jsonb_build_object('correlationData', dynsec_collect.tag || '/' || number));
			-- a password is in no table but its own
			asked := asked || (command - 'say' || jsonb_build_object('device_id', change.device_id,
				'command', command #> '{say,command}'));
		END LOOP;
	END LOOP;
	DELETE FROM iot.dynsec_change g
		WHERE g.adapter_id = dynsec_collect.adapter_id AND g.change_id = ANY (ended);
	more := more OR looked >= looked_at;
	asked := jsonb_build_object('commands', asked, 'changes', to_jsonb(changes));
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.dynsec_lost(credential_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	credential record;
BEGIN
	UPDATE iot.device_credential c SET broker_state = 'missing', broker_error = NULL
		FROM iot.device d
		WHERE c.credential_id = dynsec_lost.credential_id AND d.device_id = c.device_id
		RETURNING d.device_id, d.name, c.username INTO credential;
	PERFORM iot_internal.credential_event('device.credential_missing', credential.device_id,
		credential.name, credential.username, NULL);
END
$function$;

-- One turn of the talk.  begins: a connection is new.  answer: what the plugin said to the last
-- request, or NULL.  error: why there is none, or NULL.  Returns the next request, which begins with
-- its tag and a newline; NULL where nothing is to be asked; an empty text where there may be more to
-- look at.
CREATE OR REPLACE FUNCTION iot_internal.dynsec_turn(
	adapter_id uuid, begins boolean, answer text, error text, max_commands integer) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	talk record;
	next record;
	request jsonb;
BEGIN
	IF error IS NOT NULL THEN
		INSERT INTO iot.dynsec AS s (adapter_id, phase, failures, error)
			VALUES (dynsec_turn.adapter_id, 'failed', 1, left(dynsec_turn.error, 500))
			ON CONFLICT (adapter_id) DO UPDATE SET phase = 'failed', tag = NULL, asked = NULL,
				failures = s.failures + 1, error = excluded.error, settled_at = NULL;
		RETURN NULL;
	END IF;
	IF begins THEN
		PERFORM iot_internal.dynsec_begin(dynsec_turn.adapter_id);
	END IF;
	IF answer IS NOT NULL THEN
		PERFORM iot_internal.dynsec_answer(dynsec_turn.adapter_id, answer::jsonb);
	END IF;
	SELECT s.phase, s.position, s.tag, s.asked, s.settled_at INTO talk FROM iot.dynsec s
		WHERE s.adapter_id = dynsec_turn.adapter_id;
	talk.tag := encode(uuid_send(gen_random_uuid()), 'hex');
	IF talk.phase = ANY (ARRAY['clients', 'roles']) THEN
		request := jsonb_build_array(jsonb_build_object('command',
			CASE talk.phase WHEN 'clients' THEN 'listClients' ELSE 'listRoles' END,
			'verbose', true, 'count', iot_internal.dynsec_page(), 'offset', talk.position,
			'correlationData', talk.tag || '/1'));
		talk.asked := NULL;
	ELSE
		PERFORM iot_internal.end_credentials(adapter_id => dynsec_turn.adapter_id);
		-- whatever was in the way may be gone
		IF talk.settled_at < clock_timestamp() - interval '1 min' THEN
			INSERT INTO iot.dynsec_change (adapter_id, priority, device_id)
				SELECT DISTINCT d.adapter_id, 1, d.device_id
				FROM iot.device_credential c JOIN iot.device d ON d.device_id = c.device_id
				WHERE c.broker_state = 'refused' AND d.adapter_id = dynsec_turn.adapter_id;
			UPDATE iot.dynsec s SET settled_at = clock_timestamp()
				WHERE s.adapter_id = dynsec_turn.adapter_id;
		END IF;
		IF NOT EXISTS (SELECT FROM iot.dynsec_change g WHERE g.adapter_id = dynsec_turn.adapter_id) THEN
			UPDATE iot.dynsec s SET settled_at = clock_timestamp()
				WHERE s.adapter_id = dynsec_turn.adapter_id AND s.settled_at IS NULL;
			RETURN NULL;
		END IF;
		SELECT c.asked, c.said, c.more INTO next
			FROM iot_internal.dynsec_collect(dynsec_turn.adapter_id, talk.tag, max_commands) c;
		IF next.said = '[]' THEN
			UPDATE iot.dynsec s SET settled_at = CASE WHEN NOT next.more THEN clock_timestamp() END
				WHERE s.adapter_id = dynsec_turn.adapter_id;
			RETURN CASE WHEN next.more THEN '' END;
		END IF;
		request := next.said;
		talk.asked := next.asked;
	END IF;
	UPDATE iot.dynsec s SET tag = talk.tag, asked = talk.asked, settled_at = NULL
		WHERE s.adapter_id = dynsec_turn.adapter_id;
	RETURN talk.tag || chr(10) || jsonb_build_object('commands', request);
END
$function$;
