-- What an operator sees: iot.status() in one look, iot.metric for a monitoring system, and
-- iot.check(), the doctor.
--
-- Compiling such queries would take longer than running them: "jit" is off.

CREATE OR REPLACE FUNCTION iot_internal.preloaded() RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_preloaded_sql';

-- How far each reader of the log is behind.  Counts to a hundred thousand at most: looking must stay
-- cheap when things are worst.
CREATE OR REPLACE FUNCTION iot_internal.consumer_lag()
RETURNS TABLE (name text, live boolean, lag_events bigint, lag_seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT c.name, EXISTS (SELECT FROM iot_internal.live_consumers() l WHERE l.name = c.name),
		u.events, coalesce(extract(epoch FROM now() - u.oldest)::double precision, 0)
	FROM iot.consumer c CROSS JOIN iot.epoch p
		CROSS JOIN LATERAL iot_internal.consumer_types(c.name) AS t (types) CROSS JOIN LATERAL (
		SELECT count(*) AS events, min(w.created_at) AS oldest FROM (
			SELECT e.created_at FROM iot.event e
			WHERE e.xid >= pg_snapshot_xmin(c.last)
				AND NOT pg_visible_in_snapshot(e.xid, c.last)
				AND e.id > p.first_event_id
				AND iot_internal.is_of_types(e.type, t.types)
				AND NOT coalesce(e.id <= c.after_id
					AND pg_visible_in_snapshot(e.xid, c.target), false)
			LIMIT 100000) w) u
$function$;

-- Workers: what shared memory says of those that are running or wanted, and what the others last
-- said in their row.
CREATE OR REPLACE FUNCTION iot_internal.workers()
RETURNS TABLE (name text, kind text, adapter text, pid integer, state text, detail text,
	started_at timestamptz, heartbeat_at timestamptz, counters jsonb)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	WITH slot AS MATERIALIZED (SELECT s.* FROM iot_internal.worker_slots() s)
	SELECT s.name, s.kind, a.name, s.pid,
		CASE WHEN s.pid IS NULL AND s.state = '' THEN 'not started' ELSE s.state END,
		s.detail, s.started_at, s.beat_at, s.counters
	FROM slot s LEFT JOIN iot.adapter a ON a.adapter_id = s.adapter_id
	UNION ALL
	SELECT w.name, w.kind, a.name, NULL, 'stopped', w.detail, w.started_at, w.heartbeat_at,
		w.counters
	FROM iot.worker w LEFT JOIN iot.adapter a ON a.adapter_id = w.adapter_id
	WHERE NOT EXISTS (SELECT FROM slot s WHERE s.name = w.name)
$function$;

-- Push daemons of this database: each has one session that listens, and others for users' requests.
CREATE OR REPLACE FUNCTION iot_internal.push_sessions() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT count(*) FROM pg_stat_activity s JOIN pg_roles r ON r.oid = s.usesysid
	WHERE s.datname = current_database() AND NOT r.rolsuper
		AND s.application_name <> 'iot-pushd requests' AND pg_has_role(r.oid, 'iot_pushd', 'USAGE')
$function$;

-- Bytes of a table with its indexes and partitions.
CREATE OR REPLACE FUNCTION iot_internal.table_size(relation regclass) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT coalesce(sum(pg_total_relation_size(t.relid))::bigint, pg_total_relation_size(relation))
	FROM pg_partition_tree(relation) t
$function$;

-- A table that our functions cannot use: a restore without owners makes such.
CREATE OR REPLACE FUNCTION iot_internal.foreign_table() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT min(c.relname::text) FROM pg_class c
	WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind = ANY (ARRAY['r', 'p', 'v']::"char"[])
		AND c.relowner <> 'iot_owner'::regrole
$function$;

-- Channels on which people and systems are to be told and cannot be.
CREATE OR REPLACE FUNCTION iot_internal.check_delivery()
RETURNS TABLE (severity text, finding text, hint text)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	row record;
	audiences text[] := ARRAY(
		SELECT r.audience FROM iot.notification_rule r WHERE r.enabled AND r.channel = 'email'
		UNION
		SELECT s.audience FROM iot.escalation_step s
			JOIN iot.notification_rule r ON r.notification_rule_id = s.notification_rule_id
			WHERE r.enabled AND s.channel = 'email');
	users text[];
BEGIN
	IF cardinality(audiences) > 0 AND NOT EXISTS (SELECT FROM iot.mail_server m WHERE m.enabled) THEN
		RETURN QUERY VALUES ('error', 'rules tell people by e-mail and no mail server is enabled',
			'INSERT INTO iot.mail_server (name, url, sender) VALUES (...); or enable the one that is there.');
	END IF;
	users := ARRAY(
		SELECT u.username FROM iot.app_user u
			WHERE u.enabled AND u.email IS NULL AND EXISTS (
				SELECT FROM unnest(audiences) AS a(audience)
				-- whoever may view some device may be among the viewers; an author is anybody
				WHERE CASE WHEN a.audience = 'viewers' THEN EXISTS (
						SELECT FROM iot.user_group_member m
							JOIN iot.access_grant g ON g.user_group_id = m.user_group_id
							WHERE m.app_user_id = u.app_user_id)
					ELSE iot_internal.in_audience(u.username, a.audience, NULL) END)
			ORDER BY u.username);
	IF cardinality(users) > 0 THEN
		RETURN QUERY VALUES ('warning',
			format('rules tell people by e-mail who have no address: %s%s', array_to_string(users[:5], ', '),
				CASE WHEN cardinality(users) > 5
					THEN format(' and %s more', cardinality(users) - 5) ELSE '' END),
			'UPDATE iot.app_user SET email = ... or leave them to the other channels.');
	END IF;
	SELECT count(*) AS waiting, max(d.last_error) AS error INTO row FROM iot.delivery d
		WHERE d.channel = 'email' AND d.status = 'PENDING' AND d.last_error IS NOT NULL;
	IF row.waiting > 0 THEN
		RETURN QUERY VALUES ('warning',
			format('e-mail waits after failed attempts, %s so far: %s', row.waiting, row.error),
			'Look at the mail server''s row in iot.mail_server. What waits is sent once it works.');
	END IF;
	FOR row IN SELECT d.channel, count(*) AS failed, max(d.last_error) AS error FROM iot.delivery d
			WHERE d.status = 'FAILED' AND d.created_at > now() - interval '1 day'
			GROUP BY d.channel ORDER BY d.channel LOOP
		RETURN QUERY VALUES ('warning',
			format('deliveries of the channel "%s" were given up in the last day, %s in all: %s',
				row.channel, row.failed, row.error),
			'See iot.delivery; set status = ''PENDING'', attempts = 0, next_attempt_at = now() to try again.');
	END LOOP;
END
$function$;

CREATE OR REPLACE FUNCTION iot.check()
RETURNS TABLE (severity text, finding text, hint text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
#variable_conflict use_column
DECLARE
	state text := iot_internal.epoch_state();
	databases text := current_setting('iot.databases', true);
	foreign_table text := iot_internal.foreign_table();
	listed boolean;
	row record;
	amount bigint;
BEGIN
	-- the library
	IF NOT iot_internal.preloaded() THEN
		RETURN QUERY VALUES ('error', 'the iot library is not preloaded: no worker runs',
			'Add "iot" to "shared_preload_libraries" and restart the server.');
	ELSE
		listed := EXISTS (
			SELECT FROM regexp_split_to_table(databases, '\s*,\s*') AS d (name)
			WHERE d.name = current_database() OR d.name = quote_ident(current_database())
				OR lower(d.name) = current_database());
		IF NOT listed THEN
			RETURN QUERY VALUES ('error',
				format('database "%s" is not in "iot.databases": no worker runs for it',
					current_database()),
				-- as one text: the quotation marks of a name would be lost in a list
				format('ALTER SYSTEM SET iot.databases = %L; SELECT pg_reload_conf();',
					concat_ws(', ', nullif(databases, ''), quote_ident(current_database()))));
		END IF;
	END IF;
	IF EXISTS (SELECT FROM pg_extension e JOIN pg_available_extensions a ON a.name = e.extname
			WHERE e.extname = 'iot' AND e.extversion <> a.default_version) THEN
		RETURN QUERY VALUES ('warning', 'a newer version of the extension is installed',
			'ALTER EXTENSION iot UPDATE; SELECT iot.migrate();');
	END IF;

	-- the tables
	IF foreign_table IS NOT NULL THEN
		RETURN QUERY VALUES ('error',
			format('table "%s" does not belong to "iot_owner"', foreign_table),
			'SELECT iot.install(); gives it back.');
		RETURN;
	END IF;
	IF state <> 'ok' THEN
		RETURN QUERY SELECT v.severity, v.finding, v.hint FROM (VALUES
			('absent', 'error', 'the tables of iot are not there, or not complete', 'SELECT iot.install();'),
			('outdated', 'error', 'the tables are older than the functions: workers idle', 'SELECT iot.migrate();'),
			('newer', 'error', 'the functions are older than the tables: workers idle', 'Install the newer extension, then ALTER EXTENSION iot UPDATE;'),
			('standby', 'info', 'this server is a standby: workers start when it is promoted', 'Look at the primary.'),
			('paused', 'warning', 'this database is a copy: adapters and deliveries are paused', 'SELECT iot.resume(); where it may speak to devices and people.'),
			('foreign', 'warning', 'this database is a copy: adapters and deliveries are paused', 'SELECT iot.resume(); where it may speak to devices and people.'),
			('promoted', 'info', 'this server was promoted a moment ago', 'Workers take notice with their next turn.'))
			AS v (state, severity, finding, hint) WHERE v.state = iot_internal.epoch_state();
		IF state = 'absent' THEN
			RETURN;
		END IF;
	END IF;
	SELECT count(*), min(t.tgname || '" on "' || t.tgrelid::regclass) AS name INTO row
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		WHERE c.relnamespace = 'iot'::regnamespace AND NOT t.tgisinternal AND t.tgenabled = 'D';
	IF row.name IS NOT NULL THEN
		RETURN QUERY VALUES ('error', format('trigger "%s" is disabled', row.name),
			'SELECT iot.install(); makes all triggers again.');
	END IF;
	IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = 'iot.event'::regclass)
		OR NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = 'iot.device'::regclass) THEN
		RETURN QUERY VALUES ('error', 'the tables have lost their triggers', 'SELECT iot.install();');
	END IF;
	SELECT string_agg(quote_ident(m.rolname), ', ') AS names INTO row
		FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member
		WHERE a.roleid = ANY (ARRAY['iot_owner'::regrole, 'iot_worker'::regrole])
			AND NOT m.rolsuper;
	IF row.names IS NOT NULL THEN
		RETURN QUERY VALUES ('warning',
			format('members of "iot_owner" or "iot_worker" pass every check: %s', row.names),
			'REVOKE these roles; people get iot_admin.');
	END IF;

	SELECT string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname) AS names INTO row FROM pg_roles r
		WHERE r.rolname = ANY (ARRAY['iot_owner', 'iot_worker', 'iot_pushd', 'iot_broker',
				'iot_viewer', 'iot_operator', 'iot_admin', 'iot_anon'])
			AND (r.rolcanlogin OR r.rolsuper OR r.rolbypassrls);
	IF row.names IS NOT NULL THEN
		RETURN QUERY VALUES ('warning', format('roles of iot have powers of their own: %s', row.names),
			'ALTER ROLE ... NOLOGIN NOSUPERUSER NOBYPASSRLS; people and programs are members of them.');
	END IF;

	-- the workers
	FOR row IN SELECT w.* FROM iot_internal.workers() w ORDER BY w.name LOOP
		IF row.state = 'not started' OR row.kind <> 'launcher' AND listed
			AND row.heartbeat_at < clock_timestamp() - interval '15 s' THEN
			RETURN QUERY VALUES ('error', format('worker "%s" does not run', row.name),
				coalesce(row.detail, 'See the server''s log, and "max_worker_processes" and "iot.max_workers".'));
		ELSIF row.adapter IS NOT NULL AND row.state <> 'connected' AND row.state <> 'stopped' THEN
			RETURN QUERY VALUES ('warning', format('adapter "%s" has no broker: it is %s',
					row.adapter, row.state),
				coalesce(row.detail || '. ', '') || 'Look at its url and options in iot.adapter.');
		END IF;
	END LOOP;
	IF listed AND NOT EXISTS (SELECT FROM iot_internal.workers() w
			WHERE w.kind = 'notifier' AND w.pid IS NOT NULL) AND NOT pg_is_in_recovery() THEN
		RETURN QUERY VALUES ('error', 'the notifier of this database does not run',
			'It starts within seconds. See the server''s log, and "max_worker_processes".');
	END IF;

	FOR row IN
		SELECT a.name, g.device_group_id IS NULL OR t.device_type_id IS NULL AS lost,
			coalesce((a.options ->> 'register_limit')::bigint, 1000) AS register_limit,
			(SELECT count(*) FROM iot.device d WHERE d.adapter_id = a.adapter_id
				AND d.device_group_id = g.device_group_id AND d.device_type_id = t.device_type_id) AS registered
		FROM iot.adapter a
			LEFT JOIN iot.device_group g ON g.name = a.options ->> 'register_group'
			LEFT JOIN iot.device_type t ON t.name = a.options ->> 'register_type'
		WHERE a.kind = 'mqtt' AND a.options ? 'register_group' LOOP
		IF row.lost THEN
			RETURN QUERY VALUES ('warning',
				format('adapter "%s" cannot register devices: their group or type does not exist', row.name),
				'Correct "register_group" and "register_type" in its options.');
		ELSIF row.registered >= row.register_limit THEN
			RETURN QUERY VALUES ('warning',
				format('adapter "%s" has registered as many devices as it may: %s', row.name, row.registered),
				'Move them to other groups or types, or raise "register_limit" in its options.');
		END IF;
	END LOOP;

	FOR row IN
		SELECT a.name, count(*) FILTER (WHERE d.refused) AS refused, count(*) AS topics,
			coalesce((a.options ->> 'discovery_limit')::bigint, 1000) AS discovery_limit,
			NOT EXISTS (SELECT FROM iot.device_group g WHERE g.name = a.options ->> 'discovery_group') AS lost
		FROM iot.adapter a LEFT JOIN iot.discovery d ON d.adapter_id = a.adapter_id
		WHERE a.kind = 'mqtt' AND a.options ? 'discovery_prefix' GROUP BY a.adapter_id LOOP
		IF row.lost THEN
			RETURN QUERY VALUES ('warning',
				format('adapter "%s" cannot take in devices that announce themselves: their group does not exist', row.name),
				'Correct "discovery_group" in its options.');
		ELSIF row.topics >= row.discovery_limit THEN
			RETURN QUERY VALUES ('warning',
				format('adapter "%s" has as many announcements as it may: %s', row.name, row.topics),
				'Raise "discovery_limit" in its options, or delete devices that are gone and their types.');
		END IF;
		IF row.refused > 0 THEN
			RETURN QUERY VALUES ('info', format('adapter "%s" has refused announcements of devices: %s', row.name, row.refused),
				'See iot.discovery, column "error".');
		END IF;
	END LOOP;

	-- what is configured
	IF EXISTS (SELECT FROM iot.device) AND NOT EXISTS (SELECT FROM iot.adapter a WHERE a.enabled) THEN
		RETURN QUERY VALUES ('warning', 'there are devices and no adapter is enabled',
			'UPDATE iot.adapter SET url = ..., enabled = true WHERE name = ...;');
	ELSE
		FOR row IN SELECT a.name, count(*) AS devices
				FROM iot.adapter a JOIN iot.device d ON d.adapter_id = a.adapter_id AND d.enabled
				WHERE NOT a.enabled GROUP BY a.name ORDER BY a.name LOOP
			RETURN QUERY VALUES ('warning',
				format('adapter "%s" is disabled, and what is sent to its devices is not taken up: %s',
					row.name, row.devices),
				'Set "enabled" of its row in iot.adapter, or move or disable the devices.');
		END LOOP;
	END IF;
	IF current_setting('fsync') = 'off' OR current_setting('full_page_writes') = 'off' THEN
		RETURN QUERY VALUES ('warning', 'what is acknowledged to devices may be lost in a crash',
			'Turn "fsync" and "full_page_writes" on.');
	END IF;
	IF NOT current_setting('iot.wakeups')::boolean THEN
		RETURN QUERY VALUES ('info', '"iot.wakeups" is off: workers only poll', 'Turn it on.');
	END IF;

	RETURN QUERY SELECT c.severity, c.finding, c.hint FROM iot_internal.check_credentials() c;

	-- maintenance
	IF NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'pg_cron') THEN
		RETURN QUERY VALUES ('info', 'pg_cron is not in this database: the notifier runs maintenance',
			'SELECT iot.schedule_maintenance(); says what pg_cron elsewhere would need.');
	END IF;
	SELECT m.last_run_at, m.last_error INTO row FROM iot.maintenance m;
	IF row.last_error IS NOT NULL THEN
		RETURN QUERY VALUES ('warning', 'maintenance did not do all of its work: ' || row.last_error,
			'It is tried again. CALL iot.maintain(); tries now.');
	ELSIF row.last_run_at IS NULL OR row.last_run_at < now() - interval '3 hours' THEN
		RETURN QUERY VALUES ('warning',
			format('maintenance ran last at %s', coalesce(row.last_run_at::text, 'no time')),
			'CALL iot.maintain();, and find out why neither pg_cron nor the notifier does.');
	END IF;
	FOR row IN SELECT t.parent FROM unnest(ARRAY['iot.event', 'iot.measurement']::regclass[])
			AS t (parent)
		WHERE NOT EXISTS (SELECT FROM iot_internal.partitions(t.parent) p
			WHERE p.upper > now() + interval '1 day') LOOP
		RETURN QUERY VALUES ('error', format('%s has no partition for tomorrow', row.parent),
			'CALL iot.maintain();');
	END LOOP;

	-- what piles up
	SELECT s.stepped_at INTO row FROM iot.rollup_state s
		WHERE coalesce(s.stepped_at, '-infinity') < clock_timestamp() - interval '15 minutes'
			AND (EXISTS (SELECT FROM iot.rollup_note)
				OR EXISTS (SELECT FROM iot.rollup_pending p WHERE p.due_at < now()));
	IF FOUND THEN
		RETURN QUERY VALUES ('warning',
			format('measurements were rolled up last at %s', coalesce(row.stepped_at::text, 'no time')),
			'History is right all the same, only slower. The notifier does it, or CALL iot.maintain();.');
	END IF;
	IF NOT EXISTS (SELECT FROM iot.consumer c WHERE c.name = 'notifier') THEN
		RETURN QUERY VALUES ('error', 'consumer "notifier" is gone: nobody is notified of anything',
			'SELECT iot.install(); makes it anew, from now on.');
	END IF;
	FOR row IN SELECT l.*, a.name AS adapter, a.kind
		FROM iot_internal.consumer_lag() l
			LEFT JOIN iot.adapter a ON 'adapter:' || a.adapter_id::text = l.name
		WHERE l.live AND l.lag_seconds > 60 ORDER BY l.name LOOP
		RETURN QUERY VALUES ('warning', format('%s is %s s behind in the log, events that wait: %s',
			CASE WHEN row.adapter IS NULL THEN format('consumer "%s"', row.name)
				ELSE format('adapter "%s"', row.adapter) END,
			round(row.lag_seconds::numeric), row.lag_events),
			CASE WHEN row.kind <> 'mqtt' THEN 'See whether its program runs and calls iot.adapter_poll().'
				WHEN row.adapter IS NOT NULL OR row.name = 'notifier' THEN 'See whether its worker runs.'
				ELSE 'See whether its worker runs; a consumer that is no more is deleted from iot.consumer.' END);
	END LOOP;
	amount := (SELECT count(*) FROM iot.command c
		WHERE c.finished_at IS NULL AND c.status = 'COMMITTED'
			AND c.deadline < now() - interval '10 s');
	IF amount > 0 THEN
		RETURN QUERY VALUES ('error', format('commands are past their deadline and not final: %s', amount),
			'The notifier ends them: see why it does not.');
	END IF;
	IF iot_internal.push_sessions() = 0 AND EXISTS (SELECT FROM iot.delivery d
			WHERE d.status = 'PENDING' AND d.channel = 'push') THEN
		RETURN QUERY VALUES ('warning', 'notifications wait and no push daemon is connected',
			'Start iot-pushd, with a role that is a member of iot_pushd.');
	END IF;
	RETURN QUERY SELECT c.severity, c.finding, c.hint FROM iot_internal.check_delivery() AS c;
	RETURN QUERY SELECT c.severity, c.finding, c.hint FROM iot_internal.check_alarm_rules() AS c;
	FOR row IN SELECT l.reason, count(*) AS letters FROM iot.dead_letter l
		WHERE l.created_at > now() - interval '1 hour' GROUP BY l.reason ORDER BY l.reason LOOP
		RETURN QUERY VALUES ('warning', format('messages of the last hour are dead letters: %s %s',
			row.letters, row.reason), 'Look at iot.dead_letter.');
	END LOOP;
