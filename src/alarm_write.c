/*
 * alarm_write.c
 *		Writing alarms that open and close, and their events.
 *
 * Runs where alarms are judged.  Whatever goes wrong here (a trigger of the user's that raises, a
 * constraint of his) costs the alarm of the rule at fault and a warning, never the measurement: all
 * steps are tried in one subtransaction, and where that fails each rule has one of its own.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
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
	const char *severity;
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
	" highest_severity, severity_at, value, message, opened_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $6, $9, $7, $8, $9)"
	" ON CONFLICT (device_id, alarm_rule_id) WHERE status = 'OPENED' DO NOTHING",
	9, {UUIDOID, UUIDOID, UUIDOID, TEXTOID, UUIDOID, TEXTOID, FLOAT8OID, TEXTOID, TIMESTAMPTZOID}
};
static IotPlan change_severity = {
	"UPDATE iot.alarm SET severity = $3, severity_at = $4, updated_at = now(),"
	" highest_severity = CASE WHEN $5 THEN $3 ELSE highest_severity END"
	" WHERE device_id = $1 AND alarm_id = $2 AND status = 'OPENED' AND severity <> $3",
	5, {UUIDOID, UUIDOID, TEXTOID, TIMESTAMPTZOID, BOOLOID}
};
static IotPlan close_alarm = {
	"UPDATE iot.alarm SET status = 'CLOSED', closed_at = $3, close_reason = $4,"
	" updated_at = now() WHERE device_id = $1 AND alarm_id = $2 AND status = 'OPENED'"
	" RETURNING message, severity",
	4, {UUIDOID, UUIDOID, TIMESTAMPTZOID, TEXTOID}
};

/* By key for each, as with IOT_EACH; the lock is taken there. */
static IotPlan lock_alarms = {
	"SELECT FROM (SELECT v.device_id, v.alarm_id FROM unnest($1, $2) AS v (device_id, alarm_id)"
	" ORDER BY v.device_id, v.alarm_id) AS u"
	" CROSS JOIN LATERAL (SELECT FROM iot.alarm k"
	" WHERE k.device_id = u.device_id AND k.alarm_id = u.alarm_id FOR NO KEY UPDATE) AS a",
	2, {UUIDARRAYOID, UUIDARRAYOID}
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
		{"value", words->value}, {"rule", rule->name}, {"severity", words->severity}
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
	args[1] = UUIDPGetDatum(&step->parameter_id);
	if (iot_plan_execute(&select_words, args, NULL) == 0)
		return false;
	row = SPI_tuptable->vals[0];
	tupdesc = SPI_tuptable->tupdesc;
	words->step = step;
	words->severity = iot_alarm_severity(step->run->rule, Max(step->level, 1));
	words->device = SPI_getvalue(row, tupdesc, 1);
	words->parameter = SPI_getvalue(row, tupdesc, 2);
	words->unit = SPI_getvalue(row, tupdesc, 3);
	if (words->unit == NULL)
		words->unit = "";
	if (isfinite(step->value))
		double_to_shortest_decimal_buf(step->value, words->value);
	else
		words->value[0] = '\0';
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
	if (isfinite(step->value))
		iot_payload_float8(&payload, "value", step->value);
	if (words->unit[0] != '\0')
		iot_payload_text(&payload, "unit", words->unit);
	iot_payload_text(&payload, "message", message);
	payload_time(&payload, "opened_at", step->opened_at);
	if (step->step == IOT_RULE_CLOSES)
		payload_time(&payload, "closed_at", step->at);
	if (step->step == IOT_RULE_RISES || step->step == IOT_RULE_FALLS)
	{
		payload_time(&payload, "changed_at", step->at);
		iot_payload_text(&payload, "previous_severity",
						 iot_alarm_severity(rule, step->previous_level));
	}
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
	char		nulls[9];
	Datum		args[9];

	memset(nulls, ' ', sizeof(nulls));
	args[0] = UUIDPGetDatum(&step->run->device_id);
	args[1] = UUIDPGetDatum(&step->alarm_id);
	args[2] = UUIDPGetDatum(&rule->alarm_rule_id);
	args[3] = CStringGetTextDatum(rule->name);
	args[4] = UUIDPGetDatum(&step->parameter_id);
	args[5] = CStringGetTextDatum(words->severity);
	args[6] = Float8GetDatum(step->value);
	if (!isfinite(step->value))
		nulls[6] = 'n';
	args[7] = CStringGetTextDatum(message);
	args[8] = TimestampTzGetDatum(step->at);
	if (iot_plan_execute(&insert_alarm, args, nulls) == 1)
		append_event(words, "alarm.opened", words->severity, message, NULL);
}

