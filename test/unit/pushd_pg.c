/*
 * pushd_pg.c
 *		The daemon's connection to its database, where libpq and the loop are ours: whoever asks is
 *		answered once, whatever becomes of the connection.
 */
#include "test.h"

#include "../../src/pushd/pg.c"

static char message[] = "the connection is gone";
static int	sends;				/* what the next PQsendQueryParams() says */
static int	flushes;			/* and PQflush() */
static int	answers;
static int	disconnects;

struct lws_context *context;
struct lws_vhost *vhost;
bool		stopping;

/* libpq */
PQconninfoOption *PQconninfoParse(const char *conninfo, char **errmsg) { return NULL; }
void		PQconninfoFree(PQconninfoOption *options) { }
void		PQfreemem(void *ptr) { }
PGconn	   *PQconnectStartParams(const char *const *keywords, const char *const *values,
								 int expand_dbname) { return NULL; }
PostgresPollingStatusType PQconnectPoll(PGconn *conn) { return PGRES_POLLING_FAILED; }
ConnStatusType PQstatus(const PGconn *conn) { return CONNECTION_BAD; }
int			PQsocket(const PGconn *conn) { return -1; }
void		PQfinish(PGconn *conn) { }
char	   *PQerrorMessage(const PGconn *conn) { return message; }
int			PQsetnonblocking(PGconn *conn, int arg) { return 0; }
int			PQsendQuery(PGconn *conn, const char *query) { return 0; }
int			PQsendQueryParams(PGconn *conn, const char *command, int n, const Oid *types,
							  const char *const *values, const int *lengths, const int *formats,
							  int format) { return sends; }
int			PQsendQueryPrepared(PGconn *conn, const char *name, int n, const char *const *values,
								const int *lengths, const int *formats, int format) { return sends; }
int			PQflush(PGconn *conn) { return flushes; }
int			PQisBusy(PGconn *conn) { return 1; }
int			PQconsumeInput(PGconn *conn) { return 0; }
PGnotify   *PQnotifies(PGconn *conn) { return NULL; }
PGresult   *PQgetResult(PGconn *conn) { return NULL; }
ExecStatusType PQresultStatus(const PGresult *res) { return PGRES_FATAL_ERROR; }
char	   *PQresultErrorMessage(const PGresult *res) { return message; }
char	   *PQresultErrorField(const PGresult *res, int fieldcode) { return NULL; }
void		PQclear(PGresult *res) { }

/* the loop */
void	   *lws_get_opaque_user_data(const struct lws *wsi) { return NULL; }
void		lws_set_opaque_user_data(struct lws *wsi, void *data) { }
void		lws_set_timeout(struct lws *wsi, enum pending_timeout reason, int secs) { }
struct lws *lws_adopt_descriptor_vhost(struct lws_vhost *vh, lws_adoption_type type,
									   lws_sock_file_fd_type fd, const char *protocol,
									   struct lws *parent) { return NULL; }
int			lws_callback_on_writable(struct lws *wsi) { return 0; }
lws_usec_t	lws_now_usecs(void) { return 1; }
void		lws_sul_schedule(struct lws_context *cx, int tsi, lws_sorted_usec_list_t *sul,
							 sul_cb_t cb, lws_usec_t us) { }
void		lws_sul_cancel(lws_sorted_usec_list_t *sul) { }

/* the rest of the daemon */
void		log_line(const char *format,...) { }
static void nothing(void *owner) { }
static void count_disconnect(void *owner) { disconnects++; }

static const PgUse use = {
	.setup = "", .trouble = "", .connected = nothing, .disconnected = count_disconnect,
	.hinted = nothing, .pump = nothing
};
static Pg	pg;

static void
answered(const PGresult *rows, void *arg)
{
	assert_null(rows);
	assert_ptr_equal(arg, &answers);
	assert_false(pg_connected(&pg));
	answers++;
}

static int
connected(void **state)
{
	memset(&pg, 0, sizeof(pg));
	pg.use = &use;
	pg.prefix = "";
	pg.state = PG_READY;
	answers = disconnects = 0;
	sends = 1;
	flushes = 0;
	return 0;
}

static void
refused_at_once(void **state)
{
	sends = 0;
	assert_true(pg_idle(&pg));
	assert_false(pg_send(&pg, "SELECT 1", 0, NULL, answered, &answers));
	assert_int_equal(answers, 1);
	assert_int_equal(disconnects, 1);
	pg_fail(&pg, "again");
	assert_int_equal(answers, 1);
}

static void
lost_while_sending(void **state)
{
	flushes = -1;
	(void) pg_send(&pg, "SELECT 1", 0, NULL, answered, &answers);
	assert_int_equal(answers, 1);
	assert_int_equal(disconnects, 1);
}

static void
lost_while_waiting(void **state)
{
	assert_true(pg_send(&pg, "SELECT 1", 0, NULL, answered, &answers));
	assert_int_equal(answers, 0);
	assert_false(pg_idle(&pg));
	read_socket(&pg);
	assert_int_equal(answers, 1);
	assert_int_equal(disconnects, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(refused_at_once, connected),
		cmocka_unit_test_setup(lost_while_sending, connected),
		cmocka_unit_test_setup(lost_while_waiting, connected),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
