-- Who may call the functions of credentials; on which devices, they ask themselves.

GRANT EXECUTE ON FUNCTION iot.create_device_credential(text, timestamptz),
	iot.rotate_device_credential(text, interval), iot.disable_device_credential(text, text),
	iot.enable_device_credential(text, text), iot.delete_device_credential(text, text),
	iot.device_credentials(text) TO iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot_internal.dynsec_turn(uuid, boolean, text, text, integer) TO iot_worker;
GRANT USAGE ON SCHEMA iot TO iot_broker;
-- of views that brokers read
GRANT EXECUTE ON FUNCTION iot_internal.credential_works(boolean, timestamptz),
	iot_internal.topic_of_device(text, text) TO iot_broker, iot_admin;
