/*
 * event_scan.c
 *		What is new in the event log, found by the index on xid of each partition.
 *
 * Every turn of every worker asks for it, and mostly there is nothing, or one event.  A statement has to
 * be prepared for each partition before it is run, which took several times longer than looking into
 * the index; so the partitions are gone through here.  What is out of the ordinary (a partition of
 * another kind, more events than fit) is left to the statement, which the caller has ready.
 *
 * Asks for no permission: callers run as the owner of the log.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "partitioning/partdesc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/xid8.h"

#include "compat.h"
#include "consumer.h"

static const char *const columns[IOT_LOG_COLUMNS] = {
	"id", "event_id", "type", "aggregatetype", "aggregateid", "device_id", "payload", "created_at"
};

typedef struct EventScan
{
	const IotLogWindow *window;
	char	  **types;			/* NULL: all */
	int			ntypes;
	bool		all_but_audit;
	int			size;
	IotLogEvents *events;
} EventScan;

/* Where a partition has the columns; each may have its own order. */
typedef struct PartitionColumns
{
	int			xid;
	int			log[IOT_LOG_COLUMNS];
} PartitionColumns;

/* A valid index whose first column is that one. */
static Oid
index_on(Relation partition, AttrNumber column)
{
	List	   *indexes = RelationGetIndexList(partition);
	Oid			found = InvalidOid;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));

		if (HeapTupleIsValid(tuple))
		{
			Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);

			/* made anew, it may lack what an older snapshot sees */
			if (index->indisvalid && !index->indcheckxmin && index->indkey.values[0] == column &&
				heap_attisnull(tuple, Anum_pg_index_indpred, NULL))
				found = index->indexrelid;
			ReleaseSysCache(tuple);
		}
		if (OidIsValid(found))
			break;
	}
	list_free(indexes);
	return found;
}

/* Of a bulk load this is asked for each row: nothing is allocated. */
static bool
is_wanted(const EventScan *scan, Datum type)
{
	const text *name = DatumGetTextPP(type);
	size_t		length = VARSIZE_ANY_EXHDR(name);

	if (scan->types == NULL)
		return true;
	if (scan->all_but_audit && (length < 6 || memcmp(VARDATA_ANY(name), "audit.", 6) != 0))
		return true;
	for (int i = 0; i < scan->ntypes; i++)
	{
		if (strlen(scan->types[i]) == length && memcmp(scan->types[i], VARDATA_ANY(name), length) == 0)
			return true;
	}
	return false;
}

/*
 * Adds a row, if it is one of the window; false where there are too many.  Most rows of a bulk load are
 * of no type that is wanted, and nothing of them is copied.
 */
static bool
take_row(EventScan *scan, const PartitionColumns *numbers, TupleTableSlot *slot)
{
	IotLogEvents *events = scan->events;
	IotLogEvent *event;
	HeapTuple	tuple;
	bool		isnull;

	if (DatumGetInt64(slot_getattr(slot, numbers->log[IOT_LOG_ID], &isnull)) <= scan->window->after_id ||
		!is_wanted(scan, slot_getattr(slot, numbers->log[IOT_LOG_TYPE], &isnull)) ||
		!DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
										  slot_getattr(slot, numbers->xid, &isnull),
										  scan->window->target)))
		return true;
	if (events->count + 1 >= scan->window->max_rows)
		return false;			/* they may not all fit, and only the first ones are to be read */
	if (events->count >= scan->size)
	{
		scan->size = Max(events->count * 2, 16);
		events->events = events->events == NULL ? palloc(sizeof(IotLogEvent) * scan->size) :
			repalloc_huge(events->events, sizeof(IotLogEvent) * scan->size);
	}
	tuple = ExecCopySlotHeapTuple(slot);
	event = &events->events[events->count++];
	for (int i = 0; i < IOT_LOG_COLUMNS; i++)
		event->values[i] = heap_getattr(tuple, numbers->log[i], slot->tts_tupleDescriptor,
										&event->nulls[i]);
	return true;
}

static bool
scan_partition(EventScan *scan, Oid partition_id)
{
	Relation	partition = table_open(partition_id, AccessShareLock);
	PartitionColumns numbers;
	Oid			index_id;
	Relation	index;
	bool		good;

	numbers.xid = SPI_fnumber(RelationGetDescr(partition), "xid");
	for (int i = 0; i < IOT_LOG_COLUMNS; i++)
		numbers.log[i] = SPI_fnumber(RelationGetDescr(partition), columns[i]);
	index_id = partition->rd_rel->relkind == RELKIND_RELATION ? index_on(partition, numbers.xid) : InvalidOid;
	index = OidIsValid(index_id) ? index_open(index_id, AccessShareLock) : NULL;
	good = index != NULL && index->rd_rel->relam == BTREE_AM_OID;

	if (good)
	{
		TupleTableSlot *slot = table_slot_create(partition, NULL);
		ScanKeyData keys[2];
		IndexScanDesc rows = iot_index_beginscan_compat(partition, index, GetActiveSnapshot(), NULL,
														lengthof(keys), 0);

		ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_XID8GE,
					UInt64GetDatum(scan->window->from));
		ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_XID8LT, UInt64GetDatum(scan->window->until));
		index_rescan(rows, keys, lengthof(keys), NULL, 0);
		while (good && index_getnext_slot(rows, ForwardScanDirection, slot))
		{
			CHECK_FOR_INTERRUPTS();
			good = take_row(scan, &numbers, slot);
		}
		index_endscan(rows);
		ExecDropSingleTupleTableSlot(slot);
	}
	if (index != NULL)
		index_close(index, NoLock);
	table_close(partition, NoLock);
	return good;
}

static void
set_types(EventScan *scan, Datum types)
{
	Datum	   *values;

	if (types == (Datum) 0)
		return;
	deconstruct_array(DatumGetArrayTypeP(types), TEXTOID, -1, false, TYPALIGN_INT, &values, NULL,
					  &scan->ntypes);
	scan->types = palloc(sizeof(char *) * Max(scan->ntypes, 1));
	for (int i = 0; i < scan->ntypes; i++)
	{
		scan->types[i] = TextDatumGetCString(values[i]);
		scan->all_but_audit |= strcmp(scan->types[i], "*") == 0;
	}
}

/*
 * The events of the window, fewer than max_rows and in no order; false where that is for a statement.
 * Memory is the current context's.
 */
bool
iot_event_scan(const IotLogWindow *window, Datum types, IotLogEvents *events)
{
	EventScan	scan = {.window = window, .events = events};
	Oid			log_id = get_relname_relid("event", LookupExplicitNamespace("iot", false));
	Relation	log;
	bool		good;

	events->count = 0;
	events->events = NULL;
	if (!OidIsValid(log_id))
		return false;
	log = table_open(log_id, AccessShareLock);
	good = log->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	if (good)
	{
		PartitionDesc partitions = RelationGetPartitionDesc(log, true);

		set_types(&scan, types);
		PushActiveSnapshot(GetTransactionSnapshot());
		for (int i = 0; good && i < partitions->nparts; i++)
			good = scan_partition(&scan, partitions->oids[i]);
		PopActiveSnapshot();
	}
	table_close(log, NoLock);
	return good;
}
