# What a connected user is told, in which order, and what is recorded of it (I25, I26, I27).

use strict;
use warnings;

use JSON::PP;
use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotNotify;
use IotWebSocket;

my $iot = IotTest->new('main', databases => '');
setup_push($iot);
my $push = $iot->pushd;

sub ready
{
	my ($user, $daemon) = @_;
	my $ws = IotWebSocket->new(port => ($daemon || $push)->port);

	$ws->{ready} = $ws->auth(($daemon || $push)->token($user));
	return $ws;
}

sub seqs { return [ map { $_->{seq} } @_ ]; }

sub metric
{
	my ($name, $daemon) = @_;
	my ($value) = (($daemon || $push)->http_get('/metrics'))[1] =~ /^iot_pushd_$name (\d+)$/m;

	return $value;
}

# I25: pending until somebody takes it
my @waiting = notify_many($iot, 3, recipients => ['anna']);
my $berts = notify($iot, recipients => ['bert']);
poll_until(sub { metric('seq') == $berts }, 'the daemon has seen them');
my $anna = ready('anna');
is($anna->{ready}{seq}, $berts, 'ready tells the head');
$anna->silent(0.3);
is(delivery($iot, $waiting[0], 'anna'), 'PENDING', 'I25: being connected is not enough');
$anna->subscribe(1);
my @told = $anna->events(3);
is_deeply(seqs(@told), \@waiting, 'I25: what was pending comes first, in order');
wait_delivered($iot, $_, 'anna') foreach @waiting;
is(delivery($iot, $berts, 'bert'), 'PENDING', 'only the one who was told is recorded');
is_deeply(
	$told[0],
	{   op => 'event',
		seq => $waiting[0] + 0,
		event => 'adapter.value_set_sent',
		device => 'boiler-1',
		title => 'told',
		at => $iot->psql(
			"SELECT iot_internal.utc_text(event_at) FROM iot.notification WHERE seq = $waiting[0]"),
		data => {} },
	'an event has all that clients need');

# live, to everybody who may view
my $bert = ready('bert');
$bert->subscribe(1);
is($bert->event->{seq}, $berts, 'another is told what waited for him');
my $carl = ready('carl');
$carl->subscribe(1);
my $start = time();
my $live = notify($iot, recipients => [ 'anna', 'bert' ],
	body => '{"value": 21.5, "text": "\u00fcber \u20ac"}');
my $event = $anna->event;
cmp_ok(time() - $start, '<', 1, 'what is new comes at once');
is($event->{seq}, $live, '... to one who may view the device');
is_deeply($event->{data}, { value => 21.5, text => "\x{fc}ber \x{20ac}" }, '... as it is');
is($bert->event->{seq}, $live, '... to another');
wait_delivered($iot, $live, $_) foreach qw(anna bert);
my $lamp = notify($iot, device => 'lamp-1', recipients => ['carl']);
is($carl->event->{seq}, $lamp, 'I26: who may view the lamp hears of it, and of nothing else');
$_->silent(0.2) foreach $anna, $bert;

# without a hint
$start = time();
my $unhinted = notify($iot, recipients => ['anna'], hint => 0);
is($anna->event->{seq}, $unhinted, 'without a hint it comes all the same');
cmp_ok(time() - $start, '<', 2.5, '... by polling');
$bert->event;

# audiences
my $author = notify($iot, audience => 'author', username => 'bert', recipients => ['bert']);
is($bert->event->{seq}, $author, 'the author is told');
my $named = notify($iot, audience => 'user:anna', recipients => ['anna']);
is($anna->event->{seq}, $named, 'a named user is told, and the author\'s was not for her');
my $group = notify($iot, audience => 'group:anna-plant', recipients => ['anna']);
is($anna->event->{seq}, $group, 'a group is told');
$iot->psql('INSERT INTO iot.app_user (username) SELECT current_user');
my $superuser = ready($iot->psql('SELECT current_user'));
$superuser->subscribe(1);
my $all = notify($iot, recipients => [ 'anna', 'bert' ]);
is($_->event->{seq}, $all, 'administrators hear what viewers hear, and no user another\'s')
  foreach $superuser, $anna, $bert;
