/*
 * body.c
 *		Messages of devices that speak their own way: JSON with values anywhere in it, or the plain
 *		text of one value.
 *
 * What begins like an object, an array or a string of JSON must be JSON; anything else is plain
 * text: "21.5", "ON".  Texts that read as numbers are numbers, for many devices put them between
 * quotation marks.  Memory is malloc'ed and bounded by the payload's size; nothing raises.
 */
#include "core/body.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/json.h"
#include "core/timestamp.h"
#include "core/utf8.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#define NUMBER_MAX	64			/* bytes of a text that may be a number */

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static size_t
count_digits(const char *text)
{
	return strspn(text, "0123456789");
}

/* Whether all of the text is a decimal number, with a sign and an exponent if need be. */
static bool
text_number(const char *text, size_t len, double *number)
{
	char		copy[NUMBER_MAX + 1];
	char	   *at = copy;
	size_t		digits;

	if (len == 0 || len > NUMBER_MAX)
		return false;
	memcpy(copy, text, len);
	copy[len] = '\0';
	at += *at == '-' || *at == '+';
	digits = count_digits(at);
	at += digits;
	if (*at == '.')
	{
		size_t		fraction = count_digits(++at);

		digits += fraction;
		at += fraction;
	}
	if (digits == 0)
		return false;
	if (*at == 'e' || *at == 'E')
	{
		at++;
		at += *at == '-' || *at == '+';
		digits = count_digits(at);
		if (digits == 0)
			return false;
		at += digits;
	}
	if (at != copy + len)
		return false;
	*number = strtod(copy, NULL);
	return true;
}

static IotPayloadStatus
refuse(IotBody *body, IotPayloadStatus status, const char *error)
{
	body->error = error;
	return status;
}

static IotPayloadStatus
read_text(IotBody *body, const char *text, size_t len)
{
	if (len == 0)
		return refuse(body, IOT_PAYLOAD_MALFORMED, "empty payload");
	if (len > IOT_BODY_TEXT_MAX)
		return refuse(body, IOT_PAYLOAD_MALFORMED, "neither JSON nor a short text");
	for (size_t i = 0; i < len; i++)
	{
		if ((unsigned char) text[i] < ' ' || text[i] == 0x7f)
			return refuse(body, IOT_PAYLOAD_MALFORMED, "control character in a text");
	}
	body->text = text;
	body->text_len = len;
	return IOT_PAYLOAD_OK;
}

/*
 * Reads a message; the body is to be freed, also after an error, and must not outlive the payload.
 */
IotPayloadStatus
iot_body_read(IotBody *body, const char *payload, size_t len)
{
	const char *text = payload;
	IotJson		json;

	memset(body, 0, sizeof(*body));
	if (!iot_utf8_valid(payload, len))
		return refuse(body, IOT_PAYLOAD_INVALID_UTF8, "invalid UTF-8");
	while (len > 0 && is_blank(*text))
	{
		text++;
		len--;
	}
	while (len > 0 && is_blank(text[len - 1]))
		len--;
	if (len == 0 || (*text != '{' && *text != '[' && *text != '"'))
		return read_text(body, text, len);
	iot_json_init(&json, text, len);
	body->tree = json.tree;
	body->error_at = (size_t) (text - payload) + json.error_at;
	return json.error == NULL ? IOT_PAYLOAD_OK : refuse(body, IOT_PAYLOAD_MALFORMED, json.error);
}

void
iot_body_free(IotBody *body)
{
	iot_json_free(body->tree);
	memset(body, 0, sizeof(*body));
}

/* A text is a number or a word. */
static void
set_text(IotValue *value, const char *text, size_t len)
{
	while (len > 0 && is_blank(*text))
	{
		text++;
		len--;
	}
	while (len > 0 && is_blank(text[len - 1]))
		len--;
	value->kind = text_number(text, len, &value->number) ? IOT_VALUE_NUMBER : IOT_VALUE_WORD;
	value->word = text;
	value->word_len = (uint32_t) len;
}

/*
 * What stands at the path, put into kind, number and word of *value; false where nothing does, or
 * null, or an empty string.  The word lasts as long as the body and its payload.
 */
bool
iot_body_value(const IotBody *body, const IotPath *path, IotValue *value)
{
	const cJSON *found;

	value->number = 0;
	value->word = NULL;
	value->word_len = 0;
	if (body->tree == NULL)
	{
		if (path->count > 0)
			return false;
		set_text(value, body->text, body->text_len);
		return true;
	}
	found = iot_path_find(path, body->tree);
	if (found == NULL || cJSON_IsNull(found) ||
		(cJSON_IsString(found) && found->valuestring[0] == '\0'))
		return false;
	value->kind = IOT_VALUE_OTHER;
	if (cJSON_IsNumber(found))
	{
		value->kind = IOT_VALUE_NUMBER;
		value->number = found->valuedouble;
	}
	else if (cJSON_IsString(found))
		set_text(value, found->valuestring, strlen(found->valuestring));
	else if (cJSON_IsBool(found))
	{
		value->kind = IOT_VALUE_WORD;
		value->word = cJSON_IsTrue(found) ? "true" : "false";
		value->word_len = (uint32_t) strlen(value->word);
	}
	return true;
}

