/*
 * log.c
 *		The daemon's log: lines to the standard error, with a time.
 *
 * One line per change of state.  Never a token, a key or a password.
 */
#include "pushd/pushd.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/utf8.h"

#define LOG_LINES_PER_SECOND 20

static void
log_write(const char *format, va_list arguments)
{
	char		line[1024];
	char		at[32];
	struct timespec now;
	struct tm	parts;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &parts);
	strftime(at, sizeof(at), "%Y-%m-%d %H:%M:%S", &parts);
	vsnprintf(line, sizeof(line), format, arguments);
	fprintf(stderr, "%s.%03ld UTC iot-pushd[%d] %s\n", at, now.tv_nsec / 1000000, (int) getpid(),
			line);
}

/* Writes a line. */
void
log_line(const char *format,...)
{
	va_list		arguments;

	va_start(arguments, format);
	log_write(format, arguments);
	va_end(arguments);
}

/* The same for what clients cause: so many lines a second, then only how many there were. */
void
log_limited(const char *format,...)
{
	static int64_t second = 0;
	static int	written = 0;
	static int	suppressed = 0;
	int64_t		now = now_ms() / 1000;
	va_list		arguments;

	if (now != second)
	{
		if (suppressed > 0)
			log_line("%d more lines about clients were left out", suppressed);
		second = now;
		written = 0;
		suppressed = 0;
	}
	if (written >= LOG_LINES_PER_SECOND)
	{
		suppressed++;
		return;
	}
	written++;
	va_start(arguments, format);
	log_write(format, arguments);
	va_end(arguments);
}

/* A name that somebody else chose, in quotes, as it may stand in a line of the log. */
void
log_name(char *target, size_t size, const char *name)
{
	size_t		len = iot_utf8_clip(name, strlen(name), size - 3);
	size_t		at = 0;

	target[at++] = '"';
	for (size_t i = 0; i < len; i++)
		target[at++] = (unsigned char) name[i] < 0x20 || name[i] == 0x7f || name[i] == '"' ?
			'?' : name[i];
	target[at++] = '"';
	target[at] = '\0';
}
