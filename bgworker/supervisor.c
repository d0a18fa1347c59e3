/*
 * supervisor.c
 *		Keeping the wanted workers running.
 *
 * Runs in the launcher (for notifiers) and in each notifier (for the adapters of its database).
 * The slots in shared memory say which workers run; what is kept here says only when one was
 * started, so that a starter that is itself started again finds everything as it is.  A worker
 * that ends is started again after a second, and later the oftener it ends, up to five.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "bgworker/supervisor.h"
#include "bgworker/worker.h"
#include "core/backoff.h"
#include "plan.h"

#define RESTART_BASE_MS		500
#define RESTART_CAP_MS		5000
#define HEALTHY_MS			30000	/* a worker that ran this long starts at once the next time */
#define TICK_MS				1000
#define STOP_PATIENCE_MS	3000	/* then the worker gets SIGTERM */

typedef struct Start
{
	IotWorkerKey key;
	bool		wanted;			/* asked for since iot_supervisor_begin() */
	bool		seen;			/* has a slot, as of iot_supervisor_end() */
	bool		stopping;
	int64		next_start_at;	/* of the worker's clock, like the next */
	int64		stop_at;
	IotBackoff	backoff;
	BackgroundWorkerHandle *handle; /* NULL where another process started it */
	bool		refused;		/* the server had no free worker; said so already */
	struct Start *next;
} Start;

static Start *starts = NULL;

static IotPlan list_adapters = {
	"SELECT a.adapter_id, a.name, a.number FROM iot_internal.worker_adapters() a",
	0, {0}
};

static IotPlan forget = {"SELECT iot_internal.worker_forget()", 0, {0}};

static Start *
find_start(const IotWorkerKey *key)
{
	Start	   *start;

	for (start = starts; start != NULL; start = start->next)
	{
		if (iot_worker_key_equal(&start->key, key))
			return start;
	}
	start = MemoryContextAllocZero(TopMemoryContext, sizeof(Start));
	start->key = *key;
	iot_backoff_init(&start->backoff, RESTART_BASE_MS, RESTART_CAP_MS,
					 (uint64) MyProcPid << 32 ^ (uint64) GetCurrentTimestamp());
	start->next = starts;
	starts = start;
	return start;
}

/* Drops what is remembered of workers that are neither wanted nor there any more. */
static void
forget_gone(IotWorkerKind kind)
{
	Start	  **link = &starts;

	while (*link != NULL)
	{
		Start	   *start = *link;

		if (start->wanted || start->seen || start->key.kind != kind)
		{
			link = &start->next;
			continue;
		}
		*link = start->next;
		if (start->handle != NULL)
			pfree(start->handle);
		pfree(start);
	}
}

/* A new round: who is not wanted in it will be stopped at its end. */
void
iot_supervisor_begin(void)
{
	for (Start *start = starts; start != NULL; start = start->next)
		start->wanted = start->seen = false;
}

/* Lets a worker be that somebody else starts: it is neither started nor stopped here. */
void
iot_supervisor_keep(const IotWorkerKey *key)
{
	find_start(key)->wanted = true;
}

static bool
register_worker(Start *start, const char *title)
{
	BackgroundWorker worker = {0};
	MemoryContext old;
	bool		registered;

	StaticAssertStmt(sizeof(IotWorkerKey) <= BGW_EXTRALEN, "a worker's key fits");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
#ifdef BGWORKER_INTERRUPTIBLE
	worker.bgw_flags |= BGWORKER_INTERRUPTIBLE;
#endif
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(start->key.database);
	memcpy(worker.bgw_extra, &start->key, sizeof(IotWorkerKey));
	strlcpy(worker.bgw_library_name, "iot_worker", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name,
			start->key.kind == IOT_WORKER_ADAPTER ? "iot_mqtt_adapter_main" : "iot_notifier_main",
			sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_type, BGW_MAXLEN, "iot %s", iot_worker_kind_name(start->key.kind));
	snprintf(worker.bgw_name, BGW_MAXLEN, "iot %s", title);
	if (start->handle != NULL)
		pfree(start->handle);
	start->handle = NULL;
	old = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &start->handle);
	MemoryContextSwitchTo(old);
	return registered;
}

/*
 * Asks for a worker to run: starts it where it does not, unless it is too early for another try.
 * name is its slot's, title what ps shows.  To be called outside transactions.
 */
