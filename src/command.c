/*
 * command.c
 *		Command Service: iot.send_command().
 *
 * Runs in the sender's transaction and asks who is asking.  A call that makes no sense raises and
 * writes nothing; a value that Device Service refuses is a command with status FAILED.  Nothing
 * here talks to anybody: the row and its event are all, so that a sender may roll back or prepare
 * for two-phase commit.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "access.h"
#include "compat.h"
#include "event.h"
#include "iot.h"
#include "plan.h"
#include "request.h"
#include "uuidv7.h"

PG_FUNCTION_INFO_V1(iot_send_command);
PG_FUNCTION_INFO_V1(iot_send_command_word);
PG_FUNCTION_INFO_V1(iot_send_command_as);

/* What a command is sent to, and what the caller wants; pointers live until SPI_finish. */
typedef struct Request
{
	pg_uuid_t	device_id;
	pg_uuid_t	adapter_id;
	char	   *device;
	bool		enabled;
	pg_uuid_t	parameter_id;
	char	   *parameter;
	char	   *unit;			/* NULL: none */
	bool		has_sensor;
	Jsonb	   *labels;			/* NULL: none */
	Interval   *type_ttl;		/* NULL: none */
	char	   *username;
	char	   *action;
	double		value;
	bool		has_expected;
	double		expected;
	bool		has_request_id;
	pg_uuid_t	request_id;
	Interval   *ttl;			/* NULL: none */
} Request;

#define TARGET_QUERY(condition) \
	"SELECT d.device_id, d.adapter_id, d.name, d.enabled, p.parameter_id, p.name, p.unit," \
	" s.device_id IS NOT NULL, coalesce(s.labels, p.labels), t.command_ttl" \
	" FROM iot.device d JOIN iot.device_type t ON t.device_type_id = d.device_type_id" \
	" LEFT JOIN iot.parameter p ON p.name = $2" \
	" LEFT JOIN iot.sensor s ON s.device_id = d.device_id AND s.parameter_id = p.parameter_id" \
	" WHERE " condition

static IotPlan find_by_name = {TARGET_QUERY("d.name = $1"), 2, {TEXTOID, TEXTOID}};
static IotPlan find_by_id = {TARGET_QUERY("d.device_id = $1"), 2, {UUIDOID, TEXTOID}};
static IotPlan find_request = {
	"SELECT c.command_id, c.parameter_id, c.action, c.value, c.expected FROM iot.command c"
	" WHERE c.device_id = $1 AND c.request_id = $2",
	2, {UUIDOID, UUIDOID}
};

#define INSERT_COMMAND \
	"INSERT INTO iot.command (device_id, command_id, request_id, parameter_id, adapter_id, action," \
	" value, expected, username, created_at, deadline)" \
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
#define INSERT_COMMAND_TYPES \
	{UUIDOID, UUIDOID, UUIDOID, UUIDOID, UUIDOID, TEXTOID, FLOAT8OID, FLOAT8OID, TEXTOID, \
	TIMESTAMPTZOID, TIMESTAMPTZOID}

static IotPlan insert_command = {INSERT_COMMAND, 11, INSERT_COMMAND_TYPES};

/* Only a request with an id can meet itself, and a speculative insertion costs more. */
static IotPlan insert_request = {
	INSERT_COMMAND " ON CONFLICT (device_id, request_id) WHERE request_id IS NOT NULL"
	" DO NOTHING", 11, INSERT_COMMAND_TYPES
};

