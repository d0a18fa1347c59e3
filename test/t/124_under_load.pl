# Under load, with devices that report and commands under way: each way to stop the server, DROP
# EXTENSION and CREATE EXTENSION again, and DROP DATABASE, end within five seconds (I35), and nothing
# that the broker had confirmed or that was stored is lost (I10, I36).

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');
# saving at each change would be slow here, and the broker is not killed
$broker->stop;
$broker->{conf} =~ s/^autosave_on_changes true$/autosave_on_changes false/m;
$broker->write_conf;
$broker->start;

my $devices = 5;
$iot->parameter($_, min => 0, max => 100) foreach qw(temperature valve);
$iot->device("boiler-$_", [qw(temperature valve)]) foreach 1 .. $devices;
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, prefix => 'boiler-', count => $devices, rate => 20,
	parameters => 'temperature=20', drop_seen => 1, log_telemetry => 1);
my $sent = 0;

# Commands for every device, and measurements on their way in.
sub load
{
	$iot->psql(join ';', map { "SELECT iot.send_command('boiler-$_', 'valve', " . (++$sent % 100)
			  . ", ttl => '10 min')" } (1 .. $devices) x 3);
	my $stored = $iot->psql('SELECT count(*) FROM iot.measurement');
	$iot->poll("SELECT count(*) > $stored + 50 FROM iot.measurement");
	return;
}

foreach my $mode ('smart', 'fast', 'immediate')
{
	load();
	ends_in_time("$mode shutdown", sub { $iot->node->stop($mode) });
	$iot->node->start;
}

# Dropped and made again, with devices that go on meanwhile.
my $tables = "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'iot'::regnamespace"
  . " AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1";
foreach my $round (1 .. 3)
{
	load();
	my $log = $iot->log_size;
	my $counts = 'SELECT (SELECT count(*) FROM iot.measurement), (SELECT count(*) FROM iot.command),'
	  . ' (SELECT count(*) FROM iot.event), (SELECT count(*) FROM iot.saga_step)';
	my ($names, $before, $after, $names_after);

	ends_in_time('DROP EXTENSION',
		sub { $iot->psql('DROP EXTENSION iot CASCADE') });
	($names, $before) = ($iot->psql($tables), $iot->psql($counts));
	my $reported = () = $sim->telemetry('published');
	poll_until(sub { my $now = () = $sim->telemetry('published'); $now > $reported + 100 },
		'devices go on');
	is($iot->psql($counts), $before, "round $round: without the extension nothing moves");
	ends_in_time('CREATE EXTENSION', sub { $iot->psql('CREATE EXTENSION iot') });
	is($iot->psql($tables), $names, 'the tables are the same');
	my @left = split /\|/, $before;
	my @right = split /\|/, $iot->psql($counts);
	is(scalar(grep { $right[$_] < $left[$_] } 0 .. $#left), 0, 'I36: with at least their rows');
	$iot->wait_for_log(qr/iot worker works again/, $log);
}
$iot->poll('SELECT count(*) = 0 FROM iot.command WHERE finished_at IS NULL', timeout => 90);
is($iot->psql('SELECT status, count(*) FROM iot.command GROUP BY 1'), "COMPLETED|$sent",
	'I1: every command was carried out');
is($iot->psql(q{SELECT count(*) FROM iot.command c WHERE (SELECT string_agg(e.type, ' ' ORDER BY e.id)
		FROM iot.event e WHERE e.aggregateid = c.command_id::text)
	<> 'command.value_set dm.value_set_approved adapter.value_set_sent'}), '0',
	'I2: and its events tell so, once');
my %executed;
$executed{ $_->{id} }++ foreach $sim->executed;
is(scalar(grep { $executed{$_} > 1 } keys %executed), 0, 'I5: and by its device once');
is(scalar(keys %executed), $sent, 'each of them');

$sim->stop;
my %acked = map { $_ => 1 } $sim->telemetry('acked');
$iot->psql("CREATE TABLE public.acked (device text, ms bigint);\nCOPY public.acked FROM STDIN;\n"
	  . join('', map { "$_\n" } sort keys %acked) . "\\.\n");
$iot->poll('SELECT count(*) = 0 FROM public.acked a WHERE NOT EXISTS (SELECT FROM iot.measurement m'
	  . ' JOIN iot.device d USING (device_id) WHERE d.name = a.device'
	  . ' AND m.ts = to_timestamp(a.ms / 1000.0))', timeout => 90);
pass('I10: ' . keys(%acked) . ' messages that the broker confirmed are stored');
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), '0', 'none of them as a dead letter');
is($iot->psql(q{SELECT count(*) FROM iot.notification WHERE event = 'adapter.value_set_sent'}), $sent,
	'I7: each outcome was told once');

$sim->spawn;
$iot->psql('CREATE DATABASE bystander', database => 'postgres');
load();
ends_in_time('DROP DATABASE of another database',
	sub { $iot->psql('DROP DATABASE bystander', database => 'postgres') });
ends_in_time('DROP DATABASE WITH (FORCE)',
	sub { $iot->psql('DROP DATABASE iot WITH (FORCE)', database => 'postgres') });
ends_in_time('fast shutdown', sub { $iot->node->stop('fast') });

done_testing();
