# Rows of iot.adapter and the setting iot.databases are followed while the server runs.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $one = IotTest::Broker->new('one');
my $two = IotTest::Broker->new('two');

$iot->parameter('temperature', min => 0, max => 100);
$iot->device('boiler-1', ['temperature']);

sub adapters
{
	return $iot->psql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
}

$iot->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'iot notifier'");
is(adapters(), '0', 'the seeded adapter is disabled: no process');

# enabled
$iot->use_broker($one);
my $sim = $iot->simulator($one, devices => ['boiler-1']);
my $pid = $iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 1))->{status},
	'COMPLETED', 'enabled: commands go through');
is($iot->psql("SELECT name || ' ' || state FROM iot_internal.worker_slots()"
		  . " WHERE kind = 'mqtt adapter'"), 'adapter:mqtt connected', 'its slot says so');

# another broker
my $log = $iot->log_size;
$iot->use_broker($two);
$iot->wait_for_log(qr/adapter "mqtt" was changed: connecting anew/, $log);
my $other = $iot->simulator($two, devices => ['boiler-1']);
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 2))->{status},
	'COMPLETED', 'pointed at another broker: commands go there');
is(scalar($sim->executed), 1, 'and no longer to the first');
is($iot->psql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"),
	$pid, 'by the same process');

# renamed
$iot->psql("UPDATE iot.adapter SET name = 'plant' WHERE name = 'mqtt'");
$iot->poll("SELECT count(*) = 1 FROM iot.worker WHERE name = 'adapter:plant' AND state = 'connected'");
pass('a new name is used');
$iot->psql("UPDATE iot.adapter SET name = 'mqtt' WHERE name = 'plant'");
$iot->poll("SELECT count(*) = 1 FROM iot.worker WHERE name = 'adapter:mqtt' AND state = 'connected'"
	  . " AND pid = $pid AND heartbeat_at > now() - interval '5 s'");

# topics of a new device type
my $mark = $two->log_size;
$iot->psql("INSERT INTO iot.device_type (name, telemetry_topic, command_topic, ack_topic)"
	  . " VALUES ('other', 'plant/{device}/values', 'plant/{device}/set', 'plant/{device}/done')");
$two->wait_for_log(qr{ \d plant/\+/values$}m, $mark);
$iot->device('pump-1', ['temperature'], type => 'other');
my $pump = $iot->simulator($two, devices => ['pump-1'], command_topic => 'plant/{device}/set',
	ack_topic => 'plant/{device}/done', telemetry_topic => 'plant/{device}/values');
is($iot->wait_for_command($iot->send_command('pump-1', 'temperature', 3))->{status},
	'COMPLETED', 'topics of a new device type are subscribed to at once');

# what cannot be used is said, and mended without a restart
$log = $iot->log_size;
$iot->psql(q(UPDATE iot.adapter SET options = '{"username":"iot","password_file":"/nonexistent"}'));
$iot->wait_for_log(qr{could not connect to MQTT broker "[^"]+": could not read password file}, $log);
like($iot->psql("SELECT state || ' ' || detail FROM iot_internal.worker_slots()"
		  . " WHERE kind = 'mqtt adapter'"),
	qr{^disconnected could not read password file}, 'a password file that cannot be read is said');
$iot->psql("UPDATE iot.adapter SET options = '{}'");
$iot->wait_for_log(qr/adapter "mqtt" connected to MQTT broker/, $log);
pass('and the adapter works again when it is mended');

# an adapter that cannot connect is no other one's business
my $closed = free_port();
$iot->psql("INSERT INTO iot.adapter (name, url) VALUES ('broken', 'mqtt://127.0.0.1:$closed')");
$iot->wait_for_log(qr/adapter "broken" could not connect to MQTT broker "[^"]+": Connection refused/,
	$log);
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 4))->{status},
	'COMPLETED', 'an adapter without a broker leaves the others alone');
is(adapters(), '2', 'each has its process');
$iot->psql("DELETE FROM iot.adapter WHERE name = 'broken'");
$iot->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
pass('a deleted adapter ends');

# disabled
$log = $iot->log_size;
$iot->psql("UPDATE iot.adapter SET enabled = false");
$iot->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
$iot->wait_for_log(qr/stops: the adapter is disabled or gone|stops: no longer wanted/, $log);
is($iot->psql("SELECT count(*) FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'"
		  . ' AND pid IS NOT NULL'), '0', 'a disabled adapter ends');
unlike($iot->log_content($log), qr/exited with exit code [^0]/, 'in peace');

# iot.databases
$iot->create_database('second');
$iot->node->append_conf('postgresql.conf', "iot.databases = 'iot, second, absent'");
$log = $iot->log_size;
$iot->node->reload;
$iot->poll("SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'iot notifier'");
is($iot->psql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity"
		  . " WHERE backend_type = 'iot notifier'"), 'iot second', 'a reload adds a database');
$iot->wait_for_log(qr/does not serve database "absent": it does not exist/, $log);
$iot->psql('CREATE DATABASE absent');
$iot->poll("SELECT count(*) = 3 FROM pg_stat_activity WHERE backend_type = 'iot notifier'");
$iot->wait_for_log(qr/iot worker is idle: extension "iot" is not installed in this database/, $log);
pass('a database that appears is served, and its worker waits for the extension');
$iot->psql('CREATE EXTENSION iot', database => 'absent');
$iot->wait_for_log(qr/iot worker works again/, $log);
$iot->psql("UPDATE iot.adapter SET url = 'mqtt://127.0.0.1:$closed', enabled = true",
	database => 'second');
$iot->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'"
	  . " AND datname = 'second'");
$iot->node->append_conf('postgresql.conf', "iot.databases = 'iot'");
$iot->node->reload;
$iot->poll("SELECT string_agg(datname, ' ') = 'iot' FROM pg_stat_activity"
	  . " WHERE backend_type IN ('iot notifier', 'iot mqtt adapter')");
pass('a reload takes databases away, their adapters included');
$iot->psql('DROP DATABASE second', database => 'postgres');
pass('and then they can be dropped');

# more workers than there is room for
$iot->psql("INSERT INTO iot.adapter (name, url) SELECT 'many-' || n, 'mqtt://127.0.0.1:$closed'"
	  . ' FROM generate_series(1, 40) n');
$iot->poll("SELECT count(*) > 0 FROM iot_internal.worker_slots() WHERE state = 'not started'"
	  . " AND detail LIKE '%max_worker_processes%'");
pass('an adapter that finds no free worker says so in its slot');
$iot->wait_for_log(qr/HINT:  Raise "iot.max_workers" and restart the server/, $log);
pass('and one without a slot says so in the log');
$iot->psql("DELETE FROM iot.adapter WHERE name LIKE 'many-%'");
$iot->poll("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'iot mqtt adapter'");
$iot->use_broker($two);
is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 5))->{status},
	'COMPLETED', 'and what fits works afterwards');

done_testing();
