# Who gets in: only a user whose token is good, for as long as it is (I30), and nothing is told to
# anybody else.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use JSON::PP;
use MIME::Base64 qw(encode_base64url decode_base64url);
use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotNotify;
use IotWebSocket;

# keys are for nobody else
umask 0077;

my $iot = IotTest->new('main', databases => '');
setup_push($iot);
my $dir = PostgreSQL::Test::Utils::tempdir('keys');

sub openssl
{
	my @command = @_;
	my $out = '';

	PostgreSQL::Test::Utils::system_or_bail('openssl', @command);
	return;
}

# a private key and its public half
sub make_pair
{
	my ($name, @kind) = @_;

	openssl('genpkey', '-quiet', '-out', "$dir/$name.key", @kind);
	openssl('pkey', '-in', "$dir/$name.key", '-pubout', '-out', "$dir/$name.pem");
	return;
}

sub slurp { return PostgreSQL::Test::Utils::slurp_file($_[0]); }

# A token signed by a private key, the way other programs do it.
sub signed_token
{
	my ($alg, $name, %claims) = @_;
	my $text = encode_base64url(encode_json({ alg => $alg, typ => 'JWT' })) . '.'
	  . encode_base64url(encode_json({ exp => int(time()) + 3600, %claims }));

	unlink "$dir/text", "$dir/signature";
	PostgreSQL::Test::Utils::append_to_file("$dir/text", $text);
	openssl('dgst', '-sha256', '-sign', "$dir/$name.key", '-out', "$dir/signature", "$dir/text");
	my $signature = slurp("$dir/signature");
	if ($alg eq 'ES256')
	{
		# DER to the two plain numbers that a token has
		my ($r, $s) = $signature =~ /\A\x30.\x02(.)/s ? do {
			my $len = ord $1;
			(substr($signature, 4, $len), substr($signature, 6 + $len));
		} : die 'not a signature';
		s/\A\x00+//, $_ = ("\x00" x (32 - length $_)) . $_ foreach $r, $s;
		$signature = $r . $s;
	}
	return "$text." . encode_base64url($signature);
}

my $push = $iot->pushd;
my $user = 'anna';

# The ways to bring a token, and what happens to a bad one in both.
sub refused
{
	my ($daemon, $token, $what) = @_;
	my $ws = IotWebSocket->new(port => $daemon->port);

	$ws->send({ op => 'auth', token => $token });
	is($ws->closed, 4401, "$what: closed with 4401");
	is($ws->{frames} || 0, 0, "$what: before any data");
	return;
}

sub accepted
{
	my ($daemon, $token, $what, $name) = @_;
	my $ready = IotWebSocket->new(port => $daemon->port)->auth($token);

	is($ready->{user}, $name || $user, "$what: is taken");
	return;
}

my $ws = IotWebSocket->new(port => $push->port);
my $ready = $ws->auth($push->token($user));
is_deeply(
	$ready,
	{   op => 'ready',
		user => $user,
		epoch => $iot->psql('SELECT epoch FROM iot.epoch'),
		seq => 0 },
	'a good token makes the socket ready');

$ws = IotWebSocket->new(port => $push->port, protocols => [ 'iot', $push->token($user) ]);
is($ws->{protocol}, 'iot', 'a token may come as a subprotocol; "iot" is chosen');
is($ws->expect('ready')->{user}, $user, 'and is judged without a further word');
$ws = IotWebSocket->new(port => $push->port, protocols => [ 'bearer.' . $push->token($user) ]);
is($ws->expect('ready')->{user}, $user, 'also with a prefix and without "iot"');
$ws = IotWebSocket->new(port => $push->port,
	protocols => [ 'iot', $push->token($user, key => 'x' x 32) ]);
is($ws->closed, 4401, 'a bad one there is refused like everywhere');

my $good = $push->token($user);
my ($head, $claims, $signature) = split /\./, $good;

refused($push, $push->token($user, alg => 'none'), 'algorithm "none"');
refused($push, encode_base64url('{"alg":"none"}') . ".$claims.$signature", '"none" with a signature');
refused($push, encode_base64url('{"alg":"nOnE"}') . ".$claims.", '"none" in other letters');
refused($push, "$head.$claims.", 'no signature');
refused($push, "$head.$claims", 'two parts');
refused($push, "$good.$signature", 'four parts');
refused($push, $push->token($user, key => 'another key of thirty-two bytes!!'), 'another key');
refused($push, $push->token($user, key => ''), 'an empty key');
refused($push, "$head." . encode_base64url(encode_json({ sub => 'postgres' })) . ".$signature",
	'changed claims');
