/*
 * access_policy.c
 *		Whether a device is in one of some device groups: the row-level security of every table that
 *		has rows of devices.
 *
 * Runs in any backend, parallel workers included, once per row of a query.  The groups come from a
 * subquery that is evaluated once per query; the group of each device is looked up once per query, by
 * the key of iot.device, and kept for as long as the query is executed.  So a query for one device
 * costs one look-up.  One over millions of rows mostly finds the devices in an order in which it has
 * seen them before, since that is how they report, and costs a comparison for each; a probe of a hash
 * table where it does not.
 *
 * The look-up takes the row as the snapshot of the query sees it and asks for no permission of the
 * caller's: all that it tells him is the answer.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "nodes/primnodes.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

PG_FUNCTION_INFO_V1(iot_device_in_groups_sql);

/* A uuid as two numbers, which compare and hash faster than bytes. */
typedef struct DeviceKey
{
	uint64		high;
	uint64		low;
} DeviceKey;

typedef struct DeviceEntry
{
	DeviceKey	key;
	uint32		place;			/* in the order of first appearance */
	char		status;
	bool		inside;
} DeviceEntry;

/* Seeded, since whoever makes devices chooses their ids. */
static inline uint32
device_hash(DeviceKey key, uint64 seed)
{
	uint64		hash = (key.high ^ seed) * UINT64CONST(0x9e3779b97f4a7c15);

	hash = ((hash ^ (hash >> 32)) + key.low) * UINT64CONST(0xff51afd7ed558ccd);
	return (uint32) (hash >> 32);
}

#define SH_PREFIX device_table
#define SH_ELEMENT_TYPE DeviceEntry
#define SH_KEY_TYPE DeviceKey
#define SH_KEY key
#define SH_HASH_KEY(tb, k) device_hash(k, (uint64) (uintptr_t) (tb)->private_data)
#define SH_EQUAL(tb, a, b) ((a).high == (b).high && (a).low == (b).low)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/*
 * What one query knows of devices, in the memory of its execution: all tables and partitions in it
 * share this, where they ask for the same groups.
 */
typedef struct GroupFilter
{
	struct GroupFilter *next;
	MemoryContext context;
	MemoryContextCallback ended;
	ArrayType  *groups;
	device_table_hash *devices;
	DeviceEntry *order;			/* copies of its entries, in the order of first appearance */
	uint32		order_size;
	Oid			relation;
	Oid			index;
	AttrNumber	device_id_attno;
	AttrNumber	group_id_attno;
} GroupFilter;

/* And one place in the query where the function stands. */
typedef struct GroupCall
{
	GroupFilter *filter;
	bool		constant;		/* the argument is of a subquery: one pointer is one array */
	void	   *argument;
	DeviceEntry last;			/* rows of one device come together */
} GroupCall;

static GroupFilter *filters = NULL;

static void
filter_forget(void *arg)
{
	for (GroupFilter **link = &filters; *link != NULL; link = &(*link)->next)
	{
		if (*link == arg)
		{
			*link = (*link)->next;
			return;
		}
	}
}

static GroupFilter *
filter_create(ArrayType *groups, MemoryContext context)
{
	GroupFilter *filter = MemoryContextAllocZero(context, sizeof(GroupFilter));

	if (ARR_ELEMTYPE(groups) != UUIDOID || ARR_HASNULL(groups) || ARR_NDIM(groups) > 1)
		elog(ERROR, "device groups are no plain array of uuid");
	filter->context = context;
	filter->groups = MemoryContextAlloc(context, VARSIZE(groups));
	memcpy(filter->groups, groups, VARSIZE(groups));
	filter->devices = device_table_create(context, 64,
										  (void *) (uintptr_t) pg_prng_uint64(&pg_global_prng_state));
	filter->order_size = 64;
	filter->order = MemoryContextAllocZero(context, sizeof(DeviceEntry) * filter->order_size);
	filter->relation = get_relname_relid("device", LookupExplicitNamespace("iot", true));
	filter->index = get_relname_relid("device_pkey", get_rel_namespace(filter->relation));
	filter->device_id_attno = get_attnum(filter->relation, "device_id");
	filter->group_id_attno = get_attnum(filter->relation, "device_group_id");
	if (!OidIsValid(filter->index) || filter->device_id_attno == InvalidAttrNumber ||
		filter->group_id_attno == InvalidAttrNumber)
		elog(ERROR, "iot.device is not what it was");

	filter->ended.func = filter_forget;
	filter->ended.arg = filter;
	MemoryContextRegisterResetCallback(context, &filter->ended);
	filter->next = filters;
	filters = filter;
	return filter;
}