is(notify($iot, device => undef), $superuser->event->{seq}, 'events of no device are theirs alone');
$superuser->close;

# "whoever comes first"
$carl->close;
my $first = notify($iot, device => 'lamp-1', recipients => ['*']);
$anna->silent(0.2);
is(delivery($iot, $first, '*'), 'PENDING', 'nobody eligible: it waits');
$carl = ready('carl');
$carl->subscribe(1, events => ['alarm.*']);
$carl->silent(0.3);
is(delivery($iot, $first, '*'), 'PENDING', 'who does not want it has not taken it');
$carl->subscribe(2, events => ['adapter.*']);
is($carl->event->{seq}, $first, 'the first who comes takes it');
wait_delivered($iot, $first, '*');

# filters
my $filtered = ready('anna');
$filtered->subscribe(1, events => [ 'alarm.opened', 'dm.*_error' ], devices => ['boiler-1']);
$filtered->subscribe(2, groups => ['house']);
$filtered->subscribe(3, events => ['*'], devices => ['boiler-2'], groups => []);
notify($iot, event => $_) foreach qw(adapter.value_set_sent alarm.opened.more alarm.closed);
my @wanted = map { notify($iot, event => $_) } qw(alarm.opened dm.value_set_error);
is_deeply(seqs($filtered->events(2)), \@wanted, 'a subscription filters by event');
$filtered->silent(0.2);
$filtered->subscribe(4, groups => ['plant'], devices => ['boiler-2']);
my $grouped = notify($iot, event => 'other');
is($filtered->event->{seq}, $grouped, 'or by group; devices and groups add up');
my $both = notify($iot, event => 'alarm.opened');
is($filtered->event->{seq}, $both, 'two subscriptions that match');
$filtered->silent(0.2);
$filtered->send({ op => 'unsubscribe', id => 4 });
is($filtered->expect('unsubscribed')->{id}, 4, 'unsubscribe');
notify($iot, event => 'other');
$filtered->silent(0.2);
$filtered->close;
$anna->events(8);
$bert->events(8);
$anna->silent(0.1);

# I27: replay
my $position = $iot->psql('SELECT max(seq) FROM iot.notification');
$anna->close;
my @missed = notify_many($iot, 1200, recipients => ['anna'], body => '{"text": "' . 'x' x 500 . '"}');
$anna = ready('anna');
my $epoch = $anna->{ready}{epoch};
$anna->subscribe(1, after_seq => $position + 0, epoch => $epoch);
my @during = notify_many($iot, 5, recipients => ['anna']);
is_deeply(seqs($anna->events(1205)), [ @missed, @during ],
	'I27: everything that was missed comes in order, and what is new follows');
cmp_ok($anna->{frames}, '<', 700, 'many events share a frame');
wait_delivered($iot, $during[-1], 'anna');
is($iot->psql("SELECT count(*) FROM iot.delivery WHERE recipient = 'anna' AND status = 'PENDING'"),
	0, 'all of it is recorded');

# what was delivered is replayed as well, the client says what it knows
my $again = ready('anna');
$again->subscribe(1, after_seq => $during[3] + 0);
is_deeply(seqs($again->event), [ $during[4] ], 'a position is the client\'s word, not ours');
$again->subscribe(2, after_seq => $during[1] + 0);
is_deeply(seqs($again->events(2)), [ @during[ 2, 3 ] ], 'a second subscription brings nothing twice');
$again->subscribe(3);
$again->silent(0.2);
my $once = notify($iot, recipients => ['anna']);
is($again->event->{seq}, $once, 'three subscriptions, one event');
is($anna->event->{seq}, $once, 'and one on the other socket');
$again->silent(0.2);

