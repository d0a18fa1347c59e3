/*
 * alarm_schedule.c
 *		Hours of the week during which an alarm rule is at work.
 *
 * Local times become times by the server's time zone library, so that a window from 22:00 to 06:00
 * is an hour longer or shorter in the nights in which the clocks change, and begins and ends when
 * the clock on the wall says so.  Runs wherever rules are judged, raises nothing, and keeps the
 * stretch that it found last in the schedule itself.
 */
#include "postgres.h"

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "alarm_schedule.h"

#define DAYS_OF_WEEK	7
#define ALL_WEEKDAYS	((1 << DAYS_OF_WEEK) - 1)

/* Days around a time that are looked at: a week, and another where the clocks leave a window out. */
#define DAYS_AROUND		16

typedef struct Window
{
	TimestampTz begin;
	TimestampTz end;
} Window;

/* In the current memory context; NULL where it leaves out no hour. */
IotSchedule *
iot_schedule_make(pg_tz *zone, uint8 weekdays, int64 from, int64 to)
{
	IotSchedule *schedule;

	if (to <= from)
		to += USECS_PER_DAY;
	if (weekdays == ALL_WEEKDAYS && to - from >= USECS_PER_DAY)
		return NULL;
	schedule = palloc0(sizeof(IotSchedule));
	schedule->zone = zone;
	schedule->weekdays = weekdays;
	schedule->from = from;
	schedule->to = to;
	schedule->begin = schedule->end = DT_NOBEGIN;
	return schedule;
}

/* When the clocks of the zone show a time of a day; false beyond what timestamps hold. */
static bool
local_time(const IotSchedule *schedule, int day, int64 usec, TimestampTz *at)
{
	struct pg_tm tm = {0};
	Timestamp	result;
	int			offset;
	int64		seconds;

	day += (int) (usec / USECS_PER_DAY);
	seconds = usec % USECS_PER_DAY / USECS_PER_SEC;
	j2date(day, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	tm.tm_hour = (int) (seconds / SECS_PER_HOUR);
	tm.tm_min = (int) (seconds / SECS_PER_MINUTE % MINS_PER_HOUR);
	tm.tm_sec = (int) (seconds % SECS_PER_MINUTE);
	tm.tm_isdst = -1;
	offset = DetermineTimeZoneOffset(&tm, schedule->zone);
	if (tm2timestamp(&tm, (fsec_t) (usec % USECS_PER_SEC), &offset, &result) != 0)
		return false;
	*at = result;
	return true;
}

/* The windows around a time, in their order; returns how many there are. */
static int
windows_around(const IotSchedule *schedule, TimestampTz at, Window *windows)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			offset;
	int			today;
	int			count = 0;

	if (timestamp2tm(at, &offset, &tm, &fsec, NULL, schedule->zone) != 0)
		return 0;
	today = date2j(tm.tm_year, tm.tm_mon, tm.tm_mday);
	for (int day = today - DAYS_AROUND; day <= today + DAYS_AROUND; day++)
	{
		Window	   *window = &windows[count];

		/* j2day() counts from Sunday */
		if ((schedule->weekdays & (1 << (j2day(day) + 6) % DAYS_OF_WEEK)) == 0)
			continue;
		if (!local_time(schedule, day, schedule->from, &window->begin) ||
			!local_time(schedule, day, schedule->to, &window->end))
			continue;
		if (window->begin >= window->end)
			continue;			/* within the hour that the clocks leave out */
		if (count > 0 && window->begin <= windows[count - 1].end)
			windows[count - 1].end = Max(window->end, windows[count - 1].end);
		else
			count++;
	}
	return count;
}

/* Finds the stretch that a time is in. */
static void
look_up(IotSchedule *schedule, TimestampTz at)
{
	Window		windows[DAYS_AROUND * 2 + 1];
	int			count;

	if (!TIMESTAMP_NOT_FINITE(schedule->begin) && !TIMESTAMP_NOT_FINITE(schedule->end) &&
		at >= schedule->begin && at < schedule->end)
		return;
	count = windows_around(schedule, at, windows);
	schedule->begin = DT_NOBEGIN;
	schedule->end = DT_NOEND;
	schedule->inside = false;
	for (int i = 0; i < count; i++)
	{
		if (windows[i].end <= at)
			schedule->begin = windows[i].end;
		else if (windows[i].begin > at)
		{
			schedule->end = windows[i].begin;
			break;
		}
		else
		{
			schedule->begin = windows[i].begin;
			schedule->end = windows[i].end;
			schedule->inside = true;
			break;
		}
	}
}

bool
iot_schedule_inside(IotSchedule *schedule, TimestampTz at)
{
	look_up(schedule, at);
	return schedule->inside;
}

/* The last edge up to a time; DT_NOBEGIN where there is none. */
TimestampTz
iot_schedule_begin(IotSchedule *schedule, TimestampTz at)
{
	look_up(schedule, at);
	return schedule->begin;
}

/* The next edge after a time; DT_NOEND where there is none. */
TimestampTz
iot_schedule_end(IotSchedule *schedule, TimestampTz at)
{
	look_up(schedule, at);
	return schedule->end;
}
