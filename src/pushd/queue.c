/*
 * queue.c
 *		Messages on their way to sockets.
 *
 * A message is made once, with its frame's header before it, and counted by whoever holds it; a
 * client's queue is a list of references.  What the library could not write at once stays on a
 * second list until it has: only then was it taken.
 */
#include "pushd/pushd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pushd/feed.h"

/* Without a text, its bytes are the caller's to fill in. */
static Message *
make_message(FrameOpcode opcode, const void *text, size_t len)
{
	Message    *message = malloc(sizeof(Message) + LWS_PRE + FRAME_HEADER_MAX + len);
	unsigned char header[FRAME_HEADER_MAX];

	if (message == NULL)
		return NULL;
	memset(message, 0, sizeof(Message));
	message->refs = 1;
	message->is_pong = opcode == FRAME_PONG;
	message->len = (uint32_t) len;
	message->header_len = (uint8_t) frame_header(header, opcode, len);
	memcpy(message->bytes + LWS_PRE + FRAME_HEADER_MAX - message->header_len, header,
		   message->header_len);
	if (text != NULL)
		memcpy(message->bytes + LWS_PRE + FRAME_HEADER_MAX, text, len);
	return message;
}

/* A text message with one reference, the caller's; NULL without memory. */
Message *
message_new(const char *text, size_t len)
{
	return make_message(FRAME_TEXT, text, len);
}

/*
 * The same for an object that a cell said, which is told whose it is where cells have names.  Names are
 * short and need no escaping.
 */
Message *
message_of_cell(Cell *cell, const char *text, size_t len)
{
	char		begin[64];
	int			begin_len = 0;
	Message    *message;

	if (cell->name != NULL && len > 1 && text[0] == '{')
		begin_len = snprintf(begin, sizeof(begin), "{\"cell\":\"%s\",", cell->name);
	message = begin_len == 0 ? message_new(text, len) :
		make_message(FRAME_TEXT, NULL, (size_t) begin_len + len - 1);
	if (message == NULL)
		return NULL;
	if (begin_len > 0)
	{
		unsigned char *bytes = message->bytes + LWS_PRE + FRAME_HEADER_MAX;

		memcpy(bytes, begin, (size_t) begin_len);
		memcpy(bytes + begin_len, text + 1, len - 1);
	}
	message->cell = cell;
	return message;
}

void
message_release(Message *message)
{
	if (--message->refs == 0)
		free(message);
}

/*
 * Puts a message at the end of the queue and takes a reference of its own.  With record, the
 * delivery to the client's user is written down once the socket has taken it.
 */
void
client_enqueue(Client *client, Message *message, bool record)
{
	QueueItem  *item;

	if (!client_is_open(client))
		return;
	if (client->queue_bytes > 0 && client->queue_bytes + message->len > MAX_QUEUE)
	{
		client_close(client, CLOSE_TOO_SLOW, "too slow");
		return;
	}
	item = malloc(sizeof(QueueItem));
	if (item == NULL)
	{
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return;
	}
	message->refs++;
	item->next = NULL;
	item->message = message;
	item->queued_at = now_ms();
	item->record = record;
	if (record)
		client->user->in_flight[message->cell->index]++;
	if (client->queue_last != NULL)
		client->queue_last->next = item;
	else
		client->queue = item;
	client->queue_last = item;
	client->queue_bytes += message->len;
	if (message->is_event && message->seq > client->places[message->cell->index].last_seq)
		client->places[message->cell->index].last_seq = message->seq;
	lws_callback_on_writable(client->wsi);
}

static void
reply(Client *client, Message *message)
{
	if (message == NULL)
	{
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return;
	}
	client_enqueue(client, message, false);
	message_release(message);
}

/* Queues an answer of the protocol. */
void
client_reply(Client *client, const char *text)
{
	reply(client, message_new(text, strlen(text)));
}

/* Queues an answer that a cell gave. */
void
client_reply_of_cell(Client *client, Cell *cell, const char *text)
{
	reply(client, message_of_cell(cell, text, strlen(text)));
}

void
queue_free(Client *client, QueueItem *item, bool taken)
{
	while (item != NULL)
	{
		QueueItem  *next = item->next;

		client->queue_bytes -= item->message->len;
		if (item->record && taken)
			feed_taken(client->user, item->message);
		else if (item->record)
			client->user->in_flight[item->message->cell->index]--;
		if (taken)
		{
			metrics.events_sent += item->message->is_event;
			metrics.values_sent += item->message->is_value;
		}
		message_release(item->message);
		free(item);
		item = next;
	}
}

/* Takes what the cell said out of the queue. */
void
queue_drop(Client *client, const Cell *cell)
{
	QueueItem  *dropped = NULL;
	QueueItem **link = &client->queue;

	client->queue_last = NULL;
	while (*link != NULL)
	{
		QueueItem  *item = *link;

		if (item->message->cell == cell)
		{
			*link = item->next;
			item->next = dropped;
			dropped = item;
			continue;
		}
		client->queue_last = item;
		link = &item->next;
	}
	queue_free(client, dropped, false);
}

void
queue_control(Client *client, FrameOpcode opcode, const void *data, size_t len)
{
	Message    *message = make_message(opcode, data, len);

	if (message == NULL)
		return;
	client_enqueue(client, message, false);
	message_release(message);
}

int
queue_write_bytes(Client *client, unsigned char *bytes, size_t len)
{
	if (lws_write(client->wsi, bytes, len, LWS_WRITE_RAW) < 0)
		return -1;
	metrics.frames_sent++;
	metrics.bytes_sent += len;
	return 0;
}

static bool
may_share_frame(const Message *message)
{
	return message->is_event || message->is_value;
}

/*
 * Writes the first message of the queue, or as many events and values from its head as go into one
 * frame, as a JSON array: a frame costs more than what is in it.
 */
int
queue_write(Client *client)
{
	static unsigned char buffer[LWS_PRE + FRAME_HEADER_MAX + MAX_FRAME + 2];
	unsigned char *text = buffer + LWS_PRE + FRAME_HEADER_MAX;
	QueueItem  *first = client->queue;
	QueueItem  *last = first;
	Message    *message = first->message;
	size_t		len = 1 + (size_t) message->len;
	int			result;

	if (may_share_frame(message))
	{
		while (last->next != NULL && may_share_frame(last->next->message) &&
			   len + 1 + last->next->message->len <= MAX_FRAME)
		{
			last = last->next;
			len += 1 + (size_t) last->message->len;
		}
	}
	client->queue = last->next;
	if (client->queue == NULL)
		client->queue_last = NULL;
	last->next = NULL;
	client->unconfirmed = first;

	if (first == last)
		result = queue_write_bytes(client,
							 message->bytes + LWS_PRE + FRAME_HEADER_MAX - message->header_len,
							 (size_t) message->header_len + message->len);
	else
	{
		unsigned char header[FRAME_HEADER_MAX];
		size_t		header_len;
		size_t		at = 0;

		for (QueueItem *item = first; item != NULL; item = item->next)
		{
			text[at++] = item == first ? '[' : ',';
			memcpy(text + at, item->message->bytes + LWS_PRE + FRAME_HEADER_MAX,
				   item->message->len);
			at += item->message->len;
		}
		text[at++] = ']';
		header_len = frame_header(header, FRAME_TEXT, at);
		memcpy(text - header_len, header, header_len);
		result = queue_write_bytes(client, text - header_len, header_len + at);
	}
	if (message->is_pong)
		client->pong_queued = false;
	return result;
}
