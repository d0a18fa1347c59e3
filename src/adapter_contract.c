/*
 * adapter_contract.c
 *		What adapters do to commands: take them up, try them, and say how they ended.
 *
 * Runs in the transaction of an adapter (a worker, or any program over SQL) or of whoever sweeps
 * deadlines.  All of it works on sets, so that a batch costs little more than one command.
 *
 * Locks are taken in the order sensor_value, command, each sorted by key: an acknowledgement and
 * a deadline that meet on one command wait for each other, and the second finds it final.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "core/template.h"
#include "event.h"
#include "iot.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_adapter_take);
PG_FUNCTION_INFO_V1(iot_adapter_in_flight);
PG_FUNCTION_INFO_V1(iot_adapter_attempt);
PG_FUNCTION_INFO_V1(iot_adapter_result);
PG_FUNCTION_INFO_V1(iot_expire_commands);
PG_FUNCTION_INFO_V1(iot_command_payload);

/* What stands where nobody answered; anything else at the adapter is the device's own answer. */
#define TIMED_OUT "timed out"

static IotPlan is_active = {
	"SELECT iot_internal.check_epoch() = 'ok'", 0, {0}
};
static IotPlan has_consumer = {
	"SELECT FROM iot.consumer c WHERE c.name = $1", 1, {TEXTOID}
};

/* Whoever has no cursor yet has everything before him that the log still holds. */
static IotPlan register_from_start = {
	"INSERT INTO iot.consumer (name, last) VALUES ($1, '1:1:') ON CONFLICT (name) DO NOTHING",
	1, {TEXTOID}
};
static IotPlan read_approved = {
	"SELECT r.device_id, r.aggregateid::uuid"
	" FROM iot_internal.consumer_read($1, ARRAY['dm.value_set_approved'], $2) r"
	" WHERE r.device_id IS NOT NULL ORDER BY r.id",
	2, {TEXTOID, INT4OID}
};

#define TAKE_COLUMNS \
	"c.device_id, c.command_id, d.name, c.parameter_id, p.name, c.target_value, c.version," \
	" c.attempts, c.created_at, c.deadline, t.ack_mode," \
	" (extract(epoch FROM t.ack_timeout) * 1000)::integer, t.max_attempts," \
	" replace(t.command_topic, '{device}', d.name)," \
	" iot_internal.command_payload(t.command_template, c.command_id, d.name, p.name," \
	" c.target_value, c.version, coalesce(s.labels, p.labels))"
#define TAKE_JOINS \
	" JOIN iot.device d ON d.device_id = c.device_id" \
	" JOIN iot.device_type t ON t.device_type_id = d.device_type_id" \
	" JOIN iot.parameter p ON p.parameter_id = c.parameter_id" \
	" LEFT JOIN iot.sensor s ON s.device_id = c.device_id AND s.parameter_id = c.parameter_id"

static IotPlan take = {
	"WITH taken AS ("
	" INSERT INTO iot.saga_step (device_id, command_id, service, status, created_at, updated_at)"
	" SELECT c.device_id, c.command_id, 'adapter', 'PROCESSING', x.at, x.at"
	" FROM unnest($2, $3) AS a(device_id, command_id)"
	" JOIN iot.command c ON c.device_id = a.device_id AND c.command_id = a.command_id"
	" JOIN iot.device d ON d.device_id = c.device_id,"
	" (SELECT clock_timestamp() AS at) x"
	" WHERE c.adapter_id = $1 AND c.status = 'COMMITTED' AND c.deadline > x.at AND d.enabled"
	" ON CONFLICT (device_id, command_id, service) DO NOTHING RETURNING device_id, command_id)"
	" SELECT " TAKE_COLUMNS " FROM taken"
	" JOIN unnest($2, $3) WITH ORDINALITY AS a(device_id, command_id, place)"
	" ON a.device_id = taken.device_id AND a.command_id = taken.command_id"
	" JOIN iot.command c ON c.device_id = a.device_id AND c.command_id = a.command_id"
	TAKE_JOINS " ORDER BY a.place",
	3, {UUIDOID, UUIDARRAYOID, UUIDARRAYOID}
};
static IotPlan in_flight = {
	"SELECT " TAKE_COLUMNS " FROM iot.saga_step f"
	" JOIN iot.command c ON c.device_id = f.device_id AND c.command_id = f.command_id"
	TAKE_JOINS
	" WHERE f.service = 'adapter' AND f.status = 'PROCESSING' AND c.adapter_id = $1"
	" AND c.status = 'COMMITTED'"
	" ORDER BY c.device_id, c.parameter_id, c.version",
	1, {UUIDOID}
};
static IotPlan attempt = {
	"UPDATE iot.command c SET attempts = c.attempts + 1"
	" FROM unnest($1, $2) AS a(device_id, command_id)"
	" WHERE c.device_id = a.device_id AND c.command_id = a.command_id"
	" AND c.status = 'COMMITTED' AND c.deadline > clock_timestamp()"
	" RETURNING c.command_id",
	2, {UUIDARRAYOID, UUIDARRAYOID}
};

