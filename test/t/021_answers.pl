# What devices do to commands when they do not simply answer: nothing, late, twice, out of order,
# with somebody else's id.  I1, I5, I6.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature', min => -1000, max => 1000);
$iot->psql("UPDATE iot.device_type SET ack_timeout = '300 ms', max_attempts = 2"
	  . " WHERE name = 'default'");
$iot->device($_, ['temperature']) foreach qw(silent late double forger victim ordered flaky);
$iot->use_broker($broker);

# nobody answers
my $watch = $broker->watch('iot/silent/command');
$iot->send_command('silent', 'temperature', 1);
my $id = $iot->psql("SELECT command_id FROM iot.command");
my $row = $iot->wait_for_command($id);
is($row->{status}, 'CANCELLED', 'I1: a command that nobody answers is cancelled');
is($row->{error}, 'timed out', 'it timed out');
is($row->{attempts}, 2, 'after as many attempts as its type allows');
is(scalar($watch->messages), 2, 'each of which was sent');
is($iot->psql("SELECT status || ' ' || error FROM iot.saga_step WHERE service = 'adapter'"),
	'FAILED timed out', 'the adapter says so');
is($iot->psql('SELECT value IS NULL FROM iot.sensor_value'), 't', 'no value is restored too');

# a deadline that comes before the attempts are used up
$iot->psql("UPDATE iot.device_type SET ack_timeout = '1 h' WHERE name = 'default'");
my $sent = $iot->psql("SELECT iot.send_command('silent', 'temperature', 2, ttl => '1 s')");
$row = $iot->wait_for_command($sent);
is($row->{status}, 'CANCELLED', 'I1: a deadline ends a command');
my $after = $iot->psql("SELECT extract(epoch FROM finished_at - deadline) FROM iot.command"
	  . " WHERE command_id = '$sent'");
cmp_ok($after, '<', 5, sprintf('I1: at most five seconds after it (%.2f s)', $after));
cmp_ok(
	$iot->psql("SELECT extract(epoch FROM finished_at - deadline) FROM iot.command"
		  . " WHERE command_id = '$sent'"),
	'>=', 0, 'and not before it');
$iot->psql("UPDATE iot.device_type SET ack_timeout = '300 ms' WHERE name = 'default'");

# an answer after the end is recorded, and changes nothing
my $late = $iot->simulator($broker, devices => ['late'], delay_ms => 1500);
$id = $iot->send_command('late', 'temperature', 5);
$row = $iot->wait_for_command($id);
is($row->{status}, 'CANCELLED', 'I6: an answer that does not come in time is none');
$iot->poll("SELECT late FROM iot.command WHERE command_id = '$id'");
is(scalar(grep { $_->{type} eq 'adapter.value_set_late' }
			$iot->rows("SELECT type FROM iot.event WHERE aggregateid = '$id'")),
	1, 'I6: a late one is recorded once, though both attempts were answered');
is($iot->psql("SELECT status FROM iot.command WHERE command_id = '$id'"),
	'CANCELLED', 'I6: and does not change the end');
is($iot->psql("SELECT desired IS NULL FROM iot.sensor_value v JOIN iot.device d USING (device_id)"
		  . " WHERE d.name = 'late'"), 't', 'nor the value');

# answers three times each
my $double = $iot->simulator($broker, devices => ['double'], answers => 3);
$id = $iot->send_command('double', 'temperature', 6);
is($iot->wait_for_command($id)->{status}, 'COMPLETED', 'I6: an answer that comes thrice counts once');
my $next = $iot->send_command('double', 'temperature', 7);
is($iot->wait_for_command($next)->{status}, 'COMPLETED', 'and the next command goes on');
poll_until(sub { $double->records('answered') >= 6 }, 'six answers were given');
is($iot->psql("SELECT count(*) FROM iot.event WHERE type = 'adapter.value_set_sent'"
		  . " AND aggregateid = '$id'"), '1', 'one event of it');

