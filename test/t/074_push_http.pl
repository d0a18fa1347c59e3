# The port beside the WebSocket: health, figures, files, and which pages may connect.

use strict;
use warnings;

use IO::Socket::INET;
use Test::More;

use IotTest;
use IotNotify;
use IotWebSocket;

my $iot = IotTest->new('main', databases => '');
setup_push($iot);
my $www = PostgreSQL::Test::Utils::tempdir('www');
my $outside = PostgreSQL::Test::Utils::tempdir('outside');

sub file
{
	my ($name, $content) = @_;

	PostgreSQL::Test::Utils::append_to_file($name, $content);
	return;
}
mkdir "$www/sub";
mkdir "$www/.git";
file("$www/index.html", "<!doctype html>\n");
file("$www/app.js", 'x' x 300_000);
file("$www/sub/style.css", "body {}\n");
file("$www/.git/config", 'secret');
file("$www/.env", 'secret');
file("$outside/secret", 'secret');
symlink "$outside/secret", "$www/link";
symlink $outside, "$www/linked";
PostgreSQL::Test::Utils::system_or_bail('mkfifo', "$www/pipe");

my $push = $iot->pushd(args => [
		'--www', $www, '--allow-origin', 'https://app.example.org',
		'--allow-origin', 'http://localhost:3000' ]);

# What comes back to bytes as they are: (status, head, body).
sub ask
{
	my ($bytes, $daemon) = @_;
	my $socket = IO::Socket::INET->new(
		PeerAddr => '127.0.0.1', PeerPort => ($daemon || $push)->port, Timeout => 10) or die $@;

	local $SIG{PIPE} = 'IGNORE';
	local $SIG{ALRM} = sub { die "no answer\n" };
	print $socket $bytes;
	$socket->flush;
	alarm 15;
	local $/;
	my $answer = <$socket>;
	alarm 0;
	return (0, '', '') unless defined $answer && length $answer;
	my ($head, $body) = split /\r\n\r\n/, $answer, 2;
	my ($status) = $head =~ m{\AHTTP/1\.1 (\d+)};
	return ($status, $head, $body);
}

sub get
{
	my ($path, $daemon) = @_;

	return ask("GET $path HTTP/1.1\r\nHost: x\r\n\r\n", $daemon);
}

