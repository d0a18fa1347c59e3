/*
 * alarm_compile.c
 *		Rows of iot.alarm_rule become rules that can be judged.
 *
 * Runs in any backend that judges, between SPI_connect and SPI_finish.  What a rule is made of is
 * in the caller's memory context.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/timestamp.h"

#include "alarm_rule.h"
#include "column.h"
#include "plan.h"

/* Columns of a rule, in the order of SELECT_RULES. */
enum
{
	RULE_ID = 1, RULE_PARAMETER, RULE_SCOPE_ID, RULE_SCOPE, RULE_KIND, RULE_COMPARISON,
	RULE_THRESHOLD, RULE_CLOSE_THRESHOLD, RULE_RED_THRESHOLD, RULE_RED_CLOSE_THRESHOLD,
	RULE_MIN, RULE_MAX, RULE_CLOSE_MIN, RULE_CLOSE_MAX,
	RULE_RED_MIN, RULE_RED_MAX, RULE_RED_CLOSE_MIN, RULE_RED_CLOSE_MAX,
	RULE_THRESHOLD_ATTRIBUTE, RULE_MIN_ATTRIBUTE, RULE_MAX_ATTRIBUTE,
	RULE_PER, RULE_TIMEOUT, RULE_RED_TIMEOUT,
	RULE_CONDITION, RULE_STAY_CONDITION, RULE_RED_CONDITION, RULE_RED_STAY_CONDITION,
	RULE_ZONE, RULE_WEEKDAYS, RULE_FROM, RULE_TO,
	RULE_REPEAT_COUNT, RULE_DURATION, RULE_MIN_OPEN, RULE_AUTO_CLOSE,
	RULE_NAME, RULE_SEVERITY, RULE_MESSAGE
};

#define SELECT_RULES \
	"SELECT r.alarm_rule_id, r.parameter_id," \
	" CASE r.scope WHEN 'device' THEN r.device_id WHEN 'group' THEN r.device_group_id" \
	" WHEN 'type' THEN r.device_type_id END, r.scope, r.kind, r.comparison," \
	" r.threshold, r.close_threshold, r.red_threshold, r.red_close_threshold," \
	" r.value_min, r.value_max, r.close_min, r.close_max," \
	" r.red_min, r.red_max, r.red_close_min, r.red_close_max," \
	" r.threshold_attribute, r.value_min_attribute, r.value_max_attribute," \
	" extract(epoch FROM r.per)::float8, extract(epoch FROM r.timeout)::float8," \
	" extract(epoch FROM r.red_timeout)::float8," \
	" r.condition, r.stay_condition, r.red_condition, r.red_stay_condition," \
	" r.time_zone, (SELECT bit_or(1 << (w - 1)) FROM unnest(r.weekdays) AS u (w))," \
	" r.from_time, r.to_time," \
	" r.repeat_count, extract(epoch FROM r.duration)::float8," \
	" extract(epoch FROM r.min_open)::float8, r.auto_close, r.name, r.severity, r.message" \
	" FROM iot.alarm_rule r WHERE "

static IotPlan select_rules = {SELECT_RULES "r.enabled ORDER BY r.alarm_rule_id DESC"};
static IotPlan select_rule = {SELECT_RULES "r.alarm_rule_id = $1", 1, {UUIDOID}};

/* Reads all enabled rules; their rows are in SPI_tuptable. */
uint64
iot_alarm_rules_read(void)
{
	return iot_plan_execute(&select_rules, NULL, NULL);
}

/* Reads one rule, enabled or not. */
uint64
iot_alarm_rule_read(Datum alarm_rule_id)
{
	return iot_plan_execute(&select_rule, &alarm_rule_id, NULL);
}

static double
float8_column(uint64 row, int number, double missing)
{
	bool		isnull;
	Datum		datum = iot_column(row, number, &isnull);

	return isnull ? missing : DatumGetFloat8(datum);
}

/* NULL for NULL. */
static JsonPath *
jsonpath_column(uint64 row, int number)
{
	bool		isnull;
	Datum		datum = iot_column(row, number, &isnull);

	return isnull ? NULL : DatumGetJsonPathPCopy(datum);
}

