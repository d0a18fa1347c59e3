-- Who may call what of alarms; on which devices, the functions ask themselves.

GRANT EXECUTE ON FUNCTION iot.acknowledge_alarm(uuid, text), iot.close_alarm(uuid, text),
	iot.assign_alarm(uuid, text), iot.comment_alarm(uuid, text) TO iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot_internal.alarm_sweep(integer),
	iot_internal.close_orphaned_alarms(uuid[], uuid[], uuid[]) TO iot_worker;
GRANT EXECUTE ON FUNCTION iot.backtest_alarm_rule(uuid, timestamptz, timestamptz)
	TO iot_viewer, iot_operator, iot_admin;
