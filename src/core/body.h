/*
 * body.h
 *		Messages of devices that speak their own way: JSON with values anywhere in it, or the plain
 *		text of one value.
 */
#ifndef IOT_CORE_BODY_H
#define IOT_CORE_BODY_H

#include "core/path.h"
#include "core/payload.h"

struct cJSON;

#define IOT_BODY_TEXT_MAX	256		/* bytes of a plain text */

/* A message that was read; plain text stays in the payload. */
typedef struct IotBody
{
	struct cJSON *tree;			/* NULL for plain text */
	const char *text;
	size_t		text_len;
	const char *error;			/* static phrase, where the status is not OK */
	size_t		error_at;		/* byte of the payload that it is about */
} IotBody;

typedef enum IotBodyTime
{
	IOT_BODY_NO_TIME,			/* nothing stands there */
	IOT_BODY_TIME,
	IOT_BODY_LOCAL_TIME,		/* as a clock shows it, in whatever zone */
	IOT_BODY_INVALID_TIME
} IotBodyTime;

/* What a device type says instead of "online" and "offline", and where; NULL for the usual. */
typedef struct IotStatusWords
{
	const IotPath *path;
	const char *online;
	const char *offline;
} IotStatusWords;

extern IOT_API IotPayloadStatus iot_body_read(IotBody *body, const char *payload, size_t len);
extern IOT_API void iot_body_free(IotBody *body);
extern IOT_API struct cJSON *iot_body_members(const IotBody *body, const IotPath *path);
extern IOT_API struct cJSON *iot_body_next(const struct cJSON *member);
extern IOT_API const char *iot_body_key(const struct cJSON *member);
extern IOT_API char *iot_body_print(struct cJSON *member);
extern IOT_API IotBodyTime iot_body_time(const IotBody *body, const IotPath *path,
										 double unit_ms, int64_t *micros);
extern IOT_API bool iot_body_value(const IotBody *body, const IotPath *path, IotValue *value);
extern IOT_API IotPayloadStatus iot_body_status(const IotBody *body, const IotStatusWords *words,
												bool *online, const char **error);
extern IOT_API double iot_scale_from_device(double number, double scale, double shift);
extern IOT_API double iot_scale_to_device(double value, double scale, double shift);

#endif							/* IOT_CORE_BODY_H */
