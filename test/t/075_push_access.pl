# Who may be told is one rule: what the daemon asks for many users at once is what the notifier asks
# for one, whatever the grants, the audiences and the devices.

use strict;
use warnings;

use Test::More;

use IotTest;

my $iot = IotTest->new('main', databases => '');

# Users with and without grants, disabled, administrators and strangers; devices in three groups, one
# of them gone by now; every audience, with an earlier notification of the same event for some.
$iot->psql(<<'EOC');
CREATE ROLE admin_role IN ROLE iot_admin;
CREATE ROLE "admin and user" IN ROLE iot_admin;
CREATE ROLE plain_role;
INSERT INTO iot.device_group (name) VALUES ('a'), ('b'), ('c');
SELECT iot.create_device(g || n, '{}', device_group => g)
	FROM unnest(ARRAY['a', 'b', 'c']) AS g, unnest(ARRAY['-1', '-2']) AS n;
INSERT INTO iot.app_user (username, enabled)
	SELECT 'user ' || n, n % 7 <> 0 FROM generate_series(1, 40) AS n;
INSERT INTO iot.app_user (username, enabled) VALUES ('admin and user', false), ('quo"te\', true);
INSERT INTO iot.app_user (username, role, enabled) VALUES ('chief', 'iot_admin', true),
	('former chief', 'iot_admin', false);
INSERT INTO iot.user_group (name) SELECT 'group-' || n FROM generate_series(1, 6) AS n;
INSERT INTO iot.user_group_member (user_group_id, app_user_id)
	SELECT g.user_group_id, u.app_user_id FROM iot.user_group g, iot.app_user u
		WHERE hashtext(g.name || u.username) % 3 = 0;
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT g.user_group_id, d.device_group_id,
			(ARRAY['view', 'operate', 'manage'])[1 + abs(hashtext(d.name || g.name)) % 3]
		FROM iot.user_group g, iot.device_group d
		WHERE hashtext(g.name || d.name) % 2 = 0 AND g.name <> 'group-6';
INSERT INTO iot.notification (event_id, event, channel, audience, username, device_id, device,
		title, body, event_at)
	SELECT e.event_id, 'test', c.channel, a.audience, 'user 3', d.device_id, d.name, 't', '{}', now()
		FROM (SELECT d.device_id, d.name FROM iot.device d UNION ALL SELECT NULL, NULL) AS d
			CROSS JOIN LATERAL (
				SELECT iot_internal.uuidv7() AS event_id, d.name OFFSET 0) AS e
			CROSS JOIN unnest(ARRAY['push', 'push', 'webhook']) AS c (channel)
			CROSS JOIN unnest(ARRAY['author', 'group:group-1', 'user:user 2', 'group:nobody',
				'viewers', 'user:admin_role']) AS a (audience);
-- the same notifications again, each of an event of its own
INSERT INTO iot.notification (event_id, event, channel, audience, username, device_id, device,
		title, body, event_at)
	SELECT iot_internal.uuidv7(), n.event, n.channel, n.audience, n.username, n.device_id, n.device,
			n.title, n.body, n.event_at
		FROM iot.notification n;
DELETE FROM iot.device WHERE name = 'c-2';
EOC

my $asked = q{(SELECT array_agg(u.username ORDER BY u.username) FROM (
	SELECT username FROM iot.app_user UNION SELECT rolname FROM pg_roles
	UNION SELECT unnest(ARRAY['nobody', '', 'user', 'group:group-1', '*'])) AS u)};
my $singly = <<"EOC";
SELECT n.seq, u.username
	FROM iot.notification n CROSS JOIN unnest($asked) AS u (username)
	WHERE iot_internal.may_receive(u.username, n.seq)
EOC
my $at_once = <<"EOC";
SELECT e.seq, ($asked)[r.ordinal] AS username
	FROM iot_internal.push_eligible(
			ARRAY(SELECT seq FROM iot.notification WHERE channel = 'push' ORDER BY seq), $asked) AS e
		CROSS JOIN unnest(e.recipients) AS r (ordinal)
EOC

cmp_ok($iot->psql("SELECT count(*) FROM ($singly) AS q"), '>', 200, 'there is something to compare');
is($iot->psql("SELECT count(*) FROM (($singly) EXCEPT ($at_once)) AS q"), 0,
	'who may receive one by one may all at once');
is($iot->psql("SELECT count(*) FROM (($at_once) EXCEPT ($singly)) AS q"), 0, 'and nobody else');
is($iot->psql(<<"EOC"), 0, 'and who may view is who iot.may() says');
SELECT count(*)
	FROM unnest($asked) WITH ORDINALITY AS u (username, ordinal)
		CROSS JOIN iot.device d
	WHERE iot.may(u.username, d.device_id, 'view') <> EXISTS (
		SELECT FROM iot_internal.push_viewers(ARRAY[d.device_id], $asked) AS v
		WHERE v.device_id = d.device_id AND v.ordinal = u.ordinal)
EOC
is($iot->psql(<<"EOC"), 0, 'also for whole device groups');
SELECT count(*)
	FROM unnest($asked) AS u (username) CROSS JOIN iot.device d
	WHERE iot.may(u.username, d.device_id, 'view')
		<> (d.device_group_id = ANY (iot_internal.push_groups(u.username)))
EOC

# the pages, asked as the daemon does
my $all = $iot->psql("SELECT count(*) FROM ($at_once) AS q");
is($iot->psql(<<"EOC"), $all, 'pages of three give the same, in order');
WITH RECURSIVE page AS (
	SELECT 0::bigint AS after, 0::bigint AS told
	UNION ALL
	SELECT s.scanned_to, s.told
		FROM page p CROSS JOIN LATERAL (
			SELECT max(q.scanned_to) AS scanned_to, max(q.head) AS head,
					coalesce(sum(cardinality(q.recipients)), 0)::bigint AS told
				FROM iot_internal.push_since($asked, p.after, 3) AS q) AS s
		WHERE p.after < s.head
)
SELECT sum(told) FROM page
EOC
is($iot->psql(<<"EOC"), '65536', 'a page ends at 64 kB, and has one row at least');
INSERT INTO iot.notification (event_id, event, channel, audience, device_id, device, title, body,
		event_at)
	SELECT iot_internal.uuidv7(), 'large', 'push', 'viewers', d.device_id, d.name, 't',
			json_build_object('text', repeat('x', 100000))::jsonb, now()
		FROM iot.device d, generate_series(1, 3) WHERE d.name = 'a-1';
SELECT 65536 * count(*)
	FROM iot_internal.push_since(ARRAY['admin_role'],
		(SELECT min(seq) - 1 FROM iot.notification WHERE event = 'large'), 200) AS q
	WHERE q.seq IS NOT NULL
EOC

# One notification costs what it costs, however many there are of them and of devices, also by a plan
# that was made when there were few: the daemon's settings make such plans.
my $settings = 'SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;';
my $reads = q{FROM pg_stat_xact_user_tables WHERE relid =};
my ($told, $read) = split /\n/, $iot->psql(<<"EOC");
$settings
BEGIN;
SELECT count(q.seq) FROM iot_internal.push_since(ARRAY['admin_role'],
	(SELECT max(seq) - 1 FROM iot.notification), 10) AS q;
SELECT seq_tup_read + idx_tup_fetch $reads 'iot.notification'::regclass;
COMMIT;
EOC
is($told, 1, 'one notification is told');
cmp_ok($read, '<', 20, '... and the others are not read for it');
$iot->psql(<<'EOC');
INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)
	SELECT iot_internal.uuidv7(), 'command', 'x', 'adapter.value_set_sent', '{}', d.device_id
		FROM iot.device d WHERE d.name = 'a-1';
