-- What the tables of rollups get from this version's functions.

CREATE OR REPLACE FUNCTION iot_internal.arm_rollup() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
DECLARE
	relation regclass;
BEGIN
	INSERT INTO iot.rollup_state (only_row) VALUES (true)
		ON CONFLICT DO NOTHING;

	GRANT SELECT ON iot.rollup_minute, iot.rollup_hour, iot.rollup_note, iot.rollup_pending,
		iot.rollup_state TO iot_admin;
	FOR relation IN
		SELECT p.relid FROM pg_partition_tree('iot.rollup_minute') p WHERE p.level > 0 LOOP
		EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, iot_worker, iot_pushd, iot_viewer,'
			' iot_operator, iot_admin, iot_anon', relation);
	END LOOP;

	COMMENT ON TABLE iot.rollup_minute IS
		'measurements of a sensor by the minute; made by iot_internal.rollup_step(), read by iot.history()';
	COMMENT ON COLUMN iot.rollup_minute.ts IS 'start of the minute';
	COMMENT ON COLUMN iot.rollup_minute.last_value IS 'the newest value of the minute, that of last_at';
	COMMENT ON TABLE iot.rollup_hour IS
		'measurements of a sensor by the hour; made of iot.rollup_minute';
	COMMENT ON COLUMN iot.rollup_hour.ts IS 'start of the hour, of UTC';
	COMMENT ON COLUMN iot.rollup_hour.last_value IS 'the newest value of the hour, that of last_at';
	COMMENT ON TABLE iot.rollup_note IS
		'minutes of sensors that measurements have come for, as the statements that brought them wrote it down';
	COMMENT ON COLUMN iot.rollup_note.oldest IS 'the first of the minutes';
	COMMENT ON COLUMN iot.rollup_note.total IS 'how many minutes there are';
	COMMENT ON COLUMN iot.rollup_note.starts IS
		'first of the minutes of a sensor that follow each other; lengths: how many do';
	COMMENT ON TABLE iot.rollup_pending IS
		'minutes and hours of sensors that have to be rolled up, each once';
	COMMENT ON COLUMN iot.rollup_pending.due_at IS 'when the minute or hour is over';
	COMMENT ON TABLE iot.rollup_state IS 'whoever rolls up locks this row';
	COMMENT ON COLUMN iot.rollup_state.more_notes IS 'there were more than a step takes';
	COMMENT ON COLUMN iot.rollup_state.minute_floor IS
		'minutes before this one may have been removed by retention';
	COMMENT ON COLUMN iot.rollup_state.hour_floor IS
		'hours before this one may have been removed by retention';
END
$arm$;
