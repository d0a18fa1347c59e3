/*
 * catchup.c
 *		Clients that read from the table: what is pending for them, what they missed, and how they
 *		come to be live.
 *
 * In each cell a client has one place in the history for all its subscriptions, the least of theirs,
 * and is given pages from there; each subscription takes what it has not been served yet, and nothing
 * that another has brought.  While it catches up there it gets nothing live from there, so that on one
 * connection the events of a cell come in order, but for what is told late because it could not be
 * told before.
 *
 * A client waits for one page at a time, of whichever cell: what it may cost does not grow with their
 * number.  Cells that have pages for it take turns.
 */
#include "pushd/feed_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SEEN		4096

static void pending_page_done(const PGresult *rows, void *arg);
static void since_page_done(const PGresult *rows, void *arg);

/* Up to where the subscription's events were offered to the client. */
int64_t
catchup_served_to(const Place *place, const Position *position)
{
	if (place->feed != FEED_LIVE)
		return position->served_to;
	return place->live_after > place->cell->cursor ? place->live_after : place->cell->cursor;
}

/* Takes the client out of the live feed: its subscriptions stand where they were served to. */
void
catchup_leave_live(Place *place, int64_t at)
{
	if (place->feed == FEED_LIVE)
	{
		for (Subscription *s = place->client->subscriptions; s != NULL; s = s->next)
			position_at(s, place)->served_to = place->live_after > at ? place->live_after : at;
	}
	place->feed = FEED_CATCH_UP;
}

static bool
any_pending(const Place *place)
{
	for (Subscription *s = place->client->subscriptions; s != NULL; s = s->next)
	{
		if (position_at(s, place)->pending)
			return true;
	}
	return false;
}

/*
 * Begins again: what is pending for the user, then what is new from now on.  "Now" is where the live
 * feed stands, not where the first page finds the head: what comes in between is new to this
 * client even where another socket of the user has taken it by then.
 */
void
catchup_start_over(Place *place, Position *position)
{
	/* one subscription must not move the place where another one's news begin */
	if (place->pending_until < 0 || !any_pending(place))
		place->pending_until = place->cell->cursor;
	place->pending_after = 0;
	position->resumes = false;
	position->pending = true;
	position->after_seq = 0;
	position->from = INT64_MAX;
	position->served_to = INT64_MAX;
	position->epoch[0] = '\0';
}

static bool
was_seen(const Place *place, int64_t seq)
{
	for (int i = 0; i < place->n_seen; i++)
	{
		if (place->seen[i] == seq)
			return true;
	}
	return false;
}

/* Remembers an event that went out of order, so that no later subscription brings it again. */
void
catchup_add_seen(Place *place, int64_t seq)
{
	/* the size is the next power of two, from 16 */
	if (place->n_seen == 0 || (place->n_seen >= 16 && (place->n_seen & (place->n_seen - 1)) == 0))
	{
		int			size = place->n_seen < 16 ? 16 : place->n_seen * 2;
		int64_t    *larger = size > MAX_SEEN ? NULL :
			realloc(place->seen, (size_t) size * sizeof(int64_t));

		if (larger == NULL)
		{
			place->seen_overflow = true;
			return;
		}
		place->seen = larger;
	}
	place->seen[place->n_seen++] = seq;
}

/* Has the client wait for a page of the cell, if it wants one and waits for none. */
void
catchup_queue(Place *place)
{
	Client	   *client = place->client;

	if (place->feed != FEED_CATCH_UP || !place->allowed || !place->cell->ready ||
		place->cell->paused || client->state != CLIENT_READY || client->paging != NULL ||
		client->subscriptions == NULL || client->queue_bytes > LOW_WATER)
		return;
	client->paging = place;
	client->page_turn = place->cell->index;
	place_queue_add(&place->cell->pages, place);
}

/* The same, of the next cell that has one for it. */
void
catchup_next(Client *client)
{
	for (int i = 1, turn = client->page_turn; i <= n_cells; i++)
		catchup_queue(&client->places[(turn + i) % n_cells]);
}

/* The cell gives no more pages: who waits for one goes on with another cell. */
void
catchup_hold(Cell *cell)
{
	Place	   *place;

	while ((place = place_queue_take(&cell->pages)) != NULL)
	{
		place->client->paging = NULL;
		catchup_next(place->client);
	}
}

/* It gives pages again. */
void
catchup_go_on(Cell *cell)
{
	for (Client *client = client_first(); client != NULL; client = client->next)
	{
		if (client->places != NULL)
			catchup_queue(&client->places[cell->index]);
	}
}

/* Where the client's next page of the whole history begins: at the one who has seen least. */
static int64_t
page_start(const Place *place)
{
	int64_t		least = INT64_MAX;

	for (Subscription *s = place->client->subscriptions; s != NULL; s = s->next)
	{
		if (position_at(s, place)->served_to < least)
			least = position_at(s, place)->served_to;
	}
	return least;
}

bool
catchup_send(Cell *cell)
{
	static PgArray user;
	Place	   *place = place_queue_take(&cell->pages);
	Client	   *client = place->client;
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
	place->asked = true;
	cell->asked_place = place;
	metrics.replay_pages++;
	values[1] = after;
	if (any_pending(place))
	{
		snprintf(after, sizeof(after), "%lld", (long long) place->pending_after);
		snprintf(until, sizeof(until), "%lld", (long long) place->pending_until);
		values[2] = until;
		values[3] = PAGE_ROWS;
		return pg_send(cell->pg, "SELECT * FROM iot_internal.push_pending($1, $2, $3, $4)", 4,
					   values, pending_page_done, cell);
	}
	snprintf(after, sizeof(after), "%lld", (long long) page_start(place));
	values[2] = PAGE_ROWS;
	return pg_send_prepared(cell->pg, "push_since", 3, values, since_page_done, cell);
}

