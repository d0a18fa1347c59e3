/*
 * payload.c
 *		What devices may say, and what they may not.
 *
 * Payloads are parsed from copies that end where the payload ends; with the sanitizers on, reading
 * one byte further is a failure.
 */
#include "test.h"

#include <math.h>
#include <stdio.h>

#include "core/json.h"
#include "core/payload.h"
#include "core/timestamp.h"

static IotTelemetry telemetry;
static char *payload;

static IotPayloadStatus
parse_bytes(const char *text, size_t len)
{
	free(payload);
	payload = exact_copy(text, len);
	return iot_telemetry_parse(&telemetry, payload, len);
}

static IotPayloadStatus
parse(const char *text)
{
	return parse_bytes(text, strlen(text));
}

/* Value i is a number of that name. */
static void
assert_number(size_t i, const char *name, double number)
{
	assert_between(i, 0, telemetry.count - 1);
	assert_int_equal(telemetry.values[i].name_len, strlen(name));
	assert_memory_equal(telemetry.values[i].name, name, strlen(name));
	assert_int_equal(telemetry.values[i].kind, IOT_VALUE_NUMBER);
	assert_true(telemetry.values[i].number == number);
}

static void
assert_word(size_t i, const char *name, const char *word)
{
	assert_between(i, 0, telemetry.count - 1);
	assert_memory_equal(telemetry.values[i].name, name, strlen(name));
	assert_int_equal(telemetry.values[i].kind, IOT_VALUE_WORD);
	assert_int_equal(telemetry.values[i].word_len, strlen(word));
	assert_memory_equal(telemetry.values[i].word, word, strlen(word));
}

static void
assert_refused(const char *text, IotPayloadStatus expected)
{
	IotPayloadStatus status = parse(text);

	if (status != expected)
		fail_msg("%s: status %d and not %d", text, status, expected);
	assert_int_equal(telemetry.count, 0);
	assert_non_null(telemetry.error);
}

static double
number(const char *text)
{
	char		object[2048];

	snprintf(object, sizeof(object), "{\"v\":%s}", text);
	assert_int_equal(parse(object), IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.values[0].kind, IOT_VALUE_NUMBER);
	return telemetry.values[0].number;
}

static void
shapes(void **state)
{
	assert_int_equal(parse("{\"temperature\":21.5}"), IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.count, 1);
	assert_number(0, "temperature", 21.5);
	assert_false(telemetry.values[0].has_ts);

	assert_int_equal(parse("{\"ts\":1732310400000,\"values\":{\"a\":1,\"b\":-2e3}}"), IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.count, 2);
	assert_number(0, "a", 1);
	assert_number(1, "b", -2000);
	assert_true(telemetry.values[1].has_ts);
	assert_true(telemetry.values[1].ts == INT64_C(1732310400000000));

	assert_int_equal(parse(" [ {\"a\":1} , {\"values\":{\"a\":2},\"ts\":\"2024-11-22T21:20:00Z\"},"
						   "{\"ts\":0,\"a\":3}\r\n]\t"), IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.count, 3);
	assert_false(telemetry.values[0].has_ts);
	assert_number(1, "a", 2);
	assert_true(telemetry.values[1].ts == INT64_C(1732310400000000));
	assert_number(2, "a", 3);
	assert_true(telemetry.values[2].has_ts);
	assert_true(telemetry.values[2].ts == 0);
}

static void
empty_is_well_formed(void **state)
{
	assert_int_equal(parse("{}"), IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.count, 0);
	assert_int_equal(parse("[]"), IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.count, 0);
	assert_int_equal(parse("{\"ts\":1,\"values\":{}}"), IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.count, 0);
}

