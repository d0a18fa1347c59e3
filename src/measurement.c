/*
 * measurement.c
 *		What follows from new rows of iot.measurement, through whatever door they came.
 *
 * A trigger for each statement, in any backend and inside its transaction: INSERT, COPY and the
 * workers' batches alike.  It keeps the newest row of each sensor and moves the current values on,
 * in the order in which every writer locks them.  A device's time decides, not the order of
 * arrival: what is late is stored and changes nothing but the rollups, for which the minutes of
 * all rows are noted.  Alarm rules judge every row that is newer than what was known of its
 * sensor, in the order of the device's time.
 *
 * The transition table costs COPY its batches of insertions, for the server makes none on a
 * partitioned table that has one.  A trigger for each row of the partitions would leave them to it,
 * and queue an event and fetch the row again for each: measured to save 3 to 15 % of a COPY, for a
 * state of our own that had to be right in nested statements and subtransactions.
 *
 * Memory is the trigger's per-call context, in proportion to the sensors of the statement and not
 * to its rows; only rows of a sensor with rules that come out of order are kept until they are
 * sorted.
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
#include "utils/float.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "alarm.h"
#include "measurement_store.h"
#include "plan.h"
#include "rollup_note.h"
#include "sensor_value.h"

/* The newest measurement of a sensor in this statement. */
typedef struct NewestEntry
{
	IotSensorMove move;
	IotRollupRun run;			/* its last minutes, not noted for the rollups yet */
	bool		several;		/* more than this row */
	bool		ordered;		/* they come in the order of their times */
	IotAlarmWatch *watch;		/* NULL where no rule is about the sensor */
	uint32		hash;
	char		status;
} NewestEntry;

#define SH_PREFIX		newest
#define SH_ELEMENT_TYPE	NewestEntry
#define SH_KEY_TYPE		IotSensorKey
#define SH_KEY			move.key
#define SH_HASH_KEY(tb, key)	hash_bytes((const unsigned char *) &(key), sizeof(IotSensorKey))
#define SH_EQUAL(tb, a, b)		(memcmp(&(a), &(b), sizeof(IotSensorKey)) == 0)
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

/* A row that waits for its turn. */
typedef struct Point
{
	NewestEntry *entry;
	TimestampTz ts;
	double		value;
} Point;

/* The transition table while it is read. */
typedef struct Rows
{
	Tuplestorestate *store;
	int			pointer;
	TupleTableSlot *slot;
	TimestampTz newest_allowed;
	MeasurementColumns columns;
} Rows;

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
keep_newest(newest_hash *table, NewestEntry *last, const IotSensorKey *key, TimestampTz ts,
			double value)
{
	bool		found = true;

	if (last == NULL || memcmp(&last->move.key, key, sizeof(IotSensorKey)) != 0)
		last = newest_insert(table, *key, &found);
	if (!found)
	{
		last->run = (IotRollupRun) {0};
		last->several = false;
		last->ordered = true;
		last->watch = NULL;
	}
	else
	{
		last->several = true;
		last->ordered = last->ordered && last->move.ts < ts;
	}
	if (!found || last->move.ts < ts)
	{
		last->move.ts = ts;
		last->move.value = value;
	}
	return last;
}

/* Opens the transition table, from its beginning. */
static void
begin_rows(Rows *rows, TriggerData *trigdata)
{
	TupleDesc	tupdesc = RelationGetDescr(trigdata->tg_relation);

	find_columns(tupdesc, &rows->columns);
	rows->store = trigdata->tg_newtable;
	rows->slot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsMinimalTuple);
	rows->newest_allowed = GetCurrentTimestamp() + USECS_PER_DAY;
	/* other triggers read the same store: each needs a place of its own */
	rows->pointer = tuplestore_alloc_read_pointer(rows->store, EXEC_FLAG_REWIND);
	tuplestore_select_read_pointer(rows->store, rows->pointer);
	tuplestore_rescan(rows->store);
}

/*
 * The next row; false at the end.  A time that is too far ahead is stored, but is nobody's
 * present: it comes as DT_NOBEGIN.  Its minute is told all the same, where minute is given.
 */
