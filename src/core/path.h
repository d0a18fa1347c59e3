/*
 * path.h
 *		Places in a JSON value: "$.AM2301.Temperature", "$['a b'][0]", "$.*.Humidity".
 *
 * A small part of JSONPath: "$" is the value itself, ".key" and "['key']" a member, "[0]" an
 * element counted from 0, ".*" and "[*]" any member or element.  A path means one place: where "*"
 * leaves a choice, the first in which the rest of the path is found.
 */
#ifndef IOT_CORE_PATH_H
#define IOT_CORE_PATH_H

#include "core/core.h"

#define IOT_PATH_MAX		256	/* bytes */
#define IOT_PATH_MAX_STEPS	16

struct cJSON;

typedef enum IotPathKind
{
	IOT_PATH_KEY,
	IOT_PATH_INDEX,
	IOT_PATH_ANY
} IotPathKind;

typedef struct IotPathStep
{
	IotPathKind kind;
	const char *key;
	uint32_t	key_len;
	uint32_t	index;
} IotPathStep;

/* A checked path; its keys point into the text it was made from. */
typedef struct IotPath
{
	int			count;			/* 0 for "$" */
	IotPathStep steps[IOT_PATH_MAX_STEPS];
} IotPath;

extern IOT_API bool iot_path_parse(const char *text, size_t len, IotPath *path,
								   const char **error);
extern IOT_API const struct cJSON *iot_path_find(const IotPath *path, const struct cJSON *value);

#endif							/* IOT_CORE_PATH_H */
