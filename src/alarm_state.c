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
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "column.h"
#include "live_row.h"
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

/* Columns of those statements, in their order, and of the table. */
enum
{
	STATE_DEVICE, STATE_RULE, STATE_HITS, STATE_SINCE, STATE_CLEAR, STATE_DUE_AT, STATE_RED_HITS,
	STATE_RED_SINCE, STATE_JUDGED_AT, STATE_COLUMNS
};

static const IotLiveColumn state_columns[STATE_COLUMNS] = {
	[STATE_DEVICE] = {"device_id", UUIDOID},
	[STATE_RULE] = {"alarm_rule_id", UUIDOID},
	[STATE_HITS] = {"hits", INT4OID},
	[STATE_SINCE] = {"since", TIMESTAMPTZOID},
	[STATE_CLEAR] = {"clear", BOOLOID},
	[STATE_DUE_AT] = {"due_at", TIMESTAMPTZOID},
	[STATE_RED_HITS] = {"red_hits", INT4OID},
	[STATE_RED_SINCE] = {"red_since", TIMESTAMPTZOID},
	[STATE_JUDGED_AT] = {"judged_at", TIMESTAMPTZOID}
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

/* The run that a row is about, by its first two columns; NULL where there is none. */
static IotAlarmRun *
find_run(const Runs *sorted, uint64 row)
{
	IotAlarmRule rule;
	IotAlarmRun key = {.rule = &rule};
	IotAlarmRun *wanted = &key;
	IotAlarmRun **found;
	bool		isnull;

	key.device_id = *DatumGetUUIDP(iot_column(row, 1, &isnull));
	rule.alarm_rule_id = *DatumGetUUIDP(iot_column(row, 2, &isnull));
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
		run->alarm_id = *DatumGetUUIDP(iot_column(row, 3, &isnull));
		run->state.opened_at = DatumGetTimestampTz(iot_column(row, 4, &isnull));
		run->state.level =
			strcmp(TextDatumGetCString(iot_column(row, 5, &isnull)), run->rule->severity) == 0 ? 1 : 2;
	}
	SPI_freetuptable(SPI_tuptable);
}

/* A row of iot.alarm_rule_state. */
typedef struct StateRow
{
	Datum		values[STATE_COLUMNS];
	bool		nulls[STATE_COLUMNS];
} StateRow;

static TimestampTz
state_time(const StateRow *row, int column, TimestampTz missing)
{
	return row->nulls[column] ? missing : DatumGetTimestampTz(row->values[column]);
}

static void
take_track(IotRuleTrack *track, const StateRow *row, int hits, int since)
{
	track->hits = DatumGetInt32(row->values[hits]);
	track->since = state_time(row, since, IOT_RULE_NEVER);
}

/* What a row says of an alarm that people have closed means nothing. */
static void
take_state(IotAlarmRun *run, const StateRow *row)
{
	run->known = true;
	run->stored_due_at = state_time(row, STATE_DUE_AT, DT_NOEND);
	run->judged_at = state_time(row, STATE_JUDGED_AT, DT_NOBEGIN);
	if (run->rule->kind == IOT_ALARM_NO_DATA)
		run->since = state_time(row, STATE_SINCE, DT_NOBEGIN);
	else if (run->state.level == 0)
		take_track(&run->state.tracks[0], row, STATE_HITS, STATE_SINCE);
	if (run->state.level < 2)
		take_track(&run->state.tracks[1], row, STATE_RED_HITS, STATE_RED_SINCE);
	if (run->state.level > 0)
		run->state.clear = DatumGetBool(row->values[STATE_CLEAR]);
}

static void
find_states(Runs *sorted, IotLiveRows *rows)
{
	StateRow	row;

	for (int i = 0; i < sorted->count; i++)
	{
		IotAlarmRun *run = sorted->runs[i];

		CHECK_FOR_INTERRUPTS();
		if (!iot_alarm_remembers(run->rule) ||
			!iot_live_row_find(rows, &run->device_id, &run->rule->alarm_rule_id))
			continue;
		for (int j = 0; j < STATE_COLUMNS; j++)
			row.values[j] = iot_live_row_get(rows, j, &row.nulls[j]);
		take_state(run, &row);
	}
}

/* After load_open(). */
static void
load_states(Runs *sorted)
{
	IotLiveRows *rows = iot_live_rows_open("alarm_rule_state", state_columns, STATE_COLUMNS);
	uint64		count;

	if (rows != NULL)
	{
		find_states(sorted, rows);
		iot_live_rows_close(rows);
		return;
	}
	count = iot_plan_execute(&select_states, &sorted->device_ids, NULL);
	for (uint64 i = 0; i < count; i++)
	{
		IotAlarmRun *run = find_run(sorted, i);
		StateRow	row;

		if (run == NULL)
			continue;
		for (int j = 0; j < STATE_COLUMNS; j++)
			row.values[j] = iot_column(i, j + 1, &row.nulls[j]);
		take_state(run, &row);
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

/* Writes rows that are there, up to the first that is for a statement; returns how many that were. */
static int
update_rows(const StateRows *rows)
{
	IotLiveRows *live = iot_live_rows_open("alarm_rule_state", state_columns, STATE_COLUMNS);
	int			done = 0;

	if (live == NULL)
		return 0;
	for (; done < rows->count; done++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!iot_live_row_find(live, DatumGetUUIDP(rows->values[STATE_DEVICE][done]),
							   DatumGetUUIDP(rows->values[STATE_RULE][done])))
			break;
		for (int i = STATE_HITS; i < STATE_COLUMNS; i++)
			iot_live_row_set(live, i, rows->values[i][done], rows->nulls[i][done]);
		if (!iot_live_row_update(live))
			break;
	}
	iot_live_rows_close(live);
	return done;
}

static void
write_rows(const StateRows *rows)
{
	int			done = update_rows(rows);
	int			count = rows->count - done;
	int			lower = 1;
	Datum		args[STATE_COLUMNS];

	if (count == 0)
		return;
	for (int i = 0; i < STATE_COLUMNS; i++)
	{
		int16		len;
		bool		byval;
		char		align;

		get_typlenbyvalalign(state_columns[i].type, &len, &byval, &align);
		args[i] = PointerGetDatum(construct_md_array(rows->values[i] + done, rows->nulls[i] + done,
													 1, &count, &lower, state_columns[i].type,
													 len, byval, align));
	}
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