static bool
next_row(Rows *rows, IotSensorKey *key, TimestampTz *ts, double *value, TimestampTz *minute)
{
	Datum	   *values;

	CHECK_FOR_INTERRUPTS();
	if (!tuplestore_gettupleslot(rows->store, true, false, rows->slot))
		return false;
	slot_getallattrs(rows->slot);
	values = rows->slot->tts_values;
	*ts = DatumGetTimestampTz(values[rows->columns.ts - 1]);
	if (TIMESTAMP_NOT_FINITE(*ts))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_FIELD_OVERFLOW),
				 errmsg("time of a measurement must be finite"),
				 errhint("Give the time at which the device measured.")));
	if (minute != NULL)
		*minute = iot_rollup_minute(*ts);
	if (*ts > rows->newest_allowed)
		*ts = DT_NOBEGIN;
	key->device_id = *DatumGetUUIDP(values[rows->columns.device_id - 1]);
	key->parameter_id = *DatumGetUUIDP(values[rows->columns.parameter_id - 1]);
	*value = DatumGetFloat8(values[rows->columns.value - 1]);
	return true;
}

/* Finds the newest row of each sensor, and notes all their minutes for the rollups. */
static void
collect(Rows *rows, newest_hash *table)
{
	NewestEntry *last = NULL;
	IotSensorKey key;
	TimestampTz ts;
	TimestampTz minute;
	double		value;
	newest_iterator iterator;
	IotRollupNotes notes;

	iot_rollup_notes_init(&notes);
	while (next_row(rows, &key, &ts, &value, &minute))
	{
		last = keep_newest(table, last, &key, ts, value);
		if (!iot_rollup_run_extend(&last->run, minute))
		{
			iot_rollup_notes_add(&notes, &key.device_id, &key.parameter_id, &last->run);
			last->run = (IotRollupRun) {minute, 1};
		}
	}
	newest_start_iterate(table, &iterator);
	while ((last = newest_iterate(table, &iterator)) != NULL)
		iot_rollup_notes_add(&notes, &last->move.key.device_id, &last->move.key.parameter_id,
							 &last->run);
	iot_rollup_notes_write(&notes);
}

static int
compare_entries(const void *a, const void *b)
{
	return memcmp(&(*(NewestEntry *const *) a)->move.key, &(*(NewestEntry *const *) b)->move.key,
				  sizeof(IotSensorKey));
}