static void
words(void **state)
{
	assert_int_equal(parse("{\"power\":\"ON\",\"door\":true,\"lock\":false,\"a\":\"\"}"),
					 IOT_PAYLOAD_OK);
	assert_word(0, "power", "ON");
	assert_word(1, "door", "true");
	assert_word(2, "lock", "false");
	assert_word(3, "a", "");
	assert_int_equal(parse("{\"a\":\"\\u00fc\\n\\\"\\ud83d\\ude00\",\"\\u0062\":\"x\\/y\"}"),
					 IOT_PAYLOAD_OK);
	assert_word(0, "a", "\xc3\xbc\n\"\xf0\x9f\x98\x80");
	assert_word(1, "b", "x/y");
}

static void
values_of_other_types(void **state)
{
	assert_int_equal(parse("{\"a\":null,\"b\":{\"x\":[1,{}]},\"c\":[1,\"\\u00e9\"],\"d\":1}"),
					 IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.count, 4);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(telemetry.values[i].kind, IOT_VALUE_OTHER);
	assert_number(3, "d", 1);
	/* not the object that holds values, so a value itself */
	assert_int_equal(parse("{\"values\":3}"), IOT_PAYLOAD_OK);
	assert_number(0, "values", 3);
}

static void
numbers(void **state)
{
	assert_true(number("0") == 0);
	assert_true(number("-0") == 0 && signbit(number("-0")));
	assert_true(number("0.1") == 0.1);
	assert_true(number("21.5e-1") == 2.15);
	assert_true(number("9007199254740993") == 9007199254740992.0);
	assert_true(number("123456789012345678") == 123456789012345678.0);
	assert_true(number("0.30000000000000004") == 0.30000000000000004);
	assert_true(number("1.7976931348623157e308") == 1.7976931348623157e308);
	assert_true(number("4.9e-324") == 4.9e-324);
	assert_true(number("1e-400") == 0);
	assert_true(number("1E+2") == 100);
	assert_true(number("0.000000000000000000000000000001") == 1e-30);
	assert_true(number("8.5e22") == 8.5e22);
	assert_true(number("3e23") == 3e23);
	/* the caller hears of these, and calls them not finite */
	assert_true(isinf(number("1e400")));
	assert_true(isinf(number("-1e400")));
	assert_true(isinf(number("1e99999999999999999999")));
}

/* The quick way and strtod() agree to the last bit. */
static void
numbers_are_rounded_as_strtod_does(void **state)
{
	uint64_t	random = 42;

	for (int i = 0; i < 20000; i++)
	{
		char		text[64];
		uint64_t	mantissa;

		random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		mantissa = random >> (11 + random % 40);
		snprintf(text, sizeof(text), "%s%llu.%llue%d", i % 2 ? "-" : "",
				 (unsigned long long) (mantissa / 1000), (unsigned long long) (random % 100000),
				 (int) (random >> 32) % 50 - 25);
		if (number(text) != strtod(text, NULL))
			fail_msg("%s is not read as strtod() reads it", text);
	}
}

static void
malformed(void **state)
{
	static const char *const texts[] = {
		"", " ", "{", "}", "[", "]", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}",
		"{\"a\" 1}", "{a:1}", "{'a':1}", "{\"a\":1}}", "{\"a\":1} x", "{\"a\":1}{\"a\":1}",
		"[{\"a\":1},]", "[{\"a\":1}", "[{\"a\":1} {\"b\":2}]", "{,}", "[,]",
		"{\"a\":+1}", "{\"a\":.5}", "{\"a\":1e}", "{\"a\":1e+}",
		"{\"a\":-}", "{\"a\":0x10}", "{\"a\":1_0}", "{\"a\":NaN}", "{\"a\":nan}",
		"{\"a\":Infinity}", "{\"a\":-Infinity}", "{\"a\":inf}", "{\"a\":tru}", "{\"a\":nul}",
		"{\"a\":TRUE}", "{\"a\":\"}", "{\"a\":\"\\\"}", "{\"a\":\"\\x\"}", "{\"a\":\"\\u12\"}",
		"{\"a\":\"\\u12G4\"}", "{\"a\":\"\\u0000\"}", "{\"a\\u0000b\":1}", "{\"a\":\"\\ud800\"}",
		"{\"a\":\"\\ud800\\u0041\"}", "{\"a\":\"\\udc00\"}", "{\"a\":\"\\ud800x\"}",
		"/* */{\"a\":1}", "{\"a\":1}//",
		"{\"b\":[1,}]}", "{\"b\":{\"c\":\"\\u0000\"}}", "{\"b\":[\"\\ud800\"]}", "nope"
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_refused(texts[i], IOT_PAYLOAD_MALFORMED);
	assert_int_equal(parse_bytes(BYTES("{\"a\":1}\0")), IOT_PAYLOAD_MALFORMED);
	assert_int_equal(parse_bytes(BYTES("{\"a\":\"\0\"}")), IOT_PAYLOAD_MALFORMED);
}

