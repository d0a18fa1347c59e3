-- Reminders and escalation: whom the clock tells of an alarm that nobody has acknowledged.
--
-- A rule that is matched by an alarm that opens, or grows red, leaves rows in iot.escalation: one per
-- step, and one, numbered 0, for the reminders of the rule itself.  Each is told in the transaction
-- that moves it on or deletes it, and that asks whether the alarm is still open and unacknowledged:
-- told once, and by whichever notifier comes by.

-- Rows for what the events of a window may make necessary.
CREATE OR REPLACE FUNCTION iot_internal.begin_escalation(event_types text[], device_ids uuid[],
	payloads jsonb[], times timestamptz[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	INSERT INTO iot.escalation (alarm_id, notification_rule_id, step, device_id, event, payload,
			due_at, sent)
		SELECT a.alarm_id, r.notification_rule_id, s.step, a.device_id, e.type, e.payload,
				e.created_at + s.after, CASE s.step WHEN 0 THEN 1 ELSE 0 END
			FROM unnest(event_types, device_ids, payloads, times) AS e(type, device_id, payload, created_at)
				JOIN iot.alarm a ON a.device_id = e.device_id AND a.status = 'OPENED'
					AND a.acknowledged_at IS NULL AND a.alarm_id::text = e.payload ->> 'alarm_id'
				JOIN iot.notification_rule r
					ON r.enabled AND iot_internal.event_matches(r.event, e.type)
				CROSS JOIN LATERAL (
					SELECT 0 AS step, r.remind_every AS after WHERE r.remind_every IS NOT NULL
					UNION ALL
					SELECT s.step, s.after FROM iot.escalation_step s
						WHERE s.notification_rule_id = r.notification_rule_id) AS s
			WHERE e.type = 'alarm.opened'
				OR (e.type = 'alarm.severity_changed' AND e.payload ->> 'severity' = 'red')
		-- what runs already goes on
		ON CONFLICT ON CONSTRAINT escalation_pkey DO NOTHING;
END
$function$;

-- Writes one notification and its deliveries, outside the log of events.
CREATE OR REPLACE FUNCTION iot_internal.tell(p_rule_id uuid, p_event text, p_device_id uuid,
	p_payload jsonb, p_channel text, p_audience text, p_title text, p_body text, p_now timestamptz,
	INOUT notifications integer, INOUT pushes integer, INOUT transfers integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	told_id uuid := iot_internal.uuidv7();
	author text := p_payload ->> 'username';
	device text := coalesce((SELECT d.name FROM iot.device d WHERE d.device_id = p_device_id),
		p_payload ->> 'device');
	recipients text[] := ARRAY(SELECT t.recipient FROM iot_internal.audience_recipients(p_channel,
		p_audience, author, p_device_id, iot_internal.admin_usernames()) AS t(recipient));
	holders text[] := iot_internal.holders();
	written bigint;
	made record;
BEGIN
	IF cardinality(recipients) = 0 THEN
		RETURN;
	END IF;
	INSERT INTO iot.notification (event_id, event, channel, audience, username, device_id, device,
			title, body, texts, event_at)
		SELECT told_id, p_event, p_channel, p_audience, author, p_device_id, device, w.title, w.body,
				iot_internal.kept_texts(p_rule_id, p_title, p_body), p_now
			FROM iot_internal.render_words(p_title, p_body, p_payload,
				iot_internal.event_values(p_event, told_id, device, p_device_id, author, p_now,
					p_payload)) AS w
		RETURNING seq INTO written;
	WITH due AS (
		INSERT INTO iot.delivery (seq, channel, recipient, status, attempts, next_attempt_at, not_before)
			SELECT written, p_channel, r.recipient,
					CASE WHEN h.until = 'infinity' THEN 'MUTED' ELSE 'PENDING' END,
					CASE WHEN p_channel = 'push' AND h.until IS NULL THEN 1 ELSE 0 END,
					coalesce(h.until, clock_timestamp() + CASE p_channel WHEN 'push' THEN interval '1 s'
						ELSE interval '0' END),
					h.until
				FROM unnest(recipients) AS r(recipient)
					CROSS JOIN LATERAL (
						SELECT CASE WHEN p_channel <> 'webhook' AND r.recipient = ANY (holders)
							THEN iot_internal.hold_until(r.recipient, p_event, p_device_id,
								p_payload ->> 'severity', p_now) END AS until
						OFFSET 0) AS h
			RETURNING not_before)
	SELECT count(*) AS now INTO made FROM due d WHERE d.not_before IS NULL;
	notifications := notifications + 1;
	IF p_channel = 'push' THEN
		pushes := pushes + made.now;
	ELSE
		transfers := transfers + made.now;
	END IF;
END
$function$;

-- Tells what has fallen due by p_now, at most so many.  What cannot be told goes to the dead letters
-- and stops nothing.  The time is the caller's, so that tests need not wait.
CREATE OR REPLACE FUNCTION iot_internal.escalate(p_now timestamptz, max_steps integer,
	OUT events integer, OUT notifications integer, OUT pushes integer, OUT transfers integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off AS $function$
DECLARE
	pending record;
	about jsonb;
	told record;
BEGIN
	events := 0;
	notifications := 0;
	pushes := 0;
	transfers := 0;
	FOR pending IN
		SELECT e.alarm_id, e.notification_rule_id, e.step, e.device_id, e.event, e.payload, e.due_at,
				e.sent, a.severity, a.message, r.title, r.body,
				CASE e.step WHEN 0 THEN r.channel ELSE s.channel END AS channel,
				CASE e.step WHEN 0 THEN r.audience ELSE s.audience END AS audience,
				CASE e.step WHEN 0 THEN r.remind_every ELSE s.remind_every END AS remind_every,
				CASE e.step WHEN 0 THEN r.remind_max ELSE s.remind_max END AS remind_max,
				a.alarm_id IS NOT NULL AND r.enabled AND (e.step = 0 OR s.step IS NOT NULL) AS wanted
			FROM iot.escalation e
				LEFT JOIN iot.alarm a ON a.device_id = e.device_id AND a.alarm_id = e.alarm_id
					AND a.status = 'OPENED' AND a.acknowledged_at IS NULL
				LEFT JOIN iot.notification_rule r ON r.notification_rule_id = e.notification_rule_id
				LEFT JOIN iot.escalation_step s ON s.notification_rule_id = e.notification_rule_id
					AND s.step = e.step
			WHERE e.due_at <= p_now
			ORDER BY e.due_at, e.step
			LIMIT max_steps
			FOR UPDATE OF e SKIP LOCKED LOOP
		events := events + 1;
		IF coalesce(pending.wanted, false) AND (pending.step > 0 OR pending.remind_every IS NOT NULL) THEN
			about := pending.payload || jsonb_build_object('severity', pending.severity,
				'message', pending.message);
			IF pending.step > 0 THEN
				about := about || jsonb_build_object('step', pending.step);
			END IF;
			IF pending.sent > 0 THEN
				about := about || jsonb_build_object('reminder', pending.sent);
			END IF;
			BEGIN
				SELECT t.* INTO told FROM iot_internal.tell(pending.notification_rule_id, pending.event,
					pending.device_id, about, pending.channel, pending.audience, pending.title,
					pending.body, p_now, notifications, pushes, transfers) AS t;
				notifications := told.notifications;
				pushes := told.pushes;
				transfers := told.transfers;
			EXCEPTION WHEN data_exception OR integrity_constraint_violation OR plpgsql_error THEN
				PERFORM iot_internal.dead_letter_add(NULL, about ->> 'device', pending.event,
					convert_to(about::text, 'UTF8'), 'notification_failed', SQLERRM);
			END;
			IF pending.sent < pending.remind_max AND pending.remind_every IS NOT NULL THEN
				-- after an outage one reminder, not all that were missed
				UPDATE iot.escalation e
					SET sent = e.sent + 1,
						due_at = CASE WHEN e.due_at + pending.remind_every > p_now
							THEN e.due_at ELSE p_now END + pending.remind_every
					WHERE e.alarm_id = pending.alarm_id
						AND e.notification_rule_id = pending.notification_rule_id
						AND e.step = pending.step;
				CONTINUE;
			END IF;
		END IF;
		DELETE FROM iot.escalation e
			WHERE e.alarm_id = pending.alarm_id
				AND e.notification_rule_id = pending.notification_rule_id AND e.step = pending.step;
	END LOOP;
END
$function$;
