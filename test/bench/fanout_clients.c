/*
 * fanout_clients.c
 *		Many sockets that count what they are sent: how many messages a second a server fans out.
 *
 *		fanout_clients host port token-file sockets messages
 *
 * Prints "subscribed" when all are; "ready" when each has got one message, which is not measured;
 * and when every socket has got that many more, one line: messages in all, frames, bytes, seconds
 * from the first to the last.  Status 1 where nothing comes for ten seconds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ws_client.h"

/* a key that each event has once, however its JSON is spaced */
#define MARK		"\"seq\""
#define MARK_LEN	(sizeof(MARK) - 1)
#define QUIET_NS	(UINT64_C(10) * 1000000000)

typedef struct Counter
{
	uint64_t	messages;
	uint64_t	frames;
	uint64_t	bytes;
	uint64_t	first_ns;
	uint64_t	last_ns;
	char	   *tails;			/* per socket: the end of the piece before */
	unsigned char *tail_lens;
} Counter;

/* Counts marks, also one that two pieces share; whole JSON parsing would measure ourselves. */
static void
count_marks(Counter *counter, int socket, const char *text, size_t len)
{
	char	   *tail = counter->tails + (size_t) socket * MARK_LEN;
	size_t		tail_len = counter->tail_lens[socket];
	char		joint[2 * MARK_LEN];
	size_t		head = len < MARK_LEN - 1 ? len : MARK_LEN - 1;
	const char *at = text;
	const char *end = text + len;

	memcpy(joint, tail, tail_len);
	memcpy(joint + tail_len, text, head);
	if (tail_len > 0 && memmem(joint, tail_len + head, MARK, MARK_LEN) != NULL)
		counter->messages++;
	while ((at = memmem(at, (size_t) (end - at), MARK, MARK_LEN)) != NULL)
	{
		counter->messages++;
		at += MARK_LEN;
	}
	/* keep less than a mark, so that none is counted twice */
	if (len >= MARK_LEN - 1)
	{
		memcpy(tail, end - (MARK_LEN - 1), MARK_LEN - 1);
		counter->tail_lens[socket] = MARK_LEN - 1;
	}
	else
	{
		size_t		keep = tail_len + len < MARK_LEN - 1 ? tail_len : MARK_LEN - 1 - len;

		memmove(tail, tail + (tail_len - keep), keep);
		memcpy(tail + keep, text, len);
		counter->tail_lens[socket] = (unsigned char) (keep + len);
	}
}

static void
receive(void *arg, int socket, const char *text, size_t len, bool last)
{
	Counter    *counter = arg;

	counter->last_ns = ws_now_ns();
	if (counter->first_ns == 0)
		counter->first_ns = counter->last_ns;
	counter->bytes += len;
	count_marks(counter, socket, text, len);
	if (last)
	{
		counter->frames++;
		counter->tail_lens[socket] = 0;
	}
}

/* Waits for so many messages in all; false where they do not come. */
static bool
wait_for(WsPool *pool, Counter *counter, uint64_t expected)
{
	counter->last_ns = ws_now_ns();
	while (counter->messages < expected)
	{
		ws_run(pool);
		if (ws_broken(pool))
			return false;
		if (ws_now_ns() - counter->last_ns > QUIET_NS)
		{
			fprintf(stderr, "only %llu of %llu messages came\n",
					(unsigned long long) counter->messages, (unsigned long long) expected);
			return false;
		}
	}
	return true;
}

static void
say(const char *text)
{
	puts(text);
	fflush(stdout);
}

int
main(int argc, char **argv)
{
	Counter		counter = {0};
	char		token[4096];
	FILE	   *file;
	WsPool	   *pool;
	int			sockets;
	uint64_t	expected;

	if (argc != 6)
	{
		fprintf(stderr, "usage: fanout_clients host port token-file sockets messages\n");
		return 2;
	}
	sockets = atoi(argv[4]);
	expected = (uint64_t) sockets * strtoull(argv[5], NULL, 10);
	file = fopen(argv[3], "r");
	if (file == NULL || fgets(token, sizeof(token), file) == NULL)
	{
		perror(argv[3]);
		return 2;
	}
	fclose(file);
	token[strcspn(token, "\n")] = '\0';
	counter.tails = calloc((size_t) sockets, MARK_LEN);
	counter.tail_lens = calloc((size_t) sockets, 1);
	pool = ws_open(argv[1], atoi(argv[2]), token,
				   "{\"op\":\"subscribe\",\"id\":1,\"events\":[\"*\"]}",
				   sockets, receive, &counter);
	if (pool == NULL || counter.tails == NULL || counter.tail_lens == NULL)
		return 1;
	say("subscribed");
	if (!wait_for(pool, &counter, (uint64_t) sockets))
		return 1;
	counter.messages = counter.frames = counter.bytes = counter.first_ns = 0;
	say("ready");
	if (!wait_for(pool, &counter, expected))
		return 1;
	printf("%llu %llu %llu %.6f\n", (unsigned long long) counter.messages,
		   (unsigned long long) counter.frames, (unsigned long long) counter.bytes,
		   (double) (counter.last_ns - counter.first_ns) / 1e9);
	ws_close(pool);
	free(counter.tails);
	free(counter.tail_lens);
	return 0;
}
