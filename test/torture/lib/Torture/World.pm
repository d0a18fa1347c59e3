# All that a deployment has, on this machine: a server with the extension and several processes of its
# adapter, a broker, devices of every temper, two push daemons, users who listen to both; and the record
# of what each of them saw.
#
#   my $world = Torture::World->new;
#   ... Torture::Workload, faults ...
#   $world->rest;                                  waits until nothing is under way
#   my @findings = Torture::Checker->check($world->history);

package Torture::World;

use strict;
use warnings;

use Time::HiRes qw(time sleep);

use IotTest;

use Torture::Client;
use Torture::History;
use Torture::Publisher;

my $late_ms = 1500;		# long after the last attempt was given up

# Devices by temper: arguments of the simulator that plays them, and their group.
my %temper = (
	good => { group => 'plant', count => 3, args => { drop_seen => 1 } },
	refuser => { group => 'house', count => 1, args => { refuse_above => 60, drop_seen => 1 } },
	double => { group => 'plant', count => 1, args => { answers => 2, drop_seen => 1, delay_max_ms => 60 } },
	flaky => { group => 'house', count => 1, args => { ignore_first => 1, drop_seen => 1 } },
	late => { group => 'plant', count => 1, args => { delay_ms => $late_ms, drop_seen => 1 } },
	silent => { group => 'house', count => 1, args => { silent => 1 } },
	# confirms by the value that comes back
	parrot => { group => 'plant', count => 2, type => 'echoing', args => { echo => 1, drop_seen => 1 } },
	# the broker's word is enough for these; the second has no one who listens
	plain => { group => 'house', count => 1, type => 'trusting', args => { silent => 1 } },
	absent => { group => 'house', count => 1, type => 'trusting' },
	forger => { group => 'plant', count => 1, args => { answer_as => 'good-1', drop_seen => 1 } },
	# only reports
	feed => { group => 'plant', count => 2, args => { rate => 5, silent => 1 } },
	# nobody plays these: the harness publishes for them
	meter => { group => 'plant', count => 2 },
	gauge => { group => 'house', count => 1 },
);

# Who may view what; carl's right to the house comes and goes.
my %views = (anna => ['plant'], bert => [ 'plant', 'house' ], carl => ['house'], dora => []);

my $count = 0;

sub microseconds { return int(time() * 1_000_000); }

# Options: users (names, all otherwise), tempers (a list, all otherwise), rate (messages a second of
# each device that only reports), processes of the adapter (2), daemons for push (2).
sub new
{
	my ($class, %opt) = @_;
	my $self = bless { access => [], outages => [], exempt => [], sent => [], answers => [],
		ingested => [], processes => 2, %opt }, $class;

	my $name = 'world' . ++$count;

	$self->{iot} = IotTest->new($name, conf => "track_commit_timestamp = on\n");
	$self->{broker} = IotTest::Broker->new($name);
	$self->make_registry;
	$self->make_users(@{ $opt{users} || [ sort keys %views ] });
	$self->{iot}->use_broker($self->{broker});
	$self->{iot}->psql("UPDATE iot.adapter SET options = options || '{\"processes\": $self->{processes}}'");
	poll_until(sub { $self->workers_are_back }, 'all processes of the adapter are connected');
	$self->{publisher} = Torture::Publisher->new(port => $self->{broker}->port);
	$self->{daemons} = [ map { $self->{iot}->pushd } 1 .. $opt{daemons} || 2 ];
	foreach my $name (@{ $opt{tempers} || [ sort keys %temper ] })
	{
		next unless $temper{$name}{args};
		my %args = %{ $temper{$name}{args} };

		$args{rate} = $opt{rate} if exists $args{rate} && defined $opt{rate};
		$args{state} = $self->{broker}->dir . "/seen_$name" if $args{drop_seen};
		$self->{sim}{$name} = $self->{iot}->simulator($self->{broker},
			prefix => "$name-", count => $temper{$name}{count}, persistent => 1,
			client_id => "sim-$name",
			parameters => 'temperature=40,pressure=5', jitter => 4, log_telemetry => 1, %args);
	}
	foreach my $user (@{ $self->{users} })
	{
		push @{ $self->{clients} }, map { Torture::Client->new($_, $user) } @{ $self->{daemons} };
	}
	poll_until(sub { $self->pump; !grep { !$_->is_connected } @{ $self->{clients} } },
		'all clients are connected');
	return $self;
}

