# A foreign snapshot held open under load, as a report or a dump holds one, does not slow the dispatch
# of commands down (I21): what is waiting is never looked for among what is done.
#
# IOT_SNAPSHOT_SECONDS=10 for each of the two measurements.
#
# Runs alone: it measures time.

use strict;
use warnings;

use Test::More;

use IotTest;

my $seconds = $ENV{IOT_SNAPSHOT_SECONDS} || 10;
my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');
# saving at each change would take the broker all of its time
$broker->stop;
(my $conf = $broker->{conf}) =~ s/^autosave_on_changes true$/autosave_on_changes false/m;
$broker->{conf} = $conf;
$broker->write_conf;
$broker->start;

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
	my $since = $iot->psql('SELECT clock_timestamp()');

	PostgreSQL::Test::Utils::run_log(
		[
			IotTest::program('pgbench'), '-n', '-h', $iot->node->host, '-p', $iot->port,
			'-c', 4, '-R', 40, '-T', $seconds, '-f', $script, $iot->db
		]) or die 'pgbench failed';
	$iot->poll("SELECT count(*) = 0 FROM iot.command WHERE status = 'COMMITTED'");
	is($iot->psql("SELECT count(*) FROM iot.command WHERE created_at > '$since' AND status <> 'COMPLETED'"),
		'0', 'every command is completed');
	return split /\|/,
	  $iot->psql('SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY'
		  . ' extract(epoch FROM finished_at - created_at)) * 1000, count(*)'
		  . " FROM iot.command WHERE created_at > '$since'");
}

dispatch();
my ($before, $count) = dispatch();
my $report = $iot->session;
$report->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $seen = $report->query_safe('SELECT count(*) FROM iot.command');
my ($during) = dispatch();
is($report->query_safe('SELECT count(*) FROM iot.command'), $seen, 'the snapshot was held all the time');
$report->query_safe('COMMIT');
note("p99 before $before ms, during $during ms, of $count commands each");
# a busy machine's hiccups are no sign of a table that grows
my $limit = $before * 2 > 250 ? $before * 2 : 250;
cmp_ok($during, '<', $limit, 'I21: the snapshot does not slow dispatch down');
cmp_ok($count, '>', $seconds * 20, 'under load');

done_testing();
