/*
 * ingest_gateway.c
 *		Messages that speak for several devices, each of which is then a message of its own.
 *
 * Runs as part of a batch, in its memory context, before anybody looks who sent what.  A gateway's
 * topic names no device: its messages do, as the keys of an object or at a path.  What cannot be used
 * of such a message is a dead letter with all of it, since only all of it can be taken in again.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "core/body.h"
#include "ingest_batch.h"
#include "iot.h"

/* Kept until the next one, for errors may come between. */
static IotBody body;
static char *fragment;

/*
 * Messages that may come of those of a batch, beside these: a topic may be that of many devices.  More of
 * them is an error of that kind which has an adapter try half of the batch.
 */
#define MAX_COPIES		50000

/* The batch's messages in the making. */
typedef struct Expansion
{
	IotIngestMessage *messages;
	IotSender  *senders;
	int		   *origins;
	int			count;
	int			capacity;
} Expansion;

/* Index of a message among those as they came. */
int
iot_batch_origin(const IotBatch *batch, int index)
{
	return batch->origins != NULL ? batch->origins[index] : index;
}

static void *
resize(void *array, int capacity, Size width)
{
	return array == NULL ? palloc(width * capacity) : repalloc_huge(array, width * capacity);
}

/* Adds a message as it came; its sender is to be filled in. */
static IotSender *
add_message(Expansion *expansion, const IotBatch *batch, int origin)
{
	if (expansion->count == expansion->capacity)
	{
		int			capacity = Max(expansion->capacity * 2, batch->message_count + 64);

		expansion->messages = resize(expansion->messages, capacity, sizeof(IotIngestMessage));
		expansion->senders = resize(expansion->senders, capacity, sizeof(IotSender));
		expansion->origins = resize(expansion->origins, capacity, sizeof(int));
		expansion->capacity = capacity;
	}
	expansion->messages[expansion->count] = batch->originals[origin];
	expansion->origins[expansion->count] = origin;
	memset(&expansion->senders[expansion->count], 0, sizeof(IotSender));
	return &expansion->senders[expansion->count++];
}

/* The same, on behalf of the device of that name; the name is copied. */
static void
add_named(Expansion *expansion, const IotBatch *batch, int origin, const IotSender *sender,
		  const char *name, uint32 len)
{
	IotSender  *added = add_message(expansion, batch, origin);

	*added = *sender;
	added->name = pnstrdup(name, len);
	added->name_len = len;
}

/* Adds what the message says of each device whose name is a key of the object; how many. */
static int
add_members(Expansion *expansion, const IotBatch *batch, int origin, const IotSender *sender,
			const IotMapping *mapping)
{
	int			count = 0;

	for (struct cJSON *member = iot_body_members(&body, mapping->device_path); member != NULL;
		 member = iot_body_next(member))
	{
		IotIngestMessage *message;

		CHECK_FOR_INTERRUPTS();
		free(fragment);
		fragment = iot_body_print(member);
		if (fragment == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OUT_OF_MEMORY),
					 errmsg("out of memory"),
					 errdetail("Failed while reading a payload.")));
		add_named(expansion, batch, origin, sender, iot_body_key(member),
				  strlen(iot_body_key(member)));
		message = &expansion->messages[expansion->count - 1];
		message->payload = pstrdup(fragment);
		message->payload_len = strlen(message->payload);
		count++;
	}
	return count;
}

/* Adds the message for the device that it names; 0 where it names none. */
static int
add_one(Expansion *expansion, const IotBatch *batch, int origin, const IotSender *sender,
		const IotMapping *mapping)
{
	IotValue	value;
	char		number[32];

	if (!iot_body_value(&body, mapping->device_path, &value) || value.kind == IOT_VALUE_OTHER)
		return 0;
	if (value.word == NULL)
	{
		value.word_len = snprintf(number, sizeof(number), "%.15g", value.number);
		value.word = number;
	}
	add_named(expansion, batch, origin, sender, value.word, value.word_len);
	return 1;
}

