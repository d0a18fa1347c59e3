# The event log through a slot of pgoutput, mapped by the rules of Debezium's outbox event router with
# the options that doc/kafka.md gives: exactly the committed events, in order, under 16 writers that
# roll back, prepare and crash, while partitions are made, filled from the DEFAULT one and dropped.

use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

use IotTest;

my $iot = IotTest->new('main', databases => '',
	conf => "wal_level = logical\nmax_prepared_transactions = 40\nmax_replication_slots = 4");
my $folder = PostgreSQL::Test::Utils::tempdir;
my $devices = 8;

# the page's connector, and its statements
my $page = slurp_file("$IotTest::source_dir/doc/kafka.md");
my ($connector) = $page =~ /^```json\n(.*?)^```$/ms or die 'doc/kafka.md has no connector';
$connector = JSON::PP->new->decode($connector)->{config};
my ($statements) = $page =~ /^```sql\n(.*?)^```$/ms or die 'doc/kafka.md has no statements';
is($connector->{'plugin.name'}, 'pgoutput', 'the connector reads pgoutput');
is($connector->{'publication.autocreate.mode'}, 'disabled', 'and a publication that is made here');
$iot->psql($statements);
my ($publication, $slot) = @$connector{qw(publication.name slot.name)};
is($iot->psql("SELECT pubname FROM pg_publication_tables WHERE pubname = '$publication'"
		  . " AND schemaname || '.' || tablename = '$connector->{'table.include.list'}'"),
	$publication, 'the statements of the page make it');
$iot->psql("SELECT pg_create_logical_replication_slot('$slot', 'pgoutput')");

$iot->psql(qq{
	INSERT INTO iot.parameter (name) VALUES ('temperature'), ('valve');
	INSERT INTO iot.adapter (name, kind) VALUES ('own', 'own');
	SELECT iot.create_device('boiler-' || n, ARRAY['temperature', 'valve'], adapter => 'own')
		FROM generate_series(1, $devices) n;
	INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold, severity)
		SELECT 'hot', 'threshold', parameter_id, '>', 80, 'red' FROM iot.parameter
		WHERE name = 'temperature'});

# What writers do; pgbench runs one of these at a time in each of its clients.
my $prepared = 'two_phase_:client_id';
my %script = (
	command => [ 4, q{SELECT iot.send_command('boiler-' || :d, 'valve', :v);} ],
	rolled_back => [ 2, q{BEGIN; SELECT iot.send_command('boiler-' || :d, 'valve', :v);
SELECT iot.ingest('boiler-' || :d, '{"temperature": 95}', clock_timestamp()); ROLLBACK;} ],
	measured => [ 4, q{SELECT iot.ingest('boiler-' || :d, jsonb_build_object('temperature', :v),
	clock_timestamp());} ],
	stray => [ 1, q{INSERT INTO iot.event (aggregatetype, aggregateid, type, payload, created_at)
	VALUES ('test', 'stray', 'test.stray', '{}', now() - interval '3 days');} ],
	answered => [ 2, q{SELECT iot.adapter_sent(p.command_id) FROM iot.adapter_poll('own', 4) p;} ],
	prepared => [ 2, qq{BEGIN; SELECT iot.send_command('boiler-' || :d, 'valve', :v);
PREPARE TRANSACTION '$prepared'; COMMIT PREPARED '$prepared';} ],
	prepared_rolled_back => [ 2, qq{BEGIN; SELECT iot.send_command('boiler-' || :d, 'valve', :v);
PREPARE TRANSACTION '$prepared'; ROLLBACK PREPARED '$prepared';} ],
	maintained => [ 1, 'SET client_min_messages = error; CALL iot.maintain();' ]);
my @arguments;
foreach my $name (sort keys %script)
{
	my ($weight, $text) = @{ $script{$name} };

	# one statement a line for pgbench, whose names of clients are no part of a literal
	$text =~ s/\s*\n\s*/ /g;
	append_to_file("$folder/$name.sql",
		"\\set d random(1, $devices)\n\\set v random(0, 100)\n$text\n");
	push @arguments, '-f', "$folder/$name.sql\@$weight";
}

