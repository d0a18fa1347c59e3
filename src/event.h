/*
 * event.h
 *		Appending to the event log, and building what its rows say.
 */
#ifndef IOT_EVENT_H
#define IOT_EVENT_H

#include "utils/jsonb.h"
#include "utils/uuid.h"

/* A JSON object in the making, in the memory context of its first call. */
typedef struct IotPayload
{
	JsonbParseState *state;
} IotPayload;

extern PGDLLEXPORT void iot_payload_begin(IotPayload *payload);
extern PGDLLEXPORT void iot_payload_key(IotPayload *payload, const char *key);
extern PGDLLEXPORT void iot_payload_text(IotPayload *payload, const char *key, const char *value);
extern PGDLLEXPORT void iot_payload_uuid(IotPayload *payload, const char *key,
										 const pg_uuid_t *value);
extern PGDLLEXPORT void iot_payload_float8(IotPayload *payload, const char *key, double value);
extern PGDLLEXPORT void iot_payload_int8(IotPayload *payload, const char *key, int64 value);
extern PGDLLEXPORT void iot_payload_bool(IotPayload *payload, const char *key, bool value);
extern PGDLLEXPORT Datum iot_payload_end(IotPayload *payload);

extern PGDLLEXPORT char *iot_number_text(double value);
extern PGDLLEXPORT void iot_uuid_text(const pg_uuid_t *uuid, char *text);
extern PGDLLEXPORT bool iot_uuid_parse(const char *text, size_t length, pg_uuid_t *uuid);

extern PGDLLEXPORT void iot_event_append(const char *type, const char *aggregatetype,
										 const char *aggregateid, const pg_uuid_t *device_id,
										 Datum payload);
extern PGDLLEXPORT void iot_event_appended(void);

#define IOT_UUID_TEXT_SIZE 37

#endif							/* IOT_EVENT_H */
