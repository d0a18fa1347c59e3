/*
 * alarm_device.c
 *		What rules know of a whole device: its lock, its attributes and newest values.
 *
 * Runs where alarms are judged.  A device with conditions is judged by several sensors, so that a
 * sensor's row is no lock that is held by whoever judges.  Its lock is a row of
 * iot.alarm_rule_state that is no rule's, taken before the rows of sensors, in the order of
 * device_id.  The same lock stands for the row of a sensor that has none yet.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "column.h"
#include "plan.h"

#define NO_RULE	"'00000000-0000-0000-0000-000000000000'::uuid"

static IotPlan add_locks = {
	"INSERT INTO iot.alarm_rule_state (device_id, alarm_rule_id)"
	" SELECT u.device_id, " NO_RULE " FROM unnest($1) AS u (device_id) ORDER BY 1"
	" ON CONFLICT (device_id, alarm_rule_id) DO NOTHING",
	1, {UUIDARRAYOID}
};
static IotPlan take_locks = {
	"SELECT s.device_id FROM iot.alarm_rule_state s WHERE s.device_id = ANY ($1)"
	" AND s.alarm_rule_id = " NO_RULE " ORDER BY s.device_id FOR NO KEY UPDATE",
	1, {UUIDARRAYOID}
};
static IotPlan try_locks = {
	"SELECT s.device_id FROM iot.alarm_rule_state s WHERE s.device_id = ANY ($1)"
	" AND s.alarm_rule_id = " NO_RULE " ORDER BY s.device_id FOR NO KEY UPDATE SKIP LOCKED",
	1, {UUIDARRAYOID}
};
static IotPlan mark_locks = {
	"UPDATE iot.alarm_rule_state SET judged_at = clock_timestamp()"
	" WHERE device_id = ANY ($1) AND alarm_rule_id = " NO_RULE,
	1, {UUIDARRAYOID}
};
static IotPlan select_attributes = {
	"SELECT s.device_id, s.attributes FROM iot.device_state s WHERE s.device_id = ANY ($1)",
	1, {UUIDARRAYOID}
};
static IotPlan select_values = {
	"SELECT v.device_id, v.parameter_id, p.name, v.reported, v.reported_at"
	" FROM iot.sensor_value v JOIN iot.parameter p ON p.parameter_id = v.parameter_id"
	" WHERE v.device_id = ANY ($1) AND v.reported_at IS NOT NULL",
	1, {UUIDARRAYOID}
};

/* An array of uuid. */
Datum
iot_alarm_uuid_array(Datum *ids, int count)
{
	return PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}

/* Takes the locks of devices, which are in their order, and waits for who has them. */
void
iot_alarm_lock_devices(const pg_uuid_t *device_ids, int count)
{
	Datum	   *ids = palloc_extended(sizeof(Datum) * (count + 1), MCXT_ALLOC_HUGE);
	Datum		arg;

	if (count == 0)
		return;
	for (int i = 0; i < count; i++)
		ids[i] = UUIDPGetDatum(&device_ids[i]);
	arg = iot_alarm_uuid_array(ids, count);
	if (iot_plan_execute(&take_locks, &arg, NULL) == (uint64) count)
		return;
	(void) iot_plan_execute(&add_locks, &arg, NULL);
	(void) iot_plan_execute(&take_locks, &arg, NULL);
}

/* Takes those locks that nobody has, puts their devices first, and returns how many they are. */
int
iot_alarm_try_lock_devices(pg_uuid_t *device_ids, int count)
{
	Datum	   *ids = palloc(sizeof(Datum) * (count + 1));
	Datum		arg;
	uint64		rows;

	if (count == 0)
		return 0;
	for (int i = 0; i < count; i++)
		ids[i] = UUIDPGetDatum(&device_ids[i]);
	arg = iot_alarm_uuid_array(ids, count);
	(void) iot_plan_execute(&add_locks, &arg, NULL);
	rows = iot_plan_execute(&try_locks, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		bool		isnull;

		device_ids[row] = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[row],
													   SPI_tuptable->tupdesc, 1, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return (int) rows;
}

/* The devices of sensors that are measured for the first time, and waited for. */
void
iot_alarm_lock_first(IotAlarmBatch *batch)
{
	pg_uuid_t  *device_ids = palloc_extended(sizeof(pg_uuid_t) * (list_length(batch->watches) + 1),
											 MCXT_ALLOC_HUGE);
	int			count = 0;
	ListCell   *lc;

	foreach(lc, batch->watches)
	{
		IotAlarmWatch *watch = lfirst(lc);

		for (int i = 0; i < watch->run_count; i++)
		{
			const IotAlarmRun *run = &watch->runs[i];

			if (run->rule->kind != IOT_ALARM_NO_DATA || !TIMESTAMP_IS_NOBEGIN(watch->ts))
				continue;
			if (count == 0 ||
				memcmp(&device_ids[count - 1], &run->device_id, UUID_LEN) != 0)
				device_ids[count++] = run->device_id;
		}
	}
	iot_alarm_lock_devices(device_ids, count);
}

static IotAlarmDevice *
find_device(IotAlarmBatch *batch, const pg_uuid_t *device_id)
{
	int			low = 0;
	int			high = list_length(batch->devices) - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		IotAlarmDevice *device = list_nth(batch->devices, middle);
		int			order = memcmp(device_id, &device->device_id, UUID_LEN);

		if (order == 0)
			return device;
		if (order < 0)
			high = middle - 1;
		else
			low = middle + 1;
	}
	return NULL;
}

