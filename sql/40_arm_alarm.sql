-- What the tables of alarms get from this version's functions.

CREATE OR REPLACE FUNCTION iot_internal.arm_alarm() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
BEGIN
	ALTER TABLE iot.alarm_rule ALTER alarm_rule_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.alarm ALTER alarm_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.alarm_comment ALTER alarm_comment_id SET DEFAULT iot_internal.uuidv7();

	CREATE OR REPLACE TRIGGER alarm_rule_check BEFORE INSERT OR UPDATE ON iot.alarm_rule
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_alarm_rule();
	CREATE OR REPLACE TRIGGER alarm_rule_inserted AFTER INSERT ON iot.alarm_rule
		REFERENCING NEW TABLE AS new_rules FOR EACH STATEMENT
		EXECUTE FUNCTION iot_internal.alarm_rule_changed();
	CREATE OR REPLACE TRIGGER alarm_rule_changed AFTER UPDATE ON iot.alarm_rule
		REFERENCING OLD TABLE AS old_rules NEW TABLE AS new_rules FOR EACH STATEMENT
		EXECUTE FUNCTION iot_internal.alarm_rule_changed();
	CREATE OR REPLACE TRIGGER alarm_rule_deleted AFTER DELETE ON iot.alarm_rule
		REFERENCING OLD TABLE AS old_rules FOR EACH STATEMENT
		EXECUTE FUNCTION iot_internal.alarm_rule_changed();
	CREATE OR REPLACE TRIGGER alarm_rules_truncated AFTER TRUNCATE ON iot.alarm_rule
		FOR EACH STATEMENT EXECUTE FUNCTION iot_internal.alarm_rules_truncated();
	CREATE OR REPLACE TRIGGER registry_changed
		AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON iot.alarm_rule
		FOR EACH STATEMENT EXECUTE FUNCTION iot_internal.registry_changed();
	CREATE OR REPLACE TRIGGER alarm_device_changed AFTER UPDATE ON iot.device
		REFERENCING OLD TABLE AS old_devices NEW TABLE AS new_devices FOR EACH STATEMENT
		EXECUTE FUNCTION iot_internal.alarm_device_changed();
	CREATE OR REPLACE TRIGGER alarm_sensor_inserted AFTER INSERT ON iot.sensor
		REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
		EXECUTE FUNCTION iot_internal.alarm_sensor_inserted();

	CREATE OR REPLACE TRIGGER alarm_rule_parameter AFTER INSERT ON iot.parameter
		FOR EACH ROW EXECUTE FUNCTION iot_internal.alarm_rule_parameter();

	CREATE OR REPLACE VIEW iot.open_alarm WITH (security_invoker = true) AS
		SELECT a.alarm_id, d.name AS device, p.name AS parameter, a.rule, a.severity, a.value, p.unit,
			a.message, a.opened_at, a.acknowledged_at, a.acknowledged_by, a.assignee
		FROM iot.alarm a
			JOIN iot.device d ON d.device_id = a.device_id
			JOIN iot.parameter p ON p.parameter_id = a.parameter_id
		WHERE a.status = 'OPENED';

	GRANT SELECT ON iot.open_alarm TO iot_viewer, iot_operator, iot_admin;
	GRANT SELECT, INSERT, UPDATE, DELETE ON iot.alarm_rule TO iot_admin;
	GRANT SELECT ON iot.alarm, iot.alarm_comment, iot.alarm_rule_state,
		iot.alarm_rule_error TO iot_admin;

	COMMENT ON TABLE iot.alarm_rule IS 'when a measurement is an alarm, and of which severity';
	COMMENT ON COLUMN iot.alarm_rule.kind IS
		'range: value_min <= value < value_max; threshold: the value compares so with the threshold; rate: its change does; no_data: nothing is measured for the timeout; condition: a predicate over the device''s values';
	COMMENT ON COLUMN iot.alarm_rule.scope IS
		'all devices, those of a type or of a group, or one; by default what the columns say';
	COMMENT ON COLUMN iot.alarm_rule.parameter_id IS
		'NULL: any of a condition; else the rule is disabled and waits for the parameter that its name begins with';
	COMMENT ON COLUMN iot.alarm_rule.severity IS
		'the zone: orange or red; an orange rule may have a red level too';
	COMMENT ON COLUMN iot.alarm_rule.close_min IS
		'a range''s alarm stays open while close_min <= value < close_max; NULL: as the range';
	COMMENT ON COLUMN iot.alarm_rule.close_threshold IS
		'a threshold''s alarm stays open while the value compares so with this; NULL: the threshold';
	COMMENT ON COLUMN iot.alarm_rule.value_min_attribute IS
		'name of a device''s attribute that is its value_min; the column where it has no such number';
	COMMENT ON COLUMN iot.alarm_rule.value_max_attribute IS
		'name of a device''s attribute that is its value_max; the column where it has no such number';
	COMMENT ON COLUMN iot.alarm_rule.threshold_attribute IS
		'name of a device''s attribute that is its threshold; the column where it has no such number';
	COMMENT ON COLUMN iot.alarm_rule.red_min IS 'the range that is red: red_min <= value < red_max';
	COMMENT ON COLUMN iot.alarm_rule.red_close_min IS
		'red stays while red_close_min <= value < red_close_max; NULL: as the red range';
	COMMENT ON COLUMN iot.alarm_rule.red_threshold IS 'the threshold that is red';
	COMMENT ON COLUMN iot.alarm_rule.red_close_threshold IS
		'red stays while the value compares so with this; NULL: the red threshold';
	COMMENT ON COLUMN iot.alarm_rule.per IS 'the time that a rate is about';
	COMMENT ON COLUMN iot.alarm_rule.timeout IS
		'time without a measurement, by the server''s clock, after which no_data opens';
	COMMENT ON COLUMN iot.alarm_rule.red_timeout IS 'time after which it is red';
	COMMENT ON COLUMN iot.alarm_rule.condition IS
		'jsonpath predicate over the newest values by parameter, and attributes: $.temperature > 80 && $.valve == 0';
	COMMENT ON COLUMN iot.alarm_rule.stay_condition IS
		'the alarm stays open while this or the condition holds; NULL: the condition';
	COMMENT ON COLUMN iot.alarm_rule.red_condition IS 'the predicate that is red';
	COMMENT ON COLUMN iot.alarm_rule.red_stay_condition IS
		'red stays while this or the red condition holds; NULL: the red condition';
	COMMENT ON COLUMN iot.alarm_rule.time_zone IS 'of its schedule, such as Europe/Berlin';
	COMMENT ON COLUMN iot.alarm_rule.weekdays IS
		'on which its hours begin: 1 is Monday, 7 is Sunday; NULL: all';
	COMMENT ON COLUMN iot.alarm_rule.from_time IS
		'when its hours begin; after to_time where they end on the next day; NULL: the whole day';
	COMMENT ON COLUMN iot.alarm_rule.repeat_count IS 'measurements in a row that it takes';
	COMMENT ON COLUMN iot.alarm_rule.duration IS
		'time without a break that it takes, by the device''s clock';
	COMMENT ON COLUMN iot.alarm_rule.min_open IS 'time for which an alarm stays open at least';
	COMMENT ON COLUMN iot.alarm_rule.auto_close IS 'false: only people close its alarms';
	COMMENT ON COLUMN iot.alarm_rule.message IS
		'template with {device}, {parameter}, {value}, {unit}, {rule}, {severity}';
	COMMENT ON TABLE iot.alarm IS
		'a rule that holds on a device, from opening to closing; at most one is open';
	COMMENT ON COLUMN iot.alarm.rule IS 'name of the rule, which may be gone';
	COMMENT ON COLUMN iot.alarm.severity IS 'the zone: orange or red';
	COMMENT ON COLUMN iot.alarm.severity_at IS 'when it came to that severity, by the device''s clock';
	COMMENT ON COLUMN iot.alarm.highest_severity IS 'the highest it has had';
	COMMENT ON COLUMN iot.alarm.value IS
		'the value that opened it; the change where the rule is a rate';
	COMMENT ON COLUMN iot.alarm.opened_at IS
		'by the device''s clock, or by the server''s where no measurement opened it';
	COMMENT ON COLUMN iot.alarm.closed_at IS
		'by the device''s clock, or by the server''s where no measurement closed it';
	COMMENT ON COLUMN iot.alarm.closed_by IS 'a person; NULL where the rule did';
	COMMENT ON TABLE iot.alarm_comment IS 'what people said about alarms';
	COMMENT ON TABLE iot.alarm_rule_state IS
		'what a rule remembers of a device besides its open alarm';
	COMMENT ON COLUMN iot.alarm_rule_state.hits IS 'measurements in a row for which it held';
	COMMENT ON COLUMN iot.alarm_rule_state.since IS
		'since when it holds, by the device''s clock; of no_data, since when a first measurement is awaited';
	COMMENT ON COLUMN iot.alarm_rule_state.red_hits IS 'as hits, for the red level';
	COMMENT ON COLUMN iot.alarm_rule_state.red_since IS 'as since, for the red level';
	COMMENT ON COLUMN iot.alarm_rule_state.judged_at IS
		'up to when time alone has been judged; NULL where nobody has looked yet';
	COMMENT ON COLUMN iot.alarm_rule_state.clear IS 'the open alarm only waits for min_open';
	COMMENT ON COLUMN iot.alarm_rule_state.due_at IS
		'when silence alone opens or closes the alarm, by the server''s clock';
	COMMENT ON TABLE iot.alarm_rule_error IS
		'rules that failed the last time they were judged; too often in a row disables them';
	COMMENT ON COLUMN iot.alarm_rule_error.errors IS 'failures in a row';
	COMMENT ON COLUMN iot.alarm_rule_error.device_id IS 'where it failed last';
	COMMENT ON VIEW iot.open_alarm IS 'open alarms of the devices that the caller may view';
END
$arm$;

-- The two zones of temperature, to be enabled by whoever wants them.  They wait for a parameter of
-- that name, which is the user's to make.
CREATE OR REPLACE FUNCTION iot_internal.seed_alarm() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	INSERT INTO iot.alarm_rule (name, kind, severity, value_min, value_max, enabled)
		VALUES ('temperature-orange', 'range', 'orange', 40, 50, false),
			('temperature-red', 'range', 'red', 50, 100, false);
END
$function$;
