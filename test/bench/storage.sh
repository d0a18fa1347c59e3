# shellcheck shell=bash
#
# Part "storage" of the benchmarks: what measurements cost on their way into iot.measurement beside
# the bare table, by the number of alarm rules, with and without rollups; how fast a series is read
# from a big table, and what a measurement takes on disk.
#
#   BENCH_ROUNDS=5          each COPY is made so often, in turn with the others; the shortest counts,
#                           since what else the machine does only makes them longer
#   BENCH_ROWS=2000000      of the big table, in series of 2000; 50000000 for that of the goal
#
# Workers rest meanwhile: what they roll up beside a COPY would be measured with whatever runs then.

: "${BENCH_ROUNDS:=5}" "${BENCH_ROWS:=2000000}"

storage_points=100			# of each of the two parameters of each device in a COPY
storage_file=0

# least file [column]
least() { awk -v c="${2:-1}" 'NR == 1 || $c < least { least = $c } END { print least }' "$1"; }

# A value at each time for each sensor; one in 2000 is an alarm.  $1: order of the rows.
storage_make_file()
{
	sql <<-EOC
	COPY (SELECT s.device_id, s.parameter_id,
			date_trunc('day', now()) - interval '1 day'
				+ (n + $storage_file * $storage_points) % 2880 * interval '30 s' AS ts,
			CASE WHEN random() < 0.0005 THEN 95 ELSE trunc(random() * 8000) / 100 END
		FROM iot.sensor AS s JOIN iot.device AS d USING (device_id),
			generate_series(0, $storage_points - 1) AS n
		WHERE d.name LIKE 'bench-%' ORDER BY $1) TO '$folder/copy.txt';
	EOC
	storage_file=$((storage_file + 1))
}

# storage_copy table: milliseconds of a COPY into it, empty, rules compiled, values known before; and
# those of the backend's processor, in which what else the machine does hardly shows.
storage_copy()
{
	sql -At <<-EOC | tail -1
	SET client_min_messages = error;
	TRUNCATE public.bare, iot.measurement;
	TRUNCATE iot.rollup_note, iot.rollup_pending;
	UPDATE iot.sensor_value SET reported_at = '2000-01-01', value_at = '2000-01-01';
	VACUUM iot.sensor_value;
	CHECKPOINT;
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT device_id, parameter_id, date_trunc('day', now()) - interval '1 s', 1
		FROM iot.sensor JOIN iot.device USING (device_id) WHERE name = 'other';
	SELECT clock_timestamp() AS start, public.processor_ms() AS used \gset
	COPY $1 FROM '$folder/copy.txt';
	SELECT extract(epoch FROM clock_timestamp() - :'start') * 1000 || ' ' ||
		public.processor_ms() - :used;
	EOC
}

# storage_rules count name-pattern: so many rules, spread over the devices of that name.
storage_rules()
{
	sql <<-EOC
	SET client_min_messages = error;
	DELETE FROM iot.alarm_rule;
	TRUNCATE iot.alarm CASCADE;
	INSERT INTO iot.alarm_rule (name, kind, scope, device_id, parameter_id, comparison, threshold,
			close_threshold)
		SELECT 'rule-' || n, 'threshold', 'device', d.device_id, p.parameter_id, '>', 90, 85
		FROM generate_series(1, $1) AS n
			JOIN (SELECT device_id, row_number() OVER () AS place, count(*) OVER () AS total
				FROM iot.device WHERE name LIKE '$2') AS d ON d.place = (n - 1) % d.total + 1
			JOIN iot.parameter AS p ON p.name = 'temperature';
	EOC
}

