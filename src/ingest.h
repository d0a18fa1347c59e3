/*
 * ingest.h
 *		Taking in what devices say, a batch at a time.
 */
#ifndef IOT_INGEST_H
#define IOT_INGEST_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "core/payload.h"
#include "core/topic.h"

/* Why something was not stored; iot_reason_name() gives the code that dead letters show. */
typedef enum IotReason
{
	IOT_REASON_UNKNOWN_TOPIC,
	IOT_REASON_UNKNOWN_DEVICE,
	IOT_REASON_WRONG_ADAPTER,
	IOT_REASON_DISABLED_DEVICE,
	IOT_REASON_UNKNOWN_PARAMETER,
	IOT_REASON_MALFORMED_JSON,
	IOT_REASON_INVALID_UTF8,
	IOT_REASON_WRONG_TYPE,
	IOT_REASON_NOT_FINITE,
	IOT_REASON_INVALID_TIME,
	IOT_REASON_OUT_OF_TIME_RANGE,
	IOT_REASON_CONFLICT,
	IOT_REASON_TOO_LARGE,
	IOT_REASON_EMPTY,
	IOT_REASON_RETAINED,
	IOT_REASON_UNKNOWN_COMMAND,
	IOT_REASON_REFUSED_ANNOUNCEMENT,
	IOT_REASON_REFUSED_BY_DATABASE
} IotReason;

#define IOT_REASONS (IOT_REASON_REFUSED_BY_DATABASE + 1)

/* One message as it came; topic and payload need not be terminated. */
typedef struct IotIngestMessage
{
	const char *topic;
	const char *payload;
	uint32		topic_len;
	uint32		payload_len;
	TimestampTz received_at;
	bool		retained;		/* the broker's copy of an earlier message */
} IotIngestMessage;

/* What an adapter's options let those do who are no devices yet. */
typedef struct IotStrangers
{
	bool		register_themselves;	/* by their first telemetry */
	const char *discovery_prefix;	/* of topics where they announce themselves; NULL: nowhere */
} IotStrangers;

/*
 * received = stored + duplicate + conflict + rejected, counted in values; a message that gives no
 * value counts as one that is rejected.  What is no measurement is counted apart.
 */
typedef struct IotIngestCounters
{
	uint64		messages;
	uint64		received;
	uint64		stored;
	uint64		duplicate;
	uint64		conflict;
	uint64		rejected;
	uint64		attributes;
	uint64		statuses;
	uint64		acks;
	uint64		announcements;
	uint64		reasons[IOT_REASONS];	/* of conflict and rejected */
} IotIngestCounters;

/* A well-formed acknowledgement of a known device, not yet held against a command. */
typedef struct IotIngestAck
{
	int			message;		/* index in the batch */
	char		device[IOT_DEVICE_NAME_MAX + 1];
	pg_uuid_t	command_id;
	bool		ok;
	char	   *error;			/* NULL where the device gave none */
} IotIngestAck;

/* A value that is in the table now, be it by this message or by an equal one before. */
typedef struct IotIngestValue
{
	pg_uuid_t	device_id;
	pg_uuid_t	parameter_id;
	TimestampTz ts;
	double		value;
} IotIngestValue;

typedef struct IotIngestResult
{
	IotIngestCounters counters;
	IotIngestAck *acks;
	int			nacks;
	IotIngestValue *values;
	int			nvalues;
	bool		refused;		/* something of it */
	IotReason	reason;			/* of the first that was refused */
} IotIngestResult;

extern PGDLLEXPORT void iot_ingest_batch(const char *adapter, const pg_uuid_t *adapter_id,
										 const IotStrangers *strangers,
										 const IotIngestMessage *messages, int count,
										 IotIngestResult *result);
extern void iot_ingest_replay(int64 dead_letter_id, const char *adapter,
							  const pg_uuid_t *adapter_id, const char *discovery_prefix,
							  text *device, const IotIngestMessage *message, IotIngestResult *result);
extern PGDLLEXPORT void iot_ingest_counters_add(IotIngestCounters *sum,
												const IotIngestCounters *counters);
extern PGDLLEXPORT const char *iot_reason_name(IotReason reason);

#endif							/* IOT_INGEST_H */
