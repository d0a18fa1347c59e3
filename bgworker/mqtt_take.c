/*
 * mqtt_take.c
 *		The transactions of an MQTT adapter that take up what goes out.
 *
 * No socket is touched here: what a transaction allows is sent after its commit.  Commands enter
 * the table in memory inside the transaction and leave it again where that fails, since the
 * cursor did not move either.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "bgworker/mqtt_take.h"
#include "bgworker/worker.h"
#include "plan.h"

#define TAKE_MAX		1000

typedef struct TakeJob
{
	const IotMqttConfig *config;	/* NULL: load what is in flight */
	const pg_uuid_t *adapter_id;
	bool		take;
	int			limit;
	MemoryContext context;
	pg_uuid_t  *added;
	int			nadded;
	IotCommand **chosen;
	int			nchosen;
} TakeJob;

#define COMMAND_COLUMNS \
	"t.device_id, t.command_id, t.device, t.parameter_id, t.parameter, t.value, t.version," \
	" t.attempts, t.deadline, t.ack_mode, t.ack_timeout_ms, t.max_attempts, t.topic, t.payload"

static IotPlan take_commands = {
	"SELECT " COMMAND_COLUMNS " FROM iot_internal.adapter_take($1, $2) t",
	2, {UUIDOID, INT4OID}
};
static IotPlan load_commands = {
	"SELECT " COMMAND_COLUMNS " FROM iot_internal.adapter_in_flight($1) t",
	1, {UUIDOID}
};
static IotPlan attempt_commands = {
	"SELECT t.command_id FROM iot_internal.adapter_attempt($1, $2) t",
	2, {UUIDARRAYOID, UUIDARRAYOID}
};

static IotAckMode
parse_ack_mode(const char *text)
{
	return strcmp(text, "echo") == 0 ? IOT_ACK_ECHO :
		strcmp(text, "broker") == 0 ? IOT_ACK_BROKER : IOT_ACK_DEVICE;
}

/* Adds the rows of the last statement; which they are is kept, should the transaction fail. */
static void
add_commands(TakeJob *job, bool resumed)
{
	SPITupleTable *table = SPI_tuptable;
	TupleDesc	desc = table->tupdesc;

	job->added = MemoryContextAlloc(job->context, sizeof(pg_uuid_t) * Max(table->numvals, 1));
	for (uint64 i = 0; i < table->numvals; i++)
	{
		HeapTuple	row = table->vals[i];
		IotCommand	command = {0};
		bool		isnull;

		command.device_id = *DatumGetUUIDP(SPI_getbinval(row, desc, 1, &isnull));
		command.command_id = *DatumGetUUIDP(SPI_getbinval(row, desc, 2, &isnull));
		strlcpy(command.device, SPI_getvalue(row, desc, 3), sizeof(command.device));
		command.parameter_id = *DatumGetUUIDP(SPI_getbinval(row, desc, 4, &isnull));
		command.parameter = SPI_getvalue(row, desc, 5);
		command.value = DatumGetFloat8(SPI_getbinval(row, desc, 6, &isnull));
		command.version = DatumGetInt64(SPI_getbinval(row, desc, 7, &isnull));
		command.attempts = DatumGetInt32(SPI_getbinval(row, desc, 8, &isnull));
		command.deadline = DatumGetTimestampTz(SPI_getbinval(row, desc, 9, &isnull));
		command.ack_mode = parse_ack_mode(SPI_getvalue(row, desc, 10));
		command.ack_timeout_ms = DatumGetInt32(SPI_getbinval(row, desc, 11, &isnull));
		command.max_attempts = DatumGetInt32(SPI_getbinval(row, desc, 12, &isnull));
		command.topic = SPI_getvalue(row, desc, 13);
		command.payload = SPI_getvalue(row, desc, 14);
		if (iot_command_find(&command.command_id) != NULL)
			continue;
		job->added[job->nadded++] = command.command_id;
		iot_command_add(&command, resumed);
	}
}

static void
load_body(void *arg)
{
	TakeJob    *job = arg;
	Datum		values[1] = {UUIDPGetDatum(job->adapter_id)};

	iot_plan_execute(&load_commands, values, NULL);
	add_commands(job, true);
}