/* Raises for the first sensor that does not exist: its measurements would be nobody's. */
static void
check_sensors(NewestEntry **entries, int count)
{
	Datum	   *ids = palloc_extended(sizeof(Datum) * count, MCXT_ALLOC_HUGE);
	Datum		args[2];
	TupleDesc	tupdesc;
	char	   *device;
	char	   *parameter;

	for (int i = 0; i < count; i++)
		ids[i] = UUIDPGetDatum(&entries[i]->move.key.device_id);
	args[0] = PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	for (int i = 0; i < count; i++)
		ids[i] = UUIDPGetDatum(&entries[i]->move.key.parameter_id);
	args[1] = PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
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
store_newest(NewestEntry **entries, int count)
{
	IotSensorMove **moves = palloc_extended(sizeof(IotSensorMove *) * count, MCXT_ALLOC_HUGE);
	int			present = 0;

	if (!iot_measurement_take_resolved())
		check_sensors(entries, count);
	for (int i = 0; i < count; i++)
	{
		if (!TIMESTAMP_IS_NOBEGIN(entries[i]->move.ts))
			moves[present++] = &entries[i]->move;
	}
	iot_sensor_values_move(moves, present);
}

static int
compare_points(const void *a, const void *b)
{
	const Point *left = a;
	const Point *right = b;
	int			order = compare_entries(&left->entry, &right->entry);

	if (order == 0 && left->ts != right->ts)
		order = left->ts < right->ts ? -1 : 1;
	return order;
}

/* Judges the rows of sensors that have several, each newer than what was known before. */
static void
judge_rows(IotAlarmBatch *alarms, Rows *rows, newest_hash *table)
{
	NewestEntry *entry = NULL;
	Point	   *points = NULL;
	Size		count = 0;
	Size		size = 0;
	IotSensorKey key;
	TimestampTz ts;
	double		value;

	tuplestore_select_read_pointer(rows->store, rows->pointer);
	tuplestore_rescan(rows->store);
	while (next_row(rows, &key, &ts, &value, NULL))
	{
		if (entry == NULL || memcmp(&entry->move.key, &key, sizeof(IotSensorKey)) != 0)
			entry = newest_lookup(table, key);
		if (entry->watch == NULL || !entry->several || ts <= entry->move.after)
			continue;
		if (entry->ordered)
		{
			iot_alarm_judge(alarms, entry->watch, ts, value);
			continue;
		}
		if (count == size)
		{
			size = Max(size * 2, 64);
			points = points == NULL ? palloc(sizeof(Point) * size)
				: repalloc_huge(points, sizeof(Point) * size);
		}
		points[count++] = (Point) {entry, ts, value};
	}
	if (count > 0)
		qsort(points, count, sizeof(Point), compare_points);
	for (Size i = 0; i < count; i++)
		iot_alarm_judge(alarms, points[i].entry->watch, points[i].ts, points[i].value);
}

/* Takes what must be held by whoever judges, before the values move on. */
static void
prepare_to_judge(NewestEntry **entries, int count)
{
	pg_uuid_t  *device_ids = palloc_extended(sizeof(pg_uuid_t) * count, MCXT_ALLOC_HUGE);
	pg_uuid_t  *parameter_ids = palloc_extended(sizeof(pg_uuid_t) * count, MCXT_ALLOC_HUGE);

	for (int i = 0; i < count; i++)
	{
		device_ids[i] = entries[i]->move.key.device_id;
		parameter_ids[i] = entries[i]->move.key.parameter_id;
	}
	iot_alarm_prepare(device_ids, parameter_ids, count);
}

/* What alarm rules say of the values that moved on. */
static void
judge(IotAlarmBatch *alarms, Rows *rows, newest_hash *table, NewestEntry **entries, int count)
{
	bool		several = false;

	for (int i = 0; i < count; i++)
	{
		NewestEntry *entry = entries[i];
		const IotSensorMove *move = &entry->move;

		if (!move->moved)
			continue;
		entry->watch = iot_alarm_watch(alarms, &move->key.device_id, &move->key.parameter_id);
		if (entry->watch == NULL)
			continue;
		entry->watch->ts = move->after;
		entry->watch->value = move->before;
		several = several || entry->several;
	}
	iot_alarm_load(alarms);
	for (int i = 0; i < count; i++)
	{
		NewestEntry *entry = entries[i];

		if (entry->watch != NULL && !entry->several)
			iot_alarm_judge(alarms, entry->watch, entry->move.ts, entry->move.value);
	}
	if (several)
		judge_rows(alarms, rows, table);
}

/* iot_internal.measurement_inserted() returns trigger; after INSERT, for each statement. */
Datum
iot_measurement_inserted_sql(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	newest_hash *table;
	newest_iterator iterator;
	NewestEntry *entry;
	NewestEntry **entries;
	IotAlarmBatch *alarms;
	Rows		rows;
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
	begin_rows(&rows, trigdata);
	collect(&rows, table);
	entries = palloc_extended(sizeof(NewestEntry *) * (table->members + 1), MCXT_ALLOC_HUGE);
	newest_start_iterate(table, &iterator);
	while ((entry = newest_iterate(table, &iterator)) != NULL)
		entries[count++] = entry;
	qsort(entries, count, sizeof(NewestEntry *), compare_entries);
	if (count > 0)
	{
		alarms = iot_alarm_begin();
		if (alarms != NULL)
			prepare_to_judge(entries, count);
		store_newest(entries, count);
		if (alarms != NULL)
		{
			judge(alarms, &rows, table, entries, count);
			iot_alarm_end(alarms);
		}
	}
	ExecDropSingleTupleTableSlot(rows.slot);

	SPI_finish();
	return PointerGetDatum(NULL);
}
