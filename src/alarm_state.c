/*
 * alarm_state.c
 *		What rules remember between statements, and what they know of devices.
 *
 * Runs where alarms are judged.  All is read after the rows that are judged by are locked, and
 * with a fresh snapshot where the transaction allows that.
 *
 * A device with conditions is judged by several sensors, so that a sensor's row is no lock that
 * is held by whoever judges.  Its lock is a row of iot.alarm_rule_state that is no rule's, taken
 * before the rows of sensors, in the order of device_id.  The same lock stands for the row of a
 * sensor that has none yet.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "plan.h"

/* A due time that moves by less is not written anew: the sweep looks no closer. */
#define DUE_SLACK_MS	500

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
static IotPlan select_open = {
	"SELECT a.device_id, a.alarm_rule_id, a.alarm_id, a.opened_at, a.severity FROM iot.alarm a"
	" WHERE a.status = 'OPENED' AND a.device_id = ANY ($1)",
	1, {UUIDARRAYOID}
};
static IotPlan select_states = {
	"SELECT s.device_id, s.alarm_rule_id, s.hits, s.since, s.clear, s.due_at, s.red_hits,"
	" s.red_since, s.judged_at"
	" FROM iot.alarm_rule_state s WHERE s.device_id = ANY ($1)",
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
static IotPlan write_states = {
	"INSERT INTO iot.alarm_rule_state AS s"
	" (device_id, alarm_rule_id, hits, since, clear, due_at, red_hits, red_since, judged_at)"
	" SELECT u.device_id, u.alarm_rule_id, u.hits, u.since, u.clear, u.due_at, u.red_hits,"
	" u.red_since, u.judged_at"
	" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)"
	" AS u (device_id, alarm_rule_id, hits, since, clear, due_at, red_hits, red_since, judged_at)"
	" ON CONFLICT (device_id, alarm_rule_id) DO UPDATE SET hits = excluded.hits,"
	" since = excluded.since, clear = excluded.clear, due_at = excluded.due_at,"
	" red_hits = excluded.red_hits, red_since = excluded.red_since,"
	" judged_at = excluded.judged_at",
	9, {UUIDARRAYOID, UUIDARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, BOOLARRAYOID,
	TIMESTAMPTZARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID}
};

static Datum
uuid_array(Datum *ids, int count)
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
	arg = uuid_array(ids, count);
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
	arg = uuid_array(ids, count);
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

/* Some runs, in the order in which every writer locks their rows, and where they look. */
typedef struct Runs
{
	IotAlarmRun **runs;
	int			count;
	Datum		device_ids;		/* array of uuid */
	int			device_count;
} Runs;

static void
sort_runs(Runs *sorted, IotAlarmBatch *batch)
{
	ListCell   *lc;
	int			total = 0;
	Datum	   *ids;

	foreach(lc, batch->watches)
		total += ((IotAlarmWatch *) lfirst(lc))->run_count;
	sorted->runs = palloc_extended(sizeof(IotAlarmRun *) * (total + 1), MCXT_ALLOC_HUGE);
	sorted->count = 0;
	sorted->device_count = 0;
	foreach(lc, batch->watches)
	{
		IotAlarmWatch *watch = lfirst(lc);

		for (int i = 0; i < watch->run_count; i++)
			sorted->runs[sorted->count++] = &watch->runs[i];
	}
	qsort(sorted->runs, sorted->count, sizeof(IotAlarmRun *), compare_runs);
	ids = palloc_extended(sizeof(Datum) * (total + 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < sorted->count; i++)
	{
		const pg_uuid_t *device_id = &sorted->runs[i]->device_id;

		if (i == 0 || memcmp(device_id, &sorted->runs[i - 1]->device_id, UUID_LEN) != 0)
			ids[sorted->device_count++] = UUIDPGetDatum(device_id);
	}
	if (sorted->device_count > 0)
		sorted->device_ids = uuid_array(ids, sorted->device_count);
}

static Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, isnull);
}

static TimestampTz
time_column(uint64 row, int number, TimestampTz missing)
{
	bool		isnull;
	Datum		value = column(row, number, &isnull);

	return isnull ? missing : DatumGetTimestampTz(value);
}

/* The run that a row is about, by its first two columns; NULL where there is none. */
static IotAlarmRun *
find_run(const Runs *sorted, uint64 row)
{
	IotAlarmRule rule;
	IotAlarmRun key = {.rule = &rule};
	IotAlarmRun *wanted = &key;
	IotAlarmRun **found;
	bool		isnull;

	key.device_id = *DatumGetUUIDP(column(row, 1, &isnull));
	rule.alarm_rule_id = *DatumGetUUIDP(column(row, 2, &isnull));
	found = bsearch(&wanted, sorted->runs, sorted->count, sizeof(IotAlarmRun *), compare_runs);
	return found != NULL ? *found : NULL;
}

