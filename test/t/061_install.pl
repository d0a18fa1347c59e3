# DROP EXTENSION keeps the users' data and CREATE EXTENSION arms it again; iot.purge() leaves nothing;
# an installation refuses what belongs to somebody else (I35, I36).

use strict;
use warnings;

use Test::More;

use IotTest;
use PostgreSQL::Test::Utils;

my $folder = PostgreSQL::Test::Utils::tempdir;

# Everything that pg_dump and pg_dumpall know, less what differs from run to run.
sub dump_of
{
	my ($iot) = @_;
	my $text = '';

	foreach my $command ([ 'pg_dump', '-s', $iot->db ], [ 'pg_dumpall', '--roles-only' ])
	{
		$iot->node->command_ok([ @$command, '-f', "$folder/dump.sql" ], "@$command");
		$text .= slurp_file("$folder/dump.sql");
	}
	return join "\n", grep { !/^(--|\\(un)?restrict|$)/ } split /\n/, $text;
}

sub rows_of
{
	my ($iot) = @_;

	# cursors move on while nothing happens; their names do not
	return $iot->psql(
		q{SELECT 'consumer', string_agg(name, ' ' ORDER BY name) FROM iot.consumer;
		SELECT c.oid::regclass, regexp_replace(query_to_xml(format(
				'SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)), count(*) FROM %s t',
				c.oid::regclass), false, true, '')::text, '\s+', ' ', 'g')
		FROM pg_class c WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p')
			AND c.relname <> ALL (ARRAY['consumer', 'worker', 'maintenance', 'rollup_state'])
		ORDER BY c.oid::regclass::text});
}

