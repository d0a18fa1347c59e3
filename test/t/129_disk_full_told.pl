# The disk is full where people are told of things: the notifier cannot write notifications, then the
# database cannot write down what sockets took, then the push daemon cannot write its log.  Nothing is
# lost, nothing ends, no log is flooded, and all goes on by itself once there is room (I17, I25).

use strict;
use warnings;

use Test::More;

use IotTest;
use IotTest::FullDisk;
use IotTest::Receiver;
use IotWebSocket;

my $iot = IotTest->new('main');
my $receiver = IotTest::Receiver->new('main');
my $push = $iot->pushd;

$iot->user('anna', level => 'view');
my $device = $iot->device('boiler-1', []);
$iot->psql(sprintf(q{UPDATE iot.notification_rule SET enabled = false;
	INSERT INTO iot.webhook (name, url) VALUES ('hook', '%s');
	INSERT INTO iot.notification_rule (name, event, title) VALUES ('told', 't.*', '{value}');
	INSERT INTO iot.notification_rule (name, event, channel, audience, title)
		VALUES ('hook', 't.hook', 'webhook', 'webhook:hook', '{value}');
	ALTER TABLE iot.delivery SET (fillfactor = 100)}, $receiver->url('/ok')));

# Events that take some room, numbered from the next on.
my $emitted = 0;

sub emit
{
	my ($type, $count) = @_;

	$iot->psql(sprintf(q{INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
		SELECT iot_internal.uuidv7(), 'test', 'x', '%s', jsonb_build_object('value', n, 'text', (SELECT
			string_agg(md5(n::text || i), '') FROM generate_series(1, 40) i)), '%s'
			FROM generate_series(%d, %d) n},
			$type, $device, $emitted + 1, $emitted + $count));
	$emitted += $count;
	return;
}

sub numbers { return join ' ', map { $_->{title} } @_; }

sub notifier_pid
{
	return $iot->psql(q{SELECT pid FROM iot_internal.worker_slots() WHERE kind = 'notifier'});
}

sub complaints { return scalar grep { /No space left on device/ } split /\n/, $iot->log_content($_[0]); }

sub all_recorded
{
	$iot->poll(q{SELECT count(*) = 0 FROM iot.delivery WHERE status <> 'DELIVERED'});
	return;
}

my $ws = $push->connect('anna');
$ws->subscribe(1);
emit('t.hook', 1);
$ws->events(1);
all_recorded();

# the notifier
my $notifier = notifier_pid();
my $log = $iot->log_size;
my $full = no_room(pids => [$notifier], files => [ table_files($iot, 'notification', 'delivery') ]);
plan skip_all => 'strace may not attach to a process here' unless $full;
emit('t.told', 270);
emit('t.hook', 30);
$iot->wait_for_log(qr/notifier.*could not extend file[^\n]*No space left on device/, $log);
my $failures = q{SELECT (counters ->> 'errors')::bigint FROM iot_internal.worker_slots() WHERE kind = 'notifier'};
my $errors = $iot->psql($failures);
$iot->poll("SELECT ($failures) > $errors + 2", what => 'the notifier tries again');
is(notifier_pid(), $notifier, 'a full disk does not end the notifier');
cmp_ok(complaints($log), '<=', 5, 'nor does it flood the log: ' . complaints($log) . ' lines');
cmp_ok($iot->psql('SELECT count(*) FROM iot.notification'), '<', $emitted, 'not all could be written');
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), '0', 'and no event is blamed');
$full->stop;
is(numbers($ws->events(300)), join(' ', 2 .. 301),
	'I17: with room again, each of 300 events is told once, in order');
my %keys = map { $_->{headers}{'idempotency-key'} => 1 } $receiver->wait_for('/ok', 31);
is(scalar(keys %keys), 31, 'I25: and sent to the webhook that waits for it');
all_recorded();
is(notifier_pid(), $notifier, 'by the same process');

# The database, where it would write down what was told.  New sessions are the server's children.
my $backends = $iot->psql(q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE usename = 'push_daemon'});
my ($postmaster) = split /\n/, PostgreSQL::Test::Utils::slurp_file($iot->node->data_dir . '/postmaster.pid');
$log = $iot->log_size;
$full = no_room(pids => [ $postmaster, split / /, $backends ], follow => 1, files => [ table_files($iot, 'delivery') ]);
emit('t.told', 300);
is(numbers($ws->events(300)), join(' ', 302 .. 601), 'a user is told, though nobody can write it down');
$iot->wait_for_log(qr/push_delivered|No space left on device/, $log);
cmp_ok($iot->psql(q{SELECT count(*) FROM iot.delivery WHERE status <> 'DELIVERED'}), '>', 0,
	'I25: what is not written down stays pending');
ok($push->alive, 'the daemon lives');
$full->stop;
all_recorded();
pass('and with room again all of it is written down');
is(($push->http_get('/healthz'))[0], 200, 'the daemon is well');

# its own log
$full = no_room(pids => [ $push->pid ], calls => 'write,writev', files => [ $push->log_file ]);
my $stranger = IotWebSocket->new(port => $push->port);
$stranger->send({ op => 'auth', token => 'none' });
is($stranger->closed, 4401, 'a bad token is refused');
poll_until(sub { PostgreSQL::Test::Utils::slurp_file($full->{trace}) =~ /ENOSPC/ }, 'a line is lost');
my $another = $push->connect('anna');
$another->subscribe(1);
emit('t.told', 1);
is(join(' ', map { numbers($_->event) } $ws, $another), '602 602', 'a daemon that cannot write its log goes on');
all_recorded();
$full->stop;

done_testing();
