/*
 * device_state.c
 *		What devices say of themselves: alive, online or offline, attributes.
 *
 * Runs in workers and in backends that call iot.ingest(), inside their transaction and between
 * SPI_connect and SPI_finish.  Rows are locked in the order of device_id.  That a device is alive
 * is written once in a few seconds, since a row version per message would cost more than the
 * measurements; a change of status is an event.
 *
 * Two things are told apart: whether the device is connected, by its status topic (its last will
 * among it), and whether it is silent, which the notifier's sweep finds by time and any message of
 * the device's own ends.  It is online unless it is known to be disconnected or silent.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "device_state.h"
#include "event.h"
#include "plan.h"

#define SEEN_INTERVAL_MS	5000

/*
 * For devices whose silence is judged: the sweep allows this much more, since the last message
 * may not have been written.  See iot_internal.sweep_silence().
 */
#define SILENCE_SEEN_INTERVAL_MS	500

/* A device's row while it is locked. */
typedef struct StateRow
{
	IotDevice  *device;
	TimestampTz seen_at;
	bool		known;			/* online holds something */
	bool		online;
	bool		status_changed;
	bool		connection_known;	/* connected holds something */
	bool		connected;
	bool		connection_changed;
	TimestampTz connected_at;	/* DT_NOBEGIN where it never was */
	bool		silent;
	TimestampTz status_at;
	Jsonb	   *attributes;
	bool		attributes_changed;
	TimestampTz attributes_at;
} StateRow;

/* Commands were let go since somebody asked. */
static bool released = false;

static IotPlan touch_rows = {
	"INSERT INTO iot.device_state AS s (device_id, last_seen_at, silence_at)"
	" SELECT u.device_id, u.seen_at, u.silence_at"
	" FROM unnest($1, $2, $3) AS u (device_id, seen_at, silence_at)"
	" ON CONFLICT (device_id) DO UPDATE SET last_seen_at = excluded.last_seen_at,"
	" silence_at = coalesce(s.silence_at, excluded.silence_at)"
	" WHERE s.last_seen_at IS NULL OR s.last_seen_at < excluded.last_seen_at"
	" RETURNING s.device_id, s.silent OR s.online IS NULL AND s.silence_at IS NOT NULL",
	3, {UUIDARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID}
};
static IotPlan lock_rows = {
	"SELECT s.device_id, s.online, s.attributes, s.connected, s.connected_at, s.silent,"
	" s.attributes_at"
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
	" last_seen_at = greatest(s.last_seen_at, u.seen_at),"
	" connected = coalesce(u.connected, s.connected),"
	" connected_at = coalesce(u.connected_at, s.connected_at),"
	" silent = u.silent, silence_at = coalesce(s.silence_at, u.silence_at)"
	" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
	" AS u (device_id, online, online_at, attributes, attributes_at, seen_at, connected,"
	" connected_at, silent, silence_at)"
	" WHERE s.device_id = u.device_id",
	10, {UUIDARRAYOID, BOOLARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID, TIMESTAMPTZARRAYOID,
	TIMESTAMPTZARRAYOID, BOOLARRAYOID, TIMESTAMPTZARRAYOID, BOOLARRAYOID, TIMESTAMPTZARRAYOID}
};

static IotPlan release_commands = {
	"SELECT iot_internal.release_commands($1)", 1, {UUIDARRAYOID}
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

static Datum
bool_array(Datum *values, bool *nulls, int count)
{
	int			lower = 1;

	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower, BOOLOID,
											  sizeof(bool), true, TYPALIGN_CHAR));
}

/* When a sweep should look at a device heard of at that time; false where none should. */
static bool
silence_due(const IotDevice *device, TimestampTz heard_at, Datum *due)
{
	*due = TimestampTzGetDatum(0);
	if (device->offline_after == 0 || TIMESTAMP_IS_NOBEGIN(heard_at))
		return false;
	*due = TimestampTzGetDatum(heard_at + device->offline_after);
	return true;
}

