# Device credentials at a mosquitto with the dynamic security plugin: what is made in SQL works at the
# broker, for a device's own topics alone, until it is disabled, ended or deleted.

use strict;
use warnings;

use IPC::Run ();
use JSON::PP;
use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main', shipped => 1, users => { iot => 'top-secret' },
	conf => 'log_type subscribe');

$iot->parameter('temperature', min => 0, max => 100);
$iot->device($_, ['temperature']) foreach qw(boiler-1 boiler-2 kiln-1);
$iot->use_broker($broker, options => { device_credentials => 'dynsec' });

# A credential from a function that returns one.
sub credential
{
	my ($call) = @_;

	return ($iot->rows("SELECT * FROM iot.$call"))[0];
}

# Waits until the broker has all that it should have.
sub settled
{
	$iot->poll("SELECT count(*) = 1 AND NOT EXISTS (SELECT FROM iot.dynsec_change) FROM iot.dynsec"
		  . ' WHERE settled_at IS NOT NULL AND error IS NULL');
	return;
}

sub run_client
{
	my ($program, $credential, @args) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run(
		[
			IotTest::program($program), '-h', '127.0.0.1', '-p', $broker->port, '-V', 'mqttv5',
			($credential ? ('-u', $credential->{username}, '-P', $credential->{password}) : ()),
			@args
		],
		'<', \'', '>', \$out, '2>', \$err);
	return "$out$err";
}

# "" where the broker took a message at QoS 1, else what the client says.
sub publish
{
	my ($credential, $topic, $payload) = @_;

	return run_client('mosquitto_pub', $credential, '-q', 1, '-t', $topic, '-m', $payload);
}

# What a client says to a subscription: "" where it stood and nothing came.
sub subscribe
{
	my ($credential, $filter, @args) = @_;

	return run_client('mosquitto_sub', $credential, '-q', 1, '-t', $filter, '-E', @args);
}

sub logged_in
{
	my ($credential) = @_;

	return publish($credential, "iot/boiler-1/telemetry", '{"temperature":1}') eq '';
}

# What the plugin has in its file.
sub plugin
{
	return JSON::PP->new->decode(PostgreSQL::Test::Utils::slurp_file($broker->dynsec_file));
}

settled();
my $log = $iot->log_size;

# made in SQL, works at the broker
my $one = credential("create_device_credential('boiler-1')");
is($one->{username}, 'boiler-1', 'a device logs in by its name');
like($one->{password}, qr/^[A-Za-z0-9_-]{43}$/, 'with a password of 256 bits');
my $two = credential("create_device_credential('boiler-2')");
settled();
is($iot->psql("SELECT string_agg(broker_state, ' ') FROM iot.device_credential"), 'present present',
	'the broker has both');
is($iot->psql('SELECT count(*) FROM iot.device_credential_password'), '0',
	'and their passwords are forgotten');
foreach my $secret ($one->{password}, $two->{password})
{
	unlike($iot->log_content, qr/\Q$secret\E/, 'no password is in the log of the server');
	is($iot->psql("SELECT count(*) FROM iot.event WHERE payload::text LIKE '%$secret%'"), '0',
		'nor in an event');
	is($iot->psql("SELECT count(*) FROM iot.dynsec WHERE asked::text LIKE '%$secret%'"), '0',
		'nor in what was asked');
}

# its own topics
my $mark = $broker->log_size;
is(publish($one, 'iot/boiler-1/telemetry', '{"temperature":21.5}'), '', 'telemetry of its own');
$iot->poll("SELECT value = 21.5 FROM iot.last_values('boiler-1')");
is(publish($one, "iot/boiler-1/$_", '{"on":1}'), '', "and $_") foreach qw(attributes command/ack);
is(publish($one, 'iot/boiler-1/status', 'online'), '', 'and status');
is(subscribe($one, 'iot/boiler-1/command'), '', 'it may hear its commands');
my $sim = $iot->simulator($broker, devices => ['boiler-1'], user => 'boiler-1', password => $one->{password});
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 60))->{status}, 'COMPLETED',
	'and carry them out');

