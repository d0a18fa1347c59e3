/*
 * topic.c
 *		Topics and device names, hostile ones among them.
 */
#include "test.h"

#include <stdio.h>

#include "core/topic.h"

static bool
name_valid(const char *name)
{
	return iot_device_name_valid(name, strlen(name));
}

static bool
topic_valid(const char *topic)
{
	return iot_topic_valid(topic, strlen(topic), NULL);
}

static IotTopicTemplate
parsed(const char *text)
{
	IotTopicTemplate result;

	assert_true(iot_topic_template_parse(text, strlen(text), 0, &result, NULL));
	return result;
}

static void
assert_template_error(const char *text, const char *expected)
{
	IotTopicTemplate result;
	const char *error = NULL;

	assert_false(iot_topic_template_parse(text, strlen(text), 0, &result, &error));
	assert_string_equal(error, expected);
}

/* The device that the topic names, or NULL; in a static buffer. */
static const char *
device_of(const char *template, const char *topic)
{
	static char name[2048];
	IotTopicTemplate result = parsed(template);
	char	   *copy = exact_copy(topic, strlen(topic));
	IotTopicMatch match;
	bool		matches = iot_topic_template_match(&result, copy, strlen(topic), &match);

	if (matches)
	{
		memcpy(name, match.device, match.device_len);
		name[match.device_len] = '\0';
		assert_null(match.parameter);
	}
	free(copy);
	return matches ? name : NULL;
}

static void
device_names(void **state)
{
	char		longest[66];

	memset(longest, 'a', sizeof(longest));
	assert_true(name_valid("boiler-1"));
	assert_true(name_valid("A.b_c:d-9"));
	assert_true(iot_device_name_valid(longest, 64));
	assert_false(iot_device_name_valid(longest, 65));
	assert_false(name_valid(""));
	assert_false(name_valid("a/b"));
	assert_false(name_valid("a b"));
	assert_false(name_valid("a'; DROP TABLE iot.device; --"));
	assert_false(name_valid("+"));
	assert_false(name_valid("#"));
	assert_false(name_valid("b\xc3\xb6iler"));
	assert_false(iot_device_name_valid(BYTES("a\0b")));
}

static void
device_names_are_no_uuids(void **state)
{
	assert_false(name_valid("0192f1c4-7e3b-7abc-8def-0123456789ab"));
	assert_false(name_valid("0192F1C47E3B7ABC8DEF0123456789AB"));
	assert_true(name_valid("0192f1c4-7e3b-7abc-8def-0123456789ag"));
	assert_true(name_valid("0192f1c4-7e3b-7abc-8def-0123456789a"));
	assert_true(name_valid("0192f1c47-e3b-7abc-8def-0123456789ab"));
}

static void
external_names(void **state)
{
	char		longest[IOT_EXTERNAL_NAME_MAX + 1];

	memset(longest, 'a', sizeof(longest));
	assert_true(iot_external_name_valid(BYTES("Device A")));
	assert_true(iot_external_name_valid(BYTES("k\xc3\xbc""che/lamp")));
	assert_true(iot_external_name_valid(longest, IOT_EXTERNAL_NAME_MAX));
	assert_false(iot_external_name_valid(longest, IOT_EXTERNAL_NAME_MAX + 1));
	assert_false(iot_external_name_valid(BYTES("")));
	assert_false(iot_external_name_valid(BYTES("a+")));
	assert_false(iot_external_name_valid(BYTES("#")));
	assert_false(iot_external_name_valid(BYTES("a\nb")));
	assert_false(iot_external_name_valid(BYTES("a\0b")));
	assert_false(iot_external_name_valid(BYTES("\xff")));
}

static void
topics(void **state)
{
	assert_true(topic_valid("iot/boiler-1/telemetry"));
	assert_true(topic_valid("a"));
	assert_true(topic_valid("a//b"));
	assert_true(topic_valid("k\xc3\xbc""che/ofen"));
	assert_false(topic_valid(""));
	assert_false(topic_valid("$SYS/broker/uptime"));
	assert_false(topic_valid("$share/group/iot/x"));
	assert_false(topic_valid("iot/+/telemetry"));
	assert_false(topic_valid("iot/#"));
	assert_false(topic_valid("iot/a\x01"));
	assert_false(topic_valid("iot/\xff"));
	assert_false(iot_topic_valid(BYTES("iot/a\0b"), NULL));
}

