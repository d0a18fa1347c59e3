# Notifications made by hand, for tests of the push daemon alone: rows as the notifier writes them.
#
#   my $seq = notify($iot, recipients => ['anna']);
#   my @seqs = notify_many($iot, 100, recipients => ['anna']);    consecutive, in one transaction
#   my $row = delivery($iot, $seq, 'anna');                       status ...
#   wait_delivered($iot, $seq, 'anna');
#
# Options: event, device (name; undef for none), audience, username (who caused it), recipients,
# title, body (JSON text), hint (0: no NOTIFY).

package IotNotify;

use strict;
use warnings;

use Exporter qw(import);

use IotTest;

our @EXPORT = qw(notify notify_many delivery wait_delivered setup_push);

# A device "boiler-1" in group "plant", another "lamp-1" in group "house", and users: anna and bert
# view the plant, carl the house, dora is disabled.
sub setup_push
{
	my ($iot) = @_;

	$iot->psql(<<'EOC');
INSERT INTO iot.parameter (name) VALUES ('temperature');
INSERT INTO iot.device_group (name) VALUES ('plant'), ('house');
SELECT iot.create_device('boiler-1', '{temperature}', device_group => 'plant');
SELECT iot.create_device('lamp-1', '{temperature}', device_group => 'house');
EOC
	$iot->user($_, group => 'plant', level => 'view') foreach qw(anna bert dora);
	$iot->user('carl', group => 'house', level => 'view');
	$iot->psql(q{UPDATE iot.app_user SET enabled = false WHERE username = 'dora'});
	return;
}

sub literal { return IotTest::literal($_[0]); }

sub notify_many
{
	my ($iot, $count, %opt) = @_;
	my $device = exists $opt{device} ? $opt{device} : 'boiler-1';
	my $recipients = join ', ', map { literal($_) } @{ $opt{recipients} || [] };
	my ($event, $device_name, $audience, $username, $title, $body) = map { literal($_) }
	  $opt{event} || 'adapter.value_set_sent', $device, $opt{audience} || 'viewers',
	  $opt{username}, $opt{title} || 'told', $opt{body} || '{}';
	my $hint = defined $opt{hint} && !$opt{hint} ? '' : 'NOTIFY iot_push;';

	return map { 0 + $_ } split /\n/, $iot->psql(<<"EOC");
BEGIN;
WITH made AS (
	INSERT INTO iot.notification (event_id, event, channel, audience, username, device_id, device,
			title, body, event_at)
		SELECT iot_internal.uuidv7(), $event, 'push', $audience, $username,
				(SELECT d.device_id FROM iot.device d WHERE d.name = $device_name), $device_name,
				$title, $body, now()
			FROM generate_series(1, $count)
		RETURNING seq
), due AS (
	INSERT INTO iot.delivery (seq, channel, recipient)
		SELECT m.seq, 'push', r.recipient
			FROM made m CROSS JOIN unnest(ARRAY[$recipients]::text[]) AS r (recipient)
)
SELECT seq FROM made ORDER BY seq;
$hint
COMMIT;
EOC
}

sub notify { return (notify_many($_[0], 1, @_[1 .. $#_]))[0]; }

sub delivery
{
	my ($iot, $seq, $recipient) = @_;

	return $iot->psql("SELECT status FROM iot.delivery WHERE seq = $seq AND channel = 'push'"
		  . ' AND recipient = ' . literal($recipient));
}

sub wait_delivered
{
	my ($iot, $seq, $recipient) = @_;

	return $iot->poll("SELECT status = 'DELIVERED' FROM iot.delivery WHERE seq = $seq"
		  . " AND channel = 'push' AND recipient = " . literal($recipient));
}

1;