EOC
my ($notified, $scans) = split /\n/, $iot->psql(<<"EOC");
BEGIN;
SELECT notifications > 0 FROM iot_internal.notify_events(10);
SELECT seq_scan $reads 'iot.device'::regclass;
COMMIT;
EOC
is($notified, 't', 'an event is notified of');
is($scans, 0, '... without a look at all devices');

# delivering: once, and only what was pending
$iot->psql(<<'EOC');
INSERT INTO iot.delivery (seq, channel, recipient, status)
	SELECT 1, 'push', r, CASE r WHEN 'gone' THEN 'FAILED' ELSE 'PENDING' END
		FROM unnest(ARRAY['a', 'b', '*', 'gone']) AS r;
INSERT INTO iot.delivery (seq, channel, recipient) VALUES (1, 'webhook', 'a');
EOC
is($iot->psql(q{SELECT iot_internal.push_delivered('{1,1,1,1,99}', '{a,a,*,gone,a}')}), 2,
	'what was pending is recorded');
is($iot->psql(q{SELECT iot_internal.push_delivered('{1,1}', '{a,b}')}), 1, 'and nothing twice');
is($iot->psql(q{SELECT string_agg(channel || ' ' || recipient, ',' ORDER BY channel, recipient)
	FROM iot.delivery WHERE status = 'DELIVERED' AND delivered_at IS NOT NULL}),
	'push *,push a,push b', 'no other channel, none that was given up');
is($iot->psql(q{SELECT iot_internal.push_delivered('{}', '{}')}), 0, 'nothing is nothing');

# two daemons at the same rows: neither waits for ever, one records
$iot->psql(<<'EOC');
INSERT INTO iot.delivery (seq, channel, recipient)
	SELECT n.seq, 'push', 'x' FROM iot.notification n WHERE n.seq BETWEEN 2 AND 50;
EOC
my @sessions = map { $iot->session } 1 .. 2;
my @counts;
$sessions[0]->query_safe('BEGIN');
push @counts, $sessions[0]->query_safe(
	q{SELECT iot_internal.push_delivered(array_agg(s ORDER BY s), array_fill('x'::text, ARRAY[49]))
	FROM generate_series(2, 50) AS s});
$sessions[1]->send(
	q{SELECT iot_internal.push_delivered(array_agg(s ORDER BY s DESC), array_fill('x'::text, ARRAY[49]))
	FROM generate_series(2, 50) AS s});
is($sessions[1]->receive(0.2), undef, 'the second waits for the first');
$sessions[0]->query_safe('COMMIT');
push @counts, $sessions[1]->receive;
is_deeply(\@counts, [ 49, 0 ], 'of two that record the same deliveries, one does');
$_->close foreach @sessions;

done_testing();
