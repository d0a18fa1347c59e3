# Live measurements: what sensors say, to who listens and may view them, the newest of each at most
# once an interval, and nothing kept for it.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotNotify;
use IotWebSocket;

my $iot = IotTest->new('main', databases => '');
setup_push($iot);
$iot->psql(<<'EOC');
INSERT INTO iot.parameter (name, unit) VALUES ('pressure', 'bar');
INSERT INTO iot.device_group (name) VALUES ('large');
SELECT iot.create_device('boiler-2', '{temperature,pressure}', device_group => 'plant');
INSERT INTO iot.sensor (device_id, parameter_id)
	SELECT d.device_id, p.parameter_id FROM iot.device d, iot.parameter p
	WHERE d.name = 'boiler-1' AND p.name = 'pressure';
EOC
my $push = $iot->pushd;

sub ingest
{
	my ($device, $values) = @_;

	return $iot->psql(
		"SELECT iot.ingest('$device', '$values', clock_timestamp())");
}

sub metric
{
	my ($name) = @_;
	my ($value) = ($push->http_get('/metrics'))[1] =~ /^iot_pushd_$name (\d+)$/m;

	return $value;
}

sub live
{
	my ($ws, $id, %opt) = @_;

	$ws->send({ op => 'live', id => $id, %opt });
	is($ws->expect('subscribed')->{id}, $id, "listens, id $id");
	return;
}

# the next value, as a short text
sub value
{
	my ($ws, $wait) = @_;
	my $m = $ws->expect('measurement', $wait);

	return join ' ', map { defined $_ ? $_ : 'null' } @$m{qw(id device parameter value)};
}

is(metric('value_polls_total'), 0, 'while nobody listens, nothing is asked');

# the first answer is what there is
ingest('boiler-1', '{"temperature": 20.5, "pressure": 2}');
ingest('lamp-1', '{"temperature": 19}');
my $anna = $push->connect('anna');
live($anna, 2, devices => ['boiler-1'], groups => ['house'], parameters => ['temperature']);
my $first = $anna->expect('measurement');
my $at = delete $first->{at};
is_deeply(
	$first,
	{   op => 'measurement',
		id => 2,
		device => 'boiler-1',
		parameter => 'temperature',
		value => 20.5,
		unit => undef,
		source => 'measurement' },
	'the current value comes first');
is($at, $iot->psql(q{SELECT iot_internal.utc_text(v.value_at) FROM iot.sensor_value v
	JOIN iot.device d USING (device_id) JOIN iot.parameter p USING (parameter_id)
	WHERE d.name = 'boiler-1' AND p.name = 'temperature'}), 'with its time');
ingest('boiler-1', '{"temperature": 21}');
is(value($anna), '2 boiler-1 temperature 21', 'then what is new');
ingest('boiler-1', '{"pressure": 3}');
ingest('boiler-2', '{"temperature": 1}');
ingest('lamp-1', '{"temperature": 2}');
ok($anna->silent(1), 'no other parameter, no other device, and none of a group that he may not view');

# one message may serve many, each with the numbers of its own
my $carl = $push->connect('carl');
live($carl, 7, groups => [ 'house', 'plant', 'nowhere' ], devices => ['nothing']);
is(value($carl), '7 lamp-1 temperature 2', 'another user hears what he may view');
live($anna, 3, groups => ['plant'], parameters => ['pressure']);
is(value($anna), '3 boiler-1 pressure 3', 'a second subscription of one connection; it knows no value '
	  . 'where there is none');
ingest('boiler-2', '{"temperature": 5, "pressure": 6}');
is(value($anna), '3 boiler-2 pressure 6', 'groups are all their devices');
ingest('boiler-1', '{"temperature": 22, "pressure": 4}');
is(join(', ', sort(value($anna), value($anna))), '2 boiler-1 temperature 22, 3 boiler-1 pressure 4',
	'each subscription hears its own');
ok($anna->silent(0.6) && $carl->silent(0.1), 'and nothing is told twice');

# a command sets the value, and taking it back is news too
my $id = $iot->send_command('boiler-1', 'temperature', 30);
is(value($anna), '2 boiler-1 temperature 30', 'a command sets the current value');
$iot->psql(qq{SELECT iot.adapter_poll('mqtt', 10); SELECT iot.adapter_error('$id', 'refused')});
is(value($anna), '2 boiler-1 temperature 22', '... which comes back when it fails');
$id = $iot->psql(q{INSERT INTO iot.parameter (name) VALUES ('level');
	INSERT INTO iot.sensor (device_id, parameter_id) SELECT d.device_id, p.parameter_id
		FROM iot.device d, iot.parameter p WHERE d.name = 'boiler-2' AND p.name = 'level';
	SELECT iot.send_command('boiler-2', 'level', 1)});
