# shellcheck shell=bash
#
# Part "command" of the benchmarks: round trips of commands, against the same rows made by hand, and job
# queues that have the same rows made and the same devices asked.

# run_jobs send.sql: throughput of a job queue, its worker running: what pgbench sends, as fast as it can,
# from the first command's sending to the last one's end.  As "completed/s sent/s left".
run_jobs()
{
	local sent

	sql -c 'UPDATE public.bench_mark SET at = pg_catalog.clock_timestamp()'
	sent=$(run_pgbench -D devices="$devices" -f "$1")
	# not longer than a minute: what is left then is told
	sql -At <<-EOC >/dev/null
	DO \$\$ BEGIN
		FOR i IN 1 .. 600 LOOP
			EXIT WHEN NOT EXISTS (SELECT FROM by_hand.command AS c, public.bench_mark AS m
				WHERE c.created_at > m.at AND c.status <> 'COMPLETED');
			PERFORM pg_catalog.pg_sleep(0.1);
			COMMIT;
		END LOOP;
	END \$\$;
	EOC
	value "SELECT coalesce(pg_catalog.round(pg_catalog.count(*) FILTER (WHERE c.status = 'COMPLETED') /
			extract(epoch FROM pg_catalog.max(c.finished_at) - pg_catalog.min(c.created_at))), 0)
			|| ' $sent ' || pg_catalog.count(*) FILTER (WHERE c.status <> 'COMPLETED')
		FROM by_hand.command AS c, public.bench_mark AS m WHERE c.created_at > m.at"
}

# bench_jobs package ours closed: a job queue of Node.js, beside our figures of both kinds.
bench_jobs()
{
	local kind=$1 ours=$2 closed=$3 name rate sent left waiting median p99

	name="$kind $(node_version "$kind")"
	say "the same by $name"
	(sed '/^SELECT command_id AS/,$d' test/bench/by_hand.sql; cat "test/bench/peers/$kind.sql") >"$folder/$kind.sql"
	# it reads "go" from there
	mkfifo "$folder/$kind.go"
	sql -c 'TRUNCATE by_hand.command, by_hand.saga_step, by_hand.event, by_hand.notification, by_hand.delivery'
	(cd "$top/peers" && exec timeout 150 node jobs.js "$kind" "$broker_port" iot "$folder/iot.password" \
		"$folder/$kind.sql" "$top/src/test/bench/by_hand.sql" "$devices" "$clients" "$BENCH_SECONDS") \
		<>"$folder/$kind.go" >"$folder/$kind.out" 2>"$folder/$kind.log" &
	started+=($!)
	wait_until "$kind works" grep -q ready "$folder/$kind.out"
	echo go >"$folder/$kind.go"
	wait_until "$kind has served its clients" grep -q '^[0-9]' "$folder/$kind.out"
	read -r waiting median p99 < <(tail -1 "$folder/$kind.out")
	read -r rate sent left < <(run_jobs "$folder/$kind.sql")
	row "peer: $name, the same rows and devices" "$rate/s ($sent/s sent, $left left after a minute)" \
		"$ours/s: iot" "$(ratio "$rate" "$ours")" -
	row "peer: $name, each client waiting" "$waiting/s, p50 $median ms (p99 $p99)" \
		"$closed/s: iot" "$(ratio "$waiting" "$closed")" -
}

bench_job_queues()
{
	local kind

	# the devices' answers are theirs now
	sql -c "UPDATE iot.adapter SET enabled = false WHERE name = 'mqtt'"
	wait_until 'the adapter rests' is_true "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
		WHERE backend_type = 'iot mqtt adapter')"
	for kind in graphile-worker pg-boss; do
		if have_node_peers "$kind"; then
			peer "$kind" bench_jobs "$kind" "$@"
		fi
	done
}

bench_command()
{
	local inserts closed ours by_hand sent failed median p99

	start_push
	say "single-insert commits, $clients clients, ${BENCH_SECONDS} s"
	sql -c 'CREATE TABLE public.bench_insert (n integer, t text)'
	inserts=$(run_pgbench -f test/bench/insert.sql)

	say "commands by hand: the same rows in three commits"
	sql -v devices="$devices" -f test/bench/by_hand_setup.sql >/dev/null
	by_hand=$(run_pgbench -D devices="$devices" -f test/bench/by_hand.sql)

	say 'commands, each client waiting for its outcome'
	closed=$(run_pgbench -D devices="$devices" -l --log-prefix="$folder/closed" -f test/bench/command_wait.sql)
	read -r median p99 < <(latencies "$folder"/closed.*)

	say 'commands, as fast as they are sent'
	sql -c 'CREATE TABLE public.bench_mark AS SELECT pg_catalog.clock_timestamp() AS at'
	sent=$(run_pgbench -D devices="$devices" -f test/bench/command_send.sql)
	wait_until 'all commands have an end' is_true \
		"SELECT NOT EXISTS (SELECT FROM iot.command WHERE status = 'COMMITTED')"
	ours=$(value "SELECT pg_catalog.round(pg_catalog.count(*) / extract(epoch FROM
			pg_catalog.max(c.finished_at) - pg_catalog.min(c.created_at)))
		FROM iot.command AS c, public.bench_mark AS m
		WHERE c.created_at > m.at AND c.status = 'COMPLETED'")
	failed=$(value "SELECT pg_catalog.count(*) FROM iot.command AS c, public.bench_mark AS m
		WHERE c.created_at > m.at AND c.status <> 'COMPLETED'")

	row "command round trips, $clients clients" "$ours/s ($sent/s sent, $failed not completed)" \
		"$by_hand/s: same rows by hand" "$(ratio "$ours" "$by_hand")" '>= 0.5'
	if [ "$inserts" -ge 10000 ]; then
		row "command round trips/s, where single inserts make 10 000/s" "$ours/s" \
			"3000/s ($inserts inserts/s here)" "$(ratio "$ours" 3000)" '>= 1'
	else
		row 'command round trips/s, asked of 10 000 inserts/s only' "$ours/s" \
			"3000/s ($inserts inserts/s here)" "$(ratio "$ours" 3000)" -
	fi
	row "the same, each client waiting" "$closed/s, p50 $median ms (p99 $p99)" "$by_hand/s: same rows by hand" \
		"$(ratio "$closed" "$by_hand")" -
	bench_job_queues "$ours" "$closed"
}
