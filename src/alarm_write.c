/*
 * alarm_write.c
 *		Writing alarms that open and close, and their events.
 *
 * Runs where alarms are judged.  Whatever goes wrong here (a trigger of the user's that raises, a
 * constraint of his) costs the alarm of the rule at fault and a warning, never the measurement: all
 * steps are tried in one subtransaction, and where that fails each rule has one of its own.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "core/template.h"
#include "event.h"
#include "plan.h"

#define MESSAGE_MAX	2000

/* What the words of a step are made of. */
typedef struct StepWords
{
	const IotAlarmStep *step;
	char	   *device;
	char	   *parameter;
	char	   *unit;
	char		value[DOUBLE_SHORTEST_DECIMAL_LEN];
} StepWords;

static IotPlan select_words = {
	"SELECT d.name, p.name, p.unit FROM iot.device d CROSS JOIN iot.parameter p"
	" WHERE d.device_id = $1 AND p.parameter_id = $2",
	2, {UUIDOID, UUIDOID}
};
static IotPlan insert_alarm = {
	"INSERT INTO iot.alarm (device_id, alarm_id, alarm_rule_id, rule, parameter_id, severity,"
	" value, message, opened_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
	" ON CONFLICT (device_id, alarm_rule_id) WHERE status = 'OPENED' DO NOTHING",
	9, {UUIDOID, UUIDOID, UUIDOID, TEXTOID, UUIDOID, TEXTOID, FLOAT8OID, TEXTOID, TIMESTAMPTZOID}
};
static IotPlan close_alarm = {
	"UPDATE iot.alarm SET status = 'CLOSED', closed_at = $3, close_reason = $4,"
	" updated_at = now() WHERE device_id = $1 AND alarm_id = $2 AND status = 'OPENED'"
	" RETURNING message, severity",
	4, {UUIDOID, UUIDOID, TIMESTAMPTZOID, TEXTOID}
};

static const char *
lookup_word(void *arg, const char *name, size_t name_len, size_t *len)
{
	const StepWords *words = arg;
	const IotAlarmRule *rule = words->step->run->rule;
	const struct
	{
		const char *name;
		const char *value;
	}			known[] = {
		{"device", words->device}, {"parameter", words->parameter}, {"unit", words->unit},
		{"value", words->value}, {"rule", rule->name}, {"severity", rule->severity}
	};

	for (int i = 0; i < lengthof(known); i++)
	{
		if (strlen(known[i].name) == name_len && strncmp(known[i].name, name, name_len) == 0)
		{
			*len = strlen(known[i].value);
			return known[i].value;
		}
	}
	return NULL;
}

/* The template with its words, cut to a decent length, without blanks at its end. */
static char *
render(StepWords *words, const char *template)
{
	size_t		size = iot_template_render(template, strlen(template), IOT_TEMPLATE_TEXT,
										   lookup_word, words, NULL, 0);
	char	   *text = palloc(size + 1);
	size_t		len;

	(void) iot_template_render(template, strlen(template), IOT_TEMPLATE_TEXT, lookup_word, words,
							   text, size + 1);
	len = pg_mbcliplen(text, strlen(text), MESSAGE_MAX);
	while (len > 0 && text[len - 1] == ' ')
		len--;
	text[len] = '\0';
	return text;
}

/* False where the device or the parameter is gone. */
static bool
find_words(StepWords *words, const IotAlarmStep *step)
{
	Datum		args[2];
	HeapTuple	row;
	TupleDesc	tupdesc;

	args[0] = UUIDPGetDatum(&step->run->device_id);
	args[1] = UUIDPGetDatum(&step->run->rule->parameter_id);
	if (iot_plan_execute(&select_words, args, NULL) == 0)
		return false;
	row = SPI_tuptable->vals[0];
	tupdesc = SPI_tuptable->tupdesc;
	words->step = step;
	words->device = SPI_getvalue(row, tupdesc, 1);
	words->parameter = SPI_getvalue(row, tupdesc, 2);
	words->unit = SPI_getvalue(row, tupdesc, 3);
	if (words->unit == NULL)
		words->unit = "";
	double_to_shortest_decimal_buf(step->value, words->value);
	SPI_freetuptable(SPI_tuptable);
	return true;
}

/* ISO 8601 in UTC, whatever the session shows. */
static void
payload_time(IotPayload *payload, const char *key, TimestampTz at)
{
	int			utc = 0;
	char	   *text = palloc(MAXDATELEN + 1);

	JsonEncodeDateTime(text, TimestampTzGetDatum(at), TIMESTAMPTZOID, &utc);
	iot_payload_text(payload, key, text);
}

