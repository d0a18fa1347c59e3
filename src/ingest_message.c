/*
 * ingest_message.c
 *		One message of a batch: what it says, or why it is refused.
 *
 * Runs as part of a batch, in its memory context.  Executes no SQL and raises only where memory is
 * short or the caller asked for it: whatever a device sends ends as something to be stored or as a
 * dead letter.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/utf8.h"
#include "ingest_batch.h"
#include "iot.h"

/* Memory for parsing, kept from batch to batch; no pointer into it outlives a message. */
static IotTelemetry telemetry;

/* Grows an array of the batch by doubling. */
static void *
grow(void *array, int *capacity, Size width)
{
	*capacity = array == NULL ? 64 : *capacity * 2;
	return array == NULL ? palloc(width * *capacity) :
		repalloc_huge(array, width * *capacity);
}

static void
count_refusal(IotBatch *batch, IotReason reason)
{
	batch->counters.reasons[reason]++;
	if (reason != IOT_REASON_CONFLICT)
	{
		batch->counters.received++;
		batch->counters.rejected++;
	}
}

/*
 * Counts something that cannot be used.  A message, that of a gateway as a whole, has one dead letter
 * for each reason, with the first error text: a payload of a thousand unknown names must not become a
 * thousand copies.
 */
void
iot_batch_refuse(IotBatch *batch, int index, IotReason reason, const char *error)
{
	int			origin = iot_batch_origin(batch, index);
	const IotIngestMessage *message = &batch->originals[origin];
	const IotDevice *device = batch->senders[index].device;
	IotDeadLetter *letter;

	if (batch->refusal != NULL)
		batch->refusal(device, reason, error);
	count_refusal(batch, reason);
	for (int i = batch->letter_count - 1; i >= 0 && batch->letters[i].message == origin; i--)
	{
		if (batch->letters[i].reason == reason)
		{
			batch->letters[i].count++;
			return;
		}
	}
	if (batch->letter_count == batch->letter_capacity)
		batch->letters = grow(batch->letters, &batch->letter_capacity, sizeof(IotDeadLetter));
	letter = &batch->letters[batch->letter_count++];
	letter->adapter = batch->adapter;
	letter->device = device != NULL ? device->name : NULL;
	letter->topic = message->topic;
	letter->topic_len = message->topic_len;
	letter->payload = message->payload;
	letter->payload_len = Min(message->payload_len, (uint32) iot_max_payload_size * 1024);
	letter->received_at = message->received_at;
	letter->retained = message->retained;
	letter->reason = reason;
	letter->error = error != NULL ? pstrdup(error) : NULL;
	letter->count = 1;
	letter->message = origin;
}

/* Why a payload of that status is refused; raises where there was no memory to read it. */
IotReason
iot_reason_of(IotPayloadStatus status)
{
	switch (status)
	{
		case IOT_PAYLOAD_INVALID_UTF8:
			return IOT_REASON_INVALID_UTF8;
		case IOT_PAYLOAD_WRONG_TYPE:
			return IOT_REASON_WRONG_TYPE;
		case IOT_PAYLOAD_INVALID_TIME:
			return IOT_REASON_INVALID_TIME;
		case IOT_PAYLOAD_TOO_LARGE:
			return IOT_REASON_TOO_LARGE;
		case IOT_PAYLOAD_NO_MEMORY:
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory"),
					 errdetail("Failed while reading a payload.")));
		case IOT_PAYLOAD_MALFORMED:
		case IOT_PAYLOAD_OK:
			break;
	}
	return IOT_REASON_MALFORMED_JSON;
}

/* Notes that the device spoke in this batch; at is DT_NOBEGIN where the broker spoke for it. */
void
iot_batch_touch(IotBatch *batch, IotDevice *device, TimestampTz at)
{
	if (device->batch != batch->number)
	{
		if (batch->touch_count == batch->touch_capacity)
			batch->touches = grow(batch->touches, &batch->touch_capacity,
								  sizeof(IotDeviceTouch));
		device->batch = batch->number;
		device->touch = batch->touch_count++;
		batch->touches[device->touch].device = device;
		batch->touches[device->touch].seen_at = DT_NOBEGIN;
	}
	/* who is read of again is not heard from again */
	if (batch->replayed != 0)
		return;
	/* measurements may come with a time ahead, but nobody has been seen then */
	at = Min(at, batch->newest - USECS_PER_DAY);
	batch->touches[device->touch].seen_at = Max(batch->touches[device->touch].seen_at, at);
}