static void
topics_are_bounded(void **state)
{
	char	   *topic = malloc(65535);

	assert_non_null(topic);
	memset(topic, 'x', 65535);
	assert_true(iot_topic_valid(topic, IOT_TOPIC_MAX, NULL));
	assert_false(iot_topic_valid(topic, IOT_TOPIC_MAX + 1, NULL));
	assert_false(iot_topic_valid(topic, 65535, NULL));
	for (int i = 1; i < 400; i += 2)
		topic[i] = '/';
	assert_true(iot_topic_valid(topic, 2 * IOT_TOPIC_MAX_LEVELS - 1, NULL));
	assert_false(iot_topic_valid(topic, 2 * IOT_TOPIC_MAX_LEVELS + 1, NULL));
	assert_false(iot_topic_valid(topic, 401, NULL));
	free(topic);
}

static void
templates_refused(void **state)
{
	char		longest[IOT_TOPIC_MAX + 1];

	assert_template_error("iot/telemetry", "topic template lacks {device}");
	assert_template_error("iot/x{device}/t", "{device} does not fill a whole level");
	assert_template_error("iot/{device}x/t", "{device} does not fill a whole level");
	assert_template_error("{device}/{device}", "topic template has {device} more than once");
	assert_template_error("iot/{device}/{room}",
						  "topic template has a placeholder other than {device}");
	assert_template_error("iot/{device}/+", "topic contains a wildcard");
	assert_template_error("$SYS/{device}", "topics that begin with \"$\" belong to the broker");
	assert_template_error("", "topic is empty");

	memset(longest, 'x', IOT_TOPIC_MAX);
	memcpy(longest, "{device}/", 9);
	longest[IOT_TOPIC_MAX] = '\0';
	assert_template_error(longest, "topics of this template may be longer than 1024 bytes");
}

static void
templates_match(void **state)
{
	assert_string_equal(device_of("iot/{device}/telemetry", "iot/boiler-1/telemetry"), "boiler-1");
	assert_string_equal(device_of("{device}", "x"), "x");
	assert_string_equal(device_of("tele/{device}", "tele/kitchen"), "kitchen");
	assert_string_equal(device_of("{device}/up", "kitchen/up"), "kitchen");
	/* what stands there is for iot_device_name_valid() to judge */
	assert_string_equal(device_of("iot/{device}/t", "iot/a'b/t"), "a'b");
	assert_null(device_of("iot/{device}/telemetry", "iot/a/b/telemetry"));
	assert_null(device_of("iot/{device}/telemetry", "iot//telemetry"));
	assert_null(device_of("iot/{device}/telemetry", "iot/telemetry"));
	assert_null(device_of("iot/{device}/telemetry", "iot/a/telemetry/"));
	assert_null(device_of("iot/{device}/telemetry", "Iot/a/telemetry"));
	assert_null(device_of("iot/{device}/telemetry", "iot/a/attributes"));
	assert_null(device_of("iot/{device}/telemetry", "i"));
	assert_null(device_of("iot/{device}/telemetry", ""));
}

static void
templates_render(void **state)
{
	IotTopicTemplate template = parsed("iot/{device}/command");
	char		topic[64];
	char		small[8];

	assert_int_equal(iot_topic_template_render(&template, BYTES("boiler-1"), topic, sizeof(topic)),
					 20);
	assert_string_equal(topic, "iot/boiler-1/command");
	assert_int_equal(iot_topic_template_filter(&template, topic, sizeof(topic)), 13);
	assert_string_equal(topic, "iot/+/command");
	/* what does not fit is left out as a whole, and asks for its size */
	assert_int_equal(iot_topic_template_render(&template, BYTES("boiler-1"), small, sizeof(small)),
					 20);
	assert_string_equal(small, "");
	assert_int_equal(iot_topic_template_render(&template, BYTES("boiler-1"), NULL, 0), 20);
	assert_int_equal(iot_topic_template_render(&template, BYTES("boiler-1"), topic, 20), 20);
	assert_string_equal(topic, "");
	assert_int_equal(iot_topic_template_render(&template, BYTES("boiler-1"), topic, 21), 20);
	assert_string_equal(topic, "iot/boiler-1/command");
}

