/*
 * rule.h
 *		Alarm rules: whether one opens or closes its alarm, judged in event time.
 *
 * The same code judges live measurements, what falls due in silence, and stored history.
 */
#ifndef IOT_CORE_RULE_H
#define IOT_CORE_RULE_H

#include <stdint.h>

#include "core/core.h"

/* A time that is not there; times are in microseconds, from whatever epoch. */
#define IOT_RULE_NEVER	INT64_MIN

typedef enum IotRuleTest
{
	IOT_RULE_WITHIN,			/* low <= value < high */
	IOT_RULE_ABOVE,				/* value > low */
	IOT_RULE_AT_LEAST,			/* value >= low */
	IOT_RULE_BELOW,				/* value < low */
	IOT_RULE_AT_MOST			/* value <= low */
} IotRuleTest;

typedef struct IotRuleBounds
{
	double		low;
	double		high;			/* of IOT_RULE_WITHIN alone */
} IotRuleBounds;

typedef struct IotRuleSpec
{
	IotRuleTest test;
	IotRuleBounds open;			/* what holds opens */
	IotRuleBounds stay;			/* what does not hold closes; never narrower than open */
	int32_t		repeat_count;	/* measurements in a row that must hold; 1 or more */
	int64_t		duration;		/* time for which it must hold without a break */
	int64_t		min_open;		/* time for which an alarm stays open at least */
	bool		auto_close;		/* false: closed by people alone */
} IotRuleSpec;

/* All of a rule's memory of one device. */
typedef struct IotRuleState
{
	bool		open;
	int64_t		opened_at;		/* while open */
	int32_t		hits;			/* while not open: held so often in a row, up to repeat_count */
	int64_t		since;			/* while not open: holds since then, or IOT_RULE_NEVER */
	bool		clear;			/* while open: would be closed but for min_open */
} IotRuleState;

typedef enum IotRuleStep
{
	IOT_RULE_NOTHING,
	IOT_RULE_OPENS,
	IOT_RULE_CLOSES
} IotRuleStep;

extern IOT_API void iot_rule_reset(IotRuleState *state);
extern IOT_API int64_t iot_rule_due(const IotRuleSpec *spec, const IotRuleState *state);
extern IOT_API IotRuleStep iot_rule_fall_due(const IotRuleSpec *spec, IotRuleState *state,
											 int64_t *at);
extern IOT_API IotRuleStep iot_rule_judge(const IotRuleSpec *spec, IotRuleState *state,
										  int64_t ts, double value, int64_t *at);

#endif							/* IOT_CORE_RULE_H */
