/*
 * plan.h
 *		Statements that are prepared once per backend and kept.
 */
#ifndef IOT_PLAN_H
#define IOT_PLAN_H

#include "executor/spi.h"

#define IOT_PLAN_MAX_ARGS 16

/*
 * A static object per statement.  The text is a constant, so that the set of statements we run is
 * finite; values travel as parameters only.
 */
typedef struct IotPlan
{
	const char *sql;
	int			nargs;
	Oid			argtypes[IOT_PLAN_MAX_ARGS];
	SPIPlanPtr	plan;			/* NULL until first use */
} IotPlan;

extern PGDLLEXPORT SPIPlanPtr iot_plan_get(IotPlan *plan);
extern PGDLLEXPORT uint64 iot_plan_execute(IotPlan *plan, Datum *values, const char *nulls);

#endif							/* IOT_PLAN_H */
