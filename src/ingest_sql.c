/*
 * ingest_sql.c
 *		iot.ingest(): the door for measurements that come by SQL or HTTP.
 *
 * Runs in the caller's backend and transaction.  The same code as for messages, with two
 * differences: the caller must be allowed to, and what cannot be used is an error that he hears,
 * with nothing written.  Only a value that meets another one for its time goes to the dead
 * letters, since sending it again would not help.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "access.h"
#include "compat.h"
#include "event.h"
#include "ingest_batch.h"
#include "iot.h"

PG_FUNCTION_INFO_V1(iot_ingest_sql);

static int
sqlstate_of(IotReason reason)
{
	switch (reason)
	{
		case IOT_REASON_UNKNOWN_PARAMETER:
			return ERRCODE_UNDEFINED_OBJECT;
		case IOT_REASON_INVALID_TIME:
			return ERRCODE_INVALID_DATETIME_FORMAT;
		case IOT_REASON_OUT_OF_TIME_RANGE:
			return ERRCODE_DATETIME_FIELD_OVERFLOW;
		case IOT_REASON_TOO_LARGE:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		default:
			return ERRCODE_INVALID_PARAMETER_VALUE;
	}
}

static const char *
hint_for(IotReason reason)
{
	switch (reason)
	{
		case IOT_REASON_UNKNOWN_PARAMETER:
			return "Insert it into iot.parameter and iot.sensor first.";
		case IOT_REASON_INVALID_TIME:
			return "Give milliseconds since 1970, or a time such as \"2025-01-31T12:00:00Z\".";
		case IOT_REASON_OUT_OF_TIME_RANGE:
			return "History goes into iot.measurement with COPY; iot.retention says how much is kept.";
		case IOT_REASON_TOO_LARGE:
			return "Send it in smaller pieces.";
		case IOT_REASON_NOT_FINITE:
			return "A measurement is a finite double precision number.";
		case IOT_REASON_WRONG_TYPE:
			return "Send {\"temperature\":21.5}, {\"ts\":1732310400000,\"values\":{…}}, or an array of these; "
				"a value is a number, or one of the words in the labels of its parameter.";
		default:
			return "Send {\"temperature\":21.5}, {\"ts\":1732310400000,\"values\":{…}}, or an array of these.";
	}
}

/* Tells the caller instead of keeping a dead letter. */
static void
raise_refusal(const IotDevice *device, IotReason reason, const char *error)
{
	if (reason == IOT_REASON_CONFLICT)
		return;
	ereport(ERROR,
			(errcode(sqlstate_of(reason)),
			 errmsg("cannot take measurements of device \"%s\": %s", device->name,
					pg_any_to_server(error, strlen(error), PG_UTF8)),
			 errhint("%s", hint_for(reason))));
}

/* The device of that name or id; raises where there is none. */
static IotDevice *
find_device(text *given)
{
	char	   *name = text_to_cstring(given);
	IotDevice  *device = NULL;
	pg_uuid_t	device_id;

	if (iot_uuid_parse(name, strlen(name), &device_id))
		device = iot_registry_device_by_id(&device_id);
	else if (iot_device_name_valid(name, strlen(name)))
		device = iot_registry_device_by_name(given);
	if (device == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("device \"%s\" does not exist", name),
				 errhint("A device is given by its name or its id; iot.create_device() makes one.")));
	return device;
}

static void
check_arguments(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"device", "measurements", "ts"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not be null", names[i]),
					 errhint("\"ts\" may be left out; it is then the time of the transaction.")));
	}
	if (TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(2)))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_FIELD_OVERFLOW),
				 errmsg("time of a measurement must be finite"),
				 errhint("Leave \"ts\" out to use the time of the transaction.")));
}

/*
 * iot.ingest(device text, measurements jsonb, ts timestamptz) returns integer; VOLATILE, SECURITY
 * DEFINER.  Number of values that were stored; those that were there already do not count.
 */
Datum
iot_ingest_sql(PG_FUNCTION_ARGS)
{
	IotIngestMessage message = {0};
	IotBatch	batch;
	IotIngestResult result;
	IotDevice  *device;
	Jsonb	   *measurements;
	char	   *payload;

	check_arguments(fcinfo);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to the server programming interface");
	measurements = PG_GETARG_JSONB_P(1);
	payload = JsonbToCString(NULL, &measurements->root, VARSIZE(measurements));
	message.payload = pg_server_to_any(payload, strlen(payload), PG_UTF8);
	message.payload_len = strlen(message.payload);
	message.received_at = PG_GETARG_TIMESTAMPTZ(2);

	iot_batch_begin(&batch, NULL, NULL, &message, 1);
	batch.refusal = raise_refusal;
	device = find_device(PG_GETARG_TEXT_PP(0));
	(void) iot_require_operate(&device->device_id, device->name);
	if (!device->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("device \"%s\" is disabled", device->name),
				 errhint("Set iot.device.enabled to take its measurements.")));
	batch.senders[0].device = device;
	if (message.payload_len > (uint32) iot_max_payload_size * 1024)
		iot_batch_refuse(&batch, 0, IOT_REASON_TOO_LARGE,
						 "payload is larger than \"iot.max_payload_size\"");
	iot_batch_telemetry(&batch, 0);
	iot_batch_end(&batch, &result);
	if (result.counters.conflict > 0)
		ereport(WARNING,
				(errmsg("measurements that differ from those already stored: " UINT64_FORMAT,
						result.counters.conflict),
				 errdetail("The first value of a sensor and time is kept."),
				 errhint("See iot.dead_letter.")));
	SPI_finish();
	PG_RETURN_INT32((int32) result.counters.stored);
}