/* Nothing where people have closed the alarm meanwhile. */
static void
write_severity(StepWords *words)
{
	const IotAlarmStep *step = words->step;
	Datum		args[5];

	args[0] = UUIDPGetDatum(&step->run->device_id);
	args[1] = UUIDPGetDatum(&step->alarm_id);
	args[2] = CStringGetTextDatum(words->severity);
	args[3] = TimestampTzGetDatum(step->at);
	args[4] = BoolGetDatum(step->step == IOT_RULE_RISES);
	if (iot_plan_execute(&change_severity, args, NULL) == 1)
		append_event(words, "alarm.severity_changed", words->severity,
					 render(words, step->run->rule->message), NULL);
}

static char *
closing_words(StepWords *words)
{
	const IotAlarmRule *rule = words->step->run->rule;

	if (rule->schedule != NULL && !iot_schedule_inside(rule->schedule, words->step->at))
		return pstrdup("the schedule of the alarm rule has ended");
	if (rule->kind == IOT_ALARM_RATE)
		return render(words, words->value[0] != '\0' ? "{parameter} changes by {value} {unit}"
					  : "{parameter} does not change any more");
	return render(words, "{parameter} is {value} {unit}");
}

/* Likewise. */
static void
write_closed(StepWords *words)
{
	const IotAlarmStep *step = words->step;
	char	   *reason = closing_words(words);
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
		else if (step->step == IOT_RULE_CLOSES)
			write_closed(&words);
		else
			write_severity(&words);
	}
}

/* What a subtransaction is about. */
typedef struct Writing
{
	IotAlarmBatch *batch;
	const IotAlarmRun *run;
} Writing;

static void
write_body(void *arg)
{
	Writing    *writing = arg;

	write_steps(writing->batch, writing->run);
}

/* Tries the steps of one run by themselves. */
static void
write_run(IotAlarmBatch *batch, IotAlarmRun *run)
{
	Writing		writing = {batch, run};
	ErrorData  *error = iot_alarm_try(write_body, &writing);

	if (error == NULL)
	{
		iot_alarm_worked(batch, run);
		return;
	}
	ereport(WARNING,
			(errmsg("alarm of rule \"%s\" was not written: %s", run->rule->name,
					error->message)));
	iot_alarm_failed(batch, run, error);
}

/* Locks those alarms that are there, where they are several: steps come in another order than locks. */
static void
lock_steps(const IotAlarmBatch *batch)
{
	Datum	   *device_ids = palloc_extended(sizeof(Datum) * batch->step_count, MCXT_ALLOC_HUGE);
	Datum	   *alarm_ids = palloc_extended(sizeof(Datum) * batch->step_count, MCXT_ALLOC_HUGE);
	Datum		args[2];
	int			count = 0;

	for (int i = 0; i < batch->step_count; i++)
	{
		IotAlarmStep *step = &batch->steps[i];

		if (step->step == IOT_RULE_OPENS)
			continue;
		device_ids[count] = UUIDPGetDatum(&step->run->device_id);
		alarm_ids[count++] = UUIDPGetDatum(&step->alarm_id);
	}
	if (count < 2)
		return;
	args[0] = iot_alarm_uuid_array(device_ids, count);
	args[1] = iot_alarm_uuid_array(alarm_ids, count);
	(void) iot_plan_execute(&lock_alarms, args, NULL);
}

/* Writes what the batch's rules have decided.  Raises only what would end the transaction anyway. */
void
iot_alarm_write(IotAlarmBatch *batch)
{
	Writing		writing = {batch, NULL};
	bool		written;

	lock_steps(batch);
	written = iot_alarm_try(write_body, &writing) == NULL;

	for (int i = 0; i < batch->step_count; i++)
	{
		IotAlarmRun *run = batch->steps[i].run;
		bool		done = false;

		if (written)
		{
			iot_alarm_worked(batch, run);
			continue;
		}
		for (int before = 0; before < i && !done; before++)
			done = batch->steps[before].run == run;
		if (!done)
			write_run(batch, run);
	}
}
