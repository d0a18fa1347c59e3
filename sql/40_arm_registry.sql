-- What the registry's tables get from this version's functions.

CREATE OR REPLACE FUNCTION iot_internal.arm_registry() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
BEGIN
	ALTER TABLE iot.parameter ALTER parameter_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.device_group ALTER device_group_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.device_type ALTER device_type_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.adapter ALTER adapter_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.device ALTER device_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.app_user ALTER app_user_id SET DEFAULT iot_internal.uuidv7();
	ALTER TABLE iot.user_group ALTER user_group_id SET DEFAULT iot_internal.uuidv7();

	GRANT SELECT ON iot.parameter, iot.device_group, iot.device_type, iot.adapter, iot.device,
		iot.sensor, iot.app_user, iot.user_group, iot.user_group_member, iot.access_grant
		TO iot_worker;
	GRANT SELECT ON iot.secret TO iot_worker;
	GRANT SELECT, INSERT, UPDATE, DELETE ON iot.parameter, iot.device_group, iot.device_type,
		iot.adapter, iot.device, iot.sensor, iot.app_user, iot.user_group, iot.user_group_member,
		iot.access_grant TO iot_admin;
	-- written, never read back
	GRANT SELECT (name, created_at), INSERT, UPDATE, DELETE ON iot.secret TO iot_admin;
END
$arm$;
