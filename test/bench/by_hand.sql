\set device random(1, :devices)
\set level random(0, 1000)
WITH d AS MATERIALIZED (
	SELECT n.*, iot_internal.uuidv7() AS command_id FROM by_hand.device AS n WHERE n.n = :device),
v AS (
	UPDATE by_hand.sensor_value AS s SET value = :level::float8, value_at = pg_catalog.now(), source = 'command',
		version = s.last_version + 1, last_version = s.last_version + 1, desired = :level::float8
	FROM d WHERE s.device_id = d.device_id AND s.parameter_id = d.parameter_id
	RETURNING s.version, s.value),
c AS (
	INSERT INTO by_hand.command (device_id, command_id, parameter_id, adapter_id, action, value,
		target_value, previous_value, previous_version, version, username, status, deadline)
	SELECT d.device_id, d.command_id, d.parameter_id, d.adapter_id, 'set', :level::float8, :level::float8, v.value,
		v.version - 1, v.version, 'anna', 'COMMITTED', pg_catalog.now() + interval '1 min' FROM d, v
	RETURNING command_id, device_id),
s AS (
	INSERT INTO by_hand.saga_step (device_id, command_id, service, status)
	SELECT c.device_id, c.command_id, 'device', 'COMMITTED' FROM c),
e AS (
	INSERT INTO by_hand.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
	SELECT iot_internal.uuidv7(), 'command', c.command_id::text, t.type,
		pg_catalog.jsonb_build_object('command_id', c.command_id, 'device', d.name, 'parameter', 'level',
			'action', 'set', 'value', :level::float8, 'username', 'anna'), c.device_id
	FROM c, d, (VALUES ('command.value_set'), ('dm.value_set_approved')) AS t(type))
SELECT command_id AS command, device_id AS id FROM c \gset
INSERT INTO by_hand.saga_step (device_id, command_id, service, status)
	VALUES (:id::uuid, :command::uuid, 'adapter', 'PROCESSING');
WITH c AS (
	UPDATE by_hand.command SET status = 'COMPLETED', attempts = 1, finished_at = pg_catalog.now()
	WHERE device_id = :id::uuid AND command_id = :command::uuid RETURNING device_id, command_id),
s AS (
	UPDATE by_hand.saga_step SET status = 'COMPLETED', updated_at = pg_catalog.now()
	WHERE device_id = :id::uuid AND command_id = :command::uuid AND service = 'adapter'),
e AS (
	INSERT INTO by_hand.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
	SELECT iot_internal.uuidv7(), 'command', c.command_id::text, 'adapter.value_set_sent',
		pg_catalog.jsonb_build_object('command_id', c.command_id, 'parameter', 'level', 'value', :level::float8,
			'attempts', 1), c.device_id FROM c
	RETURNING event_id, device_id),
n AS (
	INSERT INTO by_hand.notification (event_id, event, channel, audience, username, device_id,
		title, body, event_at)
	SELECT e.event_id,
		'adapter.value_set_sent', 'push', 'viewers', 'anna', e.device_id, 'level is set',
		'{"parameter": "level"}', pg_catalog.now() FROM e
	RETURNING seq)
INSERT INTO by_hand.delivery (seq, channel, recipient) SELECT n.seq, 'push', 'anna' FROM n;
