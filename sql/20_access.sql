-- Row-level security: what the policies of sql/40_arm_access.sql ask.
--
-- The rule is that of iot.may(): a user, his groups, their grants, device groups.  What is about the
-- user is asked in subqueries that know no row, hence once per query; what is about a row costs the
-- probe of an array or of a hash table.  Tests hold policies and iot.may() equal.

-- Device groups on which the acting user has a level.  Empty for whoever is unknown or disabled, and
-- for administrators, who have policies of their own.
CREATE OR REPLACE FUNCTION iot_internal.granted_groups(level text) RETURNS uuid[]
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	me text := iot_internal.current_username();
	least_rank integer := iot_internal.level_rank(level);
BEGIN
	RETURN ARRAY(
		SELECT DISTINCT g.device_group_id
		FROM iot.app_user u
			JOIN iot.user_group_member m ON m.app_user_id = u.app_user_id
			JOIN iot.access_grant g ON g.user_group_id = m.user_group_id
		WHERE u.username = me AND u.enabled
			AND iot_internal.level_rank(g.level) >= least_rank);
END
$function$;

-- Whether a device is in one of these groups (see src/access_policy.c); for policies alone.
CREATE OR REPLACE FUNCTION iot_internal.device_in_groups(device_id uuid, device_group_ids uuid[])
RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'iot_device_in_groups_sql';

-- Whether the acting user is registered and enabled, whatever he may.
CREATE OR REPLACE FUNCTION iot_internal.is_user() RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN EXISTS (SELECT FROM iot.app_user u
		WHERE u.username = iot_internal.current_username() AND u.enabled);
END
$function$;

-- User groups that the acting user is in.
CREATE OR REPLACE FUNCTION iot_internal.own_user_groups() RETURNS uuid[]
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN ARRAY(SELECT m.user_group_id
		FROM iot.app_user u JOIN iot.user_group_member m ON m.app_user_id = u.app_user_id
		WHERE u.username = iot_internal.current_username() AND u.enabled);
END
$function$;

-- Audiences of notifications that the acting user belongs to, but for "author", which depends on the
-- notification: iot_internal.in_audience() the other way round.
CREATE OR REPLACE FUNCTION iot_internal.own_audiences() RETURNS text[]
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN ARRAY['viewers', 'user:' || iot_internal.current_username()] || ARRAY(
		SELECT 'group:' || g.name
		FROM iot.user_group g WHERE g.user_group_id = ANY (iot_internal.own_user_groups()));
END
$function$;

-- Whether an earlier notification tells the acting user of the same event.
CREATE OR REPLACE FUNCTION iot_internal.told_before(event_id uuid, seq bigint) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	RETURN EXISTS (
		SELECT FROM iot.notification n
		WHERE n.event_id = told_before.event_id AND n.channel = 'push' AND n.seq < told_before.seq
			AND iot_internal.in_audience(iot_internal.current_username(), n.audience, n.username));
END
$function$;

-- A policy as it is now: an earlier one of that name goes.  What a row must be before a change it must
-- be after it.
CREATE OR REPLACE FUNCTION iot_internal.make_policy(
	relation regclass, name text, command text, roles text, condition text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	EXECUTE format('DROP POLICY IF EXISTS %I ON %s', name, relation);
	EXECUTE format('CREATE POLICY %I ON %s FOR %s TO %s %s', name, relation, command, roles,
		CASE command WHEN 'INSERT' THEN format('WITH CHECK (%s)', condition)
			WHEN 'SELECT' THEN format('USING (%s)', condition)
			WHEN 'DELETE' THEN format('USING (%s)', condition)
			ELSE format('USING (%1$s) WITH CHECK (%1$s)', condition) END);
END
$function$;