# What the functions of the extension gave to the tables.
sub arms_of
{
	my ($iot) = @_;

	return $iot->psql(
		q{SELECT tgrelid::regclass, pg_get_triggerdef(oid) FROM pg_trigger
			WHERE NOT tgisinternal AND tgfoid::regprocedure::text LIKE 'iot_internal.%'
			ORDER BY 1::text, 2;
		SELECT adrelid::regclass, adnum, pg_get_expr(adbin, adrelid) FROM pg_attrdef
			JOIN pg_class c ON c.oid = adrelid WHERE c.relnamespace = 'iot'::regnamespace
			ORDER BY 1::text, 2;
		SELECT viewname, definition FROM pg_views WHERE schemaname = 'iot' ORDER BY 1;
		SELECT p.* FROM pg_policies p WHERE p.schemaname = 'iot' ORDER BY p.tablename, p.policyname;
		SELECT oid::regprocedure, ARRAY(SELECT a::text FROM unnest(proacl) a ORDER BY 1) FROM pg_proc WHERE pronamespace = 'iot'::regnamespace
			ORDER BY 1::text;
		SELECT relname, ARRAY(SELECT a::text FROM unnest(coalesce(relacl,
				acldefault((CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char", relowner))) a ORDER BY 1)
			FROM pg_class
			WHERE relnamespace = 'iot'::regnamespace ORDER BY 1});
}

# The lines that only one of two texts has.
sub difference
{
	my %left = map { $_ => 1 } split /\n/, $_[0];
	my %right = map { $_ => 1 } split /\n/, $_[1];

	return join "\n", (map { "< $_" } grep { !$right{$_} } sort keys %left),
	  (map { "> $_" } grep { !$left{$_} } sort keys %right);
}

my $iot = IotTest->new('main', extension => 0, cron => 1);
my $bare = dump_of($iot);

# The workers are up before the extension is: they wait for it, and find it.
$iot->poll(q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'iot notifier')});
$iot->psql('CREATE EXTENSION iot');
$iot->poll(q{SELECT EXISTS (SELECT FROM iot_internal.workers() w
		WHERE w.kind = 'notifier' AND w.state = 'running')});
pass('the notifier takes up its work when the extension comes');

# nobody is told of anything: a delivery that waits would be tried now and then
$iot->psql('UPDATE iot.notification_rule SET enabled = false');
$iot->psql(q{
	INSERT INTO iot.parameter (name) VALUES ('temperature');
	INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
	SELECT iot.create_device('boiler-1', ARRAY['temperature'], adapter => 'own');
	SELECT iot.create_device('boiler-2', ARRAY['temperature'], adapter => 'own');
	SELECT iot.send_command('boiler-1', 'temperature', 20);
	SELECT iot.adapter_sent(p.command_id) FROM iot.adapter_poll('own', 10) p;
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT device_id, parameter_id, now() - interval '1 min', 7 FROM iot.sensor;
	DELETE FROM iot.device_group WHERE name = 'none';
});
# nothing moves any more once the notifier has read the log
$iot->poll(q{SELECT bool_and(lag_events = 0) FROM iot_internal.consumer_lag() WHERE name = 'notifier'});
my $waiting = $iot->psql(q{SELECT iot.send_command('boiler-2', 'temperature', 30, ttl => '1 day')});
$iot->poll(q{SELECT bool_and(lag_events = 0) FROM iot_internal.consumer_lag() WHERE name = 'notifier'});
# and what it has told is not tried again
$iot->psql(q{UPDATE iot.delivery SET status = 'FAILED' WHERE status = 'PENDING'});

my $rows = rows_of($iot);
my $arms = arms_of($iot);
like($iot->psql_error('DROP EXTENSION iot'), qr/2BP01/, 'DROP EXTENSION asks for CASCADE');
cmp_ok(elapsed(sub { $iot->psql('DROP EXTENSION iot CASCADE') }), '<', 5,
	'DROP EXTENSION CASCADE does not wait for the workers');
is(difference($rows, rows_of($iot)), '', 'and keeps every row');
is($iot->psql(q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'iot'::regnamespace}), 0,
	'but no function');
is($iot->psql(q{SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		WHERE c.relnamespace = 'iot'::regnamespace AND NOT t.tgisinternal}), 0, 'and no trigger');
$iot->psql('CREATE EXTENSION iot');
is(difference($rows, rows_of($iot)), '', 'I36: CREATE EXTENSION again: every row is as it was');
is(difference($arms, arms_of($iot)), '', 'and everything is armed');
is($iot->psql(q{SELECT command_id FROM iot.adapter_poll('own', 10)}), $waiting,
	'a command that waited goes out');
$iot->psql("SELECT iot.adapter_sent('$waiting')");
is($iot->psql("SELECT iot.wait_for_command('$waiting')"), 'COMPLETED', 'and completes');
$iot->psql('SELECT iot.install(); SELECT iot.migrate()');
is(difference($arms, arms_of($iot)), '', 'install() and migrate() can be repeated');

# Functions and tables of different versions.
$iot->psql('UPDATE iot.schema_version SET version = 0');
is($iot->psql(q{SELECT iot.status() ->> 'state'}), 'outdated', 'older tables are seen');
is($iot->psql(q{SELECT count(*) FROM iot.adapter_poll('own', 10)}), 0, 'and nothing is sent from them');
$iot->poll(q{SELECT EXISTS (SELECT FROM iot_internal.workers() w
		WHERE w.kind = 'notifier' AND w.state = 'idle')});
pass('workers idle meanwhile');
$iot->psql('UPDATE iot.schema_version SET version = 1000');
is($iot->psql(q{SELECT iot.status() ->> 'state'}), 'newer', 'newer tables are seen');
like($iot->psql_error('SELECT iot.migrate()'), qr/55000.*ALTER EXTENSION/s, 'and left alone');
$iot->psql('UPDATE iot.schema_version SET version = iot_internal.schema_version()');

# pg_cron is the clock where it lives here.
$iot->psql('SELECT iot.schedule_maintenance(); SELECT iot.schedule_maintenance()');
is($iot->psql('SELECT command, database, active FROM cron.job'), 'CALL iot.maintain()|iot|t',
	'maintenance is scheduled once');
$iot->psql('SELECT iot.unschedule_maintenance()');
is($iot->psql('SELECT count(*) FROM cron.job'), 0, 'and not any more');

# Its job runs in many transactions (at the next full minute, to which the test moves it).
$iot->psql(q{INSERT INTO iot.dead_letter (reason, created_at)
		SELECT 'malformed_json', now() - interval '31 days' FROM generate_series(1, 12000)});
$iot->psql(q{SELECT iot.schedule_maintenance(); UPDATE cron.job SET schedule = '* * * * *'});
$iot->poll(q{SELECT count(*) > 0 FROM cron.job_run_details WHERE end_time IS NOT NULL}, timeout => 90);
is($iot->psql(q{SELECT status FROM cron.job_run_details WHERE end_time IS NOT NULL LIMIT 1}),
	'succeeded', 'pg_cron runs it');
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), 0, 'to its end');

