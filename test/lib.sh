# shellcheck shell=bash
#
# Shell functions that the test run, the demo and the benchmarks share.  Sourced by bash.
#
# private_folder   a folder of our own below /tmp, in $top, removed at the end together with every
#                  process that still works in it
# drop_privileges  runs a command as an ordinary user, since servers refuse root
# copy_source      the tree as it stands, where that user can read it
# perl_environment what the tests of test/t want around them
# keep_logs        the logs of $top/check to tmp_check/

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The server that PG_CONFIG names, else the newest whose headers are there.
find_pg_config()
{
	local candidate

	if [ -z "${PG_CONFIG:-}" ]; then
		PG_CONFIG=pg_config
		for candidate in $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -t/ -k5n); do
			[ -e "$("$candidate" --pgxs)" ] && PG_CONFIG=$candidate
		done
	fi
	export PG_CONFIG
	command -v "$PG_CONFIG" >/dev/null || { echo "no pg_config: is a server installed?" >&2; exit 1; }
	pg_bindir=$("$PG_CONFIG" --bindir)
}

# Closed to others, since the servers inside trust whoever reaches their sockets; and short, since
# the path of a socket ends at 107 bytes.
private_folder()
{
	top=$(mktemp -d "${TMPDIR:-/tmp}/iot-$1.XXXXXX")
	[ "$(id -u)" -ne 0 ] || chown "$(ordinary_user):" "$top"
	trap 'remove_private_folder' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
}

# Ids of the processes whose working folder is below ours: nobody else's can be.
processes_in_folder()
{
	local entry folder

	for entry in /proc/[0-9]*; do
		folder=$(readlink "$entry/cwd" 2>/dev/null) || continue
		[[ $folder == "$top"/* ]] && echo "${entry#/proc/}"
	done
	return 0
}

remove_private_folder()
{
	local status=$? pids tries

	trap '' INT TERM HUP
	cd /
	pids=$(processes_in_folder)
	if [ -n "$pids" ]; then
		kill -TERM $pids 2>/dev/null
		for tries in {1..50}; do
			pids=$(processes_in_folder)
			[ -n "$pids" ] || break
			[ "$tries" -eq 15 ] && kill -QUIT $pids 2>/dev/null
			[ "$tries" -eq 40 ] && kill -KILL $pids 2>/dev/null
			sleep 0.1
		done
	fi
	[ -n "${IOT_KEEP:-}" ] && echo "kept: $top" >&2 || rm -rf "$top"
	exit "$status"
}

# The account that servers run as: ourselves, unless we are root.
ordinary_user()
{
	if [ "$(id -u)" -ne 0 ]; then
		id -un
	elif id nobody >/dev/null 2>&1; then
		echo nobody
	else
		echo postgres
	fi
}

# Runs a command as that user, with an environment that names no server but ours.
drop_privileges()
{
	local user drop=()

	user=$(ordinary_user)
	if [ "$(id -u)" -eq 0 ]; then
		drop=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups --)
	fi
	env -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE -u PGDATA -u PGSERVICE -u PGPASSFILE \
		-u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u DESTDIR \
		HOME="$top" TMPDIR="$top/tmp" LC_ALL=C TZ=UTC PG_CONFIG="$PG_CONFIG" \
		PATH="$pg_bindir:$PATH:/usr/sbin" "${drop[@]}" "$@"
}

# copy_source [what was built too]: $top/src, and $top/tmp for what is made on the way.
copy_source()
{
	local exclude=(--exclude=./.git --exclude='./tmp_check*' --exclude=./test/fuzz/corpus
		--exclude=./test/fuzz/crashes)
	local version program

	if [ "${1:-}" != built ]; then
		# scripts of earlier versions are sources: they are as they were released
		version=$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" "$source_dir/iot.control")
		exclude+=(--exclude='*.o' --exclude='*.d' --exclude='*.so' --exclude='*.bc'
			--exclude="./sql/iot--$version.sql" --exclude="./sql/iot--*--$version.sql"
			--exclude=./iot-pushd --exclude=./iot-pushd.san --exclude=./iot-token
			--exclude=./test/sim/iot-sim)
		for program in "$source_dir"/test/unit/*.c; do
			exclude+=(--exclude="./test/unit/$(basename "$program" .c)")
		done
	fi
	mkdir -p "$top/src" "$top/tmp"
	tar -C "$source_dir" -cf - "${exclude[@]}" . | tar -C "$top/src" -xf - --no-same-owner
	if [ "$(id -u)" -eq 0 ]; then
		chown -R "$(ordinary_user):" "$top"
	fi
}

# Variables and include path of tests in Perl that work below $1.
perl_environment()
{
	export IOT_SOURCE="$1/src" IOT_STAGE="$1/stage"
	export TESTDIR="$1/check" PG_TEST_PORT_DIR="$1/check/portlock" top_builddir="$1/check"
	# where 15 puts them by itself
	export TESTDATADIR="$1/check/tmp_check" TESTLOGDIR="$1/check/tmp_check/log"
	# what servers are made with where a test does not say, whatever the machine speaks
	export LANG=C.UTF-8
	unset LC_ALL LC_CTYPE
	export PG_TEST_TIMEOUT_DEFAULT=${PG_TEST_TIMEOUT_DEFAULT:-60}
	pgxs_dir=$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")
	export PG_REGRESS="$pgxs_dir/test/regress/pg_regress"
	perl_include=(-I "$1/src/test/t/lib" -I "$pgxs_dir/test/perl")
	mkdir -p "$TESTDATADIR"
}

# Copies the logs of a run that failed to where the caller finds them.
keep_logs()
{
	[ -d "$top/check" ] || return 0
	rm -rf "$source_dir/tmp_check"
	mkdir -p "$source_dir/tmp_check" &&
		(cd "$top/check" && find . -name '*.log' -o -name 'regress_log_*' -o -name '*.diffs' \
			-o -name '*.jsonl' | tar -cf - -T -) |
		tar -C "$source_dir/tmp_check" -xf - --no-same-owner &&
		echo "logs: $source_dir/tmp_check" >&2
}

# Settings with which a server takes the extension from the staged installation $1.
stage_conf()
{
	local version

	version=$("$PG_CONFIG" --version | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
	if [ "$version" -ge 18 ]; then
		echo "extension_control_path = '$1$("$PG_CONFIG" --sharedir):\$system'"
	else
		echo "extension_destdir = '$1'"
	fi
	echo "dynamic_library_path = '$1$("$PG_CONFIG" --pkglibdir):\$libdir'"
}

# mosquitto's dynamic security plugin, wherever its package has put it.
dynsec_plugin()
{
	local plugin

	for plugin in /usr/lib/*/mosquitto_dynamic_security.so \
		/usr/lib/mosquitto_dynamic_security.so /usr/local/lib/mosquitto_dynamic_security.so; do
		[ ! -e "$plugin" ] || { echo "$plugin"; return; }
	done
	echo "mosquitto's dynamic security plugin is not there" >&2
	return 1
}

# A port on the loopback interface that nobody listens on.
free_port()
{
	perl -MIO::Socket::INET -e '
		my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", LocalPort => 0) or die $!;
		print $s->sockport, "\n"'
}
