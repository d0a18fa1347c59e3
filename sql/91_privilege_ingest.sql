-- Who may bring measurements in; on which devices, iot.ingest() asks itself.

GRANT EXECUTE ON FUNCTION iot.ingest(text, jsonb, timestamptz) TO iot_operator, iot_admin;
GRANT EXECUTE ON FUNCTION iot.replay_dead_letter(bigint), iot.discard_dead_letter(bigint)
	TO iot_admin;
GRANT EXECUTE ON FUNCTION iot.import_zigbee2mqtt(jsonb, text, text, text) TO iot_admin;
GRANT EXECUTE ON FUNCTION iot.import_home_assistant(text, jsonb, text, text, text) TO iot_admin;
GRANT EXECUTE ON FUNCTION iot_internal.dead_letter_counts() TO iot_admin, pg_monitor;
GRANT EXECUTE ON FUNCTION iot_internal.trim_dead_letters(integer),
	iot_internal.sweep_silence(integer), iot_internal.discover(uuid, text, jsonb) TO iot_worker;
GRANT EXECUTE ON FUNCTION
	iot_internal.ingest_messages(text, text[], bytea[], boolean[]),
	iot_internal.dead_letter_add(text, text, text, bytea, text, text) TO iot_worker;
