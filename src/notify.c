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
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

#include "consumer.h"
#include "core/glob.h"
#include "notify.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_notify_events);
PG_FUNCTION_INFO_V1(iot_notified_types);

#define AUDIT			"audit."
#define ANYBODY			"*"		/* recipient: whoever of the audience turns up first */

static IotPlan list_patterns = {
	"SELECT DISTINCT r.event FROM iot.notification_rule r WHERE r.enabled", 0, {0}
};

/* After the events, whose statement's snapshot need not hold the rows that came with them. */
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
static IotPlan begin_escalation = {
	"SELECT iot_internal.begin_escalation($1, $2, $3, $4)",
	4, {TEXTARRAYOID, UUIDARRAYOID, JSONBARRAYOID, TIMESTAMPTZARRAYOID}
};

/*
 * Whom an audience consists of.  Many events ask the same question: who may view a device is a matter
 * of its group, so one device answers for all of it.
 */
typedef struct Question
{
	const IotNotifyRule *rule;	/* for channel and audience */
	const char *author;			/* where the audience is the author */
	IotField	scope;			/* the device's group; of a device that is gone, itself */
	Datum	   *recipients;
	int			count;
} Question;

typedef struct Window
{
	IotNotifyEvent *events;
	int			nevents;		/* each once */
	IotNotifyRule *rules;
	int			nrules;
	IotField	admins;			/* of SQL type text[]; value 0: not asked for yet */
	List	   *questions;
	List	   *notices;
	IotNoticesDue due;
} Window;

/* A column of a row of the last statement. */
IotField
iot_field(uint64 row, int column)
{
	IotField	result;

	result.value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column,
								 &result.isnull);
	return result;
}

static char *
text_of(IotField value)
{
	return TextDatumGetCString(value.value);
}

static bool
same_uuid(IotField a, IotField b)
{
	return a.isnull ? b.isnull : !b.isnull &&
		memcmp(DatumGetUUIDP(a.value), DatumGetUUIDP(b.value), UUID_LEN) == 0;
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL ? b == NULL : b != NULL && strcmp(a, b) == 0;
}

/* An array of the fields; step bytes lie between them. */
Datum
iot_field_array(Oid type, int count, const IotField *first, size_t step)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(count, 1));
	int			lower = 1;
	int16		length;
	bool		byval;
	char		align;

	for (int i = 0; i < count; i++)
	{
		const IotField *at = (const IotField *) ((const char *) first + step * i);

		values[i] = at->value;
		nulls[i] = at->isnull;
	}
	get_typlenbyvalalign(type, &length, &byval, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower, type, length, byval,
											  align));
}

Datum
iot_text_array(Datum *values, int count)
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
		(*values)[i] = iot_field(i, 1).value;
	return count;
}

/*
 * The event types that enabled rules can match, to skip the rest in the log: "*" for any but audit events,
 * which only rules that begin so ask for; 0 for any at all.
 */
static Datum
notified_types(void)
{
	Datum	   *patterns;
	int			count;
	bool		any = false;
	bool		any_audit = false;

	iot_plan_execute(&list_patterns, NULL, NULL);
	count = take_texts(&patterns);
	for (int i = 0; i < count; i++)
	{
		char	   *pattern = TextDatumGetCString(patterns[i]);

		any |= strchr(pattern, '*') != NULL;
		any_audit |= strncmp(pattern, AUDIT, strlen(AUDIT)) == 0;
	}
	if (any && any_audit)
		return (Datum) 0;
	if (any)
	{
		patterns[0] = CStringGetTextDatum("*");
		count = 1;
	}
	return iot_text_array(patterns, count);
}

/* A member of an event's payload, as text. */
static IotField
payload_text(Datum payload, const char *key)
{
	IotField	result = {.isnull = true};
	JsonbValue *value = getKeyJsonValueFromContainer(&DatumGetJsonbP(payload)->root, key,
													 strlen(key), NULL);

	if (value == NULL || value->type == jbvNull)
		return result;
	result.isnull = false;
	if (value->type == jbvString)
		result.value = PointerGetDatum(cstring_to_text_with_len(value->val.string.val,
																value->val.string.len));
	else
	{
		Jsonb	   *other = JsonbValueToJsonb(value);

		result.value = CStringGetTextDatum(JsonbToCString(NULL, &other->root, VARSIZE(other)));
	}
	return result;
}

/* The next events; how many were read.  One that the log holds twice is told of once. */
static int
load_events(Window *window, int max_events)
{
	IotLogEvents log;
	HASHCTL		info = {.keysize = UUID_LEN, .entrysize = UUID_LEN, .hcxt = CurrentMemoryContext};
	HTAB	   *seen;

	iot_consumer_next(CStringGetTextDatum("notifier"), false, notified_types(), max_events, &log);
	if (log.count == 0)
		return 0;
	window->events = palloc0(sizeof(IotNotifyEvent) * log.count);
	seen = hash_create("iot events", log.count, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < log.count; i++)
	{
		const IotLogEvent *logged = &log.events[i];
		IotNotifyEvent *event = &window->events[window->nevents];
		Datum		payload = logged->values[IOT_LOG_PAYLOAD];
		bool		found;

		event->event_id.value = logged->values[IOT_LOG_EVENT_ID];
		(void) hash_search(seen, DatumGetUUIDP(event->event_id.value), HASH_ENTER, &found);
		if (found)
			continue;
		if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(payload)))
			payload = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
		event->type.value = logged->values[IOT_LOG_TYPE];
		event->type_text = text_of(event->type);
		event->device_id.value = logged->values[IOT_LOG_DEVICE_ID];
		event->device_id.isnull = logged->nulls[IOT_LOG_DEVICE_ID];
		event->device_group = event->device_id;
		event->payload.value = payload;
		event->created_at.value = logged->values[IOT_LOG_CREATED_AT];
		event->author = payload_text(payload, "username");
		event->author_text = event->author.isnull ? NULL : text_of(event->author);
		event->device = payload_text(payload, "device");
		window->nevents++;
	}
	return log.count;
}

