# Notifications: one outcome told once, to everybody it concerns and nobody else, without a gap.
# I7, I17, I25, I26, I27.

package Torture::Check::Push;

use strict;
use warnings;

my $revocation = 1_000_000;		# within which a grant that is taken away must have ended
my $unflushed = 2_000_000;		# how long a record may wait for the disk
my %outcome = map { $_ => 1 } qw(adapter.value_set_sent adapter.value_set_error dm.value_set_error);

sub check
{
	my ($history, $find) = @_;
	my %state = (
		group => { map { $_->{device_id} => $_->{group} } @{ $history->{device} } },
		notification => { map { $_->{seq} => $_ } @{ $history->{notification} } },
		event => { map { $_->{event_id} => $_ } @{ $history->{event} } },
	);

	push @{ $state{delivery}{ $_->{seq} } }, $_ foreach @{ $history->{delivery} };
	foreach my $access (@{ $history->{access} })
	{
		push @{ $state{access}{ $access->{user} }{ $access->{group} } }, $access;
		$state{changes}{ $access->{user} } = 1 if $access->{from} || defined $access->{until};
	}
	told_once($history, $find, \%state);
	offered($history, $find, \%state);
	foreach my $connection (@{ $history->{connections} })
	{
		may_hear($history, $find, \%state, $connection);
		no_gap($history, $find, \%state, $connection)
		  unless $state{changes}{ $connection->{user} };
	}
	delivered($history, $find, \%state);
	return;
}

# I7: an outcome is one notification for each recipient and channel.
sub told_once
{
	my ($history, $find, $state) = @_;
	my %told;

	foreach my $notification (@{ $history->{notification} })
	{
		my $event = $state->{event}{ $notification->{event_id} };

		if (!$event)
		{
			$find->('I7', 'a notification of an event that is not there', $notification);
			next;
		}
		# of a command, outcomes exclude each other: whichever it is, it is one
		my $subject = $outcome{ $event->{type} } ? $event->{aggregateid} : $event->{event_id};
		foreach my $delivery (@{ $state->{delivery}{ $notification->{seq} } || [] })
		{
			my $key = "$subject $delivery->{channel} $delivery->{recipient}";

			$find->('I7', 'somebody is told of one outcome twice', $told{$key}, $notification, $delivery)
			  if $told{$key};
			$told{$key} = $notification;
		}
	}
	return;
}

# Whether a user may view a group all the time.
sub always_views
{
	my ($state, $user, $group) = @_;

	return 0 if $state->{changes}{$user} || !defined $group;
	return defined $state->{access}{$user}{$group};
}

# I17: every reader of the log was offered every event; the notifier has told of each.
sub offered
{
	my ($history, $find, $state) = @_;
	my %plain = map { $_->{event} => 1 }
	  grep { $_->{enabled} eq 'true' && $_->{channel} eq 'push' && $_->{audience} eq 'viewers'
		  && $_->{event} !~ /\*/ } @{ $history->{notification_rule} };
	my %recipients;

	foreach my $consumer (@{ $history->{consumer} })
	{
		$find->('I17', 'a reader of the log is behind, at rest', $consumer) if $consumer->{behind} > 0;
	}
	foreach my $notification (@{ $history->{notification} })
	{
		$recipients{ $notification->{event_id} }{ $_->{recipient} } = 1
		  foreach @{ $state->{delivery}{ $notification->{seq} } || [] };
	}
	foreach my $event (@{ $history->{event} })
	{
		next unless $plain{ $event->{type} } && defined $event->{device_id};
		foreach my $user (sort keys %{ $state->{access} })
		{
			next unless always_views($state, $user, $state->{group}{ $event->{device_id} });
			$find->('I17', "$user was never to be told of an event", $event)
			  unless $recipients{ $event->{event_id} }{$user};
		}
	}
	return;
}