storage_setup()
{
	sql <<-EOC
	ALTER SYSTEM SET iot.databases = '';
	SELECT pg_reload_conf() \g /dev/null
	INSERT INTO iot.parameter (name) VALUES ('temperature'), ('humidity'), ('level');
	SELECT count(iot.create_device('bench-' || n, '{temperature,humidity}'))
		FROM generate_series(1, $devices) AS n \g /dev/null
	SELECT count(iot.create_device('far-' || n, '{temperature}'))
		FROM generate_series(1, $devices) AS n \g /dev/null
	SELECT iot.create_device('other', '{temperature,humidity}') \g /dev/null
	SELECT count(iot_internal.make_partition('iot.measurement', d, d + interval '1 day'))
		FROM generate_series(date_trunc('day', now()) - interval '8 days',
			date_trunc('day', now()) - interval '1 day', interval '1 day') AS d \g /dev/null
	CREATE TABLE public.bare (LIKE iot.measurement INCLUDING ALL) PARTITION BY RANGE (ts);
	SELECT format('CREATE TABLE public.%I PARTITION OF public.bare FOR VALUES FROM (%L) TO (%L)',
			'bare_' || to_char(lower, 'YYYYMMDD'), lower, upper)
		FROM iot_internal.partitions('iot.measurement') \gexec
	CREATE TABLE public.bare_default PARTITION OF public.bare DEFAULT;
	CREATE FUNCTION public.forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
	CREATE FUNCTION public.processor_ms() RETURNS bigint LANGUAGE sql VOLATILE AS \$\$
		SELECT (s.field[12]::bigint + s.field[13]::bigint) * 1000 / $(getconf CLK_TCK)
		FROM (SELECT string_to_array(split_part(pg_read_file('/proc/self/stat'), ') ', 2), ' ')) AS s (field)
	\$\$;
	CREATE PROCEDURE public.roll_up() LANGUAGE plpgsql AS
		'BEGIN WHILE iot_internal.rollup_step() LOOP COMMIT; END LOOP; END';
	CREATE ROLE reader LOGIN IN ROLE iot_viewer;
	INSERT INTO iot.app_user (username) VALUES ('reader');
	INSERT INTO iot.user_group (name) VALUES ('readers');
	INSERT INTO iot.user_group_member (user_group_id, app_user_id)
		SELECT g.user_group_id, u.app_user_id FROM iot.user_group AS g, iot.app_user AS u
		WHERE g.name = 'readers' AND u.username = 'reader';
	INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
		SELECT u.user_group_id, g.device_group_id, 'view'
		FROM iot.user_group AS u, iot.device_group AS g
		WHERE u.name = 'readers' AND g.name = 'default';
	EOC
}

# Notes for the rollups are not written, on or off: as if there were none.
storage_notes()
{
	if [ "$1" = on ]; then
		sql -c 'DROP TRIGGER forget ON iot.rollup_note'
	else
		sql -c 'CREATE TRIGGER forget BEFORE INSERT ON iot.rollup_note
			FOR EACH ROW EXECUTE FUNCTION public.forget()'
	fi
}

storage_bench_copy()
{
	local rows=$((devices * 2 * storage_points)) order name round bare ours notes

	storage_rules 1000 'bench-%'
	for order in 'time:ts, device_id, parameter_id' 'series:device_id, parameter_id, ts'; do
		name=${order%%:*}
		say "COPY of $rows measurements in the order of $name, 1000 rules, $BENCH_ROUNDS times"
		for ((round = 0; round < BENCH_ROUNDS; round++)); do
			storage_make_file "${order#*:}"
			storage_copy public.bare >>"$folder/bare.$name"
			storage_copy iot.measurement >>"$folder/ours.$name"
			[ "$name" = time ] || continue
			storage_notes off
			storage_copy iot.measurement >>"$folder/notes"
			storage_notes on
		done
		bare=$(least "$folder/bare.$name")
		ours=$(least "$folder/ours.$name")
		row "COPY by $name, $rows measurements, 1000 rules" \
			"$(awk -v n=$rows -v t="$ours" 'BEGIN { printf "%.0f", n / t * 1000 }')/s" \
			"$(awk -v n=$rows -v t="$bare" 'BEGIN { printf "%.0f", n / t * 1000 }')/s: the bare table" \
			"$(ratio "$bare" "$ours")" '>= 0.7'
		bare=$(least "$folder/bare.$name" 2)
		ours=$(least "$folder/ours.$name" 2)
		row 'the same in processor time of the backend' "$ours ms" "$bare ms" \
			"$(ratio "$bare" "$ours")" '>= 0.7'
	done
	ours=$(least "$folder/ours.time" 2)
	notes=$(least "$folder/notes" 2)
	row 'noting what is to be rolled up, within COPY' "$(printf '%.0f ms' "$ours")" \
		"$(printf '%.0f ms' "$notes") without: processor time" "$(ratio "$ours" "$notes")" -
}

