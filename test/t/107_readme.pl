# What the README shows works as it stands there: its SQL, from top to bottom, in one database with a
# broker and a device.

use strict;
use warnings;

use Encode;
use Test::More;

use IotTest;

open(my $in, '<:encoding(UTF-8)', "$ENV{IOT_SOURCE}/README.md") or die $!;
my $readme = do { local $/; <$in> };
close $in;
my @blocks = $readme =~ /^```sql\n(.*?)^```$/msg;

cmp_ok(scalar @blocks, '>', 10, 'the README has examples');
my $dir = PostgreSQL::Test::Utils::tempdir('key');
PostgreSQL::Test::Utils::append_to_file("$dir/jwt.key", "a secret of thirty-two bytes, at least\n");
chmod 0600, "$dir/jwt.key";
my $broker = IotTest::Broker->new('main');
my $iot = IotTest->new('main', extension => 0, conf => "iot.jwt_key_file = '$dir/jwt.key'\n");
my $port = $broker->port;
my $sim = IotTest::Simulator->new($broker, devices => [qw(boiler-1 pump-7)]);

# One session, since some blocks use what others have set; each block says where it begins.
my $script = "SET client_min_messages = warning;\n";
foreach my $i (0 .. $#blocks)
{
	my $block = $blocks[$i];

	$block =~ s{mqtt://127\.0\.0\.1:1883}{mqtt://127.0.0.1:$port}g;
	$script .= "\\echo block $i\n$block";
}
my ($output, $errors);
$iot->node->psql($iot->db, Encode::encode_utf8($script), stdout => \$output, stderr => \$errors,
	on_error_die => 0, on_error_stop => 1);
my @done = $output =~ /^block (\d+)$/mg;
is($errors, '', 'no example fails') or diag("in:\n$blocks[$done[-1]]");
is(scalar @done, scalar @blocks, 'all of them were run');
like($output, qr/^COMPLETED$/m, 'the first command of the README is carried out');
done_testing();
