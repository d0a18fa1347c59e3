# shellcheck shell=bash
#
# Part "history" of the benchmarks: how fast a series is read from a big table, and what a measurement
# takes on disk.
#
#   BENCH_ROWS=2000000      of the big table, in series of 2000; 50000000 for that of the goal, which
#                           takes half an hour and 15 GB below TMPDIR
#
# Workers rest meanwhile: what they roll up beside a read would be measured with it.

: "${BENCH_ROWS:=2000000}"

history_setup()
{
	sql <<-EOC
	ALTER SYSTEM SET iot.databases = '';
	SELECT pg_reload_conf() \g /dev/null
	INSERT INTO iot.parameter (name) VALUES ('level');
	SELECT count(iot_internal.make_partition('iot.measurement', d, d + interval '1 day'))
		FROM generate_series(date_trunc('day', now()) - interval '8 days',
			date_trunc('day', now()) - interval '1 day', interval '1 day') AS d \g /dev/null
	CREATE FUNCTION public.forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
	CREATE PROCEDURE public.roll_up() LANGUAGE plpgsql AS
		'BEGIN WHILE iot_internal.rollup_step() OR EXISTS (SELECT FROM iot.rollup_note) LOOP COMMIT; END LOOP; END';
	CREATE ROLE reader LOGIN IN ROLE iot_viewer;
	EOC
	add_user reader
}

# history_read statement series [reads]: median and 99th percentile of so many reads, in milliseconds,
# by a user who may view the devices.  Each series has been read before.
history_read()
{
	local run

	echo "\\set n random(1, $2)
$1" >"$folder/read.sql"
	for run in 1 2; do
		rm -f "$folder"/reads.*
		PGUSER=reader pgbench -n -c 1 -t "${3:-500}" --random-seed=7 -l --log-prefix="$folder/reads" \
			-f "$folder/read.sql" >"$folder/pgbench.out" 2>"$folder/pgbench.log"
	done
	latencies "$folder"/reads.*
}

# history_load first last: series of these numbers, as they would have come within a week.
history_load()
{
	local day

	sql <<-EOC
	SELECT count(iot.create_device('series-' || n, '{level}'))
		FROM generate_series($1, $2) AS n \g /dev/null
	EOC
	for day in {0..6}; do
		[ $(($2 - $1)) -lt 1000 ] || say "  day $((day + 1)) of 7"
		sql <<-EOC
		INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
			SELECT s.device_id, s.parameter_id,
				now() - interval '7 days' + n * interval '302.4 s', random() * 100
			FROM generate_series(1 + 2000 * $day / 7, 2000 * ($day + 1) / 7) AS n,
				(SELECT device_id, parameter_id FROM iot.sensor JOIN iot.device USING (device_id)
					WHERE name IN (SELECT 'series-' || g FROM generate_series($1, $2) AS g)
					ORDER BY device_id OFFSET 0) AS s
			ORDER BY n, s.device_id;
		EOC
	done
	sql -c 'VACUUM (ANALYZE) iot.measurement'
}

history_bytes()
{
	value "SELECT round(sum(pg_total_relation_size(partition)) / $1, 1)
		FROM iot_internal.partitions('iot.measurement')"
}

bench_history()
{
	local series=$((BENCH_ROWS / 2000)) first=100 share done_series=0 upto
	local week="'series-' || :n, 'level', now() - interval '7 days'"
	local median p99 raw raw99 bytes packed

	[ "$series" -ge 800 ] || { echo 'BENCH_ROWS is at least 1600000' >&2; exit 2; }
	history_setup
	say "history by the hour, $first series"
	history_load 1 $first
	read -r raw raw99 < <(history_read "SELECT * FROM iot.history($week, bucket => '1 hour');" $first 50)
	sql -c 'CALL public.roll_up()' -c 'VACUUM (ANALYZE) iot.rollup_minute, iot.rollup_hour'
	read -r median p99 < <(history_read "SELECT * FROM iot.history($week, bucket => '1 hour');" $first)
	row 'a week of one series by the hour, from rollups' "$median ms (p99 $p99)" \
		"$raw ms (p99 $raw99): nothing rolled up yet" "$(ratio "$median" "$raw")" -

	# nothing that follows reads rollups
	sql -c 'CREATE TRIGGER forget BEFORE INSERT ON iot.rollup_note
		FOR EACH ROW EXECUTE FUNCTION public.forget()'
	done_series=$first
	for share in 8 4 2 1; do
		upto=$((series / share))
		say "$((upto * 2000)) measurements"
		history_load $((done_series + 1)) $upto
		done_series=$upto
		read -r median p99 < <(history_read "SELECT * FROM iot.history($week);" $upto)
		echo "$((upto * 2000)) $median $p99" >>"$folder/history.dat"
	done
	row "a week of one series, 2000 points, in $BENCH_ROWS" "$median ms (p99 $p99)" '20 ms' \
		"$(ratio "$median" 20)" '<= 1'
	save_plot history <<-EOP
	set title 'A week of one series, 2000 points, by iot.history()'
	set xlabel 'measurements in the table'
	set ylabel 'milliseconds'
	set logscale x
	set yrange [0:*]
	plot '$folder/history.dat' using 1:2 with linespoints lw 2 title 'median', \
		'' using 1:3 with linespoints lw 2 title '99th percentile'
	EOP

	bytes=$(history_bytes $BENCH_ROWS)
	row 'a measurement with its index, as it came' "$bytes bytes" '163 bytes: ThingsBoard on PostgreSQL' \
		"$(ratio "$bytes" 163)" -
	say 'packing the index'
	sql -c 'REINDEX TABLE iot.measurement'
	packed=$(history_bytes $BENCH_ROWS)
	row 'the same after REINDEX' "$packed bytes" "$bytes bytes" "$(ratio "$packed" "$bytes")" -
}
