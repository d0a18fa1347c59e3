/*
 * http.c
 *		Fuzz target: the heads of requests, to the push daemon.
 *
 * The first byte tells in how large pieces the rest comes.  Whatever that is, there is one answer,
 * or none yet; and pieces of any size make the same of it.
 */
#include "daemon.h"

#define SECRET		"the secret of the fuzz targets, long"

static unsigned char *answer_text;
static size_t answer_len;

void
loop_closes(const struct lws *wsi)
{
	free(answer_text);
	answer_len = wsi->output_len;
	answer_text = malloc(answer_len + 1);
	REQUIRE(answer_text != NULL);
	if (answer_len > 0)
		memcpy(answer_text, wsi->output, answer_len);
}

/* Sends the bytes in pieces; what the daemon had to say is in answer_text then. */
static void
ask(const uint8_t *bytes, size_t len, size_t piece)
{
	struct lws *wsi = loop_connect();

	REQUIRE(wsi != NULL);
	for (size_t at = 0; at < len && wsi->used; at += piece)
		loop_receive(wsi, bytes + at, len - at < piece ? len - at : piece);
	loop_write(wsi, SIZE_MAX / 2);
	REQUIRE(wsi->client.inbox_len <= MAX_HEAD);
	if (wsi->used)
		loop_close(wsi);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char *first;
	size_t		first_len;

	if (size < 1)
		return 0;
	daemon_start(SECRET, 0);
	ask(data + 1, size - 1, 1 + data[0]);
	first = answer_text;
	first_len = answer_len;
	answer_text = NULL;
	if (first_len > 0)
		REQUIRE(first_len > 13 && memcmp(first, "HTTP/1.1 ", 9) == 0);
	ask(data + 1, size - 1, size);
	/* figures differ from one time to the next, and so may what a WebSocket is told */
	if (first_len > 13 && memcmp(first + 9, "200", 3) != 0 && memcmp(first + 9, "101", 3) != 0)
		REQUIRE(answer_len == first_len && memcmp(answer_text, first, first_len) == 0);
	REQUIRE((first_len == 0) == (answer_len == 0));
	free(first);
	REQUIRE(client_total() == 0);
	return 0;
}
