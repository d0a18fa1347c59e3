/*
 * payload.c
 *		Telemetry: the values in a message, with their times.
 *
 * Telemetry is an object of values, {"ts":…,"values":{…}}, or an array of these.  "ts" is
 * milliseconds or ISO 8601, applies to its own object, and may stand beside bare values too.  A
 * message is read whole or not at all; whether a value belongs to a sensor, and what a word means,
 * is for the caller, who has the registry.
 *
 * An IotTelemetry keeps its malloc'ed memory from message to message.  Nothing raises: the answer
 * is a status.
 */
#include "core/payload.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/timestamp.h"
#include "core/utf8.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#define FEW_NAMES		12		/* so many are compared with each other, without a table */

void
iot_telemetry_init(IotTelemetry *telemetry)
{
	memset(telemetry, 0, sizeof(*telemetry));
}

void
iot_telemetry_free(IotTelemetry *telemetry)
{
	free(telemetry->values);
	iot_json_free(telemetry->tree);
	free(telemetry->seen);
	iot_telemetry_init(telemetry);
}

static IotPayloadStatus
refuse(IotTelemetry *telemetry, IotPayloadStatus status, const char *error)
{
	telemetry->error = error;
	telemetry->count = 0;
	return status;
}

/* The next free value, or NULL where no memory is left. */
static IotValue *
add_value(IotTelemetry *telemetry)
{
	if (telemetry->count == telemetry->capacity)
	{
		size_t		capacity = telemetry->capacity > 0 ? telemetry->capacity * 2 : 64;
		IotValue   *values = realloc(telemetry->values, capacity * sizeof(IotValue));

		if (values == NULL)
			return NULL;
		telemetry->values = values;
		telemetry->capacity = capacity;
	}
	return &telemetry->values[telemetry->count++];
}

static bool
same_name(const IotValue *a, const IotValue *b)
{
	return a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len) == 0;
}

static uint32_t
hash_name(const IotValue *value)
{
	uint32_t	hash = UINT32_C(2166136261);

	for (uint32_t i = 0; i < value->name_len; i++)
		hash = (hash ^ (unsigned char) value->name[i]) * UINT32_C(16777619);
	return hash ^ hash >> 15;
}

/* Empties the table, after making it at least twice as large as count. */
static bool
clear_seen(IotTelemetry *telemetry, size_t count)
{
	size_t		size = 64;

	while (size < count * 2)
		size *= 2;
	if (size > telemetry->seen_size)
	{
		uint32_t   *seen = realloc(telemetry->seen, size * sizeof(uint32_t));

		if (seen == NULL)
			return false;
		telemetry->seen = seen;
		telemetry->seen_size = size;
	}
	memset(telemetry->seen, 0, telemetry->seen_size * sizeof(uint32_t));
	return true;
}

/*
 * Whether a name occurs twice among the values from first on.  Linear in their number, for a
 * message may hold ten thousand on purpose.
 */
static IotPayloadStatus
check_names(IotTelemetry *telemetry, size_t first)
{
	const IotValue *values = telemetry->values;
	size_t		count = telemetry->count - first;

	if (count <= FEW_NAMES)
	{
		for (size_t i = first; i < telemetry->count; i++)
		{
			for (size_t j = first; j < i; j++)
			{
				if (same_name(&values[i], &values[j]))
					return refuse(telemetry, IOT_PAYLOAD_MALFORMED, "key given twice");
			}
		}
		return IOT_PAYLOAD_OK;
	}
	if (!clear_seen(telemetry, count))
		return refuse(telemetry, IOT_PAYLOAD_NO_MEMORY, "out of memory");
	for (size_t i = first; i < telemetry->count; i++)
	{
		size_t		mask = telemetry->seen_size - 1;
		size_t		at = hash_name(&values[i]) & mask;

		for (; telemetry->seen[at] != 0; at = (at + 1) & mask)
		{
			if (same_name(&values[i], &values[telemetry->seen[at] - 1]))
				return refuse(telemetry, IOT_PAYLOAD_MALFORMED, "key given twice");
		}
		telemetry->seen[at] = (uint32_t) i + 1;
	}
	return IOT_PAYLOAD_OK;
}

/* Takes the value of "ts". */
static IotPayloadStatus
read_time(IotTelemetry *telemetry, IotJson *json, int64_t *ts)
{
	const char *text;
	size_t		len;

	switch (iot_json_peek(json))
	{
		case IOT_JSON_NUMBER:
			if (!iot_timestamp_from_ms(iot_json_number(json), ts))
				return refuse(telemetry, IOT_PAYLOAD_INVALID_TIME,
							  "\"ts\" is no number of milliseconds since 1970");
			return IOT_PAYLOAD_OK;
		case IOT_JSON_STRING:
			text = iot_json_string(json, &len);
			if (!iot_timestamp_parse(text, len, ts))
				return refuse(telemetry, IOT_PAYLOAD_INVALID_TIME,
							  "\"ts\" is no ISO 8601 time with a time zone");
			return IOT_PAYLOAD_OK;
		default:
			return refuse(telemetry, IOT_PAYLOAD_INVALID_TIME,
						  "\"ts\" is neither milliseconds nor an ISO 8601 time");
	}
}

