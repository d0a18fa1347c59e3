# 64 writers of one device at once: a rule never has two open alarms, what opens closes before it
# opens again, and a condition over several parameters is judged by what all of them wrote.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main', conf => "max_connections = 120\nfsync = off\n");
my $clients = 64;
my $rounds = 3;

$iot->parameter($_) foreach 'temperature', 'valve';
$iot->device('boiler', ['temperature', 'valve']);
$iot->psql(q{
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, severity, comparison, threshold, red_threshold)
		SELECT 'threshold', 'threshold', parameter_id, 'orange', '>', 50, 80 FROM iot.parameter WHERE name = 'temperature';
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, repeat_count)
		SELECT 'repeated', 'threshold', parameter_id, '>', 50, 2 FROM iot.parameter WHERE name = 'temperature';
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold)
		SELECT 'rate', 'rate', parameter_id, '<', 0 FROM iot.parameter WHERE name = 'temperature';
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, timeout)
		SELECT 'silence', 'no_data', parameter_id, '1 hour' FROM iot.parameter WHERE name = 'temperature';
	INSERT INTO iot.alarm_rule (name, kind, condition)
		VALUES ('condition', 'condition', '$.temperature > 50 && $.valve == 0'),
			('other', 'condition', '$.temperature <= 50 || $.valve == 1');
});

# half of them one parameter, half the other, now and then both
my $script = "$PostgreSQL::Test::Utils::tmp_check/write.sql";
open(my $fh, '>', $script) or die "$script: $!";
print $fh <<'EOS';
\set which random(1, 10)
\set value random(0, 100)
\set valve random(0, 1)
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, clock_timestamp(), CASE p.name WHEN 'valve' THEN :valve ELSE :value END
		FROM iot.sensor s JOIN iot.parameter p USING (parameter_id)
		WHERE :which = 10 OR (p.name = 'valve') = (:which < 5)
	ON CONFLICT DO NOTHING;
EOS
close $fh;

foreach my $round (1 .. $rounds)
{
	$iot->node->command_ok(
		[
			program('pgbench'), '-n', '-c', $clients, '-j', 2, '-t', 20, '-f', $script,
			'-h', $iot->node->host, '-p', $iot->port, $iot->db
		],
		"round $round: no writer fails");
	is($iot->psql(q{SELECT r.name, count(*) FROM iot.alarm a JOIN iot.alarm_rule r USING (alarm_rule_id)
			WHERE a.status = 'OPENED' GROUP BY 1 HAVING count(*) > 1}), '', 'no rule has two open alarms');
	is( $iot->psql(q{SELECT string_agg(r.name, ' ' ORDER BY r.name) FROM iot.alarm a JOIN iot.alarm_rule r USING (alarm_rule_id)
			WHERE a.status = 'OPENED' AND r.kind = 'condition'}),
		$iot->psql(q{SELECT CASE WHEN t.reported > 50 AND v.reported = 0 THEN 'condition' ELSE 'other' END
			FROM iot.sensor_value t JOIN iot.parameter pt ON pt.parameter_id = t.parameter_id AND pt.name = 'temperature',
				iot.sensor_value v JOIN iot.parameter pv ON pv.parameter_id = v.parameter_id AND pv.name = 'valve'}),
		'a condition is judged by the last of both parameters');
	is( $iot->psql(q{SELECT coalesce(max(severity), 'none') FROM iot.alarm WHERE rule = 'threshold' AND status = 'OPENED'}),
		$iot->psql(q{SELECT CASE WHEN reported > 80 THEN 'red' WHEN reported > 50 THEN 'orange' ELSE 'none' END
			FROM iot.sensor_value JOIN iot.parameter p USING (parameter_id) WHERE p.name = 'temperature'}),
		'and a threshold by the last of its own');
}
my $alarms = $iot->psql('SELECT count(*) FROM iot.alarm');
is($iot->psql(q{SELECT count(*) FROM (SELECT a.opened_at, lag(a.closed_at, 1, '-infinity') OVER w AS closed_at
		FROM iot.alarm a WINDOW w AS (PARTITION BY a.alarm_rule_id ORDER BY a.opened_at, a.closed_at)) x
	WHERE x.closed_at IS NULL OR x.closed_at > x.opened_at}), '0', "I15: each of $alarms alarms closes before the next one opens");
is($iot->psql(q{SELECT count(*) FROM iot.alarm a WHERE 1 <> (SELECT count(*) FROM iot.event e
		WHERE e.aggregateid = a.alarm_id::text AND e.type = 'alarm.opened')
	OR (a.status = 'CLOSED')::int <> (SELECT count(*) FROM iot.event e
		WHERE e.aggregateid = a.alarm_id::text AND e.type = 'alarm.closed')}), '0', 'each opening and closing is an event, once');
foreach my $rule ('threshold', 'repeated', 'rate', 'condition', 'other')
{
	cmp_ok($iot->psql("SELECT count(*) FROM iot.alarm WHERE rule = '$rule'"), '>', 10, "$rule: over many alarms");
}
is($iot->psql(q{SELECT count(*) FROM iot.alarm WHERE rule = 'silence'}), '0', 'nobody was silent');
is($iot->psql(q{SELECT count(*) FROM iot.alarm_rule_error}), '0', 'no rule failed');
$iot->node->stop;

done_testing();
