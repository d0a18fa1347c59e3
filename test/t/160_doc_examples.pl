# The SQL of doc/*.md works as it stands there: page by page, from top to bottom, each page in a copy of
# a fresh database.  Pages whose SQL has a test of its own are left to that one, and so is what waits for a
# worker, which 107_readme.pl has.

use strict;
use utf8;
use warnings;

use Encode;
use File::Basename;
use Test::More;

use IotTest;

my %elsewhere = (
	'alarms.md' => '082_alarm_examples.pl',
	'grafana.md' => '067_dashboard.pl',
	'monitoring.md' => '067_dashboard.pl',
	'scale-out.md' => '131_citus.pl');

# What pages take as given: a few devices, and what a page besides speaks of.
my $devices = <<'EOC';
INSERT INTO iot.parameter (name, unit, value_min, value_max) VALUES ('temperature', '°C', 5, 90);
INSERT INTO iot.parameter (name, labels) VALUES ('valve', '{"CLOSED": 0, "OPEN": 1}');
INSERT INTO iot.device_group (name) VALUES ('field'), ('lab'), ('plant');
SELECT iot.create_device('boiler-1', '{temperature}', device_group => 'plant');
SELECT iot.create_device('pump-7', '{valve,temperature}', device_group => 'field');
EOC
my $people = <<'EOC';
INSERT INTO iot.app_user (username) VALUES ('anna'), ('chief');
INSERT INTO iot.user_group (name) VALUES ('crew');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u WHERE u.username = 'anna';
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT u.user_group_id, d.device_group_id, 'operate' FROM iot.user_group u, iot.device_group d;
CREATE ROLE anna IN ROLE iot_operator;
EOC
my %given = (
	'devices.md' => '',
	'email.md' => $devices . $people,
	'notifications.md' => $devices . $people,
	'operations.md' => '',
	'push.md' => "$devices CREATE ROLE pushd LOGIN IN ROLE iot_pushd;",
	'security.md' => "$devices CREATE ROLE reports;");

# A block as it is run: '…' stands for ids of what there is, and some calls are those of a user.
sub prepared
{
	my ($sql) = @_;

	$sql =~ s/'…'\)/(SELECT max(command_batch_id::text)::uuid FROM iot.command_batch))/g if $sql =~ /_group_command/;
	$sql =~ s/device_id = '…'/device_id = (SELECT device_id FROM iot.device WHERE name = 'boiler-1')/g;
	$sql = "SET SESSION AUTHORIZATION anna;\n$sql\nRESET SESSION AUTHORIZATION;\n" if $sql =~ /iot\.set_preferences/;
	return $sql;
}

my $iot = IotTest->new('main', databases => '', conf => "wal_level = logical\n");
my $examples = 0;

foreach my $file (sort glob "$ENV{IOT_SOURCE}/doc/*.md")
{
	my $page = basename($file);

	open(my $in, '<:encoding(UTF-8)', $file) or die "$file: $!";
	my $text = do { local $/; <$in> };
	close $in;
	# nor does one end what the others of its page need
	my @blocks = grep { !/wait_for_command|^DROP EXTENSION/m } $text =~ /^```sql\n(.*?)^```$/msg;
	next if !@blocks || $elsewhere{$page};

	$examples += @blocks;
	$iot->psql('CREATE DATABASE page TEMPLATE iot', database => 'postgres');
	my $script = "SET client_min_messages = error;\n" . (defined $given{$page} ? $given{$page} : $devices);
	$script .= "\\echo block $_\n" . prepared($blocks[$_]) foreach 0 .. $#blocks;
	$iot->node->psql('page', encode_utf8($script), stdout => \my $output, stderr => \my $errors, on_error_die => 0,
		on_error_stop => 1);
	my @done = $output =~ /^block (\d+)$/mg;
	is($errors, '', "$page: no example fails") or diag(encode_utf8("in:\n$blocks[$done[-1]]"));
	is(scalar @done, scalar @blocks, "$page: all of them were run");
	$iot->psql('DROP DATABASE page', database => 'postgres');
	$iot->psql('DROP ROLE IF EXISTS anna, pushd, reports', database => 'postgres');
}
cmp_ok($examples, '>', 40, "$examples examples");
done_testing();
