/*
 * alarm.h
 *		Judging measurements by alarm rules, and writing what follows.
 *
 * Functions raise what SPI raises, and need it.
 */
#ifndef IOT_ALARM_H
#define IOT_ALARM_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "alarm_rule.h"

/* A rule at work on a device. */
typedef struct IotAlarmRun
{
	pg_uuid_t	device_id;
	struct IotAlarmWatch *watch;	/* what it looks at */
	const IotAlarmRule *rule;
	pg_uuid_t	alarm_id;		/* of the open alarm */
	TimestampTz judged_at;		/* event time up to which it has come; DT_NOBEGIN for none */
	TimestampTz clock;			/* the server's time that goes with it */
	TimestampTz since;			/* silent since then where nothing was measured; or DT_NOBEGIN */
	IotRuleState state;
	bool		judged;			/* in this statement */
	bool		must_store;
	bool		known;			/* has a row in iot.alarm_rule_state */
	IotRuleState stored;		/* as it is in the tables */
	TimestampTz stored_due_at;	/* likewise; DT_NOEND where there is none */
	int			failures;		/* in a row, in this statement */
	bool		worked;			/* and something before them went well */
	const char *error;			/* the last of them */
} IotAlarmRun;

/* What is to be written of an alarm. */
typedef struct IotAlarmStep
{
	IotAlarmRun *run;
	IotRuleStep step;
	pg_uuid_t	alarm_id;
	pg_uuid_t	parameter_id;
	int			level;			/* after it */
	int			previous_level;
	TimestampTz at;
	TimestampTz opened_at;
	double		value;			/* NaN for none */
	bool		measured;		/* by a measurement, and not by time alone */
} IotAlarmStep;

struct IotAlarmDevice;

/*
 * What rules look at: a sensor, or a device with all its parameters, whose newest measurement it
 * then holds.
 */
typedef struct IotAlarmWatch
{
	struct IotAlarmDevice *device;	/* NULL where the sensor alone counts */
	pg_uuid_t	parameter_id;
	double		value;			/* the last that was judged; NaN for none */
	TimestampTz ts;				/* and its time; DT_NOBEGIN for none */
	double		change;			/* from the one before it, while it is judged; NaN for none */
	double		elapsed;		/* microseconds between the two */
	int			run_count;
	IotAlarmRun *runs;
} IotAlarmWatch;

/* The newest value of a parameter. */
typedef struct IotAlarmValue
{
	pg_uuid_t	parameter_id;
	const char *name;
	double		value;
	TimestampTz ts;				/* DT_NOBEGIN: it has none yet */
} IotAlarmValue;

/* A device of which rules want to know more than one sensor. */
typedef struct IotAlarmDevice
{
	pg_uuid_t	device_id;
	Jsonb	   *attributes;		/* NULL for none */
	IotAlarmWatch *watch;		/* of its conditions; NULL where there are none */
	IotAlarmValue *values;
	int			value_count;
	int			value_size;
} IotAlarmDevice;

/* A measurement that waits until all of its time are known. */
typedef struct IotAlarmPoint
{
	IotAlarmWatch *watch;
	TimestampTz ts;
	double		value;
} IotAlarmPoint;

/* All that a statement is judged by, in the memory context of its beginning. */
typedef struct IotAlarmBatch
{
	MemoryContext cxt;
	TimestampTz now;
	List	   *watches;		/* of sensors, then of devices */
	List	   *devices;		/* by device_id */
	bool		remembers;		/* some rule has more than its open alarm */
	bool		wants_attributes;
	bool		wants_values;
	bool		outcomes;		/* some rule failed, or could have */
	IotAlarmPoint *points;
	Size		point_count;
	Size		point_size;
	IotAlarmStep *steps;
	int			step_count;
	int			step_size;
} IotAlarmBatch;

/* alarm.c */
extern TimestampTz iot_alarm_now(void);
extern void iot_alarm_set_clock(TimestampTz at);
extern IotAlarmBatch *iot_alarm_begin(void);
extern void iot_alarm_prepare(const pg_uuid_t *device_ids, const pg_uuid_t *parameter_ids,
							  int count);
extern IotAlarmBatch *iot_alarm_batch_make(void);
extern void iot_alarm_watch_rules(IotAlarmBatch *batch, IotAlarmWatch *watch,
								  const pg_uuid_t *device_id, List *rules);
extern IotAlarmDevice *iot_alarm_device(IotAlarmBatch *batch, const pg_uuid_t *device_id);
extern IotAlarmWatch *iot_alarm_watch(IotAlarmBatch *batch, const pg_uuid_t *device_id,
									  const pg_uuid_t *parameter_id);
extern IotAlarmWatch *iot_alarm_watch_device(IotAlarmBatch *batch, const pg_uuid_t *device_id);
extern void iot_alarm_judge(IotAlarmBatch *batch, IotAlarmWatch *watch, TimestampTz ts,
							double value);
extern void iot_alarm_judge_points(IotAlarmBatch *batch);
extern void iot_alarm_end(IotAlarmBatch *batch);

/* alarm_condition.c */
extern double iot_alarm_value(const IotAlarmRun *run);
extern bool iot_alarm_verdict(IotAlarmBatch *batch, IotAlarmRun *run, TimestampTz at,
							  IotRuleVerdict *verdict);
extern TimestampTz iot_alarm_turn(const IotAlarmRun *run);

/* alarm_judge.c */
extern void iot_alarm_judge_run(IotAlarmBatch *batch, IotAlarmRun *run, TimestampTz ts);
extern void iot_alarm_advance(IotAlarmBatch *batch, IotAlarmRun *run, TimestampTz until);
extern TimestampTz iot_alarm_due_at(const IotAlarmRun *run);
extern void iot_alarm_begin_run(IotAlarmRun *run, TimestampTz made_at);
extern void iot_alarm_look(IotAlarmBatch *batch, IotAlarmRun *run);

/* alarm_device.c */
extern Datum iot_alarm_uuid_array(Datum *ids, int count);
extern void iot_alarm_lock_devices(const pg_uuid_t *device_ids, int count);
extern void iot_alarm_lock_first(IotAlarmBatch *batch);
extern int	iot_alarm_try_lock_devices(pg_uuid_t *device_ids, int count);
extern void iot_alarm_load_devices(IotAlarmBatch *batch);
extern void iot_alarm_mark_devices(IotAlarmBatch *batch);

/* alarm_state.c */
extern void iot_alarm_load(IotAlarmBatch *batch);
extern bool iot_alarm_same_tracks(const IotRuleState *a, const IotRuleState *b);
extern void iot_alarm_store(IotAlarmBatch *batch);

/* alarm_write.c */
extern void iot_alarm_write(IotAlarmBatch *batch);

/* alarm_error.c */
extern ErrorData *iot_alarm_try(void (*body) (void *arg), void *arg);
extern void iot_alarm_failed(IotAlarmBatch *batch, IotAlarmRun *run, const ErrorData *error);
extern void iot_alarm_worked(IotAlarmBatch *batch, IotAlarmRun *run);
extern void iot_alarm_store_errors(IotAlarmBatch *batch);

#endif							/* IOT_ALARM_H */
