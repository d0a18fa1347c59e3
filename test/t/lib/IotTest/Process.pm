# A program that a test runs beside the server: a broker, the simulator, the push daemon.
#
# The process is our own child, so that a signal reaches exactly it, and it dies with the test
# (pdeathsig) even where the test itself is killed.  Its output goes to a file in the log folder.

package IotTest::Process;

use strict;
use warnings;

use Carp;
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(time sleep);

my @all;

# start(name => 'broker', command => [...], log => 'file', env => {...}, clean => 1): the running
# process.  With "errors", standard error goes to that file and "log" holds standard output alone.
sub start
{
	my ($class, %arg) = @_;
	my $self = bless {%arg}, $class;

	croak 'a process needs a name, a command and a log file'
	  unless $arg{name} && $arg{command} && $arg{log};
	$self->spawn;
	push @all, $self;
	return $self;
}

# Runs the command (again) and forgets the status of a run before.
sub spawn
{
	my ($self) = @_;
	my @command = @{ $self->{command} };

	croak "$self->{name} is running already" if $self->{pid};
	print "# starting $self->{name}: @command\n";

	my $pid = fork();
	croak "could not fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		%ENV = (%ENV, %{ $self->{env} }) if $self->{env};
		open(STDIN, '<', '/dev/null') or POSIX::_exit(126);
		# the tie that the test library lays over the handles must not see the child's output
		POSIX::dup2(fileno(STDIN), 0);
		my $out = POSIX::open($self->{log},
			POSIX::O_WRONLY | POSIX::O_CREAT | POSIX::O_APPEND, 0600);
		my $err = $self->{errors}
		  ? POSIX::open($self->{errors},
			POSIX::O_WRONLY | POSIX::O_CREAT | POSIX::O_APPEND, 0600)
		  : $out;
		POSIX::_exit(126) unless defined $out && defined $err;
		POSIX::dup2($out, 1);
		POSIX::dup2($err, 2);
		exec {'setpriv'} 'setpriv', '--pdeathsig', 'KILL', '--', @command
		  or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	delete $self->{status};
	return $self;
}

sub pid { return $_[0]->{pid}; }
sub log_file { return $_[0]->{log}; }

# Wait status of the last run, or undef while it runs.
sub status
{
	my ($self) = @_;

	$self->alive;
	return $self->{status};
}

sub alive
{
	my ($self) = @_;

	return 0 unless $self->{pid};
	if (waitpid($self->{pid}, WNOHANG) == $self->{pid})
	{
		$self->{status} = $?;
		$self->{pid} = undef;
		return 0;
	}
	return 1;
}

sub signal
{
	my ($self, $signal) = @_;

	croak "$self->{name} is not running" unless $self->alive;
	kill($signal, $self->{pid}) == 1 or croak "could not signal $self->{name}: $!";
	return;
}

# Waits until it ends by itself; the wait status.
sub wait_exit
{
	my ($self, $timeout) = @_;
	my $end = time() + ($timeout || 30);

	while ($self->alive)
	{
		croak "$self->{name} does not end" if time() > $end;
		sleep 0.01;
	}
	return $self->{status};
}

# Asks it to end, and insists after ten seconds; the wait status.
sub stop
{
	my ($self, $signal) = @_;

	return $self->{status} unless $self->alive;
	kill($signal || 'TERM', $self->{pid});
	kill('CONT', $self->{pid});
	my $end = time() + 10;
	while ($self->alive)
	{
		if (time() > $end)
		{
			print "# $self->{name} does not end, killing it\n";
			kill('KILL', $self->{pid});
			waitpid($self->{pid}, 0);
			$self->{status} = $?;
			$self->{pid} = undef;
			last;
		}
		sleep 0.01;
	}
	return $self->{status};
}

# kill -9, and the child is gone when this returns.
sub kill9
{
	my ($self) = @_;

	return unless $self->alive;
	kill('KILL', $self->{pid});
	waitpid($self->{pid}, 0);
	$self->{status} = $?;
	$self->{pid} = undef;
	return;
}

sub suspend { $_[0]->signal('STOP'); return; }
sub resume { $_[0]->signal('CONT'); return; }

sub log_content
{
	my ($self, $offset) = @_;

	open(my $fh, '<', $self->{log}) or return '';
	seek($fh, $offset || 0, 0);
	local $/;
	my $content = <$fh>;
	close $fh;
	return defined $content ? $content : '';
}

sub log_size { return -s $_[0]->{log} || 0; }

# Waits until the log matches from offset on; the offset after what is there now.
sub wait_for_log
{
	my ($self, $pattern, $offset, $timeout) = @_;
	my $end = time() + ($timeout || $PostgreSQL::Test::Utils::timeout_default);

	for (;;)
	{
		my $running = $self->alive;
		my $content = $self->log_content($offset);

		return ($offset || 0) + length($content) if $content =~ $pattern;
		croak "$self->{name} ended before its log matched $pattern:\n$content" unless $running;
		croak "$self->{name}: nothing in the log matches $pattern:\n$content" if time() > $end;
		sleep 0.02;
	}
}

END
{
	my $code = $?;

	$_->kill9 foreach @all;
	$? = $code;
}

1;
