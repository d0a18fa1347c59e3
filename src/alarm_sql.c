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
#include "column.h"
#include "event.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_event_append_sql);
PG_FUNCTION_INFO_V1(iot_alarm_now_sql);
PG_FUNCTION_INFO_V1(iot_alarm_set_clock_sql);
PG_FUNCTION_INFO_V1(iot_alarm_time_zone_valid_sql);
PG_FUNCTION_INFO_V1(iot_alarm_sweep_sql);

static IotPlan select_due = {
	"SELECT s.device_id, s.alarm_rule_id, r.parameter_id, r.kind = 'condition',"
	" v.reported_at IS NOT NULL, r.kind IS NOT NULL AND (r.kind <> 'no_data' OR (d.enabled"
	" AND EXISTS (SELECT FROM iot.sensor x"
	" WHERE x.device_id = s.device_id AND x.parameter_id = r.parameter_id)))"
	" FROM iot.alarm_rule_state s JOIN iot.device d ON d.device_id = s.device_id"
	" LEFT JOIN iot.alarm_rule r ON r.alarm_rule_id = s.alarm_rule_id AND r.enabled"
	" LEFT JOIN iot.sensor_value v ON v.device_id = s.device_id AND v.parameter_id = r.parameter_id"
	" WHERE s.due_at <= $2 ORDER BY s.due_at LIMIT $1",
	2, {INT4OID, TIMESTAMPTZOID}
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
static IotPlan disable_broken = {
	"SELECT iot_internal.disable_broken_alarm_rules() WHERE EXISTS"
	" (SELECT FROM iot.alarm_rule_error e JOIN iot.alarm_rule r USING (alarm_rule_id)"
	" WHERE r.enabled AND e.errors >= iot_internal.alarm_rule_max_errors())"
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

/* iot_internal.alarm_now() returns timestamptz; VOLATILE.  The time by which silence is judged. */
Datum
iot_alarm_now_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(iot_alarm_now());
}

/*
 * iot_internal.set_alarm_clock(at timestamptz) returns void.  For tests: stops the clock of this
 * session's alarms at a time, or with NULL has it go by the server's again.
 */
Datum
iot_alarm_set_clock_sql(PG_FUNCTION_ARGS)
{
	iot_alarm_set_clock(PG_ARGISNULL(0) ? DT_NOBEGIN : PG_GETARG_TIMESTAMPTZ(0));
	PG_RETURN_VOID();
}

/*
 * iot_internal.time_zone_valid(name text) returns boolean; STRICT STABLE.  By the library that
 * schedules go by; pg_timezone_names would read all of its files.
 */
Datum
iot_alarm_time_zone_valid_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(pg_tzset(text_to_cstring(PG_GETARG_TEXT_PP(0))) != NULL);
}

/* A row of iot.alarm_rule_state that is due. */
typedef struct DueState
{
	pg_uuid_t	device_id;
	pg_uuid_t	parameter_id;	/* zeros for a rule about the whole device */
	pg_uuid_t	alarm_rule_id;
	bool		ruled;			/* its rule is there and is about what is there */
	bool		whole;			/* it is a condition */
	bool		measured;		/* its sensor has a row of its own to lock */
	IotAlarmWatch *watch;		/* NULL where somebody is writing just now */
} DueState;

static int
compare_due(const void *a, const void *b)
{
	/* device_id and parameter_id come first */
	return memcmp(a, b, sizeof(pg_uuid_t) * 2);
}

