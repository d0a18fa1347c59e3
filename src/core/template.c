/*
 * template.c
 *		Texts with {placeholders}: notifications, and the payloads of commands.
 *
 * A placeholder is "{", a lower case letter, more of [a-z0-9_], "}".  Any other brace stands for
 * itself, so that JSON needs no escaping: {"set":{value}} holds one placeholder.  "{{" is a plain
 * "{", for whoever wants the letters {value}; JSON never has two opening braces in a row.
 */
#include "core/template.h"

#include <string.h>

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

/* Where a sink writes: counts what is asked for, stores what fits. */
typedef struct Sink
{
	char	   *out;
	size_t		size;
	size_t		len;
} Sink;

static void
put(Sink *sink, const char *data, size_t len)
{
	if (sink->len < sink->size)
	{
		size_t		room = sink->size - sink->len;

		memcpy(sink->out + sink->len, data, len < room ? len : room);
	}
	sink->len += len;
}

/* Ends the text; one that did not fit becomes "", since half a payload must never be sent. */
static size_t
finish(Sink *sink)
{
	if (sink->size > 0)
		sink->out[sink->len < sink->size ? sink->len : 0] = '\0';
	return sink->len;
}

static void
put_json(Sink *sink, const char *data, size_t len)
{
	static const char hex[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) data[i];

		if (c == '"' || c == '\\')
		{
			char		escaped[2] = {'\\', (char) c};

			put(sink, escaped, 2);
		}
		else if (c < 0x20)
		{
			char		escaped[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};

			put(sink, escaped, 6);
		}
		else
			put(sink, data + i, 1);
	}
}

/* Bytes of the placeholder at the start of the text, braces included; 0 where there is none. */
static size_t
placeholder_length(const char *text, size_t len)
{
	size_t		i = 1;

	if (len < 3 || text[0] != '{' || text[1] < 'a' || text[1] > 'z')
		return 0;
	while (i < len && ((text[i] >= 'a' && text[i] <= 'z') ||
					   (text[i] >= '0' && text[i] <= '9') || text[i] == '_'))
		i++;
	return i < len && text[i] == '}' ? i + 1 : 0;
}

/*
 * Finds the next placeholder from *offset on, leaves *offset behind it and its name, without the
 * braces, in *name.  False when there is no more.
 */
bool
iot_template_next(const char *text, size_t len, size_t *offset, const char **name,
				  size_t *name_len)
{
	size_t		i = *offset;

	while (i < len)
	{
		size_t		n;

		if (text[i] != '{')
		{
			i++;
			continue;
		}
		if (i + 1 < len && text[i + 1] == '{')
		{
			i += 2;
			continue;
		}
		n = placeholder_length(text + i, len - i);
		if (n == 0)
		{
			i++;
			continue;
		}
		*name = text + i + 1;
		*name_len = n - 2;
		*offset = i + n;
		return true;
	}
	*offset = len;
	return false;
}

static bool
is_known(const char *name, size_t name_len, const char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++)
	{
		if (strlen(names[i]) == name_len && memcmp(names[i], name, name_len) == 0)
			return true;
	}
	return false;
}

/*
 * Number of placeholders that are none of the names; they are listed in out as "{a}, {b}", as many
 * as fit.
 */
size_t
iot_template_unknown(const char *text, size_t len, const char *const *names, size_t count,
					 char *out, size_t out_size)
{
	size_t		unknown = 0;
	size_t		used = 0;
	size_t		offset = 0;
	const char *name;
	size_t		name_len;

	if (out_size > 0)
		out[0] = '\0';
	while (iot_template_next(text, len, &offset, &name, &name_len))
	{
		size_t		gap = used > 0 ? 2 : 0;

		if (is_known(name, name_len, names, count))
			continue;
		unknown++;
		if (used + gap + name_len + 3 <= out_size)
		{
			memcpy(out + used, ", ", gap);
			memcpy(out + used + gap, name - 1, name_len + 2);
			used += gap + name_len + 2;
			out[used] = '\0';
		}
	}
	return unknown;
}

/* Whether the text is meant as JSON, that is, begins as an object, an array or a string. */
bool
iot_template_is_json(const char *text, size_t len)
{
	size_t		i = 0;

	while (i < len && (text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r'))
		i++;
	if (i == len)
		return false;
	if (text[i] == '{')
		return placeholder_length(text + i, len - i) == 0;
	return text[i] == '[' || text[i] == '"';
}

/*
 * Writes the text with its placeholders filled in and returns its length; writes "" where it needs
 * out_size or more, so that a caller can ask with a size of 0.
 */
size_t
iot_template_render(const char *text, size_t len, IotTemplateMode mode,
					IotTemplateLookup lookup, void *arg, char *out, size_t out_size)
{
	Sink		sink = {out, out_size, 0};
	size_t		i = 0;

	while (i < len)
	{
		const char *brace = memchr(text + i, '{', len - i);
		size_t		plain = brace != NULL ? (size_t) (brace - text) - i : len - i;
		size_t		n;

		put(&sink, text + i, plain);
		i += plain;
		if (i == len)
			break;
		n = placeholder_length(text + i, len - i);
		if (n > 0)
		{
			size_t		value_len = 0;
			const char *value = lookup(arg, text + i + 1, n - 2, &value_len);

			if (value != NULL && mode == IOT_TEMPLATE_JSON)
				put_json(&sink, value, value_len);
			else if (value != NULL)
				put(&sink, value, value_len);
			i += n;
		}
		else
		{
			put(&sink, "{", 1);
			i += i + 1 < len && text[i + 1] == '{' ? 2 : 1;
		}
	}
	return finish(&sink);
}
