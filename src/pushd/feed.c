/*
 * feed.c
 *		What the daemon asks the database, and who gets what it answers.
 *
 * There is one statement at a time, and seven things to ask: what is new (live), what one client
 * missed (page), whether a user may come in (authorize), whether those who are in still may be (recheck),
 * what nobody took yet (sweep), what sensors say (values, telemetry.c), and to write down what was
 * taken (record).  They take turns, and each is bounded, so that none starves
 * the others.
 *
 * What makes the order right: sequence numbers become visible in order, all statements run one
 * after the other on one connection, and each sees a snapshot.  A page that ends at the head of
 * its snapshot has seen everything that a live page before it had, so the client can go live
 * there: nothing is missed, and nothing up to that head is offered again.  A client that lags
 * leaves the live feed and reads pages from where it was: the table is the queue.
 *
 * Every page asks afresh who may see what; nothing about permissions is remembered here.
 */
#include "pushd/feed_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pushd/telemetry.h"

#define SWEEP_MS		1000	/* the least between a hint and the look at what nobody took */
#define TICK_MS			50

typedef enum Turn
{
	TURN_LIVE, TURN_RECORD, TURN_AUTHORIZE, TURN_PAGE, TURN_SWEEP, TURN_VALUES,
	TURN_RECHECK, N_TURNS
} Turn;

/*
 * A session of ours never holds a lock or a snapshot for long.  What was recorded in the last
 * moments before a crash of the server may be forgotten by it: then a notification is told twice,
 * never lost, so that a flush for each record would buy nothing.
 *
 * The session has a handful of statements, short ones, asked over and over: planning or compiling
 * them takes longer than they do.  So each is planned once, for tables of any size.
 */
static const char setup_sql[] =
"SET search_path = pg_catalog, pg_temp;"
"SET statement_timeout = '8s';"
"SET lock_timeout = '2s';"
"SET synchronous_commit = off;"
"SET jit = off;"
"SET plan_cache_mode = force_generic_plan;"
"SET enable_seqscan = off;"
"LISTEN iot_push";

Feed		feed;

static int	last_turn;
static lws_sorted_usec_list_t tick_timer;

bool
feed_ready(void)
{
	return feed.ready;
}

bool
feed_paused(void)
{
	return feed.paused;
}

const char *
feed_epoch(void)
{
	return feed.epoch;
}

int64_t
feed_cursor(void)
{
	return feed.cursor;
}

void
client_queue_add(ClientQueue *queue, Client *client)
{
	if (client->feed_queued)
		return;
	client->feed_queued = true;
	client->feed_next = NULL;
	if (queue->last != NULL)
		queue->last->feed_next = client;
	else
		queue->first = client;
	queue->last = client;
}

Client *
client_queue_take(ClientQueue *queue)
{
	Client	   *client = queue->first;

	if (client != NULL)
	{
		queue->first = client->feed_next;
		if (queue->first == NULL)
			queue->last = NULL;
		client->feed_queued = false;
	}
	return client;
}

static void
client_queue_remove(ClientQueue *queue, Client *client)
{
	Client	   *before = NULL;

	for (Client *at = queue->first; at != NULL; before = at, at = at->feed_next)
	{
		if (at != client)
			continue;
		if (before != NULL)
			before->feed_next = at->feed_next;
		else
			queue->first = at->feed_next;
		if (queue->last == at)
			queue->last = before;
		client->feed_queued = false;
		return;
	}
}

/* No client's position means anything any more. */
static void
reset_all(const char *reason)
{
	for (Client *client = client_first(); client != NULL; client = client->next)
	{
		if (client->state != CLIENT_READY || client->feed == FEED_NONE)
			continue;
		client->feed = FEED_CATCH_UP;
		client->n_seen = 0;
		client->seen_overflow = false;
		client->last_seq = 0;
		client->acked = 0;
		client->pending_until = -1;
		for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
			catchup_start_over(client, s);
		protocol_reset(client, NULL, reason);
		catchup_queue(client);
	}
}

