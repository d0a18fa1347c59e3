# shellcheck shell=bash
#
# Part "command" of the benchmarks: round trips of commands, against the same rows made by hand.

bench_command()
{
	local inserts closed ours by_hand sent failed

	start_push
	say "single-insert commits, $clients clients, ${BENCH_SECONDS} s"
	sql -c 'CREATE TABLE public.bench_insert (n integer, t text)'
	inserts=$(run_pgbench -f test/bench/insert.sql)

	say "commands by hand: the same rows in three commits"
	sql -v devices="$devices" -f test/bench/by_hand_setup.sql >/dev/null
	by_hand=$(run_pgbench -D devices="$devices" -f test/bench/by_hand.sql)

	say 'commands, each client waiting for its outcome'
	closed=$(run_pgbench -D devices="$devices" -f test/bench/command_wait.sql)

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
		say "this machine makes $inserts single-insert commits/s: 3000 round trips/s are not asked of it"
	fi
	row "the same, each client waiting" "$closed/s" "$by_hand/s: same rows by hand" \
		"$(ratio "$closed" "$by_hand")" -
}
