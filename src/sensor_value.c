/*
 * sensor_value.c
 *		Moving the current values of sensors on, by measurements and by commands.
 *
 * Runs in triggers, in any backend and between SPI_connect and SPI_finish.  The rows of measurements
 * are taken in the order of (device_id, parameter_id), in which every writer locks them: those that
 * are there are updated as live_row.c does it, and from the first on that it cannot update, a
 * statement does the rest.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/timestamp.h"

#include "live_row.h"
#include "plan.h"
#include "sensor_value.h"

static IotPlan upsert_values = {
	"INSERT INTO iot.sensor_value AS v (device_id, parameter_id, value, value_at, source,"
	" version, last_version, reported, reported_at)"
	" SELECT u.device_id, u.parameter_id, u.value, u.ts, 'measurement', 1, 1, u.value, u.ts"
	" FROM unnest($1, $2, $3, $4) AS u (device_id, parameter_id, ts, value)"
	" ON CONFLICT (device_id, parameter_id) DO UPDATE SET"
	" value = excluded.value, value_at = excluded.value_at, source = excluded.source,"
	" version = v.last_version + 1, last_version = v.last_version + 1,"
	" reported = excluded.reported, reported_at = excluded.reported_at,"
	" previous_reported = v.reported, previous_reported_at = v.reported_at"
	" WHERE v.reported_at IS NULL OR v.reported_at < excluded.reported_at"
	" RETURNING v.device_id, v.parameter_id, v.previous_reported_at, v.previous_reported",
	4, {UUIDARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID, FLOAT8ARRAYOID}
};

static IotPlan command_value = {
	"UPDATE iot.sensor_value v SET value = $3, value_at = $4, source = 'command',"
	" version = v.last_version + 1, last_version = v.last_version + 1,"
	" desired = $3, desired_version = v.last_version + 1"
	" WHERE v.device_id = $1 AND v.parameter_id = $2 RETURNING v.version",
	4, {UUIDOID, UUIDOID, FLOAT8OID, TIMESTAMPTZOID}
};

enum
{
	DEVICE_ID, PARAMETER_ID, VALUE, VALUE_AT, SOURCE, VERSION, LAST_VERSION, REPORTED, REPORTED_AT,
	PREVIOUS_REPORTED, PREVIOUS_REPORTED_AT, DESIRED, DESIRED_VERSION, COLUMNS
};

static const IotLiveColumn columns[COLUMNS] = {
	[DEVICE_ID] = {"device_id", UUIDOID},
	[PARAMETER_ID] = {"parameter_id", UUIDOID},
	[VALUE] = {"value", FLOAT8OID},
	[VALUE_AT] = {"value_at", TIMESTAMPTZOID},
	[SOURCE] = {"source", TEXTOID},
	[VERSION] = {"version", INT8OID},
	[LAST_VERSION] = {"last_version", INT8OID},
	[REPORTED] = {"reported", FLOAT8OID},
	[REPORTED_AT] = {"reported_at", TIMESTAMPTZOID},
	[PREVIOUS_REPORTED] = {"previous_reported", FLOAT8OID},
	[PREVIOUS_REPORTED_AT] = {"previous_reported_at", TIMESTAMPTZOID},
	[DESIRED] = {"desired", FLOAT8OID},
	[DESIRED_VERSION] = {"desired_version", INT8OID}
};

/* Gives the row that was found a value, from there, and a version, which it returns. */
static Datum
set_value(IotLiveRows *rows, double value, TimestampTz at, const char *source)
{
	bool		isnull;
	Datum		last = iot_live_row_get(rows, LAST_VERSION, &isnull);
	Datum		version = Int64GetDatum(DatumGetInt64(last) + 1);

	iot_live_row_set(rows, VALUE, Float8GetDatum(value), false);
	iot_live_row_set(rows, VALUE_AT, TimestampTzGetDatum(at), false);
	iot_live_row_set(rows, SOURCE, CStringGetTextDatum(source), false);
	iot_live_row_set(rows, VERSION, version, false);
	iot_live_row_set(rows, LAST_VERSION, version, false);
	return version;
}

/* Moves a sensor's value on where that is newer; false where that is for a statement. */
static bool
move_value(IotLiveRows *rows, IotSensorMove *move)
{
	Datum		reported;
	Datum		reported_at;
	bool		no_value;
	bool		no_time;

	if (!iot_live_row_find(rows, &move->key.device_id, &move->key.parameter_id))
		return false;
	reported = iot_live_row_get(rows, REPORTED, &no_value);
	reported_at = iot_live_row_get(rows, REPORTED_AT, &no_time);
	if (!no_time && DatumGetTimestampTz(reported_at) >= move->ts)
		return true;
	(void) set_value(rows, move->value, move->ts, "measurement");
	iot_live_row_set(rows, REPORTED, Float8GetDatum(move->value), false);
	iot_live_row_set(rows, REPORTED_AT, TimestampTzGetDatum(move->ts), false);
	iot_live_row_set(rows, PREVIOUS_REPORTED, reported, no_value);
	iot_live_row_set(rows, PREVIOUS_REPORTED_AT, reported_at, no_time);
	if (!iot_live_row_update(rows))
		return false;
	move->moved = true;
	move->after = no_time ? DT_NOBEGIN : DatumGetTimestampTz(reported_at);
	move->before = no_value ? get_float8_nan() : DatumGetFloat8(reported);
	return true;
}