storage_bench_rules()
{
	local counts='1 10 100 1000 10000' rows=$((devices * 2 * storage_points)) round count one many

	say "COPY with $counts rules on other devices"
	for ((round = 0; round < BENCH_ROUNDS; round++)); do
		storage_make_file 'ts, device_id, parameter_id'
		storage_copy public.bare >>"$folder/bare.rules"
		for count in $counts; do
			storage_rules "$count" 'far-%'
			storage_copy iot.measurement >>"$folder/rules.$count"
		done
	done
	one=$(least "$folder/rules.1" 2)
	many=$(least "$folder/rules.10000" 2)
	row '10 000 rules on other devices, per measurement' \
		"$(awk -v n=$rows -v t="$many" 'BEGIN { printf "%.2f us", t / n * 1000 }')" \
		"$(awk -v n=$rows -v t="$one" 'BEGIN { printf "%.2f us", t / n * 1000 }'): 1 rule" \
		"$(ratio "$many" "$one")" '<= 1.1'
	for count in $counts; do
		awk -v n=$rows -v r="$count" -v t="$(least "$folder/rules.$count" 2)" \
			-v b="$(least "$folder/bare.rules" 2)" \
			'BEGIN { printf "%d %.3f %.3f\n", r, t / n * 1000, b / n * 1000 }'
	done >"$folder/rules.dat"
	save_plot rules <<-EOP
	set title 'COPY into iot.measurement, by the number of alarm rules on other devices'
	set xlabel 'alarm rules'
	set ylabel 'microseconds of processor time per measurement'
	set logscale x
	set yrange [0:*]
	plot '$folder/rules.dat' using 1:2 with linespoints lw 2 title 'iot.measurement', \
		'' using 1:3 with lines lw 2 title 'the bare table'
	EOP
}

# What the last COPY left to be rolled up.
storage_bench_rollup()
{
	local start seconds minutes

	say 'rolling up a backlog'
	start=$(date +%s.%N)
	sql -c 'CALL public.roll_up()'
	seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
	minutes=$(value 'SELECT count(*) FROM iot.rollup_minute')
	row "a backlog of $((devices * 2 * storage_points)) measurements, rolled up" \
		"$seconds s ($minutes minutes, $(value 'SELECT count(*) FROM iot.rollup_hour') hours)" - - -
}

# storage_read statement series [reads]: median and 99th percentile of so many reads, in milliseconds,
# by a user who may view the devices.  Each series has been read before.
storage_read()
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

# storage_load first last: series of these numbers, as they would have come within a week.
storage_load()
{
	local day

	sql <<-EOC
	SELECT count(iot.create_device('series-' || n, '{level}'))
		FROM generate_series($1, $2) AS n \g /dev/null
	EOC
	for day in {0..6}; do
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

storage_bytes()
{
	value "SELECT round(sum(pg_total_relation_size(partition)) / $1, 1)
		FROM iot_internal.partitions('iot.measurement')"
}

storage_bench_history()
{
	local series=$((BENCH_ROWS / 2000)) first=100 share done_series=0 upto
	local week="'series-' || :n, 'level', now() - interval '7 days'"
	local median p99 raw raw99 bytes packed

	[ "$series" -ge 800 ] || { echo 'BENCH_ROWS is at least 1600000' >&2; exit 2; }
	sql -c 'SET client_min_messages = error' -c 'DELETE FROM iot.alarm_rule' \
		-c 'TRUNCATE iot.measurement, iot.rollup_note, iot.rollup_pending'
	say "history by the hour, $first series"
	storage_load 1 $first
	read -r raw raw99 < <(storage_read "SELECT * FROM iot.history($week, bucket => '1 hour');" $first 50)
	sql -c 'CALL public.roll_up()' -c 'VACUUM (ANALYZE) iot.rollup_minute, iot.rollup_hour'
	read -r median p99 < <(storage_read "SELECT * FROM iot.history($week, bucket => '1 hour');" $first)
	row 'a week of one series by the hour, from rollups' "$median ms (p99 $p99)" \
		"$raw ms (p99 $raw99): nothing rolled up yet" "$(ratio "$median" "$raw")" -

	storage_notes off
	done_series=$first
	for share in 8 4 2 1; do
		upto=$((series / share))
		say "$((upto * 2000)) measurements"
		storage_load $((done_series + 1)) $upto
		done_series=$upto
		read -r median p99 < <(storage_read "SELECT * FROM iot.history($week);" $upto)
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

	bytes=$(storage_bytes $BENCH_ROWS)
	row 'a measurement with its index, as it came' "$bytes bytes" '163 bytes: ThingsBoard on PostgreSQL' \
		"$(ratio "$bytes" 163)" -
	say 'packing the index'
	sql -c 'REINDEX TABLE iot.measurement'
	packed=$(storage_bytes $BENCH_ROWS)
	row 'the same after REINDEX' "$packed bytes" "$bytes bytes" "$(ratio "$packed" "$bytes")" -
}

bench_storage()
{
	storage_setup
	storage_bench_copy
	storage_bench_rules
	storage_bench_rollup
	storage_bench_history
}
