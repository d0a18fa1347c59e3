/*
 * rule.c
 *		The state machine of alarm rules: what opens, moves and closes, and when.
 */
#include "test.h"

#include <math.h>

#include "core/rule.h"

static const IotRuleVerdict none = {0, 0};
static const IotRuleVerdict stays = {0, 1};
static const IotRuleVerdict orange = {1, 1};
static const IotRuleVerdict red = {2, 2};
static const IotRuleVerdict stays_red = {1, 2};

static void
values_within_bounds(void **state)
{
	const IotRuleBounds range = {40, 50};
	const IotRuleBounds open = {-INFINITY, 5};
	const IotRuleBounds bound = {80, 0};
	const IotRuleBounds missing = {NAN, 50};
	const IotRuleBounds missing_high = {40, NAN};

	assert_true(iot_rule_holds(IOT_RULE_WITHIN, &range, 40));
	assert_false(iot_rule_holds(IOT_RULE_WITHIN, &range, 50));
	assert_true(iot_rule_holds(IOT_RULE_WITHIN, &open, -1e300));
	assert_false(iot_rule_holds(IOT_RULE_ABOVE, &bound, 80));
	assert_true(iot_rule_holds(IOT_RULE_AT_LEAST, &bound, 80));
	assert_false(iot_rule_holds(IOT_RULE_BELOW, &bound, 80));
	assert_true(iot_rule_holds(IOT_RULE_AT_MOST, &bound, 80));
	for (int test = IOT_RULE_WITHIN; test <= IOT_RULE_AT_MOST; test++)
	{
		/* I16: neither a value nor a bound that is no number holds by accident */
		assert_false(iot_rule_holds(test, &bound, NAN));
		assert_false(iot_rule_holds(test, &bound, INFINITY));
		assert_false(iot_rule_holds(test, &bound, -INFINITY));
		assert_false(iot_rule_holds(test, &missing, 45));
	}
	assert_false(iot_rule_holds(IOT_RULE_WITHIN, &missing_high, 45));
}

static void
opens_and_closes(void **state)
{
	const IotRuleSpec spec = {.repeat_count = 1, .auto_close = true};
	IotRuleState rule;

	iot_rule_reset(&rule);
	assert_int_equal(iot_rule_judge(&spec, &rule, 1, none), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_judge(&spec, &rule, 2, stays), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_judge(&spec, &rule, 3, orange), IOT_RULE_OPENS);
	assert_int_equal(rule.level, 1);
	assert_int_equal(rule.opened_at, 3);
	assert_int_equal(iot_rule_judge(&spec, &rule, 4, stays), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_judge(&spec, &rule, 5, none), IOT_RULE_CLOSES);
	assert_int_equal(rule.level, 0);
	assert_int_equal(iot_rule_due(&spec, &rule), IOT_RULE_NEVER);
}

static void
severity_moves(void **state)
{
	const IotRuleSpec spec = {.repeat_count = 1, .auto_close = true};
	IotRuleState rule;

	iot_rule_reset(&rule);
	assert_int_equal(iot_rule_judge(&spec, &rule, 1, red), IOT_RULE_OPENS);
	assert_int_equal(rule.level, 2);
	assert_int_equal(iot_rule_judge(&spec, &rule, 2, stays_red), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_judge(&spec, &rule, 3, orange), IOT_RULE_FALLS);
	assert_int_equal(rule.level, 1);
	assert_int_equal(rule.opened_at, 1);
	assert_int_equal(iot_rule_judge(&spec, &rule, 4, red), IOT_RULE_RISES);
	assert_int_equal(iot_rule_judge(&spec, &rule, 5, none), IOT_RULE_CLOSES);
}

static void
people_close(void **state)
{
	const IotRuleSpec spec = {.repeat_count = 1, .auto_close = false};
	IotRuleState rule;

	iot_rule_reset(&rule);
	assert_int_equal(iot_rule_judge(&spec, &rule, 1, orange), IOT_RULE_OPENS);
	assert_int_equal(iot_rule_judge(&spec, &rule, 2, red), IOT_RULE_RISES);
	assert_int_equal(iot_rule_judge(&spec, &rule, 3, orange), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_judge(&spec, &rule, 4, none), IOT_RULE_NOTHING);
	assert_int_equal(rule.level, 2);
	assert_int_equal(iot_rule_due(&spec, &rule), IOT_RULE_NEVER);
}

