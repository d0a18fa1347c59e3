# ALTER EXTENSION iot UPDATE with data in place (I35, I36).  The next version is made here: the modules
# as they are, with a function less and one more, a column more with a step of iot.migrate(), and a
# delta, put together by the Makefile's rule.  Rows, triggers, grants and what users hung on the tables
# survive; workers idle between the two statements; what comes out is what a fresh installation of that
# version makes.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

use IotTest;

my $folder = PostgreSQL::Test::Utils::tempdir;
my $extension_dir = IotTest::pg_config('--sharedir') . '/extension';
my $made = "$folder/stage$extension_dir";
my ($old) = slurp_file("$IotTest::source_dir/iot.control") =~ /^default_version = '(.*)'$/m;
my ($known) = slurp_file("$IotTest::source_dir/sql/10_internal_epoch.sql") =~ / AS 'SELECT (\d+)';$/m;
my ($new, $step) = ('99.0', $known + 1);

sub write_file
{
	my ($file, $text) = @_;

	unlink $file;
	append_to_file($file, $text);
	return;
}

# Changes a file of the next version's tree; dies where there is nothing to change.
sub change
{
	my ($file, $pattern, $by) = @_;
	my $text = slurp_file("$folder/next/$file");

	$text =~ s/$pattern/$by->()/e or die "$file does not match $pattern";
	write_file("$folder/next/$file", $text);
	return;
}

# The version of today, with a function that the next one will not have.
system_or_bail('mkdir', '-p', $made, "$folder/next/sql");
system_or_bail('cp', "$IotTest::stage$extension_dir/iot.control", $made);
my $library_dir = IotTest::pg_config('--pkglibdir');
system_or_bail('mkdir', '-p', dirname("$folder/stage$library_dir"));
system_or_bail('cp', '-r', "$IotTest::stage$library_dir", dirname("$folder/stage$library_dir"));
my $script = slurp_file("$IotTest::stage$extension_dir/iot--$old.sql");
$script =~ s/^(-- Who may call what)/CREATE FUNCTION iot.gone() RETURNS integer LANGUAGE sql SET search_path = pg_catalog, pg_temp AS 'SELECT 1';\n\n$1/m
  or die 'no place for a function';
$script .= "GRANT EXECUTE ON FUNCTION iot.status() TO iot_anon;\n";
write_file("$made/iot--$old.sql", $script);

# The next one; of its library only the file that looks at versions is compiled anew.
system_or_bail('cp', '-a', map({ "$IotTest::source_dir/$_" } qw(Makefile iot.control src bgworker)),
	"$folder/next");
