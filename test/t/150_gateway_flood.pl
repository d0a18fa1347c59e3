# Floods of the largest messages that the limits let in, each with as many tiny members as it can have, and
# of little changes to large attributes: the adapter's memory stays bounded by what they become (I32).
#
# Runs alone: it takes all the processors that there are.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
# saving at each change would take the broker minutes here
my $broker = IotTest::Broker->new('main', autosave => 0);

$iot->parameter('t');
$iot->psql(q{INSERT INTO iot.device_type (name, device_path, telemetry_topic, attributes_topic)
	VALUES ('gateway', '$.*', 'v1/gateway/telemetry', 'v1/gateway/attributes')});
$iot->device('a', ['t'], type => 'gateway');
$iot->device('boiler-1', ['t']);
$iot->use_broker($broker);
# a device that has said nearly all that it may
$broker->publish('iot/boiler-1/attributes', sprintf('{"%s":"%s"}', $_, 'x' x 60_000)) foreach qw(c d e f);
$iot->poll(q{SELECT count(*) = 1 FROM iot.device_state WHERE attributes ? 'f'});

my $slot = q{FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'};
my $limit = 64 * 1024;

# How far the adapter's memory grows over copies of one payload that wait at the broker.
sub flood
{
	my ($topic, $payload, $copies) = @_;
	my $peak = 0;

	$iot->psql('UPDATE iot.adapter SET enabled = false');
	$iot->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
	$broker->publish_lines($topic, [ ($payload) x $copies ]);
	$iot->psql('UPDATE iot.adapter SET enabled = true');
	$iot->poll("SELECT count(*) = 1 $slot AND pid > 0");
	my $pid = $iot->psql("SELECT pid $slot");
	my $session = $iot->session;
	poll_until(sub {
		my ($kb) = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
		$peak = $kb if $kb > $peak;
		return $session->query_safe(
			"SELECT coalesce(sum((counters ->> 'messages')::bigint), 0) >= $copies $slot") eq 't';
	}, "all of $topic is taken in", 300);
	is($iot->psql("SELECT pid $slot"), $pid, 'by one process');
	return $peak;
}

# As many members as a payload has room for, and no more than it may have.
sub members
{
	my ($member, $before, $after) = @_;
	my $count = int((65536 - 2) / (length($member) + 1));

	$count = 10_000 if $count > 10_000;
	return $before . join(',', ($member) x $count) . $after;
}

# more than fit into 64 MB when taken apart
my $copies = 40;
my @floods = (
	[ 'strangers of a gateway', 'v1/gateway/telemetry', members('"x":{}', '{', '}'), $copies ],
	[ 'one device of a gateway', 'v1/gateway/telemetry', members('"a":{"t":1}', '{', '}'), $copies ],
	[ 'attributes of a gateway', 'v1/gateway/attributes', members('"a":{"b":1}', '{', '}'), $copies ],
	[ 'measurements', 'iot/boiler-1/telemetry', members('{"t":1}', '[', ']'), $copies ],
	[ 'words', 'iot/boiler-1/telemetry', members('{"t":"x"}', '[', ']'), $copies ],
	[ 'unknown parameters', 'iot/boiler-1/telemetry', members('"x":1', '{', '}'), $copies ],
	[ 'attributes', 'iot/boiler-1/attributes', members('"b":1', '{', '}'), $copies ],
	[ 'much said little by little', 'iot/boiler-1/attributes', '{"b":1}', 1000 ],
);
foreach my $flood (@floods)
{
	my ($what, @messages) = @$flood;
	my $peak = flood(@messages);

	cmp_ok($peak, '<', $limit, "I32: $what: at most 64 MB of anonymous memory ($peak kB)");
}

done_testing();
