/*
 * daemon_loop.c
 *		The loop that fuzz targets run the push daemon in: sockets, timers and a clock of their own.
 *
 * It stands in for libwebsockets where the daemon calls it, and is as strict as that: one write in
 * each WRITEABLE callback, none while a part of the last one is left, no callback for a socket that
 * is closed.
 */
#define _GNU_SOURCE
#include "daemon.h"

#include <unistd.h>

#include "memory_file.h"
#include "pushd/feed_internal.h"

#define MAX_TIMERS	12

typedef struct Timer
{
	lws_sorted_usec_list_t *key;
	sul_cb_t	call;
	int64_t		due;			/* in ms */
} Timer;

struct lws sockets[MAX_SOCKETS];

/* what main.c holds otherwise */
Options options = {
	.max_connections = MAX_SOCKETS,
	.max_subscriptions = 4,
};
Metrics metrics;
struct lws_context *context;
struct lws_vhost *vhost;
AuthKeys   *keys;
bool		stopping;

static int64_t clock_ms = 1000000;
static Timer timers[MAX_TIMERS];

int64_t
now_ms(void)
{
	return clock_ms;
}

int64_t
now_unix(void)
{
	return INT64_C(1700000000) + clock_ms / 1000;
}

lws_usec_t
lws_now_usecs(void)
{
	return clock_ms * 1000;
}

void
lws_sul_cancel(lws_sorted_usec_list_t *sul)
{
	for (int i = 0; i < MAX_TIMERS; i++)
	{
		if (timers[i].key == sul)
			timers[i].key = NULL;
	}
}

void
lws_sul_schedule(struct lws_context *cx, int tsi, lws_sorted_usec_list_t *sul, sul_cb_t cb,
				 lws_usec_t us)
{
	int			i = 0;

	lws_sul_cancel(sul);
	while (i < MAX_TIMERS && timers[i].key != NULL)
		i++;
	REQUIRE(i < MAX_TIMERS);
	timers[i] = (Timer) {sul, cb, clock_ms + us / 1000};
}

static struct lws *
free_socket(void)
{
	for (int i = 0; i < MAX_SOCKETS; i++)
	{
		if (!sockets[i].used)
		{
			memset(&sockets[i], 0, sizeof(sockets[i]));
			sockets[i].used = true;
			sockets[i].fd = -1;
			return &sockets[i];
		}
	}
	return NULL;
}

static int
call(struct lws *wsi, enum lws_callback_reasons reason, void *in, size_t len)
{
	if (wsi->is_client)
		return client_callback(wsi, reason, &wsi->client, in, len);
	return pg_callback(wsi, reason, NULL, in, len);
}

/* Closes what wants to be closed, until nothing does. */
void
loop_settle(void)
{
	bool		again = true;

	while (again)
	{
		again = false;
		for (int i = 0; i < MAX_SOCKETS; i++)
		{
			if (sockets[i].used && sockets[i].doomed)
			{
				loop_close(&sockets[i]);
				again = true;
			}
		}
	}
}

/* Ends a connection, whoever wanted it. */
void
loop_close(struct lws *wsi)
{
	wsi->doomed = false;
	if (wsi->is_client)
		loop_closes(wsi);
	(void) call(wsi, wsi->is_client ? LWS_CALLBACK_RAW_CLOSE : LWS_CALLBACK_RAW_CLOSE_FILE, NULL, 0);
	if (wsi->fd >= 0)
		close(wsi->fd);
	free(wsi->output);
	wsi->output = NULL;
	wsi->used = false;
}

void
loop_close_clients(void)
{
	for (int i = 0; i < MAX_SOCKETS; i++)
	{
		if (sockets[i].used && sockets[i].is_client)
			loop_close(&sockets[i]);
	}
}

/* A new client; NULL where there is no room for one. */
struct lws *
loop_connect(void)
{
	struct lws *wsi = free_socket();

	if (wsi == NULL)
		return NULL;
	wsi->is_client = true;
	(void) call(wsi, LWS_CALLBACK_RAW_ADOPT, NULL, 0);
	return wsi;
}

void
loop_receive(struct lws *wsi, const void *bytes, size_t len)
{
	void	   *copy;

	if (wsi->paused || len == 0)
		return;
	copy = malloc(len);
	REQUIRE(copy != NULL);
	memcpy(copy, bytes, len);
	if (call(wsi, LWS_CALLBACK_RAW_RX, copy, len) != 0)
		wsi->doomed = true;
	free(copy);
	loop_settle();
}

