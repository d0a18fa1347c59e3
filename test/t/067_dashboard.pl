# The queries that the documentation gives away, for Grafana's PostgreSQL data source and Prometheus'
# postgres_exporter: each of them runs, as the login that it is meant for, and answers.

use strict;
use warnings;

use CPAN::Meta::YAML;
use Encode qw(encode_utf8);
use Test::More;

use IotTest;

my $iot = IotTest->new('main');

sub read_file
{
	my ($name) = @_;

	open my $file, '<:encoding(UTF-8)', "$IotTest::source_dir/$name" or die "$name: $!";
	local $/;
	return <$file>;
}

# Blocks of a language in a page, each with the line that leads to it.
sub blocks
{
	my ($page, $language) = @_;
	my @blocks;

	while ($page =~ /([^\n]+)\n\n```$language\n(.*?)```/sg)
	{
		# a title is bytes, as the names of tests are
		push @blocks, {title => encode_utf8($1), text => $2};
	}
	return @blocks;
}

# As Grafana does, for a range and variables.
sub expand
{
	my ($query, $since, $until, $interval, %variable) = @_;

	my $list = sub {
		my ($value) = @_;
		return join ',', map { "'" . ($_ =~ s/'/''/gr) . "'" } ref $value ? @$value : $value;
	};
	my $seconds = sub {
		my %unit = (s => 1, m => 60, h => 3600, d => 86400);
		return $1 * $unit{$2} if $_[0] =~ /^(\d+)([smhd])$/;
		die "interval: $_[0]";
	};

	$query =~ s/\$__timeGroupAlias\(([^,]+),\s*'([^']+)'\)/
		'floor(extract(epoch from ' . $1 . ')\/' . $seconds->($2) . ')*' . $seconds->($2) . ' AS "time"'/xge;
	$query =~ s/\$__timeFilter\(([^)]+)\)/$1 BETWEEN '$since' AND '$until'/g;
	$query =~ s/\$__timeFrom\(\)/'$since'/g;
	$query =~ s/\$__timeTo\(\)/'$until'/g;
	$query =~ s/\$__interval/$interval/g;
	$query =~ s/\$\{(\w+):sqlstring\}/$list->($variable{$1})/ge;
	$query =~ s/\$(\w+)/ref $variable{$1} ? $variable{$1}[0] : $variable{$1} \/\/ die "variable $1"/ge;
	unlike($query, qr/\$/, 'no macro is left') if $query =~ /\$/;
	return $query =~ s/;\s*$//r;
}

# Devices with a day of values, one open alarm, one dead letter.
$iot->psql(q{
	INSERT INTO iot.parameter (name, unit) VALUES ('temperature', '°C'), ('humidity', '%');
	SELECT iot.create_device('boiler-1', '{temperature,humidity}'), iot.create_device('boiler-2', '{temperature}'),
		iot.create_device('pump-1', '{humidity}');
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold)
		SELECT 'hot', 'threshold', parameter_id, '>', 90 FROM iot.parameter WHERE name = 'temperature';
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT device_id, parameter_id, now() - n * interval '1 minute', CASE WHEN n = 0 THEN 95 ELSE n % 50 END
		FROM iot.sensor, generate_series(0, 1440) n;
	INSERT INTO iot.dead_letter (reason, adapter) VALUES ('malformed_json', 'mqtt');
	INSERT INTO iot.device_group (name) VALUES ('hidden');
	SELECT iot.create_device('secret-1', '{temperature}', device_group => 'hidden')});
my ($since, $until) = split /\|/, $iot->psql(q{
	SELECT to_char(now() - interval '6 hours', f), to_char(now() + interval '1 second', f)
	FROM (VALUES ('YYYY-MM-DD"T"HH24:MI:SS"Z"')) v (f)});

