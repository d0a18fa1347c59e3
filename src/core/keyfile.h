/*
 * keyfile.h
 *		What stands in a key file: one secret a line, or public keys in PEM.
 */
#ifndef IOT_CORE_KEYFILE_H
#define IOT_CORE_KEYFILE_H

#include "core/core.h"

#define IOT_KEYFILE_MAX_SIZE	65536
#define IOT_KEYFILE_MAX_ITEMS	8
#define IOT_KEYFILE_MIN_SECRET	32	/* bytes; an HS256 secret must be as long as its hash */

typedef struct IotKeyFile
{
	char	   *content;		/* malloc'ed; the items point into it and end with a zero */
	bool		is_pem;
	int			count;
	char	   *item[IOT_KEYFILE_MAX_ITEMS];
} IotKeyFile;

extern IOT_API bool iot_keyfile_read(IotKeyFile *file, const char *path, char *error,
									 size_t error_size);
extern IOT_API void iot_keyfile_free(IotKeyFile *file);

#endif							/* IOT_CORE_KEYFILE_H */