static IotPlan find_answered = {
	"SELECT a.place, c.device_id, c.command_id"
	" FROM unnest($1, $2) WITH ORDINALITY AS a(device, command_id, place)"
	" JOIN iot.device d ON d.name = a.device"
	" JOIN iot.command c ON c.device_id = d.device_id AND c.command_id = a.command_id",
	2, {TEXTARRAYOID, UUIDARRAYOID}
};
static IotPlan find_due = {
	"SELECT c.device_id, c.command_id FROM iot.command c"
	" WHERE c.status = 'COMMITTED' AND c.deadline <= statement_timestamp()"
	" ORDER BY c.deadline LIMIT $1",
	1, {INT4OID}
};
static IotPlan lock_sensors = {
	"SELECT FROM iot.sensor_value v"
	" WHERE (v.device_id, v.parameter_id) IN (SELECT c.device_id, c.parameter_id"
	" FROM unnest($1, $2) AS a(device_id, command_id)"
	" JOIN iot.command c ON c.device_id = a.device_id AND c.command_id = a.command_id)"
	" ORDER BY v.device_id, v.parameter_id FOR UPDATE OF v",
	2, {UUIDARRAYOID, UUIDARRAYOID}
};
static IotPlan lock_commands = {
	"SELECT a.place, c.status"
	" FROM unnest($1, $2) WITH ORDINALITY AS a(device_id, command_id, place)"
	" JOIN iot.command c ON c.device_id = a.device_id AND c.command_id = a.command_id"
	" ORDER BY c.device_id, c.command_id, a.place FOR NO KEY UPDATE OF c",
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
	" JOIN iot.device d ON d.device_id = c.device_id" \
	" JOIN iot.parameter p ON p.parameter_id = c.parameter_id" \
	" ORDER BY c.version, c.command_id"

static IotPlan committed_to_completed = {
	"WITH done AS ("
	" UPDATE iot.command c SET status = 'COMPLETED', finished_at = clock_timestamp()"
	" FROM unnest($1, $2) AS a(device_id, command_id)"
	" WHERE c.device_id = a.device_id AND c.command_id = a.command_id AND c.status = 'COMMITTED'"
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
	" FROM unnest($1, $2, $3) AS a(device_id, command_id, error)"
	" JOIN iot.command c ON c.device_id = a.device_id AND c.command_id = a.command_id"
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
	" WHERE c.device_id = a.device_id AND c.command_id = a.command_id AND NOT c.late"
	" AND c.status <> 'COMMITTED' AND c.status <> 'COMPLETED'"
	" AND NOT EXISTS (SELECT FROM iot.saga_step t WHERE t.device_id = c.device_id"
	" AND t.command_id = c.command_id AND t.service = 'adapter'"
	" AND t.error IS DISTINCT FROM '" TIMED_OUT "')"
	" RETURNING c.*, a.error AS refusal),"
	" event AS ("
	OUTCOME_EVENT("adapter.value_set_late", "c.refusal", "late") ")"
	" SELECT c.device_id, c.command_id FROM late c",
	3, {UUIDARRAYOID, UUIDARRAYOID, TEXTARRAYOID}
};

/* Parallel arrays of keys, and of errors where there are any. */
typedef struct KeyList
{
	int			count;
	Datum	   *device_ids;
	Datum	   *command_ids;
	Datum	   *errors;
	bool	   *error_nulls;
} KeyList;

static void
key_list_init(KeyList *list, int size)
{
	list->count = 0;
	list->device_ids = palloc(sizeof(Datum) * size);
	list->command_ids = palloc(sizeof(Datum) * size);
	list->errors = palloc(sizeof(Datum) * size);
	list->error_nulls = palloc(sizeof(bool) * size);
}

static void
key_list_add(KeyList *list, Datum device_id, Datum command_id, Datum error, bool error_null)
{
	list->device_ids[list->count] = device_id;
	list->command_ids[list->count] = command_id;
	list->errors[list->count] = error;
	list->error_nulls[list->count] = error_null;
	list->count++;
}

static Datum
uuid_array(Datum *elements, int count)
{
	return PointerGetDatum(construct_array(elements, count, UUIDOID, UUID_LEN, false,
										   TYPALIGN_CHAR));
}

/* Three values: device ids, command ids, errors. */
static void
key_list_values(const KeyList *list, Datum *values)
{
	int			lower = 1;
	int			count = list->count;

	values[0] = uuid_array(list->device_ids, count);
	values[1] = uuid_array(list->command_ids, count);
	values[2] = PointerGetDatum(construct_md_array(list->errors, list->error_nulls, 1, &count,
												   &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * Whether adapters may act: not in a copy that nobody has resumed, nor on tables of another
 * version than these functions know.
 */
static bool
active(void)
{
	bool		isnull;

	iot_plan_execute(&is_active, NULL, NULL);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* Gives the rows of SPI_tuptable to the caller of a set-returning function. */
static void
emit(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
}

static void
require_not_null(FunctionCallInfo fcinfo, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("arguments must not be null")));
	}
}

/*
 * iot_internal.adapter_take(adapter_id uuid, max_commands integer): the approved commands that
 * this adapter has not seen, each now with a step PROCESSING.  No rows: there are no more for now.
 */
Datum
iot_adapter_take(PG_FUNCTION_ARGS)
{
	char		name[sizeof("adapter:") + IOT_UUID_TEXT_SIZE] = "adapter:";
	int			max_commands;
	Datum		values[3];
	uint64		read;

	require_not_null(fcinfo, 2);
	max_commands = PG_GETARG_INT32(1);
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	if (!active())
	{
		SPI_finish();
		return (Datum) 0;
	}
	iot_uuid_text(PG_GETARG_UUID_P(0), name + strlen("adapter:"));
	values[0] = CStringGetTextDatum(name);
	if (iot_plan_execute(&has_consumer, values, NULL) == 0)
		iot_plan_execute(&register_from_start, values, NULL);

	/* A page may hold nothing but other adapters' commands; that is not yet the end. */
	do
	{
		KeyList		keys;
		uint64		taken = 0;

		CHECK_FOR_INTERRUPTS();
		values[0] = CStringGetTextDatum(name);
		values[1] = Int32GetDatum(max_commands);
		read = iot_plan_execute(&read_approved, values, NULL);
		if (read > 0)
		{
			key_list_init(&keys, read);
			for (uint64 i = 0; i < read; i++)
			{
				HeapTuple	row = SPI_tuptable->vals[i];
				bool		isnull;

				key_list_add(&keys, SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull),
							 SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull), (Datum) 0, true);
			}
			values[0] = PG_GETARG_DATUM(0);
			values[1] = uuid_array(keys.device_ids, keys.count);
			values[2] = uuid_array(keys.command_ids, keys.count);
			taken = iot_plan_execute(&take, values, NULL);
			emit(fcinfo);
		}
		if (taken > 0)
			break;
	} while (read == (uint64) max_commands);
	SPI_finish();
	return (Datum) 0;
}

