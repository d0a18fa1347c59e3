# E-mail to a real SMTP server: plain, STARTTLS, TLS, login; refused for now and for good; away and back;
# and never in the way of anything else.

use strict;
use warnings;

use MIME::Base64;
use Test::More;
use Time::HiRes qw(time);

use IotTest;
use IotTest::MailServer;
use IotTest::Receiver;

my $iot = IotTest->new('main', conf => 'log_min_messages = debug1');
my $mail = IotTest::MailServer->new('plain');

$iot->parameter('temperature', unit => '°C', max => 100);
my $device = $iot->device('boiler-1', ['temperature']);
$iot->psql('UPDATE iot.notification_rule SET enabled = false');
$iot->psql(q{INSERT INTO iot.notification_rule (name, event, channel, audience, title, body)
	VALUES ('mail', 't.*', 'email', 'viewers', '{device}: {value} °C {error}', '{error} at {at}')});

# A user who alone may view the device from now on, with an address.
my $n = 0;
sub reader
{
	my ($address, %prefs) = @_;
	my $name = 'reader-' . ++$n;

	$iot->psql('UPDATE iot.app_user SET enabled = false');
	$iot->user($name, level => 'view');
	$iot->psql(sprintf(q{UPDATE iot.app_user SET email = %s, time_zone = %s WHERE username = '%s'},
		IotTest::literal($address), IotTest::literal($prefs{time_zone}), $name));
	return $name;
}

sub server
{
	my ($server, $options) = @_;

	$iot->psql('UPDATE iot.mail_server SET enabled = false');
	$iot->psql(sprintf(q{INSERT INTO iot.mail_server (name, url, sender, sender_name, options)
		VALUES ('%s', '%s', 'iot@plant.example', 'Plant', '%s')}, $server->{name}, $server->url, $options));
	return;
}

sub emit
{
	my ($payload) = @_;

	return $iot->psql(sprintf(q{INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type,
			payload, device_id) VALUES (iot_internal.uuidv7(), 'test', 'x', 't.x', '%s', '%s')
			RETURNING event_id}, $payload || '{"value":1}', $device));
}

sub wait_for_status
{
	my ($event_id, $status, $timeout) = @_;

	$iot->poll(qq{SELECT coalesce(bool_and(d.status = '$status'), false) FROM iot.delivery d
		JOIN iot.notification n USING (seq) WHERE n.event_id = '$event_id'}, timeout => $timeout);
	return ($iot->rows(qq{SELECT d.* FROM iot.delivery d JOIN iot.notification n USING (seq)
		WHERE n.event_id = '$event_id'}))[0];
}

# The headers of a message, unfolded, and its text.
sub parse
{
	my ($data) = @_;
	my ($head, $body) = split(/\r\n\r\n/, $data, 2);

	$head =~ s/\r\n[ \t]+/ /g;
	return ({ map { /^([^:]+): (.*)$/ ? (lc $1 => $2) : () } split(/\r\n/, $head) }, decode_base64($body));
}

# nobody to send it to the network: it waits
reader('anna@example.org', time_zone => 'Asia/Tokyo');
my $id = emit(q({"value":21.5,"error":"größer\r\nBcc: thief@example.org"}));
$iot->poll(q{SELECT count(*) = 1 FROM iot.delivery});
like($iot->psql('SELECT string_agg(finding, E\'\n\') FROM iot.check()'), qr/no mail server is enabled/,
	'the doctor misses a mail server');
server($mail, '{"starttls":"never"}');

# success, and what a message looks like
my ($message) = $mail->wait_for('anna@example.org', 1);
my $row = wait_for_status($id, 'DELIVERED');
is($row->{attempts}, 1, 'delivered at the first attempt');
ok(defined $row->{delivered_at} && !defined $row->{last_error} && !defined $row->{started_at}, 'and recorded so');
is($message->{sender}, 'iot@plant.example', 'from the sender');
is($message->{recipients}, 1, 'to one recipient');
my ($head, $text) = parse($message->{data});
is($head->{from}, 'Plant <iot@plant.example>', 'From');
is($head->{to}, '<anna@example.org>', 'To');
like($head->{date}, qr/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000$/, 'Date');
like($head->{'message-id'}, qr/^<\Q$id\E\.[0-9a-f]{12}\@plant\.example>$/, 'Message-ID');
ok(!exists $head->{bcc}, 'no header comes from words');
is(join('', map { decode_base64($_) } $head->{subject} =~ /=\?UTF-8\?B\?([^?]*)\?=/g),
	'boiler-1: 21.5 °C größer Bcc: thief@example.org', 'Subject in encoded words');
