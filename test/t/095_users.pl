# Users with a server, a push daemon and workers of their own: the token that a login gives is taken,
# keys change without a moment at which tokens of either are refused, guesses are counted whatever
# becomes of their transaction, and what is revoked ends everywhere.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256);
use MIME::Base64 qw(encode_base64url decode_base64url);
use Test::More;

use IotTest;
use IotWebSocket;

# keys are for nobody else
umask 0077;

my $dir = PostgreSQL::Test::Utils::tempdir('keys');
my $key_file = "$dir/jwt.key";
my @keys = map { $_ x 40 } qw(a b);

sub write_keys
{
	unlink $key_file;
	PostgreSQL::Test::Utils::append_to_file($key_file, join('', map { "$_\n" } @_));
	return;
}

write_keys($keys[0]);
my $iot = IotTest->new('main', conf => <<"EOC");
iot.authenticators = 'authenticator'
iot.jwt_key_file = '$key_file'
EOC
$iot->psql(<<'EOC');
CREATE ROLE authenticator LOGIN NOINHERIT;
GRANT iot_anon, iot_viewer, iot_operator, iot_admin TO authenticator;
CREATE ROLE plain LOGIN IN ROLE iot_operator;
INSERT INTO iot.parameter (name) VALUES ('level');
SELECT iot.create_device('tank', '{level}');
SELECT iot.register_user('anna', 'correct horse'), iot.register_user('bert', 'battery staple'),
	iot.register_user('chief', 'chief of all', role => 'iot_admin');
EOC
$iot->user('anna');
$iot->user('bert', level => 'view');

# What a statement answers, or its error, as a role of its own.
sub as
{
	my ($user, $sql) = @_;
	my ($code, $out, $err) = $iot->node->psql('iot', "\\set VERBOSITY verbose\n$sql",
		connstr => $iot->node->connstr('iot') . " user=$user", on_error_stop => 1);

	return $code == 0 ? $out : $err;
}

# The claims of a token, as text.
sub claims { return decode_base64url((split /\./, $_[0])[1]); }

# A request with a token, or without one, as PostgREST makes it.
sub request
{
	my ($token, $sql) = @_;
	my $claims = $token ? claims($token) : '{"role":"iot_anon"}';
	my $role = json($claims)->{role};

	return as('authenticator', <<"EOC");
BEGIN;
SELECT set_config('role', '$role', true), set_config('request.jwt.claims', \$c\$$claims\$c\$, true) \\g /dev/null
SELECT iot.check_request() \\g /dev/null
$sql;
COMMIT;
EOC
}

sub login
{
	my ($username, $password) = @_;

	return request(undef, "SELECT token FROM iot.login('$username', '$password')");
}

sub signed_by
{
	my ($token, $key) = @_;
	my ($text, $signature) = $token =~ /\A(.*)\.([^.]*)\z/;

	return $signature eq encode_base64url(hmac_sha256($text, $key));
}

# what the daemon makes of a token: "ready", or the code of the close
my $push = $iot->pushd(args => [ '--jwt-key-file', $key_file ]);

sub pushed
{
	my ($token) = @_;
	my $ws = IotWebSocket->new(port => $push->port);

	$ws->send({ op => 'auth', token => $token });
	my $answer = $ws->receive;
	return $answer ? "$answer->{op} $answer->{user}" : $ws->{code};
}

# the token that a login gives
my $token = login('anna', 'correct horse');
like($token, qr/\A[\w-]+\.[\w-]+\.[\w-]{43}\z/, 'a login gives a token');
ok(signed_by($token, $keys[0]), '... signed by the key of the file');
is(pushed($token), 'ready anna', 'iot-pushd takes it');
is(request($token, 'SELECT current_user'), 'iot_operator', 'so does a session of the authenticator');
like(request($token, q{SELECT iot.send_command('tank', 'level', 1)}), qr/\A[0-9a-f-]{36}\z/,
	'which may what its user may');
is($iot->psql(q{SELECT DISTINCT username FROM iot.command}), 'anna', '... in its name');
like(request(login('bert', 'battery staple'), q{SELECT iot.send_command('tank', 'level', 1)}),
	qr/42501.*permission denied for device "tank"/s, 'and no more');

