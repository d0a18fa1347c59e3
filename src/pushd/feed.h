/*
 * feed.h
 *		What the daemon asks the database, and who gets what it answers.
 */
#ifndef IOT_PUSHD_FEED_H
#define IOT_PUSHD_FEED_H

#include "pushd/pushd.h"

extern bool feed_start(const char *conninfo);
extern void feed_stop(void);
extern void feed_pump(void);
extern bool feed_ready(void);
extern bool feed_paused(void);
extern const char *feed_epoch(void);
extern int64_t feed_cursor(void);
extern size_t feed_waiting_records(void);
extern void feed_authorize(Client *client);
extern void feed_subscribed(Client *client, Subscription *subscription);
extern void feed_drained(Client *client);
extern void feed_forget(Client *client);
extern void recheck_forget(Client *client);
extern void feed_taken(User *user, const Message *message);

#endif							/* IOT_PUSHD_FEED_H */
