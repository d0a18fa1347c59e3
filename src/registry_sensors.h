/*
 * registry_sensors.h
 *		Sensors of devices, for registry_cache.c.
 */
#ifndef IOT_REGISTRY_SENSORS_H
#define IOT_REGISTRY_SENSORS_H

#include "utils/palloc.h"

#include "registry_cache.h"

extern void iot_registry_sensors_begin(MemoryContext cxt, MemoryContext devices_cxt);
extern void iot_registry_sensors_forget(void);
extern void iot_registry_load_sensors(IotDevice **devices, int count);

#endif							/* IOT_REGISTRY_SENSORS_H */
