# Three clusters as cells, joined by PL/Proxy and one push daemon (doc/scale-out.md, with the very files
# that it gives away): a device has one cell, where its commands and measurements go by whichever door;
# what is asked of all is put together; and while one cell is away the others go on, and nothing is lost.

use strict;
use warnings;

use Test::More;

use IotTest;
use IotWebSocket;

plan skip_all => 'PL/Proxy is not installed for this server'
  unless -e IotTest::pg_config('--sharedir') . '/extension/plproxy.control';

my $deploy = "$IotTest::source_dir/doc/deploy";
my @names = qw(north south west);
my $broker = IotTest::Broker->new('main');
my $small = "shared_buffers = 16MB\nmax_connections = 30\n";
my (%cell, %conninfo);

# Runs a file that is given away, as its head says.
sub run_file
{
	my ($iot, $file, @variables) = @_;

	PostgreSQL::Test::Utils::system_or_bail('psql', '-Xq', (map { ('-v', $_) } @variables),
		'-d', $iot->node->connstr($iot->db), '-f', "$deploy/$file");
	return;
}

# the servers start one after the other, and get ready together
foreach my $name (@names)
{
	my $iot = $cell{$name} = IotTest->new($name, conf => $small);

	run_file($iot, 'cell.sql', "cell=$name");
	$conninfo{$name} = $iot->node->connstr('iot') . ' user=iot_front connect_timeout=2';

	# reference data: the same statements everywhere
	$iot->psql(<<'EOC');
INSERT INTO iot.parameter (name, unit, value_min, value_max) VALUES ('temperature', '°C', 0, 100);
INSERT INTO iot.device_group (name) VALUES ('plant'), ('house');
INSERT INTO iot.device_type (name, ack_timeout) VALUES ('boiler', '2 s');
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, severity)
	SELECT 'hot', 'threshold', parameter_id, '>', 80, 'red' FROM iot.parameter;
EOC
	$iot->user('anna', group => 'plant', level => 'manage');
	$iot->user('bert', group => 'house', level => 'view');
	$iot->use_broker($broker, options => { processes => 2 }, wait => 0);
}
my $front = IotTest->new('front', preload => '', extension => 0, conf => $small);
run_file($front, 'front.sql');
like($front->psql_error("SELECT * FROM iot_front.fleet()"), qr/devices cannot be placed/,
	'a front without cells says so');
$front->psql(join(";\n",
	(map { "INSERT INTO iot_front.cell VALUES ('$_', " . IotTest::literal($conninfo{$_}) . ')' } @names),
	'CREATE ROLE anna LOGIN IN ROLE iot_front_user',
	'CREATE ROLE bert LOGIN IN ROLE iot_front_user',
	'CREATE ROLE web LOGIN IN ROLE iot_front_user'));
is($front->psql('SELECT * FROM iot_front.share_out()'), "north|22\nsouth|21\nwest|21",
	'slots are shared out evenly');
is($front->psql('SELECT * FROM iot_front.share_out()'), "north|22\nsouth|21\nwest|21",
	'and stay where they are');

my %session = map { $_ => $front->session(user => $_) } 'anna', 'bert', 'web';

sub ask { return $session{anna}->query_safe($_[0]); }

# The error of a statement that must fail.
sub refused
{
	my ($user, $sql) = @_;
	my $answer = $session{$user}->query($sql);

	die "expected an error from: $sql" unless $answer =~ /ERROR:/;
	return $answer;
}

# devices, twelve of them
my @devices = map { "boiler-$_" } 1 .. 12;
my %of;
foreach my $device (@devices)
{
	my $id = ask("SELECT iot_front.create_device('$device', '{temperature}', 'plant', 'boiler')");

	is(ask("SELECT iot_front.create_device('$device', '{temperature}', 'plant', 'boiler')"), $id,
		"$device is there once") if $device eq 'boiler-1';
	push @{ $of{ ask("SELECT iot_front.cell_of('$device')") } }, $device;
}
is(join(' ', sort keys %of), join(' ', @names), 'each cell has some');
foreach my $name (@names)
{
	is($cell{$name}->psql('SELECT string_agg(name, \' \' ORDER BY name COLLATE "C") FROM iot.device'),
		join(' ', sort @{ $of{$name} }), "and cell $name has those that belong there");
}
my %first = map { $_ => $of{$_}[0] } @names;
like(refused('bert', "SELECT iot_front.create_device('lamp', '{temperature}', 'house')"),
	qr/permission denied for device group "house"/, 'the cell says who may');

