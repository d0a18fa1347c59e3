# The live page in a real browser: logging in, values that move, a command that the device carries out
# and one that it refuses, an alarm, the server lost and regained; by mouse and by keyboard, wide and
# narrow, light and dark.

use strict;
use warnings;

use Test::More;

use IotTest;
use IotTest::Browser;

plan skip_all => 'Chromium and its driver are not installed'
  unless IotTest::Browser::chromium() && -x '/usr/bin/chromedriver';

my $pictures = "$ENV{TESTDIR}/screenshots";
my $broker = IotTest::Broker->new('main');
my $www = "$ENV{IOT_SOURCE}/src/pushd/www";
# the key that the server signs with, and the daemon verifies by
my $key = 'a key that both of them know, 32 bytes';
my $key_file = PostgreSQL::Test::Utils::tempdir('key') . '/jwt.key';
PostgreSQL::Test::Utils::append_to_file($key_file, $key);
chmod 0600, $key_file;
my $iot = IotTest->new('main',
	conf => "iot.authenticators = 'push_daemon'\niot.jwt_key_file = '$key_file'\n");

mkdir $pictures;
$iot->parameter('temperature', unit => '°C', min => 0, max => 100);
$iot->parameter('pressure', unit => 'bar', min => 0, max => 12);
$iot->parameter('valve', labels => { CLOSED => 0, OPEN => 1 });
$iot->device('boiler-1', [qw(temperature pressure valve)]);
$iot->device('boiler-2', [qw(temperature pressure)]);
$iot->device("meter-$_", ['temperature']) for 1 .. 4;
$iot->user('anna', group => 'default', level => 'operate');
$iot->user('bert', group => 'default', level => 'view');
$iot->psql(<<'EOC');
SELECT iot.reset_password('anna', 'correct horse battery');
SELECT iot.reset_password('bert', 'battery horse correct');
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, close_threshold, severity)
	SELECT 'too-hot', 'threshold', parameter_id, '>', 70, 65, 'red'
	FROM iot.parameter WHERE name = 'temperature';
SELECT iot.ingest(d.name, jsonb_agg(jsonb_build_object('ts', t, 'values', jsonb_build_object(
		'temperature', round((45 + 9 * sin(extract(epoch FROM t) / 7000)
			+ 3 * sin(extract(epoch FROM t) / 411))::numeric, 1)))))
	FROM iot.device d CROSS JOIN generate_series(now() - interval '1 day', now() - interval '1 minute',
		interval '4 minutes') AS t
	GROUP BY d.name;
SELECT iot.ingest('boiler-' || n, jsonb_build_object('pressure', 3 + n / 10.0)) FROM generate_series(1, 2) AS n;
SELECT iot.ingest('boiler-1', '{"valve": "OPEN"}');
EOC
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => [qw(boiler-1 boiler-2)], refuse_above => 80);
my $push = $iot->pushd(key => $key, args => [ '--www', $www ]);
$iot->psql('GRANT iot_viewer, iot_operator TO push_daemon');
my $url = 'http://127.0.0.1:' . $push->port . '/';

sub ingest
{
	my ($device, $values) = @_;

	$iot->psql("SELECT iot.ingest('$device', '$values')");
	return;
}

my $page = IotTest::Browser->new;