/* In the order of sensors. */
static DueState *
read_due(int max, int *count)
{
	Datum		args[2];
	DueState   *due;

	args[0] = Int32GetDatum(max);
	args[1] = TimestampTzGetDatum(iot_alarm_now());
	*count = (int) iot_plan_execute(&select_due, args, NULL);
	due = palloc0(sizeof(DueState) * (*count + 1));
	for (int i = 0; i < *count; i++)
	{
		bool		isnull;
		Datum		value;

		due[i].device_id = *DatumGetUUIDP(iot_column(i, 1, &isnull));
		due[i].alarm_rule_id = *DatumGetUUIDP(iot_column(i, 2, &isnull));
		due[i].ruled = DatumGetBool(iot_column(i, 6, &isnull));
		value = iot_column(i, 4, &isnull);
		due[i].whole = !isnull && DatumGetBool(value);
		value = iot_column(i, 3, &isnull);
		if (!isnull && !due[i].whole)
			due[i].parameter_id = *DatumGetUUIDP(value);
		due[i].measured = DatumGetBool(iot_column(i, 5, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	qsort(due, *count, sizeof(DueState), compare_due);
	return due;
}

static int
compare_states(const void *a, const void *b)
{
	const DueState *left = a;
	const DueState *right = b;
	int			order = memcmp(&left->device_id, &right->device_id, UUID_LEN);

	if (order == 0)
		order = memcmp(&left->alarm_rule_id, &right->alarm_rule_id, UUID_LEN);
	return order;
}

/* Deletes states that mean nothing any more; brings them into the order of their locks. */
static void
forget_states(DueState *due, int count)
{
	qsort(due, count, sizeof(DueState), compare_states);
	for (int i = 0; i < count; i++)
	{
		Datum		args[2];

		args[0] = UUIDPGetDatum(&due[i].device_id);
		args[1] = UUIDPGetDatum(&due[i].alarm_rule_id);
		(void) iot_plan_execute(&forget, args, NULL);
	}
}

/* The run of a due state; NULL where its device is no longer one of the rule's. */
static IotAlarmRun *
find_run(const DueState *due)
{
	for (int i = 0; i < due->watch->run_count; i++)
	{
		if (memcmp(&due->watch->runs[i].rule->alarm_rule_id, &due->alarm_rule_id, UUID_LEN) == 0)
			return &due->watch->runs[i];
	}
	return NULL;
}

/* Locks the values that states are about; rows are in SPI_tuptable. */
static uint64
lock_values_of(const DueState *due, int count)
{
	Datum	   *device_ids = palloc(sizeof(Datum) * (count + 1));
	Datum	   *parameter_ids = palloc(sizeof(Datum) * (count + 1));
	Datum		args[2];
	int			rows = 0;

	for (int i = 0; i < count; i++)
	{
		if (!due[i].ruled || !due[i].measured || due[i].whole)
			continue;
		device_ids[rows] = UUIDPGetDatum(&due[i].device_id);
		parameter_ids[rows] = UUIDPGetDatum(&due[i].parameter_id);
		rows++;
	}
	args[0] = PointerGetDatum(construct_array(device_ids, rows, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	args[1] = PointerGetDatum(construct_array(parameter_ids, rows, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	return iot_plan_execute(&lock_values, args, NULL);
}

/* A sensor whose row we have locked. */
typedef struct LockedSensor
{
	pg_uuid_t	device_id;
	pg_uuid_t	parameter_id;
	double		value;
	TimestampTz reported_at;
} LockedSensor;

static LockedSensor *
lock_sensors(const DueState *due, int count, int *locked)
{
	uint64		rows = lock_values_of(due, count);
	LockedSensor *sensors = palloc(sizeof(LockedSensor) * (rows + 1));

	for (uint64 i = 0; i < rows; i++)
	{
		bool		isnull;

		sensors[i].device_id = *DatumGetUUIDP(iot_column(i, 1, &isnull));
		sensors[i].parameter_id = *DatumGetUUIDP(iot_column(i, 2, &isnull));
		sensors[i].value = DatumGetFloat8(iot_column(i, 3, &isnull));
		sensors[i].reported_at = DatumGetTimestampTz(iot_column(i, 4, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	*locked = (int) rows;
	return sensors;
}

/* The devices whose own locks stand for what is judged, and which of them nobody holds. */
static pg_uuid_t *
lock_devices(const DueState *due, int count, int *locked)
{
	pg_uuid_t  *device_ids = palloc(sizeof(pg_uuid_t) * (count + 1));

	*locked = 0;
	for (int i = 0; i < count; i++)
	{
		if (!due[i].ruled || (!due[i].whole && due[i].measured))
			continue;
		if (*locked == 0 ||
			memcmp(&device_ids[*locked - 1], &due[i].device_id, UUID_LEN) != 0)
			device_ids[(*locked)++] = due[i].device_id;
	}
	*locked = iot_alarm_try_lock_devices(device_ids, *locked);
	return device_ids;
}

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, UUID_LEN);
}

/* What the states of a sweep are judged by, as far as nobody else is at it. */
typedef struct Locked
{
	pg_uuid_t  *devices;
	int			device_count;
	LockedSensor *sensors;
	int			sensor_count;
} Locked;

/* The watch of a sensor or a device, a new one; NULL where somebody has the lock. */
static IotAlarmWatch *
watch_locked(IotAlarmBatch *batch, const Locked *locked, DueState *due)
{
	const LockedSensor *sensor = NULL;
	IotAlarmWatch *watch;

	if (due->measured && !due->whole)
	{
		sensor = bsearch(due, locked->sensors, locked->sensor_count, sizeof(LockedSensor),
						 compare_due);
		if (sensor == NULL)
			return NULL;
	}
	else if (bsearch(&due->device_id, locked->devices, locked->device_count, UUID_LEN,
					 compare_ids) == NULL)
		return NULL;
	if (due->whole)
		watch = iot_alarm_watch_device(batch, &due->device_id);
	else
		watch = iot_alarm_watch(batch, &due->device_id, &due->parameter_id);
	if (watch == NULL)
		due->ruled = false;
	else if (sensor != NULL)
	{
		watch->ts = sensor->reported_at;
		watch->value = sensor->value;
	}
	return watch;
}

/* Has the states watched whose locks we have, each sensor and device once. */
static void
watch_due(IotAlarmBatch *batch, DueState *due, int count)
{
	Locked		locked;
	pg_uuid_t  *device_ids = palloc(sizeof(pg_uuid_t) * (count + 1));
	pg_uuid_t  *parameter_ids = palloc(sizeof(pg_uuid_t) * (count + 1));
	const DueState *last = NULL;

	locked.devices = lock_devices(due, count, &locked.device_count);
	locked.sensors = lock_sensors(due, count, &locked.sensor_count);
	for (int i = 0; i < count; i++)
	{
		device_ids[i] = due[i].device_id;
		parameter_ids[i] = due[i].parameter_id;
	}
	iot_alarm_rules_load_devices(device_ids, parameter_ids, count);
	for (int i = 0; i < count; i++)
	{
		if (!due[i].ruled)
			continue;
		if (last != NULL && compare_due(&due[i], last) == 0 && due[i].whole == last->whole)
			due[i].watch = last->watch;
		else
			due[i].watch = watch_locked(batch, &locked, &due[i]);
		if (due[i].watch != NULL)
			last = &due[i];
	}
}

/* Judges the states that are due; those that mean nothing any more are forgotten. */
static void
sweep(IotAlarmBatch *batch, DueState *due, int count)
{
	int			forgotten = 0;

	watch_due(batch, due, count);
	iot_alarm_load(batch);
	for (int i = 0; i < count; i++)
	{
		IotAlarmRun *run = due[i].watch != NULL ? find_run(&due[i]) : NULL;

		if (run != NULL)
		{
			/* a measurement may have come since we looked */
			if (run->known && run->stored_due_at <= batch->now)
				iot_alarm_look(batch, run);
		}
		else if (!due[i].ruled || due[i].watch != NULL)
			due[forgotten++] = due[i];
	}
	iot_alarm_end(batch);
	forget_states(due, forgotten);
}

static void
disable_body(void *arg)
{
	bool		isnull;

	if (iot_plan_execute(&disable_broken, NULL, NULL) > 0)
		*(bool *) arg = DatumGetInt32(iot_column(0, 1, &isnull)) > 0;
}

/* Whether some were.  A rule that cannot be disabled, or not now, costs the others nothing. */
static bool
disable_broken_rules(void)
{
	bool		disabled = false;
	ErrorData  *error = iot_alarm_try(disable_body, &disabled);

	if (error == NULL)
		return disabled;
	ereport(WARNING,
			(errmsg("could not disable broken alarm rules: %s", error->message)));
	return false;
}

/*
 * iot_internal.alarm_sweep(max_states integer) returns integer; STRICT.  Judges what has fallen
 * due by the server's clock, and returns how many states were due.  Where rules failed too often
 * it disables them instead, since that locks alarms, and what was judged locks what comes after
 * those; then it returns max_states, for there may be more to do.
 */
Datum
iot_alarm_sweep_sql(PG_FUNCTION_ARGS)
{
	IotAlarmBatch *batch;
	DueState   *due;
	int			count;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the server programming interface");
	if (disable_broken_rules())
	{
		SPI_finish();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	due = read_due(PG_GETARG_INT32(0), &count);
	if (count > 0)
	{
		batch = iot_alarm_begin();
		if (batch != NULL)
			sweep(batch, due, count);
		else
			forget_states(due, count);
	}
	SPI_finish();
	PG_RETURN_INT32(count);
}
