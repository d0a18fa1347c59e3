# Who waits for a command is woken by the commit that makes it final, and looks seldom until then.  Where
# nobody wakes him he ends all the same: COMMIT PREPARED, wake-ups that are off, no preload.
#
# Looks are counted, by the scans of iot.command in the waiter's own transaction, and held against how long
# he has waited by his own clock: who is to be woken sleeps for 50 ms between two, and what comes sooner is
# a wake-up.  So a slow machine changes nothing.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use IotTest;

my $iot = IotTest->new('main', databases => '', conf => 'max_connections = 260');

my $setup = <<'EOC';
INSERT INTO iot.parameter (name) VALUES ('level');
INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
SELECT iot.create_device('pump', ARRAY['level'], adapter => 'own');
CREATE FUNCTION public.looks() RETURNS bigint LANGUAGE sql AS $$
	SELECT coalesce(t.seq_scan, 0) + coalesce(t.idx_scan, 0)
	FROM pg_stat_xact_all_tables t WHERE t.relid = 'iot.command'::regclass
$$;
CREATE FUNCTION public.waited(id uuid) RETURNS TABLE (status text, looks bigint, ms double precision)
LANGUAGE plpgsql AS $$
DECLARE
	before bigint := public.looks();
	began timestamptz := clock_timestamp();
BEGIN
	status := iot.wait_for_command(id, '3 minutes');
	ms := 1000 * extract(epoch FROM clock_timestamp() - began);
	looks := public.looks() - before;
	RETURN NEXT;
END
$$;
EOC
$iot->psql($setup);
my $waiter = $iot->session;
my $waiter_pid = $waiter->backend_pid;
my $other = $iot->session;
my $adapter = $iot->session;
my $watch = $iot->session;

sub sent { return $adapter->query_safe("SELECT iot.send_command('pump', 'level', 1)"); }

# Waits until so many sessions sleep in a wait for the command, each for so long at least.
sub sleeping
{
	my ($id, $number, $for) = @_;

	$number ||= 1;
	$for ||= '0 s';
	poll_until(
		sub {
			return $watch->query_safe("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%wait%$id%'"
				  . " AND state = 'active' AND wait_event_type = 'Extension' AND pid <> pg_backend_pid()"
				  . " AND clock_timestamp() - query_start > '$for'") == $number;
		},
		"$number waiting for $id");
	return;
}

# Has the session wait; its command, once it sleeps.
sub wait_in
{
	my ($session, $id) = @_;

	$id ||= sent();
	$session->send("SELECT * FROM public.waited('$id')");
	sleeping($id);
	return $id;
}

# What the session has waited for: the status, the number of looks, the milliseconds.
sub outcome
{
	my ($session) = @_;
	my $answer = $session->receive;

	return split /\|/, defined $answer ? $answer : 'no answer';
}

# plans are made and catalogues read
my $id = sent();
$adapter->query_safe("SELECT iot.adapter_sent('$id')");
is(($waiter->query_safe("SELECT * FROM public.waited('$id')") =~ /^COMPLETED\|(\d+)/)[0],
	1, 'a command that is final already takes one look');

my %ends = (COMPLETED => q{iot.adapter_sent('%s')}, CANCELLED => q{iot.adapter_error('%s', 'no')});
foreach my $end (sort keys %ends)
{
	my @rounds;

	foreach my $round (1 .. 12)
	{
		$id = wait_in($waiter);
		$adapter->query_safe('SELECT ' . sprintf($ends{$end}, $id));
		push @rounds, [ outcome($waiter) ];
	}
	is(join(' ', map { $_->[0] } @rounds), join(' ', ($end) x 12), "$end: all waits end so");
	is_deeply([ grep { $_->[1] > 2 + $_->[2] / 50 } @rounds ], [], "$end: with few looks");
	ok((grep { ($_->[1] - 1) * 49 > $_->[2] } @rounds), "$end: woken by the commit");
}

$id = sent();
$waiter->send("SELECT * FROM public.waited('$id')");
sleeping($id, 1, '400 ms');
$adapter->query_safe("SELECT iot.adapter_sent('$id')");
my ($status, $looks, $ms) = outcome($waiter);
is($status, 'COMPLETED', 'a device that takes its time');
cmp_ok($looks, '<=', 2 + $ms / 50, "is waited for with $looks looks in $ms ms");

# what was rolled back wakes for nothing at most
$id = wait_in($waiter);
$adapter->query_safe("BEGIN; SELECT iot.adapter_sent('$id'); ROLLBACK");
$adapter->query_safe("BEGIN; SAVEPOINT s; SELECT iot.adapter_error('$id', 'no'); ROLLBACK TO s; COMMIT");
sleeping($id);
$adapter->query_safe("BEGIN; SAVEPOINT s; SELECT iot.adapter_sent('$id'); RELEASE s; COMMIT");
is((outcome($waiter))[0], 'COMPLETED', 'neither ROLLBACK nor ROLLBACK TO ends a wait, the commit does');

# Two commands that share a place: among 500 on 4096 places there are some thirty pairs.
my ($first, $second) = split /\|/, $adapter->query_safe(q{
	WITH sent AS MATERIALIZED (
		SELECT iot.send_command('pump', 'level', n) AS id FROM generate_series(1, 500) n)
	SELECT (array_agg(s.id))[1], (array_agg(s.id))[2] FROM sent s
	GROUP BY uuid_hash(s.id) & 4095 HAVING count(*) > 1 LIMIT 1});
