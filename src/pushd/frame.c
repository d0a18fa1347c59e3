/*
 * frame.c
 *		WebSocket frames (RFC 6455), the server's side: bytes in, messages out.
 *
 * wslay reads headers and takes the mask off; here is what a server that speaks text alone makes
 * of the frames.  libwebsockets' own role would take unmasked frames from clients, and declared
 * lengths of any size; here a frame is refused by its header, as soon as wslay tells it: with the
 * first byte of the payload.  Nothing is reserved for what a frame merely declares: a client costs
 * what it has sent, and wslay's 4 kB only from the first byte of a frame to its last.  No input
 * makes the functions fail but by FRAME_GOT_ERROR.
 */
#include "pushd/frame.h"

#include <stdlib.h>
#include <string.h>
#include <wslay/wslay.h>

#include "core/utf8.h"

static void
free_frame(FrameReader *reader)
{
	if (reader->frame != NULL)
		wslay_frame_context_free(reader->frame);
	reader->frame = NULL;
	reader->in_payload = false;
}

static FrameResult
refuse(FrameReader *reader, uint16_t code)
{
	frame_reader_free(reader);
	reader->error_code = code;
	return FRAME_GOT_ERROR;
}

/*
 * Hands bytes to wslay, and none of the next frame: a header goes byte by byte, since only wslay
 * knows where it ends.
 */
static ssize_t
give_bytes(uint8_t *target, size_t size, int flags, void *user_data)
{
	FrameReader *reader = user_data;
	size_t		n = (size_t) (reader->input_end - reader->input);
	uint64_t	wanted = reader->in_payload ? reader->left : 1;

	(void) flags;
	if (n > size)
		n = size;
	if (n > wanted)
		n = (size_t) wanted;
	if (n == 0)
		return -1;
	memcpy(target, reader->input, n);
	reader->input += n;
	return (ssize_t) n;
}

/*
 * Judges a frame by its header and prepares for the payload; 0, or the code to close with.  wslay
 * has seen to it that control frames are short and whole and that lengths are written in the
 * fewest bytes.
 */
static uint16_t
start_payload(FrameReader *reader, const struct wslay_frame_iocb *frame, uint32_t max_message)
{
	if (frame->rsv != WSLAY_RSV_NONE)
		return WSLAY_CODE_PROTOCOL_ERROR;	/* no extension was agreed on */
	if (!frame->mask)
		return WSLAY_CODE_PROTOCOL_ERROR;	/* clients must mask */
	switch (frame->opcode)
	{
		case FRAME_CONTINUATION:
			if (!reader->in_message)
				return WSLAY_CODE_PROTOCOL_ERROR;
			break;
		case FRAME_TEXT:
			if (reader->in_message)
				return WSLAY_CODE_PROTOCOL_ERROR;
			break;
		case FRAME_BINARY:
			return reader->in_message ? WSLAY_CODE_PROTOCOL_ERROR : WSLAY_CODE_UNSUPPORTED_DATA;
		case FRAME_CLOSE:
		case FRAME_PING:
		case FRAME_PONG:
			break;
		default:
			return WSLAY_CODE_PROTOCOL_ERROR;
	}
	if (wslay_is_ctrl_frame(frame->opcode))
	{
		reader->control_opcode = frame->opcode;
		reader->control_len = 0;
	}
	else
	{
		if (frame->payload_length > max_message - reader->message_len)
			return WSLAY_CODE_MESSAGE_TOO_BIG;
		reader->in_message = true;
	}
	reader->left = frame->payload_length;
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

/* Takes a piece of the payload; false without memory. */
static bool
take_payload(FrameReader *reader, const struct wslay_frame_iocb *piece)
{
	uint32_t	n = (uint32_t) piece->data_length;

	reader->left -= n;
	if (n == 0)
		return true;
	if (wslay_is_ctrl_frame(piece->opcode))
	{
		memcpy(reader->control + reader->control_len, piece->data, n);
		reader->control_len += (uint8_t) n;
		return true;
	}
	if (!reserve(reader, n))
		return false;
	memcpy(reader->message + reader->message_len, piece->data, n);
	reader->message_len += n;
	return true;
}

static bool
close_is_valid(const FrameReader *reader)
{
	const unsigned char *data = reader->control;

	if (reader->control_len == 0)
		return true;
	return reader->control_len >= 2 &&
		frame_close_code_valid((unsigned) data[0] << 8 | data[1]) &&
		iot_utf8_valid((const char *) data + 2, reader->control_len - 2u);
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
	static const struct wslay_frame_callbacks callbacks = {.recv_callback = give_bytes};

	while (*data != end)
	{
		struct wslay_frame_iocb piece;
		uint16_t	code = 0;
		ssize_t		n;

		if (reader->frame == NULL &&
			wslay_frame_context_init(&reader->frame, &callbacks, reader) != 0)
			return refuse(reader, WSLAY_CODE_INTERNAL_SERVER_ERROR);
		reader->input = *data;
		reader->input_end = end;
		n = wslay_frame_recv(reader->frame, &piece);
		*data = reader->input;
		if (n == WSLAY_ERR_WANT_READ)
			continue;
		if (n < 0)
			return refuse(reader, WSLAY_CODE_PROTOCOL_ERROR);
		if (!reader->in_payload)
			code = start_payload(reader, &piece, max_message);
		if (code != 0)
			return refuse(reader, code);
		if (!take_payload(reader, &piece))
			return refuse(reader, WSLAY_CODE_INTERNAL_SERVER_ERROR);
		if (reader->left > 0)
			continue;

		free_frame(reader);
		if (wslay_is_ctrl_frame(piece.opcode))
		{
			if (piece.opcode == FRAME_CLOSE && !close_is_valid(reader))
				return refuse(reader, WSLAY_CODE_PROTOCOL_ERROR);
			return FRAME_GOT_CONTROL;
		}
		if (!piece.fin)
			continue;
		reader->in_message = false;
		if (!iot_utf8_valid(reader->message != NULL ? reader->message : "", reader->message_len))
			return refuse(reader, WSLAY_CODE_INVALID_FRAME_PAYLOAD_DATA);
		return FRAME_GOT_MESSAGE;
	}
	return FRAME_NEED_MORE;
}

void
frame_reader_free_message(FrameReader *reader)
{
	free(reader->message);
	reader->message = NULL;
	reader->message_len = 0;
	reader->message_size = 0;
}

/* Gives back all that the reader holds. */
void
frame_reader_free(FrameReader *reader)
{
	free_frame(reader);
	frame_reader_free_message(reader);
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
