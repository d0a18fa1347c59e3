/*
 * reply.c
 *		What devices say beside telemetry: acknowledgements, status, attributes.
 *
 * Nothing allocates and nothing raises: the answer is a status and, where it is not OK, a static
 * phrase.
 */
#include "core/payload.h"

#include <string.h>

#include "core/json.h"
#include "core/utf8.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#define ACK_TEXTS		8192	/* bytes of strings with escapes in an acknowledgement */

typedef enum AckKey
{
	ACK_ID,
	ACK_OK,
	ACK_ERROR,
	ACK_OTHER
} AckKey;

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static bool
parse_uuid(const char *text, size_t len, uint8_t uuid[16])
{
	size_t		at = 0;

	if (len != 36)
		return false;
	for (int i = 0; i < 16; i++)
	{
		int			high;
		int			low;

		if ((i == 4 || i == 6 || i == 8 || i == 10) && text[at++] != '-')
			return false;
		high = hex_digit(text[at++]);
		low = hex_digit(text[at++]);
		if (high < 0 || low < 0)
			return false;
		uuid[i] = (uint8_t) (high << 4 | low);
	}
	return true;
}

static void
keep_error(IotAck *ack, const char *text, size_t len)
{
	len = iot_utf8_clip(text, len, IOT_ACK_ERROR_MAX);
	memcpy(ack->error, text, len);
	ack->error[len] = '\0';
}

static IotPayloadStatus
wrong_type(const char **error, const char *reason)
{
	*error = reason;
	return IOT_PAYLOAD_WRONG_TYPE;
}

/* Takes the value of one of the keys of an acknowledgement. */
static IotPayloadStatus
read_ack_value(IotJson *json, AckKey key, IotAck *ack, const char **error)
{
	IotJsonType type = iot_json_peek(json);
	const char *text;
	size_t		len;

	if (key == ACK_OK)
	{
		if (type != IOT_JSON_TRUE && type != IOT_JSON_FALSE)
			return wrong_type(error, "\"ok\" is not a boolean");
		ack->ok = type == IOT_JSON_TRUE;
	}
	if (type != IOT_JSON_STRING || (key != ACK_ID && key != ACK_ERROR))
	{
		if (key == ACK_ID)
			return wrong_type(error, "\"id\" is not a string");
		/* an error of another type is not worth losing the acknowledgement for */
		(void) iot_json_skip(json);
		return IOT_PAYLOAD_OK;
	}
	if (!iot_json_string(json, &text, &len))
		return IOT_PAYLOAD_OK;
	if (key == ACK_ERROR)
		keep_error(ack, text, len);
	else if (!parse_uuid(text, len, ack->command_id))
		return wrong_type(error, "\"id\" is not a uuid");
	return IOT_PAYLOAD_OK;
}

/*
 * Reads {"id":"…","ok":true} or {"id":"…","ok":false,"error":"…"}; other keys are passed over.  A
 * device that refuses without a word gets "" as its error.  On another status than OK, *error is a
 * static phrase.
 */
IotPayloadStatus
iot_ack_parse(const char *payload, size_t len, IotAck *ack, const char **error)
{
	static const char *const names[] = {"id", "ok", "error"};
	char		scratch[ACK_TEXTS];
	bool		seen[ACK_OTHER] = {false};
	IotJson		json;
	bool		first = true;
	const char *key;
	size_t		key_len;

	ack->error[0] = '\0';
	if (!iot_utf8_valid(payload, len))
	{
		*error = "invalid UTF-8";
		return IOT_PAYLOAD_INVALID_UTF8;
	}
	iot_json_init(&json, payload, len, scratch, sizeof(scratch));
	if (iot_json_peek(&json) != IOT_JSON_OBJECT && json.error == NULL)
		return wrong_type(error, "not an object");
	(void) iot_json_enter(&json);
	while (iot_json_next_key(&json, &first, &key, &key_len))
	{
		IotPayloadStatus status;
		int			which = 0;

		while (which < ACK_OTHER && !iot_json_key_is(key, key_len, names[which]))
			which++;
		if (which < ACK_OTHER && seen[which])
		{
			json.error = "key given twice";
			break;
		}
		if (which < ACK_OTHER)
			seen[which] = true;
		status = read_ack_value(&json, (AckKey) which, ack, error);
		if (status != IOT_PAYLOAD_OK && json.error == NULL)
			return status;
	}
	if (!iot_json_end(&json))
	{
		*error = json.error;
		return IOT_PAYLOAD_MALFORMED;
	}
	if (!seen[ACK_ID])
		return wrong_type(error, "\"id\" is missing");
	if (!seen[ACK_OK])
		return wrong_type(error, "\"ok\" is missing");
	*error = NULL;
	return IOT_PAYLOAD_OK;
}

