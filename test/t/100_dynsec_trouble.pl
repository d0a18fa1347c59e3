# Device credentials at a broker that does not help: no plugin, no permission, killed half-way.  It is
# told, nothing else suffers, and what is mended works without anybody's doing.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main', shipped => 1, conf => 'log_type subscribe',
	users => { iot => 'top-secret' });
my $conf = $broker->{conf};

$iot->parameter('temperature', min => 0, max => 100);
$iot->device($_, ['temperature']) foreach qw(boiler-1 boiler-2);

# Starts the broker with another configuration.
sub configure
{
	my ($text) = @_;

	$broker->stop;
	unlink $broker->dir . '/mosquitto.conf';
	$broker->{conf} = $text;
	$broker->write_conf;
	$broker->start;
	return;
}

sub trouble
{
	my ($pattern, $what) = @_;

	$iot->poll("SELECT coalesce(max(error) ~ '$pattern', false) FROM iot.dynsec", what => $what);
	like($iot->psql("SELECT finding FROM iot.check() WHERE finding LIKE 'adapter \"mqtt\" cannot keep%'"),
		qr/^adapter "mqtt" cannot keep device credentials at its broker: .*$pattern/, $what);
	return;
}

sub settled
{
	$iot->poll("SELECT count(*) = 1 AND NOT EXISTS (SELECT FROM iot.dynsec_change) FROM iot.dynsec"
		  . ' WHERE settled_at IS NOT NULL AND error IS NULL');
	return;
}

# a broker without the plugin
(my $bare = $conf) =~ s/^plugin.*\n//mg;
configure($bare);
my $log = $iot->log_size;
$iot->use_broker($broker, options => { username => 'iot', password_file => password_file('iot'),
		device_credentials => 'dynsec' });
$iot->psql("SELECT iot.create_device_credential('boiler-1')");
trouble('plugin', 'no plugin is told');
$iot->wait_for_log(qr/adapter "mqtt" cannot keep device credentials at its broker/, $log);
is($iot->psql("SELECT broker_state FROM iot.device_credential"), 'waiting', 'the credential waits');

# meanwhile everything else goes on
$broker->{users}{'boiler-2'} = 'secret too';
$broker->write_passwords;
configure($bare);
my $sim = $iot->simulator($broker, devices => ['boiler-2'], user => 'boiler-2');
is($iot->wait_for_command($iot->send_command('boiler-2', 'temperature', 60))->{status}, 'COMPLETED',
	'commands go on');

# the plugin is there, and the adapter's user may not use it
my $acl = $broker->dir . '/acl';
PostgreSQL::Test::Utils::append_to_file($acl, "user iot\ntopic readwrite iot/#\n"
	  . "pattern readwrite iot/%u/#\n");
(my $locked = $conf) =~ s/^acl_file .*$/acl_file $acl/m;
configure($locked);
trouble('may not write to the plugin', 'that the user may not use the plugin is told');

# mended
configure($conf);
$iot->wait_for_log(qr/adapter "mqtt" keeps device credentials at its broker again/, $log);
settled();
is($iot->psql("SELECT broker_state FROM iot.device_credential"), 'present', 'the credential has arrived');
is($iot->psql("SELECT count(*) FROM iot.check() WHERE finding LIKE '%cannot keep%'"), '0',
	'and nothing is wrong any more');
is(scalar(() = $iot->log_content($log) =~ /cannot keep device credentials/g), 1, 'it was logged once');

# killed half-way: every credential is at the broker in the end
$iot->psql("SELECT iot.create_device('many-' || n, '{temperature}') FROM generate_series(1, 60) n");
my $file = $broker->dir . '/credentials';
PostgreSQL::Test::Utils::append_to_file($file, join('',
	map { "$_->{name} $_->{username} $_->{password}\n" } $iot->rows(
		"SELECT d.name, c.username, c.password FROM iot.device AS d,"
		  . " iot.create_device_credential(d.name) AS c WHERE d.name LIKE 'many-%'")));
$broker->kill9;
$broker->start;
$iot->poll("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
$iot->poll("SELECT count(*) = 61 FROM iot.device_credential WHERE broker_state = 'present'");
settled();
is($iot->psql('SELECT count(*) FROM iot.device_credential_password'), '0', 'each has arrived in the end');
my @devices = map { "many-$_" } 1 .. 60;
my $many = IotTest::Simulator->new($broker, user => undef, devices => \@devices, parameters => 'temperature=7',
	jitter => 0, rate => 1, messages => 1, args => [ '--credentials', $file ]);
$iot->poll("SELECT count(*) = 60 FROM iot.sensor_value AS v JOIN iot.device AS d USING (device_id)"
	  . " WHERE d.name LIKE 'many-%' AND v.value = 7");
pass('and every device logs in with its own');
$many->stop;

# what is gone at the broker is gone in the end as well
$iot->psql("DELETE FROM iot.device_credential USING iot.device WHERE name LIKE 'many-%'"
	  . ' AND device.device_id = device_credential.device_id');
$broker->kill9;
$broker->start;
settled();
is(scalar(() = PostgreSQL::Test::Utils::slurp_file($broker->dynsec_file) =~ /"username":/g), 1,
	'a broker that was killed forgets what is to be forgotten');

# an adapter that speaks MQTT 3.1.1
$iot->use_broker($broker, options => { username => 'iot', password_file => password_file('iot'),
		device_credentials => 'dynsec', protocol => '3.1.1' });
$iot->psql("SELECT iot.create_device_credential('many-1')");
$iot->poll("SELECT broker_state = 'present' FROM iot.device_credential WHERE username = 'many-1'");
pass('3.1.1 does as well');

# several processes of an adapter, one of which speaks with the plugin
$log = $iot->log_size;
$iot->use_broker($broker, options => { username => 'iot', password_file => password_file('iot'),
		device_credentials => 'dynsec', processes => 2 }, wait => 0);
$iot->poll("SELECT count(*) = 2 FROM iot.worker WHERE kind = 'mqtt adapter' AND state = 'connected'");
$iot->psql("SELECT iot.create_device_credential('many-3')");
$iot->poll("SELECT broker_state = 'present' FROM iot.device_credential WHERE username = 'many-3'");
settled();
unlike($iot->log_content($log), qr/cannot keep device credentials/, 'two processes do not get in each other\'s way');

# switched off: nothing is handed out, and no password is kept
$iot->use_broker($broker, wait => 0,
	options => { username => 'iot', password_file => password_file('iot') });
$iot->psql("SELECT iot.create_device_credential('many-2')");
is($iot->psql("SELECT coalesce(broker_state, 'none') FROM iot.device_credential WHERE username = 'many-2'"),
	'none', 'without the option the broker is left alone');
is($iot->psql('SELECT count(*) FROM iot.device_credential_password'), '0', 'and no password is kept');

sub password_file
{
	my ($user) = @_;
	my $path = $broker->dir . "/password_of_$user";

	PostgreSQL::Test::Utils::append_to_file($path, "$broker->{users}{$user}\n") unless -e $path;
	return $path;
}

done_testing();