# health and figures
is_deeply([ (get('/healthz'))[ 0, 2 ] ], [ 200, "ok\n" ], 'healthy');
my ($status, $head, $body) = get('/metrics');
is($status, 200, 'figures');
like($head, qr{^content-type: text/plain; version=0\.0\.4}mi, '... of the type that Prometheus reads');
my %seen;
foreach my $line (split /\n/, $body)
{
	if ($line =~ /^# (HELP|TYPE) (iot_pushd_[a-z_]+) (.+)$/)
	{
		$seen{$2}{$1} = $3;
		next;
	}
	$line =~ /^(iot_pushd_[a-z_]+) (\d+)$/ && $seen{$1}{HELP} && $seen{$1}{TYPE} or fail("line $line");
	$seen{$1}{value} = $2;
}
ok(!(grep { !defined $_->{value} || $_->{TYPE} !~ /^(?:counter|gauge)$/ } values %seen),
	'... each with a help, a type and a value');
ok(!(grep { /_total$/ xor $seen{$_}{TYPE} eq 'counter' } keys %seen), '... and counters named so');
is($seen{iot_pushd_database_up}{value}, 1, '... the database is there');
is((get('/healthz?verbose=1'))[0], 200, 'what follows a question mark does not matter');
($status, $head, $body) = ask("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
is("$status-" . ($body || ''), '200-', 'HEAD has no body');
like($head, qr{^content-length: 3\r?$}mi, '... but its length');

# files
($status, $head, $body) = get('/');
is("$status $body", "200 <!doctype html>\n", 'the page');
like($head, qr{^content-type: text/html; charset=utf-8}mi, '... with its type');
like($head, qr/^x-content-type-options: nosniff/mi, '... that nobody guesses');
like($head, qr/^content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';/mi, '... and loads from here only');
($status, $head, $body) = get('/app.js');
is(length $body, 300_000, 'a larger file comes whole');
like($head, qr{^content-type: text/javascript}mi, '... with its type');
is((get('/sub/style.css'))[0], 200, 'a file in a folder');
foreach my $path (
	'/sub', '/sub/', '/nothing', '/index.html/', '/../outside/secret', '/sub/../index.html', '//etc/passwd',
	'/%2e%2e/secret', '/.env', '/.git/config', '/link', '/linked/secret', '/pipe', '/./index.html',
	'/index.html%00', '/sub//style.css', '/\\..\\secret')
{
	my ($status, undef, $body) = get($path);

	is($status, 404, "not served: $path");
	unlike($body, qr/secret/, '... and nothing told');
}
my $bare = $iot->pushd;
is((get('/', $bare))[0], 404, 'without --www there are no files');
is((get('/index.html', $bare))[0], 404, '... at all');

# requests that are none
foreach my $case (
	[ 405, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 'POST' ],
	[ 405, "OPTIONS /ws HTTP/1.1\r\nHost: x\r\n\r\n", 'OPTIONS' ],
	[ 400, "GET / HTTP/1.1\r\n\r\n", 'no host' ],
	[ 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 'two hosts' ],
	[ 400, "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 'a proxy\'s request' ],
	[ 400, "GET /\r\n\r\n", 'HTTP 0.9' ],
	[ 400, "GET / HTTP/2.0\r\nHost: x\r\n\r\n", 'HTTP 2' ],
	[ 400, "nonsense\r\n\r\n", 'one word' ],
	[ 400, "\r\n\r\n", 'nothing' ],
	[ 400, "GET / HTTP/1.1\r\nHost : x\r\n\r\n", 'a space before the colon' ],
	[ 400, "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 'a folded line' ],
	[ 400, "GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", 'a header without a name' ],
	[ 400, "GET / HTTP/1.1\r\nHost: x\0y\r\n\r\n", 'a zero' ],
	[ 400, "GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 'a bare line feed' ],
	[ 431, "GET / HTTP/1.1\r\nHost: x\r\nX: " . 'y' x 20000 . "\r\n\r\n", 'a head of 20 kB' ],
	[ 431, 'GET /' . 'y' x 20000, 'a line without an end' ])
{
	my ($expected, $bytes, $what) = @$case;

	is((ask($bytes))[0], $expected, "$what: $expected");
}

# the handshake
sub handshake { return IotWebSocket->status_of(port => $push->port, @_); }

is(handshake(), 101, 'no origin: no browser, may connect');
is(handshake(path => '/ws?x=1'), 101, 'what follows a question mark does not matter');
is(handshake(path => '/'), 404, 'the WebSocket is at /ws only');
is((get('/ws'))[0], 426, 'and nothing else is there');
is(handshake(version => 8), 426, 'another version of the protocol');
is(handshake(key => 'short'), 400, 'a key that is none');
is(handshake(key => '!' x 22 . '=='), 400, '... nor that');
is(handshake(headers => { Connection => 'close' }), 400, 'no word of an upgrade');
is(handshake(headers => { Upgrade => 'WebSocket' }), 101, 'in whatever case');
is((ask(IotWebSocket->request(port => $push->port) =~ s/^GET/POST/r))[0], 400, 'a POST');
is(handshake(protocols => [ 'chat', 'iot' ]), 101, 'one of several subprotocols');
is(handshake(protocols => [ 'iot', 'x' x 9000 ]), 400, 'subprotocols longer than a token may be');

# Origin
my $port = $push->port;
foreach my $origin ("http://127.0.0.1:$port", "https://127.0.0.1:$port", "HTTP://127.0.0.1:$port",
	'https://app.example.org', 'http://localhost:3000')
{
	is(handshake(origin => $origin), 101, "origin $origin may connect");
}
foreach my $origin ('http://127.0.0.1', "http://127.0.0.1:$port.example.org", 'http://127.0.0.2:' . $port,
	'https://app.example.org.evil.example', 'http://app.example.org', 'https://app.example.org:8443',
	'http://localhost:3001', 'null', '', 'file://', "ftp://127.0.0.1:$port", "127.0.0.1:$port",
	"http://127.0.0.1:$port/", "http://user\@127.0.0.1:$port")
{
	is(handshake(origin => $origin), 403, "origin \"$origin\" may not");
}
is(handshake(origin => 'http://a.example', headers => { Host => 'a.example:80' }), 101,
	'a default port is the same with and without its number');
is(handshake(origin => 'https://a.example', headers => { Host => 'a.example' }), 101,
	'behind a proxy that speaks TLS as well');
my $open = $iot->pushd(args => [ '--allow-origin', '*' ]);
is(IotWebSocket->status_of(port => $open->port, origin => 'https://anywhere.example'), 101,
	'all may where that is wanted');
$open->stop;

# settings
sub run_daemon
{
	my ($env, @arguments) = @_;
	my ($out, $err) = ('', '');

	local %ENV = (%ENV, %$env);
	IPC::Run::run([ IotTest::program('iot-pushd'), @arguments ], '>', \$out, '2>', \$err,
		IPC::Run::timeout(60));
	return ($? >> 8, $out, $err);
}
my $key = "$push->{dir}/jwt.key";
my ($code, $out, $err) = run_daemon({}, '--help');
is($code, 0, '--help');
like($out, qr/--$_\b/, "... tells of --$_")
  foreach qw(listen conninfo jwt-key-file jwt-aud allow-origin www tls-cert tls-key);
($code, $out, $err) = run_daemon({}, '--version');
is("$code $out", '0 iot-pushd '
	  . $iot->psql("SELECT extversion FROM pg_extension WHERE extname = 'iot'") . "\n",
	'--version is that of the extension');
foreach my $case (
	[ 2, qr/Usage/, 'no settings' ],
	[ 2, qr/--jwt-key-file is missing\nUsage/, 'no key', '--conninfo', 'dbname=x' ],
	[ 2, qr/--conninfo is missing\nUsage/, 'no database', '--jwt-key-file', $key ],
	[ 2, qr/Usage/, 'an unknown option', '--nonsense' ],
	[ 2, qr/"word" belongs to no option\nUsage/, 'a word', '--conninfo', 'dbname=x', '--jwt-key-file', $key, 'word' ],
	[ 2, qr/missing "="/, 'a connection string that is none', '--conninfo', 'nonsense',
		'--jwt-key-file', $key ],
	[ 2, qr/password on the command line/, 'a password', '--conninfo', 'dbname=x password=hush',
		'--jwt-key-file', $key ],
	[ 2, qr/password on the command line/, 'a password in a URI', '--conninfo',
		'postgresql://u:hush@h/x', '--jwt-key-file', $key ],
	[ 2, qr/number from 1/, 'a number that is none', '--max-connections', 'many' ],
	[ 2, qr/belong together/, 'half of TLS', '--conninfo', 'dbname=x', '--jwt-key-file', $key,
		'--tls-cert', $key ],
	[ 1, qr/could not start/, 'a certificate that is none', '--listen', '127.0.0.1:0',
		'--conninfo', 'dbname=x', '--jwt-key-file', $key, '--tls-cert', $key, '--tls-key', $key ],
	[ 1, qr/not an address/, 'an address that is none', '--listen', 'somewhere',
		'--conninfo', 'dbname=x', '--jwt-key-file', $key ],
	[ 1, qr/could not listen/, 'a port that is taken', '--listen', "127.0.0.1:$port",
		'--conninfo', 'dbname=x', '--jwt-key-file', $key ],
	[ 1, qr/could not open folder/, 'a folder that is not there', '--www', "$www/none",
		'--conninfo', 'dbname=x', '--jwt-key-file', $key ])
{
	my ($expected, $pattern, $what, @arguments) = @$case;
	my ($code, undef, $err) = run_daemon({}, @arguments);

	is($code, $expected, "$what: status $expected");
	like($err, $pattern, '... and the reason');
	unlike($err, qr/hush/, '... but no secret');
}
my $by_environment = $iot->pushd(
	env => { IOT_PUSHD_ALLOW_ORIGIN => 'https://one.example,https://two.example' });
is(IotWebSocket->status_of(port => $by_environment->port, origin => "https://$_.example"), 101,
	"the environment holds lists: $_")
  foreach qw(one two);
$by_environment->stop;

# I42: what anybody on the machine can read
my $secret = 'hush-' . int(rand(1e9));
my $quiet = $iot->pushd(
	args => [],
	env => { PGPASSWORD => $secret });
my $cmdline = PostgreSQL::Test::Utils::slurp_file('/proc/' . $quiet->pid . '/cmdline');
unlike($cmdline, qr/\Q$secret\E/, 'I42: no password in ps');
unlike($cmdline . $quiet->log_content, qr/\Q$quiet->{key}\E/, 'I42: nor the key');
$quiet->stop;

# TLS
my $dir = PostgreSQL::Test::Utils::tempdir('tls');
PostgreSQL::Test::Utils::system_or_bail('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
	'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=localhost', '-addext',
	'subjectAltName=DNS:localhost', '-keyout', "$dir/key.pem", '-out', "$dir/cert.pem");
my $tls = $iot->pushd(args => [ '--www', $www, '--tls-cert', "$dir/cert.pem",
		'--tls-key', "$dir/key.pem" ], wait => 0);
$tls->wait_for_log(qr/database is connected/);

sub ask_tls
{
	my ($bytes) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'openssl', 's_client', '-quiet', '-verify_return_error', '-CAfile',
			"$dir/cert.pem", '-verify_hostname', 'localhost', '-connect', '127.0.0.1:' . $tls->port ],
		'<', \$bytes, '>', \$out, '2>', \$err, IPC::Run::timeout(60));
	return $out;
}
like(ask_tls("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"), qr{\AHTTP/1.1 200 OK.*ok\n\z}s,
	'the same over TLS');
is(length((split /\r\n\r\n/, ask_tls("GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"), 2)[1]), 300_000,
	'... also what is large');
my $token = $tls->token('anna');
like(
	ask_tls(
		IotWebSocket->request(port => $tls->port, protocols => [ 'iot', $token ])
		  . "\x88\x82\x00\x00\x00\x00\x03\xe8"),
	qr{\AHTTP/1.1 101 .*\x88}s, '... and a WebSocket');
is((ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n", $tls))[0], 0, 'who does not speak TLS there gets nothing');
ok($tls->alive, 'and disturbs nobody');

done_testing();