/* Judges positions that clients came with; true where one had to begin again. */
static bool
check_positions(Place *place)
{
	const Cell *cell = place->cell;
	bool		again = false;

	for (Subscription *s = place->client->subscriptions; s != NULL; s = s->next)
	{
		Position   *position = position_at(s, place);
		const char *reason = NULL;

		if (!position->resumes)
			continue;
		position->resumes = false;
		if (position->epoch[0] != '\0' && strcmp(position->epoch, cell->epoch) != 0)
			reason = "epoch";
		else if (position->after_seq > cell->head)
			reason = "position";
		else if (position->after_seq < cell->floor)
			reason = "retention";
		if (reason == NULL)
			continue;
		again = true;
		catchup_start_over(place, position);
		protocol_reset(place, s, reason);
	}
	return again;
}

/* Whether another subscription has brought the event to this client already. */
static bool
was_served(const Place *place, const PGresult *rows, int row, int64_t seq)
{
	for (Subscription *s = place->client->subscriptions; s != NULL; s = s->next)
	{
		const Position *position = position_at(s, place);

		if (seq > position->from && seq <= position->served_to && !position->pending &&
			feed_row_matches(s, rows, row))
			return true;
	}
	return was_seen(place, seq);
}

static void
take_page(Place *place, const PGresult *rows, bool pending)
{
	for (int row = 1; row < PQntuples(rows); row++)
	{
		int64_t		seq = feed_int(rows, row, COL_SEQ);
		bool		wanted = false;
		Message    *message;

		for (Subscription *s = place->client->subscriptions; s != NULL && !wanted; s = s->next)
		{
			const Position *position = position_at(s, place);

			wanted = (pending ? position->pending : seq > position->served_to) &&
				seq > position->after_seq && feed_row_matches(s, rows, row);
		}
		if (!wanted || was_served(place, rows, row, seq) ||
			(message = feed_row_message(place->cell, rows, row)) == NULL)
			continue;
		if (pending)
			catchup_add_seen(place, seq);
		client_enqueue(place->client, message, true);
		message_release(message);
	}
}

/* What the page brought is offered: the client goes on from where it ended, or is up to date. */
static void
move_on(Place *place, int64_t scanned_to, bool pending)
{
	for (Subscription *s = place->client->subscriptions; s != NULL; s = s->next)
	{
		Position   *position = position_at(s, place);

		if (!pending && position->served_to < scanned_to)
			position->served_to = scanned_to;
		else if (pending && position->pending && scanned_to >= place->pending_until)
		{
			position->pending = false;
			position->from = place->pending_until;
			position->served_to = place->pending_until;
		}
	}
	if (pending)
		place->pending_after = scanned_to;
	else if (scanned_to >= place->cell->head && !any_pending(place))
	{
		place->live_after = scanned_to;
		place->feed = FEED_LIVE;
	}
}

static void
page_done(Cell *cell, const PGresult *rows, bool pending)
{
	Place	   *place = cell->asked_place;
	Client	   *client;
	bool		restart;

	cell->asked_place = NULL;
	if (place == NULL)
		return;
	client = place->client;
	restart = place->restart;
	place->asked = false;
	place->restart = false;
	client->paging = NULL;
	if (rows == NULL && pg_connected(cell->pg))
		client_close(client, CLOSE_INTERNAL, "the database did not answer");
	if (client->state != CLIENT_READY || client->subscriptions == NULL)
		return;
	if (rows != NULL && feed_take_state(cell, rows) && !check_positions(place) && !restart)
	{
		take_page(place, rows, pending);
		move_on(place, feed_int(rows, 0, COL_SCANNED_TO), pending);
	}
	catchup_next(client);
}

static void
pending_page_done(const PGresult *rows, void *arg)
{
	page_done(arg, rows, true);
}

static void
since_page_done(const PGresult *rows, void *arg)
{
	page_done(arg, rows, false);
}

/* The client has a subscription, in its list already, that is new to the cell. */
void
catchup_subscribed(Place *place, Subscription *subscription)
{
	const Cell *cell = place->cell;
	Position   *position = position_at(subscription, place);

	/* a page under way knows nothing of this subscription, and would count as its history */
	place->restart = place->asked;
	if (!position->resumes)
	{
		catchup_leave_live(place, cell->cursor);
		catchup_start_over(place, position);
	}
	else
	{
		position->from = position->after_seq;
		position->served_to = position->after_seq;
		/* who is up to date needs no page: the usual case when many come back at once */
		if (cell->ready && place->allowed && !cell->paused && !live_moving(cell) &&
			position->after_seq == cell->cursor &&
			(position->epoch[0] == '\0' || strcmp(position->epoch, cell->epoch) == 0) &&
			(place->feed == FEED_NONE ||
			 (place->feed == FEED_LIVE && place->live_after <= cell->cursor)))
		{
			position->resumes = false;
			if (place->feed == FEED_NONE)
				place->live_after = cell->cursor;
			place->feed = FEED_LIVE;
			return;
		}
		if (place->feed == FEED_LIVE)
		{
			int64_t		at = position->served_to;

			catchup_leave_live(place, cell->cursor);
			position->served_to = at;
		}
		place->feed = FEED_CATCH_UP;
	}
	catchup_queue(place);
}

/* The client has a new subscription, which is in its list already. */
void
feed_subscribed(Client *client, Subscription *subscription)
{
	for (int i = 0; i < n_cells; i++)
	{
		/* what is new to the client begins here, also where the cell has yet to let it in */
		if (cells[i].known && !client->places[i].refused)
			catchup_subscribed(&client->places[i], subscription);
	}
	feed_pump();
}
