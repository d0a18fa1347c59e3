-- What the notification tables get from this version's functions.

CREATE OR REPLACE FUNCTION iot_internal.arm_notification() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
BEGIN
	ALTER TABLE iot.webhook ALTER webhook_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.mail_server ALTER mail_server_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.notification_rule ALTER notification_rule_id SET DEFAULT iot_internal.uuidv7();

	CREATE OR REPLACE TRIGGER webhook_check BEFORE INSERT OR UPDATE ON iot.webhook
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_webhook();
	CREATE OR REPLACE TRIGGER webhook_drop BEFORE DELETE ON iot.webhook
		FOR EACH ROW EXECUTE FUNCTION iot_internal.drop_webhook();
	CREATE OR REPLACE TRIGGER mail_server_check BEFORE INSERT OR UPDATE ON iot.mail_server
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_mail_server();
	CREATE OR REPLACE TRIGGER escalation_step_check BEFORE INSERT OR UPDATE ON iot.escalation_step
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_escalation_step();
	CREATE OR REPLACE TRIGGER notification_text_check BEFORE INSERT OR UPDATE ON iot.notification_text
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_notification_text();
	CREATE OR REPLACE TRIGGER notification_rule_check BEFORE INSERT OR UPDATE ON iot.notification_rule
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_notification_rule();

	PERFORM iot_internal.consumer_register('notifier');

	-- The worker reads and writes through functions.
	GRANT SELECT, INSERT, UPDATE, DELETE ON iot.webhook, iot.mail_server, iot.notification_rule,
		iot.notification_text, iot.escalation_step, iot.notification_mute, iot.quiet_hours TO iot_admin;
	GRANT SELECT ON iot.notification, iot.delivery, iot.notification_read, iot.escalation TO iot_admin;
	-- to have a delivery tried again
	GRANT UPDATE (status, attempts, next_attempt_at) ON iot.delivery TO iot_admin;

	COMMENT ON TABLE iot.webhook IS 'receivers of notifications over HTTP';
	COMMENT ON COLUMN iot.webhook.options IS
		'secret (name in iot.secret, signs each request), timeout, max_attempts, ca_file';
	COMMENT ON TABLE iot.mail_server IS 'who takes e-mail from here; at most one is enabled';
	COMMENT ON COLUMN iot.mail_server.sender IS 'address that e-mail comes from';
	COMMENT ON COLUMN iot.mail_server.sender_name IS 'name beside it';
	COMMENT ON COLUMN iot.mail_server.options IS
		'username, password_secret (name in iot.secret), starttls, timeout, max_attempts, ca_file';
	COMMENT ON TABLE iot.notification_rule IS
		'which events are told to whom, over which channel, in which words';
	COMMENT ON COLUMN iot.notification_rule.event IS
		'an event type, or a pattern: "*" stands for any characters';
	COMMENT ON COLUMN iot.notification_rule.audience IS
		'author, viewers, user:NAME, group:NAME or webhook:NAME; people must also be allowed to view the device';
	COMMENT ON COLUMN iot.notification_rule.title IS 'template with {placeholders}';
	COMMENT ON COLUMN iot.notification_rule.body IS
		'template with {placeholders}; becomes "text" of the notification''s body';
	COMMENT ON COLUMN iot.notification_rule.remind_every IS
		'tell the same audience again, until the alarm is acknowledged or closed; NULL: never';
	COMMENT ON COLUMN iot.notification_rule.remind_max IS 'most reminders of one alarm';
	COMMENT ON TABLE iot.notification_text IS 'the words of a rule in another language';
	COMMENT ON TABLE iot.escalation_step IS
		'who is told next, where an alarm is neither acknowledged nor closed in time';
	COMMENT ON COLUMN iot.escalation_step.after IS 'time since the event, by the server''s clock';
	COMMENT ON TABLE iot.escalation IS
		'steps and reminders that fall due unless somebody acknowledges or closes the alarm';
	COMMENT ON COLUMN iot.escalation.step IS '0: the reminders of the rule itself';
	COMMENT ON COLUMN iot.escalation.sent IS 'how often this step was told';
	COMMENT ON TABLE iot.notification_mute IS 'what users do not want to be told; see iot.mute()';
	COMMENT ON TABLE iot.quiet_hours IS
		'when users want to be told later, in their time zone; see iot.set_quiet_hours()';
	COMMENT ON COLUMN iot.quiet_hours.weekdays IS 'days on which they begin, Monday being 1';
	COMMENT ON COLUMN iot.quiet_hours.allow_red IS 'red alarms come all the same';
	COMMENT ON TABLE iot.notification IS
		'what was told, in the order in which it became visible; gaps in seq mean nothing';
	COMMENT ON COLUMN iot.notification.username IS 'who caused the event';
	COMMENT ON COLUMN iot.notification.texts IS
		'templates by language, "" being the rule''s own, where words depend on who reads; else NULL';
	COMMENT ON TABLE iot.delivery IS 'telling one recipient over one channel';
	COMMENT ON COLUMN iot.delivery.recipient IS
		'a user, a webhook, or "*": whoever of the audience turns up first';
	COMMENT ON COLUMN iot.delivery.not_before IS
		'end of the recipient''s quiet hours; infinity: muted';
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
		('alarm-severity-changed', 'alarm.severity_changed',
			'alarm of {device} is {severity} now: {rule}', '{message}', true),
		('alarm-acknowledged', 'alarm.acknowledged',
			'{username} acknowledged the {severity} alarm of {device}: {rule}', '{comment}', false),
		('alarm-assigned', 'alarm.assigned',
			'{severity} alarm of {device} is assigned to {assignee}: {rule}', '', false),
		('alarm-commented', 'alarm.commented',
			'{username} on the {severity} alarm of {device}: {rule}', '{comment}', false);
END
$function$;