system("cp $IotTest::source_dir/sql/[0-9]*.sql $folder/next/sql/") == 0 or die 'cp failed';
system_or_bail('cp', '-r', "$IotTest::source_dir/sql/update", "$folder/next/sql");
my $header = "$folder/next/src/iot.h";
my $header_time = (stat $header)[9];
change('src/iot.h', qr/^(#define IOT_SCHEMA_VERSION) $known$/m, sub { "$1 $step" });
utime $header_time, $header_time, $header;
unlink "$folder/next/bgworker/worker.o", "$folder/next/bgworker/iot_worker.so";
change('iot.control', qr/^default_version = .*$/m, sub { "default_version = '$new'" });
change('sql/10_internal_epoch.sql', qr/ AS 'SELECT $known';$/m, sub { " AS 'SELECT $step';" });
change('sql/30_install_registry.sql', qr/(CREATE TABLE iot\.device \(.*?)(\n\t\);)/s,
	sub { "$1,\n\t\tlocation text$2" });
write_file("$folder/next/sql/20_next.sql", <<"EOC");
CREATE OR REPLACE FUNCTION iot.locate(device text, location text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS \$function\$
	UPDATE iot.device d SET location = locate.location WHERE d.name = locate.device
\$function\$;
COMMENT ON FUNCTION iot.locate(text, text) IS 'where a device is';

CREATE OR REPLACE FUNCTION iot_internal.migrate_to_$step() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS \$function\$
BEGIN
	ALTER TABLE iot.device ADD COLUMN IF NOT EXISTS location text;
	UPDATE iot.device SET location = 'somewhere' WHERE location IS NULL AND name = 'boiler-1';
END
\$function\$;
EOC
write_file("$folder/next/sql/91_privilege_next.sql",
	"GRANT EXECUTE ON FUNCTION iot.locate(text, text) TO iot_admin;\n");
write_file("$folder/next/sql/update/iot--$old--$new.delta.sql", "DROP FUNCTION iot.gone();\n");
system_or_bail('make', '-s', '-C', "$folder/next", "PG_CONFIG=$IotTest::pg_config",
	"sql/iot--$new.sql", "sql/iot--$old--$new.sql", 'bgworker/iot_worker.so');
my $update = slurp_file("$folder/next/sql/iot--$old--$new.sql");
like($update, qr/\A\\echo Use "ALTER EXTENSION iot UPDATE"/, 'the Makefile makes an update script');
unlike($update, qr/^(?:CREATE FUNCTION|CREATE TABLE|CREATE SCHEMA)/m, 'that replaces and makes no table');

my $version = IotTest::pg_config('--version') =~ /(\d+)/ ? $1 : die 'no version';
my $iot = IotTest->new('main',
	conf => $version >= 18
	? "extension_control_path = '$folder/stage" . IotTest::pg_config('--sharedir') . ":\$system'\n"
	  . "dynamic_library_path = '$folder/stage$library_dir:\$libdir'"
	: "extension_destdir = '$folder/stage'\ndynamic_library_path = '$folder/stage$library_dir:\$libdir'");
my $broker = IotTest::Broker->new('main');
is($iot->psql(q{SELECT extversion FROM pg_extension WHERE extname = 'iot'}), $old, "version $old");
is($iot->psql('SELECT iot.gone()'), '1', 'has its function');

$iot->parameter($_, min => 0, max => 100) foreach qw(temperature pressure);
$iot->device("boiler-$_", [qw(temperature pressure)]) foreach 1 .. 3;
$iot->user('anna', level => 'operate');
$iot->psql(q{
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, severity)
		SELECT 'hot', 'threshold', parameter_id, '>', 80, 'red' FROM iot.parameter
		WHERE name = 'pressure';
	-- what people hang on the tables and functions
	CREATE ROLE reporter;
	GRANT USAGE ON SCHEMA iot TO reporter;
	GRANT SELECT ON iot.device, iot.fleet TO reporter;
	GRANT EXECUTE ON FUNCTION iot.status() TO reporter;
	CREATE INDEX own_index ON iot.command (created_at, status);
	CREATE POLICY own_policy ON iot.device FOR SELECT TO reporter USING (name = 'boiler-1');
	CREATE TABLE public.seen (n bigint);
	CREATE FUNCTION public.own() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN INSERT INTO public.seen SELECT count(*) FROM new_rows; RETURN NULL; END';
	CREATE TRIGGER own_trigger AFTER INSERT ON iot.measurement REFERENCING NEW TABLE AS new_rows
		FOR EACH STATEMENT EXECUTE FUNCTION public.own();
	GRANT INSERT ON public.seen TO iot_worker;
	GRANT USAGE ON SCHEMA public TO iot_worker;
	CREATE VIEW public.own_view AS SELECT f.device, f.online FROM iot.fleet f});
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, prefix => 'boiler-', count => 3, rate => 20,
	parameters => 'temperature=20', drop_seen => 1, log_telemetry => 1);
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 1))->{status},
	'COMPLETED', 'a command goes through');
$iot->psql(q{INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT device_id, parameter_id, now(), 90 FROM iot.sensor JOIN iot.parameter p USING (parameter_id)
	WHERE p.name = 'pressure'});
is($iot->psql(q{SELECT count(*) FROM iot.alarm WHERE status = 'OPENED'}), '3', 'alarms are open');

