-- Requests run with the rights of the user whom they are for; only becoming that user is the daemon's.

GRANT EXECUTE ON FUNCTION iot_internal.request(text, jsonb, jsonb),
	iot_internal.request_role(text), iot_internal.request_log_in(text, text),
	iot_internal.request_error(jsonb, text, text, text, text),
	iot_internal.is_authenticator() TO iot_pushd;
GRANT USAGE ON SCHEMA iot_internal TO iot_viewer, iot_operator;
GRANT EXECUTE ON FUNCTION iot_internal.request_refuse(text, text),
	iot_internal.request_error(jsonb, text, text, text, text),
	iot_internal.request_limit(integer), iot_internal.request_page(jsonb, integer),
	iot_internal.request_me(jsonb), iot_internal.request_fleet(jsonb),
	iot_internal.request_device(jsonb), iot_internal.request_history(jsonb),
	iot_internal.request_alarms(jsonb), iot_internal.request_commands(jsonb),
	iot_internal.request_timeline(jsonb), iot_internal.request_notifications(jsonb),
	iot_internal.request_command(jsonb), iot_internal.request_alarm(text, jsonb),
	iot_internal.request_query(text, jsonb) TO iot_viewer, iot_operator, iot_admin;
