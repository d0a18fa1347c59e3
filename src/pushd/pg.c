/*
 * pg.c
 *		Connections to the database: one statement at a time on each, never waiting.
 *
 * libpq's socket is adopted by the libwebsockets loop as a duplicate, since the loop closes what
 * it is given and libpq closes its own.  While connecting, libpq may take another socket (the next
 * host of the list, TLS refused): then the duplicate is made anew.  A connection that breaks, or a
 * statement that does not come back in time, ends here: the statement's owner is told, and after a
 * growing, jittered while it is tried again.  Passwords are libpq's matter and in none of its
 * messages.  Name look-ups are the one thing that blocks; main.c bounds them.
 */
#include "pushd/pg.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/backoff.h"
#include "pushd/pushd.h"

#define CONNECT_TIMEOUT_US	(10 * LWS_US_PER_SEC)
#define ANSWER_TIMEOUT_US	(10 * LWS_US_PER_SEC)
#define BACKOFF_BASE_MS		200
#define BACKOFF_CAP_MS		5000

typedef enum PgState
{
	PG_AWAY,
	PG_CONNECTING,
	PG_SETUP,
	PG_READY
} PgState;

struct Pg
{
	const PgUse *use;
	void	   *owner;
	const char *conninfo;
	const char *prefix;			/* of its lines in the log */
	PgState		state;
	PGconn	   *conn;
	PostgresPollingStatusType poll; /* what a connection in the making waits for */
	struct lws *wsi;
	ino_t		socket_inode;
	bool		busy;
	PGresult   *rows;			/* of the statement under way, once they are there */
	bool		failed;			/* the statement under way */
	PgDone		done;
	void	   *arg;
	lws_sorted_usec_list_t timer;	/* next attempt, or the patience with this one */
	IotBackoff	backoff;
	char		sqlstate[6];	/* of the statement that failed last */
	char		last_error[512];
};

static void connect_start(lws_sorted_usec_list_t *timer);
static void connect_step(Pg *pg);

/*
 * Whether the connection string can be parsed.  One from the command line must not hold a
 * password: anybody on the machine can read it there.
 */
bool
pg_check_conninfo(const char *conninfo, bool from_arguments, char *error, size_t error_size)
{
	char	   *message = NULL;
	PQconninfoOption *parsed = PQconninfoParse(conninfo, &message);
	bool		good = parsed != NULL;

	if (!good)
		snprintf(error, error_size, "%s", message != NULL ? message : "out of memory");
	for (PQconninfoOption *option = parsed; good && option->keyword != NULL; option++)
	{
		if (from_arguments && option->val != NULL && strcmp(option->keyword, "password") == 0)
		{
			snprintf(error, error_size, "a password on the command line can be read by anybody; "
					 "use \"passfile\", or IOT_PUSHD_CONNINFO");
			good = false;
		}
	}
	PQconninfoFree(parsed);
	PQfreemem(message);
	error[strcspn(error, "\n")] = '\0';
	return good;
}

