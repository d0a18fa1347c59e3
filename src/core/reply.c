/*
 * reply.c
 *		What devices say beside telemetry: acknowledgements, status, attributes.
 *
 * Nothing allocates and nothing raises: the answer is a status and, where it is not OK, a static
 * phrase.
 */
#include "core/payload.h"

#include <math.h>
#include <string.h>

#include "core/json.h"
#include "core/utf8.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

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
		return IOT_PAYLOAD_OK;
	}
	text = iot_json_string(json, &len);
	if (key == ACK_ERROR)
		keep_error(ack, text, len);
	else if (!parse_uuid(text, len, ack->command_id))
		return wrong_type(error, "\"id\" is not a uuid");
	return IOT_PAYLOAD_OK;
}

/* Reads the members of an acknowledgement. */
static IotPayloadStatus
read_ack(IotJson *json, IotAck *ack, const char **error)
{
	static const char *const names[] = {"id", "ok", "error"};
	bool		seen[ACK_OTHER] = {false};
	const char *key;
	size_t		key_len;

	if (json->error == NULL && iot_json_peek(json) != IOT_JSON_OBJECT)
		return wrong_type(error, "not an object");
	(void) iot_json_enter(json);
	while (iot_json_next_key(json, &key, &key_len))
	{
		IotPayloadStatus status;
		int			which = 0;

		while (which < ACK_OTHER && !iot_json_key_is(key, key_len, names[which]))
			which++;
		if (which < ACK_OTHER && seen[which])
		{
			json->error = "key given twice";
			break;
		}
		if (which < ACK_OTHER)
			seen[which] = true;
		status = read_ack_value(json, (AckKey) which, ack, error);
		if (status != IOT_PAYLOAD_OK)
			return status;
	}
	if (json->error != NULL)
	{
		*error = json->error;
		return IOT_PAYLOAD_MALFORMED;
	}
	if (!seen[ACK_ID])
		return wrong_type(error, "\"id\" is missing");
	if (!seen[ACK_OK])
		return wrong_type(error, "\"ok\" is missing");
	*error = NULL;
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
	IotPayloadStatus status;
	IotJson		json;

	ack->error[0] = '\0';
	if (!iot_utf8_valid(payload, len))
	{
		*error = "invalid UTF-8";
		return IOT_PAYLOAD_INVALID_UTF8;
	}
	iot_json_init(&json, payload, len);
	status = read_ack(&json, ack, error);
	iot_json_free(json.tree);
	return status;
}

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
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

static IotPayloadStatus
read_word(const char *text, size_t len, bool *online, const char **error)
{
	*error = NULL;
	*online = is_word(text, len, "online");
	if (*online || is_word(text, len, "offline"))
		return IOT_PAYLOAD_OK;
	*error = "neither online nor offline";
	return IOT_PAYLOAD_WRONG_TYPE;
}

/* Reads a JSON string, or the string of {"state":"…"}. */
static IotPayloadStatus
read_state(IotJson *json, bool *online, const char **error)
{
	const char *text = "";
	size_t		len = 0;
	const char *key;
	size_t		key_len;

	if (iot_json_peek(json) == IOT_JSON_STRING)
		text = iot_json_string(json, &len);
	else if (iot_json_enter(json))
	{
		while (iot_json_next_key(json, &key, &key_len))
		{
			if (iot_json_key_is(key, key_len, "state") && iot_json_peek(json) == IOT_JSON_STRING)
				text = iot_json_string(json, &len);
		}
	}
	if (json->error != NULL)
	{
		*error = json->error;
		return IOT_PAYLOAD_MALFORMED;
	}
	return read_word(text, len, online, error);
}

/*
 * Reads online or offline in any case: bare, as a JSON string, or as the state of an object, which
 * is how devices in the field put it.  On another status than OK, *error is a static phrase.
 */
IotPayloadStatus
iot_status_parse(const char *payload, size_t len, bool *online, const char **error)
{
	IotPayloadStatus status;
	IotJson		json;

	if (!iot_utf8_valid(payload, len))
	{
		*error = "invalid UTF-8";
		return IOT_PAYLOAD_INVALID_UTF8;
	}
	while (len > 0 && is_blank(*payload))
	{
		payload++;
		len--;
	}
	while (len > 0 && is_blank(payload[len - 1]))
		len--;
	if (len == 0 || (*payload != '{' && *payload != '"'))
		return read_word(payload, len, online, error);
	iot_json_init(&json, payload, len);
	status = read_state(&json, online, error);
	iot_json_free(json.tree);
	return status;
}

/*
 * Whether readers can bear the value: its depth is bounded, and no number of a few characters fills
 * a page when it is written out.
 */
static void
check_value(IotJson *json)
{
	IotJsonType type = iot_json_peek(json);

	if (type == IOT_JSON_NUMBER && isinf(iot_json_number(json)))
		json->error = "number is out of range";
	if ((type == IOT_JSON_OBJECT || type == IOT_JSON_ARRAY) && iot_json_enter(json))
	{
		while (iot_json_next_element(json))
			check_value(json);
	}
}

/*
 * Whether the payload is a JSON object; else *error is a static phrase.  jsonb is stricter in
 * corners, such as the range of numbers, and has the last word.
 */
IotPayloadStatus
iot_attributes_check(const char *payload, size_t len, const char **error)
{
	IotPayloadStatus status = IOT_PAYLOAD_OK;
	IotJson		json;

	*error = NULL;
	if (!iot_utf8_valid(payload, len))
	{
		*error = "invalid UTF-8";
		return IOT_PAYLOAD_INVALID_UTF8;
	}
	iot_json_init(&json, payload, len);
	if (json.error == NULL && iot_json_peek(&json) != IOT_JSON_OBJECT)
		status = wrong_type(error, "not an object");
	else
		check_value(&json);
	if (json.error != NULL)
	{
		*error = json.error;
		status = IOT_PAYLOAD_MALFORMED;
	}
	iot_json_free(json.tree);
	return status;
}
