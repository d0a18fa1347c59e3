# Webhooks: signed requests to a real HTTP receiver, retried with back-off, never in a transaction
# and never in the way of anything else.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256_hex);
use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotTest::Receiver;

my $iot = IotTest->new('main', conf => 'log_min_messages = debug1');
my $receiver = IotTest::Receiver->new('main');

$iot->parameter('temperature', unit => '°C', max => 100);
my $device = $iot->device('boiler-1', ['temperature']);
$iot->psql(q{INSERT INTO iot.secret (name, value) VALUES ('hook-key', 's3cr3t-of-the-hook')});
$iot->psql('UPDATE iot.notification_rule SET enabled = false');

# A webhook, and a rule that sends it the events of its own name.
sub webhook
{
	my ($name, $url, $options) = @_;

	$iot->psql(sprintf(q{INSERT INTO iot.webhook (name, url, options) VALUES ('%s', '%s', '%s');
		INSERT INTO iot.notification_rule (name, event, channel, audience, title, body)
			VALUES ('%1$s', 't.%1$s', 'webhook', 'webhook:%1$s', '{device}: {value}', '{error}')},
			$name, $url, $options || '{}'));
	return;
}

# An event of a type; its id.
sub emit
{
	my ($type, $payload) = @_;

	return $iot->psql(sprintf(q{INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type,
			payload, device_id) VALUES (iot_internal.uuidv7(), 'test', 'x', '%s', '%s', '%s')
			RETURNING event_id}, $type, $payload || '{"value":1}', $device));
}

sub delivery
{
	my ($event_id) = @_;

	return ($iot->rows(qq{SELECT d.* FROM iot.delivery d JOIN iot.notification n USING (seq)
		WHERE n.event_id = '$event_id' AND d.channel = 'webhook'}))[0];
}

sub wait_for_status
{
	my ($event_id, $status, $timeout) = @_;

	$iot->poll(qq{SELECT coalesce(bool_and(d.status = '$status'), false) FROM iot.delivery d
		JOIN iot.notification n USING (seq) WHERE n.event_id = '$event_id'}, timeout => $timeout);
	return delivery($event_id);
}

# success, and what a request looks like
webhook('good', $receiver->url('/ok'), '{"secret":"hook-key"}');
my $id = emit('t.good', '{"value":21.5,"username":"anna","error":"nöne \"quoted\""}');
my ($request) = $receiver->wait_for('/ok', 1);
my $row = wait_for_status($id, 'DELIVERED');
is($row->{attempts}, 1, 'delivered at the first attempt');
ok(defined $row->{delivered_at} && !defined $row->{last_error} && !defined $row->{started_at},
	'and recorded so');
is($request->{method}, 'POST', 'a POST');
is($request->{headers}{'content-type'}, 'application/json', 'of JSON');
is($request->{headers}{'idempotency-key'}, $id, 'with the id of the event to tell repeats by');
my $body = JSON::PP->new->utf8->decode(do { my $b = $request->{body}; utf8::encode($b) if utf8::is_utf8($b); $b });
is_deeply(
	[ @$body{qw(event_id event device device_id username title)} ],
	[ $id, 't.good', 'boiler-1', $device, 'anna', 'boiler-1: 21.5' ],
	'the notification');
is_deeply([ @{ $body->{data} }{qw(value username)} ], [ 21.5, 'anna' ], 'with the data of the event');
like($body->{at}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'and its time');
my ($t, $signature) = $request->{headers}{'x-iot-signature'} =~ /^t=(\d+),v1=([0-9a-f]{64})$/
  or fail('signature header');
is($signature, hmac_sha256_hex("$t.$request->{body}", 's3cr3t-of-the-hook'),
	'the signature covers time and body');
cmp_ok(abs(time() - $t), '<', 60, 'and the time is now');

# a receiver without a secret is not signed for
webhook('plain', $receiver->url('/ok?plain'));
$id = emit('t.plain');
($request) = $receiver->wait_for('/ok?plain', 1);
ok(!exists $request->{headers}{'x-iot-signature'}, 'no secret, no signature');
wait_for_status($id, 'DELIVERED');

# 500, then success; the same id and the same body each time
webhook('moody', $receiver->url('/fail/2'));
my $mark = $iot->log_size;
$id = emit('t.moody');
$row = wait_for_status($id, 'DELIVERED', 30);
is($row->{attempts}, 3, 'two failures and a success');
my @requests = $receiver->requests('/fail/2');
is(scalar @requests, 3, 'three requests');
is(scalar(keys %{ { map { $_->{body} . $_->{headers}{'idempotency-key'} => 1 } @requests } }), 1,
	'all alike');
