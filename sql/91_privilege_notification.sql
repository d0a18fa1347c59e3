-- Who may call the functions of notifications.

GRANT EXECUTE ON FUNCTION iot.notifications(bigint), iot.mark_notifications_read(bigint),
	iot.set_preferences(text, text, text), iot.preferences(),
	iot.mute(text, text, text, timestamptz), iot.unmute(text, text, text), iot.mutes(),
	iot.set_quiet_hours(time, time, integer[], boolean)
	TO iot_viewer, iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot_internal.notify_events(integer), iot_internal.notify_skip(text),
	iot_internal.push_due(integer),
	iot_internal.webhook_take(text[], text[], integer, integer),
	iot_internal.email_take(text[], text[], integer, integer),
	iot_internal.delivery_result(bigint[], text[], text[], boolean[], boolean[], text[]),
	iot_internal.delivery_recover(), iot_internal.escalate(timestamptz, integer) TO iot_worker;
GRANT EXECUTE ON FUNCTION iot_internal.event_matches(text, text),
	iot_internal.in_audience(text, text, text), iot_internal.may_be_told(text, uuid),
	iot_internal.may_receive(text, bigint) TO iot_pushd;
