# An alarm from its measurement to those who are told of it: the rule's audience, the next one where
# nobody acknowledges, once each, whatever becomes of the notifier.

use strict;
use warnings;

use Test::More;

use IotTest;
use IotTest::MailServer;
use IotWebSocket;

my $iot = IotTest->new('main');
my $mail = IotTest::MailServer->new('main');

$iot->parameter('temperature', unit => '°C', max => 1000);
my $device = $iot->device('boiler-1', ['temperature']);
$iot->user($_, level => 'operate') foreach qw(anna bert);
$iot->psql(sprintf(<<'EOC', $mail->url));
UPDATE iot.app_user SET email = username || '@example.org', language = 'de', time_zone = 'Europe/Vienna';
INSERT INTO iot.mail_server (name, url, sender, options) VALUES ('main', '%s', 'iot@plant.example', '{"starttls":"never"}');
INSERT INTO iot.alarm_rule (name, kind, parameter_id, comparison, threshold)
	SELECT 'too-hot', 'threshold', parameter_id, '>', 80 FROM iot.parameter;
UPDATE iot.notification_rule SET enabled = name = 'alarm-opened',
	audience = CASE name WHEN 'alarm-opened' THEN 'user:anna' ELSE audience END;
INSERT INTO iot.notification_text (notification_rule_id, language, title, body)
	SELECT notification_rule_id, 'de', 'Alarm {severity} an {device}: {rule}', '{message}, seit {opened_at}'
	FROM iot.notification_rule WHERE name = 'alarm-opened';
INSERT INTO iot.escalation_step (notification_rule_id, step, after, channel, audience)
	SELECT notification_rule_id, 1, '2 s', 'email', 'user:bert' FROM iot.notification_rule WHERE name = 'alarm-opened';
EOC

sub measure { return $iot->psql("SELECT iot.ingest('boiler-1', '{\"temperature\":$_[0]}')"); }

sub told { return "SELECT count(*) = $_[0] FROM iot.notification"; }

# opened: told at once, over a socket, in the user's words
my $push = $iot->pushd;
my $ws = IotWebSocket->new(port => $push->port);
$ws->auth($push->token('anna'));
$ws->subscribe(1, events => ['alarm.*']);
measure(90);
my $event = $ws->event;
is($event->{event}, 'alarm.opened', 'an alarm that opens is told');
is($event->{title}, 'Alarm red an boiler-1: too-hot', 'in the language of whoever is told');
like($event->{data}{text}, qr/, seit \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0[12]:00$/, 'and in his time');
is(scalar(my @none = $mail->messages), 0, 'nobody else is told yet');

# not acknowledged: the next audience, once, though the notifier is ended again and again meanwhile
for (1 .. 3)
{
	my ($pid) = map { $_->{pid} } $iot->workers('iot notifier');
	$iot->psql("SELECT pg_terminate_backend($pid, 5000)");
	$iot->poll(qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'iot notifier' AND pid <> $pid});
}
my ($message) = $mail->wait_for('bert@example.org', 1, 30);
like($message->{data}, qr/^Subject: Alarm red an boiler-1: too-hot\r$/m, 'not acknowledged in time: the next one is told');
like($message->{data}, qr/^References: <alarm\.[0-9a-f-]{36}\@plant\.example>\r$/m, 'of the same alarm');
is($iot->psql('SELECT count(*) FROM iot.escalation'), 0, 'that was the last step');
cmp_ok($iot->psql(q{SELECT extract(epoch FROM m.created_at - o.event_at) FROM iot.notification m, iot.notification o
	WHERE m.channel = 'email' AND o.channel = 'push'}), '>=', 2, 'not before its time');

# acknowledged in time: nobody else; an alarm after it shows that time has passed
$iot->psql('SELECT iot.close_alarm(alarm_id) FROM iot.alarm');
measure(91);
$iot->poll(told(3));
is($iot->psql('SELECT iot.acknowledge_alarm(alarm_id) FROM iot.open_alarm'), 't', 'acknowledged');
my $second = $iot->psql('SELECT alarm_id FROM iot.open_alarm');
$iot->psql('SELECT iot.close_alarm(alarm_id) FROM iot.open_alarm');
measure(92);
my $third = $iot->psql('SELECT alarm_id FROM iot.open_alarm');
$iot->poll(qq{SELECT count(*) = 1 FROM iot.notification WHERE channel = 'email' AND body ->> 'alarm_id' = '$third'}, timeout => 30);
is($iot->psql(qq{SELECT count(*) FROM iot.notification WHERE channel = 'email' AND body ->> 'alarm_id' = '$second'}), 0,
	'what was acknowledged escalates no more');

# the server is killed while a step is pending
$iot->psql('SELECT iot.close_alarm(alarm_id) FROM iot.open_alarm');
measure(93);
my $fourth = $iot->psql('SELECT alarm_id FROM iot.open_alarm');
$iot->poll('SELECT count(*) = 1 FROM iot.escalation');
my ($victim) = map { $_->{pid} } $iot->workers('iot notifier');
my $mark = $iot->log_size;
kill('KILL', $victim);
$iot->wait_for_log(qr/database system is ready to accept connections/, $mark);
poll_until(sub { eval { $iot->psql('SELECT 1') } }, 'the server is back');
$iot->poll(qq{SELECT count(*) = 1 FROM iot.delivery d JOIN iot.notification n USING (seq, channel)
	WHERE n.channel = 'email' AND n.body ->> 'alarm_id' = '$fourth' AND d.status = 'DELIVERED'}, timeout => 30);
is($iot->psql(qq{SELECT count(*) FROM iot.notification WHERE channel = 'email' AND body ->> 'alarm_id' = '$fourth'}), 1,
	'I33: told once all the same');

# quiet hours put mail off, a mute keeps it in the inbox
$iot->psql(q{UPDATE iot.app_user SET time_zone = 'UTC' WHERE username = 'bert';
	INSERT INTO iot.quiet_hours (app_user_id, starts, ends, allow_red) SELECT app_user_id,
		(now() AT TIME ZONE 'UTC' - interval '1 hour')::time, (now() AT TIME ZONE 'UTC' + interval '1 hour')::time, false
		FROM iot.app_user WHERE username = 'bert';
	INSERT INTO iot.notification_mute (app_user_id, event) SELECT app_user_id, 'alarm.*' FROM iot.app_user WHERE username = 'anna';
	SELECT iot.close_alarm(alarm_id) FROM iot.open_alarm});
my @before = $mail->messages;
$ws = IotWebSocket->new(port => $push->port);
$ws->auth($push->token('anna'));
$ws->subscribe(1, events => ['alarm.*']);
measure(94);
$iot->poll(q{SELECT count(*) = 1 FROM iot.delivery WHERE channel = 'email' AND status = 'PENDING' AND not_before > now()}, timeout => 30);
is($iot->psql(q{SELECT status FROM iot.delivery WHERE channel = 'push' ORDER BY seq DESC LIMIT 1}), 'MUTED', 'what is muted is not pushed');
is(scalar(@{ [ $mail->messages ] }), scalar @before, 'what is put off is not mailed');
$iot->psql(q{UPDATE iot.delivery SET not_before = now(), next_attempt_at = now() WHERE not_before < 'infinity';
	DELETE FROM iot.notification_mute});
$mail->wait_for('bert@example.org', @before + 1);
pass('it is when the quiet hours end');
$iot->psql('SELECT iot.close_alarm(alarm_id) FROM iot.open_alarm');
measure(95);
is($ws->event->{data}{value}, 95, 'and the next event that reaches the socket is one that nobody muted');

done_testing();
