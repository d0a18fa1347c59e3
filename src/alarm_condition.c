/*
 * alarm_condition.c
 *		What a rule's condition says of a sensor or a device at a time.
 *
 * The one place that knows the kinds of rules: bounds on the value or its change, silence, and
 * predicates over a device's values.  Nothing here remembers anything; see core/rule.c.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "compat.h"

/* A finite number among the attributes, or what there is instead. */
static double
attribute(const IotAlarmDevice *device, const char *name, double instead)
{
	JsonbValue *found;
	JsonbValue	key;
	double		number;

	if (name == NULL || device == NULL || device->attributes == NULL)
		return instead;
	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	found = findJsonbValueFromContainer(&device->attributes->root, JB_FOBJECT, &key);
	if (found == NULL || found->type != jbvNumeric)
		return instead;
	number = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
												NumericGetDatum(found->val.numeric)));
	return isfinite(number) ? number : instead;
}

/* The closing bound keeps its distance from a bound that comes from the device. */
static double
moved(double stay, double open, double to)
{
	return isfinite(open) ? to + (stay - open) : to;
}

static void
find_bounds(const IotAlarmWatch *watch, const IotAlarmRule *rule, int level,
			IotRuleBounds *open, IotRuleBounds *stay)
{
	*open = rule->levels[level].open;
	*stay = rule->levels[level].stay;
	if (level > 0)
		return;
	if (rule->low_attribute != NULL)
	{
		open->low = attribute(watch->device, rule->low_attribute, open->low);
		stay->low = moved(stay->low, rule->levels[level].open.low, open->low);
	}
	if (rule->high_attribute != NULL)
	{
		open->high = attribute(watch->device, rule->high_attribute, open->high);
		stay->high = moved(stay->high, rule->levels[level].open.high, open->high);
	}
}

/* The number that a rule is about: the value, or how fast it changes. */
double
iot_alarm_value(const IotAlarmRun *run)
{
	const IotAlarmWatch *watch = run->watch;
	const IotAlarmRule *rule = run->rule;

	return rule->kind == IOT_ALARM_RATE ? watch->change * (rule->per / watch->elapsed)
		: watch->value;
}

static void
compare(const IotAlarmRun *run, IotRuleVerdict *verdict)
{
	const IotAlarmRule *rule = run->rule;
	double		value = iot_alarm_value(run);

	for (int level = 0; level < rule->level_count; level++)
	{
		IotRuleBounds open;
		IotRuleBounds stay;

		find_bounds(run->watch, rule, level, &open, &stay);
		if (iot_rule_holds(rule->test, &open, value))
			verdict->opens = level + 1;
		if (iot_rule_holds(rule->test, &stay, value))
			verdict->stays = level + 1;
	}
}

/* Since when a sensor is silent; DT_NOBEGIN where it is not waited for. */
static TimestampTz
silent_since(const IotAlarmRun *run)
{
	return Max(run->watch->ts, run->since);
}

static void
compare_silence(const IotAlarmRun *run, TimestampTz at, IotRuleVerdict *verdict)
{
	TimestampTz since = silent_since(run);

	if (TIMESTAMP_IS_NOBEGIN(since))
		return;
	for (int level = 0; level < run->rule->level_count; level++)
	{
		if (at - since >= run->rule->levels[level].timeout)
			verdict->opens = verdict->stays = level + 1;
	}
}

static JsonbValue *
push_key(JsonbParseState **state, const char *name)
{
	JsonbValue	key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	return pushJsonbValue(state, WJB_KEY, &key);
}

