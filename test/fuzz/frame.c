/*
 * frame.c
 *		Fuzz target: WebSocket frames, to the push daemon (pushd/frame.h).
 *
 * The first byte tells in how large pieces the rest comes: any cut gives the same messages.
 */
#include "fuzz.h"

#include "core/utf8.h"
#include "pushd/frame.h"

#define LIMIT	4096

/* What a reader made of the bytes, as one number and a count. */
typedef struct Outcome
{
	uint64_t	hash;
	unsigned	messages;
	unsigned	error;
} Outcome;

static void
add(Outcome *outcome, const void *bytes, size_t len)
{
	const unsigned char *at = bytes;

	for (size_t i = 0; i < len; i++)
		outcome->hash = (outcome->hash ^ at[i]) * UINT64_C(1099511628211);
	outcome->hash = (outcome->hash ^ len) * UINT64_C(1099511628211);
	outcome->messages++;
}

/* Reads a piece, in memory of its own size; false after an error. */
static bool
read_piece(FrameReader *reader, const uint8_t *bytes, size_t len, Outcome *outcome)
{
	unsigned char *copy = malloc(len);
	const unsigned char *at = copy;
	bool		good = true;
	FrameResult result = FRAME_NEED_MORE;

	REQUIRE(copy != NULL);
	memcpy(copy, bytes, len);
	while (good && (result = frame_read(reader, &at, copy + len, LIMIT)) != FRAME_NEED_MORE)
	{
		REQUIRE(reader->message_len <= LIMIT);
		if (result == FRAME_GOT_MESSAGE)
		{
			const char *message = reader->message != NULL ? reader->message : "";

			REQUIRE(iot_utf8_valid(message, reader->message_len));
			add(outcome, message, reader->message_len);
			frame_reader_free_message(reader);
		}
		else if (result == FRAME_GOT_CONTROL)
		{
			REQUIRE(reader->control_len <= FRAME_CONTROL_MAX);
			add(outcome, reader->control, reader->control_len);
		}
		else
		{
			REQUIRE(reader->frame == NULL && reader->message == NULL);
			REQUIRE(frame_close_code_valid(reader->error_code));
			outcome->error = reader->error_code;
			good = false;
		}
	}
	REQUIRE(!good || at == copy + len);
	free(copy);
	return good;
}

static Outcome
read_all(const uint8_t *bytes, size_t len, size_t piece)
{
	FrameReader reader = {0};
	Outcome		outcome = {UINT64_C(14695981039346656037), 0, 0};

	for (size_t at = 0; at < len; at += piece)
	{
		if (!read_piece(&reader, bytes + at, len - at < piece ? len - at : piece, &outcome))
			break;
	}
	frame_reader_free(&reader);
	return outcome;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Outcome		pieces;
	Outcome		whole;

	if (size < 2)
		return 0;
	pieces = read_all(data + 1, size - 1, 1 + data[0]);
	whole = read_all(data + 1, size - 1, size - 1);
	REQUIRE(pieces.hash == whole.hash && pieces.messages == whole.messages &&
			pieces.error == whole.error);
	return 0;
}