/* What the library takes beyond the standard, and does no harm. */
static void
leniency(void **state)
{
	static const char *const texts[] = {
		"{\"a\":01}", "{\"a\":1.}", "\xef\xbb\xbf{\"a\":1}", "{\"a\":1,\"b\":\"x\ny\"}",
		"{\"a\":1,\"b\":[1e10000]}"
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
	{
		assert_int_equal(parse(texts[i]), IOT_PAYLOAD_OK);
		assert_int_equal(telemetry.values[0].name_len, 1);
		assert_true(telemetry.values[0].number == 1);
	}
}

static void
wrong_shapes(void **state)
{
	assert_refused("3", IOT_PAYLOAD_WRONG_TYPE);
	assert_refused("\"on\"", IOT_PAYLOAD_WRONG_TYPE);
	assert_refused("null", IOT_PAYLOAD_WRONG_TYPE);
	assert_refused("[1]", IOT_PAYLOAD_WRONG_TYPE);
	assert_refused("[{\"a\":1},[{\"a\":1}]]", IOT_PAYLOAD_WRONG_TYPE);
}

static void
keys_given_twice(void **state)
{
	char		many[4096];
	size_t		len;

	assert_refused("{\"a\":1,\"a\":2}", IOT_PAYLOAD_MALFORMED);
	assert_refused("{\"a\":1,\"\\u0061\":1}", IOT_PAYLOAD_MALFORMED);
	assert_refused("{\"ts\":1,\"ts\":1,\"a\":1}", IOT_PAYLOAD_MALFORMED);
	assert_refused("{\"values\":{},\"values\":{\"a\":1}}", IOT_PAYLOAD_MALFORMED);
	assert_refused("{\"values\":{\"a\":1},\"a\":1}", IOT_PAYLOAD_MALFORMED);
	assert_int_equal(parse("[{\"a\":1},{\"a\":2}]"), IOT_PAYLOAD_OK);

	/* beyond a dozen a table looks for them */
	len = (size_t) snprintf(many, sizeof(many), "{\"k0\":0");
	for (int i = 1; i < 100; i++)
		len += (size_t) snprintf(many + len, sizeof(many) - len, ",\"k%d\":%d", i, i);
	snprintf(many + len, sizeof(many) - len, "}");
	assert_int_equal(parse(many), IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.count, 100);
	assert_number(99, "k99", 99);
	snprintf(many + len, sizeof(many) - len, ",\"k57\":1}");
	assert_refused(many, IOT_PAYLOAD_MALFORMED);
}

static void
invalid_utf8(void **state)
{
	assert_refused("{\"a\":\"\xff\"}", IOT_PAYLOAD_INVALID_UTF8);
	assert_refused("{\"\xc0\xaf\":1}", IOT_PAYLOAD_INVALID_UTF8);
	assert_refused("\xfe\xff", IOT_PAYLOAD_INVALID_UTF8);
}

static void
times(void **state)
{
	assert_refused("{\"ts\":\"yesterday\",\"a\":1}", IOT_PAYLOAD_INVALID_TIME);
	assert_refused("{\"ts\":\"2024-05-01T12:00:00\",\"a\":1}", IOT_PAYLOAD_INVALID_TIME);
	assert_refused("{\"ts\":null,\"a\":1}", IOT_PAYLOAD_INVALID_TIME);
	assert_refused("{\"ts\":true,\"a\":1}", IOT_PAYLOAD_INVALID_TIME);
	assert_refused("{\"ts\":{},\"a\":1}", IOT_PAYLOAD_INVALID_TIME);
	assert_refused("{\"ts\":1e400,\"a\":1}", IOT_PAYLOAD_INVALID_TIME);
	assert_refused("{\"ts\":-1e400,\"a\":1}", IOT_PAYLOAD_INVALID_TIME);
	assert_refused("{\"ts\":1e18,\"a\":1}", IOT_PAYLOAD_INVALID_TIME);
	/* far away, but times: the caller knows what is kept */
	assert_int_equal(parse("{\"ts\":0,\"a\":1}"), IOT_PAYLOAD_OK);
	assert_int_equal(parse("{\"ts\":4294967295000,\"a\":1}"), IOT_PAYLOAD_OK);
	assert_int_equal(parse("{\"ts\":1732310400000.25,\"a\":1}"), IOT_PAYLOAD_OK);
	assert_true(telemetry.values[0].ts == INT64_C(1732310400000250));
}

static void
depth_is_bounded(void **state)
{
	size_t		depth = 1000000;
	char	   *deep = malloc(depth + 8);

	assert_non_null(deep);
	memset(deep, '[', depth);
	assert_int_equal(parse_bytes(deep, depth), IOT_PAYLOAD_MALFORMED);
	memcpy(deep, "{\"a\":", 5);
	assert_int_equal(parse_bytes(deep, depth), IOT_PAYLOAD_MALFORMED);
	memset(deep + 5, '{', depth - 5);
	assert_int_equal(parse_bytes(deep, depth), IOT_PAYLOAD_MALFORMED);
	free(deep);
}

static void
size_is_bounded(void **state)
{
	size_t		size = 1 << 20;
	char	   *large = malloc(size + 64);
	char		digits[1200];
	size_t		len = 0;

	assert_non_null(large);
	/* a key of a megabyte is a name like any other, and nobody has it */
	memset(large, 'k', size);
	memcpy(large, "{\"", 2);
	memcpy(large + size - 4, "\":1}", 4);
	assert_int_equal(parse_bytes(large, size), IOT_PAYLOAD_OK);
	assert_int_equal(telemetry.values[0].name_len, size - 6);

	memcpy(large, "[", 1);
	len = 1;
	for (int i = 0; i <= IOT_PAYLOAD_MAX_VALUES; i++)
		len += (size_t) sprintf(large + len, "%s{\"a\":%d}", i > 0 ? "," : "", i);
	large[len++] = ']';
	assert_int_equal(parse_bytes(large, len), IOT_PAYLOAD_TOO_LARGE);
	assert_int_equal(telemetry.count, 0);
	free(large);

	memset(digits, '1', sizeof(digits));
	memcpy(digits, "{\"a\":", 5);
	digits[sizeof(digits) - 2] = '}';
	digits[sizeof(digits) - 1] = '\0';
	assert_int_equal(parse(digits), IOT_PAYLOAD_OK);
	assert_true(isinf(telemetry.values[0].number));
}

/* Every prefix of a message, and every message with one byte changed, ends in a status. */
static void
truncated_and_flipped(void **state)
{
	static const char text[] =
		"[{\"ts\":\"2024-11-22T21:20:00.5+01:00\",\"values\":{\"a\":1.5e3,\"\\u00fc\":\"x\\ud83d\\ude00\"}},"
		"{\"b\":null,\"c\":[true,{\"d\":-0.1}]}]";
	size_t		len = sizeof(text) - 1;
	char		changed[sizeof(text)];

	assert_int_equal(parse(text), IOT_PAYLOAD_OK);
	for (size_t i = 0; i < len; i++)
	{
		IotPayloadStatus status = parse_bytes(text, i);

		assert_int_not_equal(status, IOT_PAYLOAD_OK);
		assert_int_equal(telemetry.count, 0);
	}
	for (size_t i = 0; i < len; i++)
	{
		for (int byte = 0; byte < 256; byte++)
		{
			memcpy(changed, text, sizeof(text));
			changed[i] = (char) byte;
			if (parse_bytes(changed, len) != IOT_PAYLOAD_OK)
				assert_int_equal(telemetry.count, 0);
		}
	}
}

static IotPayloadStatus
ack(const char *text, IotAck *result)
{
	const char *error = NULL;
	char	   *copy = exact_copy(text, strlen(text));
	IotPayloadStatus status = iot_ack_parse(copy, strlen(text), result, &error);

	free(copy);
	assert_true((status == IOT_PAYLOAD_OK) == (error == NULL));
	return status;
}

#define ID "\"id\":\"0192f1c4-7e3b-7abc-8def-0123456789AB\""

static void
acknowledgements(void **state)
{
	static const uint8_t id[16] = {
		0x01, 0x92, 0xf1, 0xc4, 0x7e, 0x3b, 0x7a, 0xbc, 0x8d, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89,
		0xab
	};
	IotAck		result;

	assert_int_equal(ack("{" ID ",\"ok\":true}", &result), IOT_PAYLOAD_OK);
	assert_true(result.ok);
	assert_memory_equal(result.command_id, id, 16);
	assert_string_equal(result.error, "");
	assert_int_equal(ack("{\"ok\":false,\"error\":\"too h\\u006ft\"," ID ",\"more\":{\"x\":[]}}",
						 &result), IOT_PAYLOAD_OK);
	assert_false(result.ok);
	assert_string_equal(result.error, "too hot");
	assert_int_equal(ack("{" ID ",\"ok\":false,\"error\":17}", &result), IOT_PAYLOAD_OK);
	assert_string_equal(result.error, "");
}

static void
acknowledgements_refused(void **state)
{
	IotAck		result;

	assert_int_equal(ack("", &result), IOT_PAYLOAD_MALFORMED);
	assert_int_equal(ack("[]", &result), IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{}", &result), IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{" ID "}", &result), IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{\"ok\":true}", &result), IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{" ID ",\"ok\":1}", &result), IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{" ID ",\"ok\":\"true\"}", &result), IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{\"id\":7,\"ok\":true}", &result), IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{\"id\":\"7\",\"ok\":true}", &result), IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{\"id\":\"0192f1c4-7e3b-7abc-8def-0123456789ax\",\"ok\":true}", &result),
					 IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{\"id\":\"0192f1c4+7e3b-7abc-8def-0123456789ab\",\"ok\":true}", &result),
					 IOT_PAYLOAD_WRONG_TYPE);
	assert_int_equal(ack("{" ID "," ID ",\"ok\":true}", &result), IOT_PAYLOAD_MALFORMED);
	assert_int_equal(ack("{" ID ",\"ok\":true,\"ok\":true}", &result), IOT_PAYLOAD_MALFORMED);
	assert_int_equal(ack("{" ID ",\"ok\":true} ", &result), IOT_PAYLOAD_OK);
	assert_int_equal(ack("{" ID ",\"ok\":true}x", &result), IOT_PAYLOAD_MALFORMED);
	assert_int_equal(ack("{" ID ",\"ok\":true,\"error\":\"\xff\"}", &result),
					 IOT_PAYLOAD_INVALID_UTF8);
	assert_int_equal(ack("{" ID ",\"ok\":true,\"error\":\"\\u0000\"}", &result),
					 IOT_PAYLOAD_MALFORMED);
}

