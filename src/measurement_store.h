/*
 * measurement_store.h
 *		Writing measurements, each once.
 */
#ifndef IOT_MEASUREMENT_STORE_H
#define IOT_MEASUREMENT_STORE_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

typedef enum IotPointState
{
	IOT_POINT_STORED,			/* or equal to what is stored: then it counts as a duplicate */
	IOT_POINT_DUPLICATE,		/* of another point of the batch */
	IOT_POINT_CONFLICT			/* its key holds another value */
} IotPointState;

/* One value on its way into iot.measurement. */
typedef struct IotPoint
{
	pg_uuid_t	device_id;
	pg_uuid_t	parameter_id;
	TimestampTz ts;
	double		value;
	int			message;		/* index in the batch */
	int			sequence;		/* order of arrival */
	bool		arrival_time;	/* the device gave none */
	IotPointState state;
} IotPoint;

typedef struct IotPointCounts
{
	uint64		stored;
	uint64		duplicate;
	uint64		conflict;
} IotPointCounts;

extern void iot_points_store(IotPoint *points, int count, IotPointCounts *counts);
extern bool iot_measurement_take_resolved(void);

#endif							/* IOT_MEASUREMENT_STORE_H */
