/*
 * input.c
 *		What clients say: from bytes to messages.
 *
 * Request heads are read in http.c and frames by wslay in frame.c, since the library's own
 * WebSocket role has no room for a token in Sec-WebSocket-Protocol and takes what RFC 6455 forbids.
 * Each function may close the client, which stays in memory until the library lets it go.
 */
#define _GNU_SOURCE
#include "pushd/pushd.h"

#include <stdlib.h>
#include <string.h>

/* Keeps a message while the database is asked about the user. */
static void
keep_message(Client *client, const char *text, size_t len)
{
	char	   *larger;

	if (client->inbox_len + len + 1 > MAX_INBOX)
	{
		client_close(client, CLOSE_TOO_LARGE, "too much before ready");
		return;
	}
	larger = realloc(client->inbox, client->inbox_len + len + 1);
	if (larger == NULL)
	{
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return;
	}
	memcpy(larger + client->inbox_len, text, len);
	client->inbox = larger;
	client->inbox_len += (uint32_t) len + 1;
	larger[client->inbox_len - 1] = '\0';
}

/* Ends with the connection, and where the request's head is done with. */
void
input_free(Client *client)
{
	free(client->inbox);
	client->inbox = NULL;
	client->inbox_len = 0;
}

static void
take_message(Client *client, const char *text, size_t len)
{
	metrics.messages_received++;
	if (memchr(text, '\0', len) != NULL)
		protocol_error(client, NULL, "invalid", "message is not JSON");
	else if (client->state == CLIENT_AUTHORIZING)
		keep_message(client, text, len);
	else
		protocol_message(client, text, len);
}

static void
take_control(Client *client)
{
	FrameReader *reader = &client->reader;

	if (reader->control_opcode == FRAME_CLOSE)
	{
		client->peer_closed = true;
		client_close(client, CLOSE_NORMAL, NULL);
	}
	else if (reader->control_opcode == FRAME_PING && !client->pong_queued)
	{
		/* one answer at a time: who pings faster than he reads gets fewer */
		client->pong_queued = true;
		queue_control(client, FRAME_PONG, reader->control, reader->control_len);
	}
}

static void
read_frames(Client *client, const unsigned char *data, size_t len)
{
	const unsigned char *end = data + len;

	while (client_is_open(client))
	{
		switch (frame_read(&client->reader, &data, end, MAX_MESSAGE))
		{
			case FRAME_NEED_MORE:
				return;
			case FRAME_GOT_MESSAGE:
				take_message(client, client->reader.message != NULL ? client->reader.message : "",
							 client->reader.message_len);
				frame_reader_free_message(&client->reader);
				break;
			case FRAME_GOT_CONTROL:
				take_control(client);
				break;
			case FRAME_GOT_ERROR:
				client_close(client, client->reader.error_code,
							 client->reader.error_code == CLOSE_TOO_LARGE ? "message too large" :
							 client->reader.error_code == 1007 ? "invalid UTF-8" :
							 "protocol error");
				return;
		}
	}
}

/* Collects a request's head; what comes after it belongs to the WebSocket, if it becomes one. */
static void
read_head(Client *client, const unsigned char *data, size_t len)
{
	size_t		take = len;
	size_t		old_len = client->inbox_len;
	size_t		head_len;
	char	   *larger;
	char	   *end;

	if (take > MAX_HEAD - old_len)
		take = MAX_HEAD - old_len;
	larger = realloc(client->inbox, old_len + take + 1);
	if (larger == NULL)
	{
		client_kill(client);
		return;
	}
	memcpy(larger + old_len, data, take);
	client->inbox = larger;
	client->inbox_len = (uint32_t) (old_len + take);
	larger[client->inbox_len] = '\0';
	end = memmem(larger, client->inbox_len, "\r\n\r\n", 4);
	if (end == NULL && client->inbox_len < MAX_HEAD)
		return;
	/* the last line keeps its end; no length stands for a head that is too large */
	head_len = end != NULL ? (size_t) (end - larger) + 2 : 0;
	if (http_read_head(client, head_len))
		read_frames(client, data + (head_len + 2 - old_len), len - (head_len + 2 - old_len));
}

/* Bytes came from the socket. */
void
input_read(Client *client, const unsigned char *data, size_t len)
{
	client->heard_at = now_ms();
	client->pinged_at = 0;
	if (client->state == CLIENT_HEAD)
		read_head(client, data, len);
	else if (client_is_open(client))
		read_frames(client, data, len);
}

/* The client is ready: what it said while it waited is taken now. */
void
input_take_kept(Client *client)
{
	char	   *inbox = client->inbox;
	uint32_t	inbox_len = client->inbox_len;

	client->inbox = NULL;
	client->inbox_len = 0;
	for (uint32_t at = 0; at < inbox_len && client_is_open(client);)
	{
		size_t		len = strlen(inbox + at);

		protocol_message(client, inbox + at, len);
		at += (uint32_t) len + 1;
	}
	free(inbox);
}
