/*
 * daemon.h
 *		The push daemon without its loop and its database: what fuzz targets drive it by.
 *
 * All of iot-pushd runs but main.c and listen.c.  daemon_loop.c stands in for the loop of
 * libwebsockets, with a clock of its own, and requires what that library requires of its users;
 * daemon_pg.c stands in for libpq and for a database that answers the daemon's statements.
 */
#ifndef IOT_FUZZ_DAEMON_H
#define IOT_FUZZ_DAEMON_H

#include "fuzz.h"
#include "pushd/pushd.h"

#define MAX_SOCKETS		12

/* A connection, or the descriptor of one to the database. */
struct lws
{
	bool		used;
	bool		is_client;
	bool		wants_write;
	bool		paused;			/* not to be read */
	bool		doomed;			/* to be closed as soon as its callback has ended */
	bool		may_write;		/* within a WRITEABLE callback that has not written */
	int			fd;
	void	   *opaque;
	Client		client;
	size_t		left;			/* bytes written that the peer has not taken */
	size_t		output_len;		/* bytes that the peer has, and did not look at */
	size_t		output_size;
	unsigned char *output;
};

/* daemon_loop.c */
extern struct lws sockets[MAX_SOCKETS];
extern struct lws *loop_connect(void);
extern void loop_receive(struct lws *wsi, const void *bytes, size_t len);
extern void loop_write(struct lws *wsi, size_t room);
extern void loop_close(struct lws *wsi);
extern void loop_pass(int64_t ms);
extern void loop_settle(void);
extern void loop_close_clients(void);
extern void daemon_start(const char *secret, int named_cells);

/* daemon_pg.c */
extern int64_t world_head;		/* notifications that the database holds */
extern int64_t world_floor;
extern int	world_epoch;
extern bool world_paused;
extern bool world_refuses;		/* users are disabled */
extern bool pg_answer(unsigned connection, bool good);
extern void pg_lose(unsigned connection);
extern void pg_hint(void);
extern void pg_settle(void);
extern void world_begin(void);

/* the target: a client's connection ends, and this is all that was written to it */
extern void loop_closes(const struct lws *wsi);

#endif							/* IOT_FUZZ_DAEMON_H */
