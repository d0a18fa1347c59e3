# What happened, as the tables, the devices and the clients tell it.
#
#   my $history = Torture::History->read($session, $world->observed);
#   my @findings = Torture::Checker->check($history);
#
# Tables are read as they are: no function, view or trigger of the product has a say in what the
# checker sees.  Times are whole microseconds since 1970, names are texts, what is NULL is undef.

package Torture::History;

use strict;
use warnings;

# Columns by table; an expression other than the column's name stands behind it.
my %columns = (
	device => {
		from => 'iot.device d JOIN iot.device_group g USING (device_group_id)'
		  . ' JOIN iot.device_type t USING (device_type_id)',
		order => 'd.name',
		columns => [ 'device_id', name => 'd.name', group => 'g.name', ack_mode => 't.ack_mode' ],
	},
	parameter => { from => 'iot.parameter', order => 'name', columns => [qw(parameter_id name)] },
	event => {
		from => 'iot.event e',
		order => 'e.id',
		columns => [
			qw(id event_id type aggregatetype aggregateid device_id),
			created_at => us('e.created_at'),
			map { ($_ => "e.payload ->> '$_'") }
			  qw(version target_value superseded error rule alarm_id severity username),
		],
	},
	command => {
		from => 'iot.command c',
		order => 'c.command_id',
		columns => [
			qw(device_id command_id request_id parameter_id action value expected target_value
			  previous_value version username status error superseded late attempts),
			map { ($_ => us("c.$_")) } qw(created_at deadline finished_at),
		],
	},
	saga_step => {
		from => 'iot.saga_step s',
		order => 's.command_id, s.service',
		columns => [qw(device_id command_id service status error)],
	},
	sensor_value => {
		from => 'iot.sensor_value v',
		order => 'v.device_id, v.parameter_id',
		columns => [
			qw(device_id parameter_id value source version last_version desired desired_version
			  reported),
			map { ($_ => us("v.$_")) } qw(value_at reported_at),
		],
	},
	measurement => {
		# In the order of commits, which for one sensor is that of judgement: who judges holds its row until
		# then.  Ids of transactions are taken earlier, and several processes of an adapter overlap.
		from => 'iot.measurement m',
		order => 'pg_xact_commit_timestamp(m.xmin), m.xmin::text::bigint, m.device_id, m.parameter_id, m.ts',
		columns => [
			'device_id', 'parameter_id', 'value', ts => us('m.ts'),
			committed_at => us('pg_xact_commit_timestamp(m.xmin)')
		],
	},
	alarm => {
		from => 'iot.alarm a',
		order => 'a.opened_at, a.alarm_id',
		columns => [
			qw(device_id alarm_id alarm_rule_id rule parameter_id severity status value closed_by
			  acknowledged_by),
			map { ($_ => us("a.$_")) } qw(opened_at closed_at),
		],
	},
	alarm_rule => {
		from => 'iot.alarm_rule r',
		order => 'r.name',
		columns => [
			qw(alarm_rule_id name kind scope device_id device_group_id parameter_id comparison
			  threshold close_threshold red_threshold repeat_count enabled auto_close),
			plain => "(r.duration = '0' AND r.min_open = '0' AND r.threshold_attribute IS NULL"
			  . ' AND r.from_time IS NULL AND r.weekdays IS NULL)',
			map { ($_ => us("r.$_")) } qw(created_at updated_at),
		],
	},
	notification => {
		from => 'iot.notification n',
		order => 'n.seq',
		columns => [
			qw(seq event_id event channel audience device_id device username),
			created_at => us('n.created_at'),
		],
	},
	delivery => {
		from => 'iot.delivery d',
		order => 'd.seq, d.channel, d.recipient',
		columns => [qw(seq channel recipient status attempts)],
	},
	dead_letter => {
		from => 'iot.dead_letter l',
		order => 'l.dead_letter_id',
		columns => [
			qw(dead_letter_id adapter device topic reason error),
			payload => "encode(l.payload, 'hex')",
		],
	},
	# how much of what it reads of the log a reader has not been offered, by snapshot
	consumer => {
		from => 'iot.consumer c',
		order => 'c.name',
		columns => [
			'name',
			behind => '(SELECT count(*) FROM iot.event e WHERE e.xid >= pg_snapshot_xmin(c.last)'
			  . ' AND NOT pg_visible_in_snapshot(e.xid, c.last)'
			  . ' AND NOT coalesce(e.id <= c.after_id AND pg_visible_in_snapshot(e.xid, c.target),'
			  . ' false)'
			  . " AND CASE WHEN c.name = 'notifier' THEN e.type ~ '^(adapter.value_set_(sent|error)"
			  . "|dm.value_set_error|alarm.(opened|closed|severity_changed))\$'"
			  . " ELSE e.type = 'dm.value_set_approved' END)",
		],
	},
	notification_rule => {
		from => 'iot.notification_rule r',
		order => 'r.name',
		columns => [qw(name event channel audience enabled)],
	},
);

sub us { return "(extract(epoch FROM $_[0]) * 1000000)::bigint"; }

sub tables { return sort keys %columns; }

# Rows of a table as hashes, in its order, as the session sees them.
sub rows
{
	my ($session, $table) = @_;
	my $spec = $columns{$table} or die "no table $table";
	my (@names, @expressions);
	my @list = @{ $spec->{columns} };

	# a name alone is a column; one that an expression follows is called so
	while (@list)
	{
		my $name = shift @list;

		push @names, $name;
		push @expressions, @list && $list[0] =~ /[^a-z_]/ ? shift @list : $name;
	}
	my $fields = join(', ', map { "coalesce(translate(($_)::text, E'\\n\\x1f', '  '), E'\\x1e')" }
		  @expressions);
	my $text = $session->query_safe("SELECT concat_ws(E'\\x1f', $fields) FROM $spec->{from}"
		  . " ORDER BY $spec->{order}");
	my @rows;

	foreach my $line (split /\n/, $text)
	{
		my %row;

		@row{@names} = map { $_ eq "\x1e" ? undef : $_ } split /\x1f/, $line, -1;
		push @rows, \%row;
	}
	return \@rows;
}

# All tables, in the transaction that the session is in, and what only the harness saw:
#   sim          lines of the simulators' logs
#   sent         commands asked for: { device, request_id, command_id, outcome, at, ... }
#   published    telemetry: { device, topic, payload, points => [[parameter, ts, value]...], acked }
#   connections  of WebSocket clients: { user, opened_at, after_seq, messages => [...] }
#   access       what users may view: { user, group, from, until }
#   counters     of adapters, since they started
#   processes    of the adapter, that share its telemetry
#   outages      [from, until] in which something was down that the harness had killed
#   exempt       [from, until] in which the broker may have lost what it had confirmed
sub read
{
	my ($class, $session, $observed) = @_;
	my $self = bless {%$observed}, $class;

	$self->{$_} = rows($session, $_) foreach $class->tables;
	return $self;
}

1;
