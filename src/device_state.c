/*
 * device_state.c
 *		What devices say of themselves: alive, online or offline, attributes.
 *
 * Runs in workers and in backends that call iot.ingest(), inside their transaction and between
 * SPI_connect and SPI_finish.  Rows are locked in the order of device_id.  That a device is alive
 * is written once in a few seconds, since a row version per message would cost more than the
 * measurements; a change of status is an event.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "device_state.h"
#include "event.h"
#include "plan.h"

#define SEEN_INTERVAL_MS	5000

/* A device's row while it is locked. */
typedef struct StateRow
{
	IotDevice  *device;
	TimestampTz seen_at;
	bool		known;			/* online holds something */
	bool		online;
	bool		status_changed;
	TimestampTz status_at;		/* DT_NOBEGIN where it never was */
	Jsonb	   *attributes;
	bool		attributes_changed;
	TimestampTz attributes_at;
} StateRow;

static IotPlan touch_rows = {
	"INSERT INTO iot.device_state AS s (device_id, last_seen_at)"
	" SELECT u.device_id, u.seen_at FROM unnest($1, $2) AS u (device_id, seen_at)"
	" ON CONFLICT (device_id) DO UPDATE SET last_seen_at = excluded.last_seen_at"
	" WHERE s.last_seen_at IS NULL OR s.last_seen_at < excluded.last_seen_at",
	2, {UUIDARRAYOID, TIMESTAMPTZARRAYOID}
};
static IotPlan lock_rows = {
	"SELECT s.device_id, s.online, s.attributes, s.online_at, s.attributes_at"
	" FROM iot.device_state s"
	" WHERE s.device_id = ANY ($1) ORDER BY s.device_id FOR NO KEY UPDATE",
	1, {UUIDARRAYOID}
};
static IotPlan add_rows = {
	"INSERT INTO iot.device_state (device_id)"
	" SELECT u.device_id FROM unnest($1) AS u (device_id)"
	" ON CONFLICT (device_id) DO NOTHING",
	1, {UUIDARRAYOID}
};
static IotPlan update_rows = {
	"UPDATE iot.device_state AS s SET"
	" online = coalesce(u.online, s.online), online_at = coalesce(u.online_at, s.online_at),"
	" attributes = coalesce(u.attributes, s.attributes),"
	" attributes_at = coalesce(u.attributes_at, s.attributes_at),"
	" last_seen_at = greatest(s.last_seen_at, u.seen_at)"
	" FROM unnest($1, $2, $3, $4, $5, $6)"
	" AS u (device_id, online, online_at, attributes, attributes_at, seen_at)"
	" WHERE s.device_id = u.device_id",
	6, {UUIDARRAYOID, BOOLARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID, TIMESTAMPTZARRAYOID,
	TIMESTAMPTZARRAYOID}
};

static int
compare_touches(const void *a, const void *b)
{
	const IotDeviceTouch *left = a;
	const IotDeviceTouch *right = b;

	return memcmp(left->device->device_id.data, right->device->device_id.data, UUID_LEN);
}

static int
compare_row(const void *a, const void *b)
{
	const StateRow *left = a;
	const StateRow *right = b;

	return memcmp(left->device->device_id.data, right->device->device_id.data, UUID_LEN);
}

static Datum
uuid_array(Datum *ids, int count)
{
	return PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}

static Datum
timestamp_array(Datum *values, bool *nulls, int count)
{
	int			lower = 1;

	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower, TIMESTAMPTZOID,
											  sizeof(TimestampTz), FLOAT8PASSBYVAL,
											  TYPALIGN_DOUBLE));
}

static bool
seen_is_due(const IotDeviceTouch *touch)
{
	return touch->seen_at >=
		TimestampTzPlusMilliseconds(touch->device->seen_written, SEEN_INTERVAL_MS);
}

