/*
 * pg.h
 *		The connection to the database: one statement at a time, never waiting.
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

/* Gets the rows, or NULL where the statement failed or the connection is gone. */
typedef void (*PgDone) (const PGresult *rows, void *arg);

extern bool pg_check_conninfo(const char *conninfo, bool from_arguments, char *error,
							  size_t error_size);
extern void pg_start(const char *conninfo);
extern void pg_stop(void);
extern bool pg_connected(void);
extern bool pg_idle(void);
extern bool pg_send(const char *sql, int n_params, const char *const *values, PgDone done,
					void *arg);
extern void pg_fail(const char *why);
extern void pg_healthy(void);
extern int	pg_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
						size_t len);

extern void pg_array_begin(PgArray *array);
extern void pg_array_add(PgArray *array, const char *element);
extern void pg_array_add_int(PgArray *array, int64_t element);
extern const char *pg_array_end(PgArray *array);
extern void pg_array_free(PgArray *array);

#endif							/* IOT_PUSHD_PG_H */
