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

	CREATE OR REPLACE TRIGGER parameter_check BEFORE INSERT OR UPDATE ON iot.parameter
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_parameter();
	CREATE OR REPLACE TRIGGER sensor_check BEFORE INSERT OR UPDATE ON iot.sensor
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_sensor();
	CREATE OR REPLACE TRIGGER device_check BEFORE INSERT OR UPDATE ON iot.device
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_device();
	CREATE OR REPLACE TRIGGER device_group_check BEFORE INSERT OR UPDATE ON iot.device_group
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_group();
	CREATE OR REPLACE TRIGGER user_group_check BEFORE INSERT OR UPDATE ON iot.user_group
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_group();
	CREATE OR REPLACE TRIGGER device_type_check BEFORE INSERT OR UPDATE ON iot.device_type
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_device_type();
	CREATE OR REPLACE TRIGGER device_type_mapping_check BEFORE INSERT OR UPDATE
		ON iot.device_type_mapping
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_device_type_mapping();
	CREATE OR REPLACE TRIGGER adapter_check BEFORE INSERT OR UPDATE ON iot.adapter
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_adapter();
	CREATE OR REPLACE TRIGGER app_user_check BEFORE INSERT OR UPDATE ON iot.app_user
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_app_user();
	CREATE OR REPLACE TRIGGER access_grant_check BEFORE INSERT OR UPDATE ON iot.access_grant
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_access_grant();
	CREATE OR REPLACE TRIGGER secret_check BEFORE INSERT OR UPDATE OR DELETE ON iot.secret
		FOR EACH ROW EXECUTE FUNCTION iot_internal.check_secret();

	GRANT SELECT ON iot.parameter, iot.device_group, iot.device_type, iot.device_type_mapping,
		iot.adapter, iot.device, iot.sensor, iot.app_user, iot.user_group, iot.user_group_member, iot.access_grant
		TO iot_worker;
	GRANT SELECT ON iot.secret TO iot_worker;
	GRANT SELECT ON iot.adapter_session, iot.discovery TO iot_admin;
	GRANT SELECT, INSERT, UPDATE, DELETE ON iot.parameter, iot.device_group, iot.device_type,
		iot.device_type_mapping, iot.adapter, iot.device, iot.sensor, iot.app_user, iot.user_group, iot.user_group_member,
		iot.access_grant TO iot_admin;
	-- written, never read back
	GRANT SELECT (name, created_at), INSERT, UPDATE, DELETE ON iot.secret TO iot_admin;

	COMMENT ON TABLE iot.parameter IS 'a kind of value: its unit, inclusive bounds and words';
	COMMENT ON COLUMN iot.parameter.labels IS 'words for numbers, such as {"OFF": 0, "ON": 1}';
	COMMENT ON TABLE iot.device_group IS 'devices that the same people may see and operate';
	COMMENT ON TABLE iot.device_type IS 'how devices of a kind speak: topics, payload, confirmation';
	COMMENT ON COLUMN iot.device_type.ack_mode IS
		'who confirms a command: the device, its echo as a measurement, or the broker';
	COMMENT ON COLUMN iot.device_type.ack_timeout IS 'time for the answer to one attempt';
	COMMENT ON COLUMN iot.device_type.retention IS
		'how long measurements of such devices are kept, where that is shorter than iot.retention says; NULL: as long as others';
	COMMENT ON COLUMN iot.device_type.send_when IS
		'when commands are sent: now, or awake: at the next sign of life of the device';
	COMMENT ON COLUMN iot.device_type.offline_after IS
		'silence after which a device is offline; NULL where silence means nothing';
	COMMENT ON COLUMN iot.device_type.command_template IS
		'payload with {id}, {device}, {parameter}, {action}, {value}, {version}, {word}, {json}; NULL: the usual one';
	COMMENT ON COLUMN iot.device_type.more_telemetry_topics IS
		'further topics where it reports values, in the same form';
	COMMENT ON COLUMN iot.device_type.ignored_topics IS
		'topics that come with the others and are passed over, unless a device of ours has them';
	COMMENT ON COLUMN iot.device_type.status_path IS
		'where in a message on the status topic the word stands, such as $.state; NULL: online and offline in the usual places';
	COMMENT ON COLUMN iot.device_type.online_word IS 'its word for online; NULL: online';
	COMMENT ON COLUMN iot.device_type.offline_word IS 'its word for offline; NULL: offline';
	COMMENT ON COLUMN iot.device_type.device_path IS
		'where messages on topics without {device} name the device, such as $.id; $.* where the keys of an object are the devices';
	COMMENT ON COLUMN iot.device_type.only_device IS
		'what the only device of the type is called, where its topics do not say; NULL: they, or its messages, do';
	COMMENT ON COLUMN iot.device_type.time_path IS
		'where a message that has a mapping says its time; NULL: the time of arrival';
	COMMENT ON COLUMN iot.device_type.time_unit IS 'of a time that is a number: ms or s since 1970';
	COMMENT ON COLUMN iot.device_type.time_zone IS
		'of times that do not say theirs, such as Europe/Berlin; NULL: they are refused';
	COMMENT ON COLUMN iot.device.external_id IS
		'what it is called in topics and messages; NULL: its name';
	COMMENT ON TABLE iot.device_type_mapping IS
		'where the values of a parameter are in what devices of a type say; what such a type does not name is passed over';
	COMMENT ON COLUMN iot.device_type_mapping.path IS
		'place in the message, such as $.AM2301.Temperature; $ is the message itself';
	COMMENT ON COLUMN iot.device_type_mapping.name IS
		'what the devices call it, for {parameter} in topics and commands; NULL: the parameter''s own name';
	COMMENT ON COLUMN iot.device_type_mapping.scale IS
		'the value is what the device says, times scale, plus shift';
	COMMENT ON COLUMN iot.device_type_mapping.shift IS 'added after scale';
	COMMENT ON COLUMN iot.device_type_mapping.labels IS
		'the devices'' words for numbers, in place of the sensor''s and the parameter''s';
	COMMENT ON COLUMN iot.device_type_mapping.telemetry_topic IS
		'where alone its values are reported, if the device type has only_device; NULL: on the type''s topics';
	COMMENT ON COLUMN iot.device_type_mapping.command_topic IS
		'where its commands go, if the device type has only_device; NULL: to the type''s topic';
	COMMENT ON COLUMN iot.device_type_mapping.command_template IS
		'payload of commands, in place of the device type''s';
	COMMENT ON COLUMN iot.device_type_mapping.command_labels IS
		'the words that commands use for numbers, where they are not those of labels';
	COMMENT ON TABLE iot.adapter IS 'a way to devices; kind "mqtt" is built in';
	COMMENT ON TABLE iot.adapter_session IS
		'what the broker keeps for each process of an adapter: the filters of its session';
	COMMENT ON TABLE iot.discovery IS
		'what devices have announced by Home Assistant''s MQTT discovery; written by iot.import_home_assistant() and by adapters with the option discovery_prefix';
	COMMENT ON COLUMN iot.discovery.topic IS 'where the announcement stands at the broker';
	COMMENT ON COLUMN iot.discovery.device_id IS 'whose it is; NULL where it was refused';
	COMMENT ON COLUMN iot.discovery.parameters IS 'parameters that the device has by it';
	COMMENT ON COLUMN iot.discovery.presence IS
		'topic, path and words by which it says online and offline';
	COMMENT ON COLUMN iot.discovery.expire_after IS 'seconds after which a value is no longer true';
	COMMENT ON COLUMN iot.discovery.refused IS
		'the last announcement there was; what was taken of an earlier one holds';
	COMMENT ON COLUMN iot.discovery.error IS
		'what of it is not used, and why; NULL where all of it is';
	COMMENT ON TABLE iot.device IS 'a thing that reports and takes commands; its name is that in topics';
	COMMENT ON TABLE iot.sensor IS 'one parameter of one device, with bounds and words of its own';
	COMMENT ON TABLE iot.app_user IS 'people and programs that are not roles of the server';
	COMMENT ON COLUMN iot.app_user.role IS
		'the role that PostgREST takes on for the user: iot_viewer, iot_operator or iot_admin';
	COMMENT ON COLUMN iot.app_user.enabled IS 'a user who is not may nothing, whatever token he has';
	COMMENT ON COLUMN iot.app_user.tokens_valid_from IS
		'tokens issued earlier are refused, and those that do not say when; NULL: none is';
	COMMENT ON TABLE iot.app_user_secret IS 'hashes of passwords; for the functions of users only';
	COMMENT ON TABLE iot.revoked_token IS 'tokens that were logged out, until they expire';
	COMMENT ON COLUMN iot.revoked_token.token_id IS 'claim "jti"';
	COMMENT ON TABLE iot.user_group IS 'users with the same rights';
	COMMENT ON TABLE iot.user_group_member IS 'who is in which user group';
	COMMENT ON TABLE iot.access_grant IS
		'what a user group may do with a device group: view, operate, manage';
	COMMENT ON TABLE iot.secret IS 'passwords and keys that options name; for workers only';
END
$arm$;
