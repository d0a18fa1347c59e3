/*
 * device_state.h
 *		What devices say of themselves: alive, online or offline, attributes.
 */
#ifndef IOT_DEVICE_STATE_H
#define IOT_DEVICE_STATE_H

#include "utils/jsonb.h"

#include "registry_cache.h"

/* One message that says something about its device beside measurements, in order of arrival. */
typedef struct IotDeviceReport
{
	IotDevice  *device;
	TimestampTz at;
	Jsonb	   *attributes;		/* NULL for a status */
	bool		online;			/* of a status */
	int			message;		/* index in the batch */
	bool		replayed;		/* it came long ago, and counts for what is not newer */
	bool		refused;		/* out: the attributes would grow too large */
} IotDeviceReport;

/* A device of the batch, and when it last spoke. */
typedef struct IotDeviceTouch
{
	IotDevice  *device;
	TimestampTz seen_at;		/* DT_NOBEGIN where only the broker spoke for it */
} IotDeviceTouch;

#define IOT_ATTRIBUTES_MAX_BYTES	(256 * 1024)

extern void iot_device_state_store(IotDeviceTouch *touches, int ntouches,
								   IotDeviceReport *reports, int nreports);
extern PGDLLEXPORT bool iot_device_state_released(void);

#endif							/* IOT_DEVICE_STATE_H */
