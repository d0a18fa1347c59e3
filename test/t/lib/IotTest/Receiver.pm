# An HTTP server that plays the receiver of webhooks, in a process of its own.
#
#   my $receiver = IotTest::Receiver->new('main');
#   $receiver->url('/ok')           where webhooks go; the path says how the receiver behaves:
#       /ok          204
#       /status/N    N, always
#       /fail/N      500 the first N times, then 200
#       /hang        takes the request and never answers
#       /redirect    302 to /ok
#       /flood       200 and a body without end
#   $receiver->requests('/ok')      what came so far: method, path, headers (lower case), body, at
#   $receiver->stop, ->start        down and up again, on the same port

package IotTest::Receiver;

use strict;
use warnings;

use Carp;
use IO::Socket::INET;
use JSON::PP;
use Time::HiRes qw(time);

use PostgreSQL::Test::Utils;

sub new
{
	my ($class, $name, %arg) = @_;
	my $self = bless {
		name => "receiver_$name",
		port => IotTest::free_port(),
		file => "$PostgreSQL::Test::Utils::tmp_check/receiver_$name.jsonl",
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
		(my $module = __FILE__) =~ s{/[^/]*$}{};
		$self->{process} = IotTest::Process->start(
			name => $self->{name},
			command => [ $^X, "-I$module/..", '-MIotTest::Receiver::Server',
				'-e', 'IotTest::Receiver::Server::run(@ARGV)', $self->{port}, $self->{file} ],
			log => "$PostgreSQL::Test::Utils::log_path/$self->{name}.log");
	}
	IotTest::poll_until(
		sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}) },
		"$self->{name} listens");
	return $self;
}

sub stop { $_[0]->{process}->stop('KILL'); return; }

sub url { return "http://127.0.0.1:$_[0]->{port}$_[1]"; }

# What came, oldest first; of one path, where given.
sub requests
{
	my ($self, $path) = @_;
	my @requests;

	open(my $fh, '<', $self->{file}) or return;
	while (my $line = <$fh>)
	{
		last unless $line =~ /\n\z/;
		push @requests, JSON::PP->new->utf8->decode($line);
	}
	close $fh;
	return grep { !defined $path || $_->{path} eq $path } @requests;
}

# Waits until so many came for the path; these.
sub wait_for
{
	my ($self, $path, $count, $timeout) = @_;

	IotTest::poll_until(sub { my @all = $self->requests($path); @all >= $count },
		"$count requests for $path", $timeout);
	return $self->requests($path);
}

1;
