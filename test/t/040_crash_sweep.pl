# Crash sweep: during a flood the adapter is killed again and again, before a system call that strace
# counts (writing to the server's log of changes, to the broker, reading from it), where strace may
# attach, else after a number of values; sometimes it is only terminated.  Afterwards all that the
# broker had confirmed to the devices is stored (I10, I33), nothing twice (I11), and nothing that was
# never sent.
#
# IOT_CRASH_POINTS=6 kills, IOT_CRASH_SEED=n repeats a run.

use strict;
use warnings;

use Test::More;

use IotTest;

my $points = $ENV{IOT_CRASH_POINTS} || 6;
my $seed = $ENV{IOT_CRASH_SEED} || time();
srand($seed);
note("$points points, seed $seed");

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');
# saving at each change would be slow here, and the broker is not killed
$broker->stop;
(my $conf = $broker->{conf}) =~ s/^autosave_on_changes true$/autosave_on_changes false/m;
$broker->{conf} = $conf;
$broker->write_conf;
$broker->start;

$iot->parameter($_) foreach qw(temperature pressure);
$iot->device("boiler-$_", [qw(temperature pressure)]) foreach 1 .. 5;
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, prefix => 'boiler-', count => 5, rate => 100,
	parameters => 'temperature=1,pressure=2', log_telemetry => 1);

# the server's log of changes, packets to and from the broker, waiting
my @calls = qw(pwrite64 write read epoll_wait);
my $traced = 0;

# Whether the process has ended, though its parent may not have noticed yet.
sub has_ended
{
	my ($pid) = @_;

	return 1 unless kill(0, $pid);
	my $stat = eval { PostgreSQL::Test::Utils::slurp_file("/proc/$pid/stat") };
	return !defined $stat || $stat =~ /^\d+ \(.*\) [ZX]/s;
}

# The adapter that is connected.  In one question, since the answer to a first one may be from just
# before the server notices that its process was killed.
sub adapter_pid
{
	return poll_until(
		sub {
			my $pid = eval {
				$iot->psql("SELECT pid FROM iot_internal.worker_slots()"
					  . " WHERE kind = 'mqtt adapter' AND state = 'connected'");
			};

			return $pid && !has_ended($pid) && $pid;
		},
		'the adapter is connected');
}

# Has strace kill the process at a system call; false where it cannot.
sub kill_at_call
{
	my ($pid, $call, $when) = @_;
	my $tracer = eval {
		IotTest::Process->start(
			name => "strace $call $when",
			command => [
				'strace', '-qq', '-o', '/dev/null', '-p', $pid, '-e', "trace=$call", '-e',
				"inject=$call:signal=SIGKILL:when=$when"
			],
			log => "$PostgreSQL::Test::Utils::log_path/040_strace.log");
	};

	return 0 unless $tracer;
	eval { poll_until(sub { has_ended($pid) || !$tracer->alive }, "$call $when comes by", 20) };
	$tracer->stop;
	return has_ended($pid);
}

# Kills it after some values more.
sub kill_after_values
{
	my ($pid, $count) = @_;
	my $goal = $count + $iot->psql('SELECT count(*) FROM iot.measurement');

	$iot->poll("SELECT count(*) >= $goal FROM iot.measurement");
	return kill('KILL', $pid);
}

foreach my $point (1 .. $points)
{
	my $pid = adapter_pid();
	my $log = $iot->log_size;
	my $call = $calls[ ($point - 1 - int($point / 5)) % @calls ];
	my $when = 1 + int(rand(12));

	if ($point % 5 == 0)
	{
		$iot->psql("SELECT pg_terminate_backend($pid)");
		note("terminated at point $point");
	}
	elsif (kill_at_call($pid, $call, $when))
	{
		$traced++;
		note("killed before $call number $when");
	}
	else
	{
		kill_after_values($pid, int(rand(200)));
		note('killed after some values');
	}
	$iot->wait_for_log(qr/adapter "mqtt" connected to MQTT broker/, $log);
}
note("$traced of them by strace");
adapter_pid();
$sim->stop;

my (%published, %acked);
foreach my $record ($sim->records)
{
	$published{"$record->{device}\t$record->{ts}"} = 1 if $record->{kind} eq 'published';
	$acked{"$record->{device}\t$record->{ts}"} = 1 if $record->{kind} eq 'acked';
}
cmp_ok(scalar(keys %acked), '>', 100, scalar(keys %acked) . ' messages were confirmed to the devices');
sub load
{
	my ($table, $messages) = @_;

	$iot->psql("CREATE TABLE public.$table (device text, ms bigint);\n"
		  . "COPY public.$table FROM STDIN;\n" . join('', map { "$_\n" } sort keys %$messages) . "\\.\n");
	return;
}
load('acked', \%acked);
load('published', \%published);
my $stored = 'SELECT m.parameter_id FROM iot.measurement m JOIN iot.device d USING (device_id)'
  . ' WHERE d.name = a.device AND m.ts = to_timestamp(a.ms / 1000.0)';
$iot->poll("SELECT count(*) = 0 FROM public.acked a WHERE (SELECT count(*) FROM ($stored) s) < 2");
is($iot->psql("SELECT count(*) FROM public.acked a WHERE (SELECT count(*) FROM ($stored) s) <> 2"),
	'0', sprintf('I10, I33: every message that was confirmed is stored whole: %d, and %d kills',
		scalar(keys %acked), $points));
is($iot->psql('SELECT count(*) - count(DISTINCT (device_id, parameter_id, ts)) FROM iot.measurement'),
	'0', 'I11: nothing twice');
is( $iot->psql(
		'SELECT count(*) FROM iot.measurement m JOIN iot.device d USING (device_id)'
		  . ' WHERE NOT EXISTS (SELECT FROM public.published p'
		  . ' WHERE p.device = d.name AND to_timestamp(p.ms / 1000.0) = m.ts)'),
	'0', 'and nothing that was never sent');
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), '0', 'no message was blamed for it');
is( $iot->psql('SELECT count(*) FROM iot.sensor_value v WHERE v.value_at <> (SELECT max(m.ts)'
		  . ' FROM iot.measurement m WHERE m.device_id = v.device_id AND m.parameter_id = v.parameter_id)'),
	'0', 'I14: every current value is the newest');

done_testing();
