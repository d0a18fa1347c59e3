/*
 * rollup_note.h
 *		Which minutes of which sensors have to be rolled up anew.
 */
#ifndef IOT_ROLLUP_NOTE_H
#define IOT_ROLLUP_NOTE_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

/* Two such rows fill a page. */
#define IOT_ROLLUP_NOTE_MAX 96

typedef struct IotRollupNote
{
	int			count;
	TimestampTz oldest;
	pg_uuid_t	device_ids[IOT_ROLLUP_NOTE_MAX];
	pg_uuid_t	parameter_ids[IOT_ROLLUP_NOTE_MAX];
	TimestampTz minutes[IOT_ROLLUP_NOTE_MAX];
} IotRollupNote;

/* Notes of a statement on their way; zeroed but for the time. */
typedef struct IotRollupNotes
{
	TimestampTz late;			/* minutes before this one are kept apart */
	IotRollupNote present;
	IotRollupNote past;
} IotRollupNotes;

extern void iot_rollup_notes_init(IotRollupNotes *notes);
extern TimestampTz iot_rollup_minute(TimestampTz ts);
extern void iot_rollup_notes_add(IotRollupNotes *notes, const pg_uuid_t *device_id,
								 const pg_uuid_t *parameter_id, TimestampTz minute);
extern void iot_rollup_notes_write(IotRollupNotes *notes);

#endif							/* IOT_ROLLUP_NOTE_H */