int64_t
feed_int(const PGresult *rows, int row, int column)
{
	return strtoll(PQgetvalue(rows, row, column), NULL, 10);
}

bool
feed_bool(const PGresult *rows, int row, int column)
{
	return PQgetvalue(rows, row, column)[0] == 't';
}

Message *
feed_row_message(const PGresult *rows, int row)
{
	Message    *message = message_new(PQgetvalue(rows, row, COL_MESSAGE),
									  (size_t) PQgetlength(rows, row, COL_MESSAGE));

	if (message != NULL)
	{
		message->is_event = true;
		message->seq = feed_int(rows, row, COL_SEQ);
		message->broadcast = feed_bool(rows, row, COL_BROADCAST);
	}
	return message;
}

bool
feed_row_matches(const Subscription *subscription, const PGresult *rows, int row)
{
	return subscription_matches(subscription, PQgetvalue(rows, row, COL_EVENT),
								PQgetvalue(rows, row, COL_DEVICE),
								PQgetvalue(rows, row, COL_DEVICE_GROUP));
}

/*
 * Takes over the state that a statement told.  False where it is not the one that was known, and
 * clients were told to begin again: then the statement's events mean nothing.
 */
bool
feed_take_state(const PGresult *rows)
{
	const char *epoch = PQgetvalue(rows, 0, COL_EPOCH);
	bool		paused = feed_bool(rows, 0, COL_PAUSED);
	int64_t		head = feed_int(rows, 0, COL_HEAD);
	int64_t		floor = feed_int(rows, 0, COL_FLOOR);
	const char *reason = NULL;

	if (feed.known && strcmp(epoch, feed.epoch) != 0)
		reason = "epoch";
	else if (feed.known && head < feed.cursor)
		reason = "position";
	else if (feed.known && floor > feed.cursor)
		reason = "retention";
	if (feed.known && paused != feed.paused)
		log_line(paused ? "deliveries are paused: this database is a copy"
				 : "deliveries go on");
	else if (paused && !feed.known)
		log_line("deliveries are paused: this database is a copy");
	snprintf(feed.epoch, sizeof(feed.epoch), "%s", epoch);
	feed.paused = paused;
	feed.head = head;
	feed.floor = floor;
	if (!feed.known || reason != NULL)
		feed.cursor = head;
	feed.known = true;
	if (reason != NULL)
	{
		log_line("clients begin again, reason \"%s\"; epoch is now %s", reason, feed.epoch);
		reset_all(reason);
	}
	return reason == NULL && !paused;
}

static void authorize_done(const PGresult *rows, void *arg);

static bool
send_authorize(void)
{
	Client	   *client = client_queue_take(&feed.authorize);
	const char *values[3];

	feed.asked_client = client;
	client->feed_asked = true;
	values[0] = client->claimed->name;
	values[1] = client->issued_at;
	values[2] = client->token_id;
	return pg_send(feed.pg, "SELECT * FROM iot_internal.push_authorize($1, $2, $3)", 3, values,
				   authorize_done, NULL);
}

static void
authorize_done(const PGresult *rows, void *arg)
{
	Client	   *client = feed.asked_client;

	feed.asked_client = NULL;
	if (client == NULL)
		return;
	client->feed_asked = false;
	if (client->state != CLIENT_AUTHORIZING)
		return;
	if (rows == NULL)
	{
		client_close(client, CLOSE_TRY_LATER, "the database is away");
		return;
	}
	feed_take_state(rows);
	client_authorized(client, feed_bool(rows, 0, COL_SCANNED_TO));
}

static void
hello_done(const PGresult *rows, void *arg)
{
	if (rows == NULL)
	{
		if (pg_connected(feed.pg))
			pg_fail(feed.pg, "it does not answer as a database with the extension");
		return;
	}
	pg_healthy(feed.pg);
	metrics.database_connects++;
	feed.ready = true;
	log_line("database is connected");
	feed_take_state(rows);
	feed.live_wanted = true;
	feed.next_sweep = 0;
	feed.sweep_after = 0;
}

