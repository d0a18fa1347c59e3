-- What the arguments of functions are, after the line that says what a function does.  PostgREST shows
-- both.  Names mean the same everywhere; where they do not, a line of their function stands first.

DO $comment$
DECLARE
	described record;
BEGIN
	FOR described IN
		WITH known (function, name, comment) AS (VALUES
			('create_device', 'device_group', 'name of its device group'),
			('create_device', 'id', 'leave it out, and one is made'),
			('create_device', 'name', 'its name in topics: letters, digits and "_.:-"'),
			('discard_dead_letter', 'id', 'of the dead letter'),
			('history', 'since', 'the first time that is wanted'),
			('history', 'until', 'up to before this time'),
			('ingest', 'ts', 'the time of values that come without one'),
			('may', 'device_id', 'of the device'),
			('may', 'username', 'the user'),
			('replay_dead_letter', 'id', 'of the dead letter'),
			('assign_alarm', 'username', 'who sees to it; null for nobody'),
			('wait_for_command', 'timeout', 'how long to wait at most'),
			(NULL, 'abort_ratio', 'share of failures at which the rest is not sent'),
			(NULL, 'action', 'set, or add to the current value'),
			(NULL, 'adapter', 'name of the adapter'),
			(NULL, 'after_seq', 'the last position that is known'),
			(NULL, 'alarm_id', 'of the alarm'),
			(NULL, 'alarm_rule_id', 'of the rule'),
			(NULL, 'allow_red', 'whether red alarms come through all the same'),
			(NULL, 'bucket', 'such as 5 minutes, for one row per time span'),
			(NULL, 'command_batch_id', 'of the batch'),
			(NULL, 'command_id', 'of the command'),
			(NULL, 'comment', 'words for people'),
			(NULL, 'config', 'the message on that topic, or null where it is empty'),
			(NULL, 'device', 'name or id of the device'),
			(NULL, 'device_group', 'name of the device group'),
			(NULL, 'device_type', 'name of its device type'),
			(NULL, 'devices', 'the message on topic zigbee2mqtt/bridge/devices'),
			(NULL, 'discovery_prefix', 'what such topics begin with'),
			(NULL, 'email', 'where the user can be reached'),
			(NULL, 'ends', 'time of day when they end'),
			(NULL, 'error', 'what the device said'),
			(NULL, 'event', 'type or pattern of events, such as alarm.*'),
			(NULL, 'expected', 'carry it out only if this is still the current value'),
			(NULL, 'language', 'such as en or de'),
			(NULL, 'level', 'view, operate or manage'),
			(NULL, 'max_commands', 'at most so many'),
			(NULL, 'measurements', 'values by parameter'),
			(NULL, 'overlap', 'for how long the one before still works'),
			(NULL, 'parameter', 'name of the parameter'),
			(NULL, 'parameters', 'names of the parameters that it has'),
			(NULL, 'points', 'at most so many'),
			(NULL, 'rate', 'commands a second'),
			(NULL, 'request_id', 'names the request, so that it can be repeated'),
			(NULL, 'since', 'begin of the time span'),
			(NULL, 'starts', 'time of day when they begin'),
			(NULL, 'time_zone', 'such as Europe/Berlin'),
			(NULL, 'topic', 'where at the broker the device has announced it'),
			(NULL, 'ts', 'the time'),
			(NULL, 'ttl', 'time that a command has'),
			(NULL, 'until', 'end of the time span'),
			(NULL, 'up_to_seq', 'the last position that was read'),
			(NULL, 'username', 'user name of the credential; left out: all'),
			(NULL, 'valid_until', 'when it ends; left out: never'),
			(NULL, 'value', 'a finite number'),
			(NULL, 'weekdays', 'days of the week, 1 for Monday to 7 for Sunday'),
			(NULL, 'word', 'a label of the parameter, or a number as text')
		)
		SELECT p.oid::pg_catalog.regprocedure AS function,
				pg_catalog.obj_description(p.oid, 'pg_proc') || E'\n\n'
					|| pg_catalog.string_agg(a.name || ': ' || k.comment, E'\n' ORDER BY a.place) AS comment
			FROM pg_catalog.pg_proc p
				CROSS JOIN LATERAL pg_catalog.unnest(p.proargnames[:p.pronargs]) WITH ORDINALITY
					AS a (name, place)
				JOIN LATERAL (
					SELECT w.comment FROM known w
						WHERE w.name = a.name AND coalesce(w.function = p.proname, true)
						ORDER BY w.function NULLS LAST LIMIT 1) k ON true
			WHERE p.pronamespace = 'iot'::pg_catalog.regnamespace AND p.prokind = 'f'
				AND pg_catalog.strpos(pg_catalog.obj_description(p.oid, 'pg_proc'), E'\n\n') = 0
			GROUP BY p.oid LOOP
		EXECUTE pg_catalog.format('COMMENT ON FUNCTION %s IS %L', described.function, described.comment);
	END LOOP;
END
$comment$;
