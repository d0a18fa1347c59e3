/*
 * fuzz.h
 *		What fuzz targets share.
 *
 * A target is a file <name>.c here with LLVMFuzzerTestOneInput(), its first inputs lie in
 * corpus.seed/<name>/, and what once broke it in regressions/<name>/.  Beyond not crashing under the
 * sanitizers, a target requires what the code promises.  Inputs are handed on in memory of their own
 * size, so that reading a byte beyond is seen.
 */
#ifndef IOT_FUZZ_H
#define IOT_FUZZ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition) do { if (!(condition)) abort(); } while (0)

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The text up to the first zero byte, and what follows that; all of it and nothing without one. */
static inline void
split_input(const uint8_t *data, size_t size, const char **first, size_t *first_len,
			const char **second, size_t *second_len)
{
	const uint8_t *zero = size > 0 ? memchr(data, '\0', size) : NULL;

	*first = (const char *) data;
	*first_len = zero != NULL ? (size_t) (zero - data) : size;
	*second = (const char *) (zero != NULL ? zero + 1 : data + size);
	*second_len = zero != NULL ? size - *first_len - 1 : 0;
}

#endif							/* IOT_FUZZ_H */
