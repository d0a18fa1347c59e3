# A TCP proxy before a port of the loopback interface, whose connections can be made to die without a
# word: both ends stay open, and nothing goes through any more.
#
#   my $proxy = IotTest::Proxy->new('main', $broker->port);
#   $broker->url with $proxy->port in place of the broker's
#   $proxy->freeze     connections that are there are dead; new ones work
#   $proxy->swallow    those, and new ones are accepted and hear nothing
#   $proxy->kick       connections that are there are closed
#   $proxy->pass       new connections work; what is dead stays dead
#
# Options: limit, so many bytes at most of the answer to each connection that is made from now on, and
# no more (until pass).

package IotTest::Proxy;

use strict;
use warnings;

use PostgreSQL::Test::Utils;

use IotTest::Process;
use IotTest::Proxy::Server;

my %signal_of = %IotTest::Proxy::Server::signal_of;

sub new
{
	my ($class, $name, $to, %opt) = @_;
	my $self = bless { port => IotTest::free_port() }, $class;
	(my $module = __FILE__) =~ s{/[^/]*$}{};

	$self->{process} = IotTest::Process->start(
		name => "proxy $name",
		command => [
			$^X, "-I$module/..", '-MIotTest::Proxy::Server',
			'-e', 'IotTest::Proxy::Server::run(@ARGV)', $self->{port}, $to, $opt{limit} || 0
		],
		log => "$PostgreSQL::Test::Utils::log_path/proxy_$name.log");
	$self->{process}->wait_for_log(qr/^pass$/m);
	return $self;
}

sub port { return $_[0]->{port}; }

# Returns when it holds.
sub tell
{
	my ($self, $mode) = @_;
	my $mark = $self->{process}->log_size;

	$self->{process}->signal($signal_of{$mode});
	$self->{process}->wait_for_log(qr/^$mode$/m, $mark);
	return;
}

sub freeze { $_[0]->tell('freeze'); return; }
sub swallow { $_[0]->tell('swallow'); return; }
sub kick { $_[0]->tell('kick'); return; }
sub pass { $_[0]->tell('pass'); return; }

1;
