/*
 * consumer.h
 *		Reading the event log by a cursor.
 */
#ifndef IOT_CONSUMER_H
#define IOT_CONSUMER_H

typedef enum IotLogColumn
{
	IOT_LOG_ID, IOT_LOG_EVENT_ID, IOT_LOG_TYPE, IOT_LOG_AGGREGATETYPE, IOT_LOG_AGGREGATEID,
	IOT_LOG_DEVICE_ID, IOT_LOG_PAYLOAD, IOT_LOG_CREATED_AT, IOT_LOG_COLUMNS
} IotLogColumn;

typedef struct IotLogEvent
{
	Datum		values[IOT_LOG_COLUMNS];
	bool		nulls[IOT_LOG_COLUMNS];
} IotLogEvent;

typedef struct IotLogEvents
{
	int			count;
	IotLogEvent *events;
} IotLogEvents;

/* What is new in a snapshot: the events of these transactions that are visible in it. */
typedef struct IotLogWindow
{
	uint64		from;			/* an xid, inclusive */
	uint64		until;			/* exclusive */
	Datum		target;			/* the snapshot, of SQL type pg_snapshot */
	int64		after_id;
	int64		max_rows;
} IotLogWindow;

/* consumer.c */
extern void iot_consumer_next(Datum name, bool from_start, Datum types, int max_rows,
							  IotLogEvents *events);
extern PGDLLEXPORT Datum iot_consumer_snapshot(void);

/* event_scan.c */
extern bool iot_event_scan(const IotLogWindow *window, Datum types, IotLogEvents *events);

#endif							/* IOT_CONSUMER_H */