# I26: nothing of a group that the user cannot view.
sub may_hear
{
	my ($history, $find, $state, $connection) = @_;
	my $access = $state->{access}{ $connection->{user} } || {};

	foreach my $message (grep { $_->{op} eq 'event' } @{ $connection->{messages} })
	{
		my $notification = $state->{notification}{ $message->{seq} };

		if (!$notification)
		{
			$find->('I26', 'a client was told what is not there', $message);
			next;
		}
		next unless defined $notification->{device_id};
		my $group = $state->{group}{ $notification->{device_id} };
		# sent between being written, or asked for, and being read
		my $earliest = $notification->{created_at};
		$earliest = $connection->{opened_at} if $connection->{opened_at} > $earliest;
		my $latest = $message->{read_at};
		next
		  if grep { ($_->{from} || 0) <= $latest
			  && (!defined $_->{until} || $earliest <= $_->{until} + $revocation) }
			  @{ $access->{$group} || [] };
		$find->('I26', "$connection->{user} was told of a device of group \"$group\"", $message,
			$notification, @{ $access->{$group} || [] });
	}
	return;
}

# Whether a crash of the server between two tellings may have lost the record of the first: the
# daemon writes it without a flush, and says so.
sub was_forgotten
{
	my ($history, $first, $again) = @_;

	return grep { $first->{read_at} >= $_->[0] - $unflushed && $first->{read_at} <= $_->[1]
		  && $again->{read_at} >= $_->[0] } @{ $history->{outages} };
}

# I27: on a connection everything after its position, in order, up to the last that was told.
sub no_gap
{
	my ($history, $find, $state, $connection) = @_;
	my $position = $connection->{after_seq};
	my (%got, $last);

	foreach my $message (@{ $connection->{messages} })
	{
		if ($message->{op} eq 'reset')
		{
			# what had not been told before is told anew by other means
			$position = undef;
			next;
		}
		next if $message->{op} ne 'event';
		my $seq = $message->{seq};

		if ($got{$seq})
		{
			$find->('I27', "$connection->{user} was told twice on one connection", $got{$seq}, $message)
			  unless was_forgotten($history, $got{$seq}, $message);
			next;
		}
		$got{$seq} = $message;
		# a daemon that died before it wrote down what it told leaves it to be told again
		next if defined $connection->{after_seq} && $seq <= $connection->{after_seq};
		$find->('I27', "$connection->{user} was told out of order", $last, $message)
		  if $last && $seq < $last->{seq};
		$last = $message if !$last || $seq > $last->{seq};
	}
	return unless defined $position && $last;
	my @missed = grep {
		$_->{seq} > $position && $_->{seq} <= $last->{seq} && $_->{channel} eq 'push'
		  && $_->{audience} eq 'viewers' && defined $_->{device_id}
		  && always_views($state, $connection->{user}, $state->{group}{ $_->{device_id} })
		  && !$got{ $_->{seq} }
	} @{ $history->{notification} };
	$find->('I27', "$connection->{user} asked for what came after $position and missed some", @missed)
	  if @missed;
	return;
}

# I25: delivered means that a socket of the recipient took it; who is connected waits for nothing.
sub delivered
{
	my ($history, $find, $state) = @_;
	my (%heard, %connected);

	foreach my $connection (@{ $history->{connections} })
	{
		$connected{ $connection->{user} } = 1 if $connection->{open};
		$heard{ $_->{seq} }{ $connection->{user} } = 1
		  foreach grep { $_->{op} eq 'event' } @{ $connection->{messages} };
	}
	foreach my $delivery (@{ $history->{delivery} })
	{
		next if $delivery->{channel} ne 'push';
		my $notification = $state->{notification}{ $delivery->{seq} };
		my $user = $delivery->{recipient};
		my $group = $notification && defined $notification->{device_id}
		  ? $state->{group}{ $notification->{device_id} } : undef;

		if ($delivery->{status} eq 'DELIVERED')
		{
			my $heard = $heard{ $delivery->{seq} } || {};

			$find->('I25', 'recorded as delivered, and nobody was told', $delivery, $notification)
			  if $user eq '*' ? !%$heard : !$heard->{$user};
		}
		elsif ($delivery->{status} eq 'PENDING')
		{
			$find->('I25', 'pending, though the recipient is connected', $delivery, $notification)
			  if $user ne '*' && $connected{$user} && always_views($state, $user, $group);
		}
	}
	return;
}

1;
