/*
 * adapter_contract.c
 *		What adapters do to commands: take them up and try them.  How they end: adapter_result.c.
 *
 * Runs in the transaction of an adapter, be it a worker or any program over SQL.  All of it works
 * on sets, so that a batch costs little more than one command.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "adapter_contract.h"
#include "consumer.h"
#include "event.h"
#include "iot.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_adapter_take);
PG_FUNCTION_INFO_V1(iot_adapter_in_flight);
PG_FUNCTION_INFO_V1(iot_adapter_attempt);

static bool known_active = false;	/* in this transaction */
static bool forget_registered = false;

static IotPlan is_active = {
	"SELECT iot_internal.check_epoch() = 'ok'", 0, {0}
};

#define DUE "adapter.value_set_due"

#define TAKE_COLUMNS \
	"c.device_id, c.command_id, d.name, c.parameter_id, p.name, c.target_value, c.version," \
	" c.attempts, c.created_at, c.deadline, t.ack_mode," \
	" (extract(epoch FROM t.ack_timeout) * 1000)::integer, t.max_attempts," \
	" coalesce(m.command_topic," \
	" replace(replace(replace(t.command_topic, '{device}', coalesce(d.external_id, d.name))," \
	" '{device+}', coalesce(d.external_id, d.name)), '{parameter}', coalesce(m.name, p.name)))," \
	" iot_internal.command_payload(coalesce(m.command_template, t.command_template)," \
	" c.command_id, coalesce(d.external_id, d.name), coalesce(m.name, p.name)," \
	" c.target_value, c.version," \
	" coalesce(m.command_labels, m.labels, s.labels, p.labels), m.scale, m.shift)"
#define TAKE_JOINS \
	IOT_EACH("device", "k.device_id = c.device_id", "d") \
	IOT_EACH("device_type", "k.device_type_id = d.device_type_id", "t") \
	IOT_EACH("parameter", "k.parameter_id = c.parameter_id", "p") \
	IOT_EACH_OR_NULL("sensor", "k.device_id = c.device_id AND k.parameter_id = c.parameter_id", "s") \
	IOT_EACH_OR_NULL("device_type_mapping", \
				 "k.device_type_id = d.device_type_id AND k.parameter_id = c.parameter_id", "m")

/*
 * What is approved for a device that has to be awake is left alone until its sign of life, which is
 * in the log too: see iot_internal.release_commands().
 */
static IotPlan find_untaken = {
	"SELECT " TAKE_COLUMNS
	" FROM unnest($2, $3, $4) WITH ORDINALITY AS a(device_id, command_id, due, place)"
	IOT_EACH_COMMAND("a", "c") TAKE_JOINS
	" WHERE (a.due OR t.send_when = 'now') AND c.adapter_id = $1 AND c.status = 'COMMITTED'"
	" AND c.deadline > clock_timestamp() AND d.enabled"
	" ORDER BY a.place",
	4, {UUIDOID, UUIDARRAYOID, UUIDARRAYOID, BOOLARRAYOID}
};

/* "returning" gives rows in the order of their insertion. */
static IotPlan insert_steps = {
	"INSERT INTO iot.saga_step (device_id, command_id, service, status, created_at, updated_at)"
	" SELECT a.device_id, a.command_id, 'adapter', 'PROCESSING', x.at, x.at"
	" FROM (SELECT clock_timestamp() AS at) x, unnest($1, $2) AS a(device_id, command_id)"
	" ON CONFLICT (device_id, command_id, service) DO NOTHING RETURNING command_id",
	2, {UUIDARRAYOID, UUIDARRAYOID}
};
static IotPlan in_flight = {
	"SELECT " TAKE_COLUMNS " FROM iot.saga_step f" IOT_EACH_COMMAND("f", "c") TAKE_JOINS
	" WHERE f.service = 'adapter' AND f.status = 'PROCESSING' AND c.adapter_id = $1"
	" AND c.status = 'COMMITTED'"
	" ORDER BY c.device_id, c.parameter_id, c.version",
	1, {UUIDOID}
};
static IotPlan attempt = {
	"UPDATE iot.command c SET attempts = c.attempts + 1"
	" FROM unnest($1, $2) AS a(device_id, command_id)"
	" WHERE " BY_COMMAND("a")
	" AND CASE c.status WHEN 'COMMITTED' THEN c.deadline > clock_timestamp() ELSE false END"
	" RETURNING c.command_id",
	2, {UUIDARRAYOID, UUIDARRAYOID}
};