static void
acknowledgement_errors_are_cut(void **state)
{
	char		text[4096];
	size_t		len;
	IotAck		result;

	len = (size_t) snprintf(text, sizeof(text), "{" ID ",\"ok\":false,\"error\":\"x");
	for (int i = 0; i < 600; i++)
		len += (size_t) snprintf(text + len, sizeof(text) - len, "\xc3\xbc");
	snprintf(text + len, sizeof(text) - len, "\"}");
	assert_int_equal(ack(text, &result), IOT_PAYLOAD_OK);
	/* whole characters: one x and 499 of two bytes */
	assert_int_equal(strlen(result.error), 999);
}

static void
assert_status(const char *text, IotPayloadStatus expected, bool expected_online)
{
	const char *error;
	bool		online = !expected_online;
	char	   *copy = exact_copy(text, strlen(text));

	assert_int_equal(iot_status_parse(copy, strlen(text), &online, &error), expected);
	if (expected == IOT_PAYLOAD_OK)
		assert_true(online == expected_online);
	else
		assert_non_null(error);
	free(copy);
}

static void
statuses(void **state)
{
	assert_status("online", IOT_PAYLOAD_OK, true);
	assert_status("offline", IOT_PAYLOAD_OK, false);
	assert_status("Online\r\n", IOT_PAYLOAD_OK, true);
	assert_status(" \"OFFLINE\" ", IOT_PAYLOAD_OK, false);
	assert_status("{\"state\":\"online\"}", IOT_PAYLOAD_OK, true);
	assert_status("{\"x\":{},\"state\":\"offline\"}", IOT_PAYLOAD_OK, false);
	assert_status("", IOT_PAYLOAD_WRONG_TYPE, false);
	assert_status("on", IOT_PAYLOAD_WRONG_TYPE, false);
	assert_status("onlinex", IOT_PAYLOAD_WRONG_TYPE, false);
	assert_status("true", IOT_PAYLOAD_WRONG_TYPE, false);
	assert_status("{\"state\":1}", IOT_PAYLOAD_WRONG_TYPE, false);
	assert_status("{\"status\":\"online\"}", IOT_PAYLOAD_WRONG_TYPE, false);
	assert_status("{\"state\":\"online\"", IOT_PAYLOAD_MALFORMED, false);
	assert_status("\"online", IOT_PAYLOAD_MALFORMED, false);
	assert_status("\xff", IOT_PAYLOAD_INVALID_UTF8, false);
}