/* Device and parameter that the topic names, with a blank between them, or NULL. */
static const char *
named_by(const char *template, const char *topic)
{
	static char names[2048];
	IotTopicTemplate result;
	char	   *copy = exact_copy(topic, strlen(topic));
	IotTopicMatch match;
	bool		matches;

	assert_true(iot_topic_template_parse(template, strlen(template), IOT_TOPIC_MAY_ALL, &result, NULL));
	matches = iot_topic_template_match(&result, copy, strlen(topic), &match);
	if (matches)
		snprintf(names, sizeof(names), "%.*s %.*s", (int) match.device_len,
				 match.device != NULL ? match.device : "", (int) match.parameter_len, match.parameter != NULL ? match.parameter : "");
	free(copy);
	return matches ? names : NULL;
}

static void
templates_with_more(void **state)
{
	assert_string_equal(named_by("home/+/{device}/{parameter}", "home/attic/fan/speed"), "fan speed");
	assert_string_equal(named_by("{parameter}/of/{device}", "speed/of/fan"), "fan speed");
	assert_string_equal(named_by("stat/{device}/{parameter}", "stat/plug/POWER"), "plug POWER");
	assert_string_equal(named_by("{device}/+", "fan/anything"), "fan ");
	assert_string_equal(named_by("{device}/+", "fan/"), "fan ");
	assert_string_equal(named_by("{device}/{parameter}/", "fan/speed/"), "fan speed");
	assert_null(named_by("home/+/{device}/{parameter}", "home/attic/fan"));
	assert_null(named_by("home/+/{device}/{parameter}", "home/attic/fan/speed/set"));
	assert_null(named_by("home/+/{device}/{parameter}", "house/attic/fan/speed"));
	assert_null(named_by("{device}/{parameter}", "fan/"));
	assert_null(named_by("{device}/{parameter}", "/speed"));
	assert_null(named_by("{device}/{parameter}", ""));
	assert_string_equal(named_by("v1/gateway/telemetry", "v1/gateway/telemetry"), " ");
	assert_string_equal(named_by("zigbee2mqtt/{device+}", "zigbee2mqtt/porch"), "porch ");
	assert_string_equal(named_by("zigbee2mqtt/{device+}", "zigbee2mqtt/hall/lamp/2"), "hall/lamp/2 ");
	assert_string_equal(named_by("{device+}/set/{parameter}", "hall/lamp/set/state"), "hall/lamp state");
	assert_string_equal(named_by("+/{device+}/availability", "z/a/b/availability"), "a/b ");
	assert_null(named_by("zigbee2mqtt/{device+}", "zigbee2mqtt"));
	assert_null(named_by("zigbee2mqtt/{device+}", "zigbee2mqtt/"));
	assert_null(named_by("zigbee2mqtt/{device+}/availability", "zigbee2mqtt/availability"));
	assert_null(named_by("zigbee2mqtt/{device+}/availability", "zigbee2mqtt/a/b"));
	assert_string_equal(named_by("a/#", "a/b/c"), " ");
	assert_string_equal(named_by("a/{device}/#", "a/b/c/d"), "b ");
	assert_null(named_by("a/#", "b/c"));
	assert_null(named_by("a/#", "a"));
	assert_string_equal(named_by("v1/+/{parameter}", "v1/gateway/speed"), " speed");
	assert_null(named_by("v1/gateway/telemetry", "v1/gateway/telemetry/x"));
	assert_null(named_by("v1/gateway/telemetry", "v1/gateway"));
}

