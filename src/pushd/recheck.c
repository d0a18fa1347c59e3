/*
 * recheck.c
 *		Whether those who are connected still may be.
 *
 * A token was good when it came.  Since then its user may have been disabled or deleted, or the
 * token revoked; so the database is asked about all open sockets twice a second, many in one
 * statement, and those whose token no longer counts are closed.  What a user may see is another
 * matter, and judged with each answer.
 */
#include "pushd/feed_internal.h"

#define RECHECK_MS		500
#define MAX_ASKED		1000	/* sockets of one statement */

static Client *asked[MAX_ASKED];	/* of the statement under way; NULL once they have gone */
static int	n_asked;
static Client *next_client;		/* where the round goes on; NULL: it is over */
static int64_t next_round;

static void recheck_done(const PGresult *rows, void *arg);

bool
recheck_due(void)
{
	if (next_client != NULL)
		return true;
	if (now_ms() < next_round)
		return false;
	/* a socket that comes in meanwhile has just been judged */
	next_client = client_first();
	next_round = now_ms() + RECHECK_MS;
	return next_client != NULL;
}

bool
recheck_send(void)
{
	static PgArray names;
	static PgArray issued;
	static PgArray ids;
	const char *values[3];

	pg_array_begin(&names);
	pg_array_begin(&issued);
	pg_array_begin(&ids);
	for (; next_client != NULL && n_asked < MAX_ASKED; next_client = next_client->next)
	{
		if (next_client->state != CLIENT_READY)
			continue;
		pg_array_add(&names, next_client->user->name);
		pg_array_add_or_null(&issued, next_client->issued_at);
		pg_array_add_or_null(&ids, next_client->token_id);
		next_client->recheck_place = n_asked;
		asked[n_asked++] = next_client;
	}
	if (n_asked == 0)
		return false;
	values[0] = pg_array_end(&names);
	values[1] = pg_array_end(&issued);
	values[2] = pg_array_end(&ids);
	if (values[0] == NULL || values[1] == NULL || values[2] == NULL)
	{
		recheck_done(NULL, NULL);
		return false;
	}
	return pg_send(feed.pg, "SELECT * FROM iot_internal.push_recheck($1, $2, $3)", 3, values,
				   recheck_done, NULL);
}

static void
recheck_done(const PGresult *rows, void *arg)
{
	for (int row = 0; rows != NULL && row < PQntuples(rows); row++)
	{
		int64_t		place = feed_int(rows, row, 0) - 1;

		if (place >= 0 && place < n_asked && asked[place] != NULL)
			client_close(asked[place], CLOSE_UNAUTHORIZED, "no longer allowed");
	}
	for (int i = 0; i < n_asked; i++)
	{
		if (asked[i] != NULL)
			asked[i]->recheck_place = -1;
	}
	n_asked = 0;
	if (rows == NULL && pg_connected(feed.pg))
		pg_fail(feed.pg, "could not ask who is still allowed");
}

/* The client goes. */
void
recheck_forget(Client *client)
{
	if (client == next_client)
		next_client = client->next;
	if (client->recheck_place >= 0)
		asked[client->recheck_place] = NULL;
	client->recheck_place = -1;
}