live($anna, 4, devices => ['boiler-2'], parameters => ['level']);
is(value($anna), '4 boiler-2 level 1', 'a value that only a command has set');
$iot->psql(qq{SELECT iot.adapter_poll('mqtt', 10); SELECT iot.adapter_error('$id', 'refused')});
is(value($anna), '4 boiler-2 level null', '... and no value after it');

# transactions in any order
my $slow = $iot->session;
$slow->query_safe('BEGIN');
$slow->query_safe('SELECT pg_current_xact_id()');
ingest('boiler-1', '{"temperature": 23}');
is(value($anna), '2 boiler-1 temperature 23', 'a transaction that is open elsewhere holds nothing back');
ok($anna->silent(1), '... and repeats nothing');
$slow->query_safe(q{SAVEPOINT s; SELECT iot.ingest('boiler-2', '{"pressure": 9}', clock_timestamp())});
$slow->query_safe('RELEASE s');
ingest('boiler-1', '{"temperature": 24}');
is(value($anna), '2 boiler-1 temperature 24', 'other sensors go on');
ok($anna->silent(0.6), 'what is not committed is not told');
$slow->query_safe('COMMIT');
is(value($anna), '3 boiler-2 pressure 9', 'and is when it is, however late, from a savepoint too');
$slow->close;

# coalescing
$anna->send({ op => 'unsubscribe', id => $_ }) foreach 3, 4;
$anna->expect('unsubscribed') foreach 3, 4;
live($carl, 8, devices => ['lamp-1'], interval => 2000);
is(value($carl), '8 lamp-1 temperature 2', 'an interval of one\'s own');
$carl->send({ op => 'unsubscribe', id => 7 });
$carl->expect('unsubscribed');
my $start = time();
my $session = $iot->session;
foreach my $n (1 .. 50)
{
	$session->query_safe("SELECT iot.ingest('$_', '{\"temperature\": 1$n}', clock_timestamp())")
	  foreach 'lamp-1', 'boiler-1';
}
my (@fast, @slow);
push @fast, value($anna) until @fast && $fast[-1] eq '2 boiler-1 temperature 150';
push @slow, value($carl) until @slow && $slow[-1] eq '8 lamp-1 temperature 150';
my $took = time() - $start;
cmp_ok(scalar @fast, '<=', $took / 0.25 + 2, 'at most one message in 250 ms, and the last one comes');
cmp_ok(scalar @slow, '<=', $took / 2 + 2, 'or in the interval that was asked for');
$carl->close;

# many values share frames
$iot->psql(<<'EOC');
SELECT iot.create_device('many-' || n, '{temperature,pressure}', device_group => 'large')
	FROM generate_series(1, 500) AS n;
EOC
$iot->user('anna', group => 'large', level => 'view');
sub ingest_many
{
	return $iot->psql(<<"EOC");
INSERT INTO iot.measurement (device_id, parameter_id, ts, value)
	SELECT s.device_id, s.parameter_id, clock_timestamp(), $_[0]
		FROM iot.device d JOIN iot.device_group g USING (device_group_id)
			JOIN iot.sensor s USING (device_id)
		WHERE g.name = 'large';
EOC
}
$anna->send({ op => 'unsubscribe', id => 2 });
$anna->expect('unsubscribed');
ingest_many(1);
my $frames = $anna->{frames};
live($anna, 2, groups => ['large']);
my %seen = map { value($anna) => 1 } 1 .. 1000;
is(scalar keys %seen, 1000, 'a thousand sensors, each once');
cmp_ok($anna->{frames} - $frames, '<', 50, '... in few frames');