/* Takes up, and counts the attempts of those whose turn it is. */
static void
take_body(void *arg)
{
	TakeJob    *job = arg;
	Datum		values[2];
	Datum	   *device_ids;
	Datum	   *command_ids;
	bool		isnull;

	job->nadded = 0;
	if (job->take && job->limit > 0)
	{
		values[0] = UUIDPGetDatum(job->adapter_id);
		values[1] = Int32GetDatum(job->limit);
		iot_plan_execute(&take_commands, values, NULL);
		add_commands(job, false);
	}
	job->chosen = MemoryContextAlloc(job->context, sizeof(IotCommand *) * TAKE_MAX);
	job->nchosen = iot_command_ready(job->chosen, TAKE_MAX, job->config->max_in_flight);
	if (job->nchosen == 0)
		return;
	device_ids = palloc(sizeof(Datum) * job->nchosen);
	command_ids = palloc(sizeof(Datum) * job->nchosen);
	for (int i = 0; i < job->nchosen; i++)
	{
		job->chosen[i]->allowed = false;
		device_ids[i] = UUIDPGetDatum(&job->chosen[i]->device_id);
		command_ids[i] = UUIDPGetDatum(&job->chosen[i]->command_id);
	}
	values[0] = PointerGetDatum(construct_array(device_ids, job->nchosen, UUIDOID, UUID_LEN,
												false, TYPALIGN_CHAR));
	values[1] = PointerGetDatum(construct_array(command_ids, job->nchosen, UUIDOID, UUID_LEN,
												false, TYPALIGN_CHAR));
	iot_plan_execute(&attempt_commands, values, NULL);
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		Datum		id = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		IotCommand *command = iot_command_find(DatumGetUUIDP(id));

		if (command != NULL)
			command->allowed = true;
	}
}

/* Forgets what a transaction took up that did not commit; it will be taken up again. */
static void
undo(TakeJob *job)
{
	for (int i = 0; i < job->nadded; i++)
	{
		IotCommand *command = iot_command_find(&job->added[i]);

		if (command != NULL)
			iot_command_finish(command);
	}
	job->nadded = job->nchosen = 0;
}

/* Loads what was in flight when this adapter's last process ended. */
bool
iot_take_load(const pg_uuid_t *adapter_id)
{
	TakeJob		job = {.adapter_id = adapter_id, .context = CurrentMemoryContext};

	iot_command_reset();
	if (iot_try_xact("load commands in flight", 0, load_body, &job, NULL) != IOT_XACT_DONE)
	{
		undo(&job);
		return false;
	}
	if (job.nadded > 0)
		ereport(LOG, (errmsg("%d commands in flight are resumed", job.nadded)));
	return true;
}

/*
 * In one transaction takes up new commands (where asked to) and counts an attempt of each command
 * whose turn it is.  Those may be sent now that it is committed: *chosen, in the current memory
 * context.  Commands that turned out to be final are forgotten.  *more: there may be others to
 * take up right now.
 */
bool
iot_take_commands(const IotMqttConfig *config, const pg_uuid_t *adapter_id, bool take, bool *more,
				  IotCommand ***chosen, int *nchosen)
{
	TakeJob		job = {
		.config = config,
		.adapter_id = adapter_id,
		.take = take,
		.limit = Min(iot_command_room(), TAKE_MAX),
		.context = CurrentMemoryContext
	};
	int			allowed = 0;

	*nchosen = 0;
	*more = false;
	if (iot_try_xact("take up commands", 0, take_body, &job, NULL) != IOT_XACT_DONE)
	{
		undo(&job);
		return false;
	}
	iot_worker_slot_count(IOT_COUNT_TAKEN, job.nadded);
	for (int i = 0; i < job.nchosen; i++)
	{
		IotCommand *command = job.chosen[i];

		if (!command->allowed)
		{
			iot_command_finish(command);
			continue;
		}
		command->attempts++;
		job.chosen[allowed++] = command;
	}
	*chosen = job.chosen;
	*nchosen = allowed;
	/* a page that other adapters share may come back thin */
	*more = job.nadded > job.limit / 8;
	return true;
}
