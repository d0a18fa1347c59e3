/*
 * json.c
 *		A strict JSON reader that walks over a payload without building anything.
 *
 * Telemetry is the hot path and comes from strangers: this takes RFC 8259 and nothing else (no
 * trailing bytes, no control characters, no lone surrogates, no \u0000, bounded depth), and costs
 * one pass and no allocation.  A tree-building library would need a second pass for these checks,
 * and a dozen allocations a message.  The caller has checked that the text is valid UTF-8.
 */
#include "core/json.h"

#include <stdlib.h>
#include <string.h>

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#define NUMBER_MAX		1000	/* characters; 767 digits decide any double */
#define EXPONENT_MAX	9999	/* of numbers that are kept as text; numeric takes these */

void
iot_json_init(IotJson *json, const char *text, size_t len, char *scratch, size_t scratch_size)
{
	json->start = json->at = text;
	json->end = text + len;
	json->scratch = scratch;
	json->scratch_left = scratch_size;
	json->depth = 0;
	json->error = NULL;
}

static bool
fail(IotJson *json, const char *error)
{
	if (json->error == NULL)
		json->error = error;
	return false;
}

static void
skip_blanks(IotJson *json)
{
	while (json->at < json->end &&
		   (*json->at == ' ' || *json->at == '\t' || *json->at == '\n' || *json->at == '\r'))
		json->at++;
}

/* Next character that is no blank, not taken; 0 at the end. */
static char
look(IotJson *json)
{
	skip_blanks(json);
	return json->at < json->end ? *json->at : '\0';
}

/* Type of the value that comes next; nothing is taken. */
IotJsonType
iot_json_peek(IotJson *json)
{
	char		c;

	if (json->error != NULL)
		return IOT_JSON_INVALID;
	c = look(json);
	if (c == '-' || (c >= '0' && c <= '9'))
		return IOT_JSON_NUMBER;
	switch (c)
	{
		case '"':
			return IOT_JSON_STRING;
		case '{':
			return IOT_JSON_OBJECT;
		case '[':
			return IOT_JSON_ARRAY;
		case 't':
			return IOT_JSON_TRUE;
		case 'f':
			return IOT_JSON_FALSE;
		case 'n':
			return IOT_JSON_NULL;
		default:
			fail(json, json->at < json->end ? "unexpected character" : "unexpected end");
			return IOT_JSON_INVALID;
	}
}

/* Takes the bracket of an object or array, which iot_json_peek() has announced. */
bool
iot_json_enter(IotJson *json)
{
	if (json->error != NULL)
		return false;
	if (json->depth >= IOT_JSON_MAX_DEPTH)
		return fail(json, "nested too deeply");
	json->depth++;
	json->at++;
	return true;
}

/* Takes what stands before the next member; false behind the closing bracket, or on an error. */
static bool
next_member(IotJson *json, bool *first, char closing)
{
	char		c;

	if (json->error != NULL)
		return false;
	c = look(json);
	if (c == closing)
	{
		json->at++;
		json->depth--;
		return false;
	}
	if (*first)
	{
		*first = false;
		return true;
	}
	if (c != ',')
		return fail(json, json->at < json->end ? "expected a comma or the end of a list" :
					"unexpected end");
	json->at++;
	if (look(json) == closing)
		return fail(json, "comma before the end of a list");
	return true;
}

/* Takes the next key of an object and its colon; false at its end, or on an error. */
bool
iot_json_next_key(IotJson *json, bool *first, const char **key, size_t *len)
{
	if (!next_member(json, first, '}'))
		return false;
	if (look(json) != '"')
		return fail(json, "expected a quoted key");
	if (!iot_json_string(json, key, len))
		return false;
	if (look(json) != ':')
		return fail(json, "expected a colon");
	json->at++;
	return true;
}

bool
iot_json_key_is(const char *key, size_t len, const char *word)
{
	return len == strlen(word) && memcmp(key, word, len) == 0;
}

/* Steps to the next element of an array; false at its end, or on an error. */
bool
iot_json_next_element(IotJson *json, bool *first)
{
	return next_member(json, first, ']');
}

static bool
is_digit(const IotJson *json)
{
	return json->at < json->end && *json->at >= '0' && *json->at <= '9';
}

/*
 * Takes a number and says where it stands; *exponent is the written one, *mantissa and *scale its
 * value as mantissa * 10^scale where *exact.
 */
