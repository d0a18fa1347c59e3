# What users, devices and operators do, at random and repeatably: a seed gives the same choices.
#
#   my $workload = Torture::Workload->new($world, seed => 7);
#   $workload->step foreach 1 .. 500;
#   $workload->{done}          how often each kind of step was taken

package Torture::Workload;

use strict;
use warnings;

use Time::HiRes qw(time);

use IotTest;

# Kinds of steps and how often each comes, in hundredths.
my @plan = (
	[ command => 24 ],
	[ rush => 6 ],
	[ repeat_request => 6 ],
	[ measure => 30 ],
	[ ingest => 4 ],
	[ measure_again => 7 ],
	[ poison => 4 ],
	[ answer => 5 ],
	[ touch_alarm => 5 ],
	[ change_rule => 2 ],
	[ change_grant => 2 ],
	[ leave => 3 ],
	[ restart => 2 ],
);

# Options: seed, restarts (0: no process ends).
sub new
{
	my ($class, $world, %opt) = @_;
	my $self = bless { world => $world, %opt, done => {}, messages => [], ms => {} }, $class;

	$self->{plan} = [ map { ($_->[0]) x $_->[1] } grep { $_->[0] ne 'restart' || $opt{restarts} } @plan ];
	srand($opt{seed});
	$self->{number} = 0;
	return $self;
}

sub choose { return $_[ int(rand(@_)) ]; }
sub chance { return rand() < $_[0]; }

sub step
{
	my ($self, $kind) = @_;

	$kind ||= choose(@{ $self->{plan} });
	$self->{done}{$kind}++;
	$self->$kind;
	$self->{world}->pump;
	return;
}

sub uuid
{
	return sprintf('%08x-%04x-4%03x-8%03x-%012x',
		rand(2**32), rand(2**16), rand(2**12), rand(2**12), rand(2**48));
}

sub command
{
	my ($self) = @_;

	$self->{world}->send_command($self->some_command(choose($self->{world}->devices)));
	return;
}

# Several users at one sensor in the same moment, two of them by mistake with one request, while the
# device reports.
sub rush
{
	my ($self) = @_;
	my $world = $self->{world};
	my $device = choose(qw(good-1 refuser-1 double-1 flaky-1 silent-1 parrot-1 plain-1));
	my @commands = map { { $self->some_command($device), parameter => 'temperature' } } 1 .. 3;

	$commands[0]{request_id} ||= uuid();
	push @commands, { %{ $commands[0] } };
	push @{ $self->{messages} },
	  $world->publish($device, [ [ 'temperature', $self->next_ms($device), int(rand(1000)) / 10 ] ]);
	$world->send_together(@commands);
	return;
}

# By SQL, on a sensor that no rule is about, since two doors have no common order.
sub ingest
{
	my ($self) = @_;
	my $device = choose(qw(meter-2 refuser-1));

	$self->{world}->ingest($device, 'pressure', $self->next_ms($device), int(rand(100)) / 10);
	return;
}

sub some_command
{
	my ($self, $device) = @_;
	my %arg = (
		device => $device,
		parameter => chance(0.8) ? 'temperature' : 'pressure',
		value => int(rand(110)));

	if (chance(0.2))
	{
		@arg{qw(action value)} = ('add', int(rand(20)) - 10);
		$arg{expected} = int(rand(100)) if chance(0.3);
	}
	$arg{request_id} = uuid() if chance(0.5);
	$arg{ttl} = chance(0.5) ? '300 ms' : '2 s' if chance(0.2);
	$arg{ttl} ||= '15 s';
	return %arg;
}

# The same request once more, as a client does that did not hear the answer; or, wrongly, with
# another value.
sub repeat_request
{
	my ($self) = @_;
	my $world = $self->{world};
	my @sent = grep { defined $_->{request_id} && !$_->{other_arguments} } @{ $world->{sent} };

	return unless @sent;
	my %arg = %{ choose(@sent) };

	delete @arg{qw(outcome command_id answer at)};
	# of what is not known to be there, any arguments may be the first to arrive
	if (chance(0.2)
		&& grep { $_->{request_id} eq $arg{request_id} && $_->{outcome} eq 'ok' } @{ $world->{sent} })
	{
		$arg{value}++;
		$arg{other_arguments} = 1;
	}
	$world->send_command(%arg);
	return;
}

# A time of the device's that it has not used yet.
sub next_ms
{
	my ($self, $device) = @_;
	my $ms = int(time() * 1000);

	$ms = $self->{ms}{$device} + 1 if $self->{ms}{$device} && $ms <= $self->{ms}{$device};
	$self->{ms}{$device} = $ms;
	return $ms;
}

# An older time of the device's, that it has not used either: odd ones are late.
sub late_ms
{
	my ($self, $device) = @_;

	return int(time() * 1000) - 60_000_000 + 2 * ++$self->{number};
}

sub meter { return choose(qw(meter-1 meter-2 gauge-1 silent-1 refuser-1 good-1)); }