# topics: a cell hears its own devices, and its processes share them
my %sim;
foreach my $name (@names)
{
	my $iot = $cell{$name};
	my $id = $iot->psql("SELECT adapter_id FROM iot.adapter WHERE name = 'mqtt'");

	$iot->poll("SELECT count(*) = 2 FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter' AND state = 'connected'");
	$iot->poll("SELECT count(*) = 2 FROM iot.adapter_session"
		  . " WHERE filters @> '{\$share/iot-$id/iot/$name/+/telemetry}'");
	is($iot->psql("SELECT count(*) FROM iot.adapter_session, unnest(filters) AS f"
			  . " WHERE f NOT LIKE '%iot/$name/+/%'"), 0, "cell $name subscribes to nothing else");
	$sim{$name} = $iot->simulator($broker, devices => $of{$name},
		map { my $rest = $_ eq 'ack' ? 'command/ack' : $_; ("${_}_topic" => "iot/$name/{device}/$rest") }
		  qw(telemetry attributes status command ack));
}

sub publish
{
	my ($device, $value, $at) = @_;
	my $name = ask("SELECT iot_front.cell_of('$device')");

	$broker->publish("iot/$name/$device/telemetry",
		sprintf('{"ts":%d,"values":{"temperature":%s}}', $at * 1000, $value));
	return;
}

sub wait_status
{
	my ($device, $id, $what) = @_;

	$front->poll("SELECT iot_front.command_status('$device', '$id') IN ('COMPLETED', 'FAILED', 'CANCELLED')",
		user => 'anna');
	return is(ask("SELECT iot_front.command_status('$device', '$id')"), 'COMPLETED', $what);
}

# one push daemon listens to all of them; or there is one for each, behind one address
my $all = IotTest::Push->new(undef, cells => [ map { $_ => $cell{$_} } @names ]);
my %push = map { $_ => $cell{$_}->pushd } @names;
my $address = free_port();
my $nginx;
SKIP:
{
	skip 'nginx is not installed', 1 unless eval { program('nginx') };
	my $dir = PostgreSQL::Test::Utils::tempdir('nginx');
	my $conf = PostgreSQL::Test::Utils::slurp_file("$deploy/push-cells.conf");
	my $port = 8801;

	$conf =~ s/listen 8787;/listen 127.0.0.1:$address;/ or die;
	foreach my $name (@names)
	{
		my $to = $push{$name}->port;

		$conf =~ s/127\.0\.0\.1:$port\b/127.0.0.1:$to/ or die;
		$port++;
	}
	PostgreSQL::Test::Utils::append_to_file("$dir/nginx.conf", <<"EOC");
daemon off;
master_process off;
pid $dir/nginx.pid;
error_log $dir/error.log;
events {}
http {
	access_log off;
	@{[ join "\n\t", map { "${_}_temp_path $dir/$_;" } qw(client_body proxy fastcgi uwsgi scgi) ]}
$conf
}
EOC
	$nginx = IotTest::Process->start(
		name => 'nginx',
		command => [ program('nginx'), '-e', "$dir/error.log", '-p', $dir, '-c', "$dir/nginx.conf" ],
		log => "$PostgreSQL::Test::Utils::log_path/130_cells_nginx.log");
	poll_until(sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $address) }, 'nginx listens');
	pass('one address');
}

sub connect_push
{
	my ($port, $path, %after) = @_;
	my $ws = IotWebSocket->new(port => $port, path => $path);

	$ws->{ready} = $ws->auth($all->token('anna'));
	$ws->subscribe(1, events => ['alarm.opened'], %after);
	return $ws;
}
$all->wait_healthy($_) foreach @names;
my $ws = connect_push($all->port, '/ws');
my %ws = $nginx ? map { $_ => connect_push($address, "/$_/ws") } @names : ();
my %position;

