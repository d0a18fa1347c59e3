-- What the tables of credentials get from this version's functions, and what other brokers read.

CREATE OR REPLACE FUNCTION iot_internal.arm_credential() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $arm$
BEGIN
	CREATE OR REPLACE TRIGGER dynsec_changed
		AFTER INSERT OR DELETE OR UPDATE OF device_id, username, enabled, valid_until
		ON iot.device_credential
		FOR EACH ROW EXECUTE FUNCTION iot_internal.dynsec_changed();
	CREATE OR REPLACE TRIGGER dynsec_changed
		AFTER DELETE OR UPDATE OF name, external_id, enabled, adapter_id, device_type_id ON iot.device
		FOR EACH ROW EXECUTE FUNCTION iot_internal.dynsec_changed();
	CREATE OR REPLACE TRIGGER dynsec_changed
		AFTER UPDATE OF telemetry_topic, more_telemetry_topics, attributes_topic, status_topic,
			command_topic, ack_topic
		ON iot.device_type
		FOR EACH ROW EXECUTE FUNCTION iot_internal.dynsec_changed();

	CREATE OR REPLACE VIEW iot.device_topic AS
		SELECT d.device_id, CASE WHEN x.place = 1 THEN 'subscribe' ELSE 'publish' END AS action,
			iot_internal.topic_of_device(x.template, coalesce(d.external_id, d.name)) AS topic
		FROM iot.device d JOIN iot.device_type t ON t.device_type_id = d.device_type_id
			CROSS JOIN LATERAL unnest(ARRAY[t.command_topic, t.telemetry_topic, t.attributes_topic,
				t.status_topic, t.ack_topic] || t.more_telemetry_topics)
				WITH ORDINALITY AS x (template, place)
		-- a topic that does not name the device is its gateway's
		WHERE strpos(x.template, '{device') > 0;
	GRANT SELECT ON iot.device_topic TO iot_admin;
	-- for a broker that asks the database: with the owner's rights, and for it alone
	CREATE OR REPLACE VIEW iot.broker_authentication WITH (security_barrier) AS
		SELECT c.username, c.password_hash, c.salt, false AS is_superuser
		FROM iot.device_credential c JOIN iot.device d ON d.device_id = c.device_id
		WHERE iot_internal.credential_works(c.enabled AND d.enabled, c.valid_until);
	CREATE OR REPLACE VIEW iot.broker_acl WITH (security_barrier) AS
		SELECT c.username, 'allow'::text AS permission, t.action, t.topic
		FROM iot.device_credential c JOIN iot.device d ON d.device_id = c.device_id
			JOIN iot.device_topic t ON t.device_id = d.device_id
		WHERE iot_internal.credential_works(c.enabled AND d.enabled, c.valid_until);
	GRANT SELECT ON iot.broker_authentication, iot.broker_acl TO iot_broker;

	-- never the hashes
	GRANT SELECT (credential_id, device_id, username, enabled, valid_until, broker_state, broker_error,
		created_at) ON iot.device_credential TO iot_admin;

	COMMENT ON TABLE iot.device_credential IS
		'what devices log in to the broker with; written by functions such as iot.create_device_credential()';
	COMMENT ON COLUMN iot.device_credential.password_hash IS 'sha256 of salt and password, in hex';
	COMMENT ON COLUMN iot.device_credential.valid_until IS
		'when it ends, and its row goes; NULL where it stays';
	COMMENT ON COLUMN iot.device_credential.broker_state IS
		'waiting, present, missing or refused, where the adapter keeps it at the broker; NULL where it does not';
	COMMENT ON TABLE iot.device_credential_password IS
		'passwords that the broker has not confirmed yet; for the worker only';
	COMMENT ON TABLE iot.dynsec IS
		'an adapter''s talk with the dynamic security plugin of its broker';
	COMMENT ON COLUMN iot.dynsec.settled_at IS
		'since when the broker has all that it should have; NULL while it has not';
	COMMENT ON TABLE iot.dynsec_client IS 'clients of ours that the plugin has';
	COMMENT ON TABLE iot.dynsec_role IS 'roles of ours that the plugin has';
	COMMENT ON TABLE iot.dynsec_change IS 'devices that are to be looked at by their adapter';
	COMMENT ON COLUMN iot.dynsec_change.priority IS
		'0 for what may lock somebody out, which comes first; else 1';
	COMMENT ON VIEW iot.device_topic IS 'what a device publishes to and subscribes to';
	COMMENT ON VIEW iot.broker_authentication IS
		'who may log in, for a broker that asks the database: sha256 with the salt before the password';
	COMMENT ON VIEW iot.broker_acl IS
		'what each device may do, for a broker that asks the database; what is not allowed is denied';
END
$arm$;
