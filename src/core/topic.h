/*
 * topic.h
 *		MQTT topics: templates with {device} in them, the device names they carry, and filters.
 */
#ifndef IOT_CORE_TOPIC_H
#define IOT_CORE_TOPIC_H

#include "core/core.h"

#define IOT_TOPIC_MAX			1024	/* bytes; MQTT itself allows 65 535 */
#define IOT_TOPIC_MAX_LEVELS	32
#define IOT_DEVICE_NAME_MAX		64
#define IOT_EXTERNAL_NAME_MAX	128	/* bytes of a name that is not ours */

/* What a template may have beside {device}, by the kind of its topic. */
#define IOT_TOPIC_MAY_PARAMETER		1	/* {parameter}, once */
#define IOT_TOPIC_MAY_ANY_LEVEL		2	/* "+", a level that does not matter */
#define IOT_TOPIC_MAY_LACK_DEVICE	4	/* no {device} */
#define IOT_TOPIC_MAY_SPAN			8	/* {device+}: one level or more */
#define IOT_TOPIC_MAY_REST			16	/* "#" at its end, all that follows */
#define IOT_TOPIC_MAY_ALL			31

/* A checked template; points into the text it was made from. */
typedef struct IotTopicTemplate
{
	const char *text;
	size_t		len;
	bool		has_device;
	const char *prefix;			/* before {device} */
	size_t		prefix_len;
	const char *suffix;			/* behind it */
	size_t		suffix_len;
	bool		plain;			/* {device} is all that it has */
	bool		spans;			/* it is {device+} */
	bool		has_parameter;
} IotTopicTemplate;

/* What stands in the places of a template, within the topic. */
typedef struct IotTopicMatch
{
	const char *device;			/* NULL where the template has none, like the other */
	size_t		device_len;
	const char *parameter;
	size_t		parameter_len;
} IotTopicMatch;

extern IOT_API bool iot_device_name_valid(const char *name, size_t len);
extern IOT_API bool iot_external_name_valid(const char *name, size_t len);
extern IOT_API bool iot_topic_valid(const char *topic, size_t len, const char **error);
extern IOT_API bool iot_topic_is_announcement(const char *topic, size_t len, const char *prefix);
extern IOT_API bool iot_topic_filter_valid(const char *filter, size_t len, const char **error);
extern IOT_API bool iot_topic_filters_overlap(const char *a, size_t a_len,
											  const char *b, size_t b_len);
extern IOT_API bool iot_topic_template_parse(const char *text, size_t len, int may,
											 IotTopicTemplate *parsed, const char **error);
extern IOT_API bool iot_topic_template_match(const IotTopicTemplate *parsed,
											 const char *topic, size_t len,
											 IotTopicMatch *match);
extern IOT_API size_t iot_topic_template_render(const IotTopicTemplate *parsed,
												const char *device, size_t device_len,
												char *out, size_t out_size);
extern IOT_API size_t iot_topic_template_filter(const IotTopicTemplate *parsed,
												char *out, size_t out_size);

#endif							/* IOT_CORE_TOPIC_H */
