/*
 * topic.c
 *		Fuzz target: topics, their templates and filters (core/topic.h).
 *
 * The text up to the first zero byte is a template, or a filter, the rest a topic, or another one.
 */
#include "fuzz.h"

#include "core/topic.h"

static void
take_apart(const IotTopicTemplate *parsed, const char *topic, size_t topic_len)
{
	IotTopicMatch match;
	char		out[IOT_TOPIC_MAX + 1];

	if (!iot_topic_template_match(parsed, topic, topic_len, &match))
		return;
	REQUIRE((match.device != NULL) == parsed->has_device);
	REQUIRE(match.device == NULL ||
			(match.device >= topic && match.device_len > 0 &&
			 match.device + match.device_len <= topic + topic_len));
	REQUIRE(match.parameter == NULL ||
			(match.parameter >= topic && match.parameter_len > 0 &&
			 match.parameter + match.parameter_len <= topic + topic_len));
	if (!parsed->plain || !iot_device_name_valid(match.device, match.device_len))
		return;
	REQUIRE(iot_external_name_valid(match.device, match.device_len));
	/* what was taken apart goes together again */
	REQUIRE(iot_topic_template_render(parsed, match.device, match.device_len, out,
									  sizeof(out)) == topic_len);
	REQUIRE(topic_len >= sizeof(out) || memcmp(out, topic, topic_len) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *first;
	const char *second;
	size_t		first_len;
	size_t		second_len;
	IotTopicTemplate parsed;
	char		filter[IOT_TOPIC_MAX + 1];
	char		small[8];
	size_t		len;

	split_input(data, size, &first, &first_len, &second, &second_len);
	(void) iot_device_name_valid(first, first_len);
	(void) iot_external_name_valid(second, second_len);
	(void) iot_topic_valid(second, second_len, NULL);
	(void) iot_topic_is_announcement(second, second_len, "a");
	if (iot_topic_filter_valid(first, first_len, NULL) &&
		iot_topic_filter_valid(second, second_len, NULL))
	{
		bool		overlap = iot_topic_filters_overlap(first, first_len, second, second_len);

		REQUIRE(overlap == iot_topic_filters_overlap(second, second_len, first, first_len));
		REQUIRE(iot_topic_filters_overlap(first, first_len, first, first_len));
	}
	if (!iot_topic_template_parse(first, first_len, IOT_TOPIC_MAY_ALL, &parsed, NULL))
		return 0;
	take_apart(&parsed, second, second_len);
	len = iot_topic_template_filter(&parsed, filter, sizeof(filter));
	REQUIRE(len < sizeof(filter) && iot_topic_filter_valid(filter, len, NULL));
	REQUIRE(iot_topic_template_filter(&parsed, small, sizeof(small)) == len);
	REQUIRE(memchr(small, '\0', sizeof(small)) != NULL);
	return 0;
}
