# The system's clock is set forward by an hour, and back again, under everything that waits for a time
# (I39): deadlines move once, nobody spins, no command outlives its time by both clocks, and nothing
# that was to be done again later waits for the hour to come round.

use strict;
use warnings;

use POSIX ();
use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotTest::Clock;
use IotTest::Receiver;

my $clock = IotTest::Clock->new;
my $iot = $clock->run(sub { IotTest->new('main') });
my $broker = IotTest::Broker->new('main');
my $receiver = IotTest::Receiver->new('main');
my $push = $iot->pushd(env => { $clock->env });

$clock->set(60);
my $follows = $iot->psql('SELECT extract(epoch FROM clock_timestamp())') > time() + 30;
$clock->set(0);
plan skip_all => 'the server does not go by a clock of ours' unless $follows;

$iot->psql(<<'EOC');
INSERT INTO iot.device_type (name, ack_timeout, max_attempts) VALUES ('mute', '20 min', 1);
INSERT INTO iot.device_type (name, offline_after) VALUES ('chatty', '30 min'), ('brief', '3 s');
UPDATE iot.notification_rule SET enabled = false;
EOC
$iot->psql(sprintf(q{INSERT INTO iot.webhook (name, url) VALUES ('hook', '%s');
	INSERT INTO iot.notification_rule (name, event, channel, audience, title)
		VALUES ('hook', 't.hook', 'webhook', 'webhook:hook', 'told')}, $receiver->url('/ok')));
$iot->user('anna', level => 'view');
$iot->parameter('level');
$iot->psql(sprintf q{INSERT INTO iot.adapter (name, url, enabled)
	VALUES ('away', 'mqtt://127.0.0.1:%d', true)}, free_port());
$iot->device('mute-1', ['level'], type => 'mute');
$iot->device('far-1', ['level'], adapter => 'away');
$iot->device('chatty-1', ['level'], type => 'chatty');
$iot->device("brief-$_", ['level'], type => 'brief') foreach 1, 2;
$iot->device('boiler-1', ['level']);
$iot->psql(q{INSERT INTO iot.alarm_rule (name, kind, parameter_id, device_id, timeout)
	SELECT 'quiet', 'no_data', p.parameter_id, d.device_id, '30 min'
	FROM iot.parameter p, iot.device d WHERE d.name = 'chatty-1'});
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => ['boiler-1']);
$iot->poll(q{SELECT count(*) = 3 FROM iot_internal.worker_slots()
	WHERE name IN ('notifier', 'adapter:mqtt', 'adapter:away') AND pid <> 0});

sub worker_pids
{
	return map { split /\n/ } $iot->psql(q{SELECT pid FROM iot_internal.worker_slots() ORDER BY name});
}

# Seconds of a processor that each worker has used.
sub used
{
	my $ticks = POSIX::sysconf(POSIX::_SC_CLK_TCK());

	return map {
		my $stat = PostgreSQL::Test::Utils::slurp_file("/proc/$_/stat");
		my @fields = split ' ', substr($stat, rindex($stat, ')') + 2);

		($_ => ($fields[11] + $fields[12]) / $ticks);
	} worker_pids();
}

sub says { $broker->publish("iot/$_[0]/telemetry", '{"level":1}'); return; }

sub online { return qq{SELECT coalesce(online, false) FROM iot.fleet WHERE device = '$_[0]'}; }

# A webhook that failed once and is to be tried again.
sub failing_hook
{
	$receiver->stop;
	my $id = $iot->psql(q{INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload)
		VALUES (iot_internal.uuidv7(), 'test', 'x', 't.hook', '{}') RETURNING event_id});

	$iot->poll(qq{SELECT count(*) = 1 FROM iot.delivery d JOIN iot.notification n USING (seq)
		WHERE n.event_id = '$id' AND d.status = 'PENDING' AND d.last_error IS NOT NULL
			AND d.started_at IS NULL});
	return $id;
}

sub hook_delivered
{
	my ($id, $what) = @_;

	$receiver->start;
	$iot->poll(qq{SELECT status = 'DELIVERED' FROM iot.delivery JOIN iot.notification n USING (seq)
		WHERE n.event_id = '$id'});
	pass($what);
	return;
}

# Two commands that nobody will answer: one with its device, one whose adapter has no broker.
sub unanswered
{
	my ($value, $ttl) = @_;
	my @ids = map { $iot->send_command($_, 'level', $value, ttl => $ttl) } 'mute-1', 'far-1';

	$iot->poll("SELECT attempts = 1 FROM iot.command WHERE command_id = '$ids[0]'");
	return @ids;
}

sub over
{
	my @ids = @_;
	my $list = join ', ', map { "'$_'" } @ids;

	$iot->poll("SELECT count(*) = 2 FROM iot.command WHERE command_id IN ($list)"
		  . " AND status = 'CANCELLED'");
	is($iot->psql("SELECT string_agg(n::text, ' ') FROM (SELECT count(*) AS n FROM iot.event"
			  . " WHERE aggregateid IN ($list) AND type IN ('dm.value_set_cancelled', 'adapter.value_set_sent')"
			  . ' GROUP BY aggregateid) e'),
		'1 1', 'I39: one final state each');
	return;
}

# Forward.
my @pids = worker_pids();
my @ids = unanswered(1, '30 min');
my $hook = failing_hook();
my %client = map { $_ => $push->connect('anna', exp => $_) } 1800, 7200;

