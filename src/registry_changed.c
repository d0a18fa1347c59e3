/*
 * registry_changed.c
 *		Tells all backends that the rows of a table have changed.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/inval.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(iot_registry_changed_sql);

/*
 * iot_internal.registry_changed() returns trigger; for each statement.  The message goes out when
 * the transaction commits, and reaches everybody before he reads the table again.
 */
Datum
iot_registry_changed_sql(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called as a trigger", "registry_changed")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}
