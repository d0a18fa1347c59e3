-- The tables of a command without the platform: same columns, checks and indexes; no triggers, no
-- foreign keys.
CREATE SCHEMA by_hand;
CREATE TABLE by_hand.command (LIKE iot.command INCLUDING ALL);
CREATE TABLE by_hand.saga_step (LIKE iot.saga_step INCLUDING ALL);
CREATE TABLE by_hand.sensor_value (LIKE iot.sensor_value INCLUDING ALL);
CREATE TABLE by_hand.event (LIKE iot.event INCLUDING ALL);
CREATE TABLE by_hand.notification (LIKE iot.notification INCLUDING ALL);
CREATE TABLE by_hand.delivery (LIKE iot.delivery INCLUDING ALL);
CREATE TABLE by_hand.device AS
	SELECT pg_catalog.row_number() OVER (ORDER BY d.name)::integer AS n, d.device_id, d.name,
		d.adapter_id, s.parameter_id
	FROM iot.device AS d JOIN iot.sensor AS s USING (device_id);
ALTER TABLE by_hand.device ADD PRIMARY KEY (n);
INSERT INTO by_hand.sensor_value (device_id, parameter_id, value)
	SELECT device_id, parameter_id, 0 FROM by_hand.device;
VACUUM ANALYZE;