static void
find_target(text *device, text *parameter, Request *request)
{
	Datum		values[2];
	pg_uuid_t	device_id;
	HeapTuple	row;
	TupleDesc	desc;
	Datum		value;
	bool		isnull;
	uint64		rows;

	values[1] = PointerGetDatum(parameter);
	if (iot_uuid_parse(VARDATA_ANY(device), VARSIZE_ANY_EXHDR(device), &device_id))
	{
		values[0] = UUIDPGetDatum(&device_id);
		rows = iot_plan_execute(&find_by_id, values, NULL);
	}
	else
	{
		values[0] = PointerGetDatum(device);
		rows = iot_plan_execute(&find_by_name, values, NULL);
	}
	if (rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("device \"%s\" does not exist", text_to_cstring(device)),
				 errhint("A device is given by its name or its id; iot.create_device() makes one.")));
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	request->device_id = *DatumGetUUIDP(SPI_getbinval(row, desc, 1, &isnull));
	request->adapter_id = *DatumGetUUIDP(SPI_getbinval(row, desc, 2, &isnull));
	request->device = SPI_getvalue(row, desc, 3);
	request->enabled = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
	value = SPI_getbinval(row, desc, 5, &isnull);
	request->parameter = NULL;
	if (!isnull)
	{
		request->parameter_id = *DatumGetUUIDP(value);
		request->parameter = SPI_getvalue(row, desc, 6);
	}
	request->unit = SPI_getvalue(row, desc, 7);
	request->has_sensor = DatumGetBool(SPI_getbinval(row, desc, 8, &isnull));
	value = SPI_getbinval(row, desc, 9, &isnull);
	request->labels = isnull ? NULL : DatumGetJsonbP(value);
	value = SPI_getbinval(row, desc, 10, &isnull);
	request->type_ttl = isnull ? NULL : DatumGetIntervalP(value);
}

static void
check_parameter(const Request *request, text *parameter)
{
	if (request->parameter == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("parameter \"%s\" does not exist", text_to_cstring(parameter)),
				 errhint("Parameters are rows of iot.parameter.")));
	if (!request->has_sensor)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("device \"%s\" has no parameter \"%s\"", request->device,
						request->parameter),
				 errhint("A row of iot.sensor gives a device a parameter.")));
}

static void
check_finite(double value, const char *what)
{
	if (!isfinite(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is not a finite number", what),
				 errhint("NaN and infinities cannot be sent to a device.")));
}

/* The words of labels, for a hint. */
static char *
label_list(Jsonb *labels)
{
	StringInfoData list;
	JsonbIterator *iterator = JsonbIteratorInit(&labels->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	initStringInfo(&list);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			appendStringInfo(&list, "%s\"%.*s\"", list.len > 0 ? ", " : "",
							 value.val.string.len, value.val.string.val);
	}
	return list.data;
}

/* The number that a word stands for: one of the sensor's labels, else a number as text. */
static double
resolve_word(const Request *request, text *word)
{
	char	   *string = text_to_cstring(word);
	char	   *end;
	double		value;
	JsonbValue	buffer;
	JsonbValue *label = NULL;

	if (request->labels != NULL && JB_ROOT_IS_OBJECT(request->labels))
		label = getKeyJsonValueFromContainer(&request->labels->root, string, strlen(string),
											 &buffer);
	if (label != NULL && label->type == jbvNumeric)
		return DatumGetFloat8(DirectFunctionCall1(numeric_float8,
												  NumericGetDatum(label->val.numeric)));
	errno = 0;
	value = strtod(string, &end);
	if (end != string && *end == '\0' && !(errno == ERANGE && fabs(value) > 1))
		return value;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is neither a number nor a word of parameter \"%s\"", string,
					request->parameter),
			 request->labels != NULL && JB_ROOT_IS_OBJECT(request->labels)
			 ? errhint("Its words are %s.", label_list(request->labels))
			 : errhint("The parameter has no labels; give a number.")));
	return 0;					/* not reached */
}

static void
compute_deadline(const Request *request, TimestampTz *created_at, TimestampTz *deadline)
{
	Interval   *ttl = request->ttl ? request->ttl : request->type_ttl;
	Interval	longest = {.day = 31};
	Interval	shortest = {.time = 10 * INT64CONST(1000)};

	*created_at = GetCurrentTimestamp();
	if (ttl == NULL)
	{
		*deadline = *created_at + (TimestampTz) iot_command_ttl * USECS_PER_SEC;
		return;
	}
	/* before adding, which fails for what no timestamp can hold */
	if (DatumGetBool(DirectFunctionCall2(interval_lt, IntervalPGetDatum(ttl),
										 IntervalPGetDatum(&shortest))) ||
		DatumGetBool(DirectFunctionCall2(interval_gt, IntervalPGetDatum(ttl),
										 IntervalPGetDatum(&longest))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time to live of a command is out of range"),
				 errhint("It must lie between 10 ms and 31 days.")));
	*deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														TimestampTzGetDatum(*created_at),
														IntervalPGetDatum(ttl)));
}

