/*
 * notify.c
 *		From a window of the event log to notifications, and to a delivery for each who is told.
 *
 * Runs in the notifier's transaction.  A lone event is what a user waits for, so everything is a few
 * short statements on kept plans, and what they found is put together here; a statement that did it
 * all took longer to start than to run.  A window of events shares them: each rule, device and
 * audience is looked up once.
 *
 * All of it lives until SPI_finish.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

#include "core/glob.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_notify_events);

#define AUDIT			"audit."
#define ANYBODY			"*"		/* recipient: whoever of the audience turns up first */
#define DELIVERIES_MAX	5000	/* of a statement */

/*
 * A statement of its own: the next one's snapshot then holds the rows, such as the device, that came
 * with the events.
 */
static IotPlan read_events = {
	"SELECT r.event_id, r.type, r.device_id,"
	" CASE WHEN jsonb_typeof(r.payload) = 'object' THEN r.payload ELSE '{}' END, r.created_at,"
	" r.payload ->> 'username', r.payload ->> 'device'"
	" FROM iot_internal.consumer_read('notifier', iot_internal.notified_types(), $1) AS r"
	" ORDER BY r.id",
	1, {INT4OID}
};
static IotPlan load_rules = {
	"SELECT r.event, r.channel, r.audience, r.title, r.body,"
	/* few rules have templates to keep: nothing is called for the others */
	" CASE WHEN r.title || r.body ~ '\\{([a-z]+_)?at\\}' OR r.notification_rule_id IN ("
	"SELECT t.notification_rule_id FROM iot.notification_text t)"
	" THEN iot_internal.kept_texts(r.notification_rule_id, r.title, r.body) END"
	" FROM iot.notification_rule r WHERE r.enabled ORDER BY r.created_at, r.name",
	0, {0}
};
static IotPlan find_devices = {
	"SELECT a.place, d.name, d.device_group_id"
	" FROM unnest($1) WITH ORDINALITY AS a(device_id, place)"
	" CROSS JOIN LATERAL (SELECT k.name, k.device_group_id FROM iot.device k"
	" WHERE k.device_id = a.device_id OFFSET 0) AS d",
	1, {UUIDARRAYOID}
};
static IotPlan find_admins = {"SELECT iot_internal.admin_usernames()", 0, {0}};
static IotPlan find_recipients = {
	"SELECT t.recipient FROM iot_internal.audience_recipients($1, $2, $3, $4, $5) AS t(recipient)",
	5, {TEXTOID, TEXTOID, TEXTOID, UUIDOID, TEXTARRAYOID}
};
static IotPlan leave_out = {
	"SELECT t.recipient FROM unnest($1) AS t(recipient)"
	" WHERE t.recipient NOT IN (SELECT o.recipient FROM unnest($2) AS o(recipient))",
	2, {TEXTARRAYOID, TEXTARRAYOID}
};
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
static IotPlan begin_escalation = {
	"SELECT iot_internal.begin_escalation($1, $2, $3, $4)",
	4, {TEXTARRAYOID, UUIDARRAYOID, JSONBARRAYOID, TIMESTAMPTZARRAYOID}
};

/* A value of a row, which may be NULL. */
typedef struct Field
{
	Datum		value;
	bool		isnull;
} Field;

typedef struct Event
{
	Field		event_id;
	Field		type;
	char	   *type_text;
	Field		device_id;
	Field		device;			/* its name now, else that in the payload */
	Field		device_group;
	Field		author;
	Field		payload;		/* an object */
	Field		created_at;
} Event;

typedef struct Rule
{
	char	   *event;
	Field		channel;
	char	   *channel_text;
	Field		audience;
	char	   *audience_text;
	Field		title;
	Field		body;
	Field		texts;
} Rule;

/*
 * Whom an audience consists of.  Many events ask the same question: who may view a device is a matter
 * of its group, so one device answers for all of it.
 */
typedef struct Question
{
	const Rule *rule;			/* for channel and audience */
	Field		author;			/* where the audience is the author */
	Field		scope;			/* the device's group; of a device that is gone, itself */
	Datum	   *recipients;
	int			count;
} Question;

