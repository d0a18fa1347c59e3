/*
 * sensor_value.h
 *		Moving the current values of sensors on, by measurements and by commands.
 */
#ifndef IOT_SENSOR_VALUE_H
#define IOT_SENSOR_VALUE_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

typedef struct IotSensorKey
{
	pg_uuid_t	device_id;
	pg_uuid_t	parameter_id;
} IotSensorKey;

/* What a sensor reported last, and, once that is stored, from where its value moved on. */
typedef struct IotSensorMove
{
	IotSensorKey key;
	TimestampTz ts;
	double		value;
	bool		moved;			/* newer than what was known before */
	TimestampTz after;			/* if so, the time of that; DT_NOBEGIN where there was none */
	double		before;			/* and its value; NaN where there was none */
} IotSensorMove;

extern void iot_sensor_values_move(IotSensorMove **moves, int count);
extern int64 iot_sensor_value_command(const pg_uuid_t *device_id, const pg_uuid_t *parameter_id,
									  double value, TimestampTz at);

#endif							/* IOT_SENSOR_VALUE_H */
