/*
 * adapter_result.c
 *		How commands end: by their device's answer, by its refusal, or by their deadline.
 *
 * Runs in the transaction of an adapter, or of whoever sweeps deadlines; a refusal makes Device
 * Service roll back in that same transaction.
 *
 * Locks are taken in the order sensor_value, command, each sorted by key: an answer and a deadline
 * that meet on one command wait for each other, and the second finds it final.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "adapter_contract.h"
#include "event.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_adapter_result);
PG_FUNCTION_INFO_V1(iot_expire_commands);

/* What stands where nobody answered; anything else at the adapter is the device's own answer. */
#define TIMED_OUT "timed out"

static IotPlan find_answered = {
	"SELECT a.place, c.device_id, c.command_id"
	" FROM unnest($1, $2) WITH ORDINALITY AS a(device, command_id, place)"
	IOT_EACH("command", "k.command_id = a.command_id", "c")
	IOT_EACH("device", "k.device_id = c.device_id", "d")
	" WHERE d.name = a.device",
	2, {TEXTARRAYOID, UUIDARRAYOID}
};
static IotPlan find_due = {
	"SELECT c.device_id, c.command_id FROM iot.command c"
	" WHERE c.finished_at IS NULL AND c.status = 'COMMITTED' AND c.deadline <= statement_timestamp()"
	" ORDER BY c.deadline LIMIT $1",
	1, {INT4OID}
};

/* A lock in a subquery is taken row by row, in the order of the keys outside. */
static IotPlan lock_sensors = {
	"SELECT FROM (SELECT DISTINCT c.device_id, c.parameter_id"
	" FROM unnest($1, $2) AS a(device_id, command_id)" IOT_EACH_COMMAND("a", "c")
	" ORDER BY c.device_id, c.parameter_id) a"
	" CROSS JOIN LATERAL (SELECT FROM iot.sensor_value k"
	" WHERE k.device_id = a.device_id AND k.parameter_id = a.parameter_id FOR UPDATE) v",
	2, {UUIDARRAYOID, UUIDARRAYOID}
};
static IotPlan lock_commands = {
	"SELECT a.place, c.status"
	" FROM (SELECT u.device_id, u.command_id, u.place"
	" FROM unnest($1, $2) WITH ORDINALITY AS u(device_id, command_id, place)"
	" ORDER BY u.device_id, u.command_id, u.place) a"
	" CROSS JOIN LATERAL (SELECT k.status FROM iot.command k"
	" WHERE " COMMAND_OF("a") " FOR NO KEY UPDATE) c",
	2, {UUIDARRAYOID, UUIDARRAYOID}
};

#define OUTCOME_PAYLOAD(error) \
	"jsonb_strip_nulls(jsonb_build_object('command_id', c.command_id, 'device', d.name," \
	" 'parameter', p.name, 'action', c.action, 'value', c.value," \
	" 'target_value', c.target_value, 'previous_value', c.previous_value," \
	" 'version', c.version, 'unit', p.unit, 'username', c.username," \
	" 'request_id', c.request_id, 'attempts', c.attempts, 'error', " error "))"
#define OUTCOME_EVENT(type, error, source) \
	" INSERT INTO iot.event (event_id, aggregatetype, aggregateid, type, payload, device_id)" \
	" SELECT iot_internal.uuidv7(), 'command', c.command_id::text, '" type "', " \
	OUTCOME_PAYLOAD(error) ", c.device_id FROM " source " c" \
	IOT_EACH("device", "k.device_id = c.device_id", "d") \
	IOT_EACH("parameter", "k.parameter_id = c.parameter_id", "p") \
	" ORDER BY c.version, c.command_id"

static IotPlan committed_to_completed = {
	"WITH done AS ("
	" UPDATE iot.command c SET status = 'COMPLETED', finished_at = clock_timestamp()"
	" FROM unnest($1, $2) AS a(device_id, command_id)"
	" WHERE " BY_COMMAND("a") " AND CASE c.status WHEN 'COMMITTED' THEN true ELSE false END"
	" RETURNING c.*),"
	" step AS ("
	" INSERT INTO iot.saga_step (device_id, command_id, service, status, created_at, updated_at)"
	" SELECT c.device_id, c.command_id, 'adapter', 'COMPLETED', c.finished_at, c.finished_at"
	" FROM done c"
	" ON CONFLICT (device_id, command_id, service) DO UPDATE"
	" SET status = excluded.status, updated_at = excluded.updated_at)"
	OUTCOME_EVENT("adapter.value_set_sent", "NULL", "done"),
	2, {UUIDARRAYOID, UUIDARRAYOID}
};