/* iot_internal.adapter_in_flight(adapter_id uuid): what the adapter had taken before it stopped. */
Datum
iot_adapter_in_flight(PG_FUNCTION_ARGS)
{
	Datum		values[1];

	require_not_null(fcinfo, 1);
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	if (active())
	{
		values[0] = PG_GETARG_DATUM(0);
		iot_plan_execute(&in_flight, values, NULL);
		emit(fcinfo);
	}
	SPI_finish();
	return (Datum) 0;
}

/*
 * iot_internal.adapter_attempt(device_ids uuid[], command_ids uuid[]): counts an attempt and
 * returns the commands that may be sent once this is committed; those that are final or past their
 * deadline are left out.
 */
Datum
iot_adapter_attempt(PG_FUNCTION_ARGS)
{
	Datum		values[2];

	require_not_null(fcinfo, 2);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);	/* its row is one scalar */
	SPI_connect();
	if (active())
	{
		values[0] = PG_GETARG_DATUM(0);
		values[1] = PG_GETARG_DATUM(1);
		iot_plan_execute(&attempt, values, NULL);
		emit(fcinfo);
	}
	SPI_finish();
	return (Datum) 0;
}

/* Locks, and reads how each command stands now; the sensors' locks first (see above). */
static void
lock(const KeyList *keys, bool with_sensors)
{
	Datum		values[2];

	values[0] = uuid_array(keys->device_ids, keys->count);
	values[1] = uuid_array(keys->command_ids, keys->count);
	if (with_sensors)
		iot_plan_execute(&lock_sensors, values, NULL);
	iot_plan_execute(&lock_commands, values, NULL);
}

