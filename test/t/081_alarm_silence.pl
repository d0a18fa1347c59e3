# What falls due in silence, on a real server: judged by the notifier a second late at most and never
# early, with the time at which it fell due, also when the server is restarted in the middle.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');

# on a busy machine the notifier may get its turn later than it asks for it
my $late = 3.5;

$iot->parameter($_) foreach 'temperature', 'valve';
$iot->device("d$_", ['temperature', 'valve']) foreach 1 .. 6;

sub rule
{
	my ($name, $device, $columns, $values) = @_;

	$iot->psql(qq{INSERT INTO iot.alarm_rule (name, parameter_id, device_id, $columns)
		SELECT '$name', p.parameter_id, d.device_id, $values FROM iot.parameter p, iot.device d
			WHERE p.name = 'temperature' AND d.name = '$device'});
}

# a measurement of this moment; its time
sub measure
{
	my ($device, $value) = @_;

	return $iot->psql(qq{WITH t AS MATERIALIZED (SELECT clock_timestamp() AS ts)
		SELECT t.ts FROM t WHERE iot.ingest('$device', jsonb_build_object('temperature', $value), t.ts) = 1});
}

sub poll_alarm
{
	my ($rule, $status) = @_;

	$iot->poll("SELECT count(*) = 1 FROM iot.alarm WHERE rule = '$rule' AND status = '$status'");
}

# how much later than it fell due it was told
sub judged
{
	my ($rule, $type, $due, $what) = @_;
	my ($row) = $iot->rows(qq{
		SELECT extract(epoch FROM e.created_at - ($due)) AS delay,
			extract(epoch FROM (e.payload ->> '} . ($type eq 'opened' ? 'opened_at' : 'closed_at') . qq{')::timestamptz - ($due)) AS off
		FROM iot.event e JOIN iot.alarm a ON a.alarm_id::text = e.aggregateid
		WHERE a.rule = '$rule' AND e.type = 'alarm.$type'});

	# an event carries milliseconds of its times
	cmp_ok(abs($row->{off}), '<', 0.002, "$what: with the time at which it fell due");
	cmp_ok($row->{delay}, '>=', 0, "$what: not early");
	cmp_ok($row->{delay}, '<', $late, "$what: and not late");
}

# silence, and what ends it
rule('silence', 'd1', 'kind, timeout', "'no_data', '2 s'");
my $at = measure('d1', 20);
poll_alarm('silence', 'OPENED');
judged('silence', 'opened', "timestamptz '$at' + interval '2 s'", 'silence');
my $again = measure('d1', 20);
is($iot->psql(q{SELECT status, closed_at FROM iot.alarm WHERE rule = 'silence' AND status = 'CLOSED'}), "CLOSED|$again",
	'the next measurement ends it');
$iot->psql(q{UPDATE iot.alarm_rule SET enabled = false WHERE name = 'silence'});

# a duration, and the shortest time open
rule('lasting', 'd2', 'kind, comparison, threshold, duration, min_open', "'threshold', '>', 80, '1 s', '2 s'");
$at = measure('d2', 90);
poll_alarm('lasting', 'OPENED');
judged('lasting', 'opened', "timestamptz '$at' + interval '1 s'", 'duration');
measure('d2', 20);
poll_alarm('lasting', 'CLOSED');
judged('lasting', 'closed', "timestamptz '$at' + interval '3 s'", 'shortest time open');

# the edges of a schedule; a window of some seconds, which begins in two
measure('d3', 90);
my ($window) = $iot->rows(q{SELECT date_trunc('second', now()) + interval '2 s' AS begins,
	date_trunc('second', now()) + interval '5 s' AS ends});
rule('scheduled', 'd3', 'kind, comparison, threshold, time_zone, from_time, to_time',
	"'threshold', '>', 80, 'UTC', (timestamptz '$window->{begins}' AT TIME ZONE 'UTC')::time,"
	  . " (timestamptz '$window->{ends}' AT TIME ZONE 'UTC')::time");
poll_alarm('scheduled', 'OPENED');
judged('scheduled', 'opened', "timestamptz '$window->{begins}'", 'beginning of the hours');
poll_alarm('scheduled', 'CLOSED');
judged('scheduled', 'closed', "timestamptz '$window->{ends}'", 'end of the hours');
is($iot->psql(q{SELECT close_reason FROM iot.alarm WHERE rule = 'scheduled'}), 'the schedule of the alarm rule has ended',
	'and says so');