static int64
time_column(uint64 row, int number, int64 missing)
{
	bool		isnull;
	Datum		datum = iot_column(row, number, &isnull);

	return isnull ? missing : DatumGetTimeADT(datum);
}

static bool
is_null(uint64 row, int number)
{
	bool		isnull;

	(void) iot_column(row, number, &isnull);
	return isnull;
}

/* Microseconds, as long as it may be. */
static int64
seconds_column(uint64 row, int number)
{
	double		seconds = float8_column(row, number, 0);

	if (!(seconds > 0))
		return 0;
	return seconds > 1e9 ? (int64) 1e15 : (int64) rint(seconds * 1e6);
}

static bool
set_threshold(IotAlarmRule *rule, uint64 row)
{
	static const struct
	{
		const char *word;
		IotRuleTest test;
	}			tests[] = {
		{">", IOT_RULE_ABOVE}, {">=", IOT_RULE_AT_LEAST},
		{"<", IOT_RULE_BELOW}, {"<=", IOT_RULE_AT_MOST}
	};
	const char *comparison = iot_text_column(row, RULE_COMPARISON);

	rule->levels[0].open.low = float8_column(row, RULE_THRESHOLD, NAN);
	rule->levels[0].stay.low = float8_column(row, RULE_CLOSE_THRESHOLD, rule->levels[0].open.low);
	rule->levels[1].open.low = float8_column(row, RULE_RED_THRESHOLD, NAN);
	rule->levels[1].stay.low = float8_column(row, RULE_RED_CLOSE_THRESHOLD,
											 rule->levels[1].open.low);
	rule->low_attribute = iot_text_column(row, RULE_THRESHOLD_ATTRIBUTE);
	if (!is_null(row, RULE_RED_THRESHOLD))
		rule->level_count = 2;
	for (int i = 0; comparison != NULL && i < lengthof(tests); i++)
	{
		if (strcmp(comparison, tests[i].word) != 0)
			continue;
		rule->test = tests[i].test;
		return true;
	}
	return false;
}

/* A bound that is not given is open, unless it is to come from the device. */
static double
range_bound(uint64 row, int number, double open, const char *attribute)
{
	return float8_column(row, number, attribute == NULL ? open : NAN);
}

static bool
set_range(IotAlarmRule *rule, uint64 row)
{
	IotAlarmLevel *level = &rule->levels[0];

	rule->test = IOT_RULE_WITHIN;
	rule->low_attribute = iot_text_column(row, RULE_MIN_ATTRIBUTE);
	rule->high_attribute = iot_text_column(row, RULE_MAX_ATTRIBUTE);
	level->open.low = range_bound(row, RULE_MIN, -INFINITY, rule->low_attribute);
	level->open.high = range_bound(row, RULE_MAX, INFINITY, rule->high_attribute);
	level->stay.low = float8_column(row, RULE_CLOSE_MIN, level->open.low);
	level->stay.high = float8_column(row, RULE_CLOSE_MAX, level->open.high);
	level = &rule->levels[1];
	level->open.low = float8_column(row, RULE_RED_MIN, -INFINITY);
	level->open.high = float8_column(row, RULE_RED_MAX, INFINITY);
	level->stay.low = float8_column(row, RULE_RED_CLOSE_MIN, level->open.low);
	level->stay.high = float8_column(row, RULE_RED_CLOSE_MAX, level->open.high);
	if (!is_null(row, RULE_RED_MIN) || !is_null(row, RULE_RED_MAX))
		rule->level_count = 2;
	return true;
}

static bool
set_rate(IotAlarmRule *rule, uint64 row)
{
	rule->per = (double) seconds_column(row, RULE_PER);
	return rule->per > 0 && set_threshold(rule, row);
}

static bool
set_no_data(IotAlarmRule *rule, uint64 row)
{
	rule->levels[0].timeout = seconds_column(row, RULE_TIMEOUT);
	rule->levels[1].timeout = seconds_column(row, RULE_RED_TIMEOUT);
	if (!is_null(row, RULE_RED_TIMEOUT))
		rule->level_count = 2;
	return rule->levels[0].timeout > 0;
}