static void
assert_attributes(const char *text, IotPayloadStatus expected)
{
	const char *error;
	char	   *copy = exact_copy(text, strlen(text));

	assert_int_equal(iot_attributes_check(copy, strlen(text), &error), expected);
	free(copy);
}

static void
attributes(void **state)
{
	assert_attributes("{}", IOT_PAYLOAD_OK);
	assert_attributes("{\"fw\":\"1.2\",\"net\":{\"rssi\":-60,\"ips\":[\"::1\",null]}}",
					  IOT_PAYLOAD_OK);
	assert_attributes("{\"a\":[1e308,{\"b\":[]}],\"c\":{}}", IOT_PAYLOAD_OK);
	assert_attributes("{\"a\":[1,{\"b\":1e9999}]}", IOT_PAYLOAD_MALFORMED);
	assert_attributes("{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}",
					  IOT_PAYLOAD_OK);
	assert_attributes("{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}",
					  IOT_PAYLOAD_MALFORMED);
	assert_attributes("[]", IOT_PAYLOAD_WRONG_TYPE);
	assert_attributes("1", IOT_PAYLOAD_WRONG_TYPE);
	assert_attributes("", IOT_PAYLOAD_MALFORMED);
	assert_attributes("{\"a\":\"\\u0000\"}", IOT_PAYLOAD_MALFORMED);
	assert_attributes("{\"a\":1}}", IOT_PAYLOAD_MALFORMED);
	assert_attributes("{\"a\":\"\x80\"}", IOT_PAYLOAD_INVALID_UTF8);
}

