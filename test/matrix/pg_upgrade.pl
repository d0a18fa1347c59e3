# pg_upgrade from another major version: rows, sequences, owners, grants, triggers and policies come
# along, no worker runs while it works, and nothing is sent or delivered until iot.resume(); then the
# saga goes on.  With files copied and with files linked.
#
# Environment (test/matrix/pg_upgrade sets it): as for test/t, and IOT_OLD_STAGE and
# IOT_OLD_PG_CONFIG for the server that is upgraded from.

use strict;
use warnings;

use File::Basename;
use Test::More;

use IotTest;
use IotTest::Contents;
use PostgreSQL::Test::Utils;

chomp(my $old_bindir = `$ENV{IOT_OLD_PG_CONFIG} --bindir`);
my $in_place = IotTest::server_in_place();
my $new_bindir = "$in_place/bin";
my $broker = IotTest::Broker->new('main');
my $old;

# What servers deparse differs between versions without a difference in what it means.
my @shape = qw(sequences relations columns schemas functions triggers comments members);
my $policies = q{SELECT p.tablename, p.policyname, p.permissive, p.roles, p.cmd
	FROM pg_policies p WHERE p.schemaname = 'iot' ORDER BY 1, 2};

# Without a right of 17 and later, which GRANT ALL includes there.
sub without_news
{
	my ($text) = @_;

	$text =~ s{(=[a-zA-Z*]*)m(?=[a-zA-Z*]*/)}{$1}g;
	return $text;
}

sub contents_of
{
	my ($iot) = @_;

	return (rows_of($iot, 'iot'),
		without_news(shape_of($iot, 'iot', @shape) . "\n" . $iot->psql($policies)));
}

# Releases of November 2026 (15.20, 17.12) note an option "pg_attver" at the columns of tables, and a
# server from before (18.6) refuses all that pg_dump writes with it: nobody can upgrade from that one
# to this one.  Where it is so, the old server's catalogue is made as the release before would have
# left it, and the run says so.
sub forget_attver
{
	my $noted = $old->psql(q{SELECT count(*) FROM pg_attribute
		WHERE attoptions::text LIKE '%pg\_attver=%'});

	return if $noted == 0 || slurp_file("$new_bindir/postgres") =~ /pg_attver/;
	chomp(my ($before, $after) = map { scalar(`$_/postgres --version`) } $old_bindir, $new_bindir);
	diag("$before has columns with pg_attver, which $after does not know: taken away here");
	$old->psql(q{
		SET allow_system_table_mods = on;
		UPDATE pg_attribute SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) o
				WHERE o NOT LIKE 'pg\_attver=%'), '{}')
			WHERE attoptions::text LIKE '%pg\_attver=%'});
	return;
}

# Both with checksums, which are on by default in some versions and off in others.
my %init = (extra => ['--data-checksums']);
$old = do
{
	local $IotTest::stage = $ENV{IOT_OLD_STAGE};
	local $IotTest::pg_config = $ENV{IOT_OLD_PG_CONFIG};

	IotTest->new('old', install_path => dirname($old_bindir), init => \%init);
};
my ($from, $to) = map { /(\d+)/ ? $1 : die } `$old_bindir/postgres --version`,
  `$new_bindir/postgres --version`;

is($old->psql('SHOW server_version_num') =~ /^(\d\d)/ && $1, $from, "a server of version $from");

# Something of everything: commands with each end and without one, notifications that wait, an open
# alarm, users, measurements in partitions and in none, a secret, a grant of the user's own.
$old->parameter('temperature', unit => '°C', min => 0, max => 100);
$old->psql(q{UPDATE iot.device_type SET ack_timeout = '1 h' WHERE name = 'default'});
$old->device($_, ['temperature']) foreach qw(boiler-1 boiler-2);
$old->user('anna');
$old->psql(q{
	CREATE ROLE reporting;
	GRANT SELECT ON iot.measurement TO reporting;
	INSERT INTO iot.secret (name, value) VALUES ('key', 'k3y');
	INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold)
		SELECT 'hot', 'threshold', parameter_id, '>', 50 FROM iot.parameter;
	CALL iot.maintain();
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT d.device_id, p.parameter_id, now() - n * interval '7 hours', n
		FROM iot.device d, iot.parameter p, generate_series(1, 40) n;
	CALL iot.maintain();
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT d.device_id, p.parameter_id, now() - interval '100 days', 1
		FROM iot.device d, iot.parameter p;
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT d.device_id, p.parameter_id, now(), 60 FROM iot.device d, iot.parameter p
		WHERE d.name = 'boiler-1';
});
$old->use_broker($broker);
my $simulator = $old->simulator($broker, devices => ['boiler-1'], refuse_above => 80);
is($old->wait_for_command($old->send_command('boiler-1', 'temperature', 20))->{status}, 'COMPLETED',
	'the saga works before');
is($old->wait_for_command($old->send_command('boiler-1', 'temperature', 90))->{status}, 'CANCELLED',
	'in both ways');
is($old->wait_for_command($old->send_command('boiler-1', 'temperature', 2000))->{status}, 'FAILED',
	'and where nothing is sent at all');