# What does not move meanwhile: everything but what the flood of measurements writes.
sub rows_of
{
	return $iot->psql(
		q{SELECT c.relname, regexp_replace(query_to_xml(format(
			'SELECT md5(string_agg(j::text, chr(10) ORDER BY j::text)), count(*)
				FROM (SELECT to_jsonb(t) - ''location'' AS j FROM %s t) s',
			c.oid::regclass), false, true, '')::text, '\s+', ' ', 'g')
		FROM pg_class c WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p')
			AND NOT c.relispartition AND c.relname <> ALL (ARRAY['measurement', 'device_state',
			'sensor_value', 'rollup_note', 'rollup_pending', 'rollup_minute', 'rollup_hour',
			'rollup_state', 'worker', 'maintenance', 'consumer', 'alarm_rule_state', 'alarm', 'event',
			'notification', 'delivery', 'type_sweep', 'adapter_session', 'dynsec', 'schema_version'])
		ORDER BY c.relname});
}

sub shape_of
{
	my ($database) = @_;

	$iot->node->command_ok([ 'pg_dump', '-s', '-n', 'iot', '-f', "$folder/shape.sql", $database ],
		"shape of $database");
	# a partition is made at its time, and bears no name of ours
	return join "\n", grep { !/^(--|\\(un)?restrict|$)|own_|_\d{8}|\breporter\b/ }
	  split /\n/, slurp_file("$folder/shape.sql");
}

sub arms_of
{
	my ($database) = @_;

	return $iot->psql(
		q{SELECT tgrelid::regclass, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
				AND tgfoid::regprocedure::text LIKE 'iot_internal.%' AND tgparentid = 0 ORDER BY 1::text, 2;
			SELECT p.oid::regprocedure, p.proowner = 'iot_owner'::regrole, md5(p.prosrc), p.prosecdef,
				p.proconfig, ARRAY(SELECT a::text FROM unnest(p.proacl) a WHERE a::text NOT LIKE 'reporter=%'
					ORDER BY 1), obj_description(p.oid, 'pg_proc')
				FROM pg_proc p WHERE p.pronamespace IN ('iot'::regnamespace, 'iot_internal'::regnamespace)
				ORDER BY 1::text;
			SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
				JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'iot'
				WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' ORDER BY 1;
			SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
				col_description(c.oid, a.attnum) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
				WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p', 'v')
					AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, a.attnum},
		database => $database);
}

# The lines that only one of two texts has.
sub difference
{
	my %left = map { $_ => 1 } split /\n/, $_[0];
	my %right = map { $_ => 1 } split /\n/, $_[1];

	return join "\n", (map { "< $_" } grep { !$right{$_} } sort keys %left),
	  (map { "> $_" } grep { !$left{$_} } sort keys %right);
}

my $rows = rows_of();
system_or_bail('cp', "$folder/next/sql/iot--$new.sql", "$folder/next/sql/iot--$old--$new.sql",
	"$folder/next/iot.control", $made);

# a database as it is before the update, for later: its dump must restore under the next version
$iot->node->command_ok([ 'pg_dump', '-Fc', '-f', "$folder/old.dump", $iot->db ], 'a dump of the old version');

# So many workers are there, idle, and say why.
sub idle_because
{
	my ($number, $why, $what) = @_;

	$iot->poll("SELECT count(*) = $number FROM iot_internal.workers() w WHERE w.kind IN"
		  . " ('notifier', 'mqtt adapter') AND w.state = 'idle' AND w.detail LIKE '%$why%'");
	pass($what);
	return;
}

# The statements before the restart, which is the wrong order: workers must not go on with functions
# that their library does not know.
my $log;
cmp_ok(elapsed(sub { $iot->psql('ALTER EXTENSION iot UPDATE') }), '<', 5,
	'I35: the update does not wait for workers under load');
