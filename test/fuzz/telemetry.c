/*
 * telemetry.c
 *		Fuzz target: what devices measure (core/payload.h).
 */
#include "fuzz.h"

#include "core/payload.h"
#include "core/utf8.h"

static void
check_value(const IotValue *value)
{
	REQUIRE(memchr(value->name, '\0', value->name_len) == NULL);
	REQUIRE(iot_utf8_valid(value->name, value->name_len));
	if (value->kind == IOT_VALUE_WORD)
		REQUIRE(iot_utf8_valid(value->word, value->word_len));
	if (value->kind == IOT_VALUE_NUMBER)
		REQUIRE(value->number == value->number);
	if (value->has_ts)
		REQUIRE(value->ts >= INT64_C(-62135596800000000) &&
				value->ts < INT64_C(253402300800000000));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static IotTelemetry telemetry;	/* as in the workers: one for all messages */
	IotPayloadStatus status = iot_telemetry_parse(&telemetry, (const char *) data, size);

	REQUIRE((status == IOT_PAYLOAD_OK) == (telemetry.error == NULL));
	REQUIRE(status == IOT_PAYLOAD_OK || telemetry.count == 0);
	REQUIRE(telemetry.count <= IOT_PAYLOAD_MAX_VALUES && telemetry.error_at <= size);
	for (size_t i = 0; i < telemetry.count; i++)
		check_value(&telemetry.values[i]);
	return 0;
}
