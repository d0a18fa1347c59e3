-- I3: compensation never overwrites a newer value.  Every order of two commands, their answers and
-- one measurement, with and without a value before, is played and held against a model: what
-- stands is the last write that was not refused.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

INSERT INTO iot.parameter (name) VALUES ('level');
INSERT INTO iot.adapter (name, kind) VALUES ('test', 'test');

-- Plays steps on a device of its own and returns what differs from the model, or NULL.  Steps: "c1"
-- and "c2" send 101 and 102, "m" measures 50, "f1" and "s1" refuse and confirm c1, likewise c2.
CREATE FUNCTION play(steps text[], with_value boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	device text := 'd' || md5(steps::text || with_value);
	id uuid := iot.create_device(device, ARRAY['level'], adapter => 'test');
	parameter uuid := (SELECT p.parameter_id FROM iot.parameter p WHERE p.name = 'level');
	command uuid[] := ARRAY[NULL, NULL]::uuid[];
	writes float8[] := '{}';		-- by order
	orders float8[] := '{}';		-- commands among them
	superseded boolean;
	target float8;
	outcome text;
	n integer;
	step text;
	found record;
	expected_value float8;
	expected_desired float8;
	expected_reported float8;
BEGIN
	IF with_value THEN
		INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
			VALUES (id, parameter, clock_timestamp() - interval '1 minute', 10);
		writes := writes || 10::float8;
		expected_reported := 10;
	END IF;
	FOREACH step IN ARRAY steps LOOP
		n := nullif(substr(step, 2), '');
		target := 100 + n;
		CASE left(step, 1)
			WHEN 'c' THEN
				command[n] := iot.send_command(device, 'level', target);
				writes := writes || target;
				orders := orders || target;
			WHEN 'm' THEN
				INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
					VALUES (id, parameter, clock_timestamp(), 50);
				writes := writes || 50::float8;
				expected_reported := 50;
			WHEN 's' THEN
				outcome := iot.adapter_sent(command[n]);
				IF outcome <> 'applied' THEN
					RETURN step || ' was ' || outcome;
				END IF;
			WHEN 'f' THEN
				superseded := writes[cardinality(writes)] <> target;
				outcome := iot.adapter_error(command[n], 'refused');
				writes := array_remove(writes, target);
				orders := array_remove(orders, target);
				SELECT c.status, c.superseded INTO found FROM iot.command c WHERE c.command_id = command[n];
				IF outcome <> 'applied' OR found.status <> 'CANCELLED' OR found.superseded <> superseded THEN
					RETURN format('%s: outcome %s, status %s, superseded %s', step, outcome, found.status,
						found.superseded);
				END IF;
				IF NOT EXISTS (SELECT FROM iot.event e
						WHERE e.aggregateid = command[n]::text AND e.type = 'dm.value_set_cancelled'
							AND (e.payload->>'superseded')::boolean = superseded) THEN
					RETURN step || ': no such event';
				END IF;
		END CASE;
		expected_value := writes[cardinality(writes)];
		expected_desired := orders[cardinality(orders)];
		SELECT v.* INTO found FROM iot.sensor_value v WHERE v.device_id = id;
		IF (found.value, found.desired, found.reported)
				IS DISTINCT FROM (expected_value, expected_desired, expected_reported) THEN
			RETURN format('after %s: value %s not %s, desired %s not %s, reported %s not %s', step,
				found.value, expected_value, found.desired, expected_desired, found.reported,
				expected_reported);
		END IF;
		IF (found.source = 'measurement') IS DISTINCT FROM (expected_value < 100)
			OR (found.value IS NULL) <> (found.value_at IS NULL) THEN
			RETURN format('after %s: value %s from %s at %s', step, found.value, found.source, found.value_at);
		END IF;
	END LOOP;
	RETURN NULL;
END
$$;

CREATE TABLE played AS
	WITH RECURSIVE orders(steps) AS (
		SELECT ARRAY[]::text[]
		UNION ALL
		SELECT o.steps || s.step
		FROM orders o, unnest(ARRAY['c1', 'c2', 'm', 'a1', 'a2']) s(step)
		WHERE s.step <> ALL (o.steps)
			AND (s.step <> 'a1' OR 'c1' = ANY (o.steps))
			AND (s.step <> 'a2' OR 'c2' = ANY (o.steps))
	), complete AS (
		SELECT DISTINCT array_remove(array_remove(array_replace(array_replace(o.steps,
			'a1', x.answer || '1'), 'a2', y.answer || '2'), '1'), '2') AS steps
		FROM orders o, (VALUES ('f'), ('s'), ('')) x(answer), (VALUES ('f'), ('s'), ('')) y(answer)
		WHERE cardinality(o.steps) = 5
	)
	SELECT c.steps, v.with_value, play(c.steps, v.with_value) AS difference
	FROM complete c, (VALUES (true), (false)) v(with_value);

SELECT no_plan();
SELECT is((SELECT count(*) FROM played), 348::bigint, 'I3: 348 different histories');
SELECT is_empty($$SELECT p.steps, p.with_value, p.difference FROM played p WHERE p.difference IS NOT NULL$$,
	'I3: each ends with the last write that was not refused');

-- three deep: who wrote over a refused value puts back what held before it
CREATE FUNCTION current() RETURNS float8 LANGUAGE sql AS $$
	SELECT v.value FROM iot.sensor_value v JOIN iot.device d USING (device_id) WHERE d.name = 'deep'
$$;
SELECT iot.create_device('deep', ARRAY['level'], adapter => 'test') AS deep \gset
SELECT iot.send_command('deep', 'level', 1) AS c1 \gset
SELECT iot.adapter_sent(:'c1') AS outcome \gset
SELECT iot.send_command('deep', 'level', 2) AS c2 \gset
SELECT iot.send_command('deep', 'level', 3) AS c3 \gset
SELECT iot.send_command('deep', 'level', 4) AS c4 \gset
SELECT is(iot.adapter_error(:'c2', 'no'), 'applied', 'the lowest is refused');
SELECT is(iot.adapter_error(:'c3', 'no'), 'applied', 'then the next');
SELECT is(current(), 4::float8, 'the newest stays');
SELECT is(iot.adapter_error(:'c4', 'no'), 'applied', 'until it is refused as well');
SELECT is(current(), 1::float8, 'what was confirmed before all of them is back');
SELECT is((SELECT v.version || ' of ' || v.last_version || ', ' || v.desired FROM iot.sensor_value v
	WHERE v.device_id = :'deep'), '1 of 4, 1', 'with its version; numbers are not given twice');
SELECT iot.send_command('deep', 'level', 5) AS c5 \gset
SELECT is((SELECT c.version FROM iot.command c WHERE c.command_id = :'c5'), 5::bigint,
	'the next write has the next number');

SELECT * FROM finish();