# a limit, and what is not understood
sub error_of
{
	my ($request, $code, $what) = @_;

	$anna->send({ op => 'live', id => 9, %$request });
	my $error = $anna->expect('error');
	is("$error->{code} $error->{id}", "$code 9", $what);
	return;
}
live($anna, 9, devices => ['boiler-1'], parameters => ['temperature']);
my $error = $anna->expect('error');
is("$error->{code} $error->{id}", 'limit 9', 'one sensor more than a connection may listen to');
ingest('boiler-1', '{"temperature": 25}');
ok($anna->silent(0.6), 'that subscription is ended, the other one stays');
error_of({}, 'invalid', 'neither devices nor groups');
error_of({ devices => [] }, 'invalid', 'no device');
error_of({ devices => 'boiler-1' }, 'invalid', 'a name where a list belongs');
error_of({ devices => [ 'boiler-1', 5 ] }, 'invalid', 'a number among names');
error_of({ devices => ['x'], parameters => [''] }, 'invalid', 'an empty name');
error_of({ groups => [ ('x') x 1025 ] }, 'invalid', 'too many names');
error_of({ groups => ['x'], interval => $_ }, 'invalid', 'an interval that is none')
  foreach 99, 60001, -1, '250', 1e300;
$anna->send({ op => 'live', id => 2, devices => ['x'] });
is($anna->expect('error')->{code}, 'duplicate', 'the id of another live subscription');
$anna->send({ op => 'subscribe', id => 2 });
is($anna->expect('error')->{code}, 'duplicate', 'ids are shared with subscriptions to events');
$anna->subscribe(11);
$anna->send({ op => 'live', id => 11, devices => ['x'] });
is($anna->expect('error')->{code}, 'duplicate', '... both ways');
$anna->send({ op => 'live', devices => ['x'] });
is($anna->expect('error')->{code}, 'invalid', 'no id');

# What is told until every sensor has had this value: the last of each.
sub newest
{
	my ($value) = @_;
	my %newest;
	my $there = 0;

	while ($there < 1000)
	{
		my $m = $anna->expect('measurement');

		$newest{"$m->{device} $m->{parameter}"} = $m->{value};
		$there++ if $m->{value} == $value;
	}
	return \%newest;
}

# a client that does not read: nothing is kept for it but what it was sent.  It is not kept waiting for
# as long as makes a client too slow, however few values a slow machine can write meanwhile
my $last = 1;
my $waits_since;
while ($last < 11 && !($last > 3 && $waits_since && time() - $waits_since > 3))
{
	my $polls = metric('value_polls_total');

	ingest_many(++$last);
	poll_until(sub { metric('value_polls_total') >= $polls + 1 || metric('queued_bytes') > 65536 },
		'the daemon has looked');
	my $queued = metric('queued_bytes');
	cmp_ok($queued, '<', 256 * 1024, 'memory for it is bounded');
	$waits_since ||= time() if $queued > 0;
}
is((grep { $_ == $last } values %{ newest($last) }),
	1000, 'who reads again finds the newest value of each sensor');
ok($anna->silent(0.6), '... and nothing older after them');

# who may view is asked each time
my $revoke = q{DELETE FROM iot.access_grant WHERE device_group_id =
	(SELECT device_group_id FROM iot.device_group WHERE name = 'large')};
$iot->psql($revoke);
ingest_many(12);
ok($anna->silent(1), 'a grant that is revoked ends it');
$iot->user('anna', group => 'large', level => 'view');
ingest_many(13);
# those of before may be told first: they are news to who comes in
is((grep { $_ == 13 } values %{ newest(13) }), 1000, 'a new one brings it back');

# the database goes and comes back
$anna->send({ op => 'unsubscribe', id => 2 });
# a value that was on its way may come first
1 while $anna->receive->{op} ne 'unsubscribed';
live($anna, 5, devices => ['boiler-1'], parameters => ['temperature']);
is(value($anna), '5 boiler-1 temperature 25', 'another subscription');
$iot->node->stop('immediate');
$iot->node->start;
ingest('boiler-1', '{"temperature": 26}');
my $got = value($anna);
# the first answer may have come before the new value was there
$got = value($anna) if $got ne '5 boiler-1 temperature 26';
is($got, '5 boiler-1 temperature 26', 'values come after the database was away');

# nothing of it was kept, and nobody is asked when nobody listens
is($iot->psql('SELECT count(*) FROM iot.notification'), 0, 'no notification was written');
$anna->send({ op => 'unsubscribe', id => 5 });
$anna->expect('unsubscribed');
is(metric('live_subscriptions'), 0, 'nobody listens');
my $polls = metric('value_polls_total');
cmp_ok($polls, '>', 10, 'statements were counted');
ingest('boiler-1', '{"temperature": 27}');
ok($anna->silent(1), 'who has unsubscribed hears nothing');
is(metric('value_polls_total'), $polls, 'and nothing is asked');

done_testing();