/*
 * The command that this request id has already made, if any; raises where it was another request.
 */
static bool
find_existing(const Request *request, pg_uuid_t *command_id)
{
	Datum		values[2];
	HeapTuple	row;
	TupleDesc	desc;
	Datum		value;
	bool		isnull;
	bool		same;

	values[0] = UUIDPGetDatum(&request->device_id);
	values[1] = UUIDPGetDatum(&request->request_id);
	if (iot_plan_execute(&find_request, values, NULL) == 0)
		return false;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	*command_id = *DatumGetUUIDP(SPI_getbinval(row, desc, 1, &isnull));
	same = memcmp(DatumGetUUIDP(SPI_getbinval(row, desc, 2, &isnull)), &request->parameter_id,
				  UUID_LEN) == 0;
	same = same && strcmp(SPI_getvalue(row, desc, 3), request->action) == 0;
	same = same && DatumGetFloat8(SPI_getbinval(row, desc, 4, &isnull)) == request->value;
	value = SPI_getbinval(row, desc, 5, &isnull);
	same = same && isnull == !request->has_expected &&
		(isnull || DatumGetFloat8(value) == request->expected);
	if (!same)
	{
		char		request_id[IOT_UUID_TEXT_SIZE];

		iot_uuid_text(&request->request_id, request_id);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("request id %s was used with other arguments", request_id),
				 errdetail("Parameter, action, value and expected of a repeated request must be the same."),
				 errhint("Use a new request id for a new request.")));
	}
	return true;
}

/* False where a concurrent call with the same request id was faster. */
static bool
insert(const Request *request, pg_uuid_t *command_id)
{
	Datum		values[11];
	char		nulls[] = "           ";
	TimestampTz created_at;
	TimestampTz deadline;

	compute_deadline(request, &created_at, &deadline);
	iot_uuidv7(command_id);
	values[0] = UUIDPGetDatum(&request->device_id);
	values[1] = UUIDPGetDatum(command_id);
	values[2] = UUIDPGetDatum(&request->request_id);
	nulls[2] = request->has_request_id ? ' ' : 'n';
	values[3] = UUIDPGetDatum(&request->parameter_id);
	values[4] = UUIDPGetDatum(&request->adapter_id);
	values[5] = CStringGetTextDatum(request->action);
	values[6] = Float8GetDatum(request->value);
	values[7] = Float8GetDatum(request->expected);
	nulls[7] = request->has_expected ? ' ' : 'n';
	values[8] = CStringGetTextDatum(request->username);
	values[9] = TimestampTzGetDatum(created_at);
	values[10] = TimestampTzGetDatum(deadline);
	return iot_plan_execute(request->has_request_id ? &insert_request : &insert_command, values,
							nulls) == 1;
}

static void
announce(const Request *request, const pg_uuid_t *command_id)
{
	IotPayload	payload;
	char		aggregateid[IOT_UUID_TEXT_SIZE];

	iot_payload_begin(&payload);
	iot_payload_uuid(&payload, "command_id", command_id);
	iot_payload_text(&payload, "device", request->device);
	iot_payload_text(&payload, "parameter", request->parameter);
	iot_payload_text(&payload, "action", request->action);
	iot_payload_float8(&payload, "value", request->value);
	if (request->unit != NULL)
		iot_payload_text(&payload, "unit", request->unit);
	iot_payload_text(&payload, "username", request->username);
	if (request->has_request_id)
		iot_payload_uuid(&payload, "request_id", &request->request_id);
	iot_uuid_text(command_id, aggregateid);
	iot_event_append("command.value_set", "command", aggregateid, &request->device_id,
					 iot_payload_end(&payload));
}

/*
 * Makes the command of a request that has been looked at, or finds the one that it made before.  A
 * request that was taken stays taken, whatever became of its device since.
 */