cmp_ok($requests[1]{at} - $requests[0]{at}, '>=', 0.5, 'a pause after the first');
cmp_ok($requests[2]{at} - $requests[1]{at}, '>=', 1, 'a longer one after the second');
is($row->{last_error}, 'HTTP status 500', 'the last error is kept');
like($iot->log_content($mark), qr/webhook "moody" fails: HTTP status 500/, 'the log tells of the failure');
like($iot->log_content($mark), qr/webhook "moody" works again/, 'and of the recovery');

# attempts end
webhook('gone', $receiver->url('/status/410'), '{"max_attempts":2}');
$row = wait_for_status(emit('t.gone'), 'FAILED', 30);
is($row->{attempts}, 2, 'given up after max_attempts');
is($row->{last_error}, 'HTTP status 410', 'with the reason');
is(scalar(() = $receiver->requests('/status/410')), 2, 'and no request more');

# redirections lead nowhere
webhook('moved', $receiver->url('/redirect'), '{"max_attempts":1}');
my $before = () = $receiver->requests('/ok');
$row = wait_for_status(emit('t.moved'), 'FAILED');
like($row->{last_error}, qr/^HTTP status 302: redirections are not followed$/, 'a redirection fails');
is(scalar(() = $receiver->requests('/ok')), $before, 'and is not followed');

# an answer without end is cut
webhook('chatty', $receiver->url('/flood'));
$row = wait_for_status(emit('t.chatty'), 'DELIVERED');
is($row->{attempts}, 1, 'what a receiver says beyond its status is of no interest');

# a secret that went away, past the trigger that keeps it: nothing unsigned leaves
webhook('keyless', $receiver->url('/ok?keyless'), '{"secret":"hook-key","max_attempts":1}');
$iot->psql(q{SET session_replication_role = replica; DELETE FROM iot.secret});
$row = wait_for_status(emit('t.keyless'), 'FAILED');
is($row->{last_error}, 'secret "hook-key" does not exist', 'no key, no request');
is(scalar(() = $receiver->requests('/ok?keyless')), 0, 'none was made');
$iot->psql(q{INSERT INTO iot.secret (name, value) VALUES ('hook-key', 's3cr3t-of-the-hook')});

# receiver down, then up
my $late = IotTest::Receiver->new('late', start => 0);
webhook('late', $late->url('/ok'));
$id = emit('t.late');
$iot->poll(qq{SELECT attempts >= 2 AND last_error IS NOT NULL AND status = 'PENDING'
	FROM iot.delivery WHERE recipient = 'late'}, timeout => 30);
like(delivery($id)->{last_error}, qr/connect/i, 'nobody listens');
emit('t.late') for 1 .. 5;
$late->start;
$late->wait_for('/ok', 6, 60);
$iot->poll(q{SELECT count(*) = 6 FROM iot.delivery WHERE recipient = 'late' AND status = 'DELIVERED'});
pass('all that waited arrives when the receiver is back');

# disabled, it waits
webhook('asleep', $receiver->url('/ok?asleep'));
$iot->psql(q{UPDATE iot.webhook SET options = '{"max_attempts":5}', url = 'http://127.0.0.1:1/' WHERE name = 'asleep'});
$id = emit('t.asleep');
$iot->poll(qq{SELECT attempts >= 1 AND last_error IS NOT NULL FROM iot.delivery WHERE recipient = 'asleep'});
$iot->psql(sprintf(q{UPDATE iot.webhook SET enabled = false, url = '%s' WHERE name = 'asleep'},
	$receiver->url('/ok?asleep')));
my $skipped = emit('t.asleep');
my $told = emit('t.good');
wait_for_status($told, 'DELIVERED');
is($iot->psql(qq{SELECT count(*) FROM iot.notification WHERE event_id = '$skipped'}), 0,
	'a disabled webhook is told nothing new');
is(delivery($id)->{status}, 'PENDING', 'and what is pending stays');
is(scalar(() = $receiver->requests('/ok?asleep')), 0, 'unsent');
$iot->psql(q{UPDATE iot.webhook SET enabled = true WHERE name = 'asleep'});
is(wait_for_status($id, 'DELIVERED', 30)->{status}, 'DELIVERED', 'until it is enabled again');

# TLS: the certificate must be known.  This server answers no POST, so that a request which got as far
# as being sent ends by its timeout.
my $pem = "$PostgreSQL::Test::Utils::tmp_check/tls";
PostgreSQL::Test::Utils::system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes',
	'-keyout', "$pem.key", '-out', "$pem.crt", '-days', '2', '-subj', '/CN=localhost',
	'-addext', 'subjectAltName=IP:127.0.0.1');
