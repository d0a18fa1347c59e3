/*
 * alarm_judge.c
 *		One rule at work on one device, in the order of event time.
 *
 * Between two measurements time alone has its say: durations that are reached, silence that has
 * lasted, edges of a schedule.  Whoever comes by first, the next measurement, the sweep or a
 * backtest, takes what fell due in the same order and at the same times.
 *
 * Clocks: durations and the shortest time open run by the device's clock, and in silence by how
 * far its times lie apart, so that a device whose clock is wrong is judged in time.  Edges and
 * silence go by the server's clock.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "uuidv7.h"

/* Which measurement an alarm names: that of the rule's parameter, or the newest that was seen. */
static void
name_measurement(const IotAlarmRun *run, IotAlarmStep *step)
{
	const IotAlarmDevice *device = run->watch->device;

	step->parameter_id = run->watch->parameter_id;
	step->value = iot_alarm_value(run);
	if (run->rule->kind != IOT_ALARM_CONDITION || iot_alarm_any_parameter(run->rule))
		return;
	step->parameter_id = run->rule->parameter_id;
	for (int i = 0; i < device->value_count; i++)
	{
		if (memcmp(&device->values[i].parameter_id, &step->parameter_id, UUID_LEN) == 0)
			step->value = device->values[i].value;
	}
}

static void
add_step(IotAlarmBatch *batch, IotAlarmRun *run, IotRuleStep step,
		 const IotRuleState *before, TimestampTz at, bool measured)
{
	IotAlarmStep *new;

	if (batch->step_count == batch->step_size)
	{
		batch->step_size = Max(batch->step_size * 2, 16);
		batch->steps = batch->steps == NULL
			? MemoryContextAlloc(batch->cxt, sizeof(IotAlarmStep) * batch->step_size)
			: repalloc_huge(batch->steps, sizeof(IotAlarmStep) * batch->step_size);
	}
	if (step == IOT_RULE_OPENS)
		iot_uuidv7(&run->alarm_id);
	new = &batch->steps[batch->step_count++];
	new->run = run;
	new->step = step;
	new->alarm_id = run->alarm_id;
	new->level = run->state.level;
	new->previous_level = before->level;
	new->opened_at = step == IOT_RULE_OPENS ? at : before->opened_at;
	new->at = at;
	name_measurement(run, new);
	new->measured = measured;
}

/* Judges by what the watch sees at a time that is not before judged_at. */
static void
judge_at(IotAlarmBatch *batch, IotAlarmRun *run, TimestampTz at, bool measured)
{
	IotRuleState before = run->state;
	IotRuleVerdict verdict;
	IotRuleStep step = IOT_RULE_NOTHING;

	if (iot_alarm_verdict(batch, run, at, &verdict))
		step = iot_rule_judge(&run->rule->spec, &run->state, at, verdict);
	run->judged_at = at;
	run->judged = true;
	if (step != IOT_RULE_NOTHING)
		add_step(batch, run, step, &before, at, measured);
}

/* Takes what is due, at the verdict that has held until then. */
static void
fall_due(IotAlarmBatch *batch, IotAlarmRun *run)
{
	IotRuleState before = run->state;
	int64		at;
	IotRuleStep step = iot_rule_fall_due(&run->rule->spec, &run->state, &at);

	run->judged_at = Max(run->judged_at, at);
	run->judged = true;
	if (step != IOT_RULE_NOTHING)
		add_step(batch, run, step, &before, at, false);
}

/* Whether nothing but a measurement can make anything of the schedule's edges. */
static bool
is_at_rest(IotAlarmBatch *batch, IotAlarmRun *run)
{
	IotRuleVerdict verdict;
	TimestampTz at = run->judged_at;

	if (run->state.level > 0 || iot_rule_due(&run->rule->spec, &run->state) != IOT_RULE_NEVER)
		return false;
	if (run->rule->kind == IOT_ALARM_NO_DATA || run->rule->kind == IOT_ALARM_CONDITION)
		return false;
	for (int i = 0; i < IOT_RULE_LEVELS; i++)
	{
		if (run->state.tracks[i].hits > 0)
			return false;
	}
	/* inside is where it could open */
	if (!iot_schedule_inside(run->rule->schedule, at))
		at = iot_schedule_end(run->rule->schedule, at);
	return iot_alarm_verdict(batch, run, at, &verdict) && verdict.opens == 0;
}

