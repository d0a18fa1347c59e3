-- How people want to be told: their language and time zone, what they mute, when they want quiet.
-- Everybody sets his own; administrators write the tables.

-- The calling user's key; raises an error where the caller is nobody whom iot.app_user knows.
CREATE OR REPLACE FUNCTION iot_internal.calling_user() RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	me text := iot_internal.current_username();
	found_id uuid;
BEGIN
	SELECT u.app_user_id INTO found_id FROM iot.app_user u WHERE u.username = me AND u.enabled;
	IF found_id IS NULL THEN
		RAISE EXCEPTION 'no user is named, or none whom iot knows'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Preferences are those of an enabled row of iot.app_user; call with a token whose "sub" claim is its username.';
	END IF;
	RETURN found_id;
END
$function$;

CREATE OR REPLACE FUNCTION iot.set_preferences(language text DEFAULT NULL, time_zone text DEFAULT NULL,
	email text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	me uuid := iot_internal.calling_user();
BEGIN
	UPDATE iot.app_user u
		SET language = CASE WHEN set_preferences.language IS NULL THEN u.language
				ELSE nullif(set_preferences.language, '') END,
			time_zone = CASE WHEN set_preferences.time_zone IS NULL THEN u.time_zone
				ELSE nullif(set_preferences.time_zone, '') END,
			email = CASE WHEN set_preferences.email IS NULL THEN u.email
				ELSE nullif(set_preferences.email, '') END
		WHERE u.app_user_id = me;
END
$function$;
COMMENT ON FUNCTION iot.set_preferences(text, text, text) IS
	'the calling user''s language, time zone and address; NULL leaves, an empty text takes away';

CREATE OR REPLACE FUNCTION iot.preferences()
RETURNS TABLE (username text, email text, language text, time_zone text, quiet_starts time,
	quiet_ends time, quiet_weekdays integer[], quiet_allow_red boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT u.username, u.email, u.language, u.time_zone, q.starts, q.ends, q.weekdays, q.allow_red
		FROM iot.app_user u LEFT JOIN iot.quiet_hours q ON q.app_user_id = u.app_user_id
		WHERE u.app_user_id = iot_internal.calling_user();
END
$function$;
COMMENT ON FUNCTION iot.preferences() IS 'how the calling user wants to be told';

-- The key of a device group in which the calling user may view something.
CREATE OR REPLACE FUNCTION iot_internal.viewable_group(device_group text) RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	found_id uuid;
BEGIN
	SELECT g.device_group_id INTO found_id FROM iot.device_group g
		WHERE g.name = viewable_group.device_group
			AND (iot_internal.is_admin() OR EXISTS (
				SELECT FROM iot.user_group_member m
					JOIN iot.access_grant a ON a.user_group_id = m.user_group_id
					WHERE m.app_user_id = iot_internal.calling_user()
						AND a.device_group_id = g.device_group_id));
	IF found_id IS NULL THEN
		RAISE EXCEPTION 'device group "%" does not exist, or nothing in it may be viewed',
				left(device_group, 100)
			USING ERRCODE = 'undefined_object', HINT = 'Levels are granted in iot.access_grant.';
	END IF;
	RETURN found_id;
END
$function$;

CREATE OR REPLACE FUNCTION iot.mute(event text DEFAULT '*', device text DEFAULT NULL,
	device_group text DEFAULT NULL, until timestamptz DEFAULT 'infinity') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	me uuid := iot_internal.calling_user();
	device_key uuid;
	group_key uuid;
BEGIN
	IF NOT coalesce(iot_internal.event_pattern_valid(mute.event), false) THEN
		RAISE EXCEPTION 'invalid event pattern "%"', left(mute.event, 200)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write an event type such as "alarm.closed"; "*" stands for any characters.';
	END IF;
	IF mute.until IS NULL OR mute.until <= now() THEN
		RAISE EXCEPTION 'until must be in the future'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out to mute for good.';
	END IF;
	IF mute.device IS NOT NULL AND mute.device_group IS NOT NULL THEN
		RAISE EXCEPTION 'both a device and a device group are named'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Name one of them, or neither.';
	END IF;
	IF mute.device IS NOT NULL THEN
		device_key := iot_internal.viewable_device(mute.device);
	END IF;
	IF mute.device_group IS NOT NULL THEN
		group_key := iot_internal.viewable_group(mute.device_group);
	END IF;
	DELETE FROM iot.notification_mute m WHERE m.app_user_id = me AND m.until <= now();
	INSERT INTO iot.notification_mute (app_user_id, event, device_id, device_group_id, until)
		VALUES (me, mute.event, device_key, group_key, mute.until)
		ON CONFLICT ON CONSTRAINT notification_mute_key DO UPDATE SET until = excluded.until;
END
$function$;
COMMENT ON FUNCTION iot.mute(text, text, text, timestamptz) IS
	'do not push or mail such events to the calling user; they stay in iot.notifications()';

CREATE OR REPLACE FUNCTION iot.unmute(event text DEFAULT '*', device text DEFAULT NULL,
	device_group text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	me uuid := iot_internal.calling_user();
BEGIN
	-- by their names: the right to view them may be gone meanwhile
	DELETE FROM iot.notification_mute m
		WHERE m.app_user_id = me AND m.event = unmute.event
			AND CASE WHEN unmute.device IS NULL THEN m.device_id IS NULL
				ELSE EXISTS (SELECT FROM iot.device d WHERE d.device_id = m.device_id
					AND (d.name = unmute.device OR d.device_id::text = lower(unmute.device))) END
			AND CASE WHEN unmute.device_group IS NULL THEN m.device_group_id IS NULL
				ELSE EXISTS (SELECT FROM iot.device_group g
					WHERE g.device_group_id = m.device_group_id AND g.name = unmute.device_group) END;
	RETURN FOUND;
END
$function$;
COMMENT ON FUNCTION iot.unmute(text, text, text) IS
	'take back what iot.mute() was told in the same words; false where there was nothing';

CREATE OR REPLACE FUNCTION iot.mutes()
RETURNS TABLE (event text, device text, device_group text, until timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT m.event, d.name, g.name, m.until
		FROM iot.notification_mute m
			LEFT JOIN iot.device d ON d.device_id = m.device_id
			LEFT JOIN iot.device_group g ON g.device_group_id = m.device_group_id
		WHERE m.app_user_id = iot_internal.calling_user() AND m.until > now()
		ORDER BY 1, 2, 3;
END
$function$;
COMMENT ON FUNCTION iot.mutes() IS 'what the calling user has muted';

CREATE OR REPLACE FUNCTION iot.set_quiet_hours(starts time, ends time,
	weekdays integer[] DEFAULT '{1,2,3,4,5,6,7}', allow_red boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	me uuid := iot_internal.calling_user();
BEGIN
	IF (set_quiet_hours.starts IS NULL) <> (set_quiet_hours.ends IS NULL) THEN
		RAISE EXCEPTION 'quiet hours need a begin and an end'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give both, or NULL for both to have none.';
	END IF;
	IF set_quiet_hours.starts IS NULL THEN
		DELETE FROM iot.quiet_hours q WHERE q.app_user_id = me;
		RETURN;
	END IF;
	IF NOT coalesce(cardinality(set_quiet_hours.weekdays) > 0
			AND set_quiet_hours.weekdays <@ ARRAY[1, 2, 3, 4, 5, 6, 7], false) THEN
		RAISE EXCEPTION 'weekdays of quiet hours must be days of the week'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Give some of 1 for Monday to 7 for Sunday, or leave them out for all.';
	END IF;
	IF set_quiet_hours.allow_red IS NULL THEN
		RAISE EXCEPTION 'allow_red must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'True lets red alarms through, false nothing.';
	END IF;
	INSERT INTO iot.quiet_hours (app_user_id, starts, ends, weekdays, allow_red)
		VALUES (me, set_quiet_hours.starts, set_quiet_hours.ends, set_quiet_hours.weekdays,
			set_quiet_hours.allow_red)
		ON CONFLICT ON CONSTRAINT quiet_hours_pkey DO UPDATE
			SET starts = excluded.starts, ends = excluded.ends, weekdays = excluded.weekdays,
				allow_red = excluded.allow_red, updated_at = excluded.updated_at;
END
$function$;
COMMENT ON FUNCTION iot.set_quiet_hours(time, time, integer[], boolean) IS
	'when the calling user is told later, in his time zone; NULL, NULL: never';

-- The end of the quiet hours that a time falls into, or NULL.  They begin on the weekdays at starts,
-- local time, and last until ends, that of the next day where ends is not later; hours that follow
-- on each other at once are one.
CREATE OR REPLACE FUNCTION iot_internal.quiet_until(starts time, ends time, weekdays integer[],
	time_zone text, at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	quiet_end timestamptz;
	reached timestamptz := at;
	longest interval := CASE WHEN ends > starts THEN interval '0' ELSE interval '1 day' END;
BEGIN
	-- a week later it would be for ever
	FOR turn IN 1 .. 8 LOOP
		SELECT max(w.window_end) INTO quiet_end
			FROM generate_series(-1, 0) AS s(day)
				CROSS JOIN LATERAL (
					SELECT (reached AT TIME ZONE time_zone)::date + s.day AS began) AS d
				CROSS JOIN LATERAL (
					SELECT (d.began + starts) AT TIME ZONE time_zone AS window_start,
						(d.began + ends + longest) AT TIME ZONE time_zone AS window_end) AS w
			WHERE extract(isodow FROM d.began)::integer = ANY (weekdays)
				AND w.window_start <= reached AND reached < w.window_end;
		EXIT WHEN quiet_end IS NULL;
		reached := quiet_end;
	END LOOP;
	RETURN nullif(reached, at);
END
$function$;

-- When a user may be told of an event: NULL at once, infinity never (muted), else the end of the
-- quiet hours.  A red alarm that opens, or grows red, passes quiet hours that let it.
CREATE OR REPLACE FUNCTION iot_internal.hold_until(p_username text, p_event text, p_device_id uuid,
	p_severity text, p_now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	person record;
BEGIN
	SELECT u.app_user_id, coalesce(u.time_zone, 'UTC') AS time_zone, q.starts, q.ends, q.weekdays,
			q.allow_red
		INTO person
		FROM iot.app_user u LEFT JOIN iot.quiet_hours q ON q.app_user_id = u.app_user_id
		WHERE u.username = p_username;
	IF EXISTS (SELECT FROM iot.notification_mute m
			WHERE m.app_user_id = person.app_user_id AND m.until > p_now
				AND iot_internal.event_matches(m.event, p_event)
				AND (m.device_id IS NULL OR m.device_id = p_device_id)
				AND (m.device_group_id IS NULL OR EXISTS (SELECT FROM iot.device d
					WHERE d.device_id = p_device_id AND d.device_group_id = m.device_group_id))) THEN
		RETURN 'infinity';
	END IF;
	IF person.starts IS NULL OR (person.allow_red AND p_severity = 'red'
			AND p_event = ANY (ARRAY['alarm.opened', 'alarm.severity_changed'])) THEN
		RETURN NULL;
	END IF;
	RETURN iot_internal.quiet_until(person.starts, person.ends, person.weekdays, person.time_zone,
		p_now);
END
$function$;

-- Who has preferences that hold_until() must be asked for: few, where most have none.
CREATE OR REPLACE FUNCTION iot_internal.holders() RETURNS text[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN ARRAY(
		SELECT u.username FROM iot.app_user u
			WHERE u.app_user_id = ANY (ARRAY(
				SELECT q.app_user_id FROM iot.quiet_hours q
				UNION ALL
				SELECT m.app_user_id FROM iot.notification_mute m)));
END
$function$;
