/*
 * rule.c
 *		Alarm rules: when one opens, moves and closes its alarm, judged in event time.
 *
 * Plain C, without memory of its own: everything a rule remembers is in the state that the caller
 * keeps.  A verdict holds until the next one comes, so that what falls due between two of them
 * falls due at the same time whether somebody watched the clock meanwhile or not.
 */
#include "core/rule.h"

#include <math.h>
#include <stddef.h>

/*
 * Whether a value is within bounds.  Nothing but a finite number is, and a bound that is NaN
 * holds nothing: comparing it would say as it likes.
 */
bool
iot_rule_holds(IotRuleTest test, const IotRuleBounds *bounds, double value)
{
	if (!isfinite(value) || isnan(bounds->low))
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

static void
reset_track(IotRuleTrack *track)
{
	track->hits = 0;
	track->since = IOT_RULE_NEVER;
}

/* As if nothing had ever been measured. */
void
iot_rule_reset(IotRuleState *state)
{
	state->level = 0;
	state->opened_at = IOT_RULE_NEVER;
	state->clear = false;
	for (int i = 0; i < IOT_RULE_LEVELS; i++)
		reset_track(&state->tracks[i]);
}

/* When a level is reached without another verdict; IOT_RULE_NEVER where it is not. */
static int64_t
track_due(const IotRuleSpec *spec, const IotRuleTrack *track)
{
	if (track->since == IOT_RULE_NEVER || track->hits < spec->repeat_count)
		return IOT_RULE_NEVER;
	return later(track->since, spec->duration);
}

/* When the state changes without another verdict; IOT_RULE_NEVER where it does not. */
int64_t
iot_rule_due(const IotRuleSpec *spec, const IotRuleState *state)
{
	int64_t		due = IOT_RULE_NEVER;

	if (state->level > 0 && state->clear)
		due = later(state->opened_at, spec->min_open);
	for (int i = state->level; i < IOT_RULE_LEVELS; i++)
	{
		int64_t		reached = track_due(spec, &state->tracks[i]);

		if (reached != IOT_RULE_NEVER && (due == IOT_RULE_NEVER || reached < due))
			due = reached;
	}
	return due;
}

static IotRuleStep
rise_to(IotRuleState *state, int level, int64_t ts)
{
	IotRuleStep step = state->level == 0 ? IOT_RULE_OPENS : IOT_RULE_RISES;

	if (step == IOT_RULE_OPENS)
		state->opened_at = ts;
	state->level = level;
	state->clear = false;
	for (int i = 0; i < level; i++)
		reset_track(&state->tracks[i]);
	return step;
}

/* The highest level that is reached by then; 0 for none that is new. */
static int
reached_level(const IotRuleSpec *spec, const IotRuleState *state, int64_t ts)
{
	int			level = 0;

	for (int i = state->level; i < IOT_RULE_LEVELS; i++)
	{
		int64_t		due = track_due(spec, &state->tracks[i]);

		if (due != IOT_RULE_NEVER && due <= ts)
			level = i + 1;
	}
	return level;
}

/* Takes the step that is due, whose time the caller has seen come; *at is when it fell due. */
IotRuleStep
iot_rule_fall_due(const IotRuleSpec *spec, IotRuleState *state, int64_t *at)
{
	int64_t		due = iot_rule_due(spec, state);
	int			level;

	if (due == IOT_RULE_NEVER)
		return IOT_RULE_NOTHING;
	*at = due;
	level = reached_level(spec, state, due);
	if (level > 0)
		return rise_to(state, level, due);
	iot_rule_reset(state);
	return IOT_RULE_CLOSES;
}

/*
 * Judges by a verdict that is newer than all before it.  What fell due before it must have been
 * taken first, as long as iot_rule_due() is before ts.  At most one step follows, at ts.
 */
IotRuleStep
iot_rule_judge(const IotRuleSpec *spec, IotRuleState *state, int64_t ts, IotRuleVerdict verdict)
{
	int			stays = verdict.stays > verdict.opens ? verdict.stays : verdict.opens;
	int			level;

	for (int i = state->level; i < IOT_RULE_LEVELS; i++)
	{
		IotRuleTrack *track = &state->tracks[i];

		if (verdict.opens <= i)
		{
			reset_track(track);
			continue;
		}
		if (track->hits < spec->repeat_count)
			track->hits++;
		if (track->since == IOT_RULE_NEVER)
			track->since = ts;
	}
	level = reached_level(spec, state, ts);
	if (level > 0)
		return rise_to(state, level, ts);
	if (state->level == 0 || !spec->auto_close)
		return IOT_RULE_NOTHING;
	state->clear = stays == 0;
	if (state->clear)
	{
		if (ts < later(state->opened_at, spec->min_open))
			return IOT_RULE_NOTHING;
		iot_rule_reset(state);
		return IOT_RULE_CLOSES;
	}
	if (stays >= state->level)
		return IOT_RULE_NOTHING;
	state->level = stays;
	return IOT_RULE_FALLS;
}
