/*
 * rollup_note.h
 *		Which minutes of which sensors have to be rolled up anew.
 */
#ifndef IOT_ROLLUP_NOTE_H
#define IOT_ROLLUP_NOTE_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

/* Two such rows fill a page. */
#define IOT_ROLLUP_NOTE_MAX 92

/* Minutes that a run holds at most, so that whoever takes notes knows how many there may be. */
#define IOT_ROLLUP_RUN_MAX 16

/* Minutes of a sensor that follow each other. */
typedef struct IotRollupRun
{
	TimestampTz start;
	int			length;			/* 0: none */
} IotRollupRun;

typedef struct IotRollupNote
{
	int			count;
	int			total;			/* minutes of all runs */
	TimestampTz oldest;
	pg_uuid_t	device_ids[IOT_ROLLUP_NOTE_MAX];
	pg_uuid_t	parameter_ids[IOT_ROLLUP_NOTE_MAX];
	TimestampTz starts[IOT_ROLLUP_NOTE_MAX];
	int16		lengths[IOT_ROLLUP_NOTE_MAX];
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
extern bool iot_rollup_run_extend(IotRollupRun *run, TimestampTz minute);
extern void iot_rollup_notes_add(IotRollupNotes *notes, const pg_uuid_t *device_id,
								 const pg_uuid_t *parameter_id, const IotRollupRun *run);
extern void iot_rollup_notes_write(IotRollupNotes *notes);

#endif							/* IOT_ROLLUP_NOTE_H */
