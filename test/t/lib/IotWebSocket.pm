# A WebSocket client for tests: speaks the protocol of iot-pushd, and breaks it where asked to.
#
#   my $ws = IotWebSocket->new(port => 8787);       connected and upgraded, else it dies
#   $ws->auth($token);                              the answer to it: ready
#   $ws->subscribe(1, events => ['adapter.*'], after_seq => 5);
#   my $event = $ws->event;                         next message with op "event"
#   my @events = $ws->events(3);
#   $ws->silent(0.5);                               dies if anything but a ping comes meanwhile
#   is($ws->closed, 4401);                          waits for the close and tells its code
#   $ws->take_in                                    reads what is there for later; bytes so far
#
# Messages that come as one array are handed out one by one.  Pings are answered.  Whatever waits
# dies after the timeout, 30 s unless told otherwise.

package IotWebSocket;

use strict;
use warnings;

use Carp;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Protocol::WebSocket::Frame;
use Time::HiRes qw(time);

our $timeout = 30;
my $json = JSON::PP->new->utf8->canonical;

# Options: host, port, path, origin, protocols (a list), version, key, headers (a hash of further
# ones), upgrade (0: only connect).
sub new
{
	my ($class, %opt) = @_;
	my $host = $opt{host} || '127.0.0.1';
	my $socket = IO::Socket::INET->new(
		PeerAddr => $host, PeerPort => $opt{port}, Proto => 'tcp', Timeout => $timeout)
	  or croak "could not connect to port $opt{port}: $@";
	my $self = bless { socket => $socket, buffer => '', messages => [], taken => 0 }, $class;

	$socket->autoflush(1);
	binmode $socket;
	return $self if defined $opt{upgrade} && !$opt{upgrade};
	$self->write_bytes($class->request(%opt));
	$self->read_head;
	croak "not upgraded: $self->{status} $self->{head}" if $self->{status} != 101;
	return $self;
}

# The same, but answers the status of the response; undef where the connection was just closed.
sub status_of
{
	my ($class, %opt) = @_;
	my $self = $class->new(%opt, upgrade => 0);

	$self->write_bytes($class->request(%opt));
	eval { $self->read_head; 1 } or return undef;
	return $self->{status};
}

sub request
{
	my ($class, %opt) = @_;
	my $host = $opt{host} || '127.0.0.1';
	my %headers = (
		Host => "$host:$opt{port}",
		Upgrade => 'websocket',
		Connection => 'keep-alive, Upgrade',
		'Sec-WebSocket-Key' => $opt{key} || encode_base64(join('', map { chr } 1 .. 16), ''),
		'Sec-WebSocket-Version' => defined $opt{version} ? $opt{version} : 13,
		%{ $opt{headers} || {} });

	$headers{Origin} = $opt{origin} if defined $opt{origin};
	$headers{'Sec-WebSocket-Protocol'} = join(', ', @{ $opt{protocols} }) if $opt{protocols};
	return 'GET ' . ($opt{path} || '/ws') . " HTTP/1.1\r\n"
	  . join('', map { "$_: $headers{$_}\r\n" } sort keys %headers) . "\r\n";
}

sub read_head
{
	my ($self) = @_;

	$self->fill('the response') until $self->{buffer} =~ s/\A(.*?)\r\n\r\n//s;
	$self->{head} = $1;
	($self->{status}) = $self->{head} =~ m{\AHTTP/1\.1 (\d+)};
	($self->{protocol}) = $self->{head} =~ /^sec-websocket-protocol: *(\S+)/mi;
	$self->{frame} = Protocol::WebSocket::Frame->new(max_payload_size => undef);
	$self->{frame}->append($self->{buffer});
	$self->{buffer} = '';
	return;
}

# Bytes as they are.
sub write_bytes
{
	my ($self, $bytes) = @_;
	my $at = 0;

	local $SIG{PIPE} = 'IGNORE';
	while ($at < length $bytes)
	{
		my $n = syswrite $self->{socket}, $bytes, length($bytes) - $at, $at;

		return 0 unless $n;
		$at += $n;
	}
	return 1;
}

# A frame.  Options: type, masked, fin, and what else Protocol::WebSocket::Frame knows.
sub write_frame
{
	my ($self, $bytes, %opt) = @_;
	my $frame = Protocol::WebSocket::Frame->new(
		buffer => $bytes, masked => 1, type => 'text', max_payload_size => undef, %opt);

	# its buffer is for text, and ours are bytes
	$frame->{buffer} = $bytes;
	return $self->write_bytes($frame->to_bytes);
}

