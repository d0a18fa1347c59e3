/*
 * json.h
 *		A strict JSON reader that walks over a payload without building anything.
 */
#ifndef IOT_CORE_JSON_H
#define IOT_CORE_JSON_H

#include "core/core.h"

#define IOT_JSON_MAX_DEPTH	32

typedef enum IotJsonType
{
	IOT_JSON_INVALID,
	IOT_JSON_NULL,
	IOT_JSON_FALSE,
	IOT_JSON_TRUE,
	IOT_JSON_NUMBER,
	IOT_JSON_STRING,
	IOT_JSON_ARRAY,
	IOT_JSON_OBJECT
} IotJsonType;

/*
 * Position in a text.  Once error is set, which is a static phrase, every call fails.  scratch
 * takes decoded strings, those without escapes being left where they are; size it like the text.
 */
typedef struct IotJson
{
	const char *start;
	const char *at;
	const char *end;
	char	   *scratch;
	size_t		scratch_left;
	int			depth;
	const char *error;
} IotJson;

extern IOT_API void iot_json_init(IotJson *json, const char *text, size_t len,
								  char *scratch, size_t scratch_size);
extern IOT_API IotJsonType iot_json_peek(IotJson *json);
extern IOT_API bool iot_json_enter(IotJson *json);
extern IOT_API bool iot_json_next_key(IotJson *json, bool *first,
									  const char **key, size_t *len);
extern IOT_API bool iot_json_next_element(IotJson *json, bool *first);
extern IOT_API bool iot_json_key_is(const char *key, size_t len, const char *word);
extern IOT_API bool iot_json_number(IotJson *json, double *value);
extern IOT_API bool iot_json_string(IotJson *json, const char **text, size_t *len);
extern IOT_API bool iot_json_skip(IotJson *json);
extern IOT_API bool iot_json_end(IotJson *json);

#endif							/* IOT_CORE_JSON_H */
