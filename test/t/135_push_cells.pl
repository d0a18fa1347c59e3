# One push daemon for several cells (doc/scale-out.md): what each says comes over one socket, with
# positions of its own; one that is away, or does not answer, takes nothing with it but its own; and each
# judges for itself who may hear it.

use strict;
use warnings;

use Test::More;

use IotTest;
use IotNotify;
use IotWebSocket;

my @names = qw(north south west);
my %cell;

foreach my $name (@names)
{
	my $iot = $cell{$name} = IotTest->new($name, databases => '',
		conf => "shared_buffers = 16MB\nmax_connections = 30\niot.authenticators = 'push_daemon'\n");

	setup_push($iot);
	$iot->device("$name-1", ['temperature'], group => 'plant');
}
my $push = IotTest::Push->new(undef, cells => [ map { $_ => $cell{$_} } @names ]);
$cell{$_}->psql('GRANT iot_viewer, iot_operator TO push_daemon') foreach @names;
$push->wait_healthy($_) foreach @names;

sub ready
{
	my ($user, %opt) = @_;
	my $ws = IotWebSocket->new(port => $push->port);

	$ws->{ready} = $ws->auth($push->token($user, %opt));
	return $ws;
}

# Events as "cell seq", in the order that they came in.
sub told { return join ' ', map { "$_->{cell} $_->{seq}" } @_; }

# The next messages of these cells, one each, in the order of their names.
sub by_cell
{
	my ($ws, $op, $count) = @_;

	return sort { $a->{cell} cmp $b->{cell} } map { $ws->expect($op) } 1 .. $count;
}

# Where the client stands: what it passes on when it comes back.
sub positions
{
	my (%seq) = @_;

	return { map { $_ => { seq => $seq{$_}, epoch => epoch($_) } } keys %seq };
}
sub epoch { return $cell{ $_[0] }->psql('SELECT epoch FROM iot.epoch'); }

sub states
{
	my ($ready) = @_;

	return join ' ', map { "$_ $ready->{cells}{$_}{state}" } sort keys %{ $ready->{cells} };
}

sub refused
{
	my ($ws, $message, $code, $text, $what) = @_;

	$ws->send($message);
	my $error = $ws->expect('error');
	is($error->{code}, $code, $what);
	like($error->{message}, $text, '... and why');
	return;
}

# events of all, over one socket
my %before = map { $_ => notify($cell{$_}, recipients => ['bert']) } @names;
foreach my $name (@names)
{
	poll_until(sub { ($push->http_get('/metrics'))[1] =~ /^iot_pushd_seq\{cell="$name"\} $before{$name}$/m },
		"the daemon has seen what is in cell $name");
}
my $anna = ready('anna');
is(states($anna->{ready}), 'north here south here west here', 'ready tells the cells');
is($anna->{ready}{cells}{$_}{seq}, $before{$_}, "... with the head of $_") foreach @names;
is($anna->{ready}{cells}{$_}{epoch}, epoch($_), "... and its epoch") foreach @names;
$anna->subscribe(1);
my %last;
foreach my $name ('west', 'north', 'south')
{
	my @seqs = notify_many($cell{$name}, 2, recipients => ['anna'], body => qq({"of":"$name"}));
	my @events = $anna->events(2);

	is(told(@events), "$name $seqs[0] $name $seqs[1]", "what is told in cell $name comes");
	is($events[0]{data}{of}, $name, '... as it was said there');
	$last{$name} = $seqs[1];
	wait_delivered($cell{$name}, $seqs[1], 'anna');
}

# positions, one for each
$anna->send({ op => 'ack', cell => 'north', seq => $last{north} });
refused($anna, { op => 'ack', seq => 1 }, 'invalid', qr/name one by "cell"/, 'an ack names its cell');
$anna->close;
my %missed = map { $_ => [ notify_many($cell{$_}, 3, recipients => ['anna']) ] } @names;
$anna = ready('anna');
$anna->subscribe(1, after => positions(%last));
my @events = $anna->events(9);
foreach my $name (@names)
{
	is(told(grep { $_->{cell} eq $name } @events), told(map { { cell => $name, seq => $_ } } @{ $missed{$name} }),
		"I27: what was missed in cell $name comes once, in order");
	$last{$name} = $missed{$name}[2];
}
$anna->silent(0.3);
$anna->close;
$anna = ready('anna');
my $after = positions(%last);
$after->{south}{epoch} = 'of another life';
$after->{west}{seq} += 1000;
$anna->subscribe(4, after => $after);
my ($south, $west) = by_cell($anna, 'reset', 2);
is("$south->{cell} $south->{id} $south->{reason}", 'south 4 epoch', 'I28: a stale epoch is that of its cell');
is($south->{epoch}, epoch('south'), '... which tells its own');
is("$west->{cell} $west->{id} $west->{reason}", 'west 4 position', 'so is a position that cannot be');
my $seq = notify($cell{north}, recipients => ['anna']);
is(told($anna->event), "north $seq", 'the others are honoured');
$last{north} = $seq;
refused($anna, { op => 'subscribe', id => 5, after_seq => 3 }, 'invalid', qr/name positions by "after"/,
	'a position without a cell is refused');
