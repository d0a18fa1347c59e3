/*
 * daemon_pg.c
 *		The database that fuzz targets give to the push daemon: libpq's functions, and answers to the
 *		daemon's statements out of a small world.
 *
 * The world holds notifications 1 to world_head, of a handful of kinds and devices, for everybody.
 * Statements are answered when the target says so, well or with an error, or never.
 */
#define _GNU_SOURCE
#include "daemon.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "pushd/feed_internal.h"

#define PAGE		5
#define MAX_ROWS	16
#define MAX_COLUMNS	12
#define MAX_EVENTS	1024
#define MAX_PARAMS	4

struct pg_result
{
	ExecStatusType status;
	const char *sqlstate;
	int			n_rows;
	char	   *cell[MAX_ROWS][MAX_COLUMNS];	/* NULL is NULL */
};

struct pg_conn
{
	int			fd;
	bool		asked;			/* a statement is under way */
	bool		answered;		/* ... and its end is there to be read */
	char	   *sql;
	char	   *values[MAX_PARAMS];
	PGresult   *result;
};

int64_t		world_head;
int64_t		world_floor;
int			world_epoch;
bool		world_paused;
bool		world_refuses;

static bool delivered[MAX_EVENTS + 1];
static bool answering;
static bool answers_well;
static bool losing;
static int	hints;
static char trouble[] = "the connection is gone\nfor good\n";

static PGresult *
new_result(ExecStatusType status)
{
	PGresult   *result = calloc(1, sizeof(PGresult));

	REQUIRE(result != NULL);
	result->status = status;
	return result;
}

static void
set_cell(PGresult *result, int column, const char *format,...)
{
	va_list		arguments;

	va_start(arguments, format);
	REQUIRE(vasprintf(&result->cell[result->n_rows][column], format, arguments) >= 0);
	va_end(arguments);
}

static void
put_state(PGresult *result)
{
	set_cell(result, 0, "epoch-%d", world_epoch);
	set_cell(result, 1, world_paused ? "t" : "f");
	set_cell(result, 2, "%lld", (long long) world_head);
	set_cell(result, 3, "%lld", (long long) world_floor);
}

static void
put_event(PGresult *result, int64_t seq)
{
	static const char *const events[] = {
		"adapter.value_set_sent", "alarm.opened", "alarm.closed", "dm.value_set_error"
	};
	int			padding = seq % 7 == 0 ? 20000 : 10;	/* some are large */

	set_cell(result, 5, "%lld", (long long) seq);
	set_cell(result, 6, "%s", events[seq % 4]);
	set_cell(result, 7, "boiler-%d", (int) (seq % 3));
	set_cell(result, 8, "plant");
	set_cell(result, 9, seq % 2 == 0 ? "t" : "f");
	set_cell(result, 10, "{1,2,7}");
	set_cell(result, 11, "{\"op\":\"event\",\"seq\":%lld,\"data\":\"%*s\"}", (long long) seq, padding,
			 "");
	result->n_rows++;
}

/* A page of notifications after one position and up to another. */
static void
put_page(PGresult *result, int64_t after, int64_t until, bool pending)
{
	int64_t		seq = after;
	int			n = 0;

	put_state(result);
	result->n_rows = 1;
	while (seq < until && n < PAGE && !world_paused)
	{
		seq++;
		if (pending && (seq % 3 != 0 || delivered[seq % MAX_EVENTS]))
			continue;
		put_event(result, seq);
		n++;
	}
	REQUIRE(asprintf(&result->cell[0][4], "%lld", (long long) (world_paused ? after : seq)) > 0);
}

/* Each watch that is asked about has two sensors with values. */
static void
put_values(PGresult *result, const char *question)
{
	int			watch = 0;

	for (const char *at = question; (at = strstr(at, "\"watch\":")) != NULL; at++)
	{
		if (result->n_rows + 3 > MAX_ROWS)
			break;
		set_cell(result, 0, "%d", watch++);
		set_cell(result, 1, world_head % 5 == 4 ? "1001" : "2");
		set_cell(result, 2, "%lld", (long long) world_head);
		set_cell(result, 3, "%d", world_epoch);
		result->n_rows++;
		for (int i = 0; i < 2; i++)
		{
			set_cell(result, 3, "%lld", (long long) (world_head / 2 + i));
			set_cell(result, 4, "{\"op\":\"measurement\",\"value\":%lld}", (long long) world_head);
			result->n_rows++;
		}
	}
}