# A message, as a structure or as text.
sub send
{
	my ($self, $message) = @_;

	return $self->write_frame(ref $message ? $json->encode($message) : $message);
}

# Reads what is there, waiting for it; false at the end of the connection.
sub fill
{
	my ($self, $what, $until) = @_;
	my $select = IO::Select->new($self->{socket});

	$until ||= time() + $timeout;
	# a signal may end a wait early, such as that of a child which is done
	until ($select->can_read($until - time() > 0 ? $until - time() : 0))
	{
		croak "$what did not come in time" if time() >= $until;
	}
	my $n = sysread $self->{socket}, my $bytes, 65536;

	if (!$n)
	{
		croak "connection closed instead of $what" unless $self->{frame};
		return 0;
	}
	$self->{taken} += $n;
	if ($self->{frame})
	{
		$self->{frame}->append($bytes);
	}
	else
	{
		$self->{buffer} .= $bytes;
	}
	return 1;
}

# Takes what has come without looking at it, for a test that would otherwise be the slow client; how
# many bytes there were so far.
sub take_in
{
	my ($self) = @_;
	my $select = IO::Select->new($self->{socket});

	1 while $select->can_read(0) && $self->fill('anything');
	return $self->{taken};
}

# Next frame as [type, payload], or nothing at the end of the connection.
sub frame
{
	my ($self, $until) = @_;

	return if $self->{ended};
	for (;;)
	{
		my $bytes = $self->{frame}->next_bytes;

		if (defined $bytes)
		{
			my $opcode = $self->{frame}->opcode;

			if ($opcode == 9)
			{
				$self->write_frame($bytes, type => 'pong') unless $self->{mute};
				next;
			}
			if ($opcode == 8)
			{
				$self->{ended} = 1;
				$self->{code} = length $bytes >= 2 ? unpack('n', $bytes) : 1005;
				$self->{reason} = length $bytes > 2 ? substr($bytes, 2) : '';
				return;
			}
			$self->{frames}++;
			return [ $opcode, $bytes ];
		}
		if (!$self->fill('a frame', $until))
		{
			$self->{ended} = 1;
			$self->{code} = 1006 unless defined $self->{code};
			return;
		}
	}
}

# Next message as a structure, or nothing when the connection is closed.
sub receive
{
	my ($self, $wait) = @_;
	my $until = time() + ($wait || $timeout);

	while (!@{ $self->{messages} })
	{
		my $frame = $self->frame($until) or return;

		if ($frame->[0] == 10)
		{
			$self->{pongs}++;
			next;
		}
		my $value = $json->decode($frame->[1]);

		push @{ $self->{messages} }, ref $value eq 'ARRAY' ? @$value : $value;
	}
	return shift @{ $self->{messages} };
}

# Next message, which must have this op.
sub expect
{
	my ($self, $op, $wait) = @_;
	my $message = $self->receive($wait);

	croak "connection was closed ($self->{code}) instead of $op" unless $message;
	croak "expected $op, got " . $json->encode($message) if $message->{op} ne $op;
	return $message;
}

sub auth
{
	my ($self, $token) = @_;

	$self->send({ op => 'auth', token => $token });
	return $self->expect('ready');
}

sub subscribe
{
	my ($self, $id, %opt) = @_;

	$self->send({ op => 'subscribe', id => $id, %opt });
	return $self->expect('subscribed');
}

sub event { return $_[0]->expect('event', $_[1]); }
sub events { return map { $_[0]->event } 1 .. $_[1]; }

# Dies unless nothing comes for so many seconds.
sub silent
{
	my ($self, $seconds) = @_;
	my $message = eval { $self->receive($seconds) };

	croak 'expected nothing, got ' . $json->encode($message) if $message;
	croak "connection was closed ($self->{code})" if $self->{ended};
	return 1;
}

# Waits for the end of the connection, whatever comes before it; the code of the close frame, 1006
# without one.
sub closed
{
	my ($self, $wait) = @_;
	my $until = time() + ($wait || $timeout);

	1 while $self->frame($until);
	return $self->{code};
}

# Says good-bye and waits for the answer.
sub close
{
	my ($self) = @_;

	$self->write_frame(pack('n', 1000), type => 'close') unless $self->{ended};
	my $code = eval { $self->closed(5) };

	CORE::close($self->{socket});
	return $code;
}

# Goes without a word.
sub drop { CORE::close($_[0]->{socket}); return; }

1;
