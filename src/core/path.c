/*
 * path.c
 *		Places in a JSON value: "$.AM2301.Temperature", "$['a b'][0]", "$.*.Humidity".
 *
 * A path is read once, when the registry is, and followed for each message.  Following it visits no
 * value twice, since each step goes one level down: it costs no more than reading the message did.
 * Nothing allocates and nothing raises.
 */
#include "core/path.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "core/utf8.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#define INDEX_DIGITS	6

/* Whether the character may stand in a key that is not between quotation marks. */
static bool
is_key_char(char c)
{
	return (unsigned char) c > ' ' && c != 0x7f && strchr(".[]*'\"\\", c) == NULL;
}

/* Takes what follows a dot; returns its length, 0 where it is no step. */
static size_t
parse_member(const char *text, size_t len, IotPathStep *step, const char **error)
{
	size_t		end = 0;

	if (len > 0 && text[0] == '*')
	{
		step->kind = IOT_PATH_ANY;
		return 1;
	}
	while (end < len && is_key_char(text[end]))
		end++;
	step->kind = IOT_PATH_KEY;
	step->key = text;
	step->key_len = (uint32_t) end;
	if (end == 0)
		*error = "path lacks a key after \".\"";
	return end;
}

/* Takes 'key' or "key"; a key holds neither its quotation mark nor a backslash. */
static size_t
parse_quoted(const char *text, size_t len, IotPathStep *step, const char **error)
{
	const char *end = memchr(text + 1, text[0], len - 1);

	if (end == NULL)
	{
		*error = "path has a quotation mark without its end";
		return 0;
	}
	step->kind = IOT_PATH_KEY;
	step->key = text + 1;
	step->key_len = (uint32_t) (end - text - 1);
	for (const char *c = step->key; c < end; c++)
	{
		if (*c == '\\' || (unsigned char) *c < ' ')
		{
			*error = "path has a backslash or a control character in a key";
			return 0;
		}
	}
	return (size_t) (end - text) + 1;
}

static size_t
parse_index(const char *text, size_t len, IotPathStep *step)
{
	size_t		end = 0;

	step->kind = IOT_PATH_INDEX;
	step->index = 0;
	while (end < len && end < INDEX_DIGITS && text[end] >= '0' && text[end] <= '9')
		step->index = step->index * 10 + (uint32_t) (text[end++] - '0');
	return end;
}

/* Takes what follows "[", up to "]" and with it; 0 where it is no step. */
static size_t
parse_bracket(const char *text, size_t len, IotPathStep *step, const char **error)
{
	size_t		end;

	if (len > 0 && (text[0] == '\'' || text[0] == '"'))
	{
		end = parse_quoted(text, len, step, error);
		if (end == 0)
			return 0;
	}
	else if (len > 0 && text[0] == '*')
	{
		step->kind = IOT_PATH_ANY;
		end = 1;
	}
	else
		end = parse_index(text, len, step);
	if (end == 0 || end == len || text[end] != ']')
	{
		*error = "path has neither a number, nor a key between quotation marks, nor \"*\" between \"[\" and \"]\"";
		return 0;
	}
	return end + 1;
}

/*
 * Checks a path and splits it into its steps, which point into text.  On false, *error says why in
 * a static phrase that fits after a colon; error may be NULL.
 */
bool
iot_path_parse(const char *text, size_t len, IotPath *path, const char **error)
{
	const char *reason = NULL;
	size_t		at = 1;

	path->count = 0;
	if (len == 0 || text[0] != '$')
		reason = "path does not begin with \"$\"";
	else if (len > IOT_PATH_MAX)
		reason = "path is longer than 256 bytes";
	else if (memchr(text, '\0', len) != NULL || !iot_utf8_valid(text, len))
		reason = "path is not valid UTF-8";
	while (reason == NULL && at < len)
	{
		IotPathStep *step = &path->steps[path->count];
		size_t		taken;

		if (path->count == IOT_PATH_MAX_STEPS)
		{
			reason = "path has more than 16 steps";
			break;
		}
		if (text[at] == '.')
			taken = parse_member(text + at + 1, len - at - 1, step, &reason);
		else if (text[at] == '[')
			taken = parse_bracket(text + at + 1, len - at - 1, step, &reason);
		else
		{
			reason = "path has something other than \".\" or \"[\" after a step";
			break;
		}
		at += taken + 1;
		path->count++;
	}
	if (reason != NULL)
		path->count = 0;
	if (error != NULL)
		*error = reason;
	return reason == NULL;
}

static bool
is_step(const IotPathStep *step, const cJSON *parent, const cJSON *member, uint32_t place)
{
	switch (step->kind)
	{
		case IOT_PATH_KEY:
			return cJSON_IsObject(parent) && member->string != NULL &&
				strncmp(member->string, step->key, step->key_len) == 0 &&
				member->string[step->key_len] == '\0';
		case IOT_PATH_INDEX:
			return cJSON_IsArray(parent) && place == step->index;
		case IOT_PATH_ANY:
			break;
	}
	return true;
}

static const cJSON *
follow(const IotPathStep *step, int left, const cJSON *value)
{
	uint32_t	place = 0;

	if (left == 0)
		return value;
	for (const cJSON *member = value->child; member != NULL; member = member->next)
	{
		const cJSON *found;

		if (!is_step(step, value, member, place++))
			continue;
		found = follow(step + 1, left - 1, member);
		/* of a key that is given twice, the first counts */
		if (found != NULL || step->kind != IOT_PATH_ANY)
			return found;
	}
	return NULL;
}

/* What stands at the path, or NULL. */
const struct cJSON *
iot_path_find(const IotPath *path, const struct cJSON *value)
{
	return value == NULL ? NULL : follow(path->steps, path->count, value);
}
