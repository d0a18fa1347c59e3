/*
 * backoff.h
 *		How long to wait before trying again: exponential, with jitter and a cap.
 */
#ifndef IOT_CORE_BACKOFF_H
#define IOT_CORE_BACKOFF_H

#include "core/core.h"

typedef struct IotBackoff
{
	uint32_t	base_ms;
	uint32_t	cap_ms;
	uint32_t	attempt;		/* failures in a row so far */
	uint64_t	random;			/* state of the jitter */
} IotBackoff;

extern IOT_API uint32_t iot_backoff_delay(uint32_t base_ms, uint32_t cap_ms, uint32_t attempt,
										  uint64_t *random);
extern IOT_API void iot_backoff_init(IotBackoff *backoff, uint32_t base_ms, uint32_t cap_ms,
									 uint64_t seed);
extern IOT_API uint32_t iot_backoff_next(IotBackoff *backoff);
extern IOT_API void iot_backoff_reset(IotBackoff *backoff);

#endif							/* IOT_CORE_BACKOFF_H */
