-- Notifications: from events to what people and systems are told, and the book-keeping of telling.
--
-- Everything that changes rows here is called by the notifier alone, so that the numbers of
-- iot.notification become visible in their order.  What it calls for each turn or row is PL/pgSQL,
-- which keeps its plans: a function in SQL would be planned again by every statement.

CREATE OR REPLACE FUNCTION iot_internal.event_matches(pattern text, event text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_event_matches';

CREATE OR REPLACE FUNCTION iot_internal.event_pattern_valid(pattern text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_event_pattern_valid';

CREATE OR REPLACE FUNCTION iot_internal.template_names(template text) RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_template_names';

CREATE OR REPLACE FUNCTION iot_internal.render_template(template text, vals jsonb) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_template_render_sql';

-- The names that templates of notification rules may use: those of the event itself, then the keys
-- that payloads have.
CREATE OR REPLACE FUNCTION iot_internal.notification_placeholders() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT ARRAY['event', 'event_id', 'at', 'device', 'device_id', 'username',
		'command_id', 'request_id', 'parameter', 'action', 'value', 'target_value',
		'previous_value', 'unit', 'version', 'attempts', 'superseded', 'error', 'reason',
		'alarm_id', 'alarm_rule_id', 'rule', 'severity', 'previous_severity', 'message', 'opened_at',
		'changed_at', 'closed_at', 'comment', 'assignee', 'errors', 'failed_at']
$$;

-- Raises an error for a template that names what no event has.
CREATE OR REPLACE FUNCTION iot_internal.check_notification_template(field text, template text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	unknown text;
BEGIN
	SELECT string_agg(DISTINCT format('{%s}', n), ', ') INTO unknown
		FROM unnest(iot_internal.template_names(template)) AS t(n)
		WHERE n <> ALL (iot_internal.notification_placeholders());
	IF unknown IS NOT NULL THEN
		RAISE EXCEPTION 'unknown placeholder in % of notification rule: %', field, unknown
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('Known are %s. Write "{{" for a plain brace.',
					(SELECT string_agg(format('{%s}', n), ', ')
						FROM unnest(iot_internal.notification_placeholders()) AS t(n)));
	END IF;
END
$$;

CREATE OR REPLACE FUNCTION iot_internal.utc_text(at timestamptz) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
END
$$;

-- Whether a user belongs to the audience of a notification, permissions aside.
CREATE OR REPLACE FUNCTION iot_internal.in_audience(p_username text, p_audience text, p_author text)
RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN CASE
		WHEN p_username IS NULL THEN false
		WHEN p_audience = 'viewers' THEN true
		WHEN p_audience = 'author' THEN coalesce(p_username = p_author, false)
		WHEN p_audience LIKE 'user:%' THEN p_username = substr(p_audience, 6)
		WHEN p_audience LIKE 'group:%' THEN EXISTS (
			SELECT FROM iot.app_user u
				JOIN iot.user_group_member m ON m.app_user_id = u.app_user_id
				JOIN iot.user_group g ON g.user_group_id = m.user_group_id
			WHERE u.username = p_username AND u.enabled AND g.name = substr(p_audience, 7))
		ELSE false
	END;
END
$$;

-- Permission to hear of an event: that of viewing its device.  Events of no device are for admins.
CREATE OR REPLACE FUNCTION iot_internal.may_be_told(p_username text, p_device_id uuid)
RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN CASE WHEN p_device_id IS NULL
		THEN coalesce(iot_internal.is_admin_role(p_username), false)
		ELSE iot.may(p_username, p_device_id, 'view') END;
END
$$;

-- Whether a user may be sent a push notification now: of its audience, allowed to view the device,
-- and not told of the same event by an earlier one.
CREATE OR REPLACE FUNCTION iot_internal.may_receive(p_username text, p_seq bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	SELECT EXISTS (
		SELECT FROM iot.notification n
		WHERE n.seq = p_seq AND n.channel = 'push'
			AND iot_internal.in_audience(p_username, n.audience, n.username)
			AND iot_internal.may_be_told(p_username, n.device_id)
			AND NOT EXISTS (
				SELECT FROM iot.notification p
				WHERE p.event_id = n.event_id AND p.channel = 'push' AND p.seq < n.seq
					AND iot_internal.in_audience(p_username, p.audience, p.username)))
$$;

-- Users who may view everything, by their role.
CREATE OR REPLACE FUNCTION iot_internal.admin_usernames() RETURNS text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN ARRAY(SELECT u.username
		FROM pg_roles r JOIN iot.app_user u ON u.username = r.rolname
		WHERE u.enabled AND (r.rolsuper OR pg_has_role(r.oid, 'iot_admin', 'USAGE')));
END
$$;

-- Who gets a delivery of their own: the known users of the audience who may view the device, or a
-- webhook.  '*' where a push has an audience but knows none of its members yet: whoever turns up
-- and is eligible takes it.  Nobody at all where there never can be a taker.
CREATE OR REPLACE FUNCTION iot_internal.audience_recipients(p_channel text, p_audience text,
	p_author text, p_device_id uuid, p_admins text[]) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	candidates text[];
BEGIN
	IF p_channel = 'webhook' THEN
		RETURN QUERY SELECT w.name FROM iot.webhook w
			WHERE w.name = substr(p_audience, 9) AND w.enabled;
		RETURN;
	END IF;
	IF (p_audience = 'author' AND p_author IS NULL) OR (p_device_id IS NOT NULL
		AND NOT EXISTS (SELECT FROM iot.device d WHERE d.device_id = p_device_id)) THEN
		RETURN;
	END IF;

	IF p_audience = 'author' THEN
		candidates := ARRAY[p_author];
	ELSIF p_audience LIKE 'user:%' THEN
		candidates := ARRAY[substr(p_audience, 6)];
	ELSIF p_audience LIKE 'group:%' THEN
		candidates := ARRAY(SELECT u.username
			FROM iot.user_group g
				JOIN iot.user_group_member m ON m.user_group_id = g.user_group_id
				JOIN iot.app_user u ON u.app_user_id = m.app_user_id
			WHERE g.name = substr(p_audience, 7) AND u.enabled);
	ELSE
		-- all whom a grant or a role makes worth asking about
		candidates := ARRAY(SELECT u.username
			FROM iot.device d
				JOIN iot.access_grant a ON a.device_group_id = d.device_group_id
				JOIN iot.user_group_member m ON m.user_group_id = a.user_group_id
				JOIN iot.app_user u ON u.app_user_id = m.app_user_id
			WHERE d.device_id = p_device_id AND u.enabled
			UNION
			SELECT a.username FROM unnest(p_admins) AS a(username));
	END IF;
	IF p_device_id IS NULL THEN
		RETURN QUERY SELECT c.username FROM unnest(candidates) AS c(username)
			WHERE iot_internal.is_admin_role(c.username);
	ELSE
		RETURN QUERY SELECT candidates[v.ordinal]
			FROM iot_internal.push_viewers(ARRAY[p_device_id], candidates) AS v;
	END IF;
	IF NOT FOUND THEN
		RETURN NEXT '*';
	END IF;
END
$$;

-- The event types that enabled rules can match, to skip the rest in the log; NULL for "any".
CREATE OR REPLACE FUNCTION iot_internal.notified_types() RETURNS text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (SELECT CASE WHEN bool_or(strpos(r.event, '*') > 0) THEN NULL
				ELSE coalesce(array_agg(DISTINCT r.event), '{}') END
			FROM iot.notification_rule r WHERE r.enabled);
END
$$;

-- Reads the next events of consumer "notifier" and writes what their rules say.  Cursor and
-- effects share the caller's transaction, so that each event is notified of exactly once.  Fewer
-- events than asked for means that the log is drained.  Plans are generic, since planning for the
-- arrays at hand would cost more than it saves: what is joined has a row per event and rule, of
-- which a window should have hundreds at most; only lists of recipients may be long.
CREATE OR REPLACE FUNCTION iot_internal.notify_events(max_events integer,
	OUT events integer, OUT notifications integer, OUT pushes integer, OUT webhooks integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
	ids bigint[];
	event_ids uuid[];
	event_types text[];
	device_ids uuid[];
	payloads jsonb[];
	times timestamptz[];
	admins text[];
BEGIN
	notifications := 0;
	pushes := 0;
	webhooks := 0;

	-- A statement of its own: the next one's snapshot then holds the rows, such as the device,
	-- that came with the events.
	SELECT count(*), array_agg(r.id), array_agg(r.event_id), array_agg(r.type),
			array_agg(r.device_id), array_agg(r.payload), array_agg(r.created_at)
		INTO events, ids, event_ids, event_types, device_ids, payloads, times
		FROM iot_internal.consumer_read('notifier', iot_internal.notified_types(), max_events) AS r;
	IF events = 0 THEN
		RETURN;
	END IF;

	admins := iot_internal.admin_usernames();

	WITH read AS MATERIALIZED (
		SELECT DISTINCT ON (u.event_id) u.id, u.event_id, u.type, u.device_id, u.created_at,
				CASE WHEN jsonb_typeof(u.payload) = 'object' THEN u.payload ELSE '{}' END AS payload
			FROM unnest(ids, event_ids, event_types, device_ids, payloads, times)
				AS u(id, event_id, type, device_id, payload, created_at)
			ORDER BY u.event_id, u.id
	), matched AS MATERIALIZED (
		SELECT e.id, e.event_id, e.type, e.device_id, e.created_at, e.payload,
				e.payload ->> 'username' AS author,
				r.notification_rule_id AS rule_id, r.channel, r.audience, r.title, r.body,
				d.name AS device_name, coalesce(d.device_group_id, e.device_id) AS scope,
				row_number() OVER (PARTITION BY e.id ORDER BY r.created_at, r.name) AS rank
			FROM read e
				JOIN iot.notification_rule r
					ON r.enabled AND iot_internal.event_matches(r.event, e.type)
				LEFT JOIN iot.device d ON d.device_id = e.device_id
	), asked AS MATERIALIZED (
		-- many events ask the same question: who may view a device is a matter of its group, so
		-- one device answers for all of it
		SELECT q.channel, q.audience, q.author, q.scope,
				ARRAY(SELECT t.recipient FROM iot_internal.audience_recipients(q.channel,
					q.audience, q.author, q.device_id, admins) AS t(recipient)) AS recipients
			FROM (SELECT DISTINCT ON (m.channel, m.audience, m.scope, a.author)
						m.channel, m.audience, m.scope, a.author, m.device_id
					FROM matched m
						CROSS JOIN LATERAL (
							SELECT CASE WHEN m.audience = 'author' THEN m.author END AS author) AS a
					ORDER BY m.channel, m.audience, m.scope, a.author, m.id) AS q
	), told AS MATERIALIZED (
		-- per event and channel the first rule that reaches a recipient is the one that tells it
		SELECT f.id, f.rank, array_agg(f.recipient) AS recipients
			FROM (SELECT m.id, m.rank, t.recipient,
						row_number() OVER (PARTITION BY m.id, m.channel, t.recipient,
							CASE WHEN t.recipient = '*' THEN m.audience END ORDER BY m.rank) AS turn
					FROM matched m
						JOIN asked a ON a.channel = m.channel AND a.audience = m.audience
							AND a.scope IS NOT DISTINCT FROM m.scope
							AND (m.audience <> 'author' OR a.author IS NOT DISTINCT FROM m.author)
						CROSS JOIN LATERAL unnest(a.recipients) AS t(recipient)) AS f
			WHERE f.turn = 1
			GROUP BY f.id, f.rank
	), written AS (
		INSERT INTO iot.notification (event_id, event, channel, audience, username, device_id,
				device, title, body, event_at)
			SELECT m.event_id, m.type, m.channel, m.audience, m.author, m.device_id, n.device,
					left(btrim(iot_internal.render_template(m.title, v.vals)), 300),
					m.payload || CASE WHEN m.body = '' THEN '{}' ELSE jsonb_build_object('text',
						left(btrim(iot_internal.render_template(m.body, v.vals)), 4000)) END,
					m.created_at
				FROM told t
					JOIN matched m ON m.id = t.id AND m.rank = t.rank
					CROSS JOIN LATERAL (
						SELECT coalesce(m.device_name, m.payload ->> 'device') AS device) AS n
					CROSS JOIN LATERAL (
						SELECT m.payload || jsonb_build_object('event', m.type,
							'event_id', m.event_id, 'device', n.device, 'device_id', m.device_id,
							'username', m.author, 'at', iot_internal.utc_text(m.created_at))
							AS vals) AS v
				ORDER BY m.id, m.rank
			RETURNING seq, event_id, channel, audience
	), due AS (
		-- the notifier hints at a new push at once: that is its first attempt
		INSERT INTO iot.delivery (seq, channel, recipient, attempts, next_attempt_at)
			SELECT w.seq, w.channel, r.recipient,
					CASE w.channel WHEN 'push' THEN 1 ELSE 0 END,
					clock_timestamp() + CASE w.channel WHEN 'push' THEN interval '1 s'
						ELSE interval '0' END
				FROM written w
					JOIN matched m ON m.event_id = w.event_id AND m.channel = w.channel
						AND m.audience = w.audience
					JOIN told t ON t.id = m.id AND t.rank = m.rank
					CROSS JOIN LATERAL unnest(t.recipients) AS r(recipient)
			RETURNING channel
	)
	SELECT (SELECT count(*) FROM written), count(*) FILTER (WHERE d.channel = 'push'),
			count(*) FILTER (WHERE d.channel = 'webhook')
		INTO notifications, pushes, webhooks
		FROM due d;
END
$$;

-- Passes over one event that cannot be notified of, leaving it in the dead letters, so that it
-- blocks nothing.  Returns its id, or NULL where nothing is waiting.
CREATE OR REPLACE FUNCTION iot_internal.notify_skip(error text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	skipped record;
BEGIN
	SELECT r.id, r.type, r.payload, r.device_id INTO skipped
		FROM iot_internal.consumer_read('notifier', iot_internal.notified_types(), 1) AS r;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	PERFORM iot_internal.dead_letter_add(NULL,
		(SELECT d.name FROM iot.device d WHERE d.device_id = skipped.device_id),
		skipped.type, convert_to(skipped.payload::text, 'UTF8'), 'notification_failed', error);
	RETURN skipped.id;
END
$$;

-- Counts another attempt for push deliveries that nobody has taken; the notifier then hints at
-- them.  1 s, 2 s, 4 s ... 60 s apart.  At most so many at once: a daemon that hears a hint reads
-- all that is pending anyhow.
--
-- What is due is judged by the time of the statement, which an index can be searched by; the clock
-- itself, being different for each row, would have every pending row read.  Plans are kept, and made
-- when the table may be empty still: they must not be those for a small one.
CREATE OR REPLACE FUNCTION iot_internal.push_due(max_deliveries integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
DECLARE
	due integer;
BEGIN
	UPDATE iot.delivery d
		SET attempts = d.attempts + 1,
			next_attempt_at = clock_timestamp()
				+ least(power(2, least(d.attempts, 10)), 60) * interval '1 s',
			last_error = 'no eligible user was connected'
		FROM (SELECT q.seq, q.channel, q.recipient FROM iot.delivery q
				WHERE q.status = 'PENDING' AND q.channel = 'push'
					AND q.next_attempt_at <= statement_timestamp()
				ORDER BY q.next_attempt_at LIMIT max_deliveries
				FOR UPDATE SKIP LOCKED) AS p
		WHERE d.seq = p.seq AND d.channel = p.channel AND d.recipient = p.recipient;
	GET DIAGNOSTICS due = ROW_COUNT;
	RETURN due;
END
$$;

-- Takes webhook deliveries that are due, as the start of an attempt each: the caller commits, then
-- talks.  busy has the webhook's name once per attempt under way, held those to leave alone for
-- now.  A notifier that dies leaves started_at behind and the attempt falls due again.
CREATE OR REPLACE FUNCTION iot_internal.webhook_take(busy text[], held text[], max_attempts integer,
	max_per_webhook integer)
RETURNS TABLE (seq bigint, webhook text, attempt integer, url text, timeout_ms integer,
	ca_file text, secret text, problem text, event_id uuid, body text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	WITH taken AS (
		UPDATE iot.delivery d
			SET attempts = d.attempts + 1,
				started_at = clock_timestamp(),
				next_attempt_at = clock_timestamp() + x.timeout + interval '10 s'
			FROM (SELECT q.seq, w.name, w.url, w.options,
						coalesce((w.options ->> 'timeout')::interval, interval '10 s') AS timeout
					FROM iot.webhook w
						CROSS JOIN LATERAL (
							SELECT p.seq FROM iot.delivery p
							WHERE p.channel = 'webhook' AND p.recipient = w.name
								AND p.status = 'PENDING' AND p.next_attempt_at <= statement_timestamp()
							ORDER BY p.next_attempt_at
							LIMIT greatest(0, webhook_take.max_per_webhook
								- cardinality(array_positions(webhook_take.busy, w.name)))
							FOR UPDATE SKIP LOCKED) AS q
					WHERE w.enabled AND w.name <> ALL (webhook_take.held)
					LIMIT webhook_take.max_attempts) AS x
			WHERE d.seq = x.seq AND d.channel = 'webhook' AND d.recipient = x.name
			RETURNING d.seq, x.name, d.attempts, x.url, x.options, x.timeout)
	SELECT t.seq, t.name, t.attempts, t.url,
			(extract(epoch FROM t.timeout) * 1000)::integer,
			t.options ->> 'ca_file', s.value,
			CASE WHEN t.options ? 'secret' AND s.value IS NULL
				THEN format('secret "%s" does not exist', t.options ->> 'secret') END,
			n.event_id,
			jsonb_build_object('event_id', n.event_id, 'seq', n.seq, 'event', n.event,
				'device', n.device, 'device_id', n.device_id, 'username', n.username,
				'title', n.title, 'at', iot_internal.utc_text(n.event_at), 'data', n.body)::text
		FROM taken t
			JOIN iot.notification n ON n.seq = t.seq
			LEFT JOIN iot.secret s ON s.name = t.options ->> 'secret';
END
$$;

-- Records how attempts ended.  A failed one is tried again 1 s, 2 s, 4 s ... 10 min later, less up
-- to half by chance, until the webhook's max_attempts are used up.
CREATE OR REPLACE FUNCTION iot_internal.webhook_result(seqs bigint[], webhooks text[],
	oks boolean[], errors text[])
RETURNS TABLE (seq bigint, webhook text, status text, attempts integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	UPDATE iot.delivery d
		SET status = r.status,
			started_at = NULL,
			delivered_at = CASE r.status WHEN 'DELIVERED' THEN clock_timestamp() END,
			last_error = CASE WHEN r.status = 'DELIVERED' THEN d.last_error
				ELSE left(r.error, 1000) END,
			next_attempt_at = clock_timestamp()
				+ least(power(2, least(r.attempts - 1, 20)), 600) * (0.5 + random() / 2)
					* interval '1 s'
		FROM (SELECT q.seq, q.recipient, q.attempts, u.error,
					CASE WHEN u.ok THEN 'DELIVERED'
						WHEN w.name IS NULL THEN 'FAILED'
						WHEN q.attempts >= coalesce((w.options ->> 'max_attempts')::integer, 12)
							THEN 'FAILED'
						ELSE 'PENDING' END AS status
				FROM unnest(seqs, webhook_result.webhooks, oks, errors)
						AS u(seq, name, ok, error)
					JOIN iot.delivery q ON q.seq = u.seq AND q.channel = 'webhook'
						AND q.recipient = u.name AND q.status = 'PENDING'
					LEFT JOIN iot.webhook w ON w.name = u.name) AS r
		WHERE d.seq = r.seq AND d.channel = 'webhook' AND d.recipient = r.recipient
		RETURNING d.seq, d.recipient, d.status, d.attempts;
END
$$;

-- Makes attempts that a dead notifier left under way due at once.  For its successor's start.
CREATE OR REPLACE FUNCTION iot_internal.webhook_recover() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	recovered integer;
BEGIN
	UPDATE iot.delivery d
		SET started_at = NULL, next_attempt_at = clock_timestamp()
		WHERE d.channel = 'webhook' AND d.status = 'PENDING' AND d.started_at IS NOT NULL;
	GET DIAGNOSTICS recovered = ROW_COUNT;
	RETURN recovered;
END
$$;

CREATE OR REPLACE FUNCTION iot.notifications(after_seq bigint DEFAULT 0)
RETURNS TABLE (seq bigint, event text, device text, at timestamptz, title text, body jsonb,
	username text, read boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
	me text := iot_internal.current_username();
	read_to bigint := coalesce((SELECT r.up_to_seq FROM iot.notification_read r
		WHERE r.username = me), 0);
	audiences text[];
	nothing CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
	-- Audiences are few: each is judged once.  "author" depends on the row.
	audiences := ARRAY(
		WITH used AS MATERIALIZED (
			SELECT DISTINCT n.audience FROM iot.notification n
				WHERE n.channel = 'push' AND n.seq > notifications.after_seq
					AND n.audience <> 'author')
		SELECT u.audience FROM used u WHERE iot_internal.in_audience(me, u.audience, NULL));
	RETURN QUERY
	WITH addressed AS MATERIALIZED (
		SELECT n.seq, n.event_id, n.event, n.device, n.device_id, n.event_at, n.title, n.body,
				n.username
			FROM iot.notification n
			WHERE n.channel = 'push' AND n.seq > notifications.after_seq
				AND (n.audience = ANY (audiences) OR (n.audience = 'author' AND n.username = me))
	), about AS MATERIALIZED (
		SELECT DISTINCT a.device_id FROM addressed a
	), viewable AS MATERIALIZED (
		SELECT coalesce(d.device_id, nothing) AS device_id FROM about d
			WHERE iot_internal.may_be_told(me, d.device_id)
	)
	SELECT a.seq, a.event, a.device, a.event_at, a.title, a.body, a.username, a.seq <= read_to
		FROM addressed a
			JOIN viewable v ON v.device_id = coalesce(a.device_id, nothing)
		WHERE NOT EXISTS (
			SELECT FROM iot.notification p
			WHERE p.event_id = a.event_id AND p.channel = 'push' AND p.seq < a.seq
				AND (p.audience = 'viewers'
					OR iot_internal.in_audience(me, p.audience, p.username)))
		ORDER BY a.seq;
END
$$;
COMMENT ON FUNCTION iot.notifications(bigint) IS
	'push notifications for the calling user after a position, oldest first';

CREATE OR REPLACE FUNCTION iot.mark_notifications_read(up_to_seq bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	me text := iot_internal.current_username();
	marked bigint;
BEGIN
	IF me IS NULL THEN
		RAISE EXCEPTION 'no user is named'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Call with a token that has a "sub" claim.';
	END IF;
	IF mark_notifications_read.up_to_seq IS NULL OR mark_notifications_read.up_to_seq < 0 THEN
		RAISE EXCEPTION 'up_to_seq must be 0 or more'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give the seq of the last notification that was read.';
	END IF;
	-- Not beyond what exists: a position in the future would hide what is yet to come.
	INSERT INTO iot.notification_read AS r (username, up_to_seq, updated_at)
		VALUES (me, least(mark_notifications_read.up_to_seq,
			coalesce((SELECT max(n.seq) FROM iot.notification n), 0)), clock_timestamp())
		ON CONFLICT (username) DO UPDATE
			SET up_to_seq = greatest(r.up_to_seq, excluded.up_to_seq),
				updated_at = excluded.updated_at
		RETURNING r.up_to_seq INTO marked;
	RETURN marked;
END
$$;
COMMENT ON FUNCTION iot.mark_notifications_read(bigint) IS
	'moves the calling user''s read position forward and returns it';