like($text, qr/^größer\r\nBcc: thief\@example.org at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+09:00\r\n\z/,
	'the text, in UTF-8 and in the time of Tokyo');
unlike($message->{data}, qr/[^\x00-\x7f]/, 'nothing but ASCII on the way');

# refused for now: the same message comes again
reader('later.2@example.org');
my $mark = $iot->log_size;
$id = emit();
$row = wait_for_status($id, 'DELIVERED', 30);
is($row->{attempts}, 3, 'two refusals and a success');
is($mail->attempts('later.2@example.org'), 3, 'three attempts');
is($row->{last_error}, 'SMTP: 451 4.3.0 come back later', 'the answer is kept');
like($iot->log_content($mark), qr/mail server "mailserver_plain" fails: SMTP: 451/, 'the log tells of the failure');
like($iot->log_content($mark), qr/mail server "mailserver_plain" works again/, 'and of the recovery');

# refused for good, of the recipient and of the message
foreach my $refused ([ 'nobody', '550 5.1.1 no such user here' ], [ 'spam', '554 5.7.1 we do not want this' ])
{
	reader("$refused->[0]\@example.org");
	$row = wait_for_status(emit(), 'FAILED');
	is($row->{attempts}, 1, "$refused->[0]: one attempt");
	is($row->{last_error}, "SMTP: $refused->[1]", 'and the reason');
}
like($iot->psql('SELECT string_agg(finding, E\'\n\') FROM iot.check()'), qr/deliveries .*"email".* were given up/,
	'the doctor tells of what was given up');

# away, and back: what waits uses up no attempts
reader('patient@example.org');
$mail->stop;
my @waiting = map { emit(qq({"value":$_})) } 1 .. 5;
$iot->poll(q{SELECT count(*) > 0 FROM iot.delivery WHERE status = 'PENDING' AND last_error IS NOT NULL});
like($iot->psql('SELECT string_agg(finding || \' \' || hint, E\'\n\') FROM iot.check()'), qr/e-mail waits after failed attempts, \d+ so far: .*connect/i, 'the doctor tells of what waits');
$mail->start;
$row = wait_for_status($_, 'DELIVERED', 60) foreach @waiting;
is(scalar(my @came = $mail->messages('patient@example.org')), 5, 'back again: each once');

# the notifier ends during an attempt: its successor sends the same message again
reader('hang@example.org');
$id = emit();
my ($first) = $mail->wait_for('hang@example.org', 1);
my ($pid) = map { $_->{pid} } $iot->workers('iot notifier');
my $other = IotTest::Receiver->new('main');
$iot->psql(sprintf(q{INSERT INTO iot.webhook (name, url) VALUES ('other', '%s');
	INSERT INTO iot.notification_rule (name, event, channel, audience, title)
		VALUES ('other', 'o.*', 'webhook', 'webhook:other', 'other')}, $other->url('/ok')));
my $began = time();
$iot->psql(qq{INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
	VALUES (iot_internal.uuidv7(), 'test', 'x', 'o.x', '{}', '$device')});
$other->wait_for('/ok', 1);
cmp_ok(time() - $began, '<', 5, 'a mail server that hangs delays no webhook');
is($iot->psql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'iot notifier' AND state = 'idle in transaction'}),
	0, 'I20: nor is a transaction open');
$mark = $iot->log_size;
kill('KILL', $pid);
$iot->wait_for_log(qr/database system is ready to accept connections/, $mark);
poll_until(sub { eval { $iot->psql('SELECT 1') } }, 'the server is back');
my @both = $mail->wait_for('hang@example.org', 2, 30);
is((parse($both[1]{data}))[0]{'message-id'}, (parse($first->{data}))[0]{'message-id'}, 'I33: sent again, under the same Message-ID');
is($both[1]{data}, $both[0]{data}, 'byte for byte');
cmp_ok(elapsed(sub { $iot->psql('SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = \'iot notifier\'') }),
	'<', 5, 'I35: a notifier with a message under way ends at once');
