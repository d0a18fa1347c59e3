# A foreign snapshot held open under load, as a report or a dump holds one, does not slow the dispatch
# of commands down (I21): what is waiting is never looked for among what is done.
#
# IOT_SNAPSHOT_SECONDS=10 for each of the measurements.  What grows all the same, see doc/promises.md;
# 141_held_snapshot.pl counts what must not.
#
# Runs alone: it measures time.

use strict;
use warnings;

use Test::More;

use IotTest;

my $seconds = $ENV{IOT_SNAPSHOT_SECONDS} || 10;
my $iot = IotTest->new('main');
# saving at each change would take the broker all of its time
my $broker = IotTest::Broker->new('main', autosave => 0);

$iot->parameter('level');
$iot->device("pump-$_", ['level']) foreach 1 .. 50;
$iot->device("boiler-$_", ['level']) foreach 1 .. 20;
$iot->use_broker($broker);
my $pumps = $iot->simulator($broker, prefix => 'pump-', count => 50);
my $boilers = $iot->simulator($broker, prefix => 'boiler-', count => 20, rate => 20,
	parameters => 'level=1');
my $script = $broker->dir . '/send.sql';
PostgreSQL::Test::Utils::append_to_file($script,
	"\\set device random(1, 50)\nSELECT iot.send_command('pump-' || :device, 'level', 1);\n");

# Milliseconds in which 99 of 100 commands are completed, at 40 a second, and how many there were.
sub dispatch
{
	my ($duration) = @_;
	my $since = $iot->psql('SELECT clock_timestamp()');

	PostgreSQL::Test::Utils::run_log(
		[
			IotTest::program('pgbench'), '-n', '-h', $iot->node->host, '-p', $iot->port,
			'-c', 4, '-R', 40, '-T', $duration, '-f', $script, $iot->db
		]) or die 'pgbench failed';
	$iot->poll("SELECT count(*) = 0 FROM iot.command WHERE status = 'COMMITTED'");
	is($iot->psql("SELECT count(*) FROM iot.command WHERE created_at > '$since' AND status <> 'COMPLETED'"),
		'0', 'every command is completed');
	return split /\|/,
	  $iot->psql('SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY'
		  . ' extract(epoch FROM finished_at - created_at)) * 1000, count(*)'
		  . " FROM iot.command WHERE created_at > '$since'");
}

# until caches are filled and plans are made
dispatch(3);
my ($before, $count) = dispatch($seconds);
my $report = $iot->session;
$report->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $seen = $report->query_safe('SELECT count(*) FROM iot.command');
my ($during) = dispatch($seconds);
is($report->query_safe('SELECT count(*) FROM iot.command'), $seen, 'the snapshot was held all the time');
$report->query_safe('COMMIT');
# others may have kept the machine busy in the meantime; and hiccups are no sign of a table that grows
my ($after) = dispatch($seconds);
my ($limit) = sort { $b <=> $a } 250, 2 * $before, 2 * $after;
cmp_ok($during, '<', $limit,
	sprintf('I21: a snapshot held for %d s does not slow dispatch down: p99 of %d commands was %.1f ms'
		  . ' before, %.1f ms with it, %.1f ms after', $seconds, $count, $before, $during, $after));
cmp_ok($count, '>', $seconds * 20, 'under load');

done_testing();