/* A rule that tells of an event, and whom. */
typedef struct Notice
{
	const Event *event;
	const Rule *rule;
	Datum	   *recipients;
	int			count;
} Notice;

typedef struct Window
{
	Event	   *events;
	int			nevents;		/* each once */
	Rule	   *rules;
	int			nrules;
	Field		admins;			/* of SQL type text[]; value 0: not asked for yet */
	List	   *questions;
	List	   *notices;
	int			pushes;
	int			transfers;
} Window;

static Field
field(uint64 row, int column)
{
	Field		result;

	result.value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column,
								 &result.isnull);
	return result;
}

static char *
text_of(Field value)
{
	return TextDatumGetCString(value.value);
}

static bool
same_uuid(Field a, Field b)
{
	return a.isnull ? b.isnull : !b.isnull &&
		memcmp(DatumGetUUIDP(a.value), DatumGetUUIDP(b.value), UUID_LEN) == 0;
}

static bool
same_text(Field a, Field b)
{
	return a.isnull ? b.isnull : !b.isnull && strcmp(text_of(a), text_of(b)) == 0;
}

/* An array of the fields; step bytes lie between them. */
static Datum
array_of(Oid type, int count, const Field *first, size_t step)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(count, 1));
	int			lower = 1;
	int16		length;
	bool		byval;
	char		align;

	for (int i = 0; i < count; i++)
	{
		const Field *at = (const Field *) ((const char *) first + step * i);

		values[i] = at->value;
		nulls[i] = at->isnull;
	}
	get_typlenbyvalalign(type, &length, &byval, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower, type, length, byval,
											  align));
}

