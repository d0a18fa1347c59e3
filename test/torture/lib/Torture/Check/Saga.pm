# Commands: their end, the log, the sensor's value, what devices did, and whom the client believes.
# I1 to I6, I8.

package Torture::Check::Saga;

use strict;
use warnings;

my $end_slack = 5_000_000;		# after the deadline, in microseconds
my %final = map { $_ => 1 } qw(COMPLETED FAILED CANCELLED);

# What the events of a command make of it: state by state, what may come next.
my %fold = (
	'' => { 'command.value_set' => 'PROCESSING' },
	PROCESSING => { 'dm.value_set_error' => 'FAILED', 'dm.value_set_approved' => 'COMMITTED' },
	COMMITTED => {
		'adapter.value_set_due' => 'COMMITTED',
		'adapter.value_set_sent' => 'COMPLETED',
		'adapter.value_set_error' => 'ERROR' },
	ERROR => { 'dm.value_set_cancelled' => 'CANCELLED' },
	CANCELLED => { 'adapter.value_set_late' => 'CANCELLED and LATE' },
	COMPLETED => {},
	# a device may answer what it was never asked
	FAILED => { 'adapter.value_set_late' => 'FAILED and LATE' },
);

# Statuses of both services, by that of the command: device, adapter.
my %steps = (
	COMPLETED => [ 'COMMITTED', 'COMPLETED' ],
	FAILED => [ 'FAILED', undef ],
	CANCELLED => [ 'CANCELLED', 'FAILED' ],
);

sub same
{
	my ($a, $b) = @_;

	return !defined $a && !defined $b if !defined $a || !defined $b;
	return $a == $b;
}

# The last moment at which something was still down, of outages that touch [from, until].
sub end_of_outage
{
	my ($history, $from, $until) = @_;
	my $end = $from;

	foreach my $outage (@{ $history->{outages} })
	{
		$end = $outage->[1] if $outage->[0] <= $until && $outage->[1] > $end;
	}
	return $end;
}

sub check
{
	my ($history, $find) = @_;
	my %state;

	foreach my $step (@{ $history->{saga_step} })
	{
		$state{step}{ $step->{command_id} }{ $step->{service} } = $step;
	}
	foreach my $event (@{ $history->{event} })
	{
		push @{ $state{events}{ $event->{aggregateid} } }, $event
		  if $event->{aggregatetype} eq 'command';
	}
	$state{command} = { map { $_->{command_id} => $_ } @{ $history->{command} } };
	$state{device} = { map { $_->{device_id} => $_->{name} } @{ $history->{device} } };
	$state{ack_mode} = { map { $_->{device_id} => $_->{ack_mode} } @{ $history->{device} } };
	push @{ $state{measured}{"$_->{device_id} $_->{parameter_id}"} }, $_ foreach @{ $history->{measurement} };
	$state{parameter} = { map { $_->{parameter_id} => $_->{name} } @{ $history->{parameter} } };
	foreach my $record (@{ $history->{sim} })
	{
		push @{ $state{sim}{ $record->{id} }{ $record->{kind} } }, $record if $record->{id};
	}
	ends($history, $find, \%state);
	log_gives_state($history, $find, \%state);
	values_stand($history, $find, \%state);
	devices_obeyed($history, $find, \%state);
	answers_counted($history, $find, \%state);
	requests_were_one($history, $find, \%state);
	return;
}

# I1: one final state, in time, and that of both services.
sub ends
{
	my ($history, $find, $state) = @_;

	foreach my $command (@{ $history->{command} })
	{
		my $id = $command->{command_id};
		my ($device, $adapter) = map { $state->{step}{$id}{$_} } qw(device adapter);

		if (!$final{ $command->{status} } || !defined $command->{finished_at})
		{
			$find->('I1', 'a command has no final state', $command);
			next;
		}
		my $latest = end_of_outage($history, $command->{deadline}, $command->{finished_at});
		$find->('I1', 'a command ended more than five seconds after its deadline', $command)
		  if $command->{finished_at} > $latest + $end_slack;
		my ($expect_device, $expect_adapter) = @{ $steps{ $command->{status} } };
		$find->('I1', 'the steps of a command are not those of its status', $command,
			grep { defined } $device, $adapter)
		  if ($device ? $device->{status} : '') ne $expect_device
			  || ($adapter ? $adapter->{status} : '') ne ($expect_adapter || '');
		$find->('I1', 'a command that nobody answered does not say so', $command, $adapter)
		  if $command->{status} eq 'CANCELLED' && $adapter
			  && ($command->{error} || '') ne ($adapter->{error} || '');
	}
	return;
}

