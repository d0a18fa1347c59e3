# Partitions are there before they are needed, stray rows find their day, rows go when they have been
# kept long enough, and the log waits for its readers (I22).  Maintenance neither waits long for
# locks nor makes others wait.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main', databases => '');

$iot->psql(q{
	INSERT INTO iot.parameter (name) VALUES ('temperature');
	INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
	SELECT iot.create_device('boiler-1', ARRAY['temperature'], adapter => 'own')});

sub partitions
{
	my ($table, $condition) = @_;

	return $iot->psql(qq{SELECT count(*) FROM iot_internal.partitions('$table') WHERE $condition});
}

# Ahead of time.
is(partitions('iot.event', 'upper > now()'), 8, 'a week of partitions for events');
is(partitions('iot.measurement', 'upper > now()'), 8, 'and for measurements');
$iot->psql(q{SELECT format('DROP TABLE %s', partition) FROM iot_internal.partitions('iot.event')
	WHERE lower > now() + interval '3 days' \gexec});
is(partitions('iot.event', 'upper > now()'), 4, 'some are gone');
$iot->psql('CALL iot.maintain()');
is(partitions('iot.event', 'upper > now()'), 8, 'maintain() makes them again');
$iot->psql('SET timezone = \'Pacific/Kiritimati\'; SET datestyle = \'SQL, DMY\'; CALL iot.maintain()');
is(partitions('iot.event', 'upper > now()'), 8, 'days are days of UTC, whatever the session thinks');

# Rows that came before their partition.
my $stray = q{INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT device_id, parameter_id, date_trunc('hour', now()) - n * interval '6 hours', n
	FROM iot.sensor, generate_series(%d, %d) n};
$iot->psql(sprintf($stray, 20, 59));
is($iot->psql('SELECT count(*) FROM iot.measurement_default'), 40, 'old measurements have no partition');
$iot->psql(q{INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT device_id, parameter_id, now() + interval '60 years', 1 FROM iot.sensor});
my $sum = $iot->psql('SELECT count(*), sum(value) FROM iot.measurement');
my $events = $iot->psql('SELECT count(*) FROM iot.event');
my $value = $iot->psql('SELECT v::text FROM iot.sensor_value v');
$iot->psql('CALL iot.maintain()');
is($iot->psql('SELECT count(*) FROM iot.measurement_default'), 1,
	'maintain() brings them to their days, and only what is far ahead stays');
is($iot->psql('SELECT count(*), sum(value) FROM iot.measurement'), $sum, 'none is lost or twice');
is($iot->psql('SELECT count(*) FROM iot.event'), $events, 'and none is news');
is($iot->psql('SELECT v::text FROM iot.sensor_value v'), $value, 'nor a new value');
is($iot->psql('SELECT last_error IS NULL FROM iot.maintenance'), 't', 'without an error');

# Strays of the log keep their place in it: a reader that has not come so far still gets them.
$iot->psql(q{SELECT iot_internal.consumer_register('reader')});
$iot->psql(q{INSERT INTO iot.event (aggregatetype, aggregateid, type, payload, created_at)
	SELECT 'test', n, 'test.stray', '{}', now() - interval '2 days' FROM generate_series(1, 5) n});
is($iot->psql('SELECT count(*) FROM iot.event_default'), 5, 'events without a partition');
$iot->psql('CALL iot.maintain()');
is($iot->psql('SELECT count(*) FROM iot.event_default'), 0, 'get theirs');
is($iot->psql(q{SELECT count(*) FROM iot_internal.consumer_read('reader', ARRAY['test.stray'], 100)}), 5,
	'and are read');

# A long transaction that has the table: maintenance gives up, says so, and comes again.
$iot->psql(q{SELECT format('DROP TABLE %s', partition) FROM iot_internal.partitions('iot.event')
	WHERE lower > now() + interval '6 days' \gexec});
my $reader = $iot->session;
$reader->query_safe('BEGIN');
$reader->query_safe('SELECT count(*) FROM iot.event');
my $took = elapsed(sub { $iot->psql('SET client_min_messages = error; CALL iot.maintain()') });
cmp_ok($took, '<', 5, 'maintain() does not wait for a long reader');
like($iot->psql('SELECT last_error FROM iot.maintenance'),
	qr/could not make the partition of iot\.event for .*lock timeout/, 'it says what it could not do');