# Logging in, by keyboard alone.
$page->open($url);
$page->wait_for('form.log-in');
is($page->focused, 'username', 'the name can be typed at once');
$page->press(split //, 'anna');
$page->press('Tab');
$page->press(split(//, 'wrong'), 'Enter');
$page->wait_for('.problem', text => 'invalid username or password');
pass('a wrong password is told');
is($page->focused, 'password', '... and typed anew');
$page->press(split(//, 'correct horse battery'), 'Enter');
$page->wait_for('.card', text => 'boiler-1');
pass('anna is in, and sees her devices');
$page->wait_for('#link', text => 'live');
is($page->text('#user'), 'anna', 'the page says who is here');
is($page->script('return document.querySelectorAll(".card").length'), 6, 'all of the fleet');
$page->wait_for('.card', text => 'online');

# A value that changes while one looks.
ingest('boiler-2', '{"temperature": 33.25}');
$page->wait_for('[data-sensor="boiler-2 temperature"]', text => '33.25');
pass('a measurement is seen as it comes');
ingest('boiler-2', '{"temperature": 34.5}');
$page->wait_for('[data-sensor="boiler-2 temperature"]', text => '34.5');
$page->script('document.activeElement.blur()');
$page->screenshot("$pictures/page-fleet-light.png");
$page->scheme('dark');
$page->screenshot("$pictures/page-fleet-dark.png");
$page->scheme('light');
$page->type('#search', 'meter');
$page->wait_until_gone('.card', text => 'boiler-1');
is($page->script('return document.querySelectorAll(".card").length'), 4, 'devices are found by name');

# One device, and a command that it carries out.
$page->type('#search', 'boiler-1');
$page->wait_for('.card', text => 'boiler-1');
$page->click('.card a', text => 'boiler-1');
$page->choose('#series', 'temperature');
$page->click('.choices button', text => '24 hours');
$page->wait_for('svg.plot polyline.line');
pass('its history is drawn');
$page->choose('#parameter', 'temperature');
$page->type('#value', '55');
$page->click('form.order button', text => 'Send');
$page->wait_for('.saga .badge', text => 'carried out');
my @steps = @{ $page->script(<<'EOC') };
return Array.from(document.querySelectorAll('.saga strong'), step => step.textContent);
EOC
is_deeply(\@steps, [ 'Command recorded', 'Device Service: in bounds, value set',
		'Adapter: sent, waiting for the device', 'Adapter: the device confirmed' ],
	'the saga is seen step by step');
$page->wait_for('[data-sensor="boiler-1 temperature"]', text => '55');
$page->wait_for('td', text => 'carried out');

# One that the device refuses, and one that never gets there.
$page->type('#value', '95');
$page->click('form.order button', text => 'Send');
$page->wait_for('.saga .badge', text => 'rolled back');
$page->wait_for('.saga strong', text => 'earlier value put back');
$page->wait_for('[data-sensor="boiler-1 temperature"]', text => '55');
pass('a command that the device refuses is rolled back before one\'s eyes');
$page->type('#value', '150');
$page->click('form.order button', text => 'Send');
$page->wait_for('.saga .badge', text => 'refused');
pass('one out of bounds is refused');
$page->script('document.querySelector("#value").value = ""; document.activeElement.blur()');
$page->screenshot("$pictures/page-device-light.png");
$page->scheme('dark');
$page->screenshot("$pictures/page-device-dark.png");
$page->scheme('light');

# An alarm: told, acknowledged, closed.
ingest('boiler-2', '{"temperature": 75.5}');
$page->wait_for('#alarm-count', text => '1');
$page->click('#bar nav a', text => 'Alarms');
$page->wait_for('.alarm.red', text => 'boiler-2');
$page->screenshot("$pictures/page-alarms-light.png");
$page->click('.alarm button', text => 'Acknowledge');
$page->wait_for('.alarm', text => 'acknowledged by anna');
is($iot->psql("SELECT acknowledged_by FROM iot.alarm WHERE status = 'OPENED'"), 'anna',
	'an alarm is acknowledged');
$page->click('.alarm button', text => 'Close');
$page->wait_for('#main', text => 'All is quiet.');
is($iot->psql('SELECT status || closed_by FROM iot.alarm'), 'CLOSEDanna', '... and closed');

# Notifications are there, and arrive.
$page->click('#bar nav a', text => 'Notifications');
$page->wait_for('.news', text => 'boiler-1');
$page->click('button', text => 'Mark all as read');
$page->wait_until_gone('.news.unread');
my $late = $iot->send_command('boiler-1', 'temperature', 61);
$page->wait_for('.news.unread', text => 'boiler-1');
$page->wait_for('.toast', text => 'boiler-1');
pass('a notification arrives');

is_deeply([ $page->console ], [], 'the browser has nothing to complain of');

# The server is lost and comes back; what happened meanwhile is there.
$page->click('#bar nav a', text => 'Fleet');
$page->wait_for('.card', text => 'boiler-2');
$push->stop;
$page->wait_for('#lost', text => 'lost');
$page->wait_for('#link', text => 'not connected');
pass('a lost connection is told');
ingest('boiler-2', '{"temperature": 41.75}');
$push->spawn;
$push->wait_healthy;
$page->wait_until_gone('#lost');
$page->wait_for('[data-sensor="boiler-2 temperature"]', text => '41.75');
ingest('boiler-2', '{"temperature": 42.5}');
$page->wait_for('[data-sensor="boiler-2 temperature"]', text => '42.5');
pass('it comes back by itself, with what it missed');
is_deeply([ grep { !/WebSocket connection|ERR_CONNECTION_REFUSED/ } $page->console ], [],
	'... and no complaint but that the server was away');
is_deeply([ $page->hosts ], [ '127.0.0.1:' . $push->port ], 'no other host was asked for anything');

# A user who is disabled is out within moments.
$page->click('#log-out');
$page->wait_for('form.log-in');
is($page->script('return sessionStorage.length'), 0, 'logging out leaves no token behind');

# On a phone, one who may only look.
my $phone = IotTest::Browser->new(width => 390, height => 844, mobile => 1, dark => 1);
$phone->open($url);
$phone->type('#username', 'bert');
$phone->type('#password', 'battery horse correct');
$phone->click('button[type=submit]');
$phone->wait_for('.card', text => 'boiler-1');
cmp_ok($phone->script('return document.documentElement.scrollWidth'), '<=', 390,
	'nothing runs out of a narrow page');
$phone->screenshot("$pictures/page-phone-dark.png");
$phone->click('.card a', text => 'boiler-1');
$phone->wait_for('#main', text => 'You may look at this device, not operate it.');
pass('who may only look is given nothing to send');
cmp_ok($phone->script('return document.documentElement.scrollWidth'), '<=', 390,
	'... on the page of a device as well');
is_deeply([ $phone->console ], [], 'without a complaint');
$iot->psql("UPDATE iot.app_user SET enabled = false WHERE username = 'bert'");
$phone->wait_for('form.log-in');
pass('a user who is disabled is out');

$_->quit for $page, $phone;
done_testing();
