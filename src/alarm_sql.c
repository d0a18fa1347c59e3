/*
 * alarm_sql.c
 *		What SQL asks of alarms: events of people's doings, and what falls due in silence.
 *
 * The sweep runs in the notifier, inside its transaction.  It takes the lock that whoever brings
 * measurements takes, passes over sensors that are being written just now, and judges by the code
 * that judges measurements.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "event.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_event_append_sql);
PG_FUNCTION_INFO_V1(iot_alarm_sweep_sql);

static IotPlan select_due = {
	"SELECT s.device_id, s.alarm_rule_id, r.parameter_id FROM iot.alarm_rule_state s"
	" LEFT JOIN iot.alarm_rule r ON r.alarm_rule_id = s.alarm_rule_id AND r.enabled"
	" WHERE s.due_at <= statement_timestamp() ORDER BY s.due_at LIMIT $1",
	1, {INT4OID}
};
static IotPlan forget = {
	"DELETE FROM iot.alarm_rule_state WHERE device_id = $1 AND alarm_rule_id = $2",
	2, {UUIDOID, UUIDOID}
};
static IotPlan lock_values = {
	"SELECT v.device_id, v.parameter_id, v.reported, v.reported_at FROM iot.sensor_value v"
	" WHERE (v.device_id, v.parameter_id) IN"
	" (SELECT u.device_id, u.parameter_id FROM unnest($1, $2) AS u (device_id, parameter_id))"
	" AND v.reported_at IS NOT NULL"
	" ORDER BY v.device_id, v.parameter_id FOR NO KEY UPDATE OF v SKIP LOCKED",
	2, {UUIDARRAYOID, UUIDARRAYOID}
};

/*
 * iot_internal.event_append(type text, aggregatetype text, aggregateid text, device_id uuid,
 * payload jsonb) returns void; STRICT.  Wakes workers at commit, unlike a plain INSERT.
 */
Datum
iot_event_append_sql(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *device_id = PG_GETARG_UUID_P(3);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the server programming interface");
	iot_event_append(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
					 text_to_cstring(PG_GETARG_TEXT_PP(2)), device_id, PG_GETARG_DATUM(4));
	SPI_finish();
	PG_RETURN_VOID();
}

static Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, isnull);
}

/* A row of iot.alarm_rule_state that is due. */
typedef struct DueState
{
	pg_uuid_t	device_id;
	pg_uuid_t	alarm_rule_id;
	pg_uuid_t	parameter_id;
	bool		ruled;			/* its rule is there and enabled */
} DueState;

static DueState *
read_due(int max, int *count)
{
	Datum		arg = Int32GetDatum(max);
	DueState   *due;

	*count = (int) iot_plan_execute(&select_due, &arg, NULL);
	due = palloc(sizeof(DueState) * (*count + 1));
	for (int i = 0; i < *count; i++)
	{
		bool		isnull;
		Datum		parameter_id;

		due[i].device_id = *DatumGetUUIDP(column(i, 1, &isnull));
		due[i].alarm_rule_id = *DatumGetUUIDP(column(i, 2, &isnull));
		parameter_id = column(i, 3, &isnull);
		due[i].ruled = !isnull;
		if (!isnull)
			due[i].parameter_id = *DatumGetUUIDP(parameter_id);
	}
	SPI_freetuptable(SPI_tuptable);
	return due;
}

static void
forget_state(const DueState *due)
{
	Datum		args[2];

	args[0] = UUIDPGetDatum(&due->device_id);
	args[1] = UUIDPGetDatum(&due->alarm_rule_id);
	(void) iot_plan_execute(&forget, args, NULL);
}

/* The run of a due state; NULL where its device is no longer one of the rule's. */
static IotAlarmRun *
find_run(IotAlarmWatch *watch, const DueState *due)
{
	for (int i = 0; watch != NULL && i < watch->run_count; i++)
	{
		if (memcmp(&watch->runs[i].rule->alarm_rule_id, &due->alarm_rule_id, UUID_LEN) == 0)
			return &watch->runs[i];
	}
	return NULL;
}