/* As they are now: an older snapshot of the transaction's would judge by the past. */
static uint64
read_latest(IotPlan *plan, Datum *arg)
{
	MemoryContext context = CurrentMemoryContext;
	int			rc;

	rc = SPI_execute_snapshot(iot_plan_get(plan), arg, NULL, GetLatestSnapshot(),
							  InvalidSnapshot, true, false, 0);
	MemoryContextSwitchTo(context);
	if (rc < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

static void
load_attributes(IotAlarmBatch *batch, Datum device_ids)
{
	uint64		rows = read_latest(&select_attributes, &device_ids);

	for (uint64 row = 0; row < rows; row++)
	{
		bool		isnull;
		IotAlarmDevice *device = find_device(batch, DatumGetUUIDP(iot_column(row, 1, &isnull)));
		Datum		attributes = iot_column(row, 2, &isnull);

		if (device != NULL && !isnull)
			device->attributes = DatumGetJsonbPCopy(attributes);
	}
	SPI_freetuptable(SPI_tuptable);
}

static IotAlarmValue *
add_value(IotAlarmDevice *device)
{
	if (device->value_count == device->value_size)
	{
		device->value_size = Max(device->value_size * 2, 8);
		device->values = device->values == NULL
			? palloc(sizeof(IotAlarmValue) * device->value_size)
			: repalloc(device->values, sizeof(IotAlarmValue) * device->value_size);
	}
	return &device->values[device->value_count++];
}

static void
load_values(IotAlarmBatch *batch, Datum device_ids)
{
	uint64		rows = read_latest(&select_values, &device_ids);

	for (uint64 row = 0; row < rows; row++)
	{
		bool		isnull;
		IotAlarmDevice *device = find_device(batch, DatumGetUUIDP(iot_column(row, 1, &isnull)));
		IotAlarmValue *value;

		if (device == NULL)
			continue;
		value = add_value(device);
		value->parameter_id = *DatumGetUUIDP(iot_column(row, 2, &isnull));
		value->name = TextDatumGetCString(iot_column(row, 3, &isnull));
		value->value = DatumGetFloat8(iot_column(row, 4, &isnull));
		value->ts = DatumGetTimestampTz(iot_column(row, 5, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Puts back what the statement itself has moved on, since it is about to be judged. */
static void
unsee(IotAlarmBatch *batch)
{
	ListCell   *lc;

	foreach(lc, batch->watches)
	{
		IotAlarmWatch *watch = lfirst(lc);
		IotAlarmDevice *device = watch->device;

		if (device == NULL || device->watch == watch)
			continue;
		for (int i = 0; i < device->value_count; i++)
		{
			if (memcmp(&device->values[i].parameter_id, &watch->parameter_id, UUID_LEN) != 0)
				continue;
			device->values[i].ts = watch->ts;
			device->values[i].value = watch->value;
		}
	}
}

/* A device's own watch has seen what its newest sensor has, the last of several by its id. */
static void
see_newest(IotAlarmDevice *device)
{
	IotAlarmWatch *watch = device->watch;

	for (int i = 0; watch != NULL && i < device->value_count; i++)
	{
		const IotAlarmValue *value = &device->values[i];

		if (TIMESTAMP_IS_NOBEGIN(value->ts) || value->ts < watch->ts ||
			(value->ts == watch->ts &&
			 memcmp(&value->parameter_id, &watch->parameter_id, UUID_LEN) < 0))
			continue;
		watch->ts = value->ts;
		watch->value = value->value;
		watch->parameter_id = value->parameter_id;
	}
}

/* Reads what is known of the devices, besides what the statement brings. */
void
iot_alarm_load_devices(IotAlarmBatch *batch)
{
	int			count = list_length(batch->devices);
	Datum	   *ids = palloc_extended(sizeof(Datum) * (count + 1), MCXT_ALLOC_HUGE);
	Datum		device_ids;
	ListCell   *lc;

	if (count == 0)
		return;
	foreach(lc, batch->devices)
		ids[foreach_current_index(lc)] = UUIDPGetDatum(&((IotAlarmDevice *) lfirst(lc))->device_id);
	device_ids = iot_alarm_uuid_array(ids, count);
	if (batch->wants_attributes)
		load_attributes(batch, device_ids);
	if (!batch->wants_values)
		return;
	load_values(batch, device_ids);
	unsee(batch);
	foreach(lc, batch->devices)
		see_newest(lfirst(lc));
}

static bool
moved_on(const IotAlarmWatch *watch)
{
	for (int i = 0; watch != NULL && i < watch->run_count; i++)
	{
		const IotRuleState *state = &watch->runs[i].state;
		const IotRuleState *stored = &watch->runs[i].stored;

		if (state->level != stored->level || state->opened_at != stored->opened_at ||
			state->clear != stored->clear || !iot_alarm_same_tracks(state, stored))
			return true;
	}
	return false;
}

/*
 * Writes the locks of devices whose conditions have moved on, so that a transaction with an older
 * snapshot, which does not see that, fails where it would take the lock.
 */
void
iot_alarm_mark_devices(IotAlarmBatch *batch)
{
	Datum	   *ids = palloc_extended(sizeof(Datum) * (list_length(batch->devices) + 1),
									  MCXT_ALLOC_HUGE);
	int			count = 0;
	Datum		arg;
	ListCell   *lc;

	foreach(lc, batch->devices)
	{
		IotAlarmDevice *device = lfirst(lc);

		if (moved_on(device->watch))
			ids[count++] = UUIDPGetDatum(&device->device_id);
	}
	if (count == 0)
		return;
	arg = iot_alarm_uuid_array(ids, count);
	(void) iot_plan_execute(&mark_locks, &arg, NULL);
}
