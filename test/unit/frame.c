/*
 * frame.c
 *		The reader of WebSocket frames: any cut of the bytes gives the same messages, and no bytes make
 *		it read or write where it must not.
 */
#include "test.h"

#include <stdio.h>

#include "pushd/frame.c"

#define LIMIT 1000

/* Appends a masked frame to the buffer; returns its length. */
static size_t
put_frame(unsigned char *buffer, unsigned first, const char *payload, size_t len)
{
	static const unsigned char mask[4] = {0x11, 0x22, 0x44, 0x88};
	size_t		n = frame_header(buffer, (FrameOpcode) (first & 0x0f), len);

	buffer[0] = (unsigned char) first;
	buffer[1] |= 0x80;
	memcpy(buffer + n, mask, 4);
	n += 4;
	for (size_t i = 0; i < len; i++)
		buffer[n++] = (unsigned char) payload[i] ^ mask[i & 3];
	return n;
}

/* Reads all bytes in pieces; what came, each with a line end. */
static void
read_pieces(const unsigned char *bytes, size_t len, size_t piece, char *result)
{
	FrameReader reader = {0};

	result[0] = '\0';
	for (size_t at = 0; at < len; at += piece)
	{
		size_t		n = len - at < piece ? len - at : piece;
		unsigned char *copy = (unsigned char *) exact_copy((const char *) bytes + at, n);
		const unsigned char *data = copy;
		FrameResult outcome;

		while ((outcome = frame_read(&reader, &data, copy + n, LIMIT)) != FRAME_NEED_MORE)
		{
			if (outcome == FRAME_GOT_MESSAGE)
			{
				sprintf(result + strlen(result), "%.*s\n", (int) reader.message_len,
						reader.message != NULL ? reader.message : "");
				frame_reader_free_message(&reader);
			}
			else if (outcome == FRAME_GOT_CONTROL)
				sprintf(result + strlen(result), "%u:%.*s\n", reader.control_opcode,
						(int) reader.control_len, (char *) reader.control);
			else
			{
				sprintf(result + strlen(result), "error %u\n", reader.error_code);
				free(copy);
				assert_null(reader.frame);
				assert_null(reader.message);
				return;
			}
		}
		assert_ptr_equal(data, copy + n);
		free(copy);
	}
	frame_reader_free(&reader);
}

static void
test_any_cut(void **state)
{
	unsigned char bytes[4096];
	char		expected[8192];
	char		result[8192];
	char		large[LIMIT];
	size_t		len = 0;

	memset(large, 'x', sizeof(large));
	len += put_frame(bytes + len, 0x81, "hello", 5);
	len += put_frame(bytes + len, 0x81, "", 0);
	len += put_frame(bytes + len, 0x01, "in ", 3);
	len += put_frame(bytes + len, 0x89, "ping", 4);
	len += put_frame(bytes + len, 0x00, "\xc3", 1);
	len += put_frame(bytes + len, 0x8a, "", 0);
	len += put_frame(bytes + len, 0x80, "\xbc parts", 7);
	len += put_frame(bytes + len, 0x81, large, sizeof(large));
	len += put_frame(bytes + len, 0x88, "\x03\xe8" "bye", 5);
	len += put_frame(bytes + len, 0x81, large, 126);
	sprintf(expected, "hello\n\n9:ping\n10:\nin \xc3\xbc parts\n%.*s\n8:\x03\xe8" "bye\n%.*s\n",
			LIMIT, large, 126, large);
	for (size_t piece = 1; piece <= len; piece++)
	{
		read_pieces(bytes, len, piece, result);
		assert_string_equal(result, expected);
	}
}

static void
assert_refused(unsigned first, const char *payload, size_t len, const char *expected)
{
	unsigned char bytes[4096];
	char		result[8192];
	size_t		n = put_frame(bytes, first, payload, len);

	for (size_t piece = 1; piece <= n; piece++)
	{
		read_pieces(bytes, n, piece, result);
		assert_string_equal(result, expected);
	}
}

