/*
 * mapping.h
 *		How devices of a type speak, where that is not our own way.
 */
#ifndef IOT_MAPPING_H
#define IOT_MAPPING_H

#include "pgtime.h"
#include "utils/uuid.h"

#include "core/body.h"
#include "labels.h"

/* Where a parameter's values are, and what they mean; texts as devices encode them. */
typedef struct IotMappedValue
{
	const char *parameter;
	uint32		parameter_len;
	const char *name;			/* what the device calls it, in topics */
	uint32		name_len;
	IotPath		path;
	double		scale;
	double		shift;
	const IotLabels *labels;	/* NULL: those of the sensor */
	const char *topic;			/* where alone it is reported; NULL: on the type's topics */
	uint32		topic_len;
} IotMappedValue;

/* Only device types that have any of this have a mapping. */
typedef struct IotMapping
{
	pg_uuid_t	device_type_id;
	char	  **more_templates;	/* further telemetry topics */
	int		   *more_topics;	/* their indexes for iot_registry_topic_match() */
	int			more_count;
	char	  **ignored_templates;
	int			ignored_count;
	IotPath    *device_path;	/* the devices that a message names; NULL: its topic does */
	bool		device_keys;	/* they are the keys of the object there */
	const char *only_device;	/* whose the topics without {device} are; NULL: nobody's */
	IotPath    *time_path;		/* NULL: the time of arrival */
	double		time_unit_ms;
	pg_tz	   *time_zone;		/* of times without one; NULL: they are refused */
	IotStatusWords *status;		/* NULL: the usual words */
	IotMappedValue *values;		/* by parameter; telemetry is of the default form without any */
	int			value_count;
} IotMapping;

extern IotMapping *iot_mapping_read(int *count);
extern bool iot_mapping_has_own_topic(const IotMapping *mapping, const char *topic, size_t len);
extern bool iot_mapping_has_topic(const IotMapping *mapping, int topic);

#endif							/* IOT_MAPPING_H */
