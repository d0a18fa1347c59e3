/*
 * feed.c
 *		What the daemon asks the database, and who gets what it answers.
 *
 * There is one statement at a time, and five things to ask: what is new (live), what one client
 * missed (page), whether a user may come in (authorize), what nobody took yet (sweep), and to
 * write down what was taken (record).  They take turns, and each is bounded, so that none starves
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
#include "pushd/feed.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pushd/pg.h"

#define PAGE_ROWS		"200"
#define POLL_MS			1000	/* without a hint, what is new is found this late at most */
#define SWEEP_MS		1000	/* between two pages of what nobody took */
#define SWEEP_IDLE_MS	5000	/* the same, when the last sweep came to its end */
#define TICK_MS			50
#define RECORD_BATCH	1000
#define MAX_SEEN		4096

/* Columns of push_since() and push_pending(); the first row tells the state, the others events. */
enum
{
	COL_EPOCH, COL_PAUSED, COL_HEAD, COL_FLOOR, COL_SCANNED_TO,
	COL_SEQ, COL_EVENT, COL_DEVICE, COL_DEVICE_GROUP, COL_BROADCAST, COL_RECIPIENTS, COL_MESSAGE
};

typedef enum Turn
{
	TURN_LIVE, TURN_RECORD, TURN_AUTHORIZE, TURN_PAGE, TURN_SWEEP, N_TURNS
} Turn;

typedef struct Record
{
	int64_t		seq;
	User	   *user;
	bool		broadcast;
} Record;

typedef struct ClientQueue
{
	Client	   *first;
	Client	   *last;
} ClientQueue;

static struct
{
	bool		ready;			/* the database has told its state since the last connect */
	bool		known;			/* ... ever */
	bool		paused;
	char		epoch[40];
	int64_t		head;
	int64_t		floor;
	int64_t		cursor;			/* everything up to this was offered to live clients */
	bool		live_wanted;
	bool		sweep_wanted;
	int64_t		next_poll;
	int64_t		next_sweep;
	int64_t		sweep_after;
	int			turn;
	ClientQueue authorize;
	ClientQueue pages;
	Client	   *asked_client;	/* of the statement under way; NULL once it has gone */
	User	  **asked;			/* users of the statement under way, held */
	int			n_asked;
	Record	   *records;
	size_t		n_records;
	size_t		size_records;
	size_t		sending;		/* how many of the first records are on their way */
	lws_sorted_usec_list_t tick;
} feed;

static void live_done(const PGresult *rows, void *arg);
static void pending_page_done(const PGresult *rows, void *arg);
static void since_page_done(const PGresult *rows, void *arg);
static void authorize_done(const PGresult *rows, void *arg);
static void sweep_done(const PGresult *rows, void *arg);
static void record_done(const PGresult *rows, void *arg);
static void queue_page(Client *client);

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

/* Deliveries that were taken and are not written down yet. */
size_t
feed_waiting_records(void)
{
	return feed.n_records;
}

static void
queue_add(ClientQueue *queue, Client *client)
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

static Client *
queue_take(ClientQueue *queue)
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
queue_remove(ClientQueue *queue, Client *client)
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

/* Up to where the subscription's events were offered to the client. */
static int64_t
served_to(const Client *client, const Subscription *subscription)
{
	if (client->feed != FEED_LIVE)
		return subscription->served_to;
	return client->live_after > feed.cursor ? client->live_after : feed.cursor;
}

/* Takes the client out of the live feed: its subscriptions stand where they were served to. */
static void
leave_live(Client *client, int64_t at)
{
	if (client->feed == FEED_LIVE)
	{
		for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
			s->served_to = client->live_after > at ? client->live_after : at;
	}
	client->feed = FEED_CATCH_UP;
}

static bool
any_pending(const Client *client)
{
	for (const Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		if (s->pending)
			return true;
	}
	return false;
}

/*
 * Begins again: what is pending for the user, then what is new from now on.  "Now" is where the live
 * feed stands, not where the first page finds the head: what comes in between is new to this
 * client even where another socket of the user has taken it by then.
 */
