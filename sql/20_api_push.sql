-- What iot-pushd asks and records.  Called by role iot_pushd alone; the daemon has no other rights.
--
-- Each function that reads tells the state of the database with the same first columns, from the
-- same snapshot as what it reads: epoch, whether deliveries are paused, head (the highest sequence
-- number there is) and floor (positions below it may have lost notifications to retention).  A page
-- is one row of state, without seq, and then its notifications; scanned_to is how far the page
-- looked.  Who may be told what is judged anew by every page.

-- Who of these users may view which of these devices: the rule of iot.may() for many at once, since
-- one notification may have thousands of users connected.  Tests hold the two equal.
--
-- Plans are generic and look up by key, here and in what follows: right for one user and one
-- notification, and not wrong for thousands, where a plan that reads whole tables is wrong for one.
CREATE OR REPLACE FUNCTION iot_internal.push_viewers(device_ids uuid[], usernames text[])
RETURNS TABLE (device_id uuid, ordinal integer, username text)
LANGUAGE c STABLE STRICT SECURITY DEFINER ROWS 1000
SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_seqscan = off SET enable_memoize = off SET jit = off SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_push_viewers';

-- Who of these users may be sent which of these notifications: iot_internal.may_receive() for many
-- at once.  Notifications for none of them are left out.
CREATE OR REPLACE FUNCTION iot_internal.push_eligible(seqs bigint[], usernames text[])
RETURNS TABLE (seq bigint, recipients integer[])
LANGUAGE c STABLE STRICT SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_seqscan = off SET enable_memoize = off SET jit = off SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_push_eligible';

