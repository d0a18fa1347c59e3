-- What the notification tables get from this version's functions.

-- Options that only this channel knows; raises an error that names the offending key.
CREATE OR REPLACE FUNCTION iot_internal.check_webhook() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	key text;
	option jsonb;
	timeout interval;
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
		RAISE EXCEPTION 'invalid url of webhook "%"', NEW.name
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write "https://host[:port]/path" or "http://...", without user information.';
	END IF;
	IF jsonb_typeof(NEW.options) <> 'object' THEN
		RAISE EXCEPTION 'options of webhook "%" must be a JSON object', NEW.name
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use ''{}'' for none.';
	END IF;
	FOR key, option IN SELECT e.key, e.value FROM jsonb_each(NEW.options) AS e LOOP
		IF key <> ALL (ARRAY['secret', 'timeout', 'max_attempts', 'ca_file']) THEN
			RAISE EXCEPTION 'unknown option "%" of webhook "%"', key, NEW.name
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'Known are "secret", "timeout", "max_attempts" and "ca_file".';
		END IF;
		IF key = 'max_attempts' THEN
			IF jsonb_typeof(option) <> 'number' OR option::text !~ '^([1-9][0-9]?|100)$' THEN
				RAISE EXCEPTION 'invalid option "max_attempts" of webhook "%"', NEW.name
					USING ERRCODE = 'invalid_parameter_value',
						HINT = 'Give a whole number from 1 to 100.';
			END IF;
			CONTINUE;
		END IF;
		IF jsonb_typeof(option) <> 'string' THEN
			RAISE EXCEPTION 'option "%" of webhook "%" must be a string', key, NEW.name
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'For example {"secret":"my-key","timeout":"5 s"}.';
		END IF;
		IF key = 'timeout' THEN
			BEGIN
				timeout := (option #>> '{}')::interval;
			EXCEPTION WHEN data_exception THEN
				timeout := NULL;
			END;
			IF timeout IS NULL OR NOT timeout BETWEEN interval '100 ms' AND interval '60 s' THEN
				RAISE EXCEPTION 'invalid option "timeout" of webhook "%"', NEW.name
					USING ERRCODE = 'invalid_parameter_value',
						HINT = 'Give an interval from ''100 ms'' to ''60 s''.';
			END IF;
		ELSIF key = 'ca_file' AND option #>> '{}' !~ '^/' THEN
			RAISE EXCEPTION 'option "ca_file" of webhook "%" must be an absolute path', NEW.name
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'The file is read by the server''s operating system user.';
		ELSIF key = 'secret' AND NOT EXISTS (
				SELECT FROM iot.secret s WHERE s.name = option #>> '{}') THEN
			RAISE EXCEPTION 'secret "%" does not exist', option #>> '{}'
				USING ERRCODE = 'undefined_object',
					HINT = 'Insert it into iot.secret first.';
		END IF;
	END LOOP;
	PERFORM iot_internal.check_files(format('webhook "%s"', NEW.name),
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
		WHERE r.channel = 'webhook' AND r.audience = 'webhook:' || OLD.name
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

CREATE OR REPLACE FUNCTION iot_internal.check_notification_rule() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	missing text;
BEGIN
	IF NOT iot_internal.event_pattern_valid(NEW.event) THEN
		RAISE EXCEPTION 'invalid event pattern "%"', left(NEW.event, 200)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write an event type such as "adapter.value_set_sent"; "*" stands for any characters, as in "alarm.*".';
	END IF;
	IF (NEW.channel = 'webhook') <> (NEW.audience LIKE 'webhook:%') THEN
		RAISE EXCEPTION 'audience "%" does not fit channel "%"', NEW.audience, NEW.channel
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Channel "webhook" goes with audience "webhook:NAME" and with no other.';
	END IF;
	missing := CASE
		WHEN NEW.audience = ANY (ARRAY['author', 'viewers']) THEN NULL
		WHEN NEW.audience LIKE 'user:%' THEN
			CASE WHEN NOT EXISTS (
					SELECT FROM iot.app_user u WHERE u.username = substr(NEW.audience, 6))
				AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = substr(NEW.audience, 6))
				THEN 'user' END
		WHEN NEW.audience LIKE 'group:%' THEN
			CASE WHEN NOT EXISTS (
					SELECT FROM iot.user_group g WHERE g.name = substr(NEW.audience, 7))
				THEN 'user group' END
		WHEN NEW.audience LIKE 'webhook:%' THEN
			CASE WHEN NOT EXISTS (
					SELECT FROM iot.webhook w WHERE w.name = substr(NEW.audience, 9))
				THEN 'webhook' END
		ELSE '' END;
	IF missing = '' THEN
		RAISE EXCEPTION 'invalid audience "%"', left(NEW.audience, 200)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Audiences are "author", "viewers", "user:NAME", "group:NAME" and "webhook:NAME".';
	ELSIF missing IS NOT NULL THEN
		RAISE EXCEPTION '% "%" does not exist', missing,
				substr(NEW.audience, strpos(NEW.audience, ':') + 1)
			USING ERRCODE = 'undefined_object',
				HINT = format('Audience "%s" names it; insert it first.', NEW.audience);
	END IF;
	IF btrim(NEW.title) = '' OR length(NEW.title) > 1000 OR length(NEW.body) > 10000 THEN
		RAISE EXCEPTION 'invalid title or body of notification rule "%"', NEW.name
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A title has 1 to 1000 characters, a body at most 10000.';
	END IF;
	PERFORM iot_internal.check_notification_template('title', NEW.title);
	PERFORM iot_internal.check_notification_template('body', NEW.body);
	RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.arm_notification() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
BEGIN
	ALTER TABLE iot.webhook ALTER webhook_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.notification_rule ALTER notification_rule_id SET DEFAULT iot_internal.uuidv7();

	CREATE OR REPLACE TRIGGER webhook_check BEFORE INSERT OR UPDATE ON iot.webhook
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_webhook();
	CREATE OR REPLACE TRIGGER webhook_drop BEFORE DELETE ON iot.webhook
		FOR EACH ROW EXECUTE FUNCTION iot_internal.drop_webhook();
	CREATE OR REPLACE TRIGGER notification_rule_check BEFORE INSERT OR UPDATE ON iot.notification_rule
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_notification_rule();

	PERFORM iot_internal.consumer_register('notifier');

	-- The worker reads and writes through functions.
	GRANT SELECT, INSERT, UPDATE, DELETE ON iot.webhook, iot.notification_rule TO iot_admin;
	GRANT SELECT ON iot.notification, iot.delivery, iot.notification_read TO iot_admin;
	-- to have a delivery tried again
	GRANT UPDATE (status, attempts, next_attempt_at) ON iot.delivery TO iot_admin;

	COMMENT ON TABLE iot.webhook IS 'receivers of notifications over HTTP';
	COMMENT ON COLUMN iot.webhook.options IS
		'secret (name in iot.secret, signs each request), timeout, max_attempts, ca_file';
	COMMENT ON TABLE iot.notification_rule IS
		'which events are told to whom, over which channel, in which words';
	COMMENT ON COLUMN iot.notification_rule.event IS
		'an event type, or a pattern: "*" stands for any characters';
	COMMENT ON COLUMN iot.notification_rule.audience IS
		'author, viewers, user:NAME, group:NAME or webhook:NAME; people must also be allowed to view the device';
	COMMENT ON COLUMN iot.notification_rule.title IS 'template with {placeholders}';
	COMMENT ON COLUMN iot.notification_rule.body IS
		'template with {placeholders}; becomes "text" of the notification''s body';
	COMMENT ON TABLE iot.notification IS
		'what was told, in the order in which it became visible; gaps in seq mean nothing';
	COMMENT ON COLUMN iot.notification.username IS 'who caused the event';
	COMMENT ON TABLE iot.delivery IS 'telling one recipient over one channel';
	COMMENT ON COLUMN iot.delivery.recipient IS
		'a user, a webhook, or "*": whoever of the audience turns up first';
	COMMENT ON COLUMN iot.delivery.started_at IS 'since when an attempt is under way';
	COMMENT ON TABLE iot.notification_read IS 'up to where each user has read';
END
$arm$;

-- What is told unless somebody decides otherwise.  A rollback follows an error that is told
-- already: its rule is there to be enabled in its stead.
CREATE OR REPLACE FUNCTION iot_internal.seed_notification() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	INSERT INTO iot.notification_rule (name, event, title, body, enabled) VALUES
		('value-set', 'adapter.value_set_sent',
			'{device}: {parameter} is set to {target_value} {unit}', '', true),
		('value-not-set', 'adapter.value_set_error',
			'{device}: {parameter} was not set to {target_value} {unit}', '{error}', true),
		('value-refused', 'dm.value_set_error',
			'{device}: {parameter} cannot be set to {value} {unit}', '{error}', true),
		('value-rolled-back', 'dm.value_set_cancelled',
			'{device}: {parameter} was rolled back', '{error}', false),
		('alarm-opened', 'alarm.opened',
			'{severity} alarm of {device}: {rule}', '{message}', true),
		('alarm-closed', 'alarm.closed',
			'{severity} alarm of {device} is over: {rule}', '{reason}', true),
		('alarm-acknowledged', 'alarm.acknowledged',
			'{username} acknowledged the {severity} alarm of {device}: {rule}', '{comment}', false),
		('alarm-assigned', 'alarm.assigned',
			'{severity} alarm of {device} is assigned to {assignee}: {rule}', '', false),
		('alarm-commented', 'alarm.commented',
			'{username} on the {severity} alarm of {device}: {rule}', '{comment}', false);
END
$function$;
