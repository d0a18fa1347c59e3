-- Every privilege there is.  Whoever makes a function or a table sees here who may use it.
\set QUIET on
\pset format unaligned
\pset footer off
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS iot CASCADE;
CREATE EXTENSION iot;

-- who may, for an access control list
CREATE FUNCTION pg_temp.who(acl aclitem[]) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(w.name || '=' || w.rights, ' ' ORDER BY w.name COLLATE "C") FROM (
		SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END AS name,
			string_agg(left(a.privilege_type, 3) || CASE WHEN a.is_grantable THEN '*' ELSE '' END, ','
				ORDER BY a.privilege_type COLLATE "C") AS rights
		FROM aclexplode(acl) a WHERE pg_get_userbyid(a.grantee) <> 'iot_owner'
			AND pg_get_userbyid(a.grantee) <> current_user GROUP BY a.grantee) w
$$;

-- schemas
SELECT n.nspname, pg_temp.who(n.nspacl) FROM pg_namespace n
	WHERE n.nspname LIKE 'iot%' ORDER BY 1;
-- tables and views; partitions have nothing
SELECT c.relname, c.relkind, pg_temp.who(coalesce(c.relacl, acldefault('r', c.relowner))) FROM pg_class c
	WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p', 'v')
		AND (NOT c.relispartition OR c.relname LIKE '%default') ORDER BY c.relname COLLATE "C";
SELECT count(*) AS partitions_with_privileges FROM pg_class c
	WHERE c.relispartition AND c.relkind = 'r' AND c.relnamespace = 'iot'::regnamespace
		AND pg_temp.who(c.relacl) IS NOT NULL;
-- columns
SELECT c.relname, a.attname, pg_temp.who(a.attacl) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'iot'::regnamespace AND a.attacl IS NOT NULL
	ORDER BY c.relname COLLATE "C", a.attname COLLATE "C";
-- sequences
SELECT c.relname, pg_temp.who(coalesce(c.relacl, acldefault('s', c.relowner))) FROM pg_class c
	WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind = 'S' ORDER BY c.relname COLLATE "C";
-- policies; those of roles that work for everybody let all rows pass
CREATE FUNCTION pg_temp.for_everybody(p pg_policies) RETURNS boolean LANGUAGE sql AS $$
	SELECT p.roles = ARRAY[p.policyname] AND p.permissive = 'PERMISSIVE' AND p.cmd = 'ALL'
		AND p.qual = p.with_check AND p.qual = CASE p.policyname
			WHEN 'iot_admin' THEN '( SELECT iot_internal.is_admin() AS is_admin)' ELSE 'true' END
$$;
SELECT p.tablename, string_agg(p.policyname, ' ' ORDER BY p.policyname COLLATE "C") AS for_everybody
	FROM pg_policies p WHERE p.schemaname = 'iot' AND pg_temp.for_everybody(p)
	GROUP BY p.tablename ORDER BY p.tablename COLLATE "C";
SELECT p.tablename, p.policyname, p.permissive, p.cmd, p.roles, p.qual, p.with_check
	FROM pg_policies p WHERE p.schemaname = 'iot' AND NOT pg_temp.for_everybody(p)
	ORDER BY p.tablename COLLATE "C", p.policyname COLLATE "C";
-- functions: "d" runs with the owner's rights
SELECT CASE WHEN p.prosecdef THEN 'd' ELSE ' ' END AS d, p.oid::regprocedure AS function,
		pg_temp.who(coalesce(p.proacl, acldefault('f', p.proowner)))
	FROM pg_proc p WHERE p.pronamespace IN ('iot'::regnamespace, 'iot_internal'::regnamespace)
	ORDER BY p.oid::regprocedure::text COLLATE "C";

-- the rules: each of these lists is empty
SELECT p.oid::regprocedure AS public_may_execute FROM pg_proc p
	WHERE p.pronamespace IN ('iot'::regnamespace, 'iot_internal'::regnamespace)
		AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
			WHERE a.grantee = 0);
SELECT p.oid::regprocedure AS without_search_path FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
	WHERE p.pronamespace IN ('iot'::regnamespace, 'iot_internal'::regnamespace)
		AND (l.lanname <> 'c' OR p.prosecdef) AND p.prokind <> 'a'
		AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
		-- a number, which names nothing
		AND NOT (p.proname = 'schema_version' AND p.prosrc ~ '^SELECT \d+$');
SELECT p.oid::regprocedure AS definer_not_of_iot_owner FROM pg_proc p
	WHERE p.pronamespace IN ('iot'::regnamespace, 'iot_internal'::regnamespace)
		AND p.prosecdef AND pg_get_userbyid(p.proowner) <> 'iot_owner';
SELECT c.relname AS public_may_read FROM pg_class c
	WHERE c.relnamespace = 'iot'::regnamespace
		AND EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0);
SELECT c.relname AS not_of_iot_owner FROM pg_class c
	WHERE c.relnamespace = 'iot'::regnamespace AND pg_get_userbyid(c.relowner) <> 'iot_owner';
SELECT c.relname AS without_row_security FROM pg_class c
	WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		AND NOT c.relrowsecurity;
SELECT c.relname AS people_read_without_policy, r.name FROM pg_class c
		CROSS JOIN unnest(ARRAY['iot_viewer', 'iot_operator', 'iot_admin', 'iot_anon']) AS r (name)
	WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p')
		AND has_any_column_privilege(r.name, c.oid, 'SELECT')
		AND c.relname <> 'adapter'	-- of which only administrators see rows
		AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid
			AND r.name::regrole = ANY (p.polroles) AND p.polcmd IN ('r', '*'));
-- but for what brokers read, who have a role of their own
SELECT c.relname AS not_security_invoker FROM pg_class c
	WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind = 'v'
		AND c.relname NOT IN ('device_topic', 'broker_authentication', 'broker_acl')
		AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false);
SELECT c.relname AS people_empty_or_reference, a.privilege_type FROM pg_class c
		CROSS JOIN LATERAL aclexplode(c.relacl) a
	WHERE c.relnamespace = 'iot'::regnamespace
		AND a.grantee IN ('iot_viewer'::regrole, 'iot_operator'::regrole, 'iot_admin'::regrole,
			'iot_anon'::regrole)
		AND a.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE');
