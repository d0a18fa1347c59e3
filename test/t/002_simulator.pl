# The device simulator does what other tests take for granted: it carries out, refuses, forgets
# nothing it was told to remember, answers as it is told, and reports with device times.

use strict;
use warnings;

use JSON::PP;
use Test::More;

use IotTest;

my $broker = IotTest::Broker->new('main');
my $next = 0;

# Sends a command as the adapter would; its id.
sub command
{
	my ($device, $value, %opt) = @_;
	my $id = $opt{id} || sprintf('00000000-0000-7000-8000-%012d', ++$next);

	$broker->publish(
		"iot/$device/command",
		JSON::PP->new->canonical->encode(
			{
				id => $id, parameter => 'temperature', action => 'set', value => $value + 0,
				version => $next
			}));
	return $id;
}

my $answers = $broker->watch('iot/+/command/ack');
my $status = $broker->watch('iot/+/status');

# carrying out, refusing, repeating
my $sim = IotTest::Simulator->new(
	$broker,
	devices => [ 'boiler-1', 'boiler-2' ],
	refuse_above => 80,
	drop_seen => 1);
my $good = command('boiler-1', 21.5);
my $bad = command('boiler-2', 95);
my @answers = $answers->wait_for(2);
is_deeply(
	[ sort { $a->{id} cmp $b->{id} } map { $_->{json} } @answers ],
	[
		{ id => $good, ok => JSON::PP::true },
		{
			id => $bad, ok => JSON::PP::false,
			error => "value 95 is above the device's limit of 80"
		}
	],
	'one command is carried out, one is refused');
is((grep { $_->{topic} eq 'iot/boiler-2/command/ack' } @answers)[0]{json}{id},
	$bad, 'a device answers in its own topic');
command('boiler-1', 21.5, id => $good);
$answers->wait_for(3);
is(scalar($sim->executed), 1, 'an id that was seen is not carried out again');
is(($sim->executed)[0]{value}, 21.5, 'the log tells the value');
is(($sim->records('dropped'))[0]{id}, $good, 'and what was dropped');
$status->wait_for(2);
is_deeply([ sort map { "$_->{topic} $_->{payload}" } $status->messages ],
	[ 'iot/boiler-1/status online', 'iot/boiler-2/status online' ], 'devices say they are online');

# a connection that is cut speaks by its will, and comes back
$broker->kill9;
my $mark = $sim->log_size;
$broker->start;
$sim->wait_ready($mark);
pass('it comes back after the broker was killed');
$answers = $broker->watch('iot/+/command/ack');
$status = $broker->watch('iot/+/status');
my $again = command('boiler-1', 30);
is(($answers->wait_for(1))[0]{json}{id}, $again, 'and carries out commands again');
$sim->kill9;
poll_until(
	sub { grep { $_->{topic} eq 'iot/boiler-1/status' && $_->{payload} eq 'offline' } $status->messages },
	'the last will is published');
pass('a killed device is offline by its last will');

# silence, repetition, delay, order
sub answers_of
{
	my ($count, $commands, %opt) = @_;
	my $watch = $broker->watch('iot/+/command/ack');
	my $device = IotTest::Simulator->new($broker, devices => ['odd-1'], %opt);
	my @ids = map { command('odd-1', $_) } 1 .. $commands;
	my @got = map { $_->{json}{id} } $watch->wait_for($count);
	my @records = $device->records;

	$device->stop;
	is($device->status, 0, 'it ends well when asked to');
	return (\@ids, \@got, \@records);
}

my ($ids, $got, $records) = answers_of(4, 2, answers => 2);
is_deeply($got, [ map { ($_, $_) } @$ids ], 'answers come twice');
($ids, $got) = answers_of(3, 3, reorder => 3);
is_deeply($got, [ reverse @$ids ], 'answers come in reverse');
($ids, $got, $records) = answers_of(1, 1, delay_ms => 300);
my ($received, $answered) = map { my $k = $_; grep { $_->{kind} eq $k } @$records } qw(received answered);
cmp_ok($answered->{at} - $received->{at}, '>=', 299, 'an answer is late by what was asked for');

my $silent = IotTest::Simulator->new($broker, devices => ['odd-2'], silent => 1);
my $unheard = command('odd-2', 1);
poll_until(sub { $silent->records('silent') }, 'the command is received');
is(($silent->records('silent'))[0]{id}, $unheard, 'a silent device has received the command');
is(scalar($silent->records('answered')), 0, 'and does not answer');
$silent->stop;

my $deaf = IotTest::Simulator->new($broker, devices => ['odd-3'], ignore_first => 1);
my $repeated = command('odd-3', 1);
command('odd-3', 1, id => $repeated);
poll_until(sub { $deaf->records('answered') }, 'the second delivery is answered');
is(scalar($deaf->records('received')), 2, 'only the second delivery is answered');
$deaf->stop;

# what was carried out is remembered over a restart
my $careful = IotTest::Simulator->new(
	$broker,
	devices => ['odd-4'],
	drop_seen => 1,
	state => $broker->dir . '/seen');
my $once = command('odd-4', 7);
poll_until(sub { $careful->records('answered') == 1 }, 'the first is answered');
$careful->kill9;
$careful->restart;
command('odd-4', 7, id => $once);
poll_until(sub { $careful->records('answered') == 2 }, 'the second is answered');
is(scalar($careful->executed), 1, 'a state file remembers over a kill -9');
$careful->stop;

# telemetry
my $telemetry = $broker->watch('iot/+/telemetry');
my $reporter = IotTest::Simulator->new(
	$broker,
	prefix => 'meter-',
	count => 50,
	parameters => 'temperature=20,humidity=40',
	rate => 'max',
	messages => 20,
	exit_when_done => 1,
	log_telemetry => 1,
	wait => 0);
is($reporter->wait_exit, 0, 'it ends when all is sent and confirmed');
my @messages = $telemetry->wait_for(1000, qr/meter-/);
is(scalar(@messages), 1000, 'every message was published once');
my %keys;
$keys{"$_->{topic} $_->{json}{ts}"}++ foreach @messages;
is(scalar(keys %keys), 1000, 'no device uses a time twice');
is_deeply([ sort keys %{ $messages[0]{json}{values} } ], [ 'humidity', 'temperature' ],
	'it reports every parameter');
is(scalar($reporter->records('acked')), 1000, 'the log tells what the broker confirmed');

my $echo = IotTest::Simulator->new($broker, devices => ['odd-5'], echo => 1);
command('odd-5', 66);
my ($echoed) = $telemetry->wait_for(1, 'iot/odd-5/telemetry');
is($echoed->{json}{values}{temperature}, 66, 'an echoing device reports the value instead');

# a broker that asks who one is
my $locked = IotTest::Broker->new('locked', users => { iot => 'secret' });
my $known = IotTest::Simulator->new($locked, devices => ['odd-6']);
pass('it gives a user and a password');

done_testing();
