/*
 * plan.c
 *		Statements that are prepared once per backend and kept.
 *
 * Runs in any backend, between SPI_connect and SPI_finish.  The plan cache revalidates what we
 * keep, so a dropped and re-created extension or a new partition needs nothing of us.
 */
#include "postgres.h"

#include "plan.h"

/* The kept plan, prepared where this is its first use; raises where that fails. */
SPIPlanPtr
iot_plan_get(IotPlan *plan)
{
	if (plan->plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(plan->sql, plan->nargs, plan->argtypes);

		if (prepared == NULL)
			elog(ERROR, "could not prepare statement: %s", SPI_result_code_string(SPI_result));
		if (SPI_keepplan(prepared) != 0)
			elog(ERROR, "could not keep statement");
		plan->plan = prepared;
	}
	return plan->plan;
}

static uint64
execute(IotPlan *plan, Datum *values, const char *nulls, bool read_only)
{
	MemoryContext context = CurrentMemoryContext;
	int			rc = SPI_execute_plan(iot_plan_get(plan), values, nulls, read_only, 0);

	MemoryContextSwitchTo(context);
	if (rc < 0)
		elog(ERROR, "could not execute statement: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

/*
 * Executes with a fresh snapshot (under READ COMMITTED) and returns the number of rows, which are
 * in SPI_tuptable until SPI_finish.  nulls as in SPI_execute_plan; raises on any failure.  The
 * current memory context stays what it is, whereas SPI would leave its own.
 */
uint64
iot_plan_execute(IotPlan *plan, Datum *values, const char *nulls)
{
	return execute(plan, values, nulls, false);
}

/*
 * The same for a statement that writes nothing, on the snapshot of the statement that called: what
 * several of them see fits together.
 */
uint64
iot_plan_read(IotPlan *plan, Datum *values, const char *nulls)
{
	return execute(plan, values, nulls, true);
}
