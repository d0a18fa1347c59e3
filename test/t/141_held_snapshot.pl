# Rows that each batch of measurements writes anew cost the same after thousands of versions, while
# somebody holds a snapshot and no version goes away (I21): counted by the blocks that are looked
# at, since time would say more about the machine.  And what is written past the executor leaves the
# table and its index as they must be.

use strict;
use warnings;

use Test::More;

use IotTest;

my $sensors = 20;
my $batches = 1500;
my $hundred = 100;
# no worker looks at these tables meanwhile
my $iot = IotTest->new('main', databases => '', conf => 'autovacuum = off');

$iot->psql('CREATE EXTENSION amcheck');
$iot->parameter("level-$_") foreach 1 .. $sensors;
$iot->device('boiler', [ map { "level-$_" } 1 .. $sensors ]);

# The device speaks so often, each time of all its sensors and in a transaction of its own.
sub speak
{
	my ($times) = @_;

	$iot->psql(qq{
		DO \$\$ BEGIN
			FOR i IN 1 .. $times LOOP
				PERFORM iot.ingest('boiler', (SELECT jsonb_object_agg('level-' || n, i % 2)
					FROM generate_series(1, $sensors) n));
				COMMIT;
			END LOOP;
			PERFORM pg_stat_force_next_flush();
		END \$\$});
	return;
}

# The device is told so often, each time in a transaction of its own.
sub tell
{
	my ($times) = @_;

	$iot->psql(qq{
		DO \$\$ BEGIN
			FOR i IN 1 .. $times LOOP
				PERFORM iot.send_command('boiler', 'level-' || 1 + i % $sensors, i);
				COMMIT;
			END LOOP;
			PERFORM pg_stat_force_next_flush();
		END \$\$});
	return;
}

# Blocks of a table and its indexes that each of the next hundred batches or commands looks at.
sub blocks
{
	my ($table, $act) = @_;
	my $count = "SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read"
	  . " FROM pg_statio_all_tables WHERE relid = 'iot.$table'::regclass";
	my $before = $iot->psql($count);

	$act->($hundred);
	return ($iot->psql($count) - $before) / $hundred;
}

sub holds
{
	my ($table) = @_;

	speak(10);
	my $report = $iot->session;
	$report->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $seen = $report->query_safe("SELECT md5(string_agg(v::text, '' ORDER BY v::text)) FROM iot.$table v");
	my $first = blocks($table, \&speak);
	my $told = blocks($table, \&tell);
	speak($batches - 2 * $hundred);
	my $last = blocks($table, \&speak);
	my $told_last = blocks($table, \&tell);
	is($report->query_safe("SELECT md5(string_agg(v::text, '' ORDER BY v::text)) FROM iot.$table v"),
		$seen, "iot.$table: the snapshot still sees what it saw");
	$report->query_safe('COMMIT');
	cmp_ok($iot->psql("SELECT pg_stat_get_live_tuples('iot.$table'::regclass) + pg_stat_get_dead_tuples('iot.$table'::regclass)"),
		'>', $batches * $sensors * 0.9, "iot.$table: it kept the versions");
	# that of the index grows by a level, and its newest entries may lie in two pages
	cmp_ok($last, '<', 2 * $first, sprintf('I21: iot.%s: a batch looks at %.1f blocks behind'
			  . ' %d versions of each row, and at %.1f at first', $table, $last, $batches, $first));
	cmp_ok($told_last, '<', 2 * $told, sprintf('I21: iot.%s: a command looks at %.1f blocks, and at'
			  . ' %.1f at first', $table, $told_last, $told)) if $told > 0;
	return;
}

holds('sensor_value');
my $version = $batches + 10 + 2 * $hundred / $sensors;
is( $iot->psql('SELECT count(*), min(v.version), max(v.version), min(v.reported_at) = max(m.ts)'
		  . ' FROM iot.sensor_value v, (SELECT max(ts) AS ts FROM iot.measurement) m'),
	"$sensors|$version|$version|t", 'each row counts all that was said');
$iot->psql("SELECT bt_index_check('iot.sensor_value_pkey', true)");
$iot->psql('VACUUM (FULL, ANALYZE) iot.sensor_value');
speak(1);
is( $iot->psql('SELECT count(*), min(version) FROM iot.sensor_value'),
	"$sensors|" . ($version + 1), 'and goes on after the table was written anew');
$iot->psql("SELECT bt_index_check('iot.sensor_value_pkey', true)");

# each value changes what these remember: how many there were in a row, and since when
$iot->psql(q{INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, repeat_count, duration)
	SELECT p.name || k.kind, 'threshold', p.parameter_id, '>', 0.5, k.count, k.duration FROM iot.parameter p,
		(VALUES ('-often', 3, interval '0'), ('-long', 1, interval '1 hour')) AS k (kind, count, duration)});
holds('alarm_rule_state');
speak(1);
is( $iot->psql('SELECT r.repeat_count, count(*), min(s.hits), max(s.hits) FROM iot.alarm_rule_state s'
		  . ' JOIN iot.alarm_rule r USING (alarm_rule_id) GROUP BY 1 ORDER BY 1'),
	"1|$sensors|1|1\n3|$sensors|1|1", 'each rule remembers what came last');
$iot->psql("SELECT bt_index_check('iot.alarm_rule_state_pkey', true),"
	  . " bt_index_check('iot.alarm_rule_state_due_at_idx', true)");

done_testing();
