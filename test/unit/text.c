/*
 * text.c
 *		Patterns, templates, UTF-8 and back-off.
 */
#include "test.h"

#include "core/backoff.h"
#include "core/glob.h"
#include "core/json.h"
#include "core/template.h"
#include "core/utf8.h"

static bool
matches(const char *pattern, const char *text)
{
	return iot_glob_match(pattern, strlen(pattern), text, strlen(text));
}

static void
glob_matches(void **state)
{
	assert_true(matches("adapter.*", "adapter.value_set_sent"));
	assert_true(matches("adapter.*", "adapter."));
	assert_false(matches("adapter.*", "adapter"));
	assert_true(matches("*", ""));
	assert_true(matches("*", "a.b.c"));
	assert_true(matches("alarm.opened", "alarm.opened"));
	assert_false(matches("alarm.opened", "alarm.openedx"));
	assert_false(matches("alarm.opened", "alarm.opene"));
	assert_true(matches("*.value_set_*", "dm.value_set_error"));
	assert_true(matches("*error", "adapter.value_set_error"));
	assert_false(matches("*error", "adapter.value_set_errors"));
	assert_true(matches("a*b*c", "aXbYbZc"));
	assert_false(matches("a*b*c", "aXbYbZ"));
	assert_true(matches("**", "x"));
	assert_false(matches("", "x"));
	assert_true(matches("", ""));
	/* nothing but "*" is special */
	assert_false(matches("adapter.", "adapterX"));
	assert_false(matches("?", "a"));
}

static void
glob_is_cheap(void **state)
{
	char		pattern[128];
	char		text[4096];

	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = i % 2 == 0 ? '*' : 'a';
	memset(text, 'a', sizeof(text));
	text[sizeof(text) - 1] = 'b';
	assert_false(iot_glob_match(pattern, sizeof(pattern), text, sizeof(text)));
}

static void
glob_valid(void **state)
{
	char		longest[IOT_GLOB_MAX + 1];

	memset(longest, '*', sizeof(longest));
	assert_true(iot_glob_valid(BYTES("adapter.*")));
	assert_true(iot_glob_valid(longest, IOT_GLOB_MAX));
	assert_false(iot_glob_valid(longest, IOT_GLOB_MAX + 1));
	assert_false(iot_glob_valid(BYTES("")));
	assert_false(iot_glob_valid(BYTES("a b")));
	assert_false(iot_glob_valid(BYTES("a%")));
	assert_false(iot_glob_valid(BYTES("a\0b")));
}

/* {device}, {value} and {quote} are known. */
static const char *
lookup(void *arg, const char *name, size_t name_len, size_t *len)
{
	static const char *const names[] = {"device", "value", "quote"};
	static const char *const values[] = {"boiler-1", "21.5", "a\"b\\c\nd\x01\xc3\xbc"};

	for (int i = 0; i < 3; i++)
	{
		if (strlen(names[i]) == name_len && memcmp(names[i], name, name_len) == 0)
		{
			*len = strlen(values[i]);
			return values[i];
		}
	}
	return NULL;
}

static void
assert_renders(IotTemplateMode mode, const char *text, const char *expected)
{
	char		out[256];
	char	   *copy = exact_copy(text, strlen(text));
	size_t		len = iot_template_render(copy, strlen(text), mode, lookup, NULL, out, sizeof(out));

	assert_string_equal(out, expected);
	assert_int_equal(len, strlen(expected));
	assert_int_equal(iot_template_render(copy, strlen(text), mode, lookup, NULL, NULL, 0), len);
	free(copy);
}

