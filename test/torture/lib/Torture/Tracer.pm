# strace, attached to one process: tells its system calls, or kills it at one of them.
#
#   my @calls = Torture::Tracer->calls($pid, sub { ... });      names of its system calls meanwhile
#   my $tracer = Torture::Tracer->killer($pid, 'write', 3);     SIGKILL at its third write from now on
#   $tracer->has_fired; $tracer->end;                           whether it has; let go
#
# Where a process may not be traced there are no calls, and no killer.

package Torture::Tracer;

use strict;
use warnings;

use IotTest;

my $count = 0;

sub attach
{
	my ($class, $pid, @arguments) = @_;
	my $base = "$PostgreSQL::Test::Utils::log_path/strace_" . ++$count;
	my $self = bless { pid => $pid, trace => "$base.trace" }, $class;

	$self->{process} = eval {
		IotTest::Process->start(
			name => "strace $count",
			command => [ 'strace', '-f', '-o', $self->{trace}, '-p', $pid, @arguments ],
			log => "$base.log");
	} or return undef;
	# it says so once the process is its own
	eval { $self->{process}->wait_for_log(qr/attached/, 0, 10); 1 } or return undef;
	return $self;
}

# strace counts each system call by itself.
sub killer
{
	my ($class, $pid, $call, $when) = @_;

	return $class->attach($pid, '-e', "trace=$call", '-e', "inject=$call:signal=SIGKILL:when=$when");
}

sub calls
{
	my ($class, $pid, $code) = @_;
	my $self = $class->attach($pid);

	$code->();
	return () unless $self;
	$self->end;
	return map { /^(?:\d+ +)?(\w+)\(/ ? $1 : () }
	  split /\n/, PostgreSQL::Test::Utils::slurp_file($self->{trace});
}

# The tracer ends with the process that it watches.
sub has_fired { return !$_[0]->{process}->alive; }

sub end
{
	my ($self) = @_;

	$self->{process}->stop;
	return;
}

1;
