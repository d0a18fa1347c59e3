# The rules of the schema that keep it fit for two-phase commit and for tables that are spread over
# machines, read from the catalogue and from the statements in our sources; and the triggers at work
# on tables under the names that shards have.  A table or a function that breaks a rule on purpose
# is named here with the reason.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use IotTest;

my $iot = IotTest->new('main', databases => '');

# What may later be spread, copied to every machine, or stays on one.  Every table is in one class.
my %class = (
	reference => [
		qw(access_grant adapter alarm_rule app_user app_user_secret device device_credential
		  device_credential_password device_group device_type device_type_mapping escalation_step mail_server
		  notification_mute notification_rule notification_text parameter quiet_hours retention
		  revoked_token secret sensor user_group user_group_member webhook)
	],
	device => [
		qw(alarm alarm_comment alarm_rule_state command device_state measurement rollup_hour
		  rollup_minute rollup_pending saga_step sensor_value)
	],
	local => [
		qw(adapter_session alarm_rule_error command_batch command_batch_item consumer dead_letter
		  delivery discovery dynsec dynsec_change dynsec_client dynsec_role epoch escalation event maintenance
		  notification notification_read rollup_note rollup_state schema_version type_sweep worker)
	]);
my %class_of = map { my $class = $_; map { $_ => $class } @{ $class{$class} } } keys %class;

# Keys of reference tables that are names and not uuids.
my %named = (
	retention => 'one row per table of a fixed list',
	revoked_token => 'the token has its own id, made elsewhere perhaps',
	secret => 'one row per purpose of a fixed list',
	notification_text => 'the language beside the rule',
	escalation_step => 'the number of the step beside the rule');

# Triggers that name their own table.  Each is on a reference table, which every machine has whole and
# under its own name.
my %names_own_table = (
	'device_credential dynsec_changed' => 'counts the credentials that a device has left',
	'device dynsec_changed' => 'joins its transition table with the rows as they are now',
	'device_type silence_rearm' => 'one function for changes of types and of devices',
	'device silence_rearm' => 'one function for changes of types and of devices',
	'device release_on_change' => 'one function for changes of types and of devices');

# The same list in the answer of a query, a line each.
sub none
{
	my ($sql, $what) = @_;

	is($iot->psql($sql), '', $what);
	return;
}

sub names { return join ', ', map { "'$_'" } @{ $class{ $_[0] } }; }

my $tables = "pg_class c WHERE c.relnamespace = 'iot'::regnamespace AND c.relkind IN ('r', 'p')"
  . ' AND NOT c.relispartition';
is_deeply([ split /\n/, $iot->psql("SELECT c.relname FROM $tables ORDER BY c.relname COLLATE \"C\"") ],
	[ sort keys %class_of ], 'every table is in one of the three classes');

# device tables
my $device = names('device');
none("SELECT c.relname FROM $tables AND c.relname IN ($device) AND NOT EXISTS (SELECT FROM pg_attribute a"
	  . " WHERE a.attrelid = c.oid AND a.attname = 'device_id' AND a.atttypid = 'uuid'::regtype"
	  . ' AND a.attnotnull)', 'device tables: device_id is there and not null');
none("SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
	  . " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'device_id'"
	  . " WHERE c.relnamespace = 'iot'::regnamespace AND c.relname IN ($device)"
	  . ' AND (i.indisunique OR i.indisexclusion) AND i.indkey[0] <> a.attnum',
	'device tables: every primary key and unique index begins with device_id');
none("SELECT c.relname FROM $tables AND c.relname IN ($device)"
	  . ' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)',
	'device tables: there is a primary key');
none("SELECT k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
	  . " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'device_id'"
	  . " WHERE k.contype = 'f' AND c.relnamespace = 'iot'::regnamespace AND c.relname IN ($device)"
	  . ' AND a.attnum <> ALL (k.conkey)', 'device tables: device_id is in every foreign key');
none("SELECT k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
	  . " JOIN pg_class f ON f.oid = k.confrelid WHERE k.contype = 'f'"
	  . " AND f.relnamespace = 'iot'::regnamespace AND f.relname IN ($device)"
	  . " AND c.relname NOT IN ($device)", 'device tables: no other table refers to them');
none("SELECT k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
	  . " JOIN pg_class f ON f.oid = k.confrelid WHERE k.contype = 'f'"
	  . " AND c.relnamespace = 'iot'::regnamespace AND c.relname IN ($device, "
	  . names('reference') . ') AND f.relname IN (' . names('local') . ')',
	'what is spread or copied refers to nothing local');

# keys
my $keys = 'pg_index i JOIN pg_class c ON c.oid = i.indrelid CROSS JOIN LATERAL'
  . ' unnest(i.indkey) WITH ORDINALITY k (attnum, place)'
  . ' JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum'
  . " WHERE i.indisprimary AND c.relnamespace = 'iot'::regnamespace AND k.place <= i.indnkeyatts";
