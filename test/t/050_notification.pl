# The notifier: from committed events to notifications, once each, in any commit order, whatever
# becomes of the process; hints to the push daemons until somebody takes a notification.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use IotTest;

my $iot = IotTest->new('main');

$iot->parameter('temperature', unit => '°C', max => 100);
my $device = $iot->device('boiler-1', ['temperature']);
$iot->user('anna', level => 'view');

sub emit_sql
{
	my ($type, $payload) = @_;

	return sprintf(q{INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload,
		device_id) VALUES (iot_internal.uuidv7(), 'test', 'x', '%s', '%s', '%s') RETURNING event_id},
		$type, $payload || '{}', $device);
}

sub told { my ($event_id) = @_; return "SELECT count(*) = 1 FROM iot.notification WHERE event_id = '$event_id'"; }

# a refused command is told, in words
my $listener = $iot->session;
$listener->query_safe('LISTEN iot_push');
my $command = $iot->send_command('boiler-1', 'temperature', 200);
$iot->poll(qq{SELECT count(*) = 1 FROM iot.notification WHERE body ->> 'command_id' = '$command'});
my ($notification) = $iot->rows(qq{SELECT * FROM iot.notification WHERE body ->> 'command_id' = '$command'});
is($notification->{event}, 'dm.value_set_error', 'a refusal is told');
like($notification->{title}, qr/^boiler-1: temperature cannot be set to 200 .+C$/, 'by the rule\'s template');
is($notification->{body}{text}, $notification->{body}{error}, 'with the reason');
is($iot->psql(q{SELECT string_agg(recipient, ',') FROM iot.delivery}), 'anna', 'to who may view the device');
poll_until(sub { $listener->query_safe('SELECT 1') =~ /Asynchronous notification "iot_push" received/ },
	'the hint arrives');
unlike($listener->query_safe('SELECT 1'), qr/with payload/, 'hints carry no data');

# nobody takes it: it stays, and is hinted at again and again, more and more seldom
$iot->poll(q{SELECT attempts >= 3 AND status = 'PENDING' AND next_attempt_at > now() FROM iot.delivery},
	timeout => 30);
poll_until(sub { $listener->query_safe('SELECT 1') =~ /iot_push/ }, 'it is hinted at again');
is($iot->psql(q{SELECT last_error FROM iot.delivery}), 'no eligible user was connected', 'and says why');
$iot->psql(q{UPDATE iot.delivery SET status = 'DELIVERED', delivered_at = now()});

$iot->psql(q{UPDATE iot.notification_rule SET enabled = false;
	INSERT INTO iot.notification_rule (name, event, title) VALUES ('test', 't.*', '{event}')});

# I18, I17: a transaction that stays open delays its own events alone, and they are not missed
my $slow = $iot->session;
$slow->query_safe('BEGIN');
my ($slow_id) = $slow->query_safe(emit_sql('t.slow')) =~ /([0-9a-f-]{36})/;
my $worst = 0;
for my $i (1 .. 8)
{
	my $start = time();
	my $id = $iot->psql(emit_sql('t.fast'));

	$iot->poll(told($id));
	my $took = time() - $start;
	$worst = $took if $took > $worst;
}
cmp_ok($worst, '<', 1.5, sprintf('I18: others are told meanwhile, the slowest after %.2f s', $worst));
is($iot->psql(qq{SELECT count(*) FROM iot.notification WHERE event_id = '$slow_id'}), 0, 'the open one is not told yet');
$slow->query_safe('COMMIT');
ok($iot->poll(told($slow_id), timeout => 5), 'I17: and it is, once committed, though later ones went before');

# many writers that commit out of order, some of them never
my @writers = map { $iot->session } 1 .. 6;
for my $round (1 .. 40)
{
	$_->query_safe('BEGIN') for @writers;
	$_->query_safe(emit_sql('t.many', qq({"round":$round}))) for @writers;
	$writers[ ($_ * 5 + $round) % 6 ]->query_safe(($round + $_) % 4 == 0 ? 'ROLLBACK' : 'COMMIT') for 0 .. 5;
}
$iot->poll(q{SELECT count(*) = (SELECT count(*) FROM iot.event WHERE type = 't.many')
	FROM iot.notification WHERE event = 't.many'}, timeout => 20);