/* The usual batch: nothing but signs of life. */
static void
store_touches(IotDeviceTouch *touches, int count)
{
	Datum	   *ids = palloc(sizeof(Datum) * count);
	Datum	   *times = palloc(sizeof(Datum) * count);
	bool	   *nulls = palloc0(sizeof(bool) * count);
	Datum		args[2];
	int			due = 0;

	for (int i = 0; i < count; i++)
	{
		if (!seen_is_due(&touches[i]))
			continue;
		ids[due] = UUIDPGetDatum(&touches[i].device->device_id);
		times[due] = TimestampTzGetDatum(touches[i].seen_at);
		touches[i].device->seen_written = touches[i].seen_at;
		due++;
	}
	if (due == 0)
		return;
	args[0] = uuid_array(ids, due);
	args[1] = timestamp_array(times, nulls, due);
	(void) iot_plan_execute(&touch_rows, args, NULL);
}

static TimestampTz
time_column(HeapTuple tuple, TupleDesc tupdesc, int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, tupdesc, number, &isnull);

	return isnull ? DT_NOBEGIN : DatumGetTimestampTz(value);
}

/* Locks the rows and reads them into rows, which are sorted; returns how many there are. */
static uint64
lock_and_read(StateRow *rows, int count, Datum *ids)
{
	uint64		found = iot_plan_execute(&lock_rows, ids, NULL);
	TupleDesc	tupdesc = SPI_tuptable->tupdesc;
	int			at = 0;

	for (uint64 i = 0; i < found; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bool		isnull;
		pg_uuid_t  *device_id = DatumGetUUIDP(SPI_getbinval(tuple, tupdesc, 1, &isnull));
		Datum		online;

		while (at < count && memcmp(&rows[at].device->device_id, device_id, UUID_LEN) != 0)
			at++;
		if (at == count)
			elog(ERROR, "device states were read out of order");
		online = SPI_getbinval(tuple, tupdesc, 2, &isnull);
		rows[at].known = !isnull;
		rows[at].online = !isnull && DatumGetBool(online);
		rows[at].attributes =
			DatumGetJsonbPCopy(SPI_getbinval(tuple, tupdesc, 3, &isnull));
		rows[at].status_at = time_column(tuple, tupdesc, 4);
		rows[at].attributes_at = time_column(tuple, tupdesc, 5);
	}
	SPI_freetuptable(SPI_tuptable);
	return found;
}

static void
append_status_event(const StateRow *row)
{
	IotPayload	payload;
	char		device_id[IOT_UUID_TEXT_SIZE];

	iot_payload_begin(&payload);
	iot_payload_text(&payload, "device", row->device->name);
	iot_uuid_text(&row->device->device_id, device_id);
	iot_event_append(row->online ? "device.online" : "device.offline", "device", device_id,
					 &row->device->device_id, iot_payload_end(&payload));
}

static void
apply_status(StateRow *row, const IotDeviceReport *report)
{
	if (row->known && row->online == report->online)
		return;
	if (report->replayed && row->status_at >= report->at)
		return;
	row->known = true;
	row->online = report->online;
	row->status_changed = true;
	row->status_at = report->at;
	append_status_event(row);
}

/*
 * What the device says is merged into what it said before, key by key; what is replayed goes below
 * what is newer.
 */
static void
apply_attributes(StateRow *row, IotDeviceReport *report)
{
	bool		older = report->replayed && row->attributes_at >= report->at;
	Jsonb	   *below = older ? report->attributes : row->attributes;
	Jsonb	   *above = older ? row->attributes : report->attributes;
	Jsonb	   *merged = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(below),
															JsonbPGetDatum(above)));

	if (VARSIZE(merged) > IOT_ATTRIBUTES_MAX_BYTES)
	{
		report->refused = true;
		return;
	}
	row->attributes = merged;
	row->attributes_changed = true;
	if (!older)
		row->attributes_at = report->at;
}

