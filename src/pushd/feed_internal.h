/*
 * feed_internal.h
 *		What the parts of the feed share: feed.c, live.c, catchup.c, recheck.c, record.c and telemetry.c.
 */
#ifndef IOT_PUSHD_FEED_INTERNAL_H
#define IOT_PUSHD_FEED_INTERNAL_H

#include "pushd/feed.h"
#include "pushd/pg.h"

#define PAGE_ROWS		"200"

/* Columns of push_since() and push_pending(); the first row tells the state, the others events. */
enum
{
	COL_EPOCH, COL_PAUSED, COL_HEAD, COL_FLOOR, COL_SCANNED_TO,
	COL_SEQ, COL_EVENT, COL_DEVICE, COL_DEVICE_GROUP, COL_BROADCAST, COL_RECIPIENTS, COL_MESSAGE
};

typedef struct ClientQueue
{
	Client	   *first;
	Client	   *last;
} ClientQueue;

typedef struct Feed
{
	Pg		   *pg;
	bool		ready;			/* the database has told its state since the last connect */
	bool		known;			/* ... ever */
	bool		paused;
	char		epoch[40];
	int64_t		head;
	int64_t		floor;
	int64_t		cursor;			/* everything up to this was offered to live clients */
	bool		live_wanted;
	bool		sweep_wanted;
	int64_t		next_poll;
	int64_t		next_sweep;
	int64_t		sweep_after;
	ClientQueue authorize;
	ClientQueue pages;
	Client	   *asked_client;	/* of the statement under way; NULL once it has gone */
} Feed;

extern Feed feed;

/* feed.c */
extern void client_queue_add(ClientQueue *queue, Client *client);
extern Client *client_queue_take(ClientQueue *queue);
extern bool feed_take_state(const PGresult *rows);
extern int64_t feed_int(const PGresult *rows, int row, int column);
extern bool feed_bool(const PGresult *rows, int row, int column);
extern Message *feed_row_message(const PGresult *rows, int row);
extern bool feed_row_matches(const Subscription *subscription, const PGresult *rows, int row);

/* live.c */
extern bool live_send(void);
extern bool live_moving(void);
extern bool sweep_send(void);

/* catchup.c */
extern bool catchup_send(void);
extern void catchup_queue(Client *client);
extern void catchup_start_over(Client *client, Subscription *subscription);
extern int64_t catchup_served_to(const Client *client, const Subscription *subscription);
extern void catchup_leave_live(Client *client, int64_t at);
extern void catchup_add_seen(Client *client, int64_t seq);

/* recheck.c */
extern bool recheck_due(void);
extern bool recheck_send(void);

/* record.c */
extern bool record_send(void);

#endif							/* IOT_PUSHD_FEED_INTERNAL_H */
