/*
 * notify.h
 *		What notify.c finds and notify_write.c writes.
 */
#ifndef IOT_NOTIFY_H
#define IOT_NOTIFY_H

#include "nodes/pg_list.h"

/* A value of a row, which may be NULL. */
typedef struct IotField
{
	Datum		value;
	bool		isnull;
} IotField;

typedef struct IotNotifyEvent
{
	IotField	event_id;
	IotField	type;
	char	   *type_text;
	IotField	device_id;
	IotField	device;			/* its name now, else that in the payload */
	IotField	device_group;
	IotField	author;
	char	   *author_text;	/* NULL where there is none */
	IotField	payload;		/* an object */
	IotField	created_at;
} IotNotifyEvent;

typedef struct IotNotifyRule
{
	char	   *event;
	IotField	channel;
	char	   *channel_text;
	IotField	audience;
	char	   *audience_text;
	IotField	title;
	IotField	body;
	IotField	texts;
} IotNotifyRule;

/* A rule that tells of an event, and whom. */
typedef struct IotNotice
{
	const IotNotifyEvent *event;
	const IotNotifyRule *rule;
	Datum	   *recipients;
	int			count;
} IotNotice;

/* How many deliveries can be made at once. */
typedef struct IotNoticesDue
{
	int			pushes;
	int			transfers;		/* by HTTP or SMTP */
} IotNoticesDue;

extern IotField iot_field(uint64 row, int column);
extern Datum iot_field_array(Oid type, int count, const IotField *first, size_t step);
extern Datum iot_text_array(Datum *values, int count);

extern void iot_notices_write(const List *notices, IotNoticesDue *due);

#endif							/* IOT_NOTIFY_H */
