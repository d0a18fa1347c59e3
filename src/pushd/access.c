/*
 * access.c
 *		Who may come in, cell by cell.
 *
 * A token that is good opens a socket where a cell knows its user.  All cells that are there are
 * asked, and each speaks for itself alone; one that is away then, or too slow, is asked when it is
 * back, and until it has said yes nothing of it is told.  A client whom no cell takes is sent away.
 */
#include "pushd/feed_internal.h"

#include <stdlib.h>

#include "pushd/telemetry.h"

static void access_done(const PGresult *rows, void *arg);

/* The client's token is good: gives it a place in each cell; false without memory. */
bool
access_begin(Client *client)
{
	client->places = calloc((size_t) n_cells, sizeof(Place));
	if (client->places == NULL)
		return false;
	for (int i = 0; i < n_cells; i++)
	{
		client->places[i].client = client;
		client->places[i].cell = &cells[i];
		client->places[i].recheck_place = -1;
	}
	return true;
}

/* Is its user known?  Asks the cells that are there. */
void
access_ask(Client *client)
{
	for (int i = 0; i < n_cells; i++)
	{
		if (cells[i].ready)
			place_queue_add(&cells[i].authorize, &client->places[i]);
	}
	feed_pump();
}

bool
access_send(Cell *cell)
{
	Place	   *place = place_queue_take(&cell->authorize);
	Client	   *client = place->client;
	const char *values[3];

	cell->asked_place = place;
	place->asked = true;
	values[0] = client->claimed != NULL ? client->claimed->name : client->user->name;
	values[1] = client->issued_at;
	values[2] = client->token_id;
	return pg_send(cell->pg, "SELECT * FROM iot_internal.push_authorize($1, $2, $3)", 3, values,
				   access_done, cell);
}

/*
 * Lets the client in, or sends it away, once all cells that are there have spoken; without patience,
 * once one of them wants it.
 */
void
access_settle(Client *client, bool patient)
{
	bool		allowed = false;
	bool		refused = false;
	bool		waits = false;

	for (int i = 0; i < n_cells; i++)
	{
		const Place *place = &client->places[i];

		allowed |= place->allowed;
		refused |= place->refused;
		waits |= !place->allowed && (place->queued || place->asked);
	}
	if (client->state == CLIENT_READY && refused && !allowed)
		client_close(client, CLOSE_UNAUTHORIZED, "no longer allowed");
	if (client->state != CLIENT_AUTHORIZING || (waits && (patient || !allowed)))
		return;
	if (allowed)
		client_authorized(client);
	else if (refused)
	{
		char		name[128];

		log_name(name, sizeof(name), client->claimed->name);
		log_limited("client %llu: user %s does not exist or is disabled, or the token is revoked",
					(unsigned long long) client->number, name);
		client_close(client, CLOSE_UNAUTHORIZED, "authentication failed");
	}
	else
		client_close(client, CLOSE_TRY_LATER, "the database is away");
}

/* A cell has let in a client whom others had let in before: now it gets what it wants from here. */
static void
join_late(Place *place)
{
	place->restart = false;
	protocol_cell(place);
	catchup_queue(place);
	telemetry_joined(place->cell);
}

static void
access_done(const PGresult *rows, void *arg)
{
	Cell	   *cell = arg;
	Place	   *place = cell->asked_place;
	Client	   *client;

	cell->asked_place = NULL;
	if (place == NULL)
		return;
	client = place->client;
	place->asked = false;
	if (rows != NULL)
	{
		(void) feed_take_state(cell, rows);
		place->allowed = feed_bool(rows, 0, COL_SCANNED_TO);
		place->refused = !place->allowed;
		if (client->state == CLIENT_READY && place->allowed)
			join_late(place);
		else if (client->state == CLIENT_READY)
			protocol_cell(place);
	}
	access_settle(client, true);
}

/* The database was never there before: what is new to the client begins now. */
static void
begin_here(Place *place)
{
	for (Subscription *s = place->client->subscriptions; s != NULL; s = s->next)
		catchup_subscribed(place, s);
}

/* The database is there: asks it about those whom it does not know yet, and tells the others. */
void
access_cell_came(Cell *cell)
{
	for (Client *client = client_first(); client != NULL; client = client->next)
	{
		Place	   *place = client->places != NULL ? &client->places[cell->index] : NULL;

		if (client->state != CLIENT_READY && client->state != CLIENT_AUTHORIZING)
			continue;
		if (place->allowed && client->state == CLIENT_READY && cells_named())
			protocol_cell(place);
		else if (!place->allowed && !place->refused)
		{
			if (place->feed == FEED_NONE)
				begin_here(place);
			place_queue_add(&cell->authorize, place);
		}
	}
}

/* The database is away: who waits for its word alone is sent away, the others are told. */
void
access_cell_went(Cell *cell)
{
	while (cell->authorize.first != NULL)
		(void) place_queue_take(&cell->authorize);
	for (Client *client = client_first(); client != NULL; client = client->next)
	{
		if (client->state == CLIENT_AUTHORIZING)
			access_settle(client, true);
		else if (client->state == CLIENT_READY && client->places[cell->index].allowed &&
				 cells_named())
			protocol_cell(&client->places[cell->index]);
	}
}

/* The cell takes the client no longer: what it said and has not been sent yet is not sent. */
void
access_withdraw(Place *place)
{
	Client	   *client = place->client;

	place->allowed = false;
	place->refused = true;
	access_settle(client, true);
	if (client->state != CLIENT_READY)
		return;
	place_forget(place);
	queue_drop(client, place->cell);
	protocol_cell(place);
	catchup_next(client);
}
