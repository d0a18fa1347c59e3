# Who comes back with the position where everybody stands needs no history; but what is being asked
# for the others at that moment was not asked for him, and must not be passed over (I27).

use strict;
use warnings;

use Test::More;

use IotTest;
use IotNotify;

my $iot = IotTest->new('main', databases => '');
setup_push($iot);
my $push = $iot->pushd;

# a delivery that is somebody else's, so that only the history and the live feed can bring it to anna
my $before = notify($iot, recipients => ['bert']);
my $bert = $push->connect('bert');
$bert->subscribe(1, after_seq => $before - 1);
is($bert->event->{seq}, $before, 'one user is connected and up to date');
wait_delivered($iot, $before, 'bert');
my $anna = $push->connect('anna');

# the daemon sees the next notification, and is held while it asks who may be told
my $holder = $iot->session;
$holder->query_safe('BEGIN; LOCK TABLE iot.app_user');
my $missed = notify($iot, recipients => ['bert']);
$iot->poll(q{SELECT count(*) > 0 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
	WHERE NOT l.granted AND l.relation = 'iot.app_user'::regclass AND a.application_name = 'iot-pushd'});
$anna->subscribe(1, after_seq => $before);
$holder->query_safe('COMMIT');
is($bert->event->{seq}, $missed, 'the connected user is told');
is($anna->event->{seq}, $missed, 'and so is the one who came meanwhile');

my $next = notify($iot, recipients => ['bert']);
is($_->event->{seq}, $next, 'both go on, and hear nothing twice') foreach $anna, $bert;

done_testing();
