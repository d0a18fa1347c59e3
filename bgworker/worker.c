/*
 * worker.c
 *		What every worker process does alike: start, transactions, waiting, saying how it is.
 *
 * Runs in the notifier and in each adapter.  Every transaction of a worker goes through
 * iot_try_xact(), the one place that outlives an ERROR; anything raised outside of it ends the
 * process with status 1, and who started the worker starts it again.
 */
#include "postgres.h"

#include <time.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "adapter_contract.h"
#include "bgworker/worker.h"
#include "compat.h"
#include "iot.h"
#include "plan.h"

PG_MODULE_MAGIC;

#define XACT_TIMEOUT_MS			30000
#define HEARTBEAT_INTERVAL_MS	5000
#define IDLE_REMINDER_MS		60000	/* how often an idle worker says why */
#define ERROR_REMINDER_MS		10000	/* how often the same error is logged */
#define STAT_FLUSH_MS			500
#define CLOCK_SET_MS			1000	/* what moves it less is a correction, and no setting */
#define CLOCK_READ_MS			100

static char subject[NAMEDATALEN * 3];
static const char *idle_reason = NULL;
static int64 idle_logged_at = 0;
static bool heartbeat_due = true;
static int64 heartbeat_at = 0;
static int64 stat_flushed_at = 0;

static struct
{
	int			sqlerrcode;
	const char *activity;
	int64		logged_at;
	int			suppressed;
}			last_error;

static IotPlan gate = {
	"SELECT v.version, e.paused, e.system_identifier, e.database_oid, iot_internal.schema_version()"
	" FROM iot.schema_version v CROSS JOIN iot.epoch e",
	0, {0}
};

static IotPlan heartbeat = {
	"SELECT iot_internal.worker_heartbeat($1, $2, $3, $4, $5, $6, $7::jsonb)",
	7, {TEXTOID, TEXTOID, UUIDOID, INT4OID, TEXTOID, TEXTOID, TEXTOID}
};

/*
 * Milliseconds of a clock that nobody sets, from 1 on.  Every interval of a worker is measured by
 * it, so that a correction of the system's time neither stops a worker nor makes it spin.
 */
int64
iot_worker_clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000 + 1;
}

/* Whether so much time went by; since 0 means that it never happened, so yes. */
bool
iot_worker_passed(int64 since, int64 ms)
{
	return since == 0 || iot_worker_clock_ms() - since >= ms;
}

/*
 * By how many milliseconds the system's clock was set since this was asked last, less than 0 where it
 * was set back; 0 where it was not.  Told by how far it moved away from the clock that nobody sets.
 */
int64
iot_worker_clock_set_by(void)
{
	static bool known = false;
	static int64 offset = 0;
	int64		before = iot_worker_clock_ms();
	int64		apart = GetCurrentTimestamp() / 1000 - before;
	int64		set_by = known ? apart - offset : 0;

	/* whoever was held up between the two does not know how far they are apart */
	if (iot_worker_passed(before, CLOCK_READ_MS))
		return 0;
	known = true;
	offset = apart;
	return set_by > -CLOCK_SET_MS && set_by < CLOCK_SET_MS ? 0 : set_by;
}

static void
subject_context(void *arg)
{
	if (subject[0] != '\0')
		errcontext("%s", subject);
}

/* Names whose work this is, for whatever is raised or logged in a transaction from now on. */
void
iot_worker_subject(const char *text)
{
	strlcpy(subject, text, sizeof(subject));
}

bool
iot_sqlstate_is_refusal(int sqlerrcode)
{
	int			class = ERRCODE_TO_CATEGORY(sqlerrcode);

	return class == ERRCODE_DATA_EXCEPTION || class == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION;
}

/*
 * NULL where the worker may work, else why not.  Holds the extension against DROP until the end
 * of the transaction, and from then on acts as iot_worker.  Fails closed: a copy that is not the
 * original counts as paused even before anybody wrote so down.
 */