# positions that mean nothing
my $head = $iot->psql('SELECT max(seq) FROM iot.notification');
my $pending = notify($iot, recipients => ['carl', 'anna'], event => 'kept', hint => 0,
	device => 'lamp-1');
foreach my $case (
	[ position => after_seq => $head + 1000 ],
	[ epoch => after_seq => 0, epoch => '01234567-89ab-7cde-8f01-23456789abcd' ],
	[ epoch => after_seq => 0, epoch => 'x' x 100 ])
{
	my ($reason, @position) = @$case;
	my $ws = ready('bert');

	$ws->subscribe(1, @position);
	my $reset = $ws->expect('reset');
	is($reset->{reason}, $reason, "I27: reset, reason $reason");
	is("$reset->{id} $reset->{epoch}", "1 $epoch", '... of this subscription, with what holds now');
	cmp_ok($reset->{seq}, '>=', $head, '... and the position to go on from');
	my $seq = notify($iot, event => 'after');
	my @events;
	do { push @events, $ws->event } until $events[-1]{seq} == $seq;
	is_deeply([ grep { $_ != $berts && $_ != $seq } @{ seqs(@events) } ], [],
		'... and goes on, what is pending first');
	$ws->close;
}
$iot->psql("UPDATE iot.epoch SET notification_floor = $missed[3]");
my $ws = ready('bert');
$ws->subscribe(1, after_seq => $missed[2] + 0);
is($ws->expect('reset')->{reason}, 'retention', 'I27: reset where rows are gone for good');
$ws->close;
$ws = ready('bert');
$ws->subscribe(1, after_seq => $missed[3] + 0);
is($ws->event->{seq}, $missed[4], 'but not where none is missing');
$ws->close;
cmp_ok(metric('resets_total'), '>=', 4, 'resets are counted');

# a new epoch tells everybody who is connected
$anna->close;
$_->close foreach $again, $bert, $carl;
$anna = ready('anna');
$anna->subscribe(1, after_seq => $iot->psql('SELECT max(seq) FROM iot.notification') + 0);
my $new_epoch = $iot->psql('UPDATE iot.epoch SET epoch = iot_internal.uuidv7() RETURNING epoch');
my $reset = $anna->expect('reset');
is("$reset->{reason} $reset->{epoch}", "epoch $new_epoch", 'I28: a new epoch resets open sockets');
my $after = notify($iot, recipients => ['anna']);
is($anna->event->{seq}, $after, '... which go on');

# a copy is silent until it is resumed
$iot->psql('UPDATE iot.epoch SET paused = true');
my $held = notify($iot, recipients => ['anna']);
poll_until(sub { metric('paused') }, 'the daemon sees that deliveries are paused');
$anna->silent(1.2);
my $second = ready('anna');
$second->subscribe(1, after_seq => $after + 0);
$second->silent(0.3);
is(delivery($iot, $held, 'anna'), 'PENDING', 'a paused copy delivers nothing');
$iot->psql('UPDATE iot.epoch SET paused = false');
is($_->event->{seq}, $held, 'and goes on when it is resumed, without a gap') foreach $anna, $second;
$second->close;

# I26: permissions are asked for each event
wait_delivered($iot, $held, 'anna');
$iot->psql(q{DELETE FROM iot.access_grant WHERE user_group_id =
	(SELECT user_group_id FROM iot.user_group WHERE name = 'anna-plant')});
