/*
 * topic.c
 *		MQTT topics: templates with {device} in them, the device names they carry, and filters.
 *
 * A template is a topic in which {device} stands for one whole level: "iot/{device}/telemetry".  By
 * the kind of topic, {device+} may stand there for one or more levels, {parameter} for another one,
 * "+" for levels that do not matter, and "#" for the rest.  A template is matched against incoming
 * topics, filled in for outgoing ones, and turned into the filter to subscribe to.  Brokers accept
 * topics of 65 535 bytes and hundreds of levels, so everything that comes from the network is bounded
 * here before anything looks it up.
 */
#include "core/topic.h"

#include <string.h>

#include "core/utf8.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#define DEVICE			"{device}"
#define DEVICE_LEN		(sizeof(DEVICE) - 1)
#define DEVICE_SPAN		"{device+}"
#define PARAMETER		"{parameter}"
#define PARAMETER_LEN	(sizeof(PARAMETER) - 1)

static bool
is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool
is_name_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		c == '_' || c == '.' || c == ':' || c == '-';
}

/* Whether the name reads as a uuid, with or without its dashes. */
static bool
reads_as_uuid(const char *name, size_t len)
{
	bool		dashed = len == 36;

	if (len != 32 && !dashed)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (dashed && (i == 8 || i == 13 || i == 18 || i == 23))
		{
			if (name[i] != '-')
				return false;
		}
		else if (!is_hex(name[i]))
			return false;
	}
	return true;
}

/* The rule that iot.device's constraint holds too: [A-Za-z0-9_.:-]{1,64} and not a uuid. */
bool
iot_device_name_valid(const char *name, size_t len)
{
	if (len == 0 || len > IOT_DEVICE_NAME_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (!is_name_char(name[i]))
			return false;
	}
	return !reads_as_uuid(name, len);
}

/* What devices may be called elsewhere: any text on one line that can stand in a topic. */
bool
iot_external_name_valid(const char *name, size_t len)
{
	if (len == 0 || len > IOT_EXTERNAL_NAME_MAX || !iot_utf8_valid(name, len))
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if ((unsigned char) name[i] < ' ' || name[i] == 0x7f || name[i] == '+' || name[i] == '#')
			return false;
	}
	return true;
}

/*
 * Whether this is a topic that we publish to or take messages from.  On false, *error says why in
 * a static phrase that fits after a colon; error may be NULL.
 */
bool
iot_topic_valid(const char *topic, size_t len, const char **error)
{
	const char *reason = NULL;
	size_t		levels = 1;

	if (len == 0)
		reason = "topic is empty";
	else if (len > IOT_TOPIC_MAX)
		reason = "topic is longer than 1024 bytes";
	else if (topic[0] == '$')
		reason = "topics that begin with \"$\" belong to the broker";
	else
	{
		for (size_t i = 0; i < len && reason == NULL; i++)
		{
			unsigned char c = (unsigned char) topic[i];

			if (c == '/')
				levels++;
			else if (c == '+' || c == '#')
				reason = "topic contains a wildcard";
			else if (c < 0x20 || c == 0x7f)
				reason = "topic contains a control character";
		}
		if (reason == NULL && levels > IOT_TOPIC_MAX_LEVELS)
			reason = "topic has more than 32 levels";
		if (reason == NULL && !iot_utf8_valid(topic, len))
			reason = "topic is not valid UTF-8";
	}
	if (error != NULL)
		*error = reason;
	return reason == NULL;
}

/* End of the level that begins at from. */
static size_t
level_end(const char *text, size_t len, size_t from)
{
	const char *slash = memchr(text + from, '/', len - from);

	return slash == NULL ? len : (size_t) (slash - text);
}

static bool
level_is(const char *level, size_t len, const char *word)
{
	return len == strlen(word) && memcmp(level, word, len) == 0;
}

/*
 * Whether devices announce themselves there, as Home Assistant has them do: the prefix, a component, a
 * node perhaps, an object, and "config".
 */