END
$function$;
COMMENT ON FUNCTION iot.check() IS
	'the doctor: what keeps iot from working, or soon will, and what to do';

CREATE OR REPLACE FUNCTION iot.status() RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
	state text := iot_internal.epoch_state();
	known jsonb := jsonb_build_object(
		'state', state,
		'preloaded', iot_internal.preloaded(),
		'version', jsonb_build_object(
			'extension', (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'iot'),
			'functions', iot_internal.schema_version()),
		'hints', coalesce((SELECT jsonb_agg(jsonb_build_object('severity', c.severity,
			'finding', c.finding, 'hint', c.hint)) FROM iot.check() c), '[]'));
BEGIN
	IF state = 'absent' OR iot_internal.foreign_table() IS NOT NULL THEN
		RETURN known;
	END IF;
	RETURN known
		|| jsonb_build_object(
			'paused', state = ANY (ARRAY['paused', 'foreign']),
			'version', known -> 'version' || jsonb_build_object(
				'tables', (SELECT v.version FROM iot.schema_version v)),
			'epoch', (SELECT jsonb_build_object('epoch', e.epoch, 'since', e.created_at,
				'timeline', e.timeline) FROM iot.epoch e),
			'workers', (
				SELECT coalesce(jsonb_agg(jsonb_build_object(
					'name', w.name, 'kind', w.kind, 'adapter', w.adapter, 'pid', w.pid,
					'state', w.state, 'detail', w.detail, 'started_at', w.started_at,
					'heartbeat_at', w.heartbeat_at, 'counters', w.counters) ORDER BY w.name), '[]')
				FROM iot_internal.workers() w),
			'connections', jsonb_build_object(
				'brokers', (SELECT count(*) FROM iot_internal.workers() w
					WHERE w.adapter IS NOT NULL AND w.state = 'connected'),
				'enabled_adapters', (SELECT count(*) FROM iot.adapter a WHERE a.enabled),
				'push_daemons', iot_internal.push_sessions(),
				'sessions', (SELECT sum(d.numbackends) FROM pg_stat_database d),
				'max_connections', current_setting('max_connections')::integer),
			'consumers', (
				SELECT coalesce(jsonb_agg(jsonb_build_object('name', l.name,
					'adapter', (SELECT a.name FROM iot.adapter a
						WHERE 'adapter:' || a.adapter_id::text = l.name),
					'live', l.live, 'lag_events', l.lag_events, 'lag_seconds', round(l.lag_seconds::numeric, 3))
					ORDER BY l.name), '[]')
				FROM iot_internal.consumer_lag() l))
		|| jsonb_build_object(
			'commands', (
				SELECT jsonb_build_object('pending', count(*),
					'in_flight', (SELECT count(*) FROM iot.saga_step s
						WHERE s.service = 'adapter' AND s.status = 'PROCESSING'),
					'oldest_at', min(c.created_at))
				FROM iot.command c WHERE c.finished_at IS NULL AND c.status = 'COMMITTED'),
			'notifications', (
				SELECT jsonb_build_object('pending', coalesce(sum(d.pending), 0),
					'by_channel', coalesce(jsonb_object_agg(d.channel, d.pending), '{}'),
					'failed', (SELECT coalesce(jsonb_object_agg(f.channel, f.failed), '{}')
						FROM (SELECT g.channel, count(*) AS failed FROM iot.delivery g
							WHERE g.status = 'FAILED' AND g.created_at > now() - interval '1 day'
							GROUP BY g.channel) f),
					'escalations', (SELECT count(*) FROM iot.escalation),
					'oldest_at', min(d.oldest_at))
				FROM (SELECT p.channel, count(*) AS pending, min(p.created_at) AS oldest_at
					FROM iot.delivery p WHERE p.status = 'PENDING' GROUP BY p.channel) d),
			'dead_letters', (
				SELECT jsonb_build_object('total', coalesce(sum(l.letters), 0),
					'by_reason', coalesce(jsonb_object_agg(l.reason, l.letters), '{}'))
				FROM (SELECT r.reason, count(*) AS letters FROM iot.dead_letter r
					GROUP BY r.reason) l),
			'devices', (SELECT jsonb_build_object('total', count(*),
					'enabled', count(*) FILTER (WHERE d.enabled),
					'online', count(*) FILTER (WHERE s.online))
				FROM iot.device d LEFT JOIN iot.device_state s ON s.device_id = d.device_id),
			'device_credentials', (SELECT jsonb_build_object('total', count(*),
					'enabled', count(*) FILTER (WHERE c.enabled),
					'at_broker', coalesce((SELECT jsonb_object_agg(s.broker_state, s.credentials)
						FROM (SELECT b.broker_state, count(*) AS credentials
							FROM iot.device_credential b WHERE b.broker_state IS NOT NULL
							GROUP BY b.broker_state) s), '{}'))
				FROM iot.device_credential c),
			'counters', (
				SELECT coalesce(jsonb_object_agg(t.key, t.total), '{}')
				FROM (SELECT e.key, sum(e.value::bigint) AS total
					FROM iot_internal.workers() w CROSS JOIN jsonb_each_text(w.counters) e
					WHERE w.pid IS NOT NULL GROUP BY e.key) t),
			'sizes', (
				SELECT jsonb_object_agg(c.relname, iot_internal.table_size(c.oid))
				FROM pg_class c
				WHERE c.relnamespace = 'iot'::regnamespace AND NOT c.relispartition
					AND c.relkind = ANY (ARRAY['r', 'p']::"char"[])),
			'maintenance', (
				SELECT jsonb_build_object('last_run_at', m.last_run_at, 'last_error', m.last_error,
					'partitions_until', (SELECT max(p.upper)
						FROM iot_internal.partitions('iot.event') p))
				FROM iot.maintenance m));