static void
templates_with_more_are_judged(void **state)
{
	static const struct
	{
		const char *text;
		int			may;
		const char *error;
	}			cases[] = {
		{"a/{device}/{parameter}", 0, "topic template has a placeholder other than {device}"},
		{"a/{device}/{parameter}", IOT_TOPIC_MAY_ANY_LEVEL,
		"topic template has a placeholder other than {device}"},
		{"a/{device}/+", IOT_TOPIC_MAY_PARAMETER, "topic contains a wildcard"},
		{"a/{device}/x+", IOT_TOPIC_MAY_ALL, "topic contains a wildcard"},
		{"a/{device}/#", IOT_TOPIC_MAY_ANY_LEVEL, "topic contains a wildcard"},
		{"a/#/{device}", IOT_TOPIC_MAY_ALL, "topic contains a wildcard"},
		{"#", IOT_TOPIC_MAY_ALL, "topic contains a wildcard"},
		{"a/{device+}", IOT_TOPIC_MAY_PARAMETER, "topic contains a wildcard"},
		{"{device}/{device+}", IOT_TOPIC_MAY_ALL, "topic template has {device} more than once"},
		{"a/x{device+}", IOT_TOPIC_MAY_ALL, "topic contains a wildcard"},
		{"a/{device+}/#", IOT_TOPIC_MAY_ALL, "topic template has {device+} and \"#\""},
		{"a/{parameter}", IOT_TOPIC_MAY_PARAMETER, "topic template lacks {device}"},
		{"+", IOT_TOPIC_MAY_ANY_LEVEL, "topic template lacks {device}"},
		{"{device}/{parameter}/{parameter}", IOT_TOPIC_MAY_ALL,
		"topic template has {parameter} more than once"},
		{"{device}/x{parameter}", IOT_TOPIC_MAY_ALL, "{parameter} does not fill a whole level"},
		{"{device}/{room}", IOT_TOPIC_MAY_ALL,
		"topic template has a placeholder other than {device} and {parameter}"},
		{"", IOT_TOPIC_MAY_ALL, "topic is empty"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		IotTopicTemplate result;
		const char *error = NULL;

		assert_false(iot_topic_template_parse(cases[i].text, strlen(cases[i].text), cases[i].may,
											  &result, &error));
		assert_string_equal(error, cases[i].error);
	}
}

static void
filters_of_templates(void **state)
{
	static const char *const cases[][2] = {
		{"home/+/{device}/{parameter}", "home/+/+/+"},
		{"{parameter}/of/{device}", "+/of/+"},
		{"stat/{device}/{parameter}/", "stat/+/+/"},
		{"{device}", "+"},
		{"v1/gateway/telemetry", "v1/gateway/telemetry"},
		{"zigbee2mqtt/{device+}", "zigbee2mqtt/#"},
		{"zigbee2mqtt/{device+}/availability", "zigbee2mqtt/#"},
		{"a/{device}/#", "a/+/#"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		IotTopicTemplate result;
		char		filter[64];
		size_t		len = strlen(cases[i][1]);

		assert_true(iot_topic_template_parse(cases[i][0], strlen(cases[i][0]), IOT_TOPIC_MAY_ALL, &result,
											 NULL));
		assert_int_equal(iot_topic_template_filter(&result, filter, sizeof(filter)), len);
		assert_string_equal(filter, cases[i][1]);
		assert_int_equal(iot_topic_template_filter(&result, filter, len), len);
		assert_string_equal(filter, "");
		assert_int_equal(iot_topic_template_filter(&result, filter, len + 1), len);
		assert_string_equal(filter, cases[i][1]);
		assert_int_equal(iot_topic_template_filter(&result, NULL, 0), len);
	}
}

static void
filters(void **state)
{
	const char *error;

	assert_true(iot_topic_filter_valid(BYTES("iot/+/telemetry"), &error));
	assert_true(iot_topic_filter_valid(BYTES("#"), &error));
	assert_true(iot_topic_filter_valid(BYTES("+"), &error));
	assert_true(iot_topic_filter_valid(BYTES("a//b/"), &error));
	assert_true(iot_topic_filter_valid(BYTES("plant/1/#"), &error));
	assert_false(iot_topic_filter_valid(BYTES("plant/#/x"), &error));
	assert_string_equal(error, "\"#\" is not the last level");
	assert_false(iot_topic_filter_valid(BYTES("plant/x+"), &error));
	assert_string_equal(error, "wildcard does not fill a whole level");
	assert_false(iot_topic_filter_valid(BYTES("plant/##"), &error));
	assert_false(iot_topic_filter_valid(BYTES(""), &error));
	assert_string_equal(error, "topic is empty");
	assert_false(iot_topic_filter_valid(BYTES("$share/g/a"), &error));
	assert_false(iot_topic_filter_valid(BYTES("a\tb"), &error));
	assert_false(iot_topic_filter_valid(BYTES("a\xff"), NULL));
}

static void
filters_overlap(void **state)
{
	static const struct
	{
		const char *a;
		const char *b;
		bool		overlap;
	}			cases[] = {
		{"iot/+/telemetry", "iot/+/status", false},
		{"iot/+/telemetry", "iot/+/telemetry", true},
		{"iot/+/telemetry", "iot/boiler/telemetry", true},
		{"iot/+/telemetry", "iot/+/command/ack", false},
		{"iot/#", "iot/+/command/ack", true},
		{"iot/+/command/#", "iot/+/command", true},
		{"iot/+/command/#", "iot/+/command/ack", true},
		{"iot/+/command/+/#", "iot/+/command", false},
		{"#", "a", true},
		{"+", "a/b", false},
		{"+/+", "a/b", true},
		{"+/c", "a/b", false},
		{"a/b/", "a/b", false},
		{"a/b/", "a/b/+", true},
		{"ab", "abc", false},
		{"a/#", "b/#", false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		size_t		a_len = strlen(cases[i].a);
		size_t		b_len = strlen(cases[i].b);

		assert_int_equal(iot_topic_filters_overlap(cases[i].a, a_len, cases[i].b, b_len),
						 cases[i].overlap);
		assert_int_equal(iot_topic_filters_overlap(cases[i].b, b_len, cases[i].a, a_len),
						 cases[i].overlap);
	}
}

static void
announcements(void **state)
{
	static const char *const those[] = {
		"homeassistant/sensor/bed/config", "homeassistant/sensor/node/bed/config",
		"homeassistant/device/bed/config", "homeassistant/config/config/config"
	};
	static const char *const others[] = {
		"", "homeassistant", "homeassistant/", "homeassistant/config", "homeassistant/sensor/config",
		"homeassistant/sensor/a/b/c/config", "homeassistant/sensor/bed/state", "homeassistant//bed/config",
		"homeassistant/sensor//config", "homeassistant/sensor/bed/config/", "homeassistant/sensor/bed/configs",
		"homeassistant/sensor/bed/xconfig", "homeassistants/sensor/bed/config", "xhomeassistant/sensor/bed/config",
		"/homeassistant/sensor/bed/config", "homeassistant/sensor/+/config", "homeassistant/sensor/\xff/config",
		"homeassistant/sensor/a\nb/config"
	};

	for (size_t i = 0; i < sizeof(those) / sizeof(those[0]); i++)
	{
		char	   *topic = exact_copy(those[i], strlen(those[i]));

		assert_true(iot_topic_is_announcement(topic, strlen(those[i]), "homeassistant"));
		free(topic);
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
	{
		char	   *topic = exact_copy(others[i], strlen(others[i]));

		assert_false(iot_topic_is_announcement(topic, strlen(others[i]), "homeassistant"));
		free(topic);
	}
	assert_true(iot_topic_is_announcement("a/b/sensor/x/config", 19, "a/b"));
	assert_false(iot_topic_is_announcement("a/b/sensor/config", 17, "a/b"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(device_names),
		cmocka_unit_test(device_names_are_no_uuids),
		cmocka_unit_test(external_names),
		cmocka_unit_test(topics),
		cmocka_unit_test(topics_are_bounded),
		cmocka_unit_test(templates_refused),
		cmocka_unit_test(templates_match),
		cmocka_unit_test(templates_render),
		cmocka_unit_test(templates_with_more),
		cmocka_unit_test(templates_with_more_are_judged),
		cmocka_unit_test(filters_of_templates),
		cmocka_unit_test(filters),
		cmocka_unit_test(filters_overlap),
		cmocka_unit_test(announcements)
	};

	return cmocka_run_group_tests_name("topic", tests, NULL, NULL);
}
