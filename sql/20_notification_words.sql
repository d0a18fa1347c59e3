-- The words of notifications: templates, and what each reader's language and time zone make of them.

-- What templates know of an event.
CREATE OR REPLACE FUNCTION iot_internal.event_values(event text, event_id uuid, device text,
	device_id uuid, username text, event_at timestamptz, payload jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN payload || jsonb_build_object('event', event, 'event_id', event_id, 'device', device,
		'device_id', device_id, 'username', username, 'at', iot_internal.utc_text(event_at));
END
$function$;

-- Title and body of a notification: what the event carries, and the rendered text, if there is one.
CREATE OR REPLACE FUNCTION iot_internal.render_words(title_template text, body_template text,
	payload jsonb, vals jsonb, OUT title text, OUT body jsonb)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	title := left(btrim(iot_internal.render_template(title_template, vals)), 300);
	body := payload;
	IF body_template <> '' THEN
		body := body || jsonb_build_object('text',
			left(btrim(iot_internal.render_template(body_template, vals)), 4000));
	END IF;
END
$function$;

-- The templates to keep with a notification, since its words depend on the reader: those of other
-- languages, and the rule's own where it names times.  NULL for most rules.  They are kept as they
-- were, so that a rule that changes does not change what was told.
CREATE OR REPLACE FUNCTION iot_internal.kept_texts(rule_id uuid, title text, body text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	kept jsonb;
BEGIN
	SELECT jsonb_object_agg(t.language, jsonb_build_object('title', t.title, 'body', t.body))
		INTO kept FROM iot.notification_text t WHERE t.notification_rule_id = rule_id;
	IF kept IS NOT NULL OR title || body ~ '\{([a-z]+_)?at\}' THEN
		RETURN coalesce(kept, '{}')
			|| jsonb_build_object('', jsonb_build_object('title', title, 'body', body));
	END IF;
	RETURN NULL;
END
$function$;

-- A time as people read it, in their time zone: 2026-11-25 16:10:00 +01:00.  What is no time stays.
CREATE OR REPLACE FUNCTION iot_internal.local_time(at text, time_zone text) RETURNS text
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	instant timestamptz;
	ahead interval;
BEGIN
	IF at !~ '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d' THEN
		RETURN at;
	END IF;
	instant := at::timestamptz;
	ahead := (instant AT TIME ZONE time_zone) - (instant AT TIME ZONE 'UTC');
	RETURN to_char(instant AT TIME ZONE time_zone, 'YYYY-MM-DD HH24:MI:SS')
		|| CASE WHEN ahead < interval '0' THEN ' -' ELSE ' +' END
		|| to_char(greatest(ahead, -ahead), 'HH24:MI');
EXCEPTION WHEN data_exception THEN
	RETURN at;
END
$function$;

-- A notification in the words of a reader: in his language, else in what his language is a kind of,
-- else in the rule's own; times in his time zone.  Whoever has neither gets what is written.
CREATE OR REPLACE FUNCTION iot_internal.localized(p_seq bigint, p_language text, p_time_zone text,
	OUT title text, OUT body jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	told record;
	words jsonb;
	vals jsonb;
	key text;
BEGIN
	SELECT n.* INTO told FROM iot.notification n WHERE n.seq = p_seq;
	title := told.title;
	body := told.body;
	words := coalesce(told.texts -> p_language, told.texts -> split_part(p_language, '-', 1));
	IF told.texts IS NULL OR (words IS NULL AND p_time_zone IS NULL) THEN
		RETURN;
	END IF;
	words := coalesce(words, told.texts -> '');
	vals := iot_internal.event_values(told.event, told.event_id, told.device, told.device_id,
		told.username, told.event_at, told.body);
	FOREACH key IN ARRAY ARRAY['at', 'opened_at', 'changed_at', 'closed_at', 'failed_at'] LOOP
		IF p_time_zone IS NOT NULL AND jsonb_typeof(vals -> key) = 'string' THEN
			vals := vals || jsonb_build_object(key, iot_internal.local_time(vals ->> key, p_time_zone));
		END IF;
	END LOOP;
	SELECT w.title, w.body INTO title, body
		FROM iot_internal.render_words(words ->> 'title', words ->> 'body', told.body - 'text', vals) AS w;
END
$function$;