static void
assert_time(const char *text, int64_t expected)
{
	int64_t		micros = 0;
	char	   *copy = exact_copy(text, strlen(text));

	if (!iot_timestamp_parse(copy, strlen(text), &micros) || micros != expected)
		fail_msg("%s is %lld", text, (long long) micros);
	free(copy);
}

static void
timestamps(void **state)
{
	static const char *const wrong[] = {
		"", "2024", "2024-11-22", "2024-11-22T", "2024-11-22T21:20:00", "2024-11-22T21:20:00 Z",
		"2024-13-01T00:00:00Z", "2024-00-01T00:00:00Z", "2023-02-29T00:00:00Z",
		"2024-04-31T00:00:00Z", "2024-11-22T24:00:00Z", "2024-11-22T23:60:00Z",
		"2024-11-22T23:59:61Z", "2024-11-22T21:20:00.Z", "2024-11-22T21:20:00+1",
		"2024-11-22T21:20:00+01:0", "2024-11-22T21:20:00+01:60", "2024-11-22T21:20:00+16",
		"2024-11-22T21:20:00ZZ", "0000-01-01T00:00:00Z", "24-11-22T21:20:00Z",
		"20241122T212000Z", "+2024-11-22T21:20:00Z", "2024-1-22T21:20:00Z",
		"9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "infinity", "now"
	};
	int64_t		micros;

	assert_time("1970-01-01T00:00:00Z", 0);
	assert_time("1969-12-31T23:59:59.999999Z", -1);
	assert_time("2024-11-22T21:20:00Z", INT64_C(1732310400000000));
	assert_time("2024-11-22t21:20z", INT64_C(1732310400000000));
	assert_time("2024-11-22 22:20:00+01", INT64_C(1732310400000000));
	assert_time("2024-11-22T22:50:00.25+0130", INT64_C(1732310400250000));
	assert_time("2024-11-22T19:50:00,123456789-01:30", INT64_C(1732310400123456));
	assert_time("2024-02-29T00:00:00Z", INT64_C(1709164800000000));
	assert_time("2000-03-01T00:00:00Z", INT64_C(951868800000000));
	assert_time("2016-12-31T23:59:60Z", INT64_C(1483228800000000));
	assert_time("2106-02-07T06:28:15Z", INT64_C(4294967295000000));
	assert_time("0001-01-01T00:00:00Z", INT64_C(-62135596800000000));
	assert_time("9999-12-31T23:59:59Z", INT64_C(253402300799000000));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
	{
		char	   *copy = exact_copy(wrong[i], strlen(wrong[i]));

		if (iot_timestamp_parse(copy, strlen(wrong[i]), &micros))
			fail_msg("%s is taken as a time", wrong[i]);
		free(copy);
	}
	assert_false(iot_timestamp_from_ms(NAN, &micros));
	assert_false(iot_timestamp_from_ms(INFINITY, &micros));
	assert_false(iot_timestamp_from_ms(-1e300, &micros));
	assert_true(iot_timestamp_from_ms(-0.001, &micros));
	assert_int_equal(micros, -1);
}

static int
release(void **state)
{
	iot_telemetry_free(&telemetry);
	free(payload);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shapes),
		cmocka_unit_test(empty_is_well_formed),
		cmocka_unit_test(words),
		cmocka_unit_test(values_of_other_types),
		cmocka_unit_test(numbers),
		cmocka_unit_test(numbers_are_rounded_as_strtod_does),
		cmocka_unit_test(malformed),
		cmocka_unit_test(leniency),
		cmocka_unit_test(wrong_shapes),
		cmocka_unit_test(keys_given_twice),
		cmocka_unit_test(invalid_utf8),
		cmocka_unit_test(times),
		cmocka_unit_test(depth_is_bounded),
		cmocka_unit_test(size_is_bounded),
		cmocka_unit_test(truncated_and_flipped),
		cmocka_unit_test(acknowledgements),
		cmocka_unit_test(acknowledgements_refused),
		cmocka_unit_test(acknowledgement_errors_are_cut),
		cmocka_unit_test(statuses),
		cmocka_unit_test(attributes),
		cmocka_unit_test(timestamps)
	};

	iot_telemetry_init(&telemetry);
	return cmocka_run_group_tests_name("payload", tests, NULL, release);
}
