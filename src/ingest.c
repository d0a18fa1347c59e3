/*
 * ingest.c
 *		Taking in what devices say, a batch at a time.
 *
 * Runs in the adapter's worker and in backends that call iot.ingest(), inside their transaction
 * and between SPI_connect and SPI_finish.  A batch is read in C first: topics are held against the
 * registry, payloads parsed, words turned into numbers.  What cannot be used becomes a dead letter
 * and costs no SQL of its own; the rest goes to the tables with one statement for each.  Nothing
 * of this raises for what a device sent, so an error means the database, or a row that changed
 * under our feet: the caller's transaction fails as a whole, and it may try a smaller batch.
 *
 * Work memory is a context that the batch deletes; the result is in the caller's context.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ingest_batch.h"

static uint64 last_batch = 0;

/* Opens a batch in a memory context of its own, and makes that the current one. */
void
iot_batch_begin(IotBatch *batch, const char *adapter, const pg_uuid_t *adapter_id,
				const IotIngestMessage *messages, int count)
{
	TimestampTz now = GetCurrentTimestamp();

	memset(batch, 0, sizeof(*batch));
	iot_registry_begin();
	batch->caller_cxt = CurrentMemoryContext;
	batch->cxt = AllocSetContextCreate(CurrentMemoryContext, "iot ingest batch",
									   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(batch->cxt);
	batch->adapter = adapter;
	batch->adapter_id = adapter_id;
	batch->originals = messages;
	batch->messages = messages;
	batch->message_count = count;
	batch->senders = palloc0(sizeof(IotSender) * (count + 1));
	batch->number = ++last_batch;
	batch->newest = now + USECS_PER_DAY;
	batch->oldest = iot_registry_oldest(now);
}

/* The same for one that a gateway names, or that has its topic alone. */
static void
resolve_named(IotSender *sender, List **names)
{
	IotDevice  *device;

	sender->known_topic = true;
	if (!iot_spoken_name_valid(sender->name, sender->name_len))
		return;
	device = iot_registry_device(sender->name, sender->name_len);
	if (device == NULL && names != NULL)
		*names = lappend(*names, cstring_to_text_with_len(sender->name, sender->name_len));
	if (device != NULL &&
		(sender->owner != NULL ? device->mapping == sender->owner :
		 iot_device_has_topic(device, sender->kind, sender->topic)))
		sender->device = device;
}

/*
 * Finds who sent a message.  Names that are not loaded are added to names, where that is given,
 * for a second look.
 */
static void
resolve_sender(const IotIngestMessage *message, IotSender *sender, List **names)
{
	IotTopicMatch match;
	IotTopicKind kind;
	int			at = -1;

	if (sender->done)
		return;
	if (sender->name != NULL)
	{
		resolve_named(sender, names);
		return;
	}
	while ((at = iot_registry_topic_match(at + 1, message->topic, message->topic_len, &kind,
										  &match)) >= 0)
	{
		IotDevice  *device;

		if (kind == IOT_TOPIC_IGNORED)
		{
			sender->ignored = true;
			continue;
		}
		sender->known_topic = true;
		if (match.device == NULL || !iot_spoken_name_valid(match.device, match.device_len))
			continue;
		device = iot_registry_device(match.device, match.device_len);
		if (device == NULL && names != NULL)
			*names = lappend(*names, cstring_to_text_with_len(match.device, match.device_len));
		if (device == NULL || !iot_device_has_topic(device, kind, at))
			continue;
		sender->device = device;
		sender->kind = kind;
		sender->parameter = match.parameter;
		sender->parameter_len = match.parameter_len;
		return;
	}
}

/* Loads the devices of these names and looks once more for the senders that were not found. */
static void
resolve_again(IotBatch *batch, List *names)
{
	iot_registry_load(names);
	for (int i = 0; i < batch->message_count; i++)
	{
		if (batch->senders[i].device == NULL && batch->senders[i].known_topic)
			resolve_sender(&batch->messages[i], &batch->senders[i], NULL);
	}
}

/*
 * Finds all senders, and reads those devices that are not loaded yet with one query.  Those that do not
 * exist are made, where the adapter registers devices.
 */
static void
resolve_senders(IotBatch *batch, bool registers)
{
	List	   *names = NIL;

	for (int i = 0; i < batch->message_count; i++)
		resolve_sender(&batch->messages[i], &batch->senders[i], &names);
	if (names == NIL)
		return;
	resolve_again(batch, names);
	if (registers && iot_batch_register(batch))
		resolve_again(batch, names);
}

static int
compare_sequence(const void *a, const void *b)
{
	return ((const IotPoint *) a)->sequence - ((const IotPoint *) b)->sequence;
}

/* Writes the points, and refuses those that met another value. */
static void
store_points(IotBatch *batch)
{
	IotPointCounts counts;

	iot_points_store(batch->points, batch->point_count, &counts);
	batch->counters.stored = counts.stored;
	batch->counters.duplicate = counts.duplicate;
	batch->counters.conflict = counts.conflict;
	if (counts.conflict == 0)
		return;
	/* in order of arrival, so that one message has one dead letter for all its conflicts */
	qsort(batch->points, batch->point_count, sizeof(IotPoint), compare_sequence);
	for (int i = 0; i < batch->point_count; i++)
	{
		const IotPoint *point = &batch->points[i];

		if (point->state == IOT_POINT_CONFLICT)
			iot_batch_refuse(batch, point->message, IOT_REASON_CONFLICT,
							 psprintf("another value is stored for %s",
									  timestamptz_to_str(point->ts)));
	}
}

static void
store_states(IotBatch *batch)
{
	iot_device_state_store(batch->touches, batch->touch_count, batch->reports,
						   batch->report_count);
	for (int i = 0; i < batch->report_count; i++)
	{
		if (!batch->reports[i].refused)
			continue;
		batch->counters.attributes--;
		iot_batch_refuse(batch, batch->reports[i].message, IOT_REASON_TOO_LARGE,
						 "attributes of the device would be larger than 256 kB");
	}
}

/* What the caller keeps, in his memory context. */
static void
give_result(const IotBatch *batch, IotIngestResult *result)
{
	MemoryContextSwitchTo(batch->caller_cxt);
	memset(result, 0, sizeof(*result));
	result->counters = batch->counters;
	result->refused = batch->letter_count > 0;
	if (result->refused)
		result->reason = batch->letters[0].reason;
	result->nacks = batch->ack_count;
	result->acks = palloc(sizeof(IotIngestAck) * (batch->ack_count + 1));
	for (int i = 0; i < batch->ack_count; i++)
	{
		result->acks[i] = batch->acks[i];
		if (batch->acks[i].error != NULL)
			result->acks[i].error = pstrdup(batch->acks[i].error);
	}
	result->values = palloc_extended(sizeof(IotIngestValue) * (batch->point_count + 1),
									 MCXT_ALLOC_HUGE);
	for (int i = 0; i < batch->point_count; i++)
	{
		const IotPoint *point = &batch->points[i];
		IotIngestValue *value = &result->values[result->nvalues];

		if (point->state == IOT_POINT_CONFLICT)
			continue;
		value->device_id = point->device_id;
		value->parameter_id = point->parameter_id;
		value->ts = point->ts;
		value->value = point->value;
		result->nvalues++;
	}
}

/*
 * Writes all that the batch holds, always in the same order of tables, and closes it.  The result
 * is in the context that was current when it began, and that one is current again.
 */
void
iot_batch_end(IotBatch *batch, IotIngestResult *result)
{
	store_points(batch);
	store_states(batch);
	if (batch->replayed == 0)
		iot_dead_letter_store(batch->letters, batch->letter_count);
	else if (batch->letter_count > 0)
		iot_dead_letter_restate(batch->replayed, &batch->letters[0]);
	give_result(batch, result);
	iot_registry_end();
	MemoryContextDelete(batch->cxt);
}

/*
 * Takes in messages of one adapter, in the order in which they came; what they announce comes first.
 * Needs SPI and a transaction; the result is in the current memory context.  When this returns
 * everything is written, though not committed.
 */
void
iot_ingest_batch(const char *adapter, const pg_uuid_t *adapter_id, const IotStrangers *strangers,
				 const IotIngestMessage *messages, int count, IotIngestResult *result)
{
	IotBatch	batch;

	iot_batch_begin(&batch, adapter, adapter_id, messages, count);
	if (strangers->discovery_prefix != NULL)
		iot_batch_discover(&batch, strangers->discovery_prefix);
	iot_batch_expand(&batch);
	resolve_senders(&batch, strangers->register_themselves);
	for (int i = 0; i < batch.message_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		iot_batch_message(&batch, i);
	}
	batch.counters.messages = count;
	iot_batch_end(&batch, result);
}

/*
 * Takes one message in again, as it came at its time, on behalf of a dead letter; what it says now
 * of the device is no sign of life.  Refused again, the letter stays and says why.  Without an
 * adapter it is what iot.ingest() could not store for the device.  Needs SPI and a transaction.
 */
void
iot_ingest_replay(int64 dead_letter_id, const char *adapter, const pg_uuid_t *adapter_id,
				  const char *discovery_prefix, text *device, const IotIngestMessage *message,
				  IotIngestResult *result)
{
	IotBatch	batch;

	iot_batch_begin(&batch, adapter, adapter_id, message, 1);
	batch.replayed = dead_letter_id;
	if (adapter != NULL)
	{
		if (discovery_prefix != NULL)
			iot_batch_discover(&batch, discovery_prefix);
		iot_batch_expand(&batch);
		resolve_senders(&batch, false);
		for (int i = 0; i < batch.message_count; i++)
			iot_batch_message(&batch, i);
	}
	else
	{
		batch.senders[0].device = iot_registry_device_by_name(device);
		if (batch.senders[0].device == NULL)
			iot_batch_refuse(&batch, 0, IOT_REASON_UNKNOWN_DEVICE, "device does not exist");
		else if (!batch.senders[0].device->enabled)
			iot_batch_refuse(&batch, 0, IOT_REASON_DISABLED_DEVICE, "device is disabled");
		else
			iot_batch_telemetry(&batch, 0);
	}
	batch.counters.messages = 1;
	iot_batch_end(&batch, result);
}

void
iot_ingest_counters_add(IotIngestCounters *sum, const IotIngestCounters *counters)
{
	sum->messages += counters->messages;
	sum->received += counters->received;
	sum->stored += counters->stored;
	sum->duplicate += counters->duplicate;
	sum->conflict += counters->conflict;
	sum->rejected += counters->rejected;
	sum->attributes += counters->attributes;
	sum->statuses += counters->statuses;
	sum->acks += counters->acks;
	sum->announcements += counters->announcements;
	for (int i = 0; i < IOT_REASONS; i++)
		sum->reasons[i] += counters->reasons[i];
}
