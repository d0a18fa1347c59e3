# Devices that sleep, on a real broker: a command waits for their sign of life, over restarts of
# everything, is executed once, and fails at its deadline where none comes.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main');
my $broker = IotTest::Broker->new('main');

$iot->psql(q{INSERT INTO iot.device_type (name, send_when) VALUES ('sleeper', 'awake')});
$iot->parameter('valve');
$iot->device($_, ['valve'], type => 'sleeper') foreach 'pump-1', 'pump-2';
$iot->device('awake-1', ['valve']);
$iot->use_broker($broker);
# it answers whenever it is asked; what it says of itself is said here
my $sim = $iot->simulator($broker, devices => [ 'pump-1', 'pump-2', 'awake-1' ], persistent => 1);

sub executed { return join ' ', map { "$_->{device}=$_->{value}" } $sim->executed; }

sub status_of
{
	my ($id) = @_;

	return $iot->psql("SELECT string_agg(concat_ws(' ', t.service, t.status), ', ' ORDER BY t.at)"
		  . " FROM iot.timeline('$id') AS t WHERE t.service = 'adapter'");
}

my $first = $iot->send_command('pump-1', 'valve', 1);
my $short = $iot->send_command('pump-2', 'valve', 5, ttl => '1 s');
my $passed = $iot->send_command('awake-1', 'valve', 9);
is($iot->wait_for_command($passed)->{status}, 'COMPLETED', 'others do not wait');
is(status_of($first), 'adapter WAITING', 'who sleeps is not sent to');
is($iot->wait_for_command($short)->{status}, 'CANCELLED', 'at its deadline it fails');
is(executed(), 'awake-1=9', 'and nothing has reached the sleeping ones');

# the worker forgets nothing
$iot->node->stop('immediate');
$iot->node->start;
$iot->poll(q{SELECT count(*) = 1 FROM iot.worker WHERE state = 'connected'});
$passed = $iot->send_command('awake-1', 'valve', 8);
is($iot->wait_for_command($passed)->{status}, 'COMPLETED', 'after a restart of the server');
is(status_of($first), 'adapter WAITING', '... it waits still');
my $second = $iot->send_command('pump-1', 'valve', 2);
$broker->publish('iot/pump-1/telemetry', '{"valve": 0}');
is($iot->wait_for_command($_)->{status}, 'COMPLETED', 'a measurement lets them go') foreach $first, $second;
is(executed(), 'awake-1=9 awake-1=8 pump-1=1 pump-1=2', 'each is executed once, in the order of versions');

# an HTTP gateway's word counts as well
my $third = $iot->send_command('pump-2', 'valve', 3);
$iot->poll("SELECT count(*) = 1 FROM iot.timeline('$third') AS t WHERE t.status = 'WAITING'");
$iot->psql(q{SELECT iot.ingest('pump-2', '{"valve": 0}')});
is($iot->wait_for_command($third)->{status}, 'COMPLETED', 'whatever way it takes');

# and the adapter takes it up at once, not at its next poll, a second after it was sent
$iot->psql('ALTER SYSTEM SET iot.poll_interval = 1000');
$iot->psql('SELECT pg_reload_conf()');
my %ways = (
	'over SQL' => sub { $iot->psql("SELECT iot.ingest('pump-2', '{\"valve\": 0}')") },
	'over the adapter itself' => sub { $broker->publish('iot/pump-2/telemetry', '{"valve": 0}') });
foreach my $way (sort keys %ways)
{
	my ($quickest) = sort { $a <=> $b } map {
		my $id = $iot->send_command('pump-2', 'valve', $_);
		$ways{$way}->();
		$iot->wait_for_command($id);
		$iot->psql('SELECT round(1000 * extract(epoch FROM finished_at - due_at)) FROM iot.command'
			  . " WHERE command_id = '$id'");
	} 1 .. 5;
	cmp_ok($quickest, '<', 500, "a sign of life $way wakes the adapter");
}

done_testing();
