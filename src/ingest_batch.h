/*
 * ingest_batch.h
 *		A batch in the making: between ingest.c and the SQL door, for nobody else.
 */
#ifndef IOT_INGEST_BATCH_H
#define IOT_INGEST_BATCH_H

#include "utils/jsonb.h"

#include "dead_letter.h"
#include "device_state.h"
#include "ingest.h"
#include "measurement_store.h"
#include "registry_topics.h"

/* Microseconds from the device's epoch, 1970, to the server's, 2000. */
#define IOT_EPOCH_SHIFT		((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* Raises instead of keeping a dead letter. */
typedef void (*IotRefusal) (const IotDevice *device, IotReason reason, const char *error);

/* Hears of a parameter that a stranger's message has a value for. */
typedef void (*IotParameterFound) (void *arg, const char *name, uint32 len);

/* Who sent a message, and what it is about. */
typedef struct IotSender
{
	IotDevice  *device;			/* NULL where the topic names none that we know */
	const char *parameter;		/* that the topic names, or NULL */
	uint32		parameter_len;
	IotTopicKind kind;
	bool		known_topic;
	bool		ignored;		/* unless somebody we know sent it */
	bool		done;			/* refused or taken before anybody looked who sent it */
	const char *name;			/* that a gateway gives, or that its topic has alone, or NULL */
	uint32		name_len;
	int			topic;			/* index of the gateway's template */
	const IotMapping *owner;	/* of a topic that is the sender's alone; NULL where it is not */
	bool		own_topic;		/* that of some of its parameters */
} IotSender;

typedef struct IotBatch
{
	MemoryContext cxt;
	MemoryContext caller_cxt;
	const char *adapter;
	const pg_uuid_t *adapter_id;
	const IotIngestMessage *originals;	/* as they came */
	const IotIngestMessage *messages;	/* the same, or what gateways say in them of each device */
	const int  *origins;		/* of each message, among the originals; NULL where they are these */
	IotSender  *senders;		/* one for each message */
	int			message_count;
	uint64		number;
	TimestampTz oldest;
	TimestampTz newest;
	IotRefusal	refusal;		/* NULL to keep dead letters */
	int64		replayed;		/* the dead letter that is taken in again, or 0 */
	IotIngestCounters counters;

	IotPoint   *points;
	int			point_count;
	int			point_capacity;
	IotDeadLetter *letters;
	int			letter_count;
	int			letter_capacity;
	IotDeviceTouch *touches;
	int			touch_count;
	int			touch_capacity;
	IotDeviceReport *reports;
	int			report_count;
	int			report_capacity;
	IotIngestAck *acks;
	int			ack_count;
	int			ack_capacity;
} IotBatch;

extern void iot_batch_begin(IotBatch *batch, const char *adapter, const pg_uuid_t *adapter_id,
							const IotIngestMessage *messages, int count);
extern int	iot_batch_origin(const IotBatch *batch, int index);
extern Jsonb *iot_batch_jsonb(const IotIngestMessage *message, const char **error);
extern void iot_batch_discover(IotBatch *batch, const char *prefix);
extern void iot_batch_expand(IotBatch *batch);
extern bool iot_batch_register(IotBatch *batch);
extern void iot_batch_refuse(IotBatch *batch, int index, IotReason reason, const char *error);
extern void iot_batch_message(IotBatch *batch, int index);
extern void iot_batch_telemetry(IotBatch *batch, int index);
extern bool iot_is_mapped(const IotMapping *mapping, const char *parameter);
extern void iot_batch_mapped(IotBatch *batch, int index);
extern void iot_mapped_parameters(const IotMapping *mapping, const IotIngestMessage *message,
								  const char *parameter, uint32 parameter_len,
								  IotParameterFound found, void *arg);
extern void iot_batch_touch(IotBatch *batch, IotDevice *device, TimestampTz at);
extern bool iot_batch_number(IotBatch *batch, int index, const IotLabels *labels,
							 const IotValue *value, double *number);
extern void iot_batch_point(IotBatch *batch, int index, const IotSensor *sensor,
							const IotValue *value, double number);
extern IotReason iot_reason_of(IotPayloadStatus status);
extern void iot_refuse_unknown_parameter(IotBatch *batch, int index, const char *name,
										 uint32 name_len);
extern void iot_batch_end(IotBatch *batch, IotIngestResult *result);

#endif							/* IOT_INGEST_BATCH_H */
