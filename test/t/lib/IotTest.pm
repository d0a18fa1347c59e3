# A private server with the extension, and the programs around it, for tests.
#
#   use IotTest;
#   my $iot = IotTest->new('main');                      server, database "iot", extension, workers
#   my $broker = IotTest::Broker->new('main');
#   $iot->parameter('temperature', unit => '°C', min => 0, max => 100);
#   $iot->device('boiler-1', ['temperature']);
#   $iot->use_broker($broker);                           points adapter "mqtt" at it, waits for it
#   my $sim = $iot->simulator($broker, devices => ['boiler-1'], refuse_above => 80);
#   my $id = $iot->psql(q{SELECT iot.send_command('boiler-1', 'temperature', 21.5)});
#   $iot->poll(qq{SELECT status = 'COMPLETED' FROM iot.command WHERE command_id = '$id'});
#
# Everything lives in the folder that TESTDIR names and ends with the test.  Nothing sleeps: tests
# wait for a condition, with poll_until() and its kin, and die when it does not come true.
#
# Environment (test/run sets it): IOT_STAGE, an installation below a folder; IOT_SOURCE, the tree;
# PG_CONFIG.

package IotTest;

use strict;
use warnings;

use Carp;
use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename;
use JSON::PP;
use Test::More;
use Time::HiRes qw(time sleep);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our $source_dir = $ENV{IOT_SOURCE} || abs_path(dirname(__FILE__) . '/../../..');
our $stage = $ENV{IOT_STAGE} or die 'IOT_STAGE must name a staged installation; see test/run';
our $pg_config = $ENV{PG_CONFIG} || 'pg_config';

our @EXPORT = qw(poll_until elapsed ends_in_time free_port program json);

use IotTest::Broker;
use IotTest::Process;
use IotTest::Push;
use IotTest::Session;
use IotTest::Simulator;

# Runs the condition until it holds, a few times a second at first and never busily; dies when it
# does not within the timeout (seconds; the suite's default otherwise).
sub poll_until
{
	my ($condition, $what, $timeout) = @_;
	my $end = time() + ($timeout || $PostgreSQL::Test::Utils::timeout_default);
	my $pause = 0.005;

	for (;;)
	{
		my $result = $condition->();

		return $result if $result;
		croak 'did not come true in time: ' . ($what || 'a condition') if time() > $end;
		sleep $pause;
		$pause *= 1.5 if $pause < 0.1;
	}
}

# Seconds that the code takes.
sub elapsed
{
	my ($code) = @_;
	my $start = time();

	$code->();
	return time() - $start;
}

# That the code ends within the five seconds that I35 promises.
sub ends_in_time
{
	my ($what, $code) = @_;
	my $seconds = elapsed($code);

	cmp_ok($seconds, '<', 5, sprintf('I35: %s ends within five seconds (%.2f)', $what, $seconds));
	return;
}

sub free_port { return PostgreSQL::Test::Cluster::get_free_port(); }

