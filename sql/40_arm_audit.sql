-- Which tables are audited, and where administrators read it.

CREATE OR REPLACE FUNCTION iot_internal.audit_tables() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
DECLARE
	audited record;
	event record;
BEGIN
	FOR audited IN
		SELECT t.name::regclass AS relation, t.hidden,
			(SELECT array_agg(a.attname ORDER BY k.place)
				FROM pg_index i
					CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
					JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
				WHERE i.indrelid = t.name::regclass AND i.indisprimary) AS key_columns
		FROM (VALUES ('iot.parameter', '{}'), ('iot.device_group', '{}'), ('iot.device_type', '{}'),
			('iot.device_type_mapping', '{}'),
			('iot.adapter', '{}'), ('iot.device', '{}'), ('iot.sensor', '{}'), ('iot.app_user', '{}'),
			('iot.user_group', '{}'), ('iot.user_group_member', '{}'), ('iot.access_grant', '{}'),
			('iot.secret', '{value}'), ('iot.retention', '{}'), ('iot.alarm_rule', '{}'),
			('iot.webhook', '{}'), ('iot.mail_server', '{}'), ('iot.notification_rule', '{}'),
			('iot.notification_text', '{}'), ('iot.escalation_step', '{}')) AS t (name, hidden) LOOP
		FOR event IN
			SELECT * FROM (VALUES ('INSERT', 'REFERENCING NEW TABLE AS new_rows'),
				('UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'),
				('DELETE', 'REFERENCING OLD TABLE AS old_rows'),
				('TRUNCATE', '')) AS e (name, rows) LOOP
			EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER %s ON %s %s FOR EACH STATEMENT'
				' EXECUTE FUNCTION iot_internal.audit(%L, %L)', 'audit_' || lower(event.name),
				event.name, audited.relation, event.rows, audited.key_columns, audited.hidden);
		END LOOP;
	END LOOP;
END
$arm$;

CREATE OR REPLACE FUNCTION iot_internal.arm_audit() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
BEGIN
	CREATE OR REPLACE VIEW iot.audit WITH (security_invoker = true) AS
		SELECT e.created_at AS at, e.payload ->> 'username' AS username, e.type AS event,
			e.aggregatetype AS subject, e.aggregateid AS key,
			coalesce(e.payload ->> 'name', e.payload ->> 'device') AS name,
			e.payload -> 'old' AS old, e.payload -> 'new' AS new, e.payload, e.id
		FROM iot.event e
		WHERE e.type LIKE 'audit.%' OR e.type LIKE 'user.%' OR e.type = 'command.value_set'
			OR ((e.type LIKE 'alarm.%' OR e.type LIKE 'device.credential%')
				AND e.payload ->> 'username' IS NOT NULL);
	GRANT SELECT ON iot.audit TO iot_admin;
	COMMENT ON VIEW iot.audit IS
		'who did what to the registry, grants and rules, which commands they sent, what they did about alarms and devices'' credentials, logins';
	COMMENT ON COLUMN iot.audit.username IS 'who did it: a user, or the role of the session';
	COMMENT ON COLUMN iot.audit.subject IS 'the table, or "command", "alarm", "device" or "user"';
	COMMENT ON COLUMN iot.audit.key IS 'the row''s key';
	COMMENT ON COLUMN iot.audit.old IS 'what was deleted, or changed columns as they were';
	COMMENT ON COLUMN iot.audit.new IS 'what was inserted, or changed columns as they are';
END
$arm$;
