/*
 * alarm.h
 *		Judging measurements by alarm rules, and writing what follows.
 */
#ifndef IOT_ALARM_H
#define IOT_ALARM_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "alarm_rule.h"

/* A rule at work on a device. */
typedef struct IotAlarmRun
{
	pg_uuid_t	device_id;
	const IotAlarmRule *rule;
	pg_uuid_t	alarm_id;		/* of the open alarm */
	TimestampTz judged_at;		/* event time up to which it has come */
	IotRuleState state;
	IotRuleState stored;		/* as it is in the tables */
	TimestampTz stored_due_at;	/* likewise; DT_NOEND where there is none */
} IotAlarmRun;

/* Opening or closing, to be written. */
typedef struct IotAlarmStep
{
	IotAlarmRun *run;
	IotRuleStep step;
	pg_uuid_t	alarm_id;
	TimestampTz at;
	TimestampTz opened_at;
	double		value;
} IotAlarmStep;

/* A sensor that has rules, in a statement. */
typedef struct IotAlarmWatch
{
	int			run_count;
	IotAlarmRun *runs;
	double		value;			/* the last that was judged */
} IotAlarmWatch;

/* All that a statement is judged by, in the memory context of its beginning. */
typedef struct IotAlarmBatch
{
	MemoryContext cxt;
	List	   *watches;
	bool		remembers;		/* some rule has more than its open alarm */
	IotAlarmStep *steps;
	int			step_count;
	int			step_size;
} IotAlarmBatch;

/* alarm.c */
extern IotAlarmBatch *iot_alarm_begin(void);
extern IotAlarmWatch *iot_alarm_watch(IotAlarmBatch *batch, const pg_uuid_t *device_id,
									  const pg_uuid_t *parameter_id);
extern void iot_alarm_load(IotAlarmBatch *batch);
extern void iot_alarm_judge(IotAlarmBatch *batch, IotAlarmWatch *watch, TimestampTz ts,
							double value);
extern void iot_alarm_fall_due(IotAlarmBatch *batch, IotAlarmWatch *watch, IotAlarmRun *run);
extern void iot_alarm_end(IotAlarmBatch *batch);

/* alarm_write.c */
extern void iot_alarm_write(IotAlarmBatch *batch);

#endif							/* IOT_ALARM_H */