# Grafana
my @pages = blocks(read_file('doc/grafana.md'), 'sql');
my $setup = shift @pages;
like($setup->{text}, qr/^CREATE ROLE grafana/, 'the page begins with the login');
$iot->psql($setup->{text});
cmp_ok(scalar @pages, '>=', 11, 'and has queries');
my %variable = (group => 'default', device => ['boiler-1', 'boiler-2', 'pump-1'], parameter => 'temperature');
my %rows;
my @grafana = qw(SET SESSION AUTHORIZATION grafana; SET default_transaction_read_only = on;);
for my $interval ('1m', '1h')
{
	for my $page (@pages)
	{
		my $query = expand($page->{text}, $since, $until, $interval, %variable);
		my $answer = $iot->psql("@grafana\nSELECT count(*), string_agg(q::text, ' ') FROM ($query) AS q");
		my ($count, $text) = split /\|/, $answer, 2;

		cmp_ok($count, '>', 0, "$interval: $page->{title}");
		unlike($text, qr/secret-1/, 'and nothing of devices that the login may not view');
		$rows{$interval}{$page->{title}} = [$count, $text];
	}
}
my ($series) = grep { /^\*\*One parameter/ } keys %{ $rows{'1h'} };
ok($series, 'a panel of several devices');
like($rows{'1h'}{$series}[1], qr/boiler-1.*boiler-2/s, 'has a line for each that has the parameter');
unlike($rows{'1h'}{$series}[1], qr/pump-1/, 'and none for others');
cmp_ok($rows{'1m'}{$series}[0], '>=', 720, 'by the minute');
cmp_ok($rows{'1h'}{$series}[0], '<=', 14, 'or by the hour');
my ($fleet) = grep { /^`device`/ } keys %{ $rows{'1h'} };
is($rows{'1h'}{$fleet}[0], 3, 'the variable lists the devices');
is($iot->psql(qq{@grafana\nSELECT count(*) FROM iot.fleet}), 3, 'as the login sees them');
like($iot->psql_error("@grafana\nSELECT iot.send_command('boiler-1', 'temperature', 1)"),
	qr/permission denied|read-only/, 'it commands nothing');
like($iot->psql_error('SET SESSION AUTHORIZATION grafana; SELECT iot.send_command(\'boiler-1\', \'temperature\', 1)'),
	qr/42501/, 'not even where it turns read-only off');

# Prometheus
($setup) = blocks(read_file('doc/monitoring.md'), 'sql');
like($setup->{text}, qr/^CREATE ROLE exporter/, 'a login for the exporter');
$iot->psql($setup->{text});
$iot->poll(q{SELECT EXISTS (SELECT FROM iot.metric WHERE metric = 'worker_up' AND value = 1)});
my $file = CPAN::Meta::YAML->read_string(read_file('doc/deploy/postgres_exporter.yaml'))->[0];
my %metric;
for my $name (sort keys %$file)
{
	my $query = $file->{$name}{query};
	my %usage = map { my ($column) = keys %$_; $column => $_->{$column}{usage} } @{ $file->{$name}{metrics} };
	my @labels = grep { $usage{$_} eq 'LABEL' } sort keys %usage;
	my @values = grep { $usage{$_} =~ /^(GAUGE|COUNTER)$/ } sort keys %usage;

	is(@labels + @values, scalar keys %usage, "$name: every column is a label or a number");
	my $as = 'SET SESSION AUTHORIZATION exporter;';
	my $labels = join ', ', map { qq{"$_"::text} } @labels;
	for my $value (@values)
	{
		$metric{"${name}_$value"} = {map { split /=/, $_, 2 } split /\n/, $iot->psql(
			qq{$as SELECT concat_ws('/', $labels) || '=' || "$value"::double precision FROM ($query) AS q})};
	}
	is($iot->psql(qq{$as SELECT count(*) FROM (SELECT FROM ($query) AS q GROUP BY $labels HAVING count(*) > 1) AS d}),
		0, "$name: no two rows have the same labels");
	is($iot->psql(qq{$as SELECT count(*) FROM ($query) AS q WHERE num_nulls(} .
			join(', ', map { qq{"$_"} } sort keys %usage) . ') > 0'), 0, "$name: nothing is null");
}
is($metric{iot_dead_letter_count}{'mqtt/malformed_json'}, 1, 'dead letters by reason');
is($metric{iot_metric_value}{'red/alarms_open'}, 2, 'open alarms by severity');
is($metric{iot_metric_value}{'unknown/devices'}, 4, 'devices by how they are');
is($metric{iot_metric_value}{'notifier/worker_up'}, 1, 'workers');
ok(defined $metric{iot_metric_value}{'/rollup_lag_seconds'}, 'how late rollups are');
ok(defined $metric{iot_check_findings}{error}, 'findings of the doctor');
my $page = read_file('doc/monitoring.md');
like($page, qr/`$_`/, "the page tells of $_") for sort keys %metric;
like($iot->psql_error('SET SESSION AUTHORIZATION exporter; SELECT FROM iot.measurement'), qr/42501/,
	'and measurements are not for the exporter');

done_testing();