static void
note_delivered(const char *seqs)
{
	for (const char *at = seqs; *at != '\0' && at[1] != '}' && at[1] != '\0';)
	{
		char	   *end;
		long		seq = strtol(at + 1, &end, 10);

		REQUIRE(end > at + 1 && seq > 0 && seq <= MAX_EVENTS);
		delivered[seq] = true;
		at = end;
		if (*at != ',')
			break;
	}
}

static PGresult *
answer_statement(PGconn *conn)
{
	PGresult   *result = new_result(PGRES_TUPLES_OK);
	const char *sql = conn->sql;
	char	  **values = conn->values;

	if (strncmp(sql, "SET ", 4) == 0)
		result->status = PGRES_COMMAND_OK;	/* what begins a session */
	else if (strstr(sql, "push_hello") != NULL || strstr(sql, "push_authorize") != NULL)
	{
		put_state(result);
		set_cell(result, 4, world_refuses ? "f" : "t");
		result->n_rows = 1;
	}
	else if (strstr(sql, "push_since") != NULL)
		put_page(result, atoll(values[1]), world_head, false);
	else if (strstr(sql, "push_pending") != NULL)
		put_page(result, atoll(values[1]),
				 atoll(values[2]) < world_head ? atoll(values[2]) : world_head, true);
	else if (strstr(sql, "push_values") != NULL)
		put_values(result, values[0]);
	else if (strstr(sql, "push_recheck") != NULL)
	{
		for (int i = 1; world_refuses && i <= 3; i++)
		{
			set_cell(result, 0, "%d", i);
			result->n_rows++;
		}
	}
	else if (strstr(sql, "push_delivered") != NULL)
	{
		note_delivered(values[0]);
		set_cell(result, 0, "1");
		result->n_rows = 1;
	}
	else if (strstr(sql, "iot_internal.request") != NULL)
	{
		set_cell(result, 0, "{\"op\":\"result\"}");
		result->n_rows = 1;
	}
	else
		REQUIRE(false);			/* nothing else is asked */
	return result;
}

static void
forget_statement(PGconn *conn)
{
	free(conn->sql);
	conn->sql = NULL;
	for (int i = 0; i < MAX_PARAMS; i++)
	{
		free(conn->values[i]);
		conn->values[i] = NULL;
	}
}

/* libpq, where the daemon calls it. */
PQconninfoOption *
PQconninfoParse(const char *conninfo, char **errmsg)
{
	return NULL;
}

void
PQconninfoFree(PQconninfoOption *options)
{
}

void
PQfreemem(void *ptr)
{
	free(ptr);
}

PGconn *
PQconnectStartParams(const char *const *keywords, const char *const *values, int expand_dbname)
{
	PGconn	   *conn = calloc(1, sizeof(PGconn));

	REQUIRE(conn != NULL);
	conn->fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	REQUIRE(conn->fd >= 0);
	return conn;
}

PostgresPollingStatusType
PQconnectPoll(PGconn *conn)
{
	return answers_well ? PGRES_POLLING_OK : PGRES_POLLING_FAILED;
}

ConnStatusType
PQstatus(const PGconn *conn)
{
	return CONNECTION_STARTED;
}

int
PQsocket(const PGconn *conn)
{
	return conn->fd;
}

void
PQfinish(PGconn *conn)
{
	if (conn == NULL)
		return;
	forget_statement(conn);
	PQclear(conn->result);
	close(conn->fd);
	free(conn);
}

char *
PQerrorMessage(const PGconn *conn)
{
	return trouble;
}

int
PQsetnonblocking(PGconn *conn, int arg)
{
	return 0;
}

int
PQsendQuery(PGconn *conn, const char *query)
{
	return PQsendQueryParams(conn, query, 0, NULL, NULL, NULL, NULL, 0);
}

int
PQsendQueryParams(PGconn *conn, const char *command, int n, const Oid *types,
				  const char *const *values, const int *lengths, const int *formats, int format)
{
	REQUIRE(!conn->asked && n <= MAX_PARAMS);
	if (losing)
		return 0;
	conn->asked = true;
	conn->answered = false;
	conn->sql = strdup(command);
	REQUIRE(conn->sql != NULL);
	for (int i = 0; i < n; i++)
		conn->values[i] = values[i] != NULL ? strdup(values[i]) : NULL;
	return 1;
}

/* Prepared statements are called as what they call. */
int
PQsendQueryPrepared(PGconn *conn, const char *name, int n, const char *const *values,
					const int *lengths, const int *formats, int format)
{
	return PQsendQueryParams(conn, name, n, NULL, values, lengths, formats, format);
}

int
PQflush(PGconn *conn)
{
	return losing ? -1 : 0;
}

