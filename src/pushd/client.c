/*
 * client.c
 *		Connections and their queues: from accept to close.
 *
 * The library moves bytes (and does TLS); what they say is read in input.c.  A client lives in the
 * library's per-connection memory and ends in its RAW_CLOSE callback, never inside one of our
 * functions: client_close() and client_kill() only make it so.
 *
 * What a client may cost is bounded: the queue by bytes and by the age of its oldest part, the
 * kernel's buffer by SOCKET_BUFFER, everything else by MAX_MESSAGE and MAX_INBOX.
 */
#include "pushd/pushd.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "pushd/feed.h"
#include "pushd/request.h"
#include "pushd/telemetry.h"

static Client *clients;
static int	n_clients;
static uint64_t last_number;
static lws_sorted_usec_list_t scan_timer;

Client *
client_first(void)
{
	return clients;
}

int
client_total(void)
{
	return n_clients;
}

int
client_count(ClientState state)
{
	int			n = 0;

	for (const Client *client = clients; client != NULL; client = client->next)
		n += client->state == state;
	return n;
}

/* Whether it is a WebSocket that has not begun to close. */
bool
client_is_open(const Client *client)
{
	return client->state == CLIENT_ANONYMOUS || client->state == CLIENT_AUTHORIZING ||
		client->state == CLIENT_READY;
}

