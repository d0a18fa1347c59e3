/*
 * ingest_discovery.c
 *		Devices that announce themselves, where their adapter's options let them.
 *
 * Runs as part of a batch, in its transaction and memory context, before its other messages are taken;
 * what an announcement makes is known to the next batch.  What it means, SQL decides, and says why it
 * is refused; here it is read, within the limits of any other message.  Adapters are told all
 * announcements anew whenever they connect: one that was refused before is tried again, and is a dead
 * letter only once for each reason.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "ingest_batch.h"
#include "iot.h"
#include "plan.h"

static IotPlan discover = {
	"SELECT d.error, d.is_new FROM iot_internal.discover($1, $2, $3) d",
	3, {UUIDOID, TEXTOID, JSONBOID}
};

/* Takes one announcement; an empty message takes back what was announced there. */
static void
take_announcement(IotBatch *batch, int index)
{
	const IotIngestMessage *message = &batch->messages[index];
	const char *error = NULL;
	char	   *topic;
	IotPayloadStatus status = IOT_PAYLOAD_OK;
	Jsonb	   *config = NULL;
	Datum		args[3];
	char	   *refusal;
	bool		isnull;

	if (message->payload_len > (uint32) iot_max_payload_size * 1024)
	{
		iot_batch_refuse(batch, index, IOT_REASON_TOO_LARGE,
						 "payload is larger than \"iot.max_payload_size\"");
		return;
	}
	if (message->payload_len > 0)
	{
		status = iot_attributes_check(message->payload, message->payload_len, &error);
		if (status == IOT_PAYLOAD_OK)
			config = iot_batch_jsonb(message, &error);
		if (config == NULL)
		{
			iot_batch_refuse(batch, index, iot_reason_of(status), error);
			return;
		}
	}
	topic = pg_any_to_server(pnstrdup(message->topic, message->topic_len), message->topic_len,
							 PG_UTF8);
	args[0] = UUIDPGetDatum(batch->adapter_id);
	args[1] = CStringGetTextDatum(topic);
	args[2] = config == NULL ? (Datum) 0 : JsonbPGetDatum(config);
	(void) iot_plan_execute(&discover, args, config == NULL ? "  n" : NULL);
	refusal = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (refusal != NULL &&
		(batch->replayed != 0 ||
		 DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull))))
		iot_batch_refuse(batch, index, IOT_REASON_REFUSED_ANNOUNCEMENT,
						 pg_server_to_any(refusal, strlen(refusal), PG_UTF8));
	else
		batch->counters.announcements++;
	SPI_freetuptable(SPI_tuptable);
}

/* Takes all announcements of the batch; to be called before gateways' messages are taken apart. */
void
iot_batch_discover(IotBatch *batch, const char *prefix)
{
	for (int i = 0; i < batch->message_count; i++)
	{
		const IotIngestMessage *message = &batch->messages[i];

		if (!iot_topic_is_announcement(message->topic, message->topic_len, prefix))
			continue;
		CHECK_FOR_INTERRUPTS();
		batch->senders[i].done = true;
		take_announcement(batch, i);
	}
}
