/*
 * json.h
 *		Reading JSON of strangers: cJSON's tree, walked value by value, with the checks it leaves out.
 */
#ifndef IOT_CORE_JSON_H
#define IOT_CORE_JSON_H

#include "core/core.h"

#define IOT_JSON_MAX_DEPTH	32

struct cJSON;

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
 * A parsed text and the place in it.  Once error is set, which is a static phrase, every call
 * fails; error_at is the byte where parsing ended.  Texts that are handed out live as long as the
 * tree.
 */
typedef struct IotJson
{
	struct cJSON *tree;
	struct cJSON *value;		/* the one that comes next */
	struct cJSON *member[IOT_JSON_MAX_DEPTH + 1];	/* next member of each entered list */
	int			depth;
	const char *error;
	size_t		error_at;
} IotJson;

extern IOT_API void iot_json_init(IotJson *json, const char *text, size_t len);
extern IOT_API void iot_json_free(struct cJSON *tree);
extern IOT_API IotJsonType iot_json_peek(const IotJson *json);
extern IOT_API bool iot_json_enter(IotJson *json);
extern IOT_API bool iot_json_next_key(IotJson *json, const char **key, size_t *len);
extern IOT_API bool iot_json_next_element(IotJson *json);
extern IOT_API bool iot_json_key_is(const char *key, size_t len, const char *word);
extern IOT_API double iot_json_number(const IotJson *json);
extern IOT_API const char *iot_json_string(const IotJson *json, size_t *len);

#endif							/* IOT_CORE_JSON_H */
