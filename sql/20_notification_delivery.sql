-- The book-keeping of telling: what is due on each channel, and how attempts ended.

-- Counts another attempt for push deliveries that nobody has taken; the notifier then hints at
-- them.  1 s, 2 s, 4 s ... 60 s apart.  At most so many at once: a daemon that hears a hint reads
-- all that is pending anyhow.
--
-- What is due is judged by the time of the statement, which an index can be searched by; the clock
-- itself, being different for each row, would have every pending row read.  Plans are kept, and made
-- when the table may be empty still: they must not be those for a small one, so that deliveries are
-- looked up by their keys whatever the statistics say (src/plan.h tells how), here and
-- below.
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
			last_error = CASE WHEN d.attempts > 0 THEN 'no eligible user was connected' END
		FROM (SELECT q.seq, q.channel, q.recipient FROM iot.delivery q
				WHERE q.status = 'PENDING' AND q.channel = 'push'
					AND q.next_attempt_at <= statement_timestamp()
				ORDER BY q.next_attempt_at LIMIT max_deliveries
				FOR UPDATE SKIP LOCKED) AS p
		WHERE d.seq = ANY (ARRAY[p.seq]) AND d.channel = ANY (ARRAY[p.channel])
			AND d.recipient = ANY (ARRAY[p.recipient]);
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
	-- chosen once, whatever the join below looks like: a second look would not see the rows that the
	-- first one took, and take others
	WITH due AS MATERIALIZED (
		SELECT q.seq, q.channel, w.name, w.url, w.options,
				coalesce((w.options ->> 'timeout')::interval, interval '10 s') AS timeout
			FROM iot.webhook w
				CROSS JOIN LATERAL (
					SELECT p.seq, p.channel FROM iot.delivery p
					WHERE p.channel = 'webhook' AND p.recipient = w.name
						AND p.status = 'PENDING' AND p.next_attempt_at <= statement_timestamp()
					ORDER BY p.next_attempt_at
					LIMIT greatest(0, webhook_take.max_per_webhook
						- cardinality(array_positions(webhook_take.busy, w.name)))
					FOR UPDATE SKIP LOCKED) AS q
			WHERE w.enabled AND w.name <> ALL (webhook_take.held)
			LIMIT webhook_take.max_attempts),
	taken AS (
		UPDATE iot.delivery d
			SET attempts = d.attempts + 1,
				started_at = clock_timestamp(),
				next_attempt_at = clock_timestamp() + x.timeout + interval '10 s'
			FROM due AS x
			WHERE d.seq = ANY (ARRAY[x.seq]) AND d.channel = ANY (ARRAY[x.channel])
				AND d.recipient = ANY (ARRAY[x.name])
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

-- Takes e-mails that are due, as the start of an attempt each, for the mail server that is enabled;
-- busy and held as above.  Permission is asked again, and the words are made now: quiet hours and an
-- outage may lie between.  What can never be sent is given up here.
CREATE OR REPLACE FUNCTION iot_internal.email_take(busy text[], held text[], max_attempts integer,
	max_per_server integer)
RETURNS TABLE (seq bigint, recipient text, server text, url text, timeout_ms integer, ca_file text,
	starttls boolean, username text, password text, problem text, sender text, address text,
	message text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
	chosen record;
	due record;
	person record;
	told record;
	words record;
	refusal text;
BEGIN
	SELECT m.name, m.url, m.sender, m.sender_name, m.options, s.value AS password,
			coalesce((m.options ->> 'timeout')::interval, interval '30 s') AS timeout
		INTO chosen
		FROM iot.mail_server m LEFT JOIN iot.secret s ON s.name = m.options ->> 'password_secret'
		WHERE m.enabled AND m.name <> ALL (email_take.held);
	IF NOT FOUND THEN
		RETURN;
	END IF;
	FOR due IN
		SELECT d.seq, d.recipient FROM iot.delivery d
			WHERE d.channel = 'email' AND d.status = 'PENDING'
				AND d.next_attempt_at <= statement_timestamp()
			ORDER BY d.next_attempt_at
			LIMIT least(email_take.max_attempts, greatest(0, email_take.max_per_server
				- cardinality(array_positions(email_take.busy, chosen.name))))
			FOR UPDATE SKIP LOCKED LOOP
		SELECT n.* INTO told FROM iot.notification n WHERE n.seq = due.seq;
		SELECT u.email, u.language, u.time_zone, u.enabled INTO person
			FROM iot.app_user u WHERE u.username = due.recipient;
		refusal := CASE
			WHEN NOT coalesce(person.enabled, false) THEN 'the user is gone or disabled'
			WHEN person.email IS NULL THEN 'the user has no e-mail address'
			WHEN NOT iot_internal.may_be_told(due.recipient, told.device_id)
				THEN 'the user may not view the device any more' END;
		UPDATE iot.delivery d
			SET status = CASE WHEN refusal IS NULL THEN 'PENDING' ELSE 'FAILED' END,
				last_error = coalesce(refusal, d.last_error),
				attempts = d.attempts + CASE WHEN refusal IS NULL THEN 1 ELSE 0 END,
				started_at = CASE WHEN refusal IS NULL THEN clock_timestamp() END,
				next_attempt_at = clock_timestamp() + chosen.timeout + interval '10 s'
			WHERE d.seq = due.seq AND d.channel = 'email' AND d.recipient = due.recipient;
		CONTINUE WHEN refusal IS NOT NULL;
		SELECT l.title, l.body INTO words
			FROM iot_internal.localized(due.seq, person.language, person.time_zone) AS l;
		seq := due.seq;
		recipient := due.recipient;
		server := chosen.name;
		url := chosen.url;
		timeout_ms := (extract(epoch FROM chosen.timeout) * 1000)::integer;
		ca_file := chosen.options ->> 'ca_file';
		starttls := coalesce(chosen.options ->> 'starttls', 'required') = 'required';
		username := chosen.options ->> 'username';
		password := chosen.password;
		problem := CASE WHEN chosen.options ? 'password_secret' AND chosen.password IS NULL
			THEN format('secret "%s" does not exist', chosen.options ->> 'password_secret') END;
		sender := chosen.sender;
		address := person.email;
		message := iot_internal.mail_message(told.event_id, told.created_at, told.event,
			told.body ->> 'alarm_id', chosen.sender, chosen.sender_name, person.email, words.title,
			coalesce(nullif(words.body ->> 'text', ''), words.title));
		RETURN NEXT;
	END LOOP;
END
$$;

-- Records how attempts ended.  A failed one is tried again 1 s, 2 s, 4 s ... 10 min later, less up
-- to half by chance, until the max_attempts of its webhook or mail server are used up, or where the
-- mail server has refused it for good.
CREATE OR REPLACE FUNCTION iot_internal.delivery_result(seqs bigint[], channels text[],
	recipients text[], oks boolean[], finals boolean[], errors text[])
RETURNS TABLE (seq bigint, channel text, recipient text, status text, attempts integer)
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
		FROM (SELECT q.seq, q.channel, q.recipient, q.attempts, u.error,
					CASE WHEN u.ok THEN 'DELIVERED'
						WHEN u.final OR q.attempts >= m.max_attempts THEN 'FAILED'
						ELSE 'PENDING' END AS status
				FROM unnest(seqs, channels, recipients, oks, finals, errors)
						AS u(seq, channel, recipient, ok, final, error)
					CROSS JOIN LATERAL (
						SELECT k.seq, k.channel, k.recipient, k.attempts FROM iot.delivery k
						WHERE k.seq = u.seq AND k.channel = u.channel AND k.recipient = u.recipient
							AND CASE k.status WHEN 'PENDING' THEN true ELSE false END
						OFFSET 0) AS q
					CROSS JOIN LATERAL (
						-- a webhook that is gone takes no further attempt, e-mail has other servers
						SELECT CASE u.channel
							WHEN 'webhook' THEN coalesce((
								SELECT coalesce((w.options ->> 'max_attempts')::integer, 12)
									FROM iot.webhook w WHERE w.name = u.recipient), 0)
							ELSE coalesce((
								SELECT (s.options ->> 'max_attempts')::integer
									FROM iot.mail_server s WHERE s.enabled), 24)
							END AS max_attempts) AS m) AS r
		WHERE d.seq = ANY (ARRAY[r.seq]) AND d.channel = ANY (ARRAY[r.channel])
			AND d.recipient = ANY (ARRAY[r.recipient])
		RETURNING d.seq, d.channel, d.recipient, d.status, d.attempts;
END
$$;

-- Makes attempts that a dead notifier left under way due at once.  For its successor's start.
CREATE OR REPLACE FUNCTION iot_internal.delivery_recover() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	recovered integer;
BEGIN
	UPDATE iot.delivery d
		SET started_at = NULL, next_attempt_at = clock_timestamp()
		WHERE d.channel = ANY (ARRAY['webhook', 'email']) AND d.status = 'PENDING'
			AND d.started_at IS NOT NULL;
	GET DIAGNOSTICS recovered = ROW_COUNT;
	RETURN recovered;
END
$$;
