/*
 * test.h
 *		What cmocka wants included before itself, and a few shorthands.
 */
#ifndef IOT_UNIT_TEST_H
#define IOT_UNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A literal and its length, zero bytes within it included. */
#define BYTES(literal) (literal), (sizeof(literal) - 1)

/* Both ends included.  That of cmocka has another name in its second version. */
#define assert_between(number, low, high) \
	do { \
		uintmax_t	number_ = (number), \
					low_ = (low), \
					high_ = (high); \
		\
		if (number_ < low_ || number_ > high_) \
			fail_msg("%ju is not within %s", number_, #low " and " #high); \
	} while (0)

/*
 * A copy on the heap that ends where the text ends, so that the sanitizer sees whoever reads
 * further.  To be freed.
 */
static inline char *
exact_copy(const char *text, size_t len)
{
	char	   *copy = malloc(len > 0 ? len : 1);

	assert_non_null(copy);
	memcpy(copy, text, len);
	return copy;
}

#endif							/* IOT_UNIT_TEST_H */
