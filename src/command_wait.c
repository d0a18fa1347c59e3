/*
 * command_wait.c
 *		iot.wait_for_command(): until a command is final.
 *
 * Runs in the waiting backend.  It looks with a snapshot of its own each time, holds none in
 * between, takes no lock, and sleeps on its latch, so that a cancel ends it at once.  It is woken by
 * whoever makes the command final (see command_wake.c), and looks by itself as well.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "access.h"
#include "command_wake.h"
#include "event.h"
#include "iot.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_wait_for_command);

static IotPlan look = {
	"SELECT c.status, c.xmin FROM iot.command c WHERE c.command_id = $1", 1, {UUIDOID}
};
static IotPlan look_first = {
	"SELECT c.status, c.xmin, c.device_id, d.name, a.name, a.kind, a.enabled"
	" FROM iot.command c"
	IOT_EACH("device", "k.device_id = c.device_id", "d")
	IOT_EACH_OR_NULL("adapter", "k.adapter_id = c.adapter_id", "a")
	" WHERE c.command_id = $1",
	1, {UUIDOID}
};
static IotPlan may_view = {
	"SELECT iot.may($1, $2, 'view')", 2, {TEXTOID, UUIDOID}
};

/* Who is to carry the command out. */
typedef struct Carrier
{
	char	   *adapter;
	char	   *kind;
	bool		enabled;
} Carrier;

/* Executes with the newest snapshot even where the transaction keeps an old one. */
static uint64
execute_latest(IotPlan *plan, Datum *values)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int			rc = SPI_execute_snapshot(iot_plan_get(plan), values, NULL, snapshot,
										  InvalidSnapshot, true, false, 0);

	UnregisterSnapshot(snapshot);
	if (rc < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

static void
report_unknown(const pg_uuid_t *command_id)
{
	char		text[IOT_UUID_TEXT_SIZE];

	iot_uuid_text(command_id, text);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("command %s does not exist", text),
			 errhint("It may not be committed yet, or be older than iot.retention keeps.")));
}

/* The present status by that plan; raises where the command is not there or not yet committed. */
static char *
current_status(IotPlan *plan, const pg_uuid_t *command_id)
{
	Datum		values[1] = {UUIDPGetDatum(command_id)};
	HeapTuple	row;
	TransactionId xmin;
	bool		isnull;

	if (execute_latest(plan, values) == 0)
		report_unknown(command_id);
	row = SPI_tuptable->vals[0];
	xmin = DatumGetTransactionId(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
	if (TransactionIdIsCurrentTransactionId(xmin))
	{
		char		text[IOT_UUID_TEXT_SIZE];

		iot_uuid_text(command_id, text);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("command %s is not committed yet", text),
				 errhint("Nothing leaves the database before the commit. Commit, then wait.")));
	}
	return SPI_getvalue(row, SPI_tuptable->tupdesc, 1);
}

/* The status at first, who carries the command, and whether the caller may see it. */
static char *
open_command(const pg_uuid_t *command_id, Carrier *carrier)
{
	char	   *status = current_status(&look_first, command_id);
	HeapTuple	row = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	Datum		values[2];
	Datum		device_id;
	char	   *device;
	char	   *username = iot_current_username();
	bool		isnull;
	bool		allowed = false;

	device_id = SPI_getbinval(row, desc, 3, &isnull);
	device = SPI_getvalue(row, desc, 4);
	carrier->adapter = SPI_getvalue(row, desc, 5);
	carrier->kind = SPI_getvalue(row, desc, 6);
	carrier->enabled = DatumGetBool(SPI_getbinval(row, desc, 7, &isnull)) && !isnull;

	if (iot_is_admin())
		return status;
	if (username != NULL)
	{
		values[0] = CStringGetTextDatum(username);
		values[1] = device_id;
		if (execute_latest(&may_view, values) == 1)
		{
			Datum		may = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

			allowed = !isnull && DatumGetBool(may);
		}
	}
	if (!allowed)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for device \"%s\"", device),
				 username
				 ? errdetail("User \"%s\" lacks level \"view\" on the device's group.", username)
				 : errdetail("The session names no user."),
				 errhint("Levels are granted in iot.access_grant, from user group to device group.")));
	return status;
}

static bool
is_final(const char *status)
{
	return strcmp(status, "COMPLETED") == 0 || strcmp(status, "FAILED") == 0 ||
		strcmp(status, "CANCELLED") == 0;
}

