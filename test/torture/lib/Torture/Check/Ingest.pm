# Measurements: what the broker had confirmed is stored, once, and counted; the current value is the
# newest.  I9 to I12, I14, I16, I17 for adapters.

package Torture::Check::Ingest;

use strict;
use warnings;

sub check
{
	my ($history, $find) = @_;
	my %device = map { $_->{device_id} => $_->{name} } @{ $history->{device} };
	my %parameter = map { $_->{parameter_id} => $_->{name} } @{ $history->{parameter} };
	my %stored;
	my %newest;

	foreach my $row (@{ $history->{measurement} })
	{
		my ($device, $parameter) = ($device{ $row->{device_id} }, $parameter{ $row->{parameter_id} });
		my $key = join ' ', $device || $row->{device_id}, $parameter || $row->{parameter_id}, $row->{ts};
		my $sensor = "$row->{device_id} $row->{parameter_id}";

		$find->('I11', 'a measurement is stored twice', $row, $stored{$key}) if $stored{$key};
		$find->('I16', 'a measurement is no finite number', $row) if $row->{value} =~ /nan|inf/i;
		$stored{$key} = $row;
		$newest{$sensor} = $row if !$newest{$sensor} || $row->{ts} > $newest{$sensor}{ts};
	}
	taken_in($history, $find, \%stored);
	counted($history, $find);
	current($history, $find, \%newest);
	return;
}

# Whether the broker may have lost what it confirmed then.
sub is_exempt
{
	my ($history, $at) = @_;

	return grep { $_->[0] <= $at && $at <= $_->[1] } @{ $history->{exempt} };
}

# Whether a message may have been stored before one that was sent earlier: processes that share telemetry
# keep no order among them, as long as the earlier one was not committed when this one was sent.
sub overtakes
{
	my ($history, $message, $row) = @_;

	return ($history->{processes} || 1) > 1
	  && (!$row || !defined $row->{committed_at} || ($message->{sent_at} || 0) <= $row->{committed_at});
}

# What is stored for the first point of a message.
sub row_of
{
	my ($stored, $message) = @_;
	my ($parameter, $ts) = @{ $message->{points}[0] };

	return $stored->{"$message->{device} $parameter $ts"};
}

# I9 to I11: acknowledged is stored, the first value of a key wins, nothing comes from nowhere.
sub taken_in
{
	my ($history, $find, $stored) = @_;
	my %first;		# the value that was confirmed first, by key
	my %sent;		# every value that was sent at all
	my %letters;

	foreach my $letter (@{ $history->{dead_letter} })
	{
		push @{ $letters{"$letter->{topic} " . ($letter->{payload} || '')} }, $letter
		  if defined $letter->{topic};
	}
	foreach my $message (@{ $history->{published} })
	{
		my $exempt = !$message->{acked} || is_exempt($history, $message->{acked});

		foreach my $point (@{ $message->{points} || [] })
		{
			my ($parameter, $ts, $value) = @$point;
			my $key = "$message->{device} $parameter $ts";

			$sent{$key}{ defined $value ? $value + 0 : '*' } = 1;
			if (!$first{$key})
			{
				$first{$key} = { message => $message, value => $value, exempt => $exempt };
			}
			elsif ($exempt || $first{$key}{exempt} || overtakes($history, $message, $stored->{$key}))
			{
				# what came first is not known then
				$first{$key}{unsure} = 1;
			}
			next if $exempt;
			my $row = $stored->{$key};
			$find->('I10', 'a measurement that the broker confirmed is not stored', $message)
			  unless $row;
		}
		# a conflict is one only with what is there
		$exempt ||= !$message->{after}{acked} || is_exempt($history, $message->{after}{acked})
		  if $message->{after};
		next if $exempt || !$message->{reason};
		# of two that met, the other may be the one in conflict
		my @letters = map { @{ $letters{"$_->{topic} " . unpack('H*', $_->{payload})} || [] } } $message,
		  $message->{after} && overtakes($history, $message, row_of($stored, $message)) ? $message->{after} : ();
		$find->('I12', "a message that cannot be used ($message->{reason}) is no dead letter", $message,
			@letters)
		  unless grep { $_->{reason} eq $message->{reason} } @letters;
	}
	foreach my $key (keys %$stored)
	{
		my $row = $stored->{$key};

		if (!$sent{$key})
		{
			$find->('I10', 'a measurement is stored that was never sent', $row);
			next;
		}
		next if $sent{$key}{'*'} || $row->{value} =~ /nan|inf/i;
		$find->('I11', 'a value is stored that was never sent', $row) unless $sent{$key}{ $row->{value} + 0 };
		my $first = $first{$key};
		$find->('I11', 'the first value of its time was replaced', $row, $first->{message})
		  if !$first->{exempt} && !$first->{unsure} && $row->{value} != $first->{value};
	}
	return;
}

# I12: nothing is uncounted.
sub counted
{
	my ($history, $find) = @_;

	foreach my $row (@{ $history->{counters} || [] })
	{
		my $sum = 0;

		$sum += $row->{$_} || 0 foreach qw(stored duplicate conflict rejected);
		$find->('I12', 'received is not stored + duplicate + conflict + rejected', $row)
		  if ($row->{received} || 0) != $sum;
	}
	return;
}

# I14: what was reported last is the newest that is stored.
sub current
{
	my ($history, $find, $newest) = @_;
	my %value;

	foreach my $value (@{ $history->{sensor_value} })
	{
		my $key = "$value->{device_id} $value->{parameter_id}";
		my $row = $newest->{$key};

		$value{$key} = 1;
		$find->('I14', 'the reported value is not the newest', $value, $row || ())
		  if defined $value->{reported_at} != defined $row
		  || ($row && ($value->{reported_at} != $row->{ts} || $value->{reported} != $row->{value}));
	}
	$find->('I14', 'a measured sensor has no current value', $newest->{$_})
	  foreach grep { !$value{$_} } keys %$newest;
	return;
}

1;
