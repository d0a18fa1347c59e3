/*
 * memory_file.h
 *		A file that only this process has, for code that reads files.
 */
#ifndef IOT_FUZZ_MEMORY_FILE_H
#define IOT_FUZZ_MEMORY_FILE_H

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

/* Path of a file with this content, which nobody else may read; the next call changes it. */
static inline const char *
memory_file(const void *content, size_t len)
{
	static char path[64];
	static int	fd = -1;

	if (fd < 0)
	{
		fd = memfd_create("fuzz", MFD_CLOEXEC);
		REQUIRE(fd >= 0 && fchmod(fd, 0600) == 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	REQUIRE(ftruncate(fd, 0) == 0 && pwrite(fd, content, len, 0) == (ssize_t) len);
	return path;
}

#endif							/* IOT_FUZZ_MEMORY_FILE_H */