# Away with everything, while workers run.
like($iot->psql_error('SET ROLE iot_admin; SELECT iot.purge()'), qr/42501/, 'only a superuser purges');
$iot->psql('CREATE ROLE visitor; GRANT iot_viewer TO visitor; DROP ROLE visitor');
like($iot->psql('SELECT iot.purge()'), qr/^database "iot" in the setting "iot.databases"$/,
	'purge() says what it cannot remove');
is(difference($bare, dump_of($iot)), '', 'and leaves nothing else: no object, no role');
is($iot->psql('SELECT count(*) FROM cron.job'), 0, 'no job');
$iot->psql('CREATE EXTENSION iot');
is($iot->psql('SELECT count(*) FROM iot.event'), 0, 'a new installation starts empty');

# Another database keeps the roles that it uses.
$iot->psql('CREATE DATABASE other');
$iot->psql('CREATE EXTENSION iot', database => 'other');
like($iot->psql('SELECT iot.purge()', database => 'other'), qr/role "iot_owner", used by database "iot"/,
	'roles stay where another database uses them');
is($iot->psql(q{SELECT iot.create_device('x', '{}') IS NOT NULL}), 't', 'which goes on working');

# What belongs to somebody else.
sub refused
{
	my ($sql, $error, $what) = @_;

	$iot->psql('DROP DATABASE IF EXISTS stranger');
	$iot->psql('CREATE DATABASE stranger');
	$iot->psql($sql, database => 'stranger');
	like($iot->psql_error('CREATE EXTENSION iot', database => 'stranger'), $error, $what);
	is($iot->psql(q{SELECT count(*) FROM pg_extension WHERE extname = 'iot'}, database => 'stranger'),
		0, 'and nothing is installed');
	return;
}

$iot->psql('CREATE ROLE stranger');
refused('CREATE SCHEMA iot AUTHORIZATION stranger', qr/42501.*belongs to role "stranger"/s,
	'a schema of somebody else is refused');
refused('CREATE SCHEMA iot; CREATE FUNCTION iot.may() RETURNS int LANGUAGE sql AS $$SELECT 1$$',
	qr/42723.*already holds function iot.may/s, 'a schema with functions is refused');
refused('CREATE SCHEMA iot; CREATE TABLE iot.device (x int); ALTER TABLE iot.device OWNER TO stranger',
	qr/42501.*relation iot.device belongs to somebody else/s, "somebody else's table is refused");
refused('CREATE SCHEMA iot_internal', qr/42P06/, 'so is a schema of the name that is ours');

# Without the library preloaded all SQL works, and the doctor says what does not.
my $plain = IotTest->new('plain', preload => '');
$plain->psql(q{
	INSERT INTO iot.parameter (name) VALUES ('temperature');
	INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
	SELECT iot.create_device('boiler-1', ARRAY['temperature'], adapter => 'own');
	SELECT iot.send_command('boiler-1', 'temperature', 20)});
$plain->psql(q{SELECT iot.adapter_sent(p.command_id) FROM iot.adapter_poll('own', 10) p});
is($plain->psql('SELECT status FROM iot.command'), 'COMPLETED', 'a command completes without workers');
like($plain->psql('SELECT severity, finding, hint FROM iot.check()'),
	qr/error\|.*not preloaded.*shared_preload_libraries/, 'check() says that no worker runs');
is($plain->psql(q{SELECT iot.status() ->> 'preloaded'}), 'false', 'status() as well');

# A superuser who turned row security off gets functions, and is told how to get tables.
my ($code, $out, $err) = $plain->node->psql('postgres',
	'CREATE DATABASE off', on_error_stop => 1);
($code, $out, $err) = $plain->node->psql('off', 'SET row_security = off; CREATE EXTENSION iot');
like($err, qr/functions only.*iot\.install/s, 'row_security off: functions only');
is($plain->psql(q{SELECT to_regclass('iot.device') IS NULL}, database => 'off'), 't', 'no tables');
is($plain->psql(q{SELECT iot.status() ->> 'state'}, database => 'off'), 'absent', 'status() says so');
$plain->psql('SELECT iot.install()', database => 'off');
is($plain->psql(q{SELECT iot.status() ->> 'state'}, database => 'off'), 'ok', 'iot.install() makes them');
is($plain->psql(q{SELECT count(*) FROM pg_depend d WHERE d.deptype = 'e'
		AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass
		AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'iot')}, database => 'off'),
	0, 'as the users\' own');

done_testing();