static void
test_refused(void **state)
{
	char		large[LIMIT + 1];
	unsigned char unmasked[] = {0x81, 0x01, 'x'};
	unsigned char huge[15] = {0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	unsigned char negative[15] = {0x81, 0xff, 0x80};
	char		result[64];

	memset(large, 'x', sizeof(large));
	assert_refused(0x81, large, sizeof(large), "error 1009\n");
	assert_refused(0x82, "x", 1, "error 1003\n");
	assert_refused(0x80, "x", 1, "error 1002\n");
	assert_refused(0x09, "x", 1, "error 1002\n");
	assert_refused(0x89, large, 126, "error 1002\n");
	assert_refused(0xa1, "x", 1, "error 1002\n");
	assert_refused(0x83, "x", 1, "error 1002\n");
	assert_refused(0x88, "x", 1, "error 1002\n");
	assert_refused(0x88, "\x03\xed", 2, "error 1002\n");
	assert_refused(0x88, "\x03\xe8\xff", 3, "error 1002\n");
	assert_refused(0x81, "\xff", 1, "error 1007\n");
	read_pieces(unmasked, sizeof(unmasked), 1, result);
	assert_string_equal(result, "error 1002\n");
	read_pieces(huge, sizeof(huge), sizeof(huge), result);
	assert_string_equal(result, "error 1009\n");
	read_pieces(negative, sizeof(negative), sizeof(negative), result);
	assert_string_equal(result, "error 1002\n");
}

/* Between messages a reader holds nothing, and for a message only what has come of it. */
static void
test_holds_nothing(void **state)
{
	FrameReader reader = {0};
	unsigned char bytes[64];
	size_t		n = put_frame(bytes, 0x81, "hello", 5);
	const unsigned char *data = bytes;
	unsigned char declared[] = {0x81, 0xfe, 0x03, 0xe8, 1, 2, 3, 4};

	assert_int_equal(frame_read(&reader, &data, bytes + n, LIMIT), FRAME_GOT_MESSAGE);
	assert_ptr_equal(data, bytes + n);
	assert_null(reader.frame);
	frame_reader_free_message(&reader);
	assert_null(reader.message);
	n = put_frame(bytes, 0x89, "ping", 4);
	data = bytes;
	assert_int_equal(frame_read(&reader, &data, bytes + n, LIMIT), FRAME_GOT_CONTROL);
	assert_null(reader.frame);
	data = declared;
	assert_int_equal(frame_read(&reader, &data, declared + sizeof(declared), LIMIT),
					 FRAME_NEED_MORE);
	assert_null(reader.message);
	frame_reader_free(&reader);
}

static void
test_close_codes(void **state)
{
	for (unsigned code = 0; code < 70000; code++)
	{
		bool		valid = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
			(code >= 3000 && code < 5000);

		assert_int_equal(frame_close_code_valid(code), valid);
	}
}

/* Bytes by chance, begun as masked frames so that they get somewhere. */
static void
test_noise(void **state)
{
	uint32_t	seed = 12345;

	for (int round = 0; round < 20000; round++)
	{
		unsigned char bytes[64];
		char		result[8192];

		for (size_t i = 0; i < sizeof(bytes); i++)
		{
			seed = seed * 1664525u + 1013904223u;
			bytes[i] = (unsigned char) (seed >> 24);
		}
		bytes[0] = (unsigned char) (round % 3 == 0 ? 0x81 : round % 3 == 1 ? 0x01 : 0x89);
		bytes[1] = (unsigned char) (0x80 | (bytes[1] & 0x1f));
		read_pieces(bytes, sizeof(bytes), 1 + (size_t) round % 7, result);
		assert_true(strlen(result) < sizeof(result));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_cut),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_holds_nothing),
		cmocka_unit_test(test_close_codes),
		cmocka_unit_test(test_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
