/*
 * plan.h
 *		Statements that are prepared once per backend and kept.
 */
#ifndef IOT_PLAN_H
#define IOT_PLAN_H

#include "executor/spi.h"

#define IOT_PLAN_MAX_ARGS 16

/*
 * Joins of statements that are kept: a row of a table, called k inside, for each row before it.  A subquery
 * with OFFSET is never merged into the query around it, and what is LATERAL comes after what it names.
 * So each row is looked up by its key, whatever the statistics said when the plan was made: for a table
 * of one row it is as cheap to read all of it for each key, and the plan is kept when it has grown.
 */
#define IOT_EACH(table, condition, alias) \
	" CROSS JOIN LATERAL (SELECT k.* FROM iot." table " k WHERE " condition " OFFSET 0) " alias
#define IOT_EACH_OR_NULL(table, condition, alias) \
	" LEFT JOIN LATERAL (SELECT k.* FROM iot." table " k WHERE " condition " OFFSET 0) " alias " ON true"

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
extern uint64 iot_plan_read(IotPlan *plan, Datum *values, const char *nulls);

#endif							/* IOT_PLAN_H */