/* Adds the message for each device that has its topic alone; how many. */
static int
add_owners(Expansion *expansion, const IotBatch *batch, int origin)
{
	const IotIngestMessage *message = &batch->originals[origin];
	int			first = iot_registry_owned_topic(message->topic, message->topic_len);
	int			at = first;
	IotSender	sender = {0};

	while ((sender.owner = iot_registry_owner(at, message->topic, message->topic_len,
											  &sender.kind)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		sender.own_topic = sender.kind == IOT_TOPIC_TELEMETRY &&
			iot_mapping_has_own_topic(sender.owner, message->topic, message->topic_len);
		sender.name = sender.owner->only_device;
		sender.name_len = strlen(sender.name);
		*add_message(expansion, batch, origin) = sender;
		at++;
	}
	return at - first;
}

/* Whether the message speaks for more devices than it may. */
static bool
is_crowded(const IotMapping *mapping)
{
	int			count = 0;
	const struct cJSON *member = NULL;

	if (mapping->device_keys)
		member = iot_body_members(&body, mapping->device_path);
	for (; member != NULL && count <= IOT_PAYLOAD_MAX_VALUES; member = iot_body_next(member))
		count++;
	return count > IOT_PAYLOAD_MAX_VALUES;
}

/* Why a gateway's message is refused as a whole, noted until the batch has taken its messages apart. */
typedef struct Refusal
{
	int			index;
	IotReason	reason;
	const char *error;
} Refusal;

/* Adds a gateway's message; one that names no device stays whole and is refused. */
static bool
add_gateway(Expansion *expansion, const IotBatch *batch, int origin, const IotSender *sender,
			const IotMapping *mapping, Refusal *refusal)
{
	const IotIngestMessage *message = &batch->originals[origin];
	IotPayloadStatus status;

	iot_body_free(&body);
	refusal->reason = IOT_REASON_WRONG_TYPE;
	refusal->error = "message names no device";
	if (message->payload_len > (uint32) iot_max_payload_size * 1024)
	{
		refusal->reason = IOT_REASON_TOO_LARGE;
		refusal->error = "payload is larger than \"iot.max_payload_size\"";
	}
	else if ((status = iot_body_read(&body, message->payload, message->payload_len)) !=
			 IOT_PAYLOAD_OK)
	{
		refusal->reason = iot_reason_of(status);
		refusal->error = psprintf("%s at byte %zu", body.error, body.error_at);
	}
	else if (is_crowded(mapping))
	{
		refusal->reason = IOT_REASON_TOO_LARGE;
		refusal->error = "more than 10000 devices";
	}
	else if ((mapping->device_keys ? add_members : add_one) (expansion, batch, origin, sender,
															 mapping) > 0)
		return true;
	refusal->index = expansion->count;
	add_message(expansion, batch, origin)->done = true;
	return false;
}

/*
 * Takes the messages of gateways apart, and gives those on topics that devices have alone to each of
 * these, where there are such device types.  Executes no SQL.
 */
void
iot_batch_expand(IotBatch *batch)
{
	Expansion	expansion = {0};
	Refusal    *refusals;
	int			refusal_count = 0;

	if (!iot_registry_has_gateways() && !iot_registry_has_owned_topics())
		return;
	refusals = palloc(sizeof(Refusal) * (batch->message_count + 1));
	for (int i = 0; i < batch->message_count; i++)
	{
		const IotIngestMessage *message = &batch->originals[i];
		IotSender	sender = {0};
		IotTopicMatch match;
		const IotMapping *mapping = iot_registry_gateway_match(message->topic, message->topic_len,
															   &sender.topic, &sender.kind,
															   &match);

		CHECK_FOR_INTERRUPTS();
		if (batch->senders[i].done)
		{
			add_message(&expansion, batch, i)->done = true;
			continue;
		}
		if (add_owners(&expansion, batch, i) > 0)
		{
			if (batch->message_count > 1 && expansion.count - i > MAX_COPIES)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_EXCEPTION),
						 errmsg("messages of the batch are for too many devices"),
						 errhint("Give fewer messages at a time.")));
			continue;
		}
		if (mapping == NULL)
		{
			(void) add_message(&expansion, batch, i);
			continue;
		}
		sender.parameter = match.parameter;
		sender.parameter_len = match.parameter_len;
		if (!add_gateway(&expansion, batch, i, &sender, mapping, &refusals[refusal_count]))
			refusal_count++;
	}
	if (expansion.count == 0)
		return;
	batch->messages = expansion.messages;
	batch->senders = expansion.senders;
	batch->origins = expansion.origins;
	batch->message_count = expansion.count;
	for (int i = 0; i < refusal_count; i++)
		iot_batch_refuse(batch, refusals[i].index, refusals[i].reason, refusals[i].error);
}
