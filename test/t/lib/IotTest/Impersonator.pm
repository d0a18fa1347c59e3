# Something that listens where the adapter expects its broker, and speaks as much of MQTT 5 as a test
# wants it to.
#
#   my $broker = IotTest::Impersonator->new;
#   my $talk = $broker->reach('subscribed');     the adapter has come so far; a conversation
#   $talk->say(IotTest::Impersonator::publish('iot/boiler-1/telemetry', '{}'));
#   $talk->heard(3)                              the packets of type 3 that the adapter sent
#   $talk->close;
#
# States of a conversation: "connected" (the adapter has asked, and has no answer), "accepted",
# "subscribed" (it has all that it asked for).

package IotTest::Impersonator;

use strict;
use warnings;

use Carp;
use Exporter qw(import);
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(time);

our @EXPORT_OK = qw(packet publish accepted string);

sub new
{
	my ($class) = @_;
	my $listener = IO::Socket::INET->new(
		Listen => 20, LocalAddr => '127.0.0.1', LocalPort => 0, ReuseAddr => 1)
	  or croak "listen: $!";

	return bless { listener => $listener }, $class;
}

sub url { return 'mqtt://127.0.0.1:' . $_[0]->{listener}->sockport; }

# A packet of the protocol: first byte, then the length in groups of seven bits, then the body.
sub packet
{
	my ($first, $body) = @_;

	return chr($first) . number(length $body) . $body;
}

sub number
{
	my ($n) = @_;
	my $bytes = '';

	do
	{
		my $digit = $n % 128;

		$n = int($n / 128);
		$bytes .= chr($digit | ($n ? 0x80 : 0));
	} while ($n);
	return $bytes;
}

sub string { return pack('n/a*', $_[0]); }

# A message with QoS 1, and the text of its properties.
sub publish
{
	my ($topic, $payload, $mid, $properties) = @_;

	$properties = '' unless defined $properties;
	return packet(0x32,
		string($topic) . pack('n', $mid || 1) . number(length $properties) . $properties . $payload);
}

# The answer to who wants to connect, and the text of its properties.
sub accepted
{
	my ($properties) = @_;

	$properties = '' unless defined $properties;
	return packet(0x20, "\0\0" . number(length $properties) . $properties);
}

# The next connection; its first packet may have come or not.
sub next_connection
{
	my ($self, $timeout) = @_;

	croak 'nobody connects' unless IO::Select->new($self->{listener})->can_read($timeout || 30);
	my $socket = $self->{listener}->accept or croak "accept: $!";
	return IotTest::Impersonator::Conversation->new($socket);
}

# A conversation that has come to that state.  Connections that the adapter gives up before, since
# another attempt of its own follows, do not count.
sub reach
{
	my ($self, $state) = @_;
	my $end = time() + 60;

	while (time() < $end)
	{
		my $talk = $self->next_connection;

		return $talk if $talk->reach($state);
		$talk->close;
	}
	croak "the adapter does not come to be $state";
}

package IotTest::Impersonator::Conversation;

use strict;
use warnings;

use Time::HiRes qw(time);

sub new
{
	my ($class, $socket) = @_;

	$socket->blocking(0);
	return bless { socket => $socket, bytes => '', packets => [], open => 1 }, $class;
}

# Takes what comes within the time, packet by packet, and answers subscriptions; false once the other
# side has closed.
sub listen
{
	my ($self, $seconds) = @_;
	my $chunk;

	return 0 unless $self->{open};
	return 1 unless IO::Select->new($self->{socket})->can_read($seconds);
	my $n = $self->{socket}->sysread($chunk, 65536);
	if (!$n)
	{
		$self->{open} = 0;
		return 0;
	}
	$self->{bytes} .= $chunk;
	while ($self->{bytes} =~ /\A(.)([\x80-\xff]{0,3}[\x00-\x7f])/s)
	{
		my ($first, $digits) = ($1, $2);
		my ($length, $shift) = (0, 0);

		foreach my $digit (unpack 'C*', $digits)
		{
			$length |= ($digit & 0x7f) << $shift;
			$shift += 7;
		}
		last if length $self->{bytes} < 1 + length($digits) + $length;
		my $body = substr($self->{bytes}, 1 + length $digits, $length);

		$self->{bytes} = substr($self->{bytes}, 1 + length($digits) + $length);
		push @{ $self->{packets} }, [ ord($first) >> 4, $body ];
	}
	return 1;
}

# The packets of a type that came so far.
sub heard
{
	my ($self, $type) = @_;

	return grep { $_->[0] == $type } @{ $self->{packets} };
}

# Waits for the n-th packet of a type.
sub wait_for
{
	my ($self, $type, $n) = @_;
	my $end = time() + 10;

	while ($self->heard($type) < $n)
	{
		return 0 if time() > $end || !$self->listen(0.1);
	}
	return 1;
}

sub reach
{
	my ($self, $state) = @_;
	my $granted = 0;

	return 0 unless $self->wait_for(1, 1);
	return 1 if $state eq 'connected';
	$self->say(IotTest::Impersonator::accepted()) or return 0;
	return 1 if $state eq 'accepted';
	# one packet for each of the adapter's four subscriptions
	while ($granted < 4)
	{
		return 0 unless $self->wait_for(8, $granted + 1);
		foreach my $packet (($self->heard(8))[ $granted .. $self->heard(8) - 1 ])
		{
			$self->say(IotTest::Impersonator::packet(0x90, substr($packet->[1], 0, 2) . "\0\1"));
			$granted++;
		}
	}
	return 1;
}

# Sends bytes, whatever they are; false where the other side has gone.
sub say
{
	my ($self, $bytes) = @_;
	my $end = time() + 10;

	local $SIG{PIPE} = 'IGNORE';
	while (length $bytes && $self->{open} && time() < $end)
	{
		my $n = $self->{socket}->syswrite($bytes);

		if (defined $n)
		{
			$bytes = substr($bytes, $n);
		}
		elsif ($!{EAGAIN})
		{
			$self->listen(0.05);
		}
		else
		{
			$self->{open} = 0;
		}
	}
	return $self->{open} && !length $bytes;
}

# One byte at a time, and a pause after each.
sub drip
{
	my ($self, $bytes, $pause) = @_;

	foreach my $byte (split //, $bytes)
	{
		return 0 unless $self->say($byte);
		$self->listen($pause);
	}
	return $self->{open};
}

sub is_open { return $_[0]->{open}; }
sub close { $_[0]->{socket}->close; $_[0]->{open} = 0; return; }

1;
