/*
 * dead_letter.c
 *		What could not be used, kept with the reason.
 *
 * Runs in workers and in backends that call iot.ingest(), inside their transaction and between
 * SPI_connect and SPI_finish.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "core/utf8.h"
#include "dead_letter.h"
#include "plan.h"

/* A topic that a stranger chose may be of any length; nobody reads more of it. */
#define TOPIC_MAX_BYTES		1024
#define ERROR_MAX_BYTES		2048

static const char *const reason_names[IOT_REASONS] = {
	[IOT_REASON_UNKNOWN_TOPIC] = "unknown_topic",
	[IOT_REASON_UNKNOWN_DEVICE] = "unknown_device",
	[IOT_REASON_WRONG_ADAPTER] = "wrong_adapter",
	[IOT_REASON_DISABLED_DEVICE] = "disabled_device",
	[IOT_REASON_UNKNOWN_PARAMETER] = "unknown_parameter",
	[IOT_REASON_MALFORMED_JSON] = "malformed_json",
	[IOT_REASON_INVALID_UTF8] = "invalid_utf8",
	[IOT_REASON_WRONG_TYPE] = "wrong_type",
	[IOT_REASON_NOT_FINITE] = "not_finite",
	[IOT_REASON_INVALID_TIME] = "invalid_time",
	[IOT_REASON_OUT_OF_TIME_RANGE] = "out_of_time_range",
	[IOT_REASON_CONFLICT] = "conflict",
	[IOT_REASON_TOO_LARGE] = "too_large",
	[IOT_REASON_EMPTY] = "empty",
	[IOT_REASON_RETAINED] = "retained",
	[IOT_REASON_UNKNOWN_COMMAND] = "unknown_command",
	[IOT_REASON_REFUSED_ANNOUNCEMENT] = "refused_announcement",
	[IOT_REASON_REFUSED_BY_DATABASE] = "refused_by_database"
};

static IotPlan insert_letters = {
	"INSERT INTO iot.dead_letter"
	" (adapter, device, topic, payload, reason, error, received_at, retained)"
	" SELECT u.adapter, u.device, u.topic, u.payload, u.reason, u.error, u.received_at, u.retained"
	" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)"
	" AS u (adapter, device, topic, payload, reason, error, received_at, retained)",
	8, {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	TIMESTAMPTZARRAYOID, BOOLARRAYOID}
};
static IotPlan restate_letter = {
	"UPDATE iot.dead_letter SET reason = $2, error = $3 WHERE dead_letter_id = $1",
	3, {INT8OID, TEXTOID, TEXTOID}
};

/* Code that stands in iot.dead_letter.reason. */
const char *
iot_reason_name(IotReason reason)
{
	return reason_names[reason];
}

/* A text datum of what came from outside: cut, and with "?" for what the database cannot hold. */
static Datum
foreign_text(const char *data, size_t len, size_t max)
{
	bool		keep = GetDatabaseEncoding() == PG_UTF8 && iot_utf8_valid(data, len);
	text	   *result;
	char	   *to;

	if (len > max)
		len = keep ? iot_utf8_clip(data, len, max) : max;
	result = cstring_to_text_with_len(data, len);
	to = VARDATA(result);
	for (size_t i = 0; i < len; i++)
	{
		if (to[i] == '\0' || (!keep && IS_HIGHBIT_SET(to[i])))
			to[i] = '?';
	}
	return PointerGetDatum(result);
}

static Datum
bytea_datum(const char *data, size_t len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), data, len);
	return PointerGetDatum(result);
}

static Datum
array_datum(Datum *values, bool *nulls, int count, Oid type)
{
	int			lower = 1;

	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, &lower, type,
											  -1, false, TYPALIGN_INT));
}

/* What the letter says of itself in words, as a text datum; false where it says nothing. */
static bool
error_text(const IotDeadLetter *letter, Datum *result)
{
	const char *error = letter->error != NULL ? letter->error : "";

	if (letter->count > 1)
		error = psprintf("%s (and %u more)", error, letter->count - 1);
	*result = foreign_text(error, strlen(error), ERROR_MAX_BYTES);
	return error[0] != '\0';
}

/* Has a letter that is there say why it could not be used this time; may raise. */
void
iot_dead_letter_restate(int64 dead_letter_id, const IotDeadLetter *letter)
{
	Datum		args[3];
	char		nulls[] = "   ";

	args[0] = Int64GetDatum(dead_letter_id);
	args[1] = CStringGetTextDatum(iot_reason_name(letter->reason));
	if (!error_text(letter, &args[2]))
		nulls[2] = 'n';
	(void) iot_plan_execute(&restate_letter, args, nulls);
}

/* Writes the letters with one statement; may raise. */
void
iot_dead_letter_store(const IotDeadLetter *letters, int count)
{
	enum
	{
		ADAPTER, DEVICE, TOPIC, PAYLOAD, REASON, ERROR_TEXT, RECEIVED_AT, RETAINED, COLUMNS
	};
	Datum	   *values[COLUMNS];
	bool	   *nulls[COLUMNS];
	Datum		args[COLUMNS];

	if (count == 0)
		return;
	for (int i = 0; i < COLUMNS; i++)
	{
		values[i] = palloc(sizeof(Datum) * count);
		nulls[i] = palloc0(sizeof(bool) * count);
	}
	for (int i = 0; i < count; i++)
	{
		const IotDeadLetter *letter = &letters[i];

		nulls[ADAPTER][i] = letter->adapter == NULL;
		nulls[DEVICE][i] = letter->device == NULL;
		nulls[TOPIC][i] = letter->topic == NULL;
		nulls[PAYLOAD][i] = letter->payload == NULL;
		if (letter->adapter != NULL)
			values[ADAPTER][i] = CStringGetTextDatum(letter->adapter);
		if (letter->device != NULL)
			values[DEVICE][i] = foreign_text(letter->device, strlen(letter->device),
											 TOPIC_MAX_BYTES);
		if (letter->topic != NULL)
			values[TOPIC][i] = foreign_text(letter->topic, letter->topic_len, TOPIC_MAX_BYTES);
		if (letter->payload != NULL)
			values[PAYLOAD][i] = bytea_datum(letter->payload, letter->payload_len);
		values[REASON][i] = CStringGetTextDatum(iot_reason_name(letter->reason));
		nulls[ERROR_TEXT][i] = !error_text(letter, &values[ERROR_TEXT][i]);
		values[RECEIVED_AT][i] = TimestampTzGetDatum(letter->received_at);
		values[RETAINED][i] = BoolGetDatum(letter->retained);
	}
	for (int i = 0; i < RECEIVED_AT; i++)
		args[i] = array_datum(values[i], nulls[i], count, i == PAYLOAD ? BYTEAOID : TEXTOID);
	args[RECEIVED_AT] = PointerGetDatum(construct_array(values[RECEIVED_AT], count,
														TIMESTAMPTZOID, sizeof(TimestampTz),
														FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	args[RETAINED] = PointerGetDatum(construct_array(values[RETAINED], count, BOOLOID,
													 sizeof(bool), true, TYPALIGN_CHAR));
	(void) iot_plan_execute(&insert_letters, args, NULL);
}
