/*
 * glob.c
 *		Fuzz target: patterns over event types (core/glob.h), beside a matcher that tries everything.
 *
 * The text up to the first zero byte is the pattern, the rest what it is held against.
 */
#include "fuzz.h"

#include "core/glob.h"

#define SHORT	24				/* bytes up to which trying everything is cheap */

static bool
matches(const char *pattern, size_t pattern_len, const char *text, size_t text_len)
{
	if (pattern_len == 0)
		return text_len == 0;
	if (pattern[0] == '*')
		return matches(pattern + 1, pattern_len - 1, text, text_len) ||
			(text_len > 0 && matches(pattern, pattern_len, text + 1, text_len - 1));
	return text_len > 0 && pattern[0] == text[0] &&
		matches(pattern + 1, pattern_len - 1, text + 1, text_len - 1);
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
	if (pattern_len <= SHORT / 2 && text_len <= SHORT)
		REQUIRE(result == matches(pattern, pattern_len, text, text_len));
	return 0;
}
