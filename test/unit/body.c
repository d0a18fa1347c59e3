/*
 * body.c
 *		Paths, and what is found at them in messages of devices that speak their own way.
 */
#include "test.h"

#include <math.h>
#include <stdio.h>

#include "core/body.h"

static void
assert_path_error(const char *text, size_t len, const char *expected)
{
	char	   *copy = exact_copy(text, len);
	IotPath		path;
	const char *error = NULL;

	assert_false(iot_path_parse(copy, len, &path, &error));
	assert_string_equal(error, expected);
	assert_int_equal(path.count, 0);
	free(copy);
}

static void
paths_refused(void **state)
{
	char		longest[IOT_PATH_MAX + 2] = "$.";

	assert_path_error(BYTES(""), "path does not begin with \"$\"");
	assert_path_error(BYTES("temperature"), "path does not begin with \"$\"");
	assert_path_error(BYTES("$temperature"),
					  "path has something other than \".\" or \"[\" after a step");
	assert_path_error(BYTES("$.a b"), "path has something other than \".\" or \"[\" after a step");
	assert_path_error(BYTES("$."), "path lacks a key after \".\"");
	assert_path_error(BYTES("$..a"), "path lacks a key after \".\"");
	assert_path_error(BYTES("$['a"), "path has a quotation mark without its end");
	assert_path_error(BYTES("$['a\\'b']"), "path has a backslash or a control character in a key");
	for (size_t i = 0; i < 6; i++)
	{
		static const char *const wrong[] = {"$[", "$[a]", "$[0", "$[-1]", "$[1234567]", "$['a'"};

		assert_path_error(wrong[i], strlen(wrong[i]),
						  "path has neither a number, nor a key between quotation marks, nor \"*\" between \"[\" and \"]\"");
	}
	assert_path_error(BYTES("$.a\0b"), "path is not valid UTF-8");
	assert_path_error(BYTES("$.\xff"), "path is not valid UTF-8");
	assert_path_error(BYTES("$.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a"), "path has more than 16 steps");
	memset(longest + 2, 'x', sizeof(longest) - 2);
	assert_path_error(longest, IOT_PATH_MAX + 1, "path is longer than 256 bytes");
}

/* What stands at the path of the message: a number, a word, "other" or NULL; in a static buffer. */
static const char *
at(const char *text, const char *message)
{
	static char result[300];
	char	   *copy = exact_copy(message, strlen(message));
	IotBody		body;
	IotPath		path;
	IotValue	value;
	bool		found;

	assert_true(iot_path_parse(text, strlen(text), &path, NULL));
	assert_int_equal(iot_body_read(&body, copy, strlen(message)), IOT_PAYLOAD_OK);
	found = iot_body_value(&body, &path, &value);
	if (found && value.kind == IOT_VALUE_NUMBER)
		snprintf(result, sizeof(result), "%.17g", value.number);
	else if (found && value.kind == IOT_VALUE_WORD)
		snprintf(result, sizeof(result), "word %.*s", (int) value.word_len, value.word);
	else
		snprintf(result, sizeof(result), "other");
	iot_body_free(&body);
	free(copy);
	return found ? result : NULL;
}

/* As devices in the field put it. */
static void
values_of_known_devices(void **state)
{
	const char *tasmota = "{\"Time\":\"2024-05-01T12:00:00\",\"AM2301\":{\"Temperature\":21.5,"
		"\"Humidity\":54.75},\"TempUnit\":\"C\"}";
	const char *relay = "{\"UptimeSec\":66972,\"POWER\":\"OFF\",\"Wifi\":{\"RSSI\":100}}";
	const char *zigbee = "{\"temperature\":27.25,\"battery\":97,\"color\":{\"x\":0.25,\"y\":0.5},"
		"\"occupancy\":false,\"power\":null,\"action\":\"\"}";

	assert_string_equal(at("$.AM2301.Temperature", tasmota), "21.5");
	assert_string_equal(at("$.*.Humidity", tasmota), "54.75");
	assert_null(at("$.ENERGY.Power", tasmota));
	assert_string_equal(at("$.POWER", relay), "word OFF");
	assert_string_equal(at("$.Wifi.RSSI", relay), "100");
	assert_string_equal(at("$.color.x", zigbee), "0.25");
	assert_string_equal(at("$.occupancy", zigbee), "word false");
	assert_null(at("$.power", zigbee));
	assert_null(at("$.action", zigbee));
	assert_string_equal(at("$.color", zigbee), "other");
	assert_string_equal(at("$[0].v", "[{\"n\":\"temp\",\"v\":23.5}]"), "23.5");
}

