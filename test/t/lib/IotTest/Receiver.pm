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

use parent -norequire, 'IotTest::Recorder';

use IotTest::Recorder;

sub command
{
	my ($self) = @_;
	(my $module = __FILE__) =~ s{/[^/]*$}{};

	return [ $^X, "-I$module/..", '-MIotTest::Receiver::Server',
		'-e', 'IotTest::Receiver::Server::run(@ARGV)', $self->{port}, $self->{file} ];
}

sub url { return "http://127.0.0.1:$_[0]->{port}$_[1]"; }

# What came, oldest first; of one path, where given.
sub requests
{
	my ($self, $path) = @_;

	return grep { !defined $path || $_->{path} eq $path } $self->recorded;
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