says('chatty-1');
$iot->poll(online('chatty-1'));
my $log = $iot->log_size;
my $set_at = time();
$clock->set(3600);
over(@ids);
my $took = time() - $set_at;
cmp_ok($took, '<', 5, sprintf('I39: set forward, what is past its deadline ends within %.1f s', $took));
$iot->wait_for_log(qr/the system's clock was set forward by 3[56]\d\d s/, $log);
is($client{1800}->closed, 4001, 'a token that is over by now loses its socket');
$client{7200}->subscribe(1, events => ['*']);
pass('another keeps it');
$iot->poll(q{SELECT silence_at > clock_timestamp() FROM iot.device_state JOIN iot.device USING (device_id)
	WHERE name = 'chatty-1'}, what => 'a sweep by the new time');
is($iot->psql(online('chatty-1')) . $iot->psql(q{SELECT count(*) FROM iot.event WHERE type = 'device.offline'}),
	't0', 'nobody is silent by a clock that was set: each device has its full time again');
$iot->poll(q{SELECT count(*) = 1 FROM iot.alarm WHERE rule = 'quiet' AND status = 'OPENED'});
says('chatty-1');
$iot->poll(q{SELECT count(*) = 1 FROM iot.alarm WHERE rule = 'quiet' AND status = 'CLOSED'});
is($iot->psql(q{SELECT count(*) FROM iot.alarm WHERE rule = 'quiet'}), '1',
	'an alarm for want of data opens once, and the next measurement closes it');
hook_delivered($hook, 'a webhook is tried again, and delivered');
is($iot->wait_for_command($iot->send_command('boiler-1', 'level', 1))->{status}, 'COMPLETED',
	'commands go on');

# And back.
$iot->psql('CALL iot.maintain()');
says('brief-2');
$iot->poll(online('brief-2'));
$iot->poll(q{SELECT silent FROM iot.fleet WHERE device = 'brief-2'});
$hook = failing_hook();
my $sent_at = time();
@ids = unanswered(2, '8 s');
my $waiting = $iot->session->send("SELECT iot.wait_for_command('$ids[0]', '3 s')");
says('brief-1');
$iot->poll(online('brief-1'));
$log = $iot->log_size;
my %before = used();
$set_at = time();
$clock->set(0);
$iot->wait_for_log(qr/the system's clock was set back by 3[56]\d\d s/, $log);
says('brief-2');
like($waiting->receive, qr/ERROR:  55P03: timed out/, 'who waits for a command waits as long as was asked');
my $waited = time() - $sent_at;
$iot->poll(q{SELECT count(*) = 1 FROM iot.event e JOIN iot.device d USING (device_id)
	WHERE e.type = 'device.offline' AND d.name = 'brief-1'});
pass('a device that falls silent is told, and not an hour later');
$iot->poll(q{SELECT count(*) = 2 FROM iot.event e JOIN iot.device d USING (device_id)
	WHERE e.type = 'device.online' AND d.name = 'brief-2'});
pass('and one that speaks again is online');
over(@ids);
$took = time() - $sent_at;
cmp_ok($took, '>', 7.9, 'I39: set back, a command keeps the time that it was given');
cmp_ok($took, '<', 13, sprintf('and has no more: of 8 s, it ended after %.1f s', $took));
cmp_ok($waited, '<', 8, sprintf('the wait for it ended after %.1f s', $waited));
my $list = join ', ', map { "'$_'" } @ids;
is($iot->psql("SELECT bool_and(deadline - created_at = interval '8 s' AND finished_at < deadline + interval '5 s'"
		  . " AND created_at < clock_timestamp()) FROM iot.command WHERE command_id IN ($list)"),
	't', 'by its row, too');
hook_delivered($hook, 'a webhook is tried again within the hour');
$iot->poll('SELECT last_run_at <= clock_timestamp() FROM iot.maintenance');
pass('maintenance is not put off');
is($iot->wait_for_command($iot->send_command('boiler-1', 'level', 2))->{status}, 'COMPLETED',
	'commands go on');

# A worker that span would have used as much as there is.
my $span = time() - $set_at;
my %after = used();
my ($most) = sort { $b <=> $a } map { ($after{$_} - ($before{$_} || 0)) / $span } keys %after;
cmp_ok($most, '<', 0.25, sprintf('I39: no busy loop: the busiest worker took %.0f %% of a processor', 100 * $most));
is_deeply([ worker_pids() ], \@pids, 'and no worker had to be started again');
is(scalar(grep { /(?:ERROR|FATAL|PANIC):/ && !/iot test session/ } split /\n/, $iot->log_content($log)), 0,
	'nor had anything to complain of');

# What nobody saw: the clock is set back while the server is down.
$clock->set(3600);
my ($id) = $iot->send_command('far-1', 'level', 3, ttl => '6 s');
$iot->node->stop;
$clock->set(0);
$sent_at = time();
$clock->run(sub { $iot->node->start });
$iot->poll("SELECT status = 'CANCELLED' FROM iot.command WHERE command_id = '$id'");
is($iot->psql("SELECT finished_at < deadline + interval '5 s' AND deadline - created_at = interval '6 s'"
		  . " FROM iot.command WHERE command_id = '$id'"),
	't', 'I39: set back while the server was down, a command lives no longer than it was given');

done_testing();