$iot->psql(q{UPDATE iot.delivery SET status = 'FAILED' WHERE status = 'PENDING'});

# TLS and login
my $dir = PostgreSQL::Test::Utils::tempdir('mail');
PostgreSQL::Test::Utils::system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes',
	'-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost',
	'-keyout', "$dir/key", '-out', "$dir/cert");
my @tls = (cert => "$dir/cert", key => "$dir/key", user => 'iot', password => 's3cret-of-the-mail');
$iot->psql(q{INSERT INTO iot.secret (name, value) VALUES ('mail-key', 's3cret-of-the-mail'), ('bad-key', 'wr0ng-for-the-mail')});
foreach my $mode (qw(starttls smtps))
{
	my $secure = IotTest::MailServer->new($mode, mode => $mode, @tls);

	reader("$mode\@example.org");
	server($secure, qq({"ca_file":"$dir/cert","username":"iot","password_secret":"mail-key"}));
	wait_for_status(emit(), 'DELIVERED');
	($message) = $secure->messages("$mode\@example.org");
	ok($message->{tls}, "$mode: encrypted");
	is($message->{user}, 'iot', 'and logged in');
	next unless $mode eq 'starttls';

	# a wrong password, a certificate that nobody vouches for: nothing is lost, all waits
	foreach my $fault ([ 'password_secret', 'bad-key', qr/^SMTP: 5/ ], [ 'ca_file', '/etc/ssl/certs/ca-certificates.crt', qr/certificate/i ])
	{
		my ($key, $value, $error) = @$fault;

		$iot->psql(qq{UPDATE iot.mail_server SET options = options || '{"$key":"$value"}' WHERE enabled});
		$id = emit();
		$iot->poll(qq{SELECT coalesce(bool_and(d.status = 'PENDING' AND d.last_error IS NOT NULL), false) FROM iot.delivery d
			JOIN iot.notification n USING (seq) WHERE n.event_id = '$id'});
		like($iot->psql(qq{SELECT last_error FROM iot.delivery d JOIN iot.notification n USING (seq) WHERE n.event_id = '$id'}),
			$error, "$key is wrong: it waits");
		$iot->psql(sprintf(q{UPDATE iot.mail_server SET options = options || '{"ca_file":"%s","password_secret":"mail-key"}' WHERE enabled},
			"$dir/cert"));
		$row = wait_for_status($id, 'DELIVERED', 60);
		cmp_ok($row->{attempts}, '>', 1, 'and goes once that is mended');
	}
}

# a server that cannot encrypt is told nothing
reader('clear@example.org');
$iot->psql(q{UPDATE iot.mail_server SET enabled = false});
$iot->psql(q{UPDATE iot.mail_server SET options = '{}', enabled = true WHERE name = 'mailserver_plain'});
$id = emit();
$iot->poll(qq{SELECT coalesce(bool_and(d.last_error IS NOT NULL), false) FROM iot.delivery d JOIN iot.notification n USING (seq)
	WHERE n.event_id = '$id'});
is($iot->psql(qq{SELECT last_error FROM iot.delivery d JOIN iot.notification n USING (seq) WHERE n.event_id = '$id'}),
	'the server does not offer STARTTLS', 'no STARTTLS, no mail');
is($mail->attempts('clear@example.org'), 0, 'not even the address');

# I36: a copy is silent
$iot->psql(q{UPDATE iot.mail_server SET options = '{"starttls":"never"}' WHERE enabled});
wait_for_status($id, 'DELIVERED', 60);
$mark = $iot->log_size;
reader('quiet@example.org');
$iot->psql('UPDATE iot.epoch SET paused = true');
$iot->wait_for_log(qr/iot worker is idle: paused/, $mark);
$id = emit();
$iot->psql(q{SELECT iot.resume()});
wait_for_status($id, 'DELIVERED', 30);
cmp_ok(($mail->messages('quiet@example.org'))[0]{at}, '>',
	$iot->psql(qq{SELECT extract(epoch FROM created_at) FROM iot.event WHERE event_id = '$id'}), 'I36: nothing while paused, then it goes');

# I42
unlike($iot->log_content, qr/^.*notifier.*(?:s3cret-of-the-mail|wr0ng-for-the-mail|patient\@example)/m,
	'I42: no password and no address in what the notifier logs');

done_testing();
