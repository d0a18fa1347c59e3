-- On a server with Citus: tables are distributed by their class, and the platform works on them.
-- test/t/131_citus.pl runs it after doc/deploy/citus.sql.

\set ON_ERROR_STOP on
SELECT plan(5);

SELECT lives_ok('SELECT * FROM iot_citus.distribute()', 'every table is distributed');
SELECT results_eq(
	$$SELECT count(*) FROM citus_tables WHERE citus_table_type = 'reference'$$,
	$$SELECT count(*) FROM iot_citus.class() WHERE class = 'reference'$$, 'reference tables are whole');
SELECT results_eq(
	$$SELECT count(*), count(DISTINCT colocation_id) FROM citus_tables
		WHERE citus_table_type = 'distributed' AND distribution_column = 'device_id'$$,
	$$SELECT count(*), 1::bigint FROM iot_citus.class() WHERE class = 'device'$$,
	'device tables are split by device, each device''s rows on one node');

INSERT INTO iot.parameter (name, value_min, value_max) VALUES ('temperature', 0, 100);
INSERT INTO iot.adapter (name, kind) VALUES ('hand', 'hand');
SELECT iot.create_device('boiler-1', '{temperature}', adapter => 'hand');
SELECT is(iot.ingest('boiler-1', '{"temperature": 21}'), 1, 'a measurement is stored');
SELECT iot.send_command('boiler-1', 'temperature', 55);
SELECT results_eq('SELECT value FROM iot.last_values(''boiler-1'')', 'VALUES (55::double precision)',
	'a command is taken');

SELECT * FROM finish();