static const char *
gate_closed(int flags)
{
	static Oid	extension = InvalidOid;	/* as the last transaction found it */
	Oid			found;
	Oid			worker;
	Oid			schema;
	Oid			epoch_table;
	Oid			version_table;

	/* looked for under the lock: mostly it is what it was */
	if (OidIsValid(extension))
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	found = get_extension_oid("iot", true);
	if (!OidIsValid(found))
		return "extension \"iot\" is not installed in this database";
	if (found != extension)
	{
		extension = found;
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
		if (get_extension_oid("iot", true) != extension)
			return "extension \"iot\" is being replaced";
	}
	worker = get_role_oid("iot_worker", true);
	if (!OidIsValid(worker))
		return "role \"iot_worker\" does not exist; run \"SELECT iot.install()\"";
	schema = get_namespace_oid("iot", true);
	epoch_table = OidIsValid(schema) ? get_relname_relid("epoch", schema) : InvalidOid;
	version_table = OidIsValid(schema) ? get_relname_relid("schema_version", schema) : InvalidOid;
	if (!OidIsValid(epoch_table) || !OidIsValid(version_table))
		return "the tables are not installed; run \"SELECT iot.install()\"";
	/* a restore brings grants last, and before that not all rows may be there */
	if (pg_class_aclcheck(epoch_table, worker, ACL_SELECT) != ACLCHECK_OK ||
		pg_class_aclcheck(version_table, worker, ACL_SELECT) != ACLCHECK_OK)
		return "the tables are not complete; finish the restore or run \"SELECT iot.install()\"";

	/* the flag keeps what our inserts fire from taking the session's own role back */
	SetUserIdAndSecContext(worker, SECURITY_LOCAL_USERID_CHANGE);
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (iot_plan_execute(&gate, NULL, NULL) != 1)
		return "the tables are not complete; run \"SELECT iot.install()\"";
	else
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		int			version = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
		bool		paused = DatumGetBool(SPI_getbinval(row, desc, 2, &isnull));
		uint64		system = (uint64) DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull));
		Oid			database = DatumGetObjectId(SPI_getbinval(row, desc, 4, &isnull));
		int			functions = DatumGetInt32(SPI_getbinval(row, desc, 5, &isnull));

		/* the steps of an upgrade, in this order: new files and a restart, functions, tables */
		if (functions > IOT_SCHEMA_VERSION)
			return "the library is older than the functions; restart the server";
		if (functions < IOT_SCHEMA_VERSION)
			return "the functions are older than the library; run \"ALTER EXTENSION iot UPDATE\"";
		if (version < functions)
			return "the tables are older than the functions; run \"SELECT iot.migrate()\"";
		if (version > functions)
			return "the tables are newer than the functions; install the newer iot";
		if (flags & IOT_XACT_WHILE_PAUSED)
			return NULL;
		if (paused)
			return "paused; run \"SELECT iot.resume()\"";
		if (system != GetSystemIdentifier() || database != MyDatabaseId)
			return "paused: this database is a copy; run \"SELECT iot.resume()\"";
	}
	iot_adapters_known_active();
	return NULL;
}

/* Logs each new reason at once and a standing one now and then. */
static void
note_idle(const char *reason)
{
	if (reason == NULL)
	{
		if (idle_reason != NULL)
			ereport(LOG, (errmsg("iot worker works again")));
		idle_reason = NULL;
		return;
	}
	if (reason != idle_reason || iot_worker_passed(idle_logged_at, IDLE_REMINDER_MS))
	{
		ereport(LOG, (errmsg("iot worker is idle: %s", reason)));
		idle_logged_at = iot_worker_clock_ms();
	}
	/* each time, since a link that is closed meanwhile says so of itself */
	iot_worker_state("idle", reason);
	idle_reason = reason;
}

/* Why the last transaction was not let in; NULL where it was. */
const char *
iot_worker_idle_reason(void)
{
	return idle_reason;
}

/*
 * One line per failure, but the same failure over and over only now and then.  A refusal that the
 * caller answers for is told by the dead letter it leads to.
 */
static void
log_error(ErrorData *edata, const char *activity, bool answered)
{
	iot_worker_slot_count(IOT_COUNT_ERRORS, 1);
	if (answered && iot_sqlstate_is_refusal(edata->sqlerrcode))
		edata->elevel = DEBUG1;
	else if (edata->sqlerrcode == last_error.sqlerrcode && activity == last_error.activity &&
			 !iot_worker_passed(last_error.logged_at, ERROR_REMINDER_MS))
	{
		last_error.suppressed++;
		return;
	}
	else
	{
		edata->elevel = LOG;
		if (last_error.suppressed > 0)
			ereport(LOG,
					(errmsg("could not %s: %d more times the same", last_error.activity,
							last_error.suppressed)));
		last_error.sqlerrcode = edata->sqlerrcode;
		last_error.activity = activity;
		last_error.logged_at = iot_worker_clock_ms();
		last_error.suppressed = 0;
	}
	edata->output_to_client = false;
	ThrowErrorData(edata);
}

