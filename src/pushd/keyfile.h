/*
 * keyfile.h
 *		What stands in a key file: one secret a line, or public keys in PEM.
 */
#ifndef IOT_PUSHD_KEYFILE_H
#define IOT_PUSHD_KEYFILE_H

#include <stdbool.h>
#include <stddef.h>

#define KEYFILE_MAX_SIZE	65536
#define KEYFILE_MAX_ITEMS	8
#define KEYFILE_MIN_SECRET	32	/* bytes; an HS256 secret must be as long as its hash */

typedef struct KeyFile
{
	char	   *content;		/* malloc'ed; the items point into it and end with a zero */
	bool		is_pem;
	int			count;
	char	   *item[KEYFILE_MAX_ITEMS];
} KeyFile;

extern bool keyfile_read(KeyFile *file, const char *path, char *error, size_t error_size);
extern void keyfile_free(KeyFile *file);

#endif							/* IOT_PUSHD_KEYFILE_H */