my $hidden = notify($iot, recipients => [ 'anna', 'bert' ]);
$anna->silent(1.2);
is(delivery($iot, $hidden, 'anna'), 'PENDING', 'I26: no grant, no event, on an open socket either');
my $blind = ready('anna');
$blind->subscribe(1, after_seq => 0);
is($blind->expect('reset')->{reason}, 'retention', 'nor by replay:');
$blind->silent(0.5);
$blind->close;
$iot->user('anna', group => 'plant', level => 'view');
is($anna->event(20)->{seq}, $hidden, 'I25: what is pending comes when she may view again');
wait_delivered($iot, $hidden, 'anna');
$iot->psql(q{UPDATE iot.app_user SET enabled = false WHERE username = 'anna'});
my $disabled = notify($iot, recipients => [ 'anna', 'bert' ]);
is($anna->closed, 4401, 'a user who is disabled is closed');
is(delivery($iot, $disabled, 'anna'), 'PENDING', 'I26: and told nothing more');
$iot->psql(q{UPDATE iot.app_user SET enabled = true WHERE username = 'anna'});
$anna = ready('anna');
$anna->subscribe(1);
is($anna->event(20)->{seq}, $disabled, 'until enabled again');

# what clients say wrong
sub error_of
{
	my ($message, $code, $what) = @_;

	$anna->send($message);
	my $error = $anna->expect('error');
	is($error->{code}, $code, "$what: $error->{message}");
	return $error;
}
is(error_of({ op => 'live', id => 9, devices => [], parameters => [] }, 'invalid', 'live')->{id},
	9, 'an error names the request');
error_of({ op => 'dance', id => 1 }, 'unsupported', 'an unknown op');
error_of({ id => 1 }, 'invalid', 'no op');
error_of('[]', 'invalid', 'an array');
error_of('{"op":"subscribe","id":2}}', 'invalid', 'more than one value');
error_of('nonsense', 'invalid', 'no JSON');
error_of("{\"op\":\"subscribe\",\"id\":2,\"devices\":[\"a\\u0000b\"]}", 'invalid', 'a zero in a name');
error_of("{}\0", 'invalid', 'a zero after it');
error_of('[' x 5000, 'invalid', 'depth');
error_of({ op => 'subscribe' }, 'invalid', 'no id');
error_of({ op => 'subscribe', id => $_ }, 'invalid', "id $_") foreach 'x', 1.5;
error_of('{"op":"subscribe","id":1e300}', 'invalid', 'a huge id');
error_of({ op => 'subscribe', id => 1 }, 'duplicate', 'an id that is taken');
error_of({ op => 'subscribe', id => 2, events => 'adapter.*' }, 'invalid', 'events not in a list');
error_of({ op => 'subscribe', id => 2, events => ["'; DROP"] }, 'invalid', 'a pattern that is none');
error_of({ op => 'subscribe', id => 2, devices => [5] }, 'invalid', 'a device that is a number');
error_of({ op => 'subscribe', id => 2, after_seq => -1 }, 'invalid', 'a negative position');
error_of({ op => 'subscribe', id => 2, after_seq => 'x' }, 'invalid', 'a position that is none');
error_of({ op => 'subscribe', id => 2, epoch => 5 }, 'invalid', 'an epoch that is none');
error_of({ op => 'unsubscribe', id => 99 }, 'unknown', 'an id that is not there');
error_of({ op => 'ack', seq => $disabled + 100 }, 'invalid', 'an ack of what never came');
error_of({ op => 'auth', token => $push->token('bert') }, 'invalid', 'a second user');
like(error_of({ op => 'subscribe', id => 2, devices => [''] }, 'invalid', 'a name of nothing')->{message},
	qr/strings of 1 to 256 bytes$/, '... says what a name is');
$anna->send({ op => 'subscribe', id => 3, map { $_ => undef } qw(events devices groups after_seq epoch) });
is($anna->expect('subscribed')->{id}, 3, 'null is as if nothing were said');
$anna->send({ op => 'ack', seq => $disabled + 0 });
$anna->silent(0.1);
my $last = notify($iot, recipients => ['anna']);
is($anna->event->{seq}, $last, 'and none of it disturbs the connection');
is(0 + $iot->psql(q{SELECT count(*) FROM iot.notification_read}), 0,
	'an ack moves the client\'s position, not what was read');

done_testing();
