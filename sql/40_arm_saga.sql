-- What the saga's tables get from this version's functions.

CREATE OR REPLACE FUNCTION iot_internal.arm_saga() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $arm$
BEGIN
	ALTER TABLE iot.event ALTER event_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.command ALTER command_id SET DEFAULT iot_internal.uuidv7();

	ALTER TABLE iot.command_batch ALTER command_batch_id SET DEFAULT iot_internal.uuidv7();

	DROP TRIGGER IF EXISTS device_service ON iot.event;
	CREATE TRIGGER device_service AFTER INSERT ON iot.event FOR EACH ROW
		WHEN (NEW.type = 'command.value_set' OR NEW.type = 'adapter.value_set_sent'
			OR NEW.type = 'adapter.value_set_error')
		EXECUTE FUNCTION iot_internal.device_service();
	DROP TRIGGER IF EXISTS adapter_consumer ON iot.adapter;
	CREATE TRIGGER adapter_consumer AFTER INSERT OR DELETE ON iot.adapter FOR EACH ROW
		EXECUTE FUNCTION iot_internal.adapter_consumer();

	CREATE OR REPLACE TRIGGER silence_rearm AFTER UPDATE OF offline_after ON iot.device_type
		FOR EACH ROW WHEN (NEW.offline_after IS DISTINCT FROM OLD.offline_after)
		EXECUTE FUNCTION iot_internal.silence_rearm();
	CREATE OR REPLACE TRIGGER silence_rearm AFTER UPDATE OF device_type_id, enabled ON iot.device
		FOR EACH ROW WHEN (NEW.device_type_id <> OLD.device_type_id OR NEW.enabled <> OLD.enabled)
		EXECUTE FUNCTION iot_internal.silence_rearm();

	CREATE OR REPLACE TRIGGER release_commands AFTER UPDATE OF send_when ON iot.device_type
		FOR EACH ROW WHEN (NEW.send_when <> OLD.send_when)
		EXECUTE FUNCTION iot_internal.release_on_change('device_type');
	CREATE OR REPLACE TRIGGER release_commands AFTER UPDATE OF device_type_id ON iot.device
		FOR EACH ROW WHEN (NEW.device_type_id <> OLD.device_type_id)
		EXECUTE FUNCTION iot_internal.release_on_change('device');

	CREATE OR REPLACE VIEW iot.fleet WITH (security_invoker = true) AS
		SELECT d.name AS device, g.name AS "group", t.name AS type, a.name AS adapter, d.enabled,
			s.online, s.online_at, s.connected, s.silent, s.last_seen_at, d.device_id
		FROM iot.device d
			JOIN iot.device_group g ON g.device_group_id = d.device_group_id
			JOIN iot.device_type t ON t.device_type_id = d.device_type_id
			LEFT JOIN iot.adapter a ON a.adapter_id = d.adapter_id
			LEFT JOIN iot.device_state s ON s.device_id = d.device_id;
	GRANT SELECT ON iot.fleet TO iot_viewer, iot_operator, iot_admin;

	CREATE OR REPLACE VIEW iot.command_batch_progress WITH (security_invoker = true) AS
		SELECT b.command_batch_id, b.device_group, b.parameter, b.value, b.status, b.username,
			b.rate, b.total, n.waiting, n.sent, n.completed, n.failed, n.cancelled,
			b.created_at, b.finished_at
		FROM iot.command_batch b CROSS JOIN LATERAL (
			SELECT count(*) FILTER (WHERE i.status = 'WAITING') AS waiting,
				count(*) FILTER (WHERE i.status = 'SENT') AS sent,
				count(*) FILTER (WHERE i.status = 'COMPLETED') AS completed,
				count(*) FILTER (WHERE i.status = 'FAILED') AS failed,
				count(*) FILTER (WHERE i.status = 'CANCELLED') AS cancelled
			FROM iot.command_batch_item i WHERE i.command_batch_id = b.command_batch_id) n;
	GRANT SELECT ON iot.command_batch_progress TO iot_viewer, iot_operator, iot_admin;
	GRANT SELECT ON iot.command_batch, iot.command_batch_item TO iot_admin;

	-- workers write what devices say of themselves, and its events; commands only through functions
	GRANT SELECT, INSERT, UPDATE ON iot.device_state, iot.sensor_value TO iot_worker;
	GRANT SELECT, INSERT ON iot.event TO iot_worker;
	GRANT SELECT ON iot.consumer, iot.command, iot.saga_step TO iot_worker;
	GRANT SELECT ON iot.event, iot.consumer, iot.device_state, iot.sensor_value, iot.command,
		iot.saga_step TO iot_admin;

	COMMENT ON TABLE iot.event IS
		'what happened, in the transaction in which it happened; insert-only, read by iot.consumer';
	COMMENT ON COLUMN iot.event.xid IS 'the transaction, by which readers tell what is new';
	COMMENT ON COLUMN iot.event.event_id IS 'names the event outside this server';
	COMMENT ON TABLE iot.consumer IS 'how far each reader of the log has come';
	COMMENT ON COLUMN iot.consumer.last IS 'what was visible in it has been read';
	COMMENT ON COLUMN iot.consumer.target IS 'while there is a backlog: the snapshot being read up to';
	COMMENT ON COLUMN iot.consumer.after_id IS 'while there is a backlog: the event read last';
	COMMENT ON COLUMN iot.consumer.live IS 'whether retention waits for this reader';
	COMMENT ON TABLE iot.device_state IS 'what a device last said about itself';
	COMMENT ON COLUMN iot.device_state.online IS
		'neither known to be disconnected nor silent; null where nothing has told yet';
	COMMENT ON COLUMN iot.device_state.online_at IS 'since when';
	COMMENT ON COLUMN iot.device_state.connected IS
		'the connection: what the status topic, with its last will, last said';
	COMMENT ON COLUMN iot.device_state.connected_at IS 'since when';
	COMMENT ON COLUMN iot.device_state.silent IS
		'the data: no message of the device''s own for offline_after of its type';
	COMMENT ON COLUMN iot.device_state.silence_at IS
		'when a sweep looks whether the device is silent; not before it can be';
	COMMENT ON COLUMN iot.device_state.last_seen_at IS
		'last message of the device''s own, within some seconds';
	COMMENT ON VIEW iot.fleet IS 'the devices that the caller may view, and how they are';
	COMMENT ON COLUMN iot.fleet.adapter IS 'null for whoever does not administer';
	COMMENT ON COLUMN iot.fleet.online IS
		'neither known to be disconnected nor silent; null where nothing has told yet';
	COMMENT ON TABLE iot.sensor_value IS 'the current value of each sensor';
	COMMENT ON COLUMN iot.sensor_value.value IS 'the newer of what was commanded and what was reported';
	COMMENT ON COLUMN iot.sensor_value.source IS 'where the value came from: measurement or command';
	COMMENT ON COLUMN iot.sensor_value.version IS 'number of the write whose value stands';
	COMMENT ON COLUMN iot.sensor_value.last_version IS 'last number given out; none is given twice';
	COMMENT ON COLUMN iot.sensor_value.desired IS
		'what the last command that was not rolled back asked for';
	COMMENT ON COLUMN iot.sensor_value.desired_version IS 'version of that command';
	COMMENT ON COLUMN iot.sensor_value.reported IS 'what the device last said';
	COMMENT ON COLUMN iot.sensor_value.reported_at IS 'the device''s time of reported';
	COMMENT ON COLUMN iot.sensor_value.previous_reported IS
		'what the device had said before the last statement that brought something newer';
	COMMENT ON COLUMN iot.sensor_value.previous_reported_at IS
		'the device''s time of previous_reported: what is newer, that statement judges';
	COMMENT ON TABLE iot.command IS 'an order to a device, from request to final status';
	COMMENT ON COLUMN iot.command.request_id IS 'the caller''s name for the request; repeats make no second command';
	COMMENT ON COLUMN iot.command.value IS 'the operand as requested';
	COMMENT ON COLUMN iot.command.target_value IS 'the resulting value, which goes to the device';
	COMMENT ON COLUMN iot.command.previous_value IS
		'what a refusal puts back, with the other columns previous_…';
	COMMENT ON COLUMN iot.command.due_at IS
		'when a sign of life let it go, for devices to which commands are sent while they are awake';
	COMMENT ON COLUMN iot.command.version IS 'number of this write in sensor_value';
	COMMENT ON COLUMN iot.command.superseded IS 'rolled back, but a newer value stayed';
	COMMENT ON COLUMN iot.command.late IS 'the device answered after the end';
	COMMENT ON COLUMN iot.command.deadline IS 'not final by then: ended by a worker';
	COMMENT ON TABLE iot.command_batch IS 'one value for many devices, rolled out by the notifier';
	COMMENT ON COLUMN iot.command_batch.rate IS 'commands a second';
	COMMENT ON COLUMN iot.command_batch.abort_ratio IS
		'share of failures at which the rest is not sent; NULL for none';
	COMMENT ON COLUMN iot.command_batch.ttl IS 'time of each command, from when it is sent';
	COMMENT ON COLUMN iot.command_batch.administered IS
		'whoever asked administers the platform and passes the check of each device';
	COMMENT ON COLUMN iot.command_batch.ended IS 'devices whose command is final, failed or not';
	COMMENT ON COLUMN iot.command_batch.rated_at IS 'up to when the rate has been used';
	COMMENT ON TABLE iot.command_batch_item IS 'a device of a batch, and its command';
	COMMENT ON COLUMN iot.command_batch_item.status IS
		'WAITING, SENT, COMPLETED, FAILED (also rolled back), or CANCELLED before it was sent';
	COMMENT ON VIEW iot.command_batch_progress IS
		'batches whose devices the caller may view, with the number of devices by status';
	COMMENT ON TABLE iot.saga_step IS 'the local transaction of each service for a command';
END
$arm$;