refused($anna, { op => 'subscribe', id => 5, after => { east => { seq => 3 } } }, 'invalid',
	qr/cells that are served here/, 'so is one of a cell that is not there');
refused($anna, { op => 'subscribe', id => 5, after => { west => { seq => 'x' } } }, 'invalid',
	qr/whole number/, 'and one that is no number');
refused($anna, { op => 'subscribe', id => 5, after => [3] }, 'invalid', qr/must be an object/, 'or none at all');

# much of it in all of them: a client is given it as it reads, and is never too slow for that
my $carl = ready('carl');
my %many = map { $_ => [ notify_many($cell{$_}, 300, device => 'lamp-1', recipients => ['carl'],
	body => '{"text":"' . 'x' x 2000 . '"}') ] } @names;
$carl->subscribe(1);
@events = $carl->events(900);
foreach my $name (@names)
{
	is(told(grep { $_->{cell} eq $name } @events), told(map { { cell => $name, seq => $_ } } @{ $many{$name} }),
		"a long tale of cell $name is told in full");
}
$carl->close;

# live measurements, wherever the sensors are
$anna->send({ op => 'live', id => 7, devices => [ 'north-1', 'west-1', 'south-1' ], interval => 100 });
$anna->expect('subscribed');
$cell{$_}->psql("SELECT iot.ingest('$_-1', '{\"temperature\": 20}')") foreach @names;
my @values = by_cell($anna, 'measurement', 3);
is(join(' ', map { "$_->{cell} $_->{device} $_->{value} $_->{id}" } @values),
	'north north-1 20 7 south south-1 20 7 west west-1 20 7', 'one subscription listens to sensors of all cells');
like(($push->http_get('/metrics'))[1], qr/^iot_pushd_live_subscriptions 1$/m, '... and counts as one');
$anna->send({ op => 'unsubscribe', id => 7 });
$anna->expect('unsubscribed');
$anna->send({ op => 'live', id => 8, cell => 'west', groups => ['plant'] });
$anna->expect('subscribed');
is($anna->expect('measurement')->{device}, 'west-1', 'or to those of one');
$cell{north}->psql(q(SELECT iot.ingest('north-1', '{"temperature": 21}')));
$anna->silent(0.5);
$anna->send({ op => 'unsubscribe', id => 8 });
$anna->expect('unsubscribed');

# requests go to the cell that they name
refused($anna, { op => 'query', id => 10, query => 'me' }, 'invalid', qr/name one by "cell"/,
	'a request names its cell');
refused($anna, { op => 'query', id => 10, query => 'me', cell => 'east' }, 'unknown', qr/no cell of this name/,
	'... one that is there');
foreach my $name (@names)
{
	$anna->send({ op => 'query', id => 11, cell => $name, query => 'fleet', params => { search => '-1' } });
	my $result = $anna->expect('result');
	is("$result->{cell} " . join(' ', map { $_->{device} } @{ $result->{data}{rows} }),
		"$name " . join(' ', sort 'boiler-1', "$name-1"), "cell $name answers");
}

# one cell dies; what happens there until the daemon is back is not seen by it as it happens
$cell{south}->psql('ALTER ROLE push_daemon NOLOGIN');
$cell{south}->node->stop('immediate');
my $away = $anna->expect('cell');
is("$away->{cell} $away->{state}", 'south away', 'clients are told that a cell is away');
is(($push->http_get('/healthz'))[0], 200, 'the daemon is well');
is(($push->http_get('/healthz/south'))[0], 503, '... the cell is not');
is(($push->http_get('/healthz/west'))[0], 200, '... another is');
is(($push->http_get('/healthz/east'))[0], 404, '... and one that nobody knows is not found');
like(($push->http_get('/metrics'))[1],
	qr/^iot_pushd_database_up\{cell="north"\} 1\niot_pushd_database_up\{cell="south"\} 0\n/m, 'figures say the same');
