# Daemons and servers come and go: nobody misses anything (I27), nobody gets in while the database
# is away (I40), and of two daemons one records a delivery.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotNotify;
use IotWebSocket;

my $iot = IotTest->new('main', databases => '');
setup_push($iot);
my $push = $iot->pushd;

sub ready
{
	my ($user, $daemon, %position) = @_;
	my $ws = IotWebSocket->new(port => ($daemon || $push)->port);

	$ws->{ready} = $ws->auth(($daemon || $push)->token($user));
	$ws->subscribe(1, %position);
	return $ws;
}

sub seqs { return [ map { $_->{seq} } @_ ]; }

sub metric
{
	my ($name, $daemon) = @_;
	my ($value) = (($daemon || $push)->http_get('/metrics'))[1] =~ /^iot_pushd_$name (\d+)$/m;

	return $value;
}

sub all_recorded
{
	return $iot->poll("SELECT count(*) = 0 FROM iot.delivery WHERE status = 'PENDING'");
}

# I27: the daemon is restarted under a connected client
foreach my $how (qw(TERM KILL))
{
	my $start = notify($iot, recipients => ['anna']);
	my $anna = ready('anna', $push, after_seq => $start - 1);
	my @expected = ($start, notify_many($iot, 20, recipients => ['anna']));
	my @got = @{ seqs($anna->events(21)) };

	if ($how eq 'TERM')
	{
		is($push->stop, 0, 'SIGTERM ends the daemon with status 0');
		is($anna->closed, 1001, 'clients are told that it goes away');
	}
	else
	{
		# what a killed daemon did not write down would rightly be told again
		all_recorded();
		$push->kill9;
		is($anna->closed, 1006, 'kill -9 tells nobody');
	}
	push @expected, notify_many($iot, 30, recipients => ['anna']);
	$push->spawn;
	$push->wait_healthy;
	$anna = ready('anna', $push, after_seq => $got[-1], epoch => $anna->{ready}{epoch});
	push @expected, notify_many($iot, 10, recipients => ['anna']);
	push @got, @{ seqs($anna->events(40)) };
	is_deeply(\@got, \@expected, "I27: SIG$how of the daemon: no gap, nothing twice");
	all_recorded();
	$anna->close;
}
ok(all_recorded(), 'everything is recorded in the end');

# the server is restarted: open sockets stay, and go on
foreach my $how (qw(fast immediate))
{
	my $anna = ready('anna');
	my $log = $push->log_size;
	my @expected = notify_many($iot, 3, recipients => ['anna']);
	my @got = @{ seqs($anna->events(3)) };

	# not so recent that an immediate stop could forget it
	wait_delivered($iot, $expected[-1], 'anna');
	$iot->psql('CHECKPOINT');
	$iot->node->stop($how);
	poll_until(sub { ($push->http_get('/healthz'))[0] == 503 }, 'the daemon knows');
	is(IotWebSocket->status_of(port => $push->port), 503, "I40: $how stop: no new socket");
	my $half = IotWebSocket->new(port => $push->port, upgrade => 0);
	$anna->silent(0.5);
	is(metric('ready_sockets'), 1, 'open sockets stay');
	is(metric('database_up'), 0, 'and the figures tell');
	$iot->node->start;
	push @expected, notify_many($iot, 3, recipients => ['anna']);
	push @got, @{ seqs($anna->events(3)) };
	is_deeply(\@got, \@expected, 'and go on when it is back, without a gap');
	$push->wait_for_log(qr/database is connected/, $log);
	$anna->close;
}
my $log = $push->log_content;
my $outages = () = $log =~ /database is away/g;
cmp_ok($outages, '<=', 8, 'an outage is told once per reason, not per attempt');

# a socket that is about to become ready when the database goes
{
	my $session = $iot->session;
	my $ws = IotWebSocket->new(port => $push->port);

	$iot->node->stop('fast');
	poll_until(sub { ($push->http_get('/healthz'))[0] == 503 }, 'the daemon knows');
	$ws->send({ op => 'auth', token => $push->token('anna') });
	is($ws->closed, 1013, 'I40: an open socket without a user does not become ready');
	$iot->node->start;
	$push->wait_healthy;
}

# a server that hangs
{
	my $anna = ready('anna');
	my $pid = $iot->psql(
		"SELECT pid FROM pg_stat_activity WHERE application_name = 'iot-pushd'");

	kill 'STOP', $pid;
	my $ws = IotWebSocket->new(port => $push->port);
	$ws->send({ op => 'auth', token => $push->token('anna') });
	is($ws->closed, 1013, 'I40: a server that hangs lets nobody in');
	kill 'KILL', $pid;
	$push->wait_healthy;
	my $seq = notify_after_restart();
	is($anna->event->{seq}, $seq, 'and open sockets survive it');
	$anna->close;
}

