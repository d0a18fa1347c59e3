/*
 * alarm_backtest.c
 *		What a rule would have done on the stored measurements of a device.
 *
 * Runs in the backend that asks.  The rule is compiled and judged by the code that judges live
 * measurements; only the clock is another: event time, up to the end that is asked for.  Reads by
 * a cursor, so that memory depends neither on the measurements nor on the alarms.  Writes nothing.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/portal.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "column.h"
#include "plan.h"

#define FETCH_ROWS	1000

PG_FUNCTION_INFO_V1(iot_alarm_backtest_sql);

/* Sensors of the device and what they had measured before; of one parameter where $3 is given. */
static IotPlan select_sensors = {
	"SELECT s.parameter_id, p.name, m.value, m.ts"
	" FROM iot.sensor s JOIN iot.parameter p ON p.parameter_id = s.parameter_id"
	" LEFT JOIN LATERAL (SELECT o.value, o.ts FROM iot.measurement o"
	" WHERE o.device_id = s.device_id AND o.parameter_id = s.parameter_id AND o.ts < $2"
	" ORDER BY o.ts DESC LIMIT 1) m ON true"
	" WHERE s.device_id = $1 AND ($3 IS NULL OR s.parameter_id = $3)"
	" ORDER BY m.ts NULLS FIRST, s.parameter_id",
	3, {UUIDOID, TIMESTAMPTZOID, UUIDOID}
};
static IotPlan select_of_sensor = {
	"SELECT m.parameter_id, m.ts, m.value FROM iot.measurement m"
	" WHERE m.device_id = $1 AND m.parameter_id = $2 AND m.ts >= $3 AND m.ts < $4 ORDER BY m.ts",
	4, {UUIDOID, UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
};
static IotPlan select_of_device = {
	"SELECT m.parameter_id, m.ts, m.value FROM iot.measurement m"
	" WHERE m.device_id = $1 AND m.ts >= $3 AND m.ts < $4 ORDER BY m.ts, m.parameter_id",
	4, {UUIDOID, UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
};

/* A rule at work on the past of a device. */
typedef struct Backtest
{
	IotAlarmRule rule;
	pg_uuid_t	device_id;
	TimestampTz since;
	TimestampTz until;
	IotAlarmBatch *batch;
	IotAlarmWatch **watches;	/* of sensors */
	int			watch_count;
	IotAlarmRun *run;
	ReturnSetInfo *result;
	/* the alarm that is open */
	bool		open;
	TimestampTz opened_at;
	int			level;			/* the highest it has had */
	double		value;
} Backtest;

static void
return_alarm(Backtest *test, TimestampTz closed_at)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = TimestampTzGetDatum(test->opened_at);
	values[1] = TimestampTzGetDatum(closed_at);
	nulls[1] = closed_at == DT_NOEND;
	values[2] = CStringGetTextDatum(iot_alarm_severity(&test->rule, test->level));
	values[3] = Float8GetDatum(test->value);
	nulls[3] = !isfinite(test->value);
	tuplestore_putvalues(test->result->setResult, test->result->setDesc, values, nulls);
	pfree(DatumGetPointer(values[2]));
}

/* Where live rules would write alarms. */
static void
take_steps(Backtest *test)
{
	for (int i = 0; i < test->batch->step_count; i++)
	{
		const IotAlarmStep *step = &test->batch->steps[i];

		switch (step->step)
		{
			case IOT_RULE_OPENS:
				test->open = true;
				test->opened_at = step->at;
				test->level = step->level;
				test->value = step->value;
				break;
			case IOT_RULE_RISES:
				test->level = Max(test->level, step->level);
				break;
			case IOT_RULE_CLOSES:
				return_alarm(test, step->at);
				test->open = false;
				break;
			case IOT_RULE_FALLS:
			case IOT_RULE_NOTHING:
				break;
		}
	}
	test->batch->step_count = 0;
}

static void
add_sensor(Backtest *test, IotAlarmDevice *device, uint64 row)
{
	IotAlarmWatch *watch = palloc0(sizeof(IotAlarmWatch));
	bool		whole = test->rule.kind == IOT_ALARM_CONDITION;
	bool		isnull;
	Datum		value;

	iot_alarm_watch_rules(test->batch, watch, &test->device_id,
						  whole ? NIL : list_make1(&test->rule));
	watch->device = device;
	watch->parameter_id = *DatumGetUUIDP(iot_column(row, 1, &isnull));
	value = iot_column(row, 3, &isnull);
	if (!isnull)
	{
		watch->value = DatumGetFloat8(value);
		watch->ts = DatumGetTimestampTz(iot_column(row, 4, &isnull));
	}
	test->watches[test->watch_count++] = watch;
	if (!whole)
		return;
	device->values[device->value_count].parameter_id = watch->parameter_id;
	device->values[device->value_count].name = TextDatumGetCString(iot_column(row, 2, &isnull));
	device->values[device->value_count].value = watch->value;
	device->values[device->value_count].ts = watch->ts;
	device->value_count++;
	if (TIMESTAMP_IS_NOBEGIN(watch->ts))
		return;
	/* rows come in the order of their times */
	device->watch->ts = watch->ts;
	device->watch->value = watch->value;
	device->watch->parameter_id = watch->parameter_id;
}

/* Puts the rule where it would be if it had been made at the beginning. */
static void
begin(Backtest *test)
{
	bool		any_parameter = test->rule.kind == IOT_ALARM_CONDITION;
	IotAlarmDevice *device = iot_alarm_device(test->batch, &test->device_id);
	IotAlarmWatch *watch;
	Datum		args[3];
	uint64		rows;

	args[0] = UUIDPGetDatum(&test->device_id);
	args[1] = TimestampTzGetDatum(test->since);
	args[2] = UUIDPGetDatum(&test->rule.parameter_id);
	if (test->rule.kind == IOT_ALARM_CONDITION)
	{
		device->watch = palloc0(sizeof(IotAlarmWatch));
		device->watch->device = device;
		iot_alarm_watch_rules(test->batch, device->watch, &test->device_id,
							  list_make1(&test->rule));
	}
	rows = iot_plan_execute(&select_sensors, args, any_parameter ? "  n" : "   ");
	test->watches = palloc(sizeof(IotAlarmWatch *) * (rows + 1));
	device->values = palloc(sizeof(IotAlarmValue) * (rows + 1));
	for (uint64 row = 0; row < rows; row++)
		add_sensor(test, device, row);
	SPI_freetuptable(SPI_tuptable);
	test->batch->wants_attributes = true;
	iot_alarm_load_devices(test->batch);

	watch = device->watch != NULL ? device->watch : rows > 0 ? test->watches[0] : NULL;
	if (watch == NULL)
		return;
	test->run = &watch->runs[0];
	if (test->rule.kind == IOT_ALARM_NO_DATA)
	{
		if (TIMESTAMP_IS_NOBEGIN(watch->ts))
			test->run->since = test->since;
		iot_alarm_begin_run(test->run, test->since);
	}
	else if (!TIMESTAMP_IS_NOBEGIN(watch->ts))
		test->run->judged_at = test->since;
}

static void
judge_row(Backtest *test, uint64 row)
{
	bool		isnull;
	pg_uuid_t  *parameter_id = DatumGetUUIDP(iot_column(row, 1, &isnull));
	TimestampTz ts = DatumGetTimestampTz(iot_column(row, 2, &isnull));
	double		value = DatumGetFloat8(iot_column(row, 3, &isnull));
	IotAlarmBatch *batch = test->batch;

	if (batch->point_count > 0 && batch->points[0].ts != ts)
		iot_alarm_judge_points(batch);
	for (int i = 0; i < test->watch_count; i++)
	{
		if (memcmp(&test->watches[i]->parameter_id, parameter_id, UUID_LEN) == 0)
			iot_alarm_judge(batch, test->watches[i], ts, value);
	}
}

static void
judge_all(Backtest *test)
{
	IotPlan    *plan = test->rule.kind == IOT_ALARM_CONDITION ? &select_of_device
		: &select_of_sensor;
	Datum		args[4];
	Portal		portal;

	args[0] = UUIDPGetDatum(&test->device_id);
	args[1] = UUIDPGetDatum(&test->rule.parameter_id);
	args[2] = TimestampTzGetDatum(test->since);
	args[3] = TimestampTzGetDatum(test->until);
	portal = SPI_cursor_open(NULL, iot_plan_get(plan), args, NULL, true);
	for (;;)
	{
		uint64		rows;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		rows = SPI_processed;
		for (uint64 row = 0; row < rows; row++)
			judge_row(test, row);
		SPI_freetuptable(SPI_tuptable);
		take_steps(test);
		if (rows == 0)
			break;
	}
	SPI_cursor_close(portal);
	iot_alarm_judge_points(test->batch);
	/* what falls due in silence, as far as the clock has come */
	iot_alarm_advance(test->batch, test->run, Min(test->until, iot_alarm_now()) + 1);
	take_steps(test);
	if (test->open)
		return_alarm(test, DT_NOEND);
}

/*
 * iot_internal.backtest_alarm_device(alarm_rule_id uuid, device_id uuid, since timestamptz,
 * until timestamptz) returns setof record; STRICT.  Nothing for a rule that is not there.
 */
Datum
iot_alarm_backtest_sql(PG_FUNCTION_ARGS)
{
	Backtest	test = {0};
	MemoryContext context;

	InitMaterializedSRF(fcinfo, 0);
	test.result = (ReturnSetInfo *) fcinfo->resultinfo;
	test.device_id = *PG_GETARG_UUID_P(1);
	test.since = PG_GETARG_TIMESTAMPTZ(2);
	test.until = PG_GETARG_TIMESTAMPTZ(3);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the server programming interface");
	context = CurrentMemoryContext;
	if (iot_alarm_rule_read(PG_GETARG_DATUM(0)) == 1 &&
		iot_alarm_rule_compile(&test.rule, 0))
	{
		SPI_freetuptable(SPI_tuptable);
		test.batch = iot_alarm_batch_make();
		begin(&test);
		if (test.run != NULL)
			judge_all(&test);
	}
	MemoryContextSwitchTo(context);
	SPI_finish();
	return (Datum) 0;
}
