/*
 * alarm.c
 *		Judging the measurements of a statement by alarm rules.
 *
 * Runs in the backend that writes measurements, in its transaction and between SPI_connect and
 * SPI_finish, and in the notifier for what falls due in silence.  Whoever judges a device's
 * parameter holds the row of iot.sensor_value, and whoever judges a device by several of them the
 * device's lock (see alarm_device.c), so that no two judge the same at once; the unique index over
 * open alarms is there for whoever does not keep to that.
 *
 * Rows are locked in one order, so that nobody waits for who waits for him:
 *	1. what a person changes: a row of iot.alarm_rule or iot.device;
 *	2. the locks of devices, by device_id;
 *	3. iot.sensor_value, by (device_id, parameter_id);
 *	4. iot.alarm, by (device_id, alarm_id), all that are there before the first is written;
 *	5. iot.alarm_rule_state, by (device_id, alarm_rule_id);
 *	6. iot.alarm_rule_error, by alarm_rule_id.
 * Measurements take 2 to 6.  So does the sweep, which passes over what is locked of 2 and 3; rules
 * that it disables have a transaction of their own.  A rule that is changed, disabled or deleted
 * takes 1, 4, 5, 6, and a device that is changed 1, 4, 5; likewise whoever closes what no rule is
 * about (4, 5) or closes by hand (4, 5).  Acknowledging, assigning, commenting take 4, and so does
 * maintenance, of alarms that are closed.  The lock of a device that stands for a sensor which has
 * no row yet comes after 3: who has waited for it has none of 4 yet, and who holds it wants none of
 * 3 any more, unless the device has conditions, where everybody takes it at 2.
 *
 * What does not keep to it: a transaction of several such statements, and a device that is deleted,
 * since its row comes first there, while an alarm that opens on it checks its key at 4.  The server
 * ends one of the two; the adapter and the notifier then try again.
 *
 * Memory is the caller's context, in proportion to the sensors that have rules and to the steps
 * that are taken; of devices with conditions also to the measurements of the statement.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "alarm.h"

/* What a test has set, else DT_NOBEGIN. */
static TimestampTz test_clock = DT_NOBEGIN;

/* The server's time, as far as alarms are concerned. */
TimestampTz
iot_alarm_now(void)
{
	return TIMESTAMP_IS_NOBEGIN(test_clock) ? GetCurrentTimestamp() : test_clock;
}

/* For tests, which have no time to wait; DT_NOBEGIN for the server's own. */
void
iot_alarm_set_clock(TimestampTz at)
{
	test_clock = at;
}

/* A batch without rules, for who brings his own. */
IotAlarmBatch *
iot_alarm_batch_make(void)
{
	IotAlarmBatch *batch = palloc0(sizeof(IotAlarmBatch));

	batch->cxt = CurrentMemoryContext;
	batch->now = iot_alarm_now();
	return batch;
}

/* Begins a statement; NULL where there is no rule at all. */
IotAlarmBatch *
iot_alarm_begin(void)
{
	return iot_alarm_rules_begin() ? iot_alarm_batch_make() : NULL;
}

/*
 * To be called with all sensors of a statement, by device_id, before it locks their rows: takes
 * the locks of devices that are judged by more than one of them.
 */