/* Moves values on up to the first that is for a statement; returns how many that were. */
static int
move_values(IotSensorMove **moves, int count)
{
	IotLiveRows *rows = iot_live_rows_open("sensor_value", columns, COLUMNS);
	int			done = 0;

	if (rows == NULL)
		return 0;
	while (done < count && move_value(rows, moves[done]))
	{
		CHECK_FOR_INTERRUPTS();
		done++;
	}
	iot_live_rows_close(rows);
	return done;
}

/* Notes which values a statement moved on, and from where; moves and rows are in the same order. */
static void
note_moved(IotSensorMove **moves, int count, uint64 rows)
{
	int			at = 0;

	for (uint64 row = 0; row < rows; row++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[row];
		TupleDesc	tupdesc = SPI_tuptable->tupdesc;
		bool		isnull;
		IotSensorKey key;
		Datum		after;

		key.device_id = *DatumGetUUIDP(SPI_getbinval(tuple, tupdesc, 1, &isnull));
		key.parameter_id = *DatumGetUUIDP(SPI_getbinval(tuple, tupdesc, 2, &isnull));
		while (at < count && memcmp(&moves[at]->key, &key, sizeof(key)) != 0)
			at++;
		if (at == count)
			elog(ERROR, "current values were moved out of order");
		moves[at]->moved = true;
		after = SPI_getbinval(tuple, tupdesc, 3, &isnull);
		moves[at]->after = isnull ? DT_NOBEGIN : DatumGetTimestampTz(after);
		after = SPI_getbinval(tuple, tupdesc, 4, &isnull);
		moves[at]->before = isnull ? get_float8_nan() : DatumGetFloat8(after);
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
upsert(IotSensorMove **moves, int count)
{
	Datum	   *device_ids = palloc(sizeof(Datum) * count);
	Datum	   *parameter_ids = palloc(sizeof(Datum) * count);
	Datum	   *times = palloc(sizeof(Datum) * count);
	Datum	   *values = palloc(sizeof(Datum) * count);
	Datum		args[4];

	for (int i = 0; i < count; i++)
	{
		device_ids[i] = UUIDPGetDatum(&moves[i]->key.device_id);
		parameter_ids[i] = UUIDPGetDatum(&moves[i]->key.parameter_id);
		times[i] = TimestampTzGetDatum(moves[i]->ts);
		values[i] = Float8GetDatum(moves[i]->value);
	}
	args[0] = PointerGetDatum(construct_array(device_ids, count, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	args[1] = PointerGetDatum(construct_array(parameter_ids, count, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	args[2] = PointerGetDatum(construct_array(times, count, TIMESTAMPTZOID, sizeof(TimestampTz),
											  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	args[3] = PointerGetDatum(construct_array(values, count, FLOAT8OID, sizeof(float8),
											  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	note_moved(moves, count, iot_plan_execute(&upsert_values, args, NULL));
}

/* Stores what sensors reported, in the order of their keys, and says which of it was newer. */
void
iot_sensor_values_move(IotSensorMove **moves, int count)
{
	int			done;

	for (int i = 0; i < count; i++)
		moves[i]->moved = false;
	done = count > 0 ? move_values(moves, count) : 0;
	if (done < count)
		upsert(moves + done, count - done);
}

/* Writes what a command set, and returns its version.  The caller holds the sensor's lock. */
int64
iot_sensor_value_command(const pg_uuid_t *device_id, const pg_uuid_t *parameter_id, double value,
						 TimestampTz at)
{
	IotLiveRows *rows = iot_live_rows_open("sensor_value", columns, COLUMNS);
	Datum		version = (Datum) 0;
	bool		done = false;
	Datum		args[4];
	bool		isnull;

	if (rows != NULL)
	{
		if (iot_live_row_find(rows, device_id, parameter_id))
		{
			version = set_value(rows, value, at, "command");
			iot_live_row_set(rows, DESIRED, Float8GetDatum(value), false);
			iot_live_row_set(rows, DESIRED_VERSION, version, false);
			done = iot_live_row_update(rows);
		}
		iot_live_rows_close(rows);
	}
	if (done)
		return DatumGetInt64(version);
	args[0] = UUIDPGetDatum(device_id);
	args[1] = UUIDPGetDatum(parameter_id);
	args[2] = Float8GetDatum(value);
	args[3] = TimestampTzGetDatum(at);
	if (iot_plan_execute(&command_value, args, NULL) != 1)
		elog(ERROR, "state of sensor has gone");
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}
