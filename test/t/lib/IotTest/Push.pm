# The push daemon on a free port, and tokens for its users.
#
#   my $push = $iot->pushd;
#   my $token = $push->token('anna');           HS256, valid for an hour
#   my $ws = $push->connect('anna');            an authenticated IotWebSocket
#   $push->http_get('/healthz')                 (status, body)

package IotTest::Push;

use strict;
use warnings;

use Carp;
use Digest::SHA qw(hmac_sha256);
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use PostgreSQL::Test::Utils;

use parent -norequire, 'IotTest::Process';
use IotTest::Process;

my $count = 0;

# Options: port, key (the secret of the tokens), conninfo, cells (name and server by turns, instead of
# one server), args (further arguments), env, program (another build of it), wait (0: do not wait until
# it is healthy).
sub new
{
	my ($class, $iot, %opt) = @_;
	my $name = 'pushd' . ++$count;
	my $dir = PostgreSQL::Test::Utils::tempdir($name);
	my $port = $opt{port} || IotTest::free_port();
	my $key = $opt{key} || 'a key of thirty-two bytes or more';
	my @cells = @{ $opt{cells} || [] };
	my @databases;

	while (my ($cell, $server) = splice @cells, 0, 2)
	{
		push @databases, '--cell', "$cell=" . default_conninfo($server);
	}
	@databases = ('--conninfo', $opt{conninfo} || default_conninfo($iot)) unless @databases;

	PostgreSQL::Test::Utils::append_to_file("$dir/jwt.key", $key);
	chmod 0600, "$dir/jwt.key";
	my $self = $class->SUPER::start(
		name => $name,
		command => [
			$opt{program} || IotTest::program('iot-pushd'),
			'--listen', "127.0.0.1:$port",
			@databases,
			'--jwt-key-file', "$dir/jwt.key",
			@{ $opt{args} || [] }
		],
		env => $opt{env},
		log => "$PostgreSQL::Test::Utils::log_path/"
		  . File::Basename::basename($0, '.pl') . "_$name.log");
	@$self{qw(port key dir)} = ($port, $key, $dir);
	$self->wait_healthy unless defined $opt{wait} && !$opt{wait};
	return $self;
}

# How the daemon connects: as a login role that is a member of iot_pushd and nothing else.
sub default_conninfo
{
	my ($iot) = @_;

	$iot->psql(<<'EOC');
DO $$
BEGIN
	CREATE ROLE push_daemon LOGIN IN ROLE iot_pushd;
EXCEPTION WHEN duplicate_object THEN
	NULL;
END $$;
EOC
	return $iot->node->connstr($iot->db) . ' user=push_daemon';
}

sub port { return $_[0]->{port}; }
sub url { return "ws://127.0.0.1:$_[0]->{port}/ws"; }

# Waits until /healthz says 200: it listens and it has its database, or that of the cell.
sub wait_healthy
{
	my ($self, $cell) = @_;
	my $path = '/healthz' . (defined $cell ? "/$cell" : '');

	IotTest::poll_until(
		sub {
			croak "$self->{name} ended:\n" . $self->log_content unless $self->alive;
			return ($self->http_get($path))[0] == 200;
		},
		"$self->{name} is healthy");
	return $self;
}

sub restart
{
	my ($self) = @_;

	$self->stop;
	$self->spawn;
	return $self->wait_healthy;
}

# Status and body; status 0 where nobody answers.
sub http_get
{
	my ($self, $path) = @_;
	my $socket = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1', PeerPort => $self->{port}, Timeout => 5);

	return (0, '') unless $socket;
	local $SIG{PIPE} = 'IGNORE';
	print $socket "GET $path HTTP/1.1\r\nHost: 127.0.0.1:$self->{port}\r\nConnection: close\r\n\r\n";
	local $/;
	my $answer = <$socket>;
	close $socket;
	return (0, '') unless defined $answer && $answer =~ m{\AHTTP/1\.[01] (\d+)[^\r\n]*\r\n};
	my $status = $1;
	my ($head, $body) = split /\r\n\r\n/, $answer, 2;
	if ($head =~ /^transfer-encoding: *chunked/mi)
	{
		my $chunks = '';

		while ($body =~ s/\A(?:\r\n)?([0-9a-fA-F]+)[^\r\n]*\r\n//)
		{
			my $length = hex($1);

			last if $length == 0 || $length > length $body;
			$chunks .= substr($body, 0, $length, '');
		}
		$body = $chunks;
	}
	return ($status, defined $body ? $body : '');
}

# A signed token.  Options: key, exp (seconds from now, negative for a past one, undef for none),
# alg (HS256, or "none"), claims (a hash of further claims, which win).
sub token
{
	my ($self, $username, %opt) = @_;
	my $json = JSON::PP->new->canonical;
	my $exp = exists $opt{exp} ? $opt{exp} : 3600;
	my %claims = (
		(defined $username ? (sub => $username) : ()),
		(defined $exp ? (exp => time() + $exp) : ()),
		%{ $opt{claims} || {} });
	my $alg = $opt{alg} || 'HS256';
	my $text = encode_base64url($json->encode({ alg => $alg, typ => 'JWT' })) . '.'
	  . encode_base64url($json->encode(\%claims));

	return "$text." if $alg eq 'none';
	return "$text."
	  . encode_base64url(hmac_sha256($text, defined $opt{key} ? $opt{key} : $self->{key}));
}

# An authenticated connection, ready to subscribe.
sub connect
{
	my ($self, $username, %opt) = @_;
	require IotWebSocket;
	my $ws = IotWebSocket->new(port => $self->{port});

	$ws->auth($self->token($username, %opt));
	return $ws;
}

1;
