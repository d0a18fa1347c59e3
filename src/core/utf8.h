/*
 * utf8.h
 *		Validity of UTF-8, and cutting it without breaking a character.
 */
#ifndef IOT_CORE_UTF8_H
#define IOT_CORE_UTF8_H

#include "core/core.h"

extern IOT_API bool iot_utf8_valid(const char *text, size_t len);
extern IOT_API size_t iot_utf8_clip(const char *text, size_t len, size_t max);

#endif							/* IOT_CORE_UTF8_H */
