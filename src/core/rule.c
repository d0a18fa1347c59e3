/*
 * rule.c
 *		Alarm rules: whether one opens or closes its alarm, judged in event time.
 *
 * Plain C, without memory of its own: everything a rule remembers is in the state that the caller
 * keeps.  A value holds until the next one comes, so that what falls due between two measurements
 * falls due at the same time whether somebody watched the clock meanwhile or not.
 */
#include "core/rule.h"

#include <math.h>
#include <stddef.h>

/* Nothing but a finite number holds: NaN would compare as it likes. */
static bool
holds(IotRuleTest test, const IotRuleBounds *bounds, double value)
{
	if (!isfinite(value))
		return false;
	switch (test)
	{
		case IOT_RULE_WITHIN:
			return value >= bounds->low && value < bounds->high;
		case IOT_RULE_ABOVE:
			return value > bounds->low;
		case IOT_RULE_AT_LEAST:
			return value >= bounds->low;
		case IOT_RULE_BELOW:
			return value < bounds->low;
		case IOT_RULE_AT_MOST:
			return value <= bounds->low;
	}
	return false;
}

/* Sum that stays in range: a duration may be any. */
static int64_t
later(int64_t ts, int64_t duration)
{
	return ts > INT64_MAX - duration ? INT64_MAX : ts + duration;
}

/* As if nothing had ever been measured. */
void
iot_rule_reset(IotRuleState *state)
{
	state->open = false;
	state->opened_at = IOT_RULE_NEVER;
	state->hits = 0;
	state->since = IOT_RULE_NEVER;
	state->clear = false;
}

/* When the state changes without another measurement; IOT_RULE_NEVER where it does not. */
int64_t
iot_rule_due(const IotRuleSpec *spec, const IotRuleState *state)
{
	if (state->open)
		return state->clear ? later(state->opened_at, spec->min_open) : IOT_RULE_NEVER;
	if (state->since != IOT_RULE_NEVER && state->hits >= spec->repeat_count)
		return later(state->since, spec->duration);
	return IOT_RULE_NEVER;
}

static IotRuleStep
open_at(IotRuleState *state, int64_t ts, int64_t *at)
{
	iot_rule_reset(state);
	state->open = true;
	state->opened_at = ts;
	*at = ts;
	return IOT_RULE_OPENS;
}

static IotRuleStep
close_at(IotRuleState *state, int64_t ts, int64_t *at)
{
	iot_rule_reset(state);
	*at = ts;
	return IOT_RULE_CLOSES;
}

/* Takes the step that is due, whose time the caller has seen come; *at is when it fell due. */
IotRuleStep
iot_rule_fall_due(const IotRuleSpec *spec, IotRuleState *state, int64_t *at)
{
	int64_t		due = iot_rule_due(spec, state);

	if (due == IOT_RULE_NEVER)
		return IOT_RULE_NOTHING;
	return state->open ? close_at(state, due, at) : open_at(state, due, at);
}

/*
 * Judges a measurement that is newer than all before it.  What fell due before it must have been
 * taken first, as long as iot_rule_due() is before ts.  At most one step follows; *at is its time.
 */
IotRuleStep
iot_rule_judge(const IotRuleSpec *spec, IotRuleState *state, int64_t ts, double value,
			   int64_t *at)
{
	if (!isfinite(value))
		return IOT_RULE_NOTHING;
	if (state->open)
	{
		state->clear = spec->auto_close && !holds(spec->test, &spec->stay, value);
		if (state->clear && ts >= later(state->opened_at, spec->min_open))
			return close_at(state, ts, at);
		return IOT_RULE_NOTHING;
	}
	if (!holds(spec->test, &spec->open, value))
	{
		iot_rule_reset(state);
		return IOT_RULE_NOTHING;
	}
	if (state->hits < spec->repeat_count)
		state->hits++;
	if (state->since == IOT_RULE_NEVER)
		state->since = ts;
	if (state->hits >= spec->repeat_count && ts >= later(state->since, spec->duration))
		return open_at(state, ts, at);
	return IOT_RULE_NOTHING;
}