static void
start_over(Client *client, Subscription *subscription)
{
	/* one subscription must not move the place where another one's news begin */
	if (client->pending_until < 0 || !any_pending(client))
		client->pending_until = feed.cursor;
	client->pending_after = 0;
	subscription->resumes = false;
	subscription->pending = true;
	subscription->after_seq = 0;
	subscription->from = INT64_MAX;
	subscription->served_to = INT64_MAX;
	subscription->epoch[0] = '\0';
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
			start_over(client, s);
		protocol_reset(client, NULL, reason);
		queue_page(client);
	}
}

static int64_t
get_int(const PGresult *rows, int row, int column)
{
	return strtoll(PQgetvalue(rows, row, column), NULL, 10);
}

static bool
get_bool(const PGresult *rows, int row, int column)
{
	return PQgetvalue(rows, row, column)[0] == 't';
}

/*
 * Takes over the state that a statement told.  False where it is not the one that was known, and
 * clients were told to begin again: then the statement's events mean nothing.
 */
static bool
take_state(const PGresult *rows)
{
	const char *epoch = PQgetvalue(rows, 0, COL_EPOCH);
	bool		paused = get_bool(rows, 0, COL_PAUSED);
	int64_t		head = get_int(rows, 0, COL_HEAD);
	int64_t		floor = get_int(rows, 0, COL_FLOOR);
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

static void
release_asked(void)
{
	for (int i = 0; i < feed.n_asked; i++)
		user_release(feed.asked[i]);
	feed.n_asked = 0;
}

static bool
has_live_client(const User *user)
{
	for (const Client *client = user->clients; client != NULL; client = client->user_next)
	{
		if (client->feed == FEED_LIVE && client->state == CLIENT_READY)
			return true;
	}
	return false;
}

/*
 * Remembers whom the next statement is about, in the order of the array: users with a live
 * client, and with settled also only those with nothing on its way.
 */
static const char *
ask_users(PgArray *array, bool settled)
{
	static int	size = 0;

	pg_array_begin(array);
	for (User *user = user_first(); user != NULL; user = user->all_next)
	{
		if (!has_live_client(user) || (settled && user->in_flight > 0))
			continue;
		if (feed.n_asked == size)
		{
			int			larger_size = size == 0 ? 64 : size * 2;
			User	  **larger = realloc(feed.asked, (size_t) larger_size * sizeof(User *));

			if (larger == NULL)
				return NULL;
			feed.asked = larger;
			size = larger_size;
		}
		user_hold(user);
		feed.asked[feed.n_asked++] = user;
		pg_array_add(array, user->name);
	}
	return pg_array_end(array);
}

static Message *
row_message(const PGresult *rows, int row)
{
	Message    *message = message_new(PQgetvalue(rows, row, COL_MESSAGE),
									  (size_t) PQgetlength(rows, row, COL_MESSAGE));

	if (message != NULL)
	{
		message->is_event = true;
		message->seq = get_int(rows, row, COL_SEQ);
		message->broadcast = get_bool(rows, row, COL_BROADCAST);
	}
	return message;
}

static bool
row_matches(const Subscription *subscription, const PGresult *rows, int row)
{
	return subscription_matches(subscription, PQgetvalue(rows, row, COL_EVENT),
								PQgetvalue(rows, row, COL_DEVICE),
								PQgetvalue(rows, row, COL_DEVICE_GROUP));
}

/* Whether a live client wants the event at all. */
static bool
wants(const Client *client, const PGresult *rows, int row, int64_t seq)
{
	for (const Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		if (seq > s->after_seq && row_matches(s, rows, row))
			return true;
	}
	return false;
}

static bool
was_seen(const Client *client, int64_t seq)
{
	for (int i = 0; i < client->n_seen; i++)
	{
		if (client->seen[i] == seq)
			return true;
	}
	return false;
}

/* Remembers an event that went out of order, so that no later subscription brings it again. */
static void
add_seen(Client *client, int64_t seq)
{
	/* the size is the next power of two, from 16 */
	if (client->n_seen == 0 || (client->n_seen >= 16 && (client->n_seen & (client->n_seen - 1)) == 0))
	{
		int			size = client->n_seen < 16 ? 16 : client->n_seen * 2;
		int64_t    *larger = size > MAX_SEEN ? NULL :
			realloc(client->seen, (size_t) size * sizeof(int64_t));

		if (larger == NULL)
		{
			client->seen_overflow = true;
			return;
		}
		client->seen = larger;
	}
	client->seen[client->n_seen++] = seq;
}

/*
 * Calls body for each live client of each user that the row names, with the row's message, which
 * exists only while there is anybody for it.
 */
static void
offer_row(const PGresult *rows, int row, void (*body) (Client *client, Message *message))
{
	const char *recipients = PQgetvalue(rows, row, COL_RECIPIENTS);
	int64_t		seq = get_int(rows, row, COL_SEQ);
	Message    *message = NULL;

	for (const char *at = recipients; *at != '\0' && *at != '}';)
	{
		char	   *end;
		long		ordinal = strtol(at + 1, &end, 10); /* "{1,2}": each follows one character */

		if (end == at + 1)
			break;
		at = end;
		if (ordinal < 1 || ordinal > feed.n_asked)
			continue;
		for (Client *client = feed.asked[ordinal - 1]->clients; client != NULL;
			 client = client->user_next)
		{
			if (client->state != CLIENT_READY || client->feed != FEED_LIVE ||
				!wants(client, rows, row, seq))
				continue;
			if (message == NULL && (message = row_message(rows, row)) == NULL)
				return;
			body(client, message);
		}
	}
	if (message != NULL)
		message_release(message);
}

static void
offer_live(Client *client, Message *message)
{
	if (message->seq <= client->live_after)
		return;
	if (client->queue_bytes > 0 && client->queue_bytes + message->len > HIGH_WATER)
		leave_live(client, message->seq - 1);	/* feed_drained() goes on from there */
	else
		client_enqueue(client, message, true);
}

static void
offer_again(Client *client, Message *message)
{
	/* what is newer comes by the live feed; what does not fit comes with the next sweep */
	if (message->seq > served_to(client, client->subscriptions) ||
		client->queue_bytes + message->len > HIGH_WATER)
		return;
	add_seen(client, message->seq);
	client_enqueue(client, message, true);
}

static bool
send_live(void)
{
	static PgArray users;
	const char *values[3];
	char		after[24];

	feed.live_wanted = false;
	feed.next_poll = now_ms() + POLL_MS;
	snprintf(after, sizeof(after), "%lld", (long long) feed.cursor);
	values[0] = ask_users(&users, false);
	values[1] = after;
	values[2] = PAGE_ROWS;
	if (values[0] == NULL)
	{
		release_asked();
		return false;
	}
	return pg_send("SELECT * FROM iot_internal.push_since($1, $2, $3)", 3, values,
				   live_done, NULL);
}

static void
live_done(const PGresult *rows, void *arg)
{
	if (rows == NULL)
	{
		release_asked();
		if (pg_connected())
			pg_fail("could not read what is new");
		return;
	}
	if (take_state(rows))
	{
		int64_t		scanned_to = get_int(rows, 0, COL_SCANNED_TO);

		for (int row = 1; row < PQntuples(rows); row++)
		{
			metrics.notifications++;
			offer_row(rows, row, offer_live);
		}
		/* clients that left the live feed above stand at their own place */
		if (scanned_to > feed.cursor)
			feed.cursor = scanned_to;
		if (feed.cursor < feed.head)
			feed.live_wanted = true;
	}
	release_asked();
}

static bool
send_sweep(void)
{
	static PgArray users;
	const char *values[4];
	char		after[24];
	char		until[24];

	feed.sweep_wanted = false;
	feed.next_sweep = now_ms() + SWEEP_MS;
	snprintf(after, sizeof(after), "%lld", (long long) feed.sweep_after);
	snprintf(until, sizeof(until), "%lld", (long long) feed.cursor);
	values[0] = ask_users(&users, true);
	values[1] = after;
	values[2] = until;
	values[3] = PAGE_ROWS;
	if (values[0] == NULL || feed.n_asked == 0)
	{
		release_asked();
		return false;
	}
	return pg_send("SELECT * FROM iot_internal.push_pending($1, $2, $3, $4)", 4, values,
				   sweep_done, NULL);
}

static void
sweep_done(const PGresult *rows, void *arg)
{
	if (rows == NULL)
	{
		release_asked();
		if (pg_connected())
			pg_fail("could not read what is pending");
		return;
	}
	if (take_state(rows))
	{
		int64_t		scanned_to = get_int(rows, 0, COL_SCANNED_TO);

		for (int row = 1; row < PQntuples(rows); row++)
			offer_row(rows, row, offer_again);
		if (scanned_to >= feed.cursor)
		{
			feed.sweep_after = 0;
			feed.next_sweep = now_ms() + SWEEP_IDLE_MS;
		}
		else
			feed.sweep_after = scanned_to;
	}
	release_asked();
}

/* Where the client's next page of the whole history begins: at the one who has seen least. */
static int64_t
page_start(const Client *client)
{
	int64_t		least = INT64_MAX;

	for (const Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		if (s->served_to < least)
			least = s->served_to;
	}
	return least;
}

static bool
send_page(void)
{
	static PgArray user;
	Client	   *client = queue_take(&feed.pages);
	const char *values[4];
	char		after[24];
	char		until[24];

	pg_array_begin(&user);
	pg_array_add(&user, client->user->name);
	values[0] = pg_array_end(&user);
	if (values[0] == NULL)
	{
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return false;
	}
	client->feed_asked = true;
	feed.asked_client = client;
	metrics.replay_pages++;
	values[1] = after;
	if (any_pending(client))
	{
		snprintf(after, sizeof(after), "%lld", (long long) client->pending_after);
		snprintf(until, sizeof(until), "%lld", (long long) client->pending_until);
		values[2] = until;
		values[3] = PAGE_ROWS;
		return pg_send("SELECT * FROM iot_internal.push_pending($1, $2, $3, $4)", 4, values,
					   pending_page_done, NULL);
	}
	snprintf(after, sizeof(after), "%lld", (long long) page_start(client));
	values[2] = PAGE_ROWS;
	return pg_send("SELECT * FROM iot_internal.push_since($1, $2, $3)", 3, values,
				   since_page_done, NULL);
}

/* Judges positions that clients came with; true where one had to begin again. */
static bool
check_positions(Client *client)
{
	bool		again = false;

	for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		const char *reason = NULL;

		if (!s->resumes)
			continue;
		s->resumes = false;
		if (s->epoch[0] != '\0' && strcmp(s->epoch, feed.epoch) != 0)
			reason = "epoch";
		else if (s->after_seq > feed.head)
			reason = "position";
		else if (s->after_seq < feed.floor)
			reason = "retention";
		if (reason == NULL)
			continue;
		again = true;
		start_over(client, s);
		protocol_reset(client, s, reason);
	}
	return again;
}

