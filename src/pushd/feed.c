/*
 * feed.c
 *		What the daemon asks the databases, and who gets what they answer.
 *
 * In each cell there is one statement at a time, and seven things to ask: what is new (live), what
 * one client missed (page), whether a user may come in (authorize), whether those who are in still
 * may be (recheck), what nobody took yet (sweep), what sensors say (values, telemetry.c), and to
 * write down what was taken (record).  They take turns, and each is bounded, so that none starves
 * the others.
 *
 * What makes the order right, within a cell: sequence numbers become visible in order, all statements
 * run one after the other on one connection, and each sees a snapshot.  A page that ends at the head of
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
 * them takes longer than they do.  So each is planned once, for tables of any size; those that
 * somebody waits for with each event are prepared under the names of their functions.
 */
static const char setup_sql[] =
"SET search_path = pg_catalog, pg_temp;"
"SET statement_timeout = '8s';"
"SET lock_timeout = '2s';"
"SET synchronous_commit = off;"
"SET jit = off;"
"SET plan_cache_mode = force_generic_plan;"
"SET enable_seqscan = off;"
"PREPARE push_since(text[], bigint, integer) AS SELECT * FROM iot_internal.push_since($1, $2, $3);"
"PREPARE push_delivered(bigint[], text[]) AS SELECT iot_internal.push_delivered($1, $2);"
"LISTEN iot_push";

Cell		cells[MAX_CELLS];
int			n_cells;

static lws_sorted_usec_list_t tick_timer;

/* Whether any database is there. */
bool
feed_ready(void)
{
	for (int i = 0; i < n_cells; i++)
	{
		if (cells[i].ready)
			return true;
	}
	return false;
}

/* The cell of that name; NULL where there is none. */
Cell *
cell_by_name(const char *name)
{
	for (int i = 0; i < n_cells; i++)
	{
		if (cells[i].name != NULL && strcmp(cells[i].name, name) == 0)
			return &cells[i];
	}
	return NULL;
}

void
place_queue_add(PlaceQueue *queue, Place *place)
{
	if (place->queued)
		return;
	place->queued = true;
	place->next = NULL;
	if (queue->last != NULL)
		queue->last->next = place;
	else
		queue->first = place;
	queue->last = place;
}

Place *
place_queue_take(PlaceQueue *queue)
{
	Place	   *place = queue->first;

	if (place != NULL)
	{
		queue->first = place->next;
		if (queue->first == NULL)
			queue->last = NULL;
		place->queued = false;
	}
	return place;
}

static void
place_queue_remove(PlaceQueue *queue, Place *place)
{
	Place	   *before = NULL;

	for (Place *at = queue->first; at != NULL; before = at, at = at->next)
	{
		if (at != place)
			continue;
		if (before != NULL)
			before->next = at->next;
		else
			queue->first = at->next;
		if (queue->last == at)
			queue->last = before;
		place->queued = false;
		return;
	}
}

