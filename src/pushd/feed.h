/*
 * feed.h
 *		What the daemon asks the databases, and who gets what they answer.
 */
#ifndef IOT_PUSHD_FEED_H
#define IOT_PUSHD_FEED_H

#include "pushd/cell.h"

extern bool feed_start(void);
extern void feed_stop(void);
extern void feed_pump(void);
extern bool feed_ready(void);
extern Cell *cell_by_name(const char *name);
extern bool feed_has_records(void);
extern size_t feed_waiting_records(const Cell *cell);
extern bool access_begin(Client *client);
extern void access_ask(Client *client);
extern void access_settle(Client *client, bool patient);
extern void feed_subscribed(Client *client, Subscription *subscription);
extern void feed_unsubscribed(Client *client);
extern void feed_drained(Client *client);
extern void feed_forget(Client *client);
extern void recheck_forget(Client *client);
extern void feed_taken(User *user, const Message *message);

#endif							/* IOT_PUSHD_FEED_H */
