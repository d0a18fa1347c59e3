/*
 * notify_write.c
 *		Notifications into their tables, and a delivery for each who is told.
 *
 * Runs in the notifier's transaction, between SPI_connect and SPI_finish, until which memory lives.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"

#include "notify.h"
#include "plan.h"

#define DELIVERIES_MAX	5000	/* of a statement */

static IotPlan insert_notifications = {
	"INSERT INTO iot.notification (event_id, event, channel, audience, username, device_id, device,"
	" title, body, texts, event_at)"
	" SELECT n.event_id, n.event, n.channel, n.audience, n.author, n.device_id, n.device, w.title,"
	" w.body, n.texts, n.event_at"
	" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) WITH ORDINALITY AS n(event_id,"
	" event, channel, audience, author, device_id, device, title, body, payload, texts, event_at, place)"
	" CROSS JOIN LATERAL iot_internal.render_words(n.title, n.body, n.payload,"
	" iot_internal.event_values(n.event, n.event_id, n.device, n.device_id, n.author, n.event_at,"
	" n.payload)) AS w"
	" ORDER BY n.place RETURNING seq",
	12, {UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, UUIDARRAYOID,
	TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID, TIMESTAMPTZARRAYOID}
};
#define NOTIFICATION_COLUMNS 12
static const Oid notification_types[NOTIFICATION_COLUMNS] = {
	UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, UUIDOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID,
	TIMESTAMPTZOID
};

/* The notifier hints at a new push at once: that is its first attempt. */
static IotPlan insert_deliveries = {
	"WITH due AS ("
	" INSERT INTO iot.delivery (seq, channel, recipient, status, attempts, next_attempt_at, not_before)"
	" SELECT r.seq, n.channel, r.recipient,"
	" CASE WHEN h.until = 'infinity' THEN 'MUTED' ELSE 'PENDING' END,"
	" CASE WHEN n.channel = 'push' AND h.until IS NULL THEN 1 ELSE 0 END,"
	" coalesce(h.until, clock_timestamp()"
	" + CASE n.channel WHEN 'push' THEN interval '1 s' ELSE interval '0' END),"
	" h.until"
	" FROM unnest($1, $2) AS r(seq, recipient)"
	" CROSS JOIN LATERAL (SELECT k.channel, k.event, k.device_id, k.body FROM iot.notification k"
	" WHERE k.seq = r.seq OFFSET 0) AS n"
	/* few have preferences: nothing is called for the others */
	" CROSS JOIN LATERAL (SELECT CASE WHEN n.channel <> 'webhook'"
	" AND r.recipient = ANY ((SELECT iot_internal.holders())::text[])"
	" THEN iot_internal.hold_until(r.recipient, n.event, n.device_id, n.body ->> 'severity',"
	" clock_timestamp()) END AS until OFFSET 0) AS h"
	" RETURNING channel, not_before)"
	" SELECT count(*) FILTER (WHERE d.channel = 'push'), count(*) FILTER (WHERE d.channel <> 'push')"
	" FROM due d WHERE d.not_before IS NULL",
	2, {INT8ARRAYOID, TEXTARRAYOID}
};
/* Writes the notifications; their sequence numbers, in the order of the notices. */
static int64 *
write_notifications(const List *notices)
{
	int			count = list_length(notices);
	IotField   *columns[NOTIFICATION_COLUMNS];
	Datum		values[NOTIFICATION_COLUMNS];
	int64	   *seqs = palloc(sizeof(int64) * count);
	ListCell   *lc;

	for (int c = 0; c < NOTIFICATION_COLUMNS; c++)
		columns[c] = palloc(sizeof(IotField) * count);
	foreach(lc, notices)
	{
		int			i = foreach_current_index(lc);
		const IotNotifyEvent *event = ((IotNotice *) lfirst(lc))->event;
		const IotNotifyRule *rule = ((IotNotice *) lfirst(lc))->rule;

		columns[0][i] = event->event_id;
		columns[1][i] = event->type;
		columns[2][i] = rule->channel;
		columns[3][i] = rule->audience;
		columns[4][i] = event->author;
		columns[5][i] = event->device_id;
		columns[6][i] = event->device;
		columns[7][i] = rule->title;
		columns[8][i] = rule->body;
		columns[9][i] = event->payload;
		columns[10][i] = rule->texts;
		columns[10][i].isnull |= strcmp(rule->channel_text, "webhook") == 0;
		columns[11][i] = event->created_at;
	}
	for (int c = 0; c < NOTIFICATION_COLUMNS; c++)
		values[c] = iot_field_array(notification_types[c], count, columns[c], sizeof(IotField));
	if (iot_plan_execute(&insert_notifications, values, NULL) != count)
		elog(ERROR, "not every notification was written");
	for (int i = 0; i < count; i++)
		seqs[i] = DatumGetInt64(iot_field(i, 1).value);
	return seqs;
}

static void
write_deliveries(Datum *seqs, Datum *recipients, int count, IotNoticesDue *due)
{
	Datum		values[2];

	values[0] = PointerGetDatum(construct_array(seqs, count, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = iot_text_array(recipients, count);
	iot_plan_execute(&insert_deliveries, values, NULL);
	due->pushes += (int) DatumGetInt64(iot_field(0, 1).value);
	due->transfers += (int) DatumGetInt64(iot_field(0, 2).value);
	pfree(DatumGetPointer(values[0]));
	pfree(DatumGetPointer(values[1]));
}

/* Writes notifications and the deliveries of each; counts in *due what can be delivered at once. */
void
iot_notices_write(const List *notices, IotNoticesDue *due)
{
	int64	   *notice_seqs;
	Datum	   *seqs = palloc(sizeof(Datum) * DELIVERIES_MAX);
	Datum	   *recipients = palloc(sizeof(Datum) * DELIVERIES_MAX);
	int			count = 0;
	ListCell   *lc;

	if (notices == NIL)
		return;
	notice_seqs = write_notifications(notices);
	foreach(lc, notices)
	{
		const IotNotice *notice = lfirst(lc);

		for (int i = 0; i < notice->count; i++)
		{
			seqs[count] = Int64GetDatum(notice_seqs[foreach_current_index(lc)]);
			recipients[count++] = notice->recipients[i];
			if (count == DELIVERIES_MAX)
			{
				write_deliveries(seqs, recipients, count, due);
				count = 0;
			}
		}
	}
	if (count > 0)
		write_deliveries(seqs, recipients, count, due);
}
