# iot.install() while workers and users are at work, as iot.check() tells people to call it: it waits for
# them and they for it, and nobody is the victim of a deadlock.

use strict;
use warnings;

use IPC::Run;
use Test::More;

use IotTest;

my $broker = IotTest::Broker->new('main');
my $iot = IotTest->new('main');

$iot->parameter('temperature', min => 0, max => 100);
$iot->device($_, ['temperature']) foreach qw(boiler-1 boiler-2);
$iot->use_broker($broker);
my $sim = $iot->simulator($broker, devices => ['boiler-1'], rate => 20, parameters => 'temperature=20');
$iot->poll('SELECT count(*) > 20 FROM iot.measurement');

# users who do not look at the clock: as many transactions as there are, however long they take
my $script = PostgreSQL::Test::Utils::tempdir('users') . '/script';
PostgreSQL::Test::Utils::append_to_file($script, <<'EOC');
SELECT iot.send_command('boiler-2', 'temperature', 20, ttl => '1 s');
SELECT iot.ingest('boiler-2', '{"temperature": 20}');
SELECT count(*) FROM iot.fleet;
EOC
my ($out, $err) = ('', '');
my $users = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-t', 400, '-f', $script, '-h', $iot->node->host,
		'-p', $iot->port, $iot->db ], '>', \$out, '2>', \$err, IPC::Run::timeout(300));

for my $turn (1 .. 6)
{
	my $before = $iot->psql('SELECT count(*) FROM iot.measurement');

	$iot->psql('SELECT iot.install()');
	is($iot->wait_for_command($iot->send_command('boiler-1', 'temperature', 20 + $turn))->{status}, 'COMPLETED',
		"turn $turn: commands are carried out afterwards");
	$iot->poll("SELECT count(*) > $before FROM iot.measurement");
}
ok($users->finish, 'users go on all the while') or diag($err);
like($out, qr/number of failed transactions: 0 /, 'and none of them has to try again');
unlike(PostgreSQL::Test::Utils::slurp_file($iot->node->logfile), qr/deadlock detected/, 'no deadlock');

# a view of somebody's own, of what the owner of all views has no right to
$iot->psql('CREATE TABLE public.site (name text); CREATE VIEW iot.site AS SELECT name FROM public.site');
$iot->psql('SELECT iot.install()');
is($iot->psql('SELECT count(*) FROM iot.fleet'), 2, 'is no hindrance');
done_testing();
