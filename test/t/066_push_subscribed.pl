# Whoever was told "subscribed" hears of everything that is told from then on, also where many
# subscribe at once and another socket of the same user has taken the event first (I27).

use strict;
use warnings;

use Test::More;

use IotTest;
use IotWebSocket;

my $sockets = 150;
my $notifications = 40;
my $iot = IotTest->new('main');

$iot->parameter('level');
$iot->device('boiler-1', ['level']);
$iot->user('anna', level => 'view');

my $push = $iot->pushd;
my @sockets = map { $push->connect('anna') } 1 .. $sockets;

# all ask before anybody listens for an answer, so that the daemon has work waiting
$_->send({ op => 'subscribe', id => 1, events => ['*'] }) foreach @sockets;
$_->expect('subscribed') foreach @sockets;

# notifications as the notifier writes them
$iot->psql(<<"EOC");
BEGIN;
WITH n AS (
	INSERT INTO iot.notification (event_id, event, channel, audience, username, device_id, device,
		title, body, event_at)
	SELECT iot_internal.uuidv7(), 'test.told', 'push', 'viewers', 'anna', d.device_id, d.name,
		'a title', '{}', pg_catalog.now()
	FROM iot.device AS d, pg_catalog.generate_series(1, $notifications)
	RETURNING seq)
INSERT INTO iot.delivery (seq, channel, recipient) SELECT n.seq, 'push', 'anna' FROM n;
NOTIFY iot_push;
COMMIT;
EOC

my $complete = 0;
foreach my $socket (@sockets)
{
	my @seqs = eval { map { $_->{seq} } $socket->events($notifications) };

	last unless @seqs == $notifications && join(' ', @seqs) eq join(' ', sort { $a <=> $b } @seqs);
	$complete++;
}
is($complete, $sockets, 'every socket got every notification, in order');
$iot->poll("SELECT count(*) = $notifications FROM iot.delivery WHERE status = 'DELIVERED'");
pass('and each is delivered once');

done_testing();
