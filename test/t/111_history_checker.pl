# The checker of histories itself: a history in which all is well has no findings, and each way of
# breaking a promise, by hand in the tables or in what was seen, is found as that promise and no
# other.  A checker that cannot fail would prove nothing.

use strict;
use warnings;

use Storable qw(dclone);
use Test::More;

use IotTest;
use lib "$IotTest::source_dir/test/torture/lib";
use Torture::Checker;
use Torture::History;
use Torture::Workload;
use Torture::World;

my $world = Torture::World->new(users => [qw(anna bert)], tempers => [qw(good refuser late feed parrot plain)],
	processes => 1, daemons => 1);
my $workload = Torture::Workload->new($world, seed => 111);

# some of everything that is broken below, and first what each of them needs
$world->send_command(device => 'good-1', parameter => 'pressure', value => $_, request_id => $workload->uuid)
  foreach 1 .. 3;
$world->send_command(device => 'refuser-1', parameter => 'pressure', value => 70);
$world->send_command(device => 'late-1', parameter => 'pressure', value => 5);
$world->send_command(device => 'good-2', parameter => 'temperature', value => 200);
$world->send_command(device => $_, parameter => 'pressure', value => 17.5) foreach qw(parrot-1 plain-1 absent-1);
$workload->step('measure') foreach 1 .. 40;
$workload->step('poison') foreach 1 .. 3;
$world->wait_for(sub {
	($world->ask('SELECT count(*) = 0 FROM iot.delivery WHERE status = \'PENDING\'') || '') eq 't' });
$workload->step('leave') foreach 1 .. 2;
$_->leave foreach $world->clients;
$workload->step($_) foreach qw(command measure command measure_again) x 10;
is_deeply([ $world->rest ], [], 'everything comes to rest');

my $observed = $world->observed;
my $session = $world->iot->session;

sub findings_of
{
	my ($history) = @_;
	my @findings = Torture::Checker->check($history);

	return (join(' ', Torture::Checker::invariants(@findings)),
		join("\n", map { Torture::Checker::describe($_) } @findings));
}

$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $clean = Torture::History->read($session, $observed);
$session->query_safe('ROLLBACK');
my ($found, $text) = findings_of($clean);
is($found, '', 'all is well') or diag($text);

# One row of the tables changed; triggers and foreign keys look away.  What the statement needs is
# another, before it.
sub tables
{
	my ($invariant, $what, $sql, $before) = @_;

	$before = $before ? "$before, " : '';
	$session->query_safe("BEGIN; SET LOCAL session_replication_role = 'replica'");
	my $changed = $session->query_safe("WITH ${before}changed AS ($sql RETURNING 1) SELECT count(*) FROM changed");
	my $history = Torture::History->read($session, $observed);
	$session->query_safe('ROLLBACK');
	my ($found, $text) = findings_of($history);
	is("$changed: $found", "1: $invariant", "$invariant: $what") or diag($text);
	return;
}

# Something else was seen.
sub seen
{
	my ($invariant, $what, $change) = @_;
	my $history = dclone($clean);

	$change->($history);
	my ($found, $text) = findings_of($history);
	is($found, $invariant, "$invariant: $what") or diag($text);
	return;
}

# The first row for which the condition holds.
sub first_of
{
	my ($condition, @rows) = @_;

	foreach (@rows)
	{
		return $_ if $condition->($_);
	}
	die 'nothing of this kind happened';
}

# A command that was completed in one of the ways in which device types confirm.
sub completed_by
{
	my ($ack_mode, $history) = @_;
	my %mode = map { $_->{device_id} => $_->{ack_mode} } @{ $history->{device} };

	return first_of(sub { $_->{status} eq 'COMPLETED' && $mode{ $_->{device_id} } eq $ack_mode },
		@{ $history->{command} });
}

sub one { return "($_[0] LIMIT 1)"; }
my $completed = one("SELECT c.command_id FROM iot.command AS c WHERE c.status = 'COMPLETED'"
	  . ' ORDER BY c.command_id');
my $cancelled = one("SELECT c.command_id FROM iot.command AS c WHERE c.status = 'CANCELLED'"
	  . ' ORDER BY c.command_id');

