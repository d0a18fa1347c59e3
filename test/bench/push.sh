# shellcheck shell=bash
#
# Part "push" of the benchmarks: from a command to the user's WebSocket, one message to many, and the
# memory of a socket.
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
	row 'the same in milliseconds of one digit' "$whole ms" '10 ms' "$(ratio "$whole" 10)" '<= 1'
}

# Runs the fan-out's clients against a port; the first command sends them one message, which shows
# that each of them is live, the second one the others.  Messages a second in fan_out_rate, and in
# fan_out_ms the time from the first message's arrival anywhere to the last one's everywhere.
fan_out()
{
	local port=$1 warm_up=$2 start=$3 sockets=$4 total frames bytes seconds

	rm -f "$folder/fanout"
	test/bench/fanout_clients 127.0.0.1 "$port" "$folder/token" "$sockets" "$BENCH_MESSAGES" \
		>"$folder/fanout" 2>"$folder/fanout_clients.log" &
	local pid=$!
	started+=("$pid")
	wait_until 'all sockets are open' grep -q subscribed "$folder/fanout"
	$warm_up
	wait_until 'all sockets have their first message' grep -q ready "$folder/fanout"
	$start
	wait $pid
	read -r total frames bytes seconds < <(tail -1 "$folder/fanout")
	fan_out_bytes=$((bytes / total))
	fan_out_rate=$(awk -v n="$total" -v s="$seconds" 'BEGIN { printf "%.0f", n / s }')
	fan_out_ms=$(awk -v s="$seconds" 'BEGIN { printf "%.1f", 1000 * s }')
	fan_out_frames=$frames
}

# In socket_bytes, what each of the sockets that are open and idle takes of the daemon; then their first
# message.
weigh_sockets()
{
	socket_bytes=$((($(anonymous_memory "$pushd_pid") - daemon_bytes) / BENCH_SOCKETS))
	notify 1
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
	local ours frames port daemon_bytes socket_bytes

	say "fan-out of $BENCH_MESSAGES messages to $BENCH_SOCKETS sockets, by iot-pushd"
	daemon_bytes=$(anonymous_memory "$pushd_pid")
	fan_out "$push_port" weigh_sockets "notify $BENCH_MESSAGES" "$BENCH_SOCKETS"
	ours=$fan_out_rate
	frames=$fan_out_frames
	say 'the same from memory, by the library alone'
	port=$(free_port)
	test/bench/fanout_server "$port" "$BENCH_SOCKETS" "$BENCH_MESSAGES" "$fan_out_bytes" \
		>"$folder/fanout_server.log" 2>&1 &
	local pid=$!
	started+=("$pid")
	wait_until 'the library listens' bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
	fan_out "$port" true "kill -USR1 $pid" "$BENCH_SOCKETS"
	kill $pid
	row "push fan-out to $BENCH_SOCKETS sockets" "$ours messages/s in $frames frames" \
		"$fan_out_rate/s, $fan_out_bytes bytes each" "$(ratio "$ours" "$fan_out_rate")" '>= 0.8'
	row "memory of the daemon per idle socket, $BENCH_SOCKETS of them, anonymous" "$socket_bytes bytes" \
		'8192 bytes' "$(ratio "$socket_bytes" 8192)" '<= 1'
	if have_node_peers 'the broadcast of ws'; then
		peer 'the broadcast of ws' bench_broadcast "$ours"
	fi
}

# The daemon rests meanwhile: nobody is connected to it.
bench_broadcast()
{
	local ours=$1 port

	port=$(free_port)
	say "the same by a server of Node.js that listens, with ws $(node_version ws)"
	(cd "$top/peers" && exec timeout 150 node broadcast.js "$port") >"$folder/broadcast.out" 2>"$folder/broadcast.log" &
	started+=($!)
	wait_until 'the server of Node.js listens' grep -q ready "$folder/broadcast.out"
	fan_out "$port" 'notify 1' "notify $BENCH_MESSAGES" "$BENCH_SOCKETS"
	row "peer: Node.js, ws $(node_version ws) with LISTEN; nobody's rights asked, not kept for who is away" \
		"$fan_out_rate messages/s in $fan_out_frames frames" "$ours/s: iot-pushd" "$(ratio "$fan_out_rate" "$ours")" -
}

# Whether so many sockets may be open; says so where not.
sockets_allowed()
{
	[ "$(ulimit -n)" -lt $(($1 + 200)) ] || return 0
	left_out "$1 sockets: ulimit -n is $(ulimit -n)"
	return 1
}

bench_push()
{
	start_push
	bench_latency
	megabytes_row "memory of the notifier after 200 notifications, anonymous" \
		"$(anonymous_memory "$(worker_pid 'iot notifier')")" 64
	if sockets_allowed "$BENCH_SOCKETS"; then
		bench_fan_out
	fi
}