static void
load_open(Runs *sorted)
{
	uint64		rows = iot_plan_execute(&select_open, &sorted->device_ids, NULL);

	for (uint64 row = 0; row < rows; row++)
	{
		IotAlarmRun *run = find_run(sorted, row);
		bool		isnull;

		if (run == NULL)
			continue;
		run->alarm_id = *DatumGetUUIDP(column(row, 3, &isnull));
		run->state.opened_at = DatumGetTimestampTz(column(row, 4, &isnull));
		run->state.level =
			strcmp(TextDatumGetCString(column(row, 5, &isnull)), run->rule->severity) == 0 ? 1 : 2;
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
load_track(IotRuleTrack *track, uint64 row, int hits, int since)
{
	bool		isnull;

	track->hits = DatumGetInt32(column(row, hits, &isnull));
	track->since = time_column(row, since, IOT_RULE_NEVER);
}

/* After load_open(): what a row says of an alarm that people have closed means nothing. */
static void
load_states(Runs *sorted)
{
	uint64		rows = iot_plan_execute(&select_states, &sorted->device_ids, NULL);

	for (uint64 row = 0; row < rows; row++)
	{
		IotAlarmRun *run = find_run(sorted, row);
		bool		isnull;

		if (run == NULL)
			continue;
		run->known = true;
		run->stored_due_at = time_column(row, 6, DT_NOEND);
		run->judged_at = time_column(row, 9, DT_NOBEGIN);
		if (run->rule->kind == IOT_ALARM_NO_DATA)
			run->since = time_column(row, 4, DT_NOBEGIN);
		else if (run->state.level == 0)
			load_track(&run->state.tracks[0], row, 3, 4);
		if (run->state.level < 2)
			load_track(&run->state.tracks[1], row, 7, 8);
		if (run->state.level > 0)
			run->state.clear = DatumGetBool(column(row, 5, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
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
		IotAlarmDevice *device = find_device(batch, DatumGetUUIDP(column(row, 1, &isnull)));
		Datum		attributes = column(row, 2, &isnull);

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
		IotAlarmDevice *device = find_device(batch, DatumGetUUIDP(column(row, 1, &isnull)));
		IotAlarmValue *value;

		if (device == NULL)
			continue;
		value = add_value(device);
		value->parameter_id = *DatumGetUUIDP(column(row, 2, &isnull));
		value->name = TextDatumGetCString(column(row, 3, &isnull));
		value->value = DatumGetFloat8(column(row, 4, &isnull));
		value->ts = DatumGetTimestampTz(column(row, 5, &isnull));
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
	device_ids = uuid_array(ids, count);
	if (batch->wants_attributes)
		load_attributes(batch, device_ids);
	if (!batch->wants_values)
		return;
	load_values(batch, device_ids);
	unsee(batch);
	foreach(lc, batch->devices)
		see_newest(lfirst(lc));
}

/* The devices of sensors that are measured for the first time, and waited for. */
static void
lock_first(IotAlarmBatch *batch)
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

/* How far each run has come. */
static void
set_judged(IotAlarmBatch *batch)
{
	ListCell   *lc;

	foreach(lc, batch->watches)
	{
		IotAlarmWatch *watch = lfirst(lc);

		for (int i = 0; i < watch->run_count; i++)
		{
			IotAlarmRun *run = &watch->runs[i];

			if (run->known && TIMESTAMP_IS_NOBEGIN(run->judged_at))
			{
				/* due since the rule was made, so that somebody looks */
				iot_alarm_begin_run(run, run->stored_due_at);
				run->must_store = true;
			}
			run->judged_at = Max(run->judged_at, watch->ts);
			if (run->state.level > 0)
				run->judged_at = Max(run->judged_at, run->state.opened_at);
			run->stored = run->state;
		}
	}
}

/* Reads where all rules of the watches stand.  To be called before the first judgement. */
void
iot_alarm_load(IotAlarmBatch *batch)
{
	Runs		sorted;

	sort_runs(&sorted, batch);
	if (sorted.count == 0)
		return;
	if (batch->remembers)
		lock_first(batch);
	batch->now = iot_alarm_now();
	load_open(&sorted);
	if (batch->remembers)
		load_states(&sorted);
	iot_alarm_load_devices(batch);
	set_judged(batch);
}

static bool
same_tracks(const IotRuleState *a, const IotRuleState *b)
{
	for (int i = 0; i < IOT_RULE_LEVELS; i++)
	{
		if (a->tracks[i].hits != b->tracks[i].hits || a->tracks[i].since != b->tracks[i].since)
			return false;
	}
	return true;
}

static bool
must_be_written(const IotAlarmRun *run, TimestampTz due_at)
{
	const int64 slack = DUE_SLACK_MS * INT64CONST(1000);

	if (!run->judged || !iot_alarm_remembers(run->rule))
		return false;
	if (run->must_store || run->state.clear != run->stored.clear ||
		!same_tracks(&run->state, &run->stored))
		return true;
	if (due_at == DT_NOEND || run->stored_due_at == DT_NOEND)
		return due_at != run->stored_due_at;
	/* a silence that ends is none the sweep must hear of: it looks again when it comes by */
	return due_at < run->stored_due_at - slack ||
		(due_at > run->stored_due_at + slack && run->rule->kind != IOT_ALARM_NO_DATA);
}

static bool
moved_on(const IotAlarmWatch *watch)
{
	for (int i = 0; watch != NULL && i < watch->run_count; i++)
	{
		const IotRuleState *state = &watch->runs[i].state;
		const IotRuleState *stored = &watch->runs[i].stored;

		if (state->level != stored->level || state->opened_at != stored->opened_at ||
			state->clear != stored->clear || !same_tracks(state, stored))
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
	arg = uuid_array(ids, count);
	(void) iot_plan_execute(&mark_locks, &arg, NULL);
}

enum
{
	STATE_DEVICE, STATE_RULE, STATE_HITS, STATE_SINCE, STATE_CLEAR, STATE_DUE_AT, STATE_RED_HITS,
	STATE_RED_SINCE, STATE_JUDGED_AT, STATE_COLUMNS
};

/* Rows to be written, by columns. */
typedef struct StateRows
{
	int			count;
	Datum	   *values[STATE_COLUMNS];
	bool	   *nulls[STATE_COLUMNS];
} StateRows;

static void
add_time(StateRows *rows, int column, TimestampTz at)
{
	rows->values[column][rows->count] = TimestampTzGetDatum(at);
	rows->nulls[column][rows->count] = TIMESTAMP_NOT_FINITE(at);
}

static void
add_row(StateRows *rows, const IotAlarmRun *run, TimestampTz due_at)
{
	const IotRuleTrack *tracks = run->state.tracks;

	StaticAssertStmt(IOT_RULE_NEVER == DT_NOBEGIN, "times that are not there must be the same");
	rows->values[STATE_DEVICE][rows->count] = UUIDPGetDatum(&run->device_id);
	rows->values[STATE_RULE][rows->count] = UUIDPGetDatum(&run->rule->alarm_rule_id);
	rows->values[STATE_HITS][rows->count] = Int32GetDatum(tracks[0].hits);
	add_time(rows, STATE_SINCE,
			 run->rule->kind == IOT_ALARM_NO_DATA ? run->since : tracks[0].since);
	rows->values[STATE_CLEAR][rows->count] = BoolGetDatum(run->state.clear);
	add_time(rows, STATE_DUE_AT, due_at);
	rows->values[STATE_RED_HITS][rows->count] = Int32GetDatum(tracks[1].hits);
	add_time(rows, STATE_RED_SINCE, tracks[1].since);
	add_time(rows, STATE_JUDGED_AT, run->judged_at);
	rows->count++;
}

static void
write_rows(StateRows *rows)
{
	static const struct
	{
		Oid			type;
		int			len;
		bool		byval;
		char		align;
	}			types[STATE_COLUMNS] = {
		[STATE_DEVICE] = {UUIDOID, UUID_LEN, false, TYPALIGN_CHAR},
		[STATE_RULE] = {UUIDOID, UUID_LEN, false, TYPALIGN_CHAR},
		[STATE_HITS] = {INT4OID, sizeof(int32), true, TYPALIGN_INT},
		[STATE_SINCE] = {TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE},
		[STATE_CLEAR] = {BOOLOID, sizeof(bool), true, TYPALIGN_CHAR},
		[STATE_DUE_AT] = {TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE},
		[STATE_RED_HITS] = {INT4OID, sizeof(int32), true, TYPALIGN_INT},
		[STATE_RED_SINCE] = {TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE},
		[STATE_JUDGED_AT] = {TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE}
	};
	Datum		args[STATE_COLUMNS];
	int			lower = 1;

	for (int i = 0; i < STATE_COLUMNS; i++)
		args[i] = PointerGetDatum(construct_md_array(rows->values[i], rows->nulls[i], 1,
													 &rows->count, &lower, types[i].type,
													 types[i].len, types[i].byval,
													 types[i].align));
	(void) iot_plan_execute(&write_states, args, NULL);
}

/* Writes what is to be remembered. */
void
iot_alarm_store(IotAlarmBatch *batch)
{
	Runs		sorted;
	StateRows	rows = {0};

	sort_runs(&sorted, batch);
	for (int i = 0; i < STATE_COLUMNS; i++)
	{
		rows.values[i] = palloc_extended(sizeof(Datum) * (sorted.count + 1), MCXT_ALLOC_HUGE);
		rows.nulls[i] = palloc_extended(sizeof(bool) * (sorted.count + 1),
										MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	}
	for (int i = 0; i < sorted.count; i++)
	{
		IotAlarmRun *run = sorted.runs[i];
		TimestampTz due_at = iot_alarm_due_at(run);

		if (must_be_written(run, due_at))
			add_row(&rows, run, due_at);
	}
	if (rows.count > 0)
		write_rows(&rows);
}
