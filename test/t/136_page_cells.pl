# The live page of a daemon that listens to two cells: one is looked at and the other told of, a choice
# that lasts; and what is to be seen when one is away.

use strict;
use warnings;

use Test::More;

use IotTest;
use IotTest::Browser;

plan skip_all => 'Chromium and its driver are not installed'
  unless IotTest::Browser::chromium() && -x '/usr/bin/chromedriver';

my $key = 'a key that all of them know, 32 bytes';
my $key_file = PostgreSQL::Test::Utils::tempdir('key') . '/jwt.key';
PostgreSQL::Test::Utils::append_to_file($key_file, $key);
chmod 0600, $key_file;
my %cell;
foreach my $name ('north', 'south')
{
	my $iot = $cell{$name} = IotTest->new($name, conf => <<"EOC");
shared_buffers = 16MB
max_connections = 30
iot.authenticators = 'push_daemon'
iot.jwt_key_file = '$key_file'
EOC
	$iot->parameter('temperature', unit => '°C', min => 0, max => 100);
	$iot->device("$name-1", ['temperature']);
	$iot->user('anna', group => 'default', level => 'operate');
	$iot->psql(<<"EOC");
SELECT iot.reset_password('anna', 'correct horse battery');
SELECT iot.ingest('$name-1', '{"temperature": 20}');
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, severity)
	SELECT 'too-hot', 'threshold', parameter_id, '>', 70, 'red' FROM iot.parameter WHERE name = 'temperature';
EOC
}
my $push = IotTest::Push->new(undef, key => $key, cells => [ map { $_ => $cell{$_} } 'north', 'south' ],
	args => [ '--www', "$ENV{IOT_SOURCE}/src/pushd/www" ]);
foreach my $name ('north', 'south')
{
	$cell{$name}->psql('GRANT iot_viewer, iot_operator TO push_daemon');
	$push->wait_healthy($name);
}

sub ingest
{
	my ($name, $value) = @_;

	$cell{$name}->psql("SELECT iot.ingest('$name-1', '{\"temperature\": $value}')");
	return;
}

my $page = IotTest::Browser->new;
$page->open('http://127.0.0.1:' . $push->port . '/');
$page->type('#username', 'anna');
$page->type('#password', 'correct horse battery');
$page->click('button[type=submit]');
$page->wait_for('.card', text => 'north-1');
is($page->script('return document.querySelectorAll(".card").length'), 1, 'one cell is looked at');
ingest('north', 33.25);
$page->wait_for('[data-sensor="north-1 temperature"]', text => '33.25');
pass('its values are seen as they come');

# the other
ingest('south', 75.5);
$page->wait_for('.toast', text => 'south: ');
pass('what happens in the other cell is told');
$page->choose('#cell', 'south');
$page->wait_for('.card', text => 'south-1');
$page->wait_until_gone('.card', text => 'north-1');
$page->wait_for('#alarm-count', text => '1');
ingest('south', 76.5);
$page->wait_for('[data-sensor="south-1 temperature"]', text => '76.5');
pass('it is looked at instead');
$page->click('#bar nav a', text => 'Alarms');
$page->click('.alarm button', text => 'Acknowledge');
$page->wait_for('.alarm', text => 'acknowledged by anna');
is($cell{south}->psql("SELECT acknowledged_by FROM iot.alarm WHERE status = 'OPENED'"), 'anna',
	'orders go to the cell that is looked at');
$page->open('http://127.0.0.1:' . $push->port . '/');
$page->wait_for('.card', text => 'south-1');
pass('the choice lasts');

# one is away
$cell{south}->node->stop('immediate');
$page->wait_for('#lost', text => 'The server of south is away.');
$page->wait_for('#link', text => 'cell is away');
pass('a cell that is away is told');
$page->choose('#cell', 'north');
$page->wait_for('.card', text => 'north-1');
$page->wait_for('#link', text => 'live');
ingest('north', 34.5);
$page->wait_for('[data-sensor="north-1 temperature"]', text => '34.5');
pass('the other is there as before');
$cell{south}->node->start;
poll_until(sub { $page->text('#cell option[value=south]') eq 'south' }, 'the page knows that the cell is back');
$page->wait_until_gone('.toast');
ingest('south', 20);
ingest('south', 80);
$page->wait_for('.toast', text => 'south: ');
pass('what happens there is told again when it is back');
$page->click('#log-out');
$page->wait_for('form.log-in');
pass('logging out');
is($cell{$_}->psql('SELECT count(*) FROM iot.revoked_token'), 1, "... ends the token in cell $_")
  foreach 'north', 'south';
is_deeply([ grep { !/WebSocket connection/ } $page->console ], [], 'the browser has nothing to complain of');

$page->quit;
done_testing();
