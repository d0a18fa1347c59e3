/*
 * measurement.c
 *		What follows from new rows of iot.measurement, through whatever door they came.
 *
 * A trigger for each statement, in any backend and inside its transaction: INSERT, COPY and the
 * workers' batches alike.  It keeps the newest row of each sensor and moves the current values on,
 * in the order in which every writer locks them.  A device's time decides, not the order of
 * arrival: what is late is stored and changes nothing but the rollups, for which the minutes of
 * all rows are noted.
 *
 * Memory is the trigger's per-call context, in proportion to the sensors of the statement and not
 * to its rows.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "measurement_store.h"
#include "plan.h"
#include "rollup_note.h"

typedef struct SensorKey
{
	pg_uuid_t	device_id;
	pg_uuid_t	parameter_id;
} SensorKey;

/* The newest measurement of a sensor in this statement. */
typedef struct NewestEntry
{
	SensorKey	key;
	TimestampTz ts;
	double		value;
	TimestampTz noted;			/* its minute that was noted for the rollups last */
	uint32		hash;
	char		status;
} NewestEntry;

#define SH_PREFIX		newest
#define SH_ELEMENT_TYPE	NewestEntry
#define SH_KEY_TYPE		SensorKey
#define SH_KEY			key
#define SH_HASH_KEY(tb, key)	hash_bytes((const unsigned char *) &(key), sizeof(SensorKey))
#define SH_EQUAL(tb, a, b)		(memcmp(&(a), &(b), sizeof(SensorKey)) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		(a)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Where the columns stand; users may have added their own. */
typedef struct MeasurementColumns
{
	int			device_id;
	int			parameter_id;
	int			ts;
	int			value;
} MeasurementColumns;

PG_FUNCTION_INFO_V1(iot_measurement_inserted_sql);

static IotPlan select_unknown = {
	"SELECT u.device_id, u.parameter_id FROM unnest($1, $2) AS u (device_id, parameter_id)"
	" WHERE NOT EXISTS (SELECT FROM iot.sensor s"
	" WHERE s.device_id = u.device_id AND s.parameter_id = u.parameter_id) LIMIT 1",
	2, {UUIDARRAYOID, UUIDARRAYOID}
};
static IotPlan move_values = {
	"INSERT INTO iot.sensor_value AS v (device_id, parameter_id, value, value_at, source,"
	" version, last_version, reported, reported_at)"
	" SELECT u.device_id, u.parameter_id, u.value, u.ts, 'measurement', 1, 1, u.value, u.ts"
	" FROM unnest($1, $2, $3, $4) AS u (device_id, parameter_id, ts, value)"
	" ON CONFLICT (device_id, parameter_id) DO UPDATE SET"
	" value = excluded.value, value_at = excluded.value_at, source = excluded.source,"
	" version = v.last_version + 1, last_version = v.last_version + 1,"
	" reported = excluded.reported, reported_at = excluded.reported_at"
	" WHERE v.reported_at IS NULL OR v.reported_at < excluded.reported_at",
	4, {UUIDARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID, FLOAT8ARRAYOID}
};

static int
column_number(TupleDesc tupdesc, const char *name, Oid type)
{
	int			number = SPI_fnumber(tupdesc, name);

	if (number <= 0 || TupleDescAttr(tupdesc, number - 1)->atttypid != type)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table of measurements has no column \"%s\" of its type", name)));
	return number;
}

static void
find_columns(TupleDesc tupdesc, MeasurementColumns *columns)
{
	columns->device_id = column_number(tupdesc, "device_id", UUIDOID);
	columns->parameter_id = column_number(tupdesc, "parameter_id", UUIDOID);
	columns->ts = column_number(tupdesc, "ts", TIMESTAMPTZOID);
	columns->value = column_number(tupdesc, "value", FLOAT8OID);
}

/* Keeps the row if it is its sensor's newest; last is a hint, since rows mostly come by sensor. */
static NewestEntry *
keep_newest(newest_hash *table, NewestEntry *last, const SensorKey *key, TimestampTz ts,
			double value)
{
	bool		found = true;

	if (last == NULL || memcmp(&last->key, key, sizeof(SensorKey)) != 0)
		last = newest_insert(table, *key, &found);
	if (!found)
		last->noted = DT_NOBEGIN;
	if (!found || last->ts < ts)
	{
		last->ts = ts;
		last->value = value;
	}
	return last;
}

