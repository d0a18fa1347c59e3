# Connections to the broker that die without a word, as they do behind a router that forgets them: both
# ends are open, and nothing goes through.  The adapter notices by its keepalive, comes back by itself,
# and loses nothing; commands end at their deadlines meanwhile (I10, I40).  So too where a broker takes
# the connection and never answers, or stops in the middle of the TLS handshake.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotTest::Proxy;
use PostgreSQL::Test::Utils;

my $keepalive = 10;
my $iot = IotTest->new('main');
# what it holds for us grows meanwhile, and would be written anew with each message
my $broker = IotTest::Broker->new('main', autosave => 0);
my $proxy = IotTest::Proxy->new('main', $broker->port);

$iot->parameter('temperature', min => 0, max => 100);
$iot->device("pump-$_", ['temperature']) foreach 1 .. 5;
$iot->psql("UPDATE iot.device_type SET ack_timeout = '1 min'");
$iot->use_broker($broker, options => { keepalive => $keepalive });
my $sim = $iot->simulator($broker, prefix => 'pump-', count => 5, rate => 4,
	parameters => 'temperature=20', log_telemetry => 1, drop_seen => 1);

sub adapter_is
{
	my ($state, $name, $detail) = @_;

	return $iot->poll("SELECT count(*) = 1 FROM iot_internal.worker_slots() WHERE name = 'adapter:$name'"
		  . " AND state = '$state'" . ($detail ? " AND detail ~ '$detail'" : ''));
}

# What iot.status() tells of an adapter.
sub status_of
{
	my ($name) = @_;
	my ($worker) = grep { $_->{name} eq "adapter:$name" }
	  @{ json($iot->psql('SELECT iot.status()'))->{workers} };

	return $worker;
}

sub measurements { return $iot->psql('SELECT count(*) FROM iot.measurement'); }

my $pid = $iot->psql("SELECT pid FROM iot_internal.worker_slots() WHERE name = 'adapter:mqtt'");
my $log = $iot->log_size;
$iot->psql('UPDATE iot.adapter SET url = ' . IotTest::literal('mqtt://127.0.0.1:' . $proxy->port));
$iot->wait_for_log(qr/connected to MQTT broker "mqtt:[^"]*:@{[$proxy->port]}"/, $log);
$iot->poll('SELECT count(*) > 50 FROM iot.measurement');
is($iot->wait_for_command($iot->send_command('pump-1', 'temperature', 1))->{status}, 'COMPLETED',
	'through the proxy all is as ever');

# In the middle of a stream.
$log = $iot->log_size;
$proxy->freeze;
my $since = time();
my $lost = $iot->send_command('pump-1', 'temperature', 2, ttl => '4 s');
my $row = $iot->wait_for_command($lost);
is($row->{status}, 'CANCELLED', 'I40: no deadline waits for a connection that is dead');
$iot->wait_for_log(qr/adapter "mqtt" lost its connection to MQTT broker "[^"]*": no answer within the keepalive time/, $log);
my $noticed = time() - $since;
cmp_ok($noticed, '<', 2 * $keepalive + 5,
	sprintf('a keepalive of %d s noticed it after %.1f s', $keepalive, $noticed));
adapter_is('connected', 'mqtt');
is($iot->wait_for_command($iot->send_command('pump-1', 'temperature', 3))->{status}, 'COMPLETED',
	'and the next connection works');
is($iot->psql("SELECT status || ' ' || late FROM iot.command WHERE command_id = '$lost'"), 'CANCELLED false',
	'what had expired was not sent by it');

# A broker that takes the connection and says nothing; one that stops in the middle of TLS, in its
# first flight or later.
my $pem = PostgreSQL::Test::Utils::tempdir('certificate') . '/broker';
system_or_bail('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256',
	'-nodes', '-days', '2', '-subj', '/CN=broker', '-addext', 'subjectAltName = IP:127.0.0.1',
	'-keyout', "$pem.key", '-out', "$pem.crt");
my $secure = IotTest::Broker->new('secure',
	tls => { cafile => "$pem.crt", certfile => "$pem.crt", keyfile => "$pem.key" });
my %half = (
	silent => IotTest::Proxy->new('silent', $secure->port),
	halfway => IotTest::Proxy->new('halfway', $secure->port, limit => 100));
$half{silent}->swallow;
$log = $iot->log_size;
$proxy->kick;
$proxy->swallow;
$iot->psql(sprintf q{INSERT INTO iot.adapter (name, url, options, enabled)
	VALUES ('%s', 'mqtts://127.0.0.1:%d', '{"ca_file": "%s"}', true)}, $_, $half{$_}->port, "$pem.crt")
  foreach sort keys %half;
adapter_is('connecting', $_) foreach 'mqtt', sort keys %half;
my $short = $iot->send_command('pump-2', 'temperature', 4, ttl => '1 s');
my $long = $iot->send_command('pump-3', 'temperature', 5, ttl => '5 min');
is($iot->wait_for_command($short)->{status}, 'CANCELLED', 'I40: a command expires meanwhile');
foreach my $name ('mqtt', sort keys %half)
{
	$iot->wait_for_log(qr/adapter "$name" could not connect to MQTT broker "[^"]*": no answer within/, $log);
	adapter_is('disconnected', $name, 'no answer within');
	pass("adapter $name gives up a connection that nobody answers");
}
my $worker = status_of('mqtt');
ok($worker->{state} =~ /^(?:disconnected|connecting)$/, "iot.status() shows it: $worker->{state}");
is($iot->psql("SELECT status || ' ' || attempts FROM iot.command WHERE command_id = '$long'"), 'COMMITTED 0',
	'I40: a command that has time waits');
$_->pass foreach $proxy, values %half;
adapter_is('connected', $_) foreach 'mqtt', sort keys %half;
pass('each comes back by itself');
is($iot->wait_for_command($long)->{status}, 'COMPLETED', 'and what waited is carried out');

$sim->stop;
$iot->all_stored($sim, 'I10: and all that the broker took meanwhile is stored');
is($iot->psql('SELECT count(*) - count(DISTINCT (device_id, parameter_id, ts)) FROM iot.measurement'),
	'0', 'I11: nothing twice');
is($iot->psql("SELECT pid FROM iot_internal.worker_slots() WHERE name = 'adapter:mqtt'"), $pid,
	'by the same process');

done_testing();
