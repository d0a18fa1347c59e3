/*
 * event.c
 *		Appending to the event log, and building what its rows say.
 *
 * Runs in any backend, inside a transaction and between SPI_connect and SPI_finish.  An event
 * belongs to the caller's transaction: nobody hears of what did not commit.  Appending fires the
 * Device Service, so a caller holds no half-made state while it appends.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "compat.h"
#include "event.h"
#include "plan.h"
#include "uuidv7.h"
#include "worker_slot.h"

static IotPlan insert_event = {
	"INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)"
	" VALUES ($1, $2, $3, $4, $5, $6)",
	6, {UUIDOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, UUIDOID}
};

/* Writes 36 characters and a terminator. */
void
iot_uuid_text(const pg_uuid_t *uuid, char *text)
{
	static const char hex[] = "0123456789abcdef";

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*text++ = '-';
		*text++ = hex[uuid->data[i] >> 4];
		*text++ = hex[uuid->data[i] & 0x0f];
	}
	*text = '\0';
}

/*
 * Reads the two spellings that no name may have (36 characters with hyphens, 32 digits); false
 * for anything else.  Raises nothing, unlike the type's own input.
 */
bool
iot_uuid_parse(const char *text, size_t length, pg_uuid_t *uuid)
{
	int			digits = 0;

	if (length != 36 && length != 32)
		return false;
	for (size_t i = 0; i < length; i++)
	{
		char		c = text[i];
		int			digit;

		if (length == 36 && (i == 8 || i == 13 || i == 18 || i == 23))
		{
			if (c != '-')
				return false;
			continue;
		}
		if (c >= '0' && c <= '9')
			digit = c - '0';
		else if (c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			digit = c - 'A' + 10;
		else
			return false;
		if (digits % 2 == 0)
			uuid->data[digits / 2] = (unsigned char) (digit << 4);
		else
			uuid->data[digits / 2] |= (unsigned char) digit;
		digits++;
	}
	return true;
}

/* Begins a member whose value the caller pushes himself. */
void
iot_payload_key(IotPayload *payload, const char *key)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, key);
	value.val.string.len = strlen(key);
	(void) pushJsonbValue(&payload->state, WJB_KEY, &value);
}

void
iot_payload_begin(IotPayload *payload)
{
	payload->state = NULL;
	(void) pushJsonbValue(&payload->state, WJB_BEGIN_OBJECT, NULL);
}

/* The string must live until iot_payload_end(). */
void
iot_payload_text(IotPayload *payload, const char *key, const char *value)
{
	JsonbValue	string;

	iot_payload_key(payload, key);
	string.type = jbvString;
	string.val.string.val = unconstify(char *, value);
	string.val.string.len = strlen(value);
	(void) pushJsonbValue(&payload->state, WJB_VALUE, &string);
}

void
iot_payload_uuid(IotPayload *payload, const char *key, const pg_uuid_t *value)
{
	char	   *text = palloc(IOT_UUID_TEXT_SIZE);

	iot_uuid_text(value, text);
	iot_payload_text(payload, key, text);
}

/* A number as JSON has it, in full whatever the session says of digits; palloc'd. */
char *
iot_number_text(double value)
{
	char	   *digits = palloc(DOUBLE_SHORTEST_DECIMAL_LEN);

	double_to_shortest_decimal_buf(value, digits);
	return digits;
}

/* The shortest digits that read back as the same double, whatever the session shows. */
void
iot_payload_float8(IotPayload *payload, const char *key, double value)
{
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];
	JsonbValue	number;

	Assert(isfinite(value));
	double_to_shortest_decimal_buf(value, digits);
	iot_payload_key(payload, key);
	number.type = jbvNumeric;
	number.val.numeric =
		DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
											ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	(void) pushJsonbValue(&payload->state, WJB_VALUE, &number);
}

void
iot_payload_int8(IotPayload *payload, const char *key, int64 value)
{
	JsonbValue	number;

	iot_payload_key(payload, key);
	number.type = jbvNumeric;
	number.val.numeric = int64_to_numeric(value);
	(void) pushJsonbValue(&payload->state, WJB_VALUE, &number);
}

void
iot_payload_bool(IotPayload *payload, const char *key, bool value)
{
	JsonbValue	boolean;

	iot_payload_key(payload, key);
	boolean.type = jbvBool;
	boolean.val.boolean = value;
	(void) pushJsonbValue(&payload->state, WJB_VALUE, &boolean);
}

/* The finished object as a jsonb datum. */
Datum
iot_payload_end(IotPayload *payload)
{
	JsonbValue *object = pushJsonbValue(&payload->state, WJB_END_OBJECT, NULL);

	return JsonbPGetDatum(JsonbValueToJsonb(object));
}

/* To be called by whoever put rows into the log with a statement of his own. */
void
iot_event_appended(void)
{
	iot_wake_at_commit();
}

/*
 * Appends one event to the log and has workers woken at commit.  device_id may be NULL where the
 * event is about no device.
 */
void
iot_event_append(const char *type, const char *aggregatetype, const char *aggregateid,
				 const pg_uuid_t *device_id, Datum payload)
{
	pg_uuid_t	event_id;
	Datum		values[6];
	char		nulls[] = "      ";

	iot_uuidv7(&event_id);
	values[0] = UUIDPGetDatum(&event_id);
	values[1] = CStringGetTextDatum(aggregatetype);
	values[2] = CStringGetTextDatum(aggregateid);
	values[3] = CStringGetTextDatum(type);
	values[4] = payload;
	if (device_id != NULL)
		values[5] = UUIDPGetDatum(device_id);
	else
		nulls[5] = 'n';
	iot_plan_execute(&insert_event, values, nulls);
	iot_event_appended();
}