is($iot->psql(q{SELECT count(*) - count(DISTINCT event_id) FROM iot.notification}), 0, 'I17: all of them, once each');
is($iot->psql(q{SELECT bool_and(n.event_at = e.created_at) FROM iot.notification n JOIN iot.event e USING (event_id)}), 't',
	'under the time of the event');
$_->close for @writers;

# a prepared transaction has no commit that could wake anybody
$iot->psql('BEGIN; ' . emit_sql('t.prepared') . "; PREPARE TRANSACTION 'told'");

my $prepared = time();
$iot->psql(q{COMMIT PREPARED 'told'});
$iot->poll(q{SELECT count(*) = 1 FROM iot.notification WHERE event = 't.prepared'}, timeout => 5);
cmp_ok(time() - $prepared, '<', 2, 'a prepared transaction is told of after its commit');

# I19: without wake-ups
$iot->psql('ALTER SYSTEM SET iot.wakeups = off; SELECT pg_reload_conf()');
$iot->poll(q{SELECT setting = 'off' FROM pg_settings WHERE name = 'iot.wakeups'});
$worst = 0;
for my $i (1 .. 8)
{
	my $id = $iot->psql(emit_sql('t.silent'));
	$iot->poll(told($id));
	my $latency = $iot->psql(qq{SELECT extract(epoch FROM created_at - event_at) FROM iot.notification WHERE event_id = '$id'});
	$worst = $latency if $latency > $worst;
}
cmp_ok($worst, '<', 1, sprintf('I19: polling alone tells within %.2f s', $worst));
$iot->psql('ALTER SYSTEM RESET iot.wakeups; SELECT pg_reload_conf()');
$iot->poll(q{SELECT setting = 'on' FROM pg_settings WHERE name = 'iot.wakeups'});

# I23: the process ends in the middle of a stream of events; nothing is lost or told twice
my $stream = $iot->session;
for my $round (1 .. 3)
{
	$stream->send('DO $$ BEGIN FOR i IN 1 .. 300 LOOP ' . emit_sql("t.stream") =~ s/ RETURNING event_id//r
		. '; COMMIT; END LOOP; END $$');
	$iot->poll(q{SELECT count(*) > 0 FROM iot.notification WHERE event = 't.stream'});
	# the one before may have told all before it ended
	my $notifier = poll_until(sub { [ $iot->workers('iot notifier') ]->[0] }, 'the notifier runs');
	my $pid = $notifier->{pid};
	is($iot->psql("SELECT pg_terminate_backend($pid, 5000)"), 't', 'the notifier is ended');
	$stream->receive;
	my $start = time();
	my $expected = $round * 300;
	$iot->poll(qq{SELECT count(*) = $expected FROM iot.notification WHERE event = 't.stream'}, timeout => 20);
	cmp_ok(time() - $start, '<', 10, 'I23: the next one goes on');
}
is($iot->psql(q{SELECT count(*) - count(DISTINCT event_id) FROM iot.notification}), 0, 'each event was told once');
$stream->close;

# killed outright, which restarts the server
$listener->close;
$slow->close;
$iot->poll(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'iot notifier'});
my ($victim) = map { $_->{pid} } $iot->workers('iot notifier');
my $mark = $iot->log_size;
kill('KILL', $victim);
$iot->wait_for_log(qr/database system is ready to accept connections/, $mark);
my $after_id;
poll_until(sub { $after_id = eval { $iot->psql(emit_sql('t.after')) } }, 'the server is back');
ok($iot->poll(told($after_id), timeout => 20), 'I33: after a crash of the server it goes on');
is($iot->psql(q{SELECT count(*) - count(DISTINCT event_id) FROM iot.notification}), 0, 'and still tells once');

# an event that cannot be told is set aside and stops nothing
$iot->psql(q{CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN RAISE EXCEPTION 'refused by a trigger' USING ERRCODE = 'check_violation'; END $$;
	CREATE TRIGGER refuse BEFORE INSERT ON iot.notification FOR EACH ROW
	WHEN (NEW.body ? 'poison') EXECUTE FUNCTION public.refuse()});