# claims of whoever is no authenticator
like(as('plain', <<"EOC"), qr/42501.*User "plain" lacks level "operate"/s, 'claims of another login role have no effect');
SELECT set_config('request.jwt.claims', '${\claims($token)}', false) \\g /dev/null
SELECT iot.send_command('tank', 'level', 1)
EOC
my $chief = login('chief', 'chief of all');
like(as('plain', <<"EOC"), qr/42501/, 'not even those of an administrator');
SELECT set_config('request.jwt.claims', '${\claims($chief)}', false) \\g /dev/null
SELECT iot.revoke_tokens('anna')
EOC
like(as('plain', 'SET iot.authenticators = plain'), qr/42501/, 'and no role calls itself one');

# a change of keys: the new one signs, both verify, then the old one goes
write_keys(@keys[ 1, 0 ]);
my $fresh = login('anna', 'correct horse');
ok(signed_by($fresh, $keys[1]), 'the first key of the file signs, without a reload');
$push->signal('HUP');
poll_until(sub { $push->log_content =~ /3 keys for tokens/ }, 'the daemon has read both keys');
is(pushed($token), 'ready anna', 'a token of the old key is good');
is(pushed($fresh), 'ready anna', 'and one of the new key');
write_keys($keys[1]);
$push->signal('HUP');
poll_until(sub { $push->log_content =~ /3 keys.*2 keys for tokens/s }, 'the old key is gone');
is(pushed($token), 4401, 'then those of the old key are refused');
is(pushed($fresh), 'ready anna', '... and those of the new one are not');

# bad key files
chmod 0644, $key_file;
my $mark = $iot->log_size;
like(login('anna', 'correct horse'), qr/F0000.*could not read the key to sign tokens with.*server's log/s,
	'a key that everybody can read signs nothing');
like($iot->log_content($mark), qr/key file "\Q$key_file\E" is open to everybody/, '... and the log says why');
unlink $key_file;
like(login('anna', 'correct horse'), qr/F0000/, 'nor does one that is not there');
PostgreSQL::Test::Utils::append_to_file($key_file,
	"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n");
like(login('anna', 'correct horse'), qr/F0000.*Public keys cannot sign/s, 'nor a public one');
write_keys($keys[1]);
unlike($iot->log_content, qr/a{40}|b{40}/, 'I42: no key is in the log');
is($iot->psql(q{SELECT count(*) FROM iot.event WHERE payload::text ~ 'horse|staple'}), 0, 'nor a password in an event');
like(as('plain', 'SHOW iot.jwt_key_file'), qr/42501/, 'where the key lies is not told');

# guessing: what fails rolls back and counts all the same
like(login('bert', "guess $_"), qr/28P01.*invalid username or password/s, "guess $_") foreach 1 .. 5;
my $error = login('bert', 'battery staple');
like($error, qr/PT429.*too many failed logins/s, 'after five the right one comes too late');
like($error, qr/HINT: +Try again in \d+ seconds/, '... for a while, which is told');
like(request(undef, q{BEGIN; SELECT iot.login('bert', 'x'); ROLLBACK}), qr/PT429/, '... in any transaction');
isnt(login('anna', 'correct horse'), '', 'another user is not concerned');
like($iot->log_content, qr/login of user "bert" failed/, 'the log tells of failures');
$iot->poll(q{SELECT count(*) = 5 FROM iot.event
	WHERE type = 'user.login_failed' AND aggregateid = 'bert' AND aggregatetype = 'user'});
pass('and so do events, though nobody logged in since');
$iot->psql(q{ALTER SYSTEM SET iot.login_window = '1 s'});
$iot->psql('SELECT pg_reload_conf()');
poll_until(sub { login('bert', 'battery staple') =~ /\A\w+\.\w+/ }, 'the window passes');
pass('when the time has passed the right one is good');
like(login('bert', 'guess again'), qr/28P01/, 'and counting has begun anew');