# What came out of the slot, as what the router would send: [id, key, topic, value, headers].
my (%relation, @sent, $commits);
sub string { my ($bytes) = @_; return $$bytes =~ s/\A([^\0]*)\0//s ? $1 : die 'no string'; }

sub column
{
	my ($bytes) = @_;
	my $kind = substr($$bytes, 0, 1, '');

	return undef if $kind eq 'n';
	die "column of kind $kind" unless $kind eq 't';
	my $length = unpack 'N', substr($$bytes, 0, 4, '');
	return substr($$bytes, 0, $length, '');
}

sub route
{
	my ($row) = @_;
	my $option = sub { return $connector->{"transforms.outbox.$_[0]"} // $_[1]; };
	my $topic = $option->('route.topic.replacement', 'outbox.event.${routedByValue}');
	my %headers;

	$topic =~ s/\$\{routedByValue\}/$row->{ $option->('route.by.field', 'aggregatetype') }/;
	foreach my $placement (split /,/, $option->('table.fields.additional.placement', ''))
	{
		my ($field, $where, $alias) = split /:/, $placement;

		die "no column $field" unless exists $row->{$field};
		$headers{ $alias || $field } = $row->{$field} if $where eq 'header';
	}
	foreach my $field (qw(id key payload))
	{
		my $column = $option->("table.field.event.$field",
			{ id => 'id', key => 'aggregateid', payload => 'payload' }->{$field});

		die "no column $column" unless exists $row->{$column};
		$headers{id} = $row->{$column} if $field eq 'id';
	}
	return {
		id => $headers{id},
		key => $row->{ $option->('table.field.event.key', 'aggregateid') },
		topic => $topic,
		value => $row->{ $option->('table.field.event.payload', 'payload') },
		headers => \%headers,
		row => $row };
}

# Reads a message of pgoutput (protocol version 1).
sub message
{
	my ($bytes) = @_;
	my $kind = substr($bytes, 0, 1, '');

	if ($kind eq 'R')
	{
		my $id = unpack 'N', substr($bytes, 0, 4, '');
		my $name = string(\$bytes) . '.' . string(\$bytes);
		my $count = unpack 'x n', substr($bytes, 0, 3, '');
		my @columns;

		foreach (1 .. $count)
		{
			substr($bytes, 0, 1, '');
			push @columns, string(\$bytes);
			substr($bytes, 0, 8, '');
		}
		$relation{$id} = { name => $name, columns => \@columns };
	}
	elsif ($kind eq 'I')
	{
		my ($id, $new, $count) = unpack 'N a n', substr($bytes, 0, 7, '');
		my $relation = $relation{$id} or die 'a row of an unknown relation';
		my %row;

		die 'no new row' unless $new eq 'N' && $count == @{ $relation->{columns} };
		$row{$_} = column(\$bytes) foreach @{ $relation->{columns} };
		die "a row of $relation->{name}" unless $relation->{name} eq $connector->{'table.include.list'};
		push @sent, route(\%row);
	}
	elsif ($kind eq 'C')
	{
		$commits++;
	}
	elsif ($kind !~ /[BOY]/)
	{
		die "message of kind $kind";
	}
	return;
}

# Reads on; up to so many changes, or to the end.  A peek leaves the slot where it is.
sub read_slot
{
	my ($limit, $peek) = @_;
	my $function = $peek ? 'pg_logical_slot_peek_binary_changes' : 'pg_logical_slot_get_binary_changes';

	foreach my $line (split /\n/, $iot->psql("SELECT encode(data, 'hex') FROM $function('$slot', NULL, "
			  . ($limit || 'NULL')
			  . ", 'proto_version', '1', 'publication_names', '$publication')"))
	{
		message(pack 'H*', $line);
	}
	return;
}

foreach my $round (1 .. 3)
{
	# a partition for maintain() to make
	$iot->psql(q{SELECT format('DROP TABLE %s', partition) FROM iot_internal.partitions('iot.event')
		WHERE lower > now() + interval '5 days' \gexec}) if $round == 2;
	$iot->node->command_ok(
		[
			program('pgbench'), '-n', '-c', 16, '-j', 2, '-t', 25, '--max-tries', 10, @arguments, '-h',
			$iot->node->host, '-p', $iot->port, $iot->db
		],
		"round $round: 16 writers");
	read_slot(200);
	# what was read and not confirmed comes again after a crash
	read_slot(100, 1);
	if ($round == 1)
	{
		my $id = $iot->psql("BEGIN; SELECT iot.send_command('boiler-1', 'temperature', 1);"
			  . " PREPARE TRANSACTION 'over the crash'");

		$iot->node->stop('immediate');
		$iot->node->start;
		$iot->psql("COMMIT PREPARED 'over the crash'");
	}
}
# The log drops what is old, whether or not it was read here: the slot reads from the WAL.
$iot->psql('CALL iot.maintain()');
is($iot->psql('SELECT count(*) FROM iot.event_default'), '0', 'no stray is left in the DEFAULT partition');
$iot->psql('CREATE TABLE public.kept AS SELECT * FROM iot.event');
$iot->psql(q{SELECT format('DROP TABLE %s', partition) FROM iot_internal.partitions('iot.event')
	WHERE lower < now() \gexec});
read_slot();

my %kept = map { $_->{event_id} => $_ } $iot->rows('SELECT event_id, aggregatetype, aggregateid, type,'
	  . ' device_id, payload::text AS payload, id FROM public.kept');
my (%first, @told);
foreach my $message (@sent)
{
	push @told, $message unless $first{ $message->{id} }++;
}
cmp_ok(scalar(@sent), '>', scalar(@told), scalar(@sent) . ' messages, some of them again');
cmp_ok(scalar(@told), '>', 500, scalar(@told) . ' events');
is_deeply([ sort keys %first ], [ sort keys %kept ], 'the messages are exactly the committed events');
cmp_ok($iot->psql(q{SELECT count(*) FROM public.kept WHERE type = 'test.stray'}), '>', 10,
	'also those that were moved out of the DEFAULT partition, which is no second message');
my ($strays) = scalar grep { $_->{headers}{eventType} eq 'test.stray' } @told;
is($strays, $iot->psql(q{SELECT count(*) FROM public.kept WHERE type = 'test.stray'}), 'each of them once');
is_deeply([ grep { $_->{value} ne $kept{ $_->{id} }{payload} } @told ], [], 'with their payloads');
is_deeply([ grep { ($_->{key} // '') ne ($kept{ $_->{id} }{device_id} // '') } @told ],
	[], 'under the device\'s key');
is_deeply([ grep { $_->{headers}{eventType} ne $kept{ $_->{id} }{type} } @told ],
	[], 'with their type as a header');
is(join(' ', sort keys %{ { map { $_->{topic} => 1 } @told } }),
	$connector->{'transforms.outbox.route.topic.replacement'}, 'in one topic');

# order: of each aggregate, of each sensor, of each alarm rule
my (%last_id, %last_version, %open, @wrong);
foreach my $message (@told)
{
	my $event = $kept{ $message->{id} };
	my $value = JSON::PP->new->decode($message->{value});
	my $type = $message->{headers}{eventType};

	next if $type eq 'test.stray';
	push @wrong, "$type before one of its past" if $event->{id} < ($last_id{ $event->{aggregateid} } || 0);
	$last_id{ $event->{aggregateid} } = $event->{id};
	if ($type eq 'dm.value_set_approved')
	{
		my $sensor = "$message->{key} $value->{parameter}";

		push @wrong, "version $value->{version} after $last_version{$sensor}"
		  if $value->{version} <= ($last_version{$sensor} || 0);
		$last_version{$sensor} = $value->{version};
	}
	if ($type =~ /^alarm\.(opened|closed)$/)
	{
		push @wrong, "alarm of $message->{key} $1 twice" if ($open{ $message->{key} } || 'closed') eq $1;
		$open{ $message->{key} } = $1;
	}
}
is_deeply(\@wrong, [], 'in order for each command, sensor and alarm');
cmp_ok(scalar(keys %last_version), '>=', $devices, 'over all devices');
cmp_ok(scalar(keys %open), '>=', 2, 'with alarms');
is($iot->psql("SELECT count(*) FROM public.kept k WHERE k.aggregateid NOT IN"
		  . " (SELECT command_id::text FROM iot.command) AND k.aggregatetype = 'command'"),
	'0', 'nothing was rolled back among them');

done_testing();