is($iot->psql(q{SELECT extversion FROM pg_extension WHERE extname = 'iot'}), $new, "version $new");
idle_because(2, 'restart the server', 'workers of the older library wait for a restart');
is($iot->psql(q{SELECT iot.status() ->> 'state'}), 'outdated', 'the tables are older than the functions');
rename("$folder/next/bgworker/iot_worker.so", "$folder/stage$library_dir/iot_worker.so") or die "rename: $!";
$iot->node->restart;
$log = $iot->log_size;
# the notifier alone knows which adapters there are, and it may not look yet
idle_because(1, 'iot.migrate()', 'the notifier of the newer one waits for the tables');
like($iot->psql('SELECT finding || hint FROM iot.check()'), qr/iot\.migrate\(\)/, 'and the doctor says why');
my $waiting = $iot->psql(q{SELECT iot.send_command('boiler-2', 'temperature', 2, ttl => '1 hour')});
is($iot->psql("SELECT attempts FROM iot.command WHERE command_id = '$waiting'"), '0', 'a command waits');
my $stored = $iot->psql('SELECT count(*) FROM iot.measurement');
my $sent = () = $sim->records('published');
poll_until(sub { my $now = () = $sim->records('published'); $now > $sent + 30 }, 'devices go on sending');
is($iot->psql('SELECT count(*) FROM iot.measurement'), $stored, 'what devices send stays with the broker');

# A step that fails changes nothing, and can be called again.
$iot->psql("ALTER TABLE iot.device ADD CONSTRAINT in_the_way CHECK (name <> 'boiler-1') NOT VALID");
like($iot->psql_error('SELECT iot.migrate()'), qr/in_the_way/, 'a step that fails says so');
is($iot->psql(q{SELECT v.version || ' ' || (iot.status() ->> 'state') FROM iot.schema_version v}),
	"$known outdated", 'and leaves the tables as they were');
$iot->psql('ALTER TABLE iot.device DROP CONSTRAINT in_the_way');
cmp_ok(elapsed(sub { $iot->psql('SELECT iot.migrate()') }), '<', 10, 'iot.migrate()');
is($iot->psql(q{SELECT v.version || ' ' || (iot.status() ->> 'state') FROM iot.schema_version v}),
	"$step ok", 'brings the tables up');
is($iot->wait_for_command($waiting)->{status}, 'COMPLETED', 'the command that waited is carried out');
$sim->stop;
my @published = map { "$_->{device}\t$_->{ts}" } grep { $_->{kind} eq 'acked' } $sim->records;
$iot->psql("CREATE TABLE public.acked (device text, ms bigint);\nCOPY public.acked FROM STDIN;\n"
	  . join('', map { "$_\n" } @published) . "\\.\n");
$iot->poll('SELECT count(*) = 0 FROM public.acked a WHERE NOT EXISTS (SELECT FROM iot.measurement m'
	  . ' JOIN iot.device d USING (device_id) WHERE d.name = a.device'
	  . ' AND m.ts = to_timestamp(a.ms / 1000.0))');
pass('I10: ' . scalar(@published) . ' messages of before, meanwhile and after are stored');
unlike($iot->log_content($log), qr/PANIC|terminated by signal|exited with exit code/, 'no worker ended');

# rows: as before, but for the new column and the command of meanwhile
$iot->psql("DELETE FROM iot.command WHERE command_id = '$waiting'");
is($iot->psql(q{SELECT name, location FROM iot.device ORDER BY name}),
	"boiler-1|somewhere\nboiler-2|\nboiler-3|", 'the new column is filled by its step');
is(rows_of(), $rows, 'no other row was touched');
is($iot->psql('SELECT sum(n) = (SELECT count(*) FROM iot.measurement) FROM public.seen'), 't',
	"a user's trigger has seen every measurement");
is($iot->psql(q{SET ROLE reporter; SELECT name FROM iot.device}), 'boiler-1',
	"a user's grants and policies hold");
