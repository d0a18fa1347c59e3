/*
 * topic.h
 *		MQTT topics: templates with one {device} level, the device names they carry, and filters.
 */
#ifndef IOT_CORE_TOPIC_H
#define IOT_CORE_TOPIC_H

#include "core/core.h"

#define IOT_TOPIC_MAX			1024	/* bytes; MQTT itself allows 65 535 */
#define IOT_TOPIC_MAX_LEVELS	32
#define IOT_DEVICE_NAME_MAX		64

/* A checked template; points into the text it was made from. */
typedef struct IotTopicTemplate
{
	const char *prefix;
	size_t		prefix_len;
	const char *suffix;
	size_t		suffix_len;
} IotTopicTemplate;

extern IOT_API bool iot_device_name_valid(const char *name, size_t len);
extern IOT_API bool iot_topic_valid(const char *topic, size_t len, const char **error);
extern IOT_API bool iot_topic_filter_valid(const char *filter, size_t len, const char **error);
extern IOT_API bool iot_topic_filters_overlap(const char *a, size_t a_len,
											  const char *b, size_t b_len);
extern IOT_API bool iot_topic_template_parse(const char *text, size_t len,
											 IotTopicTemplate *parsed, const char **error);
extern IOT_API bool iot_topic_template_match(const IotTopicTemplate *parsed,
											 const char *topic, size_t len,
											 const char **device, size_t *device_len);
extern IOT_API size_t iot_topic_template_render(const IotTopicTemplate *parsed,
												const char *device, size_t device_len,
												char *out, size_t out_size);
extern IOT_API size_t iot_topic_template_filter(const IotTopicTemplate *parsed,
												char *out, size_t out_size);

#endif							/* IOT_CORE_TOPIC_H */
