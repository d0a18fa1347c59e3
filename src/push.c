/*
 * push.c
 *		What the push daemon reads: notifications after a position, as messages for their recipients.
 *
 * Runs in the daemon's session, as the owner of the tables.  A lone notification is what a user waits
 * for, so that everything is a few short statements on kept plans, put together here; all of them on
 * the snapshot of the daemon's own statement, so that head and page fit together.
 *
 * All memory lives until SPI_finish.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "epoch.h"
#include "plan.h"
#include "push.h"

PG_FUNCTION_INFO_V1(iot_push_since);
PG_FUNCTION_INFO_V1(iot_push_events);
PG_FUNCTION_INFO_V1(iot_push_eligible);

#define PAGE_BYTES		65536	/* of messages: a page waits in memory for its sockets */
#define MESSAGE_BYTES	200		/* of each, beside its text */

static IotPlan load_state = {
	"SELECT " IOT_EPOCH_COLUMNS ", e.epoch::text, e.notification_floor,"
	" (SELECT n.seq FROM iot.notification n ORDER BY n.seq DESC LIMIT 1)"
	" FROM iot.schema_version v CROSS JOIN iot.epoch e",
	0, {0}
};

/* A message of the protocol. */
#define MESSAGE(title, body) \
	"json_build_object('op', 'event', 'seq', n.seq, 'event', n.event, 'device', n.device," \
	" 'at', iot_internal.utc_text(n.event_at), 'title', " title ", 'data', " body ")::text"

/* What is seldom so is only told of here, and read where it is. */
#define NOTICES(source) \
	"SELECT n.seq, n.audience, n.username, n.device_id IS NOT NULL, d.device_group_id," \
	" EXISTS (SELECT FROM iot.notification k WHERE k.event_id = n.event_id AND k.channel = 'push'" \
	" AND k.seq < n.seq OFFSET 0)," \
	" EXISTS (SELECT FROM iot.delivery k WHERE k.seq = n.seq AND k.channel = 'push'" \
	" AND k.not_before > statement_timestamp() OFFSET 0)," \
	" n.event, n.device, g.name," \
	" EXISTS (SELECT FROM iot.delivery k WHERE k.seq = n.seq AND k.channel = 'push'" \
	" AND k.recipient = '*' AND CASE k.status WHEN 'PENDING' THEN true ELSE false END OFFSET 0)," \
	" n.texts IS NOT NULL, " MESSAGE("n.title", "n.body") \
	" FROM " source " n" \
	IOT_EACH_OR_NULL("device", "k.device_id = n.device_id", "d") \
	IOT_EACH_OR_NULL("device_group", "k.device_group_id = d.device_group_id", "g") \
	" ORDER BY n.seq"
enum
{
	SEQ = 1, AUDIENCE, AUTHOR, HAS_DEVICE, DEVICE_GROUP, TOLD_BEFORE, HELD, EVENT, DEVICE, GROUP_NAME,
	BROADCAST, HAS_TEXTS, TEXT
};

static IotPlan read_page = {
	NOTICES("(SELECT k.* FROM iot.notification k WHERE k.seq > $1 AND k.channel = 'push'"
			" ORDER BY k.seq LIMIT $2)"),
	2, {INT8OID, INT4OID}
};
static IotPlan read_these = {
	NOTICES("(SELECT q.* FROM unnest($1) AS a(seq)" IOT_EACH("notification", "k.seq = a.seq", "q") ")"),
	1, {INT8ARRAYOID}
};
static IotPlan read_in_words = {
	"SELECT " MESSAGE("coalesce(l.title, n.title)", "coalesce(l.body, n.body)")
	" FROM iot.notification n CROSS JOIN LATERAL iot_internal.localized(n.seq, $2, $3) AS l"
	" WHERE n.seq = $1",
	3, {INT8OID, TEXTOID, TEXTOID}
};

typedef struct PushPage
{
	SPITupleTable *rows;
	int			count;
	IotPushNotice *notices;
	IotPushUsers users;
} PushPage;

static Datum
column(const SPITupleTable *rows, int row, int number, bool *isnull)
{
	return SPI_getbinval(rows->vals[row], rows->tupdesc, number, isnull);
}

