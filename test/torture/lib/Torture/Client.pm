# A user's WebSocket client that comes back with its position, and remembers all it was told.
#
#   my $client = Torture::Client->new($push, 'anna');
#   $client->pump;          reads what is there; connects again where the connection has gone
#   $client->leave;         goes without a word and comes back at the next pump
#   $client->connections    { user, opened_at, after_seq, messages => [...], open }

package Torture::Client;

use strict;
use warnings;

use Time::HiRes qw(time);

use IotWebSocket;

sub new
{
	my ($class, $push, $user) = @_;

	return bless { push => $push, user => $user, connections => [], retry_at => 0 }, $class;
}

sub connections { return @{ $_[0]->{connections} }; }
sub is_connected { return defined $_[0]->{ws}; }
sub microseconds { return int(time() * 1_000_000); }

sub connect
{
	my ($self) = @_;
	my $opened_at = microseconds();

	return if time() < $self->{retry_at};
	$self->{retry_at} = time() + 0.1;
	local $IotWebSocket::timeout = 10;
	my ($ws, $ready);
	my $done = eval {
		$ws = IotWebSocket->new(port => $self->{push}->port);
		$ready = $ws->auth($self->{push}->token($self->{user}));
		# a new client begins at the head, so that from there on nothing may be missing
		$self->{position} = $ready->{seq} unless defined $self->{position};
		$ws->send({ op => 'subscribe', id => 1, after_seq => $self->{position},
				epoch => $self->{epoch} || $ready->{epoch} });
		1;
	};
	return unless $done;
	$self->{ws} = $ws;
	$self->{epoch} ||= $ready->{epoch};
	$self->{current} = {
		user => $self->{user}, opened_at => $opened_at, after_seq => $self->{position},
		messages => [], open => 1
	};
	push @{ $self->{connections} }, $self->{current};
	return;
}

# Takes what is there without waiting.
sub pump
{
	my ($self) = @_;

	$self->connect unless $self->{ws};
	while ($self->{ws})
	{
		my $ws = $self->{ws};

		my $message = eval { $ws->receive(0.001) };

		if ($message)
		{
			$self->take($message);
		}
		elsif ($ws->{ended})
		{
			$self->gone;
		}
		elsif ($@ =~ /in time/)
		{
			last;
		}
		else
		{
			$self->{current}{error} = $@;
			$self->gone;
		}
	}
	return;
}

sub take
{
	my ($self, $message) = @_;

	$message->{read_at} = microseconds();
	push @{ $self->{current}{messages} }, $message;
	if ($message->{op} eq 'reset')
	{
		@$self{qw(position epoch)} = @$message{qw(seq epoch)};
	}
	elsif ($message->{op} eq 'event')
	{
		$self->{position} = $message->{seq} if $message->{seq} > $self->{position};
	}
	return;
}

sub gone
{
	my ($self) = @_;

	$self->{current}{open} = 0;
	$self->{current}{code} = $self->{ws}{code};
	$self->{ws}->drop;
	@$self{qw(ws current)} = ();
	return;
}

# Whether all that the daemon had sent has been read: asks for nonsense, and looks for the answer.
sub is_drained
{
	my ($self) = @_;
	my $id = $self->{barrier} ||= 1000;

	$self->pump;
	return 0 unless $self->{ws};
	if (!defined $self->{asked} || $self->{asked} != $self->{current})
	{
		$self->{ws}->send({ op => 'unsubscribe', id => ++$self->{barrier} });
		$self->{asked} = $self->{current};
		return 0;
	}
	return 0
	  unless grep { $_->{op} eq 'error' && ($_->{id} || 0) == $id } @{ $self->{current}{messages} };
	delete $self->{asked};
	return 1;
}

sub leave
{
	my ($self) = @_;

	$self->gone if $self->{ws};
	return;
}

1;
