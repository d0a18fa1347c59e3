/*
 * recheck.c
 *		Whether those who are connected still may be.
 *
 * A token was good when it came.  Since then its user may have been disabled or deleted, or the
 * token revoked; so each cell is asked about the sockets that it let in twice a second, many in one
 * statement, and those whose token no longer counts get nothing more of it.  What a user may see is
 * another matter, and judged with each answer.
 */
#include "pushd/feed_internal.h"

#define RECHECK_MS		500
#define MAX_ASKED		1000	/* sockets of one statement */

/* The round in a cell. */
typedef struct Round
{
	Place	   *asked[MAX_ASKED];	/* of the statement under way; NULL once they have gone */
	int			n_asked;
	Client	   *next_client;	/* where the round goes on; NULL: it is over */
	int64_t		next;
} Round;

static Round rounds[MAX_CELLS];

static void recheck_done(const PGresult *rows, void *arg);

bool
recheck_due(Cell *cell)
{
	Round	   *round = &rounds[cell->index];

	if (round->next_client != NULL)
		return true;
	if (now_ms() < round->next)
		return false;
	/* a socket that comes in meanwhile has just been judged */
	round->next_client = client_first();
	round->next = now_ms() + RECHECK_MS;
	return round->next_client != NULL;
}

bool
recheck_send(Cell *cell)
{
	static PgArray names;
	static PgArray issued;
	static PgArray ids;
	Round	   *round = &rounds[cell->index];
	const char *values[3];

	pg_array_begin(&names);
	pg_array_begin(&issued);
	pg_array_begin(&ids);
	for (; round->next_client != NULL && round->n_asked < MAX_ASKED;
		 round->next_client = round->next_client->next)
	{
		const Client *client = round->next_client;
		Place	   *place = client->state == CLIENT_READY ? &client->places[cell->index] : NULL;

		if (place == NULL || !place->allowed)
			continue;
		pg_array_add(&names, client->user->name);
		pg_array_add_or_null(&issued, client->issued_at);
		pg_array_add_or_null(&ids, client->token_id);
		place->recheck_place = round->n_asked;
		round->asked[round->n_asked++] = place;
	}
	if (round->n_asked == 0)
		return false;
	values[0] = pg_array_end(&names);
	values[1] = pg_array_end(&issued);
	values[2] = pg_array_end(&ids);
	if (values[0] == NULL || values[1] == NULL || values[2] == NULL)
	{
		recheck_done(NULL, cell);
		return false;
	}
	return pg_send(cell->pg, "SELECT * FROM iot_internal.push_recheck($1, $2, $3)", 3, values,
				   recheck_done, cell);
}

static void
recheck_done(const PGresult *rows, void *arg)
{
	Cell	   *cell = arg;
	Round	   *round = &rounds[cell->index];

	for (int row = 0; rows != NULL && row < PQntuples(rows); row++)
	{
		int64_t		n = feed_int(rows, row, 0) - 1;

		if (n >= 0 && n < round->n_asked && round->asked[n] != NULL)
			access_withdraw(round->asked[n]);
	}
	for (int i = 0; i < round->n_asked; i++)
	{
		if (round->asked[i] != NULL)
			round->asked[i]->recheck_place = -1;
	}
	round->n_asked = 0;
	if (rows == NULL && pg_connected(cell->pg))
		pg_fail(cell->pg, "could not ask who is still allowed");
}

/* The client goes. */
void
recheck_forget(Client *client)
{
	for (int i = 0; i < n_cells; i++)
	{
		Place	   *place = client->places != NULL ? &client->places[i] : NULL;

		if (client == rounds[i].next_client)
			rounds[i].next_client = client->next;
		if (place == NULL || place->recheck_place < 0)
			continue;
		rounds[i].asked[place->recheck_place] = NULL;
		place->recheck_place = -1;
	}
}
