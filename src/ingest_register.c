/*
 * ingest_register.c
 *		Registering devices that nobody has heard of, where their adapter says so.
 *
 * Runs as part of a batch, in its transaction and memory context, before its messages are taken.  A
 * device is registered by telemetry alone: by a payload that can be read, on the topic of the type
 * that the adapter's options name, with at least one parameter that exists.  What else of it came
 * before that is a dead letter, as ever.  Whether there is still room, and who is first where several
 * processes hear of one device, the database decides under a lock on the adapter's row.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "ingest_batch.h"
#include "iot.h"
#include "plan.h"

/* One parameter that a stranger named, as rows of the statement below. */
typedef struct Candidates
{
	Datum	   *names;
	Datum	   *templates;
	Datum	   *parameters;
	int			count;
	int			size;
	Datum		name;			/* of whoever is being read, and the template of his topic */
	Datum		template;
} Candidates;

static IotTelemetry telemetry;

static IotPlan register_devices = {
	"SELECT iot_internal.register_devices($1, $2, $3, $4)",
	4, {UUIDOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}
};

/* Adds a parameter of whoever is being read; as an IotParameterFound. */
static void
add_candidate(void *arg, const char *name, uint32 len)
{
	Candidates *candidates = arg;

	/* parameters have names of the same letters */
	if (!iot_device_name_valid(name, len))
		return;
	if (candidates->count == candidates->size)
	{
		bool		first = candidates->size == 0;
		Size		bytes;

		candidates->size = Max(candidates->size * 2, 64);
		bytes = sizeof(Datum) * candidates->size;
		candidates->names = first ? palloc(bytes) : repalloc_huge(candidates->names, bytes);
		candidates->templates = first ? palloc(bytes) :
			repalloc_huge(candidates->templates, bytes);
		candidates->parameters = first ? palloc(bytes) :
			repalloc_huge(candidates->parameters, bytes);
	}
	candidates->names[candidates->count] = candidates->name;
	candidates->templates[candidates->count] = candidates->template;
	candidates->parameters[candidates->count++] =
		PointerGetDatum(cstring_to_text_with_len(name, len));
}

/* Adds the parameters that the message has values for; none where it cannot be read. */
static void
read_parameters(const IotMapping *mapping, const IotIngestMessage *message, const char *parameter,
				uint32 parameter_len, Candidates *candidates)
{
	if (iot_is_mapped(mapping, parameter))
	{
		iot_mapped_parameters(mapping, message, parameter, parameter_len, add_candidate, candidates);
		return;
	}
	if (iot_telemetry_parse(&telemetry, message->payload, message->payload_len) != IOT_PAYLOAD_OK)
		return;
	for (size_t i = 0; i < telemetry.count; i++)
		add_candidate(candidates, telemetry.values[i].name, telemetry.values[i].name_len);
}

/* What a gateway says of a stranger. */
static void
read_named(const IotIngestMessage *message, const IotSender *sender, Candidates *candidates)
{
	const IotMapping *mapping;

	/* its type says who it is, and that he is not there is no reason to make him */
	if (sender->owner != NULL)
		return;
	mapping = iot_registry_topic_mapping(sender->topic);
	if (sender->kind != IOT_TOPIC_TELEMETRY ||
		!iot_device_name_valid(sender->name, sender->name_len))
		return;
	candidates->name = PointerGetDatum(cstring_to_text_with_len(sender->name, sender->name_len));
	candidates->template = CStringGetTextDatum(iot_registry_topic_template(sender->topic));
	read_parameters(mapping, message, sender->parameter, sender->parameter_len, candidates);
}

/* What a message of a stranger says of him; nothing where it could not be used anyway. */
static void
read_stranger(const IotIngestMessage *message, Candidates *candidates)
{
	IotTopicMatch match;
	IotTopicKind kind;
	int			at = -1;

	if (message->payload_len > (uint32) iot_max_payload_size * 1024)
		return;
	while ((at = iot_registry_topic_match(at + 1, message->topic, message->topic_len, &kind,
										  &match)) >= 0)
	{
		if (kind != IOT_TOPIC_TELEMETRY || match.device == NULL ||
			!iot_device_name_valid(match.device, match.device_len))
			continue;
		candidates->name = PointerGetDatum(cstring_to_text_with_len(match.device,
																	match.device_len));
		candidates->template = CStringGetTextDatum(iot_registry_topic_template(at));
		read_parameters(iot_registry_topic_mapping(at), message, match.parameter,
						match.parameter_len, candidates);
	}
}

static Datum
text_array(Datum *elements, int count)
{
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * Registers the batch's strangers as far as they may be; true where one may be known now.  Executes SQL
 * only where a message names one.
 */
bool
iot_batch_register(IotBatch *batch)
{
	Candidates	candidates = {0};
	Datum		args[4];
	bool		isnull;

	for (int i = 0; i < batch->message_count; i++)
	{
		const IotSender *sender = &batch->senders[i];

		if (!sender->known_topic || sender->device != NULL || sender->ignored)
			continue;
		if (sender->name != NULL)
			read_named(&batch->messages[i], sender, &candidates);
		else
			read_stranger(&batch->messages[i], &candidates);
	}
	if (candidates.count == 0)
		return false;
	args[0] = UUIDPGetDatum(batch->adapter_id);
	args[1] = text_array(candidates.names, candidates.count);
	args[2] = text_array(candidates.templates, candidates.count);
	args[3] = text_array(candidates.parameters, candidates.count);
	(void) iot_plan_execute(&register_devices, args, NULL);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}