bool
iot_topic_is_announcement(const char *topic, size_t len, const char *prefix)
{
	size_t		from = strlen(prefix);
	int			levels = 0;

	if (len <= from || memcmp(topic, prefix, from) != 0 || topic[from] != '/' ||
		!iot_topic_valid(topic, len, NULL))
		return false;
	while (from < len)
	{
		size_t		end = level_end(topic, len, from + 1);

		if (end == from + 1)
			return false;
		levels++;
		if (end == len)
			return (levels == 3 || levels == 4) && level_is(topic + from + 1, len - from - 1, "config");
		from = end;
	}
	return false;
}

/*
 * Whether this can be subscribed to by an adapter: "+" fills a level, "#" is the last one.  On false,
 * *error says why, as in iot_topic_valid().
 */
bool
iot_topic_filter_valid(const char *filter, size_t len, const char **error)
{
	char		plain[IOT_TOPIC_MAX];
	const char *reason = NULL;
	size_t		end;

	if (len > IOT_TOPIC_MAX)
		reason = "topic is longer than 1024 bytes";
	for (size_t from = 0; from < len && reason == NULL; from = end + 1)
	{
		end = level_end(filter, len, from);
		for (size_t i = from; i < end; i++)
		{
			bool		wild = filter[i] == '+' || filter[i] == '#';

			if (wild && end - from > 1)
				reason = "wildcard does not fill a whole level";
			else if (filter[i] == '#' && end < len)
				reason = "\"#\" is not the last level";
			plain[i] = wild ? 'x' : filter[i];
		}
		if (end < len)
			plain[end] = '/';
	}
	if (reason == NULL)
		return iot_topic_valid(plain, len, error);
	if (error != NULL)
		*error = reason;
	return false;
}

/* Whether some topic matches both of two valid filters. */
bool
iot_topic_filters_overlap(const char *a, size_t a_len, const char *b, size_t b_len)
{
	size_t		at_a = 0;
	size_t		at_b = 0;

	for (;;)
	{
		size_t		end_a = level_end(a, a_len, at_a);
		size_t		end_b = level_end(b, b_len, at_b);
		size_t		size_a = end_a - at_a;
		size_t		size_b = end_b - at_b;
		bool		any_a = size_a == 1 && a[at_a] == '+';
		bool		any_b = size_b == 1 && b[at_b] == '+';

		if ((size_a == 1 && a[at_a] == '#') || (size_b == 1 && b[at_b] == '#'))
			return true;
		if (!any_a && !any_b && (size_a != size_b || memcmp(a + at_a, b + at_b, size_a) != 0))
			return false;
		/* "a/#" has "a" as well */
		if (end_a == a_len)
			return end_b == b_len || (b_len - end_b == 2 && b[b_len - 1] == '#');
		if (end_b == b_len)
			return a_len - end_a == 2 && a[a_len - 1] == '#';
		at_a = end_a + 1;
		at_b = end_b + 1;
	}
}

static const char *
find(const char *text, size_t len, const char *word)
{
	size_t		word_len = strlen(word);

	for (size_t i = 0; i + word_len <= len; i++)
	{
		if (memcmp(text + i, word, word_len) == 0)
			return text + i;
	}
	return NULL;
}

/* What a template is but for the wildcards that it may have: a topic.  out has room for len bytes. */
static void
without_wildcards(const char *text, size_t len, int may, char *out)
{
	memcpy(out, text, len);
	for (size_t from = 0, end; from < len; from = end + 1)
	{
		size_t		level_len;

		end = level_end(text, len, from);
		level_len = end - from;
		if ((may & IOT_TOPIC_MAY_ANY_LEVEL) != 0 && level_is(text + from, level_len, "+"))
			out[from] = 'x';
		if ((may & IOT_TOPIC_MAY_REST) != 0 && end == len && from > 0 &&
			level_is(text + from, level_len, "#"))
			out[from] = 'x';
		if ((may & IOT_TOPIC_MAY_SPAN) != 0 && level_is(text + from, level_len, DEVICE_SPAN))
			out[end - 2] = '_';
	}
}

