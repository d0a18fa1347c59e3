# iot.install() while workers are at work, as iot.check() tells people to call it: it waits for them and
# they for it, and nobody is the victim of a deadlock.

use strict;
use warnings;

use Test::More;

use IotTest;

my $broker = IotTest::Broker->new('main');
my $iot = IotTest->new('main', conf => "deadlock_timeout = 100ms\n");

$iot->parameter('temperature', min => 0, max => 100);
$iot->device('boiler-1', ['temperature']);
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => ['boiler-1'], rate => 20, parameters => 'temperature=20');
$iot->poll('SELECT count(*) > 20 FROM iot.measurement');

for my $turn (1 .. 8)
{
	my $before = $iot->psql('SELECT count(*) FROM iot.measurement');

	$iot->psql('SELECT iot.install()');
	is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 20 + $turn))->{status}, 'COMPLETED',
		"turn $turn: commands are carried out afterwards");
	$iot->poll("SELECT count(*) > $before FROM iot.measurement");
}
unlike(PostgreSQL::Test::Utils::slurp_file($iot->node->logfile), qr/deadlock detected/, 'no deadlock');
done_testing();