foreach my $name ('north', 'west')
{
	my @seqs = notify_many($cell{$name}, 2, recipients => ['anna']);

	is(told($anna->events(2)), "$name $seqs[0] $name $seqs[1]", "cell $name goes on");
	wait_delivered($cell{$name}, $seqs[1], 'anna');
	$last{$name} = $seqs[1];
}
my $came = ready('anna');
is(states($came->{ready}), 'north here south away west here', 'who comes now is told who is there');
$came->subscribe(1, after => positions(map { $_ => $last{$_} } 'north', 'west'));
my $back = ready('anna');
$back->subscribe(1, after => { %{ positions(map { $_ => $last{$_} } 'north', 'west') },
	south => { seq => $missed{south}[0] } });
refused($_, { op => 'query', id => 12, cell => 'south', query => 'me' }, 'unavailable', qr/away/,
	'what is asked of that cell is refused at once') foreach $anna, $back;

# and comes back
$cell{south}->node->start;
$cell{south}->psql(q(SELECT iot.ingest('south-1', '{"temperature": 30}')));
my @late = notify_many($cell{south}, 5, recipients => ['anna']);
$anna->send({ op => 'live', id => 9, devices => [ 'south-1', 'west-1' ], interval => 100 });
$anna->expect('subscribed');
is($anna->expect('measurement')->{device}, 'west-1', 'values come from where they can');
$seq = notify($cell{west}, recipients => ['anna']);
is(told($anna->event), "west $seq", 'the cell is not back for the daemon, and the others go on');
is(told($_->event), "west $seq", '... for everybody') foreach $came, $back;
$cell{south}->psql('ALTER ROLE push_daemon LOGIN');
my @wanted = map { { cell => 'south', seq => $_ } } @late;
foreach my $case ([ 'who stayed', $anna, @wanted ], [ 'who came without a position', $came, @wanted ],
	[ 'who came with one', $back, (map { { cell => 'south', seq => $_ } } @{ $missed{south} }[ 1, 2 ]), @wanted ])
{
	my ($who, $ws, @all) = @$case;
	my $here = $ws->expect('cell');

	is("$here->{cell} $here->{state} $here->{epoch}", 'south here ' . epoch('south'), "$who is told that it is back");
	my (@got, @values);
	while (@got < @all || ($ws == $anna && !@values))
	{
		my $message = $ws->receive;

		push @got, $message if $message->{op} eq 'event';
		push @values, $message if $message->{op} eq 'measurement';
	}
	is(join(' ', map { "$_->{device} $_->{value}" } @values), 'south-1 30', 'live values come with it') if $ws == $anna;
	is(told(@got), told(@all), "I25, I27: $who gets what was missed there, once and in order");
	$ws->silent(0.3);
}
$anna->send({ op => 'unsubscribe', id => 9 });
$anna->expect('unsubscribed');
wait_delivered($cell{south}, $late[4], 'anna');
$last{south} = $late[4];
my @new = notify_many($cell{south}, 2, recipients => ['anna']);
is(told($_->events(2)), "south $new[0] south $new[1]", 'then what is new') foreach $anna, $came, $back;
$last{south} = $new[1];
$last{west} = $seq;
$_->close foreach $came, $back;
$came = ready('anna');
$came->subscribe(1, after => positions(%last));
$came->silent(0.3);
$seq = notify($cell{south}, recipients => ['anna']);
is(told($came->event), "south $seq", 'positions of all hold after that');
is(told($anna->event), "south $seq", '... on every socket');
$came->close;

# an epoch that changes is that of one cell
$cell{west}->psql('UPDATE iot.epoch SET timeline = timeline + 7');
$cell{west}->node->restart;
my @messages = map { $anna->receive } 1 .. 3;
my ($reset) = grep { $_->{op} eq 'reset' } @messages;
is("$reset->{cell} $reset->{reason}", 'west epoch', 'I28: clients begin again in that cell');
is($reset->{epoch}, epoch('west'), '... which tells its epoch');
is(join(' ', sort map { "$_->{cell} $_->{state}" } grep { $_->{op} eq 'cell' } @messages), 'west away west here',
	'... after it was away');
$cell{west}->psql('SELECT iot.resume()') if $cell{west}->psql('SELECT iot_internal.epoch_state()') ne 'ok';
$seq = notify($cell{north}, recipients => ['anna']);
is(told($anna->event), "north $seq", 'the others go on as before');
$seq = notify($cell{west}, recipients => ['anna']);
is(told($anna->event), "west $seq", 'and it goes on too');