/* What names and words of a payload look like in an error text: short, and without surprises. */
static char *
quoted(const char *text, uint32 len)
{
	return psprintf("\"%.*s\"", (int) iot_utf8_clip(text, len, 64), text);
}

/* Number that a value means; false where it means none, and that is refused. */
bool
iot_batch_number(IotBatch *batch, int index, const IotLabels *labels, const IotValue *value,
				 double *number)
{
	switch (value->kind)
	{
		case IOT_VALUE_NUMBER:
			*number = value->number;
			if (isfinite(*number))
				return true;
			iot_batch_refuse(batch, index, IOT_REASON_NOT_FINITE,
							 psprintf("value of %s is not a finite number",
									  quoted(value->name, value->name_len)));
			return false;
		case IOT_VALUE_WORD:
			if (iot_labels_find(labels, value->word, value->word_len, number))
				return true;
			iot_batch_refuse(batch, index, IOT_REASON_WRONG_TYPE,
							 psprintf("%s is neither a number nor a label of %s",
									  quoted(value->word, value->word_len),
									  quoted(value->name, value->name_len)));
			return false;
		case IOT_VALUE_OTHER:
			break;
	}
	iot_batch_refuse(batch, index, IOT_REASON_WRONG_TYPE,
					 psprintf("value of %s is neither a number nor a label",
							  quoted(value->name, value->name_len)));
	return false;
}

void
iot_refuse_unknown_parameter(IotBatch *batch, int index, const char *name, uint32 name_len)
{
	iot_batch_refuse(batch, index, IOT_REASON_UNKNOWN_PARAMETER,
					 psprintf("device has no parameter %s", quoted(name, name_len)));
}

/* Takes what the sensor measured, at the time of the value or of the message, or refuses it. */
void
iot_batch_point(IotBatch *batch, int index, const IotSensor *sensor, const IotValue *value,
				double number)
{
	const IotIngestMessage *message = &batch->messages[index];
	IotPoint   *point;
	TimestampTz ts;

	if (!value->has_ts && message->retained)
	{
		iot_batch_refuse(batch, index, IOT_REASON_RETAINED,
						 "retained message without a time of its own");
		return;
	}
	ts = value->has_ts ? value->ts - IOT_EPOCH_SHIFT : message->received_at;
	if (ts < batch->oldest || ts > batch->newest)
	{
		iot_batch_refuse(batch, index, IOT_REASON_OUT_OF_TIME_RANGE,
						 ts < batch->oldest ? "time is before all that is kept" :
						 "time is more than a day ahead");
		return;
	}
	if (batch->point_count == batch->point_capacity)
		batch->points = grow(batch->points, &batch->point_capacity, sizeof(IotPoint));
	point = &batch->points[batch->point_count];
	point->device_id = batch->senders[index].device->device_id;
	point->parameter_id = sensor->parameter_id;
	point->ts = ts;
	point->value = number;
	point->message = index;
	point->sequence = batch->point_count++;
	point->arrival_time = !value->has_ts;
	batch->counters.received++;
}

/* Takes one value of a telemetry message, or refuses it. */
static void
take_value(IotBatch *batch, int index, const IotValue *value)
{
	const IotSensor *sensor = iot_device_sensor(batch->senders[index].device, value->name,
												value->name_len);
	double		number;

	if (sensor == NULL)
		iot_refuse_unknown_parameter(batch, index, value->name, value->name_len);
	else if (iot_batch_number(batch, index, sensor->labels, value, &number))
		iot_batch_point(batch, index, sensor, value, number);
}

