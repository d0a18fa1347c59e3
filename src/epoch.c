/*
 * epoch.c
 *		Which server this is: the facts by which a copy of the data knows that it is one.
 *
 * The control file would tell them too, but a timeline only reaches it with the first checkpoint
 * after a promotion, and reading a file at every turn of a worker is waste.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"

#include "iot.h"

PG_FUNCTION_INFO_V1(iot_system_identifier_sql);
PG_FUNCTION_INFO_V1(iot_timeline_sql);
PG_FUNCTION_INFO_V1(iot_preloaded_sql);

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