/* Takes over the notifications of the last statement, at most so many, and chooses their recipients. */
static void
choose(PushPage *page, int count, ArrayType *usernames)
{
	Datum	   *groups = palloc(sizeof(Datum) * Max(count, 1));
	int			ngroups = 0;

	page->rows = SPI_tuptable;
	page->count = count;
	page->notices = palloc0(sizeof(IotPushNotice) * Max(count, 1));
	if (count == 0)
		return;
	for (int i = 0; i < count; i++)
	{
		IotPushNotice *notice = &page->notices[i];
		Datum		group;
		bool		isnull;

		notice->seq = DatumGetInt64(column(page->rows, i, SEQ, &isnull));
		notice->audience = SPI_getvalue(page->rows->vals[i], page->rows->tupdesc, AUDIENCE);
		notice->author = SPI_getvalue(page->rows->vals[i], page->rows->tupdesc, AUTHOR);
		notice->has_device = DatumGetBool(column(page->rows, i, HAS_DEVICE, &isnull));
		notice->told_before = DatumGetBool(column(page->rows, i, TOLD_BEFORE, &isnull));
		notice->held = DatumGetBool(column(page->rows, i, HELD, &isnull));
		group = column(page->rows, i, DEVICE_GROUP, &isnull);
		if (isnull)
			continue;
		notice->device_group = DatumGetUUIDP(group);
		/* those of one group come together, mostly */
		if (ngroups == 0 || memcmp(DatumGetUUIDP(groups[ngroups - 1]), notice->device_group,
								   UUID_LEN) != 0)
			groups[ngroups++] = group;
	}
	iot_push_users(usernames, PointerGetDatum(construct_array(groups, ngroups, UUIDOID, UUID_LEN,
															  false, TYPALIGN_CHAR)),
				   &page->users);
	for (int i = 0; i < count; i++)
		iot_push_choose(&page->users, &page->notices[i]);
}

/* How many of the page's messages go before the rest has to wait. */
static int
cut(const SPITupleTable *rows)
{
	int64		bytes = 0;

	for (int i = 0; i < rows->numvals; i++)
	{
		bool		isnull;
		Datum		text = column(rows, i, TEXT, &isnull);

		if (bytes >= PAGE_BYTES)
			return i;
		bytes += MESSAGE_BYTES + VARSIZE_ANY_EXHDR(DatumGetPointer(text));
	}
	return (int) rows->numvals;
}

static bool
same_words(const IotPushUser *a, const IotPushUser *b)
{
	return a->no_language == b->no_language && a->no_time_zone == b->no_time_zone &&
		(a->no_language || strcmp(TextDatumGetCString(a->language), TextDatumGetCString(b->language)) == 0) &&
		(a->no_time_zone || strcmp(TextDatumGetCString(a->time_zone), TextDatumGetCString(b->time_zone)) == 0);
}

/* The message in a reader's language and time zone; as it is written where he has neither. */
static Datum
in_words(const PushPage *page, int i, const IotPushUser *reader)
{
	Datum		values[3] = {Int64GetDatum(page->notices[i].seq), reader->language, reader->time_zone};
	char		nulls[] = "   ";
	bool		isnull;

	if (reader->no_language && reader->no_time_zone)
		return column(page->rows, i, TEXT, &isnull);
	nulls[1] = reader->no_language ? 'n' : ' ';
	nulls[2] = reader->no_time_zone ? 'n' : ' ';
	if (iot_plan_read(&read_in_words, values, nulls) != 1)
		elog(ERROR, "notification has gone");
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
}

/*
 * Gives the caller the messages of a notification, one for all who read the same words, as (seq, event,
 * device, device_group, [broadcast,] recipients, message) from column first on.
 */