/* Takes a telemetry payload; its sender is known and may speak. */
void
iot_batch_telemetry(IotBatch *batch, int index)
{
	const IotIngestMessage *message = &batch->messages[index];
	IotPayloadStatus status = iot_telemetry_parse(&telemetry, message->payload,
												  message->payload_len);

	if (!message->retained)
		iot_batch_touch(batch, batch->senders[index].device, message->received_at);
	if (status != IOT_PAYLOAD_OK)
	{
		iot_batch_refuse(batch, index, iot_reason_of(status),
						 status == IOT_PAYLOAD_INVALID_UTF8 ? telemetry.error :
						 psprintf("%s at byte %zu", telemetry.error, telemetry.error_at));
		return;
	}
	if (telemetry.count == 0)
		iot_batch_refuse(batch, index, IOT_REASON_EMPTY, "message without a value");
	for (size_t i = 0; i < telemetry.count; i++)
		take_value(batch, index, &telemetry.values[i]);
}

static IotDeviceReport *
add_report(IotBatch *batch, int index, IotDevice *device)
{
	IotDeviceReport *report;

	if (batch->report_count == batch->report_capacity)
		batch->reports = grow(batch->reports, &batch->report_capacity, sizeof(IotDeviceReport));
	report = &batch->reports[batch->report_count++];
	memset(report, 0, sizeof(*report));
	report->device = device;
	report->at = batch->messages[index].received_at;
	report->message = index;
	report->replayed = batch->replayed != 0;
	return report;
}

/*
 * The payload as jsonb, or NULL with the reason in *error.  What reading it takes, many times its
 * size, is given back at once.  The server has limits of its own (on numbers, and on characters that
 * its encoding lacks) and says so by raising; a subtransaction keeps that from costing the batch.
 */
