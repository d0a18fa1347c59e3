-- What the tables of measurements get from this version's functions, and what ingest needs of the
-- registry's.

CREATE OR REPLACE FUNCTION iot_internal.arm_telemetry() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
DECLARE
	relation regclass;
BEGIN
	CREATE OR REPLACE TRIGGER measurement_inserted AFTER INSERT ON iot.measurement
		REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
		EXECUTE FUNCTION iot_internal.measurement_inserted();

	FOREACH relation IN ARRAY ARRAY['iot.device_type', 'iot.device_type_mapping', 'iot.parameter',
			'iot.retention']::regclass[] LOOP
		EXECUTE format('CREATE OR REPLACE TRIGGER registry_changed'
			' AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT'
			' EXECUTE FUNCTION iot_internal.registry_changed()', relation);
	END LOOP;
	FOREACH relation IN ARRAY ARRAY['iot.device', 'iot.sensor']::regclass[] LOOP
		EXECUTE format('CREATE OR REPLACE TRIGGER registry_changed'
			' AFTER UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT'
			' EXECUTE FUNCTION iot_internal.registry_changed()', relation);
	END LOOP;
	CREATE OR REPLACE TRIGGER registry_grown AFTER INSERT ON iot.device
		FOR EACH STATEMENT EXECUTE FUNCTION iot_internal.registry_grown();
	CREATE OR REPLACE TRIGGER registry_grown AFTER INSERT ON iot.sensor
		REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
		EXECUTE FUNCTION iot_internal.registry_grown();

	INSERT INTO iot.type_sweep (only_row) VALUES (true)
		ON CONFLICT DO NOTHING;

	GRANT SELECT, INSERT ON iot.measurement, iot.dead_letter TO iot_worker;
	GRANT SELECT ON iot.type_sweep TO iot_admin;
	GRANT SELECT ON iot.retention TO iot_worker;
	GRANT SELECT, INSERT ON iot.measurement TO iot_admin;
	GRANT SELECT, DELETE ON iot.dead_letter TO iot_admin;

	-- rows that go to a partition directly would pass the trigger by
	FOR relation IN
		SELECT p.relid FROM pg_partition_tree('iot.measurement') p WHERE p.level > 0 LOOP
		EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, iot_worker, iot_pushd, iot_viewer,'
			' iot_operator, iot_admin, iot_anon', relation);
	END LOOP;

	COMMENT ON TABLE iot.measurement IS
		'what devices measured: a finite number with a device time; the first value of a key stays';
	COMMENT ON COLUMN iot.measurement.ts IS
		'the device''s time, or that of arrival where it gave none';
	COMMENT ON TABLE iot.type_sweep IS
		'how far deleting by iot.device_type.retention has come';
	COMMENT ON COLUMN iot.type_sweep.began_at IS 'of the pass under way; NULL between passes';
	COMMENT ON COLUMN iot.type_sweep.is_full IS 'it is for all partitions';
	COMMENT ON COLUMN iot.type_sweep.retentions IS 'what it goes by';
	COMMENT ON COLUMN iot.type_sweep.lower IS
		'beginning of the partition that it has come to; device_id, parameter_id and ts: of the last row deleted there';
	COMMENT ON COLUMN iot.type_sweep.swept_at IS 'beginning of the last complete pass';
	COMMENT ON COLUMN iot.type_sweep.full_at IS 'beginning of the last one for all partitions';
	COMMENT ON TABLE iot.dead_letter IS 'what came in and could not be used';
	COMMENT ON COLUMN iot.dead_letter.adapter IS 'where it came in; null for the SQL door';
	COMMENT ON COLUMN iot.dead_letter.reason IS
		'a code: unknown_topic, unknown_device, wrong_adapter, disabled_device, unknown_parameter, malformed_json, invalid_utf8, wrong_type, not_finite, invalid_time, out_of_time_range, conflict, too_large, empty, retained, unknown_command, refused_announcement, refused_by_database';
	COMMENT ON COLUMN iot.dead_letter.error IS 'what exactly was wrong, in words';
	COMMENT ON COLUMN iot.dead_letter.received_at IS
		'when it came; a replay takes it for the time of what has none of its own';
	COMMENT ON COLUMN iot.dead_letter.retained IS
		'it was the broker''s copy of an earlier message';

	CREATE OR REPLACE VIEW iot.dead_letter_count WITH (security_invoker = true) AS
		SELECT c.reason, c.adapter, c.count, c.since, c.last
		FROM iot_internal.dead_letter_counts() c;
	GRANT SELECT ON iot.dead_letter_count TO iot_admin, pg_monitor;
	COMMENT ON VIEW iot.dead_letter_count IS 'how many dead letters there are, by reason and adapter';
	COMMENT ON COLUMN iot.dead_letter_count.count IS
		'letters; one may stand for several values of a message';
END
$arm$;
