/*
 * command_row.c
 *		What the Device Service and others need to know of one command.
 *
 * Pointers in the results go into the tuple table or the current memory context, and so live until
 * SPI_finish.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "command_row.h"

static void
read_uuid(HeapTuple row, TupleDesc desc, int column, pg_uuid_t *uuid, bool *isnull)
{
	Datum		value = SPI_getbinval(row, desc, column, isnull);

	if (!*isnull)
		*uuid = *DatumGetUUIDP(value);
}

static void
read_float8(HeapTuple row, TupleDesc desc, int column, NullableFloat8 *number)
{
	Datum		value = SPI_getbinval(row, desc, column, &number->isnull);

	number->value = number->isnull ? 0 : DatumGetFloat8(value);
}

static char *
read_text(HeapTuple row, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, desc, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static int64
read_int8(HeapTuple row, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, desc, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

void
sensor_state_read(HeapTuple row, TupleDesc desc, int first, SensorState *state)
{
	Datum		value_at;

	read_float8(row, desc, first, &state->value);
	value_at = SPI_getbinval(row, desc, first + 1, &state->value_at_null);
	state->value_at = state->value_at_null ? 0 : DatumGetTimestampTz(value_at);
	state->source = read_text(row, desc, first + 2);
	state->version = read_int8(row, desc, first + 3);
	read_float8(row, desc, first + 4, &state->desired);
	state->desired_version = read_int8(row, desc, first + 5);
}

void
command_row_read(HeapTuple row, TupleDesc desc, int first, CommandRow *command)
{
	bool		isnull;

	read_uuid(row, desc, first, &command->device_id, &isnull);
	read_uuid(row, desc, first + 1, &command->command_id, &isnull);
	read_uuid(row, desc, first + 2, &command->parameter_id, &isnull);
	read_uuid(row, desc, first + 3, &command->request_id, &isnull);
	command->has_request_id = !isnull;
	command->device = read_text(row, desc, first + 4);
	command->parameter = read_text(row, desc, first + 5);
	command->unit = read_text(row, desc, first + 6);
	command->action = read_text(row, desc, first + 7);
	command->value = DatumGetFloat8(SPI_getbinval(row, desc, first + 8, &isnull));
	read_float8(row, desc, first + 9, &command->expected);
	read_float8(row, desc, first + 10, &command->target_value);
	command->version = read_int8(row, desc, first + 11);
	command->username = read_text(row, desc, first + 12);
	command->status = read_text(row, desc, first + 13);
	sensor_state_read(row, desc, first + 14, &command->previous);
	read_float8(row, desc, first + 20, &command->value_min);
	read_float8(row, desc, first + 21, &command->value_max);
}

/* Begins an event's payload with what is known of the command; the caller adds the outcome. */
void
command_payload_begin(const CommandRow *command, IotPayload *payload)
{
	iot_payload_begin(payload);
	iot_payload_uuid(payload, "command_id", &command->command_id);
	iot_payload_text(payload, "device", command->device);
	iot_payload_text(payload, "parameter", command->parameter);
	iot_payload_text(payload, "action", command->action);
	iot_payload_float8(payload, "value", command->value);
	if (!command->target_value.isnull)
		iot_payload_float8(payload, "target_value", command->target_value.value);
	if (command->version != 0)
		iot_payload_int8(payload, "version", command->version);
	if (command->unit != NULL)
		iot_payload_text(payload, "unit", command->unit);
	iot_payload_text(payload, "username", command->username);
	if (command->has_request_id)
		iot_payload_uuid(payload, "request_id", &command->request_id);
}