/* The event makes Device Service roll back, in this same transaction. */
static IotPlan committed_to_refused = {
	"WITH refused AS ("
	" SELECT c.*, a.error AS refusal, clock_timestamp() AS at"
	" FROM unnest($1, $2, $3) AS a(device_id, command_id, error)" IOT_EACH_COMMAND("a", "c")
	" WHERE c.status = 'COMMITTED'),"
	" step AS ("
	" INSERT INTO iot.saga_step (device_id, command_id, service, status, error, created_at,"
	" updated_at)"
	" SELECT c.device_id, c.command_id, 'adapter', 'FAILED', c.refusal, c.at, c.at FROM refused c"
	" ON CONFLICT (device_id, command_id, service) DO UPDATE"
	" SET status = excluded.status, error = excluded.error, updated_at = excluded.updated_at)"
	OUTCOME_EVENT("adapter.value_set_error", "c.refusal", "refused"),
	3, {UUIDARRAYOID, UUIDARRAYOID, TEXTARRAYOID}
};

/* Once, and only for commands that ended without an answer of their device. */
static IotPlan record_late = {
	"WITH late AS ("
	" UPDATE iot.command c SET late = true"
	" FROM unnest($1, $2, $3) AS a(device_id, command_id, error)"
	" WHERE " BY_COMMAND("a") " AND NOT c.late"
	" AND c.status <> 'COMMITTED' AND c.status <> 'COMPLETED'"
	" AND NOT EXISTS (SELECT FROM iot.saga_step t WHERE t.device_id = c.device_id"
	" AND t.command_id = c.command_id AND t.service = 'adapter'"
	" AND t.error IS DISTINCT FROM '" TIMED_OUT "' OFFSET 0)"
	" RETURNING c.*, a.error AS refusal),"
	" event AS ("
	OUTCOME_EVENT("adapter.value_set_late", "c.refusal", "late") ")"
	" SELECT c.device_id, c.command_id FROM late c",
	3, {UUIDARRAYOID, UUIDARRAYOID, TEXTARRAYOID}
};

/* Locks, and reads how each command stands now; the sensors' locks first (see above). */
static void
lock_all(const IotKeyList *keys, bool with_sensors)
{
	Datum		values[2];

	values[0] = iot_uuid_array(keys->device_ids, keys->count);
	values[1] = iot_uuid_array(keys->command_ids, keys->count);
	if (with_sensors)
		iot_plan_execute(&lock_sensors, values, NULL);
	iot_plan_execute(&lock_commands, values, NULL);
}

static void
apply(const IotKeyList *completed, const IotKeyList *refused)
{
	Datum		values[3];

	if (completed->count > 0)
	{
		iot_key_list_values(completed, values);
		iot_plan_execute(&committed_to_completed, values, NULL);
		iot_event_appended();
	}
	if (refused->count > 0)
	{
		iot_key_list_values(refused, values);
		iot_plan_execute(&committed_to_refused, values, NULL);
		iot_event_appended();
	}
}

/* One answer of a device, by its place in the call. */
typedef struct Answer
{
	Datum		device_id;
	Datum		command_id;
	bool		ok;
	bool		own;			/* the adapter's verdict: the device has not answered */
	Datum		error;			/* meaningful unless ok */
	const char *outcome;
} Answer;

static bool
same_command(const Answer *a, const Answer *b)
{
	return memcmp(DatumGetUUIDP(a->command_id), DatumGetUUIDP(b->command_id), UUID_LEN) == 0 &&
		memcmp(DatumGetUUIDP(a->device_id), DatumGetUUIDP(b->device_id), UUID_LEN) == 0;
}

/* Sorts the answers of known commands into applied, late and duplicate, and writes them. */
static void
settle(Answer **known, int count)
{
	IotKeyList	keys;
	IotKeyList	completed;
	IotKeyList	refused;
	IotKeyList	late;
	Answer	  **late_answers = palloc(sizeof(Answer *) * count);
	Answer	   *before = NULL;
	bool		any_refused = false;
	Datum		values[3];

	iot_key_list_init(&keys, count);
	iot_key_list_init(&completed, count);
	iot_key_list_init(&refused, count);
	iot_key_list_init(&late, count);
	for (int i = 0; i < count; i++)
	{
		iot_key_list_add(&keys, known[i]->device_id, known[i]->command_id, (Datum) 0, true);
		any_refused |= !known[i]->ok;
	}
	lock_all(&keys, any_refused);

	/* In the order of the commands, so that the first answer to each is followed by its repeats. */
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;
		int64		place = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		Answer	   *answer = known[place - 1];
		char	   *status = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);

		answer->outcome = "duplicate";
		if (before != NULL && same_command(before, answer))
			continue;
		/* who swept the deadline was faster, and nobody answered: nothing is late */
		if (answer->own && strcmp(status, "COMMITTED") != 0)
			continue;
		before = answer;
		if (strcmp(status, "COMMITTED") != 0)
		{
			late_answers[late.count] = answer;
			iot_key_list_add(&late, answer->device_id, answer->command_id, answer->error, answer->ok);
			continue;
		}
		answer->outcome = "applied";
		if (answer->ok)
			iot_key_list_add(&completed, answer->device_id, answer->command_id, (Datum) 0, true);
		else
			iot_key_list_add(&refused, answer->device_id, answer->command_id, answer->error, false);
	}
	apply(&completed, &refused);
	if (late.count == 0)
		return;

	iot_key_list_values(&late, values);
	iot_plan_execute(&record_late, values, NULL);
	if (SPI_tuptable->numvals > 0)
		iot_event_appended();
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		Answer		recorded = {0};
		bool		isnull;

		recorded.device_id = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		recorded.command_id = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2,
											&isnull);
		for (int j = 0; j < late.count; j++)
		{
			if (same_command(late_answers[j], &recorded))
				late_answers[j]->outcome = "late";
		}
	}
}

