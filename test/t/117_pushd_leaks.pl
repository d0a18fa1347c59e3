# The push daemon under AddressSanitizer and LeakSanitizer: after a busy life it ends as it should,
# and had lost nothing.

use strict;
use warnings;

use Test::More;

use IotTest;
use IotNotify;
use IotWebSocket;

my $program;
if (!$ENV{IOT_SANITIZE})
{
	$program = "$IotTest::source_dir/iot-pushd.san";
	my $made = "$PostgreSQL::Test::Utils::log_path/117_make.log";

	is(system("make -s -C '$IotTest::source_dir' iot-pushd.san >'$made' 2>&1"), 0, 'it is built')
	  or die PostgreSQL::Test::Utils::slurp_file($made);
}

my $iot = IotTest->new('main', conf => "iot.authenticators = 'push_daemon'\n");
setup_push($iot);
$iot->user('anna', group => 'plant', level => 'operate');
my $push = $iot->pushd(program => $program,
	env => { ASAN_OPTIONS => ($ENV{ASAN_OPTIONS} || 'x=') =~ s/^x=//r . ':detect_leaks=1' });
$iot->psql('GRANT iot_viewer, iot_operator TO push_daemon');

notify_many($iot, 300, recipients => ['anna'], body => '{"text":"' . 'x' x 500 . '"}');
foreach my $n (1 .. 20)
{
	# the usual life
	my $anna = $push->connect('anna');
	$anna->subscribe(1, events => ['*'], devices => ['boiler-1'], after_seq => $n);
	$anna->event;
	$anna->send({ op => 'live', id => 2, devices => ['boiler-1'], groups => ['plant'] });
	$anna->send({ op => 'query', id => 3, query => 'fleet' });
	$anna->send({ op => 'command', id => 4, device => 'boiler-1', parameter => 'temperature', value => '1' });
	my $answer;
	do { $answer = $anna->receive } until ($answer->{id} // 0) == 4;
	is($answer->{op}, 'result', 'a command is given');
	$anna->send({ op => 'unsubscribe', id => $n % 2 + 1 });
	$anna->send({ op => 'subscribe', id => 5, events => ['not valid'] });
	$anna->send($n % 2 ? '{"op":' : '[]');
	# what ends before it began, or has no right to
	my $half = IotWebSocket->new(port => $push->port, upgrade => 0);
	$half->write_bytes("GET /ws HTTP/1.1\r\nHost:");
	my $refused = IotWebSocket->new(port => $push->port);
	$refused->send({ op => 'auth', token => $push->token('dora', $n % 2 ? () : (exp => -1)) });
	is($refused->closed, 4401, 'refused');
	my $log_in = IotWebSocket->new(port => $push->port);
	$log_in->send({ op => 'login', username => 'anna', password => 'wrong' });
	my $early = IotWebSocket->new(port => $push->port);
	$early->send({ op => 'auth', token => $push->token('carl') });
	$early->send({ op => 'subscribe', id => 1 });
	$early->drop if $n % 3 == 0;
	my $wrong = IotWebSocket->new(port => $push->port);
	$wrong->write_bytes("\x81\x05hello");
	is($wrong->closed, 1002, 'a frame without a mask');
	$push->http_get($_) foreach '/metrics', '/', '/nothing', '/..';
	$n % 2 ? $anna->close : $anna->drop;
	notify($iot, recipients => ['anna']) if $n % 5 == 0;
}
# the database goes away under clients, and comes back
my $bert = $push->connect('bert');
$bert->subscribe(1);
$iot->psql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'push_daemon'");
notify($iot, recipients => ['bert']);
is($bert->event->{op}, 'event', 'it has its database again');

my $status = $push->stop;
my $log = $push->log_content;
is($status, 0, 'it ends with status 0') or diag($log);
unlike($log, qr/Sanitizer|runtime error/, 'and no sanitizer has anything to say');

done_testing();
