/*
 * registry_changed.c
 *		Tells all backends that the rows of a table have changed.
 *
 * Runs in statement triggers of whoever changes the registry.  A message makes every session read
 * again what it knows of the registry, and plan again what it has planned over the table.  Where a
 * fleet grows by a device a second that must not follow from each: of rows that were not there
 * before, nobody knows anything yet.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "registry_cache.h"

PG_FUNCTION_INFO_V1(iot_registry_changed_sql);
PG_FUNCTION_INFO_V1(iot_registry_grown_sql);

/* How large a table was when this backend last had it planned for anew. */
typedef struct Told
{
	Oid			relid;
	BlockNumber blocks;
} Told;

static TriggerData *
trigger_data(FunctionCallInfo fcinfo, const char *name)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called as a trigger", name)));
	return (TriggerData *) fcinfo->context;
}

/*
 * iot_internal.registry_changed() returns trigger; for each statement.  The message goes out when
 * the transaction commits, and reaches everybody before he reads the table again.
 */
Datum
iot_registry_changed_sql(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcache(trigger_data(fcinfo, "registry_changed")->tg_relation);
	return PointerGetDatum(NULL);
}

/*
 * Whether the table is twice as large as those who keep plans over it may think: it is as cheap to read
 * all of a table of a few rows as to use its index, and such a plan must not be kept when it has grown.
 * Who vacuums or analyzes tells them as well.
 */
static bool
has_doubled(Relation relation)
{
	static Told tables[2];
	BlockNumber blocks = RelationGetNumberOfBlocks(relation);
	Told	   *told = &tables[0];

	for (int i = 0; i < lengthof(tables); i++)
	{
		if (tables[i].relid == RelationGetRelid(relation) || !OidIsValid(tables[i].relid))
		{
			told = &tables[i];
			break;
		}
	}
	/* another database's table of ours was dropped and made again, or this one truncated */
	if (told->relid != RelationGetRelid(relation) || told->blocks > blocks)
	{
		told->relid = RelationGetRelid(relation);
		told->blocks = 0;
	}
	if (blocks < 2 * (uint64) Max((BlockNumber) relation->rd_rel->relpages, told->blocks))
		return false;
	told->blocks = blocks;
	return true;
}

/*
 * Whether nobody can know the device: it was made in this transaction, and is not in our own cache.
 * Where the transaction has changed it since, that was told.
 */
static bool
is_unknown(Relation devices, Oid index, const pg_uuid_t *device_id)
{
	TupleDesc	tupdesc = RelationGetDescr(devices);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		unknown = false;

	ScanKeyInit(&key, get_attnum(RelationGetRelid(devices), "device_id"), BTEqualStrategyNumber,
				F_UUID_EQ, UUIDPGetDatum(device_id));
	/* one statement may have made both, hence what is there itself */
	scan = systable_beginscan(devices, index, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
	{
		bool		isnull;
		Datum		name = heap_getattr(tuple, get_attnum(RelationGetRelid(devices), "external_id"),
										tupdesc, &isnull);

		if (isnull)
			name = heap_getattr(tuple, get_attnum(RelationGetRelid(devices), "name"), tupdesc,
								&isnull);
		unknown = !isnull && !iot_registry_knows(TextDatumGetCString(name));
	}
	systable_endscan(scan);
	return unknown;
}

/* Whether one of the sensors is of a device that somebody may know without it. */
static bool
changes_devices(TriggerData *trigdata)
{
	Relation	sensors = trigdata->tg_relation;
	Oid			schema = RelationGetNamespace(sensors);
	Relation	devices = table_open(get_relname_relid("device", schema), AccessShareLock);
	Oid			index = get_relname_relid("device_pkey", schema);
	AttrNumber	column = get_attnum(RelationGetRelid(sensors), "device_id");
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(sensors), &TTSOpsMinimalTuple);
	pg_uuid_t	last;
	bool		first = true;
	bool		changes = false;

	tuplestore_rescan(trigdata->tg_newtable);
	while (!changes && tuplestore_gettupleslot(trigdata->tg_newtable, true, false, slot))
	{
		bool		isnull;
		pg_uuid_t  *device_id = DatumGetUUIDP(slot_getattr(slot, column, &isnull));

		/* those of a device mostly come together */
		if (!first && memcmp(device_id, &last, sizeof(last)) == 0)
			continue;
		first = false;
		last = *device_id;
		changes = !is_unknown(devices, index, &last);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(devices, AccessShareLock);
	return changes;
}

/*
 * iot_internal.registry_grown() returns trigger; for each statement that inserts devices, or, with its
 * rows as a transition table, sensors.  A message as registry_changed() sends it, where one is needed.
 */
Datum
iot_registry_grown_sql(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = trigger_data(fcinfo, "registry_grown");

	if (has_doubled(trigdata->tg_relation) ||
		(trigdata->tg_newtable != NULL && changes_devices(trigdata)))
		CacheInvalidateRelcache(trigdata->tg_relation);
	return PointerGetDatum(NULL);
}
