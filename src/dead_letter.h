/*
 * dead_letter.h
 *		What could not be used, kept with the reason.
 */
#ifndef IOT_DEAD_LETTER_H
#define IOT_DEAD_LETTER_H

#include "nodes/pg_list.h"

#include "ingest.h"

/* A letter in the making.  Texts belong to the caller and need not be valid in any encoding. */
typedef struct IotDeadLetter
{
	const char *adapter;		/* NULL at the SQL door */
	const char *device;			/* NULL where it is not known */
	const char *topic;			/* NULL at the SQL door */
	const char *payload;
	uint32		topic_len;
	uint32		payload_len;
	IotReason	reason;
	const char *error;			/* may be NULL */
	TimestampTz received_at;
	bool		retained;
	uint32		count;			/* of values that it stands for */
	int			message;		/* index in the batch */
} IotDeadLetter;

extern void iot_dead_letter_restate(int64 dead_letter_id, const IotDeadLetter *letter);
extern PGDLLEXPORT void iot_dead_letter_store(const IotDeadLetter *letters, int count);

#endif							/* IOT_DEAD_LETTER_H */