static void
lasts(void **state)
{
	const IotRuleSpec spec = {.repeat_count = 2, .duration = 10, .auto_close = true};
	IotRuleState rule;
	int64_t		at;

	iot_rule_reset(&rule);
	assert_int_equal(iot_rule_judge(&spec, &rule, 0, orange), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_due(&spec, &rule), IOT_RULE_NEVER);
	assert_int_equal(iot_rule_judge(&spec, &rule, 4, red), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_due(&spec, &rule), 10);
	assert_int_equal(iot_rule_judge(&spec, &rule, 6, red), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_fall_due(&spec, &rule, &at), IOT_RULE_OPENS);
	assert_int_equal(at, 10);
	assert_int_equal(rule.level, 1);
	/* red has lasted since 4 */
	assert_int_equal(iot_rule_due(&spec, &rule), 14);
	assert_int_equal(iot_rule_fall_due(&spec, &rule, &at), IOT_RULE_RISES);
	assert_int_equal(at, 14);
	assert_int_equal(iot_rule_fall_due(&spec, &rule, &at), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_judge(&spec, &rule, 20, none), IOT_RULE_CLOSES);
}

static void
stays_open_at_least(void **state)
{
	const IotRuleSpec spec = {.repeat_count = 1, .min_open = 10, .auto_close = true};
	IotRuleState rule;
	int64_t		at;

	iot_rule_reset(&rule);
	assert_int_equal(iot_rule_judge(&spec, &rule, 0, orange), IOT_RULE_OPENS);
	assert_int_equal(iot_rule_judge(&spec, &rule, 1, none), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_due(&spec, &rule), 10);
	assert_int_equal(iot_rule_judge(&spec, &rule, 2, stays), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_due(&spec, &rule), IOT_RULE_NEVER);
	assert_int_equal(iot_rule_judge(&spec, &rule, 3, none), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_fall_due(&spec, &rule, &at), IOT_RULE_CLOSES);
	assert_int_equal(at, 10);
	assert_int_equal(iot_rule_judge(&spec, &rule, 11, orange), IOT_RULE_OPENS);
	assert_int_equal(iot_rule_judge(&spec, &rule, 21, none), IOT_RULE_CLOSES);
}

static void
times_stay_in_range(void **state)
{
	const IotRuleSpec spec = {.repeat_count = 1, .duration = INT64_MAX, .min_open = INT64_MAX,
		.auto_close = true};
	IotRuleState rule;

	iot_rule_reset(&rule);
	assert_int_equal(iot_rule_judge(&spec, &rule, INT64_MAX - 5, orange), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_due(&spec, &rule), INT64_MAX);
	rule.level = 1;
	rule.opened_at = 5;
	assert_int_equal(iot_rule_judge(&spec, &rule, INT64_MAX - 4, none), IOT_RULE_NOTHING);
	assert_int_equal(iot_rule_due(&spec, &rule), INT64_MAX);
}

/* The same numbers in every run. */
static int
next_number(int below)
{
	static uint32_t seed = 4711;

	seed = seed * 1664525u + 1013904223u;
	return (int) ((seed >> 16) % (uint32_t) below);
}

/* I15: whatever comes, openings and closings alternate, and the severity moves by what is told. */
static void
steps_follow_each_other(void **state)
{
	for (int round = 0; round < 2000; round++)
	{
		IotRuleSpec spec;
		IotRuleState rule;
		int			level = 0;
		int64_t		ts = 0;

		spec.repeat_count = 1 + next_number(3);
		spec.duration = next_number(2) == 0 ? 0 : next_number(20);
		spec.min_open = next_number(2) == 0 ? 0 : next_number(20);
		spec.auto_close = next_number(4) > 0;
		iot_rule_reset(&rule);
		for (int i = 0; i < 50; i++)
		{
			IotRuleVerdict verdict;
			IotRuleStep step;
			int64_t		due;
			int64_t		at;

			ts += 1 + next_number(10);
			verdict.opens = next_number(3);
			verdict.stays = next_number(3);
			while ((due = iot_rule_due(&spec, &rule)) != IOT_RULE_NEVER && due < ts)
			{
				step = iot_rule_fall_due(&spec, &rule, &at);
				assert_int_equal(at, due);
				assert_int_not_equal(step, IOT_RULE_NOTHING);
				assert_int_equal(step, level == 0 ? IOT_RULE_OPENS
								 : rule.level == 0 ? IOT_RULE_CLOSES : IOT_RULE_RISES);
				level = rule.level;
			}
			step = iot_rule_judge(&spec, &rule, ts, verdict);
			assert_int_equal(step, level == rule.level ? IOT_RULE_NOTHING
							 : level == 0 ? IOT_RULE_OPENS
							 : rule.level == 0 ? IOT_RULE_CLOSES
							 : rule.level > level ? IOT_RULE_RISES : IOT_RULE_FALLS);
			assert_true(rule.level == 0 || rule.opened_at <= ts);
			level = rule.level;
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_within_bounds),
		cmocka_unit_test(opens_and_closes),
		cmocka_unit_test(severity_moves),
		cmocka_unit_test(people_close),
		cmocka_unit_test(lasts),
		cmocka_unit_test(stays_open_at_least),
		cmocka_unit_test(times_stay_in_range),
		cmocka_unit_test(steps_follow_each_other)
	};

	return cmocka_run_group_tests_name("rule", tests, NULL, NULL);
}
