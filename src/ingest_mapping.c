/*
 * ingest_mapping.c
 *		Telemetry of devices that speak their own way: values at paths, or one to a topic.
 *
 * Runs as part of a batch, in its memory context, like the default form in ingest_message.c.  A
 * device type's mapping names what is taken of a message; what else stands there is passed over,
 * for such devices talk of much that nobody asked for.  A message with nothing in it that is mapped
 * is a sign of life.
 */
#include "postgres.h"

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "core/body.h"
#include "ingest_batch.h"

/* The message that is being read; its memory is kept until the next one, for errors may come between. */
static IotBody body;

/* Whether telemetry is of another form than the default one; mapping and parameter may be NULL. */
bool
iot_is_mapped(const IotMapping *mapping, const char *parameter)
{
	return parameter != NULL || (mapping != NULL && mapping->value_count > 0);
}

/* Takes what stands at the path of a mapped value; nothing where nothing does. */
static void
take_mapped(IotBatch *batch, int index, const IotMappedValue *mapped, const IotValue *time)
{
	const IotSensor *sensor;
	const IotLabels *labels;
	IotValue	value = *time;
	double		number;

	value.name = mapped->parameter;
	value.name_len = mapped->parameter_len;
	if (!iot_body_value(&body, &mapped->path, &value))
		return;
	sensor = iot_device_sensor(batch->senders[index].device, mapped->parameter,
							   mapped->parameter_len);
	if (sensor == NULL)
	{
		iot_refuse_unknown_parameter(batch, index, mapped->parameter, mapped->parameter_len);
		return;
	}
	labels = mapped->labels != NULL ? mapped->labels : sensor->labels;
	if (value.kind == IOT_VALUE_NUMBER)
		value.number = iot_scale_from_device(value.number, mapped->scale, mapped->shift);
	if (iot_batch_number(batch, index, labels, &value, &number))
		iot_batch_point(batch, index, sensor, &value, number);
}

/* Takes the body of a topic that names its parameter, where the type has no mapping of values. */
static void
take_named(IotBatch *batch, int index)
{
	const IotSender *sender = &batch->senders[index];
	IotMappedValue named = {
		.parameter = sender->parameter,
		.parameter_len = sender->parameter_len,
		.scale = 1
	};
	IotValue	arrival = {.has_ts = false};

	take_mapped(batch, index, &named, &arrival);
}

/* The time of all values of the message, into has_ts and ts; false where it cannot be read. */
static bool
read_time(const IotMapping *mapping, IotValue *time)
{
	struct pg_tm tm;
	fsec_t		fsec;

	time->has_ts = false;
	if (mapping->time_path == NULL)
		return true;
	switch (iot_body_time(&body, mapping->time_path, mapping->time_unit_ms, &time->ts))
	{
		case IOT_BODY_NO_TIME:
			return true;
		case IOT_BODY_INVALID_TIME:
			return false;
		case IOT_BODY_LOCAL_TIME:
			if (mapping->time_zone == NULL ||
				timestamp2tm(time->ts - IOT_EPOCH_SHIFT, NULL, &tm, &fsec, NULL, NULL) != 0)
				return false;
			time->ts += DetermineTimeZoneOffset(&tm, mapping->time_zone) * USECS_PER_SEC;
			break;
		case IOT_BODY_TIME:
			break;
	}
	time->has_ts = true;
	return true;
}

/*
 * Whether the message is one that the value may be in: its topic is the value's own, or is no value's
 * own and names this one or none.
 */
static bool
is_about(const IotIngestMessage *message, const IotSender *sender, const IotMappedValue *mapped)
{
	if (mapped->topic != NULL)
		return sender->own_topic && mapped->topic_len == message->topic_len &&
			memcmp(mapped->topic, message->topic, mapped->topic_len) == 0;
	if (sender->own_topic)
		return false;
	return sender->parameter == NULL ||
		(sender->parameter_len == mapped->name_len &&
		 memcmp(sender->parameter, mapped->name, mapped->name_len) == 0);
}

/*
 * Tells the parameters that a device of the type would have by this message; none where it cannot be
 * read.
 */
void
iot_mapped_parameters(const IotMapping *mapping, const IotIngestMessage *message,
					  const char *parameter, uint32 parameter_len, IotParameterFound found,
					  void *arg)
{
	IotSender	sender = {.parameter = parameter, .parameter_len = parameter_len};
	IotValue	value;

	iot_body_free(&body);
	if (iot_body_read(&body, message->payload, message->payload_len) != IOT_PAYLOAD_OK)
		return;
	if (mapping == NULL || mapping->value_count == 0)
		found(arg, parameter, parameter_len);
	for (int i = 0; mapping != NULL && i < mapping->value_count; i++)
	{
		const IotMappedValue *mapped = &mapping->values[i];

		if (is_about(message, &sender, mapped) && iot_body_value(&body, &mapped->path, &value))
			found(arg, mapped->parameter, mapped->parameter_len);
	}
}

/* Takes a telemetry message of a device whose type has a mapping, or whose topic has {parameter}. */
void
iot_batch_mapped(IotBatch *batch, int index)
{
	const IotIngestMessage *message = &batch->messages[index];
	const IotSender *sender = &batch->senders[index];
	const IotMapping *mapping = sender->device->mapping;
	IotPayloadStatus status;
	IotValue	time;

	if (!message->retained)
		iot_batch_touch(batch, sender->device, message->received_at);
	iot_body_free(&body);
	status = iot_body_read(&body, message->payload, message->payload_len);
	if (status != IOT_PAYLOAD_OK)
	{
		iot_batch_refuse(batch, index, iot_reason_of(status),
						 psprintf("%s at byte %zu", body.error, body.error_at));
		return;
	}
	if (mapping == NULL || mapping->value_count == 0)
	{
		take_named(batch, index);
		return;
	}
	if (!read_time(mapping, &time))
	{
		iot_batch_refuse(batch, index, IOT_REASON_INVALID_TIME,
						 "what stands at the path of the time is no time, or one without a zone");
		return;
	}
	for (int i = 0; i < mapping->value_count; i++)
	{
		if (is_about(message, sender, &mapping->values[i]))
			take_mapped(batch, index, &mapping->values[i], &time);
	}
}
