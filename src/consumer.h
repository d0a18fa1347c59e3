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

extern void iot_consumer_next(Datum name, Datum types, int max_rows, IotLogEvents *events);
extern PGDLLEXPORT Datum iot_consumer_snapshot(void);

#endif							/* IOT_CONSUMER_H */
