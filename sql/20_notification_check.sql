-- What the tables of notifications take: webhooks, mail servers, rules, steps, translations.

-- One option of a webhook or mail server, as far as both know it.
CREATE OR REPLACE FUNCTION iot_internal.check_delivery_option(what text, key text, option jsonb)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	timeout interval;
BEGIN
	IF key = 'max_attempts' THEN
		IF jsonb_typeof(option) <> 'number' OR option::text !~ '^([1-9][0-9]?|100)$' THEN
			RAISE EXCEPTION 'invalid option "max_attempts" of %', what
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'Give a whole number from 1 to 100.';
		END IF;
		RETURN;
	END IF;
	IF jsonb_typeof(option) <> 'string' THEN
		RAISE EXCEPTION 'option "%" of % must be a string', key, what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example {"timeout":"5 s"}.';
	END IF;
	IF key = 'timeout' THEN
		BEGIN
			timeout := (option #>> '{}')::interval;
		EXCEPTION WHEN data_exception THEN
			timeout := NULL;
		END;
		IF timeout IS NULL OR NOT timeout BETWEEN interval '100 ms' AND interval '60 s' THEN
			RAISE EXCEPTION 'invalid option "timeout" of %', what
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'Give an interval from ''100 ms'' to ''60 s''.';
		END IF;
	ELSIF key = 'ca_file' AND option #>> '{}' !~ '^/' THEN
		RAISE EXCEPTION 'option "ca_file" of % must be an absolute path', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The file is read by the server''s operating system user.';
	ELSIF key = ANY (ARRAY['secret', 'password_secret']) AND NOT EXISTS (
			SELECT FROM iot.secret s WHERE s.name = option #>> '{}') THEN
		RAISE EXCEPTION 'secret "%" does not exist', option #>> '{}'
			USING ERRCODE = 'undefined_object',
				HINT = 'Insert it into iot.secret first.';
	END IF;
END
$function$;

-- Raises an error that names the option which the channel does not know, or cannot use.
CREATE OR REPLACE FUNCTION iot_internal.check_delivery_options(what text, known text[], options jsonb)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	key text;
	option jsonb;
BEGIN
	IF jsonb_typeof(options) <> 'object' THEN
		RAISE EXCEPTION 'options of % must be a JSON object', what
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use ''{}'' for none.';
	END IF;
	FOR key, option IN SELECT e.key, e.value FROM jsonb_each(options) AS e LOOP
		IF key <> ALL (known) THEN
			RAISE EXCEPTION 'unknown option "%" of %', key, what
				USING ERRCODE = 'invalid_parameter_value',
					HINT = format('Known are %s.',
						(SELECT string_agg(format('"%s"', k), ', ') FROM unnest(known) AS u(k)));
		END IF;
		PERFORM iot_internal.check_delivery_option(what, key, option);
	END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_webhook() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	what text := format('webhook "%s"', NEW.name);
BEGIN
	IF TG_OP = 'UPDATE' THEN
		IF NEW.name <> OLD.name THEN
			RAISE EXCEPTION 'webhook "%" cannot be renamed', OLD.name
				USING ERRCODE = 'feature_not_supported',
					HINT = 'Rules and deliveries go by the name. Insert another webhook and change the rules.';
		END IF;
	END IF;
	IF NEW.url !~ '^https?://[^/?#@[:space:]]+([/?#]|$)' OR NEW.url ~ '[[:space:][:cntrl:]]'
		OR length(NEW.url) > 2000 THEN
		RAISE EXCEPTION 'invalid url of %', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write "https://host[:port]/path" or "http://...", without user information.';
	END IF;
	PERFORM iot_internal.check_delivery_options(what,
		ARRAY['secret', 'timeout', 'max_attempts', 'ca_file'], NEW.options);
	PERFORM iot_internal.check_files(what,
		CASE TG_OP WHEN 'UPDATE' THEN OLD.options ELSE '{}' END, NEW.options);
	RETURN NEW;
END
$function$;

-- A webhook that rules name stays; what was still to be sent to one that goes is given up.
CREATE OR REPLACE FUNCTION iot_internal.drop_webhook() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	rule text;
BEGIN
	SELECT r.name INTO rule FROM iot.notification_rule r
		WHERE (r.channel = 'webhook' AND r.audience = 'webhook:' || OLD.name)
			OR EXISTS (SELECT FROM iot.escalation_step s
				WHERE s.notification_rule_id = r.notification_rule_id
					AND s.channel = 'webhook' AND s.audience = 'webhook:' || OLD.name)
		ORDER BY r.name LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'webhook "%" is used by notification rule "%"', OLD.name, rule
			USING ERRCODE = 'foreign_key_violation',
				HINT = 'Delete the rule first, or disable the webhook.';
	END IF;
	UPDATE iot.delivery d
		SET status = 'FAILED', started_at = NULL, last_error = 'webhook was deleted'
		WHERE d.channel = 'webhook' AND d.recipient = OLD.name AND d.status = 'PENDING';
	RETURN OLD;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_mail_server() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	what text := format('mail server "%s"', NEW.name);
BEGIN
	IF NEW.url !~ '^smtps?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$' OR length(NEW.url) > 300 THEN
		RAISE EXCEPTION 'invalid url of %', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write "smtps://host[:port]" or "smtp://host[:port]", without user information.';
	END IF;
	IF NOT iot_internal.is_mail_address(NEW.sender) THEN
		RAISE EXCEPTION 'invalid sender of %', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write "name@example.org"; the name that people read is "sender_name".';
	END IF;
	IF NEW.sender_name ~ '[[:cntrl:]]' OR length(NEW.sender_name) > 100 THEN
		RAISE EXCEPTION 'invalid sender_name of %', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It has at most 100 characters and no control characters.';
	END IF;
	PERFORM iot_internal.check_delivery_options(what, ARRAY['username', 'password_secret', 'starttls',
		'timeout', 'max_attempts', 'ca_file'], NEW.options);
	IF NEW.options ->> 'starttls' <> ALL (ARRAY['required', 'never']) THEN
		RAISE EXCEPTION 'invalid option "starttls" of %', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is "required", the default for "smtp://", or "never".';
	END IF;
	IF NEW.options ? 'starttls' AND NEW.url LIKE 'smtps:%' THEN
		RAISE EXCEPTION 'option "starttls" of % does not go with "smtps://"', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'That is encrypted from the beginning; leave the option out.';
	END IF;
	IF NEW.options ? 'username' <> NEW.options ? 'password_secret' THEN
		RAISE EXCEPTION '% has only one of user and password', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The options "username" and "password_secret" go together.';
	END IF;
	IF NEW.options ->> 'username' !~ '^[^[:cntrl:]]{1,128}$' THEN
		RAISE EXCEPTION 'invalid option "username" of %', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It has 1 to 128 characters and no control characters.';
	END IF;
	IF NEW.options ? 'username' AND NEW.options ->> 'starttls' = 'never' THEN
		RAISE EXCEPTION '% would be told its password in clear', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write "smtps://", or leave "starttls" out.';
	END IF;
	PERFORM iot_internal.check_files(what,
		CASE TG_OP WHEN 'UPDATE' THEN OLD.options ELSE '{}' END, NEW.options);
	RETURN NEW;
END
$function$;

-- Raises an error for an audience that the channel cannot reach, or that does not exist.
CREATE OR REPLACE FUNCTION iot_internal.check_audience(p_channel text, p_audience text) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	missing text;
BEGIN
	IF (p_channel = 'webhook') <> (p_audience LIKE 'webhook:%') THEN
		RAISE EXCEPTION 'audience "%" does not fit channel "%"', p_audience, p_channel
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Channel "webhook" goes with audience "webhook:NAME" and with no other.';
	END IF;
	missing := CASE
		WHEN p_audience = ANY (ARRAY['author', 'viewers']) THEN NULL
		WHEN p_audience LIKE 'user:%' THEN
			CASE WHEN NOT EXISTS (
					SELECT FROM iot.app_user u WHERE u.username = substr(p_audience, 6))
				AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = substr(p_audience, 6))
				THEN 'user' END
		WHEN p_audience LIKE 'group:%' THEN
			CASE WHEN NOT EXISTS (
					SELECT FROM iot.user_group g WHERE g.name = substr(p_audience, 7))
				THEN 'user group' END
		WHEN p_audience LIKE 'webhook:%' THEN
			CASE WHEN NOT EXISTS (
					SELECT FROM iot.webhook w WHERE w.name = substr(p_audience, 9))
				THEN 'webhook' END
		ELSE '' END;
	IF missing = '' THEN
		RAISE EXCEPTION 'invalid audience "%"', left(p_audience, 200)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Audiences are "author", "viewers", "user:NAME", "group:NAME" and "webhook:NAME".';
	ELSIF missing IS NOT NULL THEN
		RAISE EXCEPTION '% "%" does not exist', missing,
				substr(p_audience, strpos(p_audience, ':') + 1)
			USING ERRCODE = 'undefined_object',
				HINT = format('Audience "%s" names it; insert it first.', p_audience);
	END IF;
END
$function$;

-- Raises an error for a channel that there is not, and for reminders that come too often or for ever.
CREATE OR REPLACE FUNCTION iot_internal.check_telling(
	what text, channel text, remind_every interval, remind_max integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF channel <> ALL (ARRAY['push', 'email', 'webhook']) THEN
		RAISE EXCEPTION 'invalid channel "%" of %', left(channel, 100), what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Channels are "push", "email" and "webhook".';
	END IF;
	IF NOT remind_every BETWEEN interval '1 minute' AND interval '30 days' THEN
		RAISE EXCEPTION 'remind_every of % is out of range', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is between 1 minute and 30 days, or NULL for no reminders.';
	END IF;
	IF NOT remind_max BETWEEN 1 AND 1000 THEN
		RAISE EXCEPTION 'remind_max of % is out of range', what
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is between 1 and 1000; without reminders leave "remind_every" NULL.';
	END IF;
END
$function$;

-- Raises an error for words that no notification can have.
CREATE OR REPLACE FUNCTION iot_internal.check_notification_words(rule text, title text, body text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF btrim(title) = '' OR length(title) > 1000 OR length(body) > 10000 THEN
		RAISE EXCEPTION 'invalid title or body of notification rule "%"', rule
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A title has 1 to 1000 characters, a body at most 10000.';
	END IF;
	PERFORM iot_internal.check_notification_template('title', title);
	PERFORM iot_internal.check_notification_template('body', body);
END
$function$;

-- Raises an error for a rule of events that nobody can acknowledge.
CREATE OR REPLACE FUNCTION iot_internal.check_escalates(rule text, event text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF NOT iot_internal.event_matches(event, 'alarm.opened')
		AND NOT iot_internal.event_matches(event, 'alarm.severity_changed') THEN
		RAISE EXCEPTION 'notification rule "%" can neither remind nor escalate', rule
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'That is for rules of the events "alarm.opened" and "alarm.severity_changed": until somebody acknowledges the alarm, or it is closed.';
	END IF;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_notification_rule() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF NEW.name !~ '^[^[:cntrl:]]{1,100}$' OR NEW.name <> btrim(NEW.name) THEN
		RAISE EXCEPTION 'invalid name of a notification rule: "%"', left(NEW.name, 100)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It has 1 to 100 characters, no blanks at its ends and no control characters.';
	END IF;
	IF NOT iot_internal.event_pattern_valid(NEW.event) THEN
		RAISE EXCEPTION 'invalid event pattern "%"', left(NEW.event, 200)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write an event type such as "adapter.value_set_sent"; "*" stands for any characters, as in "alarm.*".';
	END IF;
	PERFORM iot_internal.check_telling(format('notification rule "%s"', NEW.name), NEW.channel, NEW.remind_every,
		NEW.remind_max);
	PERFORM iot_internal.check_audience(NEW.channel, NEW.audience);
	PERFORM iot_internal.check_notification_words(NEW.name, NEW.title, NEW.body);
	IF NEW.remind_every IS NOT NULL OR EXISTS (SELECT FROM iot.escalation_step s
			WHERE s.notification_rule_id = NEW.notification_rule_id) THEN
		PERFORM iot_internal.check_escalates(NEW.name, NEW.event);
	END IF;
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_escalation_step() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF NOT NEW.step BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'step % of an escalation is out of range', NEW.step
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Steps are numbered from 1 to 100.';
	END IF;
	IF NOT NEW.after BETWEEN interval '1 s' AND interval '30 days' THEN
		RAISE EXCEPTION 'time of escalation step % is out of range', NEW.step
			USING ERRCODE = 'invalid_parameter_value',
				HINT = '"after" is between 1 second and 30 days since the event.';
	END IF;
	PERFORM iot_internal.check_telling(format('escalation step %s', NEW.step), NEW.channel, NEW.remind_every,
		NEW.remind_max);
	PERFORM iot_internal.check_audience(NEW.channel, NEW.audience);
	PERFORM iot_internal.check_escalates(r.name, r.event)
		FROM iot.notification_rule r WHERE r.notification_rule_id = NEW.notification_rule_id;
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.check_notification_text() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	PERFORM iot_internal.check_language(NEW.language);
	PERFORM iot_internal.check_notification_words((SELECT r.name FROM iot.notification_rule r
		WHERE r.notification_rule_id = NEW.notification_rule_id), NEW.title, NEW.body);
	RETURN NEW;
END
$function$;
