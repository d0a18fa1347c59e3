# A standby has no workers; after its promotion they start within five seconds (I37), and the
# epoch has changed (I28).

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use Test::More;

use IotTest;

my $iot = IotTest->new('main', init => { allows_streaming => 1 });
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature', min => 0, max => 100);
$iot->device('boiler-1', ['temperature']);
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => ['boiler-1'], drop_seen => 1);
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 1))->{status},
	'COMPLETED', 'the primary works');
my $epoch = $iot->psql('SELECT epoch FROM iot.epoch');

$iot->node->backup('base');
my $node = PostgreSQL::Test::Cluster->new('standby');
$node->init_from_backup($iot->node, 'base', has_streaming => 1);
$node->start;
my $standby = IotTest->from_node($node);
$iot->node->wait_for_catchup('standby', 'replay');
is($standby->psql('SELECT value FROM iot.sensor_value'), '1', 'the standby follows');
is(scalar($standby->workers), 0, 'I37: and has no workers');

# the primary dies with a command that its device has not answered
$sim->suspend;
my $watch = $broker->watch('iot/boiler-1/command');
my $open = $iot->psql("SELECT iot.send_command('boiler-1', 'temperature', 2, ttl => '1 min')");
$watch->wait_for(1);
$iot->node->wait_for_catchup('standby', 'replay');
$iot->node->stop('immediate');
$sim->resume;

my $seconds = elapsed(
	sub {
		$node->promote;
		$standby->poll("SELECT count(*) = 1 FROM pg_stat_activity"
			  . " WHERE backend_type = 'iot mqtt adapter'");
	});
cmp_ok($seconds, '<', 5, sprintf('I37: workers start after a promotion (%.2f s)', $seconds));
is($standby->wait_for_command($open)->{status}, 'COMPLETED', 'a command in flight is completed');
is($standby->wait_for_command($standby->send_command('boiler-1', 'temperature', 3))->{status},
	'COMPLETED', 'and new ones go through');
isnt($standby->psql('SELECT epoch FROM iot.epoch'), $epoch, 'I28: the epoch has changed');
is($standby->psql('SELECT paused FROM iot.epoch'), 'f', 'without a pause: it is no copy');

done_testing();
