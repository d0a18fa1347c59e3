# shellcheck shell=bash
#
# What row-level security costs: the same statements by a superuser, whom no policy holds up, and by a
# user who may view all of it, in turns.
#
#   BENCH_MEASUREMENTS=1000000    rows that are scanned

: "${BENCH_MEASUREMENTS:=1000000}"

access_load()
{
	sql <<-EOC
	SET client_min_messages = warning;
	INSERT INTO iot.parameter (name) VALUES ('level');
	INSERT INTO iot.device_group (name) SELECT 'group-' || n FROM generate_series(1, 10) AS n;
	INSERT INTO iot.device (name, device_group_id, device_type_id, adapter_id)
		SELECT 'bench-' || n, g.device_group_id, t.device_type_id, a.adapter_id
		FROM generate_series(1, $devices) AS n
			JOIN iot.device_group g ON g.name = 'group-' || 1 + n % 10, iot.device_type t, iot.adapter a;
	INSERT INTO iot.sensor (device_id, parameter_id)
		SELECT d.device_id, p.parameter_id FROM iot.device d, iot.parameter p;
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT s.device_id, s.parameter_id, date_trunc('day', now()) - n * interval '1 min', n
		FROM generate_series(1, $BENCH_MEASUREMENTS / $devices) AS n, iot.sensor s;
	CREATE ROLE reader IN ROLE iot_viewer;
	VACUUM ANALYZE iot.measurement;
	EOC
	add_user reader
}

# The shortest of eleven runs in milliseconds: without and with policies, as "a b".
access_times()
{
	local turn

	for turn in {1..11}; do
		printf '%s\n' '\timing off' 'RESET ROLE;' '\echo without' '\timing on' "$1;" \
			'\timing off' 'SET ROLE reader;' '\echo with' '\timing on' "$1;"
	done | sql -At -o /dev/null | awk '
		/^with/ { who = $1 }
		/^Time:/ { if (!(who in least) || $2 < least[who]) least[who] = $2 }
		END { print least["without"], least["with"] }'
}

# access_row what statement goal
access_row()
{
	local without with

	read -r without with <<<"$(access_times "$2")"
	row "$1, as a user who may view it" "$with ms" "$without ms: without policies" "$(ratio "$with" "$without")" "$3"
}

bench_access()
{
	local device

	access_load
	device=$(value "SELECT device_id FROM iot.device WHERE name = 'bench-7'")
	access_row "$BENCH_MEASUREMENTS measurements, mean by the hour" \
		"SELECT date_trunc('hour', ts), avg(value) FROM iot.measurement GROUP BY 1" '<= 1.2'
	access_row "$BENCH_MEASUREMENTS measurements, mean by device" \
		'SELECT device_id, avg(value) FROM iot.measurement GROUP BY 1' '<= 1.2'
	access_row "$BENCH_MEASUREMENTS measurements, read by the client" \
		'SELECT * FROM iot.measurement' '<= 1.2'
	access_row "$BENCH_MEASUREMENTS measurements, count(*) alone" \
		'SELECT count(*) FROM iot.measurement' -
	access_row 'newest 100 of a device' \
		"SELECT ts, value FROM iot.measurement WHERE device_id = '$device' ORDER BY ts DESC LIMIT 100" -
}
