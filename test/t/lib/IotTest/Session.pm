# A psql session that stays open, for tests that need two transactions at a time, and for polling
# without a process per try.  One statement at a time; an answer may be awaited later.

package IotTest::Session;

use strict;
use warnings;

use Carp;
use IO::Select;
use IPC::Open3;
use Time::HiRes qw(time);

# new(connstr, psql program, extra psql arguments...)
sub new
{
	my ($class, $connstr, $psql, @extra) = @_;
	my $self = bless { count => 0, buffer => '' }, $class;

	# errors come on the same pipe as rows, so that their order is kept
	local $ENV{PGAPPNAME} = 'iot test session';
	$self->{pid} = open3($self->{in}, $self->{out}, undef,
		$psql, '-X', '-A', '-t', '-q', '-v', 'VERBOSITY=verbose', @extra, '-d', $connstr);
	$self->{in}->autoflush(1);
	$self->{select} = IO::Select->new($self->{out});
	return $self;
}

# Sends a statement without waiting for its end.
sub send
{
	my ($self, $sql) = @_;

	croak 'the statement before is not answered yet' if $self->{marker};
	$self->{marker} = 'iot-session-' . ++$self->{count};
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } "$sql\n;\n\\echo $self->{marker}\n"
	  or croak "the session is gone: $!";
	return $self;
}

# Output of the statement sent, or undef when it takes longer than the timeout (it stays awaited).
sub receive
{
	my ($self, $timeout) = @_;
	my $end = time() + (defined $timeout ? $timeout : $PostgreSQL::Test::Utils::timeout_default);
	my $marker = $self->{marker} or croak 'nothing was sent';

	my $output;

	for (;;)
	{
		if ($self->{buffer} =~ s/\A(.*?)^\Q$marker\E\n//ms)
		{
			$output = $1;
			last;
		}
		my $left = $end - time();

		return undef if $left <= 0;
		# a simulator that ends sends a signal, which ends the wait and says nothing
		next if !$self->{select}->can_read($left);
		croak "the session ended: $self->{buffer}"
		  unless sysread($self->{out}, $self->{buffer}, 65536, length $self->{buffer});
	}
	delete $self->{marker};
	chomp $output;
	return $output;
}

# Runs a statement; its output, which holds "ERROR:" with the SQLSTATE where it failed.
sub query
{
	my ($self, $sql, $timeout) = @_;

	$self->send($sql);
	my $output = $self->receive($timeout);
	croak "no answer in time to: $sql" unless defined $output;
	return $output;
}

# The same, but an error ends the test.
sub query_safe
{
	my ($self, $sql, $timeout) = @_;
	my $output = $self->query($sql, $timeout);

	croak "\"$sql\" failed: $output" if $output =~ /^(?:psql:[^\n]*)?(?:ERROR|FATAL|PANIC):/m;
	return $output;
}

sub backend_pid { return $_[0]->query_safe('SELECT pg_backend_pid()'); }

sub close
{
	my ($self) = @_;

	return unless $self->{pid};
	local ($?, $!);
	CORE::close($self->{in});
	CORE::close($self->{out});
	# a session that still waits for a lock would keep us here
	kill('TERM', $self->{pid}) if $self->{marker};
	waitpid($self->{pid}, 0);
	$self->{pid} = undef;
	return;
}

sub DESTROY { $_[0]->close; return; }

1;