# Never the parameter by which the harness marks the end.
sub measure
{
	my ($self) = @_;
	my $device = meter();
	my @points;

	foreach (1 .. (chance(0.3) ? 1 + int(rand(5)) : 1))
	{
		my $ms = chance(0.15) ? $self->late_ms($device) : $self->next_ms($device);

		push @points, [ 'temperature', $ms, int(rand(1000)) / 10 ];
	}
	@points = reverse @points if chance(0.2);
	push @{ $self->{messages} }, $self->{world}->publish($device, \@points);
	return;
}

# A time that was sent before: as it was, or with another value.
sub measure_again
{
	my ($self) = @_;
	my $before = choose(@{ $self->{messages} }) or return;
	my ($parameter, $ts, $value) = @{ $before->{points}[0] };

	if (chance(0.6))
	{
		$self->{world}->publish($before->{device}, [ [ $parameter, $ts / 1000, $value ] ]);
	}
	else
	{
		$self->{world}->publish($before->{device}, [ [ $parameter, $ts / 1000, $value + 0.05 ] ],
			reason => 'conflict', after => $before);
	}
	return;
}

sub poison
{
	my ($self) = @_;
	my $n = ++$self->{number};
	my ($topic, $payload, $reason) = @{ choose(
			[ 'meter-1/telemetry', qq({"temperature":$n), 'malformed_json' ],
			[ 'meter-1/telemetry', qq({"unknown$n":1}), 'unknown_parameter' ],
			[ 'meter-1/telemetry', qq({"temperature":"word$n"}), 'wrong_type' ],
			[ 'meter-1/telemetry', qq({"temperature":${n}e400}), 'not_finite' ],
			[ 'meter-1/telemetry', qq({"ts":$n,"values":{"temperature":1}}), 'out_of_time_range' ],
			[ "nobody$n/telemetry", '{"temperature":1}', 'unknown_device' ],
			[ 'good-1/command/ack', sprintf('{"id":"00000000-0000-7000-8000-%012d","ok":true}', $n),
				'unknown_command' ]) };

	$self->{world}->publish_poison("iot/$topic", $payload, $reason);
	return;
}

# A device, or another in its place, answers some command: again, too late, or not its own.
sub answer
{
	my ($self) = @_;
	my $world = $self->{world};
	my @sent = grep { $_->{command_id} } @{ $world->{sent} } or return;
	my $command = choose(@sent);
	my $error = chance(0.3) ? 'jammed' : undef;

	if (chance(0.3))
	{
		my $other = choose(grep { $_ ne $command->{device} } $world->devices);
		my $message = $world->answer($other, $command->{command_id}, $error);

		$message->{reason} = 'unknown_command';
	}
	else
	{
		$world->answer($command->{device}, $command->{command_id}, $error);
	}
	return;
}

# People acknowledge any alarm, and close those of a rule that the checker does not judge.
sub touch_alarm
{
	my ($self) = @_;
	my $verb = chance(0.6) ? 'acknowledge_alarm' : 'close_alarm';
	my $which = $verb eq 'close_alarm' ? "AND a.rule = 'volatile'" : '';

	$self->{world}->ask("SELECT iot.$verb(a.alarm_id) FROM iot.alarm AS a WHERE a.status = 'OPENED' $which"
		  . ' ORDER BY a.alarm_id LIMIT 1');
	return;
}

sub change_rule
{
	my ($self) = @_;
	my $change = choose('enabled = NOT enabled', 'threshold = ' . (45 + int(rand(20))));

	$self->{world}->ask("UPDATE iot.alarm_rule SET $change WHERE name = 'volatile'");
	return;
}

sub change_grant
{
	my ($self) = @_;
	my $world = $self->{world};

	if ($world->may_view('carl', 'house'))
	{
		$world->revoke('carl', 'house');
	}
	else
	{
		$world->allow('carl', 'house');
	}
	return;
}

sub leave
{
	my ($self) = @_;

	choose($self->{world}->clients)->leave;
	return;
}

# A process ends, politely or not, and comes back.
sub restart
{
	my ($self) = @_;
	my $world = $self->{world};
	my $what = choose('iot mqtt adapter', 'iot notifier', 'iot launcher', 'push daemon', 'devices');

	$self->{done}{"restart $what"}++;
	$world->outage_begins;
	if ($what eq 'push daemon')
	{
		my $push = choose($world->daemons);

		chance(0.5) ? $push->stop : $push->kill9;
		$push->spawn;
		$world->wait_for(sub { ($push->http_get('/healthz'))[0] == 200 });
	}
	elsif ($what eq 'devices')
	{
		my $sim = $world->sim(choose(qw(good refuser double flaky parrot plain)));
		my $offset = $sim->log_size;

		chance(0.5) ? $sim->stop : $sim->kill9;
		$sim->spawn;
		$world->wait_for(sub { $sim->log_content($offset) =~ /^ready$/m });
	}
	else
	{
		my @pids = split / /, $world->ask("SELECT string_agg(pid::text, ' ' ORDER BY pid)"
			  . " FROM pg_stat_activity WHERE backend_type = '$what'") || '';
		my $pid = choose(@pids);

		$world->ask("SELECT pg_terminate_backend($pid)") if $pid;
		$world->wait_for(sub { $world->workers_are_back });
	}
	$world->outage_ends;
	return;
}

1;
