# A dump, plain or custom, brings everything back into a fresh server: rows, sequences, grants,
# triggers.  Nothing is fired on the way.  The copy knows that it is one, keeps silent until
# iot.resume(), and works from then on (I28, I36).

use strict;
use warnings;

use Test::More;

use IotTest;
use IotTest::Contents;
use PostgreSQL::Test::Utils;

my $old = IotTest->new('old', databases => '');

# Something of everything: commands in each state, one in flight, notifications waiting, values,
# measurements in partitions and in none, a dead letter, a secret.
$old->psql(q{
	INSERT INTO iot.parameter (name, unit, value_min, value_max, labels)
		VALUES ('temperature', '°C', 0, 100, '{"COLD": 5}');
	INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
	SELECT iot.create_device('boiler-1', ARRAY['temperature'], adapter => 'own');
	SELECT iot.create_device('boiler-2', ARRAY['temperature'], adapter => 'own');
	INSERT INTO iot.app_user (username) VALUES ('anna');
	INSERT INTO iot.user_group (name) VALUES ('crew');
	INSERT INTO iot.user_group_member (user_group_id, app_user_id)
		SELECT user_group_id, app_user_id FROM iot.user_group, iot.app_user;
	INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
		SELECT user_group_id, device_group_id, 'operate' FROM iot.user_group, iot.device_group;
	INSERT INTO iot.secret (name, value) VALUES ('key', 'k3y');
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT d.device_id, p.parameter_id, now() - n * interval '7 hours', n
		FROM iot.device d, iot.parameter p, generate_series(1, 40) n;
	CALL iot.maintain();
	INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
		SELECT d.device_id, p.parameter_id, now() - interval '100 days', 1
		FROM iot.device d, iot.parameter p;
	INSERT INTO iot.dead_letter (topic, payload, reason) VALUES ('x', '\xff00', 'invalid_utf8');
	CREATE ROLE reporting;
	GRANT SELECT ON iot.measurement TO reporting;
	SELECT iot.send_command('boiler-1', 'temperature', 20);
	SELECT iot.adapter_sent(p.command_id) FROM iot.adapter_poll('own', 10) p;
	SELECT iot.send_command('boiler-1', 'temperature', 30);
	SELECT iot.adapter_error(p.command_id, 'valve is stuck') FROM iot.adapter_poll('own', 10) p;
	SELECT iot.send_command('boiler-1', 'temperature', 2000);
	SELECT iot.send_command('boiler-1', 'temperature', 40, ttl => '1 day');
	SELECT count(*) FROM iot.adapter_poll('own', 10);
	SELECT iot.send_command('boiler-2', 'temperature', 50, ttl => '1 day',
		request_id => '6f6b1f5e-8d4e-4d8e-9f0a-0f3b9a7c1d22');
	SELECT iot_internal.notify_events(100);
	SELECT iot.mark_notifications_read(1);
});
is($old->psql(q{SELECT string_agg(status, ' ' ORDER BY created_at) FROM iot.command}),
	'COMPLETED CANCELLED FAILED COMMITTED COMMITTED', 'there are commands in each state');
cmp_ok($old->psql(q{SELECT count(*) FROM iot.delivery WHERE status = 'PENDING'}), '>', 2,
	'and notifications that wait');
cmp_ok($old->psql('SELECT count(*) FROM iot.measurement_default'), '>', 0,
	'and rows without a partition of their own');

my $rows = rows_of($old, 'iot');
my $shape = shape_of($old, 'iot');
my $epoch = $old->psql('SELECT epoch FROM iot.epoch');
my $folder = PostgreSQL::Test::Utils::tempdir;
my $node = $old->node;

$node->command_ok([ 'pg_dump', '-f', "$folder/plain.sql", 'iot' ], 'pg_dump, plain');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$folder/custom.dump", 'iot' ], 'pg_dump, custom');
$node->stop;

# A server that has never heard of iot but for its files.
my $new = IotTest->new('new', databases => 'live', database => 'postgres', start => 0);
$new->node->start;
$new->psql('CREATE ROLE reporting');
$node = $new->node;
$new->psql("CREATE DATABASE $_ TEMPLATE template0") foreach qw(plain custom jobs live);

# One database is watched by its workers while it is restored.
$new->poll("SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE backend_type = 'iot notifier' AND datname = 'live')");
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'live', "$folder/custom.dump" ],
	'restored under the eyes of the workers');
$new->poll(q{SELECT paused FROM iot.epoch}, database => 'live');
is($new->psql(q{SELECT bool_and(target IS NULL
			AND pg_snapshot_xmax(last) <= pg_snapshot_xmax(pg_current_snapshot()))
		FROM iot.consumer}, database => 'live'), 't', 'its cursors are numbers of the new server');
my $kept = sub { join "\n", grep { !/^iot\.(consumer|epoch|maintenance|rollup_state|worker)\|/ } split /\n/, $_[0] };
is(difference($kept->($rows), $kept->(rows_of($new, 'live'))), '', 'its rows are untouched');
is(difference($shape, shape_of($new, 'live')), '', 'and so is all that surrounds them');

$new->psql("ALTER SYSTEM SET iot.databases = ''");
$new->psql('SELECT pg_reload_conf()');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', 'plain', '-f', "$folder/plain.sql" ],
	'restored by psql');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'custom', "$folder/custom.dump" ],
	'restored by pg_restore');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', 'jobs', "$folder/custom.dump" ],
	'restored by pg_restore in two sessions');

