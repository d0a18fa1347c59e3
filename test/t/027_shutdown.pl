# Whatever the workers wait for on the network, the server does what it is asked within five
# seconds (I35).

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');
my $deaf = IotTest::Broker->new('deaf');

$iot->parameter('temperature', min => 0, max => 100);
$iot->device('boiler-1', ['temperature']);
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => ['boiler-1']);

# one adapter knocks at a door that nobody opens, one at a name that nobody knows
$deaf->suspend;
$iot->use_broker($deaf, name => 'deaf', wait => 0);
$iot->psql("INSERT INTO iot.adapter (name, url) VALUES ('nowhere', 'mqtt://nowhere.invalid')");

# Brings the network into the worst state: each worker in the middle of something.
sub wait_on_network
{
	$iot->poll("SELECT count(*) = 3 FROM iot_internal.worker_slots()"
		  . " WHERE kind = 'mqtt adapter' AND pid IS NOT NULL");
	$iot->poll("SELECT count(*) = 1 FROM iot_internal.worker_slots()"
		  . " WHERE name = 'adapter:mqtt' AND state = 'connected'");
	$iot->poll("SELECT count(*) = 1 FROM iot_internal.worker_slots()"
		  . " WHERE name = 'adapter:deaf' AND state = 'connecting'");
	$broker->suspend;
	$iot->send_command('boiler-1', 'temperature', 1);
	$iot->poll("SELECT count(*) > 0 FROM iot.command WHERE attempts > 0 AND status = 'COMMITTED'");
	return;
}

foreach my $mode ('smart', 'fast', 'immediate')
{
	wait_on_network();
	ends_in_time("$mode shutdown", sub { $iot->node->stop($mode) });
	$broker->resume;
	$iot->node->start;
}

wait_on_network();
ends_in_time('ALTER EXTENSION UPDATE', sub { $iot->psql('ALTER EXTENSION iot UPDATE') });
my $log = $iot->log_size;
my $rows = $iot->psql('SELECT count(*) FROM iot.command');
ends_in_time('DROP EXTENSION', sub { $iot->psql('DROP EXTENSION iot CASCADE') });
$broker->resume;
$iot->wait_for_log(qr/iot worker is idle: extension "iot" is not installed in this database/, $log);
pass('workers say what they wait for');
is($iot->psql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"),
	'3', 'and stay');
is($iot->psql("SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND pid IN"
		  . " (SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'iot %')"),
	'0', 'without holding anything');
my $mark = $broker->log_size;
$iot->psql('CREATE EXTENSION iot');
$iot->wait_for_log(qr/iot worker works again/, $log);
$broker->wait_for_log(qr{ \d iot/\+/command/ack$}m, $mark);
is($iot->psql('SELECT count(*) FROM iot.command'), $rows, 'no row was lost');
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 2))->{status},
	'COMPLETED', 'and the extension works again without a restart of anything');

# another database of the server must not wait for our workers either
$iot->psql('CREATE DATABASE bystander', database => 'postgres');
wait_on_network();
ends_in_time('DROP DATABASE of another database',
	sub { $iot->psql('DROP DATABASE bystander', database => 'postgres') });
$log = $iot->log_size;
ends_in_time('DROP DATABASE WITH (FORCE)',
	sub { $iot->psql('DROP DATABASE iot WITH (FORCE)', database => 'postgres') });
$iot->wait_for_log(qr/iot launcher does not serve database "iot": it does not exist/, $log);
is($iot->psql("SELECT count(*) FROM pg_stat_activity WHERE backend_type IN"
		  . " ('iot notifier', 'iot mqtt adapter')", database => 'postgres'),
	'0', 'and no worker is left');
$broker->resume;
ends_in_time('fast shutdown without a database', sub { $iot->node->stop('fast') });

done_testing();
