/*
 * ingest_messages.c
 *		iot_internal.ingest_messages(): a batch of messages from an adapter that is not ours.
 *
 * Runs in the backend of whoever plays the adapter, inside its transaction.  Takes what a broker
 * would deliver, topics and payloads, through the same code as the MQTT worker, and answers with
 * the counters and with the acknowledgements that were among them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "event.h"
#include "ingest.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_ingest_messages_sql);

static IotPlan find_adapter = {
	"SELECT a.adapter_id, a.options ? 'register_group', a.options ->> 'discovery_prefix'"
	" FROM iot.adapter a WHERE a.name = $1",
	1, {TEXTOID}
};

static pg_uuid_t
adapter_id_of(text *name, IotStrangers *strangers)
{
	Datum		arg = PointerGetDatum(name);
	bool		isnull;

	if (iot_plan_execute(&find_adapter, &arg, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("adapter \"%s\" does not exist", text_to_cstring(name)),
				 errhint("Insert it into iot.adapter first.")));
	strangers->register_themselves = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
																SPI_tuptable->tupdesc, 2, &isnull));
	strangers->discovery_prefix = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3);
	return *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* Elements of an argument that is an array without nulls; raises where it is not that long. */
static Datum *
elements(FunctionCallInfo fcinfo, int number, Oid type, int *count, int expected)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(number);
	Datum	   *values;

	if (ARR_NDIM(array) > 1 || array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("messages must be arrays of one dimension without nulls")));
	if (type == BOOLOID)
		deconstruct_array(array, type, 1, true, TYPALIGN_CHAR, &values, NULL, count);
	else
		deconstruct_array(array, type, -1, false, TYPALIGN_INT, &values, NULL, count);
	if (expected >= 0 && *count != expected)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("arrays of messages differ in length")));
	return values;
}

static void
add_acks(IotPayload *answer, const IotIngestResult *result)
{
	iot_payload_key(answer, "acks");
	(void) pushJsonbValue(&answer->state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < result->nacks; i++)
	{
		const IotIngestAck *ack = &result->acks[i];

		(void) pushJsonbValue(&answer->state, WJB_BEGIN_OBJECT, NULL);
		iot_payload_text(answer, "device", ack->device);
		iot_payload_uuid(answer, "command_id", &ack->command_id);
		iot_payload_bool(answer, "ok", ack->ok);
		if (ack->error != NULL)
			iot_payload_text(answer, "error", ack->error);
		(void) pushJsonbValue(&answer->state, WJB_END_OBJECT, NULL);
	}
	(void) pushJsonbValue(&answer->state, WJB_END_ARRAY, NULL);
}

static Datum
result_to_jsonb(const IotIngestResult *result)
{
	const IotIngestCounters *counters = &result->counters;
	IotPayload	answer;

	iot_payload_begin(&answer);
	iot_payload_int8(&answer, "messages", counters->messages);
	iot_payload_int8(&answer, "received", counters->received);
	iot_payload_int8(&answer, "stored", counters->stored);
	iot_payload_int8(&answer, "duplicate", counters->duplicate);
	iot_payload_int8(&answer, "conflict", counters->conflict);
	iot_payload_int8(&answer, "rejected", counters->rejected);
	iot_payload_int8(&answer, "attributes", counters->attributes);
	iot_payload_int8(&answer, "statuses", counters->statuses);
	iot_payload_int8(&answer, "announcements", counters->announcements);
	iot_payload_key(&answer, "reasons");
	(void) pushJsonbValue(&answer.state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < IOT_REASONS; i++)
	{
		if (counters->reasons[i] > 0)
			iot_payload_int8(&answer, iot_reason_name((IotReason) i), counters->reasons[i]);
	}
	(void) pushJsonbValue(&answer.state, WJB_END_OBJECT, NULL);
	add_acks(&answer, result);
	return iot_payload_end(&answer);
}

/*
 * iot_internal.ingest_messages(adapter text, topics text[], payloads bytea[], retained boolean[])
 * returns jsonb; VOLATILE STRICT, SECURITY DEFINER.  All messages count as received now.
 */
Datum
iot_ingest_messages_sql(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	text	   *adapter = PG_GETARG_TEXT_PP(0);
	pg_uuid_t	adapter_id;
	IotStrangers strangers;
	int			count;
	Datum	   *topics = elements(fcinfo, 1, TEXTOID, &count, -1);
	Datum	   *payloads = elements(fcinfo, 2, BYTEAOID, &count, count);
	Datum	   *retained = elements(fcinfo, 3, BOOLOID, &count, count);
	IotIngestMessage *messages = palloc0(sizeof(IotIngestMessage) * (count + 1));
	TimestampTz now = GetCurrentTimestamp();
	IotIngestResult result;
	Datum		answer;

	for (int i = 0; i < count; i++)
	{
		char	   *topic = TextDatumGetCString(topics[i]);
		bytea	   *payload = DatumGetByteaPP(payloads[i]);

		messages[i].topic = pg_server_to_any(topic, strlen(topic), PG_UTF8);
		messages[i].topic_len = strlen(messages[i].topic);
		messages[i].payload = VARDATA_ANY(payload);
		messages[i].payload_len = VARSIZE_ANY_EXHDR(payload);
		messages[i].received_at = now;
		messages[i].retained = DatumGetBool(retained[i]);
	}
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the server programming interface");
	adapter_id = adapter_id_of(adapter, &strangers);
	iot_ingest_batch(text_to_cstring(adapter), &adapter_id, &strangers, messages, count, &result);
	MemoryContextSwitchTo(context);
	answer = result_to_jsonb(&result);
	SPI_finish();
	PG_RETURN_DATUM(answer);
}
