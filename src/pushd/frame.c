/*
 * frame.c
 *		WebSocket frames (RFC 6455), the server's side: bytes in, messages out.
 *
 * libwebsockets 4.1 takes unmasked frames from clients, and declared lengths of any size; here a
 * frame is refused at its first wrong byte.  Nothing is reserved for what a frame merely declares:
 * a client costs what it has sent, and an idle one only the FrameReader.  No input makes the
 * functions fail but by FRAME_GOT_ERROR.
 */
#include "pushd/frame.h"

#include <stdlib.h>
#include <string.h>

#include "core/utf8.h"

#define CLOSE_PROTOCOL		1002
#define CLOSE_UNSUPPORTED	1003
#define CLOSE_INVALID		1007
#define CLOSE_TOO_LARGE		1009
#define CLOSE_INTERNAL		1011

static FrameResult
refuse(FrameReader *reader, uint16_t code)
{
	frame_reader_free_message(reader);
	reader->error_code = code;
	return FRAME_GOT_ERROR;
}

/* Length of the whole header, told by its first two bytes. */
static size_t
header_size(const unsigned char *header)
{
	unsigned	len = header[1] & 0x7f;

	return 2 + (len == 126 ? 2 : len == 127 ? 8 : 0) + 4;
}

/* Judges the first two bytes; 0, or the code to close with. */
static uint16_t
check_start(const FrameReader *reader)
{
	unsigned	opcode = reader->header[0] & 0x0f;
	bool		final = (reader->header[0] & 0x80) != 0;
	unsigned	len = reader->header[1] & 0x7f;

	if (reader->header[0] & 0x70)
		return CLOSE_PROTOCOL;	/* no extension was agreed on */
	if (!(reader->header[1] & 0x80))
		return CLOSE_PROTOCOL;	/* clients must mask */
	switch (opcode)
	{
		case FRAME_CONTINUATION:
			return reader->in_message ? 0 : CLOSE_PROTOCOL;
		case FRAME_TEXT:
			return reader->in_message ? CLOSE_PROTOCOL : 0;
		case FRAME_BINARY:
			return reader->in_message ? CLOSE_PROTOCOL : CLOSE_UNSUPPORTED;
		case FRAME_CLOSE:
		case FRAME_PING:
		case FRAME_PONG:
			return final && len <= FRAME_CONTROL_MAX ? 0 : CLOSE_PROTOCOL;
		default:
			return CLOSE_PROTOCOL;
	}
}

/* Judges the whole header and prepares for the payload; 0, or the code to close with. */
static uint16_t
start_payload(FrameReader *reader, uint32_t max_message)
{
	unsigned	opcode = reader->header[0] & 0x0f;
	unsigned	short_len = reader->header[1] & 0x7f;
	uint64_t	len = short_len;

	if (short_len == 126)
	{
		len = (uint64_t) reader->header[2] << 8 | reader->header[3];
		if (len < 126)
			return CLOSE_PROTOCOL;
	}
	else if (short_len == 127)
	{
		len = 0;
		for (int i = 2; i < 10; i++)
			len = len << 8 | reader->header[i];
		if (len <= UINT16_MAX || len > INT64_MAX)
			return CLOSE_PROTOCOL;
	}
	if (opcode & 0x8)
	{
		reader->control_opcode = (uint8_t) opcode;
		reader->control_len = 0;
	}
	else
	{
		if (len > max_message - reader->message_len)
			return CLOSE_TOO_LARGE;
		reader->in_message = true;
	}
	reader->left = len;
	reader->mask_at = 0;
	reader->in_payload = true;
	return 0;
}

/* Room for n more bytes of the message; false without memory. */
static bool
reserve(FrameReader *reader, uint32_t n)
{
	uint32_t	size = reader->message_size;
	char	   *larger;

	if (reader->message_len + n <= size)
		return true;
	if (size < 512)
		size = 512;
	while (size < reader->message_len + n)
		size *= 2;
	larger = realloc(reader->message, size);
	if (larger == NULL)
		return false;
	reader->message = larger;
	reader->message_size = size;
	return true;
}

