/*
 * maintain.c
 *		CALL iot.maintain(): maintenance in steps, each committed on its own.
 *
 * Runs in any backend: a session, a job of pg_cron, the notifier.  A procedure in C because one
 * with a SET clause, as all of ours in SQL have, may not commit.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"

#include "iot.h"

PG_FUNCTION_INFO_V1(iot_maintain_sql);

/* One step in the current transaction; whether there is more to do. */
static bool
maintain_step(void)
{
	Datum		more;
	bool		isnull;

	if (SPI_execute("SELECT iot_internal.maintain_step()", false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "iot_internal.maintain_step() gave no answer");
	more = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	SPI_freetuptable(SPI_tuptable);
	return !isnull && DatumGetBool(more);
}

/*
 * iot.maintain(), a procedure.  Outside a transaction block it works until nothing is left, and
 * commits after each step; inside one it takes a single step.
 */
Datum
iot_maintain_sql(PG_FUNCTION_ARGS)
{
	bool		atomic = true;

	if (fcinfo->context != NULL && IsA(fcinfo->context, CallContext))
		atomic = castNode(CallContext, fcinfo->context)->atomic;
	SPI_connect_ext(atomic ? 0 : SPI_OPT_NONATOMIC);
	while (maintain_step() && !atomic)
	{
		SPI_commit();
		CHECK_FOR_INTERRUPTS();
	}
	SPI_finish();
	PG_RETURN_VOID();
}
