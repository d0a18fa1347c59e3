/*
 * dead_letter_replay.c
 *		iot.replay_dead_letter(): a message that could not be used, once more.
 *
 * Runs in the backend and transaction of an administrator.  The message goes through the same code
 * as when it came, with the time at which it came: what of it was stored then is a duplicate now,
 * and nothing that is newer is overwritten.  The letter is locked first, so that two of these make
 * one; where anything raises, it stays as it was.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "access.h"
#include "compat.h"
#include "dead_letter.h"
#include "ingest.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_replay_dead_letter);

typedef struct Letter
{
	int64		id;
	char	   *adapter;		/* NULL at the SQL door */
	pg_uuid_t	adapter_id;
	char	   *discovery_prefix;	/* NULL where its adapter has none */
	text	   *device;			/* may be NULL */
	IotIngestMessage message;
} Letter;

static IotPlan lock_letter = {
	"SELECT l.adapter, a.adapter_id, l.device, l.topic, l.payload, l.received_at, l.retained,"
	" l.reason = 'too_large' AND l.error LIKE 'payload is larger than%',"
	" a.options ->> 'discovery_prefix'"
	" FROM (SELECT d.* FROM iot.dead_letter d WHERE d.dead_letter_id = $1 FOR UPDATE) l"
	" LEFT JOIN iot.adapter a ON a.name = l.adapter",
	1, {INT8OID}
};
static IotPlan delete_letter = {
	"DELETE FROM iot.dead_letter l WHERE l.dead_letter_id = $1", 1, {INT8OID}
};
static IotPlan record_answer = {
	"SELECT r.outcome FROM iot_internal.adapter_result(ARRAY[$1], ARRAY[$2], ARRAY[$3], ARRAY[$4]) r",
	4, {TEXTOID, UUIDOID, BOOLOID, TEXTOID}
};

static Datum
column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

static void
cannot_replay(const Letter *letter, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("dead letter %lld cannot be replayed: %s", (long long) letter->id, why),
			 errhint("Look at its row, and call iot.discard_dead_letter() when nothing is to be done.")));
}

/* Locks the letter and reads it; raises where it is none that can be taken in. */
static void
read_letter(Letter *letter)
{
	Datum		arg = Int64GetDatum(letter->id);
	Datum		topic;
	bool		no_adapter;
	bool		no_adapter_id;
	bool		no_device;
	bool		no_topic;
	bool		no_payload;
	bool		isnull;
	bool		cut;
	Datum		value;

	if (iot_plan_execute(&lock_letter, &arg, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("dead letter %lld does not exist", (long long) letter->id),
				 errhint("It may have been replayed or discarded, or be older than iot.retention keeps.")));
	value = column(1, &no_adapter);
	if (!no_adapter)
		letter->adapter = TextDatumGetCString(value);
	value = column(2, &no_adapter_id);
	if (!no_adapter_id)
		letter->adapter_id = *DatumGetUUIDP(value);
	value = column(3, &no_device);
	if (!no_device)
		letter->device = DatumGetTextPCopy(value);
	topic = column(4, &no_topic);
	if (!no_topic)
	{
		char	   *string = TextDatumGetCString(topic);

		letter->message.topic = pg_server_to_any(string, strlen(string), PG_UTF8);
		letter->message.topic_len = strlen(letter->message.topic);
	}
	value = column(5, &no_payload);
	if (!no_payload)
	{
		bytea	   *payload = DatumGetByteaPCopy(value);

		letter->message.payload = VARDATA_ANY(payload);
		letter->message.payload_len = VARSIZE_ANY_EXHDR(payload);
	}
	letter->message.received_at = DatumGetTimestampTz(column(6, &isnull));
	letter->message.retained = DatumGetBool(column(7, &isnull));
	cut = DatumGetBool(column(8, &isnull)) && !isnull;
	value = column(9, &isnull);
	if (!isnull)
		letter->discovery_prefix = TextDatumGetCString(value);

	if (no_payload || no_adapter != no_topic || (no_adapter && no_device))
		cannot_replay(letter, "it is no message");
	if (!no_adapter && no_adapter_id)
		cannot_replay(letter, "its adapter does not exist any more");
	if (cut)
		cannot_replay(letter, "its payload was cut at \"iot.max_payload_size\"");
}

/* Holds an acknowledgement against its command; false where the device has no such. */
static bool
record(const IotIngestAck *ack)
{
	Datum		args[4];
	char		nulls[] = "    ";
	bool		isnull;

	args[0] = CStringGetTextDatum(ack->device);
	args[1] = UUIDPGetDatum(&ack->command_id);
	args[2] = BoolGetDatum(ack->ok);
	if (ack->error == NULL)
		nulls[3] = 'n';
	else
		args[3] = CStringGetTextDatum(ack->error);
	return iot_plan_execute(&record_answer, args, nulls) == 1 &&
		strcmp(TextDatumGetCString(column(1, &isnull)), "unknown") != 0;
}

/*
 * iot.replay_dead_letter(id bigint) returns text; VOLATILE, SECURITY DEFINER.  Not STRICT: NULL is the
 * answer that all of a letter was taken.
 */
Datum
iot_replay_dead_letter(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	Letter		letter = {0};
	IotIngestResult result;
	text	   *reason = NULL;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("id of a dead letter must not be null"),
				 errhint("Give the dead_letter_id of a row of iot.dead_letter.")));
	letter.id = PG_GETARG_INT64(0);
	if (!iot_is_admin())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for dead letters"),
				 errhint("A member of iot_admin may replay them.")));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the server programming interface");
	read_letter(&letter);
	iot_ingest_replay(letter.id, letter.adapter, &letter.adapter_id, letter.discovery_prefix,
					  letter.device, &letter.message, &result);
	if (result.nacks > 0 && !record(&result.acks[0]))
	{
		IotDeadLetter unknown = {
			.reason = IOT_REASON_UNKNOWN_COMMAND,
			.error = "the device has no such command",
			.count = 1
		};

		iot_dead_letter_restate(letter.id, &unknown);
		result.refused = true;
		result.reason = unknown.reason;
	}
	if (result.refused)
	{
		MemoryContext work = MemoryContextSwitchTo(context);

		reason = cstring_to_text(iot_reason_name(result.reason));
		MemoryContextSwitchTo(work);
	}
	else
	{
		Datum		arg = Int64GetDatum(letter.id);

		(void) iot_plan_execute(&delete_letter, &arg, NULL);
	}
	SPI_finish();
	if (reason == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(reason);
}
