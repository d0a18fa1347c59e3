# One point of the sweep: something is killed at a moment of its own, everything comes back, and the
# history must hold.
#
#   my $sweep = Torture::Point->new($world, seed => 7);
#   my $result = $sweep->run('adapter');
#   $result->{what}           "adapter killed at system call 37 of 212 (pwrite64)"
#   $result->{findings}       of the checker; none where the point held
#
# Kinds: adapter, notifier, backend, pushd (killed at a system call within a saga), flood (the
# adapter, within a stream of telemetry), immediate (shutdown of the server), postmaster and broker
# (kill -9).

package Torture::Point;

use strict;
use warnings;

use Time::HiRes qw(time);

use IotTest;

use Torture::Checker;
use Torture::Tracer;
use Torture::Workload;

our @kinds = qw(adapter notifier backend pushd flood immediate postmaster broker);

my $effect = qr/^(?:p?write(?:64|v)?|send(?:to|msg)|f(?:data)?sync|kill|fallocate|ftruncate|unlink)$/;

# Within which workers must be back: from when they could be.
our $resume = 10;

# What the broker may lose of what it has confirmed, in microseconds before its end: its
# configuration here saves after each change, at the next turn of its loop.
my $broker_window = 1_000_000;

# Devices that get a command each: confirmed, refused, answered late, by its value, by the broker's word.
my @in_saga = qw(good-1 refuser-1 late-1 parrot-1 plain-1);

