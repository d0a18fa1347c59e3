# The broker is down, silent, or comes back: commands wait until their deadline and then expire
# (I40), nothing that has expired is sent later, and measurements that the broker holds arrive.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature', min => 0, max => 100);
$iot->device("boiler-$_", ['temperature']) foreach 1 .. 3;
$iot->psql("UPDATE iot.device_type SET ack_timeout = '500 ms', max_attempts = 3");
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => [ 'boiler-1', 'boiler-2' ], drop_seen => 1,
	persistent => 1);

# down: one command expires, the other waits and is carried out
my $log = $iot->log_size;
$broker->stop;
$iot->wait_for_log(qr/adapter "mqtt" lost its connection to MQTT broker/, $log);
pass('the log says that the connection is lost');
my $short = $iot->psql("SELECT iot.send_command('boiler-1', 'temperature', 1, ttl => '1 s')");
my $long = $iot->psql("SELECT iot.send_command('boiler-2', 'temperature', 2, ttl => '1 min')");
my $row = $iot->wait_for_command($short);
is($row->{status}, 'CANCELLED', 'I40: a command expires at its deadline while the broker is away');
is($row->{error}, 'timed out', 'as timed out');
is($row->{attempts}, 0, 'without an attempt');
is($iot->psql("SELECT status FROM iot.saga_step WHERE command_id = '$short' AND service = 'adapter'"),
	'FAILED', 'the step of the adapter says so');
is($iot->psql("SELECT status FROM iot.command WHERE command_id = '$long'"),
	'COMMITTED', 'I40: the other one waits');
is($iot->psql("SELECT state FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'"),
	'disconnected', 'operators see that the adapter is not connected');
my $simlog = $sim->log_size;
$broker->start;
is($iot->wait_for_command($long, 20)->{status}, 'COMPLETED',
	'and is carried out when the broker is back');
$iot->wait_for_log(qr/adapter "mqtt" connected to MQTT broker "[^"]+" after \d+ s/, $log);
my @lines = grep { /could not connect to MQTT broker/ } split /\n/, $iot->log_content($log);
cmp_ok(scalar(@lines), '<=', 1, 'an outage makes one line, not one per attempt');
is_deeply([ map { $_->{id} } $sim->executed ], [$long], 'what expired was not sent afterwards');

# What was on the way when the broker died is answered after all.  The device is not there yet.
my $watch = $broker->watch('iot/boiler-3/command');
$iot->psql("UPDATE iot.device_type SET ack_timeout = '2 s'");
my $cut = $iot->send_command('boiler-3', 'temperature', 3);
$watch->wait_for(1);
$broker->kill9;
$broker->start;
my $third = $iot->simulator($broker, devices => ['boiler-3']);
is($iot->wait_for_command($cut)->{status}, 'COMPLETED',
	'a command in flight when the broker was killed is sent again and completed');

# measurements that the broker takes while we are not there
$iot->psql("UPDATE iot.adapter SET enabled = false WHERE name = 'mqtt'");
$iot->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
$broker->publish_lines('iot/boiler-1/telemetry',
	[ map { '{"ts":"' . sprintf('2026-01-01T00:%02d:%02dZ', $_ / 60, $_ % 60)
			. qq(","values":{"temperature":$_}}) } 1 .. 100 ]);
my $range = $iot->psql(
	"SELECT count(*) FROM iot.measurement UNION ALL SELECT count(*) FROM iot.dead_letter");
is($range, "0\n0", 'nobody takes them');
$iot->psql("UPDATE iot.adapter SET enabled = true WHERE name = 'mqtt'");
$iot->poll('SELECT (SELECT count(*) FROM iot.measurement)'
	  . ' + (SELECT count(*) FROM iot.dead_letter) = 100');
pass('I10: what the broker held for us arrives');

# silent: the broker is stopped in its tracks; we neither hang nor lose
$iot->psql("UPDATE iot.device_type SET ack_timeout = '300 ms', max_attempts = 1");
$broker->suspend;
my $stuck = $iot->psql("SELECT iot.send_command('boiler-1', 'temperature', 4, ttl => '2 s')");
is($iot->wait_for_command($stuck)->{status}, 'CANCELLED',
	'a broker that is silent delays no deadline');
$broker->resume;
my $after = $iot->send_command('boiler-2', 'temperature', 5);
like($iot->wait_for_command($after)->{status}, qr/^(?:COMPLETED|CANCELLED)$/,
	'and commands end when it speaks again');
$iot->psql("UPDATE iot.device_type SET ack_timeout = '5 s', max_attempts = 3");
my $well = $iot->send_command('boiler-2', 'temperature', 6);
is($iot->wait_for_command($well)->{status}, 'COMPLETED', 'and are carried out again');

done_testing();
