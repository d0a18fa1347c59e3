/*
 * consumer.c
 *		Reading the event log by a cursor: every committed event once, in any commit order.
 *
 * A cursor holds a snapshot, "last".  What is new is what was invisible in it and is visible now:
 * transactions that started later (xid at or past its xmax), and those that were running then (its
 * list of running xids).  Both are probes of the index on xid, so that a long transaction of a
 * stranger costs nothing and delays only its own events.
 *
 * Where there is more than a page, the cursor keeps the snapshot it is heading for ("target") and
 * the id it has come to; further pages go by id, so that a backlog costs one pass.
 *
 * The cursor moves in the caller's transaction, hence together with the effects.  It is moved by
 * compare-and-set on its row, at the end: a poll that finds nothing writes nothing, and of two
 * readers of one cursor the second starts over behind the first.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "compat.h"
#include "consumer.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_consumer_register);
PG_FUNCTION_INFO_V1(iot_consumer_read);

/*
 * A cursor that finds nothing for it moves on when this many transactions have gone by, or when it
 * was left behind by any for this long: an old position keeps old partitions.
 */
#define IDLE_TRANSACTIONS 1000
#define IDLE_TIME "5 s"

/* In the order of enum IotLogColumn, and of the result of iot_internal.consumer_read(). */
#define EVENT_COLUMNS "id, event_id, type, aggregatetype, aggregateid, device_id, payload, created_at"

/* NULL for all; "*" for all but audit events, of which a bulk load makes one per row */
#define EVENT_TYPES \
	"($5 IS NULL OR type = ANY ($5) OR ('*' = ANY ($5) AND NOT starts_with(type, 'audit.')))"

/* "id + 0": the order of the page must never tempt the planner to walk the log from its start. */
static IotPlan read_later = {
	"SELECT " EVENT_COLUMNS " FROM iot.event"
	" WHERE xid >= pg_snapshot_xmax($1) AND xid < pg_snapshot_xmax($2)"
	" AND pg_visible_in_snapshot(xid, $2) AND id > $3 AND " EVENT_TYPES
	" ORDER BY id + 0 LIMIT $4",
	5, {PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, TEXTARRAYOID}
};
static IotPlan read_later_or_running = {
	"SELECT " EVENT_COLUMNS " FROM ("
	" SELECT " EVENT_COLUMNS " FROM iot.event"
	" WHERE xid >= pg_snapshot_xmax($1) AND xid < pg_snapshot_xmax($2)"
	" AND pg_visible_in_snapshot(xid, $2) AND id > $3 AND " EVENT_TYPES
	" UNION ALL"
	" SELECT " EVENT_COLUMNS " FROM iot.event"
	" WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip($1)))"
	" AND pg_visible_in_snapshot(xid, $2) AND id > $3 AND " EVENT_TYPES
	") e ORDER BY id + 0 LIMIT $4",
	5, {PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, TEXTARRAYOID}
};
static IotPlan read_on = {
	"SELECT " EVENT_COLUMNS " FROM iot.event"
	" WHERE id > $3"
	" AND (xid >= pg_snapshot_xmax($1) OR xid = ANY (ARRAY(SELECT pg_snapshot_xip($1))))"
	" AND pg_visible_in_snapshot(xid, $2) AND " EVENT_TYPES
	" ORDER BY id LIMIT $4",
	5, {PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, TEXTARRAYOID}
};
static IotPlan load_consumer = {
	"SELECT c.xmin, c.last, c.target, c.after_id, coalesce(e.first_event_id, 0),"
	" c.advanced_at < clock_timestamp() - interval '" IDLE_TIME "'"
	" FROM iot.consumer c LEFT JOIN iot.epoch e ON true WHERE c.name = $1",
	1, {TEXTOID}
};
static IotPlan move_consumer = {
	"UPDATE iot.consumer SET last = $3, target = $4, after_id = $5, advanced_at = clock_timestamp()"
	" WHERE name = $1 AND xmin = $2",
	5, {TEXTOID, XIDOID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID}
};
static IotPlan insert_consumer = {
	"INSERT INTO iot.consumer (name, last) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
	2, {TEXTOID, PG_SNAPSHOTOID}
};

static IotPlan register_from_start = {
	"INSERT INTO iot.consumer (name, last) VALUES ($1, '1:1:') ON CONFLICT (name) DO NOTHING",
	1, {TEXTOID}
};

typedef struct ConsumerState
{
	TransactionId row_xmin;
	Datum		last;
	Datum		target;			/* 0: heading for no snapshot */
	int64		after_id;
	int64		first_event_id;
	bool		old;			/* has not moved for some time */
} ConsumerState;

static uint64
snapshot_xmax(Datum snapshot)
{
	return DatumGetUInt64(DirectFunctionCall1(pg_snapshot_xmax, snapshot));
}

