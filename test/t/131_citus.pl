# What doc/deploy/citus.sql would distribute, and in which order; and test/citus where Citus is there.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main', databases => '');

sub run_file
{
	my ($node, $file) = @_;

	return PostgreSQL::Test::Utils::run_command(
		[ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('iot'), '-f',
			"$IotTest::source_dir/$file" ]);
}

my (undef, $errors) = run_file($iot->node, 'doc/deploy/citus.sql');
is($errors, '', 'the file is taken');

my @plan = $iot->rows('SELECT * FROM iot_citus.plan() ORDER BY place');
my %place = map { $_->{relation} => $_->{place} } @plan;
is(scalar(keys %place), scalar(@plan), 'no table comes twice');
is($iot->psql(
		"SELECT string_agg(k.relation, ' ') FROM iot_citus.class() k"
		  . ' WHERE k.class <> \'local\' AND k.relation NOT IN (SELECT p.relation FROM iot_citus.plan() p)'),
	'', 'and none is left out');
is($iot->psql("SELECT string_agg(k.relation, ' ') FROM iot_citus.class() k"
		  . " WHERE to_regclass('iot.' || k.relation) IS NULL"),
	'', 'each table with a class is there');
my @late = grep { $place{ $_->{child} } && $place{ $_->{child} } < ($place{ $_->{parent} } || 1e9) }
  $iot->rows('SELECT c.relname AS child, p.relname AS parent FROM pg_constraint f'
	  . ' JOIN pg_class c ON c.oid = f.conrelid JOIN pg_class p ON p.oid = f.confrelid'
	  . " WHERE f.contype = 'f' AND f.conrelid <> f.confrelid AND c.relnamespace = 'iot'::regnamespace");
is_deeply(\@late, [], 'what a foreign key refers to comes first');
my @device = grep { $_->{class} eq 'device' } @plan;
is(scalar(grep { $_->{statement} !~ /'iot\.$_->{relation}', 'device_id', colocate_with => '(?:none|iot\.$device[0]{relation})'\)$/ } @device),
	0, 'device tables are split by device_id, and lie together');
$iot->psql('CREATE TABLE iot.another (n integer)');
like($iot->psql_error('SELECT * FROM iot_citus.plan()'), qr/55000: table "another" has no class/,
	'a table that nobody has classified stops it');
$iot->psql('DROP TABLE iot.another');
like($iot->psql_error('SELECT * FROM iot_citus.distribute()'), qr/55000: extension "citus" is not installed/,
	'without Citus it says so');

SKIP:
{
	skip 'Citus is not installed for this server: test/citus is not run', 1
	  unless -e IotTest::pg_config('--sharedir') . '/extension/citus.control';
	my $citus = IotTest->new('citus', databases => '', preload => 'citus,iot');

	$citus->psql('CREATE EXTENSION citus; CREATE EXTENSION pgtap');
	run_file($citus->node, 'doc/deploy/citus.sql');
	my ($out, $err) = run_file($citus->node, 'test/citus/distribute.sql');
	unlike("$out$err", qr/^not ok|ERROR/m, 'test/citus/distribute.sql') or diag("$out$err");
}

done_testing();