# commands and measurements, by the front and by the broker
my $now = time() - 600;
foreach my $name (@names)
{
	my $device = $first{$name};
	my $id = ask("SELECT iot_front.send_command('$device', 'temperature', '55')");

	wait_status($device, $id, "a command to $device goes by cell $name");
	is(ask("SELECT iot_front.ingest('$device', '{\"temperature\": 21}', to_timestamp($now))"), 1,
		'so does a measurement');
	publish($device, 90, $now + 60);
}
foreach my $name (@names)
{
	my $device = $first{$name};

	$front->poll("SELECT count(*) = 2 FROM iot_front.history('$device', 'temperature', to_timestamp($now - 1))",
		user => 'anna');
	is(ask("SELECT string_agg(avg::text, ' ' ORDER BY ts) FROM iot_front.history('$device', 'temperature', to_timestamp($now - 1))"),
		'21 90', "history of $device");
	is(ask("SELECT parameter, value, unit FROM iot_front.last_values('$device')"), 'temperature|90|°C',
		'its value');
}
foreach my $event (sort { $a->{cell} cmp $b->{cell} } $ws->events(3))
{
	my $name = $event->{cell};

	is("$event->{event} $event->{device}", "alarm.opened $first{$name}", "cell $name tells its alarm");
	is($ws{$name}->event->{seq}, $event->{seq}, '... as its own daemon does') if $nginx;
	$position{$name} = { seq => $event->{seq}, epoch => $ws->{ready}{cells}{$name}{epoch} };
}
is(join(' ', sort keys %position), 'north south west', 'all over one socket');
is(ask('SELECT count(*), count(DISTINCT device), count(DISTINCT cell) FROM iot_front.fleet()'), '12|12|3',
	'the fleet is that of all cells');
is(ask('SELECT string_agg(device, \' \') FROM (SELECT * FROM iot_front.fleet(NULL, 5) UNION ALL SELECT * FROM iot_front.fleet((SELECT max(device) FROM iot_front.fleet(NULL, 5)), 7)) AS pages'),
	ask('SELECT string_agg(device, \' \') FROM iot_front.fleet()'), 'page by page as well');
is(ask('SELECT count(*), count(DISTINCT cell) FROM iot_front.open_alarms()'), '3|3', 'so are open alarms');
my ($alarm) = split /\|/,
  ask("SELECT alarm_id FROM iot_front.open_alarms() WHERE device = '$first{west}'");
is(ask("SELECT iot_front.acknowledge_alarm('$first{west}', '$alarm', 'seen')"), 't', 'one is acknowledged');
is($cell{west}->psql("SELECT acknowledged_by FROM iot.alarm WHERE alarm_id = '$alarm'"), 'anna',
	'by who is asking');

# who is asking
is($session{bert}->query_safe('SELECT count(*) FROM iot_front.fleet()'), 0, 'bert sees nothing of the plant');
like(refused('bert', "SELECT * FROM iot_front.last_values('$first{north}')"),
	qr/device "$first{north}" does not exist/, '... whatever he asks');
like(refused('bert', "SELECT * FROM iot_front.on_all('anna', '{}', '{}')"), qr/permission denied/,
	'nobody asks as somebody else');
$session{web}->query_safe(q{SET request.jwt.claims = '{"sub":"anna"}'});
like(refused('web', 'SELECT * FROM iot_front.fleet()'), qr/permission denied/,
	'nor by claims, which count for nothing');
$front->psql(q{INSERT INTO iot_front.authenticator VALUES ('web')});
is($session{web}->query_safe('SELECT count(*) FROM iot_front.fleet()'), 12,
	'... but in sessions of an authenticator');
like(refused('anna', "SELECT iot_front.send_command('$first{north}', 'pressure', '1')"),
	qr/pressure/, 'an error of a cell is told');

# one cell dies, as clients are told who stay
my $request = $cell{north}->psql('SELECT gen_random_uuid()');
$cell{south}->node->stop('immediate');
my $error = refused('anna',
	"SELECT iot_front.send_command('$first{south}', 'temperature', '60', request_id => '$request')");