/* Whether another subscription has brought the event to this client already. */
static bool
was_served(const Client *client, const PGresult *rows, int row, int64_t seq)
{
	for (const Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		if (seq > s->from && seq <= s->served_to && !s->pending && row_matches(s, rows, row))
			return true;
	}
	return was_seen(client, seq);
}

static void
take_page(Client *client, const PGresult *rows, bool pending)
{
	for (int row = 1; row < PQntuples(rows); row++)
	{
		int64_t		seq = get_int(rows, row, COL_SEQ);
		bool		wanted = false;
		Message    *message;

		for (const Subscription *s = client->subscriptions; s != NULL && !wanted; s = s->next)
			wanted = (pending ? s->pending : seq > s->served_to) && seq > s->after_seq &&
				row_matches(s, rows, row);
		if (!wanted || was_served(client, rows, row, seq) ||
			(message = row_message(rows, row)) == NULL)
			continue;
		if (pending)
			add_seen(client, seq);
		client_enqueue(client, message, true);
		message_release(message);
	}
}

static void
page_done(const PGresult *rows, bool pending)
{
	Client	   *client = feed.asked_client;
	bool		restart;

	feed.asked_client = NULL;
	if (client == NULL)
		return;
	restart = client->feed_restart;
	client->feed_asked = false;
	client->feed_restart = false;
	if (rows == NULL)
	{
		if (pg_connected())
			client_close(client, CLOSE_INTERNAL, "the database did not answer");
		else
			queue_page(client);
		return;
	}
	if (client->state != CLIENT_READY || client->subscriptions == NULL)
		return;
	if (take_state(rows) && !check_positions(client) && !restart)
	{
		int64_t		scanned_to = get_int(rows, 0, COL_SCANNED_TO);

		take_page(client, rows, pending);
		if (pending)
		{
			client->pending_after = scanned_to;
			for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
			{
				if (!s->pending || scanned_to < client->pending_until)
					continue;
				s->pending = false;
				s->from = client->pending_until;
				s->served_to = client->pending_until;
			}
		}
		else
		{
			for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
			{
				if (s->served_to < scanned_to)
					s->served_to = scanned_to;
			}
			if (scanned_to >= feed.head && !any_pending(client))
			{
				client->live_after = scanned_to;
				client->feed = FEED_LIVE;
				return;
			}
		}
	}
	queue_page(client);
}

