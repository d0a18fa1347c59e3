/*
 * json.c
 *		Fuzz target: the walk through a JSON text (core/json.h).
 */
#include "fuzz.h"

#include "core/json.h"
#include "core/utf8.h"

/* Walks through the value that comes next; some are not entered, which skips them. */
static void
walk(IotJson *json, const uint8_t **choice, const uint8_t *end)
{
	IotJsonType type = iot_json_peek(json);
	const char *text;
	size_t		len;
	bool		skip = *choice < end && (*(*choice)++ & 3) == 3;

	if (type == IOT_JSON_STRING)
	{
		text = iot_json_string(json, &len);
		REQUIRE(text != NULL && iot_utf8_valid(text, len) && memchr(text, '\0', len) == NULL);
	}
	else if (type == IOT_JSON_NUMBER)
		REQUIRE(iot_json_number(json) == iot_json_number(json));
	if (skip || (type != IOT_JSON_ARRAY && type != IOT_JSON_OBJECT) || !iot_json_enter(json))
		return;
	REQUIRE(json->depth <= IOT_JSON_MAX_DEPTH);
	if (type == IOT_JSON_ARRAY)
	{
		while (iot_json_next_element(json))
			walk(json, choice, end);
		return;
	}
	while (iot_json_next_key(json, &text, &len))
	{
		REQUIRE(iot_utf8_valid(text, len) && memchr(text, '\0', len) == NULL);
		walk(json, choice, end);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *choice = data;
	IotJson		json;

	/* the caller's part */
	if (!iot_utf8_valid((const char *) data, size))
		return 0;
	iot_json_init(&json, (const char *) data, size);
	REQUIRE(json.error == NULL || json.error_at <= size);
	walk(&json, &choice, data + size);
	iot_json_free(json.tree);
	return 0;
}
