-- Who may roll up, and who may read history; of which devices, iot.history() asks itself.

GRANT EXECUTE ON FUNCTION iot_internal.rollup_step(integer) TO iot_worker, iot_admin;
GRANT EXECUTE ON FUNCTION iot.history(text, text, timestamptz, timestamptz, interval),
	iot.lttb(timestamptz, double precision, integer)
	TO iot_viewer, iot_operator, iot_admin;
