/*
 * consumer.h
 *		Snapshots as cursors of the event log hold them.
 */
#ifndef IOT_CONSUMER_H
#define IOT_CONSUMER_H

extern PGDLLEXPORT Datum iot_consumer_snapshot(void);

#endif							/* IOT_CONSUMER_H */