# the saga
tables('I1', 'a command that ends six seconds after its deadline',
	"UPDATE iot.command SET finished_at = deadline + interval '6 s' WHERE command_id = $completed");
tables('I1', 'a step that is not as its command',
	"UPDATE iot.saga_step SET status = 'FAILED' WHERE service = 'adapter' AND command_id = $completed");
tables('I1 I2', 'a command without an end',
	"UPDATE iot.command SET status = 'COMMITTED', finished_at = NULL WHERE command_id = $completed");
tables('I2', 'an event that is missing',
	"DELETE FROM iot.event WHERE type = 'dm.value_set_cancelled' AND aggregateid = $cancelled\::text");
tables('I2', 'an event of another command',
	"UPDATE iot.event SET aggregateid = iot_internal.uuidv7()::text"
	  . " WHERE type = 'command.value_set' AND aggregateid = $completed\::text");
tables('I3', 'a newer value that was overwritten',
	'UPDATE iot.sensor_value AS v SET value = NULL, value_at = NULL, source = NULL, version = 0'
	  . ' WHERE (v.device_id, v.parameter_id) = '
	  . one("SELECT w.device_id, w.parameter_id FROM iot.sensor_value AS w WHERE w.source = 'command'"));
tables('I3', 'a measured value that was overwritten',
	'UPDATE iot.sensor_value AS v SET version = v.last_version - 1'
	  . ' WHERE (v.device_id, v.parameter_id) = '
	  . one("SELECT w.device_id, w.parameter_id FROM iot.sensor_value AS w"
		  . " WHERE w.source = 'measurement' AND w.version = w.last_version AND w.version > 1"));
tables('I3', 'a refused value that stays',
	'UPDATE iot.sensor_value AS v SET value = c.target_value, value_at = now(),'
	  . " source = 'command', version = c.version FROM iot.command AS c"
	  . ' WHERE c.device_id = v.device_id AND c.parameter_id = v.parameter_id'
	  . ' AND v.last_version = c.version AND c.command_id = '
	  . one('SELECT d.command_id FROM iot.command AS d JOIN iot.sensor_value AS w'
		  . ' USING (device_id, parameter_id)'
		  . " WHERE d.status = 'CANCELLED' AND w.last_version = d.version"));
tables('I3', 'a desired value that nobody asked for',
	'UPDATE iot.sensor_value AS v SET desired = v.desired + 1 WHERE (v.device_id, v.parameter_id) = '
	  . one('SELECT w.device_id, w.parameter_id FROM iot.sensor_value AS w WHERE w.desired IS NOT NULL'));
seen('I4', 'a device that was given what was never committed', sub {
	my ($history) = @_;
	my $record = first_of(sub { $_->{kind} eq 'received' }, @{ $history->{sim} });

	push @{ $history->{sim} }, { %$record, id => $workload->uuid };
});
seen('I5', 'a command that was carried out twice', sub {
	my ($history) = @_;

	push @{ $history->{sim} }, { %{ first_of(sub { $_->{kind} eq 'executed' }, @{ $history->{sim} }) } };
});
seen('I5', 'commands that were carried out in the wrong order', sub {
	my ($history) = @_;
	my @executed = grep { $_->{kind} eq 'executed' && $_->{device} eq 'good-1'
		  && $_->{parameter} eq 'pressure' } @{ $history->{sim} };

	$history->{sim} = [ reverse(@executed[ 0, 1 ]),
		grep { my $record = $_; !grep { $_ == $record } @executed[ 0, 1 ] } @{ $history->{sim} } ];
});
seen('I6', 'a command that ended without an answer of its device', sub {
	my ($history) = @_;
	my $command = completed_by('device', $history);

	$history->{sim} = [ grep { $_->{kind} ne 'answered' || $_->{id} ne $command->{command_id} }
		  @{ $history->{sim} } ];
});
seen('I6', 'a command that ended though its value never came back', sub {
	my ($history) = @_;
	my $command = completed_by('echo', $history);

	$_->{committed_at} = $command->{created_at} - 1
	  foreach grep { $_->{device_id} eq $command->{device_id} } @{ $history->{measurement} };
});
seen('I6', 'a command that ended though its device never got it', sub {
	my ($history) = @_;
	my $command = completed_by('broker', $history);

	$history->{sim} = [ grep { $_->{id} ne $command->{command_id} } @{ $history->{sim} } ];
});
seen('I6', 'nobody is said to be subscribed, and somebody was', sub {
	my ($history) = @_;
	my $command = first_of(sub { ($_->{error} || '') eq 'nobody is subscribed' }, @{ $history->{command} });

	$_->{ack_mode} = 'device' foreach grep { $_->{device_id} eq $command->{device_id} } @{ $history->{device} };
});
tables('I6', 'a late answer that the log does not know',
	"UPDATE iot.command SET late = true WHERE command_id = $completed");