is_deeply(
	[ split /\n/, $iot->psql("SELECT DISTINCT c.relname FROM $keys AND a.atttypid <> 'uuid'::regtype"
			  . ' AND c.relname IN (' . names('reference') . ') ORDER BY 1') ],
	[ sort keys %named ], 'reference tables: keys are uuids, but for those that are names');
none("SELECT c.relname, a.attname FROM $keys AND c.relname IN ($device) AND k.place <= 2"
	  . " AND a.atttypid <> 'uuid'::regtype", 'device tables: what follows device_id is a uuid');
none("SELECT a.attrelid::regclass, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
	  . " LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum"
	  . " WHERE c.relnamespace = 'iot'::regnamespace AND c.relname IN ($device, "
	  . names('reference') . ") AND (a.attidentity <> '' OR pg_get_expr(d.adbin, c.oid) ~ 'nextval')",
	'no counter outside the local tables');
none("SELECT a.attrelid::regclass, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
	  . " WHERE c.relnamespace = 'iot'::regnamespace AND a.attidentity <> ''"
	  . " AND a.atttypid <> 'bigint'::regtype", 'counters are bigint');

# What functions do.  Statements in C are read from the sources, with their parts put together, and
# so is the call behind NOTIFY.
my %statements = map { split /\|/, $_, 2 } split /\x01\n?/,
  $iot->psql("SELECT p.oid::regprocedure || '|' || p.prosrc || chr(1) FROM pg_proc p"
	  . ' JOIN pg_language l ON l.oid = p.prolang'
	  . " WHERE p.pronamespace::regnamespace::text IN ('iot', 'iot_internal')"
	  . " AND l.lanname IN ('sql', 'plpgsql')");
cmp_ok(scalar(keys %statements), '>', 150, scalar(keys %statements) . ' functions are read');
foreach my $name (keys %statements)
{
	$statements{$name} =~ s/--[^\n]*//g;
}
my $files = 0;
foreach my $file (glob("$IotTest::source_dir/src/*.c"), glob("$IotTest::source_dir/bgworker/*.c"))
{
	my $text = slurp_file($file);
	my $all = '';

	$text =~ s{/\*.*?\*/}{}gs;
	$text =~ s/\\\n//g;
	# neighbours are one text, also where a macro stands between them
	while ($text =~ /("(?:[^"\\\n]|\\.)*"(?:\s*(?:\w+\s*)?"(?:[^"\\\n]|\\.)*")*)/g)
	{
		(my $string = $1) =~ s/"\s*(\w*)\s*"/$1/g;
		$all .= "$string;\n";
	}
	$all .= "$1;\n" while $text =~ /\b(Async_\w+)\b/g;
	$statements{ $file =~ s{.*/(\w+/\w+\.c)$}{$1}r } = $all;
	$files++;
}
cmp_ok($files, '>', 50, "and $files files in C");

# LISTEN is the push daemon's; NOTIFY comes from the notifier, alone in its transaction
my %forbidden = (
	'NOTIFY or LISTEN' => [ qr/\b(?:NOTIFY|LISTEN|UNLISTEN|pg_notify|Async_\w+)\b/, 'bgworker/notifier.c' ],
	'a temporary table' => [qr/\b(?:CREATE|INTO)\s+(?:(?:LOCAL|GLOBAL)\s+)?TEMP(?:ORARY)?\b/i],
	'a lock of the session' => [qr/\bpg_(?:try_)?advisory_lock/i],
	'a cursor that outlives its transaction' => [qr/\bWITH\s+HOLD\b/i],
	'an exported snapshot' => [qr/\bpg_export_snapshot\b/i]);
foreach my $what (sort keys %forbidden)
{
	my ($pattern, @where) = @{ $forbidden{$what} };

	is_deeply([ sort grep { $statements{$_} =~ $pattern } keys %statements ],
		\@where, "two-phase commit: $what" . (@where ? " in @where only" : ' nowhere'));
}