static void
places(void **state)
{
	const char *message = "{\"a b\":[1,[2,{\"c\":3}]],\"a\":4,\"ab\":5,\"a\":6,\"x.y\":7,\"\":8}";

	assert_string_equal(at("$['a b'][0]", message), "1");
	assert_string_equal(at("$[\"a b\"][1][1].c", message), "3");
	assert_string_equal(at("$['a b'][*].c", "{\"a b\":[{\"d\":1},{\"c\":2},{\"c\":3}]}"), "2");
	assert_string_equal(at("$.*[1][1].c", message), "3");
	assert_string_equal(at("$['x.y']", message), "7");
	assert_string_equal(at("$['']", message), "8");
	/* given twice: the first counts, also where the rest is only in the second */
	assert_string_equal(at("$.a", message), "4");
	assert_null(at("$.a.b", "{\"a\":1,\"a\":{\"b\":2}}"));
	assert_null(at("$['a b'][2]", message));
	assert_null(at("$[0]", message));
	assert_null(at("$.a", "[1]"));
	assert_null(at("$.a.b", message));
	assert_string_equal(at("$", message), "other");
	assert_string_equal(at("$.k\xc3\xbc", "{\"k\xc3\xbc\":1}"), "1");
}

static void
plain_texts(void **state)
{
	assert_string_equal(at("$", "ON"), "word ON");
	assert_string_equal(at("$", " 21.5\r\n"), "21.5");
	assert_string_equal(at("$", "-3"), "-3");
	assert_string_equal(at("$", "+.5e1"), "5");
	assert_string_equal(at("$", "1e999"), "inf");
	assert_string_equal(at("$", "\"21.5\""), "21.5");
	assert_string_equal(at("$", "\" ON \""), "word ON");
	assert_string_equal(at("$", "true"), "word true");
	/* what only looks like a number is a word, and no label will be of that name */
	assert_string_equal(at("$", "NaN"), "word NaN");
	assert_string_equal(at("$", "0x10"), "word 0x10");
	assert_string_equal(at("$", "1,5"), "word 1,5");
	assert_string_equal(at("$", "."), "word .");
	assert_string_equal(at("$", "1e"), "word 1e");
	assert_string_equal(at("$", "21.5 C"), "word 21.5 C");
	assert_null(at("$.a", "ON"));
}

static void
messages_refused(void **state)
{
	char		longest[IOT_BODY_TEXT_MAX + 1];
	static const struct
	{
		const char *text;
		IotPayloadStatus status;
	}			cases[] = {
		{"", IOT_PAYLOAD_MALFORMED},
		{" \n", IOT_PAYLOAD_MALFORMED},
		{"{\"a\":", IOT_PAYLOAD_MALFORMED},
		{"{\"a\":1}{", IOT_PAYLOAD_MALFORMED},
		{"{\"a\\u0000\":1}", IOT_PAYLOAD_MALFORMED},
		{"\"a", IOT_PAYLOAD_MALFORMED},
		{"a\nb", IOT_PAYLOAD_MALFORMED},
		{"\xff", IOT_PAYLOAD_INVALID_UTF8},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		size_t		len = strlen(cases[i].text);
		char	   *copy = exact_copy(cases[i].text, len);
		IotBody		body;

		assert_int_equal(iot_body_read(&body, copy, len), cases[i].status);
		assert_non_null(body.error);
		iot_body_free(&body);
		free(copy);
	}
	memset(longest, 'x', sizeof(longest));
	for (size_t len = IOT_BODY_TEXT_MAX; len <= sizeof(longest); len++)
	{
		IotBody		body;

		assert_int_equal(iot_body_read(&body, longest, len),
						 len <= IOT_BODY_TEXT_MAX ? IOT_PAYLOAD_OK : IOT_PAYLOAD_MALFORMED);
		iot_body_free(&body);
	}
}

