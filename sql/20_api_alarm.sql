-- The life of an alarm, as far as people have a part in it.

CREATE OR REPLACE FUNCTION iot_internal.event_append(
	type text, aggregatetype text, aggregateid text, device_id uuid, payload jsonb) RETURNS void
LANGUAGE c VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_event_append_sql';

-- The clock by which silence is judged; tests stop it at a time of theirs, in their session alone.
CREATE OR REPLACE FUNCTION iot_internal.alarm_now() RETURNS timestamptz
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_alarm_now_sql';

CREATE OR REPLACE FUNCTION iot_internal.set_alarm_clock(at timestamptz) RETURNS void
LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_alarm_set_clock_sql';

-- Judges what has fallen due in silence, as the notifier does at least once a second.
CREATE OR REPLACE FUNCTION iot_internal.alarm_sweep(max_states integer) RETURNS integer
LANGUAGE c VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_alarm_sweep_sql';

CREATE OR REPLACE FUNCTION iot_internal.alarm_rule_max_errors() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$ SELECT 10 $$;

-- Disables rules that failed too often in a row; the sweep does so, outside anybody's measurements.
CREATE OR REPLACE FUNCTION iot_internal.disable_broken_alarm_rules() RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	broken record;
	disabled integer := 0;
BEGIN
	FOR broken IN
		SELECT r.alarm_rule_id, r.name, r.severity, e.device_id, d.name AS device, e.error, e.errors,
				e.failed_at
			FROM iot.alarm_rule_error e
				JOIN iot.alarm_rule r ON r.alarm_rule_id = e.alarm_rule_id
				LEFT JOIN iot.device d ON d.device_id = e.device_id
			WHERE r.enabled AND e.errors >= iot_internal.alarm_rule_max_errors()
			ORDER BY r.alarm_rule_id FOR UPDATE OF r SKIP LOCKED LOOP
		UPDATE iot.alarm_rule r SET enabled = false WHERE r.alarm_rule_id = broken.alarm_rule_id;
		PERFORM iot_internal.event_append('alarm_rule.disabled', 'alarm_rule',
			broken.alarm_rule_id::text, broken.device_id,
			jsonb_strip_nulls(jsonb_build_object('alarm_rule_id', broken.alarm_rule_id,
				'rule', broken.name, 'severity', broken.severity, 'device', broken.device,
				'error', broken.error, 'errors', broken.errors,
				'failed_at', iot_internal.utc_text(broken.failed_at))));
		disabled := disabled + 1;
	END LOOP;
	RETURN disabled;
END
$function$;

