# iot.status() tells in one look how things are, and iot.check() what is wrong and what to do.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main', conf => "max_worker_processes = 10\n");
my $broker = IotTest::Broker->new('main');

sub status { return json($iot->psql('SELECT iot.status()')); }
sub findings { return $iot->psql("SELECT severity || ': ' || finding || ' -> ' || hint FROM iot.check()"); }

$iot->poll(q{SELECT count(*) = 1 FROM iot_internal.workers() WHERE kind = 'notifier' AND state = 'running'});
unlike(findings(), qr/^error/m, 'a fresh installation has no error');
$iot->parameter('temperature', min => 0, max => 100);
$iot->device($_, ['temperature']) foreach qw(boiler-1 silent);
like(findings(), qr/^warning: there are devices and no adapter is enabled/m, 'no adapter');

# one that is served by a program, and the one of the devices still disabled
$iot->psql(q{INSERT INTO iot.adapter (name, kind) VALUES ('modbus', 'modbus')});
unlike(findings(), qr/no adapter is enabled/, 'an adapter is enabled');
like(findings(), qr/^warning: adapter "mqtt" is disabled, and what is sent to its devices is not taken up: 2 ->/m,
	'but not that of the devices');
my $modbus = $iot->psql(q{SELECT iot.create_device('inverter', '{temperature}', adapter => 'modbus')});
$iot->psql(q{SELECT iot.send_command('inverter', 'temperature', 20, ttl => '1 h');
	UPDATE iot.event SET created_at = created_at - interval '2 minutes'});
like(findings(), qr/^warning: adapter "modbus" is 1\d\d s behind in the log, events that wait: 1 -> See whether its program runs/m,
	'whose program does not ask, by its name');
$iot->psql(qq{DELETE FROM iot.device WHERE device_id = '$modbus'; DELETE FROM iot.adapter WHERE name = 'modbus'});

# no broker yet
$iot->psql(q{UPDATE iot.adapter SET url = 'mqtt://127.0.0.1:1', enabled = true});
$iot->poll(q{SELECT EXISTS (SELECT FROM iot.check() c
	WHERE c.finding LIKE 'adapter "mqtt" has no broker: it is %' AND c.hint LIKE '%url%')});
pass('a broker that is away');
is(status()->{connections}{brokers}, 0, 'no connection');

$iot->use_broker($broker);
my $simulator = $iot->simulator($broker, devices => ['boiler-1']);
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 20))->{status}, 'COMPLETED',
	'a command completes');
my $silent = $iot->psql(q{SELECT iot.send_command('silent', 'temperature', 20, ttl => '1 h')});
$iot->poll(qq{SELECT attempts > 0 FROM iot.command WHERE command_id = '$silent'});
$broker->publish('iot/nobody/telemetry', '{"temperature":1}');
$iot->poll('SELECT count(*) = 1 FROM iot.dead_letter');
$iot->poll(q{SELECT count(*) > 0 FROM iot.delivery WHERE status = 'PENDING'});
$iot->poll(q{SELECT bool_and(lag_events = 0) FROM iot_internal.consumer_lag()});

my $status = status();
my %worker = map { $_->{kind} => $_ } @{ $status->{workers} };
is($status->{state}, 'ok', 'state');
ok($status->{preloaded} && !$status->{paused}, 'preloaded, not paused');
is_deeply([ sort keys %worker ], [ 'launcher', 'mqtt adapter', 'notifier' ], 'the workers');
is($worker{$_}{pid} > 0 ? 1 : 0, 1, "the $_ has a process") foreach sort keys %worker;
is($worker{'mqtt adapter'}{state}, 'connected', 'the adapter is connected');
is($worker{'mqtt adapter'}{adapter}, 'mqtt', 'by its name');
is($status->{connections}{brokers}, 1, 'one connection');
is($status->{commands}{pending}, 1, 'one command is pending');
is($status->{commands}{in_flight}, 1, 'and in flight');
cmp_ok($status->{notifications}{by_channel}{push}, '>=', 1, 'notifications wait for push');
is($status->{dead_letters}{total}, 1, 'one dead letter');
is_deeply($status->{dead_letters}{by_reason}, { unknown_device => 1 }, 'by reason');
is((grep { $_->{lag_events} != 0 } @{ $status->{consumers} }), 0, 'nobody lags');
is_deeply([ sort map { $_->{adapter} || $_->{name} } @{ $status->{consumers} } ], [qw(mqtt notifier)],
	'the consumers');
