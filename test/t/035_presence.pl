# Presence on a real server: silence is found by the clock, a second late at most and never early; the
# first message ends it; a broker that is away for us says nothing about devices.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->psql(q{INSERT INTO iot.device_type (name, offline_after) VALUES ('chatty', '2 s')});
$iot->parameter('temperature');
$iot->device('probe', ['temperature'], type => 'chatty');
$iot->device('plain', ['temperature']);
$iot->use_broker($broker);

sub events
{
	return $iot->psql(q{SELECT coalesce(string_agg(type || ' ' || (payload ->> 'reason'), ', ' ORDER BY id), '')
		FROM iot.event WHERE aggregatetype = 'device'});
}

# messages closer to each other than the silence, for longer than it; then none
my $end = time() + 5;
my $sent = 0;
poll_until(
	sub {
		$broker->publish('iot/probe/telemetry', '{"temperature":' . $sent++ . '}');
		$broker->publish('iot/plain/telemetry', '{"temperature":1}') if $sent == 1;
		return time() > $end;
	},
	'a device that speaks',
	30);
is(events(), 'device.online message', 'a device that speaks is online, and told so once');
$iot->poll(q{SELECT count(*) = 1 FROM iot.event WHERE type = 'device.offline'});
my ($after) = $iot->rows(q{SELECT extract(epoch FROM e.created_at - m.ts) AS measured
	FROM (SELECT max(m.ts) AS ts FROM iot.measurement m JOIN iot.device d USING (device_id) WHERE d.name = 'probe') m,
		iot.event e WHERE e.type = 'device.offline'});
cmp_ok($after->{measured}, '>=', 2, 'silence is not told too early');
cmp_ok($after->{measured}, '<', 3.5, 'and soon after');
is(events(), 'device.online message, device.offline silence', 'a type without the rule is told nothing of');
is($iot->psql(q{SELECT online, connected IS NULL, silent FROM iot.fleet WHERE device = 'probe'}), 'f|t|t',
	'the fleet shows it');
$broker->publish('iot/probe/telemetry', '{"temperature":99}');
$iot->poll(q{SELECT count(*) = 2 FROM iot.event WHERE type = 'device.online'});
pass('the first message ends it');

# our own connection goes: that is nobody's silence
$broker->stop;
$iot->poll(q{SELECT state <> 'connected' FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'});
my $looked = $iot->psql(q{SELECT silence_at FROM iot.device_state JOIN iot.device USING (device_id) WHERE name = 'probe'});
$iot->poll("SELECT silence_at > '$looked' FROM iot.device_state JOIN iot.device USING (device_id) WHERE name = 'probe'",
	what => 'a sweep while nobody listens');
is(events(), 'device.online message, device.offline silence, device.online message',
	'nobody is silent while we cannot hear');
$broker->start;
$iot->poll(q{SELECT state = 'connected' FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'});
$iot->poll(q{SELECT count(*) = 2 FROM iot.event WHERE type = 'device.offline'});
is($iot->psql(q{SELECT e.created_at - w.state_at >= interval '2 s' FROM iot.event e, iot.worker w
	WHERE e.type = 'device.offline' AND w.kind = 'mqtt adapter' ORDER BY e.id DESC LIMIT 1}), 't',
	'after that each device has its full time again');
$iot->node->stop;

done_testing();