/* Closes the connection without another word, soon. */
void
client_kill(Client *client)
{
	lws_set_timeout(client->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
}

/* What was to be written is written: ends our direction and waits a little for theirs. */
void
client_finish(Client *client)
{
	client->state = CLIENT_LINGER;
	client->deadline = now_ms() + LINGER_MS;
	(void) shutdown(lws_get_socket_fd(client->wsi), SHUT_WR);
}

static void
count_close(Client *client, uint16_t code, const char *reason)
{
	char		name[128] = "";

	if (code == CLOSE_TOO_SLOW)
		metrics.closed_slow++;
	else if (code == CLOSE_EXPIRED)
		metrics.closed_expired++;
	else if (code == CLOSE_UNAUTHORIZED)
		metrics.auth_failures++;
	else if (code >= 1002 && code <= 1009)
		metrics.closed_error++;
	if (client->user != NULL)
		log_name(name, sizeof(name), client->user->name);
	if (!stopping)
		log_limited("client %llu%s%s closed: %u%s%s", (unsigned long long) client->number,
					name[0] != '\0' ? " of user " : "", name, code,
					reason != NULL ? ", " : "", reason != NULL ? reason : "");
}

/*
 * Closes a WebSocket with a code and a constant text: nothing that was queued is sent any more.
 * The client stays in memory until the library lets it go.
 */
void
client_close(Client *client, uint16_t code, const char *reason)
{
	if (!client->is_websocket)
	{
		client_kill(client);
		return;
	}
	if (!client_is_open(client))
		return;
	count_close(client, code, reason);
	feed_forget(client);
	telemetry_forget(client);
	recheck_forget(client);
	request_forget(client);
	user_leave(client);
	queue_free(client, client->queue, false);
	client->queue = NULL;
	client->queue_last = NULL;
	client->state = CLIENT_CLOSING;
	client->close_code = code;
	client->close_reason = reason;
	client->deadline = now_ms() + LINGER_MS;
	/* half a frame is in the library: not even its rest may follow a token's end */
	if (code == CLOSE_EXPIRED && lws_partial_buffered(client->wsi))
	{
		client_kill(client);
		return;
	}
	if (code == CLOSE_TOO_SLOW)
	{
		int			size = MAX_QUEUE;

		/* a buffer that never empties has to grow for the close to find room in it */
		(void) setsockopt(lws_get_socket_fd(client->wsi), SOL_SOCKET, SO_SNDBUF, &size,
						  sizeof(size));
	}
	lws_callback_on_writable(client->wsi);
}

/* The request became a WebSocket; a token may have come with it.  Takes the head's memory. */
void
client_upgraded(Client *client, const char *token, size_t token_len)
{
	client->deadline = now_ms() + AUTH_DEADLINE_MS;
	if (token != NULL)
		client_check_token(client, token, token_len);
	input_free(client);
}

/* Judges a token: closes with 4401, or has the database asked about its user. */
void
client_check_token(Client *client, const char *token, size_t len)
{
	AuthUser   *user = calloc(1, sizeof(AuthUser));
	const char *why;

	if (user == NULL)
	{
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return;
	}
	why = auth_check(keys, options.audience, token, len, now_unix(), user);
	if (why != NULL)
	{
		log_limited("client %llu: token refused: %s", (unsigned long long) client->number, why);
		free(user);
		client_close(client, CLOSE_UNAUTHORIZED, "authentication failed");
		return;
	}
	client->expires_at = user->expires_at;
	client->issued_at = user->issued_at[0] != '\0' ? strdup(user->issued_at) : NULL;
	client->token_id = user->token_id[0] != '\0' ? strdup(user->token_id) : NULL;
	client->claimed = user;
	client->state = CLIENT_AUTHORIZING;
	client->settle_at = now_ms() + SETTLE_MS;
	if (!feed_ready())
		client_close(client, CLOSE_TRY_LATER, "the database is away");
	else if (!access_begin(client))
		client_close(client, CLOSE_INTERNAL, "out of memory");
	else
		access_ask(client);
}

/* A database knows the user. */
void
client_authorized(Client *client)
{
	char		name[128];
	User	   *user;

	log_name(name, sizeof(name), client->claimed->name);
	user = user_get(client->claimed->name);
	free(client->claimed);
	client->claimed = NULL;
	if (user == NULL)
	{
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return;
	}
	client->user = user;
	client->user_next = user->clients;
	user->clients = client;
	client->state = CLIENT_READY;
	log_limited("client %llu is user %s", (unsigned long long) client->number, name);
	protocol_ready(client);
	input_take_kept(client);
}

static int
write_close(Client *client)
{
	unsigned char buffer[LWS_PRE + FRAME_HEADER_MAX + FRAME_CONTROL_MAX];
	size_t		reason_len = client->close_reason != NULL ? strlen(client->close_reason) : 0;
	unsigned char *frame = buffer + LWS_PRE;
	size_t		header_len = frame_header(frame, FRAME_CLOSE, 2 + reason_len);

	frame[header_len] = (unsigned char) (client->close_code >> 8);
	frame[header_len + 1] = (unsigned char) client->close_code;
	if (reason_len > 0)
		memcpy(frame + header_len + 2, client->close_reason, reason_len);
	client->close_written = true;
	return queue_write_bytes(client, frame, header_len + 2 + reason_len);
}

/*
 * While the library still holds a part of what was written, the socket is not read: the library
 * would look at it in vain, over and over.
 */
static void
pause_reading(Client *client, bool pause)
{
	if (client->rx_paused == pause)
		return;
	client->rx_paused = pause;
	lws_rx_flow_control(client->wsi, pause ? 0 : 1);
}

/* The socket takes more.  Nonzero closes the connection at once. */
static int
write_some(Client *client)
{
	int			result = 0;

	if (lws_partial_buffered(client->wsi))
	{
		lws_callback_on_writable(client->wsi);
		return 0;
	}
	pause_reading(client, false);
	queue_free(client, client->unconfirmed, true);
	client->unconfirmed = NULL;
	if (client->reply != NULL)
	{
		/* a plain answer, or the one that makes it a WebSocket: before all else */
		result = http_write(client);
		if (result == 0 && lws_partial_buffered(client->wsi))
			pause_reading(client, true);
		return result;
	}
	switch (client->state)
	{
		case CLIENT_HEAD:
		case CLIENT_REPLY:
		case CLIENT_LINGER:
			return 0;
		case CLIENT_CLOSING:
			if (!client->close_written)
				result = write_close(client);
			if (result == 0 && !lws_partial_buffered(client->wsi))
			{
				client_finish(client);
				/* nothing to wait for where the other side has said good-bye before */
				result = client->peer_closed ? -1 : 0;
			}
			break;
		case CLIENT_ANONYMOUS:
		case CLIENT_AUTHORIZING:
		case CLIENT_READY:
			if (client->state == CLIENT_READY && client->expires_at <= now_unix())
			{
				client_close(client, CLOSE_EXPIRED, "token expired");
				return 0;
			}
			if (client->queue != NULL)
				result = queue_write(client);
			if (result == 0 && !lws_partial_buffered(client->wsi))
			{
				queue_free(client, client->unconfirmed, true);
				client->unconfirmed = NULL;
			}
			if (client->queue != NULL)
				lws_callback_on_writable(client->wsi);
			if (client->state == CLIENT_READY && client->queue_bytes <= LOW_WATER)
				feed_drained(client);
			break;
	}
	if (result == 0 && lws_partial_buffered(client->wsi))
		pause_reading(client, true);
	feed_pump();
	return result;
}

static void
client_begin(Client *client, struct lws *wsi)
{
	client->wsi = wsi;
	client->number = ++last_number;
	client->state = CLIENT_HEAD;
	client->heard_at = now_ms();
	client->deadline = client->heard_at + AUTH_DEADLINE_MS;
	client->next = clients;
	if (clients != NULL)
		clients->prev = client;
	clients = client;
	n_clients++;
}

static void
client_end(Client *client)
{
	if (client->number == 0)
		return;					/* never began */
	if (client->is_websocket && client_is_open(client))
		log_limited("client %llu went away", (unsigned long long) client->number);
	feed_forget(client);
	telemetry_forget(client);
	recheck_forget(client);
	request_forget(client);
	user_leave(client);
	queue_free(client, client->queue, false);
	queue_free(client, client->unconfirmed, false);
	while (client->subscriptions != NULL)
	{
		Subscription *next = client->subscriptions->next;

		subscription_free(client->subscriptions);
		client->subscriptions = next;
	}
	if (client->user != NULL)
		user_release(client->user);
	http_free(client);
	frame_reader_free(&client->reader);
	free(client->claimed);
	free(client->issued_at);
	free(client->token_id);
	for (int i = 0; i < n_cells && client->places != NULL; i++)
		free(client->places[i].seen);
	free(client->places);
	input_free(client);
	if (client->prev != NULL)
		client->prev->next = client->next;
	else
		clients = client->next;
	if (client->next != NULL)
		client->next->prev = client->prev;
	n_clients--;
	client->number = 0;
}

int
client_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
				size_t len)
{
	Client	   *client = user;

	switch (reason)
	{
		case LWS_CALLBACK_RAW_ADOPT:
			client_begin(client, wsi);
			break;
		case LWS_CALLBACK_RAW_RX:
			input_read(client, in, len);
			break;
		case LWS_CALLBACK_RAW_WRITEABLE:
			return write_some(client);
		case LWS_CALLBACK_RAW_CLOSE:
			client_end(client);
			break;
		default:
			break;
	}
	return 0;
}

