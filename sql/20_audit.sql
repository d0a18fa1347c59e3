-- Who changed what: an event for each row of the registry, of grants and of rules that somebody made,
-- changed or deleted, in the same transaction.  Commands, and what people do about alarms, are events
-- of their own.  Audit events name no device in "device_id", so that only administrators see them.

-- Names a row among those of its table.
CREATE OR REPLACE FUNCTION iot_internal.audit_key(audited jsonb, key_columns text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	key text := audited ->> key_columns[1];
BEGIN
	FOR i IN 2 .. cardinality(key_columns) LOOP
		key := key || ' ' || (audited ->> key_columns[i]);
	END LOOP;
	RETURN key;
END
$function$;

-- The event about one row: what it was or is or, where it changed, both for what differs.  Of a hidden
-- column only that it changed is told.  No type where nothing is to be told.
CREATE OR REPLACE FUNCTION iot_internal.audit_event(
	relation text, key_columns text[], hidden text[], username text, old_row jsonb, new_row jsonb,
	OUT type text, OUT key text, OUT payload jsonb)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	audited constant jsonb := coalesce(new_row, old_row);
	verb text := CASE WHEN old_row IS NULL THEN 'inserted' WHEN new_row IS NULL THEN 'deleted'
		ELSE 'updated' END;
BEGIN
	IF verb = 'updated' THEN
		SELECT jsonb_object_agg(n.key, CASE WHEN n.key = ANY (hidden) THEN '"(hidden)"'
					ELSE old_row -> n.key END),
				jsonb_object_agg(n.key, CASE WHEN n.key = ANY (hidden) THEN '"(hidden)"'
					ELSE n.value END)
			INTO old_row, new_row
			FROM jsonb_each(new_row) AS n
			WHERE n.value IS DISTINCT FROM old_row -> n.key AND n.key <> 'updated_at';
		IF new_row IS NULL THEN
			RETURN;
		END IF;
	ELSE
		old_row := jsonb_strip_nulls(old_row - hidden);
		new_row := jsonb_strip_nulls(new_row - hidden);
	END IF;
	type := format('audit.%s_%s', relation, verb);
	key := iot_internal.audit_key(audited, key_columns);
	payload := jsonb_strip_nulls(jsonb_build_object('username', audit_event.username,
			'name', coalesce(audited -> 'name', audited -> 'username')))
		|| CASE WHEN old_row IS NULL THEN '{}' ELSE jsonb_build_object('old', old_row) END
		|| CASE WHEN new_row IS NULL THEN '{}' ELSE jsonb_build_object('new', new_row) END;
END
$function$;

-- For each statement, with its rows as old_rows and new_rows.  Arguments: the columns of the key, as
-- an array, and those that nobody should read.
CREATE OR REPLACE FUNCTION iot_internal.audit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
	key_columns text[] := TG_ARGV[0];
	hidden text[] := TG_ARGV[1];
	author text := iot_internal.current_username();
BEGIN
	IF TG_OP = 'INSERT' THEN
		INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload)
			SELECT iot_internal.uuidv7(), TG_TABLE_NAME, e.key, e.type, e.payload
			FROM new_rows n CROSS JOIN LATERAL iot_internal.audit_event(TG_TABLE_NAME, key_columns,
				hidden, author, NULL, to_jsonb(n)) e;
	ELSIF TG_OP = 'DELETE' THEN
		INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload)
			SELECT iot_internal.uuidv7(), TG_TABLE_NAME, e.key, e.type, e.payload
			FROM old_rows o CROSS JOIN LATERAL iot_internal.audit_event(TG_TABLE_NAME, key_columns,
				hidden, author, to_jsonb(o), NULL) e;
	ELSIF TG_OP = 'UPDATE' THEN
		-- a row whose key changed is another row
		INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload)
			SELECT iot_internal.uuidv7(), TG_TABLE_NAME, e.key, e.type, e.payload
			FROM (SELECT to_jsonb(o) AS audited FROM old_rows o) was
				FULL JOIN (SELECT to_jsonb(n) AS audited FROM new_rows n) became
					ON iot_internal.audit_key(was.audited, key_columns)
						= iot_internal.audit_key(became.audited, key_columns)
				CROSS JOIN LATERAL iot_internal.audit_event(TG_TABLE_NAME, key_columns, hidden,
					author, was.audited, became.audited) e
			WHERE e.type IS NOT NULL;
	ELSE
		INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload)
			VALUES (iot_internal.uuidv7(), TG_TABLE_NAME, '*',
				format('audit.%s_truncated', TG_TABLE_NAME),
				jsonb_strip_nulls(jsonb_build_object('username', author)));
	END IF;
	RETURN NULL;
END
$function$;
