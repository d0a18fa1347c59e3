/*
 * ws_client.h
 *		WebSocket clients for measurements: any number of sockets that authenticate, subscribe and
 *		hand over what they receive, in one thread.
 */
#ifndef IOT_BENCH_WS_CLIENT_H
#define IOT_BENCH_WS_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A piece of a text frame, as it came; last is set on the end of a frame. */
typedef void (*WsReceive) (void *arg, int socket, const char *text, size_t len, bool last);

typedef struct WsPool WsPool;

extern WsPool *ws_open(const char *host, int port, const char *token, const char *subscribe,
					   int count, WsReceive receive, void *arg);
extern void ws_run(WsPool *pool);
extern bool ws_broken(const WsPool *pool);
extern void ws_close(WsPool *pool);
extern uint64_t ws_now_ns(void);

#endif							/* IOT_BENCH_WS_CLIENT_H */
