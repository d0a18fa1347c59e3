/*
 * measurement_aggregate.c
 *		Aggregates that rollups are made of: a mean that weighs, and the value that came last.
 *
 * Runs in any backend.  The state is in the aggregate's context.  No finite values make either of
 * them raise: a rollup that failed would fail for ever.
 */
#include "postgres.h"

#include <float.h>

#include "fmgr.h"
#include "utils/timestamp.h"

/* Memory contexts align to MAXIMUM_ALIGNOF, which may be less than the type asks for by itself. */
typedef long double Sum pg_attribute_aligned(MAXIMUM_ALIGNOF);

typedef struct MeanState
{
	Sum			sum;			/* wider than the values where the machine can */
	int64		weight;
} MeanState;

typedef struct LastState
{
	TimestampTz ts;
	double		value;
} LastState;

PG_FUNCTION_INFO_V1(iot_mean_transition_sql);
PG_FUNCTION_INFO_V1(iot_mean_final_sql);
PG_FUNCTION_INFO_V1(iot_last_transition_sql);
PG_FUNCTION_INFO_V1(iot_last_final_sql);

/* The state of this group: made, of zeroes, where first says that there was none. */
static void *
get_state(FunctionCallInfo fcinfo, Size size, bool *first)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate function called in non-aggregate context");
	*first = PG_ARGISNULL(0);
	return *first ? MemoryContextAllocZero(context, size) : PG_GETARG_POINTER(0);
}

/* iot_internal.mean_transition(internal, value double precision, weight bigint) returns internal */
Datum
iot_mean_transition_sql(PG_FUNCTION_ARGS)
{
	bool		first;
	MeanState  *state = get_state(fcinfo, sizeof(MeanState), &first);

	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2))
	{
		state->sum += (long double) PG_GETARG_FLOAT8(1) * PG_GETARG_INT64(2);
		state->weight += PG_GETARG_INT64(2);
	}
	PG_RETURN_POINTER(state);
}

/* iot_internal.mean_final(internal) returns double precision; NULL without any weight. */
Datum
iot_mean_final_sql(PG_FUNCTION_ARGS)
{
	MeanState  *state = PG_ARGISNULL(0) ? NULL : (MeanState *) PG_GETARG_POINTER(0);
	long double mean;

	if (state == NULL || state->weight == 0)
		PG_RETURN_NULL();
	mean = state->sum / state->weight;
	/* a mean lies between its values: what is beyond is rounding */
	if (mean > DBL_MAX)
		mean = DBL_MAX;
	else if (mean < -DBL_MAX)
		mean = -DBL_MAX;
	PG_RETURN_FLOAT8((double) mean);
}

/* iot_internal.last_transition(internal, value double precision, ts timestamptz) returns internal */
Datum
iot_last_transition_sql(PG_FUNCTION_ARGS)
{
	bool		first;
	LastState  *state;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_POINTER(PG_GETARG_POINTER(0));
	}
	state = get_state(fcinfo, sizeof(LastState), &first);
	if (first || PG_GETARG_TIMESTAMPTZ(2) > state->ts)
	{
		state->ts = PG_GETARG_TIMESTAMPTZ(2);
		state->value = PG_GETARG_FLOAT8(1);
	}
	PG_RETURN_POINTER(state);
}

/* iot_internal.last_final(internal) returns double precision */
Datum
iot_last_final_sql(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(((LastState *) PG_GETARG_POINTER(0))->value);
}