# Full path of a program: ours from the stage, brokers from /usr/sbin as well.
sub program
{
	my ($name) = @_;
	my $bindir = pg_config('--bindir');

	foreach my $dir ("$stage$bindir", $bindir, split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin')
	{
		return "$dir/$name" if -x "$dir/$name" && !-d "$dir/$name";
	}
	croak "program $name is not there";
}

sub pg_config
{
	my ($what) = @_;
	my $answer = `$pg_config $what`;

	croak "$pg_config $what failed" if $? != 0;
	chomp $answer;
	return $answer;
}

sub json { return JSON::PP->new->decode($_[0]); }

# Settings with which a server takes the extension from the stage.
sub stage_conf
{
	my $version = pg_config('--version') =~ /(\d+)/ ? $1 : croak 'no version';
	my $path = $version >= 18
	  ? "extension_control_path = '$stage" . pg_config('--sharedir') . ":\$system'"
	  : "extension_destdir = '$stage'";

	return "$path\ndynamic_library_path = '$stage" . pg_config('--pkglibdir') . ":\$libdir'\n";
}

# A copy of the server with iot installed in place, as make install leaves it; its folder above bin.
# A program finds its libraries from where it is itself.  For pg_upgrade, which loads "$libdir/iot":
# from 18 on no setting tells where else that might be.
sub server_in_place
{
	my $root = PostgreSQL::Test::Utils::tempdir('server');

	foreach my $dir (map { pg_config($_) } qw(--bindir --pkglibdir --sharedir))
	{
		PostgreSQL::Test::Utils::system_or_bail('mkdir', '-p', "$root$dir");
		PostgreSQL::Test::Utils::system_or_bail('cp', '-a', "$dir/.", "$root$dir");
	}
	PostgreSQL::Test::Utils::system_or_bail('cp', '-a', "$stage/.", $root);
	return dirname($root . pg_config('--bindir'));
}

# A new server.  Options:
#   database     name of the database with the extension ('iot')
#   databases    value of iot.databases (the database)
#   preload      value of shared_preload_libraries ('iot'; '' for none)
#   cron         1: pg_cron as well, in the database
#   conf         text for postgresql.conf
#   init         further arguments for PostgreSQL::Test::Cluster->init
#   install_path folder of another server's bin (with $stage and $pg_config as that one's)
#   in_place     1: that server has iot of its own (server_in_place)
#   start        0: leave it stopped (and without a database)
#   extension    0: do not create the extension
sub new
{
	my ($class, $name, %opt) = @_;
	my $self = bless { db => $opt{database} || 'iot', cron => $opt{cron} }, $class;
	my $node = $self->{node} = PostgreSQL::Test::Cluster->new($name,
		$opt{install_path} ? (install_path => $opt{install_path}) : ());

	$node->init(%{ $opt{init} || {} });
	$node->append_conf('postgresql.conf', $self->server_conf(%opt));
	return $self if defined $opt{start} && !$opt{start};
	$node->start;
	$self->create_database($self->{db}, %opt);
	return $self;
}

# Wraps a node made otherwise (a standby, a restored copy) that has the settings already.
sub from_node
{
	my ($class, $node, $database) = @_;

	return bless { node => $node, db => $database || 'iot' }, $class;
}

sub server_conf
{
	my ($self, %opt) = @_;
	my $preload = defined $opt{preload} ? $opt{preload} : $opt{cron} ? 'pg_cron,iot' : 'iot';
	my $databases = defined $opt{databases} ? $opt{databases} : $self->{db};
	my $conf = $opt{in_place} ? '' : stage_conf();

	$conf .= "shared_preload_libraries = '$preload'\n";
	$conf .= "iot.databases = '$databases'\n" if $preload =~ /\biot\b/;
	$conf .= "cron.database_name = '$self->{db}'\ncron.use_background_workers = on\n"
	  if $preload =~ /pg_cron/;
	# the server must come back where a test kills one of its processes
	$conf .= <<'EOC';
restart_after_crash = on
log_statement = none
log_connections = off
log_line_prefix = '%m [%p] %b %q%a '
max_worker_processes = 24
max_prepared_transactions = 10
max_connections = 60
shared_buffers = 32MB
timezone = 'UTC'
EOC
	$conf .= "$opt{conf}\n" if $opt{conf};
	return $conf;
}

sub create_database
{
	my ($self, $database, %opt) = @_;

	$self->{node}->safe_psql('postgres', qq{CREATE DATABASE "$database"});
	$self->{node}->safe_psql($database, 'CREATE EXTENSION pg_cron') if $opt{cron};
	$self->{node}->safe_psql($database, 'CREATE EXTENSION iot')
	  unless defined $opt{extension} && !$opt{extension};
	return;
}

sub node { return $_[0]->{node}; }
sub db { return $_[0]->{db}; }
sub port { return $_[0]->{node}->port; }

# Output of the statements; an error ends the test.  Options as psql()'s of the node.
sub psql
{
	my ($self, $sql, %opt) = @_;

	return $self->{node}->safe_psql($opt{database} || $self->{db}, $sql);
}

# The error message (with SQLSTATE, DETAIL and HINT lines) of statements that must fail.
sub psql_error
{
	my ($self, $sql, %opt) = @_;
	my ($code, $out, $err) = $self->{node}->psql($opt{database} || $self->{db},
		"\\set VERBOSITY verbose\n$sql", on_error_stop => 1);

	croak "expected an error from: $sql" if $code == 0;
	return $err;
}

# Rows of a query as hashes.
sub rows
{
	my ($self, $sql, %opt) = @_;

	return @{
		json(
			$self->psql(
				"SELECT coalesce(pg_catalog.json_agg(pg_catalog.to_json(q)), '[]') FROM ($sql) AS q",
				%opt)) };
}

# A session that stays open; extra psql arguments may follow the database.
sub session
{
	my ($self, %opt) = @_;
	my $database = $opt{database} || $self->{db};
	my $connstr = $self->{node}->connstr($database);

	$connstr .= " user=$opt{user}" if $opt{user};
	return IotTest::Session->new($connstr, program('psql'));
}

# Runs the query until it answers "t" (or what is expected), over one connection per call; the
# server may be away meanwhile.  Dies with the last answer when it does not in time.
sub poll
{
	my ($self, $sql, %opt) = @_;
	my $expected = defined $opt{expected} ? $opt{expected} : 't';
	my ($session, $last);

	my $ok = eval {
		poll_until(
			sub {
				$session ||= $self->session(%opt);
				$last = eval { $session->query($sql) };
				if (!defined $last)
				{
					$last = $@;
					undef $session;
					return 0;
				}
				return $last eq $expected;
			},
			$opt{what} || $sql,
			$opt{timeout});
	};
	croak "$@last answer: " . (defined $last ? $last : 'none') unless $ok;
	return 1;
}

sub wait_for_log
{
	my ($self, $pattern, $offset) = @_;

	return $self->{node}->wait_for_log($pattern, $offset);
}

sub log_size { return -s $_[0]->{node}->logfile || 0; }

sub log_content
{
	my ($self, $offset) = @_;

	return PostgreSQL::Test::Utils::slurp_file($self->{node}->logfile, $offset || 0);
}

# Registers a parameter.  Options: unit, min, max, labels (a hash).
sub parameter
{
	my ($self, $name, %opt) = @_;
	my $labels = $opt{labels} ? JSON::PP->new->canonical->encode($opt{labels}) : undef;

	return $self->psql(sprintf(
			'INSERT INTO iot.parameter (name, unit, value_min, value_max, labels)'
			  . ' VALUES (%s, %s, %s, %s, %s) RETURNING parameter_id',
			map { literal($_) } $name, $opt{unit}, $opt{min}, $opt{max}, $labels));
}

# Registers a device with its sensors; its id.  Options: group, type, adapter.
sub device
{
	my ($self, $name, $parameters, %opt) = @_;

	return $self->psql(sprintf(
			'SELECT iot.create_device(%s, ARRAY[%s]::text[], device_group => %s,'
			  . ' device_type => %s, adapter => %s)',
			literal($name), join(', ', map { literal($_) } @$parameters),
			literal($opt{group} || 'default'), literal($opt{type} || 'default'),
			literal($opt{adapter} || 'mqtt')));
}

# Makes a user who may do what level says with the devices of a group, as a role and as app_user.
sub user
{
	my ($self, $username, %opt) = @_;
	my $level = $opt{level} || 'operate';
	my $group = $opt{group} || 'default';
	my ($user, $user_group, $device_group, $as_level) =
	  map { literal($_) } $username, "$username-$group", $group, $level;

	$self->psql(<<"EOC");
INSERT INTO iot.app_user (username) VALUES ($user) ON CONFLICT (username) DO NOTHING;
INSERT INTO iot.user_group (name) VALUES ($user_group) ON CONFLICT (name) DO NOTHING;
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group AS g, iot.app_user AS u
	WHERE g.name = $user_group AND u.username = $user ON CONFLICT DO NOTHING;
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, $as_level
	FROM iot.user_group AS g, iot.device_group AS d
	WHERE g.name = $user_group AND d.name = $device_group
	ON CONFLICT (user_group_id, device_group_id) DO UPDATE SET level = excluded.level;
EOC
	return;
}

# Points an adapter at the broker, enables it, and waits until it has subscribed there.
# Options: name ('mqtt'), options (a hash), wait (0: do not).
sub use_broker
{
	my ($self, $broker, %opt) = @_;
	my $name = $opt{name} || 'mqtt';
	my %options = %{ $opt{options} || {} };
	my $mark = $broker->log_size;

	if ($broker->{users} && !$options{username})
	{
		my ($user) = sort keys %{ $broker->{users} };
		my $file = $broker->dir . "/password_of_$user";

		unlink $file;
		PostgreSQL::Test::Utils::append_to_file($file, "$broker->{users}{$user}\n");
		chmod 0600, $file;
		@options{qw(username password_file)} = ($user, $file);
	}
	$options{ca_file} ||= $broker->{tls}{cafile} if $broker->{tls};
	$self->psql(sprintf(
			'INSERT INTO iot.adapter (name, url, options, enabled) VALUES (%1$s, %2$s, %3$s, true)'
			  . ' ON CONFLICT (name) DO UPDATE SET url = excluded.url, options = excluded.options,'
			  . ' enabled = true',
			map { literal($_) } $name, $broker->url, JSON::PP->new->canonical->encode(\%options)));
	return if defined $opt{wait} && !$opt{wait};

	# the broker writes a line per subscription; the worker says so once all are granted
	my $id = $options{client_id}
	  || 'iot-' . $self->psql('SELECT adapter_id FROM iot.adapter WHERE name = ' . literal($name));
	$broker->wait_for_log(qr{^\S+ \Q$id\E [01] \S+$}m, $mark);
	$self->poll(
		"SELECT count(*) = 1 FROM iot.worker AS w JOIN iot.adapter AS a USING (adapter_id)"
		  . " WHERE w.state = 'connected' AND a.name = " . literal($name));
	return;
}

# The simulator, playing devices; see IotTest::Simulator.
sub simulator
{
	my ($self, $broker, %opt) = @_;

	return IotTest::Simulator->new($broker, %opt);
}

# A push daemon on a free port; see IotTest::Push.
sub pushd
{
	my ($self, %opt) = @_;

	return IotTest::Push->new($self, %opt);
}

# Server processes of a kind: rows of pid, backend_type, application_name, wait_event.
sub workers
{
	my ($self, $type) = @_;

	return $self->rows(
		"SELECT pid, backend_type, application_name, wait_event FROM pg_catalog.pg_stat_activity"
		  . " WHERE backend_type LIKE 'iot %'"
		  . ($type ? ' AND backend_type = ' . literal($type) : ''));
}

# Sends a command; its id.  Options: action, expected, request_id, ttl.
sub send_command
{
	my ($self, $device, $parameter, $value, %opt) = @_;
	my $value_type = $value =~ /^[-+]?[\d.]+(?:[eE][-+]?\d+)?$/ ? 'double precision' : 'text';

	return $self->psql(sprintf('SELECT iot.send_command(%s, %s, %s::%s%s)',
			literal($device), literal($parameter), literal($value), $value_type,
			join('', map { ", $_ => " . literal($opt{$_}) } sort keys %opt)));
}

# Waits until a command has a final state; its row.
sub wait_for_command
{
	my ($self, $id, $timeout) = @_;

	$self->poll(
		"SELECT status IN ('COMPLETED', 'FAILED', 'CANCELLED') FROM iot.command"
		  . ' WHERE command_id = ' . literal($id),
		timeout => $timeout);
	return ($self->rows('SELECT * FROM iot.command WHERE command_id = ' . literal($id)))[0];
}

# The current value of a device's parameter.
sub value
{
	my ($self, $device, $parameter) = @_;

	return $self->psql('SELECT v.value FROM iot.sensor_value v JOIN iot.device d USING (device_id)'
		  . sprintf(' JOIN iot.parameter p USING (parameter_id) WHERE d.name = %s AND p.name = %s',
			literal($device), literal($parameter)));
}

# Waits until a device is online, or is not ('true', 'false').
sub online_is
{
	my ($self, $device, $online) = @_;

	return $self->poll("SELECT count(*) = 1 FROM iot.fleet f WHERE f.online IS $online"
		  . ' AND f.device = ' . literal($device));
}

# Sends a command, publishes $reply at $reply_topic when it has come to $topic, and waits for its end:
# the row of the command, and what came.
sub command_answered
{
	my ($self, $broker, $device, $parameter, $value, $topic, $reply_topic, $reply) = @_;
	my $watch = $broker->watch($topic);
	my $id = $self->send_command($device, $parameter, $value);
	my ($message) = $watch->wait_for(1, $topic);

	$broker->publish($reply_topic, $reply);
	return ($self->wait_for_command($id), $message->{payload});
}

# The blocks of a section of doc/devices.md, as they stand there, that are in a language.
sub recipe
{
	my ($title, $language) = @_;
	my $text = PostgreSQL::Test::Utils::slurp_file("$IotTest::source_dir/doc/devices.md");
	my ($section) = $text =~ /^### \Q$title\E\n(.*?)(?=^##)/ms or croak "no section $title";
	my @blocks = $section =~ /^```$language\n(.*?)^```/msg;

	croak "no $language in section $title" unless @blocks;
	return join('', @blocks);
}

# Waits until all that the broker has confirmed to the simulator's devices is stored, and says so.
sub all_stored
{
	my ($self, $sim, $what) = @_;
	my %acked = map { $_ => 1 } $sim->telemetry('acked');

	$self->psql("CREATE TABLE IF NOT EXISTS public.acked (device text, ms bigint);\n"
		  . "TRUNCATE public.acked;\nCOPY public.acked FROM STDIN;\n"
		  . join('', map { "$_\n" } sort keys %acked) . "\\.\n");
	$self->poll('SELECT count(*) = 0 FROM public.acked a WHERE NOT EXISTS (SELECT FROM iot.measurement m'
		  . ' JOIN iot.device d USING (device_id) WHERE d.name = a.device'
		  . ' AND m.ts = to_timestamp(a.ms / 1000.0))', timeout => 90);
	pass($what . ' (' . keys(%acked) . ' messages)');
	return;
}

# A value as an SQL literal.
sub literal
{
	my ($value) = @_;

	return 'NULL' unless defined $value;
	$value =~ s/'/''/g;
	return $value =~ /\\/ ? do { $value =~ s/\\/\\\\/g; "E'$value'" } : "'$value'";
}

1;