/* Also where it was written by a clock that was set back since. */
static bool
seen_is_due(const IotDeviceTouch *touch)
{
	int			interval = touch->device->offline_after != 0 ?
		SILENCE_SEEN_INTERVAL_MS : SEEN_INTERVAL_MS;
	TimestampTz written = touch->device->seen_written;

	return touch->seen_at >= TimestampTzPlusMilliseconds(written, interval) ||
		touch->seen_at < TimestampTzPlusMilliseconds(written, -interval);
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
		Datum		value;

		while (at < count && memcmp(&rows[at].device->device_id, device_id, UUID_LEN) != 0)
			at++;
		if (at == count)
			elog(ERROR, "device states were read out of order");
		value = SPI_getbinval(tuple, tupdesc, 2, &isnull);
		rows[at].known = !isnull;
		rows[at].online = !isnull && DatumGetBool(value);
		value = SPI_getbinval(tuple, tupdesc, 4, &isnull);
		rows[at].connection_known = !isnull;
		rows[at].connected = !isnull && DatumGetBool(value);
		rows[at].connected_at = time_column(tuple, tupdesc, 5);
		rows[at].silent = DatumGetBool(SPI_getbinval(tuple, tupdesc, 6, &isnull));
		rows[at].attributes =
			DatumGetJsonbPCopy(SPI_getbinval(tuple, tupdesc, 3, &isnull));
		rows[at].attributes_at = time_column(tuple, tupdesc, 7);
	}
	SPI_freetuptable(SPI_tuptable);
	return found;
}

static void
append_status_event(const StateRow *row, const char *reason)
{
	IotPayload	payload;
	char		device_id[IOT_UUID_TEXT_SIZE];

	iot_payload_begin(&payload);
	iot_payload_text(&payload, "device", row->device->name);
	iot_payload_text(&payload, "reason", reason);
	iot_uuid_text(&row->device->device_id, device_id);
	iot_event_append(row->online ? "device.online" : "device.offline", "device", device_id,
					 &row->device->device_id, iot_payload_end(&payload));
}

static void
set_online(StateRow *row, bool online, TimestampTz at, const char *reason)
{
	if (row->known && row->online == online)
		return;
	row->known = true;
	row->online = online;
	row->status_changed = true;
	row->status_at = at;
	append_status_event(row, reason);
}

/*
 * The device spoke: that ends its silence, and says that it is there where silence is what tells.
 * It does not undo a last will, which may have come before by another way.
 */
static void
apply_sign_of_life(StateRow *row)
{
	if (TIMESTAMP_IS_NOBEGIN(row->seen_at))
		return;
	if (!row->silent && (row->known || row->device->offline_after == 0))
		return;
	row->silent = false;
	if (!row->connection_known || row->connected)
		set_online(row, true, row->seen_at, "message");
}

/* What the status topic says of the connection; online it is only where it is not silent, too. */
static void
apply_status(StateRow *row, const IotDeviceReport *report)
{
	if (report->replayed && row->connected_at >= report->at)
		return;
	if (!row->connection_known || row->connected != report->online)
	{
		row->connection_known = true;
		row->connected = report->online;
		row->connected_at = report->at;
		row->connection_changed = true;
	}
	set_online(row, report->online && !row->silent, report->at, "status");
}

/*
 * What the device says is merged into what it said before, key by key; what is replayed goes below
 * what is newer.  Nothing of what merging takes is left: a thousand reports merge a thousand times all
 * that the device has.
 */