/* Room for size keys, in the current memory context. */
void
iot_key_list_init(IotKeyList *list, int size)
{
	list->count = 0;
	list->device_ids = palloc(sizeof(Datum) * size);
	list->command_ids = palloc(sizeof(Datum) * size);
	list->errors = palloc(sizeof(Datum) * size);
	list->error_nulls = palloc(sizeof(bool) * size);
}

void
iot_key_list_add(IotKeyList *list, Datum device_id, Datum command_id, Datum error, bool error_null)
{
	list->device_ids[list->count] = device_id;
	list->command_ids[list->count] = command_id;
	list->errors[list->count] = error;
	list->error_nulls[list->count] = error_null;
	list->count++;
}

/* A uuid[] of the elements. */
Datum
iot_uuid_array(Datum *elements, int count)
{
	return PointerGetDatum(construct_array(elements, count, UUIDOID, UUID_LEN, false,
										   TYPALIGN_CHAR));
}

/* Three values: device ids, command ids, errors. */
void
iot_key_list_values(const IotKeyList *list, Datum *values)
{
	int			lower = 1;
	int			count = list->count;

	values[0] = iot_uuid_array(list->device_ids, count);
	values[1] = iot_uuid_array(list->command_ids, count);
	values[2] = PointerGetDatum(construct_md_array(list->errors, list->error_nulls, 1, &count,
												   &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
forget_active(XactEvent event, void *arg)
{
	known_active = false;
}

/*
 * For a worker whose transaction was let in by its own gate, which has asked for the same; whether the
 * server was promoted, the notifier asks.
 */
void
iot_adapters_known_active(void)
{
	if (!forget_registered)
	{
		RegisterXactCallback(forget_active, NULL);
		forget_registered = true;
	}
	known_active = true;
}

/*
 * Whether adapters may act: not in a copy that nobody has resumed, nor on tables of another
 * version than these functions know.  Asked once in a transaction: taking and trying share one.
 */
bool
iot_adapters_active(void)
{
	bool		isnull;

	if (known_active)
		return true;
	iot_plan_execute(&is_active, NULL, NULL);
	if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)))
		iot_adapters_known_active();
	return known_active;
}

/* Gives the rows of SPI_tuptable to the caller of a set-returning function. */
static void
emit(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
}

/* Raises where one of the first count arguments is NULL. */
void
iot_require_not_null(FunctionCallInfo fcinfo, int count)
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
 * Takes up the commands that the events tell of, and gives them to the caller in the order of the log;
 * how many.  Those that have a step already are left out: the log may tell of a command twice.
 */
