# Questions and orders over the WebSocket: answered as that user would be answered by SQL, whatever
# else the message holds; bounded in number, time and size.

use strict;
use warnings;

use Test::More;

use IotTest;
use IotWebSocket;

my $iot = IotTest->new('main', databases => '', conf => "iot.authenticators = 'push_daemon'\n");

$iot->psql(<<'EOC');
INSERT INTO iot.parameter (name, unit, value_min, value_max) VALUES ('temperature', '°C', 0, 100);
INSERT INTO iot.parameter (name, labels) VALUES ('valve', '{"CLOSED": 0, "OPEN": 1}');
INSERT INTO iot.device_group (name) VALUES ('plant'), ('house');
INSERT INTO iot.adapter (name, kind) VALUES ('hand', 'hand');
SELECT iot.create_device('boiler-' || n, '{temperature,valve}', device_group => 'plant', adapter => 'hand')
	FROM generate_series(1, 5) AS n;
SELECT iot.create_device('lamp-1', '{temperature}', device_group => 'house', adapter => 'hand');
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, severity)
	SELECT 'hot', 'threshold', parameter_id, '>', 80, 'red' FROM iot.parameter WHERE name = 'temperature';
SELECT iot.ingest('boiler-1', jsonb_build_array(
	jsonb_build_object('ts', now() - interval '2 minutes', 'values', '{"temperature": 20}'::jsonb),
	jsonb_build_object('ts', now() - interval '1 minute', 'values', '{"temperature": 90}'::jsonb)));
SELECT iot.ingest('lamp-1', '{"temperature": 85}');
EOC
$iot->user('anna', group => 'plant', level => 'operate');
$iot->user('bert', group => 'plant', level => 'view');
$iot->psql(q{INSERT INTO iot.app_user (username, role) VALUES ('dora', 'iot_admin')});
my $push = $iot->pushd;
$iot->psql('GRANT iot_viewer, iot_operator TO push_daemon');

my $id = 100;

# The answer to a message: what "data" holds, or the whole error.
sub ask
{
	my ($ws, $op, %fields) = @_;

	$ws->send({ op => $op, id => ++$id, %fields });
	my $answer = $ws->receive;
	is($answer->{id}, $id, "$op is answered by its id");
	return $answer->{op} eq 'result' ? $answer->{data} : $answer;
}

sub query { return ask($_[0], 'query', query => $_[1], params => $_[2] || {}); }
sub names { return join ' ', map { $_->{device} } @{ $_[0]{rows} }; }

my $anna = $push->connect('anna');
my $bert = $push->connect('bert');

# Queries.
my $me = query($anna, 'me');
is("$me->{user} $me->{role} $me->{devices} $me->{open_alarms}", 'anna iot_operator 5 1', 'who am I');
is(names(query($anna, 'fleet')), 'boiler-1 boiler-2 boiler-3 boiler-4 boiler-5', 'her devices');
is($iot->psql(q{SELECT count(*) > 1, iot.status() #>> '{connections,push_daemons}'
	FROM pg_stat_activity WHERE usename = 'push_daemon'}), 't|1', 'one daemon, however many sessions it has');
my $page = query($anna, 'fleet', { limit => 2 });
is(names($page), 'boiler-1 boiler-2', 'a page of them');
ok($page->{more}, '... which says that there are more');
is(names(query($anna, 'fleet', { limit => 3, after => 'boiler-2' })), 'boiler-3 boiler-4 boiler-5',
	'the next page');
is(names(query($anna, 'fleet', { search => 'R-4' })), 'boiler-4', 'found by a part of the name');
my ($boiler) = @{ query($anna, 'fleet')->{rows} };
is($boiler->{values}[0]{value}, 90, 'with its value');
is("$boiler->{alarms}{open} $boiler->{alarms}{red}", '1 1', '... and its alarm');
my $device = query($anna, 'device', { device => 'boiler-1' });
is(join(' ', map { $_->{parameter} } @{ $device->{sensors} }), 'temperature valve', 'one device');
ok($device->{may_operate}, '... that she may operate');
ok(!query($bert, 'device', { device => 'boiler-1' })->{may_operate}, '... and he may not');
is(query($anna, 'device', { device => 'lamp-1' })->{code}, '42704', 'not one of another group');
my $now = time();
my $iso = sub { return POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime $_[0]); };
my $history = query($anna, 'history', { device => 'boiler-1', parameter => 'temperature',
		since => $iso->($now - 3600), until => $iso->($now + 60) });
is(join(' ', map { $_->[1] } @{ $history->{points} }), '20 90', 'history');
$history = query($anna, 'history', { device => 'boiler-1', parameter => 'temperature',
		since => $iso->($now - 86400), until => $iso->($now + 60), points => 10 });
is($history->{points}[-1][3], 90, 'history by buckets');
is($history->{bucket_s}, 8700, '... of a width that makes so many points');
is(query($anna, 'history', { device => 'lamp-1', parameter => 'temperature',
			since => $iso->($now - 3600) })->{code}, '42501', 'no history of a foreign device');
my ($alarm) = @{ query($anna, 'alarms')->{rows} };
is("$alarm->{device} $alarm->{status} $alarm->{severity}", 'boiler-1 OPENED red', 'alarms');
is(@{ query($anna, 'notifications', { head => 0 })->{rows} }, 0, 'notifications');

# Orders.
my $command = ask($anna, 'command', device => 'boiler-1', parameter => 'temperature', value => '55');
is($command->{status}, 'COMMITTED', 'a command is on its way');
is(ask($anna, 'command', device => 'boiler-1', parameter => 'valve', value => 'OPEN')->{status},
	'COMMITTED', '... a word will do');