sub make_registry
{
	my ($self) = @_;
	my $iot = $self->{iot};

	$iot->parameter('temperature', unit => 'C', min => 0, max => 100);
	$iot->parameter('pressure', unit => 'bar');
	$iot->psql("INSERT INTO iot.device_group (name) VALUES ('plant'), ('house')");
	$iot->psql("INSERT INTO iot.device_type (name, ack_mode) VALUES ('echoing', 'echo'), ('trusting', 'broker')");
	$iot->psql("UPDATE iot.device_type SET ack_timeout = '300 ms', max_attempts = 3");
	$iot->psql('INSERT INTO iot.alarm_rule (name, kind, scope, device_id, parameter_id, comparison,'
		  . ' threshold, close_threshold) SELECT v.* FROM (SELECT p.parameter_id FROM iot.parameter p'
		  . " WHERE p.name = 'temperature') AS t, LATERAL (VALUES"
		  . " ('hot', 'threshold', 'all', NULL::uuid, t.parameter_id, '>', 75, 65),"
		  . " ('cold', 'threshold', 'all', NULL, t.parameter_id, '<=', 10, NULL),"
		  . " ('volatile', 'threshold', 'all', NULL, t.parameter_id, '>=', 50, 45)) AS v");
	foreach my $name (sort keys %temper)
	{
		$iot->device("$name-$_", [qw(temperature pressure)], group => $temper{$name}{group},
			type => $temper{$name}{type} || 'default')
		  foreach 1 .. $temper{$name}{count};
	}
	return;
}

sub make_users
{
	my ($self, @users) = @_;

	$self->{users} = \@users;
	foreach my $user (@users)
	{
		$self->{iot}->psql('INSERT INTO iot.app_user (username) VALUES (' . IotTest::literal($user) . ')');
		$self->allow($user, $_) foreach @{ $views{$user} };
	}
	return;
}

# A right begins before it is given, and ends after it is taken: what lies between is not held
# against anybody.
sub allow
{
	my ($self, $user, $group) = @_;
	my $changes = $user eq 'carl';

	push @{ $self->{access} },
	  { user => $user, group => $group, from => $changes ? microseconds() : 0, until => undef };
	$self->{iot}->user($user, group => $group, level => 'view');
	return;
}

sub revoke
{
	my ($self, $user, $group) = @_;

	$self->{iot}->psql('DELETE FROM iot.access_grant a USING iot.user_group g, iot.device_group d'
		  . ' WHERE a.user_group_id = g.user_group_id AND a.device_group_id = d.device_group_id'
		  . ' AND g.name = ' . IotTest::literal("$user-$group") . ' AND d.name = '
		  . IotTest::literal($group));
	my ($access) =
	  grep { $_->{user} eq $user && $_->{group} eq $group && !defined $_->{until} }
	  @{ $self->{access} };
	$access->{until} = microseconds() if $access;
	return;
}

sub may_view
{
	my ($self, $user, $group) = @_;

	return grep { $_->{user} eq $user && $_->{group} eq $group && !defined $_->{until} }
	  @{ $self->{access} };
}

# After a rest, what only reports does so again.
sub wake
{
	my ($self) = @_;
	my $feed = $self->{sim}{feed};

	return if !$feed || $feed->alive;
	my $offset = $feed->log_size;
	$feed->spawn;
	$self->wait_for(sub { $feed->log_content($offset) =~ /^ready$/m });
	return;
}

sub iot { return $_[0]->{iot}; }
sub broker { return $_[0]->{broker}; }
sub daemons { return @{ $_[0]->{daemons} }; }
sub sim { return $_[0]->{sim}{ $_[1] }; }
sub clients { return @{ $_[0]->{clients} }; }
sub publisher { return $_[0]->{publisher}; }

sub devices
{
	my ($self) = @_;

	return map { my $name = $_; map { "$name-$_" } 1 .. $temper{$name}{count} } sort keys %temper;
}

# Everybody who listens or speaks without waiting does so.
sub pump
{
	my ($self) = @_;

	$self->{publisher}->pump;
	$_->pump foreach @{ $self->{clients} };
	return;
}