static Datum
text_array(Datum *values, int count)
{
	return PointerGetDatum(construct_array(values, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* The first column of the last statement's rows. */
static int
take_texts(Datum **values)
{
	int			count = (int) SPI_tuptable->numvals;

	*values = palloc(sizeof(Datum) * Max(count, 1));
	for (int i = 0; i < count; i++)
		(*values)[i] = field(i, 1).value;
	return count;
}

/* The next events; how many were read.  One that the log holds twice is told of once. */
static int
load_events(Window *window, int max_events)
{
	Datum		max = Int32GetDatum(max_events);
	int			read = (int) iot_plan_execute(&read_events, &max, NULL);
	HASHCTL		info = {.keysize = UUID_LEN, .entrysize = UUID_LEN, .hcxt = CurrentMemoryContext};
	HTAB	   *seen;

	window->events = palloc0(sizeof(Event) * Max(read, 1));
	if (read == 0)
		return 0;
	seen = hash_create("iot events", read, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < read; i++)
	{
		Event	   *event = &window->events[window->nevents];
		bool		found;

		event->event_id = field(i, 1);
		(void) hash_search(seen, DatumGetUUIDP(event->event_id.value), HASH_ENTER, &found);
		if (found)
			continue;
		event->type = field(i, 2);
		event->type_text = text_of(event->type);
		event->device_id = event->device_group = field(i, 3);
		event->payload = field(i, 4);
		event->created_at = field(i, 5);
		event->author = field(i, 6);
		event->device = field(i, 7);
		window->nevents++;
	}
	return read;
}

static void
load_rest(Window *window)
{
	Datum		device_ids = array_of(UUIDOID, window->nevents, &window->events->device_id,
									  sizeof(Event));

	window->nrules = (int) iot_plan_execute(&load_rules, NULL, NULL);
	window->rules = palloc(sizeof(Rule) * Max(window->nrules, 1));
	for (int i = 0; i < window->nrules; i++)
	{
		Rule	   *rule = &window->rules[i];

		rule->event = text_of(field(i, 1));
		rule->channel = field(i, 2);
		rule->channel_text = text_of(rule->channel);
		rule->audience = field(i, 3);
		rule->audience_text = text_of(rule->audience);
		rule->title = field(i, 4);
		rule->body = field(i, 5);
		rule->texts = field(i, 6);
	}
	iot_plan_execute(&find_devices, &device_ids, NULL);
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		Event	   *event = &window->events[DatumGetInt64(field(i, 1).value) - 1];

		event->device = field(i, 2);
		event->device_group = field(i, 3);
	}
}

/* "*" is for what happens, not for each row of a bulk load. */
static bool
matches(const Rule *rule, const Event *event)
{
	return iot_glob_match(rule->event, strlen(rule->event), event->type_text,
						  strlen(event->type_text)) &&
		(strncmp(event->type_text, AUDIT, strlen(AUDIT)) != 0 ||
		 strncmp(rule->event, AUDIT, strlen(AUDIT)) == 0);
}

static Question *
ask(Window *window, const Rule *rule, const Event *event)
{
	Field		nobody = {.isnull = true};
	bool		by_author = strcmp(rule->audience_text, "author") == 0;
	Field		author = by_author ? event->author : nobody;
	Question   *question;
	Datum		values[5];
	char		nulls[] = "     ";
	ListCell   *lc;

	foreach(lc, window->questions)
	{
		question = lfirst(lc);
		if (strcmp(question->rule->channel_text, rule->channel_text) == 0 &&
			strcmp(question->rule->audience_text, rule->audience_text) == 0 &&
			same_uuid(question->scope, event->device_group) && same_text(question->author, author))
			return question;
	}
	if (window->admins.value == (Datum) 0)
	{
		iot_plan_execute(&find_admins, NULL, NULL);
		window->admins = field(0, 1);
	}
	values[0] = rule->channel.value;
	values[1] = rule->audience.value;
	values[2] = author.value;
	nulls[2] = author.isnull ? 'n' : ' ';
	values[3] = event->device_id.value;
	nulls[3] = event->device_id.isnull ? 'n' : ' ';
	values[4] = window->admins.value;
	iot_plan_execute(&find_recipients, values, nulls);
	question = palloc(sizeof(Question));
	question->rule = rule;
	question->author = author;
	question->scope = event->device_group;
	question->count = take_texts(&question->recipients);
	window->questions = lappend(window->questions, question);
	return question;
}

static bool
is_anybody(const Question *question)
{
	return question->count == 1 &&
		strcmp(TextDatumGetCString(question->recipients[0]), ANYBODY) == 0;
}

/* Of the rules that match an event, the first one on a channel that reaches a recipient tells him. */
static void
match(Window *window, const Event *event)
{
	List	   *asked = NIL;	/* what the rules before have asked */

	for (int i = 0; i < window->nrules; i++)
	{
		const Rule *rule = &window->rules[i];
		Question   *question;
		Notice	   *notice;
		ListCell   *lc;

		if (!matches(rule, event))
			continue;
		question = ask(window, rule, event);
		if (question->count == 0 || list_member_ptr(asked, question))
			continue;
		notice = palloc(sizeof(Notice));
		notice->event = event;
		notice->rule = rule;
		notice->recipients = question->recipients;
		notice->count = question->count;
		foreach(lc, asked)
		{
			Question   *before = lfirst(lc);
			Datum		values[2];

			if (strcmp(before->rule->channel_text, rule->channel_text) != 0 || is_anybody(before) ||
				notice->count == 0)
				continue;
			values[0] = text_array(notice->recipients, notice->count);
			values[1] = text_array(before->recipients, before->count);
			iot_plan_execute(&leave_out, values, NULL);
			notice->count = take_texts(&notice->recipients);
		}
		asked = lappend(asked, question);
		if (notice->count > 0)
			window->notices = lappend(window->notices, notice);
	}
}

/* Writes the notifications; their sequence numbers, in the order of the notices. */
static int64 *
write_notifications(Window *window)
{
	int			count = list_length(window->notices);
	Field	   *columns[NOTIFICATION_COLUMNS];
	Datum		values[NOTIFICATION_COLUMNS];
	int64	   *seqs = palloc(sizeof(int64) * count);
	ListCell   *lc;

	for (int c = 0; c < NOTIFICATION_COLUMNS; c++)
		columns[c] = palloc(sizeof(Field) * count);
	foreach(lc, window->notices)
	{
		int			i = foreach_current_index(lc);
		const Event *event = ((Notice *) lfirst(lc))->event;
		const Rule *rule = ((Notice *) lfirst(lc))->rule;

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
		values[c] = array_of(notification_types[c], count, columns[c], sizeof(Field));
	if (iot_plan_execute(&insert_notifications, values, NULL) != count)
		elog(ERROR, "not every notification was written");
	for (int i = 0; i < count; i++)
		seqs[i] = DatumGetInt64(field(i, 1).value);
	return seqs;
}

static void
write_deliveries(Window *window, Datum *seqs, Datum *recipients, int count)
{
	Datum		values[2];

	values[0] = PointerGetDatum(construct_array(seqs, count, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = text_array(recipients, count);
	iot_plan_execute(&insert_deliveries, values, NULL);
	window->pushes += (int) DatumGetInt64(field(0, 1).value);
	window->transfers += (int) DatumGetInt64(field(0, 2).value);
	pfree(DatumGetPointer(values[0]));
	pfree(DatumGetPointer(values[1]));
}

static void
tell(Window *window)
{
	int64	   *notice_seqs;
	Datum	   *seqs = palloc(sizeof(Datum) * DELIVERIES_MAX);
	Datum	   *recipients = palloc(sizeof(Datum) * DELIVERIES_MAX);
	int			count = 0;
	ListCell   *lc;

	if (window->notices == NIL)
		return;
	notice_seqs = write_notifications(window);
	foreach(lc, window->notices)
	{
		const Notice *notice = lfirst(lc);

		for (int i = 0; i < notice->count; i++)
		{
			seqs[count] = Int64GetDatum(notice_seqs[foreach_current_index(lc)]);
			recipients[count++] = notice->recipients[i];
			if (count == DELIVERIES_MAX)
			{
				write_deliveries(window, seqs, recipients, count);
				count = 0;
			}
		}
	}
	if (count > 0)
		write_deliveries(window, seqs, recipients, count);
}

/* Alarms that open or grow are followed up until somebody acknowledges them. */
static void
escalate(const Window *window)
{
	Datum		values[4];
	bool		any = false;

	for (int i = 0; i < window->nevents; i++)
		any |= strcmp(window->events[i].type_text, "alarm.opened") == 0 ||
			strcmp(window->events[i].type_text, "alarm.severity_changed") == 0;
	if (!any)
		return;
	values[0] = array_of(TEXTOID, window->nevents, &window->events->type, sizeof(Event));
	values[1] = array_of(UUIDOID, window->nevents, &window->events->device_id, sizeof(Event));
	values[2] = array_of(JSONBOID, window->nevents, &window->events->payload, sizeof(Event));
	values[3] = array_of(TIMESTAMPTZOID, window->nevents, &window->events->created_at, sizeof(Event));
	iot_plan_execute(&begin_escalation, values, NULL);
}

/*
 * iot_internal.notify_events(max_events integer) returns (events, notifications, pushes, transfers);
 * VOLATILE, SECURITY DEFINER.  Reads the next events of consumer "notifier" and writes what their
 * rules say.  Cursor and effects share the caller's transaction, so that each event is notified of
 * exactly once.  Fewer events than asked for means that the log is drained; transfers are what is to
 * be sent by HTTP or SMTP at once.
 */
Datum
iot_notify_events(PG_FUNCTION_ARGS)
{
	Window		window = {0};
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {0};
	int			read;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("number of events must not be null")));
	SPI_connect();
	read = load_events(&window, PG_GETARG_INT32(0));
	if (read > 0)
	{
		load_rest(&window);
		for (int i = 0; i < window.nevents; i++)
			match(&window, &window.events[i]);
		tell(&window);
		escalate(&window);
	}
	values[0] = Int32GetDatum(read);
	values[1] = Int32GetDatum(list_length(window.notices));
	values[2] = Int32GetDatum(window.pushes);
	values[3] = Int32GetDatum(window.transfers);
	SPI_finish();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