/*
 * Runs body in a transaction of its own, as iot_worker, connected to SPI, and commits.  activity
 * is a constant in the imperative ("store measurements"): it shows in pg_stat_activity and in the
 * log.  Raises nothing that the body raised; error, where given, is filled unless the outcome is
 * IOT_XACT_DONE or IOT_XACT_IDLE.  The caller's memory context is current afterwards, and the
 * commit is on disk, whatever synchronous_commit was configured to be.
 */
IotXactOutcome
iot_try_xact(const char *activity, int flags, IotXactBody body, void *arg, IotXactError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			userid;
	int			sec_context;
	volatile IotXactOutcome outcome = IOT_XACT_FAILED;
	const char *volatile closed = NULL;
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = subject_context
	};

	Assert(!IsTransactionState());
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		SetConfigOption("synchronous_commit", "on", PGC_SUSET, PGC_S_OVERRIDE);
	GetUserIdAndSecContext(&userid, &sec_context);
	pgstat_report_activity(STATE_RUNNING, activity);
	SetCurrentStatementStartTimestamp();
	PG_TRY();
	{
		error_context_stack = &callback;
		StartTransactionCommand();
		if (!(flags & IOT_XACT_LONG))
			enable_timeout_after(STATEMENT_TIMEOUT, XACT_TIMEOUT_MS);
		if (!(flags & IOT_XACT_NO_TABLES))
			closed = gate_closed(flags);
		if (closed == NULL)
			body(arg);
		if (ActiveSnapshotSet())
		{
			SPI_finish();
			PopActiveSnapshot();
		}
		/* what is deferred to the commit still runs as iot_worker */
		CommitTransactionCommand();
		disable_timeout(STATEMENT_TIMEOUT, false);
		SetUserIdAndSecContext(userid, sec_context);
		error_context_stack = callback.previous;
		outcome = closed == NULL ? IOT_XACT_DONE : IOT_XACT_IDLE;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		disable_timeout(STATEMENT_TIMEOUT, false);
		AbortCurrentTransaction();
		SetUserIdAndSecContext(userid, sec_context);
		MemoryContextSwitchTo(caller);
		outcome = iot_sqlstate_is_refusal(edata->sqlerrcode) ? IOT_XACT_REFUSED : IOT_XACT_FAILED;
		if (error != NULL)
		{
			error->sqlerrcode = edata->sqlerrcode;
			error->message = edata->message != NULL ? pstrdup(edata->message) : pstrdup("");
		}
		log_error(edata, activity, error != NULL);
		FreeErrorData(edata);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	/* a transaction that is let in while paused says nothing about the others */
	if (outcome == IOT_XACT_IDLE ||
		(outcome == IOT_XACT_DONE && !(flags & (IOT_XACT_WHILE_PAUSED | IOT_XACT_NO_TABLES))))
		note_idle(closed);
	(void) pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	return outcome;
}

/*
 * Makes the process a worker: signals, database, slot, settings.  Exits with status 0 where
 * another process is this worker already.
 */
void
iot_worker_start(const IotWorkerKey *key, const char *name)
{
	char		appname[NAMEDATALEN];

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (OidIsValid(key->database))
		BackgroundWorkerInitializeConnectionByOid(key->database, InvalidOid, 0);
	else
		BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	snprintf(subject, sizeof(subject), "iot %s", name);

	if (!iot_worker_slot_attach(key, name))
	{
		ereport(DEBUG1, (errmsg("another process is this worker already, or no slot is free")));
		proc_exit(0);
	}
	snprintf(appname, sizeof(appname), "iot %s", name);
	pgstat_report_appname(appname);
	pgstat_report_activity(STATE_IDLE, NULL);
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);
	/* compiling our statements would take longer than running them */
	SetConfigOption("jit", "off", PGC_SUSET, PGC_S_OVERRIDE);
	/* a waiter holds back the xmin horizon: give up before two seconds, and come again */
	SetConfigOption("lock_timeout", "1500ms", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET,
					PGC_S_OVERRIDE);
	ereport(LOG, (errmsg("iot %s started", name)));
}