static void
apply_attributes(StateRow *row, IotDeviceReport *report, MemoryContext work)
{
	bool		older = report->replayed && row->attributes_at >= report->at;
	Jsonb	   *below = older ? report->attributes : row->attributes;
	Jsonb	   *above = older ? row->attributes : report->attributes;
	MemoryContext context = MemoryContextSwitchTo(work);
	Datum		merged = DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(below),
											 JsonbPGetDatum(above));

	MemoryContextSwitchTo(context);
	if (VARSIZE(DatumGetPointer(merged)) > IOT_ATTRIBUTES_MAX_BYTES)
		report->refused = true;
	else
	{
		pfree(row->attributes);
		row->attributes = DatumGetJsonbPCopy(merged);
		row->attributes_changed = true;
		if (!older)
			row->attributes_at = report->at;
	}
	MemoryContextReset(work);
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
	Datum	   *connected = palloc(sizeof(Datum) * count);
	Datum	   *connected_at = palloc(sizeof(Datum) * count);
	bool	   *no_connection = palloc(sizeof(bool) * count);
	Datum	   *silent = palloc(sizeof(Datum) * count);
	Datum	   *silence_at = palloc(sizeof(Datum) * count);
	bool	   *not_judged = palloc(sizeof(bool) * count);
	Datum		args[10];
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
		no_connection[i] = !row->connection_changed;
		connected[i] = BoolGetDatum(row->connected);
		connected_at[i] = TimestampTzGetDatum(row->connected_at);
		silent[i] = BoolGetDatum(row->silent);
		not_judged[i] = !silence_due(row->device, not_seen[i] && row->status_changed && row->online
									 ? row->status_at : row->seen_at, &silence_at[i]);
	}
	args[0] = ids;
	args[1] = bool_array(online, no_status, count);
	args[2] = timestamp_array(online_at, no_status, count);
	args[3] = PointerGetDatum(construct_md_array(attributes, no_attributes, 1, &count, &lower,
												 JSONBOID, -1, false, TYPALIGN_INT));
	args[4] = timestamp_array(attributes_at, no_attributes, count);
	args[5] = timestamp_array(seen_at, not_seen, count);
	args[6] = bool_array(connected, no_connection, count);
	args[7] = timestamp_array(connected_at, no_connection, count);
	args[8] = bool_array(silent, NULL, count);
	args[9] = timestamp_array(silence_at, not_judged, count);
	(void) iot_plan_execute(&update_rows, args, NULL);
}

static StateRow *
find_row(StateRow *rows, int count, IotDevice *device)
{
	StateRow	key = {.device = device};

	return bsearch(&key, rows, count, sizeof(StateRow), compare_row);
}

/* Locks the rows, which are in the order of their devices, applies all that was said, writes them. */
static void
change_rows(StateRow *rows, int count, IotDeviceReport *reports, int nreports)
{
	Datum	   *ids = palloc(sizeof(Datum) * count);
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "iot attributes",
											   ALLOCSET_DEFAULT_SIZES);
	Datum		arg;

	for (int i = 0; i < count; i++)
		ids[i] = UUIDPGetDatum(&rows[i].device->device_id);
	arg = uuid_array(ids, count);
	if (lock_and_read(rows, count, &arg) < count)
	{
		(void) iot_plan_execute(&add_rows, &arg, NULL);
		(void) lock_and_read(rows, count, &arg);
	}
	/* a row that is gone belongs to a device that is gone */
	for (int i = 0; i < count; i++)
	{
		if (rows[i].attributes != NULL)
			apply_sign_of_life(&rows[i]);
	}
	for (int i = 0; i < nreports; i++)
	{
		StateRow   *row = find_row(rows, count, reports[i].device);

		CHECK_FOR_INTERRUPTS();
		if (row == NULL || row->attributes == NULL)
			continue;
		if (reports[i].attributes == NULL)
			apply_status(row, &reports[i]);
		else
			apply_attributes(row, &reports[i], work);
	}
	MemoryContextDelete(work);
	write_rows(rows, count, arg);
}

