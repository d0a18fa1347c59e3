/*
 * worker_hold.c
 *		Keeping workers out while tables are changed.
 *
 * Runs in the session of whoever installs or migrates.  Workers take a share of a lock on the extension
 * before anything else, in each transaction; who has the whole of it waits for those that are under way,
 * and holds up the next until the end of his own.
 */
#include "postgres.h"

#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "storage/lmgr.h"

PG_FUNCTION_INFO_V1(iot_hold_workers);

/*
 * iot_internal.hold_workers() returns void; VOLATILE.  To be called before any table is locked: a worker
 * that waits for one while it has the lock that we wait for is a deadlock.
 */
Datum
iot_hold_workers(PG_FUNCTION_ARGS)
{
	Oid			extension = get_extension_oid("iot", true);

	if (OidIsValid(extension))
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessExclusiveLock);
	PG_RETURN_VOID();
}
