-- Current values are written below SQL (src/live_row.c): what users have added to their table is heeded
-- all the same, and what is rolled back has not been.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;

INSERT INTO iot.parameter (name) VALUES ('level');
SELECT iot.create_device('boiler', ARRAY['level']) AS boiler \gset
SELECT date_trunc('second', now()) - interval '1 hour' AS t \gset

-- so many seconds after t
CREATE FUNCTION say(at int, value float8) RETURNS void LANGUAGE sql AS
	'SELECT iot.ingest(''boiler'', jsonb_build_object(''level'', value),
		date_trunc(''second'', now()) - interval ''1 hour'' + at * interval ''1 s'')';
CREATE FUNCTION current() RETURNS text LANGUAGE sql AS
	'SELECT format(''%s %s %s/%s'', value, previous_reported, version, last_version)
		FROM iot.sensor_value';

SELECT no_plan();

SELECT say(1, 1);
SELECT is(current(), '1  1/1', 'the first value is a row');
SELECT say(2, 2);
SELECT is(current(), '2 1 2/2', 'the next one its next version');
SELECT say(1, 9);
SELECT is(current(), '2 1 2/2', 'one that is late changes nothing');

BEGIN;
SELECT say(3, 3);
SAVEPOINT a;
SELECT say(4, 4);
SELECT say(5, 5);
SELECT is(current(), '5 4 5/5', 'a transaction sees what it wrote');
ROLLBACK TO a;
SELECT is(current(), '3 2 3/3', 'and what it has taken back not');
SELECT say(4, 6);
SELECT is(current(), '6 3 4/4', 'from where it goes on');
ROLLBACK;
SELECT is(current(), '2 1 2/2', 'and so does the next one');
SELECT say(3, 3);
SELECT is(current(), '3 2 3/3', 'from where all stood');

-- what is added
ALTER TABLE iot.sensor_value ADD COLUMN note text DEFAULT 'none';
SELECT say(4, 4);
SELECT is((SELECT note FROM iot.sensor_value), 'none', 'a column that was added later keeps its value');
ALTER TABLE iot.sensor_value DROP COLUMN note;
SELECT say(5, 5);
SELECT is(current(), '5 4 5/5', 'and one that is gone does not count');

ALTER TABLE iot.sensor_value ADD CONSTRAINT low CHECK (value < 10);
SELECT throws_ok('SELECT say(6, 10)', '23514', NULL, 'a constraint is checked');
ALTER TABLE iot.sensor_value DROP CONSTRAINT low;

CREATE INDEX reported_idx ON iot.sensor_value (reported);
CREATE UNIQUE INDEX value_key ON iot.sensor_value ((value * 2)) WHERE value > 5;
SELECT say(6, 6);
SET enable_seqscan = off;
SELECT is((SELECT count(*)::int FROM iot.sensor_value WHERE reported = 6), 1, 'an index has the new value');
SELECT is((SELECT count(*)::int FROM iot.sensor_value WHERE reported = 5), 0, 'and not the old one');
RESET enable_seqscan;
INSERT INTO iot.parameter (name) VALUES ('heat');
INSERT INTO iot.sensor (device_id, parameter_id)
	SELECT :'boiler', parameter_id FROM iot.parameter WHERE name = 'heat';
SELECT iot.ingest('boiler', '{"heat": 1}');
SELECT throws_ok(format('SELECT iot.ingest(%L, %L)', 'boiler', '{"heat": 6}'), '23505', NULL,
	'a unique index is one');
DELETE FROM iot.sensor WHERE parameter_id = (SELECT parameter_id FROM iot.parameter WHERE name = 'heat');
DROP INDEX iot.value_key, iot.reported_idx;

ALTER TABLE iot.sensor_value ADD COLUMN twice float8 GENERATED ALWAYS AS (value * 2) STORED;
SELECT say(7, 7);
SELECT is((SELECT twice FROM iot.sensor_value), 14::float8, 'a column is computed');
ALTER TABLE iot.sensor_value DROP COLUMN twice;

CREATE TABLE public.seen (value float8);
CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO public.seen VALUES (NEW.value); RETURN NEW; END';
GRANT INSERT ON public.seen TO PUBLIC;
CREATE TRIGGER see AFTER UPDATE ON iot.sensor_value FOR EACH ROW EXECUTE FUNCTION public.see();
SELECT say(8, 8);
SELECT is((SELECT value FROM public.seen), 8::float8, 'a trigger fires');
DROP TRIGGER see ON iot.sensor_value;

CREATE TABLE public.value_range (value float8 PRIMARY KEY);
INSERT INTO public.value_range SELECT generate_series(0, 8);
GRANT SELECT ON public.value_range TO PUBLIC;
ALTER TABLE iot.sensor_value ADD CONSTRAINT in_range FOREIGN KEY (value) REFERENCES public.value_range;
SELECT throws_ok('SELECT say(9, 9)', '23503', NULL, 'a foreign key is one');
ALTER TABLE iot.sensor_value DROP CONSTRAINT in_range;
ALTER TABLE iot.sensor_value ADD CONSTRAINT later UNIQUE (source) DEFERRABLE INITIALLY DEFERRED;
INSERT INTO iot.sensor (device_id, parameter_id)
	SELECT :'boiler', parameter_id FROM iot.parameter WHERE name = 'heat';
INSERT INTO iot.sensor_value (device_id, parameter_id)
	SELECT :'boiler', parameter_id FROM iot.parameter WHERE name = 'heat';
SELECT throws_ok(format('DO %L', format('BEGIN PERFORM iot.ingest(%L, %L); SET CONSTRAINTS ALL IMMEDIATE; END',
	'boiler', '{"heat": 1}')), '23505', NULL, 'and so is a unique key that is looked at later');
DELETE FROM iot.sensor WHERE parameter_id = (SELECT parameter_id FROM iot.parameter WHERE name = 'heat');
ALTER TABLE iot.sensor_value DROP CONSTRAINT later;

CREATE PUBLICATION values_changed FOR TABLE iot.sensor_value;
ALTER TABLE iot.sensor_value REPLICA IDENTITY NOTHING;
SELECT throws_ok('SELECT say(9, 9)', '55000', NULL, 'what could not be replicated is refused');
DROP PUBLICATION values_changed;
ALTER TABLE iot.sensor_value REPLICA IDENTITY DEFAULT;

SELECT say(9, 9);
SELECT is(current(), '9 8 9/9', 'and in the end all is as it was');

SELECT * FROM finish();