like($iot->psql('SELECT finding FROM iot.check()'), qr/did not do all of its work/,
	'and so does the doctor');
$reader->query_safe('COMMIT');
$iot->psql('CALL iot.maintain()');
is(partitions('iot.event', 'upper > now()'), 8, 'the next run does it');
is($iot->psql('SELECT last_error IS NULL FROM iot.maintenance'), 't', 'and forgets the error');

# Two at a time: the second leaves it to the first.
$reader->query_safe('BEGIN');
$reader->query_safe('SELECT FROM iot.maintenance FOR UPDATE');
$took = elapsed(sub { $iot->psql('CALL iot.maintain()') });
cmp_ok($took, '<', 2, 'one run at a time');
$reader->query_safe('ROLLBACK');

# In a transaction block it takes one step and commits nothing.
$iot->psql(sprintf($stray, 100, 140));
$iot->psql('BEGIN; CALL iot.maintain(); ROLLBACK');
is($iot->psql('SELECT count(*) FROM iot.measurement_default'), 42, 'rolled back with its transaction');

# Retention of measurements: whole days by dropping, strays by deleting.
$iot->psql(q{UPDATE iot.retention SET keep = '20 days' WHERE relation = 'measurement'});
$iot->psql('CALL iot.maintain()');
is($iot->psql(q{SELECT count(*) FROM iot.measurement WHERE ts < now() - interval '21 days'}), 0,
	'measurements go when their time has come');
is($iot->psql(q{SELECT count(*) FROM iot.measurement WHERE ts BETWEEN now() - interval '19 days' AND now()}),
	$iot->psql(q{SELECT count(*) FROM generate_series(20, 59) n
		WHERE n * interval '6 hours' < interval '19 days'}), 'and not before');

# Retention of rows, in batches: more than one.
$iot->psql(q{
	INSERT INTO iot.dead_letter (reason, created_at)
		SELECT 'malformed_json', now() - interval '31 days' FROM generate_series(1, 12000);
	INSERT INTO iot.dead_letter (reason) VALUES ('malformed_json');
	INSERT INTO iot.command (device_id, parameter_id, adapter_id, action, value, username, status,
			created_at, deadline)
		SELECT device_id, parameter_id, adapter_id, 'set', n, 'anna',
			CASE WHEN n = 1 THEN 'COMMITTED' ELSE 'COMPLETED' END,
			now() - interval '31 days', now() + interval '1 day'
		FROM iot.sensor JOIN iot.device USING (device_id), generate_series(1, 6000) n;
	INSERT INTO iot.saga_step (device_id, command_id, service, status)
		SELECT device_id, command_id, 'device', 'COMMITTED' FROM iot.command;
	SELECT iot.send_command('boiler-1', 'temperature', 5);
	INSERT INTO iot.notification (event_id, event, channel, audience, title, body, event_at, created_at)
		SELECT gen_random_uuid(), 'x', 'push', 'viewers', 'x', '{}', now(),
			now() - CASE WHEN n <= 7000 THEN interval '31 days' ELSE interval '1 day' END
		FROM generate_series(1, 7010) n;
	INSERT INTO iot.delivery (seq, channel, recipient, status, created_at)
		SELECT seq, 'push', 'anna', CASE WHEN seq % 2 = 0 THEN 'PENDING' ELSE 'DELIVERED' END, created_at
		FROM iot.notification;
	UPDATE iot.delivery SET created_at = now() - interval '40 days' WHERE seq > 7000;
	CALL iot.maintain()});
is($iot->psql('SELECT count(*) FROM iot.dead_letter'), 1, 'old dead letters go');
is($iot->psql('SELECT string_agg(DISTINCT status, \' \') || count(*) FROM iot.command'), 'COMMITTED2',
	'old commands go, but none that is not final');
is($iot->psql(q{SELECT count(*) FROM iot.saga_step s
		WHERE NOT EXISTS (SELECT FROM iot.command c WHERE c.command_id = s.command_id)}), 0,
	'their steps with them');
is($iot->psql('SELECT min(seq) > 7000, count(*) FROM iot.notification'), 't|10', 'old notifications go');
is($iot->psql('SELECT string_agg(DISTINCT status, \' \') || count(*) FROM iot.delivery'), 'PENDING5',
	'old deliveries too, but none that is still to be made');
is($iot->psql('SELECT notification_floor FROM iot.epoch'), 7000, 'and the floor tells readers');

