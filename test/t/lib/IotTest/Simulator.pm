# The device simulator, running against a broker.
#
#   my $sim = IotTest::Simulator->new($broker, devices => ['boiler-1'], refuse_above => 80,
#       args => ['--rate', 10]);
#   $sim->executed               commands carried out, in order, as hashes
#   $sim->records('received')    every line of its log of that kind
#
# Options become arguments: devices (a list), prefix and count, user and its password (a user of the
# broker's otherwise), or any option of the program with
# "_" for "-" (true or false where it takes no value).

package IotTest::Simulator;

use strict;
use warnings;

use Carp;
use JSON::PP;
use PostgreSQL::Test::Utils;

use parent -norequire, 'IotTest::Process';
use IotTest::Process;

my $count = 0;

# options that take no value
my %flag = map { $_ => 1 }
  qw(silent echo drop_seen persistent connection_per_device exit_when_done log_telemetry);

sub new
{
	my ($class, $broker, %opt) = @_;
	my $name = 'sim' . ++$count;
	my $base = $broker->dir . "/$name";
	my @command = (
		"$IotTest::source_dir/test/sim/iot-sim", '--port', $broker->port, '--log', "$base.jsonl");
	my %option = %opt;
	my $user = delete $option{user} || ($broker->{users} && (sort keys %{ $broker->{users} })[0]);
	my $password = delete $option{password} // ($user && $broker->{users}{$user});

	delete @option{qw(devices args wait)};
	push @command, '--devices', join(',', @{ $opt{devices} }) if $opt{devices};
	if ($user)
	{
		my $file = "$base.password";

		PostgreSQL::Test::Utils::append_to_file($file, "$password\n");
		push @command, '--user', $user, '--password-file', $file;
	}
	push @command, '--ca-file', $broker->{tls}{cafile} if $broker->{tls};
	foreach my $key (sort keys %option)
	{
		(my $long = $key) =~ s/_/-/g;

		if ($flag{$key})
		{
			push @command, "--$long" if $option{$key};
		}
		else
		{
			push @command, "--$long", $option{$key};
		}
	}
	push @command, @{ $opt{args} } if $opt{args};
	my $self = $class->SUPER::start(
		name => $name, command => \@command, log => "$base.log");
	$self->{records} = "$base.jsonl";
	$self->wait_ready unless defined $opt{wait} && !$opt{wait};
	return $self;
}

# Waits until every device is subscribed to its commands (again, after a start at $offset).
sub wait_ready
{
	my ($self, $offset) = @_;

	return $self->wait_for_log(qr/^ready$/m, $offset);
}

# Starts it again after it was stopped or killed; what it has seen, it has forgotten, unless it
# was given --state.
sub restart
{
	my ($self) = @_;
	my $offset;

	$self->stop;
	$offset = $self->log_size;
	$self->spawn;
	$self->wait_ready($offset);
	return $self;
}

# Lines of its log as hashes, all or those of one kind: received, executed, refused, dropped,
# answered, telemetry.
sub records
{
	my ($self, $kind) = @_;

	return () unless -e $self->{records};
	my $content = PostgreSQL::Test::Utils::slurp_file($self->{records});
	$content =~ s/[^\n]*\z//;
	my @records = map { JSON::PP->new->decode($_) } split /\n/, $content;
	return $kind ? grep { $_->{kind} eq $kind } @records : @records;
}

# The same of telemetry, "published" or "acked", as "device<tab>ts": there may be many, and this is fast.
sub telemetry
{
	my ($self, $kind) = @_;
	my $content = PostgreSQL::Test::Utils::slurp_file($self->{records});
	my @messages;

	push @messages, "$1\t$2"
	  while $content =~ /^\{"kind":"$kind",[^\n]*"device":"([^"]*)","ts":(\d+),[^\n]*\}\n/gm;
	return @messages;
}

sub executed { return $_[0]->records('executed'); }

1;