/* Takes all that falls due before a time, by what the watch has seen so far. */
void
iot_alarm_advance(IotAlarmBatch *batch, IotAlarmRun *run, TimestampTz until)
{
	for (;;)
	{
		int64		due = iot_rule_due(&run->rule->spec, &run->state);
		TimestampTz turn = iot_alarm_turn(run);

		CHECK_FOR_INTERRUPTS();
		/* where both come at once, the verdict changes first, as a measurement would change it */
		if (turn < until && (due == IOT_RULE_NEVER || turn <= due))
		{
			run->clock = turn;
			if (run->rule->schedule != NULL && is_at_rest(batch, run))
				run->judged_at = Max(turn, iot_schedule_begin(run->rule->schedule, until - 1));
			else
				judge_at(batch, run, turn, false);
		}
		else if (due != IOT_RULE_NEVER && due < until)
			fall_due(batch, run);
		else
			break;
	}
}

/*
 * Judges by a measurement, which the watch has seen.  What fell due before it must have been taken
 * by iot_alarm_advance().  One that comes after time alone has passed a verdict counts as of that
 * time, so that nothing goes backwards.
 */
void
iot_alarm_judge_run(IotAlarmBatch *batch, IotAlarmRun *run, TimestampTz ts)
{
	judge_at(batch, run, Max(ts, run->judged_at), true);
	run->clock = batch->now;
}

/* When the sweep is to look at a run, by the server's clock; DT_NOEND for never. */
TimestampTz
iot_alarm_due_at(const IotAlarmRun *run)
{
	int64		due = iot_rule_due(&run->rule->spec, &run->state);
	TimestampTz turn = iot_alarm_turn(run);

	if (due == IOT_RULE_NEVER || due == INT64_MAX)
		return turn;
	/* silence goes by the server's clock altogether */
	if (run->rule->kind == IOT_ALARM_NO_DATA)
		return Min(turn, due);
	/* the device's clock may be wrong: only how far its times lie apart counts */
	return Min(turn, run->clock + Max(due - run->judged_at, 0));
}

/*
 * Begins a run that nobody has looked at: a rule looks back from when it was made to the last
 * measurement, and no further than its hours.
 */
void
iot_alarm_begin_run(IotAlarmRun *run, TimestampTz made_at)
{
	run->judged_at = Max(run->watch->ts, run->since);
	if (run->rule->schedule != NULL)
		run->judged_at = Max(run->judged_at,
							 iot_schedule_begin(run->rule->schedule, made_at) - 1);
}

/* Takes what has fallen due by the server's clock, as batch->now says it. */
void
iot_alarm_look(IotAlarmBatch *batch, IotAlarmRun *run)
{
	int64		due = iot_rule_due(&run->rule->spec, &run->state);

	/* the server's time that goes with judged_at is that which gave the stored due time */
	run->clock = run->judged_at;
	if (due != IOT_RULE_NEVER && run->stored_due_at != DT_NOEND)
		run->clock = run->stored_due_at - Max(due - run->judged_at, 0);
	run->judged = run->must_store = true;
	for (;;)
	{
		TimestampTz turn = iot_alarm_turn(run);

		if (turn <= batch->now)
			iot_alarm_advance(batch, run, turn + 1);
		else if (iot_alarm_due_at(run) <= batch->now)
		{
			TimestampTz clock = iot_alarm_due_at(run);

			fall_due(batch, run);
			run->clock = clock;
		}
		else
			break;
	}
}