static void
template_text(void **state)
{
	assert_renders(IOT_TEMPLATE_TEXT, "{device} is {value}", "boiler-1 is 21.5");
	assert_renders(IOT_TEMPLATE_TEXT, "", "");
	assert_renders(IOT_TEMPLATE_TEXT, "plain", "plain");
	assert_renders(IOT_TEMPLATE_TEXT, "{unknown}!", "!");
	assert_renders(IOT_TEMPLATE_TEXT, "{{value}", "{value}");
	assert_renders(IOT_TEMPLATE_TEXT, "{", "{");
	assert_renders(IOT_TEMPLATE_TEXT, "{{", "{");
	assert_renders(IOT_TEMPLATE_TEXT, "{}", "{}");
	assert_renders(IOT_TEMPLATE_TEXT, "{Value} {value", "{Value} {value");
	assert_renders(IOT_TEMPLATE_TEXT, "}{value}}", "}21.5}");
	assert_renders(IOT_TEMPLATE_TEXT, "{quote}", "a\"b\\c\nd\x01\xc3\xbc");
}

static void
template_json(void **state)
{
	assert_renders(IOT_TEMPLATE_JSON, "{\"set\":{value}}", "{\"set\":21.5}");
	assert_renders(IOT_TEMPLATE_JSON, "{\"a\":{\"b\":{\"c\":\"{device}\"}}}",
				   "{\"a\":{\"b\":{\"c\":\"boiler-1\"}}}");
	assert_renders(IOT_TEMPLATE_JSON, "\"{quote}\"",
				   "\"a\\\"b\\\\c\\u000ad\\u0001\xc3\xbc\"");
	assert_true(iot_template_is_json(BYTES(" {\"set\":{value}}")));
	assert_true(iot_template_is_json(BYTES("[{value}]")));
	assert_true(iot_template_is_json(BYTES("\"{word}\"")));
	assert_false(iot_template_is_json(BYTES("{value}")));
	assert_false(iot_template_is_json(BYTES("ON")));
	assert_false(iot_template_is_json(BYTES("  ")));
}

/* Whatever a value holds, what comes out is one JSON string with the same content. */
static void
template_json_cannot_be_escaped_from(void **state)
{
	char		out[256];
	IotJson		json;
	const char *text;
	size_t		text_len;
	size_t		len = iot_template_render(BYTES("\"{quote}\""), IOT_TEMPLATE_JSON, lookup, NULL, out,
										  sizeof(out));

	iot_json_init(&json, out, len);
	assert_int_equal(iot_json_peek(&json), IOT_JSON_STRING);
	text = iot_json_string(&json, &text_len);
	assert_memory_equal(text, "a\"b\\c\nd\x01\xc3\xbc", text_len);
	assert_int_equal(text_len, 10);
	iot_json_free(json.tree);
}

static void
template_too_long(void **state)
{
	char		out[8];

	/* half a payload must never be sent */
	assert_int_equal(iot_template_render(BYTES("{device}"), IOT_TEMPLATE_TEXT, lookup, NULL, out, 8),
					 8);
	assert_string_equal(out, "");
	assert_int_equal(iot_template_render(BYTES("{value}!!!"), IOT_TEMPLATE_TEXT, lookup, NULL, out,
										 8), 7);
	assert_string_equal(out, "21.5!!!");
}

static void
template_unknown(void **state)
{
	static const char *const names[] = {"device", "value"};
	char		list[64];
	char		small[9];

	assert_int_equal(iot_template_unknown(BYTES("{device} {value} {{x}"), names, 2, list,
										  sizeof(list)), 0);
	assert_string_equal(list, "");
	assert_int_equal(iot_template_unknown(BYTES("{devise} {value} {wert}"), names, 2, list,
										  sizeof(list)), 2);
	assert_string_equal(list, "{devise}, {wert}");
	assert_int_equal(iot_template_unknown(BYTES("{devise} {value} {wert}"), names, 2, small,
										  sizeof(small)), 2);
	assert_string_equal(small, "{devise}");
}

static bool
valid(const char *text, size_t len)
{
	char	   *copy = exact_copy(text, len);
	bool		result = iot_utf8_valid(copy, len);

	free(copy);
	return result;
}

static void
utf8_valid(void **state)
{
	assert_true(valid(BYTES("")));
	assert_true(valid(BYTES("plain ASCII of more than eight bytes")));
	assert_true(valid(BYTES("gr\xc3\xbc\xc3\x9f dich, \xe2\x82\xac und \xf0\x9f\x98\x80 ganz am Ende")));
	assert_true(valid(BYTES("\xef\xbf\xbf")));
	assert_true(valid(BYTES("\xf4\x8f\xbf\xbf")));
	assert_true(valid(BYTES("a\0b")));
}

