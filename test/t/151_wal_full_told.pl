# There is no room for the WAL while people are told of things: where the notifier commits, then for what the
# daemon writes down, then nowhere, so that the server cannot recover before somebody makes room.  Sockets
# stay open meanwhile, and nothing is lost; only what was written down in the last instant before the
# server fell may be told again, as doc/push.md says (I17, I25, I33).

use strict;
use warnings;

use Test::More;

use IotTest;
use IotTest::FullDisk;
use IotTest::Receiver;
use IotWebSocket;

my $iot = IotTest->new('main', conf => "autovacuum = off\nbgwriter_lru_maxpages = 0\n");
my $receiver = IotTest::Receiver->new('main');
my $push = $iot->pushd;
my $node = $iot->node;

$iot->user('anna', level => 'view');
my $device = $iot->device('boiler-1', []);
$iot->psql(sprintf(q{UPDATE iot.notification_rule SET enabled = false;
	INSERT INTO iot.webhook (name, url) VALUES ('hook', '%s');
	INSERT INTO iot.notification_rule (name, event, title) VALUES ('told', 't.*', '{value}');
	INSERT INTO iot.notification_rule (name, event, channel, audience, title)
		VALUES ('hook', 't.hook', 'webhook', 'webhook:hook', '{value}')}, $receiver->url('/ok')));

# Events that are committed, numbered from the next on; again, where the server falls before it commits them.
my $emitted = 0;

sub emit
{
	my ($type, $count) = @_;
	my $insert = sprintf(q{INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
		SELECT iot_internal.uuidv7(), 'test', 'x', '%s', jsonb_build_object('value', n), '%s'
			FROM generate_series(%d, %d) n}, $type, $device, $emitted + 1, $emitted + $count);

	$emitted += $count;
	poll_until(sub {
		my ($failed, $there) = $node->psql($iot->db,
			"SELECT count(*) FROM iot.event WHERE payload ->> 'value' = '$emitted'");
		$node->psql($iot->db, $insert) unless $failed || $there;
		return !$failed && $there;
	}, 'events are committed');
	return;
}

# What the socket is told for the first time, until all that was emitted is.
my %told;

sub news
{
	my ($ws) = @_;
	my @news;

	until ($told{$emitted})
	{
		my $title = $ws->event->{title};

		push @news, $title unless $told{$title}++;
	}
	return join ' ', @news;
}

# What was told is written down, and on disk, for which the daemon does not wait: a commit that does.
sub all_recorded
{
	$iot->poll(q{SELECT count(*) = 0 FROM iot.delivery WHERE status <> 'DELIVERED'});
	$iot->psql(q{SELECT pg_logical_emit_message(true, 'test', '')});
	return;
}

sub notifier_pid
{
	return $iot->psql(q{SELECT pid FROM iot_internal.worker_slots() WHERE kind = 'notifier'});
}

# The segments that are written now and next.
sub wal_files { return glob $node->data_dir . '/pg_wal/0*'; }

sub panics { return scalar grep { /PANIC/ } split /\n/, $iot->log_content($_[0]); }

my $ws = $push->connect('anna');
$ws->subscribe(1);
emit('t.hook', 1);
my $first = news($ws);
all_recorded();

# the notifier
my $log = $iot->log_size;
my $full = no_room(pids => [ notifier_pid() ], when => 1, files => [ wal_files() ]);
plan skip_all => 'strace may not attach to a process here' unless $full;
is($first, '1', 'a user and a webhook are told');
emit('t.hook', 20);
$iot->wait_for_log(qr/PANIC: [^\n]*No space left on device/, $log);
$iot->wait_for_log(qr/database system is ready to accept connections/, $log);
$full->stop;
is(news($ws), join(' ', 2 .. 21),
	'I17: the notifier finds no room for the WAL: each event is told once, in order');
my %keys = map { $_->{headers}{'idempotency-key'} => 1 } $receiver->wait_for('/ok', 21);
is(scalar(keys %keys), 21, 'I25: and sent to the webhook');
all_recorded();
is(panics($log), 1, 'by one restart');

# where the daemon writes down what sockets took, which it has the server's WAL writer flush
$log = $iot->log_size;
my $session = $iot->psql(q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity
	WHERE usename = 'push_daemon' OR backend_type = 'walwriter'});
$full = no_room(pids => [ split / /, $session ], when => 1, files => [ wal_files() ]);
emit('t.told', 20);
$iot->wait_for_log(qr/PANIC: [^\n]*No space left on device/, $log);
$iot->wait_for_log(qr/database system is ready to accept connections/, $log);
$full->stop;
is(news($ws), join(' ', 22 .. 41),
	'I25: the WAL writer finds none: the same socket is told all, in order');
all_recorded();
is(panics($log), 1, 'by one restart');
ok($push->alive, 'the daemon lives');

# the whole server
$log = $iot->log_size;
my ($postmaster) = split /\n/, PostgreSQL::Test::Utils::slurp_file($node->data_dir . '/postmaster.pid');
my $others = $iot->psql(q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE pid <> pg_backend_pid()});
$full = no_room(pids => [ $postmaster, split / /, $others ], follow => 1, files => [ wal_files() ]);
isnt($node->psql($iot->db, q{INSERT INTO iot.parameter (name) VALUES ('lost')}), 0, 'nothing can be committed');
poll_until(sub { panics($log) > 1 }, 'the server cannot recover');
poll_until(sub { ($push->http_get('/healthz'))[0] == 503 }, 'the daemon knows');
is(IotWebSocket->status_of(port => $push->port), 503, 'I40: no new socket while the server is down');
$full->stop;
# it tries again for ever where the checkpointer failed, and is gone where the startup process did
poll_until(sub { !-e $node->data_dir . '/postmaster.pid' || $node->psql($iot->db, 'SELECT 1') == 0 },
	'the server is there or gone');
if (!-e $node->data_dir . '/postmaster.pid')
{
	$node->_update_pid(0);
	$node->start;
}
is($iot->psql(q{SELECT count(*) FROM iot.parameter WHERE name = 'lost'}), '0',
	'the server is back once there is room, without what could not be committed');
emit('t.hook', 20);
is(news($ws), join(' ', 42 .. 61), 'I33: and the socket that stayed open is told what comes');
$receiver->wait_for('/ok', 41);
all_recorded();
is($iot->psql(q{SELECT count(*) || ' ' || count(DISTINCT title) FROM iot.notification WHERE channel = 'push'}),
	'61 61', 'with one notification for each event');
emit('t.told', 1);
is(news($ws), '62', 'and goes on');
is(join(' ', grep { $told{$_} > 1 && ($_ < 22 || $_ > 41) } keys %told), '',
	'nothing is told again but what the WAL writer could not write');

done_testing();
