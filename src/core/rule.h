/*
 * rule.h
 *		Alarm rules: when one opens, moves and closes its alarm, judged in event time.
 *
 * What a rule sees (bounds, a predicate, silence, a schedule) is the caller's; it comes here as a
 * verdict.  The same code judges live measurements, what falls due in silence, and stored history.
 */
#ifndef IOT_CORE_RULE_H
#define IOT_CORE_RULE_H

#include <stdint.h>

#include "core/core.h"

/* A time that is not there; times are in microseconds, from whatever epoch. */
#define IOT_RULE_NEVER	INT64_MIN

/* Severities of one rule: its own, and a higher one where it has that.  Level 0 is no alarm. */
#define IOT_RULE_LEVELS	2

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

/* What a rule's condition says at a time: the highest level at which it holds. */
typedef struct IotRuleVerdict
{
	int			opens;			/* what opens, or raises the severity */
	int			stays;			/* what keeps an alarm that is open */
} IotRuleVerdict;

typedef struct IotRuleSpec
{
	int32_t		repeat_count;	/* measurements in a row that must hold; 1 or more */
	int64_t		duration;		/* time for which it must hold without a break */
	int64_t		min_open;		/* time for which an alarm stays open at least */
	bool		auto_close;		/* false: closed by people alone, and its severity only rises */
} IotRuleSpec;

/* How far a level is that the alarm has not reached. */
typedef struct IotRuleTrack
{
	int32_t		hits;			/* held so often in a row, up to repeat_count */
	int64_t		since;			/* holds since then, or IOT_RULE_NEVER */
} IotRuleTrack;

/* All of a rule's memory of one device. */
typedef struct IotRuleState
{
	int			level;			/* of the open alarm; 0 where none is */
	int64_t		opened_at;		/* while open */
	bool		clear;			/* while open: would be closed but for min_open */
	IotRuleTrack tracks[IOT_RULE_LEVELS];	/* of levels above it, level 1 first */
} IotRuleState;

typedef enum IotRuleStep
{
	IOT_RULE_NOTHING,
	IOT_RULE_OPENS,
	IOT_RULE_RISES,
	IOT_RULE_FALLS,
	IOT_RULE_CLOSES
} IotRuleStep;

extern IOT_API bool iot_rule_holds(IotRuleTest test, const IotRuleBounds *bounds, double value);
extern IOT_API void iot_rule_reset(IotRuleState *state);
extern IOT_API int64_t iot_rule_due(const IotRuleSpec *spec, const IotRuleState *state);
extern IOT_API IotRuleStep iot_rule_fall_due(const IotRuleSpec *spec, IotRuleState *state,
											 int64_t *at);
extern IOT_API IotRuleStep iot_rule_judge(const IotRuleSpec *spec, IotRuleState *state,
										  int64_t ts, IotRuleVerdict verdict);

#endif							/* IOT_CORE_RULE_H */