static void
utf8_invalid(void **state)
{
	assert_false(valid(BYTES("\x80")));
	assert_false(valid(BYTES("12345678\xff")));
	assert_false(valid(BYTES("\xc3")));
	assert_false(valid(BYTES("\xc3\x28")));
	assert_false(valid(BYTES("\xc0\xaf")));			/* "/" in two bytes */
	assert_false(valid(BYTES("\xe0\x80\xaf")));
	assert_false(valid(BYTES("\xf0\x80\x80\xaf")));
	assert_false(valid(BYTES("\xed\xa0\x80")));		/* a surrogate */
	assert_false(valid(BYTES("\xf4\x90\x80\x80")));	/* beyond U+10FFFF */
	assert_false(valid(BYTES("\xf5\x80\x80\x80")));
	assert_false(valid(BYTES("\xe2\x82")));
	assert_false(valid(BYTES("\xf0\x9f\x98")));
	assert_false(valid(BYTES("\xfe")));
}

static void
utf8_clip(void **state)
{
	assert_int_equal(iot_utf8_clip(BYTES("abc"), 3), 3);
	assert_int_equal(iot_utf8_clip(BYTES("abcd"), 3), 3);
	assert_int_equal(iot_utf8_clip(BYTES("ab\xe2\x82\xac"), 4), 2);
	assert_int_equal(iot_utf8_clip(BYTES("ab\xe2\x82\xac"), 5), 5);
	assert_int_equal(iot_utf8_clip(BYTES("ab\xe2\x82\xac" "d"), 5), 5);
	assert_int_equal(iot_utf8_clip(BYTES("\xe2\x82\xac"), 0), 0);
}

static void
backoff_grows_to_its_cap(void **state)
{
	IotBackoff	backoff;

	iot_backoff_init(&backoff, 100, 5000, 1);
	for (uint32_t i = 0; i < 100; i++)
	{
		uint32_t	step = i < 6 ? UINT32_C(100) << i : 5000;
		uint32_t	delay = iot_backoff_next(&backoff);

		assert_between(delay, step / 2, step);
	}
	iot_backoff_reset(&backoff);
	assert_between(iot_backoff_next(&backoff), 50, 100);
}

static void
backoff_spreads(void **state)
{
	uint32_t	lowest = UINT32_MAX;
	uint32_t	highest = 0;

	for (uint64_t seed = 0; seed < 200; seed++)
	{
		uint64_t	random = seed;
		uint32_t	delay = iot_backoff_delay(1000, 60000, 2, &random);

		lowest = delay < lowest ? delay : lowest;
		highest = delay > highest ? delay : highest;
	}
	assert_between(lowest, 2000, 2200);
	assert_between(highest, 3800, 4000);
}

static void
backoff_survives_anything(void **state)
{
	uint64_t	random = 7;

	assert_between(iot_backoff_delay(0, 0, 0, &random), 0, 0);
	assert_between(iot_backoff_delay(1, 1, UINT32_MAX, &random), 0, 1);
	assert_between(iot_backoff_delay(UINT32_MAX, UINT32_MAX, 31, &random), UINT32_MAX / 2,
					UINT32_MAX);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(glob_matches),
		cmocka_unit_test(glob_is_cheap),
		cmocka_unit_test(glob_valid),
		cmocka_unit_test(template_text),
		cmocka_unit_test(template_json),
		cmocka_unit_test(template_json_cannot_be_escaped_from),
		cmocka_unit_test(template_too_long),
		cmocka_unit_test(template_unknown),
		cmocka_unit_test(utf8_valid),
		cmocka_unit_test(utf8_invalid),
		cmocka_unit_test(utf8_clip),
		cmocka_unit_test(backoff_grows_to_its_cap),
		cmocka_unit_test(backoff_spreads),
		cmocka_unit_test(backoff_survives_anything)
	};

	return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