/* The device as predicates see it: its newest values by the names of parameters, and attributes. */
static Jsonb *
device_object(const IotAlarmDevice *device)
{
	JsonbParseState *state = NULL;
	JsonbValue	value;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < device->value_count; i++)
	{
		if (TIMESTAMP_IS_NOBEGIN(device->values[i].ts))
			continue;
		(void) push_key(&state, device->values[i].name);
		value.type = jbvNumeric;
		value.val.numeric =
			DatumGetNumeric(DirectFunctionCall1(float8_numeric,
												Float8GetDatum(device->values[i].value)));
		(void) pushJsonbValue(&state, WJB_VALUE, &value);
	}
	if (device->attributes != NULL)
	{
		(void) push_key(&state, "attributes");
		value.type = jbvBinary;
		value.val.binary.data = &device->attributes->root;
		value.val.binary.len = VARSIZE(device->attributes) - VARHDRSZ;
		(void) pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static bool
matches(JsonPath *path, Jsonb *object)
{
	LOCAL_FCINFO(fcinfo, 4);
	JsonbParseState *state = NULL;
	Jsonb	   *no_vars;
	Datum		result;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	no_vars = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(object);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = PointerGetDatum(path);
	fcinfo->args[1].isnull = false;
	fcinfo->args[2].value = JsonbPGetDatum(no_vars);
	fcinfo->args[2].isnull = false;
	fcinfo->args[3].value = BoolGetDatum(false);
	fcinfo->args[3].isnull = false;
	result = jsonb_path_match(fcinfo);
	/* NULL where it cannot be told: a value that is compared is no number */
	return !fcinfo->isnull && DatumGetBool(result);
}

typedef struct Predicates
{
	const IotAlarmDevice *device;
	const IotAlarmRule *rule;
	IotRuleVerdict *verdict;
} Predicates;

static void
evaluate(void *arg)
{
	Predicates *predicates = arg;
	Jsonb	   *object = device_object(predicates->device);

	for (int level = 0; level < predicates->rule->level_count; level++)
	{
		const IotAlarmLevel *paths = &predicates->rule->levels[level];

		if (matches(paths->open_path, object))
			predicates->verdict->opens = level + 1;
		if (paths->stay_path != NULL && matches(paths->stay_path, object))
			predicates->verdict->stays = level + 1;
	}
}

/* What predicates leave behind goes with them. */
static bool
evaluate_predicates(IotAlarmBatch *batch, IotAlarmRun *run, IotRuleVerdict *verdict)
{
	Predicates	predicates = {run->watch->device, run->rule, verdict};
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "iot alarm condition",
											   ALLOCSET_SMALL_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(work);
	ErrorData  *error = iot_alarm_try(evaluate, &predicates);

	MemoryContextSwitchTo(previous);
	if (error == NULL)
		iot_alarm_worked(batch, run);
	else
	{
		if (run->failures == 0)
			ereport(WARNING,
					(errmsg("alarm rule \"%s\" was not judged: %s", run->rule->name,
							error->message)));
		iot_alarm_failed(batch, run, error);
	}
	MemoryContextDelete(work);
	return error == NULL;
}

/* Judges at a time, by what the watch has seen until then; false where it cannot be judged. */
bool
iot_alarm_verdict(IotAlarmBatch *batch, IotAlarmRun *run, TimestampTz at,
				  IotRuleVerdict *verdict)
{
	const IotAlarmRule *rule = run->rule;

	verdict->opens = verdict->stays = 0;
	if (rule->schedule != NULL && !iot_schedule_inside(rule->schedule, at))
		return true;
	switch (rule->kind)
	{
		case IOT_ALARM_RANGE:
		case IOT_ALARM_THRESHOLD:
		case IOT_ALARM_RATE:
			compare(run, verdict);
			return true;
		case IOT_ALARM_NO_DATA:
			compare_silence(run, at, verdict);
			return true;
		case IOT_ALARM_CONDITION:
			return evaluate_predicates(batch, run, verdict);
	}
	return false;
}

/*
 * The next time after judged_at at which the verdict may change although nothing is measured: an
 * edge of the schedule, or a silence that has lasted.  DT_NOEND for never.
 */
TimestampTz
iot_alarm_turn(const IotAlarmRun *run)
{
	const IotAlarmRule *rule = run->rule;
	TimestampTz turn = DT_NOEND;

	if (TIMESTAMP_IS_NOBEGIN(run->judged_at))
		return DT_NOEND;
	if (rule->schedule != NULL)
		turn = iot_schedule_end(rule->schedule, run->judged_at);
	if (rule->kind == IOT_ALARM_NO_DATA)
	{
		TimestampTz since = silent_since(run);

		for (int level = 0; level < rule->level_count; level++)
		{
			TimestampTz due;

			if (TIMESTAMP_IS_NOBEGIN(since))
				break;
			due = since + rule->levels[level].timeout;
			if (due > run->judged_at && due < turn)
				turn = due;
		}
	}
	return turn;
}