static bool
database_is_served(void)
{
	char	   *database = get_database_name(MyDatabaseId);
	List	   *names = NIL;
	ListCell   *lc;

	if (database == NULL || iot_databases == NULL ||
		!SplitIdentifierString(pstrdup(iot_databases), ',', &names))
		return false;
	foreach(lc, names)
	{
		if (strcmp((char *) lfirst(lc), database) == 0)
			return true;
	}
	return false;
}

/* Raises where no worker of ours can ever answer; other kinds of adapters answer over SQL. */
static void
check_workers(const Carrier *carrier)
{
	if (carrier->kind == NULL || strcmp(carrier->kind, "mqtt") != 0)
		return;
	if (!iot_preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("iot workers are not running"),
				 errhint("Add \"iot\" to \"shared_preload_libraries\" and restart.")));
	if (!database_is_served())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("iot workers are not running in this database"),
				 errhint("Add its name to \"iot.databases\" and reload.")));
}

/*
 * Until the next look unasked: short at first, since most devices answer within milliseconds, and
 * then a fiftieth of what has gone by.  Who is going to be woken need not hurry at first; where the
 * wake-up stays away after all, he loses no more than these 50 ms.
 */
static long
next_delay_ms(int64 waited_ms, int64 timeout_ms, bool woken)
{
	int64		delay = Min(Max(waited_ms / 50, woken ? 50 : 1), 100);

	return Min(delay, Max(timeout_ms - waited_ms, 1));
}

/* Sleeps so long at most; told is what is broadcast before that, NULL for nothing. */
static void
sleep_ms(ConditionVariable *told, long delay_ms)
{
	if (told != NULL)
		(void) ConditionVariableTimedSleep(told, delay_ms, PG_WAIT_EXTENSION);
	else
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, delay_ms,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* Milliseconds of a clock that nobody sets. */
static int64
steady_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/*
 * iot.wait_for_command(command_id uuid, timeout interval) returns text: the final status, always;
 * timeout NULL waits as long as the command may live.  When the time is over it raises 55P03, as
 * lock_timeout does: query_canceled would pass by WHEN OTHERS and read as an operator's act.
 */
Datum
iot_wait_for_command(PG_FUNCTION_ARGS)
{
	int64		began = steady_ms();
	int64		timeout_ms = PG_INT64_MAX;
	const pg_uuid_t *command_id;
	ConditionVariable *told;
	Carrier		carrier = {0};
	MemoryContext caller_context = CurrentMemoryContext;
	char	   *status;
	text	   *result;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("command_id must not be null"),
				 errhint("Give what iot.send_command() returned.")));
	command_id = PG_GETARG_UUID_P(0);
	if (!PG_ARGISNULL(1))
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz until = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
																	TimestampTzGetDatum(now),
																	PG_GETARG_DATUM(1)));

		timeout_ms = until > now ? (until - now) / 1000 : 0;
	}
	/*
	 * Before the first look, so that what ends the command after a look wakes us.  The list that this
	 * puts us on is left when the (sub)transaction aborts, however that comes about.
	 */
	told = iot_command_final_told(command_id);
	if (told != NULL)
		ConditionVariablePrepareToSleep(told);
	SPI_connect();
	status = open_command(command_id, &carrier);
	while (!is_final(status))
	{
		int64		waited_ms = steady_ms() - began;

		check_workers(&carrier);
		if (waited_ms >= timeout_ms)
		{
			char		text[IOT_UUID_TEXT_SIZE];

			iot_uuid_text(command_id, text);
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("timed out while waiting for command %s", text),
					 errdetail("Its status is %s; it stays on its way until its deadline.", status),
					 carrier.enabled
					 ? errhint("Wait again, or look at iot.timeline() and iot.status().")
					 : errhint("Adapter \"%s\" is not enabled.",
							   carrier.adapter ? carrier.adapter : "")));
		}
		pfree(status);
		SPI_freetuptable(SPI_tuptable);
		sleep_ms(told, next_delay_ms(waited_ms, timeout_ms, told != NULL));
		CHECK_FOR_INTERRUPTS();
		status = current_status(&look, command_id);
	}
	ConditionVariableCancelSleep();
	MemoryContextSwitchTo(caller_context);
	result = cstring_to_text(status);
	SPI_finish();
	PG_RETURN_TEXT_P(result);
}
