# Both scenarios of the saga on a real server, a real broker and a simulated device: a command that
# is carried out, and one that the device refuses and that is rolled back.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature', unit => '°C', min => 0, max => 100);
$iot->device('boiler-1', ['temperature']);
$iot->use_broker($broker);
my $sim = $iot->simulator(
	$broker,
	devices => ['boiler-1'],
	parameters => 'temperature=20',
	jitter => 0,
	rate => 1,
	messages => 1,
	refuse_above => 80,
	drop_seen => 1);
$iot->poll("SELECT count(*) = 1 FROM iot.last_values('boiler-1') WHERE value = 20");
pass('what the device reports is its value');

my $done = $iot->send_command('boiler-1', 'temperature', 65);
is($iot->psql("SELECT iot.wait_for_command('$done')"), 'COMPLETED', 'a command is carried out');
is($iot->psql("SELECT value FROM iot.last_values('boiler-1')"), '65', 'its value holds');
is(
	$iot->psql("SELECT string_agg(type, ' ' ORDER BY id) FROM iot.event WHERE aggregateid = '$done'"),
	'command.value_set dm.value_set_approved adapter.value_set_sent',
	'its events, in order');
is(
	$iot->psql(
		"SELECT string_agg(service || ' ' || status, ', ' ORDER BY service)"
		  . " FROM iot.saga_step WHERE command_id = '$done'"),
	'adapter COMPLETED, device COMMITTED',
	'its steps');

my $refused = $iot->send_command('boiler-1', 'temperature', 95);
is($iot->psql("SELECT iot.wait_for_command('$refused')"), 'CANCELLED', 'a refused one is cancelled');
is($iot->psql("SELECT value FROM iot.last_values('boiler-1')"), '65', 'the value before is back');
is(
	$iot->psql(
		"SELECT string_agg(type, ' ' ORDER BY id) FROM iot.event WHERE aggregateid = '$refused'"),
	'command.value_set dm.value_set_approved adapter.value_set_error dm.value_set_cancelled',
	'its events, in order');
is(
	$iot->psql(
		"SELECT string_agg(service || ' ' || status, ', ' ORDER BY service)"
		  . " FROM iot.saga_step WHERE command_id = '$refused'"),
	'adapter FAILED, device CANCELLED',
	'its steps');
like($iot->psql("SELECT error FROM iot.command WHERE command_id = '$refused'"),
	qr/above the device's limit/, 'the reason is the one that the device gave');

my $out = $iot->send_command('boiler-1', 'temperature', 101);
is($iot->psql("SELECT iot.wait_for_command('$out')"), 'FAILED',
	'one that is out of bounds fails at once');

my @executed = $sim->executed;
is_deeply([ map { $_->{id} } @executed ], [$done], 'the device carried out the first one alone');

like($iot->psql_error("SELECT * FROM iot.last_values('boiler-9')"), qr/42704.*"boiler-9" does not exist/s,
	'values of an unknown device are an error');

done_testing();
