-- The cursors of the event log.  Without a transaction around all: a cursor sees committed events.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

CREATE PROCEDURE append(type text, n integer DEFAULT 1) LANGUAGE sql AS $$
	INSERT INTO iot.event (aggregatetype, aggregateid, type, payload)
		SELECT 'test', 'x', append.type, jsonb_build_object('n', i) FROM generate_series(1, n) i
$$;
CREATE FUNCTION read(consumer text, types text[] DEFAULT NULL, max_rows integer DEFAULT 1000)
RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(r.type || (r.payload->>'n'), ' ' ORDER BY r.id), '')
	FROM iot_internal.consumer_read(consumer, types, max_rows) r
$$;
CREATE FUNCTION row_of(consumer text) RETURNS text LANGUAGE sql AS
	'SELECT c.ctid::text FROM iot.consumer c WHERE c.name = consumer';

SELECT no_plan();

CALL append('early');
SELECT iot_internal.consumer_register('a');
SELECT is(read('a'), '', 'a new cursor starts at now');
CALL append('x', 3);
SELECT is(read('a'), 'x1 x2 x3', 'what is committed is offered');
SELECT is(read('a'), '', 'once');
SELECT iot_internal.consumer_register('a');
SELECT is(read('a'), '', 'registering again moves nothing');
CALL append('y');
SELECT iot_internal.consumer_register('a');
SELECT is(read('a'), 'y1', 'neither forward');

-- reading and effects are one transaction
CALL append('x');
BEGIN;
SELECT is(read('a'), 'x1', 'read in a transaction');
ROLLBACK;
SELECT is(read('a'), 'x1', 'and again where it was rolled back');

-- what the reader writes itself
BEGIN;
CALL append('before');
SELECT is(read('a'), '', 'own events are not offered before the commit');
CALL append('after');
COMMIT;
SELECT is(read('a'), 'before1 after1', 'but afterwards all of them, those before the read and those after');
BEGIN;
CALL append('mine');
SELECT iot_internal.consumer_register('b');
CALL append('too');
COMMIT;
SELECT is(read('b'), 'mine1 too1', 'the registering transaction is ahead of the new cursor');
SELECT is(read('a'), 'mine1 too1', 'each cursor reads for itself');
BEGIN;
CALL append('gone');
ROLLBACK;
BEGIN;
SAVEPOINT s;
CALL append('gone');
ROLLBACK TO s;
CALL append('kept');
RELEASE s;
COMMIT;
SELECT is(read('a'), 'kept1', 'what was rolled back is never offered');

-- types
CALL append('one', 2);
CALL append('two', 2);
CALL append('three');
SELECT is(read('a', ARRAY['two', 'three']), 'two1 two2 three1', 'a reader of some types gets these');
SELECT is(read('a'), '', 'and has passed the others');
SELECT is(read('a', ARRAY[]::text[]), '', 'no type, no event');

-- an idle poll writes nothing
CALL append('other');
SELECT row_of('a') AS before \gset
SELECT is(read('a', ARRAY['none']), '', 'nothing for this reader');
SELECT is(row_of('a'), :'before', 'and nothing was written');
SELECT is(read('a'), 'other1', 'so that it still is there for the same cursor without a filter');

-- but a cursor that was left behind moves on, since partitions are kept for it
CALL append('other');
UPDATE iot.consumer SET advanced_at = clock_timestamp() - interval '6 s' WHERE name = 'a';
SELECT row_of('a') AS before \gset
SELECT is(read('a', ARRAY['none']), '', 'nothing for this reader, for long');
SELECT isnt(row_of('a'), :'before', 'and it has moved');
SELECT is(read('a'), '', 'past what was not for it');

-- a backlog is read in windows
CALL append('b', 25);
SELECT is(read('a', NULL, 10), 'b1 b2 b3 b4 b5 b6 b7 b8 b9 b10', 'a page');
SELECT isnt((SELECT c.target::text FROM iot.consumer c WHERE c.name = 'a'), NULL, 'the cursor heads for a snapshot');
CALL append('c', 3);
SELECT is(read('a', NULL, 10), 'b11 b12 b13 b14 b15 b16 b17 b18 b19 b20', 'the next page');
SELECT is(read('a', NULL, 10), 'b21 b22 b23 b24 b25 c1 c2 c3',
	'the end of the window and what has come since');
SELECT is((SELECT c.target::text FROM iot.consumer c WHERE c.name = 'a'), NULL, 'and is there');
SELECT is(read('a', NULL, 10), '', 'nothing twice');
CALL append('d', 10);
SELECT is(read('a', NULL, 10), 'd1 d2 d3 d4 d5 d6 d7 d8 d9 d10', 'a page that is just full');
SELECT is(read('a', NULL, 10), '', 'has nothing after it');
CALL append('e', 6);
CALL append('f', 6);
SELECT is(read('a', ARRAY['f'], 4), 'f1 f2 f3 f4', 'a page of one type');
SELECT is(read('a', ARRAY['f'], 4), 'f5 f6', 'and its rest');

-- a copy's log begins where it was resumed
CALL append('old', 3);
UPDATE iot.epoch SET first_event_id = (SELECT max(e.id) - 1 FROM iot.event e);
SELECT is(read('a'), 'old3', 'events before the epoch are not offered');

-- over partitions, in the order of ids
CREATE TABLE iot.event_test PARTITION OF iot.event FOR VALUES FROM ('2001-01-01') TO ('2001-01-02');
INSERT INTO iot.event (aggregatetype, aggregateid, type, payload, created_at)
	SELECT 'test', 'x', 'p', jsonb_build_object('n', i),
		CASE i % 2 WHEN 0 THEN '2001-01-01 12:00'::timestamptz ELSE clock_timestamp() END
	FROM generate_series(1, 6) i;
SELECT is(read('a', NULL, 4), 'p1 p2 p3 p4', 'pages go over partitions');
SELECT is(read('a', NULL, 4), 'p5 p6', 'to the end');
SELECT is(read('b', ARRAY['p']), 'p1 p2 p3 p4 p5 p6', 'for each reader');
DROP TABLE iot.event_test;

-- bad calls
SELECT throws_ok($$SELECT * FROM iot_internal.consumer_read('nobody', NULL, 10)$$, '42704',
	'consumer "nobody" does not exist', 'a cursor must be there');
SELECT throws_ok($$SELECT * FROM iot_internal.consumer_read(NULL, NULL, 10)$$, '22004', NULL, 'and have a name');
SELECT throws_ok($$SELECT * FROM iot_internal.consumer_read('a', NULL, 0)$$, '22023', NULL, 'no page is empty');
SELECT throws_ok($$SELECT iot_internal.consumer_register(NULL)$$, '22004', NULL, 'no cursor without a name');

-- under REPEATABLE READ
CALL append('r');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is(read('a'), 'r1', 'a repeatable reader reads');
CALL append('own');
SELECT is(read('a'), '', 'and stays at its snapshot');
COMMIT;
SELECT is(read('a'), 'own1', 'its own events come after its commit');

-- adapters have a cursor from their first moment to their last
INSERT INTO iot.adapter (name, kind) VALUES ('test', 'test');
SELECT is((SELECT count(*) FROM iot.consumer c JOIN iot.adapter a ON c.name = 'adapter:' || a.adapter_id
	WHERE a.name = 'test'), 1::bigint, 'a new adapter has a cursor');
DELETE FROM iot.adapter WHERE name = 'test';
SELECT is((SELECT count(*) FROM iot.consumer c WHERE c.name LIKE 'adapter:%'),
	(SELECT count(*) FROM iot.adapter), 'one that is gone has none');

SELECT * FROM finish();
