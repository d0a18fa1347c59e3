# What nobody has taken is told to whoever is connected, also where the client came with a position
# beyond it: the daemon that told it may have died before writing that down, or the user may not have
# been allowed to hear it at its time (I25).

use strict;
use warnings;

use Test::More;

use IotTest;
use IotNotify;

my $iot = IotTest->new('main', databases => '');
setup_push($iot);
my $push = $iot->pushd;

my $pending = notify($iot, recipients => ['anna']);
my $beyond = notify($iot, recipients => ['bert']);
my $anna = $push->connect('anna');
$anna->subscribe(1, after_seq => $beyond);
is($anna->event->{seq}, $pending, 'I25: what is pending comes, though the position lies beyond it');
wait_delivered($iot, $pending, 'anna');
is(delivery($iot, $beyond, 'bert'), 'PENDING', 'what is another\'s does not');
my $next = notify($iot, recipients => [ 'anna', 'bert' ]);
is($anna->event->{seq}, $next, 'then what is new, and nothing twice');
$anna->silent(0.3);

# only what the subscription is about
$anna->close;
my $other = notify($iot, event => 'alarm.opened', recipients => ['anna']);
my $here = notify($iot, recipients => ['anna']);
$anna = $push->connect('anna');
$anna->subscribe(1, after_seq => $here, events => ['adapter.*']);
is($anna->event->{seq}, $here, 'I25: of its events');
wait_delivered($iot, $here, 'anna');
is(delivery($iot, $other, 'anna'), 'PENDING', 'and of no other');

done_testing();
