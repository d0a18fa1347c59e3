-- Who may read values.

GRANT EXECUTE ON FUNCTION iot.last_values(text) TO iot_viewer, iot_operator, iot_admin;
