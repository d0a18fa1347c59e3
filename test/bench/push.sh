# shellcheck shell=bash
#
# Part "push" of the benchmarks: from a command to the user's WebSocket, and one message to many.
#
#   BENCH_SOCKETS=2000 BENCH_MESSAGES=100    of the fan-out

: "${BENCH_SOCKETS:=2000}" "${BENCH_MESSAGES:=100}"

bench_latency()
{
	local whole commit broker whole_99 limit

	say 'send_command() to WebSocket, 200 commands one by one'
	read -r whole commit broker whole_99 < <(test/bench/latency \
		"host=$PGHOST port=$PGPORT dbname=iot user=postgres" 127.0.0.1 "$push_port" "$folder/token" \
		"$broker_port" iot "$folder/iot.password" 200)
	limit=$(awk -v c="$commit" -v b="$broker" 'BEGIN { printf "%.3f", 4 * c + b }')
	row 'send_command() to WebSocket, idle, p50' "$whole ms (p99 $whole_99)" \
		"$limit ms: 4 commits of $commit + broker $broker" "$(ratio "$whole" "$limit")" '<= 3'
}

# Runs the fan-out's clients against a port; the first command sends them one message, which shows
# that each of them is live, the second one the others.  Messages a second in fan_out_rate.
fan_out()
{
	local port=$1 warm_up=$2 start=$3 total frames bytes seconds

	test/bench/fanout_clients 127.0.0.1 "$port" "$folder/token" "$BENCH_SOCKETS" "$BENCH_MESSAGES" \
		>"$folder/fanout" 2>"$folder/fanout_clients.log" &
	local pid=$!
	wait_until 'all sockets are open' grep -q subscribed "$folder/fanout"
	$warm_up
	wait_until 'all sockets have their first message' grep -q ready "$folder/fanout"
	$start
	wait $pid
	read -r total frames bytes seconds < <(tail -1 "$folder/fanout")
	fan_out_bytes=$((bytes / total))
	fan_out_rate=$(awk -v n="$total" -v s="$seconds" 'BEGIN { printf "%.0f", n / s }')
	fan_out_frames=$frames
}

# Notifications as the notifier writes them, at once and all together, and its hint.
notify()
{
	sql >/dev/null <<-EOC
	BEGIN;
	WITH n AS (
		INSERT INTO iot.notification (event_id, event, channel, audience, username, device_id, device,
			title, body, event_at)
		SELECT iot_internal.uuidv7(), 'bench.done', 'push', 'viewers', 'anna', d.device_id, d.name,
			'level of ' || d.name || ' is set', '{"parameter": "level", "value": 21.5}', pg_catalog.now()
		FROM iot.device AS d ORDER BY d.name LIMIT $1
		RETURNING seq)
	INSERT INTO iot.delivery (seq, channel, recipient) SELECT n.seq, 'push', 'anna' FROM n;
	NOTIFY iot_push;
	COMMIT;
	EOC
}

bench_fan_out()
{
	local ours frames port

	if [ "$(ulimit -n)" -lt $((BENCH_SOCKETS + 200)) ]; then
		say "fan-out left out: ulimit -n is $(ulimit -n), below $BENCH_SOCKETS sockets"
		return 0
	fi
	say "fan-out of $BENCH_MESSAGES messages to $BENCH_SOCKETS sockets, by iot-pushd"
	fan_out "$push_port" 'notify 1' "notify $BENCH_MESSAGES"
	ours=$fan_out_rate
	frames=$fan_out_frames
	say 'the same from memory, by the library alone'
	port=$(free_port)
	test/bench/fanout_server "$port" "$BENCH_SOCKETS" "$BENCH_MESSAGES" "$fan_out_bytes" \
		>"$folder/fanout_server.log" 2>&1 &
	local pid=$!
	started+=("$pid")
	wait_until 'the library listens' bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
	fan_out "$port" true "kill -USR1 $pid"
	kill $pid
	row "push fan-out to $BENCH_SOCKETS sockets" "$ours messages/s in $frames frames" \
		"$fan_out_rate/s, $fan_out_bytes bytes each" "$(ratio "$ours" "$fan_out_rate")" '>= 0.8'
}

bench_push()
{
	start_push
	bench_latency
	bench_fan_out
}
