# The system's clock of some programs, which a test may set while they run.
#
#   my $clock = IotTest::Clock->new;
#   my $iot = $clock->run(sub { IotTest->new('main') });      what is started in there goes by it
#   my $push = $iot->pushd(env => { $clock->env });
#   $clock->set(3600);                                        an hour ahead of the true time
#
# The test itself, and what else it starts, go by the true time.

package IotTest::Clock;

use strict;
use warnings;

use Carp;
use PostgreSQL::Test::Utils;

sub new
{
	my ($class) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir('clock');
	(my $source = __FILE__) =~ s{[^/]*$}{clock.c};
	my $self = bless { library => "$dir/clock.so", file => "$dir/offset" }, $class;

	PostgreSQL::Test::Utils::system_or_bail('gcc', '-Wall', '-Werror', '-O1', '-shared', '-fPIC',
		'-o', $self->{library}, $source);
	PostgreSQL::Test::Utils::append_to_file($self->{file}, pack('q', 0));
	return $self;
}

sub env
{
	my ($self) = @_;

	return (LD_PRELOAD => $self->{library}, IOT_TEST_CLOCK => $self->{file});
}

sub run
{
	my ($self, $code) = @_;

	local %ENV = (%ENV, $self->env);
	return $code->();
}

# In place: processes have the file mapped.
sub set
{
	my ($self, $seconds) = @_;

	open(my $out, '+<:raw', $self->{file}) or croak "$self->{file}: $!";
	syswrite($out, pack('q', $seconds)) == 8 or croak "$self->{file}: $!";
	close $out;
	return;
}

1;
