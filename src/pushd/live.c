/*
 * live.c
 *		What is new, for clients that are up to date; and what nobody took, for those who may now.
 *
 * Users are named to the database by an array, and it answers with places in that array, so that
 * an event for two thousand costs two thousand small numbers.
 */
#include "pushd/feed_internal.h"

#include <stdio.h>
#include <stdlib.h>

#define POLL_MS			1000	/* without a hint, what is new is found this late at most */
#define SWEEP_MS		1000	/* between two pages of what nobody took */
#define SWEEP_IDLE_MS	5000	/* the same, when the last sweep came to its end */

static User **asked;			/* users of the statement under way, held */
static int	n_asked;
static bool under_way;			/* the live feed is being read, for the users above */
static int	size_asked;

static void live_done(const PGresult *rows, void *arg);
static void sweep_done(const PGresult *rows, void *arg);

static void
release_asked(void)
{
	for (int i = 0; i < n_asked; i++)
		user_release(asked[i]);
	n_asked = 0;
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
	pg_array_begin(array);
	for (User *user = user_first(); user != NULL; user = user->all_next)
	{
		if (!has_live_client(user) || (settled && user->in_flight > 0))
			continue;
		if (n_asked == size_asked)
		{
			int			larger_size = size_asked == 0 ? 64 : size_asked * 2;
			User	  **larger = realloc(asked, (size_t) larger_size * sizeof(User *));

			if (larger == NULL)
				return NULL;
			asked = larger;
			size_asked = larger_size;
		}
		user_hold(user);
		asked[n_asked++] = user;
		pg_array_add(array, user->name);
	}
	return pg_array_end(array);
}

/*
 * Whether a live client wants the event at all.  What nobody has taken is wanted wherever the client
 * stands: it may have passed the event by while it could not be told, and a position that a daemon
 * gave who died before it wrote the delivery down looks the same.
 */
static bool
wants(const Client *client, const PGresult *rows, int row, int64_t seq, bool pending)
{
	for (const Subscription *s = client->subscriptions; s != NULL; s = s->next)
	{
		if ((pending || seq > s->after_seq) && feed_row_matches(s, rows, row))
			return true;
	}
	return false;
}

/*
 * Calls body for each live client of each user that the row names, with the row's message, which
 * exists only while there is anybody for it.
 */
static void
offer_row(const PGresult *rows, int row, bool pending,
		  void (*body) (Client *client, Message *message))
{
	const char *recipients = PQgetvalue(rows, row, COL_RECIPIENTS);
	int64_t		seq = feed_int(rows, row, COL_SEQ);
	Message    *message = NULL;

	for (const char *at = recipients; *at != '\0' && *at != '}';)
	{
		char	   *end;
		long		ordinal = strtol(at + 1, &end, 10); /* "{1,2}": each follows one character */

		if (end == at + 1)
			break;
		at = end;
		if (ordinal < 1 || ordinal > n_asked)
			continue;
		for (Client *client = asked[ordinal - 1]->clients; client != NULL;
			 client = client->user_next)
		{
			if (client->state != CLIENT_READY || client->feed != FEED_LIVE ||
				!wants(client, rows, row, seq, pending))
				continue;
			if (message == NULL && (message = feed_row_message(rows, row)) == NULL)
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
		catchup_leave_live(client, message->seq - 1);	/* feed_drained() goes on from there */
	else
		client_enqueue(client, message, true);
}

static void
offer_again(Client *client, Message *message)
{
	/* what is newer comes by the live feed; what does not fit comes with the next sweep */
	if (message->seq > catchup_served_to(client, client->subscriptions) ||
		client->queue_bytes + message->len > HIGH_WATER)
		return;
	catchup_add_seen(client, message->seq);
	client_enqueue(client, message, true);
}

bool
live_send(void)
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
	under_way = true;
	return pg_send(feed.pg, "SELECT * FROM iot_internal.push_since($1, $2, $3)", 3, values,
				   live_done, NULL);
}

/*
 * Whether the live feed is about to move on, for those alone who were live when it was asked for:
 * nobody can join it now at the place where it stands.
 */
bool
live_moving(void)
{
	return under_way;
}

static void
live_done(const PGresult *rows, void *arg)
{
	under_way = false;
	if (rows == NULL)
	{
		release_asked();
		if (pg_connected(feed.pg))
			pg_fail(feed.pg, "could not read what is new");
		return;
	}
	if (feed_take_state(rows))
	{
		int64_t		scanned_to = feed_int(rows, 0, COL_SCANNED_TO);

		for (int row = 1; row < PQntuples(rows); row++)
		{
			metrics.notifications++;
			offer_row(rows, row, false, offer_live);
		}
		/* clients that left the live feed above stand at their own place */
		if (scanned_to > feed.cursor)
			feed.cursor = scanned_to;
		if (feed.cursor < feed.head)
			feed.live_wanted = true;
	}
	release_asked();
}

bool
sweep_send(void)
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
	if (values[0] == NULL || n_asked == 0)
	{
		release_asked();
		return false;
	}
	return pg_send(feed.pg, "SELECT * FROM iot_internal.push_pending($1, $2, $3, $4)", 4, values,
				   sweep_done, NULL);
}

static void
sweep_done(const PGresult *rows, void *arg)
{
	if (rows == NULL)
	{
		release_asked();
		if (pg_connected(feed.pg))
			pg_fail(feed.pg, "could not read what is pending");
		return;
	}
	if (feed_take_state(rows))
	{
		int64_t		scanned_to = feed_int(rows, 0, COL_SCANNED_TO);

		for (int row = 1; row < PQntuples(rows); row++)
			offer_row(rows, row, true, offer_again);
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
