/*
 * reply.c
 *		Fuzz target: acknowledgements, status and attributes of devices (core/payload.h).
 */
#include "fuzz.h"

#include "core/payload.h"
#include "core/utf8.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *) data;
	const char *error = NULL;
	bool		online;
	IotAck		ack;

	if (iot_ack_parse(text, size, &ack, &error) == IOT_PAYLOAD_OK)
	{
		REQUIRE(error == NULL && memchr(ack.error, '\0', sizeof(ack.error)) != NULL);
		REQUIRE(iot_utf8_valid(ack.error, strlen(ack.error)));
	}
	else
		REQUIRE(error != NULL);
	error = NULL;
	REQUIRE((iot_status_parse(text, size, &online, &error) == IOT_PAYLOAD_OK) == (error == NULL));
	error = NULL;
	REQUIRE((iot_attributes_check(text, size, &error) == IOT_PAYLOAD_OK) == (error == NULL));
	return 0;
}
