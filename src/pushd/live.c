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

/* Whom the statement under way is about, by cell. */
typedef struct Asked
{
	User	  **users;			/* held */
	int			n;
	int			size;
	bool		moves;			/* the live feed is being read, for the users above */
} Asked;

static Asked asked[MAX_CELLS];

static void live_done(const PGresult *rows, void *arg);
static void sweep_done(const PGresult *rows, void *arg);

static void
release_asked(const Cell *cell)
{
	Asked	   *a = &asked[cell->index];

	for (int i = 0; i < a->n; i++)
		user_release(a->users[i]);
	a->n = 0;
}

static bool
has_live_client(const User *user, const Cell *cell)
{
	for (const Client *client = user->clients; client != NULL; client = client->user_next)
	{
		if (client->places[cell->index].feed == FEED_LIVE && client->state == CLIENT_READY)
			return true;
	}
	return false;
}

/*
 * Remembers whom the next statement is about, in the order of the array: users with a live
 * client, and with settled also only those with nothing on its way.
 */
static const char *
ask_users(const Cell *cell, PgArray *array, bool settled)
{
	Asked	   *a = &asked[cell->index];

	pg_array_begin(array);
	for (User *user = user_first(); user != NULL; user = user->all_next)
	{
		if (!has_live_client(user, cell) || (settled && user->in_flight[cell->index] > 0))
			continue;
		if (a->n == a->size)
		{
			int			size = a->size == 0 ? 64 : a->size * 2;
			User	  **larger = realloc(a->users, (size_t) size * sizeof(User *));

			if (larger == NULL)
				return NULL;
			a->users = larger;
			a->size = size;
		}
		user_hold(user);
		a->users[a->n++] = user;
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
wants(const Place *place, const PGresult *rows, int row, int64_t seq, bool pending)
{
	for (Subscription *s = place->client->subscriptions; s != NULL; s = s->next)
	{
		if ((pending || seq > position_at(s, place)->after_seq) && feed_row_matches(s, rows, row))
			return true;
	}
	return false;
}

/*
 * Calls body for each live client of each user that the row names, with the row's message, which
 * exists only while there is anybody for it.
 */
static void
offer_row(Cell *cell, const PGresult *rows, int row, bool pending,
		  void (*body) (Place *place, Message *message))
{
	const Asked *a = &asked[cell->index];
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
		if (ordinal < 1 || ordinal > a->n)
			continue;
		for (Client *client = a->users[ordinal - 1]->clients; client != NULL;
			 client = client->user_next)
		{
			Place	   *place = &client->places[cell->index];

			if (client->state != CLIENT_READY || place->feed != FEED_LIVE ||
				!wants(place, rows, row, seq, pending))
				continue;
			if (message == NULL && (message = feed_row_message(cell, rows, row)) == NULL)
				return;
			body(place, message);
		}
	}
	if (message != NULL)
		message_release(message);
}

static void
offer_live(Place *place, Message *message)
{
	Client	   *client = place->client;

	if (message->seq <= place->live_after)
		return;
	if (client->queue_bytes > 0 && client->queue_bytes + message->len > HIGH_WATER)
		catchup_leave_live(place, message->seq - 1);	/* feed_drained() goes on from there */
	else
		client_enqueue(client, message, true);
}

static void
offer_again(Place *place, Message *message)
{
	Client	   *client = place->client;

	/* what is newer comes by the live feed; what does not fit comes with the next sweep */
	if (message->seq > catchup_served_to(place, position_at(client->subscriptions, place)) ||
		client->queue_bytes + message->len > HIGH_WATER)
		return;
	catchup_add_seen(place, message->seq);
	client_enqueue(client, message, true);
}

bool
live_send(Cell *cell)
{
	static PgArray users;
	const char *values[3];
	char		after[24];

	cell->live_wanted = false;
	cell->next_poll = now_ms() + POLL_MS;
	snprintf(after, sizeof(after), "%lld", (long long) cell->cursor);
	values[0] = ask_users(cell, &users, false);
	values[1] = after;
	values[2] = PAGE_ROWS;
	if (values[0] == NULL)
	{
		release_asked(cell);
		return false;
	}
	asked[cell->index].moves = true;
	return pg_send_prepared(cell->pg, "push_since", 3, values, live_done, cell);
}

/*
 * Whether the live feed is about to move on, for those alone who were live when it was asked for:
 * nobody can join it now at the place where it stands.
 */
bool
live_moving(const Cell *cell)
{
	return asked[cell->index].moves;
}

static void
live_done(const PGresult *rows, void *arg)
{
	Cell	   *cell = arg;

	asked[cell->index].moves = false;
	if (rows == NULL)
	{
		release_asked(cell);
		if (pg_connected(cell->pg))
			pg_fail(cell->pg, "could not read what is new");
		return;
	}
	if (feed_take_state(cell, rows))
	{
		int64_t		scanned_to = feed_int(rows, 0, COL_SCANNED_TO);

		for (int row = 1; row < PQntuples(rows); row++)
		{
			metrics.notifications++;
			offer_row(cell, rows, row, false, offer_live);
		}
		/* clients that left the live feed above stand at their own place */
		if (scanned_to > cell->cursor)
			cell->cursor = scanned_to;
		if (cell->cursor < cell->head)
			cell->live_wanted = true;
	}
	release_asked(cell);
}

bool
sweep_send(Cell *cell)
{
	static PgArray users;
	const char *values[4];
	char		after[24];
	char		until[24];

	cell->sweep_wanted = false;
	cell->next_sweep = now_ms() + SWEEP_MS;
	snprintf(after, sizeof(after), "%lld", (long long) cell->sweep_after);
	snprintf(until, sizeof(until), "%lld", (long long) cell->cursor);
	values[0] = ask_users(cell, &users, true);
	values[1] = after;
	values[2] = until;
	values[3] = PAGE_ROWS;
	if (values[0] == NULL || asked[cell->index].n == 0)
	{
		release_asked(cell);
		return false;
	}
	return pg_send(cell->pg, "SELECT * FROM iot_internal.push_pending($1, $2, $3, $4)", 4, values,
				   sweep_done, cell);
}

static void
sweep_done(const PGresult *rows, void *arg)
{
	Cell	   *cell = arg;

	if (rows == NULL)
	{
		release_asked(cell);
		if (pg_connected(cell->pg))
			pg_fail(cell->pg, "could not read what is pending");
		return;
	}
	if (feed_take_state(cell, rows))
	{
		int64_t		scanned_to = feed_int(rows, 0, COL_SCANNED_TO);

		for (int row = 1; row < PQntuples(rows); row++)
			offer_row(cell, rows, row, true, offer_again);
		if (scanned_to >= cell->cursor)
		{
			cell->sweep_after = 0;
			cell->next_sweep = now_ms() + SWEEP_IDLE_MS;
		}
		else
			cell->sweep_after = scanned_to;
	}
	release_asked(cell);
}
