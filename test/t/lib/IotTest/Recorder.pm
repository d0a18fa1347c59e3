# A server that a test talks to, in a process of its own, which appends what comes to a file, a JSON
# object a line.  Its kinds say by which command it runs:
#
#   sub command { my ($self) = @_; return [ $program, $self->{port}, $self->{file} ]; }

package IotTest::Recorder;

use strict;
use warnings;

use IO::Socket::INET;
use JSON::PP;

use IotTest::Process;
use PostgreSQL::Test::Utils;

# Options: start (0: not yet); others are kept for the kind.
sub new
{
	my ($class, $name, %arg) = @_;
	(my $kind = lc $class) =~ s/.*:://;
	my $self = bless {
		%arg,
		name => "${kind}_$name",
		port => IotTest::free_port(),
		file => "$PostgreSQL::Test::Utils::tmp_check/${kind}_$name.jsonl",
	}, $class;

	unlink $self->{file};
	$self->start unless defined $arg{start} && !$arg{start};
	return $self;
}

sub start
{
	my ($self) = @_;

	if ($self->{process})
	{
		$self->{process}->spawn;
	}
	else
	{
		$self->{process} = IotTest::Process->start(
			name => $self->{name},
			command => $self->command,
			log => "$PostgreSQL::Test::Utils::log_path/$self->{name}.log");
	}
	IotTest::poll_until(
		sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}) },
		"$self->{name} listens");
	return $self;
}

sub stop { $_[0]->{process}->stop('KILL'); return; }

# What came so far, oldest first; a line that is still being written does not count.
sub recorded
{
	my ($self) = @_;
	my @recorded;

	open(my $fh, '<', $self->{file}) or return;
	while (my $line = <$fh>)
	{
		last unless $line =~ /\n\z/;
		push @recorded, JSON::PP->new->utf8->decode($line);
	}
	close $fh;
	return @recorded;
}

1;
