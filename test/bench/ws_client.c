/*
 * ws_client.c
 *		WebSocket clients for measurements.  See ws_client.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libwebsockets.h>

#include "ws_client.h"

/* Handshakes at a time: a burst of thousands would measure the listen queue. */
#define OPENING_MAX		32
#define OPEN_TIMEOUT_NS	(UINT64_C(60) * 1000000000)
#define TURN_US			50000

typedef enum SocketState
{
	CONNECTING, AUTHENTICATING, SUBSCRIBING, OPEN, CLOSED
} SocketState;

typedef struct Socket
{
	int			at;
	SocketState state;
	struct lws *wsi;
	WsPool	   *pool;
	char		head[256];		/* start of the answer that is awaited */
	size_t		head_len;
} Socket;

struct WsPool
{
	struct lws_context *context;
	Socket	   *sockets;
	int			count;
	int			opened;			/* handed to the library */
	int			ready;			/* subscribed */
	bool		broken;
	const char *host;
	int			port;
	const char *token;
	const char *subscribe;
	WsReceive	receive;
	void	   *arg;
	lws_sorted_usec_list_t turn;
};

uint64_t
ws_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
}

static void
broken(WsPool *pool, const char *why)
{
	if (!pool->broken)
		fprintf(stderr, "WebSocket client: %s\n", why);
	pool->broken = true;
}

static void
send_text(struct lws *wsi, const char *text)
{
	size_t		len = strlen(text);
	unsigned char *buffer = malloc(LWS_PRE + len);

	if (buffer == NULL)
		return;
	memcpy(buffer + LWS_PRE, text, len);
	(void) lws_write(wsi, buffer + LWS_PRE, len, LWS_WRITE_TEXT);
	free(buffer);
}

/* Waits for "ready", then for "subscribed"; from then on all is the measurement's. */
static void
received(Socket *socket, const char *text, size_t len, bool last)
{
	WsPool	   *pool = socket->pool;

	if (socket->state == OPEN)
	{
		pool->receive(pool->arg, socket->at, text, len, last);
		return;
	}
	if (socket->head_len + len < sizeof(socket->head))
	{
		memcpy(socket->head + socket->head_len, text, len);
		socket->head_len += len;
	}
	if (!last)
		return;
	socket->head[socket->head_len] = '\0';
	socket->head_len = 0;
	if (socket->state == AUTHENTICATING && strstr(socket->head, "\"ready\"") != NULL)
	{
		socket->state = SUBSCRIBING;
		lws_callback_on_writable(socket->wsi);
	}
	else if (socket->state == SUBSCRIBING && strstr(socket->head, "\"subscribed\"") != NULL)
	{
		socket->state = OPEN;
		pool->ready++;
	}
	else
		broken(pool, socket->head);
}

static int
callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
	Socket	   *socket = lws_wsi_user(wsi);
	char		auth[4096];

	(void) user;
	switch (reason)
	{
		case LWS_CALLBACK_CLIENT_ESTABLISHED:
			socket->state = AUTHENTICATING;
			lws_callback_on_writable(wsi);
			break;
		case LWS_CALLBACK_CLIENT_WRITEABLE:
			if (socket->state == AUTHENTICATING)
			{
				snprintf(auth, sizeof(auth), "{\"op\":\"auth\",\"token\":\"%s\"}",
						 socket->pool->token);
				send_text(wsi, auth);
			}
			else if (socket->state == SUBSCRIBING)
				send_text(wsi, socket->pool->subscribe);
			break;
		case LWS_CALLBACK_CLIENT_RECEIVE:
			received(socket, in, len,
					 lws_is_final_fragment(wsi) && lws_remaining_packet_payload(wsi) == 0);
			break;
		case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
			if (socket != NULL)
				broken(socket->pool, in ? in : "could not connect");
			break;
		case LWS_CALLBACK_CLIENT_CLOSED:
			if (socket != NULL)
			{
				socket->state = CLOSED;
				broken(socket->pool, "a socket was closed");
			}
			break;
		default:
			break;
	}
	return 0;
}

static const struct lws_protocols protocols[] = {
	{"iot", callback, 0, 65536, 0, NULL, 0},
	{NULL, NULL, 0, 0, 0, NULL, 0}
};

/* The library sleeps until something happens; this makes something happen. */
static void
turn(lws_sorted_usec_list_t *sul)
{
	WsPool	   *pool = lws_container_of(sul, WsPool, turn);

	lws_sul_schedule(pool->context, 0, &pool->turn, turn, TURN_US);
}

static void
open_next(WsPool *pool)
{
	Socket	   *socket = &pool->sockets[pool->opened];
	struct lws_client_connect_info info = {0};

	socket->at = pool->opened++;
	socket->pool = pool;
	info.context = pool->context;
	info.address = pool->host;
	info.port = pool->port;
	info.path = "/ws";
	info.host = pool->host;
	info.local_protocol_name = "iot";
	info.userdata = socket;
	info.pwsi = &socket->wsi;
	if (lws_client_connect_via_info(&info) == NULL)
		broken(pool, "could not connect");
}

/*
 * Opens that many sockets and returns when all are subscribed; NULL where that fails.  The texts
 * must outlive the pool.
 */
WsPool *
ws_open(const char *host, int port, const char *token, const char *subscribe, int count,
		WsReceive receive, void *arg)
{
	WsPool	   *pool = calloc(1, sizeof(WsPool));
	struct lws_context_creation_info info = {0};
	uint64_t	end = ws_now_ns() + OPEN_TIMEOUT_NS;

	if (pool == NULL)
		return NULL;
	lws_set_log_level(LLL_ERR, NULL);
	pool->sockets = calloc((size_t) count, sizeof(Socket));
	pool->count = count;
	pool->host = host;
	pool->port = port;
	pool->token = token;
	pool->subscribe = subscribe;
	pool->receive = receive;
	pool->arg = arg;
	info.port = CONTEXT_PORT_NO_LISTEN;
	info.protocols = protocols;
	info.fd_limit_per_thread = (unsigned int) count + 64;
	pool->context = lws_create_context(&info);
	if (pool->context == NULL || pool->sockets == NULL)
	{
		fprintf(stderr, "WebSocket client: out of memory or descriptors\n");
		return NULL;
	}
	turn(&pool->turn);
	while (pool->ready < count && !pool->broken)
	{
		while (pool->opened < count && pool->opened - pool->ready < OPENING_MAX && !pool->broken)
			open_next(pool);
		ws_run(pool);
		if (ws_now_ns() > end)
			broken(pool, "could not open all sockets in time");
	}
	if (pool->broken)
	{
		ws_close(pool);
		return NULL;
	}
	return pool;
}

/* Handles what came, and returns after the next event or a twentieth of a second. */
void
ws_run(WsPool *pool)
{
	lws_service(pool->context, 0);
}

bool
ws_broken(const WsPool *pool)
{
	return pool->broken;
}

void
ws_close(WsPool *pool)
{
	pool->broken = true;		/* what closes from here on is our own doing */
	lws_context_destroy(pool->context);
	free(pool->sockets);
	free(pool);
}