cmp_ok($status->{counters}{commands_completed}, '>=', 1, 'counters since start: a command completed');
cmp_ok($status->{counters}{rejected}, '==', 1, 'a value was rejected');
cmp_ok($status->{sizes}{event}, '>', 0, 'sizes');
is($status->{version}{tables}, $status->{version}{functions}, 'versions');
like($status->{maintenance}{partitions_until}, qr/^\d{4}-\d\d-\d\dT00:00:00/, 'maintenance');
like(findings(), qr/^warning: messages of the last hour are dead letters: 1 unknown_device/m,
	'the doctor names dead letters');
like(findings(), qr/^warning: notifications wait and no push daemon is connected/m,
	'and that nobody delivers');
is($iot->psql(q{SELECT value FROM iot.metric WHERE metric = 'commands_pending'}), '1', 'as a metric');
is($iot->psql(q{SELECT value FROM iot.metric WHERE metric = 'worker_up' AND label = 'notifier'}), '1',
	'as another');

# a push daemon is seen by its session
my $push = $iot->pushd;
$iot->poll(q{SELECT (iot.status() #>> '{connections,push_daemons}')::int >= 1});
unlike(findings(), qr/no push daemon/, 'a push daemon is connected');

# no secret is in it
$iot->psql(q{INSERT INTO iot.secret (name, value) VALUES ('broker', 'Ge-heim')});
$iot->psql(q{UPDATE iot.adapter SET options = '{"username": "u", "password_secret": "broker"}'});
unlike($iot->psql('SELECT iot.status(), (SELECT array_agg(m::text) FROM iot.metric m)'), qr/Ge-heim/,
	'I42: no secret');

# what is broken by hand
$iot->psql('ALTER TABLE iot.event DISABLE TRIGGER ALL');
like(findings(), qr/^error: trigger ".*" is disabled/m, 'a disabled trigger');
$iot->psql('SELECT iot.install()');
unlike(findings(), qr/is disabled/, 'iot.install() heals it');
$iot->psql('ALTER TABLE iot.device OWNER TO CURRENT_USER');
like(findings(), qr/^error: table "device" does not belong to/m, 'a table of another owner');
$iot->psql('SELECT iot.install()');
unlike(findings(), qr/belong to/, 'healed');
$iot->psql(q{DELETE FROM iot.consumer WHERE name = 'notifier'});
like(findings(), qr/^error: consumer "notifier" is gone/m, 'a notifier that has lost its place in the log');
$iot->psql('SELECT iot.install()');
unlike(findings(), qr/is gone/, 'which iot.install() gives back');
$iot->psql('CREATE ROLE mole IN ROLE iot_owner');
like(findings(), qr/^warning: members of "iot_owner" or "iot_worker".*mole/m, 'a member of the owner');
$iot->psql('DROP ROLE mole');
$iot->psql('ALTER ROLE iot_worker LOGIN');
like(findings(), qr/^warning: roles of iot have powers of their own: iot_worker/m, 'a role that can log in');
$iot->psql('ALTER ROLE iot_worker NOLOGIN');
unlike(findings(), qr/powers/, 'and cannot any more');
$iot->psql("ALTER SYSTEM SET iot.databases = 'other'");
$iot->psql('SELECT pg_reload_conf()');
$iot->poll(q{SELECT EXISTS (SELECT FROM iot.check() c WHERE c.severity = 'error'
	AND c.finding LIKE 'database "iot" is not in "iot.databases"%'
	AND c.hint LIKE 'ALTER SYSTEM SET iot.databases = ''other, iot'';%')});
pass('a database that is not served, and the statement that changes it');

# that statement as it stands, for a name that has to be quoted
$iot->psql("ALTER SYSTEM SET iot.databases = 'iot'");
$iot->psql('SELECT pg_reload_conf()');
$iot->create_database('Plant north');
my $north = IotTest->from_node($iot->node, 'Plant north');
$north->poll(q{SELECT count(*) = 1 FROM iot.check() c WHERE c.hint LIKE 'ALTER SYSTEM%'});
my @statements = split /; */, $north->psql(q{SELECT c.hint FROM iot.check() c WHERE c.hint LIKE 'ALTER SYSTEM%'});
$north->psql($_) foreach @statements;
$north->poll(q{SELECT count(*) = 1 FROM iot_internal.workers() w WHERE w.kind = 'notifier' AND w.pid IS NOT NULL});
pass('a database whose name has to be quoted is served by the statement that the doctor gives');

done_testing();