refused($push, $push->token($user, alg => 'HS512'), 'another algorithm in the head');
refused($push, $push->token($user, exp => -1), 'an expired token');
refused($push, $push->token($user, exp => 0), 'one that expires now');
refused($push, $push->token($user, claims => { exp => 'never' }), 'exp that is no time');
refused($push, $push->token($user, claims => { nbf => time() + 60 }), 'nbf in the future');
refused($push, $push->token($user, claims => { aud => 'elsewhere' }), 'an audience that we are not');
refused($push, $push->token(undef), 'no user');
refused($push, $push->token(''), 'an empty user');
refused($push, $push->token($user, claims => { sub => 5 }), 'a user that is a number');
refused($push, $push->token($user, claims => { sub => '*' }), 'everybody\'s name');
refused($push, $push->token($user, claims => { sub => "anna\n" }), 'a line feed in the name');
refused($push, $push->token('nobody-knows-him'), 'an unknown user');
refused($push, $push->token('dora'), 'a disabled user');
refused($push, $push->token('push_daemon'), 'a role that does not administer');
refused($push, $push->token($iot->psql('SELECT current_user')),
	'a role that does, but that nobody registered as a user');
refused($push, '', 'nothing');
refused($push, undef, 'null');
refused($push, 'x' x 30000, 'a long word');
refused($push, $push->token($user, claims => { filler => 'x' x 16000 }), 'a token of more than 8 kB');
refused($push, $push->token($user, claims => { iat => 'today' }), 'iat that is no time');
refused($push, $push->token($user, claims => { jti => 5 }), 'an id that is no text');
refused($push, $push->token($user, claims => { jti => 'x' x 129 }), 'an id that is too long');

# what readers of JSON understand in two ways
sub token_of
{
	my ($head, $claims) = @_;
	my $text = encode_base64url($head) . '.' . encode_base64url($claims);

	return "$text." . encode_base64url(hmac_sha256($text, $push->{key}));
}
my $exp = int(time()) + 3600;
accepted($push, token_of('{"alg":"HS256"}', qq({"sub":"anna","exp":$exp})), 'a token made by hand');
refused($push, token_of('{"alg":"HS256"}', qq({"sub":"bert","exp":$exp,"sub":"anna"})), 'two users');
refused($push, token_of('{"alg":"HS256"}', qq({"sub":"anna","exp":1,"exp":$exp})), 'two ends');
refused($push, token_of('{"alg":"HS256"}', qq({"sub":"anna","exp":$exp,"x":1,"x":1})),
	'any claim twice');
refused($push, token_of('{"alg":"HS256"}', qq({"sub":"bert","exp":$exp,"s\\u0075b":"anna"})),
	'the same name spelt in two ways');
refused($push, token_of('{"alg":"HS256","alg":"HS256"}', qq({"sub":"anna","exp":$exp})),
	'an algorithm twice');
refused($push, token_of('{"alg":"none","alg":"HS256"}', qq({"sub":"anna","exp":$exp})),
	'"none" before another');
refused($push, token_of('{"alg":"HS256"}', qq({"sub":"anna\\u0000","exp":$exp})), 'a zero in a name');
accepted($push, $push->token($user, claims => { nbf => time() - 10 }), 'nbf in the past');
accepted($push, $push->token($user, exp => undef), 'no exp');
accepted($push, $push->token($user, claims => { role => 'web', iat => time(), more => [ 1, {} ] }),
	'claims that PostgREST uses');

my $superuser = $iot->psql('INSERT INTO iot.app_user (username) SELECT current_user RETURNING username');
accepted($push, $push->token($superuser), 'a superuser', $superuser);

$ws = IotWebSocket->new(port => $push->port);
$ws->write_frame(JSON::PP->new->encode({ op => 'auth',
	token => $push->token($user, claims => { filler => 'x' x 48000 }) }));
is($ws->closed, 1009, 'a token of 64 kB is too large a message');

$ws = IotWebSocket->new(port => $push->port);
$ws->send({ op => 'subscribe', id => 1 });
is($ws->closed, 4401, 'whatever else comes first is refused');
$ws = IotWebSocket->new(port => $push->port);
$ws->send('{"op":');
is($ws->closed, 4401, 'so is what is not JSON');