static void
drop_wsi(Pg *pg)
{
	struct lws *wsi = pg->wsi;

	pg->wsi = NULL;
	pg->socket_inode = 0;
	if (wsi != NULL)
		lws_set_timeout(wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
}

/* Makes the loop watch libpq's present socket. */
static bool
watch_socket(Pg *pg)
{
	lws_sock_file_fd_type fd;
	struct stat st;

	if (fstat(PQsocket(pg->conn), &st) != 0)
		return false;
	if (pg->wsi != NULL && st.st_ino == pg->socket_inode)
		return true;
	drop_wsi(pg);
	fd.filefd = fcntl(PQsocket(pg->conn), F_DUPFD_CLOEXEC, 0);
	if (fd.filefd < 0)
		return false;
	pg->wsi = lws_adopt_descriptor_vhost(vhost, LWS_ADOPT_RAW_FILE_DESC, fd, "iot-pg", NULL);
	if (pg->wsi == NULL)
		return false;
	lws_set_opaque_user_data(pg->wsi, pg);
	pg->socket_inode = st.st_ino;
	return true;
}

/* Tells a reason once, until another takes its place or the database is back. */
static void
log_error(Pg *pg, const char *why)
{
	char		line[sizeof(pg->last_error)];

	snprintf(line, sizeof(line), "%s", why);
	for (char *p = line; *p != '\0'; p++)
	{
		if (*p == '\n')
			*p = p[1] == '\0' ? '\0' : ' ';
	}
	if (strcmp(line, pg->last_error) == 0)
		return;
	strcpy(pg->last_error, line);
	log_line("%s%s: %s", pg->prefix, pg->use->trouble, line);
}

/* Gives the connection up, tells whoever waits for an answer, and comes back later. */
void
pg_fail(Pg *pg, const char *why)
{
	PgDone		done = pg->done;

	if (pg->state == PG_AWAY)
		return;
	log_error(pg, why);
	pg->state = PG_AWAY;
	drop_wsi(pg);
	PQfinish(pg->conn);
	pg->conn = NULL;
	PQclear(pg->rows);
	pg->rows = NULL;
	pg->failed = false;
	pg->busy = false;
	pg->done = NULL;
	pg->use->disconnected(pg->owner);
	if (done != NULL)
		done(NULL, pg->arg);
	if (!stopping)
		lws_sul_schedule(context, 0, &pg->timer, connect_start,
						 (lws_usec_t) iot_backoff_next(&pg->backoff) * LWS_US_PER_MS);
}

static void
attempt_expired(lws_sorted_usec_list_t *timer)
{
	Pg		   *pg = lws_container_of(timer, Pg, timer);

	pg_fail(pg, pg->state == PG_READY ? "a statement was not answered in time"
			: "timeout expired while connecting");
}

static void
connect_start(lws_sorted_usec_list_t *timer)
{
	Pg		   *pg = lws_container_of(timer, Pg, timer);
	const char *keywords[] = {"application_name", "tcp_user_timeout", "dbname",
	"client_encoding", NULL};
	const char *values[] = {pg->use->application, "15000", pg->conninfo, "UTF8", NULL};

	pg->state = PG_CONNECTING;
	pg->conn = PQconnectStartParams(keywords, values, 1);
	if (pg->conn == NULL || PQstatus(pg->conn) == CONNECTION_BAD)
	{
		pg_fail(pg, pg->conn != NULL ? PQerrorMessage(pg->conn) : "out of memory");
		return;
	}
	lws_sul_schedule(context, 0, &pg->timer, attempt_expired, CONNECT_TIMEOUT_US);
	pg->poll = PGRES_POLLING_WRITING;	/* as libpq wants it after the start */
	if (!watch_socket(pg))
	{
		pg_fail(pg, "could not watch its socket");
		return;
	}
	lws_callback_on_writable(pg->wsi);
}

static void
flush(Pg *pg)
{
	int			left = PQflush(pg->conn);

	if (left < 0)
		pg_fail(pg, PQerrorMessage(pg->conn));
	else if (left > 0)
		lws_callback_on_writable(pg->wsi);
}

static void
connect_step(Pg *pg)
{
	pg->poll = PQconnectPoll(pg->conn);
	if (pg->poll == PGRES_POLLING_FAILED)
	{
		pg_fail(pg, PQerrorMessage(pg->conn));
		return;
	}
	if (!watch_socket(pg))
	{
		pg_fail(pg, "could not watch its socket");
		return;
	}
	if (pg->poll == PGRES_POLLING_WRITING)
		lws_callback_on_writable(pg->wsi);
	if (pg->poll != PGRES_POLLING_OK)
		return;

	pg->state = PG_SETUP;
	pg->busy = true;
	if (PQsetnonblocking(pg->conn, 1) != 0 || !PQsendQuery(pg->conn, pg->use->setup))
	{
		pg_fail(pg, PQerrorMessage(pg->conn));
		return;
	}
	flush(pg);
}

/*
 * Takes the results that are there.  The statement's owner gets the first result with rows; an
 * error is logged here, and the owner gets NULL.
 */
static void
take_results(Pg *pg)
{
	while (pg->state >= PG_SETUP && pg->busy && !PQisBusy(pg->conn))
	{
		PGresult   *result = PQgetResult(pg->conn);
		ExecStatusType status = PQresultStatus(result);
		PgDone		done = pg->done;

		if (result != NULL)
		{
			if (status == PGRES_TUPLES_OK && pg->rows == NULL)
				pg->rows = result;
			else
			{
				if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
				{
					const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

					pg->failed = true;
					snprintf(pg->sqlstate, sizeof(pg->sqlstate), "%s",
							 sqlstate != NULL ? sqlstate : "");
					log_error(pg, PQresultErrorMessage(result));
				}
				PQclear(result);
			}
			continue;
		}

		/* the statement is complete */
		lws_sul_cancel(&pg->timer);
		if (pg->state == PG_SETUP)
		{
			if (pg->failed)
			{
				pg_fail(pg, pg->last_error);
				return;
			}
			pg->busy = false;
			pg->state = PG_READY;
			pg->use->connected(pg->owner);
			continue;
		}
		result = pg->failed ? NULL : pg->rows;
		if (pg->failed)
			PQclear(pg->rows);
		pg->rows = NULL;
		pg->failed = false;
		pg->busy = false;
		pg->done = NULL;
		if (done != NULL)
			done(result, pg->arg);
		PQclear(result);
	}
}

static void
read_socket(Pg *pg)
{
	PGnotify   *notify;
	bool		hinted = false;

	if (!PQconsumeInput(pg->conn))
	{
		pg_fail(pg, PQerrorMessage(pg->conn));
		return;
	}
	take_results(pg);
	if (pg->state != PG_READY)
		return;
	while ((notify = PQnotifies(pg->conn)) != NULL)
	{
		hinted = true;
		PQfreemem(notify);
	}
	if (hinted && pg->use->hinted != NULL)
		pg->use->hinted(pg->owner);
	pg->use->pump(pg->owner);
}

/* Of the duplicate of libpq's socket; one that is no longer ours is closed by its next event. */
int
pg_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
	Pg		   *pg = lws_get_opaque_user_data(wsi);

	if (pg == NULL)
		return 0;				/* not ours yet */
	switch (reason)
	{
		case LWS_CALLBACK_RAW_RX_FILE:
			if (wsi != pg->wsi)
				return -1;
			if (pg->state != PG_CONNECTING)
				read_socket(pg);
			else if (pg->poll == PGRES_POLLING_READING)
				connect_step(pg);
			break;
		case LWS_CALLBACK_RAW_WRITEABLE_FILE:
			if (wsi != pg->wsi)
				return -1;
			if (pg->state != PG_CONNECTING)
				flush(pg);
			else if (pg->poll == PGRES_POLLING_WRITING)
				connect_step(pg);
			break;
		case LWS_CALLBACK_RAW_CLOSE_FILE:
			if (wsi != pg->wsi)
				break;
			/* hung up before libpq could say why; it has more hosts to try while connecting */
			pg->wsi = NULL;
			pg->socket_inode = 0;
			if (pg->state == PG_CONNECTING)
				connect_step(pg);
			else if (pg->state != PG_AWAY)
				pg_fail(pg, "server closed the connection");
			break;
		default:
			break;
	}
	return 0;
}

