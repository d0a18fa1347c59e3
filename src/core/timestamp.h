/*
 * timestamp.h
 *		Device times: ISO 8601, or milliseconds since 1970.
 */
#ifndef IOT_CORE_TIMESTAMP_H
#define IOT_CORE_TIMESTAMP_H

#include "core/core.h"

/* Both give microseconds since 1970-01-01 00:00:00 UTC, from year 1 to year 9999. */
extern IOT_API bool iot_timestamp_parse(const char *text, size_t len, int64_t *micros);
extern IOT_API bool iot_timestamp_parse_local(const char *text, size_t len, int64_t *micros);
extern IOT_API bool iot_timestamp_from_ms(double ms, int64_t *micros);

#endif							/* IOT_CORE_TIMESTAMP_H */
