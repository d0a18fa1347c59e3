/*
 * clock.c
 *		Preloaded into a process, sets its system clock: so many seconds beside the true one as the
 *		file holds that IOT_TEST_CLOCK names.
 *
 * The file is mapped, so that all processes are set at the same moment, and the clock may be asked for
 * within a signal handler, as servers do.  Other clocks are left alone: nobody sets those.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset = NULL;

__attribute__((constructor)) static void
map_offset(void)
{
	const char *file = getenv("IOT_TEST_CLOCK");
	int			fd = file == NULL ? -1 : open(file, O_RDONLY | O_CLOEXEC);
	void	   *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*offset), PROT_READ, MAP_SHARED, fd, 0);

	if (map != MAP_FAILED)
		offset = map;
	if (fd >= 0)
		close(fd);
}

int
clock_gettime(clockid_t clock, struct timespec *at)
{
	int			rc = (int) syscall(SYS_clock_gettime, clock, at);

	if (rc == 0 && offset != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		at->tv_sec += *offset;
	return rc;
}

int
gettimeofday(struct timeval *at, void *zone)
{
	struct timespec now;

	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t *result)
{
	struct timespec now;

	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return (time_t) -1;
	if (result != NULL)
		*result = now.tv_sec;
	return now.tv_sec;
}
