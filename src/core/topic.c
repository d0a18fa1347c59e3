/*
 * topic.c
 *		MQTT topics: templates with one {device} level, the device names they carry, and filters.
 *
 * A template is a topic in which {device} stands for one whole level: "iot/{device}/telemetry".
 * It is matched against incoming topics, filled in for outgoing ones, and turned into the filter
 * to subscribe to.  Brokers accept topics of 65 535 bytes and hundreds of levels, so everything
 * that comes from the network is bounded here before anything looks it up.
 */
#include "core/topic.h"

#include <string.h>

#include "core/utf8.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#define PLACEHOLDER		"{device}"
#define PLACEHOLDER_LEN	(sizeof(PLACEHOLDER) - 1)

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
find_placeholder(const char *text, size_t len)
{
	for (size_t i = 0; i + PLACEHOLDER_LEN <= len; i++)
	{
		if (memcmp(text + i, PLACEHOLDER, PLACEHOLDER_LEN) == 0)
			return text + i;
	}
	return NULL;
}

/*
 * Checks a template and splits it around {device}.  *parsed points into text, which must outlive
 * it.  On false, *error says why in a static phrase; error may be NULL.
 */
bool
iot_topic_template_parse(const char *text, size_t len, IotTopicTemplate *parsed,
						 const char **error)
{
	const char *reason = NULL;
	const char *at;
	const char *after;

	if (!iot_topic_valid(text, len, error))
		return false;
	at = find_placeholder(text, len);
	if (at == NULL)
		reason = "topic template lacks {device}";
	else
	{
		after = at + PLACEHOLDER_LEN;
		if ((at > text && at[-1] != '/') || (after < text + len && *after != '/'))
			reason = "{device} does not fill a whole level";
		else if (find_placeholder(after, (size_t) (text + len - after)) != NULL)
			reason = "topic template has {device} more than once";
		else if (memchr(text, '{', (size_t) (at - text)) != NULL ||
				 memchr(after, '{', (size_t) (text + len - after)) != NULL)
			reason = "topic template has a placeholder other than {device}";
		else if (len - PLACEHOLDER_LEN + IOT_DEVICE_NAME_MAX > IOT_TOPIC_MAX)
			reason = "topics of this template may be longer than 1024 bytes";
		else
		{
			parsed->prefix = text;
			parsed->prefix_len = (size_t) (at - text);
			parsed->suffix = after;
			parsed->suffix_len = (size_t) (text + len - after);
		}
	}
	if (error != NULL)
		*error = reason;
	return reason == NULL;
}

/*
 * Whether the topic is one of this template; *device is then what stands in the place of
 * {device}, within the topic.  It is one level, but not yet known to be a valid device name.
 */
bool
iot_topic_template_match(const IotTopicTemplate *parsed, const char *topic, size_t len,
						 const char **device, size_t *device_len)
{
	const char *name = topic + parsed->prefix_len;
	size_t		name_len;

	if (len <= parsed->prefix_len + parsed->suffix_len ||
		memcmp(topic, parsed->prefix, parsed->prefix_len) != 0 ||
		memcmp(topic + len - parsed->suffix_len, parsed->suffix, parsed->suffix_len) != 0)
		return false;
	name_len = len - parsed->prefix_len - parsed->suffix_len;
	if (memchr(name, '/', name_len) != NULL)
		return false;
	*device = name;
	*device_len = name_len;
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

/* Writes the device's topic and returns its length; writes "" where it needs out_size or more. */
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
	return join(parsed, "+", 1, out, out_size);
}
