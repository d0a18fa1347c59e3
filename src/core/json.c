/*
 * json.c
 *		Reading JSON of strangers: cJSON's tree, walked value by value, with the checks it leaves out.
 *
 * cJSON parses; what it would let through and we must not is checked here: bytes behind the value,
 * NUL (it would cut a name short: "temperature\u0000x" must not read as "temperature"), and depth.
 * The caller has checked that the text is valid UTF-8.  Memory is malloc'ed, bounded by the size of
 * the text; nothing raises.
 */
#include "core/json.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <string.h>

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

/* Whether four hex digits stand there, and are not those of NUL. */
static bool
is_code_unit(const char *at, const char *end)
{
	if (end - at < 4 || memcmp(at, "0000", 4) == 0)
		return false;
	for (int i = 0; i < 4; i++)
	{
		if (!isxdigit((unsigned char) at[i]))
			return false;
	}
	return true;
}

/*
 * Whether a string would be cut short in C: by a NUL, by its escape, or by an escape that is none
 * and that cJSON reads as NUL.
 */
static bool
holds_nul(const char *text, size_t len)
{
	const char *end = text + len;
	const char *at = text;

	if (memchr(text, '\0', len) != NULL)
		return true;
	while ((at = memchr(at, '\\', (size_t) (end - at))) != NULL)
	{
		if (end - at < 2)
			return false;
		if (at[1] == 'u' && !is_code_unit(at + 2, end))
			return true;
		at += 2;
	}
	return false;
}

static bool
is_blank(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at == end;
}

/* Parses a text; the tree is the caller's to free, also after an error. */
void
iot_json_init(IotJson *json, const char *text, size_t len)
{
	const char *end = text;

	memset(json, 0, sizeof(*json));
	if (holds_nul(text, len))
	{
		json->error = "\\u0000 or no character in a string";
		return;
	}
	json->tree = cJSON_ParseWithLengthOpts(text, len, &end, false);
	json->error_at = end != NULL && end >= text && end <= text + len ? (size_t) (end - text) : 0;
	json->value = json->tree;
	if (json->tree == NULL)
		json->error = "invalid JSON";
	else if (!is_blank(end, text + len))
		json->error = "more bytes behind the value";
}

void
iot_json_free(struct cJSON *tree)
{
	cJSON_Delete(tree);
}

/* Type of the value that comes next. */
IotJsonType
iot_json_peek(const IotJson *json)
{
	if (json->error != NULL || json->value == NULL)
		return IOT_JSON_INVALID;
	switch (json->value->type & 0xff)
	{
		case cJSON_NULL:
			return IOT_JSON_NULL;
		case cJSON_False:
			return IOT_JSON_FALSE;
		case cJSON_True:
			return IOT_JSON_TRUE;
		case cJSON_Number:
			return IOT_JSON_NUMBER;
		case cJSON_String:
			return IOT_JSON_STRING;
		case cJSON_Array:
			return IOT_JSON_ARRAY;
		case cJSON_Object:
			return IOT_JSON_OBJECT;
		default:
			return IOT_JSON_INVALID;
	}
}

/* Goes into the object or array that iot_json_peek() has announced. */
bool
iot_json_enter(IotJson *json)
{
	if (json->error != NULL)
		return false;
	if (json->depth >= IOT_JSON_MAX_DEPTH)
	{
		json->error = "nested too deeply";
		return false;
	}
	json->member[++json->depth] = json->value->child;
	return true;
}

/* Steps to the next element of an array; false at its end, or on an error. */
bool
iot_json_next_element(IotJson *json)
{
	struct cJSON *member = json->member[json->depth];

	if (json->error != NULL)
		return false;
	if (member == NULL)
	{
		json->depth--;
		return false;
	}
	json->member[json->depth] = member->next;
	json->value = member;
	return true;
}

/* Steps to the next member of an object and gives its key; false at its end, or on an error. */
bool
iot_json_next_key(IotJson *json, const char **key, size_t *len)
{
	if (!iot_json_next_element(json))
		return false;
	*key = json->value->string;
	*len = strlen(*key);
	return true;
}

bool
iot_json_key_is(const char *key, size_t len, const char *word)
{
	return len == strlen(word) && memcmp(key, word, len) == 0;
}

/* The number that iot_json_peek() has announced; one that no double can hold is infinite. */
double
iot_json_number(const IotJson *json)
{
	return json->value->valuedouble;
}

/* The string that iot_json_peek() has announced. */
const char *
iot_json_string(const IotJson *json, size_t *len)
{
	*len = strlen(json->value->valuestring);
	return json->value->valuestring;
}