# one device answers another's command
my $victim = $broker->watch('iot/victim/command');
$id = $iot->send_command('victim', 'temperature', 8);
$victim->wait_for(1);
$broker->publish('iot/forger/command/ack', qq({"id":"$id","ok":true}));
$iot->poll("SELECT count(*) = 1 FROM iot.dead_letter WHERE reason = 'unknown_command'"
	  . " AND device = 'forger'");
pass("an answer to a foreign command is a dead letter");
is($iot->wait_for_command($id)->{error}, 'timed out', 'and does not count');

# a device that drops the ids it has seen executes each once, in version order
my $ordered = $iot->simulator($broker,
	devices => ['ordered'], drop_seen => 1, ignore_first => 1, delay_max_ms => 40);
$iot->psql("UPDATE iot.device_type SET max_attempts = 10 WHERE name = 'default'");
$iot->psql("SELECT iot.send_command('ordered', 'temperature', n) FROM generate_series(1, 20) n");
$iot->poll("SELECT count(*) = 20 FROM iot.command c JOIN iot.device d USING (device_id)"
	  . " WHERE d.name = 'ordered' AND c.status = 'COMPLETED'");
is_deeply([ map { $_->{version} } $ordered->executed ],
	[ 1 .. 20 ], 'I5: each command is carried out once, in the order of versions');
my $times = () = $ordered->records('received');
cmp_ok($times, '>', 20, "I5: though 20 commands were sent $times times");

# at most one of a sensor is unanswered at any time
my @received = $ordered->records('received');
my $highest = 0;
my $out_of_turn = 0;
foreach my $message (@received)
{
	$out_of_turn++ if $message->{version} < $highest;
	$highest = $message->{version} if $message->{version} > $highest;
}
is($out_of_turn, 0, 'the next of a sensor waits until the one before is answered');

# what has ended in the database is not sent any more
my $flaky = $broker->watch('iot/flaky/command');
$iot->psql("UPDATE iot.device_type SET ack_timeout = '1 h' WHERE name = 'default'");
my $first = $iot->send_command('flaky', 'temperature', 1);
$flaky->wait_for(1);
my $second = $iot->psql("SELECT iot.send_command('flaky', 'temperature', 2, ttl => '500 ms')");
is($iot->wait_for_command($second)->{status}, 'CANCELLED',
	'a command that waits for its turn expires as well');
$broker->publish('iot/flaky/command/ack', qq({"id":"$first","ok":true}));
is($iot->wait_for_command($first)->{status}, 'COMPLETED', 'the one before it goes on');
my $third = $iot->send_command('flaky', 'temperature', 3);
my @published = $flaky->wait_for(2);
is_deeply([ map { $_->{json}{id} } @published ], [ $first, $third ],
	'and what expired in the queue is never sent');

# every command ended, and folding its events gives its state
is($iot->psql("SELECT count(*) FROM iot.command WHERE status NOT IN"
		  . " ('COMPLETED', 'FAILED', 'CANCELLED') AND command_id <> '$third'"),
	'0', 'I1: every command has a final state');
my $count = $iot->psql('SELECT count(*) FROM iot.command');
is($iot->psql(<<'EOC'), '0', "I2: events of a command give its stored state, for all $count of them");
SELECT count(*) FROM iot.command c
WHERE c.status <> (SELECT CASE max(CASE e.type
		WHEN 'command.value_set' THEN 1 WHEN 'dm.value_set_approved' THEN 2
		WHEN 'adapter.value_set_sent' THEN 4 WHEN 'adapter.value_set_error' THEN 3
		WHEN 'dm.value_set_cancelled' THEN 5 WHEN 'dm.value_set_error' THEN 6 END)
	WHEN 2 THEN 'COMMITTED' WHEN 4 THEN 'COMPLETED' WHEN 5 THEN 'CANCELLED'
	WHEN 6 THEN 'FAILED' ELSE 'illegal' END
	FROM iot.event e WHERE e.aggregateid = c.command_id::text)
EOC

done_testing();