static bool
scan_number(IotJson *json, const char **text, bool *exact, uint64_t *mantissa, int *scale,
			int *exponent)
{
	int			digits = 0;
	bool		negative = false;

	*text = json->at;
	*mantissa = 0;
	*scale = 0;
	*exponent = 0;
	if (*json->at == '-')
		json->at++;
	if (!is_digit(json))
		return fail(json, "invalid number");
	if (*json->at == '0' && json->at + 1 < json->end && json->at[1] >= '0' && json->at[1] <= '9')
		return fail(json, "number with a leading zero");
	for (; is_digit(json); json->at++)
	{
		if (digits < 18)
			*mantissa = *mantissa * 10 + (uint64_t) (*json->at - '0');
		if (*mantissa > 0)
			digits++;
	}
	if (json->at < json->end && *json->at == '.')
	{
		json->at++;
		if (!is_digit(json))
			return fail(json, "invalid number");
		for (; is_digit(json); json->at++)
		{
			if (digits < 18)
			{
				*mantissa = *mantissa * 10 + (uint64_t) (*json->at - '0');
				(*scale)--;
			}
			if (*mantissa > 0)
				digits++;
		}
	}
	if (json->at < json->end && (*json->at == 'e' || *json->at == 'E'))
	{
		json->at++;
		if (json->at < json->end && (*json->at == '+' || *json->at == '-'))
			negative = *json->at++ == '-';
		if (!is_digit(json))
			return fail(json, "invalid number");
		for (; is_digit(json); json->at++)
		{
			if (*exponent <= EXPONENT_MAX)
				*exponent = *exponent * 10 + (*json->at - '0');
		}
		if (negative)
			*exponent = -*exponent;
	}
	if (json->at - *text > NUMBER_MAX)
		return fail(json, "number is too long");
	*scale += *exponent;
	*exact = digits <= 18 && *mantissa <= (UINT64_C(1) << 53) && *scale >= -22 && *scale <= 22;
	return true;
}

/* Takes a number, correctly rounded; one that no double can hold becomes infinite. */
bool
iot_json_number(IotJson *json, double *value)
{
	static const double powers[] = {
		1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
		1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22
	};
	const char *text;
	bool		exact;
	uint64_t	mantissa;
	int			scale;
	int			exponent;

	if (json->error != NULL)
		return false;
	if (!scan_number(json, &text, &exact, &mantissa, &scale, &exponent))
		return false;
	if (exact)
	{
		/* both operands are exact, so that the one rounding is the right one */
		*value = scale < 0 ? (double) mantissa / powers[-scale] : (double) mantissa * powers[scale];
		if (*text == '-')
			*value = -*value;
	}
	else
	{
		char		copy[NUMBER_MAX + 1];
		size_t		len = (size_t) (json->at - text);

		memcpy(copy, text, len);
		copy[len] = '\0';
		*value = strtod(copy, NULL);
	}
	return true;
}

/* Four hex digits at p, or -1. */
static int
hex4(const char *p, const char *end)
{
	int			value = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		char		c = p[i];

		value <<= 4;
		if (c >= '0' && c <= '9')
			value |= c - '0';
		else if (c >= 'a' && c <= 'f')
			value |= c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			value |= c - 'A' + 10;
		else
			return -1;
	}
	return value;
}

