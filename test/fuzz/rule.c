/*
 * rule.c
 *		Fuzz target: the state machine of alarm rules (core/rule.h).
 *
 * Four bytes are the rule, and each three that follow a measurement: the time since the last one,
 * and what the rule's condition says of it.
 */
#include "fuzz.h"

#include "core/rule.h"

static void
check_state(const IotRuleSpec *spec, const IotRuleState *state)
{
	REQUIRE(state->level >= 0 && state->level <= IOT_RULE_LEVELS);
	REQUIRE(state->level == 0 || state->opened_at != IOT_RULE_NEVER);
	for (int i = state->level; i < IOT_RULE_LEVELS; i++)
	{
		REQUIRE(state->tracks[i].hits >= 0 && state->tracks[i].hits <= spec->repeat_count);
		REQUIRE((state->tracks[i].hits == 0) == (state->tracks[i].since == IOT_RULE_NEVER));
	}
}

/* What the step has done to the level: open and close alternate, and rising is rising. */
static void
check_step(IotRuleStep step, int before, int after)
{
	switch (step)
	{
		case IOT_RULE_NOTHING:
			REQUIRE(after == before);
			break;
		case IOT_RULE_OPENS:
			REQUIRE(before == 0 && after > 0);
			break;
		case IOT_RULE_RISES:
			REQUIRE(before > 0 && after > before);
			break;
		case IOT_RULE_FALLS:
			REQUIRE(after > 0 && after < before);
			break;
		case IOT_RULE_CLOSES:
			REQUIRE(before > 0 && after == 0);
			break;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	IotRuleSpec spec;
	IotRuleState state;
	int64_t		ts = 0;

	if (size < 4)
		return 0;
	spec.repeat_count = 1 + data[0] % 5;
	spec.duration = data[1] == 255 ? INT64_MAX : data[1];
	spec.min_open = data[2] == 255 ? INT64_MAX : data[2];
	spec.auto_close = (data[3] & 1) != 0;
	iot_rule_reset(&state);
	for (size_t i = 4; i + 3 <= size; i += 3)
	{
		IotRuleVerdict verdict = {data[i + 1] % (IOT_RULE_LEVELS + 1),
		data[i + 2] % (IOT_RULE_LEVELS + 1)};
		int			steps = 0;
		int			before;
		IotRuleStep step;
		int64_t		due;

		ts += 1 + data[i];
		while ((due = iot_rule_due(&spec, &state)) != IOT_RULE_NEVER && due < ts)
		{
			int64_t		at = IOT_RULE_NEVER;

			before = state.level;
			step = iot_rule_fall_due(&spec, &state, &at);
			REQUIRE(step != IOT_RULE_NOTHING && at == due && ++steps <= 2 * IOT_RULE_LEVELS + 1);
			check_step(step, before, state.level);
			check_state(&spec, &state);
		}
		before = state.level;
		step = iot_rule_judge(&spec, &state, ts, verdict);
		check_step(step, before, state.level);
		check_state(&spec, &state);
	}
	return 0;
}