/* Reads the transition table; a time that is too far ahead is stored, but is nobody's present. */
static void
collect(TriggerData *trigdata, newest_hash *table)
{
	TupleDesc	tupdesc = RelationGetDescr(trigdata->tg_relation);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsMinimalTuple);
	Tuplestorestate *store = trigdata->tg_newtable;
	TimestampTz newest_allowed = GetCurrentTimestamp() + USECS_PER_DAY;
	MeasurementColumns columns;
	NewestEntry *last = NULL;
	IotRollupNotes notes;

	find_columns(tupdesc, &columns);
	iot_rollup_notes_init(&notes);
	/* other triggers read the same store: each needs a place of its own */
	tuplestore_select_read_pointer(store, tuplestore_alloc_read_pointer(store, EXEC_FLAG_REWIND));
	tuplestore_rescan(store);
	while (tuplestore_gettupleslot(store, true, false, slot))
	{
		SensorKey	key;
		TimestampTz ts;
		TimestampTz minute;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		ts = DatumGetTimestampTz(slot->tts_values[columns.ts - 1]);
		if (TIMESTAMP_NOT_FINITE(ts))
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_FIELD_OVERFLOW),
					 errmsg("time of a measurement must be finite")));
		key.device_id = *DatumGetUUIDP(slot->tts_values[columns.device_id - 1]);
		key.parameter_id = *DatumGetUUIDP(slot->tts_values[columns.parameter_id - 1]);
		minute = iot_rollup_minute(ts);
		if (ts > newest_allowed)
			ts = DT_NOBEGIN;
		last = keep_newest(table, last, &key, ts,
						   DatumGetFloat8(slot->tts_values[columns.value - 1]));
		if (last->noted != minute)
			iot_rollup_notes_add(&notes, &key.device_id, &key.parameter_id, minute);
		last->noted = minute;
	}
	iot_rollup_notes_write(&notes);
	ExecDropSingleTupleTableSlot(slot);
}

static int
compare_entries(const void *a, const void *b)
{
	return memcmp(&((const NewestEntry *) a)->key, &((const NewestEntry *) b)->key,
				  sizeof(SensorKey));
}

/* Raises for the first sensor that does not exist: its measurements would be nobody's. */
static void
check_sensors(Datum *args)
{
	TupleDesc	tupdesc;
	char	   *device;
	char	   *parameter;

	if (iot_plan_execute(&select_unknown, args, NULL) == 0)
		return;
	tupdesc = SPI_tuptable->tupdesc;
	device = SPI_getvalue(SPI_tuptable->vals[0], tupdesc, 1);
	parameter = SPI_getvalue(SPI_tuptable->vals[0], tupdesc, 2);
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 errmsg("measurement of a sensor that does not exist"),
			 errdetail("Device %s has no parameter %s.", device, parameter),
			 errhint("Insert it into iot.sensor first.")));
}

/* Moves the current values on; entries are in the order of their keys. */
static void
store_newest(const NewestEntry *entries, int count)
{
	Datum	   *device_ids = palloc(sizeof(Datum) * count);
	Datum	   *parameter_ids = palloc(sizeof(Datum) * count);
	Datum	   *times = palloc(sizeof(Datum) * count);
	Datum	   *values = palloc(sizeof(Datum) * count);
	Datum		args[4];
	int			present = 0;

	for (int i = 0; i < count; i++)
	{
		device_ids[i] = UUIDPGetDatum(&entries[i].key.device_id);
		parameter_ids[i] = UUIDPGetDatum(&entries[i].key.parameter_id);
	}
	args[0] = PointerGetDatum(construct_array(device_ids, count, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	args[1] = PointerGetDatum(construct_array(parameter_ids, count, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	if (!iot_measurement_take_resolved())
		check_sensors(args);
	for (int i = 0; i < count; i++)
	{
		if (TIMESTAMP_IS_NOBEGIN(entries[i].ts))
			continue;
		device_ids[present] = device_ids[i];
		parameter_ids[present] = parameter_ids[i];
		times[present] = TimestampTzGetDatum(entries[i].ts);
		values[present] = Float8GetDatum(entries[i].value);
		present++;
	}
	if (present == 0)
		return;
	if (present < count)
	{
		args[0] = PointerGetDatum(construct_array(device_ids, present, UUIDOID, UUID_LEN, false,
												  TYPALIGN_CHAR));
		args[1] = PointerGetDatum(construct_array(parameter_ids, present, UUIDOID, UUID_LEN,
												  false, TYPALIGN_CHAR));
	}
	args[2] = PointerGetDatum(construct_array(times, present, TIMESTAMPTZOID,
											  sizeof(TimestampTz), FLOAT8PASSBYVAL,
											  TYPALIGN_DOUBLE));
	args[3] = PointerGetDatum(construct_array(values, present, FLOAT8OID, sizeof(float8),
											  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	(void) iot_plan_execute(&move_values, args, NULL);
}

/* iot_internal.measurement_inserted() returns trigger; after INSERT, for each statement. */
Datum
iot_measurement_inserted_sql(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	newest_hash *table;
	newest_iterator iterator;
	NewestEntry *entry;
	NewestEntry *entries;
	int			count = 0;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigdata->tg_event) || trigdata->tg_newtable == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by its trigger",
						"measurement_inserted")));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the server programming interface");

	table = newest_create(CurrentMemoryContext, 256, NULL);
	collect(trigdata, table);
	entries = palloc_extended(sizeof(NewestEntry) * (table->members + 1), MCXT_ALLOC_HUGE);
	newest_start_iterate(table, &iterator);
	while ((entry = newest_iterate(table, &iterator)) != NULL)
		entries[count++] = *entry;
	qsort(entries, count, sizeof(NewestEntry), compare_entries);
	if (count > 0)
		store_newest(entries, count);

	SPI_finish();
	return PointerGetDatum(NULL);
}