my $told = one("SELECT n.* FROM iot.notification AS n WHERE n.event = 'adapter.value_set_sent'"
	  . ' ORDER BY n.seq');
tables('I7', 'a second notification of an outcome', <<"EOC",
INSERT INTO iot.delivery (seq, channel, recipient, status) SELECT seq, 'push', 'anna', 'MUTED' FROM again
EOC
	<<"EOC");
again AS (INSERT INTO iot.notification (event_id, event, channel, audience, device_id, title, body, event_at)
	SELECT event_id, event, channel, audience, device_id, title, body, event_at FROM $told AS told
	RETURNING seq)
EOC
seen('I8', 'a request that made two commands', sub {
	my ($history) = @_;
	my ($one, $two) = grep { defined $_->{request_id} } @{ $history->{command} };

	$two->{request_id} = $one->{request_id};
	@$two{qw(device_id)} = $one->{device_id};
});
seen('I8', 'a sender who was told of a command that is not there', sub {
	my ($history) = @_;

	first_of(sub { !defined $_->{request_id} }, @{ $history->{sent} })->{command_id} = $workload->uuid;
});
seen('I8', 'other arguments under a request id', sub {
	my ($history) = @_;

	first_of(sub { defined $_->{request_id} && $_->{outcome} eq 'ok' }, @{ $history->{sent} })
	  ->{other_arguments} = 1;
});

# ingest: what no rule judges is taken, so that alarms stay as they are
my $unjudged = one("SELECT m.device_id, m.parameter_id, m.ts FROM iot.measurement AS m"
	  . ' JOIN iot.parameter AS p USING (parameter_id) JOIN iot.device AS d USING (device_id)'
	  . " WHERE p.name = 'pressure' AND d.name LIKE 'feed-%' ORDER BY m.ts");
my $late = one('SELECT m.device_id, m.parameter_id, m.ts FROM iot.measurement AS m'
	  . " WHERE m.ts < now() - interval '1 hour' ORDER BY m.ts");
tables('I10', 'a measurement that is missing',
	"DELETE FROM iot.measurement WHERE (device_id, parameter_id, ts) = $unjudged");
tables('I10', 'a measurement that nobody sent',
	"INSERT INTO iot.measurement SELECT device_id, parameter_id, ts - interval '1 ms', 1"
	  . " FROM iot.measurement WHERE (device_id, parameter_id, ts) = $unjudged");
tables('I11', 'a first value that was replaced',
	"UPDATE iot.measurement SET value = value + 1 WHERE (device_id, parameter_id, ts) = $late");
seen('I11', 'a measurement that is there twice', sub {
	my ($history) = @_;

	push @{ $history->{measurement} }, { %{ $history->{measurement}[0] } };
});
tables('I12', 'a message that came to nothing, and no dead letter says so',
	'DELETE FROM iot.dead_letter WHERE dead_letter_id = '
	  . one('SELECT l.dead_letter_id FROM iot.dead_letter AS l ORDER BY 1'));
seen('I12', 'a value that was not counted', sub { $_[0]->{counters}[0]{received}++ });
tables('I14', 'a current value that went back',
	'UPDATE iot.sensor_value AS v SET (value, value_at, reported, reported_at) = (SELECT m.value, m.ts,'
	  . ' m.value, m.ts FROM iot.measurement AS m WHERE m.device_id = v.device_id'
	  . ' AND m.parameter_id = v.parameter_id ORDER BY m.ts LIMIT 1)'
	  . " FROM iot.device AS d WHERE d.device_id = v.device_id AND d.name = 'feed-1'"
	  . " AND v.source = 'measurement' AND v.parameter_id = "
	  . one("SELECT p.parameter_id FROM iot.parameter AS p WHERE p.name = 'pressure'"));
