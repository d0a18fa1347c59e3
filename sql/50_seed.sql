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