static int
take_events(Datum adapter_id, const IotLogEvents *events, ReturnSetInfo *rsinfo)
{
	IotKeyList	keys;
	Datum	   *due = palloc(sizeof(Datum) * events->count);
	Datum		values[4];
	SPITupleTable *commands;
	int			taken;
	int			at = 0;

	iot_key_list_init(&keys, events->count);
	for (int i = 0; i < events->count; i++)
	{
		const IotLogEvent *event = &events->events[i];
		char	   *type = TextDatumGetCString(event->values[IOT_LOG_TYPE]);
		char	   *id = TextDatumGetCString(event->values[IOT_LOG_AGGREGATEID]);
		pg_uuid_t  *command_id = palloc(sizeof(pg_uuid_t));

		if (event->nulls[IOT_LOG_DEVICE_ID] || !iot_uuid_parse(id, strlen(id), command_id))
			continue;			/* no command of ours */
		due[keys.count] = BoolGetDatum(strcmp(type, DUE) == 0);
		iot_key_list_add(&keys, event->values[IOT_LOG_DEVICE_ID], UUIDPGetDatum(command_id),
						 (Datum) 0, true);
	}
	values[0] = adapter_id;
	values[1] = iot_uuid_array(keys.device_ids, keys.count);
	values[2] = iot_uuid_array(keys.command_ids, keys.count);
	values[3] = PointerGetDatum(construct_array(due, keys.count, BOOLOID, sizeof(bool), true,
												TYPALIGN_CHAR));
	if (iot_plan_execute(&find_untaken, values, NULL) == 0)
		return 0;
	commands = SPI_tuptable;
	keys.count = 0;
	for (uint64 i = 0; i < commands->numvals; i++)
	{
		bool		isnull;
		Datum		device_id = SPI_getbinval(commands->vals[i], commands->tupdesc, 1, &isnull);
		Datum		command_id = SPI_getbinval(commands->vals[i], commands->tupdesc, 2, &isnull);

		iot_key_list_add(&keys, device_id, command_id, (Datum) 0, true);
	}
	values[0] = iot_uuid_array(keys.device_ids, keys.count);
	values[1] = iot_uuid_array(keys.command_ids, keys.count);
	taken = (int) iot_plan_execute(&insert_steps, values, NULL);
	for (int i = 0; i < taken; i++)
	{
		bool		isnull;
		Datum		command_id = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		while (at < keys.count &&
			   memcmp(DatumGetUUIDP(keys.command_ids[at]), DatumGetUUIDP(command_id), UUID_LEN) != 0)
			at++;
		if (at == keys.count)
			elog(ERROR, "steps of commands were not inserted in their order");
		tuplestore_puttuple(rsinfo->setResult, commands->vals[at++]);
	}
	return taken;
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
	Datum		consumer;
	Datum		types[2];
	Datum		wanted;
	IotLogEvents events;

	iot_require_not_null(fcinfo, 2);
	max_commands = PG_GETARG_INT32(1);
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	if (!iot_adapters_active())
	{
		SPI_finish();
		return (Datum) 0;
	}
	iot_uuid_text(PG_GETARG_UUID_P(0), name + strlen("adapter:"));
	consumer = CStringGetTextDatum(name);

	types[0] = CStringGetTextDatum("dm.value_set_approved");
	types[1] = CStringGetTextDatum(DUE);
	wanted = PointerGetDatum(construct_array(types, lengthof(types), TEXTOID, -1, false, TYPALIGN_INT));

	/* A page may hold nothing but other adapters' commands; that is not yet the end. */
	do
	{
		iot_consumer_next(consumer, true, wanted, max_commands, &events);
		if (events.count > 0 && take_events(PG_GETARG_DATUM(0), &events,
											(ReturnSetInfo *) fcinfo->resultinfo) > 0)
			break;
	} while (events.count == max_commands);
	SPI_finish();
	return (Datum) 0;
}

/* iot_internal.adapter_in_flight(adapter_id uuid): what the adapter had taken before it stopped. */
Datum
iot_adapter_in_flight(PG_FUNCTION_ARGS)
{
	Datum		values[1];

	iot_require_not_null(fcinfo, 1);
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	if (iot_adapters_active())
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

	iot_require_not_null(fcinfo, 2);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);	/* its row is one scalar */
	SPI_connect();
	if (iot_adapters_active())
	{
		values[0] = PG_GETARG_DATUM(0);
		values[1] = PG_GETARG_DATUM(1);
		iot_plan_execute(&attempt, values, NULL);
		emit(fcinfo);
	}
	SPI_finish();
	return (Datum) 0;
}