my $tables = () = $rows =~ /^/mg;
foreach my $db (qw(plain custom jobs))
{
	is(difference($rows, rows_of($new, $db)), '', "I36: $db: all rows of $tables tables are equal");
	is(difference($shape, shape_of($new, $db)), '',
		"$db: sequences, owners, grants, triggers and the rest are equal");
}

# A restore without owners and grants, as some do: said to be unusable, and mended.
$new->psql('CREATE DATABASE bare TEMPLATE template0');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-O', '-x', '-d', 'bare', "$folder/custom.dump" ],
	'restored without owners and grants');
is($new->psql(q{SELECT iot.status() ->> 'state'}, database => 'bare'), 'absent', 'status() says so');
like($new->psql('SELECT finding, hint FROM iot.check()', database => 'bare'),
	qr/does not belong to "iot_owner"\|SELECT iot\.install/, 'check() says what to do');
$new->psql('SELECT iot.install()', database => 'bare');
is(difference($rows, rows_of($new, 'bare')), '', 'iot.install() leaves the rows');
is(join("\n", grep { !/reporting/ } split /\n/, difference($shape, shape_of($new, 'bare'))),
	'> measurement|p|iot_owner|t||'
	  . $new->psql(q{SELECT ARRAY(SELECT a::text FROM unnest(relacl) a ORDER BY 1) FROM pg_class
			WHERE oid = 'iot.measurement'::regclass}, database => 'bare'),
	'and mends all but a grant of the user\'s own');

# Without any worker: an adapter that asks over SQL is the first to notice.
is($new->psql(q{SELECT count(*) FROM iot.adapter_poll('own', 10)}, database => 'custom'), 0,
	'a copy hands out no command');
is($new->psql('SELECT iot_internal.check_epoch()', database => 'custom'), 'paused', 'it is paused');
isnt($new->psql('SELECT epoch FROM iot.epoch', database => 'custom'), $epoch, 'I28: its epoch is another');
is($new->psql(q{SELECT iot.status() ->> 'paused'}, database => 'custom'), 'true', 'status() says so');
like($new->psql(q{SELECT finding FROM iot.check()}, database => 'custom'), qr/is a copy/,
	'check() says so');
is($new->psql(q{SELECT count(*) FROM iot.event WHERE id > (SELECT first_event_id FROM iot.epoch)},
		database => 'custom'), 0, 'what came with the copy is not offered to its consumers');

# With workers.
$new->psql("ALTER SYSTEM SET iot.databases = plain, jobs");
$new->psql('SELECT pg_reload_conf()');
foreach my $db (qw(plain jobs))
{
	$new->poll(q{SELECT paused FROM iot.epoch}, database => $db);
	$new->poll(q{SELECT EXISTS (SELECT FROM iot_internal.workers() w
			WHERE w.kind = 'notifier' AND w.state = 'idle' AND w.detail LIKE 'paused%')},
		database => $db);
	pass("$db: the notifier noticed and is idle");
}
my $before = $new->psql('SELECT count(*), max(attempts) FROM iot.delivery', database => 'plain');
my $command = $new->psql(q{SELECT iot.send_command('boiler-2', 'temperature', 60, ttl => '1 day')},
	database => 'plain');
is($new->psql(q{SELECT count(*) FROM iot.adapter_poll('own', 10)}, database => 'plain'), 0,
	'a command of the copy waits');
is($new->psql('SELECT count(*), max(attempts) FROM iot.delivery', database => 'plain'), $before,
	'nothing was delivered');
is($new->psql(q{SELECT string_agg(status, ' ' ORDER BY created_at) FROM iot.command},
		database => 'plain'),
	'COMPLETED CANCELLED FAILED COMMITTED COMMITTED COMMITTED', 'no command has moved');

# A refusal has a message.
like($new->psql_error('SET ROLE iot_operator; SELECT iot.resume()', database => 'plain'), qr/42501/,
	'an operator cannot resume');
$new->psql('SELECT iot.resume()', database => 'plain');
$new->poll(q{SELECT count(*) = 2 FROM iot.command c JOIN iot.saga_step s USING (device_id, command_id)
		WHERE c.status = 'CANCELLED' AND s.service = 'adapter' AND s.error = 'timed out'},
	database => 'plain');
pass('commands that came with the copy end without being sent');
is($new->psql(q{SELECT string_agg(command_id::text, ' ') FROM iot.adapter_poll('own', 10)},
		database => 'plain'), $command, 'the command of the copy goes out, and no other');
$new->psql("SELECT iot.adapter_sent('$command')", database => 'plain');
is($new->psql("SELECT status FROM iot.command WHERE command_id = '$command'", database => 'plain'),
	'COMPLETED', 'and completes');
$new->poll(qq{SELECT EXISTS (SELECT FROM iot.notification n
		WHERE n.event = 'adapter.value_set_sent' AND n.body ->> 'command_id' = '$command')},
	database => 'plain');
pass('the notifier reads the log of the copy');
is($new->psql(q{SELECT iot.send_command('boiler-2', 'temperature', 50, ttl => '1 day',
			request_id => '6f6b1f5e-8d4e-4d8e-9f0a-0f3b9a7c1d22')
		= (SELECT command_id FROM iot.command
			WHERE request_id = '6f6b1f5e-8d4e-4d8e-9f0a-0f3b9a7c1d22')}, database => 'plain'),
	't', 'a request id still finds its command');
$new->psql('CALL iot.maintain()', database => 'plain');
is($new->psql('SELECT last_error FROM iot.maintenance', database => 'plain'), '',
	'maintenance works on the copy');

done_testing();
