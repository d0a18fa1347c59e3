# shellcheck shell=bash
#
# Part "ingest" of the benchmarks: telemetry by MQTT into tables, with alarm rules at work and the
# commit before the PUBACK, against a client that only receives and acknowledges the same messages
# from the same broker, with the same window.  The devices publish meanwhile, as fast as the broker
# takes it, on the same processors.
#
#   BENCH_TELEMETRY=200000    messages of a run, three values each
#   BENCH_RULES=1000          alarm rules
#   BENCH_PROCESSES=1 BENCH_BATCH=4000    of the adapter

: "${BENCH_TELEMETRY:=200000}" "${BENCH_RULES:=1000}" "${BENCH_PROCESSES:=1}" "${BENCH_BATCH:=4000}"

window=$((2 * BENCH_BATCH))
telemetry_first=0

load_args() { echo "$broker_port iot $folder/iot.password"; }

# publish_telemetry [poison]: a run's messages, with device times that no other run has.
publish_telemetry()
{
	test/bench/mqtt_load publish $(load_args) $devices "$BENCH_TELEMETRY" $telemetry_first "${1:-0}"
	telemetry_first=$((telemetry_first + BENCH_TELEMETRY))
}

per_second() { awk -v n="$1" -v s="$2" 'BEGIN { printf "%.0f", n / s }'; }

# Messages a second that a client takes which does nothing with them.
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
	per_second "$BENCH_TELEMETRY" "$seconds"
}

counted()
{
	value "SELECT coalesce(pg_catalog.sum((counters ->> '$1')::bigint), 0)
		FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'"
}

has_counted() { [ "$(counted messages)" -ge "$1" ]; }

# measure_adapter [poison]: messages a second from the first one published to the last one committed.
measure_adapter()
{
	local before start end

	before=$(counted messages)
	start=$(date +%s.%N)
	publish_telemetry "${1:-0}"
	wait_until 'all messages are committed' has_counted $((before + BENCH_TELEMETRY))
	end=$(date +%s.%N)
	per_second "$BENCH_TELEMETRY" "$(awk -v a="$start" -v b="$end" 'BEGIN { print b - a }')"
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
	local receiver ours poisoned stored alarms median p99

	say 'starting the broker'
	start_broker -e 's|^autosave_interval .*|autosave_interval 0|'
	make_registry

	say "$BENCH_TELEMETRY messages to a client that only receives"
	receiver=$(measure_receiver)

	say 'the same into tables'
	enable_adapter "{\"batch_size\": $BENCH_BATCH, \"processes\": $BENCH_PROCESSES}"
	wait_until 'the adapter is connected' is_true "SELECT count(*) = $BENCH_PROCESSES
		FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter' AND state = 'connected'"
	ours=$(measure_adapter)
	stored=$(counted stored)
	[ "$stored" -eq $((3 * BENCH_TELEMETRY)) ] || { echo "stored: $stored"; exit 1; }
	alarms=$(value "SELECT pg_catalog.count(*) FROM iot.alarm")
	row "ingest, QoS 1, 3 values a message, $BENCH_RULES rules, $BENCH_PROCESSES process(es)" \
		"$ours messages/s ($((3 * ours)) values/s, $alarms alarms)" \
		"$receiver/s: only received" "$(ratio "$ours" "$receiver")" '>= 0.8'

	say 'the same, each hundredth message poison'
	poisoned=$(measure_adapter 100)
	row 'the same, with 1 % poison' "$poisoned messages/s" "$ours/s without" \
		"$(ratio "$poisoned" "$ours")" '>= 0.9'

	say 'lone messages'
	read -r median p99 < <(test/bench/mqtt_load lone $(load_args) \
		"host=$PGHOST port=$PGPORT dbname=iot user=postgres" 200)
	row 'a lone message to its committed row, p50' "$median ms (p99 $p99)" '20 ms' \
		"$(ratio "$median" 20)" '<= 1'
}
