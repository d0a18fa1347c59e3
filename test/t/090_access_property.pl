# The one rule is one: random users, groups, grants, revocations and moves of devices; what each user
# sees in tables and views, what functions allow, and what the push daemon delivers are the same sets,
# live and after replay (I26).  They are those of a model below, which knows nothing of SQL.
#
# IOT_SEED begins another sequence, IOT_EVENTS makes it longer.

use strict;
use warnings;

use Test::More;

use IotTest;
use IotWebSocket;

my $seed = defined $ENV{IOT_SEED} ? $ENV{IOT_SEED} : 4711;
my $events = $ENV{IOT_EVENTS} || 10_000;
my $rounds = 25;
my @levels = qw(view operate manage);
my @users = map { "user-$_" } 1 .. 7;
my @crews = map { "crew-$_" } 1 .. 5;
my @places = map { "place-$_" } 1 .. 6;
my @devices = map { sprintf 'device-%02d', $_ } 1 .. 18;

srand($seed);
diag("seed $seed");

# The model: who is enabled, who is in which crew, what crews were granted, where devices are.  The
# warden may all, so that no event waits for the first who gains the right to see it.
my %enabled = map { $_ => 1 } @users, 'warden';
my %member;
my %granted;
my %place = map { $_ => $places[ rand @places ] } @devices;

sub level_of
{
	my ($user, $device) = @_;
	my $level = 0;

	return 3 if $user eq 'warden';
	return 0 unless $enabled{$user};
	foreach my $crew (grep { $member{$user}{$_} } @crews)
	{
		my $granted = $granted{$crew}{ $place{$device} } || 0;

		$level = $granted if $granted > $level;
	}
	return $level;
}

sub allowed
{
	my ($user, $level) = @_;

	return join ',', grep { level_of($user, $_) >= $level } @devices;
}

my $iot = IotTest->new('main', conf => "iot.authenticators = 'web'");

$iot->psql(<<'EOC');
CREATE ROLE web LOGIN NOINHERIT;
GRANT iot_viewer, iot_operator TO web;
UPDATE iot.notification_rule SET enabled = false;
INSERT INTO iot.notification_rule (name, event, title) VALUES ('happened', 'test.*', '{device}');
INSERT INTO iot.parameter (name) VALUES ('level');
EOC
my $list = sub { return join ', ', map { "('$_')" } @_ };
my $names = sub { return join ', ', map { "'$_'" } @_ };
$iot->psql('INSERT INTO iot.app_user (username) VALUES ' . $list->(@users, 'warden'));
$iot->psql('INSERT INTO iot.user_group (name) VALUES ' . $list->(@crews, 'wardens'));
$iot->psql('INSERT INTO iot.device_group (name) VALUES ' . $list->(@places));
$iot->psql(join '', map { "SELECT iot.create_device('$_', '{level}', '$place{$_}');" } @devices);
$iot->psql(<<'EOC');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
	WHERE g.name = 'wardens' AND u.username = 'warden';
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, 'manage' FROM iot.user_group g, iot.device_group d
	WHERE g.name = 'wardens';
-- of everything something: values, an open alarm with a comment, a rule, a command
INSERT INTO iot.alarm_rule (name, kind, value_min, parameter_id)
	SELECT 'high', 'range', 500, p.parameter_id FROM iot.parameter p;
INSERT INTO iot.alarm_rule (name, kind, value_min, parameter_id, device_id)
	SELECT 'of-' || d.name, 'range', 5000, p.parameter_id, d.device_id FROM iot.parameter p, iot.device d;
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, now() - interval '10 min', 1000 FROM iot.sensor s;
SELECT iot.comment_alarm(a.alarm_id, 'x') FROM iot.alarm a;
SELECT iot.send_command(d.name, 'level', 5, ttl => '1 day') FROM iot.device d;
INSERT INTO iot.rollup_hour (device_id, parameter_id, ts, count, min, max, avg, last_value, last_at)
	SELECT s.device_id, s.parameter_id, date_trunc('hour', now()) - interval '5 h', 1, 1, 1, 1, 1, now()
	FROM iot.sensor s;

