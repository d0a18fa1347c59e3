# A private server loads the extension from the stage, and the programs that tests lean on come up,
# go down and tell the truth about it.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main', databases => '');

like($iot->psql('SHOW shared_preload_libraries'), qr/\biot\b/, 'the server preloads iot');
is($iot->psql("SELECT extname FROM pg_extension WHERE extname = 'iot'"), 'iot',
	'CREATE EXTENSION iot works');
like($iot->psql_error('SELECT 1/0'), qr/22012/, 'errors come with their SQLSTATE');

my $session = $iot->session;
$session->query_safe('BEGIN');
my $pid = $session->backend_pid;
is($session->query('SELECT pg_backend_pid()'), $pid, 'a session keeps its connection');
$session->send('SELECT pg_sleep(60)');
is($session->receive(0.05), undef, 'a statement that is not done has no answer');
ok($iot->poll("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $pid"),
	'its backend is seen waiting');
$iot->psql("SELECT pg_cancel_backend($pid)");
like($session->receive, qr/57014/, 'a cancelled statement says so');
$session->close;

my $broker = IotTest::Broker->new('main');
my $watch = $broker->watch('check/#');
$broker->publish('check/one', '{"a":1}');
my ($message) = $watch->wait_for(1);
is($message->{topic}, 'check/one', 'the broker hands a message on');
is_deeply($message->{json}, { a => 1 }, 'with its payload');
$broker->publish('check/kept', "\x00\xff", retain => 1);
$broker->wait_saved('check/kept');
$broker->kill9;
ok(!$broker->process->alive, 'a killed broker is gone');
$broker->start;
my ($kept) = $broker->watch('check/kept')->wait_for(1);
is($kept->{payload}, "\x00\xff", 'the retained message survives, byte for byte');

my $locked = IotTest::Broker->new('locked', users => { iot => 'secret' });
$locked->publish('check/one', 'x');
ok(!eval { $locked->publish('check/one', 'x', user => 'nobody'); 1 },
	'a broker with users refuses a stranger');

# the configuration that is shipped, with the places changed that a private instance must change
my $shipped = IotTest::Broker->new(
	'shipped',
	users => { iot => 'secret', 'boiler-1' => 'secret too' },
	shipped => 1,
	conf => 'log_type subscribe');
my $all = $shipped->watch('iot/#', user => 'iot');
$shipped->publish('iot/boiler-2/telemetry', '1', user => 'boiler-1');
$shipped->publish('iot/boiler-1/command', '2', user => 'boiler-1');
$shipped->publish('iot/boiler-1/telemetry', '3', user => 'boiler-1');
is(($all->wait_for(1))[0]{payload}, '3', 'a device speaks in its own name, and gives no commands');

done_testing();