/* No client's position in the cell means anything any more. */
static void
reset_all(Cell *cell, const char *reason)
{
	for (Client *client = client_first(); client != NULL; client = client->next)
	{
		Place	   *place = client->state == CLIENT_READY ? &client->places[cell->index] : NULL;

		if (place == NULL || place->feed == FEED_NONE)
			continue;
		place->feed = FEED_CATCH_UP;
		place->n_seen = 0;
		place->seen_overflow = false;
		place->last_seq = 0;
		place->acked = 0;
		place->pending_until = -1;
		for (Subscription *s = client->subscriptions; s != NULL; s = s->next)
		{
			/* whom the cell has yet to let in may have brought a position, to be judged then */
			if (place->allowed || !position_at(s, place)->resumes)
				catchup_start_over(place, position_at(s, place));
		}
		if (place->allowed)
			protocol_reset(place, NULL, reason);
		catchup_queue(place);
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
feed_row_message(Cell *cell, const PGresult *rows, int row)
{
	Message    *message = message_of_cell(cell, PQgetvalue(rows, row, COL_MESSAGE),
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
feed_take_state(Cell *cell, const PGresult *rows)
{
	const char *epoch = PQgetvalue(rows, 0, COL_EPOCH);
	bool		paused = feed_bool(rows, 0, COL_PAUSED);
	int64_t		head = feed_int(rows, 0, COL_HEAD);
	int64_t		floor = feed_int(rows, 0, COL_FLOOR);
	bool		was_paused = cell->paused;
	const char *reason = NULL;

	if (cell->known && strcmp(epoch, cell->epoch) != 0)
		reason = "epoch";
	else if (cell->known && head < cell->cursor)
		reason = "position";
	else if (cell->known && floor > cell->cursor)
		reason = "retention";
	if (paused != was_paused)
		log_line(paused ? "%sdeliveries are paused: this database is a copy"
				 : "%sdeliveries go on", cell->prefix);
	snprintf(cell->epoch, sizeof(cell->epoch), "%s", epoch);
	cell->paused = paused;
	cell->head = head;
	cell->floor = floor;
	if (!cell->known || reason != NULL)
		cell->cursor = head;
	cell->known = true;
	if (reason != NULL)
	{
		log_line("%sclients begin again, reason \"%s\"; epoch is now %s", cell->prefix, reason,
				 cell->epoch);
		reset_all(cell, reason);
	}
	if (paused && !was_paused)
		catchup_hold(cell);
	else if (was_paused && !paused)
		catchup_go_on(cell);
	return reason == NULL && !paused;
}

static void
hello_done(const PGresult *rows, void *arg)
{
	Cell	   *cell = arg;

	if (rows == NULL)
	{
		if (pg_connected(cell->pg))
			pg_fail(cell->pg, "it does not answer as a database with the extension");
		return;
	}
	pg_healthy(cell->pg);
	metrics.database_connects++;
	cell->ready = true;
	log_line("%sdatabase is connected", cell->prefix);
	(void) feed_take_state(cell, rows);
	cell->live_wanted = true;
	cell->next_sweep = 0;
	cell->sweep_after = 0;
	access_cell_came(cell);
	catchup_go_on(cell);
}

/* The session listens: from now on hints come, and what came before is in the tables. */
static void
feed_connected(void *owner)
{
	Cell	   *cell = owner;

	(void) pg_send(cell->pg, "SELECT * FROM iot_internal.push_hello()", 0, NULL, hello_done, cell);
}

static void
feed_disconnected(void *owner)
{
	Cell	   *cell = owner;
	bool		was_ready = cell->ready;

	cell->ready = false;
	telemetry_disconnected(cell);
	if (!was_ready)
		return;
	catchup_hold(cell);
	access_cell_went(cell);
}

/* Something may be new, or due again. */
static void
feed_hint(void *owner)
{
	Cell	   *cell = owner;

	metrics.hints++;
	cell->live_wanted = true;
	if (cell->next_sweep > now_ms() + SWEEP_MS)
		cell->next_sweep = now_ms() + SWEEP_MS;
}

static void
pump(void *owner)
{
	Cell	   *cell = owner;

	for (int i = 0; i < N_TURNS && pg_idle(cell->pg) && cell->ready; i++)
	{
		cell->last_turn = (cell->last_turn + 1) % N_TURNS;
		switch ((Turn) cell->last_turn)
		{
			case TURN_LIVE:
				if (cell->live_wanted)
					(void) live_send(cell);
				break;
			case TURN_RECORD:
				if (feed_waiting_records(cell) > 0)
					(void) record_send(cell);
				break;
			case TURN_AUTHORIZE:
				if (cell->authorize.first != NULL)
					(void) access_send(cell);
				break;
			case TURN_PAGE:
				if (cell->pages.first != NULL && !cell->paused)
					(void) catchup_send(cell);
				break;
			case TURN_SWEEP:
				if (cell->sweep_wanted && !cell->paused)
					(void) sweep_send(cell);
				break;
			case TURN_VALUES:
				if (telemetry_due(cell))
					(void) telemetry_send(cell);
				break;
			case TURN_RECHECK:
				if (recheck_due(cell))
					(void) recheck_send(cell);
				break;
			case N_TURNS:
				break;
		}
	}
}

/*
 * Asks the next thing in each cell, if nothing is being asked there.  To be called whenever that may
 * have changed.
 */
void
feed_pump(void)
{
	for (int i = 0; i < n_cells; i++)
		pump(&cells[i]);
}

static void
tick(lws_sorted_usec_list_t *timer)
{
	int64_t		now = now_ms();

	for (int i = 0; i < n_cells; i++)
	{
		if (now >= cells[i].next_poll)
			cells[i].live_wanted = true;
		if (now >= cells[i].next_sweep)
			cells[i].sweep_wanted = true;
	}
	feed_pump();
	lws_sul_schedule(context, 0, timer, tick, TICK_MS * LWS_US_PER_MS);
}

static const PgUse feed_use = {
	.application = "iot-pushd",
	.setup = setup_sql,
	.trouble = "database is away",
	.connected = feed_connected,
	.disconnected = feed_disconnected,
	.hinted = feed_hint,
	.pump = pump
};

/* Connects to all that the options name; false without memory. */
bool
feed_start(void)
{
	for (n_cells = 0; n_cells < options.n_cells; n_cells++)
	{
		Cell	   *cell = &cells[n_cells];

		cell->index = n_cells;
		cell->name = options.cell_names[n_cells];
		if (cell->name != NULL)
			snprintf(cell->prefix, sizeof(cell->prefix), "cell %s: ", cell->name);
		cell->pg = pg_start(options.conninfos[n_cells], cell->prefix, &feed_use, cell);
		if (cell->pg == NULL)
			return false;
	}
	lws_sul_schedule(context, 0, &tick_timer, tick, TICK_MS * LWS_US_PER_MS);
	return true;
}

void
feed_stop(void)
{
	for (int i = 0; i < n_cells; i++)
		pg_stop(cells[i].pg);
}

/* The client's queue is short again. */
void
feed_drained(Client *client)
{
	catchup_next(client);
	feed_pump();
}

/* The client goes, or wants nothing from the cell any more. */
void
place_forget(Place *place)
{
	if (place->queued)
	{
		place_queue_remove(&place->cell->authorize, place);
		place_queue_remove(&place->cell->pages, place);
	}
	if (place->cell->asked_place == place)
		place->cell->asked_place = NULL;
	if (place->client->paging == place)
		place->client->paging = NULL;
	place->asked = false;
	place->restart = false;
	place->feed = FEED_NONE;
}

/* The client goes. */
void
feed_forget(Client *client)
{
	for (int i = 0; i < n_cells && client->places != NULL; i++)
		place_forget(&client->places[i]);
}

/* The client has no subscription left. */
void
feed_unsubscribed(Client *client)
{
	for (int i = 0; i < n_cells; i++)
	{
		/* others may wait to hear whether they are let in */
		if (client->places[i].allowed)
			place_forget(&client->places[i]);
		else
			client->places[i].feed = FEED_NONE;
	}
}
