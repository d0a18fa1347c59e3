# shellcheck shell=bash
#
# Part "ingest" of the benchmarks: telemetry by MQTT into tables, with alarm rules at work and the
# commit before the PUBACK, against a client that only receives and acknowledges the same messages
# from the same broker, with the same window.  The devices publish meanwhile, as fast as the broker
# takes it, on the same processors.
#
#   BENCH_TELEMETRY=100000    messages of a run, three values each
#   BENCH_RULES=1000          alarm rules
#   BENCH_PROCESSES=1 BENCH_BATCH=4000    of the adapter

: "${BENCH_TELEMETRY:=100000}" "${BENCH_RULES:=1000}" "${BENCH_PROCESSES:=1}" "${BENCH_BATCH:=4000}"

window=$((2 * BENCH_BATCH))
telemetry_first=0

load_args() { echo "$broker_port iot $folder/iot.password"; }

# publish_telemetry [poison]: a run's messages.
publish_telemetry()
{
	test/bench/mqtt_load publish $(load_args) $devices "$BENCH_TELEMETRY" $telemetry_first "${1:-0}"
	telemetry_first=$((telemetry_first + BENCH_TELEMETRY))
}

per_second() { awk -v n="$1" -v s="$2" 'BEGIN { printf "%.0f", n / s }'; }

# Messages a second that a client takes which does nothing with them, in receiver_rate; like the rates
# below not through a subshell, where the devices' times would start over.
measure_receiver()
{
	local seconds

	test/bench/mqtt_load receive $(load_args) 'iot/+/telemetry' "$BENCH_TELEMETRY" $window \
		>"$folder/receiver.log" 2>&1 &
	local pid=$!
	wait_until 'the receiver is subscribed' grep -q ready "$folder/receiver.log"
	publish_telemetry
	wait $pid
	seconds=$(tail -1 "$folder/receiver.log")
	receiver_rate=$(per_second "$BENCH_TELEMETRY" "$seconds")
}

# start_publishing notes the time; rate_since is how many messages of a run a second that makes.
start_publishing() { published_at=$(date +%s.%N); }
rate_since() { per_second "$BENCH_TELEMETRY" "$(awk -v a="$published_at" -v b="$(date +%s.%N)" 'BEGIN { print b - a }')"; }

# What others would use, before the adapter has a session at this broker: each ends when it has got all.
bench_bridge()
{
	local receiver=$1 rate pid

	say 'the same through a bridge in Node.js'
	(cd "$top/peers" && exec timeout 120 node bridge.js $(load_args) "$BENCH_TELEMETRY" $window) \
		>"$folder/bridge.log" 2>&1 &
	pid=$!
	started+=("$pid")
	wait_until 'the bridge is subscribed' grep -q ready "$folder/bridge.log"
	start_publishing
	publish_telemetry
	wait "$pid"
	rate=$(rate_since)
	[ "$(value 'SELECT pg_catalog.count(*) FROM peer.measurement')" -eq $((3 * BENCH_TELEMETRY)) ]
	row "peer: Node.js, mqtt $(node_version mqtt) and pg $(node_version pg); acknowledged before the commit, only inserted" \
		"$rate messages/s" "$receiver/s: only received" "$(ratio "$rate" "$receiver")" -
}

bench_subscriber()
{
	local receiver=$1 rate pid

	say 'the same through mosquitto_sub and \copy'
	timeout 120 mosquitto_sub -V mqttv5 -i bench-sub -h 127.0.0.1 -p "$broker_port" -u iot \
		-P "$(cat "$folder/iot.password")" -q 1 -t 'iot/+/telemetry' -D connect receive-maximum $window \
		-F '%t\t%p' -C "$BENCH_TELEMETRY" 2>"$folder/sub.log" | sql -c '\copy peer.message FROM pstdin' &
	pid=$!
	started+=("$pid")
	wait_until 'mosquitto_sub is subscribed' grep -q 'bench-sub 1 iot/+/telemetry' "$folder/broker.log"
	start_publishing
	publish_telemetry
	wait "$pid"
	rate=$(rate_since)
	[ "$(value 'SELECT pg_catalog.count(*) FROM peer.message')" -eq "$BENCH_TELEMETRY" ]
	row 'peer: mosquitto_sub into psql \copy, one transaction, payloads as they are' "$rate messages/s" \
		"$receiver/s: only received" "$(ratio "$rate" "$receiver")" -
}

bench_peers()
{
	sql <<-EOC
	CREATE SCHEMA peer;
	CREATE TABLE peer.measurement (device text, parameter text, ts timestamptz, value double precision,
		PRIMARY KEY (device, parameter, ts));
	CREATE TABLE peer.message (topic text, payload jsonb);
	EOC
	if have_node_peers 'the Node.js bridge'; then
		peer 'the Node.js bridge' bench_bridge "$1"
		telemetry_first=$((telemetry_first + BENCH_TELEMETRY))
	fi
	peer 'mosquitto_sub' bench_subscriber "$1"
	telemetry_first=$((telemetry_first + BENCH_TELEMETRY))
	sql -c 'DROP TABLE peer.measurement, peer.message'
}

counted()
{
	value "SELECT coalesce(pg_catalog.sum((counters ->> '$1')::bigint), 0)
		FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'"
}