/* By its text, since the server keeps the layout to itself. */
static char *
snapshot_text(Datum snapshot)
{
	return DatumGetCString(DirectFunctionCall1(pg_snapshot_out, snapshot));
}

static bool
snapshot_has_running(Datum snapshot)
{
	char	   *text = snapshot_text(snapshot);
	size_t		length = strlen(text);

	return length > 0 && text[length - 1] != ':';
}

/*
 * A snapshot of now, in which our own transaction counts as running.  The server's does not list
 * the caller: taken as it is, a cursor would hold this transaction's events for seen, those that
 * it has yet to write included.
 */
Datum
iot_consumer_snapshot(void)
{
	FullTransactionId self = GetTopFullTransactionIdIfAny();
	Datum		snapshot;
	StringInfoData text;
	char	   *rest;
	uint64		xmin;
	uint64		xmax;
	bool		listed = false;

	PushActiveSnapshot(GetTransactionSnapshot());
	snapshot = DirectFunctionCall1(pg_current_snapshot, (Datum) 0);
	PopActiveSnapshot();
	if (!FullTransactionIdIsValid(self) || U64FromFullTransactionId(self) >= snapshot_xmax(snapshot))
		return snapshot;

	/* "xmin:xmax:running,running,…", ascending */
	rest = snapshot_text(snapshot);
	xmin = strtoull(rest, &rest, 10);
	Assert(*rest == ':');
	xmax = strtoull(rest + 1, &rest, 10);
	Assert(*rest == ':');
	rest++;
	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT ":" UINT64_FORMAT ":",
					 Min(xmin, U64FromFullTransactionId(self)), xmax);
	while (*rest != '\0' || !listed)
	{
		uint64		running = *rest != '\0' ? strtoull(rest, &rest, 10) : PG_UINT64_MAX;

		if (!listed && U64FromFullTransactionId(self) <= running)
		{
			appendStringInfo(&text, UINT64_FORMAT ",", U64FromFullTransactionId(self));
			listed = true;
		}
		if (running != PG_UINT64_MAX && running != U64FromFullTransactionId(self))
			appendStringInfo(&text, UINT64_FORMAT ",", running);
		if (*rest == ',')
			rest++;
	}
	text.data[--text.len] = '\0';
	return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text.data));
}

static void
load(Datum name, bool from_start, ConsumerState *state)
{
	Datum		values[1] = {name};
	HeapTuple	row;
	TupleDesc	desc;
	bool		isnull;

	if (iot_plan_execute(&load_consumer, values, NULL) == 0 && from_start)
	{
		iot_plan_execute(&register_from_start, values, NULL);
		iot_plan_execute(&load_consumer, values, NULL);
	}
	if (SPI_tuptable->numvals == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("consumer \"%s\" does not exist", TextDatumGetCString(name)),
				 errhint("Call iot_internal.consumer_register() first.")));
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	state->row_xmin = DatumGetTransactionId(SPI_getbinval(row, desc, 1, &isnull));
	state->last = SPI_getbinval(row, desc, 2, &isnull);
	state->target = SPI_getbinval(row, desc, 3, &isnull);
	if (isnull)
		state->target = (Datum) 0;
	state->after_id = DatumGetInt64(SPI_getbinval(row, desc, 4, &isnull));
	if (isnull)
		state->after_id = 0;
	state->first_event_id = DatumGetInt64(SPI_getbinval(row, desc, 5, &isnull));
	state->after_id = Max(state->after_id, state->first_event_id);
	state->old = DatumGetBool(SPI_getbinval(row, desc, 6, &isnull));
}

/* Adds the rows of SPI_tuptable to the events. */
static void
add_rows(IotLogEvents *events)
{
	if (SPI_tuptable->numvals == 0)
		return;
	if (events->events == NULL)
		events->events = MemoryContextAllocHuge(CurrentMemoryContext,
												sizeof(IotLogEvent) * SPI_tuptable->numvals);
	else
		events->events = repalloc_huge(events->events, sizeof(IotLogEvent) *
									   (events->count + SPI_tuptable->numvals));
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		IotLogEvent *event = &events->events[events->count++];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, event->values, event->nulls);
	}
}

/* Adds one page to the events; returns how many that were. */
static int
read_page(const ConsumerState *state, bool continued, int64 limit, Datum types, IotLogEvents *events)
{
	bool		running = !continued && snapshot_has_running(state->last);
	Datum		values[5];
	int			before = events->count;

	if (!continued && !running && before == 0)
	{
		IotLogWindow window = {
			.from = snapshot_xmax(state->last),
			.until = snapshot_xmax(state->target),
			.target = state->target,
			.after_id = state->after_id,
			.max_rows = limit
		};

		if (iot_event_scan(&window, types, events))
			return events->count;
		events->count = 0;
	}
	values[0] = state->last;
	values[1] = state->target;
	values[2] = Int64GetDatum(state->after_id);
	values[3] = Int64GetDatum(limit);
	values[4] = types;
	iot_plan_execute(continued ? &read_on : running ? &read_later_or_running : &read_later, values,
					 types == (Datum) 0 ? "    n" : NULL);
	add_rows(events);
	return events->count - before;
}