# The log: dropped when every live consumer has passed, not before.
$iot->psql(q{DELETE FROM iot.consumer WHERE name <> 'adapter:' || (
		SELECT adapter_id FROM iot.adapter WHERE name = 'own')});
$iot->psql(q{
	SELECT count(*) FROM iot.adapter_poll('own', 100);
	INSERT INTO iot.event (aggregatetype, aggregateid, type, payload, created_at)
		SELECT 'test', n, 'test.old', '{}', now() - n * interval '1 day' FROM generate_series(8, 12) n;
	INSERT INTO iot.event (aggregatetype, aggregateid, type, payload, created_at)
		VALUES ('test', 'x', 'dm.value_set_approved', '{}', now() - interval '9 days')});
# it is beyond what is kept already, so that no partition would be made for it
$iot->psql(q{UPDATE iot.retention SET keep = '20 days', cap = '60 days' WHERE relation = 'event';
	CALL iot.maintain();
	UPDATE iot.retention SET keep = '7 days' WHERE relation = 'event'});
my $old = "upper <= now() - interval '7 days'";
is(partitions('iot.event', $old), 5, 'five days of the log are old');
$iot->psql('CALL iot.maintain()');
is(partitions('iot.event', $old), 2, 'I22: days that hold nothing for its readers go, 3 of 5, up to one that does');
is($iot->psql(q{SELECT count(*) FROM iot.event WHERE type = 'dm.value_set_approved'
	AND aggregateid = 'x'}), 1, 'the event that nobody has read is there');

# A reader that is no more must not hold the log: switched off, it does not count.
$iot->psql(q{UPDATE iot.adapter SET enabled = false WHERE name = 'own'; CALL iot.maintain()});
is(partitions('iot.event', $old), 0, 'an adapter that is switched off holds nothing back');

# At the cap the log goes, and that is told.
$iot->psql(q{
	SELECT iot_internal.consumer_register('sleeper');
	UPDATE iot.retention SET keep = '20 days' WHERE relation = 'event';
	INSERT INTO iot.event (aggregatetype, aggregateid, type, payload, created_at)
		SELECT 'test', n, 'test.old', '{}', now() - n * interval '1 day' FROM generate_series(9, 11) n;
	CALL iot.maintain();
	UPDATE iot.retention SET keep = '7 days' WHERE relation = 'event';
	CALL iot.maintain()});
is(partitions('iot.event', $old), 3, 'a sleeping reader holds the log');
like($iot->psql(q{SELECT name, lag_events FROM iot_internal.consumer_lag() WHERE name = 'sleeper'}),
	qr/^sleeper\|[1-9]/, 'its lag is seen');
$iot->psql(q{UPDATE iot.retention SET cap = '10 days' WHERE relation = 'event';
	SET client_min_messages = error; CALL iot.maintain()});
is(partitions('iot.event', $old), 2, 'I22: up to the cap');
is($iot->psql(q{SELECT aggregateid, payload ->> 'consumer' FROM iot.event
		WHERE type = 'system.events_lost'}), 'sleeper|sleeper', 'with an event that says who lost it');
like($iot->log_content, qr/consumer "sleeper" has not read events/, 'and a warning in the log');
$iot->psql(q{SELECT count(*) FROM iot_internal.consumer_read('sleeper', NULL, 1000); CALL iot.maintain()});
is(partitions('iot.event', $old), 0, 'when it has read on, nothing is held');

# Without pg_cron the notifier sees to it.
$iot->psql(q{UPDATE iot.maintenance SET last_run_at = now() - interval '2 hours'});
$iot->psql(q{SELECT format('DROP TABLE %s', partition) FROM iot_internal.partitions('iot.event')
	WHERE lower > now() + interval '5 days' \gexec});
$iot->psql(q{SELECT format('DROP TABLE %s', partition) FROM iot_internal.partitions('iot.measurement')
	WHERE lower > now() \gexec});
$iot->psql("ALTER SYSTEM SET iot.databases = 'iot'");
$iot->psql('SELECT pg_reload_conf()');
$iot->poll(q{SELECT last_run_at > now() - interval '1 hour' FROM iot.maintenance});
is(partitions('iot.event', 'upper > now()'), 8, 'the notifier maintains where nobody else does');
is(partitions('iot.measurement', 'upper > now()'), 8, 'measurements too');

done_testing();
