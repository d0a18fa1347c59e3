/*
 * rollup_note.c
 *		Notes which minutes of which sensors have to be rolled up anew.
 *
 * Runs in the trigger of iot.measurement, in any backend and between SPI_connect and SPI_finish.
 * A note commits with the measurements that it is about, so that whoever sees one sees the other.
 * Notes are only ever added here: no writer of measurements waits for another, nor for whoever
 * works them off.  Minutes that follow each other are one run, and up to IOT_ROLLUP_NOTE_MAX runs
 * share a row, since a row for each minute would cost a good part of what the measurement costs.
 *
 * What is late goes to other rows than what is not: a reader of history takes the last minutes
 * from the measurements anyway, and then has few rows to look through for the rest.
 *
 * Memory is the caller's struct; nothing is left behind in its context.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/timestamp.h"

#include "plan.h"
#include "rollup_note.h"

#define LATE_AFTER	(3 * USECS_PER_MINUTE)

static IotPlan insert_note = {
	"INSERT INTO iot.rollup_note (oldest, total, device_ids, parameter_ids, starts, lengths)"
	" VALUES ($1, $2, $3, $4, $5, $6)",
	6, {TIMESTAMPTZOID, INT4OID, UUIDARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID, INT2ARRAYOID}
};

/* The minute that a finite time falls into, as date_bin() has it. */
TimestampTz
iot_rollup_minute(TimestampTz ts)
{
	TimestampTz rest = ts % USECS_PER_MINUTE;

	return ts - (rest < 0 ? rest + USECS_PER_MINUTE : rest);
}

void
iot_rollup_notes_init(IotRollupNotes *notes)
{
	notes->late = iot_rollup_minute(GetCurrentTimestamp() - LATE_AFTER);
	notes->present.count = 0;
	notes->past.count = 0;
}

static void
write_note(IotRollupNote *note)
{
	Datum		elements[IOT_ROLLUP_NOTE_MAX];
	Datum		args[6];

	if (note->count == 0)
		return;
	args[0] = TimestampTzGetDatum(note->oldest);
	args[1] = Int32GetDatum(note->total);
	for (int i = 0; i < note->count; i++)
		elements[i] = UUIDPGetDatum(&note->device_ids[i]);
	args[2] = PointerGetDatum(construct_array(elements, note->count, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	for (int i = 0; i < note->count; i++)
		elements[i] = UUIDPGetDatum(&note->parameter_ids[i]);
	args[3] = PointerGetDatum(construct_array(elements, note->count, UUIDOID, UUID_LEN, false,
											  TYPALIGN_CHAR));
	for (int i = 0; i < note->count; i++)
		elements[i] = TimestampTzGetDatum(note->starts[i]);
	args[4] = PointerGetDatum(construct_array(elements, note->count, TIMESTAMPTZOID,
											  sizeof(TimestampTz), FLOAT8PASSBYVAL,
											  TYPALIGN_DOUBLE));
	for (int i = 0; i < note->count; i++)
		elements[i] = Int16GetDatum(note->lengths[i]);
	args[5] = PointerGetDatum(construct_array(elements, note->count, INT2OID, sizeof(int16), true,
											  TYPALIGN_SHORT));
	(void) iot_plan_execute(&insert_note, args, NULL);
	for (int i = 2; i < lengthof(args); i++)
		pfree(DatumGetPointer(args[i]));
	note->count = 0;
}

/* Whether a run holds the minute now; else a new run has to begin with it. */
bool
iot_rollup_run_extend(IotRollupRun *run, TimestampTz minute)
{
	TimestampTz next = run->start + run->length * USECS_PER_MINUTE;

	if (run->length == 0)
		return false;
	if (minute >= run->start && minute < next)
		return true;
	if (minute != next || run->length == IOT_ROLLUP_RUN_MAX)
		return false;
	run->length++;
	return true;
}

/* Adds a run of a sensor; noting a minute twice is harmless.  May write, and so may raise. */
void
iot_rollup_notes_add(IotRollupNotes *notes, const pg_uuid_t *device_id,
					 const pg_uuid_t *parameter_id, const IotRollupRun *run)
{
	IotRollupNote *note = run->start < notes->late ? &notes->past : &notes->present;

	if (run->length == 0)
		return;
	if (note->count == 0)
	{
		note->oldest = run->start;
		note->total = 0;
	}
	note->oldest = Min(note->oldest, run->start);
	note->total += run->length;
	note->device_ids[note->count] = *device_id;
	note->parameter_ids[note->count] = *parameter_id;
	note->starts[note->count] = run->start;
	note->lengths[note->count] = run->length;
	if (++note->count == IOT_ROLLUP_NOTE_MAX)
		write_note(note);
}

/* Writes what has been added and is not written yet. */
void
iot_rollup_notes_write(IotRollupNotes *notes)
{
	write_note(&notes->past);
	write_note(&notes->present);
}
