/*
 * live_row.c
 *		Rows that are written anew all the time, and what that costs while somebody holds a snapshot.
 *
 * Runs in any backend, between SPI_connect and SPI_finish and inside its transaction.
 *
 * While a snapshot is held, no version that is newer goes away.  A statement that updates a row passes
 * all of them, oldest first, to find it; and once more, where the new version comes to another page and
 * the primary key is looked through for a second row.  So the cost of each update grows with their
 * number.  Here a row is found from the end of the index, where the newest version mostly lies, and
 * its new version is entered without that search: who holds a key and gives it to the next version of
 * the same row cannot meet another.  Both cost the same, however long a snapshot is held.
 *
 * All else is as in a statement under the current snapshot: who wrote the row meanwhile is waited
 * for, constraints are checked, other indexes are kept.  What fires triggers or computes columns is
 * left to a statement, and so is a row that is not there, that somebody else has just written, or that
 * the user has no right to: callers have one ready.
 *
 * Memory is the caller's context.
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "live_row.h"

struct IotLiveRows
{
	Relation	relation;
	Relation	key;			/* its primary key */
	IndexInfo  *key_info;
	int			key_place;		/* among the indexes of result, which has NULL there */
	int			at[IOT_LIVE_COLUMNS_MAX];	/* places of the caller's columns, from 0 on */
	IndexScanDesc scan;
	TupleTableSlot *old;		/* what was found */
	TupleTableSlot *new;		/* what it is to become */
	EState	   *estate;
	ResultRelInfo *result;		/* knows the other indexes */
};

/* Whether the user may update the table, and an update has nothing to do that we could not. */
static bool
is_for_us(Relation relation)
{
	TriggerDesc *triggers = relation->trigdesc;
	TupleConstr *constraints = RelationGetDescr(relation)->constr;
	const AclMode rights = ACL_SELECT | ACL_UPDATE;

	/* an empty one may stand for one whose rows are elsewhere */
	if (relation->rd_rel->relkind != RELKIND_RELATION || relation->rd_rel->relispartition ||
		RelationGetNumberOfBlocks(relation) == 0 ||
		pg_class_aclmask(RelationGetRelid(relation), GetUserId(), rights, ACLMASK_ALL) != rights ||
		check_enable_rls(RelationGetRelid(relation), InvalidOid, true) == RLS_ENABLED)
		return false;
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		/* a foreign key has nothing to do where it stays, see keys_stay() */
		if (TRIGGER_FOR_UPDATE(triggers->triggers[i].tgtype) &&
			RI_FKey_trigger_type(triggers->triggers[i].tgfoid) != RI_TRIGGER_FK)
			return false;
	}
	return constraints == NULL || !constraints->has_generated_stored;
}

static bool
find_columns(IotLiveRows *rows, const IotLiveColumn *columns, int count)
{
	TupleDesc	tupdesc = RelationGetDescr(rows->relation);

	Assert(count <= IOT_LIVE_COLUMNS_MAX);
	for (int i = 0; i < count; i++)
	{
		int			number = SPI_fnumber(tupdesc, columns[i].name);

		if (number <= 0 || TupleDescAttr(tupdesc, number - 1)->atttypid != columns[i].type)
			return false;
		rows->at[i] = number - 1;
	}
	return true;
}

/* Whether foreign keys are about columns of the primary key alone, which no update changes. */
static bool
keys_stay(IotLiveRows *rows)
{
	ListCell   *lc;

	foreach(lc, RelationGetFKeyList(rows->relation))
	{
		const ForeignKeyCacheInfo *foreign_key = lfirst(lc);

		for (int i = 0; i < foreign_key->nkeys; i++)
		{
			if (foreign_key->conkey[i] != rows->at[0] + 1 &&
				foreign_key->conkey[i] != rows->at[1] + 1)
				return false;
		}
	}
	return true;
}

/* Takes the primary key out of the indexes that the executor keeps; false if it is not ours. */
static bool
take_key(IotLiveRows *rows)
{
	for (int i = 0; i < rows->result->ri_NumIndices; i++)
	{
		Relation	index = rows->result->ri_IndexRelationDescs[i];
		Form_pg_index form = index->rd_index;

		if (!form->indisprimary)
			continue;
		/* made anew, it may lack what an older snapshot sees; the planner asks the same */
		if (form->indcheckxmin &&
			!TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
								   TransactionXmin))
			return false;
		if (!form->indimmediate || !form->indisvalid || form->indnatts != 2 ||
			form->indkey.values[0] != rows->at[0] + 1 || form->indkey.values[1] != rows->at[1] + 1)
			return false;
		rows->key = index;
		rows->key_info = rows->result->ri_IndexRelationInfo[i];
		rows->key_place = i;
		rows->result->ri_IndexRelationDescs[i] = NULL;
		return true;
	}
	return false;
}