# Stops everything, so that another world has the machine to itself.
sub end
{
	my ($self) = @_;

	$self->lose_session;
	delete $self->{rush};
	$_->leave foreach @{ $self->{clients} };
	$_->stop foreach values %{ $self->{sim} }, @{ $self->{daemons} };
	$self->{iot}->node->stop;
	$self->{broker}->stop;
	return;
}

# A session for commands, as long as it lives.
sub session
{
	my ($self) = @_;

	return $self->{session} ||= $self->{iot}->session;
}

sub lose_session
{
	my ($self) = @_;

	delete $self->{session};
	return;
}

# One value, or undef where the server is away.
sub ask
{
	my ($self, $sql) = @_;
	my $answer = eval { $self->session->query($sql) };

	if (!defined $answer || $answer =~ /^(?:psql:[^\n]*)?(?:ERROR|FATAL|PANIC):/m)
	{
		$self->lose_session unless defined $answer && $answer =~ /ERROR:/ && $answer !~ /FATAL:|57P0/;
		return undef;
	}
	return $answer;
}

# Waits for a condition while clients and publisher go on; false when it does not come.
sub wait_for
{
	my ($self, $condition, $timeout) = @_;
	my $end = time() + ($timeout || $PostgreSQL::Test::Utils::timeout_default);
	my $pause = 0.01;

	until ($condition->())
	{
		return 0 if time() > $end;
		$self->pump;
		sleep $pause;
		$pause *= 1.5 if $pause < 0.1;
	}
	return 1;
}

# Every worker that is wanted is there and at work.
sub workers_are_back
{
	my ($self) = @_;

	return ($self->ask("SELECT count(*) FILTER (WHERE kind = 'mqtt adapter' AND state = 'connected')"
			  . " = $self->{processes}"
			  . " AND count(*) FILTER (WHERE kind = 'notifier' AND pid IS NOT NULL) = 1"
			  . ' FROM iot_internal.worker_slots()') || '') eq 't';
}

# Whether devices have what was completed by the broker's word alone.
sub confirmed_has_come
{
	my ($self) = @_;
	my $plain = $self->{sim}{plain} or return 1;
	my %has = map { $_->{id} => 1 } $plain->records('received');
	my $ids = $self->ask("SELECT string_agg(command_id::text, ' ') FROM iot.command AS c"
		  . " JOIN iot.device AS d USING (device_id) WHERE c.status = 'COMPLETED' AND d.name LIKE 'plain-%'");

	return defined $ids && !grep { !$has{$_} } split / /, $ids;
}

# Waits until nothing is under way: every command has its end, the broker has nothing for us, the
# log is read, everybody who listens has been told.  Returns what did not come to rest, in words.
sub rest
{
	my ($self, $timeout) = @_;
	my @restless;
	my $wait = sub {
		my ($what, $condition) = @_;

		push @restless, $what unless $self->wait_for($condition, $timeout);
	};
	my $true = sub { my ($sql) = @_; return sub { ($self->ask($sql) || '') eq 't' }; };

	# nothing new but answers
	$self->{sim}{feed}->stop if $self->{sim}{feed};
	$wait->('workers are not back', sub { $self->workers_are_back });
	$wait->('the broker does not confirm', sub { $self->{publisher}->unconfirmed == 0 });
	$wait->('commands do not end',
		$true->('SELECT count(*) = 0 FROM iot.command WHERE finished_at IS NULL'));
	$wait->('late answers do not leave', sub {
		my $late = $self->{sim}{late} or return 1;
		my ($newest) = sort { $b->{at} <=> $a->{at} } $late->records('received');

		return !$newest || time() * 1000 > $newest->{at} + $late_ms + 200;
	});
	# what the broker has confirmed in a device's place is on its way to it; what it lost never comes
	$self->wait_for(sub { $self->confirmed_has_come }, 2);
	# Messages of one session come in their order, and sessions that share telemetry take turns: once
	# several are stored, what was sent before them has come as well.
	my $ms = int(time() * 1000);
	$ms = $self->{last_marker} + 1 if $ms <= ($self->{last_marker} || 0);
	my $markers = $self->{processes} == 1 ? 1 : 4 * $self->{processes};
	$self->{last_marker} = $ms + $markers - 1;
	$self->publish('gauge-1', [ [ 'pressure', $_, 1 ] ]) foreach $ms .. $self->{last_marker};
	$wait->('what the broker holds is not stored',
		$true->("SELECT count(*) = $markers FROM iot.measurement WHERE ts"
			  . " BETWEEN to_timestamp($ms / 1000.0) AND to_timestamp($self->{last_marker} / 1000.0)"
			  . " AND device_id = (SELECT device_id FROM iot.device WHERE name = 'gauge-1')"));
	$wait->('the log is not read to its end', sub {
		my $rows = eval { Torture::History::rows($self->session, 'consumer') };

		return $rows && !grep { $_->{behind} > 0 } @$rows;
	});
	$wait->('clients are not connected', sub {
		$self->pump;
		return !grep { !$_->is_connected } @{ $self->{clients} };
	});
	# whoever may not be told any more is waited for in vain
	$wait->('users are not told',
		$true->('SELECT count(*) = 0 FROM iot.delivery AS y JOIN iot.notification AS n USING (seq)'
			  . ' JOIN iot.device AS d USING (device_id)'
			  . " WHERE y.status = 'PENDING' AND y.channel = 'push' AND EXISTS (SELECT FROM"
			  . ' iot.app_user AS u JOIN iot.user_group_member AS m USING (app_user_id)'
			  . ' JOIN iot.access_grant AS a USING (user_group_id) WHERE u.username = y.recipient'
			  . ' AND a.device_group_id = d.device_group_id)'));
	foreach my $client (@{ $self->{clients} })
	{
		$wait->("$client->{user} does not read to the end", sub { $client->is_drained });
	}
	return @restless;
}

