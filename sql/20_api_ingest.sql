-- The SQL door for measurements, and what stands behind every door.

-- What a device says of itself is written once, however often it is sent: a value that is there
-- already counts nothing, and one that differs from it goes to the dead letters.
CREATE OR REPLACE FUNCTION iot.ingest(
	device text,
	measurements jsonb,
	ts timestamptz DEFAULT now()) RETURNS integer
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_ingest_sql';
COMMENT ON FUNCTION iot.ingest(text, jsonb, timestamptz) IS
	'store measurements of a device, {"temperature":21.5} or {"ts":…,"values":{…}} or an array of these; returns how many are new';

-- The door of the MQTT worker, for adapters in other languages that have topics and payloads too.
CREATE OR REPLACE FUNCTION iot_internal.ingest_messages(
	adapter text, topics text[], payloads bytea[], retained boolean[]) RETURNS jsonb
LANGUAGE c VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_ingest_messages_sql';
COMMENT ON FUNCTION iot_internal.ingest_messages(text, text[], bytea[], boolean[]) IS
	'take in a batch of messages as if the adapter had received them now; returns counters and acknowledgements';

CREATE OR REPLACE FUNCTION iot_internal.dead_letter_add(
	adapter text, device text, topic text, payload bytea, reason text, error text) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	INSERT INTO iot.dead_letter (adapter, device, topic, payload, reason, error)
		VALUES ($1, $2, $3, $4, $5, $6)
		RETURNING dead_letter_id
$function$;
COMMENT ON FUNCTION iot_internal.dead_letter_add(text, text, text, bytea, text, text) IS
	'keep what could not be used, with the reason';

-- Fires for whoever inserts, and writes with the owner's rights: nobody needs any of his own on
-- what follows from a measurement.
CREATE OR REPLACE FUNCTION iot_internal.measurement_inserted() RETURNS trigger
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_measurement_inserted_sql';
COMMENT ON FUNCTION iot_internal.measurement_inserted() IS
	'moves the current values on with the newest of the inserted measurements';

CREATE OR REPLACE FUNCTION iot_internal.registry_changed() RETURNS trigger
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'iot_registry_changed_sql';
COMMENT ON FUNCTION iot_internal.registry_changed() IS
	'tells every session to read the registry anew';
CREATE OR REPLACE FUNCTION iot_internal.registry_grown() RETURNS trigger
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'iot_registry_grown_sql';
COMMENT ON FUNCTION iot_internal.registry_grown() IS
	'tells it where somebody may know a device that has got a sensor, and where a table has grown much';

-- Dead letters, a second time.  What was mended meanwhile (a parameter, a device, a label) has its
-- message taken; what is not stays, with the reason of today.
CREATE OR REPLACE FUNCTION iot.replay_dead_letter(id bigint) RETURNS text
LANGUAGE c VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'iot_replay_dead_letter';
COMMENT ON FUNCTION iot.replay_dead_letter(bigint) IS
	'take a dead letter''s message in again, at the time when it came; NULL where all of it was taken and the letter is gone, else the reason that it says now';

CREATE OR REPLACE FUNCTION iot.discard_dead_letter(id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
	IF NOT iot_internal.is_admin() THEN
		RAISE EXCEPTION 'permission denied for dead letters'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'A member of iot_admin may discard them.';
	END IF;
	IF id IS NULL THEN
		RAISE EXCEPTION 'id of a dead letter must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Give the dead_letter_id of a row of iot.dead_letter.';
	END IF;
	DELETE FROM iot.dead_letter l WHERE l.dead_letter_id = id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'dead letter % does not exist', id
			USING ERRCODE = 'undefined_object',
				HINT = 'It may have been replayed or discarded, or be older than iot.retention keeps.';
	END IF;
END
$function$;
COMMENT ON FUNCTION iot.discard_dead_letter(bigint) IS 'delete a dead letter for good';

-- Behind the view of that name, which goes and comes with the extension as its functions do.
CREATE OR REPLACE FUNCTION iot_internal.dead_letter_counts()
RETURNS TABLE (reason text, adapter text, count bigint, since timestamptz, last timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
	SELECT l.reason, l.adapter, count(*), min(l.created_at), max(l.created_at)
	FROM iot.dead_letter l GROUP BY l.reason, l.adapter
$function$;
