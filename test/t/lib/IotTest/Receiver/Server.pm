# The process of IotTest::Receiver: a child per connection, one request per connection.

package IotTest::Receiver::Server;

use strict;
use warnings;

use Fcntl qw(:flock);
use IO::Socket::INET;
use JSON::PP;
use Time::HiRes qw(time);

sub run
{
	my ($port, $file) = @_;
	my $server = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 64, ReuseAddr => 1, Proto => 'tcp')
	  or die "could not listen on port $port: $!";

	# children are ours to forget; they end when their connection does, or with this process
	$SIG{CHLD} = 'IGNORE';
	$SIG{PIPE} = 'IGNORE';
	while (my $client = $server->accept)
	{
		my $pid = fork();
		die "could not fork: $!" unless defined $pid;
		if ($pid == 0)
		{
			close $server;
			exec_with_parent();
			serve($client, $file);
			exit 0;
		}
		close $client;
	}
	return;
}

# prctl(PR_SET_PDEATHSIG, SIGKILL), so that killing the server cuts its connections as well
sub exec_with_parent
{
	my $arch_call = { x86_64 => 157, aarch64 => 167 }->{ (POSIX_uname())[4] };

	syscall($arch_call, 1, 9, 0, 0, 0) if defined $arch_call;
	return;
}

sub POSIX_uname
{
	require POSIX;
	return POSIX::uname();
}

sub serve
{
	my ($client, $file) = @_;
	my ($head, %headers) = ('');

	until ($head =~ /\r\n\r\n/)
	{
		return unless sysread($client, $head, 65536, length $head);
	}
	$head =~ s/\r\n\r\n(.*)\z//s;
	my $body = $1;
	my ($first, @lines) = split(/\r\n/, $head);
	my ($method, $path) = split(/ /, $first);
	foreach my $line (@lines)
	{
		$headers{ lc $1 } = $2 if $line =~ /^([^:]+):\s*(.*)$/;
	}
	while (length $body < ($headers{'content-length'} || 0))
	{
		return unless sysread($client, $body, 65536, length $body);
	}
	my $before = record($file, $path,
		{ method => $method, path => $path, headers => \%headers, body => $body, at => time() });

	if ($path =~ m{^/hang})
	{
		# ends when the client gives up
		my $more;
		1 while sysread($client, $more, 1024);
		return;
	}
	answer($client,
		  $path =~ m{^/status/(\d+)} ? $1
		: $path =~ m{^/fail/(\d+)} ? ($before < $1 ? 500 : 200)
		: $path =~ m{^/redirect} ? 302
		: $path =~ m{^/flood} ? 200
		: 204, $path);
	return;
}

# Appends the request; how many came for its path before.
sub record
{
	my ($file, $path, $request) = @_;
	my $before = 0;

	open(my $fh, '+>>', $file) or die "$file: $!";
	flock($fh, LOCK_EX) or die "$file: $!";
	seek($fh, 0, 0);
	while (my $line = <$fh>)
	{
		$before++ if JSON::PP->new->utf8->decode($line)->{path} eq $path;
	}
	# the body stays what it was, byte for byte
	print $fh JSON::PP->new->utf8->canonical->encode($request), "\n";
	close $fh or die "$file: $!";
	return $before;
}

sub answer
{
	my ($client, $status, $path) = @_;

	if ($path =~ m{^/flood})
	{
		my $block = 'x' x 65536;

		syswrite($client, "HTTP/1.1 200 Fine\r\nConnection: close\r\n\r\n");
		while (syswrite($client, $block)) { }
		return;
	}
	my $location = $status == 302 ? "Location: /ok\r\n" : '';
	syswrite($client,
		"HTTP/1.1 $status Test\r\n${location}Content-Length: 0\r\nConnection: close\r\n\r\n");
	return;
}

1;
