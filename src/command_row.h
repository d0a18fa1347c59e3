/*
 * command_row.h
 *		What the Device Service and others need to know of one command.
 */
#ifndef IOT_COMMAND_ROW_H
#define IOT_COMMAND_ROW_H

#include "executor/spi.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "event.h"

typedef struct NullableFloat8
{
	bool		isnull;
	double		value;
} NullableFloat8;

/* State of a sensor that a write replaces, and that a refusal of this write puts back. */
typedef struct SensorState
{
	NullableFloat8 value;
	bool		value_at_null;
	TimestampTz value_at;
	char	   *source;			/* NULL: none */
	int64		version;
	NullableFloat8 desired;
	int64		desired_version;
} SensorState;

typedef struct CommandRow
{
	pg_uuid_t	device_id;
	pg_uuid_t	command_id;
	pg_uuid_t	parameter_id;
	bool		has_request_id;
	pg_uuid_t	request_id;
	char	   *device;
	char	   *parameter;
	char	   *unit;			/* NULL: none */
	char	   *action;
	double		value;
	NullableFloat8 expected;
	NullableFloat8 target_value;
	int64		version;		/* 0: none yet */
	char	   *username;
	char	   *status;
	SensorState previous;
	NullableFloat8 value_min;
	NullableFloat8 value_max;
} CommandRow;

/* The columns that command_row_read() expects, from first on, of c, d, p and s. */
#define COMMAND_ROW_COLUMNS \
	"c.device_id, c.command_id, c.parameter_id, c.request_id, d.name, p.name, p.unit, c.action," \
	" c.value, c.expected, c.target_value, c.version, c.username, c.status," \
	" c.previous_value, c.previous_value_at, c.previous_source, c.previous_version," \
	" c.previous_desired, c.previous_desired_version," \
	" coalesce(s.value_min, p.value_min), coalesce(s.value_max, p.value_max)"
#define COMMAND_ROW_JOINS \
	" JOIN iot.device d ON d.device_id = c.device_id" \
	" JOIN iot.parameter p ON p.parameter_id = c.parameter_id" \
	" LEFT JOIN iot.sensor s ON s.device_id = c.device_id AND s.parameter_id = c.parameter_id"
#define COMMAND_ROW_NCOLUMNS 22

/* The columns that sensor_state_read() expects, from first on. */
#define SENSOR_STATE_COLUMNS \
	"v.value, v.value_at, v.source, v.version, v.desired, v.desired_version"

extern void command_row_read(HeapTuple row, TupleDesc desc, int first, CommandRow *command);
extern void sensor_state_read(HeapTuple row, TupleDesc desc, int first, SensorState *state);
extern void command_payload_begin(const CommandRow *command, IotPayload *payload);

#endif							/* IOT_COMMAND_ROW_H */