/* A column of the call as datums; raises where its length is another than count. */
static void
read_array(FunctionCallInfo fcinfo, int arg, Oid type, int length, bool byval, char align,
		   Datum **elements, bool **nulls, int *count)
{
	int			expected = *count;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), type, length, byval, align, elements, nulls,
					  count);
	if (expected >= 0 && *count != expected)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("arrays must have the same number of elements")));
}

/*
 * iot_internal.adapter_result(devices text[], command_ids uuid[], oks boolean[], errors text[])
 * returns (command_id, outcome), one row per answer in the order given: "applied"; "late", once,
 * where the command had ended without an answer; "duplicate"; "unknown" where the device has no
 * such command.  errors may be NULL where all is well.  An ok that is NULL is no answer but the
 * adapter's own verdict, that it gives up: it fails a command that is not final, and is never late.
 */
Datum
iot_adapter_result(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *devices;
	Datum	   *command_ids;
	Datum	   *oks;
	Datum	   *errors = NULL;
	bool	   *device_nulls;
	bool	   *command_id_nulls;
	bool	   *ok_nulls;
	bool	   *error_nulls = NULL;
	int			count = -1;
	int			known_count = 0;
	Answer	   *answers;
	Answer	  **known;
	Datum		values[2];

	iot_require_not_null(fcinfo, 3);
	read_array(fcinfo, 0, TEXTOID, -1, false, TYPALIGN_INT, &devices, &device_nulls, &count);
	read_array(fcinfo, 1, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &command_ids,
			   &command_id_nulls, &count);
	read_array(fcinfo, 2, BOOLOID, 1, true, TYPALIGN_CHAR, &oks, &ok_nulls, &count);
	if (!PG_ARGISNULL(3))
		read_array(fcinfo, 3, TEXTOID, -1, false, TYPALIGN_INT, &errors, &error_nulls, &count);
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	answers = palloc0(sizeof(Answer) * Max(count, 1));
	known = palloc(sizeof(Answer *) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		answers[i].own = ok_nulls[i];
		answers[i].ok = !ok_nulls[i] && DatumGetBool(oks[i]);
		answers[i].error = errors != NULL && !error_nulls[i] && !answers[i].ok
			? errors[i] : CStringGetTextDatum("refused without a reason");
		answers[i].outcome = "unknown";
	}
	if (count > 0)
	{
		values[0] = PG_GETARG_DATUM(0);
		values[1] = PG_GETARG_DATUM(1);
		iot_plan_execute(&find_answered, values, NULL);
		for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
		{
			HeapTuple	row = SPI_tuptable->vals[i];
			bool		isnull;
			int64		place = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
			Answer	   *answer = &answers[place - 1];

			answer->device_id = SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull);
			answer->command_id = SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &isnull);
			known[known_count++] = answer;
		}
	}
	if (known_count > 0)
	{
		/* in the order of the call: the first answer counts */
		known_count = 0;
		for (int i = 0; i < count; i++)
		{
			if (answers[i].command_id != (Datum) 0)
				known[known_count++] = &answers[i];
		}
		settle(known, known_count);
	}
	for (int i = 0; i < count; i++)
	{
		Datum		row[2] = {command_ids[i], CStringGetTextDatum(answers[i].outcome)};
		bool		nulls[2] = {command_id_nulls[i], false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}

/*
 * iot_internal.expire_commands(max_commands integer) returns integer: ends commands that are past
 * their deadline, whatever their adapter does, and returns how many.
 */
Datum
iot_expire_commands(PG_FUNCTION_ARGS)
{
	IotKeyList	keys;
	IotKeyList	due;
	IotKeyList	none = {0};
	Datum		values[1];
	int			count;

	iot_require_not_null(fcinfo, 1);
	SPI_connect();
	values[0] = PG_GETARG_DATUM(0);
	if (!iot_adapters_active() || (count = (int) iot_plan_execute(&find_due, values, NULL)) == 0)
	{
		SPI_finish();
		PG_RETURN_INT32(0);
	}
	iot_key_list_init(&keys, count);
	iot_key_list_init(&due, count);
	for (int i = 0; i < count; i++)
	{
		bool		isnull;

		iot_key_list_add(&keys,
					 SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull),
					 SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull),
					 CStringGetTextDatum(TIMED_OUT), false);
	}
	lock_all(&keys, true);
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;
		int64		place = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));

		if (strcmp(SPI_getvalue(row, SPI_tuptable->tupdesc, 2), "COMMITTED") == 0)
			iot_key_list_add(&due, keys.device_ids[place - 1], keys.command_ids[place - 1],
						 keys.errors[place - 1], false);
	}
	apply(&none, &due);
	SPI_finish();
	PG_RETURN_INT32(due.count);
}
