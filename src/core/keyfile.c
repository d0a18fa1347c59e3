/*
 * keyfile.c
 *		What stands in a key file: one secret a line, or public keys in PEM.
 *
 * Two keys in one file are both good, so that a key can be changed without a moment at which
 * tokens of either are refused.  A secret is a line of printable text, as PostgREST's
 * "jwt-secret = @file" wants it (which knows one only).  A file of secrets that everybody can read
 * is refused, public keys may lie open.  Error texts never show what is inside.
 */
#include "core/keyfile.h"

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PEM_BEGIN	"-----BEGIN "
#define PEM_END		"-----END "

static bool
fail(IotKeyFile *file, char *error, size_t error_size, const char *path, const char *why)
{
	snprintf(error, error_size, "key file \"%s\" %s", path, why);
	iot_keyfile_free(file);
	return false;
}

/* Cuts the content into its PEM blocks, each with its END line; false with a reason. */
static bool
split_pem(IotKeyFile *file, const char **why)
{
	char	   *at = file->content;

	while ((at = strstr(at, PEM_BEGIN)) != NULL)
	{
		char	   *end = strstr(at, PEM_END);

		if (end == NULL || (end = strchr(end + strlen(PEM_END), '-')) == NULL)
		{
			*why = "has a PEM block without an end";
			return false;
		}
		if (strncmp(at, PEM_BEGIN "PUBLIC KEY", strlen(PEM_BEGIN "PUBLIC KEY")) != 0)
		{
			*why = "holds a PEM block that is not a public key; give the public half only";
			return false;
		}
		if (file->count == IOT_KEYFILE_MAX_ITEMS)
		{
			*why = "holds more than 8 keys";
			return false;
		}
		end += strspn(end, "-");
		file->item[file->count++] = at;
		if (*end == '\0')
			break;
		/* the newline after the block gives way to the terminating zero */
		if (*end != '\n' && *end != '\r')
		{
			*why = "has text right after a PEM block";
			return false;
		}
		*end = '\0';
		at = end + 1;
	}
	return true;
}

static bool
split_secrets(IotKeyFile *file, const char **why)
{
	char	   *line = file->content;

	while (*line != '\0')
	{
		char	   *end = line + strcspn(line, "\r\n");
		char	   *next = end + strspn(end, "\r\n");

		*end = '\0';
		if (end > line)
		{
			for (const char *p = line; p < end; p++)
			{
				if ((unsigned char) *p < 0x20 || *p == 0x7f)
				{
					*why = "is neither text nor PEM; write a secret as one line of text";
					return false;
				}
			}
			if (end - line < IOT_KEYFILE_MIN_SECRET)
			{
				*why = "holds a secret of less than 32 bytes";
				return false;
			}
			if (file->count == IOT_KEYFILE_MAX_ITEMS)
			{
				*why = "holds more than 8 keys";
				return false;
			}
			file->item[file->count++] = line;
		}
		line = next;
	}
	return true;
}

/* Reads the file; false with a text that names it where it is not a good key file. */
bool
iot_keyfile_read(IotKeyFile *file, const char *path, char *error, size_t error_size)
{
	const char *why = NULL;
	FILE	   *stream;
	struct stat status;
	size_t		len;
	bool		failed;

	memset(file, 0, sizeof(*file));
	stream = fopen(path, "rb");
	if (stream == NULL)
	{
		snprintf(error, error_size, "could not open key file \"%s\": %s", path, strerror(errno));
		return false;
	}
	file->content = malloc(IOT_KEYFILE_MAX_SIZE + 1);
	if (file->content == NULL)
	{
		fclose(stream);
		return fail(file, error, error_size, path, "needs memory that is not there");
	}
	len = fread(file->content, 1, IOT_KEYFILE_MAX_SIZE + 1, stream);
	failed = ferror(stream) != 0 || fstat(fileno(stream), &status) != 0;
	fclose(stream);
	if (failed)
		return fail(file, error, error_size, path, "could not be read");
	if (len > IOT_KEYFILE_MAX_SIZE)
		return fail(file, error, error_size, path, "is larger than 64 kB");
	file->content[len] = '\0';
	if (memchr(file->content, '\0', len) != NULL)
		return fail(file, error, error_size, path,
					"is neither text nor PEM; write a secret as one line of text");
	file->is_pem = strstr(file->content, PEM_BEGIN) != NULL;
	if (!(file->is_pem ? split_pem(file, &why) : split_secrets(file, &why)))
		return fail(file, error, error_size, path, why);
	if (file->count == 0)
		return fail(file, error, error_size, path, "is empty");
	if (!file->is_pem && S_ISREG(status.st_mode) && (status.st_mode & S_IRWXO) != 0)
		return fail(file, error, error_size, path, "is open to everybody: chmod o= it");
	return true;
}

/* Frees the content, and wipes it before. */
void
iot_keyfile_free(IotKeyFile *file)
{
	if (file->content != NULL)
		explicit_bzero(file->content, IOT_KEYFILE_MAX_SIZE + 1);
	free(file->content);
	memset(file, 0, sizeof(*file));
}