/* Why a level of a template cannot be; NULL where it can. */
static const char *
level_error(const char *level, size_t len, int may)
{
	bool		may_parameter = (may & IOT_TOPIC_MAY_PARAMETER) != 0;

	if (level_is(level, len, DEVICE) || (may_parameter && level_is(level, len, PARAMETER)) ||
		((may & IOT_TOPIC_MAY_SPAN) != 0 && level_is(level, len, DEVICE_SPAN)))
		return NULL;
	if (find(level, len, DEVICE) != NULL ||
		((may & IOT_TOPIC_MAY_SPAN) != 0 && find(level, len, DEVICE_SPAN) != NULL))
		return "{device} does not fill a whole level";
	if (may_parameter && find(level, len, PARAMETER) != NULL)
		return "{parameter} does not fill a whole level";
	if (memchr(level, '{', len) == NULL)
		return NULL;
	return may_parameter ? "topic template has a placeholder other than {device} and {parameter}" :
		"topic template has a placeholder other than {device}";
}

/*
 * Checks a template and splits it around {device}; may says what it may have besides.  *parsed
 * points into text, which must outlive it.  On false, *error says why in a static phrase; error may
 * be NULL.
 */
bool
iot_topic_template_parse(const char *text, size_t len, int may, IotTopicTemplate *parsed,
						 const char **error)
{
	char		topic[IOT_TOPIC_MAX];
	const char *reason = NULL;
	const char *device = NULL;
	size_t		device_len = DEVICE_LEN;
	int			parameters = 0;
	int			any_levels = 0;

	if (len <= IOT_TOPIC_MAX)
	{
		without_wildcards(text, len, may, topic);
		if (!iot_topic_valid(topic, len, error))
			return false;
	}
	else if (!iot_topic_valid(text, len, error))
		return false;
	for (size_t from = 0, end; from <= len && reason == NULL; from = end + 1)
	{
		end = level_end(text, len, from);
		reason = level_error(text + from, end - from, may);
		if (reason != NULL)
			break;
		if (level_is(text + from, end - from, DEVICE) ||
			level_is(text + from, end - from, DEVICE_SPAN))
		{
			if (device != NULL)
				reason = "topic template has {device} more than once";
			device = text + from;
			device_len = end - from;
		}
		parameters += level_is(text + from, end - from, PARAMETER);
		any_levels += level_is(text + from, end - from, "+") ||
			level_is(text + from, end - from, "#");
	}
	if (reason != NULL)
		 /* the first is told */ ;
	else if (device == NULL && (may & IOT_TOPIC_MAY_LACK_DEVICE) == 0)
		reason = "topic template lacks {device}";
	else if (parameters > 1)
		reason = "topic template has {parameter} more than once";
	else if (device_len > DEVICE_LEN && text[len - 1] == '#')
		reason = "topic template has {device+} and \"#\"";
	else if (len + (device != NULL ? IOT_EXTERNAL_NAME_MAX - device_len : 0) +
			 (parameters > 0 ? IOT_DEVICE_NAME_MAX - PARAMETER_LEN : 0) > IOT_TOPIC_MAX)
		reason = "topics of this template may be longer than 1024 bytes";
	else
	{
		parsed->text = text;
		parsed->len = len;
		parsed->has_device = device != NULL;
		parsed->prefix = text;
		parsed->prefix_len = device != NULL ? (size_t) (device - text) : len;
		parsed->suffix = device != NULL ? device + device_len : text + len;
		parsed->suffix_len = (size_t) (text + len - parsed->suffix);
		parsed->spans = device_len > DEVICE_LEN;
		parsed->plain = device != NULL && !parsed->spans && parameters == 0 && any_levels == 0;
		parsed->has_parameter = parameters > 0;
	}
	if (error != NULL)
		*error = reason;
	return reason == NULL;
}

static int
count_levels(const char *text, size_t len)
{
	int			levels = 1;

	for (size_t i = 0; i < len; i++)
		levels += text[i] == '/';
	return levels;
}