/*
 * Opens a table of schema iot for updates, as it is seen now.  Its primary key consists of the first
 * two columns, of type uuid.  NULL where it must be left to statements.
 */
IotLiveRows *
iot_live_rows_open(const char *table, const IotLiveColumn *columns, int count)
{
	IotLiveRows *rows = palloc0(sizeof(IotLiveRows));
	Oid			relid = get_relname_relid(table, get_namespace_oid("iot", false));

	if (!OidIsValid(relid))
		return NULL;
	rows->relation = table_open(relid, RowExclusiveLock);
	if (!is_for_us(rows->relation) || !find_columns(rows, columns, count) || !keys_stay(rows))
	{
		table_close(rows->relation, NoLock);
		return NULL;
	}
	CheckCmdReplicaIdentity(rows->relation, CMD_UPDATE);
	rows->estate = CreateExecutorState();
	rows->result = makeNode(ResultRelInfo);
	InitResultRelInfo(rows->result, rows->relation, 0, NULL, 0);
	ExecOpenIndices(rows->result, false);
	if (!take_key(rows))
	{
		ExecCloseIndices(rows->result);
		FreeExecutorState(rows->estate);
		table_close(rows->relation, NoLock);
		return NULL;
	}
	/* what a statement does for itself: see what has been written, by us and by others */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	rows->scan = iot_index_beginscan_compat(rows->relation, rows->key, GetActiveSnapshot(), NULL,
											2, 0);
	rows->old = table_slot_create(rows->relation, NULL);
	rows->new = MakeSingleTupleTableSlot(RelationGetDescr(rows->relation), &TTSOpsVirtual);
	return rows;
}

void
iot_live_rows_close(IotLiveRows *rows)
{
	index_endscan(rows->scan);
	ExecDropSingleTupleTableSlot(rows->old);
	ExecDropSingleTupleTableSlot(rows->new);
	PopActiveSnapshot();
	/* PostgreSQL 18 and later close all of them without a look */
	rows->result->ri_IndexRelationDescs[rows->key_place] = rows->key;
	ExecCloseIndices(rows->result);
	FreeExecutorState(rows->estate);
	table_close(rows->relation, NoLock);
	CommandCounterIncrement();
}

/* Finds the row of a key; false where there is none. */
bool
iot_live_row_find(IotLiveRows *rows, const pg_uuid_t *first, const pg_uuid_t *second)
{
	int			natts = RelationGetDescr(rows->relation)->natts;
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(first));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(second));
	index_rescan(rows->scan, keys, 2, NULL, 0);
	if (!index_getnext_slot(rows->scan, BackwardScanDirection, rows->old))
		return false;
	slot_getallattrs(rows->old);
	ExecClearTuple(rows->new);
	memcpy(rows->new->tts_values, rows->old->tts_values, sizeof(Datum) * natts);
	memcpy(rows->new->tts_isnull, rows->old->tts_isnull, sizeof(bool) * natts);
	ExecStoreVirtualTuple(rows->new);
	return true;
}

/* A column of the row that was found. */
Datum
iot_live_row_get(const IotLiveRows *rows, int column, bool *isnull)
{
	*isnull = rows->old->tts_isnull[rows->at[column]];
	return rows->old->tts_values[rows->at[column]];
}

/* What a column of it is to become; value lives until the update.  Not for the key. */
void
iot_live_row_set(IotLiveRows *rows, int column, Datum value, bool isnull)
{
	Assert(column > 1);
	rows->new->tts_values[rows->at[column]] = value;
	rows->new->tts_isnull[rows->at[column]] = isnull;
}

static void
enter_key(IotLiveRows *rows)
{
	Datum		values[2] = {rows->new->tts_values[rows->at[0]], rows->new->tts_values[rows->at[1]]};
	bool		nulls[2] = {false, false};

	(void) index_insert(rows->key, values, nulls, &rows->new->tts_tid, rows->relation,
						UNIQUE_CHECK_NO, true, rows->key_info);
}

/* Writes the row that was found; false where somebody else has written it meanwhile. */
bool
iot_live_row_update(IotLiveRows *rows)
{
	TM_FailureData failure;
	LockTupleMode lockmode;
	TU_UpdateIndexes update_indexes;

	if (RelationGetDescr(rows->relation)->constr != NULL)
		ExecConstraints(rows->result, rows->new, rows->estate);
	if (table_tuple_update(rows->relation, &rows->old->tts_tid, rows->new,
						   GetCurrentCommandId(true), GetActiveSnapshot(), InvalidSnapshot, true,
						   &failure, &lockmode, &update_indexes) != TM_Ok)
		return false;
	if (update_indexes == TU_All)
		enter_key(rows);
	if (update_indexes != TU_None)
		iot_insert_index_tuples_compat(rows->result, rows->new, rows->estate,
									   update_indexes != TU_All);
	return true;
}
