# shellcheck shell=bash
#
# Part "storage" of the benchmarks: what measurements cost on their way into iot.measurement beside
# the bare table, by the number of alarm rules, with and without rollups.
#
#   BENCH_ROUNDS=5          each COPY is made so often, in turn with the others; the shortest counts,
#                           since what else the machine does only makes them longer
#
# Workers rest meanwhile: what they roll up beside a COPY would be measured with whatever runs then.

: "${BENCH_ROUNDS:=5}"

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
	INSERT INTO iot.parameter (name) VALUES ('temperature'), ('humidity');
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
		'BEGIN WHILE iot_internal.rollup_step() OR EXISTS (SELECT FROM iot.rollup_note) LOOP COMMIT; END LOOP; END';
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

bench_storage()
{
	storage_setup
	storage_bench_copy
	storage_bench_rules
	storage_bench_rollup
}
