# What a client may cost, and what frames are refused (I29, I31): nobody feels another's misuse.
#
# Runs alone: it measures time.

use strict;
use warnings;

use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_RCVBUF);
use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotNotify;
use IotWebSocket;

my $iot = IotTest->new('main', databases => '');
setup_push($iot);
my $push = $iot->pushd(args => [ '--max-subscriptions', '3' ]);

sub ready
{
	my ($user, %position) = @_;
	my $ws = IotWebSocket->new(port => $push->port);

	$ws->{ready} = $ws->auth($push->token($user));
	$ws->subscribe(1, %position);
	return $ws;
}

sub metric
{
	my ($name, $daemon) = @_;
	my ($value) = (($daemon || $push)->http_get('/metrics'))[1] =~ /^iot_pushd_$name (\d+)$/m;

	return $value;
}

# Sanitizers keep what was freed, and a margin around the rest; and everything takes longer.
my $measured = !$ENV{IOT_SANITIZE};
my $slower = $measured ? 1 : 4;
diag("under sanitizers: memory is not judged, and times have $slower times as long") unless $measured;

# kB that the process holds for itself
sub memory
{
	my ($status) = PostgreSQL::Test::Utils::slurp_file('/proc/' . $push->pid . '/status')
	  =~ /^RssAnon:\s+(\d+)/m;

	return $status;
}

# frames that no client may send; each on a connection of its own
sub refused
{
	my ($code, $what, $bytes) = @_;
	my $ws = IotWebSocket->new(port => $push->port);

	$ws->auth($push->token('anna'));
	$ws->write_bytes($bytes);
	is($ws->closed, $code, "$what: closed with $code");
	return;
}

sub frame
{
	my ($first, $payload, %opt) = @_;
	my $len = defined $opt{len} ? $opt{len} : length $payload;
	my $mask = defined $opt{masked} && !$opt{masked} ? 0 : 0x80;
	my $head = chr($first)
	  . ( $len < 126 && !$opt{long} ? chr($mask | $len)
		: $len < 65536 && ($opt{long} || 0) < 8 ? chr($mask | 126) . pack('n', $len)
		: chr($mask | 127) . pack('Q>', $len));

	return $head . $payload unless $mask;
	return $head . "\x01\x02\x03\x04"
	  . join('', map { chr(ord(substr $payload, $_, 1) ^ (1 + $_ % 4)) } 0 .. length($payload) - 1);
}

my $message = '{"op":"ack","seq":0}';

refused(1002, 'an unmasked frame', frame(0x81, $message, masked => 0));
refused(1002, 'an unmasked ping', frame(0x89, '', masked => 0));
refused(1002, 'a reserved bit', frame(0xc1, $message));
refused(1002, 'an opcode that nobody knows', frame(0x83, $message));
refused(1002, 'a control opcode that nobody knows', frame(0x8b, ''));
refused(1002, 'a continuation of nothing', frame(0x80, $message));
refused(1002, 'a message within a message', frame(0x01, '{') . frame(0x81, '{'));
refused(1002, 'a ping in parts', frame(0x09, 'x'));
refused(1002, 'a ping of 126 bytes', frame(0x89, 'x' x 126));
refused(1002, 'a length that is longer than it must be', frame(0x81, $message, long => 2));
refused(1002, 'and one that is much longer', frame(0x81, $message, long => 8));
refused(1002, 'a length with the highest bit',
	"\x81\xff" . "\x80" . "\x00" x 7 . "\x00" x 4);
refused(1002, 'a close of one byte', frame(0x88, 'x'));
refused(1002, 'a close with a code that nobody may send', frame(0x88, pack('n', 1005)));
refused(1002, 'a close with a reason that is not text', frame(0x88, pack('n', 1000) . "\xff"));
refused(1003, 'bytes instead of text', frame(0x82, $message));
refused(1007, 'invalid UTF-8', frame(0x81, "{\"op\":\"\xc3\x28\"}"));
refused(1007, 'half a character', frame(0x81, "\xe2\x82"));
refused(1007, 'a surrogate', frame(0x81, "\xed\xa0\x80"));
refused(1007, 'invalid over two frames', frame(0x01, "\xc3") . frame(0x80, "\xc3"));
refused(1009, 'a frame that declares 1 GB', frame(0x81, 'x', len => 1 << 30));
refused(1009, 'one byte too many', frame(0x81, 'x' x 32769));
refused(1009, 'too much in parts', frame(0x01, 'x' x 30000) . frame(0x80, 'x' x 2769));

# and what they may
my $anna = ready('anna');
$anna->write_bytes(frame(0x81, ' ' x (32768 - length $message) . $message));
$anna->silent(0.1);
$anna->write_bytes($_) foreach frame(0x01, '{"op":'), frame(0x89, 'are you there'), frame(0x00, ''),
  map { frame(0x00, $_) } split //, '"unsubscribe","id":99';
$anna->write_bytes(frame(0x80, '}'));
is($anna->expect('error')->{code}, 'unknown', 'a message in many parts, with a ping in between');
is($anna->{pongs}, 1, 'which is answered');
my $split = frame(0x81, '{"op":"unsubscribe","id":98}') . frame(0x81, '{"op":"unsubscribe","id":97}');
$anna->write_bytes($_) foreach split //, $split;
is($anna->expect('error')->{id}, $_, 'frames byte by byte') foreach 98, 97;
$anna->write_bytes(frame(0x81, '{"op":"unsubscribe","id":96}') x 50);
is_deeply([ map { $anna->expect('error')->{id} } 1 .. 50 ], [ (96) x 50 ], 'many in one packet');
is($anna->close, 1000, 'a close is answered');

