# The process behind IotTest::Proxy: run(port, port of the other side, limit).

package IotTest::Proxy::Server;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;

our %signal_of = (freeze => 'USR1', swallow => 'USR2', kick => 'ALRM', pass => 'HUP');

sub run
{
	my ($port, $to, $limit) = @_;
	my $listener = IO::Socket::INET->new(
		Listen => 20, LocalAddr => '127.0.0.1', LocalPort => $port, ReuseAddr => 1)
	  or die "listen: $!";
	my $alive = IO::Select->new($listener);
	my (%peer, %left, @dead, @asked);
	my $mode = 'pass';

	$| = 1;
	foreach my $asked (keys %signal_of)
	{
		$SIG{ $signal_of{$asked} } = sub { push @asked, $asked };
	}
	local $SIG{PIPE} = 'IGNORE';
	print "pass\n";
	for (;;)
	{
		my @ready = $alive->can_read(0.05);

		while (my $now = shift @asked)
		{
			if ($now eq 'pass')
			{
				$limit = 0;
			}
			else
			{
				my @ends = grep { $_ != $listener } $alive->handles;

				$alive->remove(@ends);
				%peer = ();
				push @dead, @ends;
				@ready = ();
			}
			@dead = () if $now eq 'kick';
			$mode = $now if $now eq 'swallow' || $now eq 'pass';
			print "$now\n";
		}
		foreach my $end (@ready)
		{
			if ($end == $listener)
			{
				my $client = $listener->accept or next;
				my $server = $mode eq 'swallow' ? undef
				  : IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $to);

				if (!$server)
				{
					# where nobody is on the other side, the connection ends with its handle
					push @dead, $client if $mode eq 'swallow';
					next;
				}
				@peer{ $client, $server } = ($server, $client);
				$left{$server} = $limit || undef;
				$alive->add($client, $server);
				next;
			}
			my $other = $peer{$end} or next;
			my $size = sysread($end, my $bytes, 65536);

			if ($size && defined $left{$end})
			{
				$bytes = substr($bytes, 0, $left{$end});
				$left{$end} -= length $bytes;
			}
			next if $size && (!length $bytes || print {$other} $bytes and $other->flush);
			$alive->remove($end, $other);
			delete @peer{ $end, $other };
			close $end;
			close $other;
		}
	}
	return;
}

1;