static void
apply(const KeyList *completed, const KeyList *refused)
{
	Datum		values[3];

	if (completed->count > 0)
	{
		key_list_values(completed, values);
		iot_plan_execute(&committed_to_completed, values, NULL);
		iot_event_appended();
	}
	if (refused->count > 0)
	{
		key_list_values(refused, values);
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
	KeyList		keys;
	KeyList		completed;
	KeyList		refused;
	KeyList		late;
	Answer	  **late_answers = palloc(sizeof(Answer *) * count);
	Answer	   *before = NULL;
	bool		any_refused = false;
	Datum		values[3];

	key_list_init(&keys, count);
	key_list_init(&completed, count);
	key_list_init(&refused, count);
	key_list_init(&late, count);
	for (int i = 0; i < count; i++)
	{
		key_list_add(&keys, known[i]->device_id, known[i]->command_id, (Datum) 0, true);
		any_refused |= !known[i]->ok;
	}
	lock(&keys, any_refused);

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
		before = answer;
		if (strcmp(status, "COMMITTED") != 0)
		{
			late_answers[late.count] = answer;
			key_list_add(&late, answer->device_id, answer->command_id, answer->error, answer->ok);
			continue;
		}
		answer->outcome = "applied";
		if (answer->ok)
			key_list_add(&completed, answer->device_id, answer->command_id, (Datum) 0, true);
		else
			key_list_add(&refused, answer->device_id, answer->command_id, answer->error, false);
	}
	apply(&completed, &refused);
	if (late.count == 0)
		return;

	key_list_values(&late, values);
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
 * such command.  errors may be NULL where all is well.
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

	require_not_null(fcinfo, 3);
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
	KeyList		keys;
	KeyList		due;
	KeyList		none = {0};
	Datum		values[1];
	int			count;

	require_not_null(fcinfo, 1);
	SPI_connect();
	values[0] = PG_GETARG_DATUM(0);
	if (!active() || (count = (int) iot_plan_execute(&find_due, values, NULL)) == 0)
	{
		SPI_finish();
		PG_RETURN_INT32(0);
	}
	key_list_init(&keys, count);
	key_list_init(&due, count);
	for (int i = 0; i < count; i++)
	{
		bool		isnull;

		key_list_add(&keys,
					 SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull),
					 SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull),
					 CStringGetTextDatum(TIMED_OUT), false);
	}
	lock(&keys, true);
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;
		int64		place = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));

		if (strcmp(SPI_getvalue(row, SPI_tuptable->tupdesc, 2), "COMMITTED") == 0)
			key_list_add(&due, keys.device_ids[place - 1], keys.command_ids[place - 1],
						 keys.errors[place - 1], false);
	}
	apply(&none, &due);
	SPI_finish();
	PG_RETURN_INT32(due.count);
}

