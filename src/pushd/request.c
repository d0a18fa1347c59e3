/*
 * request.c
 *		Questions and orders of users, each answered once.
 *
 * What a client asks is handed to iot_internal.request() as it came, with the name that its token
 * proved; the database becomes that user and answers with a message for the client.  So this file
 * knows no query, and whatever a user may not see or do is refused there.
 *
 * Requests have connections of their own in each cell, made when the first one comes: a slow question
 * delays other questions there, never a notification.  Each is bounded by the session's statement_timeout, and
 * so many may wait for a client.  An order whose answer is lost with the connection may have been
 * carried out: the client is told that nobody knows, and asks again with the same request_id.
 */
#define _GNU_SOURCE
#include "pushd/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "pushd/pg.h"

#define CONNECTIONS		2
#define MAX_WAITING		16		/* of one client */
#define MAX_WAITING_ALL	4096
#define MAX_LOG_INS		3		/* of one connection */

static const char setup_sql[] =
"SET search_path = pg_catalog, pg_temp;"
"SET statement_timeout = '5s';"
"SET lock_timeout = '2s';"
"SET timezone = 'UTC';"
"SET jit = off";

typedef struct Asked
{
	struct Asked *next;
	Client	   *client;			/* NULL once it has gone */
	int64_t		id;
	char	   *message;		/* as the client wrote it; a name where he logs in */
	char	   *password;		/* NULL unless he logs in */
} Asked;

typedef struct Connection
{
	Pg		   *pg;
	Cell	   *cell;
	Asked	   *asked;			/* the statement under way is about it */
} Connection;

/* Where requests to one cell are answered. */
typedef struct Desk
{
	Connection	connections[CONNECTIONS];
	bool		started;
	Asked	   *waiting;
	Asked	   *waiting_last;
	int			n_waiting;
} Desk;

static Desk desks[MAX_CELLS];

static void pump(void *owner);
static void disconnected(void *owner);

static const PgUse request_use = {
	.application = "iot-pushd requests",
	.setup = setup_sql,
	.trouble = "request",
	.connected = pump,
	.disconnected = disconnected,
	.hinted = NULL,
	.pump = pump
};

bool
request_is_op(const char *op)
{
	static const char *const ops[] = {
		"query", "command", "acknowledge", "close", "comment", "assign", "read", "logout"
	};

	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
	{
		if (strcmp(op, ops[i]) == 0)
			return true;
	}
	return false;
}

static void
asked_free(Asked *asked)
{
	if (asked->client != NULL)
		asked->client->n_requests--;
	if (asked->password != NULL)
		explicit_bzero(asked->password, strlen(asked->password));
	free(asked->password);
	free(asked->message);
	free(asked);
}

/* Whether somebody waits for the answer still. */
static bool
is_wanted(const Asked *asked)
{
	return asked->client != NULL && asked->client->state ==
		(asked->password != NULL ? CLIENT_ANONYMOUS : CLIENT_READY);
}

/* Whether it may be answered: the cell may have sent the user away since it came. */
static bool
is_allowed(const Asked *asked, const Cell *cell)
{
	return asked->password != NULL || asked->client->places[cell->index].allowed;
}

static void
answer_error(Asked *asked, const char *code, const char *message)
{
	if (is_wanted(asked))
		protocol_error(asked->client, asked->password != NULL ? NULL : &asked->id, code, message);
}

static Asked *
take_waiting(Desk *desk)
{
	Asked	   *asked = desk->waiting;

	desk->waiting = asked->next;
	if (desk->waiting == NULL)
		desk->waiting_last = NULL;
	desk->n_waiting--;
	return asked;
}

/* No connection is left: nobody waits for one that may never come. */
static void
disconnected(void *owner)
{
	Desk	   *desk = owner;

	for (int i = 0; i < CONNECTIONS; i++)
	{
		if (desk->connections[i].pg != NULL && pg_connected(desk->connections[i].pg))
			return;
	}
	while (desk->waiting != NULL)
	{
		Asked	   *asked = take_waiting(desk);

		answer_error(asked, "unavailable", "the database is away");
		asked_free(asked);
	}
}

static void
done(const PGresult *rows, void *arg)
{
	Connection *connection = arg;
	Asked	   *asked = connection->asked;
	const char *sqlstate = pg_sqlstate(connection->pg);

	connection->asked = NULL;
	if (rows != NULL)
	{
		pg_healthy(connection->pg);
		if (is_wanted(asked) && !is_allowed(asked, connection->cell))
			answer_error(asked, "unknown_outcome", "the cell no longer takes this token");
		else if (is_wanted(asked))
			client_reply_of_cell(asked->client, connection->cell, PQgetvalue(rows, 0, 0));
	}
	else if (!pg_connected(connection->pg))
		answer_error(asked, "unknown_outcome",
					 "the database went away; what was ordered may have been carried out");
	else if (strcmp(sqlstate, "57014") == 0)
		answer_error(asked, sqlstate, "it took too long");
	else if (strncmp(sqlstate, "22", 2) == 0)
		answer_error(asked, sqlstate, "the message cannot be read");
	else
		answer_error(asked, sqlstate, "requests are not served here; the daemon's log says why");
	asked_free(asked);
}

