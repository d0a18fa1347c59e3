/*
 * uuidv7.c
 *		Time-ordered uuids (RFC 9562, version 7) for every key of the platform.
 *
 * 48 bits of milliseconds, 12 bits of the fraction of the millisecond, 62 random bits.  The 60
 * time bits of one process never repeat nor go backwards, so rows made in one transaction sort in
 * the order in which they were made, and index pages fill from the right.
 *
 * The system's random numbers are fetched for some uuids at a time, since starting to fetch them takes
 * longer than anything else here.
 */
#include "postgres.h"

#include <time.h>

#include "fmgr.h"

#include "uuidv7.h"

PG_FUNCTION_INFO_V1(iot_uuidv7_sql);

#define RANDOM_BYTES	8

/* Bytes that nobody has had yet. */
static void
take_random(unsigned char *bytes)
{
	static unsigned char pool[16 * RANDOM_BYTES];
	static size_t left = 0;

	if (left == 0)
	{
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		left = sizeof(pool);
	}
	left -= RANDOM_BYTES;
	memcpy(bytes, pool + left, RANDOM_BYTES);
}

void
iot_uuidv7(pg_uuid_t *uuid)
{
	static uint64 last = 0;
	struct timespec now;
	uint64		ticks;			/* 1/4096 milliseconds since 1970 */
	uint64		ms;

	clock_gettime(CLOCK_REALTIME, &now);
	ticks = ((uint64) now.tv_sec * 1000 + now.tv_nsec / 1000000) << 12 |
		((uint64) (now.tv_nsec % 1000000) << 12) / 1000000;
	if (ticks <= last)
		ticks = last + 1;
	last = ticks;
	ms = ticks >> 12;

	take_random(&uuid->data[8]);
	for (int i = 0; i < 6; i++)
		uuid->data[i] = (unsigned char) (ms >> (40 - 8 * i));
	uuid->data[6] = 0x70 | ((ticks >> 8) & 0x0f);
	uuid->data[7] = ticks & 0xff;
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
}

/* iot_internal.uuidv7() returns uuid; VOLATILE PARALLEL SAFE. */
Datum
iot_uuidv7_sql(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	iot_uuidv7(uuid);
	PG_RETURN_UUID_P(uuid);
}