/* Judges an open WebSocket by the clocks. */
static void
scan_open(Client *client, int64_t now, int64_t now_wall)
{
	const QueueItem *oldest = client->unconfirmed != NULL ? client->unconfirmed : client->queue;

	if (client->state == CLIENT_AUTHORIZING &&
		(now > client->settle_at || now > client->deadline))
		access_settle(client, false);
	if (client->state == CLIENT_READY && client->expires_at <= now_wall)
		client_close(client, CLOSE_EXPIRED, "token expired");
	else if (oldest != NULL && now - oldest->queued_at > SLOW_MS)
		client_close(client, CLOSE_TOO_SLOW, "too slow");
	else if (client->state == CLIENT_ANONYMOUS && now > client->deadline)
		client_close(client, CLOSE_UNAUTHORIZED, "no token in time");
	else if (client->state == CLIENT_AUTHORIZING && now > client->deadline)
		client_close(client, CLOSE_TRY_LATER, "the database is slow");
	else if (now - client->heard_at > SILENCE_MS)
		client_kill(client);
	else if (now - client->heard_at > PING_AFTER_MS && client->pinged_at == 0)
	{
		client->pinged_at = now;
		queue_control(client, FRAME_PING, NULL, 0);
	}
}

static void
scan(lws_sorted_usec_list_t *timer)
{
	int64_t		now = now_ms();
	int64_t		now_wall = now_unix();

	for (Client *client = clients; client != NULL; client = client->next)
	{
		if (client_is_open(client))
			scan_open(client, now, now_wall);
		else if (now > client->deadline)
			client_kill(client);
	}
	lws_sul_schedule(context, 0, timer, scan, SCAN_MS * LWS_US_PER_MS);
}

void
clients_start_scan(void)
{
	lws_sul_schedule(context, 0, &scan_timer, scan, SCAN_MS * LWS_US_PER_MS);
}

void
clients_close_all(uint16_t code, const char *reason)
{
	for (Client *client = clients; client != NULL; client = client->next)
		client_close(client, code, reason);
}