CREATE SCHEMA test;
GRANT USAGE ON SCHEMA test TO PUBLIC;
CREATE TABLE test.subject AS
	SELECT d.name, d.device_id, a.alarm_id, c.command_id FROM iot.device d
		JOIN iot.alarm a ON a.device_id = d.device_id JOIN iot.command c ON c.device_id = d.device_id;
GRANT SELECT ON test.subject TO PUBLIC;
CREATE FUNCTION test.works(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN true;
EXCEPTION WHEN insufficient_privilege THEN
	RETURN false;
END
$$;
-- the devices that a statement works for; of a function with a name, an alarm or a command
CREATE FUNCTION test.for_devices(statement text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(s.name, ',' ORDER BY s.name) FROM test.subject s
	WHERE test.works(format(statement, s.name, s.device_id, s.alarm_id, s.command_id))
$$;
-- the devices that the rows of a query are about
CREATE FUNCTION test.in_rows(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	found text;
BEGIN
	EXECUTE format('SELECT string_agg(DISTINCT s.name, '','' ORDER BY s.name)
		FROM (%s) AS q JOIN test.subject s ON s.device_id::text = q.device::text OR s.name = q.device::text',
		query) INTO found;
	RETURN found;
END
$$;
EOC

# What is asked about each level: a name, and an expression that lists devices.
my %rows = (
	(map { $_ => "SELECT device_id AS device FROM iot.$_" }
		  qw(device sensor sensor_value measurement rollup_hour command saga_step alarm alarm_comment)),
	event => "SELECT device_id AS device FROM iot.event WHERE type = 'command.value_set'",
	alarm_rule => 'SELECT device_id AS device FROM iot.alarm_rule WHERE device_id IS NOT NULL',
	fleet => 'SELECT device FROM iot.fleet',
	open_alarm => 'SELECT device FROM iot.open_alarm');
my %works = (
	last_values => [ 1, q{SELECT * FROM iot.last_values('%1$s')} ],
	history => [ 1, q{SELECT * FROM iot.history('%1$s', 'level', now() - interval '1 h')} ],
	timeline => [ 1, q{SELECT * FROM iot.timeline('%4$s')} ],
	send_command => [ 2, q{SELECT iot.send_command('%1$s', 'level', 6)} ],
	ingest => [ 2, q{SELECT iot.ingest('%1$s', '{"level": 7}')} ],
	acknowledge_alarm => [ 2, q{SELECT iot.acknowledge_alarm('%3$s')} ],
	comment_alarm => [ 2, q{SELECT iot.comment_alarm('%3$s', 'y')} ],
	create_device_credential => [ 3, q{SELECT * FROM iot.create_device_credential('%1$s')} ]);
my %changes = (
	update_device => 'UPDATE iot.device SET description = NULL RETURNING device_id AS device',
	update_sensor => 'UPDATE iot.sensor SET value_max = NULL RETURNING device_id AS device',
	update_rule => 'UPDATE iot.alarm_rule SET enabled = false RETURNING device_id AS device');
my %questions;
$questions{$_} = [ 1, 'SELECT test.in_rows(' . IotTest::literal($rows{$_}) . ')' ] foreach keys %rows;
$questions{$_} = [ $works{$_}[0], 'SELECT test.for_devices(' . IotTest::literal($works{$_}[1]) . ')' ]
  foreach keys %works;
$questions{"may_$levels[$_ - 1]"} = [ $_, "SELECT string_agg(s.name, ',' ORDER BY s.name) FROM test.subject s"
	  . " WHERE iot.may(current_setting('request.jwt.claims')::json ->> 'sub', s.device_id, '$levels[$_ - 1]')" ]
  foreach 1 .. 3;
$questions{$_} = [ 3, "WITH q AS ($changes{$_}) SELECT string_agg(DISTINCT s.name, ',' ORDER BY s.name)"
	  . ' FROM q JOIN test.subject s ON s.device_id = q.device' ]
  foreach keys %changes;

# As PostgREST asks: role and claims are of the transaction, which is taken back.
my $web = $iot->session(user => 'web');

sub ask
{
	my ($user, $sql) = @_;
	my $answer;

	$web->query_safe('BEGIN');
	$web->query_safe('SET LOCAL ROLE iot_operator');
	$web->query_safe("SELECT set_config('request.jwt.claims', '{\"sub\":\"$user\"}', true)");
	$answer = $web->query_safe($sql);
	$web->query_safe('ROLLBACK');
	return $answer;
}

# Of each user a third of the questions in each round, and at last all.
sub differences
{
	my ($round) = @_;
	my @differences;

	foreach my $user (@users, 'warden', 'stranger')
	{
		foreach my $what (grep { $round == $rounds || rand 3 < 1 } sort keys %questions)
		{
			my ($level, $sql) = @{ $questions{$what} };
			my $expected = allowed($user, $level);
			my $answer = ask($user, $sql);

			push @differences, "round $round, $user, $what: [$answer], not [$expected]"
			  if $answer ne $expected;
		}
	}
	return @differences;
}

# Something changes, in one transaction: several grants, memberships, devices and users.
sub mutate
{
	my $sql = "BEGIN;\n";

	foreach (1 .. 2 + rand 6)
	{
		my ($crew, $place, $user, $device) =
		  ($crews[ rand @crews ], $places[ rand @places ], $users[ rand @users ], $devices[ rand @devices ]);
		my $ids = "(SELECT user_group_id FROM iot.user_group WHERE name = '$crew')";
		my $kind = rand 10;

		if ($kind < 4)
		{
			my $level = int rand 4;

			$granted{$crew}{$place} = $level;
			$sql .= "DELETE FROM iot.access_grant WHERE user_group_id = $ids AND device_group_id ="
			  . " (SELECT device_group_id FROM iot.device_group WHERE name = '$place');\n";
			$sql .= "INSERT INTO iot.access_grant (user_group_id, device_group_id, level)"
			  . " SELECT $ids, device_group_id, '$levels[$level - 1]' FROM iot.device_group"
			  . " WHERE name = '$place';\n"
			  if $level;
		}
		elsif ($kind < 7)
		{
			$sql .=
			  ($member{$user}{$crew} ^= 1)
			  ? 'INSERT INTO iot.user_group_member (user_group_id, app_user_id)'
			  . " SELECT $ids, app_user_id FROM iot.app_user WHERE username = '$user';\n"
			  : "DELETE FROM iot.user_group_member WHERE user_group_id = $ids AND app_user_id ="
			  . " (SELECT app_user_id FROM iot.app_user WHERE username = '$user');\n";
		}
		elsif ($kind < 9)
		{
			$place{$device} = $place;
			$sql .= 'UPDATE iot.device SET device_group_id = (SELECT device_group_id'
			  . " FROM iot.device_group WHERE name = '$place') WHERE name = '$device';\n";
		}
		else
		{
			$enabled{$user} = !$enabled{$user};
			$sql .= 'UPDATE iot.app_user SET enabled = NOT enabled'
			  . " WHERE username = '$user';\n";
		}
	}
	$iot->psql($sql . 'COMMIT');
	return;
}

# Sockets of enabled users.  Events are numbers, and told in their order.
my $push = $iot->pushd;
my %socket;
my %position;					# last sequence number that a user was told
my @told;						# of all events so far [ number, device ]
my $number = 0;

# What a user is told up to the event that ends a round; every user may see where that one is.
sub heard
{
	my ($user, $last) = @_;
	my @numbers;

	for (;;)
	{
		my $event = $socket{$user}->event;

		$position{$user} = $event->{seq};
		return join ',', @numbers if $event->{data}{n} eq $last;
		push @numbers, $event->{data}{n};
	}
}

# Who lost the right to be here is sent away; who has it comes, from where he was.
sub connect_users
{
	my ($last) = @_;
	my @differences;

	foreach my $user (@users, 'warden')
	{
		if ($socket{$user} && !$enabled{$user})
		{
			my $code = $socket{$user}->closed;

			push @differences, "$user was closed with $code" if $code != 4401;
			delete $socket{$user};
		}
		elsif (!$socket{$user} && $enabled{$user})
		{
			my $after = $position{$user} || 0;

			$socket{$user} = $push->connect($user);
			$socket{$user}->subscribe(1, events => ['test.*'], after_seq => $after);
		}
	}
	return @differences;
}

sub emit
{
	my @batch = @_;

	$iot->psql('INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)'
		  . " SELECT iot_internal.uuidv7(), 'test', 'x', 'test.happened', json_build_object('n', e.n), d.device_id"
		  . ' FROM (VALUES ' . join(', ', map { "($_->[0], '$_->[1]')" } @batch) . ') AS e (n, name)'
		  . ' JOIN iot.device d ON d.name = e.name ORDER BY e.n');
	push @told, @batch;
	return;
}

# Everybody may see the square, where each round ends.
$iot->psql(<<'EOC');
INSERT INTO iot.device_group (name) VALUES ('square');
SELECT iot.create_device('bell', '{}', 'square');
INSERT INTO iot.user_group (name) VALUES ('everybody');
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u WHERE g.name = 'everybody';
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id, 'view' FROM iot.user_group g, iot.device_group d
	WHERE g.name = 'everybody' AND d.name = 'square';
EOC

sub expected_events
{
	my ($user, $after) = @_;

	return join ',', map { $_->[0] }
	  grep { $_->[0] > $after && ($_->[1] eq 'bell' || level_of($user, $_->[1])) } @told;
}

my (@sql, @live, @replayed);
my %before;					# last number that each user was told
$before{$_} = 0 foreach @users, 'warden';
mutate() foreach 1 .. 12;
foreach my $round (1 .. $rounds)
{
	mutate();
	push @sql, differences($round);

	# who comes back hears first what he missed, as far as he may see it now
	my %replaying = map { $_ => 1 } grep { !$socket{$_} && $enabled{$_} } @users, 'warden';

	push @live, connect_users();
	my @batch = map { [ ++$number, $devices[ rand @devices ] ] } 1 .. $events / $rounds - 1;
	emit(@batch, [ ++$number, 'bell' ]);
	foreach my $user (grep { $enabled{$_} } @users, 'warden')
	{
		my $expected = expected_events($user, $before{$user});
		my $heard = join ',', grep { length } heard($user, $number), $number;

		push @{ $replaying{$user} ? \@replayed : \@live },
		  "round $round, $user: [" . substr($heard, 0, 200) . '], not [' . substr($expected, 0, 200) . ']'
		  if $heard ne $expected;
		$before{$user} = $number;
	}
}
is(join("\n", @sql), '', 'I26: tables, views and functions follow the model in every round');
is(join("\n", @live), '', "I26: and so does what is delivered: $number events, 0 differences");
is(join("\n", @replayed), '', 'and what is told to those who come back');
is($number, $events, "after $events events");

# All of it again, from the begin: by push, by the function, by the tables.
my (@again, $seen);
foreach my $user (grep { $enabled{$_} } @users, 'warden')
{
	my $expected = expected_events($user, 0);

	$socket{$user}->close;
	$socket{$user} = $push->connect($user);
	$socket{$user}->subscribe(1, events => ['test.*'], after_seq => 0);
	my %told = (
		push => join(',', grep { length } heard($user, $number), $number),
		map { $_->[0] => ask($user, "SELECT string_agg(q.n, ',' ORDER BY q.n::integer) FROM ($_->[1]) AS q") }
		  [ function => "SELECT body ->> 'n' AS n FROM iot.notifications(0)" ],
		[ notification => "SELECT body ->> 'n' AS n FROM iot.notification" ],
		[ event => "SELECT payload ->> 'n' AS n FROM iot.event WHERE type = 'test.happened'" ]);

	foreach my $door (sort keys %told)
	{
		push @again, "$user by $door" if $told{$door} ne $expected;
	}
	$seen += () = $expected =~ /,/g;
}
is(join("\n", @again), '', 'replayed from the begin, by push, function and tables alike');
cmp_ok($seen, '>', $events * 1.1, 'there was something to see, and not for the warden alone');
cmp_ok(scalar(grep { !$enabled{$_} } @users), '<', scalar @users, 'and somebody left to see it');

done_testing();
