/*
 * path.c
 *		Fuzz target: paths, and messages that they are followed in (core/path.h, core/body.h).
 *
 * The text up to the first zero byte is a path, the rest a message.
 */
#include "fuzz.h"

#include "core/body.h"

static void
follow(const IotBody *body, const IotPath *path)
{
	IotStatusWords words = {path, "up", "0"};
	IotValue	value = {0};
	bool		online;
	const char *error;
	int64_t		micros;

	if (iot_body_value(body, path, &value))
		REQUIRE(value.kind != IOT_VALUE_WORD || value.word != NULL);
	if (iot_body_time(body, path, 1000, &micros) == IOT_BODY_TIME)
		REQUIRE(micros >= INT64_C(-62135596800000000) && micros < INT64_C(253402300800000000));
	for (struct cJSON *member = iot_body_members(body, path); member != NULL;
		 member = iot_body_next(member))
	{
		char	   *text = iot_body_print(member);

		REQUIRE(text != NULL && iot_body_key(member) != NULL);
		free(text);
	}
	if (iot_body_status(body, &words, &online, &error) != IOT_PAYLOAD_OK)
		REQUIRE(error != NULL);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *first;
	const char *second;
	size_t		first_len;
	size_t		second_len;
	IotPath		path;
	IotBody		body;
	const char *error;

	split_input(data, size, &first, &first_len, &second, &second_len);
	if (!iot_path_parse(first, first_len, &path, &error))
	{
		REQUIRE(error != NULL && path.count == 0);
		return 0;
	}
	for (int i = 0; i < path.count; i++)
		REQUIRE(path.steps[i].kind != IOT_PATH_KEY ||
				(path.steps[i].key >= first &&
				 path.steps[i].key + path.steps[i].key_len <= first + first_len));
	if (iot_body_read(&body, second, second_len) == IOT_PAYLOAD_OK)
	{
		REQUIRE(body.error == NULL);
		follow(&body, &path);
	}
	else
		REQUIRE(body.error != NULL);
	iot_body_free(&body);
	return 0;
}