static bool
set_condition(IotAlarmRule *rule, uint64 row)
{
	rule->levels[0].open_path = jsonpath_column(row, RULE_CONDITION);
	rule->levels[0].stay_path = jsonpath_column(row, RULE_STAY_CONDITION);
	rule->levels[1].open_path = jsonpath_column(row, RULE_RED_CONDITION);
	rule->levels[1].stay_path = jsonpath_column(row, RULE_RED_STAY_CONDITION);
	if (rule->levels[1].open_path != NULL)
		rule->level_count = 2;
	return rule->levels[0].open_path != NULL;
}

/* False for a time zone that the server does not know any more. */
static bool
set_schedule(IotAlarmRule *rule, uint64 row)
{
	char	   *name = iot_text_column(row, RULE_ZONE);
	pg_tz	   *zone = name != NULL ? pg_tzset(name) : NULL;
	bool		isnull;
	Datum		weekdays = iot_column(row, RULE_WEEKDAYS, &isnull);

	if (name == NULL)
		return true;
	if (zone == NULL)
		return false;
	rule->schedule = iot_schedule_make(zone, isnull ? 0x7f : (uint8) DatumGetInt32(weekdays),
									   time_column(row, RULE_FROM, 0),
									   time_column(row, RULE_TO, USECS_PER_DAY));
	return true;
}

/*
 * Compiles a row of SPI_tuptable; false for one that its check would have refused, which then
 * judges nothing.
 */
bool
iot_alarm_rule_compile(IotAlarmRule *rule, uint64 row)
{
	static const struct
	{
		const char *word;
		IotAlarmKind kind;
		bool		(*set) (IotAlarmRule *rule, uint64 row);
	}			kinds[] = {
		{"range", IOT_ALARM_RANGE, set_range},
		{"threshold", IOT_ALARM_THRESHOLD, set_threshold},
		{"rate", IOT_ALARM_RATE, set_rate},
		{"no_data", IOT_ALARM_NO_DATA, set_no_data},
		{"condition", IOT_ALARM_CONDITION, set_condition}
	};
	char	   *kind = iot_text_column(row, RULE_KIND);
	bool		isnull;

	memset(rule, 0, sizeof(*rule));
	rule->alarm_rule_id = iot_uuid_column(row, RULE_ID);
	rule->parameter_id = iot_uuid_column(row, RULE_PARAMETER);
	rule->scope_id = iot_uuid_column(row, RULE_SCOPE_ID);
	rule->scope = iot_text_column(row, RULE_SCOPE)[0];
	rule->level_count = 1;
	rule->spec.repeat_count = DatumGetInt32(iot_column(row, RULE_REPEAT_COUNT, &isnull));
	rule->spec.duration = seconds_column(row, RULE_DURATION);
	rule->spec.min_open = seconds_column(row, RULE_MIN_OPEN);
	rule->spec.auto_close = DatumGetBool(iot_column(row, RULE_AUTO_CLOSE, &isnull));
	rule->name = iot_text_column(row, RULE_NAME);
	rule->severity = iot_text_column(row, RULE_SEVERITY);
	rule->message = iot_text_column(row, RULE_MESSAGE);
	if (rule->spec.repeat_count < 1 || !set_schedule(rule, row))
		return false;
	for (int i = 0; kind != NULL && i < lengthof(kinds); i++)
	{
		if (strcmp(kind, kinds[i].word) != 0)
			continue;
		rule->kind = kinds[i].kind;
		return kinds[i].set(rule, row);
	}
	return false;
}

/* The word for a level of an alarm. */
const char *
iot_alarm_severity(const IotAlarmRule *rule, int level)
{
	return level > 1 ? "red" : rule->severity;
}

/* Whether a rule has more to remember of a device than its open alarm. */
bool
iot_alarm_remembers(const IotAlarmRule *rule)
{
	return rule->spec.repeat_count > 1 || rule->spec.duration > 0 || rule->spec.min_open > 0 ||
		rule->schedule != NULL || rule->kind == IOT_ALARM_NO_DATA;
}

/* Whether any measurement of its device has it judged: a condition without a parameter. */
bool
iot_alarm_any_parameter(const IotAlarmRule *rule)
{
	static const pg_uuid_t any = {{0}};

	return memcmp(&rule->parameter_id, &any, UUID_LEN) == 0;
}
