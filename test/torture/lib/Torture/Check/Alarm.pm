# Alarms: they open and close in turn, the log says the same, and for thresholds the checker judges
# every measurement itself.  I15.

package Torture::Check::Alarm;

use strict;
use warnings;

my %holds = (
	'<' => sub { $_[0] < $_[1] },
	'<=' => sub { $_[0] <= $_[1] },
	'>' => sub { $_[0] > $_[1] },
	'>=' => sub { $_[0] >= $_[1] },
);

sub check
{
	my ($history, $find) = @_;
	my %by_rule;

	push @{ $by_rule{"$_->{device_id} $_->{alarm_rule_id}"} }, $_ foreach @{ $history->{alarm} };
	in_turn($find, $_) foreach values %by_rule;
	log_gives_alarms($history, $find);
	foreach my $rule (@{ $history->{alarm_rule} })
	{
		judged($history, $find, $rule, \%by_rule) if is_plain($rule);
	}
	return;
}

# At most one open, and none begins before the one before it ends.  What people close ends by the
# server's clock, and a measurement that was older by its device's may open the next.
sub in_turn
{
	my ($find, $alarms) = @_;
	my $before;

	foreach my $alarm (sort { $a->{opened_at} <=> $b->{opened_at} } @$alarms)
	{
		$find->('I15', 'an alarm ends before it begins', $alarm)
		  if defined $alarm->{closed_at} && $alarm->{closed_at} < $alarm->{opened_at};
		$find->('I15', 'two alarms of a rule are open at a time', $before, $alarm)
		  if $before && (!defined $before->{closed_at}
			|| ($before->{closed_at} > $alarm->{opened_at} && !defined $before->{closed_by}));
		$before = $alarm;
	}
	return;
}

# alarm.opened, then alarm.closed, for each alarm, and for each rule of a device in turn.
sub log_gives_alarms
{
	my ($history, $find) = @_;
	my %events;
	my %open;

	foreach my $event (@{ $history->{event} })
	{
		next unless $event->{type} =~ /^alarm\.(?:opened|closed)$/;
		my $key = "$event->{device_id} " . ($event->{rule} || '');

		push @{ $events{ $event->{alarm_id} || $event->{aggregateid} } }, $event;
		if ($event->{type} eq 'alarm.opened')
		{
			$find->('I15', 'an alarm opened while another of its rule was open', $open{$key}, $event)
			  if $open{$key};
			$open{$key} = $event;
		}
		else
		{
			$find->('I15', 'an alarm closed that was not open', $event) unless $open{$key};
			delete $open{$key};
		}
	}
	foreach my $alarm (@{ $history->{alarm} })
	{
		my $said = join ' ', map { $_->{type} } @{ delete $events{ $alarm->{alarm_id} } || [] };
		my $expected = $alarm->{status} eq 'OPENED' ? 'alarm.opened' : 'alarm.opened alarm.closed';

		$find->('I15', "the log says \"$said\" of an alarm that is $alarm->{status}", $alarm)
		  if $said ne $expected;
	}
	$find->('I15', 'the log knows an alarm that is not there', @$_) foreach values %events;
	return;
}

# A rule that can be judged by one measurement after the other, and was there, unchanged, from
# before the first of them.
sub is_plain
{
	my ($rule) = @_;

	return $rule->{kind} eq 'threshold' && $rule->{enabled} eq 'true' && $rule->{plain} eq 'true'
	  && $rule->{repeat_count} == 1 && $rule->{auto_close} eq 'true' && !defined $rule->{red_threshold}
	  && $rule->{updated_at} == $rule->{created_at} && $rule->{scope} =~ /^(?:all|device)$/;
}

# What the rule must have made of the measurements, in the order in which they were committed: late
# ones are passed over.  Where people closed an alarm, the rest is not the rule's alone.
sub judged
{
	my ($history, $find, $rule, $by_rule) = @_;
	my $holds = $holds{ $rule->{comparison} };
	my $close = defined $rule->{close_threshold} ? $rule->{close_threshold} : $rule->{threshold};
	my (%newest, %alarms);

	foreach my $row (@{ $history->{measurement} })
	{
		my $device = $row->{device_id};
		my $list = $alarms{$device} ||= [];
		my $open = @$list && !defined $list->[-1]{closed_at} ? $list->[-1] : undef;

		next if $row->{parameter_id} ne $rule->{parameter_id};
		next if $rule->{scope} eq 'device' && $device ne $rule->{device_id};
		next if defined $newest{$device} && $row->{ts} <= $newest{$device};
		$newest{$device} = $row->{ts};
		if ($open)
		{
			$open->{closed_at} = $row->{ts} unless $holds->($row->{value}, $close);
		}
		elsif ($holds->($row->{value}, $rule->{threshold}))
		{
			push @$list, { opened_at => $row->{ts}, value => $row->{value} };
		}
	}
	my %devices = map { $_ => 1 } keys %alarms, map { (split / /)[0] }
	  grep { (split / /)[1] eq $rule->{alarm_rule_id} } keys %$by_rule;
	foreach my $device (sort keys %devices)
	{
		my @expected = @{ $alarms{$device} || [] };
		my @found = sort { $a->{opened_at} <=> $b->{opened_at} }
		  @{ $by_rule->{"$device $rule->{alarm_rule_id}"} || [] };
		next if grep { defined $_->{closed_by} } @found;
		my $describe = sub {
			join ', ', map { "$_->{opened_at} to " . ($_->{closed_at} // 'now') } @_;
		};
		my ($want, $have) = map { $describe->(@$_) } \@expected, \@found;

		$find->('I15', "rule \"$rule->{name}\" on device $device should have given [$want]", @found)
		  if $want ne $have;
	}
	return;
}

1;
