, j AS (
	INSERT INTO pgboss.job (name, data) SELECT 'send', jsonb_build_object(
		'id', c.device_id, 'command', c.command_id, 'device', d.name, 'level', :level::float8) FROM c, d)
SELECT command_id AS command FROM c;
