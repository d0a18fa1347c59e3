/*
 * template.c
 *		Fuzz target: texts with {placeholders} (core/template.h).
 */
#include "fuzz.h"

#include "core/template.h"

static const char *
echo(void *arg, const char *name, size_t name_len, size_t *len)
{
	*len = name_len;
	return name;
}

static void
render(const char *text, size_t len, IotTemplateMode mode)
{
	char		small[32];
	size_t		needed = iot_template_render(text, len, mode, echo, NULL, NULL, 0);
	char	   *out = malloc(needed + 1);

	REQUIRE(out != NULL);
	REQUIRE(iot_template_render(text, len, mode, echo, NULL, out, needed + 1) == needed);
	REQUIRE(iot_template_render(text, len, mode, echo, NULL, small, sizeof(small)) == needed);
	REQUIRE(memchr(small, '\0', sizeof(small)) != NULL);
	free(out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const names[] = {"device", "value"};
	const char *text = (const char *) data;
	const char *name;
	size_t		name_len;
	size_t		offset = 0;
	char		small[32];

	while (iot_template_next(text, size, &offset, &name, &name_len))
		REQUIRE(name >= text && name + name_len <= text + size && offset <= size);
	render(text, size, IOT_TEMPLATE_TEXT);
	render(text, size, IOT_TEMPLATE_JSON);
	(void) iot_template_unknown(text, size, names, 2, small, sizeof(small));
	(void) iot_template_is_json(text, size);
	return 0;
}