like($error, qr/cell "south" of device "$first{south}" does not answer/, 'who commands a device there is told');
like($error, qr/Send it again with request_id => '$request'/, '... and how to go on');
my $away = $ws->expect('cell');
is("$away->{cell} $away->{state}", 'south away', 'who listens to all is told');
publish($_, 30, $now + 120) foreach @devices;
foreach my $name ('north', 'west')
{
	my $device = $first{$name};

	wait_status($device, ask("SELECT iot_front.send_command('$device', 'temperature', '56')"),
		"cell $name goes on with commands");
	$cell{$name}->poll('SELECT count(*) = ' . @{ $of{$name} }
		  . " FROM iot.measurement WHERE value = 30");
	pass('and with measurements');
	publish($device, 96, $now + 140);
	my $event = $ws->event;
	is("$event->{cell} $event->{event} $event->{device}", "$name alarm.opened $device", 'and tells its alarms');
	$position{$name}{seq} = $event->{seq};
}
my $fleet = ask("SELECT count(*), string_agg(DISTINCT cell, ' ') FROM iot_front.fleet()");
like($fleet, qr/^@{[ @{ $of{north} } + @{ $of{west} } ]}\|north west$/m, 'the fleet is what can be told');
like($fleet, qr/WARNING:  01000: cell "south" does not answer/, '... with a warning');
if ($nginx)
{
	is(IotWebSocket->status_of(port => $address, path => '/south/ws'), 503, 'its push daemon says that it is away');
}
is($push{north}->connect('anna') ? 1 : 0, 1, 'the others take clients');
my $newcomer = connect_push($all->port, '/ws', after => \%position);
is($newcomer->{ready}{cells}{south}{state}, 'away', 'so does the daemon of all');

# and comes back
$cell{south}->node->start;
is(ask("SELECT iot_front.cell_of('$first{south}')"), 'south', 'devices stay where they were');
$front->poll("SELECT count(*) = 12 FROM iot_front.fleet()", user => 'anna');
$cell{south}->poll('SELECT count(*) = ' . @{ $of{south} } . ' FROM iot.measurement WHERE value = 30');
pass('I10: what the broker kept for it is stored');
my $id = ask("SELECT iot_front.send_command('$first{south}', 'temperature', '60', request_id => '$request')");
wait_status($first{south}, $id, 'the command is carried out');
is(ask("SELECT iot_front.send_command('$first{south}', 'temperature', '60', request_id => '$request')"), $id,
	'once, however often it is sent');
is(scalar(grep { ($_->{value} || 0) == 60 } $sim{south}->records('received')), 1, '... to the device as well');
publish($first{south}, 95, $now + 180);
foreach my $client ($ws, $newcomer)
{
	my $here = $client->expect('cell');
	my $event = $client->event;

	is("$here->{cell} $here->{state}", 'south here', 'push has the cell again');
	is("$event->{cell} $event->{event} $event->{device}", "south alarm.opened $first{south}", '... and goes on there');
	cmp_ok($event->{seq}, '>', $position{south}{seq}, '... with what is new');
}

# a slot without devices is moved, under an open session
my ($late, $slot) = split /\|/, $front->psql(<<"EOC");
SELECT 'late-' || n, s.slot FROM generate_series(1, 1000) AS n
	JOIN iot_front.slot s ON s.slot = iot_front.slot_of(iot_front.device_id('late-' || n))
	WHERE s.cell = 'north' AND s.slot NOT IN (SELECT iot_front.slot_of(iot_front.device_id('boiler-' || b))
		FROM generate_series(1, 12) AS b) ORDER BY n LIMIT 1
EOC
$front->psql("UPDATE iot_front.slot SET cell = 'west' WHERE slot = $slot");
ask("SELECT iot_front.create_device('$late', '{temperature}', 'plant', 'boiler')");
is($cell{west}->psql("SELECT count(*) FROM iot.device WHERE name = '$late'"), 1,
	'a slot that was moved has its devices where it is now');

# nothing anywhere that nobody could use, and nothing twice
foreach my $name (@names)
{
	is($cell{$name}->psql('SELECT count(*) FROM iot.dead_letter'), 0, "cell $name has no dead letter");
	is($cell{$name}->psql("SELECT count(*), count(DISTINCT (device_id, ts)) FROM iot.measurement WHERE value = 30"),
		join('|', (scalar @{ $of{$name} }) x 2), '... and all of its measurements');
}

done_testing();
