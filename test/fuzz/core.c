/*
 * core.c
 *		Everything that reads what strangers send, under libFuzzer and the sanitizers.
 *
 * The first byte chooses the reader, the rest is what it reads.  Beyond not crashing, each reader
 * keeps its promise: what it hands out lies within bounds, and a refusal hands out nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "core/glob.h"
#include "core/payload.h"
#include "core/template.h"
#include "core/timestamp.h"
#include "core/topic.h"
#include "core/utf8.h"

#define REQUIRE(condition) do { if (!(condition)) abort(); } while (0)

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
read_telemetry(const char *text, size_t len)
{
	static IotTelemetry telemetry;
	IotPayloadStatus status = iot_telemetry_parse(&telemetry, text, len);

	REQUIRE((status == IOT_PAYLOAD_OK) == (telemetry.error == NULL));
	REQUIRE(status == IOT_PAYLOAD_OK || telemetry.count == 0);
	REQUIRE(telemetry.count <= IOT_PAYLOAD_MAX_VALUES && telemetry.error_at <= len);
	for (size_t i = 0; i < telemetry.count; i++)
	{
		const IotValue *value = &telemetry.values[i];

		REQUIRE(memchr(value->name, '\0', value->name_len) == NULL);
		REQUIRE(iot_utf8_valid(value->name, value->name_len));
		if (value->kind == IOT_VALUE_WORD)
			REQUIRE(iot_utf8_valid(value->word, value->word_len));
		if (value->kind == IOT_VALUE_NUMBER)
			REQUIRE(value->number == value->number);
	}
}

static void
read_reply(const char *text, size_t len)
{
	const char *error = NULL;
	bool		online;
	IotAck		ack;

	if (iot_ack_parse(text, len, &ack, &error) == IOT_PAYLOAD_OK)
		REQUIRE(iot_utf8_valid(ack.error, strlen(ack.error)));
	else
		REQUIRE(error != NULL);
	REQUIRE((iot_status_parse(text, len, &online, &error) == IOT_PAYLOAD_OK) == (error == NULL));
	REQUIRE((iot_attributes_check(text, len, &error) == IOT_PAYLOAD_OK) == (error == NULL));
}

/* The text up to its first zero byte is a template, the rest a topic. */
static void
read_topic(const char *text, size_t len)
{
	const char *split = memchr(text, '\0', len);
	const char *topic = split != NULL ? split + 1 : text;
	size_t		template_len = split != NULL ? (size_t) (split - text) : len;
	size_t		topic_len = (size_t) (text + len - topic);
	IotTopicTemplate parsed;
	const char *device;
	size_t		device_len;
	char		out[IOT_TOPIC_MAX + 1];

	(void) iot_topic_valid(topic, topic_len, NULL);
	if (!iot_topic_template_parse(text, template_len, &parsed, NULL) ||
		!iot_topic_template_match(&parsed, topic, topic_len, &device, &device_len))
		return;
	REQUIRE(device >= topic && device + device_len <= topic + topic_len);
	if (iot_device_name_valid(device, device_len))
	{
		/* what was taken apart goes together again */
		REQUIRE(iot_topic_template_render(&parsed, device, device_len, out, sizeof(out)) == topic_len);
		REQUIRE(memcmp(out, topic, topic_len) == 0);
	}
}

static const char *
echo(void *arg, const char *name, size_t name_len, size_t *len)
{
	*len = name_len;
	return name;
}

static void
read_template(const char *text, size_t len)
{
	static const char *const names[] = {"device", "value"};
	char		small[32];
	size_t		needed = iot_template_render(text, len, IOT_TEMPLATE_JSON, echo, NULL, NULL, 0);
	char	   *out = malloc(needed + 1);

	REQUIRE(out != NULL);
	REQUIRE(iot_template_render(text, len, IOT_TEMPLATE_JSON, echo, NULL, out, needed + 1) == needed);
	REQUIRE(iot_template_render(text, len, IOT_TEMPLATE_JSON, echo, NULL, small, sizeof(small)) == needed);
	REQUIRE(memchr(small, '\0', sizeof(small)) != NULL);
	(void) iot_template_unknown(text, len, names, 2, small, sizeof(small));
	(void) iot_template_is_json(text, len);
	free(out);
}

static void
read_rest(const char *text, size_t len)
{
	size_t		half = len / 2;
	int64_t		micros;

	if (iot_timestamp_parse(text, len, &micros))
		REQUIRE(micros >= INT64_C(-62135596800000000) && micros < INT64_C(253402300800000000));
	(void) iot_glob_match(text, half < IOT_GLOB_MAX ? half : IOT_GLOB_MAX, text + half, len - half);
	if (iot_utf8_valid(text, len) && len > 3)
		REQUIRE(iot_utf8_valid(text, iot_utf8_clip(text, len, half)));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const readers[]) (const char *text, size_t len) = {
		read_telemetry, read_reply, read_topic, read_template, read_rest
	};

	if (size > 0)
		readers[data[0] % 5] ((const char *) data + 1, size - 1);
	return 0;
}