/* 1 and 0 for online and offline, -1 for neither. */
static int
status_of(const char *message, const char *text, const char *online_word, const char *offline_word)
{
	IotPath		path;
	IotStatusWords words = {text != NULL ? &path : NULL, online_word, offline_word};
	IotBody		body;
	bool		online;
	const char *error;
	IotPayloadStatus status;

	if (text != NULL)
		assert_true(iot_path_parse(text, strlen(text), &path, NULL));
	assert_int_equal(iot_body_read(&body, message, strlen(message)), IOT_PAYLOAD_OK);
	status = iot_body_status(&body, &words, &online, &error);
	if (status != IOT_PAYLOAD_OK)
		assert_non_null(error);
	iot_body_free(&body);
	return status == IOT_PAYLOAD_OK ? online : -1;
}

static void
statuses(void **state)
{
	assert_int_equal(status_of("Online", NULL, NULL, NULL), 1);
	assert_int_equal(status_of("Offline", NULL, NULL, NULL), 0);
	assert_int_equal(status_of("{\"state\":\"online\"}", "$.state", NULL, NULL), 1);
	assert_int_equal(status_of("UP", NULL, "up", "down"), 1);
	assert_int_equal(status_of("down", NULL, "up", "down"), 0);
	assert_int_equal(status_of("online", NULL, "up", "down"), -1);
	assert_int_equal(status_of("{\"lwt\":{\"connected\":true}}", "$.lwt.connected", "true", "false"), 1);
	assert_int_equal(status_of("{\"lwt\":{\"connected\":false}}", "$.lwt.connected", "true", "false"), 0);
	assert_int_equal(status_of("2", NULL, "2", "0"), 1);
	assert_int_equal(status_of("0", NULL, "2", "0"), 0);
	assert_int_equal(status_of("1", NULL, "2", "0"), -1);
	assert_int_equal(status_of("1", NULL, "up", "down"), -1);
	assert_int_equal(status_of("{\"state\":{}}", "$.state", NULL, NULL), -1);
	assert_int_equal(status_of("{}", "$.state", NULL, NULL), -1);
}

static IotBodyTime
time_of(const char *message, double unit_ms, int64_t *micros)
{
	IotPath		path;
	IotBody		body;
	IotBodyTime result;

	assert_true(iot_path_parse(BYTES("$.Time"), &path, NULL));
	assert_int_equal(iot_body_read(&body, message, strlen(message)), IOT_PAYLOAD_OK);
	result = iot_body_time(&body, &path, unit_ms, micros);
	iot_body_free(&body);
	return result;
}

