# Every kind of alarm rule goes on where it was: each step is another backend, and between any two
# the server goes down, gently or not.  What comes of it is what a backtest says.

use strict;
use warnings;

use Test::More;

use IotTest;

# no workers: the clock of alarms is the test's
my $iot = IotTest->new('main', preload => '');
my $t0 = $iot->psql(q{SELECT date_trunc('day', now()) - interval '3 days'});

$iot->parameter($_) foreach 'temperature', 'valve';

# device, columns, values, alarms; a step of all devices is a column
my @rules = (
	['range', 'kind, value_min, value_max, min_open', q{'range', 40, 50, '25 s'}, '10-35 red'],
	['repeated', 'kind, comparison, threshold, repeat_count', q{'threshold', '>', 80, 3}, '20-40 red'],
	['severity', 'kind, severity, comparison, threshold, red_threshold, duration', q{'threshold', 'orange', '>', 80, 100, '15 s'}, '15-40 red'],
	['rate', 'kind, comparison, threshold, per, duration', q{'rate', '>', 50, '1 minute', '10 s'}, '20-30 red'],
	['no_data', 'kind, timeout, severity, red_timeout', q{'no_data', '8 s', 'orange', '18 s'}, '8-10 orange, 18-40 red'],
	['condition', 'kind, condition, duration', q{'condition', '$.temperature > 80 && $.valve == 0', '15 s'}, '25-40 red'],
	['scheduled', 'kind, comparison, threshold, time_zone, from_time, to_time', q{'threshold', '>', 80, 'UTC', '00:00:05', '00:00:35'}, '5-35 red']);
my @steps = (0, 10, 20, 30, 40);
my %values = (
	range => [[30], [45], [30], [30], [30]],
	repeated => [[90], [90], [90], [90], [10]],
	severity => [[90], [110], [110], [110], [10]],
	rate => [[0], [10], [20], [20], [20]],
	no_data => [[1], [1], [], [], [1]],
	condition => [[90, 1], [90, 0], [91], [92], [93, 1]],
	scheduled => [[90], [90], [90], [], [90]]);

foreach my $rule (@rules)
{
	my ($device, $columns, $values) = @$rule;

	$iot->device($device, ['temperature', 'valve']);
	$iot->psql(qq{SELECT iot_internal.set_alarm_clock('$t0');
		INSERT INTO iot.alarm_rule (name, parameter_id, device_id, $columns)
			SELECT '$device', p.parameter_id, d.device_id, $values FROM iot.parameter p, iot.device d
				WHERE p.name = 'temperature' AND d.name = '$device'});
}

foreach my $step (0 .. $#steps)
{
	my $at = "timestamptz '$t0' + interval '$steps[$step] s'";

	foreach my $rule (@rules)
	{
		my ($temperature, $valve) = @{ $values{ $rule->[0] }[$step] };

		next unless defined $temperature;
		$iot->psql(qq{SELECT iot_internal.set_alarm_clock($at);
			SELECT iot.ingest('$rule->[0]', jsonb_strip_nulls(jsonb_build_object('temperature', $temperature,
				'valve', } . (defined $valve ? $valve : 'NULL::float8') . qq{)), $at)});
	}
	$step % 2 ? $iot->node->restart : $iot->node->stop('immediate');
	$iot->node->start unless $step % 2;
	# what falls due while nobody measures
	$iot->psql(qq{SELECT iot_internal.set_alarm_clock($at + interval '6 s'); SELECT iot_internal.alarm_sweep(100)});
}

foreach my $rule (@rules)
{
	my ($device, undef, undef, $alarms) = @$rule;
	my $told = sub {
		my ($from) = @_;

		return $iot->psql(qq{SELECT string_agg(format('%s-%s %s', extract(epoch FROM x.opened_at - timestamptz '$t0')::float8,
				extract(epoch FROM x.closed_at - timestamptz '$t0')::float8, x.severity), ', ' ORDER BY x.opened_at) FROM ($from) x});
	};

	is( $told->("SELECT opened_at, closed_at, highest_severity AS severity FROM iot.alarm WHERE rule = '$device'"),
		$alarms, "$device goes on over restarts");
	is( $told->(qq{SELECT b.* FROM iot.alarm_rule r, iot.backtest_alarm_rule(r.alarm_rule_id, '$t0', timestamptz '$t0' + interval '46 s') b
			WHERE r.name = '$device'}), $alarms, "$device: as its backtest says");
}
$iot->node->stop;

done_testing();