-- Rules that fail, and those that were disabled for it.
CREATE OR REPLACE FUNCTION iot_internal.check_alarm_rules()
RETURNS TABLE (severity text, finding text, hint text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN QUERY SELECT 'warning',
			format(CASE WHEN r.enabled THEN 'alarm rule "%s" failed %s times in a row: %s'
				ELSE 'alarm rule "%s" was disabled, since it failed %s times in a row: %s' END,
				r.name, e.errors, e.error),
			'Correct its row in iot.alarm_rule and enable it.'
		FROM iot.alarm_rule_error e JOIN iot.alarm_rule r ON r.alarm_rule_id = e.alarm_rule_id
		ORDER BY r.name;
END
$function$;

-- A time as alarms that rules open and close have it in their events: all of its digits, and UTC.
CREATE OR REPLACE FUNCTION iot_internal.payload_time(at timestamptz) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN (to_jsonb(at AT TIME ZONE 'UTC') #>> '{}') || '+00:00';
END
$function$;

-- Appends an event about an alarm as it stands now; details are keys of this event alone.
CREATE OR REPLACE FUNCTION iot_internal.alarm_event(
	type text, alarm_id uuid, username text, details jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.event_append(alarm_event.type, 'alarm', a.alarm_id::text, a.device_id,
			jsonb_strip_nulls(jsonb_build_object('alarm_id', a.alarm_id,
				'alarm_rule_id', a.alarm_rule_id, 'rule', a.rule, 'severity', a.severity,
				'device', d.name, 'parameter', p.name, 'value', a.value, 'unit', p.unit,
				'message', a.message, 'opened_at', iot_internal.payload_time(a.opened_at),
				'closed_at', iot_internal.payload_time(a.closed_at), 'assignee', a.assignee,
				'username', alarm_event.username)) || coalesce(details, '{}'))
		FROM iot.alarm a
			JOIN iot.device d ON d.device_id = a.device_id
			LEFT JOIN iot.parameter p ON p.parameter_id = a.parameter_id
		WHERE a.alarm_id = alarm_event.alarm_id;
END
$function$;

-- Finds an alarm, checks that the caller may operate its device, and locks it.
CREATE OR REPLACE FUNCTION iot_internal.operate_alarm(
	INOUT alarm_id uuid, OUT device_id uuid, OUT username text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	device text;
BEGIN
	SELECT a.device_id, d.name INTO operate_alarm.device_id, device
		FROM iot.alarm a JOIN iot.device d ON d.device_id = a.device_id
		WHERE a.alarm_id = operate_alarm.alarm_id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'alarm % does not exist', coalesce(operate_alarm.alarm_id::text, 'NULL')
			USING ERRCODE = 'undefined_object',
				HINT = 'Give the alarm_id of a row of iot.alarm; iot.open_alarm lists those that are open.';
	END IF;
	operate_alarm.username := iot_internal.current_username();
	IF operate_alarm.username IS NULL OR NOT (iot_internal.is_admin()
			OR iot.may(operate_alarm.username, operate_alarm.device_id, 'operate')) THEN
		RAISE EXCEPTION 'permission denied for device "%"', device
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = CASE WHEN operate_alarm.username IS NULL THEN 'The session names no user.'
					ELSE format('User "%s" lacks level "operate" on the device''s group.',
						operate_alarm.username) END,
				HINT = 'Levels are granted in iot.access_grant, from user group to device group.';
	END IF;
	PERFORM FROM iot.alarm a
		WHERE a.device_id = operate_alarm.device_id AND a.alarm_id = operate_alarm.alarm_id
		FOR NO KEY UPDATE;
END
$function$;

-- Closes an alarm by somebody's decision, or by nobody's; false where it is closed already.
CREATE OR REPLACE FUNCTION iot_internal.end_alarm(alarm_id uuid, username text, reason text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	closed record;
BEGIN
	UPDATE iot.alarm a
		SET status = 'CLOSED', closed_at = greatest(iot_internal.alarm_now(), a.opened_at),
			closed_by = end_alarm.username, close_reason = reason, updated_at = now()
		WHERE a.alarm_id = end_alarm.alarm_id AND a.status = 'OPENED'
		RETURNING a.device_id, a.alarm_rule_id, a.opened_at INTO closed;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	-- what lasts opens no other alarm before something changes; the sweep looks when that may be
	UPDATE iot.alarm_rule_state s
		SET hits = 0, red_hits = 0, red_since = NULL, clear = false,
			since = CASE WHEN r.kind = 'no_data' THEN s.since END,
			judged_at = greatest(iot_internal.alarm_now(), closed.opened_at),
			due_at = iot_internal.alarm_now()
		FROM iot.alarm_rule r
		WHERE s.device_id = closed.device_id AND s.alarm_rule_id = closed.alarm_rule_id
			AND r.alarm_rule_id = s.alarm_rule_id
			AND (r.kind = 'no_data' OR r.time_zone IS NOT NULL);
	IF NOT FOUND THEN
		DELETE FROM iot.alarm_rule_state s
			WHERE s.device_id = closed.device_id AND s.alarm_rule_id = closed.alarm_rule_id;
	END IF;
	PERFORM iot_internal.alarm_event('alarm.closed', end_alarm.alarm_id, end_alarm.username,
		jsonb_strip_nulls(jsonb_build_object('reason', reason)));
	RETURN true;
END
$function$;

-- Writes a comment down; false where it is what the user said last.
CREATE OR REPLACE FUNCTION iot_internal.add_alarm_comment(
	device_id uuid, alarm_id uuid, username text, comment text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	last record;
BEGIN
	IF length(add_alarm_comment.comment) > 10000 THEN
		RAISE EXCEPTION 'comment is too long'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A comment has at most 10000 characters.';
	END IF;
	SELECT c.username, c.comment INTO last FROM iot.alarm_comment c
		WHERE c.device_id = add_alarm_comment.device_id
			AND c.alarm_id = add_alarm_comment.alarm_id
		ORDER BY c.alarm_comment_id DESC LIMIT 1;
	IF FOUND AND last.username = add_alarm_comment.username
		AND last.comment = add_alarm_comment.comment THEN
		RETURN false;
	END IF;
	INSERT INTO iot.alarm_comment (device_id, alarm_id, username, comment)
		VALUES (add_alarm_comment.device_id, add_alarm_comment.alarm_id,
			add_alarm_comment.username, add_alarm_comment.comment);
	RETURN true;
END
$function$;

CREATE OR REPLACE FUNCTION iot.acknowledge_alarm(alarm_id uuid, comment text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	subject record;
BEGIN
	SELECT o.* INTO subject FROM iot_internal.operate_alarm(acknowledge_alarm.alarm_id) AS o;
	UPDATE iot.alarm a
		SET acknowledged_at = now(), acknowledged_by = subject.username, updated_at = now()
		WHERE a.device_id = subject.device_id AND a.alarm_id = subject.alarm_id
			AND a.acknowledged_at IS NULL;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	IF acknowledge_alarm.comment <> '' THEN
		PERFORM iot_internal.add_alarm_comment(subject.device_id, subject.alarm_id,
			subject.username, acknowledge_alarm.comment);
	END IF;
	PERFORM iot_internal.alarm_event('alarm.acknowledged', subject.alarm_id, subject.username,
		jsonb_strip_nulls(jsonb_build_object('comment', acknowledge_alarm.comment)));
	RETURN true;
END
$function$;
COMMENT ON FUNCTION iot.acknowledge_alarm(uuid, text) IS
	'say that somebody has seen the alarm; false where somebody had already';

CREATE OR REPLACE FUNCTION iot.close_alarm(alarm_id uuid, comment text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	subject record;
BEGIN
	SELECT o.* INTO subject FROM iot_internal.operate_alarm(close_alarm.alarm_id) AS o;
	IF NOT iot_internal.end_alarm(subject.alarm_id, subject.username,
			coalesce(nullif(left(close_alarm.comment, 2000), ''), 'closed by ' || subject.username)) THEN
		RETURN false;
	END IF;
	IF close_alarm.comment <> '' THEN
		PERFORM iot_internal.add_alarm_comment(subject.device_id, subject.alarm_id,
			subject.username, close_alarm.comment);
	END IF;
	RETURN true;
END
$function$;
COMMENT ON FUNCTION iot.close_alarm(uuid, text) IS
	'close an alarm by hand; a measurement that is still bad opens another';

CREATE OR REPLACE FUNCTION iot.assign_alarm(alarm_id uuid, username text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	subject record;
BEGIN
	SELECT o.* INTO subject FROM iot_internal.operate_alarm(assign_alarm.alarm_id) AS o;
	IF assign_alarm.username IS NOT NULL
		AND NOT iot.may(assign_alarm.username, subject.device_id, 'view') THEN
		RAISE EXCEPTION 'user "%" may not view the device of the alarm', left(assign_alarm.username, 150)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Assign it to somebody who may, or to nobody: NULL.';
	END IF;
	UPDATE iot.alarm a
		SET assignee = assign_alarm.username, assigned_at = now(),
			assigned_by = subject.username, updated_at = now()
		WHERE a.device_id = subject.device_id AND a.alarm_id = subject.alarm_id
			AND a.assignee IS DISTINCT FROM assign_alarm.username;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM iot_internal.alarm_event('alarm.assigned', subject.alarm_id, subject.username, NULL);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION iot.assign_alarm(uuid, text) IS
	'name who sees to the alarm; NULL for nobody';

CREATE OR REPLACE FUNCTION iot.comment_alarm(alarm_id uuid, comment text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	subject record;
BEGIN
	SELECT o.* INTO subject FROM iot_internal.operate_alarm(comment_alarm.alarm_id) AS o;
	IF comment_alarm.comment IS NULL OR btrim(comment_alarm.comment) = '' THEN
		RAISE EXCEPTION 'comment must not be empty'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Say something about the alarm.';
	END IF;
	IF NOT iot_internal.add_alarm_comment(subject.device_id, subject.alarm_id, subject.username,
			comment_alarm.comment) THEN
		RETURN false;
	END IF;
	PERFORM iot_internal.alarm_event('alarm.commented', subject.alarm_id, subject.username,
		jsonb_build_object('comment', comment_alarm.comment));
	RETURN true;
END
$function$;
COMMENT ON FUNCTION iot.comment_alarm(uuid, text) IS
	'say something about an alarm; the same words again change nothing';

CREATE OR REPLACE FUNCTION iot_internal.backtest_alarm_device(
	alarm_rule_id uuid, device_id uuid, since timestamptz, until timestamptz)
RETURNS TABLE (opened_at timestamptz, closed_at timestamptz, severity text, value double precision)
LANGUAGE c VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_alarm_backtest_sql';

CREATE OR REPLACE FUNCTION iot.backtest_alarm_rule(
	alarm_rule_id uuid, since timestamptz, until timestamptz)
RETURNS TABLE (device text, opened_at timestamptz, closed_at timestamptz, severity text,
	value double precision)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
DECLARE
	username text := iot_internal.current_username();
	admin boolean := iot_internal.is_admin();
	subject record;
BEGIN
	IF NOT EXISTS (SELECT FROM iot.alarm_rule r
			WHERE r.alarm_rule_id = backtest_alarm_rule.alarm_rule_id) THEN
		RAISE EXCEPTION 'alarm rule % does not exist',
				coalesce(backtest_alarm_rule.alarm_rule_id::text, 'NULL')
			USING ERRCODE = 'undefined_object',
				HINT = 'Give the alarm_rule_id of a row of iot.alarm_rule; a disabled one will do.';
	ELSIF backtest_alarm_rule.since < backtest_alarm_rule.until IS NOT TRUE
		OR NOT isfinite(backtest_alarm_rule.since) OR NOT isfinite(backtest_alarm_rule.until) THEN
		RAISE EXCEPTION 'invalid time range'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give a beginning, and an end that is later.';
	END IF;
	FOR subject IN
		SELECT d.device_id, d.name
			FROM iot_internal.alarm_devices(backtest_alarm_rule.alarm_rule_id) AS a (device_id)
				JOIN iot.device d ON d.device_id = a.device_id
			WHERE admin OR iot.may(username, d.device_id, 'view')
			ORDER BY d.name LOOP
		RETURN QUERY SELECT subject.name, b.opened_at, b.closed_at, b.severity, b.value
			FROM iot_internal.backtest_alarm_device(backtest_alarm_rule.alarm_rule_id,
				subject.device_id, backtest_alarm_rule.since, backtest_alarm_rule.until) AS b;
	END LOOP;
END
$function$;
COMMENT ON FUNCTION iot.backtest_alarm_rule(uuid, timestamptz, timestamptz) IS
	'the alarms that a rule, enabled or not, would have opened on stored measurements; severity is the highest';
