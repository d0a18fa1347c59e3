/*
 * request.h
 *		Questions and orders of users, each answered once.
 */
#ifndef IOT_PUSHD_REQUEST_H
#define IOT_PUSHD_REQUEST_H

#include "pushd/cell.h"

extern bool request_is_op(const char *op);
extern void request_send(Client *client, Cell *cell, int64_t id, const char *message, size_t len);
extern void request_log_in(Client *client, Cell *cell, const char *username,
						   const char *password);
extern void request_forget(Client *client);
extern void request_stop(void);

#endif							/* IOT_PUSHD_REQUEST_H */