# and nothing else
foreach my $topic (
	'iot/boiler-2/telemetry', 'iot/boiler-1/command', 'iot/boiler-2/command',
	'iot/boiler-2/command/ack', 'iot/boiler-1/telemetry/more', 'anything',
	'$CONTROL/dynamic-security/v1')
{
	like(publish($one, $topic, '{}'), qr/Not authorized/, "$topic is denied");
}
foreach my $filter (
	'iot/boiler-2/command', '#', 'iot/+/command', 'iot/#', 'iot/boiler-1/telemetry', '$SYS/#',
	'$share/g/iot/boiler-2/command', '$CONTROL/dynamic-security/v1/response')
{
	like(subscribe($one, $filter), qr/denied/, "a subscription to $filter is denied");
}
like(publish(undef, 'iot/boiler-1/telemetry', '{}'), qr/[Nn]ot authori[sz]ed/, 'nobody is anonymous');
like(publish({ %$one, password => 'wrong' }, 'iot/boiler-1/telemetry', '{}'), qr/[Nn]ot authori[sz]ed/,
	'nor comes in by a wrong password');
like(publish({ %$one, username => 'boiler-2' }, 'iot/boiler-2/telemetry', '{}'),
	qr/[Nn]ot authori[sz]ed/, "nor by another one's");

# A session that another device takes over by its client id gives nothing away.
is(subscribe($two, 'iot/boiler-2/command', '-i', 'victim', '-c', '-x', 3600), '', 'a session that is kept');
my $id = $iot->send_command('boiler-2', 'temperature', 42, ttl => '1 hour');
$iot->poll("SELECT attempts > 0 FROM iot.command WHERE command_id = '$id'");
unlike(run_client('mosquitto_sub', $one, '-q', 1, '-t', 'iot/boiler-1/command', '-i', 'victim', '-c',
		'-x', 3600, '-W', 2), qr/$id/, 'is not read by who takes it over');

# disabled: the live session ends, and comes back when enabled
$mark = $broker->log_size;
my $ready = $sim->log_size;
my $time = elapsed(
	sub {
		$iot->psql("SELECT iot.disable_device_credential('boiler-1')");
		$broker->wait_for_log(qr/administrative action/, $mark);
	});
diag(sprintf 'a disabled device was cut off after %.2f s', $time);
settled();
ok(!logged_in($one), 'a disabled credential does not work');
$iot->psql("SELECT iot.enable_device_credential('boiler-1')");
settled();
ok(logged_in($one), 'an enabled one does again');
$sim->wait_ready($ready);
$mark = $broker->log_size;
$iot->psql("UPDATE iot.device SET enabled = false WHERE name = 'boiler-1'");
$broker->wait_for_log(qr/administrative action/, $mark);
settled();
ok(!logged_in($one), 'nor does that of a disabled device');
$sim->stop;
$iot->psql("UPDATE iot.device SET enabled = true WHERE name = 'boiler-1'");
settled();
ok(logged_in($one), 'until the device is enabled');

# rotated: both work, then the old one does not
my $next = credential("rotate_device_credential('boiler-1', '1 hour')");
is($next->{username}, 'boiler-1~2', 'the next one has a name of its own');
settled();
ok(logged_in($one) && logged_in($next), 'both work while they overlap');
like(publish($next, 'iot/boiler-1~2/telemetry', '{}'), qr/Not authorized/, 'for the topics of the device');
$iot->psql("UPDATE iot.device_credential SET valid_until = now() WHERE username = 'boiler-1'");
$iot->poll("SELECT count(*) = 1 FROM iot.event WHERE type = 'device.credential_ended'");
settled();
ok(!logged_in($one), 'the old one ends');
ok(logged_in($next), 'and the new one stays');
is($iot->psql("SELECT string_agg(username, ' ') FROM iot.device_credentials('boiler-1')"), 'boiler-1~2',
	'in the table as well');
my $third = credential("rotate_device_credential('boiler-1', '0')");
settled();
ok(!logged_in($next) && logged_in($third), 'without an overlap at once');

