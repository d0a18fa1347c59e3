# A copy is not the original (I28): a cloned database keeps silent until iot.resume(), while the
# original goes on.  A promoted standby is the original: it starts by itself, under another epoch
# (I37).

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main', init => { allows_streaming => 1 });
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature');
$iot->psql(q{UPDATE iot.device_type SET ack_timeout = '1 h' WHERE name = 'default'});
$iot->device($_, ['temperature']) foreach qw(boiler-1 boiler-2);
$iot->use_broker($broker);
my $simulator = $iot->simulator($broker, devices => ['boiler-1']);
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 20))->{status}, 'COMPLETED',
	'the original works');
# boiler-2 never answers
my $in_flight = $iot->psql(q{SELECT iot.send_command('boiler-2', 'temperature', 30, ttl => '1 day')});
$iot->poll(qq{SELECT attempts = 1 FROM iot.command WHERE command_id = '$in_flight'});
my $epoch = $iot->psql('SELECT epoch FROM iot.epoch');

sub follow
{
	my ($databases) = @_;

	$iot->psql("ALTER SYSTEM SET iot.databases = $databases");
	$iot->psql('SELECT pg_reload_conf()');
	return;
}

# A template must have no sessions.
follow("''");
$iot->poll(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN
	('iot notifier', 'iot mqtt adapter')});
$iot->node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE iot');
my $watch = $broker->watch('iot/+/command');
follow('iot, copy');
$iot->poll('SELECT paused FROM iot.epoch', database => 'copy');
isnt($iot->psql('SELECT epoch FROM iot.epoch', database => 'copy'), $epoch, 'the copy has its own epoch');
is($iot->psql('SELECT epoch, paused FROM iot.epoch'), "$epoch|f", 'the original keeps its own');
$iot->poll(q{SELECT count(*) > 0 AND bool_and(w.state = 'idle' AND w.detail LIKE 'paused%')
	FROM iot_internal.workers() w WHERE w.kind = 'notifier'}, database => 'copy');
is($iot->psql(q{SELECT count(*) FROM iot_internal.workers() w WHERE w.state = 'connected'},
		database => 'copy'), 0, 'its workers idle, and no adapter of it has a link');

my $of_copy = $iot->psql(q{SELECT iot.send_command('boiler-1', 'temperature', 66, ttl => '1 day')},
	database => 'copy');
my $of_original = $iot->send_command('boiler-1', 'temperature', 21);
is($iot->wait_for_command($of_original)->{status}, 'COMPLETED', 'commands of the original go on');
is($iot->psql("SELECT status FROM iot.command WHERE command_id = '$of_copy'", database => 'copy'),
	'COMMITTED', 'a command of the copy waits');
is($iot->psql("SELECT count(*) FROM iot.saga_step WHERE command_id = '$of_copy' AND service = 'adapter'",
		database => 'copy'), 0, 'untouched');

# Resumed, under a client id of its own, since two clients of one id take turns at throwing each
# other out.
$iot->psql(q{UPDATE iot.adapter SET options = '{"client_id": "copy"}' WHERE name = 'mqtt';
	SELECT iot.resume()}, database => 'copy');
$iot->poll("SELECT status = 'COMPLETED' FROM iot.command WHERE command_id = '$of_copy'",
	database => 'copy');
pass('after iot.resume() it goes out');
$iot->poll(qq{SELECT status = 'CANCELLED' FROM iot.command WHERE command_id = '$in_flight'},
	database => 'copy');
is($iot->psql("SELECT status FROM iot.command WHERE command_id = '$in_flight'"), 'COMMITTED',
	'what was in flight ends in the copy, and stays with the original');
my %sent;
$sent{ $_->{json}{id} }++ foreach $watch->messages;
is_deeply([ sort keys %sent ], [ sort $in_flight, $of_original, $of_copy ],
	'on the wire: what the original had in flight, its command, and at last that of the copy');
is($sent{$in_flight}, 1, 'and nothing twice');
follow('iot');
$iot->poll(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'iot%'
	AND datname = 'copy'});

# A standby: no worker, no word; status() works there.
$iot->node->backup('base');
my $node = PostgreSQL::Test::Cluster->new('standby');
$node->init_from_backup($iot->node, 'base', has_streaming => 1);
$node->start;
my $standby = IotTest->from_node($node);
$iot->node->wait_for_catchup($node);
is($standby->psql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'iot %'}), 0,
	'a standby runs no worker');
is($standby->psql(q{SELECT iot.status() ->> 'state'}), 'standby', 'status() works on it');
like($standby->psql('SELECT finding FROM iot.check()'), qr/is a standby/, 'and so does check()');

my $before = $iot->send_command('boiler-1', 'temperature', 22);
$iot->wait_for_command($before);
$iot->node->wait_for_catchup($node);
$iot->node->stop;
my $took = elapsed(
	sub {
		$node->promote;
		$standby->poll(q{SELECT count(*) = 2 FROM iot_internal.workers() w
			WHERE w.kind = 'notifier' AND w.state = 'running'
				OR w.adapter IS NOT NULL AND w.state = 'connected'});
	});
cmp_ok($took, '<', 5, 'I37: after a promotion the workers are there within five seconds');
$standby->poll(qq{SELECT epoch <> '$epoch' FROM iot.epoch});
is($standby->psql('SELECT paused, timeline FROM iot.epoch'), 'f|2',
	'I28: the epoch is another, and nothing is paused');
is($standby->wait_for_command($standby->send_command('boiler-1', 'temperature', 23))->{status},
	'COMPLETED', 'and a command reaches its device');

done_testing();
