/*
 * alarm.c
 *		Judging measurements by alarm rules.
 *
 * Runs in the backend that writes measurements, in its transaction and between SPI_connect and
 * SPI_finish, and in the notifier for what falls due in silence.  Whoever judges a device's
 * parameter holds the row of iot.sensor_value, so that no two judge the same at once; the unique
 * index over open alarms is there for whoever does not keep to that.
 *
 * Memory is the caller's context, in proportion to the sensors that have rules and to the steps
 * that are taken.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "plan.h"
#include "uuidv7.h"

/* A due time that moves by less is not written anew: the sweep looks no closer. */
#define DUE_SLACK_MS	500

static IotPlan select_open = {
	"SELECT a.device_id, a.alarm_rule_id, a.alarm_id, a.opened_at FROM iot.alarm a"
	" WHERE a.status = 'OPENED' AND a.device_id = ANY ($1)",
	1, {UUIDARRAYOID}
};
static IotPlan select_states = {
	"SELECT s.device_id, s.alarm_rule_id, s.hits, s.since, s.clear, s.due_at"
	" FROM iot.alarm_rule_state s WHERE s.device_id = ANY ($1)",
	1, {UUIDARRAYOID}
};
static IotPlan write_states = {
	"INSERT INTO iot.alarm_rule_state AS s"
	" (device_id, alarm_rule_id, hits, since, clear, due_at)"
	" SELECT u.device_id, u.alarm_rule_id, u.hits, u.since, u.clear, u.due_at"
	" FROM unnest($1, $2, $3, $4, $5, $6)"
	" AS u (device_id, alarm_rule_id, hits, since, clear, due_at)"
	" ON CONFLICT (device_id, alarm_rule_id) DO UPDATE SET hits = excluded.hits,"
	" since = excluded.since, clear = excluded.clear, due_at = excluded.due_at",
	6, {UUIDARRAYOID, UUIDARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, BOOLARRAYOID,
	TIMESTAMPTZARRAYOID}
};

/* Begins a statement; NULL where there is no rule at all.  May raise. */
IotAlarmBatch *
iot_alarm_begin(void)
{
	IotAlarmBatch *batch;

	if (!iot_alarm_rules_begin())
		return NULL;
	batch = palloc0(sizeof(IotAlarmBatch));
	batch->cxt = CurrentMemoryContext;
	return batch;
}

static bool
remembers(const IotRuleSpec *spec)
{
	return spec->repeat_count > 1 || spec->duration > 0 || spec->min_open > 0;
}

/* What is to be judged of a sensor; NULL where no rule is about it. */
IotAlarmWatch *
iot_alarm_watch(IotAlarmBatch *batch, const pg_uuid_t *device_id, const pg_uuid_t *parameter_id)
{
	List	   *rules = iot_alarm_rules_find(device_id, parameter_id);
	IotAlarmWatch *watch;
	ListCell   *lc;

	if (rules == NIL)
		return NULL;
	watch = palloc0(sizeof(IotAlarmWatch));
	watch->runs = palloc0(sizeof(IotAlarmRun) * list_length(rules));
	foreach(lc, rules)
	{
		IotAlarmRun *run = &watch->runs[watch->run_count++];

		run->device_id = *device_id;
		run->rule = lfirst(lc);
		run->judged_at = DT_NOBEGIN;
		run->stored_due_at = DT_NOEND;
		iot_rule_reset(&run->state);
		batch->remembers = batch->remembers || remembers(&run->rule->spec);
	}
	list_free(rules);
	batch->watches = lappend(batch->watches, watch);
	return watch;
}

static int
compare_runs(const void *a, const void *b)
{
	const IotAlarmRun *left = *(IotAlarmRun *const *) a;
	const IotAlarmRun *right = *(IotAlarmRun *const *) b;
	int			order = memcmp(&left->device_id, &right->device_id, UUID_LEN);

	if (order == 0)
		order = memcmp(&left->rule->alarm_rule_id, &right->rule->alarm_rule_id, UUID_LEN);
	return order;
}

static IotAlarmRun **
sorted_runs(IotAlarmBatch *batch, int *count)
{
	IotAlarmRun **runs;
	ListCell   *lc;
	int			total = 0;

	foreach(lc, batch->watches)
		total += ((IotAlarmWatch *) lfirst(lc))->run_count;
	runs = palloc_extended(sizeof(IotAlarmRun *) * (total + 1), MCXT_ALLOC_HUGE);
	*count = 0;
	foreach(lc, batch->watches)
	{
		IotAlarmWatch *watch = lfirst(lc);

		for (int i = 0; i < watch->run_count; i++)
			runs[(*count)++] = &watch->runs[i];
	}
	qsort(runs, *count, sizeof(IotAlarmRun *), compare_runs);
	return runs;
}

static Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, isnull);
}

/* The run that a row is about, by its first two columns; NULL where there is none. */
static IotAlarmRun *
find_run(IotAlarmRun **runs, int count, uint64 row)
{
	IotAlarmRule rule;
	IotAlarmRun key = {.rule = &rule};
	IotAlarmRun *wanted = &key;
	IotAlarmRun **found;
	bool		isnull;

	key.device_id = *DatumGetUUIDP(column(row, 1, &isnull));
	rule.alarm_rule_id = *DatumGetUUIDP(column(row, 2, &isnull));
	found = bsearch(&wanted, runs, count, sizeof(IotAlarmRun *), compare_runs);
	return found != NULL ? *found : NULL;
}

static void
load_open(IotAlarmRun **runs, int count, Datum device_ids)
{
	uint64		rows = iot_plan_execute(&select_open, &device_ids, NULL);

	for (uint64 row = 0; row < rows; row++)
	{
		IotAlarmRun *run = find_run(runs, count, row);
		bool		isnull;

		if (run == NULL)
			continue;
		run->alarm_id = *DatumGetUUIDP(column(row, 3, &isnull));
		run->state.open = true;
		run->state.opened_at = DatumGetTimestampTz(column(row, 4, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}

/* After load_open(): what a row says of an alarm that people have closed means nothing. */
static void
load_states(IotAlarmRun **runs, int count, Datum device_ids)
{
	uint64		rows = iot_plan_execute(&select_states, &device_ids, NULL);

	for (uint64 row = 0; row < rows; row++)
	{
		IotAlarmRun *run = find_run(runs, count, row);
		bool		isnull;
		Datum		since;
		Datum		due_at;

		if (run == NULL)
			continue;
		since = column(row, 4, &isnull);
		if (run->state.open)
			run->state.clear = DatumGetBool(column(row, 5, &isnull));
		else
		{
			run->state.since = isnull ? IOT_RULE_NEVER : DatumGetTimestampTz(since);
			run->state.hits = DatumGetInt32(column(row, 3, &isnull));
		}
		due_at = column(row, 6, &isnull);
		run->stored_due_at = isnull ? DT_NOEND : DatumGetTimestampTz(due_at);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Reads where all rules of the watches stand.  To be called before the first judgement. */
void
iot_alarm_load(IotAlarmBatch *batch)
{
	int			count;
	IotAlarmRun **runs = sorted_runs(batch, &count);
	Datum	   *ids = palloc(sizeof(Datum) * (count + 1));
	int			nids = 0;
	Datum		device_ids;

	if (count == 0)
		return;
	for (int i = 0; i < count; i++)
	{
		if (i == 0 || memcmp(&runs[i]->device_id, &runs[i - 1]->device_id, UUID_LEN) != 0)
			ids[nids++] = UUIDPGetDatum(&runs[i]->device_id);
	}
	device_ids = PointerGetDatum(construct_array(ids, nids, UUIDOID, UUID_LEN, false,
												 TYPALIGN_CHAR));
	load_open(runs, count, device_ids);
	if (batch->remembers)
		load_states(runs, count, device_ids);
	for (int i = 0; i < count; i++)
		runs[i]->stored = runs[i]->state;
}

static void
add_step(IotAlarmBatch *batch, IotAlarmRun *run, IotRuleStep step, TimestampTz opened_at,
		 TimestampTz at, double value)
{
	IotAlarmStep *new;

	if (batch->step_count == batch->step_size)
	{
		batch->step_size = Max(batch->step_size * 2, 16);
		batch->steps = batch->steps == NULL
			? MemoryContextAlloc(batch->cxt, sizeof(IotAlarmStep) * batch->step_size)
			: repalloc_huge(batch->steps, sizeof(IotAlarmStep) * batch->step_size);
	}
	if (step == IOT_RULE_OPENS)
		iot_uuidv7(&run->alarm_id);
	new = &batch->steps[batch->step_count++];
	new->run = run;
	new->step = step;
	new->alarm_id = run->alarm_id;
	new->opened_at = step == IOT_RULE_OPENS ? at : opened_at;
	new->at = at;
	new->value = value;
}

/* Takes what is due in a run, at the value that has held until then. */
void
iot_alarm_fall_due(IotAlarmBatch *batch, IotAlarmWatch *watch, IotAlarmRun *run)
{
	TimestampTz opened_at = run->state.opened_at;
	int64		at;
	IotRuleStep step = iot_rule_fall_due(&run->rule->spec, &run->state, &at);

	if (step == IOT_RULE_NOTHING)
		return;
	run->judged_at = at;
	add_step(batch, run, step, opened_at, at, watch->value);
}

/*
 * Judges one measurement, newer than all that were judged of its sensor.  watch->value is the one
 * before it.
 */
void
iot_alarm_judge(IotAlarmBatch *batch, IotAlarmWatch *watch, TimestampTz ts, double value)
{
	for (int i = 0; i < watch->run_count; i++)
	{
		IotAlarmRun *run = &watch->runs[i];
		const IotRuleSpec *spec = &run->rule->spec;
		int64		due = iot_rule_due(spec, &run->state);
		TimestampTz opened_at;
		int64		at;
		IotRuleStep step;

		if (due != IOT_RULE_NEVER && due < ts)
			iot_alarm_fall_due(batch, watch, run);
		opened_at = run->state.opened_at;
		step = iot_rule_judge(spec, &run->state, ts, value, &at);
		run->judged_at = ts;
		if (step != IOT_RULE_NOTHING)
			add_step(batch, run, step, opened_at, at, value);
	}
	watch->value = value;
}

/* When the sweep is to look at a run, by the server's clock; DT_NOEND for never. */
static TimestampTz
due_at(const IotAlarmRun *run, TimestampTz now)
{
	int64		due = iot_rule_due(&run->rule->spec, &run->state);

	/* the device's clock may be wrong: only how far its times lie apart counts */
	return due == IOT_RULE_NEVER ? DT_NOEND : now + Max(due - run->judged_at, 0);
}

static bool
must_be_written(const IotAlarmRun *run, TimestampTz due)
{
	const IotRuleState *state = &run->state;
	const IotRuleState *stored = &run->stored;

	if (!remembers(&run->rule->spec))
		return false;
	if (state->hits != stored->hits || state->since != stored->since ||
		state->clear != stored->clear)
		return true;
	if ((due == DT_NOEND) != (run->stored_due_at == DT_NOEND))
		return true;
	return due != DT_NOEND && llabs(due - run->stored_due_at) > DUE_SLACK_MS * INT64CONST(1000);
}

static void
store_states(IotAlarmBatch *batch)
{
	TimestampTz now = GetCurrentTimestamp();
	int			count;
	IotAlarmRun **runs = sorted_runs(batch, &count);
	Datum	   *columns[6];
	bool	   *no_since = palloc0(sizeof(bool) * (count + 1));
	bool	   *no_due = palloc0(sizeof(bool) * (count + 1));
	Datum		args[6];
	int			rows = 0;
	int			lower = 1;

	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = palloc(sizeof(Datum) * (count + 1));
	for (int i = 0; i < count; i++)
	{
		const IotAlarmRun *run = runs[i];
		TimestampTz due = due_at(run, now);

		if (run->judged_at == DT_NOBEGIN || !must_be_written(run, due))
			continue;
		columns[0][rows] = UUIDPGetDatum(&run->device_id);
		columns[1][rows] = UUIDPGetDatum(&run->rule->alarm_rule_id);
		columns[2][rows] = Int32GetDatum(run->state.hits);
		columns[3][rows] = TimestampTzGetDatum(run->state.since);
		no_since[rows] = run->state.since == IOT_RULE_NEVER;
		columns[4][rows] = BoolGetDatum(run->state.clear);
		columns[5][rows] = TimestampTzGetDatum(due);
		no_due[rows] = due == DT_NOEND;
		rows++;
	}
	if (rows == 0)
		return;
	args[0] = PointerGetDatum(construct_array(columns[0], rows, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	args[1] = PointerGetDatum(construct_array(columns[1], rows, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	args[2] = PointerGetDatum(construct_array(columns[2], rows, INT4OID, sizeof(int32), true,
											  TYPALIGN_INT));
	args[3] = PointerGetDatum(construct_md_array(columns[3], no_since, 1, &rows, &lower,
												 TIMESTAMPTZOID, sizeof(TimestampTz),
												 FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	args[4] = PointerGetDatum(construct_array(columns[4], rows, BOOLOID, sizeof(bool), true,
											  TYPALIGN_CHAR));
	args[5] = PointerGetDatum(construct_md_array(columns[5], no_due, 1, &rows, &lower,
												 TIMESTAMPTZOID, sizeof(TimestampTz),
												 FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	(void) iot_plan_execute(&write_states, args, NULL);
}

/* Writes what was judged, and ends the statement.  May raise. */
void
iot_alarm_end(IotAlarmBatch *batch)
{
	if (batch->step_count > 0)
		iot_alarm_write(batch);
	if (batch->remembers)
		store_states(batch);
	iot_alarm_rules_end();
}
