/*
 * epoch.c
 *		Which server this is, and whether the tables are at home here: the facts by which a copy of the
 *		data knows that it is one.
 *
 * The control file would tell them too, but a timeline only reaches it with the first checkpoint
 * after a promotion, and reading a file at every turn of a worker is waste.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "epoch.h"
#include "iot.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_system_identifier_sql);
PG_FUNCTION_INFO_V1(iot_timeline_sql);
PG_FUNCTION_INFO_V1(iot_preloaded_sql);
PG_FUNCTION_INFO_V1(iot_epoch_state);

static IotPlan load_epoch = {
	"SELECT " IOT_EPOCH_COLUMNS " FROM iot.schema_version v CROSS JOIN iot.epoch e",
	0, {0}
};

/* iot_internal.system_identifier() returns bigint; STABLE PARALLEL SAFE. */
Datum
iot_system_identifier_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) GetSystemIdentifier());
}

/* iot_internal.timeline() returns integer, that of our own WAL; NULL on a standby. */
Datum
iot_timeline_sql(PG_FUNCTION_ARGS)
{
	if (RecoveryInProgress())
		PG_RETURN_NULL();
	PG_RETURN_INT32((int32) GetWALInsertionTimeLine());
}

/* iot_internal.preloaded() returns boolean: whether workers can exist; STABLE PARALLEL SAFE. */
Datum
iot_preloaded_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(iot_preloaded);
}

/*
 * Whether all of the tables are there.  A restore brings grants last: before that, rows may still be
 * missing, and a cursor that comes after our correction would point into another server's future.
 */
bool
iot_epoch_tables_complete(void)
{
	Oid			schema = get_namespace_oid("iot", true);
	Oid			worker = get_role_oid("iot_worker", true);
	Oid			owner = get_role_oid("iot_owner", true);
	Oid			epoch = OidIsValid(schema) ? get_relname_relid("epoch", schema) : InvalidOid;

	return OidIsValid(epoch) && OidIsValid(worker) && OidIsValid(owner) &&
		OidIsValid(get_relname_relid("schema_version", schema)) &&
		pg_class_aclcheck(epoch, worker, ACL_SELECT) == ACLCHECK_OK &&
		pg_class_aclcheck(epoch, owner, ACL_UPDATE) == ACLCHECK_OK;
}

/* The state that a row tells, given that the tables are complete. */
const char *
iot_epoch_state_of(HeapTuple row, TupleDesc desc)
{
	bool		isnull;
	int			version = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
	int			functions = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));

	if (version != functions)
		return version < functions ? "outdated" : "newer";
	if (RecoveryInProgress())
		return "standby";
	if ((uint64) DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull)) != GetSystemIdentifier() ||
		DatumGetObjectId(SPI_getbinval(row, desc, 4, &isnull)) != MyDatabaseId)
		return "foreign";
	if (DatumGetInt32(SPI_getbinval(row, desc, 5, &isnull)) != (int32) GetWALInsertionTimeLine())
		return "promoted";
	return DatumGetBool(SPI_getbinval(row, desc, 6, &isnull)) ? "paused" : "ok";
}

/*
 * iot_internal.epoch_state() returns text; VOLATILE, SECURITY DEFINER.  Asked for every page that a
 * push daemon reads and by every transaction of an adapter.
 */
Datum
iot_epoch_state(PG_FUNCTION_ARGS)
{
	const char *state = "absent";

	if (!iot_epoch_tables_complete())
		PG_RETURN_TEXT_P(cstring_to_text(state));
	SPI_connect();
	if (iot_plan_execute(&load_epoch, NULL, NULL) == 1)
		state = iot_epoch_state_of(SPI_tuptable->vals[0], SPI_tuptable->tupdesc);
	SPI_finish();
	PG_RETURN_TEXT_P(cstring_to_text(state));
}