# I2: the events of a command, one after the other, give its row.
sub log_gives_state
{
	my ($history, $find, $state) = @_;

	foreach my $id (keys %{ $state->{events} })
	{
		$find->('I2', 'events of a command that does not exist', @{ $state->{events}{$id} })
		  unless $state->{command}{$id};
	}
	foreach my $command (@{ $history->{command} })
	{
		my @events = @{ $state->{events}{ $command->{command_id} } || [] };
		my $at = '';
		my $version;

		foreach my $event (@events)
		{
			my $next = $fold{$at}{ $event->{type} };

			if (!$next)
			{
				$at = "nothing after $event->{type}";
				last;
			}
			$at = $next;
			$version = $event->{version} if $event->{type} eq 'dm.value_set_approved';
			$find->('I2', 'an event says superseded, its command does not', $command, $event)
			  if $event->{type} eq 'dm.value_set_cancelled'
			  && ($event->{superseded} eq 'true') ne ($command->{superseded} eq 'true');
		}
		my $late = $at =~ s/ and LATE$//;
		$find->('I2', "events give \"$at\", the row says \"$command->{status}\"", $command, @events)
		  if $at ne $command->{status};
		$find->('I2', 'the approved version is not that of the command', $command, @events)
		  if !same($version, $command->{version});
		$find->('I6', 'late, without the event that says so, or the other way round', $command, @events)
		  if $late != ($command->{late} eq 'true');
	}
	return;
}

# I3: what stands is the newest write that nobody took back.  Every write has a number; those above
# the one that stands must all be commands that were rolled back.
sub values_stand
{
	my ($history, $find, $state) = @_;
	my %by_sensor;

	foreach my $command (@{ $history->{command} })
	{
		my $key = "$command->{device_id} $command->{parameter_id}";

		next unless defined $command->{version};
		if (my $other = $by_sensor{$key}{ $command->{version} })
		{
			$find->('I3', 'two commands have one number', $command, $other);
		}
		$by_sensor{$key}{ $command->{version} } = $command;
	}
	foreach my $value (@{ $history->{sensor_value} })
	{
		my $commands = $by_sensor{"$value->{device_id} $value->{parameter_id}"} || {};
		my @standing =
		  sort { $b->{version} <=> $a->{version} } grep { $_->{status} ne 'CANCELLED' } values %$commands;

		$find->('I3', 'a newer write was overwritten', $value, map { $commands->{$_} || () }
			  $value->{version} .. $value->{last_version})
		  if grep { !$commands->{$_} || $commands->{$_}{status} ne 'CANCELLED' }
			  $value->{version} + 1 .. $value->{last_version};
		$find->('I3', 'a command has a number that was not given out', $value, $commands->{$_})
		  foreach grep { $_ > $value->{last_version} } keys %$commands;
		my $owner = $commands->{ $value->{version} };
		my $source = $value->{source} || '';
		if ($source eq 'command')
		{
			$find->('I3', 'the value is not that of the command that wrote it', $value, $owner || ())
			  if !$owner || $owner->{status} eq 'CANCELLED'
			  || !same($owner->{target_value}, $value->{value});
		}
		elsif ($source eq 'measurement')
		{
			$find->('I3', 'the value is said to be measured, and is not what was reported', $value)
			  if $owner || !same($value->{value}, $value->{reported})
			  || $value->{value_at} != $value->{reported_at};
		}
		else
		{
			$find->('I3', 'a value without a source', $value)
			  if defined $value->{value} || $value->{version} != 0;
		}
		my $wanted = $standing[0];
		$find->('I3', 'desired is not what the last command that stands asked for', $value,
			$wanted || ())
		  if !same($value->{desired}, $wanted ? $wanted->{target_value} : undef)
		  || $value->{desired_version} != ($wanted ? $wanted->{version} : 0);
		foreach my $command (grep { $_->{status} eq 'CANCELLED' } values %$commands)
		{
			$find->('I3', 'superseded, but nothing newer was ever written', $value, $command)
			  if $command->{superseded} eq 'true' && $value->{last_version} == $command->{version};
		}
	}
	return;
}

# I4, I5: what devices were given, and what they did with it.
sub devices_obeyed
{
	my ($history, $find, $state) = @_;
	my %last;
	my %once;

	foreach my $record (@{ $history->{sim} })
	{
		next unless $record->{kind} =~ /^(?:received|executed|refused|received_qos0)$/;
		my $command = $state->{command}{ $record->{id} };
		if (!$command)
		{
			$find->('I4', 'a device was given a command that is not there', $record);
			next;
		}
		$find->('I4', 'a device was given something else than the command says', $record, $command)
		  if $state->{device}{ $command->{device_id} } ne $record->{device}
		  || $state->{parameter}{ $command->{parameter_id} } ne $record->{parameter}
		  || !same($command->{target_value}, $record->{value})
		  || !same($command->{version}, $record->{version});
		next if $record->{kind} ne 'executed';
		my $key = "$record->{device} $record->{parameter}";
		if (my $before = $once{ $record->{id} }++)
		{
			$find->('I5', 'a command was carried out more than once', $record, $command);
		}
		elsif ($last{$key} && $last{$key}{version} >= $record->{version})
		{
			$find->('I5', 'commands were carried out against the order of their versions',
				$last{$key}, $record);
		}
		$last{$key} = $record;
	}
	return;
}