/* Values of the placeholders of a command template. */
typedef struct PayloadValues
{
	char		id[IOT_UUID_TEXT_SIZE];
	char	   *device;
	char	   *parameter;
	char		value[DOUBLE_SHORTEST_DECIMAL_LEN];
	char	   *version;
	char	   *word;			/* NULL: the value has no label */
} PayloadValues;

static const char *
payload_lookup(void *arg, const char *name, size_t name_len, size_t *len)
{
	const PayloadValues *values = arg;
	const struct
	{
		const char *name;
		const char *value;
	}			known[] = {
		{"id", values->id},
		{"device", values->device},
		{"parameter", values->parameter},
		{"action", "set"},
		{"value", values->value},
		{"version", values->version},
		{"word", values->word}
	};

	for (size_t i = 0; i < lengthof(known); i++)
	{
		if (strlen(known[i].name) == name_len && memcmp(known[i].name, name, name_len) == 0 &&
			known[i].value != NULL)
		{
			*len = strlen(known[i].value);
			return known[i].value;
		}
	}
	return NULL;
}

/* The label that stands for the value, or NULL. */
static char *
find_word(Jsonb *labels, double value)
{
	JsonbIterator *iterator = JsonbIteratorInit(&labels->root);
	JsonbIteratorToken token;
	JsonbValue	item;
	char	   *word = NULL;

	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			word = pnstrdup(item.val.string.val, item.val.string.len);
		else if (token == WJB_VALUE && item.type == jbvNumeric && word != NULL &&
				 DatumGetFloat8(DirectFunctionCall1(numeric_float8,
													NumericGetDatum(item.val.numeric))) == value)
			return word;
	}
	return NULL;
}

/*
 * iot_internal.command_payload(template text, command_id uuid, device text, parameter text,
 * value double precision, version bigint, labels jsonb) returns text: what goes to the device.
 * A command on the wire is always a "set" of the resulting value, so that a repeat does no harm.
 */
Datum
iot_command_payload(PG_FUNCTION_ARGS)
{
	static const char standard[] = "{\"id\":\"{id}\",\"parameter\":\"{parameter}\","
		"\"action\":\"set\",\"value\":{value},\"version\":{version}}";
	const char *template = standard;
	size_t		template_len = sizeof(standard) - 1;
	PayloadValues values = {0};
	IotTemplateMode mode;
	size_t		len;
	char	   *out;

	for (int i = 1; i < 6; i++)
	{
		if (PG_ARGISNULL(i))
			PG_RETURN_NULL();
	}
	if (!PG_ARGISNULL(0))
	{
		text	   *own = PG_GETARG_TEXT_PP(0);

		template = VARDATA_ANY(own);
		template_len = VARSIZE_ANY_EXHDR(own);
	}
	iot_uuid_text(PG_GETARG_UUID_P(1), values.id);
	values.device = text_to_cstring(PG_GETARG_TEXT_PP(2));
	values.parameter = text_to_cstring(PG_GETARG_TEXT_PP(3));
	double_to_shortest_decimal_buf(PG_GETARG_FLOAT8(4), values.value);
	values.version = psprintf(INT64_FORMAT, PG_GETARG_INT64(5));
	if (!PG_ARGISNULL(6) && JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(6)))
		values.word = find_word(PG_GETARG_JSONB_P(6), PG_GETARG_FLOAT8(4));

	mode = iot_template_is_json(template, template_len) ? IOT_TEMPLATE_JSON : IOT_TEMPLATE_TEXT;
	len = iot_template_render(template, template_len, mode, payload_lookup, &values, NULL, 0);
	out = palloc(len + 1);
	(void) iot_template_render(template, template_len, mode, payload_lookup, &values, out, len + 1);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out, len));
}