static void
pending_page_done(const PGresult *rows, void *arg)
{
	page_done(rows, true);
}

static void
since_page_done(const PGresult *rows, void *arg)
{
	page_done(rows, false);
}

static bool
send_authorize(void)
{
	Client	   *client = queue_take(&feed.authorize);
	const char *values[1];

	feed.asked_client = client;
	client->feed_asked = true;
	values[0] = client->claimed->name;
	return pg_send("SELECT * FROM iot_internal.push_authorize($1)", 1, values, authorize_done,
				   NULL);
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
	take_state(rows);
	client_authorized(client, get_bool(rows, 0, COL_SCANNED_TO));
}

static bool
send_record(void)
{
	static PgArray seqs;
	static PgArray names;
	const char *values[2];

	pg_array_begin(&seqs);
	pg_array_begin(&names);
	feed.sending = feed.n_records < RECORD_BATCH ? feed.n_records : RECORD_BATCH;
	for (size_t i = 0; i < feed.sending; i++)
	{
		pg_array_add_int(&seqs, feed.records[i].seq);
		pg_array_add(&names, feed.records[i].user->name);
		if (feed.records[i].broadcast)
		{
			pg_array_add_int(&seqs, feed.records[i].seq);
			pg_array_add(&names, "*");
		}
	}
	values[0] = pg_array_end(&seqs);
	values[1] = pg_array_end(&names);
	if (values[0] == NULL || values[1] == NULL)
		return false;
	return pg_send("SELECT iot_internal.push_delivered($1, $2)", 2, values, record_done, NULL);
}