# Waits in the server until the adapter has committed so many messages: a psql for each look would take
# the adapter's time.
wait_counted()
{
	timeout 600 psql -Xq -v ON_ERROR_STOP=1 <<-EOC
	DO \$\$ BEGIN
		WHILE (SELECT coalesce(pg_catalog.sum((counters ->> 'messages')::bigint), 0)
			FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter') < $1 LOOP
			PERFORM pg_catalog.pg_sleep(0.02);
		END LOOP;
	END \$\$;
	EOC
}

# measure_adapter [poison]: messages a second from the first one published to the last one committed, in
# adapter_rate.
measure_adapter()
{
	local before

	before=$(counted messages)
	start_publishing
	publish_telemetry "${1:-0}"
	wait_counted $((before + BENCH_TELEMETRY))
	adapter_rate=$(rate_since)
}

# Microseconds of processor time a message since start_cpu, in cpu_each: of the broker, the server and all
# clients that have ended.  Where processors are what a run lacks, its rate goes by this, whatever else
# the machine does.
start_cpu()
{
	cpu_used
	cpu_start=$cpu_seconds
}

measure_cpu()
{
	cpu_used
	cpu_each=$(awk -v a="$cpu_start" -v b="$cpu_seconds" -v n="$BENCH_TELEMETRY" 'BEGIN { printf "%.0f", (b - a) / n * 1e6 }')
}

# In cpu_seconds, since a subshell would know of no child.
cpu_used()
{
	local pids

	times >"$folder/times"
	pids="$broker_pid $(pgrep -d ' ' -P "$(head -1 "$data/postmaster.pid")")"
	cpu_seconds=$( (tail -1 "$folder/times"; for pid in $pids; do cat "/proc/$pid/stat" 2>/dev/null || true; done) |
		awk -v hz="$(getconf CLK_TCK)" '
			NR == 1 { for (i = 1; i <= 2; i++) { split($i, part, /[ms]/); sum += part[1] * 60 + part[2] } next }
			{ sub(/.*\) /, ""); sum += ($12 + $13) / hz }
			END { printf "%.2f", sum }')
}

make_registry()
{
	sql <<-EOC
	INSERT INTO iot.parameter (name) VALUES ('temperature'), ('pressure'), ('humidity')
		ON CONFLICT (name) DO NOTHING;
	SELECT pg_catalog.count(iot.create_device('bench-' || n, '{temperature,pressure,humidity}'))
		FROM pg_catalog.generate_series(1, $devices) AS n \g /dev/null
	INSERT INTO iot.alarm_rule (name, kind, scope, device_id, parameter_id, comparison, threshold,
			close_threshold)
		SELECT 'bench-' || n, 'threshold', 'device', d.device_id, p.parameter_id, '>',
			CASE p.name WHEN 'temperature' THEN 40 ELSE 90 END,
			CASE p.name WHEN 'temperature' THEN 38 ELSE 85 END
		FROM pg_catalog.generate_series(1, $BENCH_RULES) AS n
			JOIN iot.device AS d ON d.name = 'bench-' || (n - 1) % $devices + 1
			JOIN iot.parameter AS p
				ON p.name = CASE n % 2 WHEN 0 THEN 'temperature' ELSE 'humidity' END;
	EOC
}

bench_ingest()
{
	local receiver ours poisoned stored alarms median p99 receiver_cpu

	say 'starting the broker'
	# its log says who is subscribed
	start_broker -e 's|^autosave_interval .*|autosave_interval 0|' -e 's|^log_type error|&\nlog_type subscribe|'
	make_registry

	say "$BENCH_TELEMETRY messages to a client that only receives"
	start_cpu
	measure_receiver
	measure_cpu
	receiver=$receiver_rate
	receiver_cpu=$cpu_each
	bench_peers "$receiver"

	say 'the same into tables'
	enable_adapter "{\"batch_size\": $BENCH_BATCH, \"processes\": $BENCH_PROCESSES}"
	wait_until 'the adapter is connected' is_true "SELECT count(*) = $BENCH_PROCESSES
		FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter' AND state = 'connected'"
	start_cpu
	measure_adapter
	measure_cpu
	ours=$adapter_rate
	stored=$(counted stored)
	[ "$stored" -eq $((3 * BENCH_TELEMETRY)) ] || { echo "stored: $stored"; exit 1; }
	alarms=$(value "SELECT pg_catalog.count(*) FROM iot.alarm")
	row "ingest, QoS 1, 3 values a message, $BENCH_RULES rules, $BENCH_PROCESSES process(es)" \
		"$ours messages/s ($((3 * ours)) values/s, $alarms alarms)" \
		"$receiver/s: only received" "$(ratio "$ours" "$receiver")" '>= 0.8'
	row 'the same by processor time of all who take part, publisher and broker too' \
		"$cpu_each µs a message" "$receiver_cpu µs: only received" "$(ratio "$receiver_cpu" "$cpu_each")" -

	say 'the same, each hundredth message poison'
	measure_adapter 100
	poisoned=$adapter_rate
	row 'the same, with 1 % poison' "$poisoned messages/s" "$ours/s without" \
		"$(ratio "$poisoned" "$ours")" '>= 0.9'

	say 'lone messages'
	read -r median p99 < <(test/bench/mqtt_load lone $(load_args) \
		"host=$PGHOST port=$PGPORT dbname=iot user=postgres" 200)
	megabytes_row "memory of the adapter after $((2 * BENCH_TELEMETRY)) messages, anonymous" \
		"$(anonymous_memory "$(worker_pid 'iot mqtt adapter')")" 64
	row 'a lone message to its committed row, p50' "$median ms (p99 $p99)" '20 ms' \
		"$(ratio "$median" 20)" '<= 1'
}