# Options: seed, steps (of the workload before each point), restarts (1: processes end among them),
# turn (where among the system calls to begin: each number elsewhere).
sub new
{
	my ($class, $world, %opt) = @_;
	my $self = bless { world => $world, steps => $opt{steps} // 10, calls => {}, turn => {} }, $class;

	$self->{turn}{$_} = $opt{turn} || 0 foreach @kinds;

	$self->{workload} =
	  Torture::Workload->new($world, seed => $opt{seed}, restarts => $opt{restarts});
	return $self;
}

# A saga that touches all: commands that are confirmed in each way, refused, answered late; measurements,
# an alarm.  In flight when this returns.
sub saga
{
	my ($self) = @_;
	my $world = $self->{world};

	$world->send_command(device => $_, parameter => 'temperature', value => 20 + int(rand(70)),
		request_id => Torture::Workload::uuid(), ttl => '15 s') foreach @in_saga;
	$self->{workload}->step('measure') foreach 1 .. 5;
	return;
}

sub saga_ends
{
	my ($self) = @_;
	my $world = $self->{world};
	my @ids = map { $_->{command_id} || () } @{ $world->{sent} }[ -@in_saga .. -1 ];

	return 1 unless @ids;
	return ($world->ask('SELECT count(*) = 0 FROM iot.command WHERE finished_at IS NULL AND command_id'
			  . ' IN (' . join(', ', map { IotTest::literal($_) } @ids) . ')') || '') eq 't';
}

# Of several processes each in its turn: the first sends commands, all take telemetry.  Its pid, and which.
sub pid_of_worker
{
	my ($self, $kind) = @_;
	my $turn = $self->{of_several}{$kind}++;
	my @pids;

	$self->{world}->wait_for(sub {
		@pids = split / /, $self->{world}->ask("SELECT string_agg(pid::text, ' ' ORDER BY name)"
			  . " FROM iot_internal.worker_slots() WHERE kind = '$kind'") || '';
		return scalar @pids;
	});
	return ($pids[ $turn % @pids ], 1 + $turn % @pids);
}

# Runs a point of that kind, waits until everything is at rest, and has the history checked.
sub run
{
	my ($self, $kind) = @_;
	my $world = $self->{world};
	my $method = "kill_$kind";

	$world->wake;
	$self->{workload}->step foreach 1 .. $self->{steps};
	my $what = $self->$method($kind);
	my @restless = $world->rest;
	my @findings = Torture::Checker->check($world->history);
	unshift @findings, { invariant => 'rest', what => $_, rows => [] } foreach @restless;
	my $back = delete $self->{back};
	push @findings,
	  { invariant => 'I23', what => sprintf('workers were away for %.1f s', $back), rows => [] }
	  if defined $back && $back > $resume;
	return { what => $what, findings => \@findings, back => $back };
}

# Waits until workers are back, and notes how long that took since they could.
sub workers_return
{
	my ($self, $since) = @_;

	$self->{world}->wait_for(sub { $self->{world}->workers_are_back });
	$self->{back} = time() - $since;
	$self->{world}->outage_ends;
	return;
}

# Has the process killed at one of the system calls that the work takes, each time another: they are
# looked at once, without a kill.  What was done, in words.
sub kill_at_a_call
{
	my ($self, $kind, $pid, $work, $ends) = @_;
	my $world = $self->{world};
	my $calls = $self->{calls}{$kind} ||= [
		Torture::Tracer->calls($pid, sub {
			$work->();
			$world->wait_for($ends);
		}) ];
	my $tracer;
	my $what;

	if (@$calls)
	{
		# the golden ratio goes through all of them, never close to where it was; every other time
		# through those that others can see the effect of
		my $turn = ++$self->{turn}{$kind};
		my @places = grep { $turn % 2 || $calls->[$_] =~ $effect } 0 .. $#$calls;

		@places = (0 .. $#$calls) unless @places;
		my $at = $places[ int(@places * ($turn * 0.618034 - int($turn * 0.618034))) ];
		my $name = $calls->[$at];
		my $when = grep { $_ eq $name } @$calls[ 0 .. $at ];

		$tracer = Torture::Tracer->killer($pid, $name, $when);
		$what = sprintf('killed at system call %d of %d (%s)', $at + 1, scalar @$calls, $name);
	}
	$world->outage_begins;
	$work->();
	$world->wait_for(sub { ($tracer && $tracer->has_fired) || $ends->() });
	my $fired = $tracer && $tracer->has_fired;
	$tracer->end if $tracer;
	return $what if $fired;
	kill('KILL', $pid);
	return 'killed after its work';
}

sub kill_worker
{
	my ($self, $kind, $worker) = @_;
	my ($pid, $process) = $self->pid_of_worker($worker);
	my $what = $self->kill_at_a_call("$kind$process", $pid, sub { $self->saga }, sub { $self->saga_ends });
	my $since = time();

	$self->{world}->wait_for(sub { !kill(0, $pid) });
	$self->workers_return($since);
	return "$worker $process $what";
}

sub kill_adapter { return $_[0]->kill_worker('adapter', 'mqtt adapter'); }
sub kill_notifier { return $_[0]->kill_worker('notifier', 'notifier'); }

# A command of a session of its own, whose first it is; the record of it.
sub send_in_session
{
	my ($self, $session) = @_;

	return $self->{world}->send_command(device => 'good-2', parameter => 'temperature',
		value => int(rand(90)), request_id => Torture::Workload::uuid(), ttl => '15 s',
		session => $session);
}

# A session that sends a command dies in the middle, and its client does not know what became of it:
# it asks again, under the same request id, and there is one command.
sub kill_backend
{
	my ($self) = @_;
	my $world = $self->{world};
	my $session = $world->iot->session;
	my $pid = $session->backend_pid;
	my $record;

	$self->{calls}{backend} ||= do {
		my $other = $world->iot->session;

		[ Torture::Tracer->calls($other->backend_pid, sub { $self->send_in_session($other) }) ];
	};
	my $what = $self->kill_at_a_call('backend', $pid,
		sub { $record = $self->send_in_session($session) }, sub { $record->{outcome} eq 'ok' });
	my $since = time();

	$world->wait_for(sub { !kill(0, $pid) });
	$world->lose_session;
	$self->workers_return($since);
	my %again = %$record;
	delete @again{qw(outcome command_id answer at)};
	$world->send_command(%again);
	return "sending backend $what, its client knew: $record->{outcome}";
}

sub kill_pushd
{
	my ($self) = @_;
	my @daemons = $self->{world}->daemons;
	my $number = $self->{of_several}{pushd}++ % @daemons;
	my $push = $daemons[$number];
	my $what = $self->kill_at_a_call("pushd$number", $push->pid, sub { $self->saga }, sub { $self->saga_ends });

	$push->kill9;
	$push->spawn;
	$self->{world}->wait_for(sub { ($push->http_get('/healthz'))[0] == 200 });
	$self->{world}->outage_ends;
	return 'push daemon ' . ($number + 1) . " $what";
}

# Telemetry comes as fast as one connection brings it.
sub flood
{
	my ($self) = @_;
	my $workload = $self->{workload};

	$workload->measure foreach 1 .. 200;
	$workload->measure_again foreach 1 .. 20;
	return;
}

# All of it is confirmed and stored.
sub flood_ends
{
	my ($self) = @_;
	my $world = $self->{world};
	my $last = $self->{workload}{messages}[-1];
	my ($ms) = sort { $b <=> $a } map { $_->[1] } @{ $last->{points} };

	return 0 if $world->publisher->unconfirmed;
	return ($world->ask("SELECT count(*) > 0 FROM iot.measurement WHERE ts = to_timestamp($ms / 1e6)")
		  || '') eq 't';
}

sub kill_flood
{
	my ($self) = @_;
	my $world = $self->{world};
	my ($pid, $process) = $self->pid_of_worker('mqtt adapter');
	my $what = $self->kill_at_a_call("flood$process", $pid, sub { $self->flood },
		sub { $self->flood_ends });
	my $since = time();

	$world->wait_for(sub { !kill(0, $pid) });
	$self->workers_return($since);
	return "mqtt adapter $process in a flood $what";
}

sub kill_server
{
	my ($self, $how) = @_;
	my $world = $self->{world};
	my $node = $world->iot->node;

	$self->saga;
	$self->flood;
	$world->outage_begins;
	$how->($node);
	$world->lose_session;
	my $since = time();
	# children of a killed server may still be on their way out, and the file that names it lies there
	$world->wait_for(sub { $node->{_pid} = undef; return $node->start(fail_ok => 1); });
	$self->workers_return($since);
	return;
}

sub kill_immediate
{
	my ($self) = @_;

	$self->kill_server(sub { $_[0]->stop('immediate') });
	return 'server: immediate shutdown within a saga and a flood';
}

sub kill_postmaster
{
	my ($self) = @_;

	$self->kill_server(sub { $_[0]->kill9 });
	return 'postmaster: kill -9 within a saga and a flood';
}

sub kill_broker
{
	my ($self) = @_;
	my $world = $self->{world};
	my $end;

	$self->saga;
	$self->flood;
	$world->outage_begins;
	$world->broker->kill9;
	$end = Torture::World::microseconds();
	push @{ $world->{exempt} }, [ $end - $broker_window, $end ];
	my $since = time();
	$world->broker->start;
	$self->workers_return($since);
	return 'broker: kill -9 within a saga and a flood';
}

1;
