/*
 * launcher.c
 *		The process that keeps one notifier running in each database of iot.databases.
 *
 * Started by the postmaster, connected to no database, so that it stands in nobody's way.  It
 * follows a reload of the setting, databases that appear, are renamed or go, and notifiers that
 * end.  Where it fails it exits with status 1 and the postmaster starts it again; the workers
 * that run are not touched by that.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "bgworker/supervisor.h"
#include "bgworker/worker.h"
#include "iot.h"

#define LOOK_MS		1000

/* Databases of the setting that could not be served when last looked at, so as to say it once. */
static List *missing = NIL;

static bool
is_missing(const char *name)
{
	ListCell   *lc;

	foreach(lc, missing)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

static void
note_missing(const char *name, const char *reason)
{
	MemoryContext old;

	if (is_missing(name))
		return;
	ereport(LOG,
			(errmsg("iot launcher does not serve database \"%s\": %s", name, reason),
			 errhint("Its workers start as soon as it can be connected to, "
					 "or take it out of \"iot.databases\".")));
	old = MemoryContextSwitchTo(TopMemoryContext);
	missing = lappend(missing, pstrdup(name));
	MemoryContextSwitchTo(old);
}

static void
note_present(const char *name)
{
	ListCell   *lc;

	foreach(lc, missing)
	{
		if (strcmp(lfirst(lc), name) == 0)
		{
			missing = foreach_delete_current(missing, lc);
			return;
		}
	}
}

/*
 * The database's oid, or InvalidOid where it does not exist or refuses connections.  Reads the
 * heap: a process of no database has no indexes, hence no catalog caches, until some other
 * process has written the shared relation cache's file.
 */
static Oid
look_up_database(Relation catalog, const char *name)
{
	TableScanDesc scan = table_beginscan_catalog(catalog, 0, NULL);
	Oid			database = InvalidOid;
	bool		connectable = false;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database row = (Form_pg_database) GETSTRUCT(tuple);

		if (strcmp(NameStr(row->datname), name) == 0)
		{
			database = row->oid;
			connectable = row->datallowconn;
			break;
		}
	}
	table_endscan(scan);

	if (!OidIsValid(database))
		note_missing(name, "it does not exist");
	else if (!connectable)
		note_missing(name, "it allows no connections");
	else
	{
		note_present(name);
		return database;
	}
	return InvalidOid;
}

/* Starts, restarts and stops notifiers; memory is that of the caller's cycle. */
static void
look_after_notifiers(void)
{
	List	   *names = NIL;
	List	   *databases = NIL;
	ListCell   *name;
	ListCell   *database;
	MemoryContext cycle = CurrentMemoryContext;
	Relation	catalog;

	if (!SplitIdentifierString(pstrdup(iot_databases), ',', &names))
		names = NIL;			/* the setting's check lets nothing else in */
	pgstat_report_activity(STATE_RUNNING, "look for databases");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	catalog = table_open(DatabaseRelationId, AccessShareLock);
	foreach(name, names)
	{
		Oid			oid = look_up_database(catalog, lfirst(name));
		MemoryContext old = MemoryContextSwitchTo(cycle);

		databases = lappend_oid(databases, oid);
		MemoryContextSwitchTo(old);
	}
	table_close(catalog, AccessShareLock);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(cycle);
	pgstat_report_activity(STATE_IDLE, NULL);

	iot_supervisor_begin();
	forboth(name, names, database, databases)
	{
		IotWorkerKey key = {.kind = IOT_WORKER_NOTIFIER, .database = lfirst_oid(database)};
		char		title[IOT_WORKER_NAME_SIZE];

		if (!OidIsValid(key.database))
			continue;
		snprintf(title, sizeof(title), "notifier of \"%s\"", (char *) lfirst(name));
		iot_supervisor_want(&key, "notifier", title);
	}
	/* adapters are their notifier's business, unless their database has none any more */
	for (int slot = 0; slot < iot_worker_slots(); slot++)
	{
		IotWorkerInfo info;

		if (iot_worker_slot_read(slot, &info) && info.key.kind == IOT_WORKER_ADAPTER &&
			list_member_oid(databases, info.key.database))
			iot_supervisor_keep(&info.key);
	}
	iot_supervisor_end(IOT_WORKER_NOTIFIER, InvalidOid);
	iot_supervisor_end(IOT_WORKER_ADAPTER, InvalidOid);
}

void
iot_launcher_main(Datum arg)
{
	IotWorkerKey key = {.kind = IOT_WORKER_LAUNCHER};
	MemoryContext cycle;

	iot_worker_start(&key, "launcher");
	iot_worker_state("running", NULL);
	cycle = AllocSetContextCreate(TopMemoryContext, "iot launcher cycle", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(cycle);
	for (;;)
	{
		Assert(CurrentMemoryContext == cycle && !IsTransactionState());
		iot_worker_check_interrupts();
		look_after_notifiers();
		MemoryContextReset(cycle);
		(void) iot_worker_wait(0, PGINVALID_SOCKET, LOOK_MS);
	}
}
