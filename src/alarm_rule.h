/*
 * alarm_rule.h
 *		Alarm rules as a backend knows them: compiled once, found by what they are about.
 */
#ifndef IOT_ALARM_RULE_H
#define IOT_ALARM_RULE_H

#include "nodes/pg_list.h"
#include "utils/uuid.h"

#include "core/rule.h"

/* A row of iot.alarm_rule that is enabled and whole. */
typedef struct IotAlarmRule
{
	pg_uuid_t	alarm_rule_id;
	pg_uuid_t	parameter_id;
	pg_uuid_t	scope_id;		/* device, group or type; zeros for all */
	char		scope;			/* first letter of the word */
	IotRuleSpec spec;
	const char *name;
	const char *severity;
	const char *message;		/* a template */
	struct IotAlarmRule *next;	/* with the same parameter and scope */
} IotAlarmRule;

extern bool iot_alarm_rules_begin(void);
extern void iot_alarm_rules_end(void);
extern void iot_alarm_rules_load_devices(const pg_uuid_t *device_ids,
										 const pg_uuid_t *parameter_ids, int count);
extern List *iot_alarm_rules_find(const pg_uuid_t *device_id, const pg_uuid_t *parameter_id);

#endif							/* IOT_ALARM_RULE_H */
