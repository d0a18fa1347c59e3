# An MQTT client that publishes and remembers: what it sent, when the broker confirmed it.
#
#   my $publisher = Torture::Publisher->new(port => $broker->port);
#   my $message = $publisher->publish($topic, $payload);
#   $publisher->pump;                  sends, reads acknowledgements, connects again where it was cut
#   $message->{acked}                  microseconds since 1970, or undef
#
# QoS 1 over MQTT 3.1.1, nothing waits.  What was not confirmed when a connection ended is sent
# again on the next one, in its order, as a device that keeps its promise would.

package Torture::Publisher;

use strict;
use warnings;

use IO::Socket::INET;
use Time::HiRes qw(time);

use IotTest::Impersonator qw(packet string);

my $count = 0;

sub new
{
	my ($class, %opt) = @_;

	return bless {
		port => $opt{port}, id => "publisher-$$-" . ++$count, mid => 0,
		sent => [], waiting => {}, out => '', in => '', retry_at => 0
	}, $class;
}

sub microseconds { return int(time() * 1_000_000); }

# Takes a message over; the record of it, to which the caller may add.
sub publish
{
	my ($self, $topic, $payload) = @_;
	my $message = { topic => $topic, payload => $payload, sent_at => microseconds() };

	push @{ $self->{sent} }, $message;
	$self->{mid} = $self->{mid} % 65535 + 1;
	$message->{mid} = $self->{mid};
	$self->{waiting}{ $self->{mid} } = $message;
	$self->{out} .= bytes_of($message, 0) if $self->{ready};
	$self->pump;
	return $message;
}

sub bytes_of
{
	my ($message, $again) = @_;

	return packet($again ? 0x3a : 0x32,
		string($message->{topic}) . pack('n', $message->{mid}) . $message->{payload});
}

# Number of messages that the broker has not confirmed.
sub unconfirmed { return scalar keys %{ $_[0]->{waiting} }; }
sub sent { return @{ $_[0]->{sent} }; }

sub connect
{
	my ($self) = @_;

	return if time() < $self->{retry_at};
	$self->{retry_at} = time() + 0.1;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}) or return;
	$socket->blocking(0);
	@$self{qw(socket in out ready)} = ($socket, '', '', 0);
	# clean session, keep-alive off: a broker that was stopped for long is still ours
	$self->{out} = packet(0x10, string('MQTT') . pack('C C n', 4, 2, 0) . string($self->{id}));
	return;
}

sub cut
{
	my ($self) = @_;

	CORE::close($self->{socket}) if $self->{socket};
	@$self{qw(socket ready)} = (undef, 0);
	return;
}

# What can be done now.
sub pump
{
	my ($self) = @_;

	$self->connect unless $self->{socket};
	$self->write_out if $self->{socket};
	$self->read_in if $self->{socket};
	$self->write_out if $self->{socket};
	return;
}

sub write_out
{
	my ($self) = @_;

	local $SIG{PIPE} = 'IGNORE';
	while (length $self->{out})
	{
		my $n = syswrite($self->{socket}, $self->{out});

		if (!defined $n)
		{
			$self->cut unless $!{EAGAIN} || $!{EINTR};
			return;
		}
		substr($self->{out}, 0, $n, '');
	}
	return;
}

sub read_in
{
	my ($self) = @_;

	for (;;)
	{
		my $n = sysread($self->{socket}, $self->{in}, 65536, length $self->{in});

		if (!defined $n)
		{
			return $self->cut unless $!{EAGAIN} || $!{EINTR};
			last;
		}
		return $self->cut if $n == 0;
	}
	# CONNACK and PUBACK are what a publisher hears, of four bytes each
	while ($self->{in} =~ s/\A(.)(.)(..)//s)
	{
		my ($type, $rest) = (ord($1) >> 4, $3);

		return $self->cut if ord($2) != 2;
		if ($type == 2)
		{
			return $self->cut if ord(substr $rest, 1) != 0;
			$self->{ready} = 1;
			$self->{out} .= bytes_of($_, 1)
			  foreach sort { $a->{sent_at} <=> $b->{sent_at} } values %{ $self->{waiting} };
		}
		elsif ($type == 4)
		{
			my $message = delete $self->{waiting}{ unpack('n', $rest) };

			$message->{acked} = microseconds() if $message;
		}
	}
	return;
}

1;