# Publishes points of a device: [[parameter, ms, value], ...].  The record of the message.
sub publish
{
	my ($self, $device, $points, %more) = @_;
	my $payload = '['
	  . join(',', map { qq({"ts":$_->[1],"values":{"$_->[0]":$_->[2]}}) } @$points) . ']';
	my $message = $self->{publisher}->publish("iot/$device/telemetry", $payload);

	$message->{device} = $device;
	$message->{points} = [ map { [ $_->[0], $_->[1] * 1000, $_->[2] ] } @$points ];
	@$message{ keys %more } = values %more;
	return $message;
}

# A measurement through the door for SQL; known to be taken in once the call has returned.
sub ingest
{
	my ($self, $device, $parameter, $ms, $value) = @_;
	my $message = { device => $device, points => [ [ $parameter, $ms * 1000, $value ] ] };

	push @{ $self->{ingested} }, $message;
	my $answer = $self->ask(sprintf(q{SELECT iot.ingest(%s, '{"%s": %s}', to_timestamp(%d / 1000.0))},
			IotTest::literal($device), $parameter, $value, $ms));
	$message->{acked} = microseconds() if defined $answer && $answer =~ /^\d+$/;
	return;
}

# What nobody can use; reason is what the dead letter must say.
sub publish_poison
{
	my ($self, $topic, $payload, $reason) = @_;
	my $message = $self->{publisher}->publish($topic, $payload);

	$message->{reason} = $reason;
	return $message;
}

# An answer to a command, given by the harness in a device's name.
sub answer
{
	my ($self, $device, $id, $error) = @_;
	my $payload = defined $error
	  ? qq({"id":"$id","ok":false,"error":"$error"}) : qq({"id":"$id","ok":true});

	push @{ $self->{answers} }, { kind => 'answered', device => $device, id => $id, error => $error };
	return $self->{publisher}->publish("iot/$device/command/ack", $payload);
}

# Sends a command in a session of its own if one is given; the record of it.
sub send_command
{
	my ($self, %arg) = @_;
	my $record = { %arg, at => microseconds() };

	delete $record->{session};
	push @{ $self->{sent} }, $record;
	return $self->send_record($record, $arg{session});
}

sub command_sql
{
	my ($record) = @_;

	return sprintf('SELECT iot.send_command(%s, %s, %s::double precision%s)',
		IotTest::literal($record->{device}), IotTest::literal($record->{parameter}),
		IotTest::literal($record->{value}),
		join('', map { ", $_ => " . IotTest::literal($record->{$_}) }
			  grep { defined $record->{$_} } qw(action expected request_id ttl)));
}

sub send_record
{
	my ($self, $record, $session) = @_;
	my $answer = eval { ($session || $self->session)->query(command_sql($record)) };

	$self->judge_answer($record, $answer);
	$self->lose_session if !$session && $record->{outcome} eq 'unknown';
	return $record;
}