END
$function$;
COMMENT ON FUNCTION iot.status() IS
	'workers, connections, lag of each consumer, backlog, dead letters, counters since start, sizes, hints';

-- The same as rows, for whatever scrapes: one number each, with at most one label.
CREATE OR REPLACE FUNCTION iot_internal.metrics()
RETURNS TABLE (metric text, label text, value double precision)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
	status jsonb := iot.status();
BEGIN
	RETURN QUERY
		SELECT 'paused', NULL::text, (status ->> 'paused')::boolean::integer::double precision
		UNION ALL
		SELECT 'worker_up', w.value ->> 'name',
			(w.value ->> 'pid' IS NOT NULL)::integer::double precision
			FROM jsonb_array_elements(status -> 'workers') w
		UNION ALL
		SELECT 'consumer_lag_events', c.value ->> 'name', (c.value ->> 'lag_events')::double precision
			FROM jsonb_array_elements(status -> 'consumers') c
		UNION ALL
		SELECT 'consumer_lag_seconds', c.value ->> 'name', (c.value ->> 'lag_seconds')::double precision
			FROM jsonb_array_elements(status -> 'consumers') c
		UNION ALL
		SELECT 'commands_' || c.key, NULL, c.value::double precision
			FROM jsonb_each_text(status -> 'commands') c WHERE c.key <> 'oldest_at'
		UNION ALL
		SELECT 'notifications_pending', n.key, n.value::double precision
			FROM jsonb_each_text(status #> '{notifications,by_channel}') n
		UNION ALL
		SELECT 'notifications_failed', n.key, n.value::double precision
			FROM jsonb_each_text(status #> '{notifications,failed}') n
		UNION ALL
		SELECT 'dead_letters', l.key, l.value::double precision
			FROM jsonb_each_text(status #> '{dead_letters,by_reason}') l
		UNION ALL
		SELECT 'connections_' || c.key, NULL, c.value::double precision
			FROM jsonb_each_text(status -> 'connections') c
		UNION ALL
		SELECT 'counter', c.key, c.value::double precision
			FROM jsonb_each_text(status -> 'counters') c
		UNION ALL
		SELECT 'alarms_open', s.severity, count(a.alarm_id)::double precision
			FROM (VALUES ('orange'), ('red')) AS s (severity)
				LEFT JOIN iot.alarm a ON a.status = 'OPENED' AND a.severity = s.severity
			GROUP BY s.severity
		UNION ALL
		SELECT 'devices', n.state, count(d.device_id)::double precision
			FROM (VALUES ('online'), ('offline'), ('unknown')) AS n (state)
				LEFT JOIN (SELECT e.device_id, CASE WHEN s.online THEN 'online'
						WHEN NOT s.online THEN 'offline' ELSE 'unknown' END AS state
					FROM iot.device e LEFT JOIN iot.device_state s ON s.device_id = e.device_id) AS d
					ON d.state = n.state
			GROUP BY n.state
		UNION ALL
		SELECT 'rollup_lag_seconds', NULL, greatest(coalesce(extract(epoch FROM
				clock_timestamp() - (SELECT min(p.due_at) FROM iot.rollup_pending p
					WHERE p.width = 'minute')), 0), 0)::double precision
		UNION ALL
		SELECT 'size_bytes', s.key, s.value::double precision
			FROM jsonb_each_text(status -> 'sizes') s;
END
$function$;