void
iot_supervisor_want(const IotWorkerKey *key, const char *name, const char *title)
{
	Start	   *start = find_start(key);
	int64		now = iot_worker_clock_ms();
	IotWorkerInfo info;
	pid_t		pid;
	int			slot;

	start->wanted = true;
	start->stopping = false;
	slot = iot_worker_slot_reserve(key, name);
	if (slot < 0)
	{
		if (!start->refused)
			ereport(LOG,
					(errmsg("could not start iot %s: no free slot", title),
					 errhint("Raise \"iot.max_workers\" and restart the server.")));
		start->refused = true;
		return;
	}
	if (iot_worker_slot_read(slot, &info) && info.pid != 0)
	{
		start->refused = false;
		if (TimestampDifferenceExceeds(info.started_at, GetCurrentTimestamp(), HEALTHY_MS))
			iot_backoff_reset(&start->backoff);
		return;
	}
	if (start->handle != NULL &&
		GetBackgroundWorkerPid(start->handle, &pid) != BGWH_STOPPED)
		return;					/* on its way */
	if (now < start->next_start_at)
		return;
	start->next_start_at = now + iot_backoff_next(&start->backoff);
	if (register_worker(start, title))
		start->refused = false;
	else
	{
		iot_worker_slot_explain(slot, "not started",
								"the server has no free background worker; "
								"raise max_worker_processes and restart it");
		if (!start->refused)
			ereport(LOG,
					(errmsg("could not start iot %s: no free background worker", title),
					 errhint("Raise \"max_worker_processes\" and restart the server.")));
		start->refused = true;
	}
}

/* Ends the round: stops the workers of this kind (and database, if given) that nobody wanted. */
void
iot_supervisor_end(IotWorkerKind kind, Oid database)
{
	int64		now = iot_worker_clock_ms();

	for (int slot = 0; slot < iot_worker_slots(); slot++)
	{
		IotWorkerInfo info;
		Start	   *start;

		if (!iot_worker_slot_read(slot, &info) || info.key.kind != kind ||
			(OidIsValid(database) && info.key.database != database))
			continue;
		start = find_start(&info.key);
		start->seen = true;
		if (start->wanted)
			continue;
		if (!start->stopping)
		{
			start->stopping = true;
			start->stop_at = now;
		}
		if (iot_worker_slot_release(slot))
			start->seen = false;
		else if (now - start->stop_at >= STOP_PATIENCE_MS)
		{
			kill(info.pid, SIGTERM);
			start->stop_at = now;
		}
		else
			iot_worker_slot_stop(slot);
	}
	forget_gone(kind);
}

typedef struct AdapterList
{
	int			count;
	struct
	{
		pg_uuid_t	adapter_id;
		int			number;
		char		name[NAMEDATALEN * 2];
	}		   *adapters;
	MemoryContext context;
} AdapterList;

static void
list_adapters_body(void *arg)
{
	AdapterList *list = arg;
	uint64		rows = iot_plan_execute(&list_adapters, NULL, NULL);

	list->adapters = MemoryContextAllocZero(list->context,
											Max(rows, 1) * sizeof(*list->adapters));
	for (uint64 i = 0; i < rows; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		list->adapters[i].adapter_id =
			*DatumGetUUIDP(SPI_getbinval(row, desc, 1, &isnull));
		strlcpy(list->adapters[i].name, SPI_getvalue(row, desc, 2),
				sizeof(list->adapters[i].name));
		list->adapters[i].number = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull));
	}
	list->count = rows;
	iot_plan_execute(&forget, NULL, NULL);
}

/*
 * Looks once a second which adapters this database wants and starts or stops their processes.
 * Where the database cannot tell, everything stays as it is: adapters idle by themselves.
 */
void
supervisor_tick(void)
{
	static int64 ticked_at = 0;
	AdapterList list = {.context = CurrentMemoryContext};

	if (!iot_worker_passed(ticked_at, TICK_MS))
		return;
	ticked_at = iot_worker_clock_ms();
	if (iot_try_xact("look for adapters", IOT_XACT_WHILE_PAUSED, list_adapters_body, &list,
					 NULL) != IOT_XACT_DONE)
		return;
	iot_supervisor_begin();
	for (int i = 0; i < list.count; i++)
	{
		IotWorkerKey key = {
			.kind = IOT_WORKER_ADAPTER,
			.database = MyDatabaseId,
			.adapter_id = list.adapters[i].adapter_id,
			.number = list.adapters[i].number
		};
		char		name[IOT_WORKER_NAME_SIZE];
		char		title[IOT_WORKER_NAME_SIZE];

		iot_worker_adapter_names(list.adapters[i].name, key.number, name, title);
		iot_supervisor_want(&key, name, title);
	}
	iot_supervisor_end(IOT_WORKER_ADAPTER, MyDatabaseId);
	pfree(list.adapters);
}