/* Takes one value, whatever its type. */
static IotPayloadStatus
read_value(IotTelemetry *telemetry, IotJson *json, const char *name, size_t name_len)
{
	IotValue   *value;
	IotJsonType type = iot_json_peek(json);
	const char *word = NULL;
	size_t		word_len = 0;

	if (telemetry->count >= IOT_PAYLOAD_MAX_VALUES)
		return refuse(telemetry, IOT_PAYLOAD_TOO_LARGE, "more than 10000 values");
	value = add_value(telemetry);
	if (value == NULL)
		return refuse(telemetry, IOT_PAYLOAD_NO_MEMORY, "out of memory");
	value->name = name;
	value->name_len = (uint32_t) name_len;
	value->number = 0;
	value->kind = IOT_VALUE_OTHER;
	if (type == IOT_JSON_NUMBER)
	{
		value->kind = IOT_VALUE_NUMBER;
		value->number = iot_json_number(json);
	}
	else if (type == IOT_JSON_STRING)
	{
		value->kind = IOT_VALUE_WORD;
		word = iot_json_string(json, &word_len);
	}
	else if (type == IOT_JSON_TRUE || type == IOT_JSON_FALSE)
	{
		value->kind = IOT_VALUE_WORD;
		word = type == IOT_JSON_TRUE ? "true" : "false";
		word_len = strlen(word);
	}
	value->word = word;
	value->word_len = (uint32_t) word_len;
	return IOT_PAYLOAD_OK;
}

/* Takes the object behind "values". */
static IotPayloadStatus
read_values(IotTelemetry *telemetry, IotJson *json)
{
	IotPayloadStatus status;
	const char *key;
	size_t		len;

	if (!iot_json_enter(json))
		return refuse(telemetry, IOT_PAYLOAD_MALFORMED, json->error);
	while (iot_json_next_key(json, &key, &len))
	{
		status = read_value(telemetry, json, key, len);
		if (status != IOT_PAYLOAD_OK)
			return status;
	}
	if (json->error != NULL)
		return refuse(telemetry, IOT_PAYLOAD_MALFORMED, json->error);
	return IOT_PAYLOAD_OK;
}

/* Takes one object: values, or a time and values. */
static IotPayloadStatus
read_point(IotTelemetry *telemetry, IotJson *json)
{
	IotPayloadStatus status = IOT_PAYLOAD_OK;
	size_t		start = telemetry->count;
	bool		has_ts = false;
	bool		has_values = false;
	int64_t		ts = 0;
	const char *key;
	size_t		len;

	if (!iot_json_enter(json))
		return refuse(telemetry, IOT_PAYLOAD_MALFORMED, json->error);
	while (iot_json_next_key(json, &key, &len))
	{
		if (iot_json_key_is(key, len, "ts"))
		{
			if (has_ts)
				return refuse(telemetry, IOT_PAYLOAD_MALFORMED, "key given twice");
			has_ts = true;
			status = read_time(telemetry, json, &ts);
		}
		else if (iot_json_key_is(key, len, "values") && iot_json_peek(json) == IOT_JSON_OBJECT)
		{
			if (has_values)
				return refuse(telemetry, IOT_PAYLOAD_MALFORMED, "key given twice");
			has_values = true;
			status = read_values(telemetry, json);
		}
		else
			status = read_value(telemetry, json, key, len);
		if (status != IOT_PAYLOAD_OK)
			return status;
	}
	if (json->error != NULL)
		return refuse(telemetry, IOT_PAYLOAD_MALFORMED, json->error);
	/* the time may stand behind the values */
	for (size_t i = start; i < telemetry->count; i++)
	{
		telemetry->values[i].has_ts = has_ts;
		telemetry->values[i].ts = ts;
	}
	return check_names(telemetry, start);
}

static IotPayloadStatus
read_points(IotTelemetry *telemetry, IotJson *json)
{
	IotPayloadStatus status;

	if (!iot_json_enter(json))
		return refuse(telemetry, IOT_PAYLOAD_MALFORMED, json->error);
	while (iot_json_next_element(json))
	{
		if (iot_json_peek(json) != IOT_JSON_OBJECT)
			return refuse(telemetry, IOT_PAYLOAD_WRONG_TYPE, "element that is not an object");
		status = read_point(telemetry, json);
		if (status != IOT_PAYLOAD_OK)
			return status;
	}
	if (json->error != NULL)
		return refuse(telemetry, IOT_PAYLOAD_MALFORMED, json->error);
	return IOT_PAYLOAD_OK;
}

/*
 * Reads a telemetry message.  OK with a count of 0 means that it is well-formed and empty.  On any
 * other status the count is 0, and error and error_at say what is wrong where.
 */
IotPayloadStatus
iot_telemetry_parse(IotTelemetry *telemetry, const char *payload, size_t len)
{
	IotPayloadStatus status;
	IotJson		json;

	telemetry->count = 0;
	telemetry->error = NULL;
	telemetry->error_at = 0;
	if (!iot_utf8_valid(payload, len))
		return refuse(telemetry, IOT_PAYLOAD_INVALID_UTF8, "invalid UTF-8");
	iot_json_free(telemetry->tree);
	iot_json_init(&json, payload, len);
	telemetry->tree = json.tree;
	switch (iot_json_peek(&json))
	{
		case IOT_JSON_OBJECT:
			status = read_point(telemetry, &json);
			break;
		case IOT_JSON_ARRAY:
			status = read_points(telemetry, &json);
			break;
		case IOT_JSON_INVALID:
			status = refuse(telemetry, IOT_PAYLOAD_MALFORMED, json.error);
			break;
		default:
			status = refuse(telemetry, IOT_PAYLOAD_WRONG_TYPE, "neither an object nor an array");
			break;
	}
	telemetry->error_at = json.error_at;
	return status;
}
