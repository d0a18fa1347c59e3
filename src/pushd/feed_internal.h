/*
 * feed_internal.h
 *		What the parts of the feed share: feed.c, access.c, live.c, catchup.c, recheck.c, record.c and
 *		telemetry.c.
 */
#ifndef IOT_PUSHD_FEED_INTERNAL_H
#define IOT_PUSHD_FEED_INTERNAL_H

#include "pushd/feed.h"

#define PAGE_ROWS		"200"

/* Columns of push_since() and push_pending(); the first row tells the state, the others events. */
enum
{
	COL_EPOCH, COL_PAUSED, COL_HEAD, COL_FLOOR, COL_SCANNED_TO,
	COL_SEQ, COL_EVENT, COL_DEVICE, COL_DEVICE_GROUP, COL_BROADCAST, COL_RECIPIENTS, COL_MESSAGE
};

/* feed.c */
extern void place_queue_add(PlaceQueue *queue, Place *place);
extern Place *place_queue_take(PlaceQueue *queue);
extern void place_forget(Place *place);
extern bool feed_take_state(Cell *cell, const PGresult *rows);
extern int64_t feed_int(const PGresult *rows, int row, int column);
extern bool feed_bool(const PGresult *rows, int row, int column);
extern Message *feed_row_message(Cell *cell, const PGresult *rows, int row);
extern bool feed_row_matches(const Subscription *subscription, const PGresult *rows, int row);

/* access.c */
extern bool access_send(Cell *cell);
extern void access_cell_came(Cell *cell);
extern void access_cell_went(Cell *cell);
extern void access_withdraw(Place *place);

/* live.c */
extern bool live_send(Cell *cell);
extern bool live_moving(const Cell *cell);
extern bool sweep_send(Cell *cell);

/* catchup.c */
extern bool catchup_send(Cell *cell);
extern void catchup_queue(Place *place);
extern void catchup_next(Client *client);
extern void catchup_hold(Cell *cell);
extern void catchup_go_on(Cell *cell);
extern void catchup_start_over(Place *place, Position *position);
extern void catchup_subscribed(Place *place, Subscription *subscription);
extern int64_t catchup_served_to(const Place *place, const Position *position);
extern void catchup_leave_live(Place *place, int64_t at);
extern void catchup_add_seen(Place *place, int64_t seq);

/* recheck.c */
extern bool recheck_due(Cell *cell);
extern bool recheck_send(Cell *cell);

/* record.c */
extern bool record_send(Cell *cell);

/* How far a subscription has come where the place is. */
static inline Position *
position_at(Subscription *subscription, const Place *place)
{
	return &subscription->positions[place->cell->index];
}

#endif							/* IOT_PUSHD_FEED_INTERNAL_H */
