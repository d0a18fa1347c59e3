# How an adapter speaks to its broker: TLS, users and passwords, MQTT 3.1.1, QoS 0; and that no
# secret is to be seen anywhere (I42).

use strict;
use warnings;

use Test::More;

use IotTest;
use PostgreSQL::Test::Utils;

my $iot = IotTest->new('main', conf => 'log_min_messages = debug1');

$iot->parameter('temperature', min => 0, max => 100);
$iot->device('boiler-1', ['temperature']);

sub works
{
	my ($broker, $value, $what) = @_;
	my $sim = $iot->simulator($broker, devices => ['boiler-1']);

	is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', $value))->{status},
		'COMPLETED', "$what: a command is completed");
	$broker->publish('iot/boiler-1/telemetry', qq({"temperature":$value}));
	$iot->poll("SELECT count(*) > 0 FROM iot.measurement WHERE value = $value");
	pass("$what: a measurement is stored");
	$sim->stop;
	return;
}

# an authority and a certificate for the loopback address
my $dir = PostgreSQL::Test::Utils::tempdir('certificates');
sub certificate
{
	my ($ca) = @_;

	system_log('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256',
		'-nodes', '-days', '2', '-subj', "/CN=$ca", '-keyout', "$dir/$ca.key", '-out', "$dir/$ca.crt") == 0
	  or die 'no certificate authority';
	return;
}
certificate($_) foreach qw(authority stranger);
append_to_file("$dir/extension", "subjectAltName = IP:127.0.0.1\n");
system_log('openssl', 'req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
	'-subj', '/CN=broker', '-keyout', "$dir/broker.key", '-out', "$dir/broker.csr") == 0
  or die 'no request';
system_log('openssl', 'x509', '-req', '-in', "$dir/broker.csr", '-CA', "$dir/authority.crt",
	'-CAkey', "$dir/authority.key", '-CAcreateserial', '-days', '2', '-extfile', "$dir/extension",
	'-out', "$dir/broker.crt") == 0 or die 'no certificate';

my $tls = IotTest::Broker->new('tls', tls => {
	cafile => "$dir/authority.crt", certfile => "$dir/broker.crt", keyfile => "$dir/broker.key" });
$iot->use_broker($tls);
works($tls, 1, 'TLS');
my $many = 400;
my $base = (time() - 5000) * 1000;
$tls->publish_lines('iot/boiler-1/telemetry',
	[ map { '{"ts":' . ($base + $_) . ',"values":{"temperature":50}}' } 1 .. $many ]);
$iot->poll("SELECT count(*) = $many FROM iot.measurement WHERE value = 50");
pass('TLS: a batch that fills many records is read to its end');

# a broker that we cannot trust
my $log = $iot->log_size;
$iot->use_broker($tls, options => { ca_file => "$dir/stranger.crt" }, wait => 0);
$iot->wait_for_log(qr/could not connect to MQTT broker "mqtts:[^"]+": /, $log);
my $mark = $tls->log_size;
$iot->poll("SELECT state = 'disconnected' FROM iot_internal.worker_slots()"
	  . " WHERE kind = 'mqtt adapter'");
pass('a broker whose certificate nobody vouches for is refused');
$iot->use_broker($tls);
works($tls, 2, 'TLS with the right authority again');

# 3.1.1 and QoS 0
my $plain = IotTest::Broker->new('plain', conf => "log_type debug");
$mark = $plain->log_size;
$iot->use_broker($plain, options => { protocol => '3.1.1', batch_size => 10 });
# a broker of 2.1 logs the number that the protocol has, one of before a number of its own
like($plain->log_content($mark), qr/New client connected[^\n]*\(p[24], c0/, '3.1.1 with a session');
works($plain, 3, '3.1.1');
$mark = $plain->log_size;
$iot->use_broker($plain, options => { protocol => '5' });
like($plain->log_content($mark), qr/New client connected[^\n]*\(p5, c0/, '5 with a session');
$iot->psql(q(UPDATE iot.adapter SET options = '{"qos":0}'));
$plain->wait_for_log(qr{ 0 iot/\+/command/ack$}m, $mark);
works($plain, 4, 'QoS 0');

# users
my $closed = IotTest::Broker->new('closed',
	users => { iot => 'secret-one', other => 'secret-two' });
$iot->use_broker($closed);
works($closed, 5, 'password file');
$log = $iot->log_size;
$iot->psql(q(UPDATE iot.adapter SET options = '{"username":"iot"}'));
$iot->wait_for_log(qr/could not connect to MQTT broker "[^"]+": [^\n]*(?:uthor|refused)/i, $log);
pass('without a password the broker refuses us, and we say so');
$mark = $closed->log_size;
$iot->psql(q(INSERT INTO iot.secret (name, value) VALUES ('broker', 'secret-two');)
	  . q(UPDATE iot.adapter SET options = '{"username":"other","password_secret":"broker"}'));
$closed->wait_for_log(qr{ \d iot/\+/command/ack$}m, $mark);
works($closed, 6, 'password in iot.secret');

# a secret that changes is taken into use
$log = $iot->log_size;
$iot->psql("UPDATE iot.secret SET value = 'secret-wrong'");
$iot->wait_for_log(qr/adapter "mqtt" was changed/, $log);
$iot->psql("UPDATE iot.secret SET value = 'secret-two'");
$iot->wait_for_log(qr/adapter "mqtt" connected/, $log);
works($closed, 7, 'a changed secret');

unlike($iot->log_content(0), qr/secret-(?:one|wrong)/, 'I42: no password in the log')
  if $iot->psql('SHOW log_statement') eq 'none';
is($iot->psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%secret-%'"
		  . ' AND pid <> pg_backend_pid()'), '0', 'I42: nor in pg_stat_activity');
my $ps = `ps -eo args`;
unlike(join("\n", grep { /postgres/ } split /\n/, $ps), qr/secret-(?:one|two)/, 'I42: nor in ps');

done_testing();
