/*
 * alarm_state.c
 *		What rules remember between statements: their open alarms and their states.
 *
 * Runs where alarms are judged.  All is read after the rows that are judged by are locked, and
 * with a fresh snapshot where the transaction allows that.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "plan.h"

/* A due time that moves by less is not written anew: the sweep looks no closer. */
#define DUE_SLACK_MS	500

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
		sorted->device_ids = iot_alarm_uuid_array(ids, sorted->device_count);
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
		iot_alarm_lock_first(batch);
	batch->now = iot_alarm_now();
	load_open(&sorted);
	if (batch->remembers)
		load_states(&sorted);
	iot_alarm_load_devices(batch);
	set_judged(batch);
}

/* Whether nothing but time has passed for a rule's levels. */
bool
iot_alarm_same_tracks(const IotRuleState *a, const IotRuleState *b)
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
		!iot_alarm_same_tracks(&run->state, &run->stored))
		return true;
	if (due_at == DT_NOEND || run->stored_due_at == DT_NOEND)
		return due_at != run->stored_due_at;
	/* a silence that ends is none the sweep must hear of: it looks again when it comes by */
	return due_at < run->stored_due_at - slack ||
		(due_at > run->stored_due_at + slack && run->rule->kind != IOT_ALARM_NO_DATA);
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