static void
emit(ReturnSetInfo *rsinfo, const PushPage *page, int i, int first, bool with_broadcast)
{
	IotPushNotice *notice = &page->notices[i];
	Datum		values[12] = {0};
	bool		nulls[12];
	int			at = first;
	bool		isnull;

	if (notice->nrecipients == 0)
		return;
	memset(nulls, true, sizeof(nulls));
	nulls[at] = false;
	values[at++] = Int64GetDatum(notice->seq);
	for (int c = EVENT; c <= (with_broadcast ? BROADCAST : GROUP_NAME); c++, at++)
		values[at] = column(page->rows, i, c, &nulls[at]);
	nulls[at] = nulls[at + 1] = false;
	if (!DatumGetBool(column(page->rows, i, HAS_TEXTS, &isnull)))
	{
		values[at] = iot_push_ordinals(notice->recipients, notice->nrecipients);
		values[at + 1] = column(page->rows, i, TEXT, &isnull);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		return;
	}
	/* as many messages as there are languages and zones among the recipients */
	while (notice->nrecipients > 0)
	{
		const IotPushUser *reader = &page->users.users[notice->recipients[0] - 1];
		int		   *readers = palloc(sizeof(int) * notice->nrecipients);
		int			nreaders = 0;
		int			others = 0;

		for (int r = 0; r < notice->nrecipients; r++)
		{
			if (same_words(reader, &page->users.users[notice->recipients[r] - 1]))
				readers[nreaders++] = notice->recipients[r];
			else
				notice->recipients[others++] = notice->recipients[r];
		}
		notice->nrecipients = others;
		values[at] = iot_push_ordinals(readers, nreaders);
		values[at + 1] = in_words(page, i, reader);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * iot_internal.push_since(usernames text[], after_seq bigint, max_rows integer): a row of state, then
 * the next notifications that are for any of these users, in their order.  STABLE, STRICT, SECURITY
 * DEFINER.
 */
Datum
iot_push_since(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ArrayType  *usernames = PG_GETARG_ARRAYTYPE_P(0);
	int64		after_seq = PG_GETARG_INT64(1);
	int			max_rows = PG_GETARG_INT32(2);
	PushPage	page = {0};
	Datum		values[12] = {0};
	bool		nulls[12];
	bool		paused;
	int64		head;
	int64		scanned_to;
	bool		isnull;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	if (iot_plan_read(&load_state, NULL, NULL) != 1)
		elog(ERROR, "the tables do not tell which server this is");
	memset(nulls, true, sizeof(nulls));
	memset(nulls, false, 5);
	paused = !iot_epoch_tables_complete() ||
		strcmp(iot_epoch_state_of(SPI_tuptable->vals[0], SPI_tuptable->tupdesc), "ok") != 0;
	values[0] = column(SPI_tuptable, 0, IOT_EPOCH_NCOLUMNS + 1, &isnull);
	values[1] = BoolGetDatum(paused);
	values[3] = column(SPI_tuptable, 0, IOT_EPOCH_NCOLUMNS + 2, &isnull);
	head = DatumGetInt64(column(SPI_tuptable, 0, IOT_EPOCH_NCOLUMNS + 3, &isnull));
	head = Max(isnull ? 0 : head, DatumGetInt64(values[3]));
	values[2] = Int64GetDatum(head);
	scanned_to = paused ? after_seq : head;
	if (!paused && head > after_seq && ArrayGetNItems(ARR_NDIM(usernames), ARR_DIMS(usernames)) > 0)
	{
		Datum		args[2] = {Int64GetDatum(after_seq), Int32GetDatum(max_rows)};
		int			count = (int) iot_plan_read(&read_page, args, NULL);
		int			kept = cut(SPI_tuptable);

		choose(&page, kept, usernames);
		if (kept > 0 && (kept < count || count >= max_rows))
			scanned_to = page.notices[kept - 1].seq;
	}
	values[4] = Int64GetDatum(scanned_to);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	for (int i = 0; i < page.count; i++)
		emit(rsinfo, &page, i, 5, true);
	SPI_finish();
	return (Datum) 0;
}

/* Reads these notifications for these users. */
static void
read_for(FunctionCallInfo fcinfo, PushPage *page)
{
	Datum		seqs = PG_GETARG_DATUM(0);
	int			count = (int) iot_plan_read(&read_these, &seqs, NULL);

	choose(page, count, PG_GETARG_ARRAYTYPE_P(1));
}

/*
 * iot_internal.push_events(seqs bigint[], usernames text[]) returns (seq, event, device, device_group,
 * recipients, message).  STABLE, STRICT, SECURITY DEFINER.
 */
Datum
iot_push_events(PG_FUNCTION_ARGS)
{
	PushPage	page;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	read_for(fcinfo, &page);
	for (int i = 0; i < page.count; i++)
		emit((ReturnSetInfo *) fcinfo->resultinfo, &page, i, 0, false);
	SPI_finish();
	return (Datum) 0;
}

/*
 * iot_internal.push_eligible(seqs bigint[], usernames text[]) returns (seq, recipients).  STABLE,
 * STRICT, SECURITY DEFINER.
 */
Datum
iot_push_eligible(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	PushPage	page;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	read_for(fcinfo, &page);
	for (int i = 0; i < page.count; i++)
	{
		const IotPushNotice *notice = &page.notices[i];
		Datum		values[2] = {Int64GetDatum(notice->seq)};
		bool		nulls[2] = {false};

		if (notice->nrecipients == 0)
			continue;
		values[1] = iot_push_ordinals(notice->recipients, notice->nrecipients);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}
