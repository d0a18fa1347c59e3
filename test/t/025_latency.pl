# Wake-ups make it quick, polling makes it certain (I19), and nothing reaches a device before its
# commit is on disk, whatever the sender asked for (I4).
#
# Runs alone: it measures time.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use IotTest;

# the WAL writer flushes asynchronous commits: here it comes too late to help
my $iot = IotTest->new('main', conf => "wal_writer_delay = 10s\nwal_writer_flush_after = 1GB");
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature', min => 0, max => 1000);
$iot->device('boiler-1', ['temperature']);
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => ['boiler-1'], drop_seen => 1);
my $session = $iot->session;

# Seconds from sending a command to its end, for each of a number of them.
sub latencies
{
	my ($number) = @_;
	my @seconds;

	foreach my $n (1 .. $number)
	{
		my $id = $session->query_safe("SELECT iot.send_command('boiler-1', 'temperature', $n)");

		$session->query_safe("SELECT iot.wait_for_command('$id', '10 s')");
		push @seconds,
		  $session->query_safe("SELECT extract(epoch FROM finished_at - created_at)"
			  . " FROM iot.command WHERE command_id = '$id'");
	}
	return sort { $a <=> $b } @seconds;
}

$iot->psql('ALTER SYSTEM SET iot.poll_interval = 1000');
$iot->node->reload;
my @woken = latencies(15);
cmp_ok($woken[7], '<', 0.5, "woken: the median command took $woken[7] s");

$iot->psql("ALTER SYSTEM SET iot.wakeups = off");
$iot->psql("ALTER SYSTEM RESET iot.poll_interval");
$iot->node->reload;
$session = $iot->session;
is($session->query_safe('SHOW iot.wakeups'), 'off', 'wake-ups are off');
my @polled = latencies(10);
cmp_ok($polled[-1], '<=', 1, sprintf('I19: without wake-ups the slowest of ten took %.2f s', $polled[-1]));
cmp_ok($polled[-1], '>', $woken[7], 'so they were really off');
$iot->psql('ALTER SYSTEM RESET iot.wakeups');
$iot->node->reload;

# what the device has seen survives a crash right afterwards
my $watch = $broker->watch('iot/boiler-1/command');
foreach my $round (1 .. 4)
{
	my $before = $watch->messages;

	$session = $iot->session;
	$session->query_safe('SET synchronous_commit = off');
	my $id = $session->query_safe("SELECT iot.send_command('boiler-1', 'temperature', 50)");
	$watch->wait_for($before + 1);
	$session = undef;
	$iot->node->stop('immediate');
	$iot->node->start;
	is($iot->psql("SELECT count(*) FROM iot.command WHERE command_id = '$id'"),
		'1', "I4: command $round, sent without waiting for the disk, is there after a crash");
	is($iot->wait_for_command($id)->{status}, 'COMPLETED', 'and ends well');
}

# the same where the database itself asks for asynchronous commits
$iot->psql('ALTER DATABASE iot SET synchronous_commit = off', database => 'postgres');
$iot->node->restart;
my $before = $watch->messages;
my $id = $iot->send_command('boiler-1', 'temperature', 51);
$watch->wait_for($before + 1);
$iot->node->stop('immediate');
$iot->node->start;
is($iot->psql("SELECT count(*) FROM iot.command WHERE command_id = '$id'"),
	'1', 'I4: also where the database has synchronous_commit off');

done_testing();