# subscriptions
$anna = ready('anna');
$anna->subscribe($_) foreach 2, 3;
$anna->send({ op => 'subscribe', id => 4 });
is($anna->expect('error')->{code}, 'limit', 'so many subscriptions and no more');
$anna->send({ op => 'unsubscribe', id => 2 });
$anna->expect('unsubscribed');
$anna->subscribe(4);
$anna->close;

# I29: somebody who never reads
{
	my $good = ready('bert');
	my $lazy = ready('anna');
	my $before = memory();
	my $start = time();
	my $count = 0;
	my $slow = 0;

	setsockopt($lazy->{socket}, SOL_SOCKET, SO_RCVBUF, 4096);
	until (metric('closed_slow_total') > 0)
	{
		my @seqs = notify_many($iot, 40, recipients => [ 'anna', 'bert' ],
			body => '{"text": "' . 'x' x 4000 . '"}');
		my $sent = time();

		is_deeply([ map { $_->{seq} } $good->events(40) ], \@seqs, 'others are told')
		  if ++$count % 10 == 0 || $good->events(40) != 40;
		$slow = time() - $sent if time() - $sent > $slow;
		die 'nobody is closed' if time() - $start > 30 * $slower;
	}
	my $took = time() - $start;
	cmp_ok($took, '<', 12 * $slower, sprintf('I29: who never reads is closed within 10 s (%.1f s)', $took));
	cmp_ok($took, '>', 5, 'but not for a moment');
	cmp_ok($slow, '<', $slower, 'others do not feel it');
	is($lazy->closed, 4008, 'and finds the reason when he looks');
	is(metric('queued_bytes'), 0, 'nothing is left of his');
	my $grown = memory() - $before;
	cmp_ok($grown, '<', 4096, "I29: nor did it take much ($grown kB)") if $measured;
	is(metric('ready_sockets'), 1, 'he alone was closed');
	my $row = notify($iot, recipients => [ 'anna', 'bert' ]);
	is($good->event->{seq}, $row, 'the other goes on');
	is(delivery($iot, $row, 'anna'), 'PENDING', 'what he was not told waits for him');
	$good->close;
	$iot->psql(q{UPDATE iot.delivery SET status = 'FAILED' WHERE status = 'PENDING'});
}

# a burst that is larger than any queue closes nobody
{
	my @sockets = map { ready('anna') } 1 .. 3;
	my @seqs = notify_many($iot, 500, recipients => ['anna'], body => '{"text": "' . 'x' x 4000 . '"}');

	# reading is quick, and understanding it may take longer than a client has
	foreach my $socket (@sockets)
	{
		poll_until(sub { $_->take_in foreach @sockets; $socket->{taken} > 500 * 4000 },
			'all of it has come');
	}
	is_deeply([ map { $_->{seq} } $_->events(500) ], \@seqs,
		'2 MB at once: everybody gets all of it, in order')
	  foreach @sockets;
	is(metric('closed_slow_total'), 1, 'and nobody is closed');
	$_->close foreach @sockets;
}

# who asks without reading the answers
{
	my $ws = ready('anna');
	my $sent = 0;

	setsockopt($ws->{socket}, SOL_SOCKET, SO_RCVBUF, 4096);
	$ws->{socket}->blocking(0);
	my $start = time();
	while (metric('ready_sockets') > 0 && time() - $start < 20 * $slower)
	{
		local $SIG{PIPE} = 'IGNORE';
		my $n = syswrite $ws->{socket}, frame(0x81, '{"op":"unsubscribe","id":99}') x 1000;

		$sent += $n || 0;
	}
	cmp_ok(time() - $start, '<', 12 * $slower, 'who asks and never reads is closed, too');
	$ws->drop;
}

# 64 handshakes that never end delay nobody, and end
{
	my @half = map {
		my $ws = IotWebSocket->new(port => $push->port, upgrade => 0);
		$ws->write_bytes("GET /ws HTTP/1.1\r\nHost: x\r\n");
		$ws;
	} 1 .. 64;
	my $before = time();
	my $good = ready('anna');

	my $took = time() - $before;
	cmp_ok($took, '<', 0.5 * $slower,
		sprintf('I31: half a handshake, 64 times, delays nobody (%.0f ms)', 1000 * $took));
	poll_until(sub { metric('connections') <= 2 }, 'half handshakes are closed', 15 * $slower);
	cmp_ok(time() - $before, '<', 10 * $slower, 'and has an end');
	$good->close;
}

# connections
{
	my $small = $iot->pushd(args => [ '--max-connections', 5 ]);
	my @all = map { IotWebSocket->new(port => $small->port) } 1 .. 5;
	my $over = IotWebSocket->new(port => $small->port, upgrade => 0);

	$over->{frame} = Protocol::WebSocket::Frame->new;
	is($over->closed, 1006, 'one connection too many is closed at once');
	is($all[0]->auth($small->token('anna'))->{user}, 'anna', 'the others are as they were');
	$_->drop foreach @all;
	poll_until(sub { ($small->http_get('/healthz'))[0] == 200 }, 'there is room again');
	$small->stop;
}

# I31: memory of idle sockets, of a daemon that has used none before
{
	my $count = 1000;

	$push->restart;
	ready('anna')->close;
	my $before = memory();
	my @sockets = map { ready('anna') } 1 .. $count;
	my $each = (memory() - $before) * 1024 / $count;

	cmp_ok($each, '<', 8192, sprintf('I31: an idle socket costs %d bytes', $each)) if $measured;
	my $seq = notify($iot, recipients => ['anna']);
	is(scalar(grep { $_->event->{seq} == $seq } @sockets), $count, 'and all of them are told');
	$_->drop foreach @sockets;
	poll_until(sub { metric('connections') <= 1 }, 'all are gone');
}

ok($push->alive, 'the daemon has taken all of it');
done_testing();