ok($second, 'two commands share a place');
wait_in($waiter, $first);
wait_in($other, $second);
$adapter->query_safe("SELECT iot.adapter_sent('$second')");
is((outcome($other))[0], 'COMPLETED', 'who waits for one is told its end');
sleeping($first);
$adapter->query_safe("SELECT iot.adapter_error('$first', 'no')");
is((outcome($waiter))[0], 'CANCELLED', 'who waits for the other goes on, until its own');

# both within one transaction, with the rest
wait_in($waiter, ($first) = sent());
wait_in($other, ($second) = sent());
$adapter->query_safe("SELECT iot.adapter_sent(c.command_id) FROM iot.command c WHERE c.finished_at IS NULL");
is((outcome($waiter))[0], 'COMPLETED', 'one transaction that ends hundreds');
is((outcome($other))[0], 'COMPLETED', 'tells each');

# Without a wake-up.
$id = wait_in($waiter);
$adapter->query_safe("BEGIN; SELECT iot.adapter_sent('$id'); PREPARE TRANSACTION 'rolled back'");
$watch->query_safe("ROLLBACK PREPARED 'rolled back'");
$adapter->query_safe("BEGIN; SELECT iot.adapter_error('$id', 'no'); PREPARE TRANSACTION 'kept'");
sleeping($id);
$watch->query_safe("COMMIT PREPARED 'kept'");
is((outcome($waiter))[0], 'CANCELLED', 'COMMIT PREPARED, in another session, ends a wait');

$adapter->query_safe('SET iot.wakeups = off');
$id = wait_in($waiter);
$adapter->query_safe("SELECT iot.adapter_sent('$id')");
is((outcome($waiter))[0], 'COMPLETED', 'I19: so does who wakes nobody');
$adapter->query_safe('RESET iot.wakeups');
$waiter->query_safe('SET iot.wakeups = off');
$id = wait_in($waiter);
$adapter->query_safe("SELECT iot.adapter_sent('$id')");
is((outcome($waiter))[0], 'COMPLETED', 'I19: and who expects no wake-up');
$waiter->query_safe('RESET iot.wakeups');

# Waits that end before their command, in a transaction that goes on: nothing of them is left behind.
$id = sent();
wait_in($other, $id);
$waiter->query_safe("BEGIN; SAVEPOINT s; SET LOCAL statement_timeout = '100 ms'");
like($waiter->query("SELECT * FROM public.waited('$id')"),
	qr/57014: canceling statement due to statement timeout/, 'statement_timeout ends a wait');
$waiter->query_safe('ROLLBACK TO s');
$waiter->send("SELECT * FROM public.waited('$id')");
sleeping($id, 2);
$watch->query_safe("SELECT pg_cancel_backend($waiter_pid)");
like($waiter->receive, qr/57014: canceling statement due to user request/, 'a cancel ends a wait');
$waiter->query_safe('ROLLBACK TO s');
like($waiter->query("SELECT iot.wait_for_command('$id', '0 s')"), qr/55P03/, 'so does its own timeout');
$waiter->query_safe('ROLLBACK TO s');
my $next = wait_in($waiter);
$adapter->query_safe("SELECT iot.adapter_sent('$next')");
is((outcome($waiter))[0], 'COMPLETED', 'after each the transaction can wait for another');
$waiter->query_safe('COMMIT');

$waiter->send("SELECT * FROM public.waited('$id')");
sleeping($id, 2);
$watch->query_safe("SELECT pg_terminate_backend($waiter_pid)");
poll_until(sub { !$watch->query_safe("SELECT count(*) FROM pg_stat_activity WHERE pid = $waiter_pid") },
	'the session has ended');
$adapter->query_safe("SELECT iot.adapter_sent('$id')");
is((outcome($other))[0], 'COMPLETED', 'a session that is ended while it waits takes nothing from another');

# Many for one.
$id = sent();
my $script = PostgreSQL::Test::Utils::tempdir . '/wait.sql';
$iot->psql('CREATE TABLE public.answer (status text)');
append_to_file($script, "INSERT INTO public.answer SELECT iot.wait_for_command('$id', '3 minutes');\n");
my $many = IPC::Run::start(
	[ program('pgbench'), '-n', '-c', 200, '-t', 1, '-f', $script, $iot->node->connstr($iot->db) ],
	'>', \my $out, '2>&1');
sleeping($id, 200);
$adapter->query_safe("SELECT iot.adapter_sent('$id')");
ok(IPC::Run::finish($many), '200 that wait for one command end') or diag($out);
is($iot->psql('SELECT status, count(*) FROM public.answer GROUP BY 1'), 'COMPLETED|200', 'each with its status');
$iot->node->stop;

# Where iot is not preloaded there is nobody to wake: looks are as frequent as they have to be.
$iot = IotTest->new('bare', preload => '');
$iot->psql($setup);
($waiter, $adapter, $watch) = map { $iot->session } 1 .. 3;
$id = wait_in($waiter);
$adapter->query_safe("SELECT iot.adapter_sent('$id')");
is((outcome($waiter))[0], 'COMPLETED', 'without preload a wait ends as well');

done_testing();