# Whether something was down while the command was under way.
sub was_disturbed
{
	my ($history, $command) = @_;

	return grep { $_->[0] <= $command->{finished_at} && $_->[1] >= $command->{created_at} }
	  @{ $history->{outages} };
}

# The value came back as a measurement since the command was made.
sub was_echoed
{
	my ($state, $command) = @_;
	my $wanted = $command->{target_value};
	my $slack = 1e-6 * (abs($wanted) > 1 ? abs($wanted) : 1);

	return grep { abs($_->{value} - $wanted) <= $slack && defined $_->{committed_at}
		  && $_->{committed_at} >= $command->{created_at} }
	  @{ $state->{measured}{"$command->{device_id} $command->{parameter_id}"} || [] };
}

# Somebody who is subscribed as the device got it, unless the broker has lost what it confirmed.
sub was_handed_over
{
	my ($history, $sim, $command) = @_;

	return 1 if grep { $_->[0] <= $command->{finished_at} && $command->{finished_at} <= $_->[1] + $end_slack }
	  @{ $history->{exempt} };
	return scalar @{ $sim->{received} || [] };
}

# Without an answer, what ends a command well: what its device type takes for one.
sub was_confirmed
{
	my ($history, $state, $sim, $command) = @_;
	my $mode = $state->{ack_mode}{ $command->{device_id} };

	return was_echoed($state, $command) if $mode eq 'echo';
	return was_handed_over($history, $sim, $command) if $mode eq 'broker';
	return 0;
}

# Without an answer, what ends it badly: its time, or nobody who would listen.
sub was_given_up
{
	my ($history, $state, $sim, $command) = @_;

	return 1 if $command->{error} eq 'timed out';
	return $command->{error} eq 'nobody is subscribed' && $state->{ack_mode}{ $command->{device_id} } eq 'broker'
	  && (!$sim->{received} || was_disturbed($history, $command));
}

# I6: only the device's own answer, in time, ends a command, or what its type takes for one; nothing ends
# it twice (see I2).
sub answers_counted
{
	my ($history, $find, $state) = @_;

	foreach my $command (@{ $history->{command} })
	{
		my $name = $state->{device}{ $command->{device_id} };
		my $sim = $state->{sim}{ $command->{command_id} } || {};
		my @answers = grep { $_->{device} eq $name && !$_->{foreign} } @{ $sim->{answered} || [] };
		my $error = $command->{error} || '';

		$find->('I6', 'a command is completed though its device never said so', $command)
		  if $command->{status} eq 'COMPLETED' && !(grep { !defined $_->{error} } @answers)
		  && !was_confirmed($history, $state, $sim, $command);
		$find->('I6', 'a command is refused though its device never said so', $command, @answers)
		  if $command->{status} eq 'CANCELLED' && !was_given_up($history, $state, $sim, $command)
		  && !grep { defined $_->{error} && $_->{error} eq $error } @answers;
		$find->('I6', 'a command that failed at once was sent', $command, @{ $sim->{received} })
		  if $command->{status} eq 'FAILED' && $sim->{received};
		$find->('I6', 'late, though its device never answered', $command, map { @$_ } values %$sim)
		  if $command->{late} eq 'true' && !@answers;
	}
	return;
}

# I8: one request, one command; and what the client was told is there.
sub requests_were_one
{
	my ($history, $find, $state) = @_;
	my %by_request;
	my %ids;

	foreach my $command (@{ $history->{command} })
	{
		next unless defined $command->{request_id};
		my $key = "$state->{device}{ $command->{device_id} } $command->{request_id}";

		$find->('I8', 'two commands of one request', $command, $by_request{$key}) if $by_request{$key};
		$by_request{$key} = $command;
	}
	foreach my $sent (@{ $history->{sent} })
	{
		my $key = defined $sent->{request_id} ? "$sent->{device} $sent->{request_id}" : undef;

		if ($sent->{outcome} eq 'ok')
		{
			$find->('I8', 'a command that its sender was told of is not there', $sent)
			  unless $state->{command}{ $sent->{command_id} };
			next unless $key;
			$find->('I8', 'a request that was sent again got another command', $sent, $ids{$key})
			  if $ids{$key} && $ids{$key}{command_id} ne $sent->{command_id};
			$ids{$key} ||= $sent;
			$find->('I8', 'other arguments under a request id were taken', $sent)
			  if $sent->{other_arguments};
		}
		elsif ($sent->{outcome} eq 'refused')
		{
			$find->('I8', 'a request that is the same was refused', $sent)
			  if $key && !$sent->{other_arguments};
		}
	}
	return;
}

1;