static GroupFilter *
filter_find(ArrayType *groups, MemoryContext context)
{
	for (GroupFilter *filter = filters; filter != NULL; filter = filter->next)
	{
		if (filter->context == context && VARSIZE(filter->groups) == VARSIZE(groups) &&
			memcmp(filter->groups, groups, VARSIZE(groups)) == 0)
			return filter;
	}
	return filter_create(groups, context);
}

/* Whether the device exists and its group is one of the groups. */
static bool
filter_look_up(const GroupFilter *filter, const pg_uuid_t *device_id)
{
	Relation	relation = table_open(filter->relation, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		inside = false;

	ScanKeyInit(&key, filter->device_id_attno, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(device_id));
	scan = systable_beginscan(relation, filter->index, true, GetActiveSnapshot(), 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		const pg_uuid_t *ids = (const pg_uuid_t *) ARR_DATA_PTR(filter->groups);
		int			count = ArrayGetNItems(ARR_NDIM(filter->groups), ARR_DIMS(filter->groups));
		bool		isnull;
		Datum		group_id = heap_getattr(tuple, filter->group_id_attno,
											RelationGetDescr(relation), &isnull);

		for (int i = 0; !isnull && !inside && i < count; i++)
			inside = memcmp(DatumGetUUIDP(group_id), &ids[i], UUID_LEN) == 0;
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return inside;
}

/* A device that this query has not met before. */
static DeviceEntry *
filter_add(GroupFilter *filter, DeviceKey key, const pg_uuid_t *device_id)
{
	bool		inside = filter_look_up(filter, device_id);
	uint32		place = filter->devices->members;
	DeviceEntry *entry;
	bool		found;

	if (place == filter->order_size)
	{
		filter->order = repalloc_huge(filter->order, sizeof(DeviceEntry) * place * 2);
		filter->order_size = place * 2;
	}
	entry = device_table_insert(filter->devices, key, &found);
	entry->place = place;
	entry->inside = inside;
	filter->order[place] = *entry;
	return entry;
}

/* What is known of a device; after is who came before it. */
static DeviceEntry *
filter_find_device(GroupFilter *filter, const DeviceEntry *after, DeviceKey key,
				   const pg_uuid_t *device_id)
{
	uint32		members = filter->devices->members;
	uint32		place = after->place + 1 < members ? after->place + 1 : 0;
	DeviceEntry *entry = &filter->order[place];

	if (likely(entry->key.high == key.high && entry->key.low == key.low && members > 0))
		return entry;
	entry = device_table_lookup(filter->devices, key);
	return entry != NULL ? entry : filter_add(filter, key, device_id);
}

static GroupCall *
call_create(FmgrInfo *flinfo)
{
	GroupCall  *call = MemoryContextAllocZero(flinfo->fn_mcxt, sizeof(GroupCall));

	if (flinfo->fn_expr != NULL && IsA(flinfo->fn_expr, FuncExpr))
	{
		Node	   *argument = lsecond(((FuncExpr *) flinfo->fn_expr)->args);

		call->constant = IsA(argument, Param) && ((Param *) argument)->paramkind == PARAM_EXEC;
	}
	flinfo->fn_extra = call;
	return call;
}

/*
 * iot_internal.device_in_groups(device_id uuid, device_group_ids uuid[]) returns boolean; STRICT STABLE
 * PARALLEL SAFE.  For policies, where the groups are those of a subquery that knows no outer row.
 */
Datum
iot_device_in_groups_sql(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *device_id = PG_GETARG_UUID_P(0);
	GroupCall  *call = fcinfo->flinfo->fn_extra;
	DeviceKey	key;

	memcpy(&key, device_id->data, sizeof(key));
	if (call == NULL)
		call = call_create(fcinfo->flinfo);
	if (call->argument != DatumGetPointer(PG_GETARG_DATUM(1)) || !call->constant)
	{
		call->filter = filter_find(PG_GETARG_ARRAYTYPE_P(1), fcinfo->flinfo->fn_mcxt);
		call->argument = DatumGetPointer(PG_GETARG_DATUM(1));
	}
	else if (key.high == call->last.key.high && key.low == call->last.key.low)
		PG_RETURN_BOOL(call->last.inside);
	call->last = *filter_find_device(call->filter, &call->last, key, device_id);
	PG_RETURN_BOOL(call->last.inside);
}