my $start = time();
$ws = IotWebSocket->new(port => $push->port);
is($ws->closed, 4401, 'who says nothing is closed');
my $took = time() - $start;
cmp_ok($took, '>', 4, 'not before the time is over');
cmp_ok($took, '<', 7, 'and soon after');

# everything may come at once
$ws = IotWebSocket->new(port => $push->port);
$ws->send({ op => 'auth', token => $good });
$ws->send({ op => 'subscribe', id => 7, after_seq => 0 });
$ws->send({ op => 'unsubscribe', id => 7 });
is($ws->expect('ready')->{user}, $user, 'what follows the token in one breath waits for its turn');
is($ws->expect('subscribed')->{id}, 7, '... and is heard');
$ws->expect('unsubscribed');

# the end of a token is the end of the connection
my $until = int(time()) + 2;
$ws = IotWebSocket->new(port => $push->port);
$ws->auth($push->token($user, claims => { exp => $until }));
$ws->subscribe(1);
my $seq = notify($iot, recipients => [$user]);
is($ws->event->{seq}, $seq, 'a token that is about to expire is good');
is($ws->closed, 4001, 'I30: and closes its connection then');
my $late = time() - $until;
cmp_ok($late, '>=', 0, 'not before');
cmp_ok($late, '<', 2, 'and at once');
my $kept = notify($iot, recipients => [$user]);
is(delivery($iot, $kept, $user), 'PENDING', 'I30: what comes later is not told');

# the audience
my $aud = $iot->pushd(args => [ '--jwt-aud', 'iot' ]);
accepted($aud, $aud->token($user, claims => { aud => 'iot' }), 'our audience');
accepted($aud, $aud->token($user, claims => { aud => [ 'a', 'iot' ] }), 'ours among others');
refused($aud, $aud->token($user), 'no audience where one is wanted');
refused($aud, $aud->token($user, claims => { aud => 'iot2' }), 'another audience');
refused($aud, $aud->token($user, claims => { aud => ['iot2'] }), 'other audiences');
refused($aud, $aud->token($user, claims => { aud => { iot => 1 } }), 'an audience that is no name');
$aud->stop;

