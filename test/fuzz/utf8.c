/*
 * utf8.c
 *		Fuzz target: validity of UTF-8, and cutting it (core/utf8.h).
 */
#include "fuzz.h"

#include "core/utf8.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *) data;
	size_t		half = size / 2;
	size_t		cut;

	if (!iot_utf8_valid(text, size))
		return 0;
	cut = iot_utf8_clip(text, size, half);
	REQUIRE(cut <= half && half - cut < 4);
	REQUIRE(iot_utf8_valid(text, cut) && iot_utf8_valid(text + cut, size - cut));
	REQUIRE(iot_utf8_clip(text, size, size) == size);
	return 0;
}