seen('I16', 'a measurement that is no number', sub {
	my ($history) = @_;
	my $parameter = first_of(sub { $_->{name} eq 'pressure' }, @{ $history->{parameter} });

	# not the last of its sensor
	first_of(sub { $_->{parameter_id} eq $parameter->{parameter_id} }, @{ $history->{measurement} })
	  ->{value} = 'NaN';
});

# alarms
tables('I15', 'an alarm that is missing',
	'DELETE FROM iot.alarm WHERE alarm_id = '
	  . one("SELECT a.alarm_id FROM iot.alarm AS a WHERE a.rule = 'hot' ORDER BY a.opened_at"));
tables('I15', 'an alarm that was opened by another measurement',
	"UPDATE iot.alarm SET opened_at = opened_at - interval '1 us' WHERE alarm_id = "
	  . one("SELECT a.alarm_id FROM iot.alarm AS a WHERE a.rule = 'hot' ORDER BY a.opened_at"));
tables('I15', 'two alarms of a rule at a time',
	"UPDATE iot.alarm SET closed_at = closed_at + interval '1 hour' WHERE alarm_id = "
	  . one("SELECT a.alarm_id FROM iot.alarm AS a JOIN iot.alarm AS b USING (device_id, alarm_rule_id)"
		  . " WHERE a.rule = 'volatile' AND a.opened_at < b.opened_at AND a.status = 'CLOSED'"
		  . ' ORDER BY a.opened_at'));
tables('I15', 'an end that the log does not know',
	"UPDATE iot.event SET type = 'alarm.other' WHERE type = 'alarm.closed' AND id = "
	  . one("SELECT e.id FROM iot.event AS e WHERE e.type = 'alarm.closed' ORDER BY e.id DESC"));

# the log, notifications, push
tables('I17', 'a reader that is behind',
	"UPDATE iot.consumer SET last = '3:3:' WHERE name = 'notifier'");
tables('I17', 'a user who was not told',
	'DELETE FROM iot.delivery WHERE (seq, channel, recipient) = '
	  . one("SELECT d.seq, d.channel, d.recipient FROM iot.delivery AS d WHERE d.recipient = 'bert'"));
tables('I25', 'a delivery that waits for one who is there',
	"UPDATE iot.delivery SET status = 'PENDING' WHERE (seq, channel, recipient) = "
	  . one("SELECT d.seq, d.channel, d.recipient FROM iot.delivery AS d WHERE d.recipient = 'bert'"));
seen('I25 I27', 'an event that never came', sub {
	my ($history) = @_;
	my $connection = first_of(sub { @{ $_->{messages} } > 3 }, @{ $history->{connections} });

	splice @{ $connection->{messages} }, -3, 1;
});
seen('I26', 'an event of a group that one may not view', sub {
	my ($history) = @_;

	$_->{until} = 1 foreach grep { $_->{user} eq 'bert' && $_->{group} eq 'house' } @{ $history->{access} };
});
seen('I27', 'a position that was not honoured', sub {
	my ($history) = @_;
	my @connections = grep { $_->{user} eq 'anna' } @{ $history->{connections} };

	$connections[-1]{after_seq} = 0;
});
seen('I27', 'events out of order', sub {
	my ($history) = @_;
	my $connection = first_of(sub {
			grep({ $_->{op} eq 'event' } @{ $_->{messages} }) > 1 }, @{ $history->{connections} });
	my @places = grep { $connection->{messages}[$_]{op} eq 'event' } 0 .. $#{ $connection->{messages} };

	@{ $connection->{messages} }[ @places[ 0, 1 ] ] = @{ $connection->{messages} }[ @places[ 1, 0 ] ];
});
seen('I27', 'an event that came twice', sub {
	my ($history) = @_;
	my $connection = first_of(sub {
			grep({ $_->{op} eq 'event' } @{ $_->{messages} }) > 0 }, @{ $history->{connections} });
	my ($place) = grep { $connection->{messages}[$_]{op} eq 'event' } 0 .. $#{ $connection->{messages} };

	splice @{ $connection->{messages} }, $place, 0, $connection->{messages}[$place];
});

done_testing();