# An upsert may set what it was given and what the row holds, but ask nobody for the time.
my ($upserts, @asking) = (0);
foreach my $name (sort keys %statements)
{
	while ($statements{$name} =~ /\bDO\s+UPDATE\s+SET\b(.*?)(?=\bWHERE\b|\bRETURNING\b|;|\z)/gis)
	{
		my $set = $1;

		$upserts++;
		while ($set =~ /\b([a-z_][\w.]*)\s*\(/gi)
		{
			push @asking, "$name: $1()" unless $1 =~ /^(?:coalesce|greatest|least|nullif|case|when|then|else|and|or|not|in|from)$/i;
		}
		push @asking, "$name: $1" while $set =~ /\b(current_\w+|localtime\w*)\b/gi;
	}
}
cmp_ok($upserts, '>=', 15, "$upserts upserts are read");
is_deeply(\@asking, [], 'upserts call nothing that another machine could answer otherwise');

# Triggers and the table that fires them.
my @own;
foreach my $line (split /\n/, $iot->psql(
		"SELECT DISTINCT c.relname, p.proname, p.oid::regprocedure FROM pg_trigger t"
		  . ' JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid'
		  . " WHERE NOT t.tgisinternal AND c.relnamespace = 'iot'::regnamespace"
		  . ' AND NOT c.relispartition'))
{
	my ($table, $name, $function) = split /\|/, $line;

	push @own, "$table $name" if ($statements{$function} || '') =~ /\biot\.$table\b/;
}
is_deeply([ sort @own ], [ sort keys %names_own_table ],
	'triggers do not name the table that fires them');
is_deeply([ grep { $class_of{ (split / /)[0] } ne 'reference' } @own ],
	[], 'and never where the table may be spread');
my @armed = split /\n/, $iot->psql("SELECT DISTINCT c.relname FROM pg_trigger t"
	  . " JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND NOT c.relispartition"
	  . " AND c.relnamespace = 'iot'::regnamespace AND c.relname IN ($device, " . names('local')
	  . ') ORDER BY 1');
is_deeply(\@armed, [ 'event', 'measurement' ],
	'of the tables that may be spread or are local, the two below have triggers');

# The same triggers on tables of other names, in another schema, as shards have them.
$iot->psql(q{
	INSERT INTO iot.parameter (name, value_min, value_max) VALUES ('temperature', 0, 100);
	INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
	SELECT iot.create_device('boiler-1', ARRAY['temperature'], adapter => 'own');
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, severity)
		SELECT 'hot', 'threshold', parameter_id, '>', 80, 'red' FROM iot.parameter;
	CREATE SCHEMA shard});
foreach my $table (@armed)
{
	$iot->psql("CREATE TABLE shard.${table}_102008 (LIKE iot.$table INCLUDING ALL)");
	$iot->psql("SELECT regexp_replace(pg_get_triggerdef(t.oid), ' ON iot\\.$table ',"
		  . " ' ON shard.${table}_102008 ') FROM pg_trigger t WHERE t.tgrelid = 'iot.$table'::regclass"
		  . ' AND NOT t.tgisinternal \gexec');
	is($iot->psql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'shard.${table}_102008'::regclass"),
		$iot->psql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'iot.$table'::regclass"),
		"$table: a shard has the triggers");
}
my $measure = 'INSERT INTO shard.measurement_102008 (device_id, parameter_id, ts, value)'
  . ' SELECT device_id, parameter_id, %s, %s FROM iot.sensor';
# the triggers must not need the table that is fired elsewhere
$iot->psql('ALTER TABLE iot.measurement RENAME TO elsewhere');
$iot->psql(sprintf $measure, "now() - interval '1 min'", 90);
is($iot->psql('SELECT value, source FROM iot.sensor_value'), '90|measurement',
	'measurement: a row in a shard moves the current value');
is($iot->psql('SELECT rule, status FROM iot.alarm'), 'hot|OPENED', 'and is judged');
is($iot->psql(q{SELECT count(*) FROM iot.event WHERE type = 'alarm.opened'}), '1', 'and told');
$iot->psql(sprintf $measure, 'now()', 20);
is($iot->psql('SELECT status FROM iot.alarm'), 'CLOSED', 'the next one closes the alarm');
like($iot->psql_error("INSERT INTO shard.measurement_102008 (device_id, parameter_id, ts, value)"
		  . ' SELECT device_id, gen_random_uuid(), now(), 1 FROM iot.device'),
	qr/ERROR/, 'what belongs to no sensor is refused there as well');
my ($bad) = $iot->psql(q{SELECT count(*) FROM shard.measurement_102008});
is($bad, '2', 'and not kept');
is($iot->psql('SELECT count(*) FROM iot.elsewhere'), '0', 'nothing went to another table');

# A command whose event arrives in a shard of the log: its answer is an event of this server.
my $id = $iot->psql(q{INSERT INTO iot.command (device_id, parameter_id, adapter_id, action, value,
		username, deadline) SELECT s.device_id, s.parameter_id, d.adapter_id, 'set', 42, 'anna',
		now() + interval '1 min' FROM iot.sensor s JOIN iot.device d USING (device_id)
		RETURNING command_id});
$iot->psql(qq{INSERT INTO shard.event_102008 (aggregatetype, aggregateid, type, payload, device_id)
	SELECT 'command', '$id', 'command.value_set', '{}', device_id FROM iot.device});
is($iot->psql("SELECT status, version IS NOT NULL FROM iot.command WHERE command_id = '$id'"),
	'COMMITTED|t', 'event: a row in a shard reaches Device Service');
is($iot->psql("SELECT type FROM iot.event WHERE aggregateid = '$id'"), 'dm.value_set_approved',
	'whose answer is in the log');
is($iot->psql('SELECT value FROM iot.sensor_value'), '42', 'and the value is set');

done_testing();
