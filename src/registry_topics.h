/*
 * registry_topics.h
 *		Which topics the device types have, and what a message's topic is.
 */
#ifndef IOT_REGISTRY_TOPICS_H
#define IOT_REGISTRY_TOPICS_H

#include "registry_cache.h"

/* for registry_cache.c */
extern void iot_registry_topics_load(void);
extern void iot_registry_set_type(IotDevice *device, const pg_uuid_t *device_type_id);

/* for those who take in messages */
extern int	iot_registry_topic_match(int from, const char *topic, size_t len,
									 IotTopicKind *kind, IotTopicMatch *match);
extern const IotMapping *iot_registry_topic_mapping(int at);
extern bool iot_registry_has_gateways(void);
extern const IotMapping *iot_registry_gateway_match(const char *topic, size_t len, int *at,
													IotTopicKind *kind, IotTopicMatch *match);
extern bool iot_registry_has_owned_topics(void);
extern int	iot_registry_owned_topic(const char *topic, size_t len);
extern const IotMapping *iot_registry_owner(int at, const char *topic, size_t len,
											IotTopicKind *kind);
extern const char *iot_registry_topic_template(int at);
extern bool iot_device_has_topic(const IotDevice *device, IotTopicKind kind, int at);

#endif							/* IOT_REGISTRY_TOPICS_H */
