/*
 * compat.h
 *		Differences between the supported server versions, and nothing else.
 */
#ifndef IOT_COMPAT_H
#define IOT_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "iot supports PostgreSQL 15 to 18"
#endif

/* VARDATA_ANY() and its kin, which were part of postgres.h before */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "access/genam.h"
#include "executor/executor.h"

/* before the declaration, where it was an attribute behind it */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* whether an update needs index entries: yes or no, before those that only summarize were told apart */
#if PG_VERSION_NUM < 160000
typedef bool TU_UpdateIndexes;
#define TU_None false
#define TU_All true
#endif

/* of a row that was updated; the newest signature has more, which none of ours needs */
static inline void
iot_insert_index_tuples_compat(ResultRelInfo *result, TupleTableSlot *slot, EState *estate,
							   bool only_summarizing)
{
#if PG_VERSION_NUM >= 160000
	(void) ExecInsertIndexTuples(result, slot, estate, false, false, NULL, NIL, only_summarizing);
#else
	(void) ExecInsertIndexTuples(result, slot, estate, false, false, NULL, NIL);
#endif
}

/* instrument is new */
#if PG_VERSION_NUM < 180000
struct IndexScanInstrumentation;
#endif
static inline IndexScanDesc
iot_index_beginscan_compat(Relation heap, Relation index, Snapshot snapshot,
						   struct IndexScanInstrumentation *instrument, int nkeys, int norderbys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys);
#else
	return index_beginscan(heap, index, snapshot, nkeys, norderbys);
#endif
}

#endif							/* IOT_COMPAT_H */