# one that takes connections and does not answer
my $pid = $cell{south}->psql("SELECT pid FROM pg_stat_activity WHERE application_name = 'iot-pushd' AND query LIKE '%iot\\_internal.push%'");
kill 'STOP', $pid;
$came = ready('bert');
is(states($came->{ready}), 'north here south away west here', 'a cell that says nothing holds nobody up');
$came->subscribe(1);
is(told($came->event), "north $before{north}", 'what waits in the others comes') if $came;
is(told($came->event), "west $before{west}", '... from each');
kill 'CONT', $pid;
my $joined = $came->expect('cell');
is("$joined->{cell} $joined->{state}", 'south here', 'it joins when it answers');
is(told($came->event), "south $before{south}", '... with what waits there');

# each cell judges for itself
$cell{north}->psql(q(UPDATE iot.app_user SET enabled = false WHERE username = 'bert'));
my $refused = $came->expect('cell');
is("$refused->{cell} $refused->{state}", 'north refused', 'I26: who is disabled in a cell is told');
my $unheard = notify($cell{north}, recipients => ['bert']);
$seq = notify($cell{south}, recipients => ['bert']);
is(told($came->event), "south $seq", '... hears it no more, and the others still');
is(told(sort { $a->{cell} cmp $b->{cell} } $anna->events(2)), "north $unheard south $seq",
	'... as others hear it');
refused($came, { op => 'query', id => 13, cell => 'north', query => 'me' }, 'unavailable', qr/does not take/,
	'... and asks nothing there');
$came->close;
$came = ready('bert');
is(states($came->{ready}), 'north refused south here west here', 'who comes is judged by each');
$came->subscribe(1);
$came->silent(0.5);
$cell{$_}->psql(q(UPDATE iot.app_user SET enabled = false WHERE username = 'bert')) foreach 'south', 'west';
is($came->closed, 4401, 'I30: whom no cell takes any more is closed');
my $ws = IotWebSocket->new(port => $push->port);
$ws->send({ op => 'auth', token => $push->token('bert') });
is($ws->closed, 4401, '... and does not get in');
is($ws->{frames} || 0, 0, '... before any data');

# without any
$cell{$_}->node->stop('fast') foreach @names;
my %gone = map { my $message = $anna->expect('cell'); ("$message->{cell} $message->{state}" => 1) } @names;
is(join(' ', sort keys %gone), 'north away south away west away', 'sockets stay when all are away');
is(($push->http_get('/healthz'))[0], 503, 'then the daemon is not well');
is(IotWebSocket->status_of(port => $push->port), 503, 'I40: and nobody gets in');
$cell{$_}->node->start foreach @names;
my %here = map { my $message = $anna->expect('cell'); ("$message->{cell} $message->{state}" => 1) } @names;
is(join(' ', sort keys %here), 'north here south here west here', 'they come back');
foreach my $name (@names)
{
	$seq = notify($cell{$name}, recipients => ['anna']);
	is(told($anna->event), "$name $seq", "... cell $name as well");
}

# wrong usage
foreach my $case (
	[ qr/must be NAME=CONNINFO/, 'a cell without a name', '--cell', 'dbname' ],
	[ qr/must be NAME=CONNINFO/, 'a name that is none', '--cell', 'North=dbname=x' ],
	[ qr/two cells of name "a"/, 'a name twice', map { ('--cell', 'a=dbname=x') } 1 .. 2 ],
	[ qr/16 cells at most/, 'too many', map { ('--cell', "c$_=dbname=x") } 1 .. 17 ],
	[ qr/give one of them/, 'both', '--cell', 'a=dbname=x', '--conninfo', 'dbname=x' ],
	[ qr/password on the command line/, 'a password', '--cell', 'a=dbname=x', '--cell', 'b=dbname=x password=hush' ])
{
	my ($message, $what, @arguments) = @$case;

	IPC::Run::run([ IotTest::program('iot-pushd'), '--jwt-key-file', '/nowhere', @arguments ], '>', \my $out, '2>', \my $err);
	is($? >> 8, 2, "$what is wrong usage");
	like($err, $message, '... and told');
}

# settings from the environment
IPC::Run::run([ IotTest::program('iot-pushd'), '--jwt-key-file', '/nowhere' ], '>', \my $out, '2>', \my $err,
	init => sub { $ENV{IOT_PUSHD_CELL} = "a=dbname=x host=one,two\nb=dbname=y\na=dbname=z" });
like($err, qr/two cells of name "a"/, 'the environment has a cell a line');

done_testing();