void
iot_alarm_prepare(const pg_uuid_t *device_ids, const pg_uuid_t *parameter_ids, int count)
{
	pg_uuid_t  *locked;
	int			nlocked = 0;

	iot_alarm_rules_load_devices(device_ids, parameter_ids, count);
	if (!iot_alarm_rules_have_conditions())
		return;
	locked = palloc_extended(sizeof(pg_uuid_t) * (count + 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < count; i++)
	{
		if (i > 0 && memcmp(&device_ids[i], &device_ids[i - 1], UUID_LEN) == 0)
			continue;
		if (iot_alarm_rules_find_conditions(&device_ids[i]) != NIL)
			locked[nlocked++] = device_ids[i];
	}
	iot_alarm_lock_devices(locked, nlocked);
}

/* Has a watch judged by rules. */
void
iot_alarm_watch_rules(IotAlarmBatch *batch, IotAlarmWatch *watch, const pg_uuid_t *device_id,
					  List *rules)
{
	ListCell   *lc;

	watch->ts = DT_NOBEGIN;
	watch->value = watch->change = NAN;
	watch->runs = palloc0(sizeof(IotAlarmRun) * (list_length(rules) + 1));
	foreach(lc, rules)
	{
		IotAlarmRun *run = &watch->runs[watch->run_count++];
		const IotAlarmRule *rule = lfirst(lc);

		run->device_id = *device_id;
		run->watch = watch;
		run->rule = rule;
		run->judged_at = run->since = DT_NOBEGIN;
		run->stored_due_at = DT_NOEND;
		iot_rule_reset(&run->state);
		run->stored = run->state;
		batch->remembers |= iot_alarm_remembers(rule);
		batch->wants_attributes |= rule->low_attribute != NULL || rule->high_attribute != NULL;
	}
	batch->watches = lappend(batch->watches, watch);
}

/* The device, which is that of the last call or comes after it. */
IotAlarmDevice *
iot_alarm_device(IotAlarmBatch *batch, const pg_uuid_t *device_id)
{
	IotAlarmDevice *device = batch->devices != NIL ? llast(batch->devices) : NULL;

	if (device != NULL && memcmp(&device->device_id, device_id, UUID_LEN) == 0)
		return device;
	device = palloc0(sizeof(IotAlarmDevice));
	device->device_id = *device_id;
	batch->devices = lappend(batch->devices, device);
	return device;
}

/* What is to be judged of a device by its conditions; NULL where none is about it. */
IotAlarmWatch *
iot_alarm_watch_device(IotAlarmBatch *batch, const pg_uuid_t *device_id)
{
	IotAlarmDevice *device = batch->devices != NIL ? llast(batch->devices) : NULL;
	List	   *rules;

	if (!iot_alarm_rules_have_conditions())
		return NULL;
	if (device != NULL && memcmp(&device->device_id, device_id, UUID_LEN) == 0 &&
		device->watch != NULL)
		return device->watch;
	rules = iot_alarm_rules_find_conditions(device_id);
	if (rules == NIL)
		return NULL;
	device = iot_alarm_device(batch, device_id);
	device->watch = palloc0(sizeof(IotAlarmWatch));
	device->watch->device = device;
	iot_alarm_watch_rules(batch, device->watch, device_id, rules);
	list_free(rules);
	batch->wants_attributes = batch->wants_values = true;
	return device->watch;
}

static bool
want_attributes(const IotAlarmWatch *watch)
{
	for (int i = 0; i < watch->run_count; i++)
	{
		if (watch->runs[i].rule->low_attribute != NULL ||
			watch->runs[i].rule->high_attribute != NULL)
			return true;
	}
	return false;
}

/*
 * What is to be judged of a sensor; NULL where no rule is about it or its device.  To be called in
 * the order of device_id.
 */
IotAlarmWatch *
iot_alarm_watch(IotAlarmBatch *batch, const pg_uuid_t *device_id, const pg_uuid_t *parameter_id)
{
	List	   *rules = iot_alarm_rules_find(device_id, parameter_id);
	IotAlarmWatch *whole = iot_alarm_watch_device(batch, device_id);
	IotAlarmWatch *watch;

	if (rules == NIL && whole == NULL)
		return NULL;
	watch = palloc0(sizeof(IotAlarmWatch));
	watch->parameter_id = *parameter_id;
	iot_alarm_watch_rules(batch, watch, device_id, rules);
	list_free(rules);
	if (whole != NULL)
		watch->device = whole->device;
	else if (want_attributes(watch))
		watch->device = iot_alarm_device(batch, device_id);
	return watch;
}

static void
see(IotAlarmWatch *watch, TimestampTz ts, double value)
{
	watch->change = TIMESTAMP_IS_NOBEGIN(watch->ts) ? NAN : value - watch->value;
	watch->elapsed = TIMESTAMP_IS_NOBEGIN(watch->ts) ? NAN : (double) (ts - watch->ts);
	watch->value = value;
	watch->ts = ts;
}

static void
judge_sensor(IotAlarmBatch *batch, IotAlarmWatch *watch, TimestampTz ts, double value)
{
	for (int i = 0; i < watch->run_count; i++)
		iot_alarm_advance(batch, &watch->runs[i], ts);
	see(watch, ts, value);
	for (int i = 0; i < watch->run_count; i++)
		iot_alarm_judge_run(batch, &watch->runs[i], ts);
	/* a change is one of two measurements: no time alone looks at it again */
	watch->change = NAN;
}

static void
keep_point(IotAlarmBatch *batch, IotAlarmWatch *watch, TimestampTz ts, double value)
{
	if (batch->point_count == batch->point_size)
	{
		batch->point_size = Max(batch->point_size * 2, 64);
		batch->points = batch->points == NULL
			? MemoryContextAlloc(batch->cxt, sizeof(IotAlarmPoint) * batch->point_size)
			: repalloc_huge(batch->points, sizeof(IotAlarmPoint) * batch->point_size);
	}
	batch->points[batch->point_count++] = (IotAlarmPoint) {watch, ts, value};
}

/*
 * Judges one measurement, newer than all that were judged of its sensor.  Those of a device with
 * conditions wait for iot_alarm_judge_points(), since others of the same time belong to them.
 */
void
iot_alarm_judge(IotAlarmBatch *batch, IotAlarmWatch *watch, TimestampTz ts, double value)
{
	if (watch->device != NULL && watch->device->watch != NULL)
		keep_point(batch, watch, ts, value);
	else
		judge_sensor(batch, watch, ts, value);
}

static int
compare_points(const void *a, const void *b)
{
	const IotAlarmPoint *left = a;
	const IotAlarmPoint *right = b;
	int			order = memcmp(&left->watch->device->device_id, &right->watch->device->device_id,
							   UUID_LEN);

	if (order == 0 && left->ts != right->ts)
		order = left->ts < right->ts ? -1 : 1;
	if (order == 0)
		order = memcmp(&left->watch->parameter_id, &right->watch->parameter_id, UUID_LEN);
	return order;
}

static void
set_value(IotAlarmDevice *device, const IotAlarmPoint *point)
{
	for (int i = 0; i < device->value_count; i++)
	{
		IotAlarmValue *value = &device->values[i];

		if (memcmp(&value->parameter_id, &point->watch->parameter_id, UUID_LEN) != 0)
			continue;
		value->value = point->value;
		value->ts = point->ts;
	}
}

/* Whether measurements of these are what a rule is judged by. */
static bool
concerns(const IotAlarmRule *rule, const IotAlarmPoint *points, Size count)
{
	if (iot_alarm_any_parameter(rule))
		return true;
	for (Size i = 0; i < count; i++)
	{
		if (memcmp(&rule->parameter_id, &points[i].watch->parameter_id, UUID_LEN) == 0)
			return true;
	}
	return false;
}

/* Judges a device by its measurements of one time, which it has all at once. */
static void
judge_device(IotAlarmBatch *batch, const IotAlarmPoint *points, Size count)
{
	IotAlarmWatch *watch = points[0].watch->device->watch;
	TimestampTz ts = points[0].ts;

	for (int i = 0; i < watch->run_count; i++)
		iot_alarm_advance(batch, &watch->runs[i], ts);
	for (Size i = 0; i < count; i++)
		set_value(watch->device, &points[i]);
	watch->parameter_id = points[count - 1].watch->parameter_id;
	see(watch, ts, points[count - 1].value);
	for (int i = 0; i < watch->run_count; i++)
	{
		if (concerns(watch->runs[i].rule, points, count))
			iot_alarm_judge_run(batch, &watch->runs[i], ts);
	}
}

/* Judges the measurements that have waited, device by device in the order of their times. */
void
iot_alarm_judge_points(IotAlarmBatch *batch)
{
	Size		next;

	if (batch->point_count == 0)
		return;
	qsort(batch->points, batch->point_count, sizeof(IotAlarmPoint), compare_points);
	for (Size i = 0; i < batch->point_count; i = next)
	{
		IotAlarmPoint *points = &batch->points[i];

		CHECK_FOR_INTERRUPTS();
		for (next = i; next < batch->point_count; next++)
		{
			if (batch->points[next].watch->device != points->watch->device ||
				batch->points[next].ts != points->ts)
				break;
			judge_sensor(batch, batch->points[next].watch, points->ts, batch->points[next].value);
		}
		judge_device(batch, points, next - i);
	}
	batch->point_count = 0;
}

/* Writes what was judged, and ends the statement. */
void
iot_alarm_end(IotAlarmBatch *batch)
{
	iot_alarm_judge_points(batch);
	if (batch->step_count > 0)
		iot_alarm_write(batch);
	if (batch->devices != NIL)
		iot_alarm_mark_devices(batch);
	if (batch->remembers)
		iot_alarm_store(batch);
	iot_alarm_store_errors(batch);
	iot_alarm_rules_end();
}