/* A connection that is tried until it is there; NULL without memory. */
Pg *
pg_start(const char *conninfo, const char *prefix, const PgUse *use, void *owner)
{
	Pg		   *pg = calloc(1, sizeof(Pg));

	if (pg == NULL)
		return NULL;
	pg->use = use;
	pg->owner = owner;
	pg->conninfo = conninfo;
	pg->prefix = prefix;
	iot_backoff_init(&pg->backoff, BACKOFF_BASE_MS, BACKOFF_CAP_MS,
					 (uint64_t) getpid() ^ (uint64_t) lws_now_usecs() ^ (uintptr_t) pg);
	lws_sul_schedule(context, 0, &pg->timer, connect_start, 1);
	return pg;
}

/* Closes the connection for good. */
void
pg_stop(Pg *pg)
{
	lws_sul_cancel(&pg->timer);
	drop_wsi(pg);
	PQfinish(pg->conn);
	pg->conn = NULL;
	pg->state = PG_AWAY;
}

bool
pg_connected(const Pg *pg)
{
	return pg->state == PG_READY;
}

bool
pg_idle(const Pg *pg)
{
	return pg->state == PG_READY && !pg->busy;
}

/* SQLSTATE of the statement that failed last; for its owner, when it is told. */
const char *
pg_sqlstate(const Pg *pg)
{
	return pg->sqlstate;
}

