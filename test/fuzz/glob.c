/*
 * glob.c
 *		Fuzz target: patterns over event types (core/glob.h), beside a matcher that is slow and plain.
 *
 * The text up to the first zero byte is the pattern, the rest what it is held against.
 */
#include "fuzz.h"

#include "core/glob.h"

#define SHORT	32				/* bytes up to which the other one is asked */

/* Whether each beginning of the pattern covers each beginning of the text, one after the other. */
static bool
matches(const char *pattern, size_t pattern_len, const char *text, size_t text_len)
{
	bool		covers[SHORT + 1] = {true};

	for (size_t p = 0; p < pattern_len; p++)
	{
		bool		before = covers[0];

		covers[0] = before && pattern[p] == '*';
		for (size_t t = 1; t <= text_len; t++)
		{
			bool		above = covers[t];

			covers[t] = pattern[p] == '*' ? above || covers[t - 1] :
				before && pattern[p] == text[t - 1];
			before = above;
		}
	}
	return covers[text_len];
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *pattern;
	const char *text;
	size_t		pattern_len;
	size_t		text_len;
	bool		result;

	split_input(data, size, &pattern, &pattern_len, &text, &text_len);
	if (!iot_glob_valid(pattern, pattern_len))
		return 0;
	REQUIRE(pattern_len <= IOT_GLOB_MAX);
	result = iot_glob_match(pattern, pattern_len, text, text_len);
	if (text_len <= SHORT)
		REQUIRE(result == matches(pattern, pattern_len, text, text_len));
	return 0;
}
