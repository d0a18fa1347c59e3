/*
 * glob.h
 *		Patterns over event types: "adapter.*", "alarm.opened", "*".
 */
#ifndef IOT_CORE_GLOB_H
#define IOT_CORE_GLOB_H

#include "core/core.h"

#define IOT_GLOB_MAX	128		/* bytes of a pattern */

extern IOT_API bool iot_glob_valid(const char *pattern, size_t len);
extern IOT_API bool iot_glob_match(const char *pattern, size_t pattern_len,
								   const char *text, size_t text_len);

#endif							/* IOT_CORE_GLOB_H */
