# The disk is full: what devices send stays with the broker, nobody crashes or floods the log, and all
# goes on by itself once there is room.  strace gives ENOSPC to the adapter wherever it would extend the
# table of measurements; then to a write of the WAL, which makes the server restart.

use strict;
use warnings;

use Test::More;

use IotTest;
use IotTest::FullDisk;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main', autosave => 0);

$iot->parameter('temperature', min => 0, max => 100);
$iot->device("pump-$_", ['temperature']) foreach 1 .. 5;
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, prefix => 'pump-', count => 5, rate => 20,
	parameters => 'temperature=20', log_telemetry => 1);

sub worker_pid
{
	my ($kind) = @_;

	return $iot->psql("SELECT pid FROM iot_internal.worker_slots() WHERE kind = '$kind'");
}

sub count_of { return $iot->psql("SELECT count(*) FROM iot.$_[0]"); }

sub published { my $count = () = $sim->telemetry('published'); return $count; }

$iot->poll('SELECT count(*) > 100 FROM iot.measurement');
my $adapter = worker_pid('mqtt adapter');
my $log = $iot->log_size;
my $tracer = no_room(pids => [$adapter], files => [ table_files($iot, 'measurement') ]);
plan skip_all => 'strace may not attach to a process here' unless $tracer;

# the adapter
$iot->wait_for_log(qr/No space left on device/, $log);
$iot->wait_for_log(qr/gives messages back to MQTT broker/, $log);
my $sent = published();
poll_until(sub { published() > $sent + 150 }, 'devices go on');
is(worker_pid('mqtt adapter'), $adapter, 'a full disk ends no worker');
my @lines = grep { /No space left on device/ } split /\n/, $iot->log_content($log);
cmp_ok(scalar(@lines), '<=', 5, 'nor does it flood the log: ' . @lines . ' lines');
is(count_of('dead_letter'), '0', 'no message is blamed');
is($iot->psql('SELECT 1'), '1', 'others go on');
$tracer->stop;
$iot->wait_for_log(qr/the database takes messages again/, $log);
$iot->all_stored($sim, 'I10: with room again, what was given back is stored');
is(worker_pid('mqtt adapter'), $adapter, 'by the same process');
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), '0', 'and nothing as a dead letter');

# The WAL: the server restarts, as it does where its disk is full, and the rest is as after any crash.
my $segment = $iot->psql('SELECT pg_walfile_name(pg_current_wal_insert_lsn())');
$log = $iot->log_size;
$tracer = no_room(pids => [$adapter], when => 1, files => [ $iot->node->data_dir . "/pg_wal/$segment" ]);
$iot->wait_for_log(qr/PANIC: [^\n]*No space left on device/, $log);
$iot->wait_for_log(qr/database system is ready to accept connections/, $log);
$tracer->stop;
$iot->poll("SELECT count(*) = 1 FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'"
	  . " AND state = 'connected'");
@lines = grep { /PANIC/ } split /\n/, $iot->log_content($log);
is(scalar(@lines), 1, 'no room for the WAL: one restart, and no loop of them');
$sim->stop;
$iot->all_stored($sim, 'I10, I33: and nothing is lost by it');
is($iot->psql('SELECT count(*) - count(DISTINCT (device_id, parameter_id, ts)) FROM iot.measurement'),
	'0', 'I11: nor stored twice');

done_testing();
