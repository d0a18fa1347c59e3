/*
 * timestamp.c
 *		Device times: ISO 8601, or milliseconds since 1970.
 *
 * A time without a zone is refused where nobody has said which it is: guessing one would store
 * measurements hours away from where they belong, and nobody would be told.
 */
#include "core/timestamp.h"

#include <math.h>

#ifdef POSTGRES_H
#error "src/core is plain C"
#endif

#define MICROS_PER_SECOND	INT64_C(1000000)
#define FIRST_SECOND		INT64_C(-62135596800)	/* 0001-01-01 */
#define LAST_SECOND			INT64_C(253402300799)	/* 9999-12-31 23:59:59 */

typedef struct Cursor
{
	const char *at;
	const char *end;
} Cursor;

/* Takes exactly that many digits. */
static bool
take_digits(Cursor *cursor, int count, int *value)
{
	*value = 0;
	for (int i = 0; i < count; i++)
	{
		if (cursor->at == cursor->end || *cursor->at < '0' || *cursor->at > '9')
			return false;
		*value = *value * 10 + (*cursor->at++ - '0');
	}
	return true;
}

static bool
take(Cursor *cursor, char c)
{
	if (cursor->at == cursor->end || *cursor->at != c)
		return false;
	cursor->at++;
	return true;
}

static int
days_in_month(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool		leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return days[month - 1] + (month == 2 && leap);
}

/* Days from 1970-01-01, by counting years that begin in March. */
static int64_t
days_from_date(int year, int month, int day)
{
	int64_t		y = month <= 2 ? year - 1 : year;
	int64_t		era = y / 400;
	int64_t		year_of_era = y - era * 400;
	int64_t		day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	int64_t		day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

	return era * 146097 + day_of_era - 719468;
}

static bool
take_fraction(Cursor *cursor, int *micros)
{
	int			scale = 100000;
	const char *first;

	*micros = 0;
	if (!take(cursor, '.') && !take(cursor, ','))
		return true;
	first = cursor->at;
	while (cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9')
	{
		*micros += scale * (*cursor->at++ - '0');
		scale /= 10;
	}
	return cursor->at > first;
}

static bool
take_zone(Cursor *cursor, int *offset_seconds)
{
	int			sign;
	int			hours;
	int			minutes = 0;

	*offset_seconds = 0;
	if (take(cursor, 'Z') || take(cursor, 'z'))
		return true;
	if (take(cursor, '+'))
		sign = 1;
	else if (take(cursor, '-'))
		sign = -1;
	else
		return false;
	if (!take_digits(cursor, 2, &hours))
		return false;
	if (cursor->at < cursor->end)
	{
		(void) take(cursor, ':');
		if (!take_digits(cursor, 2, &minutes))
			return false;
	}
	if (hours > 15 || minutes > 59)
		return false;
	*offset_seconds = sign * (hours * 3600 + minutes * 60);
	return true;
}

/* Reads the whole text; without a zone, *micros is as if it were that of UTC. */
static bool
parse(const char *text, size_t len, bool zoned, int64_t *micros)
{
	Cursor		cursor = {text, text + len};
	int			year;
	int			month;
	int			day;
	int			hour;
	int			minute;
	int			second = 0;
	int			fraction = 0;
	int			offset = 0;
	int64_t		seconds;

	if (!take_digits(&cursor, 4, &year) || !take(&cursor, '-') ||
		!take_digits(&cursor, 2, &month) || !take(&cursor, '-') ||
		!take_digits(&cursor, 2, &day))
		return false;
	if (!take(&cursor, 'T') && !take(&cursor, 't') && !take(&cursor, ' '))
		return false;
	if (!take_digits(&cursor, 2, &hour) || !take(&cursor, ':') ||
		!take_digits(&cursor, 2, &minute))
		return false;
	if (take(&cursor, ':') &&
		(!take_digits(&cursor, 2, &second) || !take_fraction(&cursor, &fraction)))
		return false;
	if ((zoned && !take_zone(&cursor, &offset)) || cursor.at != cursor.end)
		return false;
	/* second 60 is a leap second: the first of the next minute, as in the server */
	if (year < 1 || month < 1 || month > 12 || day < 1 || day > days_in_month(year, month) ||
		hour > 23 || minute > 59 || second > 60)
		return false;
	seconds = days_from_date(year, month, day) * 86400 +
		hour * 3600 + minute * 60 + second - offset;
	if (seconds < FIRST_SECOND || seconds > LAST_SECOND)
		return false;
	*micros = seconds * MICROS_PER_SECOND + fraction;
	return true;
}

/* YYYY-MM-DD, "T" or a blank, HH:MM[:SS[.fraction]], and Z or an offset.  No allocation. */
bool
iot_timestamp_parse(const char *text, size_t len, int64_t *micros)
{
	return parse(text, len, true, micros);
}

/* The same without a zone: *micros is the time in UTC of a clock that shows the same there. */
bool
iot_timestamp_parse_local(const char *text, size_t len, int64_t *micros)
{
	return parse(text, len, false, micros);
}

/* False where the number is no time: not finite, or outside of years 1 to 9999. */
bool
iot_timestamp_from_ms(double ms, int64_t *micros)
{
	if (!(ms >= (double) FIRST_SECOND * 1000 && ms <= (double) LAST_SECOND * 1000))
		return false;
	*micros = (int64_t) llround(ms * 1000);
	return true;
}