int
PQconsumeInput(PGconn *conn)
{
	static const char *const states[] = {"57014", "22023", "42883", "XX000"};

	if (losing)
		return 0;
	if (!answering || !conn->asked || conn->answered)
		return 1;
	conn->answered = true;
	if (answers_well)
		conn->result = answer_statement(conn);
	else
	{
		conn->result = new_result(PGRES_FATAL_ERROR);
		conn->result->sqlstate = states[world_head % 4];
	}
	return 1;
}

int
PQisBusy(PGconn *conn)
{
	return !conn->answered;
}

PGresult *
PQgetResult(PGconn *conn)
{
	PGresult   *result = conn->result;

	conn->result = NULL;
	if (result == NULL)
	{
		conn->asked = false;
		conn->answered = false;
		forget_statement(conn);
	}
	return result;
}

PGnotify *
PQnotifies(PGconn *conn)
{
	if (hints == 0)
		return NULL;
	hints--;
	return calloc(1, sizeof(PGnotify));
}

ExecStatusType
PQresultStatus(const PGresult *res)
{
	return res != NULL ? res->status : PGRES_FATAL_ERROR;
}

char *
PQresultErrorMessage(const PGresult *res)
{
	return trouble;
}

char *
PQresultErrorField(const PGresult *res, int fieldcode)
{
	return (char *) res->sqlstate;
}

void
PQclear(PGresult *res)
{
	if (res == NULL)
		return;
	for (int row = 0; row < MAX_ROWS; row++)
	{
		for (int column = 0; column < MAX_COLUMNS; column++)
			free(res->cell[row][column]);
	}
	free(res);
}

int
PQntuples(const PGresult *res)
{
	return res->n_rows;
}

int
PQgetisnull(const PGresult *res, int row, int column)
{
	REQUIRE(row < res->n_rows);
	return res->cell[row][column] == NULL;
}

char *
PQgetvalue(const PGresult *res, int row, int column)
{
	static char empty[1];

	REQUIRE(row < res->n_rows);
	return res->cell[row][column] != NULL ? res->cell[row][column] : empty;
}

int
PQgetlength(const PGresult *res, int row, int column)
{
	return (int) strlen(PQgetvalue(res, row, column));
}

/* The socket of the n-th connection to the database; NULL where there are fewer. */
static struct lws *
nth_socket(unsigned n)
{
	for (int i = 0; i < MAX_SOCKETS; i++)
	{
		if (sockets[i].used && !sockets[i].is_client && !sockets[i].doomed && n-- == 0)
			return &sockets[i];
	}
	return NULL;
}

static void
step(struct lws *wsi)
{
	enum lws_callback_reasons reason = LWS_CALLBACK_RAW_RX_FILE;

	/* a connection in the making waits for its socket to be written to */
	if (wsi->wants_write)
	{
		wsi->wants_write = false;
		reason = LWS_CALLBACK_RAW_WRITEABLE_FILE;
	}
	if (pg_callback(wsi, reason, NULL, NULL, 0) != 0)
		wsi->doomed = true;
	loop_settle();
}

/* The n-th connection hears from the database what it waits for; false where there is none. */
bool
pg_answer(unsigned n, bool good)
{
	struct lws *wsi = nth_socket(n);

	if (wsi == NULL)
		return false;
	answering = true;
	answers_well = good;
	step(wsi);
	answering = false;
	answers_well = false;
	return true;
}

void
pg_lose(unsigned n)
{
	struct lws *wsi = nth_socket(n);

	if (wsi == NULL)
		return;
	losing = true;
	step(wsi);
	losing = false;
}

void
pg_hint(void)
{
	struct lws *wsi = nth_socket(0);

	if (wsi == NULL)
		return;
	hints = 1;
	step(wsi);
	hints = 0;
}

/* Connects where that is due, and answers all that is asked, until nothing is left to be done. */
void
pg_settle(void)
{
	for (int round = 0; round < 1000; round++)
	{
		bool		busy = false;

		for (int i = 0; i < n_cells; i++)
			busy |= !cells[i].ready || feed_waiting_records(&cells[i]) > 0 || !pg_idle(cells[i].pg);
		if (!busy)
			return;
		for (unsigned n = 0; pg_answer(n, true); n++)
			;
		loop_pass(50);
	}
	REQUIRE(!"the database is there, and the daemon does not come to rest");
}

/* Nothing has happened yet. */
void
world_begin(void)
{
	world_head = 0;
	world_floor = 0;
	world_epoch = 0;
	world_paused = false;
	world_refuses = false;
	memset(delivered, 0, sizeof(delivered));
}
