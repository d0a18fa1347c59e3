SELECT c.command_id AS command, graphile_worker.add_job('send', json_build_object(
	'id', c.device_id, 'command', c.command_id, 'device', d.name, 'level', :level::float8)) FROM c, d;
