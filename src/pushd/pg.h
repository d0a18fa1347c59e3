/*
 * pg.h
 *		Connections to the database: one statement at a time on each, never waiting.
 */
#ifndef IOT_PUSHD_PG_H
#define IOT_PUSHD_PG_H

#include <stdbool.h>
#include <stddef.h>

#include <libpq-fe.h>
#include <libwebsockets.h>

/* An array parameter in the making; grows as needed. */
typedef struct PgArray
{
	char	   *text;
	size_t		len;
	size_t		size;
	bool		failed;			/* there was no memory: do not use it */
} PgArray;

typedef struct Pg Pg;

/* What a connection is for; its owner is told of it. */
typedef struct PgUse
{
	const char *application;	/* name of the session, by which iot.status() counts daemons */
	const char *setup;			/* statements that begin a session */
	const char *trouble;		/* begins a line of the log about an error */
	void		(*connected) (void *owner);
	void		(*disconnected) (void *owner);
	void		(*hinted) (void *owner);	/* a NOTIFY came; or NULL */
	void		(*pump) (void *owner);	/* another statement may be sent */
} PgUse;

/* Gets the rows, or NULL where the statement failed or the connection is gone. */
typedef void (*PgDone) (const PGresult *rows, void *arg);

extern bool pg_check_conninfo(const char *conninfo, bool from_arguments, char *error,
							  size_t error_size);
extern Pg  *pg_start(const char *conninfo, const char *prefix, const PgUse *use, void *owner);
extern void pg_stop(Pg *pg);
extern bool pg_connected(const Pg *pg);
extern bool pg_idle(const Pg *pg);
extern bool pg_send(Pg *pg, const char *sql, int n_params, const char *const *values,
					PgDone done, void *arg);
extern bool pg_send_prepared(Pg *pg, const char *name, int n_params, const char *const *values,
							 PgDone done, void *arg);
extern const char *pg_sqlstate(const Pg *pg);
extern void pg_fail(Pg *pg, const char *why);
extern void pg_healthy(Pg *pg);
extern int	pg_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
						size_t len);

extern void pg_array_begin(PgArray *array);
extern void pg_array_add(PgArray *array, const char *element);
extern void pg_array_add_or_null(PgArray *array, const char *element);
extern void pg_array_add_int(PgArray *array, int64_t element);
extern const char *pg_array_end(PgArray *array);
extern void pg_array_free(PgArray *array);

#endif							/* IOT_PUSHD_PG_H */