/* Locks the values that the states are about; rows are in SPI_tuptable. */
static uint64
lock_sensors(const DueState *due, int count)
{
	Datum	   *device_ids = palloc(sizeof(Datum) * count);
	Datum	   *parameter_ids = palloc(sizeof(Datum) * count);
	Datum		args[2];
	int			ruled = 0;

	for (int i = 0; i < count; i++)
	{
		if (!due[i].ruled)
			continue;
		device_ids[ruled] = UUIDPGetDatum(&due[i].device_id);
		parameter_ids[ruled] = UUIDPGetDatum(&due[i].parameter_id);
		ruled++;
	}
	args[0] = PointerGetDatum(construct_array(device_ids, ruled, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	args[1] = PointerGetDatum(construct_array(parameter_ids, ruled, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	return iot_plan_execute(&lock_values, args, NULL);
}

/* A sensor whose row we have locked. */
typedef struct LockedSensor
{
	pg_uuid_t	device_id;
	pg_uuid_t	parameter_id;
	TimestampTz reported_at;
	IotAlarmWatch *watch;
} LockedSensor;

static int
compare_sensors(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(pg_uuid_t) * 2);
}

static void
sweep(IotAlarmBatch *batch, const DueState *due, int count)
{
	uint64		rows = lock_sensors(due, count);
	LockedSensor *sensors = palloc0(sizeof(LockedSensor) * (rows + 1));
	double	   *values = palloc(sizeof(double) * (rows + 1));
	pg_uuid_t  *device_ids = palloc(sizeof(pg_uuid_t) * (rows + 1));
	pg_uuid_t  *parameter_ids = palloc(sizeof(pg_uuid_t) * (rows + 1));
	TimestampTz now = GetCurrentTimestamp();

	for (uint64 i = 0; i < rows; i++)
	{
		bool		isnull;

		sensors[i].device_id = device_ids[i] = *DatumGetUUIDP(column(i, 1, &isnull));
		sensors[i].parameter_id = parameter_ids[i] = *DatumGetUUIDP(column(i, 2, &isnull));
		values[i] = DatumGetFloat8(column(i, 3, &isnull));
		sensors[i].reported_at = DatumGetTimestampTz(column(i, 4, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	iot_alarm_rules_load_devices(device_ids, parameter_ids, (int) rows);
	for (uint64 i = 0; i < rows; i++)
	{
		sensors[i].watch = iot_alarm_watch(batch, &device_ids[i], &parameter_ids[i]);
		if (sensors[i].watch != NULL)
			sensors[i].watch->value = values[i];
	}
	iot_alarm_load(batch);
	for (int i = 0; i < count; i++)
	{
		pg_uuid_t	key[2] = {due[i].device_id, due[i].parameter_id};
		LockedSensor *sensor = due[i].ruled
			? bsearch(key, sensors, rows, sizeof(LockedSensor), compare_sensors) : NULL;
		IotAlarmRun *run;

		if (due[i].ruled && sensor == NULL)
			continue;			/* being written: its writer judges, or the next sweep does */
		run = sensor != NULL ? find_run(sensor->watch, &due[i]) : NULL;
		if (run == NULL)
			forget_state(&due[i]);
		else
		{
			/* a measurement may have come since we looked */
			if (run->stored_due_at > now)
				continue;
			run->judged_at = sensor->reported_at;
			iot_alarm_fall_due(batch, sensor->watch, run);
		}
	}
}

/*
 * iot_internal.alarm_sweep(max_states integer) returns integer; STRICT.  Judges what has fallen
 * due by the server's clock, and returns how many states were due.
 */
Datum
iot_alarm_sweep_sql(PG_FUNCTION_ARGS)
{
	IotAlarmBatch *batch;
	DueState   *due;
	int			count;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the server programming interface");
	due = read_due(PG_GETARG_INT32(0), &count);
	if (count > 0)
	{
		batch = iot_alarm_begin();
		if (batch != NULL)
		{
			sweep(batch, due, count);
			iot_alarm_end(batch);
		}
		else
		{
			for (int i = 0; i < count; i++)
				forget_state(&due[i]);
		}
	}
	SPI_finish();
	PG_RETURN_INT32(count);
}
