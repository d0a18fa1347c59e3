-- Commands for fleets: who is sent what at which rate, when it stops, who may; all by hand, without a
-- worker, so that each turn is the test's own.
\set ECHO none
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset pager off
SET client_min_messages = warning;

INSERT INTO iot.parameter (name, value_max) VALUES ('valve', 100);
INSERT INTO iot.parameter (name) VALUES ('other');
INSERT INTO iot.adapter (name, kind) VALUES ('bus', 'modbus');
INSERT INTO iot.device_group (name) VALUES ('field'), ('empty');
SELECT count(iot.create_device('f' || lpad(i::text, 2, '0'), '{valve}', 'field', adapter => 'bus')) AS made
	FROM generate_series(1, 20) i \gset
SELECT iot.create_device('elsewhere', '{valve}', adapter => 'bus') IS NOT NULL AS e,
	iot.create_device('without', '{other}', 'field', adapter => 'bus') IS NOT NULL AS w,
	iot.create_device('asleep', '{valve}', 'field', adapter => 'bus') IS NOT NULL AS a \gset
UPDATE iot.device SET enabled = false WHERE name = 'asleep';

-- so much time has passed for the rate of a batch
CREATE FUNCTION pass(batch uuid, elapsed interval) RETURNS integer LANGUAGE sql AS $$
	UPDATE iot.command_batch SET rated_at = clock_timestamp() - elapsed WHERE command_batch_id = batch;
	SELECT iot_internal.roll_out(1000)
$$;
CREATE FUNCTION progress(batch uuid) RETURNS text LANGUAGE sql AS
	'SELECT concat_ws('' '', status, waiting, sent, completed, failed, cancelled) FROM iot.command_batch_progress
		WHERE command_batch_id = batch';
CREATE FUNCTION answer(batch uuid, ok boolean, max_answers integer DEFAULT 1000) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(CASE WHEN ok THEN iot.adapter_sent(w.command_id)::text ELSE iot.adapter_error(w.command_id, 'jammed')::text END)
	FROM (SELECT i.command_id FROM iot.command_batch_item i WHERE i.command_batch_id = batch AND i.status = 'SENT'
		ORDER BY i.position LIMIT max_answers) w
$$;
CREATE FUNCTION poll() RETURNS bigint LANGUAGE sql AS $$SELECT count(*) FROM iot.adapter_poll('bus', 1000)$$;
CREATE FUNCTION batch_events(batch uuid) RETURNS text LANGUAGE sql AS
	$$SELECT string_agg(type, ' ' ORDER BY id) FROM iot.event
		WHERE aggregateid = batch::text AND type NOT LIKE 'audit.%'$$;

SELECT no_plan();

-- the call
SELECT throws_ok($$SELECT iot.send_group_command('nowhere', 'valve', 1)$$, '42704', NULL, 'a group that is none');
SELECT throws_ok($$SELECT iot.send_group_command('field', 'nothing', 1)$$, '42704', NULL, 'a parameter that is none');
SELECT throws_ok($$SELECT iot.send_group_command('empty', 'valve', 1)$$, '42704', NULL, 'a group without such devices');
SELECT throws_ok($$SELECT iot.send_group_command('field', 'valve', 'NaN')$$, '22023', NULL, 'a value that is none');
SELECT throws_ok($$SELECT iot.send_group_command('field', 'valve', 1, 0)$$, '22023', NULL, 'a rate of nothing');
SELECT throws_ok($$SELECT iot.send_group_command('field', 'valve', 1, 5, 1.5)$$, '22023', NULL, 'more than all');
SELECT throws_ok($$SELECT iot.send_group_command('field', 'valve', 1, 5, 'NaN')$$, '22023', NULL, 'no share at all');
SELECT throws_ok($$SELECT iot.send_group_command('field', 'valve', 1, 5, NULL, '1 year')$$, '22023', NULL, 'a long time');
SELECT throws_ok($$SELECT iot.send_group_command('field', 'valve', NULL)$$, '22004', NULL, 'no value');