is($iot->psql(q{SET ROLE reporter; SELECT iot.status() IS NOT NULL}), 't', 'on functions too');
is($iot->psql('SELECT count(*) FROM public.own_view'), '3', "a user's view works");
is($iot->psql(q{SELECT count(*) FROM pg_indexes WHERE indexname = 'own_index'}), '1', 'and an index');
like($iot->psql_error('SELECT iot.gone()'), qr/42883/, 'the function of the past is gone');
$iot->psql(q{SELECT iot.locate('boiler-3', 'cellar')});
is($iot->psql(q{SELECT location FROM iot.device WHERE name = 'boiler-3'}), 'cellar', 'that of the future works');
is($iot->psql(q{SELECT has_function_privilege('iot_anon', 'iot.status()', 'EXECUTE')}), 'f',
	'what the old version granted to our roles and the new one does not, is taken back');

# The same as a fresh installation, in every respect that a dump or the catalogue knows.
$iot->psql('CREATE DATABASE fresh', database => 'postgres');
$iot->psql('CREATE EXTENSION iot', database => 'fresh');
is(difference(shape_of($iot->db), shape_of('fresh')), '',
	'updated, the tables have nothing more and nothing less than when made anew');
is(difference(arms_of($iot->db), arms_of('fresh')), '',
	'the same functions, owners, grants, comments, triggers and columns');
$iot->psql('SELECT iot.migrate(); ALTER EXTENSION iot UPDATE');
is(difference(arms_of($iot->db), arms_of('fresh')), '', 'and again');

# Tables of the old version under the new one: left by DROP EXTENSION, and restored from a dump.
$iot->psql("CREATE DATABASE adopted", database => 'postgres');
$iot->psql("CREATE EXTENSION iot VERSION '$old'", database => 'adopted');
$iot->psql(q{INSERT INTO iot.parameter (name) VALUES ('temperature');
	SELECT iot.create_device('boiler-1', '{temperature}');
	DROP EXTENSION iot CASCADE; CREATE EXTENSION iot}, database => 'adopted');
is($iot->psql(q{SELECT v.version || ' ' || (iot.status() ->> 'state') || ' ' || d.location
		FROM iot.schema_version v, iot.device d}, database => 'adopted'),
	"$step ok somewhere", 'CREATE EXTENSION adopts older tables and brings them up');
is(difference(arms_of('adopted'), arms_of('fresh')), '', 'with the same result');
# The newer library with the older script, which is the state after a restart.
$iot->psql("CREATE DATABASE older", database => 'postgres');
$iot->psql("CREATE EXTENSION iot VERSION '$old'", database => 'older');
$iot->psql("ALTER SYSTEM SET iot.databases = iot, older");
$iot->psql('SELECT pg_reload_conf()');
$iot->poll(q{SELECT count(*) = 1 FROM iot_internal.workers() w WHERE w.kind = 'notifier'
	AND w.state = 'idle' AND w.detail LIKE '%ALTER EXTENSION iot UPDATE%'}, database => 'older');
pass('workers of the newer library wait for the functions');
$iot->psql('ALTER EXTENSION iot UPDATE; SELECT iot.migrate()', database => 'older');
$iot->poll(q{SELECT count(*) = 1 FROM iot_internal.workers() w WHERE w.kind = 'notifier'
	AND w.state = 'running'}, database => 'older');
pass('and work after both statements');
$iot->psql("CREATE DATABASE restored", database => 'postgres');
$iot->node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'restored', "$folder/old.dump" ],
	'I36: the dump of the old version restores under the new one');
is($iot->psql(q{SELECT iot.status() ->> 'state'}, database => 'restored'), 'outdated', 'as older tables');
$iot->psql('SELECT iot.migrate(); SELECT iot.resume()', database => 'restored');
is($iot->psql(q{SELECT (iot.status() ->> 'state') || ' ' || location FROM iot.device
		WHERE name = 'boiler-1'}, database => 'restored'), 'ok somewhere', 'that are brought up');
is($iot->psql('SELECT count(*) > 0 FROM iot.measurement', database => 'restored'), 't', 'with their rows');

done_testing();
