-- iot.lttb(): against a vector made by hand, an independent implementation, and what is odd.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = error;
SET timezone = 'UTC';
SELECT setseed(0.17) \g /dev/null

CREATE FUNCTION at(x float8) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
	$$SELECT timestamptz '2026-01-01 00:00+00' + x * interval '1 s'$$;

-- The algorithm as its author describes it, over an array of points in order.
CREATE FUNCTION by_the_book(xs float8[], ys float8[], wanted int) RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE
	n int := cardinality(xs);
	a int := 1;
	chosen int[] := '{1}';
	area float8;
	largest float8;
	best int;
	mean_x float8;
	mean_y float8;
	lo int;
	hi int;
	next_hi int;
BEGIN
	IF n <= wanted THEN
		RETURN ARRAY(SELECT generate_series(1, n));
	END IF;
	FOR bucket IN 0 .. wanted - 3 LOOP
		-- places from 1; buckets are cut between the first and the last point
		lo := bucket * (n - 2) / (wanted - 2) + 2;
		hi := (bucket + 1) * (n - 2) / (wanted - 2) + 1;
		next_hi := least((bucket + 2) * (n - 2) / (wanted - 2) + 1, n);
		SELECT avg(x), avg(y) INTO mean_x, mean_y
			FROM unnest(xs[hi + 1:next_hi], ys[hi + 1:next_hi]) AS u (x, y);
		largest := -1;
		FOR i IN lo .. hi LOOP
			area := abs((xs[a] - mean_x) * (ys[i] - ys[a]) - (xs[a] - xs[i]) * (mean_y - ys[a])) / 2;
			IF area > largest THEN
				largest := area;
				best := i;
			END IF;
		END LOOP;
		chosen := chosen || best;
		a := best;
	END LOOP;
	RETURN chosen || n;
END
$$;
CREATE FUNCTION points(j jsonb) RETURNS TABLE (ts timestamptz, value float8) LANGUAGE sql AS
	'SELECT * FROM jsonb_to_recordset(j) AS p (ts timestamptz, value float8)';

SELECT no_plan();

CREATE TABLE hand AS SELECT at(x) AS ts, y FROM unnest('{0,1,2,3,4,5,6}'::float8[], '{0,10,0,0,-20,0,0}'::float8[]) AS u (x, y);
SELECT results_eq('SELECT points(iot.lttb(ts, y, 4)) FROM hand',
	'SELECT (ts, y)::record FROM (SELECT * FROM hand WHERE y <> 0 OR ts IN (at(0), at(6)) ORDER BY ts) h',
	'the peaks and the ends');
SELECT is(iot.lttb(ts, y, 4), '[{"ts": "2026-01-01T00:00:00+00:00", "value": 0}, {"ts": "2026-01-01T00:00:01+00:00", "value": 10},
	{"ts": "2026-01-01T00:00:04+00:00", "value": -20}, {"ts": "2026-01-01T00:00:06+00:00", "value": 0}]'::jsonb,
	'as JSON') FROM hand;
SELECT is(iot.lttb(ts, y, 4 ORDER BY y), (SELECT iot.lttb(ts, y, 4 ORDER BY ts) FROM hand),
	'rows may come in any order') FROM hand;
SELECT is(jsonb_array_length(iot.lttb(ts, y, 7)), 7, 'no fewer than there are') FROM hand;
SELECT is(jsonb_array_length(iot.lttb(ts, y, 1000)), 7, 'no more than there are') FROM hand;
SELECT results_eq('SELECT (points(iot.lttb(ts, y, 2))).ts FROM hand', 'VALUES (at(0)), (at(6))', 'two are the ends');
SELECT is(iot.lttb(ts, y, 3), '[]', 'no rows, no points') FROM hand WHERE false;
SELECT is(jsonb_array_length(iot.lttb(ts, nullif(y, 0), 7)), 2, 'a gap is no point') FROM hand;
SELECT is(iot.lttb(ts, NULL, 7), '[]', 'nor are gaps alone') FROM hand;