/* The claims that say which token it is, as JSON, malloc'ed; NULL without memory. */
static char *
token_claims(const Client *client)
{
	cJSON	   *claims = cJSON_CreateObject();
	char	   *text;

	if (client->issued_at != NULL)
		cJSON_AddRawToObject(claims, "iat", client->issued_at);
	if (client->token_id != NULL)
		cJSON_AddStringToObject(claims, "jti", client->token_id);
	if (client->expires_at != INT64_MAX)
		cJSON_AddNumberToObject(claims, "exp", (double) client->expires_at);
	text = cJSON_PrintUnformatted(claims);
	cJSON_Delete(claims);
	return text;
}

static void
send_to(Connection *connection, Asked *asked)
{
	const char *values[3];
	char	   *claims;

	if (!is_wanted(asked) || !is_allowed(asked, connection->cell))
	{
		answer_error(asked, "unavailable", "the cell no longer takes this token");
		asked_free(asked);
		return;
	}
	connection->asked = asked;
	metrics.requests++;
	if (asked->password != NULL)
	{
		values[0] = asked->message;
		values[1] = asked->password;
		(void) pg_send(connection->pg, "SELECT iot_internal.request_log_in($1, $2)", 2, values,
					   done, connection);
		return;
	}
	values[0] = asked->client->user->name;
	claims = token_claims(asked->client);
	values[1] = claims != NULL ? claims : "{}";
	values[2] = asked->message;
	(void) pg_send(connection->pg, "SELECT iot_internal.request($1, $2, $3)", 3, values, done,
				   connection);
	free(claims);
}

static void
pump(void *owner)
{
	Desk	   *desk = owner;

	for (int i = 0; i < CONNECTIONS; i++)
	{
		Connection *connection = &desk->connections[i];

		while (desk->waiting != NULL && connection->pg != NULL && pg_idle(connection->pg))
			send_to(connection, take_waiting(desk));
	}
}

/* Connects; tried again by the next request where there is no memory. */
static void
start(Desk *desk, Cell *cell)
{
	desk->started = true;
	for (int i = 0; i < CONNECTIONS; i++)
	{
		Connection *connection = &desk->connections[i];

		connection->cell = cell;
		if (connection->pg == NULL)
			connection->pg = pg_start(options.conninfos[cell->index], cell->prefix, &request_use,
									  desk);
		desk->started = desk->started && connection->pg != NULL;
	}
}

/* Queues what was made of a client's message. */
static void
add_waiting(Client *client, Cell *cell, Asked *asked)
{
	Desk	   *desk = &desks[cell->index];

	if (!desk->started)
		start(desk, cell);
	asked->client = client;
	client->n_requests++;
	if (desk->waiting_last != NULL)
		desk->waiting_last->next = asked;
	else
		desk->waiting = asked;
	desk->waiting_last = asked;
	desk->n_waiting++;
	pump(desk);
}

/* Takes a request of a client that is ready; it is answered now or later, once. */
void
request_send(Client *client, Cell *cell, int64_t id, const char *message, size_t len)
{
	Asked	   *asked;

	if (client->n_requests >= MAX_WAITING || desks[cell->index].n_waiting >= MAX_WAITING_ALL)
	{
		protocol_error(client, &id, "limit", "too many requests wait for their answer");
		return;
	}
	asked = calloc(1, sizeof(Asked));
	if (asked == NULL || (asked->message = strndup(message, len)) == NULL)
	{
		free(asked);
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return;
	}
	asked->id = id;
	add_waiting(client, cell, asked);
}

/*
 * Has a name and a password judged for a client that has yet to say who it is.  The answer is a
 * token, which the client then brings as any other; its time to do so runs on.
 */
void
request_log_in(Client *client, Cell *cell, const char *username, const char *password)
{
	Asked	   *asked;

	if (client->n_requests > 0 || ++client->n_log_ins > MAX_LOG_INS ||
		desks[cell->index].n_waiting >= MAX_WAITING_ALL)
	{
		client_close(client, CLOSE_UNAUTHORIZED, "authentication failed");
		return;
	}
	asked = calloc(1, sizeof(Asked));
	if (asked == NULL || (asked->message = strdup(username)) == NULL ||
		(asked->password = strdup(password)) == NULL)
	{
		if (asked != NULL)
			free(asked->message);
		free(asked);
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return;
	}
	add_waiting(client, cell, asked);
}

static void
forget_at(Desk *desk, const Client *client)
{
	for (Asked *asked = desk->waiting; asked != NULL; asked = asked->next)
	{
		if (asked->client == client)
			asked->client = NULL;
	}
	for (int i = 0; i < CONNECTIONS; i++)
	{
		Asked	   *asked = desk->connections[i].asked;

		if (asked != NULL && asked->client == client)
			asked->client = NULL;
	}
}

/* The client goes: what it asked is not asked any more, what is under way is answered to nobody. */
void
request_forget(Client *client)
{
	if (client->n_requests == 0)
		return;
	for (int i = 0; i < n_cells; i++)
		forget_at(&desks[i], client);
	client->n_requests = 0;
}

void
request_stop(void)
{
	for (int i = 0; i < n_cells * CONNECTIONS; i++)
	{
		Pg		   *pg = desks[i / CONNECTIONS].connections[i % CONNECTIONS].pg;

		if (pg != NULL)
			pg_stop(pg);
	}
}