Jsonb *
iot_batch_jsonb(const IotIngestMessage *message, const char **error)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext work = AllocSetContextCreate(context, "iot attributes", ALLOCSET_DEFAULT_SIZES);
	Jsonb	   *volatile result = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(work);
	PG_TRY();
	{
		char	   *text = pnstrdup(message->payload, message->payload_len);
		char	   *converted = pg_any_to_server(text, message->payload_len, PG_UTF8);
		Datum		read = DirectFunctionCall1(jsonb_in, CStringGetDatum(converted));

		MemoryContextSwitchTo(context);
		result = DatumGetJsonbPCopy(read);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (ERRCODE_TO_CATEGORY(edata->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			ReThrowError(edata);
		*error = edata->message;
	}
	PG_END_TRY();
	MemoryContextDelete(work);
	return result;
}

static void
take_attributes(IotBatch *batch, int index)
{
	IotDevice  *device = batch->senders[index].device;
	const IotIngestMessage *message = &batch->messages[index];
	const char *error;
	IotPayloadStatus status = iot_attributes_check(message->payload, message->payload_len,
												   &error);
	Jsonb	   *attributes = NULL;

	if (status == IOT_PAYLOAD_OK)
		attributes = iot_batch_jsonb(message, &error);
	if (attributes == NULL)
	{
		iot_batch_refuse(batch, index, iot_reason_of(status), error);
		return;
	}
	iot_batch_touch(batch, device, message->retained ? DT_NOBEGIN : message->received_at);
	add_report(batch, index, device)->attributes = attributes;
	batch->counters.attributes++;
}

/* Reads online or offline in the words of the device's type. */
static IotPayloadStatus
read_status(const IotDevice *device, const IotIngestMessage *message, bool *online,
			const char **error)
{
	IotPayloadStatus status;
	IotBody		body;

	if (device->mapping == NULL || device->mapping->status == NULL)
		return iot_status_parse(message->payload, message->payload_len, online, error);
	status = iot_body_read(&body, message->payload, message->payload_len);
	*error = body.error;
	if (status == IOT_PAYLOAD_OK)
		status = iot_body_status(&body, device->mapping->status, online, error);
	iot_body_free(&body);
	return status;
}

static void
take_status(IotBatch *batch, int index)
{
	IotDevice  *device = batch->senders[index].device;
	const IotIngestMessage *message = &batch->messages[index];
	const char *error;
	bool		online;
	IotPayloadStatus status = read_status(device, message, &online, &error);

	if (status != IOT_PAYLOAD_OK)
	{
		iot_batch_refuse(batch, index, iot_reason_of(status), error);
		return;
	}
	/* a last will is the broker's word, and so is what it has retained */
	iot_batch_touch(batch, device, online && !message->retained ? message->received_at : DT_NOBEGIN);
	add_report(batch, index, device)->online = online;
	batch->counters.statuses++;
}

/* A copy in the database's encoding; what another than UTF-8 may lack becomes "?". */
static char *
server_text(const char *text)
{
	char	   *copy = pstrdup(text);

	for (char *c = copy; *c != '\0' && GetDatabaseEncoding() != PG_UTF8; c++)
	{
		if (IS_HIGHBIT_SET(*c))
			*c = '?';
	}
	return copy;
}

static void
take_ack(IotBatch *batch, int index)
{
	IotDevice  *device = batch->senders[index].device;
	const IotIngestMessage *message = &batch->messages[index];
	const char *error;
	IotAck		ack;
	IotIngestAck *kept;
	IotPayloadStatus status;

	if (message->retained)
	{
		iot_batch_refuse(batch, index, IOT_REASON_RETAINED,
						 "acknowledgement was retained by the broker");
		return;
	}
	status = iot_ack_parse(message->payload, message->payload_len, &ack, &error);
	if (status != IOT_PAYLOAD_OK)
	{
		iot_batch_refuse(batch, index, iot_reason_of(status), error);
		return;
	}
	iot_batch_touch(batch, device, message->received_at);
	if (batch->ack_count == batch->ack_capacity)
		batch->acks = grow(batch->acks, &batch->ack_capacity, sizeof(IotIngestAck));
	kept = &batch->acks[batch->ack_count++];
	kept->message = iot_batch_origin(batch, index);
	strlcpy(kept->device, device->name, sizeof(kept->device));
	memcpy(&kept->command_id, ack.command_id, sizeof(kept->command_id));
	kept->ok = ack.ok;
	kept->error = NULL;
	if (ack.error[0] != '\0')
		kept->error = server_text(ack.error);
	batch->counters.acks++;
}

/* Takes the message of that index, whose sender has been looked up, or refuses it. */
void
iot_batch_message(IotBatch *batch, int index)
{
	const IotIngestMessage *message = &batch->messages[index];
	const IotSender *sender = &batch->senders[index];

	if (sender->done || (sender->device == NULL && sender->ignored))
		return;
	if (message->payload_len > (uint32) iot_max_payload_size * 1024)
		iot_batch_refuse(batch, index, IOT_REASON_TOO_LARGE,
						 "payload is larger than \"iot.max_payload_size\"");
	else if (!sender->known_topic)
		iot_batch_refuse(batch, index, IOT_REASON_UNKNOWN_TOPIC, NULL);
	else if (sender->device == NULL)
		iot_batch_refuse(batch, index, IOT_REASON_UNKNOWN_DEVICE,
						 "no device of that name has this topic");
	else if (memcmp(&sender->device->adapter_id, batch->adapter_id, sizeof(pg_uuid_t)) != 0)
		iot_batch_refuse(batch, index, IOT_REASON_WRONG_ADAPTER,
						 "device belongs to another adapter");
	else if (!sender->device->enabled)
		iot_batch_refuse(batch, index, IOT_REASON_DISABLED_DEVICE, "device is disabled");
	else if (sender->kind == IOT_TOPIC_TELEMETRY &&
			 iot_is_mapped(sender->device->mapping, sender->parameter))
		iot_batch_mapped(batch, index);
	else if (sender->kind == IOT_TOPIC_TELEMETRY)
		iot_batch_telemetry(batch, index);
	else if (sender->kind == IOT_TOPIC_ATTRIBUTES)
		take_attributes(batch, index);
	else if (sender->kind == IOT_TOPIC_STATUS)
		take_status(batch, index);
	else
		take_ack(batch, index);
}