# a condition of two parameters
$iot->psql(q{INSERT INTO iot.alarm_rule (name, kind, condition, duration, device_id)
	SELECT 'condition', 'condition', '$.temperature > 80 && $.valve == 0', '1 s', device_id FROM iot.device WHERE name = 'd4'});
$iot->psql(q{SELECT iot.ingest('d4', '{"valve": 0}')});
$at = measure('d4', 90);
poll_alarm('condition', 'OPENED');
judged('condition', 'opened', "timestamptz '$at' + interval '1 s'", 'condition');

# severity
$iot->psql(q{INSERT INTO iot.alarm_rule (name, kind, parameter_id, severity, timeout, red_timeout, device_id)
	SELECT 'rising', 'no_data', parameter_id, 'orange', '1 s', '2 s', device_id FROM iot.device, iot.parameter
		WHERE device.name = 'd5' AND parameter.name = 'temperature'});
poll_alarm('rising', 'OPENED');
$iot->poll(q{SELECT severity = 'red' FROM iot.alarm WHERE rule = 'rising'});
is($iot->psql(q{SELECT severity_at - opened_at FROM iot.alarm WHERE rule = 'rising'}), '00:00:01',
	'a sensor that never measured, and its second severity');

# a rule that fails is disabled, and no measurement is lost
$iot->psql(q{
	INSERT INTO iot.device_state (device_id, attributes)
		SELECT device_id, '{"since": "2020-01-01T00:00:00"}' FROM iot.device WHERE name = 'd4'
		ON CONFLICT (device_id) DO UPDATE SET attributes = excluded.attributes;
	INSERT INTO iot.alarm_rule (name, kind, device_id, condition)
		SELECT 'broken', 'condition', device_id, '$.attributes.since.datetime() < "2020-01-01T00:00:00+00:00".datetime()'
			FROM iot.device WHERE name = 'd4'});
measure('d4', $_) foreach 1 .. 10;
$iot->poll(q{SELECT NOT enabled FROM iot.alarm_rule WHERE name = 'broken'});
is($iot->psql(q{SELECT payload ->> 'rule', payload ->> 'device', payload ->> 'errors' FROM iot.event WHERE type = 'alarm_rule.disabled'}),
	'broken|d4|10', 'a rule that fails is disabled, with an event');
is($iot->psql(q{SELECT count(*) FROM iot.measurement JOIN iot.device USING (device_id) WHERE name = 'd4'}), '12',
	'and no measurement is lost');

# the server goes down in the middle of everything, gently or not, and each step has a new backend
rule('survivor', 'd6', 'kind, severity, comparison, threshold, red_threshold, duration, repeat_count',
	"'threshold', 'orange', '>', 80, 100, '10 s', 2");
my $t0 = $iot->psql(q{SELECT date_trunc('second', now()) - interval '1 hour'});

sub at
{
	my ($seconds, $value) = @_;

	$iot->psql(qq{SELECT iot.ingest('d6', '{"temperature": $value}', timestamptz '$t0' + interval '$seconds s')});
}
at(0, 90);
$iot->node->restart;
at(5, 110);
$iot->node->stop('immediate');
$iot->node->start;
at(9, 110);
is($iot->psql(q{SELECT count(*) FROM iot.alarm WHERE rule = 'survivor'}), '0', 'not yet');
$iot->node->restart;
at(11, 110);
is($iot->psql(qq{SELECT severity, opened_at - timestamptz '$t0' FROM iot.alarm WHERE rule = 'survivor'}), 'orange|00:00:10',
	'a duration goes on over restarts');
$iot->node->stop('immediate');
$iot->node->start;
at(20, 110);
is($iot->psql(qq{SELECT severity, severity_at - timestamptz '$t0' FROM iot.alarm WHERE rule = 'survivor'}), 'red|00:00:15',
	'so does the second severity');
$iot->node->restart;
at(21, 50);
is($iot->psql(q{SELECT status FROM iot.alarm WHERE rule = 'survivor'}), 'CLOSED', 'and the end');

# silence that lasted while the server was down
$iot->psql(q{UPDATE iot.alarm_rule SET enabled = true, timeout = '3 s' WHERE name = 'silence'});
$at = measure('d1', 20);
$iot->node->stop('immediate');
$iot->node->start;
poll_alarm('silence', 'OPENED');
is($iot->psql(qq{SELECT opened_at - timestamptz '$at' FROM iot.alarm WHERE rule = 'silence' AND status = 'OPENED'}), '00:00:03',
	'silence is noticed after a crash');
$iot->node->stop;

done_testing();