/* A field of all events, given that of the first. */
static Datum
event_column(const Window *window, Oid type, const IotField *first)
{
	return iot_field_array(type, window->nevents, first, sizeof(IotNotifyEvent));
}

static void
load_rest(Window *window)
{
	Datum		device_ids = event_column(window, UUIDOID, &window->events->device_id);

	window->nrules = (int) iot_plan_execute(&load_rules, NULL, NULL);
	window->rules = palloc(sizeof(IotNotifyRule) * Max(window->nrules, 1));
	for (int i = 0; i < window->nrules; i++)
	{
		IotNotifyRule *rule = &window->rules[i];

		rule->event = text_of(iot_field(i, 1));
		rule->channel = iot_field(i, 2);
		rule->channel_text = text_of(rule->channel);
		rule->audience = iot_field(i, 3);
		rule->audience_text = text_of(rule->audience);
		rule->title = iot_field(i, 4);
		rule->body = iot_field(i, 5);
		rule->texts = iot_field(i, 6);
	}
	iot_plan_execute(&find_devices, &device_ids, NULL);
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		IotNotifyEvent *event = &window->events[DatumGetInt64(iot_field(i, 1).value) - 1];

		event->device = iot_field(i, 2);
		event->device_group = iot_field(i, 3);
	}
}

/* "*" is for what happens, not for each row of a bulk load. */
static bool
matches(const IotNotifyRule *rule, const IotNotifyEvent *event)
{
	return iot_glob_match(rule->event, strlen(rule->event), event->type_text,
						  strlen(event->type_text)) &&
		(strncmp(event->type_text, AUDIT, strlen(AUDIT)) != 0 ||
		 strncmp(rule->event, AUDIT, strlen(AUDIT)) == 0);
}

static Question *
ask(Window *window, const IotNotifyRule *rule, const IotNotifyEvent *event)
{
	bool		by_author = strcmp(rule->audience_text, "author") == 0;
	const char *author = by_author ? event->author_text : NULL;
	Question   *question;
	Datum		values[5];
	char		nulls[] = "     ";
	ListCell   *lc;

	foreach(lc, window->questions)
	{
		question = lfirst(lc);
		if (same_uuid(question->scope, event->device_group) &&
			strcmp(question->rule->channel_text, rule->channel_text) == 0 &&
			strcmp(question->rule->audience_text, rule->audience_text) == 0 &&
			same_text(question->author, author))
			return question;
	}
	if (window->admins.value == (Datum) 0)
	{
		iot_plan_execute(&find_admins, NULL, NULL);
		window->admins = iot_field(0, 1);
	}
	values[0] = rule->channel.value;
	values[1] = rule->audience.value;
	values[2] = event->author.value;
	nulls[2] = author == NULL ? 'n' : ' ';
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
match(Window *window, const IotNotifyEvent *event)
{
	List	   *asked = NIL;	/* what the rules before have asked */

	for (int i = 0; i < window->nrules; i++)
	{
		const IotNotifyRule *rule = &window->rules[i];
		Question   *question;
		IotNotice  *notice;
		ListCell   *lc;

		if (!matches(rule, event))
			continue;
		question = ask(window, rule, event);
		if (question->count == 0 || list_member_ptr(asked, question))
			continue;
		notice = palloc(sizeof(IotNotice));
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
			values[0] = iot_text_array(notice->recipients, notice->count);
			values[1] = iot_text_array(before->recipients, before->count);
			iot_plan_execute(&leave_out, values, NULL);
			notice->count = take_texts(&notice->recipients);
		}
		asked = lappend(asked, question);
		if (notice->count > 0)
			window->notices = lappend(window->notices, notice);
	}
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
	values[0] = event_column(window, TEXTOID, &window->events->type);
	values[1] = event_column(window, UUIDOID, &window->events->device_id);
	values[2] = event_column(window, JSONBOID, &window->events->payload);
	values[3] = event_column(window, TIMESTAMPTZOID, &window->events->created_at);
	iot_plan_execute(&begin_escalation, values, NULL);
}

/* iot_internal.notified_types() returns text[]; STABLE, SECURITY DEFINER.  NULL for any. */
Datum
iot_notified_types(PG_FUNCTION_ARGS)
{
	Datum		types;

	SPI_connect();
	types = notified_types();
	if (types != (Datum) 0)
		types = SPI_datumTransfer(types, false, -1);
	SPI_finish();
	if (types == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(types);
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
		iot_notices_write(window.notices, &window.due);
		escalate(&window);
	}
	values[0] = Int32GetDatum(read);
	values[1] = Int32GetDatum(list_length(window.notices));
	values[2] = Int32GetDatum(window.due.pushes);
	values[3] = Int32GetDatum(window.due.transfers);
	SPI_finish();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
