# The examples of doc/alarms.md, as they stand there.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main', preload => '');
my $text = PostgreSQL::Test::Utils::slurp_file("$IotTest::source_dir/doc/alarms.md");

$iot->parameter($_) foreach 'temperature', 'valve', 'pressure', 'door';
$iot->psql(q{INSERT INTO iot.device_type (name) VALUES ('kiln')});
$iot->device('boiler', ['temperature', 'valve', 'pressure', 'door']);
$iot->psql(q{INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT device_id, parameter_id, now() - interval '1 day' + i * interval '1 minute', 75
		FROM iot.sensor JOIN iot.parameter p USING (parameter_id), generate_series(0, 10) AS i WHERE p.name = 'temperature'});

my $examples = 0;
my @answers;
while ($text =~ /^```sql\n(.*?)^```/msg)
{
	my $sql = $1;

	push @answers, $iot->psql($sql);
	pass('example ' . ++$examples . ': ' . ($sql =~ /\n? *(?:SELECT|VALUES \(|WHERE r\.name =) '([\w -]+)'/ ? $1 : 'runs'));
}
cmp_ok($examples, '>=', 9, 'there are examples');
is($iot->psql(q{SELECT string_agg(DISTINCT kind, ' ' ORDER BY kind) FROM iot.alarm_rule WHERE name NOT LIKE 'temperature-%'}),
	'condition no_data range rate threshold', 'of every kind');
like((grep { /boiler/ } @answers)[0], qr/^boiler\|.*\|.*\|red\|75$/, 'the backtest of the example says what would have been');

done_testing();
