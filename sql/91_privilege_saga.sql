-- Who may call what of the saga.  Senders and viewers are checked per device by the functions
-- themselves; answering for a device is for workers, administrators, and whoever these roles or a
-- grant let in.

GRANT EXECUTE ON FUNCTION
	iot.send_command(text, text, double precision, text, double precision, uuid, interval),
	iot.send_command(text, text, text, text, double precision, uuid, interval)
	TO iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION
	iot.send_group_command(text, text, double precision, integer, real, interval),
	iot.pause_group_command(uuid), iot.resume_group_command(uuid), iot.cancel_group_command(uuid)
	TO iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot_internal.may_command_batch(uuid, text)
	TO iot_viewer, iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot_internal.roll_out(integer) TO iot_worker;
GRANT EXECUTE ON FUNCTION iot.wait_for_command(uuid, interval), iot.timeline(uuid)
	TO iot_viewer, iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot.adapter_poll(text, integer), iot.adapter_sent(uuid),
	iot.adapter_error(uuid, text)
	TO iot_worker, iot_admin;
GRANT EXECUTE ON FUNCTION
	iot_internal.consumer_register(text),
	iot_internal.consumer_read(text, text[], integer),
	iot_internal.adapter_take(uuid, integer),
	iot_internal.release_commands(uuid[]),
	iot_internal.adapter_in_flight(uuid),
	iot_internal.adapter_attempt(uuid[], uuid[]),
	iot_internal.adapter_result(text[], uuid[], boolean[], text[]),
	iot_internal.expire_commands(integer),
	iot_internal.clock_was_set(interval, integer)
	TO iot_worker;