/*
 * Reads up to max_rows from the state on, moves the state, and adds what was read to the events.
 * Returns whether the cursor has moved enough to be worth a write.
 */
static bool
read_pages(ConsumerState *state, int64 max_rows, Datum types, IotLogEvents *events)
{
	bool		moved = false;

	for (;;)
	{
		bool		continued = state->target != (Datum) 0;
		int			rows;

		if (!continued)
		{
			state->target = iot_consumer_snapshot();
			state->after_id = state->first_event_id;
			if (VARSIZE_ANY(state->target) == VARSIZE_ANY(state->last) &&
				memcmp(DatumGetPointer(state->target), DatumGetPointer(state->last),
					   VARSIZE_ANY(state->last)) == 0)
			{
				state->target = (Datum) 0;
				return moved;
			}
		}
		rows = read_page(state, continued, max_rows, types, events);
		max_rows -= rows;
		if (max_rows == 0)
		{
			state->after_id = DatumGetInt64(events->events[events->count - 1].values[IOT_LOG_ID]);
			return true;
		}

		/* The window is read to its end. */
		if (rows > 0 || continued || state->old ||
			snapshot_xmax(state->target) - snapshot_xmax(state->last) >= IDLE_TRANSACTIONS)
			moved = true;
		state->last = state->target;
		state->target = (Datum) 0;
		if (!continued)
			return moved;
		/* What came while the backlog was read must not wait for the next poll. */
	}
}

static int
compare_ids(const void *a, const void *b)
{
	int64		id_a = DatumGetInt64(((const IotLogEvent *) a)->values[IOT_LOG_ID]);
	int64		id_b = DatumGetInt64(((const IotLogEvent *) b)->values[IOT_LOG_ID]);

	return id_a < id_b ? -1 : id_a > id_b;
}

/*
 * The next events of a cursor, in the order of their ids; moves it in the caller's transaction.  Fewer
 * than max_rows mean that there is no more.  With from_start, whoever has no cursor yet has everything
 * before him that the log still holds; else that is an error.  types has event types, or is 0 for all
 * (see EVENT_TYPES).
 * Asks for no permission; memory is the caller's of SPI_connect, until SPI_finish.
 */
void
iot_consumer_next(Datum name, bool from_start, Datum types, int max_rows, IotLogEvents *events)
{
	if (max_rows < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of rows must be positive")));
	events->events = NULL;
	for (;;)
	{
		ConsumerState state;
		Datum		values[5];
		char		nulls[] = "     ";

		CHECK_FOR_INTERRUPTS();
		events->count = 0;
		load(name, from_start, &state);
		if (!read_pages(&state, max_rows, types, events))
		{
			Assert(events->count == 0);
			return;
		}
		values[0] = name;
		values[1] = TransactionIdGetDatum(state.row_xmin);
		values[2] = state.last;
		values[3] = state.target;
		values[4] = Int64GetDatum(state.after_id);
		if (state.target == (Datum) 0)
			nulls[3] = nulls[4] = 'n';
		if (iot_plan_execute(&move_consumer, values, nulls) > 0)
			break;
		/* somebody else has moved it: start over behind him */
	}
	if (events->count > 1)
		qsort(events->events, events->count, sizeof(IotLogEvent), compare_ids);
}

/*
 * iot_internal.consumer_register(name text) returns void.  The cursor starts at now; the caller's
 * own transaction is ahead of it.  A cursor that is there stays where it is.
 */
Datum
iot_consumer_register(PG_FUNCTION_ARGS)
{
	Datum		values[2];

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("consumer name must not be null")));
	SPI_connect();
	/* The row assigns our transaction id, if nothing has: from then on the snapshot lists it. */
	(void) GetTopTransactionId();
	values[0] = PG_GETARG_DATUM(0);
	values[1] = iot_consumer_snapshot();
	iot_plan_execute(&insert_consumer, values, NULL);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * iot_internal.consumer_read(consumer text, types text[], max_rows integer) returns the next
 * events in the order of their ids, and moves the cursor in the caller's transaction.  Fewer than
 * max_rows mean that there is no more.  Under REPEATABLE READ a concurrent reader of the same
 * cursor makes it fail with a serialization error.
 */
Datum
iot_consumer_read(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			max_rows = PG_ARGISNULL(2) ? 1000 : PG_GETARG_INT32(2);
	IotLogEvents events;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("consumer name must not be null")));
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	iot_consumer_next(PG_GETARG_DATUM(0), false, PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1),
					  max_rows, &events);
	for (int i = 0; i < events.count; i++)
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, events.events[i].values,
							 events.events[i].nulls);
	SPI_finish();
	return (Datum) 0;
}
