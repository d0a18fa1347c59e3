/*
 * template.h
 *		Texts with {placeholders}: notifications, and the payloads of commands.
 */
#ifndef IOT_CORE_TEMPLATE_H
#define IOT_CORE_TEMPLATE_H

#include "core/core.h"

typedef enum IotTemplateMode
{
	IOT_TEMPLATE_TEXT,			/* values go in as they are */
	IOT_TEMPLATE_JSON			/* values go in as within a JSON string */
} IotTemplateMode;

/* Value of a placeholder, *len bytes, or NULL where there is none: nothing is put in then. */
typedef const char *(*IotTemplateLookup) (void *arg, const char *name, size_t name_len,
										  size_t *len);

extern IOT_API bool iot_template_next(const char *text, size_t len, size_t *offset,
									  const char **name, size_t *name_len);
extern IOT_API size_t iot_template_unknown(const char *text, size_t len,
										   const char *const *names, size_t count,
										   char *out, size_t out_size);
extern IOT_API bool iot_template_is_json(const char *text, size_t len);
extern IOT_API size_t iot_template_render(const char *text, size_t len, IotTemplateMode mode,
										  IotTemplateLookup lookup, void *arg,
										  char *out, size_t out_size);

#endif							/* IOT_CORE_TEMPLATE_H */
