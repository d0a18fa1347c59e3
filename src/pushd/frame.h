/*
 * frame.h
 *		WebSocket frames (RFC 6455), the server's side: bytes in, messages out.
 */
#ifndef IOT_PUSHD_FRAME_H
#define IOT_PUSHD_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum FrameOpcode
{
	FRAME_CONTINUATION = 0x0,
	FRAME_TEXT = 0x1,
	FRAME_BINARY = 0x2,
	FRAME_CLOSE = 0x8,
	FRAME_PING = 0x9,
	FRAME_PONG = 0xa
} FrameOpcode;

typedef enum FrameResult
{
	FRAME_NEED_MORE,			/* all bytes are used up */
	FRAME_GOT_MESSAGE,			/* text in message, valid UTF-8, without a terminating zero */
	FRAME_GOT_CONTROL,			/* control_opcode and control */
	FRAME_GOT_ERROR				/* close with error_code */
} FrameResult;

#define FRAME_HEADER_MAX	10	/* of a frame that a server sends */
#define FRAME_CONTROL_MAX	125

typedef struct FrameReader
{
	struct wslay_frame_context *frame;	/* from a frame's first byte to its last */
	const unsigned char *input; /* what frame_read() was given and has not read yet */
	const unsigned char *input_end;
	uint64_t	left;			/* payload bytes of this frame still to come */
	char	   *message;		/* malloc'ed while a message is being collected */
	uint32_t	message_len;
	uint32_t	message_size;
	bool		in_payload;		/* the frame's header has been read */
	bool		in_message;		/* a data message is open: only its continuation may follow */
	uint8_t		control_opcode;
	uint8_t		control_len;
	uint16_t	error_code;
	unsigned char control[FRAME_CONTROL_MAX];
} FrameReader;

extern FrameResult frame_read(FrameReader *reader, const unsigned char **data,
							  const unsigned char *end, uint32_t max_message);
extern void frame_reader_free_message(FrameReader *reader);
extern void frame_reader_free(FrameReader *reader);
extern size_t frame_header(unsigned char *header, FrameOpcode opcode, size_t len);
extern bool frame_close_code_valid(unsigned code);

#endif							/* IOT_PUSHD_FRAME_H */
