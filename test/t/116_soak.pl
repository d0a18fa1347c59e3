# Messages by the tens of thousands, with commands, alarms, notifications over push and live
# subscriptions all the while: who carries them does not grow.  IOT_SOAK_MESSAGES is how many;
# `make soak` takes a million.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotWebSocket;

my $messages = $ENV{IOT_SOAK_MESSAGES} || 50_000;
my $rounds = 10;
my $warm = 3;					# rounds until whatever is kept has been made
my $devices = 20;
my $limit = 4096;				# kB that a process may grow by after them

my $iot = IotTest->new('main', conf => "iot.authenticators = 'push_daemon'\n");
# saving at each change would take the broker minutes here
my $broker = IotTest::Broker->new('main', start => 0);
(my $conf = $broker->{conf}) =~ s/^autosave_on_changes true$/autosave_on_changes false/m;
$broker->{conf} = $conf;
$broker->write_conf;
$broker->start;

$iot->parameter('temperature', max => 100);
$iot->device("meter-$_", ['temperature']) foreach 1 .. $devices;
$iot->device("boiler-$_", ['temperature']) foreach 1 .. 3;
$iot->user('anna', level => 'operate');
$iot->psql(<<'EOC');
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold)
	SELECT 'too-hot', 'threshold', parameter_id, '>', 80 FROM iot.parameter;
EOC
$iot->use_broker($broker);
my $boilers = $iot->simulator($broker, devices => [ map { "boiler-$_" } 1 .. 3 ]);
my $push = $iot->pushd;
$iot->psql('GRANT iot_viewer, iot_operator TO push_daemon');
my $session = $iot->session;
my %heard;

# The processes that must not grow.
sub processes
{
	my %pid = map { split /\|/ } split /\n/, $session->query_safe(
		"SELECT replace(backend_type, 'iot ', ''), pid FROM pg_stat_activity"
		  . " WHERE backend_type IN ('iot mqtt adapter', 'iot notifier')");

	return (%pid, 'push daemon' => $push->{pid});
}

sub memory
{
	my ($pid) = @_;
	my ($kb) = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;

	return $kb;
}

# Takes what a client is told meanwhile.
sub drain
{
	my ($ws) = @_;

	while (my $message = eval { $ws->receive(0.01) })
	{
		$heard{ $message->{op} }++;
	}
	die "a client was sent away: $ws->{code}" if $ws->{ended};
	return;
}

my $anna = $push->connect('anna');
$anna->subscribe(1, events => ['*']);
# seldom enough for what comes to fit into the socket while the test does something else
$anna->send({
		op => 'live', id => 2, groups => ['default'], parameters => ['temperature'],
		interval => 1000 });
my $number = 1;
my $received = "SELECT coalesce(sum((counters ->> 'received')::bigint), 0)"
  . " FROM iot_internal.worker_slots() WHERE kind = 'mqtt adapter'";

sub round
{
	my $total = $session->query_safe($received) + $messages / $rounds;
	my $flood = IotTest::Simulator->new($broker, prefix => 'meter-', count => $devices,
		rate => 'max', messages => $messages / $rounds / $devices, parameters => 'temperature=20',
		jitter => 1, exit_when_done => 1, wait => 0);

	foreach my $n (1 .. 10)
	{
		# a command by an operator, one in bounds and now and then one that is not
		$anna->send({ op => 'command', id => ++$number, device => 'boiler-' . (1 + $n % 3),
				parameter => 'temperature', value => $n % 5 == 0 ? '200' : "$n" });
		# an alarm that opens and closes
		$session->query_safe("SELECT iot.ingest('boiler-1', '{\"temperature\":$_}', clock_timestamp())")
		  foreach 95, 20;
		# those who come and go, and those who may not
		my $other = $push->connect('anna');
		$other->subscribe(1, events => ['alarm.*'], after_seq => 0);
		$other->send({ op => 'query', id => 2, query => 'fleet' });
		$n % 2 ? $other->close : $other->drop;
		my $stranger = IotWebSocket->new(port => $push->port);
		$stranger->send({ op => 'auth', token => $push->token('anna', key => 'x' x 40) });
		$stranger->closed;
		drain($anna);
	}
	poll_until(sub { drain($anna); !$flood->alive }, 'the devices say it', 600);
	is($flood->wait_exit, 0, 'the devices have said it');
	poll_until(sub { drain($anna); $session->query_safe($received) >= $total },
		'all of it is taken in', 600);
	# what was ordered is done, and told
	poll_until(
		sub {
			drain($anna);
			$session->query_safe("SELECT count(*) = 0 FROM iot.command WHERE status = 'COMMITTED'") eq 't'
			  && $session->query_safe("SELECT count(*) = 0 FROM iot.delivery WHERE status = 'PENDING'") eq 't';
		},
		'commands are done and notifications told', 120);
	return;
}

my %pid = processes();
is(join(', ', sort keys %pid), 'mqtt adapter, notifier, push daemon', 'all are there');
my (%before, %after);
foreach my $n (1 .. $rounds)
{
	round();
	%after = map { $_ => memory($pid{$_}) } keys %pid;
	%before = %after if $n == $warm;
	note("round $n: ", join(', ', map { "$_ $after{$_} kB" } sort keys %after));
}
foreach my $name (sort keys %pid)
{
	cmp_ok($after{$name} - $before{$name}, '<', $limit,
		"$name: $before{$name} kB after " . $messages * $warm / $rounds
		  . " messages, $after{$name} kB after $messages");
}
is_deeply({ processes() }, \%pid, 'they are the processes of the beginning');
is($session->query_safe('SELECT status, count(*) FROM iot.command GROUP BY status ORDER BY status'),
	'COMPLETED|' . 8 * $rounds . "\nFAILED|" . 2 * $rounds, 'the commands were carried out, or refused');
cmp_ok($heard{measurement}, '>', $rounds, "$heard{measurement} live values were told");
cmp_ok($heard{event}, '>=', $rounds * 15, "$heard{event} events were told");

done_testing();