static bool
is_word(const char *text, size_t len, const char *word)
{
	if (len != strlen(word))
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char		c = text[i];

		if (c >= 'A' && c <= 'Z')
			c = (char) (c + ('a' - 'A'));
		if (c != word[i])
			return false;
	}
	return true;
}

/* Finds the string of {"state":"…"}; false where there is none. */
static bool
find_state(IotJson *json, const char **state, size_t *state_len)
{
	bool		first = true;
	bool		found = false;
	const char *key;
	size_t		key_len;

	(void) iot_json_enter(json);
	while (iot_json_next_key(json, &first, &key, &key_len))
	{
		if (!found && iot_json_key_is(key, key_len, "state") && iot_json_peek(json) == IOT_JSON_STRING)
			found = iot_json_string(json, state, state_len);
		else if (!iot_json_skip(json))
			break;
	}
	return found && iot_json_end(json);
}

/*
 * Reads online or offline in any case: bare, as a JSON string, or as the state of an object, which
 * is how devices in the field put it.  On another status than OK, *error is a static phrase.
 */
IotPayloadStatus
iot_status_parse(const char *payload, size_t len, bool *online, const char **error)
{
	char		scratch[256];
	IotJson		json;
	const char *text = payload;
	size_t		text_len = len;

	if (!iot_utf8_valid(payload, len))
	{
		*error = "invalid UTF-8";
		return IOT_PAYLOAD_INVALID_UTF8;
	}
	while (text_len > 0 && (*text == ' ' || *text == '\t' || *text == '\r' || *text == '\n'))
	{
		text++;
		text_len--;
	}
	while (text_len > 0 && (text[text_len - 1] == ' ' || text[text_len - 1] == '\t' ||
							text[text_len - 1] == '\r' || text[text_len - 1] == '\n'))
		text_len--;
	if (text_len > 0 && (*text == '{' || *text == '"'))
	{
		bool		found;

		iot_json_init(&json, text, text_len, scratch, sizeof(scratch));
		if (*text == '{')
			found = find_state(&json, &text, &text_len);
		else
			found = iot_json_string(&json, &text, &text_len) && iot_json_end(&json);
		if (json.error != NULL)
		{
			*error = json.error;
			return IOT_PAYLOAD_MALFORMED;
		}
		if (!found)
			text_len = 0;
	}
	*error = NULL;
	*online = is_word(text, text_len, "online");
	if (*online || is_word(text, text_len, "offline"))
		return IOT_PAYLOAD_OK;
	*error = "neither online nor offline";
	return IOT_PAYLOAD_WRONG_TYPE;
}

/* Whether the payload is a JSON object that jsonb takes; else *error is a static phrase. */
IotPayloadStatus
iot_attributes_check(const char *payload, size_t len, const char **error)
{
	IotJson		json;

	if (!iot_utf8_valid(payload, len))
	{
		*error = "invalid UTF-8";
		return IOT_PAYLOAD_INVALID_UTF8;
	}
	iot_json_init(&json, payload, len, NULL, 0);
	*error = "not an object";
	if (iot_json_peek(&json) != IOT_JSON_OBJECT && json.error == NULL)
		return IOT_PAYLOAD_WRONG_TYPE;
	(void) (iot_json_skip(&json) && iot_json_end(&json));
	*error = json.error;
	return json.error == NULL ? IOT_PAYLOAD_OK : IOT_PAYLOAD_MALFORMED;
}
