# shellcheck shell=bash
#
# Part "growth" of the benchmarks: what a command, a message and one more device cost by the number of
# devices in the registry, and a notification by the number of sockets.  By the number of alarm rules and the
# size of the history: part "storage".
#
#   BENCH_GROWTH_DEVICES='100 10000 100000'    registered, three sensors each
#   BENCH_GROWTH_MESSAGES=30000                of telemetry, measured after each device has spoken once
#   BENCH_GROWTH_SOCKETS='10 100 2000'

: "${BENCH_GROWTH_DEVICES:=100 10000 100000}" "${BENCH_GROWTH_MESSAGES:=30000}" "${BENCH_GROWTH_SOCKETS:=10 100 2000}"
. test/bench/push.sh
. test/bench/ingest.sh

# growth_register from to: devices of these numbers.
growth_register()
{
	say "registering devices $1 to $2"
	sql <<-EOC
	WITH d AS (
		INSERT INTO iot.device (name, device_group_id, device_type_id, adapter_id)
			SELECT 'bench-' || n, g.device_group_id, t.device_type_id, a.adapter_id
			FROM generate_series($1, $2) AS n, iot.device_group AS g, iot.device_type AS t, iot.adapter AS a
			RETURNING device_id)
	INSERT INTO iot.sensor (device_id, parameter_id)
		SELECT d.device_id, p.parameter_id FROM d, iot.parameter AS p WHERE p.name IN ('temperature', 'pressure', 'humidity');
	VACUUM (ANALYZE) iot.device, iot.sensor;
	EOC
}

# In growth_commands, "commands/s, median, 99th percentile" of clients that wait for their outcome.
growth_measure_commands()
{
	local rate median p99

	# what they would say of being online is not measured here, and takes a while
	start_devices "$devices" humidity --status-topic 'iot/{device}/bench'
	say "commands to $devices devices"
	rm -f "$folder"/closed.*
	rate=$(run_pgbench -D devices="$devices" -l --log-prefix="$folder/closed" -f "$folder/command.sql")
	read -r median p99 < <(latencies "$folder"/closed.*)
	growth_commands="$rate $median $p99"
	kill "$devices_pid"
	wait "$devices_pid" || true
}

# In growth_ingest, "messages/s, microseconds of the adapter's processor a message".
growth_measure_ingest()
{
	local adapter before messages=$BENCH_GROWTH_MESSAGES

	adapter=$(worker_pid 'iot mqtt adapter')
	say "telemetry of $devices devices"
	BENCH_TELEMETRY=$devices
	measure_adapter
	BENCH_TELEMETRY=$messages
	before=$(processor_us "$adapter")
	measure_adapter
	growth_ingest="$adapter_rate $((($(processor_us "$adapter") - before) / messages))"
}

# In growth_registered, the median in milliseconds of making one more device with three sensors, each in a
# transaction of its own.
growth_measure_registering()
{
	say "one more device beside $devices"
	rm -f "$folder"/registered.*
	pgbench -n -c 1 -t 300 -l --log-prefix="$folder/registered" -f "$folder/register.sql" \
		>"$folder/pgbench.out" 2>"$folder/pgbench.log"
	growth_registered=$(latencies "$folder"/registered.*)
	growth_registered=${growth_registered% *}
}

growth_devices()
{
	local known=0 rate median p99 messages each first='' first_each first_registered

	for devices in $BENCH_GROWTH_DEVICES; do
		growth_register $((known + 1)) "$devices"
		known=$devices
		growth_measure_commands
		growth_measure_ingest
		growth_measure_registering
		read -r rate median p99 <<<"$growth_commands"
		read -r messages each <<<"$growth_ingest"
		echo "$devices $median $each" >>"$folder/devices.dat"
		if [ -z "$first" ]; then
			first=$median
			first_each=$each
			first_registered=$growth_registered
		fi
		row "$devices devices: commands, $clients clients waiting" "p50 $median ms (p99 $p99), $rate/s" \
			"$first ms: the fewest" "$(ratio "$median" "$first")" -
		row "$devices devices: telemetry, 3 values a message" \
			"$each µs of the adapter's processor, $messages messages/s" \
			"$first_each µs: the fewest" "$(ratio "$each" "$first_each")" -
		row "$devices devices: registering one more, with three sensors" "p50 $growth_registered ms" \
			"$first_registered ms: the fewest" "$(ratio "$growth_registered" "$first_registered")" -
	done
	megabytes_row "$devices devices: memory of the adapter, anonymous" \
		"$(anonymous_memory "$(worker_pid 'iot mqtt adapter')")" 64
	megabytes_row "$devices devices: memory of the notifier, anonymous" \
		"$(anonymous_memory "$(worker_pid 'iot notifier')")" 64
	save_plot devices <<-EOP
	set title 'A command and a message, by the number of devices'
	set xlabel 'devices'
	set ylabel 'milliseconds of a command, median'
	set y2label "microseconds of the adapter's processor per message"
	set logscale x
	set yrange [0:*]
	set y2range [0:*]
	set ytics nomirror
	set y2tics
	plot '$folder/devices.dat' using 1:2 with linespoints lw 2 title 'command, $clients clients waiting', \
		'' using 1:3 axes x1y2 with linespoints lw 2 title 'message of three values'
	EOP
}

growth_sockets()
{
	local sockets first=''

	for sockets in $BENCH_GROWTH_SOCKETS; do
		sockets_allowed "$sockets" || continue
		say "$BENCH_MESSAGES notifications to $sockets sockets"
		fan_out "$push_port" 'notify 1' "notify $BENCH_MESSAGES" "$sockets"
		[ -n "$first" ] || first=$fan_out_ms
		echo "$sockets $fan_out_ms" >>"$folder/sockets.dat"
		row "$sockets sockets: $BENCH_MESSAGES notifications, from the first to arrive to the last" \
			"$fan_out_ms ms ($fan_out_rate/s)" "$first ms: the fewest" "$(ratio "$fan_out_ms" "$first")" -
	done
	[ -s "$folder/sockets.dat" ] || return 0
	save_plot sockets <<-EOP
	set title '$BENCH_MESSAGES notifications to every socket, by the number of sockets'
	set xlabel 'sockets'
	set ylabel 'milliseconds from the first to arrive to the last'
	set logscale x
	set yrange [0:*]
	plot '$folder/sockets.dat' using 1:2 with linespoints lw 2 title 'iot-pushd'
	EOP
}

bench_growth()
{
	say 'starting broker and push daemon'
	start_broker -e 's|^autosave_interval .*|autosave_interval 0|'
	sql -c "INSERT INTO iot.parameter (name) VALUES ('temperature'), ('pressure'), ('humidity')"
	add_user anna
	enable_adapter "{\"batch_size\": $BENCH_BATCH}"
	start_pushd
	echo "SELECT iot.create_device('more-' || gen_random_uuid(), '{temperature,pressure,humidity}')" >"$folder/register.sql"
	sed 's/level/humidity/g' test/bench/command_wait.sql >"$folder/command.sql"
	growth_devices
	# what the commands were told of waits for a socket, and would be measured with the rest
	sql -c 'TRUNCATE iot.notification, iot.delivery, iot.notification_read'
	growth_sockets
}