/* What a process of an adapter is called: in its slot and its row, and what ps shows. */
void
iot_worker_adapter_names(const char *adapter, int number, char name[IOT_WORKER_NAME_SIZE],
						 char title[IOT_WORKER_NAME_SIZE])
{
	char		suffix[16] = "";

	if (number > 1)
		snprintf(suffix, sizeof(suffix), "/%d", number);
	snprintf(name, IOT_WORKER_NAME_SIZE, "adapter:%s%s", adapter, suffix);
	snprintf(title, IOT_WORKER_NAME_SIZE, "mqtt adapter \"%s\"%s", adapter, suffix);
}

/* Exits for good (status 0): who started the worker decides about another one. */
void
iot_worker_leave(const char *reason)
{
	IotWorkerInfo self;

	if (iot_worker_slot_self(&self))
		ereport(LOG, (errmsg("iot %s stops: %s", self.name, reason)));
	proc_exit(0);
}

/* To be called each turn of a loop and inside long ones, outside transactions. */
void
iot_worker_check_interrupts(void)
{
	Assert(!IsTransactionState());
	/* a cancel that found no statement has nothing to cancel */
	if (!ProcDiePending)
		QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (iot_worker_slot_stop_requested())
		iot_worker_leave("no longer wanted");
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Sleeps until the latch is set, the socket is ready (PGINVALID_SOCKET: none) or the time is up;
 * returns which.  Before a sleep, what the worker wrote is told to the statistics.
 */
uint32
iot_worker_wait(uint32 socket_events, pgsocket socket, long timeout_ms)
{
	uint32		events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
	uint32		occurred;

	iot_worker_slot_beat();
	if (timeout_ms > 0 && iot_worker_passed(stat_flushed_at, STAT_FLUSH_MS))
	{
		(void) pgstat_report_stat(true);
		stat_flushed_at = iot_worker_clock_ms();
	}
	if (socket != PGINVALID_SOCKET && socket_events != 0)
		occurred = WaitLatchOrSocket(MyLatch, events | socket_events, socket,
									 Max(timeout_ms, 0), PG_WAIT_EXTENSION);
	else
		occurred = WaitLatch(MyLatch, events, Max(timeout_ms, 0), PG_WAIT_EXTENSION);
	if (occurred & WL_LATCH_SET)
		ResetLatch(MyLatch);
	return occurred;
}

/* What operators see; the log is the caller's business. */
void
iot_worker_state(const char *state, const char *detail)
{
	IotWorkerInfo self;

	if (!iot_worker_slot_self(&self))
		return;
	if (detail == NULL)
		detail = "";
	if (strcmp(self.state, state) != 0 || strcmp(self.detail, detail) != 0)
	{
		iot_worker_slot_state(state, detail);
		heartbeat_due = true;
	}
}

static void
heartbeat_body(void *arg)
{
	IotWorkerInfo *self = arg;
	Datum		values[7];
	char		nulls[] = "       ";

	values[0] = CStringGetTextDatum(self->name);
	values[1] = CStringGetTextDatum(iot_worker_kind_name(self->key.kind));
	values[2] = UUIDPGetDatum(&self->key.adapter_id);
	if (self->key.kind != IOT_WORKER_ADAPTER)
		nulls[2] = 'n';
	values[3] = Int32GetDatum(self->pid);
	values[4] = CStringGetTextDatum(self->state);
	values[5] = CStringGetTextDatum(self->detail);
	if (self->detail[0] == '\0')
		nulls[5] = 'n';
	values[6] = CStringGetTextDatum(iot_worker_counters_json(self->counters));
	iot_plan_execute(&heartbeat, values, nulls);
}

/* Writes the worker's row of iot.worker where its state changed or some seconds have passed. */
void
iot_worker_heartbeat(void)
{
	IotWorkerInfo self;

	if (!heartbeat_due && !iot_worker_passed(heartbeat_at, HEARTBEAT_INTERVAL_MS))
		return;
	if (!iot_worker_slot_self(&self))
		return;
	heartbeat_due = false;
	heartbeat_at = iot_worker_clock_ms();
	(void) iot_try_xact("write heartbeat", IOT_XACT_WHILE_PAUSED, heartbeat_body, &self, NULL);
}