/* Matches level by level; a level that a placeholder stands for is not empty. */
static bool
match_levels(const IotTopicTemplate *parsed, const char *topic, size_t len, IotTopicMatch *match)
{
	size_t		at = 0;
	size_t		from = 0;
	int			more = 0;		/* levels of the topic that {device+} takes beside its own */

	if (parsed->spans)
		more = count_levels(topic, len) - count_levels(parsed->text, parsed->len);
	if (more < 0)
		return false;
	for (;;)
	{
		const char *level = parsed->text + at;
		const char *given = topic + from;
		size_t		level_len = level_end(parsed->text, parsed->len, at) - at;
		size_t		given_len = level_end(topic, len, from) - from;

		if (level_is(level, level_len, "#"))
			return true;
		if (level_is(level, level_len, DEVICE) || level_is(level, level_len, DEVICE_SPAN))
		{
			for (int i = 0; i < more; i++)
				given_len = level_end(topic, len, from + given_len + 1) - from;
			match->device = given;
			match->device_len = given_len;
			if (given_len == 0)
				return false;
		}
		else if (level_is(level, level_len, PARAMETER))
		{
			match->parameter = given;
			match->parameter_len = given_len;
			if (given_len == 0)
				return false;
		}
		else if (!level_is(level, level_len, "+") &&
				 (level_len != given_len || memcmp(level, given, level_len) != 0))
			return false;
		at += level_len;
		from += given_len;
		if (at == parsed->len || from == len)
			return at == parsed->len && from == len;
		at++;
		from++;
	}
}

/*
 * Whether the topic is one of this template; *match is then what stands in the places of {device}
 * and {parameter}.  Neither is yet known to be a valid name.
 */
bool
iot_topic_template_match(const IotTopicTemplate *parsed, const char *topic, size_t len,
						 IotTopicMatch *match)
{
	const char *name = topic + parsed->prefix_len;
	size_t		name_len;

	match->parameter = NULL;
	match->parameter_len = 0;
	match->device = NULL;
	match->device_len = 0;
	if (!parsed->plain)
		return len <= IOT_TOPIC_MAX && match_levels(parsed, topic, len, match);
	if (len <= parsed->prefix_len + parsed->suffix_len ||
		memcmp(topic, parsed->prefix, parsed->prefix_len) != 0 ||
		memcmp(topic + len - parsed->suffix_len, parsed->suffix, parsed->suffix_len) != 0)
		return false;
	name_len = len - parsed->prefix_len - parsed->suffix_len;
	if (memchr(name, '/', name_len) != NULL)
		return false;
	match->device = name;
	match->device_len = name_len;
	return true;
}

static size_t
join(const IotTopicTemplate *parsed, const char *middle, size_t middle_len,
	 char *out, size_t out_size)
{
	size_t		len = parsed->prefix_len + middle_len + parsed->suffix_len;

	if (len < out_size)
	{
		memcpy(out, parsed->prefix, parsed->prefix_len);
		memcpy(out + parsed->prefix_len, middle, middle_len);
		memcpy(out + parsed->prefix_len + middle_len, parsed->suffix, parsed->suffix_len);
		out[len] = '\0';
	}
	else if (out_size > 0)
		out[0] = '\0';
	return len;
}

/*
 * Writes the device's topic and returns its length; writes "" where it needs out_size or more.  For
 * templates that have {device} alone.
 */
size_t
iot_topic_template_render(const IotTopicTemplate *parsed, const char *device, size_t device_len,
						  char *out, size_t out_size)
{
	return join(parsed, device, device_len, out, out_size);
}

/* Writes the filter that covers every device's topic; as iot_topic_template_render(). */
size_t
iot_topic_template_filter(const IotTopicTemplate *parsed, char *out, size_t out_size)
{
	size_t		used = 0;

	for (size_t from = 0, end; from <= parsed->len; from = end + 1)
	{
		const char *level = parsed->text + from;
		size_t		len;

		end = level_end(parsed->text, parsed->len, from);
		len = end - from;
		if (level_is(level, len, DEVICE) || level_is(level, len, PARAMETER))
		{
			level = "+";
			len = 1;
		}
		else if (level_is(level, len, DEVICE_SPAN))
		{
			level = "#";
			len = 1;
			end = parsed->len;
		}
		if (used + len < out_size)
		{
			memcpy(out + used, level, len);
			out[used + len] = '/';
		}
		used += len + 1;
	}
	/* the last level has no slash behind it */
	used--;
	if (out_size > 0)
		out[used < out_size ? used : 0] = '\0';
	return used;
}