CREATE OR REPLACE FUNCTION iot_internal.push_state(
	OUT epoch text, OUT paused boolean, OUT head bigint, OUT floor bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	SELECT e.epoch::text, iot_internal.epoch_state() <> 'ok', e.notification_floor,
			greatest(e.notification_floor,
				(SELECT n.seq FROM iot.notification n ORDER BY n.seq DESC LIMIT 1), 0)
		INTO STRICT epoch, paused, floor, head
		FROM iot.epoch e;
END
$function$;

-- The state at the begin of a session: a copy or a promoted standby is noticed here, if nobody has
-- noticed it before.
CREATE OR REPLACE FUNCTION iot_internal.push_hello()
RETURNS TABLE (epoch text, paused boolean, head bigint, floor bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.check_epoch();
	RETURN QUERY SELECT s.epoch, s.paused, s.head, s.floor FROM iot_internal.push_state() AS s;
END
$function$;

-- Whether a token is that of somebody who may connect: a user who is known and enabled, whatever role
-- has his name, and the token not revoked.  A token's name alone makes nobody an administrator.
CREATE OR REPLACE FUNCTION iot_internal.push_authorize(
	username text, issued_at numeric, token_id text)
RETURNS TABLE (epoch text, paused boolean, head bigint, floor bigint, allowed boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT s.epoch, s.paused, s.head, s.floor,
			iot_internal.token_counts(push_authorize.username, push_authorize.issued_at,
				push_authorize.token_id)
		FROM iot_internal.push_state() AS s;
END
$function$;

-- Places of the tokens that no longer count: iot_internal.token_counts() for many at once.
CREATE OR REPLACE FUNCTION iot_internal.push_recheck(
	usernames text[], issued_at numeric[], token_ids text[])
RETURNS TABLE (place bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1
SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off
AS $function$
BEGIN
	RETURN QUERY
	SELECT t.place
		FROM unnest(push_recheck.usernames, push_recheck.issued_at, push_recheck.token_ids)
				WITH ORDINALITY AS t (username, issued_at, token_id, place)
			LEFT JOIN iot.app_user u ON u.username = t.username
		WHERE (u.enabled AND (u.tokens_valid_from IS NULL
					OR t.issued_at >= extract(epoch FROM u.tokens_valid_from))) IS NOT TRUE
			OR EXISTS (SELECT FROM iot.revoked_token r WHERE r.token_id = t.token_id OFFSET 0);
END
$function$;

-- The notifications of a page, as events of the protocol.  Each is left out unless there is a
-- recipient, and comes once for all who read the same words.
CREATE OR REPLACE FUNCTION iot_internal.push_events(seqs bigint[], usernames text[])
RETURNS TABLE (seq bigint, event text, device text, device_group text, recipients integer[],
	message text)
LANGUAGE c STABLE STRICT SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_seqscan = off SET enable_memoize = off SET jit = off SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_push_events';

-- Cuts sequence numbers, in their order, where the texts behind them come to 64 kB: a page waits in
-- memory for its sockets.
CREATE OR REPLACE FUNCTION iot_internal.push_cut(seqs bigint[]) RETURNS bigint[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
	IF cardinality(seqs) < 2 THEN
		RETURN seqs;
	END IF;
	RETURN ARRAY(
		SELECT c.seq
			FROM (SELECT n.seq, sum(200 + octet_length(n.title) + octet_length(n.body::text))
						OVER (ORDER BY n.seq) - octet_length(n.body::text) AS before
					FROM iot.notification n WHERE n.seq = ANY (seqs)) AS c
			WHERE c.before < 65536
			ORDER BY c.seq);
END
$function$;

-- The next notifications after a position that are for any of these users, in order.  recipients
-- are places in the array; broadcast says that a delivery to whoever comes first still waits.
CREATE OR REPLACE FUNCTION iot_internal.push_since(usernames text[], after_seq bigint, max_rows integer)
RETURNS TABLE (epoch text, paused boolean, head bigint, floor bigint, scanned_to bigint,
	seq bigint, event text, device text, device_group text, broadcast boolean,
	recipients integer[], message text)
LANGUAGE c STABLE STRICT SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_seqscan = off SET enable_memoize = off SET jit = off SET plan_cache_mode = force_generic_plan
AS 'MODULE_PATHNAME', 'iot_push_since';

-- The same for what is pending: deliveries to these users, or to whoever comes first, that nobody
-- has taken, after a position and not beyond another (the head, where it is NULL).
CREATE OR REPLACE FUNCTION iot_internal.push_pending(usernames text[], after_seq bigint,
	until_seq bigint, max_rows integer)
RETURNS TABLE (epoch text, paused boolean, head bigint, floor bigint, scanned_to bigint,
	seq bigint, event text, device text, device_group text, broadcast boolean,
	recipients integer[], message text)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	state record;
	last_seq bigint;
	page bigint[] := '{}';
	kept bigint[];
BEGIN
	SELECT s.* INTO state FROM iot_internal.push_state() AS s;
	last_seq := least(coalesce(until_seq, state.head), state.head);
	IF NOT state.paused AND last_seq > push_pending.after_seq THEN
		-- per recipient in the order of the index, and never more than can be used
		page := ARRAY(
			SELECT DISTINCT p.seq
				FROM unnest(usernames || '*'::text) AS q (recipient)
					CROSS JOIN LATERAL (
						SELECT d.seq FROM iot.delivery d
						WHERE d.recipient = q.recipient AND d.channel = 'push'
							AND d.status = 'PENDING'
							AND d.seq > push_pending.after_seq AND d.seq <= last_seq
						ORDER BY d.seq LIMIT max_rows) AS p
				ORDER BY p.seq LIMIT max_rows);
	END IF;
	kept := iot_internal.push_cut(page);
	RETURN QUERY SELECT state.epoch, state.paused, state.head, state.floor,
		CASE WHEN state.paused THEN push_pending.after_seq
			WHEN cardinality(kept) < cardinality(page) OR cardinality(page) >= max_rows
				THEN kept[cardinality(kept)]
			ELSE greatest(last_seq, push_pending.after_seq) END,
		NULL::bigint, NULL::text, NULL::text, NULL::text, NULL::boolean, NULL::integer[], NULL::text;
	IF cardinality(kept) > 0 THEN
		RETURN QUERY
		WITH waiting AS MATERIALIZED (
			SELECT d.seq, d.recipient FROM iot.delivery d
				WHERE d.seq = ANY (kept) AND d.channel = 'push' AND d.status = 'PENDING'
		), chosen AS (
			SELECT e.*,
					EXISTS (SELECT FROM waiting w WHERE w.seq = e.seq AND w.recipient = '*')
						AS broadcast
				FROM iot_internal.push_events(kept, usernames) AS e
		), due AS (
			-- who is eligible and has taken it already is not told again
			SELECT c.seq, c.event, c.device, c.device_group, c.broadcast, c.message,
					ARRAY(SELECT r.ordinal FROM unnest(c.recipients) AS r (ordinal)
						WHERE c.broadcast OR EXISTS (SELECT FROM waiting w
							WHERE w.seq = c.seq AND w.recipient = usernames[r.ordinal])
						ORDER BY r.ordinal) AS recipients
				FROM chosen c
		)
		SELECT NULL::text, NULL::boolean, NULL::bigint, NULL::bigint, NULL::bigint,
				u.seq, u.event, u.device, u.device_group, u.broadcast, u.recipients, u.message
			FROM due u WHERE cardinality(u.recipients) > 0
			ORDER BY u.seq;
	END IF;
END
$function$;

-- Records that sockets took these deliveries.  Returns how many were still pending: of two daemons
-- that both told somebody, one records it.
CREATE OR REPLACE FUNCTION iot_internal.push_delivered(seqs bigint[], recipients text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	recorded bigint;
BEGIN
	WITH pending AS (
		-- locked in one order by all daemons, and by key for each, whatever a plan of long ago knew
		SELECT d.seq, d.channel, d.recipient
			FROM (SELECT u.seq, u.recipient FROM unnest(seqs, recipients) AS u (seq, recipient)
					ORDER BY u.seq, u.recipient) AS t
				CROSS JOIN LATERAL (
					SELECT k.seq, k.channel, k.recipient FROM iot.delivery k
					WHERE k.seq = t.seq AND k.channel = 'push' AND k.recipient = t.recipient
						AND CASE k.status WHEN 'PENDING' THEN true ELSE false END
					FOR UPDATE) AS d
	)
	UPDATE iot.delivery d
		SET status = 'DELIVERED', delivered_at = clock_timestamp(), last_error = NULL
		FROM pending p
		WHERE d.seq = ANY (ARRAY[p.seq]) AND d.channel = ANY (ARRAY[p.channel])
			AND d.recipient = ANY (ARRAY[p.recipient])
			AND CASE d.status WHEN 'PENDING' THEN true ELSE false END;
	GET DIAGNOSTICS recorded = ROW_COUNT;
	RETURN recorded;
END
$function$;

-- The device groups whose devices the user may view: the rule of iot.may(), once for all of them.
CREATE OR REPLACE FUNCTION iot_internal.push_groups(username text) RETURNS uuid[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF iot_internal.is_admin_user(push_groups.username) THEN
		RETURN ARRAY(SELECT g.device_group_id FROM iot.device_group g);
	END IF;
	RETURN ARRAY(
		SELECT DISTINCT g.device_group_id
			FROM iot.app_user u
				JOIN iot.user_group_member m ON m.app_user_id = u.app_user_id
				JOIN iot.access_grant g ON g.user_group_id = m.user_group_id
			WHERE u.username = push_groups.username AND u.enabled);
END
$function$;

-- What sensors hold now that are listened to and may have changed.  watches is an array of objects:
-- watch (its place), id (for the message), username, devices and groups (names, which add up),
-- parameters (names; absent: all), and since (absent: whatever there is).  For each there is one row
-- with sensors, how many it selects, with since, to ask with the next time, and with a mark of the
-- devices; and then, unless there are more than max_sensors of them, those whose row was written by
-- that transaction or a later one, oldest change first, each with a mark of the row's state.
CREATE OR REPLACE FUNCTION iot_internal.push_values(watches jsonb, max_sensors integer)
RETURNS TABLE (watch integer, sensors bigint, since text, mark bigint, message text)
-- by index for each sensor, as above: whoever listens names few of many
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off
AS $function$
#variable_conflict use_column
DECLARE
	-- whatever is committed later was written by this transaction or one after it
	now_since text := pg_snapshot_xmin(pg_current_snapshot())::xid::text;
	w record;
	asked_user text;
	allowed uuid[];
	device_ids uuid[];
BEGIN
	FOR w IN
		SELECT q.* FROM jsonb_to_recordset(push_values.watches) AS q (watch integer, id bigint,
				username text, devices text[], groups text[], parameters text[], since xid)
			ORDER BY q.username
	LOOP
		IF asked_user IS DISTINCT FROM w.username THEN
			asked_user := w.username;
			allowed := iot_internal.push_groups(asked_user);
		END IF;
		device_ids := ARRAY(
			SELECT d.device_id FROM iot.device d
				WHERE d.name = ANY (w.devices) AND d.device_group_id = ANY (allowed)
			UNION
			SELECT d.device_id
				FROM iot.device_group g JOIN iot.device d ON d.device_group_id = g.device_group_id
				WHERE g.name = ANY (w.groups) AND g.device_group_id = ANY (allowed)
			LIMIT max_sensors + 1);
		RETURN QUERY
		WITH selected AS MATERIALIZED (
			SELECT d.name AS device, p.name AS parameter, p.unit, v.value, v.value_at, v.source,
					v.device_id, v.parameter_id, v.xmin AS written_by
				FROM unnest(device_ids) AS q (device_id)
					JOIN iot.device d ON d.device_id = q.device_id
					JOIN iot.sensor_value v ON v.device_id = d.device_id
					JOIN iot.parameter p ON p.parameter_id = v.parameter_id
				WHERE w.parameters IS NULL OR p.name = ANY (w.parameters)
				LIMIT max_sensors + 1
		), counted AS MATERIALIZED (
			SELECT greatest(count(*), cardinality(device_ids)) AS sensors FROM selected
		)
		SELECT w.watch, c.sensors, now_since,
				(SELECT bit_xor(uuid_hash_extended(q.device_id, 0))
					FROM unnest(device_ids) AS q (device_id)),
				NULL::text
			FROM counted c
		UNION ALL
		(SELECT NULL, NULL, NULL,
				uuid_hash_extended(s.device_id,
					uuid_hash_extended(s.parameter_id, s.written_by::text::bigint)),
				json_build_object('op', 'measurement', 'id', w.id, 'device', s.device,
					'parameter', s.parameter, 'value', s.value, 'unit', s.unit,
					'at', iot_internal.utc_text(s.value_at), 'source', s.source)::text
			FROM selected s CROSS JOIN counted c
			WHERE c.sensors <= max_sensors
				-- a command that is taken back may leave no value behind, which is news
				AND CASE WHEN w.since IS NULL THEN s.value IS NOT NULL
					ELSE age(s.written_by) <= age(w.since) END
			ORDER BY age(s.written_by) DESC);
	END LOOP;
END
$function$;
