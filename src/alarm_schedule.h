/*
 * alarm_schedule.h
 *		Hours of the week during which an alarm rule is at work.
 */
#ifndef IOT_ALARM_SCHEDULE_H
#define IOT_ALARM_SCHEDULE_H

#include "datatype/timestamp.h"
#include "pgtime.h"

typedef struct IotSchedule
{
	pg_tz	   *zone;
	uint8		weekdays;		/* bit 0 is Monday: the days on which it begins */
	int64		from;			/* microseconds after local midnight */
	int64		to;				/* likewise, more than a day where it ends on the next */
	/* the stretch that was looked up last, within which nothing changes */
	TimestampTz begin;
	TimestampTz end;
	bool		inside;
} IotSchedule;

extern IotSchedule *iot_schedule_make(pg_tz *zone, uint8 weekdays, int64 from, int64 to);
extern bool iot_schedule_inside(IotSchedule *schedule, TimestampTz at);
extern TimestampTz iot_schedule_begin(IotSchedule *schedule, TimestampTz at);
extern TimestampTz iot_schedule_end(IotSchedule *schedule, TimestampTz at);

#endif							/* IOT_ALARM_SCHEDULE_H */
