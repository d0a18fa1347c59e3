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
		'changed_at', 'closed_at', 'comment', 'assignee', 'errors', 'failed_at', 'step', 'reminder',
		'command_batch_id', 'device_group', 'total', 'ended', 'failed', 'consumer', 'partition']
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
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_utc_text';

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
		THEN coalesce(iot_internal.is_admin_user(p_username), false)
		ELSE iot.may(p_username, p_device_id, 'view') END;
END
$$;

-- Whether a user may be sent a push notification now: of its audience, allowed to view the device,
-- not told of the same event by an earlier one, and neither muted nor in quiet hours.
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
					AND iot_internal.in_audience(p_username, p.audience, p.username))
			AND NOT EXISTS (
				SELECT FROM iot.delivery d
				WHERE d.seq = n.seq AND d.channel = 'push' AND d.recipient = p_username
					AND d.not_before > statement_timestamp()))
$$;

-- Users who may view everything, by their role.
CREATE OR REPLACE FUNCTION iot_internal.admin_usernames() RETURNS text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN ARRAY(SELECT u.username
		FROM pg_roles r JOIN iot.app_user u ON u.username = r.rolname
		WHERE u.enabled AND (r.rolsuper OR pg_has_role(r.oid, 'iot_admin', 'USAGE'))
		UNION
		SELECT u.username FROM iot.app_user u WHERE u.enabled AND u.role = 'iot_admin');
END
$$;

-- Who gets a delivery of their own: the known users of the audience who may view the device, or a
-- webhook; by e-mail, those who have an address.  '*' where a push has an audience but knows none of its members yet: whoever turns up
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
	IF p_channel = 'email' THEN
		candidates := ARRAY(SELECT u.username FROM iot.app_user u
			WHERE u.username = ANY (candidates) AND u.enabled AND u.email IS NOT NULL);
	END IF;
	IF p_device_id IS NULL THEN
		RETURN QUERY SELECT c.username FROM unnest(candidates) AS c(username)
			WHERE iot_internal.is_admin_user(c.username);
	ELSIF p_audience = 'viewers' THEN
		-- chosen above by the very rule that would be asked
		RETURN QUERY SELECT c.username FROM unnest(candidates) AS c(username);
	ELSE
		RETURN QUERY SELECT candidates[v.ordinal]
			FROM iot_internal.push_viewers(ARRAY[p_device_id], candidates) AS v;
	END IF;
	IF NOT FOUND AND p_channel = 'push' THEN
		RETURN NEXT '*';
	END IF;
END
$$;

-- The event types that enabled rules can match, to skip the rest in the log: '*' for any but audit
-- events, which only rules that begin so ask for, NULL for any at all.
CREATE OR REPLACE FUNCTION iot_internal.notified_types() RETURNS text[]
LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS 'MODULE_PATHNAME', 'iot_notified_types';

-- Reads the next events of consumer "notifier" and writes what their rules say.  Plans are generic,
-- since planning for the arrays at hand would cost more than it saves; each looks up by key.
CREATE OR REPLACE FUNCTION iot_internal.notify_events(max_events integer,
	OUT events integer, OUT notifications integer, OUT pushes integer, OUT transfers integer)
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_memoize = off SET jit = off
AS 'MODULE_PATHNAME', 'iot_notify_events';

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
	my_language text;
	my_time_zone text;
	-- NULL is no position
	begin_seq bigint := coalesce(notifications.after_seq, 0);
	nothing CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
	SELECT u.language, u.time_zone INTO my_language, my_time_zone
		FROM iot.app_user u WHERE u.username = me;
	-- Audiences are few: each is judged once.  "author" depends on the row.
	audiences := ARRAY(
		WITH used AS MATERIALIZED (
			SELECT DISTINCT n.audience FROM iot.notification n
				WHERE n.channel = 'push' AND n.seq > begin_seq
					AND n.audience <> 'author')
		SELECT u.audience FROM used u WHERE iot_internal.in_audience(me, u.audience, NULL));
	RETURN QUERY
	WITH addressed AS MATERIALIZED (
		SELECT n.seq, n.event_id, n.event, n.device, n.device_id, n.event_at, n.title, n.body,
				n.username, n.texts IS NOT NULL
					AND coalesce(my_language, my_time_zone) IS NOT NULL AS varies
			FROM iot.notification n
			WHERE n.channel = 'push' AND n.seq > begin_seq
				AND (n.audience = ANY (audiences) OR (n.audience = 'author' AND n.username = me))
	), about AS MATERIALIZED (
		SELECT DISTINCT a.device_id FROM addressed a
	), viewable AS MATERIALIZED (
		SELECT coalesce(d.device_id, nothing) AS device_id FROM about d
			WHERE iot_internal.may_be_told(me, d.device_id)
	)
	SELECT a.seq, a.event, a.device, a.event_at, CASE WHEN a.varies THEN l.title ELSE a.title END,
			CASE WHEN a.varies THEN l.body ELSE a.body END, a.username, a.seq <= read_to
		FROM addressed a
			LEFT JOIN LATERAL iot_internal.localized(a.seq, my_language, my_time_zone) AS l ON a.varies
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