-- the rate
SELECT iot.send_group_command('field', 'valve', 42, 5, 0.5, '1 minute') AS batch \gset
SELECT is(progress(:'batch'), 'RUNNING 20 0 0 0 0', 'enabled devices of the group with the parameter, none sent');
SELECT is(pass(:'batch', '0.21 s'), 1, 'five a second are one in a fifth of it');
SELECT is(pass(:'batch', '0.1 s'), 0, 'none in less');
SELECT is(pass(:'batch', '0.62 s'), 3, 'and three in three fifths');
SELECT is(pass(:'batch', '1 hour'), 5, 'time without a worker is not made good by a burst');
SELECT is(pass(:'batch', '-1 hour'), 0, 'nor does a clock that was set back give any');
SELECT ok((SELECT rated_at <= clock_timestamp() FROM iot.command_batch WHERE command_batch_id = :'batch'),
	'... or hold them for an hour');
SELECT results_eq(format('SELECT DISTINCT c.username, c.value, c.status, c.deadline - c.created_at, i.command_id = c.command_id
		FROM iot.command c JOIN iot.command_batch_item i USING (device_id) WHERE i.command_batch_id = %L', :'batch'),
	$$VALUES (current_user::text COLLATE "default", 42::float8, 'COMMITTED', interval '1 minute', true)$$,
	'these are ordinary commands of whoever asked');
SELECT is(progress(:'batch'), 'RUNNING 11 9 0 0 0', 'counted');

-- pause and resume
SELECT is(iot.pause_group_command(:'batch'), 'PAUSED', 'it is paused');
SELECT is(pass(:'batch', '1 s'), 0, 'nothing is sent');
SELECT is(iot.pause_group_command(:'batch'), 'PAUSED', 'twice is once');
SELECT is(poll(), 9::bigint, 'what was sent reaches the adapter');
SELECT is(answer(:'batch', true), 9::bigint, 'and is answered');
SELECT is(pass(:'batch', '1 s'), 0, 'which a paused batch hears');
SELECT is(progress(:'batch'), 'PAUSED 11 0 9 0 0', '... and counts');
SELECT is(iot.resume_group_command(:'batch'), 'RUNNING', 'it goes on');
SELECT is(pass(:'batch', '1 s'), 5, 'at its rate');

-- a worker that died between making commands and noting it would find them again
SELECT is((SELECT iot_internal.send_command_as(b.username, i.device_id::text, b.parameter, b.value,
		md5(b.command_batch_id::text || i.device_id::text)::uuid, b.ttl) FROM iot.command_batch b
		JOIN iot.command_batch_item i USING (command_batch_id) WHERE b.command_batch_id = :'batch' AND i.position = 1),
	(SELECT command_id FROM iot.command_batch_item WHERE command_batch_id = :'batch' AND position = 1),
	'batch and device make the request id: one command, however often');
SELECT is(pass(:'batch', '1 s'), 5, 'some more');
SELECT is(pass(:'batch', '1 s'), 1, 'and the last');
SELECT is(poll(), 11::bigint, 'all are on their way');
SELECT is(answer(:'batch', true), 11::bigint, '... and answered');
SELECT is(pass(:'batch', '1 s'), 0, 'nothing is left');
SELECT is(progress(:'batch'), 'COMPLETED 0 0 20 0 0', 'the batch is complete');
SELECT is(batch_events(:'batch'), 'command_batch.completed', 'which is an event');
SELECT is((SELECT count(*) FROM iot.command WHERE value = 42), 20::bigint, 'each device had one command');
SELECT throws_ok(format('SELECT iot.cancel_group_command(%L)', :'batch'), '55000', NULL, 'what has ended cannot be stopped');

-- abort at a share
SELECT iot.send_group_command('field', 'valve', 7, 10, 0.3) AS batch \gset
SELECT is(pass(:'batch', '1 s'), 10, 'ten are sent');
SELECT is(poll(), 10::bigint, '... and taken');
SELECT is(answer(:'batch', false, 2), 2::bigint, 'two refuse');
SELECT is(pass(:'batch', '0.1 s'), 1, 'which is less than three of the first ten');
SELECT is(answer(:'batch', true, 6), 6::bigint, 'six obey');
SELECT is(pass(:'batch', '0 s'), 0, '... which is heard');
SELECT is(answer(:'batch', false, 1), 1::bigint, 'another one refuses');
SELECT is(pass(:'batch', '1 s'), 0, 'it is aborted');
SELECT is(progress(:'batch'), 'ABORTED 0 2 6 3 9', 'the rest is not sent, what was sent is waited for');
SELECT is(batch_events(:'batch'), 'command_batch.aborted', 'which is an event');
INSERT INTO iot.notification_rule (name, event, title)
	VALUES ('batches', 'command_batch.aborted', '{parameter} of {device_group}: {failed} of {ended} failed, {total} in all');
SELECT iot_internal.notify_events(10000) \g /dev/null
SELECT is((SELECT title FROM iot.notification WHERE event = 'command_batch.aborted'),
	'valve of field: 3 of 9 failed, 20 in all', 'that can be told in full');
SELECT is(poll(), 1::bigint, 'the one on its way');
SELECT is(answer(:'batch', true), 2::bigint, '... is answered like the other');
SELECT is(pass(:'batch', '1 s'), 0, '... after the end');
SELECT is(progress(:'batch'), 'ABORTED 0 0 8 3 9', 'and counted');
SELECT ok((SELECT finished_at IS NOT NULL FROM iot.command_batch WHERE command_batch_id = :'batch'), 'then all is over');

-- out of bounds: Device Service refuses at once
SELECT iot.send_group_command('field', 'valve', 101, 1000, 0) AS batch \gset
SELECT is(pass(:'batch', '1 s') > 0, true, 'commands that are refused');
SELECT is(pass(:'batch', '1 s'), 0, '... are heard of');
SELECT matches(progress(:'batch'), '^(COMPLETED|ABORTED) 0 0 0 \d+ \d+$', 'they are failures');
SELECT results_eq(format('SELECT DISTINCT error FROM iot.command_batch_item WHERE status = ''FAILED'' AND command_batch_id = %L', :'batch'),
	ARRAY['value 101 is above the maximum 100'], 'with their reason');

-- cancel; a device that goes away or is disabled meanwhile
SELECT iot.send_group_command('field', 'valve', 8, 2) AS batch \gset
UPDATE iot.device SET enabled = false WHERE name = 'f01';
SELECT is(pass(:'batch', '1 s'), 2, 'two are dealt with');
SELECT is(progress(:'batch'), 'RUNNING 18 1 0 1 0', 'one was disabled meanwhile');
DELETE FROM iot.device WHERE name = 'f02';
SELECT is(pass(:'batch', '0 s'), 0, 'the other one is deleted');
SELECT is(progress(:'batch'), 'RUNNING 18 0 0 2 0', 'and nobody waits for it');
SELECT is(iot.cancel_group_command(:'batch'), 'CANCELLED', 'the rest is cancelled');
SELECT is(iot.cancel_group_command(:'batch'), 'CANCELLED', 'twice is once');
SELECT throws_ok(format('SELECT iot.resume_group_command(%L)', :'batch'), '55000', NULL, 'and for good');
SELECT is(pass(:'batch', '1 s'), 0, 'nothing is sent any more');
SELECT is(progress(:'batch'), 'CANCELLED 0 0 0 2 18', 'counted');
SELECT throws_ok($$SELECT iot.pause_group_command('00000000-0000-7000-8000-000000000001')$$, '42704', NULL, 'no such batch');

-- who may
CREATE ROLE batch_anna;
CREATE ROLE batch_bert;
GRANT iot_operator, iot_viewer TO batch_anna;
GRANT iot_operator, iot_viewer TO batch_bert;
INSERT INTO iot.app_user (username) VALUES ('batch_anna'), ('batch_bert');
INSERT INTO iot.user_group (name) VALUES ('operators'), ('viewers');
INSERT INTO iot.user_group_member (user_group_id, app_user_id) SELECT user_group_id, app_user_id
	FROM iot.user_group, iot.app_user WHERE (name, username) IN (('operators', 'batch_anna'), ('viewers', 'batch_bert'));
INSERT INTO iot.access_grant (user_group_id, device_group_id, level)
	SELECT u.user_group_id, d.device_group_id, CASE u.name WHEN 'operators' THEN 'operate' ELSE 'view' END
	FROM iot.user_group u, iot.device_group d WHERE d.name = 'field';
SET ROLE batch_bert;
SELECT throws_ok($$SELECT iot.send_group_command('field', 'valve', 1)$$, '42501', NULL, 'a viewer sends nothing');
SET ROLE batch_anna;
SELECT iot.send_group_command('field', 'valve', 9, 4) AS batch \gset
SELECT throws_ok($$SELECT iot.send_group_command('default', 'valve', 1)$$, '42501', NULL, 'nor does an operator elsewhere');
SELECT is((SELECT count(*) FROM iot.command_batch_progress WHERE device_group = 'field'), 5::bigint,
	'an operator sees the batches of the devices');
SET ROLE batch_bert;
SELECT throws_ok(format('SELECT iot.cancel_group_command(%L)', :'batch'), '42501', NULL, 'a viewer stops nothing');
SELECT is((SELECT waiting FROM iot.command_batch_progress WHERE command_batch_id = :'batch'), 18::bigint, 'though he sees');
RESET ROLE;
SELECT is(pass(:'batch', '0.5 s'), 2, 'rights are asked for');
SELECT is((SELECT array_agg(DISTINCT username) FROM iot.command WHERE value = 9), ARRAY['batch_anna'], 'of whoever asked');
DELETE FROM iot.access_grant;
SELECT is(pass(:'batch', '0.5 s'), 2, 'for each device, when it is sent');
SELECT results_eq(format('SELECT status, error, count(*) FROM iot.command_batch_item WHERE command_batch_id = %L AND status <> ''WAITING''
		GROUP BY 1, 2 ORDER BY 1', :'batch'),
	$$VALUES ('FAILED', 'user "batch_anna" may not operate the device', 2::bigint), ('SENT', NULL, 2)$$,
	'what was taken away is gone at once');
SET ROLE batch_anna;
SELECT is((SELECT count(*) FROM iot.command_batch_progress), 0::bigint, 'and so is the view');
SELECT throws_ok(format('SELECT iot.cancel_group_command(%L)', :'batch'), '42501', NULL, 'and the power to stop it');
RESET ROLE;
UPDATE iot.command_batch SET username = session_user WHERE command_batch_id = :'batch';
SELECT is(pass(:'batch', '0.5 s'), 2, 'a name that is spelt like an administrator''s');
SELECT is(progress(:'batch'), 'RUNNING 12 2 0 4 0', '... gives nobody its powers');
SELECT is(iot.cancel_group_command(:'batch'), 'CANCELLED', 'an administrator stops it');

-- retention
UPDATE iot.command_batch SET finished_at = now() - interval '31 days' WHERE finished_at IS NOT NULL;
SELECT iot_internal.delete_old('command', 5000) AS more \gset
SELECT results_eq('SELECT count(*) FROM iot.command_batch', ARRAY[1::bigint], 'retention takes what is over');
SELECT results_eq('SELECT count(*) FROM iot.command_batch_item', ARRAY[18::bigint], 'with its items');

DROP OWNED BY batch_anna, batch_bert;
DROP ROLE batch_anna, batch_bert;

SELECT * FROM finish();