static void
take(const Request *request, pg_uuid_t *command_id)
{
	if (request->has_request_id && find_existing(request, command_id))
		return;
	if (!request->enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("device \"%s\" is disabled", request->device),
				 errhint("Set \"enabled\" of its row in iot.device.")));
	if (insert(request, command_id))
		announce(request, command_id);
	else if (!find_existing(request, command_id))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not send command: a concurrent request has the same id"),
				 errhint("Try again.")));
}

/* Both forms: device, parameter, value or word, action, expected, request_id, ttl. */
static Datum
send_command(FunctionCallInfo fcinfo, bool is_word)
{
	static const char *const required[] = {"device", "parameter", NULL, "action"};
	text	   *parameter;
	Request		request = {0};
	pg_uuid_t  *command_id = palloc(sizeof(pg_uuid_t));

	for (int i = 0; i < 4; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be null",
							required[i] ? required[i] : is_word ? "word" : "value"),
					 errhint("Only expected, request_id and ttl may be null.")));
	}
	parameter = PG_GETARG_TEXT_PP(1);
	request.action = text_to_cstring(PG_GETARG_TEXT_PP(3));
	request.has_expected = !PG_ARGISNULL(4);
	request.expected = request.has_expected ? PG_GETARG_FLOAT8(4) : 0;
	request.has_request_id = !PG_ARGISNULL(5);
	if (request.has_request_id)
		request.request_id = *PG_GETARG_UUID_P(5);
	else
		request.has_request_id = iot_request_id(&request.request_id);
	request.ttl = PG_ARGISNULL(6) ? NULL : PG_GETARG_INTERVAL_P(6);
	if (strcmp(request.action, "set") != 0 && strcmp(request.action, "add") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown action \"%s\"", request.action),
				 errhint("Actions are \"set\" and \"add\".")));

	SPI_connect();
	find_target(PG_GETARG_TEXT_PP(0), parameter, &request);
	request.username = iot_require_operate(&request.device_id, request.device);
	check_parameter(&request, parameter);
	request.value = is_word ? resolve_word(&request, PG_GETARG_TEXT_PP(2)) : PG_GETARG_FLOAT8(2);
	check_finite(request.value, "value");
	check_finite(request.expected, "expected value");

	take(&request, command_id);
	SPI_finish();
	PG_RETURN_UUID_P(command_id);
}

/* iot.send_command(…, value double precision, …) returns uuid; VOLATILE, SECURITY DEFINER. */
Datum
iot_send_command(PG_FUNCTION_ARGS)
{
	return send_command(fcinfo, false);
}

/* iot.send_command(…, word text, …) returns uuid; VOLATILE, SECURITY DEFINER. */
Datum
iot_send_command_word(PG_FUNCTION_ARGS)
{
	return send_command(fcinfo, true);
}

/*
 * iot_internal.send_command_as(username text, device text, parameter text, value double precision,
 * request_id uuid, ttl interval) returns uuid; VOLATILE.  For a caller that has seen to it that the
 * user may: nothing is asked here.  Only ttl may be null.
 */
Datum
iot_send_command_as(PG_FUNCTION_ARGS)
{
	text	   *parameter;
	Request		request = {.action = "set", .has_request_id = true};
	pg_uuid_t  *command_id = palloc(sizeof(pg_uuid_t));

	for (int i = 0; i < 5; i++)
	{
		if (PG_ARGISNULL(i))
			elog(ERROR, "argument %d of a command for another must not be null", i + 1);
	}
	request.username = text_to_cstring(PG_GETARG_TEXT_PP(0));
	parameter = PG_GETARG_TEXT_PP(2);
	request.value = PG_GETARG_FLOAT8(3);
	request.request_id = *PG_GETARG_UUID_P(4);
	request.ttl = PG_ARGISNULL(5) ? NULL : PG_GETARG_INTERVAL_P(5);

	SPI_connect();
	find_target(PG_GETARG_TEXT_PP(1), parameter, &request);
	check_parameter(&request, parameter);
	check_finite(request.value, "value");
	take(&request, command_id);
	SPI_finish();
	PG_RETURN_UUID_P(command_id);
}
