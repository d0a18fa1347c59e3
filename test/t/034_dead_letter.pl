# Dead letters of a real broker: a message that came before its device is replayed into its place,
# also after the adapter is gone from the broker; and a stranger's flood is held down while it lasts.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->parameter('temperature');
$iot->device('boiler-1', ['temperature']);
$iot->use_broker($broker);

$broker->publish('iot/late/telemetry', '{"temperature":20}');
$broker->publish('iot/late/telemetry', '{"temperature":21}');
$iot->poll('SELECT count(*) = 2 FROM iot.dead_letter');
$iot->device('late', ['temperature']);
$broker->publish('iot/late/telemetry', '{"temperature":22}');
$iot->poll('SELECT count(*) = 1 FROM iot.measurement');
is($iot->psql('SELECT reason, adapter, count FROM iot.dead_letter_count'), 'unknown_device|mqtt|2',
	'counted by reason');
is($iot->psql('SELECT count(iot.replay_dead_letter(dead_letter_id)) FROM iot.dead_letter'), '0',
	'all are taken after the device was made');
is($iot->psql('SELECT string_agg(value::text, \' \' ORDER BY ts) FROM iot.measurement'), '20 21 22',
	'in the order in which they came');
is($iot->psql('SELECT value FROM iot.sensor_value'), '22', 'the current value is the newest');
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), '0', 'no letter is left');

# two administrators at once
$broker->publish('iot/boiler-1/telemetry', '{"humidity":1}');
$iot->poll('SELECT count(*) = 1 FROM iot.dead_letter');
my $letter = $iot->psql('SELECT dead_letter_id FROM iot.dead_letter');
$iot->psql(q{INSERT INTO iot.parameter (name) VALUES ('humidity');
	INSERT INTO iot.sensor (device_id, parameter_id) SELECT d.device_id, p.parameter_id
		FROM iot.device d, iot.parameter p WHERE d.name = 'boiler-1' AND p.name = 'humidity'});
my $one = $iot->session;
$one->query('BEGIN');
$one->query("SELECT iot.replay_dead_letter($letter)");
like($iot->psql_error("SET lock_timeout = '100ms'; SELECT iot.replay_dead_letter($letter)"), qr/55P03/,
	'a letter is replayed by one at a time');
$one->query('ROLLBACK');
is($iot->psql("SELECT iot.replay_dead_letter($letter) IS NULL"), 't', 'and again after a rollback');

# a flood against the cap, with no maintenance in between
$iot->psql(q{UPDATE iot.retention SET max_rows = 100 WHERE relation = 'dead_letter'});
$broker->publish_lines('iot/stranger/telemetry', [ map { "{\"n\":$_}" } 1 .. 3000 ]);
$iot->poll("SELECT (counters ->> 'received')::int >= 3000 FROM iot_internal.worker_slots()"
	  . " WHERE kind = 'mqtt adapter'");
$iot->poll('SELECT count(*) = 100 FROM iot.dead_letter');
is($iot->psql('SELECT count(*) FROM iot.dead_letter WHERE convert_from(payload, \'UTF8\') = \'{"n":3000}\''), '1',
	'a flood leaves the newest letters, up to their number');

$iot->node->stop;
done_testing();