/* The peer takes up to room bytes; what the daemon wants to write meanwhile is written. */
void
loop_write(struct lws *wsi, size_t room)
{
	for (int turns = 0; wsi->used && turns < 1000; turns++)
	{
		size_t		taken = wsi->left < room ? wsi->left : room;

		wsi->left -= taken;
		room -= taken;
		if (wsi->left > 0 || !wsi->wants_write)
			return;
		wsi->wants_write = false;
		wsi->may_write = true;
		if (call(wsi, LWS_CALLBACK_RAW_WRITEABLE, NULL, 0) != 0)
			wsi->doomed = true;
		wsi->may_write = false;
		loop_settle();
	}
}

/* Time goes by, and with it timers. */
void
loop_pass(int64_t ms)
{
	int64_t		end = clock_ms + ms;

	for (;;)
	{
		Timer	   *next = NULL;
		Timer		due;

		for (int i = 0; i < MAX_TIMERS; i++)
		{
			if (timers[i].key != NULL && (next == NULL || timers[i].due < next->due))
				next = &timers[i];
		}
		if (next == NULL || next->due > end)
			break;
		if (next->due > clock_ms)
			clock_ms = next->due;
		due = *next;
		next->key = NULL;
		due.call(due.key);
		loop_settle();
	}
	clock_ms = end;
}

/* The library, where the daemon calls it. */
int
lws_callback_on_writable(struct lws *wsi)
{
	REQUIRE(wsi->used);
	wsi->wants_write = true;
	return 0;
}

void
lws_set_timeout(struct lws *wsi, enum pending_timeout reason, int secs)
{
	REQUIRE(wsi->used && secs == LWS_TO_KILL_ASYNC);
	wsi->doomed = true;
}

lws_sockfd_type
lws_get_socket_fd(struct lws *wsi)
{
	REQUIRE(wsi->used);
	return -1;
}

int
lws_partial_buffered(struct lws *wsi)
{
	REQUIRE(wsi->used);
	return wsi->left > 0;
}

int
lws_rx_flow_control(struct lws *wsi, int enable)
{
	REQUIRE(wsi->used);
	wsi->paused = enable == 0;
	return 0;
}

int
lws_write(struct lws *wsi, unsigned char *buf, size_t len, enum lws_write_protocol protocol)
{
	REQUIRE(wsi->used && wsi->may_write && wsi->left == 0);
	wsi->may_write = false;
	/* the library writes its own headers before what it is given */
	memset(buf - LWS_PRE, 0xa5, LWS_PRE);
	if (wsi->output_len + len > wsi->output_size)
	{
		wsi->output_size = 2 * (wsi->output_len + len);
		wsi->output = realloc(wsi->output, wsi->output_size);
		REQUIRE(wsi->output != NULL);
	}
	memcpy(wsi->output + wsi->output_len, buf, len);
	wsi->output_len += len;
	wsi->left = len;
	return (int) len;
}

struct lws *
lws_adopt_descriptor_vhost(struct lws_vhost *vh, lws_adoption_type type, lws_sock_file_fd_type fd,
						   const char *protocol, struct lws *parent)
{
	struct lws *wsi = free_socket();

	if (wsi == NULL)
	{
		close(fd.filefd);
		return NULL;
	}
	wsi->fd = fd.filefd;
	return wsi;
}

void *
lws_get_opaque_user_data(const struct lws *wsi)
{
	return wsi->opaque;
}

void
lws_set_opaque_user_data(struct lws *wsi, void *data)
{
	wsi->opaque = data;
}

/*
 * Starts the daemon, once, with one database or so many cells, which all hold the same world; and each
 * time has it begin with a world in which nothing has happened.
 */
void
daemon_start(const char *secret, int named_cells)
{
	static const char *const names[] = {"north", "south"};

	if (keys == NULL)
	{
		char		error[128];

		keys = auth_keys_new();
		REQUIRE(keys != NULL && auth_keys_add_file(keys, memory_file(secret, strlen(secret)),
												   error, sizeof(error)));
		REQUIRE(http_open_www(""));
		clients_start_scan();
		options.n_cells = named_cells > 0 ? named_cells : 1;
		for (int i = 0; i < options.n_cells; i++)
		{
			options.conninfos[i] = "dbname=iot";
			options.cell_names[i] = named_cells > 0 ? names[i] : NULL;
		}
		REQUIRE(feed_start());
	}
	for (unsigned n = 3 * (unsigned) n_cells; n-- > 0;)
		pg_lose(n);
	for (int i = 0; i < n_cells; i++)
	{
		Cell		fresh = {.index = i, .pg = cells[i].pg, .name = cells[i].name};

		cells[i] = fresh;
	}
	world_begin();
	pg_settle();
}