static void
append_event(const StepWords *words, const char *type, const char *severity, const char *message,
			 const char *reason)
{
	const IotAlarmStep *step = words->step;
	const IotAlarmRule *rule = step->run->rule;
	IotPayload	payload;
	char		alarm_id[IOT_UUID_TEXT_SIZE];

	iot_payload_begin(&payload);
	iot_payload_uuid(&payload, "alarm_id", &step->alarm_id);
	iot_payload_uuid(&payload, "alarm_rule_id", &rule->alarm_rule_id);
	iot_payload_text(&payload, "rule", rule->name);
	iot_payload_text(&payload, "severity", severity);
	iot_payload_text(&payload, "device", words->device);
	iot_payload_text(&payload, "parameter", words->parameter);
	iot_payload_float8(&payload, "value", step->value);
	if (words->unit[0] != '\0')
		iot_payload_text(&payload, "unit", words->unit);
	iot_payload_text(&payload, "message", message);
	payload_time(&payload, "opened_at", step->opened_at);
	if (step->step == IOT_RULE_CLOSES)
		payload_time(&payload, "closed_at", step->at);
	if (reason != NULL)
		iot_payload_text(&payload, "reason", reason);
	iot_uuid_text(&step->alarm_id, alarm_id);
	iot_event_append(type, "alarm", alarm_id, &step->run->device_id, iot_payload_end(&payload));
}

static void
write_opened(StepWords *words)
{
	const IotAlarmStep *step = words->step;
	const IotAlarmRule *rule = step->run->rule;
	char	   *message = render(words, rule->message);
	Datum		args[9];

	args[0] = UUIDPGetDatum(&step->run->device_id);
	args[1] = UUIDPGetDatum(&step->alarm_id);
	args[2] = UUIDPGetDatum(&rule->alarm_rule_id);
	args[3] = CStringGetTextDatum(rule->name);
	args[4] = UUIDPGetDatum(&rule->parameter_id);
	args[5] = CStringGetTextDatum(rule->severity);
	args[6] = Float8GetDatum(step->value);
	args[7] = CStringGetTextDatum(message);
	args[8] = TimestampTzGetDatum(step->at);
	if (iot_plan_execute(&insert_alarm, args, NULL) == 1)
		append_event(words, "alarm.opened", rule->severity, message, NULL);
}

/* Nothing where people have closed the alarm meanwhile. */
static void
write_closed(StepWords *words)
{
	const IotAlarmStep *step = words->step;
	char	   *reason = render(words, "{parameter} is {value} {unit}");
	char	   *message;
	char	   *severity;
	Datum		args[4];

	args[0] = UUIDPGetDatum(&step->run->device_id);
	args[1] = UUIDPGetDatum(&step->alarm_id);
	args[2] = TimestampTzGetDatum(step->at);
	args[3] = CStringGetTextDatum(reason);
	if (iot_plan_execute(&close_alarm, args, NULL) == 0)
		return;
	message = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	severity = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	SPI_freetuptable(SPI_tuptable);
	append_event(words, "alarm.closed", severity, message, reason);
}

/* Writes the steps of one run, or of all where run is NULL, in their order. */
static void
write_steps(IotAlarmBatch *batch, const IotAlarmRun *run)
{
	for (int i = 0; i < batch->step_count; i++)
	{
		const IotAlarmStep *step = &batch->steps[i];
		StepWords	words;

		if ((run != NULL && step->run != run) || !find_words(&words, step))
			continue;
		if (step->step == IOT_RULE_OPENS)
			write_opened(&words);
		else
			write_closed(&words);
	}
}

/* Whether an error says something of what was written, and nothing of the server or the session. */
static bool
may_be_swallowed(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_PLPGSQL_ERROR:
		case ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION:
		case ERRCODE_EXTERNAL_ROUTINE_EXCEPTION:
			return true;
		default:
			return false;
	}
}

/* NULL where the steps are written, else why they are not; other errors go on to the caller. */
static ErrorData *
try_steps(IotAlarmBatch *batch, const IotAlarmRun *run)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		write_steps(batch, run);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL && !may_be_swallowed(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/* Writes what the batch's rules have decided.  Raises only what would end the transaction anyway. */
void
iot_alarm_write(IotAlarmBatch *batch)
{
	ErrorData  *error = try_steps(batch, NULL);

	if (error == NULL)
		return;
	for (int i = 0; i < batch->step_count; i++)
	{
		const IotAlarmRun *run = batch->steps[i].run;
		bool		done = false;

		for (int before = 0; before < i; before++)
			done = done || batch->steps[before].run == run;
		if (done)
			continue;
		error = try_steps(batch, run);
		if (error != NULL)
			ereport(WARNING,
					(errmsg("alarm of rule \"%s\" was not written: %s", run->rule->name,
							error->message)));
	}
}
