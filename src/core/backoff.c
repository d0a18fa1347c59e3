/*
 * backoff.c
 *		How long to wait before trying again: exponential, with jitter and a cap.
 *
 * The jitter takes the upper half of each step: many that failed together spread out, and none
 * comes back at once.
 */
#include "core/backoff.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

/* splitmix64: any seed will do, 0 included. */
static uint64_t
next_random(uint64_t *state)
{
	uint64_t	z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/*
 * Milliseconds to wait after failure number attempt, counted from 0: between half of and the whole
 * of min(cap, base * 2^attempt).
 */
uint32_t
iot_backoff_delay(uint32_t base_ms, uint32_t cap_ms, uint32_t attempt, uint64_t *random)
{
	uint64_t	step = attempt < 32 ? (uint64_t) base_ms << attempt : cap_ms;
	uint64_t	half;

	if (step > cap_ms)
		step = cap_ms;
	half = step / 2;
	return (uint32_t) (half + next_random(random) % (step - half + 1));
}

/* The seed should differ between processes, else those that fail together come back together. */
void
iot_backoff_init(IotBackoff *backoff, uint32_t base_ms, uint32_t cap_ms, uint64_t seed)
{
	backoff->base_ms = base_ms;
	backoff->cap_ms = cap_ms;
	backoff->attempt = 0;
	backoff->random = seed;
}

/* Counts one more failure; returns the milliseconds to wait after it. */
uint32_t
iot_backoff_next(IotBackoff *backoff)
{
	uint32_t	delay = iot_backoff_delay(backoff->base_ms, backoff->cap_ms, backoff->attempt,
										  &backoff->random);

	if (backoff->attempt < UINT32_MAX)
		backoff->attempt++;
	return delay;
}

/* To be called after a success that lasted. */
void
iot_backoff_reset(IotBackoff *backoff)
{
	backoff->attempt = 0;
}