# Commands that sessions of their own send at the same time.
sub send_together
{
	my ($self, @arguments) = @_;
	my @records = map { { %$_, at => microseconds() } } @arguments;

	push @{ $self->{sent} }, @records;
	$self->{rush}[$_] ||= eval { $self->{iot}->session } foreach 0 .. $#records;
	my @sending = grep {
		my $session = $self->{rush}[$_];
		$session && eval { $session->send(command_sql($records[$_])); 1 };
	} 0 .. $#records;
	my %answer = map { $_ => scalar eval { $self->{rush}[$_]->receive } } @sending;

	foreach (0 .. $#records)
	{
		$self->judge_answer($records[$_], $answer{$_});
		$self->{rush}[$_] = undef if $records[$_]{outcome} eq 'unknown';
	}
	return @records;
}

# What the sender learned: the command's id, a refusal, or nothing.
sub judge_answer
{
	my ($self, $record, $answer) = @_;

	if (defined $answer && $answer =~ /^([0-9a-f]{8}-[0-9a-f-]{27})$/m)
	{
		$record->{outcome} = 'ok';
		$record->{command_id} = $1;
	}
	elsif (defined $answer && $answer =~ /ERROR: +22023/)
	{
		$record->{outcome} = 'refused';
	}
	else
	{
		$record->{outcome} = 'unknown';
		$record->{answer} = $answer;
	}
	return;
}

# Something is down from now on, and until it is said to be back.
sub outage_begins
{
	my ($self) = @_;

	push @{ $self->{outages} }, [ microseconds(), microseconds() ];
	return;
}

sub outage_ends
{
	my ($self) = @_;

	$self->{outages}[-1][1] = microseconds();
	return;
}

# Telemetry of the simulators, as the publisher records its own.
sub telemetry
{
	my ($name, @records) = @_;
	my %message;

	foreach my $record (grep { $_->{kind} =~ /^(?:published|acked)$/ } @records)
	{
		my $message = $message{"$record->{device} $record->{ts}"} ||= {
			device => $record->{device},
			points => [ map { [ $_, $record->{ts} * 1000, undef ] } qw(temperature pressure) ]
		};

		$message->{acked} = $record->{at} * 1000 if $record->{kind} eq 'acked';
	}
	return values %message;
}

# Values by which a device has confirmed commands.  Nothing says whether the broker has them.
sub echoes
{
	return map { { device => $_->{device}, points => [ [ $_->{parameter}, $_->{ts} * 1000, $_->{value} ] ] } }
	  grep { $_->{kind} eq 'echoed' } @_;
}

# What is not in tables: the logs of devices, clients and of the harness itself.
sub observed
{
	my ($self) = @_;
	my %observed = map { $_ => [] } qw(sim published);

	foreach my $name (sort keys %{ $self->{sim} })
	{
		my @records = $self->{sim}{$name}->records;

		push @{ $observed{published} }, $temper{$name}{args}{echo} ? echoes(@records) : telemetry($name, @records);
		push @{ $observed{sim} }, map { $name eq 'forger' ? { %$_, foreign => 1 } : $_ }
		  grep { $_->{kind} !~ /^(?:published|acked)$/ } @records;
	}
	push @{ $observed{sim} }, @{ $self->{answers} };
	push @{ $observed{published} }, $self->{publisher}->sent, @{ $self->{ingested} };
	$observed{connections} = [ map { $_->connections } @{ $self->{clients} } ];
	$observed{counters} = $self->counters;
	$observed{processes} = $self->{processes};
	$observed{$_} = $self->{$_} foreach qw(access outages exempt sent);
	return \%observed;
}

# All that is known, the tables as they were at one moment.
sub history
{
	my ($self) = @_;
	my $session = $self->{iot}->session;

	# the tables first: what comes meanwhile is then a record without an effect, and not the other way
	# round
	$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $history = Torture::History->read($session, {});
	$session->query_safe('COMMIT');
	my $observed = $self->observed;
	@$history{ keys %$observed } = values %$observed;
	return $history;
}

# What the adapter has counted since it started.
sub counters
{
	my ($self) = @_;
	my @names = qw(received stored duplicate conflict rejected);

	return [
		$self->{iot}->rows('SELECT w.name, '
			  . join(', ', map { "coalesce((w.counters ->> '$_')::bigint, 0) AS $_" } @names)
			  . " FROM iot_internal.worker_slots() AS w WHERE w.kind = 'mqtt adapter'") ];
}

1;
