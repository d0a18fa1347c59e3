/*
 * registry_cache.h
 *		What a backend knows of the registry while it takes in messages: devices by name, their
 *		sensors, the words of their parameters; registry_topics.h has the topics of their types.
 */
#ifndef IOT_REGISTRY_CACHE_H
#define IOT_REGISTRY_CACHE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/uuid.h"

#include "core/topic.h"
#include "labels.h"
#include "mapping.h"

typedef enum IotTopicKind
{
	IOT_TOPIC_TELEMETRY,
	IOT_TOPIC_ATTRIBUTES,
	IOT_TOPIC_STATUS,
	IOT_TOPIC_ACK,
	IOT_TOPIC_IGNORED			/* not for us, though a filter of ours covers it */
} IotTopicKind;

/* Those that a device has one of. */
#define IOT_TOPIC_KINDS 4

typedef struct IotSensor
{
	pg_uuid_t	parameter_id;
	const char *name;			/* of the parameter */
	uint32		name_len;
	const IotLabels *labels;	/* NULL where it has none */
} IotSensor;

typedef struct IotDevice
{
	const char *name;
	const char *spoken_name;	/* what it is called in topics and messages */
	bool		enabled;
	pg_uuid_t	device_id;
	pg_uuid_t	adapter_id;
	bool		send_when_awake;	/* commands wait for a sign of life */
	const IotMapping *mapping;	/* NULL where it speaks our own way */
	int64		offline_after;	/* silence that means offline, in microseconds; 0 for none */
	int			topics[IOT_TOPIC_KINDS];	/* indexes for iot_registry_topic_match() */
	int			sensor_count;
	int			sensor_hint;	/* where the last lookup ended */
	const IotSensor *sensors;	/* by name; other devices may have the same */
	TimestampTz seen_written;	/* last_seen_at as this backend wrote it */
	uint64		batch;			/* the last batch that touched the device */
	int			touch;			/* and its place there */
} IotDevice;

extern void iot_registry_begin(void);
extern void iot_registry_end(void);
extern IotDevice *iot_registry_device(const char *name, size_t len);
extern void iot_registry_load(List *names);
extern bool iot_registry_knows(char *spoken_name);
extern IotDevice *iot_registry_device_by_id(const pg_uuid_t *device_id);
extern IotDevice *iot_registry_device_by_name(text *name);
extern bool iot_spoken_name_valid(const char *name, size_t len);
extern const IotSensor *iot_device_sensor(IotDevice *device, const char *name, size_t len);
extern TimestampTz iot_registry_oldest(TimestampTz now);

#endif							/* IOT_REGISTRY_CACHE_H */
