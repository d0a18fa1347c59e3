/*
 * session.c
 *		Fuzz target: the push daemon, with clients that say anything and a database that comes and goes.
 *
 * An input is a script, a line for each step: a letter, the digit of a client, and what belongs to
 * it.
 *
 *	c0			a client connects				x0			... and goes away
 *	w0			asks for a WebSocket			t0			... and brings a good token with that
 *	b0TEXT		sends these bytes				m0TEXT		sends a message
 *	f0XTEXT		sends a frame of which X is the first byte
 *	a0			says who it is, for a minute	z0			its socket takes a few bytes
 *	r0			its socket takes all			s0			... and all others do
 *	d0 d1 d2	the database answers			e0 e1 e2	... with an error (to d5, of two cells)
 *	l0 l1 l2	the connection to it is lost	h0			it hints that there is news
 *	n0 to n9	so many notifications come		p0 to p9	so much time passes, to 30 s
 *	k0			the database is another one		u0			users are disabled, or enabled again
 *	o0			it is a copy, or not any more	q0			all clients are sent away
 */
#define _GNU_SOURCE
#include "daemon.h"

#include <stdio.h>

#include <cjson/cJSON.h>

#include "core/jwt.h"
#include "pushd/feed_internal.h"
#include "pushd/telemetry.h"

#define SECRET		"the secret of the fuzz targets, long"
#define MAX_EVENTS	1024		/* that a script may cause */
#define N_CLIENTS	4

#ifndef N_CELLS
#define N_CELLS		0				/* one database, without a name */
#endif

static void
make_token(char *token, size_t size, int who)
{
	char		claims[128];

	snprintf(claims, sizeof(claims), "{\"sub\":\"%s\",\"exp\":%lld,\"iat\":1,\"jti\":\"%d\"}",
			 who % 2 == 0 ? "anna" : "bo\\\"b", (long long) now_unix() + 60, who);
	REQUIRE(iot_jwt_size(strlen(claims)) <= size);
	REQUIRE(iot_jwt_sign(token, claims, strlen(claims), SECRET));
}

static void
send_frame(struct lws *wsi, unsigned first, const char *text, size_t len)
{
	static const unsigned char mask[4] = {0x12, 0x34, 0x56, 0x78};
	unsigned char *frame = malloc(FRAME_HEADER_MAX + 4 + len);
	size_t		n;

	REQUIRE(frame != NULL);
	n = frame_header(frame, FRAME_TEXT, len);
	frame[0] = (unsigned char) first;
	frame[1] |= 0x80;
	memcpy(frame + n, mask, 4);
	n += 4;
	for (size_t i = 0; i < len; i++)
		frame[n++] = (unsigned char) text[i] ^ mask[i & 3];
	loop_receive(wsi, frame, n);
	free(frame);
}

static void
ask_for_websocket(struct lws *wsi, const char *token)
{
	char		head[2048];
	int			n = snprintf(head, sizeof(head), "GET /ws HTTP/1.1\r\nHost: a\r\n"
							 "Upgrade: websocket\r\nConnection: Upgrade\r\n"
							 "Sec-WebSocket-Version: 13\r\n"
							 "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s%s%s\r\n",
							 token != NULL ? "Sec-WebSocket-Protocol: iot, bearer." : "",
							 token != NULL ? token : "", token != NULL ? "\r\n" : "");

	loop_receive(wsi, head, (size_t) n);
}

/* What a message says of itself: an object with "op". */
static void
check_object(const cJSON *object)
{
	const cJSON *cell = cJSON_GetObjectItemCaseSensitive(object, "cell");

	REQUIRE(cell == NULL || (N_CELLS > 0 && cell_by_name(cJSON_GetStringValue(cell)) != NULL));
	REQUIRE(cJSON_IsString(cJSON_GetObjectItemCaseSensitive(object, "op")));
}

static void
check_text(const unsigned char *text, size_t len)
{
	cJSON	   *json = cJSON_ParseWithLength((const char *) text, len);
	const cJSON *item;

	REQUIRE(json != NULL);
	if (cJSON_IsArray(json))
	{
		cJSON_ArrayForEach(item, json)
			check_object(item);
	}
	else
		check_object(json);
	cJSON_Delete(json);
}

/* All that was written to a client: one answer, and after that of a WebSocket whole frames. */
void
loop_closes(const struct lws *wsi)
{
	const unsigned char *at = wsi->output;
	const unsigned char *end;
	bool		closed = false;

	if (wsi->output_len == 0)
		return;
	end = at + wsi->output_len;
	REQUIRE(wsi->output_len > 13 && memcmp(at, "HTTP/1.1 ", 9) == 0);
	if (memcmp(at, "HTTP/1.1 101", 12) != 0)
		return;
	at = memmem(at, wsi->output_len, "\r\n\r\n", 4);
	REQUIRE(at != NULL);
	at += 4;
	while (at < end)
	{
		unsigned	opcode = at[0] & 0x0f;
		size_t		len;

		REQUIRE(!closed && end - at >= 2 && (at[0] & 0xf0) == 0x80 && at[1] < 0x80);
		len = at[1];
		at += 2;
		if (len == 126)
		{
			REQUIRE(end - at >= 2);
			len = (size_t) at[0] << 8 | at[1];
			at += 2;
		}
		else
			REQUIRE(len < 126); /* larger ones are not made */
		REQUIRE((size_t) (end - at) >= len);
		if (opcode == FRAME_TEXT)
			check_text(at, len);
		else
			REQUIRE(len < 126 &&
					(opcode == FRAME_CLOSE || opcode == FRAME_PING || opcode == FRAME_PONG));
		closed = opcode == FRAME_CLOSE;
		at += len;
	}
}

