# I41: no SQL text is built from input.  What devices, users and rules may name is named anew in each
# round; the set of statements that workers and functions run must not grow with it.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main',
	preload => 'pg_stat_statements,iot',
	conf => "pg_stat_statements.track = 'all'\npg_stat_statements.max = 5000");
my $broker = IotTest::Broker->new('main');

$iot->psql('CREATE EXTENSION pg_stat_statements');
$iot->use_broker($broker);

# One of everything, under names and with values that no other round has.
sub round
{
	my ($tag) = @_;
	my $heat = "heat$tag";
	my $device = "boiler-$tag";
	my $user = "anna'); DROP TABLE iot.event; -- $tag";
	my $letters = $iot->psql('SELECT count(*) FROM iot.dead_letter');

	$iot->parameter($heat, unit => "u$tag", min => 0, max => 100);
	$iot->device($device, [$heat]);
	$iot->psql(q{INSERT INTO iot.app_user (username) VALUES (} . IotTest::literal($user) . ')');
	my $sim = $iot->simulator($broker, devices => [$device], refuse_above => 80);
	is($iot->wait_for_command($iot->send_command($device, $heat, 10 + $tag))->{status},
		'COMPLETED', "round $tag: a command");
	is($iot->wait_for_command($iot->send_command($device, $heat, 90 + $tag))->{status},
		'CANCELLED', "round $tag: a refused command");
	is($iot->wait_for_command($iot->send_command($device, $heat, 200 + $tag))->{status},
		'FAILED', "round $tag: a command out of bounds");
	$sim->stop;

	my $at = 1_700_000_000_000 + $tag;
	my $since = $iot->psql('SELECT (extract(epoch FROM now()) * 1000)::bigint') - 60_000;
	$broker->publish("iot/$device/telemetry", qq({"ts":$since,"values":{"$heat":$tag}}));
	$broker->publish("iot/$device/telemetry", qq({"ts":$since,"values":{"$heat":$tag}}));
	$broker->publish("iot/$device/telemetry", qq({"ts":$since,"values":{"$heat":1$tag.5}}));
	$broker->publish("iot/$device/attributes", qq|{"key'${tag}\\"; SELECT":"${tag}'); --"}|);
	$broker->publish("iot/$device/status", 'online');
	$broker->publish("iot/$device/status", 'offline');
	# dead letters: conflict (above) and these
	$broker->publish("iot/$device/telemetry", qq|{"x'); DROP TABLE iot.command; --$tag":1}|);
	$broker->publish("iot/$device/telemetry", "{'$tag");
	$broker->publish("iot/$device/telemetry", qq({"ts":$at,"values":{"$heat":"word'$tag"}}));
	$broker->publish("iot/'; DROP TABLE iot.device; --$tag/telemetry", '{}');
	$broker->publish("iot/$device/command/ack",
		qq({"id":"00000000-0000-7000-8000-00000000000$tag","ok":true}));
	$iot->poll("SELECT count(*) = $letters + 6 FROM iot.dead_letter");
	$iot->poll("SELECT attributes::text LIKE '%$tag%' AND NOT online FROM iot.device_state"
		  . " JOIN iot.device USING (device_id) WHERE name = '$device'");
	# the notifier has seen it all
	$iot->poll("SELECT count(*) = 1 FROM iot.notification WHERE device = '$device'"
		  . " AND event = 'dm.value_set_error'");
	return;
}

# Statements of workers and of functions, which act as these roles; the test's own act as another.
sub statements
{
	return $iot->psql(q{SELECT count(DISTINCT s.queryid) FROM pg_stat_statements s
		WHERE s.userid IN ('iot_worker'::regrole, 'iot_owner'::regrole)});
}

round(1);
round(2);
# duties that come round every few seconds have done so
$iot->poll("SELECT count(*) > 0 FROM pg_stat_statements WHERE query LIKE '%$_%'")
	foreach 'trim_dead_letters(\$1)', 'FROM iot.maintenance m';
$iot->psql(q{SELECT iot.ingest('boiler-1', '{"heat1": 1}', now() - interval '2 hours')});
$iot->poll('SELECT count(*) > 0 FROM iot.rollup_hour');
my $known = $iot->psql(q{SELECT string_agg(DISTINCT s.queryid::text, ',') FROM pg_stat_statements s
	WHERE s.userid IN ('iot_worker'::regrole, 'iot_owner'::regrole)});
my $count = statements();
cmp_ok($count, '>', 20, 'statements of workers are seen');
round($_) foreach 3 .. 6;
is( $iot->psql(
		qq{SELECT coalesce(string_agg(s.query, E'\\n'), 'none') FROM pg_stat_statements s
		WHERE s.userid IN ('iot_worker'::regrole, 'iot_owner'::regrole)
			AND s.queryid NOT IN ($known)}),
	'none',
	"I41: further names and values bring no further statement than the $count before");
is( $iot->psql(
		q{SELECT count(*) FROM pg_stat_statements s
		WHERE s.userid IN ('iot_worker'::regrole, 'iot_owner'::regrole)
			AND (s.query LIKE '%boiler-%' OR s.query LIKE '%heat_%')}),
	'0',
	'none of them holds a name');

done_testing();