-- random series, of all shapes and sizes
CREATE TABLE series AS
	SELECT s, n, x, CASE s % 3 WHEN 0 THEN random() WHEN 1 THEN sin(x / 50.0) * 20 + random()
			ELSE (x::int % 17) * random() * 1e6 END AS y
	FROM (SELECT s, (2 + random() * 600)::int AS n FROM generate_series(1, 60) s) c,
		LATERAL (SELECT i + (random() * 0.9 * 1e6)::int / 1e6::float8 FROM generate_series(1, c.n) i) p (x);
CREATE FUNCTION chosen_differ(s int, wanted int) RETURNS boolean LANGUAGE sql AS $$
	WITH p AS (SELECT array_agg(x ORDER BY x) AS xs, array_agg(y ORDER BY x) AS ys,
			iot.lttb(at(x), y, wanted ORDER BY random()) AS chosen FROM series WHERE series.s = chosen_differ.s)
	SELECT ARRAY(SELECT u.ts FROM points(p.chosen) u)
			IS DISTINCT FROM ARRAY(SELECT at(p.xs[i]) FROM unnest(by_the_book(p.xs, p.ys, wanted)) i)
		OR ARRAY(SELECT u.value FROM points(p.chosen) u)
			IS DISTINCT FROM ARRAY(SELECT p.ys[i] FROM unnest(by_the_book(p.xs, p.ys, wanted)) i)
	FROM p
$$;
SELECT is_empty(format('SELECT s FROM generate_series(1, 60) s WHERE chosen_differ(s, %s)', wanted),
	'as the book has it: ' || wanted) FROM unnest('{2,3,4,10,57,200,500}'::int[]) wanted;

-- extremes
SELECT is(jsonb_array_length(iot.lttb(at(n), CASE n % 2 WHEN 0 THEN 1.7e308 ELSE -1.7e308 END, 10)), 10,
	'the largest values') FROM generate_series(1, 100) n;
SELECT is((SELECT array_agg(value ORDER BY ts) FROM points((SELECT iot.lttb(at(n), 0.1::float8 * n, 1000) FROM generate_series(1, 100) n))),
	(SELECT array_agg(0.1::float8 * n ORDER BY n) FROM generate_series(1, 100) n), 'every value is the same when it is read');
SELECT is(jsonb_array_length(iot.lttb(at(0), n, 10)), 10, 'all at one time') FROM generate_series(1, 100) n;
SELECT is(jsonb_array_length(iot.lttb(at(n), 5, 10)), 10, 'all of one value') FROM generate_series(1, 100) n;
SELECT is(jsonb_array_length(iot.lttb(ts, 1, 3)), 2, 'the ends of time')
	FROM unnest('{4713-01-02 00:00+00 BC,294275-12-31 00:00+00}'::timestamptz[]) ts;
SELECT is((SELECT jsonb_array_length(l) FROM (SELECT iot.lttb(at(x), y, 5) OVER (ORDER BY x) AS l, x FROM series WHERE s = 1) w
	ORDER BY x DESC LIMIT 1), 5, 'over a window');

-- errors
SELECT throws_ok(format('SELECT iot.lttb(ts, y, %s) FROM hand', n), '22023', NULL, 'not ' || n || ' points')
	FROM unnest('{1,0,-5,1000001}'::int[]) n;
SELECT throws_ok('SELECT iot.lttb(ts, y, NULL) FROM hand', '22004', 'number of points for iot.lttb() must not be null');
SELECT throws_ok('SELECT iot.lttb(ts, y, 5 + row_number) FROM (SELECT *, row_number() OVER ()::int FROM hand) h', '22023',
	'number of points for iot.lttb() must be the same in all rows');
SELECT throws_ok(format('SELECT iot.lttb(ts, %L, 3) FROM hand', v), '22023', 'points for iot.lttb() must be finite')
	FROM unnest('{NaN,Infinity,-Infinity}'::text[]) v;
SELECT throws_ok($$SELECT iot.lttb('infinity', y, 3) FROM hand$$, '22023', 'points for iot.lttb() must be finite');
SELECT throws_ok($$SELECT iot_internal.lttb_transition(NULL, now(), 1, 3)$$, NULL, NULL, 'not to be called by hand');

SELECT * FROM finish();
