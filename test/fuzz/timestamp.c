/*
 * timestamp.c
 *		Fuzz target: device times as text and as a number (core/timestamp.h).
 */
#include "fuzz.h"

#include "core/timestamp.h"

static void
check_range(int64_t micros)
{
	REQUIRE(micros >= INT64_C(-62135596800000000) && micros < INT64_C(253402300800000000));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int64_t		micros;
	double		ms;

	if (iot_timestamp_parse((const char *) data, size, &micros))
	{
		check_range(micros);
		REQUIRE(!iot_timestamp_parse_local((const char *) data, size, &micros));
	}
	if (iot_timestamp_parse_local((const char *) data, size, &micros))
		check_range(micros);
	if (size < sizeof(ms))
		return 0;
	memcpy(&ms, data, sizeof(ms));
	if (iot_timestamp_from_ms(ms, &micros))
		check_range(micros);
	return 0;
}
