# Processes die at every step of the saga, and nothing is lost: I10, I23, I33.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature', min => 0, max => 100000);
$iot->device($_, ['temperature']) foreach qw(slow boiler silent);
$iot->psql("UPDATE iot.device_type SET ack_timeout = '1 s', max_attempts = 5");
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => [ 'slow', 'boiler' ], drop_seen => 1,
	persistent => 1, delay_ms => 300);
my $watch = $broker->watch('iot/+/command');

sub pid_of
{
	my ($type) = @_;
	my $pid;

	$iot->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = '$type'");
	$pid = $iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
	return $pid;
}

# Ends a process as the operating system would; the server restarts all of its processes.
sub kill9
{
	my ($type) = @_;
	my $pid = pid_of($type);

	is(kill('KILL', $pid), 1, "$type killed");
	return $pid;
}

# The connection is up again after mark; returns seconds since start.
sub resumed
{
	my ($start, $log) = @_;

	$iot->wait_for_log(qr/adapter "mqtt" connected to MQTT broker/, $log);
	return time() - $start;
}

# while the device works on the command
my $before = $watch->messages;
my $id = $iot->send_command('slow', 'temperature', 1);
$watch->wait_for($before + 1);
my $log = $iot->log_size;
my $start = time();
kill9('iot mqtt adapter');
my $resumed = resumed($start, $log);
cmp_ok($resumed, '<', 10, sprintf('I23: the adapter works again within ten seconds (%.1f s)', $resumed));
is($iot->wait_for_command($id)->{status}, 'COMPLETED',
	'a command whose adapter was killed while the device worked is completed');

# while it takes the command up: somebody holds its cursor
my $session = $iot->session;
$session->query_safe('BEGIN');
$session->query_safe("SELECT FROM iot.consumer WHERE name LIKE 'adapter:%' FOR UPDATE");
my $held = $iot->send_command('boiler', 'temperature', 2);
$iot->poll("SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"
	  . " AND wait_event_type = 'Lock'");
kill9('iot mqtt adapter');
$session = undef;
is($iot->wait_for_command($held)->{status}, 'COMPLETED',
	'a command whose adapter was killed while it was taken up is completed');

# when the answer is there and not yet committed: somebody holds the row again
$before = $watch->messages;
my $answered = $iot->send_command('silent', 'temperature', 3);
$watch->wait_for($before + 1);
$session = $iot->session;
$session->query_safe('BEGIN');
$session->query_safe("SELECT FROM iot.command WHERE command_id = '$answered' FOR UPDATE");
$broker->publish('iot/silent/command/ack', qq({"id":"$answered","ok":true}));
$iot->poll("SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"
	  . " AND wait_event_type = 'Lock'");
kill9('iot mqtt adapter');
$session = undef;
is($iot->wait_for_command($answered)->{status}, 'COMPLETED',
	'an answer that was not committed is delivered again');
is($iot->psql("SELECT count(*) FROM iot.event WHERE type = 'adapter.value_set_sent'"
		  . " AND aggregateid = '$answered'"), '1', 'and counts once');

# the notifier, and with it the sweep of deadlines
$iot->psql("UPDATE iot.device_type SET ack_timeout = '1 h'");
my $due = $iot->psql("SELECT iot.send_command('silent', 'temperature', 4, ttl => '3 s')");
kill9('iot notifier');
is($iot->wait_for_command($due)->{status}, 'CANCELLED', 'deadlines hold when the notifier is killed');
cmp_ok(
	$iot->psql("SELECT extract(epoch FROM finished_at - deadline) FROM iot.command"
		  . " WHERE command_id = '$due'"),
	'<', 10, 'within what a restart takes');
kill9('iot launcher');
pid_of('iot mqtt adapter');
pass('the launcher comes back and everything with it');
$iot->psql("UPDATE iot.device_type SET ack_timeout = '1 s'");

# the server, with commands in flight and in the queue
$before = $watch->messages;
my $many = 30;
$iot->psql("SELECT iot.send_command(d, 'temperature', n) FROM generate_series(1, $many) n,"
	  . " unnest(ARRAY['slow', 'boiler']) d");
$watch->wait_for($before + 2);
$iot->node->stop('immediate');
$iot->node->start;
$iot->poll("SELECT count(*) = 2 * $many FROM iot.command WHERE status = 'COMPLETED' AND value"
	  . " BETWEEN 1 AND $many AND created_at > (SELECT created_at FROM iot.command"
	  . " WHERE command_id = '$due')", timeout => 120);
pass('commands in flight when the server crashed are completed');
foreach my $device ('slow', 'boiler')
{
	my @versions = map { $_->{version} } grep { $_->{device} eq $device } $sim->executed;

	is_deeply(\@versions, [ sort { $a <=> $b } @versions ],
		"I5: $device carried them out in the order of versions");
	my %times;
	$times{$_}++ foreach @versions;
	is(scalar(grep { $_ > 1 } values %times), 0, "and each once");
}

# polite ends: one process, and nobody else's business
foreach my $type ('iot mqtt adapter', 'iot notifier', 'iot launcher')
{
	my %others = map { $_->{backend_type} => $_->{pid} }
	  grep { $_->{backend_type} ne $type } $iot->workers;
	my $pid = pid_of($type);

	$iot->psql("SELECT pg_terminate_backend($pid)");
	$start = time();
	$iot->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = '$type'"
		  . " AND pid <> $pid", timeout => 10);
	my $took = time() - $start;
	cmp_ok($took, '<', 10, sprintf('I23: %s is there again after it was terminated (%.1f s)', $type, $took));
	my %now = map { $_->{backend_type} => $_->{pid} }
	  grep { $_->{backend_type} ne $type } $iot->workers;
	is_deeply(\%now, \%others, 'and no other worker ended with it');
}
my $last = $iot->send_command('boiler', 'temperature', 99);
is($iot->wait_for_command($last)->{status}, 'COMPLETED', 'and commands go through');

done_testing();
