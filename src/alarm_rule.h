/*
 * alarm_rule.h
 *		Alarm rules as a backend knows them: compiled once, found by what they are about.
 */
#ifndef IOT_ALARM_RULE_H
#define IOT_ALARM_RULE_H

#include "nodes/pg_list.h"
#include "utils/jsonpath.h"
#include "utils/uuid.h"

#include "alarm_schedule.h"
#include "core/rule.h"

typedef enum IotAlarmKind
{
	IOT_ALARM_RANGE,
	IOT_ALARM_THRESHOLD,
	IOT_ALARM_RATE,
	IOT_ALARM_NO_DATA,
	IOT_ALARM_CONDITION
} IotAlarmKind;

/* What a severity takes, by the rule's kind. */
typedef struct IotAlarmLevel
{
	IotRuleBounds open;
	IotRuleBounds stay;
	int64		timeout;
	JsonPath   *open_path;
	JsonPath   *stay_path;		/* NULL: as the other */
} IotAlarmLevel;

/* A row of iot.alarm_rule that is whole. */
typedef struct IotAlarmRule
{
	pg_uuid_t	alarm_rule_id;
	pg_uuid_t	parameter_id;	/* zeros where any measurement of the device will do */
	pg_uuid_t	scope_id;		/* device, group or type; zeros for all */
	char		scope;			/* first letter of the word */
	IotAlarmKind kind;
	IotRuleTest test;			/* of range, threshold and rate */
	int			level_count;
	IotAlarmLevel levels[IOT_RULE_LEVELS];
	const char *low_attribute;	/* NULL where the bound is the same for all devices */
	const char *high_attribute;
	double		per;			/* of a rate, in microseconds */
	IotSchedule *schedule;		/* NULL: always */
	IotRuleSpec spec;
	const char *name;
	const char *severity;		/* of level 1 */
	const char *message;		/* a template */
	struct IotAlarmRule *next;	/* with the same parameter and scope */
} IotAlarmRule;

/* alarm_compile.c */
extern uint64 iot_alarm_rules_read(void);
extern uint64 iot_alarm_rule_read(Datum alarm_rule_id);
extern bool iot_alarm_rule_compile(IotAlarmRule *rule, uint64 row);
extern const char *iot_alarm_severity(const IotAlarmRule *rule, int level);
extern bool iot_alarm_remembers(const IotAlarmRule *rule);
extern bool iot_alarm_any_parameter(const IotAlarmRule *rule);

/* alarm_rule.c */
extern bool iot_alarm_rules_begin(void);
extern void iot_alarm_rules_end(void);
extern bool iot_alarm_rules_have_conditions(void);
extern void iot_alarm_rules_load_devices(const pg_uuid_t *device_ids,
										 const pg_uuid_t *parameter_ids, int count);
extern List *iot_alarm_rules_find(const pg_uuid_t *device_id, const pg_uuid_t *parameter_id);
extern List *iot_alarm_rules_find_conditions(const pg_uuid_t *device_id);

#endif							/* IOT_ALARM_RULE_H */
