# shellcheck shell=bash
#
# Part "poll" of the benchmarks: a look into the event log that finds nothing, as workers take it several
# times a second, in a log of forty daily partitions.
#
#   BENCH_PARTITIONS=40 BENCH_EVENTS=1000    of the log, and in each of them

: "${BENCH_PARTITIONS:=40}" "${BENCH_EVENTS:=1000}"

# poll_time: median and 99th percentile of idle polls, in milliseconds, as "a b".
poll_time()
{
	rm -f "$folder"/polls.*
	pgbench -n -M prepared -c 1 -t 2000 -l --log-prefix="$folder/polls" -f "$folder/poll.sql" \
		>"$folder/pgbench.out" 2>"$folder/pgbench.log"
	latencies "$folder"/polls.*
}

partitions() { value "SELECT pg_catalog.count(*) FROM iot_internal.partitions('iot.event')"; }

bench_poll()
{
	local few few_median many median p99

	sql -c "SELECT iot_internal.consumer_register('bench')" >/dev/null
	cat >"$folder/poll.sql" <<-EOC
	SELECT iot_internal.consumer_read('bench');
	EOC
	few=$(partitions)
	say "idle polls, $few partitions, then $BENCH_PARTITIONS"
	read -r few_median p99 < <(poll_time)
	sql <<-EOC
	SELECT pg_catalog.count(iot_internal.make_partition('iot.event', day, day + interval '1 day'))
		FROM pg_catalog.generate_series($few + 1, $BENCH_PARTITIONS) AS n,
			pg_catalog.date_trunc('day', pg_catalog.now()) AS today,
			LATERAL (SELECT (SELECT pg_catalog.min(lower) FROM iot_internal.partitions('iot.event'))
				- (n - $few) * interval '1 day' AS day) AS d \g /dev/null
	INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, created_at)
		SELECT iot_internal.uuidv7(), 'bench', n::text, 'bench.done', '{}', p.lower + n * interval '1 s'
		FROM iot_internal.partitions('iot.event') AS p, pg_catalog.generate_series(1, $BENCH_EVENTS) AS n;
	VACUUM (ANALYZE) iot.event;
	DO \$\$ BEGIN
		WHILE EXISTS (SELECT FROM iot_internal.consumer_read('bench')) LOOP
			COMMIT;
		END LOOP;
	END \$\$;
	EOC
	many=$(partitions)
	read -r median p99 < <(poll_time)
	row "idle poll of the event log, $many partitions of $BENCH_EVENTS events, p50" "$median ms (p99 $p99)" '1 ms' \
		"$(ratio "$median" 1)" '<= 1'
	row "the same beside $few partitions, empty" "$median ms" "$few_median ms" "$(ratio "$median" "$few_median")" -
}