/* The first member of the object at the path, or NULL where there is none. */
struct cJSON *
iot_body_members(const IotBody *body, const IotPath *path)
{
	const cJSON *found = iot_path_find(path, body->tree);

	return cJSON_IsObject(found) ? found->child : NULL;
}

struct cJSON *
iot_body_next(const struct cJSON *member)
{
	return member->next;
}

const char *
iot_body_key(const struct cJSON *member)
{
	return member->string;
}

/*
 * cJSON writes numbers a little rounded, and infinite ones as null: those become texts that read as what
 * they are.  False where no memory is left.
 */
static bool
keep_numbers(cJSON *value)
{
	char		text[32];

	if (cJSON_IsNumber(value))
	{
		snprintf(text, sizeof(text), "%.15g", value->valuedouble);
		if (isinf(value->valuedouble))
			strcpy(text, value->valuedouble > 0 ? "1e999" : "-1e999");
		else if (strtod(text, NULL) != value->valuedouble)
			snprintf(text, sizeof(text), "%.17g", value->valuedouble);
		else
			return true;
		value->valuestring = cJSON_malloc(strlen(text) + 1);
		if (value->valuestring == NULL)
			return false;
		strcpy(value->valuestring, text);
		value->type = (value->type & ~0xff) | cJSON_Raw;
		return true;
	}
	for (cJSON *child = value->child; child != NULL; child = child->next)
	{
		if (!keep_numbers(child))
			return false;
	}
	return true;
}

/* The member's value as JSON, to be freed; NULL where no memory is left.  To be called once for each. */
char *
iot_body_print(struct cJSON *member)
{
	return keep_numbers(member) ? cJSON_PrintUnformatted(member) : NULL;
}

/*
 * The time at the path, in microseconds since 1970: a number of units of so many milliseconds, or ISO
 * 8601.  A local one is told apart, and *micros is then as if it were that of UTC.
 */
IotBodyTime
iot_body_time(const IotBody *body, const IotPath *path, double unit_ms, int64_t *micros)
{
	IotValue	value;

	if (!iot_body_value(body, path, &value))
		return IOT_BODY_NO_TIME;
	if (value.kind == IOT_VALUE_NUMBER)
		return iot_timestamp_from_ms(value.number * unit_ms, micros) ? IOT_BODY_TIME :
			IOT_BODY_INVALID_TIME;
	if (value.kind != IOT_VALUE_WORD)
		return IOT_BODY_INVALID_TIME;
	if (iot_timestamp_parse(value.word, value.word_len, micros))
		return IOT_BODY_TIME;
	return iot_timestamp_parse_local(value.word, value.word_len, micros) ? IOT_BODY_LOCAL_TIME :
		IOT_BODY_INVALID_TIME;
}

/* Whether the value is what the device type says; in any case of letters, or as a number. */
static bool
is_word(const IotValue *value, const char *word)
{
	double		number;

	if (value->kind == IOT_VALUE_NUMBER)
		return text_number(word, strlen(word), &number) && number == value->number;
	return value->kind == IOT_VALUE_WORD && value->word_len == strlen(word) &&
		strncasecmp(value->word, word, value->word_len) == 0;
}

/* Reads whether the device is online.  On another status than OK, *error is a static phrase. */
IotPayloadStatus
iot_body_status(const IotBody *body, const IotStatusWords *words, bool *online,
				const char **error)
{
	static const IotPath whole = {0};
	IotValue	value;

	*error = NULL;
	if (!iot_body_value(body, words->path != NULL ? words->path : &whole, &value))
	{
		*error = "nothing stands at the path of the status";
		return IOT_PAYLOAD_WRONG_TYPE;
	}
	*online = is_word(&value, words->online != NULL ? words->online : "online");
	if (*online || is_word(&value, words->offline != NULL ? words->offline : "offline"))
		return IOT_PAYLOAD_OK;
	*error = "neither the word for online nor that for offline";
	return IOT_PAYLOAD_WRONG_TYPE;
}

/*
 * What a decimal fraction means is its shortest form, and arithmetic with doubles leaves it: 3 times
 * 0.1 is 0.30000000000000004.  Fifteen digits survive.
 */
static double
round_decimal(double number)
{
	char		text[32];

	if (!isfinite(number))
		return number;
	snprintf(text, sizeof(text), "%.15g", number);
	return strtod(text, NULL);
}

double
iot_scale_from_device(double number, double scale, double shift)
{
	if (scale == 1 && shift == 0)
		return number;
	return round_decimal(number * scale + shift);
}

double
iot_scale_to_device(double value, double scale, double shift)
{
	if (scale == 1 && shift == 0)
		return value;
	return round_decimal((value - shift) / scale);
}
