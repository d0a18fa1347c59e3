# A command for a fleet on a real server: simulated devices get it at the rate, those that refuse stop
# it, and a notifier that is killed in the middle sends nothing twice.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');
my @devices = map { sprintf('pump-%02d', $_) } 1 .. 40;

$iot->psql(q{INSERT INTO iot.device_group (name) VALUES ('field')});
$iot->parameter('valve');
$iot->device($_, ['valve'], group => 'field') foreach @devices;
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => \@devices, refuse_above => 80);

sub finished
{
	my ($batch) = @_;

	$iot->poll("SELECT finished_at IS NOT NULL FROM iot.command_batch WHERE command_batch_id = '$batch'");
	return $iot->psql('SELECT status, waiting, sent, completed, failed FROM iot.command_batch_progress'
		  . " WHERE command_batch_id = '$batch'");
}

# the rate, with the notifier killed on the way
my $batch = $iot->psql(q{SELECT iot.send_group_command('field', 'valve', 10, 20)});
$iot->poll("SELECT sent + completed >= 8 FROM iot.command_batch_progress WHERE command_batch_id = '$batch'");
my $killed = $iot->psql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot notifier'});
$iot->psql("SELECT pg_terminate_backend($killed)");
$iot->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'iot notifier' AND pid <> $killed");
is(finished($batch), 'COMPLETED|0|0|40|0', 'every device confirmed');
is($iot->psql('SELECT count(*), count(DISTINCT device_id) FROM iot.command'), '40|40',
	'each had one command, though the notifier was stopped on the way');
cmp_ok($iot->psql('SELECT extract(epoch FROM max(created_at) - min(created_at)) FROM iot.command'), '>', 0.9,
	'not all at once: 40 at 20 a second');

# refusals
$batch = $iot->psql(q{SELECT iot.send_group_command('field', 'valve', 90, 10, 0.5)});
my ($status, undef, undef, $completed, $failed) = split(/\|/, finished($batch));
is($status, 'ABORTED', 'a value that devices refuse is not rolled out to all');
is($completed, '0', 'none took it');
cmp_ok($failed, '<', 40, 'and not all were asked');
is($iot->psql('SELECT DISTINCT v.value FROM iot.sensor_value v'), '10', 'the old value is back everywhere');
is($iot->psql(q{SELECT string_agg(type, ' ' ORDER BY id) FROM iot.event WHERE type LIKE 'command_batch.%'}),
	'command_batch.completed command_batch.aborted', 'both ends are events');

# a sender that is not done with a device holds nobody else up
my $session = $iot->session;
$session->query('BEGIN');
$session->query(q{SELECT iot.send_command('pump-01', 'valve', 33)});
$batch = $iot->psql(q{SELECT iot.send_group_command('field', 'valve', 20, 1000)});
$iot->poll("SELECT completed = 39 FROM iot.command_batch_progress WHERE command_batch_id = '$batch'");
pass('39 of 40 have it');
$session->query('COMMIT');
is(finished($batch), 'COMPLETED|0|0|40|0', 'and the last one follows');
$sim->stop;
$iot->node->stop;

done_testing();