# more at once than may compute: each is told so, or that it is wrong, and all give back their place
my @sessions = map { $iot->session(user => 'authenticator') } 1 .. 12;
$_->query('SET ROLE iot_anon') foreach @sessions;
foreach my $i (0 .. $#sessions)
{
	$sessions[$i]->send("SELECT iot.login('crowd $i', 'not a password')");
}
my @answers = map { eval { $_->receive } || $@ } @sessions;
is(scalar(grep { /28P01.*invalid username|53000.*too many others/s } @answers), 12, 'a crowd of guesses is answered');
like(login('anna', 'correct horse'), qr/\A\w+\.\w+/, 'and in the end nobody stands in the way');

# what ends a token
my %token = map { $_ => login('anna', 'correct horse') } qw(one two);
my %socket = map { $_ => IotWebSocket->new(port => $push->port) } qw(one two);
$socket{$_}->auth($token{$_}) foreach qw(one two);
is(request($token{one}, 'SELECT iot.logout()'), '', 'log out');
like(request($token{one}, 'SELECT 1'), qr/PT401.*Log in again/s, 'then the token is refused');
is(pushed($token{one}), 4401, '... by iot-pushd as well');
is($socket{one}->closed, 4401, '... which closes the socket that had it');
is(request($token{two}, 'SELECT 1'), 1, 'and only that one');
is(pushed($token{two}), 'ready anna', '... everywhere');
is(request($chief, q{SELECT iot.revoke_tokens('anna')}), '', 'an administrator revokes all');
like(request($token{two}, 'SELECT 1'), qr/PT401/, 'then the other is refused too');
is(pushed($token{two}), 4401, '... by iot-pushd as well');
is($socket{two}->closed, 4401, '... which closes its socket');
my $again = login('anna', 'correct horse');
is(request($again, 'SELECT 1'), 1, 'one of a moment later is good');
is(pushed($again), 'ready anna', '... everywhere');
$iot->psql(q{UPDATE iot.app_user SET enabled = false WHERE username = 'anna'});
like(request($again, 'SELECT 1'), qr/PT401/, 'that of a disabled user is refused');
like(login('anna', 'correct horse'), qr/28P01/, '... and gives no other');
is(pushed($again), 4401, '... nor is he let in by iot-pushd');
$iot->psql(q{UPDATE iot.app_user SET enabled = true WHERE username = 'anna'});
is(request($again, 'SELECT 1'), 1, 'until he is enabled');
$iot->psql(q{DELETE FROM iot.app_user WHERE username = 'anna'});
$iot->psql(q{SELECT iot.register_user('anna', 'another anna')});
like(request($token{two}, 'SELECT 1'), qr/PT401/, 'a token is not inherited with the name');

# a signed token that ends with its time: tokens are dated by the server's clock
$iot->psql(q{ALTER SYSTEM SET iot.token_ttl = '1 s'});
$iot->psql('SELECT pg_reload_conf()');
my $short;
poll_until(
	sub {
		$short = login('bert', 'battery staple');
		my $claims = json(claims($short));
		return $claims->{exp} - $claims->{iat} == 1;
	},
	'tokens have the new time');
poll_until(sub { pushed($short) eq '4401' }, 'and end with it');
pass('a token ends with its time');

# without the library in memory nothing can be counted
my $bare = IotTest->new('bare', preload => '');
$bare->psql(q{SELECT iot.register_user('anna', 'correct horse')});
like($bare->psql_error(q{SELECT iot.login('anna', 'correct horse')}), qr/55000.*shared_preload_libraries/s,
	'a server that cannot count failures logs nobody in');

# what doc/deploy says can be done
$bare->node->safe_psql('postgres', 'CREATE DATABASE deployed');
$bare->node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $bare->node->connstr('deployed'),
		'-f', "$IotTest::source_dir/doc/deploy/init.sql" ], 'the database of compose.yaml can be made');
my ($anon, $hook) = PostgreSQL::Test::Utils::slurp_file("$IotTest::source_dir/doc/deploy/postgrest.conf")
  =~ /^db-anon-role = "(\w+)".*^db-pre-request = "([\w.]+)"/ms;
is($bare->psql("SELECT has_function_privilege('$anon', '$hook()', 'EXECUTE')"), 't',
	'what postgrest.conf names is there');

done_testing();