$mark = $iot->log_size;
($victim) = map { $_->{pid} } $iot->workers('iot notifier');
$iot->psql('BEGIN; ' . join('; ', map { emit_sql('t.mixed', $_ == 7 ? '{"poison":true}' : '{}') } 1 .. 20) . '; COMMIT');
$iot->poll(q{SELECT count(*) = 19 FROM iot.notification WHERE event = 't.mixed'}, timeout => 20);
$iot->poll(q{SELECT count(*) = 1 FROM iot.dead_letter WHERE reason = 'notification_failed'});
is($iot->psql(q{SELECT device || ' ' || topic || ' ' || error FROM iot.dead_letter WHERE reason = 'notification_failed'}),
	'boiler-1 t.mixed refused by a trigger', 'I13: what cannot be told is a dead letter');
is(($iot->workers('iot notifier'))[0]{pid}, $victim, 'and the notifier never stopped');
$iot->psql('DROP TRIGGER refuse ON iot.notification');

# a rule that changes counts for what comes after
$iot->psql(q{UPDATE iot.notification_rule SET enabled = false WHERE name = 'test';
	INSERT INTO iot.notification_rule (name, event, title) VALUES ('other', 'o.*', 'other')});
$iot->psql(emit_sql('t.unheard'));
my $heard = $iot->psql(emit_sql('o.heard'));
$iot->poll(told($heard));
is($iot->psql(q{SELECT count(*) FROM iot.notification WHERE event = 't.unheard'}), 0, 'a disabled rule is silent');

# what the worker says of itself
$iot->poll(q{SELECT state = 'running' AND heartbeat_at > now() - interval '15 s' FROM iot.worker WHERE name = 'notifier'});
pass('it reports');

# a copy is silent until somebody resumes it; then it tells what happened meanwhile
$mark = $iot->log_size;
$iot->psql('UPDATE iot.epoch SET paused = true');
$iot->wait_for_log(qr/iot worker is idle: paused/, $mark);
my $quiet = $iot->psql(emit_sql('o.quiet'));
is($iot->psql(qq{SELECT count(*) FROM iot.notification WHERE event_id = '$quiet'}), 0, 'paused, it tells nothing');
$iot->psql('SELECT iot.resume()');
ok($iot->poll(told($quiet), timeout => 10), 'resumed, it does');

# I1: a command that no adapter looks after ends at its deadline
$mark = $iot->log_size;
$command = $iot->psql(q{SELECT iot.send_command('boiler-1', 'temperature', 20, ttl => '1 s')});
is($iot->wait_for_command($command, 8)->{status}, 'CANCELLED', 'I1: a command ends at its deadline');
$iot->wait_for_log(qr/command $command failed at device "boiler-1": its deadline has passed/, $mark);
cmp_ok($iot->psql(qq{SELECT extract(epoch FROM finished_at - deadline) FROM iot.command WHERE command_id = '$command'}),
	'<', 5, 'within five seconds of it');

# maintenance that nobody else does
$iot->psql(q{UPDATE iot.maintenance SET last_run_at = now() - interval '2 hours'});
ok($iot->poll(q{SELECT last_run_at > now() - interval '1 minute' FROM iot.maintenance}, timeout => 30),
	'it maintains the tables where the last run is over an hour old');

# I24
$iot->poll(q{SELECT n_tup_ins > 0 FROM pg_stat_user_tables WHERE relid = 'iot.notification'::regclass}, timeout => 5);
pass('I24: what it writes shows in the statistics');

# DROP EXTENSION: idle, not gone; and it goes on when the extension is back
$mark = $iot->log_size;
$iot->psql('DROP EXTENSION iot CASCADE');
$iot->wait_for_log(qr/iot worker is idle: extension "iot" is not installed/, $mark);
$iot->psql('CREATE EXTENSION iot');
my $again = $iot->psql(emit_sql('o.again'));
ok($iot->poll(told($again), timeout => 15), 'I35: it goes on after DROP and CREATE EXTENSION');

done_testing();
