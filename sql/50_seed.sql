-- First rows, written once when the tables are made: what a user deletes stays deleted.

CREATE OR REPLACE FUNCTION iot_internal.seed_registry() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	INSERT INTO iot.device_group (name, description)
		VALUES ('default', 'devices that nobody put elsewhere');
	INSERT INTO iot.device_type (name, description)
		VALUES ('default', 'topics below iot/, acknowledges by itself');
	INSERT INTO iot.adapter (name, kind, url, enabled)
		VALUES ('mqtt', 'mqtt', 'mqtt://127.0.0.1:1883', false);
END
$function$;

CREATE OR REPLACE FUNCTION iot_internal.seed_operation() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	INSERT INTO iot.schema_version (version) VALUES (iot_internal.schema_version());
	INSERT INTO iot.maintenance (only_row) VALUES (true);
	INSERT INTO iot.retention (relation, keep, cap) VALUES
		('event', '7 days', '30 days'),
		('measurement', '365 days', NULL),
		('command', '30 days', NULL),
		('notification', '30 days', NULL),
		('delivery', '30 days', NULL),
		('dead_letter', '30 days', NULL);
	INSERT INTO iot.epoch (epoch, system_identifier, database_oid, timeline)
		VALUES (iot_internal.uuidv7(), iot_internal.system_identifier(),
			(SELECT d.oid FROM pg_database d WHERE d.datname = current_database()),
			iot_internal.timeline());
END
$function$;