my $tls_port = free_port();
my $tls = IotTest::Process->start(
	name => 'tls',
	command => [ 'openssl', 's_server', '-www', '-accept', "127.0.0.1:$tls_port", '-key', "$pem.key",
		'-cert', "$pem.crt" ],
	log => "$PostgreSQL::Test::Utils::tmp_check/tls.txt");
poll_until(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $tls_port) }, 'the TLS server listens');
webhook('stranger', "https://127.0.0.1:$tls_port/", '{"max_attempts":1}');
like(wait_for_status(emit('t.stranger'), 'FAILED')->{last_error}, qr/certificate/i,
	'a certificate that nobody vouches for is refused');
webhook('friend', "https://127.0.0.1:$tls_port/", qq({"max_attempts":1,"timeout":"2 s","ca_file":"$pem.crt"}));
is(wait_for_status(emit('t.friend'), 'FAILED')->{last_error}, 'no answer in time',
	'with ca_file it is trusted');
$tls->stop;

# a name that does not resolve
webhook('lost', 'http://no-such-host.invalid/x', '{"max_attempts":1}');
$row = wait_for_status(emit('t.lost'), 'FAILED', 60);
like($row->{last_error}, qr/resolve|no answer in time/i, 'a host that does not exist');

# hanging: I20, no snapshot is held; nothing else waits
webhook('hanging', $receiver->url('/hang'), '{"timeout":"4 s","max_attempts":1}');
my @hanging = map { emit('t.hanging') } 1 .. 6;
$receiver->wait_for('/hang', 4);
is(scalar(() = $receiver->requests('/hang')), 4, 'at most four requests to one receiver at a time');
my ($longest, $seen, $end, $slowest) = (0, 0, time() + 3, 0);
my $session = $iot->session;
my $n = 0;
while (time() < $end)
{
	my $held = $session->query_safe(q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'iot notifier' AND state = 'idle in transaction'});

	$seen++ if $held > 0;
	my $oldest = $session->query_safe(q{SELECT coalesce(max(extract(epoch FROM
			clock_timestamp() - xact_start)), 0) FROM pg_stat_activity
		WHERE backend_type = 'iot notifier' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)});
	$longest = $oldest if $oldest > $longest;
	my $start = time();
	my $other = emit('t.good');
	$iot->poll(qq{SELECT count(*) = 1 FROM iot.delivery d JOIN iot.notification n USING (seq)
		WHERE n.event_id = '$other' AND d.status = 'DELIVERED'});
	my $took = time() - $start;
	$slowest = $took if $took > $slowest;
	$n++;
}
is($seen, 0, 'never idle in a transaction');
cmp_ok($longest, '<', 2, sprintf('I20: oldest transaction of the notifier was %.2f s', $longest));
cmp_ok($n, '>', 2, "$n other deliveries meanwhile");
cmp_ok($slowest, '<', 2, sprintf('none took longer than %.2f s', $slowest));
foreach my $event (@hanging)
{
	$row = wait_for_status($event, 'FAILED', 60);
	is($row->{last_error}, 'no answer in time', 'a receiver that hangs is given up in time');
}

# the notifier ends during an attempt: its successor makes it again
webhook('cut', $receiver->url('/hang/cut'), '{"timeout":"60 s"}');
$id = emit('t.cut');
$receiver->wait_for('/hang/cut', 1);
$iot->psql(sprintf(q{UPDATE iot.webhook SET url = '%s' WHERE name = 'cut'}, $receiver->url('/ok?cut')));
my ($pid) = map { $_->{pid} } $iot->workers('iot notifier');
my $ended = time();
is($iot->psql("SELECT pg_terminate_backend($pid, 5000)"), 't', 'a notifier with a request under way ends at once');
($request) = $receiver->wait_for('/ok?cut', 1, 15);
cmp_ok($request->{at} - $ended, '<', 10, 'I23: within ten seconds the next one makes the attempt again');
is($request->{headers}{'idempotency-key'}, $id, 'under the same id');
is(wait_for_status($id, 'DELIVERED')->{attempts}, 2, 'and counts it');

# I42
webhook('tokened', $receiver->url('/status/500?token=t0ken-in-the-url'), '{"max_attempts":1,"secret":"hook-key"}');
wait_for_status(emit('t.tokened'), 'FAILED');
my $log = $iot->log_content;
unlike($log, qr/^.*notifier.*(?:s3cr3t-of-the-hook|t0ken-in-the-url)/m, 'I42: no secret in what the notifier logs');

# I35: the server stops at once though a receiver hangs
$receiver->stop;
$receiver->start;
webhook('last', $receiver->url('/hang/last'), '{"timeout":"60 s"}');
emit('t.last');
$receiver->wait_for('/hang/last', 1);
$session->close;
cmp_ok(elapsed(sub { $iot->node->stop('fast') }), '<', 5, 'I35: fast shutdown while a request hangs');

done_testing();