# public keys; several of them, of two kinds, and none can stand for another
make_pair('rsa', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048');
make_pair('other', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048');
make_pair('ec', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256');
PostgreSQL::Test::Utils::append_to_file("$dir/both.pem", slurp("$dir/rsa.pem") . slurp("$dir/ec.pem"));
my $public = $iot->pushd(env => { IOT_PUSHD_JWT_KEY_FILE => 'replaced by the argument' },
	args => [ '--jwt-key-file', "$dir/both.pem" ]);
accepted($public, $public->token($user), 'the secret');
accepted($public, signed_token('RS256', 'rsa', sub => $user), 'RS256');
accepted($public, signed_token('ES256', 'ec', sub => $user), 'ES256') foreach 1 .. 3;
refused($public, signed_token('RS256', 'other', sub => $user), 'RS256 by another key');
refused($public, signed_token('RS256', 'rsa', sub => $user, exp => int(time()) - 1),
	'RS256 that has expired');
foreach my $pem (slurp("$dir/rsa.pem"), slurp("$dir/rsa.pem") =~ s/\n\z//r, slurp("$dir/both.pem"))
{
	refused($public, $public->token($user, key => $pem), 'HS256 keyed with the public key');
}
refused($public, signed_token('RS384', 'rsa', sub => $user), 'RS384');
refused($public, signed_token('ES256', 'rsa', sub => $user), 'ES256 in name only')
  if 0 + eval { signed_token('ES256', 'rsa', sub => $user); 1 };

# keys change while it runs, and two are good meanwhile
my $old = $public->token($user);
my $key_file = "$public->{dir}/jwt.key";
PostgreSQL::Test::Utils::append_to_file($key_file, "\n" . 'n' x 40 . "\n");
my $open = IotWebSocket->new(port => $public->port);
$open->auth($old);
$public->signal('HUP');
poll_until(sub { $public->log_content =~ /\b4 keys for tokens/ }, 'the keys are read again');
accepted($public, $old, 'the old key');
accepted($public, $public->token($user, key => 'n' x 40), 'the new key beside it');
unlink $key_file;
PostgreSQL::Test::Utils::append_to_file($key_file, 'n' x 40);
$public->signal('HUP');
poll_until(sub { $public->log_content =~ /\b4 keys.*\b3 keys for tokens/s }, 'and again');
refused($public, $old, 'the old key when it is gone');
accepted($public, $public->token($user, key => 'n' x 40), 'the new key alone');
unlink $key_file;
PostgreSQL::Test::Utils::append_to_file($key_file, 'short');
$public->signal('HUP');
poll_until(sub { $public->log_content =~ /the keys stay as they were/ }, 'a bad file is refused');
accepted($public, $public->token($user, key => 'n' x 40), 'a bad key file changes nothing');
$open->subscribe(1);
ok($open->close, 'an open connection outlives its key');

# bad files, told at the start
sub key_error
{
	my ($content, $pattern, $what, $mode) = @_;

	unlink "$dir/bad";
	PostgreSQL::Test::Utils::append_to_file("$dir/bad", $content) if defined $content;
	chmod $mode, "$dir/bad" if $mode;
	my ($out, $err);
	IPC::Run::run([ IotTest::program('iot-pushd'), '--listen', '127.0.0.1:0', '--conninfo',
			'dbname=none', '--jwt-key-file', "$dir/bad" ], '>', \$out, '2>', \$err);
	isnt($?, 0, "$what ends the daemon");
	like($err, $pattern, '... and is told');
	return;
}
key_error(undef, qr/could not open key file/, 'no file');
key_error('', qr/is empty/, 'an empty file');
key_error("\n\n", qr/is empty/, 'a file of empty lines');
key_error('x' x 31, qr/less than 32 bytes/, 'a short secret');
key_error('x' x 40, qr/is open to everybody/, 'a secret that everybody can read', 0644);
key_error("\x00" x 40, qr/neither text nor PEM/, 'zeroes');
key_error(join('', map { chr($_) } 1 .. 64), qr/neither text nor PEM/, 'bytes');
key_error(slurp("$dir/rsa.key"), qr/not a public key/, 'a private key');
make_pair('weak', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:1024');
key_error(slurp("$dir/weak.pem"), qr/less than 2048 bits/, 'a weak key');
make_pair('curve', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384');
key_error(slurp("$dir/curve.pem"), qr/another curve than P-256/, 'another curve');
key_error("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", qr/cannot be read/,
	'a key that is none');

# iot-token, whose tokens everybody takes
sub run_token
{
	my ($out, $err);

	IPC::Run::run([ IotTest::program('iot-token'), @_ ], '>', \$out, '2>', \$err);
	chomp $out;
	return ($? >> 8, $out, $err);
}
my ($status, $token) = run_token('--jwt-key-file', "$push->{dir}/jwt.key", '--user', $user);
is($status, 0, 'iot-token signs');
accepted($push, $token, 'a token of iot-token');
my $payload = decode_json(decode_base64url((split /\./, $token)[1]));
is($payload->{sub}, $user, 'its user');
cmp_ok(abs($payload->{exp} - time() - 3600), '<', 5, 'its hour');
(undef, $token) = run_token('--jwt-key-file', "$push->{dir}/jwt.key", '--user', $user,
	'--ttl', '-5', '--aud', 'x', '--role', 'web');
$payload = decode_json(decode_base64url((split /\./, $token)[1]));
is("$payload->{aud} $payload->{role}", 'x web', 'its other claims');
refused($push, $token, 'an expired one of it');
(undef, $token) = run_token('--jwt-key-file', "$push->{dir}/jwt.key", '--user', $user, '--ttl', 0);
ok(!exists decode_json(decode_base64url((split /\./, $token)[1]))->{exp}, 'or none');
is((run_token('--jwt-key-file', "$dir/rsa.pem", '--user', $user))[0], 1, 'a public key signs nothing');
(undef, my $jwks) = run_token('--jwt-key-file', "$push->{dir}/jwt.key", '--jwks');
is_deeply(json($jwks), { keys => [ { kty => 'oct', alg => 'HS256', k => encode_base64url($push->{key}) } ] },
	'the keys of a file, as PostgREST wants them');
is((run_token('--user', $user))[0], 2, 'without a key it tells its usage');

# I42
foreach my $daemon ($push, $public)
{
	my $log = $daemon->log_content;

	unlike($log, qr/\Q$signature\E/, 'I42: no token in the log');
	unlike($log, qr/eyJ/, 'I42: nor a part of one');
	unlike($log, qr/\Q$daemon->{key}\E/, 'I42: nor a key');
	like($log, qr/token refused: it has expired/, 'but the reason');
}
unlike($iot->log_content, qr/eyJ/, 'I42: no token in the server\'s log either');

done_testing();
