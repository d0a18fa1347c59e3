/*
 * glob.c
 *		Patterns over event types: "adapter.*", "alarm.opened", "*".
 *
 * "*" stands for any characters or none, dots included; everything else stands for itself.
 */
#include "core/glob.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

/* Whether the pattern has 1 to 128 of the characters that event types are made of, or "*". */
bool
iot_glob_valid(const char *pattern, size_t len)
{
	if (len == 0 || len > IOT_GLOB_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char		c = pattern[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			  c == '_' || c == '.' || c == ':' || c == '-' || c == '*'))
			return false;
	}
	return true;
}

/*
 * Whether the pattern covers the whole text.  Only the last "*" is ever reconsidered, so the cost
 * is at most the product of the lengths, whatever the pattern.
 */
bool
iot_glob_match(const char *pattern, size_t pattern_len, const char *text, size_t text_len)
{
	size_t		p = 0;
	size_t		t = 0;
	size_t		star = pattern_len; /* position of the last "*" passed */
	size_t		star_text = 0;	/* where the text went on after it */

	while (t < text_len)
	{
		if (p < pattern_len && pattern[p] == '*')
		{
			star = p++;
			star_text = t;
		}
		else if (p < pattern_len && pattern[p] == text[t])
		{
			p++;
			t++;
		}
		else if (star < pattern_len)
		{
			p = star + 1;
			t = ++star_text;
		}
		else
			return false;
	}
	while (p < pattern_len && pattern[p] == '*')
		p++;
	return p == pattern_len;
}