my $refused = ask($anna, 'command', device => 'boiler-1', parameter => 'temperature', value => '150');
is($refused->{status}, 'FAILED', 'out of bounds');
like($refused->{error}, qr/100/, '... with the reason');
is(ask($bert, 'command', device => 'boiler-1', parameter => 'temperature', value => '55')->{code},
	'42501', 'who may only look orders nothing');
my $error = ask($anna, 'command', device => 'boiler-9', parameter => 'temperature', value => '55');
is($error->{code}, '42704', 'an error has its SQLSTATE');
ok($error->{hint}, '... and a hint');
my $request = '3f0f3b6e-7c5c-4d0e-9e5a-1c2d3e4f5a6b';
my @same = map { ask($anna, 'command', device => 'boiler-2', parameter => 'temperature', value => '30',
		request_id => $request)->{command_id} } 1 .. 2;
is($same[0], $same[1], 'the same request makes one command');
$iot->psql("SELECT iot.adapter_sent(command_id) FROM iot.adapter_poll('hand', 10)");
my $saga = query($anna, 'timeline', { command_id => $command->{command_id} });
is("$saga->{status} $saga->{steps}[-1]{event}", 'COMPLETED adapter.value_set_sent', 'its steps');
is(join(' ', map { $_->{status} } grep { $_->{device} eq 'boiler-2' }
		@{ query($bert, 'commands')->{rows} }), 'COMPLETED', 'commands of others can be seen');

ok(ask($anna, 'acknowledge', alarm_id => $alarm->{alarm_id}, comment => 'seen')->{changed}, 'acknowledged');
ok(!ask($anna, 'acknowledge', alarm_id => $alarm->{alarm_id})->{changed}, '... once');
is(ask($bert, 'close', alarm_id => $alarm->{alarm_id})->{code}, '42501', 'not by one who may only look');
ok(ask($anna, 'close', alarm_id => $alarm->{alarm_id})->{changed}, 'closed');
is($iot->psql(q{SELECT acknowledged_by || ' ' || closed_by FROM iot.alarm WHERE status = 'CLOSED'}),
	'anna anna', '... by whom is written down');
is(ask($anna, 'read', seq => 0)->{read_to}, 0, 'what was read');

# What is not on the list, and what is not what it should be.
is(query($anna, 'secrets')->{code}, '22023', 'no other query');
is(query($anna, 'fleet; DROP TABLE iot.device')->{code}, '22023', '... and no SQL');
is(query($anna, 'fleet', { limit => 100000 })->{code}, '22023', 'no page without end');
is(query($anna, 'alarms', { after => 'x' })->{code}, '22P02', 'no text for a number');
is(ask($anna, 'query', query => 'fleet', params => [])->{code}, '22023', 'no list for an object');
is(ask($anna, 'command', device => 'boiler-1', parameter => 'temperature', value => 'NaN')->{code},
	'22023', 'no value that is none');
is(ask($anna, 'query', query => 'me', user => 'bert', claims => { sub => 'bert' }, role => 'iot_admin')
	  ->{user}, 'anna', 'nobody names himself');
$anna->send({ op => 'query', query => 'me' });
is($anna->receive->{code}, 'invalid', 'a request needs an id');

# Rights are asked for each time; a role that the daemon may not take on is not served.
$iot->psql(q{DELETE FROM iot.access_grant WHERE level = 'view'});
is(names(query($bert, 'fleet')), '', 'who has lost his rights sees nothing');
my $dora = $push->connect('dora');
is(query($dora, 'me')->{code}, '42501', 'administrators are not served unless the daemon may');

# Many at once: each has its answer, and more than so many are refused.
$iot->psql('BEGIN; LOCK TABLE iot.user_group IN ACCESS SHARE MODE; COMMIT');
my $holder = $iot->session;
$holder->query('BEGIN; LOCK TABLE iot.app_user IN ACCESS EXCLUSIVE MODE');
$anna->send({ op => 'query', id => $_, query => 'me' }) for 1 .. 30;
my %refused = map { ($_ => $anna->expect('error')) } 1 .. 14;
is(scalar(grep { $_->{code} eq 'limit' } values %refused), 14, 'sixteen may wait');
$holder->query('COMMIT');
is(scalar(grep { $_->{user} eq 'anna' } map { $anna->expect('result')->{data} } 1 .. 16), 16,
	'... and are answered');

# A statement that takes too long is told, and the next one is answered.
$holder->query('BEGIN; LOCK TABLE iot.app_user IN ACCESS EXCLUSIVE MODE');
like(query($anna, 'me')->{code}, qr/^(57014|55P03)$/, 'what takes too long ends');
$holder->query('COMMIT');
is(query($anna, 'me')->{user}, 'anna', '... and costs nobody else');

# The server goes and comes back.
$iot->node->stop('fast');
$anna->send({ op => 'query', id => 999, query => 'me' });
my $away = $anna->receive;
like($away->{code}, qr/^(unavailable|unknown_outcome)$/, 'without a database it says so');
$iot->node->start;
IotTest::poll_until(sub {
	$anna->send({ op => 'query', id => ++$id, query => 'me' });
	my $answer = $anna->receive;
	return $answer->{op} eq 'result';
}, 'requests are answered again');

# A daemon whose role may not speak for users says so, and goes on telling events.
$iot->psql(q{ALTER SYSTEM SET iot.authenticators = ''});
$iot->psql('SELECT pg_reload_conf()');
IotTest::poll_until(sub { return query($anna, 'me')->{code}; }, 'the setting is taken');
is(query($anna, 'me')->{code}, '42501', 'a daemon that is no authenticator answers no request');

$push->stop;
unlike($push->log_content, qr/boiler|temperature/, 'the log holds nothing of what was asked');
done_testing();