# names and topics change, and devices go
$iot->psql("UPDATE iot.device SET name = 'boiler-9' WHERE name = 'boiler-2'");
settled();
is(publish($two, 'iot/boiler-9/telemetry', '{"temperature":1}'), '', 'a renamed device has new topics');
like(publish($two, 'iot/boiler-2/telemetry', '{}'), qr/Not authorized/, 'and not the old ones');
$iot->psql("UPDATE iot.device_type SET telemetry_topic = 'plant/{device}/values'");
settled();
is(publish($two, 'plant/boiler-9/values', '{"temperature":2}'), '', 'topics follow the type');
like(publish($two, 'iot/boiler-9/telemetry', '{}'), qr/Not authorized/, 'altogether');
$iot->psql("UPDATE iot.device_type SET telemetry_topic = 'iot/{device}/telemetry'");
$iot->psql("DELETE FROM iot.device WHERE name = 'boiler-9'");
settled();
like(publish($two, 'iot/boiler-9/telemetry', '{}'), qr/[Nn]ot authori[sz]ed/, 'a deleted device is out');
is(scalar(grep { $_->{username} =~ /^boiler-[29]/ } @{ plugin()->{clients} }), 0, 'and its client gone');
is(join(' ', sort map { $_->{rolename} } @{ plugin()->{roles} }), 'iot-device-boiler-1', 'its role, too');
$iot->psql("SELECT iot.create_device('boiler-2', '{temperature}')");
my $again = credential("create_device_credential('boiler-2')");
is($again->{username}, 'boiler-2', 'its name is free for another');
settled();
is(publish($again, 'iot/boiler-2/telemetry', '{"temperature":3}'), '', 'who gets in by his own password');
like(publish($two, 'iot/boiler-2/telemetry', '{}'), qr/[Nn]ot authori[sz]ed/, 'and not by the old');

# what happens while the broker is away is made good when it comes back
$broker->stop;
$iot->poll("SELECT state = 'disconnected' FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'");
my $kiln = credential("create_device_credential('kiln-1')");
is($iot->psql('SELECT count(*) FROM iot.device_credential_password'), '1', 'its password waits for the broker');
$iot->psql("SELECT iot.disable_device_credential('boiler-2')");
$broker->start;
$iot->poll("SELECT broker_state = 'present' FROM iot.device_credential WHERE username = 'kiln-1'");
settled();
is(publish($kiln, 'iot/kiln-1/telemetry', '{"temperature":4}'), '', 'a credential made meanwhile works');
like(publish($again, 'iot/boiler-2/telemetry', '{}'), qr/[Nn]ot authori[sz]ed/, 'one disabled meanwhile does not');

# clients of others are left alone, and their names are not taken
my $admin = {};
sub control
{
	my ($command) = @_;

	is(run_client('mosquitto_pub', { username => 'iot', password => 'top-secret' }, '-q', 1,
			'-t', '$CONTROL/dynamic-security/v1',
			'-m', JSON::PP->new->encode({ commands => [$command] })), '', $command->{command});
	return;
}
control({ command => 'createClient', username => 'pump-1', password => 'mine' });
$iot->device('pump-1', ['temperature']);
credential("create_device_credential('pump-1')");
$iot->poll("SELECT broker_state = 'refused' FROM iot.device_credential WHERE username = 'pump-1'");
is($iot->psql("SELECT count(*) FROM iot.check() WHERE severity = 'error'"
		  . " AND finding LIKE 'the broker refused the credentials of 1 devices, among them \"pump-1\":"
		  . " createClient: Client already exists'"), '1', 'a name that somebody else has is told');
is(scalar(grep { $_->{username} eq 'pump-1' && !$_->{textname} } @{ plugin()->{clients} }), 1,
	'and stays his');
$iot->psql("SELECT iot.delete_device_credential('pump-1')");
settled();
is(scalar(grep { $_->{username} eq 'pump-1' } @{ plugin()->{clients} }), 1, 'also afterwards');

# a broker that has lost its file: what cannot be made good is told
$broker->stop;
unlink $broker->dynsec_file or die $!;
$broker->start;
$iot->poll("SELECT count(*) = 3 FROM iot.device_credential WHERE broker_state = 'missing'");
settled();
is($iot->psql("SELECT count(*) FROM iot.event WHERE type = 'device.credential_missing'"), '3',
	'a broker that lost its file: each credential is missed');
is($iot->psql("SELECT count(*) FROM iot.check() WHERE severity = 'error'"
		  . " AND finding LIKE 'the broker lacks the credentials of 3 devices%'"), '1', 'and told');
my $fresh = credential("rotate_device_credential('kiln-1', '0')");
settled();
is(publish($fresh, 'iot/kiln-1/telemetry', '{"temperature":5}'), '', 'rotating helps');
is($iot->psql("SELECT count(*) FROM iot.check()"
		  . " WHERE finding LIKE 'the broker lacks the credentials of 2 devices%'"), '1', 'one by one');

# no failure was logged on the way, and every request was answered
unlike($iot->log_content($log), qr/cannot keep device credentials|could not keep device credentials/,
	'nothing failed');
is($iot->psql("SELECT count(*) FROM iot.dead_letter WHERE topic LIKE '\$CONTROL%'"), '0',
	'answers of the plugin are no telemetry');

done_testing();
