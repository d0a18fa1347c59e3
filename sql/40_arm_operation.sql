-- What the operator's tables get from this version's functions, and the rows without which nothing
-- runs: a dump of the schema alone brings tables that are empty.

CREATE OR REPLACE FUNCTION iot_internal.arm_operation() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
BEGIN
	INSERT INTO iot.schema_version (version) VALUES (iot_internal.schema_version())
		ON CONFLICT DO NOTHING;
	INSERT INTO iot.maintenance (only_row) VALUES (true)
		ON CONFLICT DO NOTHING;
	INSERT INTO iot.epoch (epoch, system_identifier, database_oid, timeline)
		SELECT iot_internal.uuidv7(), iot_internal.system_identifier(), d.oid, iot_internal.timeline()
		FROM pg_database d WHERE d.datname = current_database()
		ON CONFLICT DO NOTHING;
	INSERT INTO iot.retention (relation, keep, cap, max_rows, partition_width) VALUES
		('event', '7 days', '30 days', NULL, '1 day'),
		('measurement', '365 days', NULL, NULL, '1 day'),
		('rollup_minute', '365 days', NULL, NULL, '1 day'),
		('rollup_hour', '3650 days', NULL, NULL, NULL),
		('command', '30 days', NULL, NULL, NULL),
		('alarm', '365 days', NULL, NULL, NULL),
		('notification', '30 days', NULL, NULL, NULL),
		('delivery', '30 days', NULL, NULL, NULL),
		('dead_letter', '30 days', NULL, 100000, NULL)
		ON CONFLICT DO NOTHING;

	CREATE OR REPLACE TRIGGER retention_check BEFORE INSERT OR UPDATE ON iot.retention
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_retention();

	-- epoch_state() takes the grant on iot.epoch as the sign that a restore is over
	GRANT SELECT ON iot.schema_version, iot.epoch, iot.retention, iot.maintenance, iot.worker
		TO iot_worker, iot_pushd, iot_admin;
	CREATE OR REPLACE VIEW iot.metric WITH (security_invoker = true) AS
		SELECT m.metric, m.label, m.value FROM iot_internal.metrics() m;
	GRANT SELECT ON iot.metric TO iot_admin, pg_monitor;
	GRANT UPDATE (keep, cap, max_rows, partition_width) ON iot.retention TO iot_admin;

	COMMENT ON TABLE iot.schema_version IS 'version of the tables; iot.migrate() raises it';
	COMMENT ON TABLE iot.epoch IS
		'which server and database these rows belong to; a copy is paused until iot.resume()';
	COMMENT ON COLUMN iot.epoch.first_event_id IS
		'events up to this one came with the copy and are not offered to consumers';
	COMMENT ON COLUMN iot.epoch.notification_floor IS
		'notifications up to this one may have been deleted by retention';
	COMMENT ON TABLE iot.retention IS 'how long rows are kept; applied by iot.maintain()';
	COMMENT ON COLUMN iot.retention.keep IS 'age from which rows may go';
	COMMENT ON COLUMN iot.retention.cap IS
		'age from which a partition of the log goes even if a consumer has not read it';
	COMMENT ON COLUMN iot.retention.max_rows IS
		'dead letters beyond so many go, the oldest first; NULL for no limit';
	COMMENT ON COLUMN iot.retention.partition_width IS
		'time that a new partition covers, from 1 hour to 1 month; those that are there stay';
	COMMENT ON TABLE iot.maintenance IS 'last complete run of iot.maintain()';
	COMMENT ON VIEW iot.metric IS 'iot.status() as numbers, for Prometheus'' postgres exporter';
	COMMENT ON TABLE iot.worker IS 'what each worker last said of itself';
	COMMENT ON COLUMN iot.worker.state_at IS 'since when it says so';
END
$arm$;