# nobody answers for boiler-2
my $unanswered = $old->send_command('boiler-2', 'temperature', 30, ttl => '1 day');
$old->poll("SELECT attempts = 1 FROM iot.command WHERE command_id = '$unanswered'");
$old->psql('UPDATE iot.adapter SET enabled = false');
$old->poll(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'});
my $unsent = $old->send_command('boiler-1', 'temperature', 40, ttl => '1 day');
$old->poll(q{SELECT EXISTS (SELECT FROM iot.notification n WHERE n.event LIKE 'alarm.opened%')});
cmp_ok($old->psql(q{SELECT count(*) FROM iot.delivery WHERE status = 'PENDING'}), '>', 2,
	'notifications wait');
is($old->psql(q{SELECT count(*) FROM iot.alarm WHERE status = 'OPENED'}), 1, 'an alarm is open');
cmp_ok($old->psql(q{SELECT count(DISTINCT tableoid) FROM iot.measurement}), '>', 3,
	'measurements are in several partitions');

# As it is left: whoever starts the new server finds the adapter enabled.
$old->psql(q{ALTER SYSTEM SET iot.databases = ''});
$old->psql('SELECT pg_reload_conf()');
$old->poll(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN
	('iot notifier', 'iot mqtt adapter')});
$old->psql(q{UPDATE iot.adapter SET enabled = true WHERE name = 'mqtt'});
forget_attver();
my $epoch = $old->psql('SELECT epoch FROM iot.epoch');
my ($rows, $shape) = contents_of($old);
$old->psql('ALTER SYSTEM RESET iot.databases');
$old->node->stop;

# The old server is there to be upgraded once more until its files are linked.
foreach my $mode ('--copy', '--link')
{
	my $new = IotTest->new('new' . $mode =~ tr/-//dr, install_path => $in_place, in_place => 1,
		start => 0, init => \%init);
	my $node = $new->node;
	my $told = $broker->log_size;
	my @command = (
		"$new_bindir/pg_upgrade", $mode, '--no-sync', '--old-datadir', $old->node->data_dir,
		'--new-datadir', $node->data_dir, '--old-bindir', $old_bindir, '--new-bindir', $new_bindir,
		'--old-port', $old->port, '--new-port', $node->port, '--socketdir', $node->host);
	my ($out, $err);

	ok(IPC::Run::run(\@command, '>', \$out, '2>', \$err), "pg_upgrade $mode from $from to $to")
	  or diag("$out$err");
	unlike($broker->log_content($told), qr/New client connected/, 'no adapter speaks meanwhile');

	my $watch = $broker->watch('iot/+/command');

	# first without workers, to see what came along
	$node->append_conf('postgresql.conf', "iot.databases = ''");
	$node->start;
	my ($new_rows, $new_shape) = contents_of($new);
	is(difference($rows, $new_rows), '', 'all rows are equal');
	is(difference($shape, $new_shape), '',
		'sequences, owners, grants, triggers, policies and comments are equal');
	is($new->psql('SELECT iot_internal.epoch_state()'), 'foreign', 'it is known to be another server');

	$node->append_conf('postgresql.conf', "iot.databases = 'iot'");
	$node->reload;
	$new->poll('SELECT paused FROM iot.epoch');
	isnt($new->psql('SELECT epoch FROM iot.epoch'), $epoch, 'the epoch is another');
	is($new->psql(q{SELECT bool_and(target IS NULL
				AND pg_snapshot_xmax(last) <= pg_snapshot_xmax(pg_current_snapshot()))
			FROM iot.consumer}), 't', 'cursors are numbers of this server');
	is($new->psql(q{SELECT count(*) FROM iot.event
			WHERE id > (SELECT first_event_id FROM iot.epoch)}), 0, 'and start at now');
	$new->poll(q{SELECT EXISTS (SELECT FROM iot_internal.workers() w
			WHERE w.kind = 'notifier' AND w.state = 'idle' AND w.detail LIKE 'paused%')});
	my $deliveries = $new->psql('SELECT count(*), max(attempts) FROM iot.delivery');
	my $waiting = $new->send_command('boiler-1', 'temperature', 50, ttl => '1 day');
	is($new->psql(q{SELECT count(*) FROM iot_internal.workers() w WHERE w.state = 'connected'}), 0,
		'no adapter has a link');
	is($new->psql("SELECT status FROM iot.command WHERE command_id = '$waiting'"), 'COMMITTED',
		'a new command waits');
	is($new->psql('SELECT count(*), max(attempts) FROM iot.delivery'), $deliveries,
		'nothing was delivered');

	$new->psql('SELECT iot.resume()');
	is($new->wait_for_command($waiting)->{status}, 'COMPLETED', 'resumed, it reaches the device');
	foreach my $command ($unanswered, $unsent)
	{
		is($new->wait_for_command($command)->{status}, 'CANCELLED',
			'a command of before ends without being sent');
	}
	is($new->wait_for_command($new->send_command('boiler-1', 'temperature', 90))->{status},
		'CANCELLED', 'and the saga turns back where it should');
	is_deeply([ map { json($_->{payload})->{value} } $watch->messages ], [ 50, 90 ],
		'devices were told of these two, and of nothing else');
	$new->poll(qq{SELECT EXISTS (SELECT FROM iot.notification n
			WHERE n.event = 'adapter.value_set_sent' AND n.body ->> 'command_id' = '$waiting')});
	pass('people are told of it');

	# an alarm that was open closes, once
	$new->psql(q{INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT d.device_id, p.parameter_id, now(), 10 FROM iot.device d, iot.parameter p
		WHERE d.name = 'boiler-1'});
	is($new->psql(q{SELECT string_agg(status, ' ') FROM iot.alarm}), 'CLOSED',
		'the alarm that came along closes');
	is($new->psql(q{SELECT has_table_privilege('reporting', 'iot.measurement', 'SELECT')}), 't',
		'a grant of the user\'s own holds');
	is($new->psql(q{SELECT count(*) FROM iot.check() WHERE severity = 'error'}), 0,
		'the doctor finds nothing wrong');
	$new->psql('CALL iot.maintain()');
	is($new->psql('SELECT last_error FROM iot.maintenance'), '', 'maintenance works');
	$watch->stop;
	$node->stop;
}

done_testing();