/* Writes a code point other than a surrogate; returns its bytes, at most 4. */
static size_t
encode_utf8(uint32_t code, char *out)
{
	if (code < 0x80)
	{
		out[0] = (char) code;
		return 1;
	}
	if (code < 0x800)
	{
		out[0] = (char) (0xc0 | code >> 6);
		out[1] = (char) (0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000)
	{
		out[0] = (char) (0xe0 | code >> 12);
		out[1] = (char) (0x80 | (code >> 6 & 0x3f));
		out[2] = (char) (0x80 | (code & 0x3f));
		return 3;
	}
	out[0] = (char) (0xf0 | code >> 18);
	out[1] = (char) (0x80 | (code >> 12 & 0x3f));
	out[2] = (char) (0x80 | (code >> 6 & 0x3f));
	out[3] = (char) (0x80 | (code & 0x3f));
	return 4;
}

/* Takes what follows "\u", and the second half of a surrogate pair; false on an error. */
static bool
take_unicode(IotJson *json, uint32_t *code)
{
	int			unit = hex4(json->at, json->end);
	int			low;

	if (unit < 0)
		return fail(json, "invalid escape in a string");
	json->at += 4;
	if (unit == 0)
		return fail(json, "\\u0000 in a string");
	*code = (uint32_t) unit;
	if (unit < 0xd800 || unit > 0xdfff)
		return true;
	if (unit > 0xdbff || json->end - json->at < 6 || json->at[0] != '\\' || json->at[1] != 'u')
		return fail(json, "lone surrogate in a string");
	low = hex4(json->at + 2, json->end);
	if (low < 0xdc00 || low > 0xdfff)
		return fail(json, "lone surrogate in a string");
	json->at += 6;
	*code = 0x10000 + ((uint32_t) (unit - 0xd800) << 10) + (uint32_t) (low - 0xdc00);
	return true;
}

/* Takes one escape, the backslash being taken already; writes at most 4 bytes. */
static bool
take_escape(IotJson *json, char *out, size_t *len)
{
	uint32_t	code;

	if (json->at == json->end)
		return fail(json, "unexpected end");
	*len = 1;
	switch (*json->at++)
	{
		case '"':
			*out = '"';
			return true;
		case '\\':
			*out = '\\';
			return true;
		case '/':
			*out = '/';
			return true;
		case 'b':
			*out = '\b';
			return true;
		case 'f':
			*out = '\f';
			return true;
		case 'n':
			*out = '\n';
			return true;
		case 'r':
			*out = '\r';
			return true;
		case 't':
			*out = '\t';
			return true;
		case 'u':
			if (!take_unicode(json, &code))
				return false;
			*len = encode_utf8(code, out);
			return true;
		default:
			return fail(json, "invalid escape in a string");
	}
}

/* Steps over characters that stand for themselves; at is then at a quote, a backslash or the end. */
static bool
skip_plain(IotJson *json)
{
	while (json->at < json->end && *json->at != '"' && *json->at != '\\')
	{
		if ((unsigned char) *json->at < 0x20)
			return fail(json, "control character in a string");
		json->at++;
	}
	if (json->at == json->end)
		return fail(json, "unexpected end");
	return true;
}

/* Copies into scratch; false where that is full. */
static bool
keep(IotJson *json, const char *data, size_t len)
{
	if (len > json->scratch_left)
		return fail(json, "strings are too long");
	memcpy(json->scratch, data, len);
	json->scratch += len;
	json->scratch_left -= len;
	return true;
}

/* Takes a string and decodes it.  *text lives as long as the text that is read, and scratch. */
bool
iot_json_string(IotJson *json, const char **text, size_t *len)
{
	const char *piece;

	if (json->error != NULL)
		return false;
	piece = ++json->at;
	if (!skip_plain(json))
		return false;
	if (*json->at == '"')
	{
		*text = piece;
		*len = (size_t) (json->at++ - piece);
		return true;
	}
	*text = json->scratch;
	for (;;)
	{
		char		decoded[4];
		size_t		decoded_len;

		if (!keep(json, piece, (size_t) (json->at - piece)))
			return false;
		if (*json->at++ == '"')
			break;
		if (!take_escape(json, decoded, &decoded_len) || !keep(json, decoded, decoded_len))
			return false;
		piece = json->at;
		if (!skip_plain(json))
			return false;
	}
	*len = (size_t) (json->scratch - *text);
	return true;
}

/* Takes a string without keeping it. */
static bool
skip_string(IotJson *json)
{
	char		decoded[4];
	size_t		decoded_len;

	json->at++;
	while (skip_plain(json))
	{
		if (*json->at++ == '"')
			return true;
		if (!take_escape(json, decoded, &decoded_len))
			return false;
	}
	return false;
}

static bool
skip_word(IotJson *json, const char *word, size_t len)
{
	if ((size_t) (json->end - json->at) < len || memcmp(json->at, word, len) != 0)
		return fail(json, "unexpected character");
	json->at += len;
	return true;
}

static bool
skip_number(IotJson *json)
{
	const char *text;
	bool		exact;
	uint64_t	mantissa;
	int			scale;
	int			exponent;

	if (!scan_number(json, &text, &exact, &mantissa, &scale, &exponent))
		return false;
	if (exponent > EXPONENT_MAX || exponent < -EXPONENT_MAX)
		return fail(json, "number is out of range");
	return true;
}

static bool
skip_object(IotJson *json)
{
	bool		first = true;

	if (!iot_json_enter(json))
		return false;
	while (next_member(json, &first, '}'))
	{
		if (look(json) != '"')
			return fail(json, "expected a quoted key");
		if (!skip_string(json))
			return false;
		if (look(json) != ':')
			return fail(json, "expected a colon");
		json->at++;
		if (!iot_json_skip(json))
			return false;
	}
	return json->error == NULL;
}

static bool
skip_array(IotJson *json)
{
	bool		first = true;

	if (!iot_json_enter(json))
		return false;
	while (next_member(json, &first, ']'))
	{
		if (!iot_json_skip(json))
			return false;
	}
	return json->error == NULL;
}

/*
 * Takes a value of any type.  What passes is also what the server's jsonb takes: its numbers have
 * limits of their own, and an exponent of five digits is over them.
 */
bool
iot_json_skip(IotJson *json)
{
	switch (iot_json_peek(json))
	{
		case IOT_JSON_NULL:
			return skip_word(json, "null", 4);
		case IOT_JSON_FALSE:
			return skip_word(json, "false", 5);
		case IOT_JSON_TRUE:
			return skip_word(json, "true", 4);
		case IOT_JSON_NUMBER:
			return skip_number(json);
		case IOT_JSON_STRING:
			return skip_string(json);
		case IOT_JSON_ARRAY:
			return skip_array(json);
		case IOT_JSON_OBJECT:
			return skip_object(json);
		case IOT_JSON_INVALID:
			break;
	}
	return false;
}

/* Whether nothing but blanks is left, and nothing was wrong before. */
bool
iot_json_end(IotJson *json)
{
	if (json->error != NULL)
		return false;
	skip_blanks(json);
	if (json->at < json->end)
		return fail(json, "more bytes behind the value");
	return true;
}