/* The session listens: from now on hints come, and what came before is in the tables. */
static void
feed_connected(void)
{
	(void) pg_send(feed.pg, "SELECT * FROM iot_internal.push_hello()", 0, NULL, hello_done, NULL);
}

static void
feed_disconnected(void)
{
	bool		was_ready = feed.ready;

	feed.ready = false;
	telemetry_disconnected();
	if (!was_ready)
		return;
	for (Client *client = client_first(); client != NULL; client = client->next)
	{
		if (client->state == CLIENT_AUTHORIZING && !client->feed_asked)
			client_close(client, CLOSE_TRY_LATER, "the database is away");
	}
}

/* Something may be new, or due again. */
static void
feed_hint(void)
{
	metrics.hints++;
	feed.live_wanted = true;
	if (feed.next_sweep > now_ms() + SWEEP_MS)
		feed.next_sweep = now_ms() + SWEEP_MS;
}

/* Asks the next thing, if nothing is being asked.  To be called whenever that may have changed. */
void
feed_pump(void)
{
	for (int i = 0; i < N_TURNS && pg_idle(feed.pg) && feed.ready; i++)
	{
		last_turn = (last_turn + 1) % N_TURNS;
		switch ((Turn) last_turn)
		{
			case TURN_LIVE:
				if (feed.live_wanted)
					(void) live_send();
				break;
			case TURN_RECORD:
				if (feed_waiting_records() > 0)
					(void) record_send();
				break;
			case TURN_AUTHORIZE:
				if (feed.authorize.first != NULL)
					(void) send_authorize();
				break;
			case TURN_PAGE:
				if (feed.pages.first != NULL && !feed.paused)
					(void) catchup_send();
				break;
			case TURN_SWEEP:
				if (feed.sweep_wanted && !feed.paused)
					(void) sweep_send();
				break;
			case TURN_VALUES:
				if (telemetry_due())
					(void) telemetry_send();
				break;
			case TURN_RECHECK:
				if (recheck_due())
					(void) recheck_send();
				break;
			case N_TURNS:
				break;
		}
	}
}

static void
tick(lws_sorted_usec_list_t *timer)
{
	int64_t		now = now_ms();

	if (now >= feed.next_poll)
		feed.live_wanted = true;
	if (now >= feed.next_sweep)
		feed.sweep_wanted = true;
	feed_pump();
	lws_sul_schedule(context, 0, timer, tick, TICK_MS * LWS_US_PER_MS);
}

static const PgUse feed_use = {
	.setup = setup_sql,
	.trouble = "database is away",
	.connected = feed_connected,
	.disconnected = feed_disconnected,
	.hinted = feed_hint,
	.pump = feed_pump
};

/* False without memory. */
bool
feed_start(const char *conninfo)
{
	feed.pg = pg_start(conninfo, &feed_use);
	if (feed.pg == NULL)
		return false;
	lws_sul_schedule(context, 0, &tick_timer, tick, TICK_MS * LWS_US_PER_MS);
	return true;
}

void
feed_stop(void)
{
	pg_stop(feed.pg);
}

/* The client's token is good: is its user? */
void
feed_authorize(Client *client)
{
	client_queue_add(&feed.authorize, client);
	feed_pump();
}

/* The client's queue is short again. */
void
feed_drained(Client *client)
{
	catchup_queue(client);
	feed_pump();
}

/* The client goes, or wants nothing any more. */
void
feed_forget(Client *client)
{
	if (client->feed_queued)
	{
		client_queue_remove(&feed.authorize, client);
		client_queue_remove(&feed.pages, client);
	}
	if (feed.asked_client == client)
		feed.asked_client = NULL;
	client->feed_asked = false;
	client->feed_restart = false;
	client->feed = FEED_NONE;
}
