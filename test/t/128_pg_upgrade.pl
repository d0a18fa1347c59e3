# pg_upgrade: rows, functions, grants and triggers arrive, nothing runs in the servers that pg_upgrade
# starts, and the new server knows that it is another one: adapters and deliveries wait for
# iot.resume() (I36).  From this major version to itself, which takes the same way; from an older one
# where IOT_UPGRADE_FROM names its installation (/usr/lib/postgresql/15) and IOT_UPGRADE_STAGE the
# extension staged for it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use IotTest;
use IotTest::Contents qw(difference);

my $from = $ENV{IOT_UPGRADE_FROM};
my $from_stage = $ENV{IOT_UPGRADE_STAGE};
my $in_place = IotTest::server_in_place();
note($from ? "from $from" : 'from this version to itself; IOT_UPGRADE_FROM names another');

# A server that is initialised alike, of either version.
sub node
{
	my ($name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, %opt);
	my $shape = bless { db => 'iot' }, 'IotTest';

	$node->init;
	$node->append_conf('postgresql.conf', $shape->server_conf(in_place => 1));
	$node->append_conf('postgresql.conf', "extension_destdir = '$from_stage'\n"
		  . "dynamic_library_path = '$from_stage$from/lib:\$libdir'\n")
	  if $from && $opt{install_path} eq $from;
	return $node;
}

my $old_node = node('old', install_path => $from || $in_place);
$old_node->start;
my $old = IotTest->from_node($old_node);
$old->create_database('iot');
my $broker = IotTest::Broker->new('main');
$old->parameter('temperature', min => 0, max => 100);
$old->device("boiler-$_", ['temperature']) foreach 1 .. 2;
$old->user('anna');
$old->psql(q{
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, severity)
		SELECT 'hot', 'threshold', parameter_id, '>', 80, 'red' FROM iot.parameter;
	CREATE ROLE reporter;
	GRANT USAGE ON SCHEMA iot TO reporter;
	GRANT SELECT ON iot.fleet TO reporter});
$old->use_broker($broker);
my $sim = $old->simulator($broker, devices => ['boiler-1'], drop_seen => 1);
is($old->wait_for_command($old->send_command('boiler-1', 'temperature', 1))->{status},
	'COMPLETED', 'the old server works');
$old->psql(q{INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT device_id, parameter_id, now() - n * interval '1 min', n
	FROM iot.sensor, generate_series(1, 90) n});
# boiler-2 never answers
my $in_flight = $old->psql(q{SELECT iot.send_command('boiler-2', 'temperature', 30, ttl => '1 day')});
$old->poll("SELECT attempts > 0 FROM iot.command WHERE command_id = '$in_flight'");
$old->poll(q{SELECT bool_and(lag_events = 0) FROM iot_internal.consumer_lag() WHERE name = 'notifier'});
my $epoch = $old->psql('SELECT epoch FROM iot.epoch');
my $tables = q{SELECT relname, public.rows_of(oid) FROM pg_class c
	WHERE relnamespace = 'iot'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
		AND relname <> ALL (ARRAY['worker', 'epoch', 'consumer', 'maintenance', 'rollup_state',
			'rollup_note', 'adapter_session', 'command', 'saga_step', 'event', 'dynsec'])
	ORDER BY relname};
my $arms = q{SELECT tgrelid::regclass, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
		AND tgparentid = 0 ORDER BY 1::text, 2;
	SELECT p.oid::regprocedure, p.proacl::text, md5(p.prosrc), p.proowner::regrole FROM pg_proc p
		WHERE p.pronamespace IN ('iot'::regnamespace, 'iot_internal'::regnamespace) ORDER BY 1::text;
	SELECT relname, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
		relowner)), relowner::regrole FROM pg_class
		WHERE relnamespace = 'iot'::regnamespace ORDER BY 1;
	SELECT policyname, tablename, qual FROM pg_policies WHERE schemaname = 'iot' ORDER BY 1, 2};
$old->psql(q{CREATE FUNCTION public.rows_of(what regclass) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE digest text;
	BEGIN
		EXECUTE format('SELECT count(*) || md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM %s t',
			what) INTO digest;
		RETURN digest;
	END $$});
$old_node->stop;
# read while no worker moves a row
$old_node->append_conf('postgresql.conf', "iot.databases = ''");
$old_node->start;
my ($rows, $armed) = ($old->psql($tables), $old->psql($arms));
$old_node->append_conf('postgresql.conf', "iot.databases = 'iot'");
$old_node->stop;

my $new_node = node('new', install_path => $in_place);
my $watch = $broker->watch('iot/+/command');
my $mark = $broker->log_size;
my $workplace = PostgreSQL::Test::Utils::tempdir;
chdir $workplace or die "chdir: $!";
my @command = ("$in_place/bin/pg_upgrade", '--no-sync', '--retain', '-b', ($from || $in_place) . '/bin',
	'-B', "$in_place/bin", '-d', $old_node->data_dir, '-D', $new_node->data_dir,
	'-s', $new_node->host, '-p', $old_node->port, '-P', $new_node->port);
my ($out, $err);
ok(IPC::Run::run(\@command, '>', \$out, '2>', \$err), 'pg_upgrade goes through')
  or die "$out$err";
chdir '/';
my $text = join '', map { slurp_file($_) } glob($new_node->data_dir . '/pg_upgrade_output.d/*/log/*.log');
like($text, qr/database system is ready/, 'it has started servers');
unlike($text, qr/iot (?:launcher|notifier|mqtt adapter)/, 'in which no worker ran');
unlike($broker->log_content($mark), qr/ iot-[0-9a-f-]+ /, 'none was seen by the broker');
is(scalar($watch->messages), 0, 'no device was spoken to');

$new_node->append_conf('postgresql.conf', "iot.databases = ''");
$new_node->start;
my $new = IotTest->from_node($new_node);
is(difference($new->psql($tables), $rows), '', 'I36: every row is there');
is(difference($new->psql($arms), $armed), '', 'every function, trigger, grant and policy too');
$new_node->append_conf('postgresql.conf', "iot.databases = 'iot'");
$new_node->restart;
$new->poll('SELECT paused FROM iot.epoch');
isnt($new->psql('SELECT epoch FROM iot.epoch'), $epoch, 'I28: the new server has an epoch of its own');
$new->poll(q{SELECT count(*) = 1 FROM iot_internal.workers() w WHERE w.kind = 'notifier'
	AND w.state = 'idle' AND w.detail LIKE 'paused%'});
is(scalar($watch->messages), 0, 'it is paused, and no device is spoken to');
$new->psql('SELECT iot.resume()');
my $id = $new->send_command('boiler-1', 'temperature', 2);
is($new->wait_for_command($id)->{status}, 'COMPLETED', 'after iot.resume() it works');
is($new->wait_for_command($in_flight)->{status}, 'CANCELLED', 'what was in flight has ended');
is_deeply([ map { $_->{json}{id} } $watch->messages ], [$id], 'without being sent again');
$new->psql(q{INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT device_id, parameter_id, now(), 95 FROM iot.sensor});
is($new->psql(q{SELECT count(*) FROM iot.alarm WHERE status = 'OPENED'}), '2', 'alarms are judged');
$new->psql('CALL iot.maintain()');
is($new->psql('SELECT last_error IS NULL FROM iot.maintenance'), 't', 'maintenance works');

done_testing();