static void
record_done(const PGresult *rows, void *arg)
{
	if (rows == NULL)
	{
		/* they stay, to be recorded over the next connection */
		feed.sending = 0;
		if (pg_connected())
			pg_fail("could not record deliveries");
		return;
	}
	metrics.deliveries_recorded += (uint64_t) get_int(rows, 0, 0);
	for (size_t i = 0; i < feed.sending; i++)
	{
		feed.records[i].user->in_flight--;
		user_release(feed.records[i].user);
	}
	feed.n_records -= feed.sending;
	memmove(feed.records, feed.records + feed.sending, feed.n_records * sizeof(Record));
	feed.sending = 0;
}

/* A socket of the user took the message: to be written down. */
void
feed_taken(User *user, const Message *message)
{
	if (feed.n_records == feed.size_records)
	{
		size_t		size = feed.size_records == 0 ? 64 : feed.size_records * 2;
		Record	   *larger = realloc(feed.records, size * sizeof(Record));

		if (larger == NULL)
		{
			user->in_flight--;	/* stays pending, and is told once more */
			return;
		}
		feed.records = larger;
		feed.size_records = size;
	}
	user_hold(user);
	feed.records[feed.n_records].seq = message->seq;
	feed.records[feed.n_records].user = user;
	feed.records[feed.n_records].broadcast = message->broadcast;
	feed.n_records++;
}