/*
 * Reads on from *data, and moves it, up to the end of a message or control frame or of the data.
 * A message lies in reader->message until frame_reader_free_message(); no more must be read before
 * that.  After an error nothing must be read any more.
 */
FrameResult
frame_read(FrameReader *reader, const unsigned char **data, const unsigned char *end,
		   uint32_t max_message)
{
	for (;;)
	{
		uint16_t	code = 0;

		while (!reader->in_payload)
		{
			if (*data == end)
				return FRAME_NEED_MORE;
			reader->header[reader->header_len++] = *(*data)++;
			if (reader->header_len == 2)
				code = check_start(reader);
			else if (reader->header_len > 2 &&
					 reader->header_len == header_size(reader->header))
				code = start_payload(reader, max_message);
			if (code != 0)
				return refuse(reader, code);
		}
		if (reader->left > 0)
		{
			const unsigned char *mask = reader->header + reader->header_len - 4;
			uint64_t	n = (uint64_t) (end - *data);
			unsigned char *target;

			if (n == 0)
				return FRAME_NEED_MORE;
			if (n > reader->left)
				n = reader->left;
			if (reader->header[0] & 0x8)
			{
				target = reader->control + reader->control_len;
				reader->control_len += (uint8_t) n;
			}
			else
			{
				if (!reserve(reader, (uint32_t) n))
					return refuse(reader, CLOSE_INTERNAL);
				target = (unsigned char *) reader->message + reader->message_len;
				reader->message_len += (uint32_t) n;
			}
			for (uint64_t i = 0; i < n; i++)
				target[i] = (*data)[i] ^ mask[(reader->mask_at + i) & 3];
			reader->mask_at = (uint8_t) ((reader->mask_at + n) & 3);
			*data += n;
			reader->left -= n;
			if (reader->left > 0)
				return FRAME_NEED_MORE;
		}

		/* the frame is whole */
		reader->in_payload = false;
		reader->header_len = 0;
		if (reader->header[0] & 0x8)
		{
			if (reader->control_opcode == FRAME_CLOSE &&
				(reader->control_len == 1 ||
				 (reader->control_len >= 2 &&
				  (!frame_close_code_valid((unsigned) reader->control[0] << 8 |
										   reader->control[1]) ||
				   !iot_utf8_valid((char *) reader->control + 2, reader->control_len - 2u)))))
				return refuse(reader, CLOSE_PROTOCOL);
			return FRAME_GOT_CONTROL;
		}
		if (!(reader->header[0] & 0x80))
			continue;
		reader->in_message = false;
		if (!iot_utf8_valid(reader->message != NULL ? reader->message : "", reader->message_len))
			return refuse(reader, CLOSE_INVALID);
		return FRAME_GOT_MESSAGE;
	}
}

void
frame_reader_free_message(FrameReader *reader)
{
	free(reader->message);
	reader->message = NULL;
	reader->message_len = 0;
	reader->message_size = 0;
}

/* Writes the header of an unfragmented frame of len bytes; returns its length. */
size_t
frame_header(unsigned char *header, FrameOpcode opcode, size_t len)
{
	header[0] = (unsigned char) (0x80 | opcode);
	if (len < 126)
	{
		header[1] = (unsigned char) len;
		return 2;
	}
	if (len <= UINT16_MAX)
	{
		header[1] = 126;
		header[2] = (unsigned char) (len >> 8);
		header[3] = (unsigned char) len;
		return 4;
	}
	header[1] = 127;
	for (int i = 0; i < 8; i++)
		header[2 + i] = (unsigned char) ((uint64_t) len >> (56 - 8 * i));
	return 10;
}

/* Whether the code may stand in a close frame (RFC 6455, 7.4). */
bool
frame_close_code_valid(unsigned code)
{
	return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
		(code >= 3000 && code <= 4999);
}