/* What a client costs is what it was found to cost, and within its bounds. */
static void
check_client(const Client *client)
{
	size_t		bytes = 0;

	for (const QueueItem *item = client->queue; item != NULL; item = item->next)
		bytes += item->message->len;
	for (const QueueItem *item = client->unconfirmed; item != NULL; item = item->next)
		bytes += item->message->len;
	REQUIRE(bytes == client->queue_bytes && bytes <= MAX_QUEUE + MAX_FRAME);
	REQUIRE(client->inbox_len <= MAX_INBOX && client->reader.message_len <= MAX_MESSAGE);
	REQUIRE(client->n_subscriptions >= 0 && client->n_subscriptions <= options.max_subscriptions);
	for (int i = 0; i < n_cells && client->places != NULL; i++)
	{
		const Place *place = &client->places[i];

		REQUIRE(place->acked <= place->last_seq);
		REQUIRE(place->feed != FEED_LIVE || place->allowed);
		REQUIRE(client->paging != place || place->queued || place->asked);
	}
}

static void
look_at_all(void)
{
	for (int i = 0; i < MAX_SOCKETS; i++)
	{
		if (sockets[i].used && sockets[i].is_client)
			check_client(&sockets[i].client);
	}
}

static void
say(struct lws *wsi, char letter, int who, const char *text, size_t len)
{
	char		token[512];
	char		message[600];

	switch (letter)
	{
		case 'x':
			loop_close(wsi);
			break;
		case 'w':
			ask_for_websocket(wsi, NULL);
			break;
		case 't':
			make_token(token, sizeof(token), who);
			ask_for_websocket(wsi, token);
			break;
		case 'b':
			loop_receive(wsi, text, len);
			break;
		case 'm':
			send_frame(wsi, 0x80 | FRAME_TEXT, text, len);
			break;
		case 'f':
			if (len > 0)
				send_frame(wsi, (unsigned char) text[0], text + 1, len - 1);
			break;
		case 'a':
			make_token(token, sizeof(token), who);
			send_frame(wsi, 0x80 | FRAME_TEXT, message,
					   (size_t) snprintf(message, sizeof(message),
										 "{\"op\":\"auth\",\"token\":\"%s\"}", token));
			break;
		case 'z':
			loop_write(wsi, 100);
			break;
		case 'r':
			loop_write(wsi, SIZE_MAX / 2);
			break;
		default:
			break;
	}
}

static void
happen(char letter, int number)
{
	static const int64_t spans[] = {1, 60, 120, 300, 600, 1000, 2500, 5000, 9000, 31000};

	switch (letter)
	{
		case 's':
			for (int i = 0; i < MAX_SOCKETS; i++)
			{
				if (sockets[i].used && sockets[i].is_client)
					loop_write(&sockets[i], SIZE_MAX / 2);
			}
			break;
		case 'd':
			(void) pg_answer((unsigned) number, true);
			break;
		case 'e':
			(void) pg_answer((unsigned) number, false);
			break;
		case 'l':
			pg_lose((unsigned) number);
			break;
		case 'h':
			pg_hint();
			break;
		case 'n':
			if (world_head + number < MAX_EVENTS)
				world_head += number;
			break;
		case 'p':
			loop_pass(spans[number]);
			break;
		case 'k':
			world_epoch++;
			break;
		case 'u':
			world_refuses = !world_refuses;
			break;
		case 'o':
			world_paused = !world_paused;
			break;
		case 'q':
			clients_close_all(CLOSE_GOING_AWAY, "going away");
			break;
		default:
			break;
	}
}

/* The daemon comes to rest, and nothing of what the script did is left. */
static void
end_script(void)
{
	loop_close_clients();
	world_refuses = false;
	world_paused = false;
	pg_settle();
	REQUIRE(client_total() == 0 && user_first() == NULL && telemetry_total() == 0);
	for (int i = 0; i < n_cells; i++)
		REQUIRE(cells[i].authorize.first == NULL && cells[i].pages.first == NULL &&
				cells[i].asked_place == NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lws *wsi[N_CLIENTS] = {NULL};
	uint64_t	number[N_CLIENTS] = {0};
	const char *line = (const char *) data;
	const char *end = line + size;

	daemon_start(SECRET, N_CELLS);
	for (int steps = 0; line < end && steps < 200; steps++)
	{
		const char *newline = memchr(line, '\n', (size_t) (end - line));
		size_t		len = (size_t) ((newline != NULL ? newline : end) - line);
		int			digit = len >= 2 && line[1] >= '0' && line[1] <= '9' ? line[1] - '0' : 0;
		int			who = digit % N_CLIENTS;

		if (len == 0)
			;
		else if (line[0] == 'c')
		{
			if (wsi[who] == NULL && (wsi[who] = loop_connect()) != NULL)
				number[who] = wsi[who]->client.number;
		}
		else if (strchr("xwtbmfazr", line[0]) != NULL && line[0] != '\0')
		{
			if (wsi[who] != NULL)
				say(wsi[who], line[0], who, line + (len < 2 ? len : 2), len < 2 ? 0 : len - 2);
		}
		else
			happen(line[0], digit);
		loop_settle();
		look_at_all();
		for (int i = 0; i < N_CLIENTS; i++)
		{
			if (wsi[i] != NULL && (!wsi[i]->used || wsi[i]->client.number != number[i]))
				wsi[i] = NULL;
		}
		line += len + (newline != NULL);
	}
	end_script();
	return 0;
}