/* To be called when the database has answered as it should: ends an outage. */
void
pg_healthy(Pg *pg)
{
	iot_backoff_reset(&pg->backoff);
	pg->last_error[0] = '\0';
}

/* A statement was handed to libpq, or could not be; see below. */
static bool
sent(Pg *pg, int good, PgDone done, void *arg)
{
	pg->busy = true;
	pg->done = done;
	pg->arg = arg;
	pg->sqlstate[0] = '\0';
	if (!good)
	{
		pg_fail(pg, PQerrorMessage(pg->conn));
		return false;
	}
	lws_sul_schedule(context, 0, &pg->timer, attempt_expired, ANSWER_TIMEOUT_US);
	flush(pg);
	return true;
}

/*
 * Sends a statement; only while pg_idle().  done is called once: later, or at once and without rows
 * where the connection turns out to be gone, and then false is returned.  So whoever remembers for
 * whom he asks can always forget it there.
 */
bool
pg_send(Pg *pg, const char *sql, int n_params, const char *const *values, PgDone done, void *arg)
{
	return sent(pg, PQsendQueryParams(pg->conn, sql, n_params, NULL, values, NULL, NULL, 0), done,
				arg);
}

/* The same for a statement that the session's setup has prepared, which is not planned again. */
bool
pg_send_prepared(Pg *pg, const char *name, int n_params, const char *const *values, PgDone done,
				 void *arg)
{
	return sent(pg, PQsendQueryPrepared(pg->conn, name, n_params, values, NULL, NULL, 0), done, arg);
}

static void
append(PgArray *array, const char *text, size_t len)
{
	if (array->len + len + 2 > array->size)
	{
		size_t		size = array->size == 0 ? 256 : array->size;
		char	   *larger;

		while (size < array->len + len + 2)
			size *= 2;
		larger = realloc(array->text, size);
		if (larger == NULL)
		{
			array->failed = true;
			return;
		}
		array->text = larger;
		array->size = size;
	}
	memcpy(array->text + array->len, text, len);
	array->len += len;
	array->text[array->len] = '\0';
}

void
pg_array_begin(PgArray *array)
{
	array->len = 0;
	array->failed = false;
	append(array, "{", 1);
}

/* Adds a text element, quoted. */
void
pg_array_add(PgArray *array, const char *element)
{
	append(array, array->len > 1 ? ",\"" : "\"", array->len > 1 ? 2 : 1);
	for (const char *p = element; *p != '\0'; p++)
	{
		if (*p == '"' || *p == '\\')
			append(array, "\\", 1);
		append(array, p, 1);
	}
	append(array, "\"", 1);
}

/* The same, or NULL where there is none. */
void
pg_array_add_or_null(PgArray *array, const char *element)
{
	if (element != NULL)
		pg_array_add(array, element);
	else
		append(array, array->len > 1 ? ",NULL" : "NULL", array->len > 1 ? 5 : 4);
}

void
pg_array_add_int(PgArray *array, int64_t element)
{
	char		text[24];
	int			len = snprintf(text, sizeof(text), "%s%lld", array->len > 1 ? "," : "",
							   (long long) element);

	append(array, text, (size_t) len);
}

/* The array as a parameter, or NULL without memory. */
const char *
pg_array_end(PgArray *array)
{
	append(array, "}", 1);
	return array->failed ? NULL : array->text;
}

void
pg_array_free(PgArray *array)
{
	free(array->text);
	memset(array, 0, sizeof(*array));
}