static void
write_rows(const StateRow *rows, int count, Datum ids)
{
	Datum	   *online = palloc(sizeof(Datum) * count);
	Datum	   *online_at = palloc(sizeof(Datum) * count);
	Datum	   *attributes = palloc(sizeof(Datum) * count);
	Datum	   *attributes_at = palloc(sizeof(Datum) * count);
	Datum	   *seen_at = palloc(sizeof(Datum) * count);
	bool	   *no_status = palloc(sizeof(bool) * count);
	bool	   *no_attributes = palloc(sizeof(bool) * count);
	bool	   *not_seen = palloc(sizeof(bool) * count);
	Datum		args[6];
	int			lower = 1;

	for (int i = 0; i < count; i++)
	{
		const StateRow *row = &rows[i];

		no_status[i] = !row->status_changed;
		online[i] = BoolGetDatum(row->online);
		online_at[i] = TimestampTzGetDatum(row->status_at);
		no_attributes[i] = !row->attributes_changed;
		attributes[i] = JsonbPGetDatum(row->attributes);
		attributes_at[i] = TimestampTzGetDatum(row->attributes_at);
		not_seen[i] = TIMESTAMP_IS_NOBEGIN(row->seen_at);
		seen_at[i] = TimestampTzGetDatum(row->seen_at);
	}
	args[0] = ids;
	args[1] = PointerGetDatum(construct_md_array(online, no_status, 1, &count, &lower, BOOLOID,
												 sizeof(bool), true, TYPALIGN_CHAR));
	args[2] = timestamp_array(online_at, no_status, count);
	args[3] = PointerGetDatum(construct_md_array(attributes, no_attributes, 1, &count, &lower,
												 JSONBOID, -1, false, TYPALIGN_INT));
	args[4] = timestamp_array(attributes_at, no_attributes, count);
	args[5] = timestamp_array(seen_at, not_seen, count);
	(void) iot_plan_execute(&update_rows, args, NULL);
}

static StateRow *
find_row(StateRow *rows, int count, IotDevice *device)
{
	StateRow	key = {.device = device};

	return bsearch(&key, rows, count, sizeof(StateRow), compare_row);
}

static void
store_reports(IotDeviceTouch *touches, int ntouches, IotDeviceReport *reports, int nreports)
{
	StateRow   *rows = palloc0(sizeof(StateRow) * ntouches);
	Datum	   *ids = palloc(sizeof(Datum) * ntouches);
	Datum		arg;

	for (int i = 0; i < ntouches; i++)
	{
		rows[i].device = touches[i].device;
		rows[i].seen_at = touches[i].seen_at;
		ids[i] = UUIDPGetDatum(&touches[i].device->device_id);
	}
	arg = uuid_array(ids, ntouches);
	if (lock_and_read(rows, ntouches, &arg) < ntouches)
	{
		(void) iot_plan_execute(&add_rows, &arg, NULL);
		(void) lock_and_read(rows, ntouches, &arg);
	}
	for (int i = 0; i < nreports; i++)
	{
		StateRow   *row = find_row(rows, ntouches, reports[i].device);

		/* a row that is gone belongs to a device that is gone */
		if (row == NULL || row->attributes == NULL)
			continue;
		if (reports[i].attributes == NULL)
			apply_status(row, &reports[i]);
		else
			apply_attributes(row, &reports[i]);
	}
	write_rows(rows, ntouches, arg);
	for (int i = 0; i < ntouches; i++)
	{
		if (!TIMESTAMP_IS_NOBEGIN(touches[i].seen_at))
			touches[i].device->seen_written = touches[i].seen_at;
	}
}

/*
 * Writes what a batch says about its devices: touches holds each device once and is sorted here;
 * every report's device is among them.  May raise.
 */
void
iot_device_state_store(IotDeviceTouch *touches, int ntouches, IotDeviceReport *reports,
					   int nreports)
{
	if (ntouches == 0)
		return;
	qsort(touches, ntouches, sizeof(IotDeviceTouch), compare_touches);
	if (nreports == 0)
		store_touches(touches, ntouches);
	else
		store_reports(touches, ntouches, reports, nreports);
}