static void
hello_done(const PGresult *rows, void *arg)
{
	if (rows == NULL)
	{
		if (pg_connected())
			pg_fail("it does not answer as a database with the extension");
		return;
	}
	pg_healthy();
	metrics.database_connects++;
	feed.ready = true;
	log_line("database is connected");
	take_state(rows);
	feed.live_wanted = true;
	feed.next_sweep = 0;
	feed.sweep_after = 0;
}

/* The session listens: from now on hints come, and what came before is in the tables. */
void
feed_connected(void)
{
	(void) pg_send("SELECT * FROM iot_internal.push_hello()", 0, NULL, hello_done, NULL);
}

void
feed_disconnected(void)
{
	bool		was_ready = feed.ready;

	feed.ready = false;
	if (!was_ready)
		return;
	for (Client *client = client_first(); client != NULL; client = client->next)
	{
		if (client->state == CLIENT_AUTHORIZING && !client->feed_asked)
			client_close(client, CLOSE_TRY_LATER, "the database is away");
	}
}

/* Something may be new, or due again. */
void
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
	for (int i = 0; i < N_TURNS && pg_idle() && feed.ready; i++)
	{
		feed.turn = (feed.turn + 1) % N_TURNS;
		switch ((Turn) feed.turn)
		{
			case TURN_LIVE:
				if (feed.live_wanted)
					(void) send_live();
				break;
			case TURN_RECORD:
				if (feed.n_records > 0)
					(void) send_record();
				break;
			case TURN_AUTHORIZE:
				if (feed.authorize.first != NULL)
					(void) send_authorize();
				break;
			case TURN_PAGE:
				if (feed.pages.first != NULL && !feed.paused)
					(void) send_page();
				break;
			case TURN_SWEEP:
				if (feed.sweep_wanted && !feed.paused)
					(void) send_sweep();
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

void
feed_start(void)
{
	lws_sul_schedule(context, 0, &feed.tick, tick, TICK_MS * LWS_US_PER_MS);
}

/* The client's token is good: is its user? */
void
feed_authorize(Client *client)
{
	queue_add(&feed.authorize, client);
	feed_pump();
}

static void
queue_page(Client *client)
{
	if (client->feed == FEED_CATCH_UP && client->state == CLIENT_READY && !client->feed_asked &&
		client->subscriptions != NULL && client->queue_bytes <= LOW_WATER)
		queue_add(&feed.pages, client);
}

/* The client has a new subscription, which is in its list already. */
void
feed_subscribed(Client *client, Subscription *subscription)
{
	/* a page under way knows nothing of this subscription, and would count as its history */
	client->feed_restart = client->feed_asked;
	if (!subscription->resumes)
	{
		leave_live(client, feed.cursor);
		start_over(client, subscription);
	}
	else
	{
		subscription->from = subscription->after_seq;
		subscription->served_to = subscription->after_seq;
		/* who is up to date needs no page: the usual case when many come back at once */
		if (feed.ready && !feed.paused && subscription->after_seq == feed.cursor &&
			(subscription->epoch[0] == '\0' || strcmp(subscription->epoch, feed.epoch) == 0) &&
			(client->feed == FEED_NONE ||
			 (client->feed == FEED_LIVE && client->live_after <= feed.cursor)))
		{
			subscription->resumes = false;
			if (client->feed == FEED_NONE)
				client->live_after = feed.cursor;
			client->feed = FEED_LIVE;
			return;
		}
		if (client->feed == FEED_LIVE)
		{
			int64_t		position = subscription->served_to;

			leave_live(client, feed.cursor);
			subscription->served_to = position;
		}
		client->feed = FEED_CATCH_UP;
	}
	queue_page(client);
	feed_pump();
}

/* The client's queue is short again. */
void
feed_drained(Client *client)
{
	queue_page(client);
	feed_pump();
}

/* The client goes, or wants nothing any more. */
void
feed_forget(Client *client)
{
	if (client->feed_queued)
	{
		queue_remove(&feed.authorize, client);
		queue_remove(&feed.pages, client);
	}
	if (feed.asked_client == client)
		feed.asked_client = NULL;
	client->feed_asked = false;
	client->feed_restart = false;
	client->feed = FEED_NONE;
}
