# What a broker that asks the database reads: as a role of its own, hashes that it can check by itself,
# and nothing else.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use IPC::Run ();
use Test::More;

use IotTest;

my $iot = IotTest->new('main');

$iot->device($_, []) foreach qw(boiler-1 kiln-1);
$iot->psql('CREATE ROLE emqx LOGIN IN ROLE iot_broker');

my %password = map { $_->{username} => $_->{password} } $iot->rows(
	"SELECT c.* FROM unnest('{boiler-1,kiln-1}'::text[]) AS d (name),"
	  . ' iot.create_device_credential(d.name) AS c');
my $broker = $iot->session(user => 'emqx');

# the queries of doc/mqtt-broker.md, as EMQX runs them
sub authenticate
{
	my ($username, $password) = @_;
	my $row = $broker->query(
		"SELECT password_hash || ' ' || salt || ' ' || is_superuser::text FROM iot.broker_authentication"
		  . " WHERE username = '$username' LIMIT 1");
	my ($hash, $salt, $superuser) = split / /, $row;

	return 0 unless defined $salt;
	is($superuser, 'false', "$username is no superuser");
	return $hash eq sha256_hex($salt . $password);
}

foreach my $username (sort keys %password)
{
	ok(authenticate($username, $password{$username}), "$username comes in by its password");
	ok(!authenticate($username, "$password{$username}x"), 'and by no other');
}
ok(!authenticate('boiler-1', $password{'kiln-1'}), "nor by another device's");
ok(!authenticate('nobody', ''), 'who has no credential does not');

# the same by another implementation
my ($hash, $salt) = split / /, $broker->query(
	"SELECT password_hash || ' ' || salt FROM iot.broker_authentication WHERE username = 'kiln-1'");
my ($input, $digest) = ($salt . $password{'kiln-1'}, '');
IPC::Run::run([ 'openssl', 'dgst', '-sha256', '-r' ], '<', \$input, '>', \$digest) or die 'openssl';
like($digest, qr/^\Q$hash\E /, 'openssl computes the same');

is( $broker->query(
		"SELECT string_agg(permission || ' ' || action || ' ' || topic, ', ' ORDER BY action, topic)"
		  . " FROM iot.broker_acl WHERE username = 'kiln-1'"),
	'allow publish iot/kiln-1/attributes, allow publish iot/kiln-1/command/ack,'
	  . ' allow publish iot/kiln-1/status, allow publish iot/kiln-1/telemetry,'
	  . ' allow subscribe iot/kiln-1/command',
	'what a device may do');

# an answer stays a look-up by name among many
$iot->psql(<<'EOC');
INSERT INTO iot.device (name, device_group_id, device_type_id, adapter_id)
	SELECT 'many-' || n, g.device_group_id, t.device_type_id, a.adapter_id
	FROM generate_series(1, 2000) n, iot.device_group g, iot.device_type t, iot.adapter a;
INSERT INTO iot.device_credential (credential_id, device_id, username, password_hash, salt)
	SELECT gen_random_uuid(), device_id, name, 'x', 'y' FROM iot.device WHERE name LIKE 'many-%';
ANALYZE iot.device, iot.device_credential;
EOC
foreach my $view (qw(broker_authentication broker_acl))
{
	my $plan = $iot->psql("SET ROLE iot_broker; EXPLAIN SELECT * FROM iot.$view WHERE username = 'many-7'");

	like($plan, qr/device_credential_username_key/, "$view looks up by name");
	unlike($plan, qr/Seq Scan on device\b|Seq Scan on device_credential/, 'and reads no table through');
}

foreach my $table (qw(device_credential device_credential_password device app_user secret event))
{
	like($iot->psql_error("SET ROLE iot_broker; SELECT count(*) FROM iot.$table"), qr/permission denied/,
		"the broker does not read $table");
}

done_testing();
