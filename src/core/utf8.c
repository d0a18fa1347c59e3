/*
 * utf8.c
 *		Validity of UTF-8, and cutting it without breaking a character.
 */
#include "core/utf8.h"

#include <string.h>

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

/* Bytes of the well-formed sequence at p (Unicode table 3-7), or 0 where there is none. */
static size_t
sequence_length(const unsigned char *p, size_t left)
{
	unsigned char low = 0x80;
	unsigned char high = 0xbf;
	size_t		n;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		n = 2;
	else if (p[0] >= 0xe0 && p[0] <= 0xef)
	{
		n = 3;
		if (p[0] == 0xe0)
			low = 0xa0;			/* shorter forms exist */
		else if (p[0] == 0xed)
			high = 0x9f;		/* surrogates */
	}
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
	{
		n = 4;
		if (p[0] == 0xf0)
			low = 0x90;
		else if (p[0] == 0xf4)
			high = 0x8f;		/* beyond U+10FFFF */
	}
	else
		return 0;
	if (left < n || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++)
	{
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	}
	return n;
}

/* Whether the bytes are well-formed UTF-8; a zero byte is, and is for the caller to refuse. */
bool
iot_utf8_valid(const char *text, size_t len)
{
	const unsigned char *p = (const unsigned char *) text;
	const unsigned char *end = p + len;

	while (p < end)
	{
		size_t		n;

		/* almost everything is ASCII: eight bytes a step */
		while (end - p >= 8)
		{
			uint64_t	word;

			memcpy(&word, p, sizeof(word));
			if (word & UINT64_C(0x8080808080808080))
				break;
			p += 8;
		}
		if (p == end)
			break;
		n = sequence_length(p, (size_t) (end - p));
		if (n == 0)
			return false;
		p += n;
	}
	return true;
}

/* Length of the longest prefix of valid UTF-8 that has at most max bytes and whole characters. */
size_t
iot_utf8_clip(const char *text, size_t len, size_t max)
{
	if (len <= max)
		return len;
	while (max > 0 && ((unsigned char) text[max] & 0xc0) == 0x80)
		max--;
	return max;
}