sub notify_after_restart
{
	$iot->poll('SELECT true');
	return notify($iot, recipients => ['anna']);
}

# the connection is cut over and over while notifications are made
{
	my $anna = ready('anna');
	my (@expected, @got);

	foreach my $round (1 .. 5)
	{
		push @expected, notify_many($iot, 4, recipients => ['anna']);
		$iot->psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
			  . " WHERE application_name = 'iot-pushd'");
		push @expected, notify_many($iot, 4, recipients => ['anna']);
		push @got, @{ seqs($anna->events(8)) };
	}
	is_deeply(\@got, \@expected, 'five lost connections: no gap, nothing twice, in order');
	wait_delivered($iot, $expected[-1], 'anna');
	$anna->close;
}

# nobody else may ask what the daemon asks
{
	my $other = $iot->pushd(conninfo => $iot->node->connstr('postgres') . ' user=push_daemon',
		wait => 0);

	$other->wait_for_log(qr/database is away: .*iot_internal/);
	is(($other->http_get('/healthz'))[0], 503, 'a database without the extension is none');
	$other->stop;
	$iot->psql('CREATE ROLE stranger LOGIN');
	$other = $iot->pushd(conninfo => $iot->node->connstr('iot') . ' user=stranger', wait => 0);
	$other->wait_for_log(qr/database is away: .*permission denied/);
	$other->stop;
	$other = $iot->pushd(conninfo => 'host=127.0.0.1 port=1 dbname=none', wait => 0);
	$other->wait_for_log(qr/database is away: .*(?i:refused)/);
	is(IotWebSocket->status_of(port => $other->port), 503, 'I40: nor is one that is not there');
	$other->stop;
	is($iot->psql(<<'EOC'), '', 'the daemon writes and reads nothing but through its functions');
SELECT c.relname FROM pg_class c
	WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p', 'v')
		AND (has_table_privilege('iot_pushd', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
			OR has_table_privilege('iot_pushd', c.oid, 'SELECT')
				AND c.relname NOT IN ('epoch', 'schema_version', 'retention', 'maintenance', 'worker'))
	ORDER BY 1
EOC
}

# two daemons: each tells those who are connected to it, one records
{
	my $second = $iot->pushd(key => $push->{key});
	my @daemons = ($push, $second);
	my @before = map { metric('deliveries_recorded_total', $_) } @daemons;
	my @sockets = map { ready('anna', $_), ready('bert', $_) } @daemons;
	my @seqs = map { notify_many($iot, 50, recipients => [ 'anna', 'bert' ]) } 1 .. 4;

	is_deeply(seqs($_->events(200)), \@seqs, 'two daemons: every socket is told all, in order')
	  foreach @sockets;
	$iot->poll("SELECT count(*) = 0 FROM iot.delivery WHERE status = 'PENDING'");
	poll_until(
		sub {
			my @after = map { metric('deliveries_recorded_total', $_) } @daemons;
			return $after[0] + $after[1] - $before[0] - $before[1] >= 400
			  && metric('unrecorded_deliveries', $push) + metric('unrecorded_deliveries', $second)
			  == 0;
		},
		'both have recorded');
	my @after = map { metric('deliveries_recorded_total', $_) } @daemons;
	is($after[0] + $after[1] - $before[0] - $before[1], 400, 'each delivery is recorded once');
	is($iot->psql('SELECT count(*) FROM iot.delivery WHERE delivered_at IS NULL'), 0,
		'and all of them are');

	# the client moves to the other daemon
	my $position = $seqs[-1];
	$push->stop;
	my @missed = notify_many($iot, 5, recipients => ['anna']);
	my $moved = ready('anna', $second, after_seq => $position);
	is_deeply(seqs($moved->events(5)), \@missed, 'I27: a client may go on at another daemon');
	$push->spawn;
	$push->wait_healthy;
	$_->drop foreach @sockets, $moved;
	$second->stop;
}

# a whole server that becomes another one (a promotion has a new timeline): positions end
{
	my $anna = ready('anna', $push,
		after_seq => 0 + $iot->psql('SELECT max(seq) FROM iot.notification'));

	$iot->psql('UPDATE iot.epoch SET timeline = timeline + 7');
	$iot->psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		  . " WHERE application_name = 'iot-pushd'");
	my $reset = $anna->expect('reset');
	is($reset->{reason}, 'epoch', 'I28: another timeline is another epoch, and the daemon sees it');
	is($reset->{epoch}, $iot->psql('SELECT epoch FROM iot.epoch'), '... and tells it');
	my $seq = notify($iot, recipients => ['anna']);
	is($anna->event->{seq}, $seq, '... and goes on');
	$anna->close;
}

done_testing();