/* The touch of the device of that id; touches are in that order. */
static const IotDeviceTouch *
find_touch(const IotDeviceTouch *touches, int count, Datum device_id)
{
	int			low = 0;
	int			high = count;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		int			order = memcmp(touches[middle].device->device_id.data,
								   DatumGetUUIDP(device_id)->data, UUID_LEN);

		if (order == 0)
			return &touches[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* The usual batch: nothing but signs of life, which seldom change anything. */
static void
store_touches(IotDeviceTouch *touches, int count)
{
	Datum	   *ids = palloc(sizeof(Datum) * count);
	Datum	   *times = palloc(sizeof(Datum) * count);
	Datum	   *silence = palloc(sizeof(Datum) * count);
	bool	   *nulls = palloc0(sizeof(bool) * count);
	bool	   *not_judged = palloc(sizeof(bool) * count);
	StateRow   *woken;
	int			nwoken = 0;
	Datum		args[3];
	int			due = 0;

	for (int i = 0; i < count; i++)
	{
		if (!seen_is_due(&touches[i]))
			continue;
		ids[due] = UUIDPGetDatum(&touches[i].device->device_id);
		times[due] = TimestampTzGetDatum(touches[i].seen_at);
		not_judged[due] = !silence_due(touches[i].device, touches[i].seen_at, &silence[due]);
		touches[i].device->seen_written = touches[i].seen_at;
		due++;
	}
	if (due == 0)
		return;
	args[0] = uuid_array(ids, due);
	args[1] = timestamp_array(times, nulls, due);
	args[2] = timestamp_array(silence, not_judged, due);
	(void) iot_plan_execute(&touch_rows, args, NULL);

	woken = palloc0(sizeof(StateRow) * due);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bool		isnull;
		Datum		device_id = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull);
		bool		changes = DatumGetBool(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
		const IotDeviceTouch *touch = changes ? find_touch(touches, count, device_id) : NULL;

		if (touch == NULL)
			continue;
		woken[nwoken].device = touch->device;
		woken[nwoken++].seen_at = touch->seen_at;
	}
	SPI_freetuptable(SPI_tuptable);
	if (nwoken == 0)
		return;
	qsort(woken, nwoken, sizeof(StateRow), compare_row);
	change_rows(woken, nwoken, NULL, 0);
}

static void
store_reports(IotDeviceTouch *touches, int ntouches, IotDeviceReport *reports, int nreports)
{
	StateRow   *rows = palloc0(sizeof(StateRow) * ntouches);

	for (int i = 0; i < ntouches; i++)
	{
		rows[i].device = touches[i].device;
		rows[i].seen_at = touches[i].seen_at;
	}
	change_rows(rows, ntouches, reports, nreports);
	for (int i = 0; i < ntouches; i++)
	{
		if (!TIMESTAMP_IS_NOBEGIN(touches[i].seen_at))
			touches[i].device->seen_written = touches[i].seen_at;
	}
}

/*
 * Lets go of the commands that waited for a sign of life.  Devices to which commands are sent at any
 * time cost nothing here.
 */
static void
wake_commands(const IotDeviceTouch *touches, int count)
{
	Datum	   *ids = NULL;
	int			awake = 0;
	Datum		arg;
	bool		isnull;

	for (int i = 0; i < count; i++)
	{
		if (!touches[i].device->send_when_awake || TIMESTAMP_IS_NOBEGIN(touches[i].seen_at))
			continue;
		if (ids == NULL)
			ids = palloc(sizeof(Datum) * count);
		ids[awake++] = UUIDPGetDatum(&touches[i].device->device_id);
	}
	if (awake == 0)
		return;
	arg = uuid_array(ids, awake);
	(void) iot_plan_execute(&release_commands, &arg, NULL);
	if (DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) > 0)
	{
		iot_event_appended();
		released = true;
	}
}

/*
 * Whether commands were let go in this process since it asked last: its own commit wakes everybody
 * but itself.  A hint, which a transaction that fails gives too.
 */
bool
iot_device_state_released(void)
{
	bool		answer = released;

	released = false;
	return answer;
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
	wake_commands(touches, ntouches);
}
