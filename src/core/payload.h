/*
 * payload.h
 *		What devices say: telemetry, acknowledgements, status, attributes.
 */
#ifndef IOT_CORE_PAYLOAD_H
#define IOT_CORE_PAYLOAD_H

#include "core/core.h"

struct cJSON;

#define IOT_PAYLOAD_MAX_VALUES	10000	/* of one telemetry message */
#define IOT_ACK_ERROR_MAX		1000	/* bytes kept of a device's error text */

typedef enum IotPayloadStatus
{
	IOT_PAYLOAD_OK,
	IOT_PAYLOAD_INVALID_UTF8,
	IOT_PAYLOAD_MALFORMED,		/* not JSON, or JSON with a key given twice */
	IOT_PAYLOAD_WRONG_TYPE,		/* JSON, but not of this shape */
	IOT_PAYLOAD_INVALID_TIME,
	IOT_PAYLOAD_TOO_LARGE,
	IOT_PAYLOAD_NO_MEMORY
} IotPayloadStatus;

typedef enum IotValueKind
{
	IOT_VALUE_NUMBER,			/* may be infinite: a number that no double can hold */
	IOT_VALUE_WORD,				/* a string, or true or false by that name */
	IOT_VALUE_OTHER				/* null, object, array: never a measurement */
} IotValueKind;

/* One value of a telemetry message.  Texts are not terminated. */
typedef struct IotValue
{
	const char *name;
	const char *word;
	uint32_t	name_len;
	uint32_t	word_len;
	double		number;
	int64_t		ts;				/* microseconds since 1970, where has_ts */
	IotValueKind kind;
	bool		has_ts;
} IotValue;

/*
 * The values of one message, and the memory to read the next one into.  Texts point into the
 * memory of this, and last until the next parse.
 */
typedef struct IotTelemetry
{
	IotValue   *values;
	size_t		count;
	size_t		capacity;
	struct cJSON *tree;			/* of the message that was read last */
	uint32_t   *seen;			/* hash table of names, to find those given twice */
	size_t		seen_size;
	const char *error;			/* static phrase, where the status is not OK */
	size_t		error_at;		/* byte of the payload that it is about */
} IotTelemetry;

typedef struct IotAck
{
	uint8_t		command_id[16];
	bool		ok;
	char		error[IOT_ACK_ERROR_MAX + 1];
} IotAck;

extern IOT_API void iot_telemetry_init(IotTelemetry *telemetry);
extern IOT_API void iot_telemetry_free(IotTelemetry *telemetry);
extern IOT_API IotPayloadStatus iot_telemetry_parse(IotTelemetry *telemetry,
													const char *payload, size_t len);
extern IOT_API IotPayloadStatus iot_ack_parse(const char *payload, size_t len, IotAck *ack,
											  const char **error);
extern IOT_API IotPayloadStatus iot_status_parse(const char *payload, size_t len, bool *online,
												 const char **error);
extern IOT_API IotPayloadStatus iot_attributes_check(const char *payload, size_t len,
													 const char **error);

#endif							/* IOT_CORE_PAYLOAD_H */