static void
times(void **state)
{
	const int64_t noon = INT64_C(1714564800000000);
	int64_t		micros;

	assert_int_equal(time_of("{\"Time\":\"2024-05-01T12:00:00Z\"}", 1, &micros), IOT_BODY_TIME);
	assert_true(micros == noon);
	assert_int_equal(time_of("{\"Time\":1714564800000}", 1, &micros), IOT_BODY_TIME);
	assert_true(micros == noon);
	assert_int_equal(time_of("{\"Time\":\"1714564800\"}", 1000, &micros), IOT_BODY_TIME);
	assert_true(micros == noon);
	assert_int_equal(time_of("{\"Time\":\"2024-05-01T12:00:00\"}", 1, &micros), IOT_BODY_LOCAL_TIME);
	assert_true(micros == noon);
	assert_int_equal(time_of("{\"Time\":\"noon\"}", 1, &micros), IOT_BODY_INVALID_TIME);
	assert_int_equal(time_of("{\"Time\":[]}", 1, &micros), IOT_BODY_INVALID_TIME);
	assert_int_equal(time_of("{\"Time\":1e300}", 1, &micros), IOT_BODY_INVALID_TIME);
	assert_int_equal(time_of("{\"Time\":null}", 1, &micros), IOT_BODY_NO_TIME);
	assert_int_equal(time_of("{}", 1, &micros), IOT_BODY_NO_TIME);
	assert_int_equal(time_of("7", 1, &micros), IOT_BODY_NO_TIME);
}

/* Keys and values of the object at the path, as "a=1 b=[2]"; in a static buffer. */
static const char *
members_at(const char *text, const char *message)
{
	static char result[300];
	size_t		used = 0;
	IotPath		path;
	IotBody		body;

	assert_true(iot_path_parse(text, strlen(text), &path, NULL));
	assert_int_equal(iot_body_read(&body, message, strlen(message)), IOT_PAYLOAD_OK);
	result[0] = '\0';
	for (struct cJSON *member = iot_body_members(&body, &path); member != NULL;
		 member = iot_body_next(member))
	{
		char	   *printed = iot_body_print(member);

		assert_non_null(printed);
		used += (size_t) snprintf(result + used, sizeof(result) - used, "%s%s=%s",
								  used > 0 ? " " : "", iot_body_key(member), printed);
		free(printed);
	}
	iot_body_free(&body);
	return result;
}

static void
members(void **state)
{
	assert_string_equal(members_at("$", "{\"Device A\":[{\"ts\":1483228800000,\"values\":{\"t\":42.5}}],\"b\":{}}"),
						"Device A=[{\"ts\":1483228800000,\"values\":{\"t\":42.5}}] b={}");
	assert_string_equal(members_at("$.all", "{\"all\":{\"a\":\"x\\\"y\"}}"), "a=\"x\\\"y\"");
	assert_string_equal(members_at("$", "{\"a\":[1.0000000000000002,0.1,1e400,-1e400,1732310400000]}"),
						"a=[1.0000000000000002,0.1,1e999,-1e999,1732310400000]");
	assert_string_equal(members_at("$", "{}"), "");
	assert_string_equal(members_at("$", "[1,2]"), "");
	assert_string_equal(members_at("$.all", "{}"), "");
	assert_string_equal(members_at("$", "plain"), "");
}

static void
scales(void **state)
{
	assert_true(iot_scale_from_device(3, 0.1, 0) == 0.3);
	assert_true(iot_scale_to_device(0.3, 0.1, 0) == 3);
	assert_true(iot_scale_from_device(212, 5.0 / 9, -160.0 / 9) == 100);
	assert_true(iot_scale_to_device(100, 5.0 / 9, -160.0 / 9) == 212);
	assert_true(iot_scale_from_device(0.30000000000000004, 1, 0) == 0.30000000000000004);
	assert_true(iot_scale_to_device(0.30000000000000004, 1, 0) == 0.30000000000000004);
	assert_true(isinf(iot_scale_from_device(1e308, 100, 0)));
	for (int i = -2000; i <= 2000; i++)
		assert_true(iot_scale_from_device(iot_scale_to_device(i / 10.0, 0.01, 0), 0.01, 0) == i / 10.0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths_refused),
		cmocka_unit_test(values_of_known_devices),
		cmocka_unit_test(places),
		cmocka_unit_test(plain_texts),
		cmocka_unit_test(messages_refused),
		cmocka_unit_test(statuses),
		cmocka_unit_test(times),
		cmocka_unit_test(members),
		cmocka_unit_test(scales)
	};

	return cmocka_run_group_tests_name("body", tests, NULL, NULL);
}
