/*
 * lttb.c
 *		iot.lttb(): the points of a series that show its shape, for plots.
 *
 * Largest triangle three buckets (Steinarsson 2013): the first and the last point stay; those
 * between are cut into as many buckets of equal count as there are points left to choose, and of
 * each that one is chosen which spans the largest triangle with the point chosen before and the
 * mean of the bucket after.
 *
 * Runs in any backend.  The state is in the aggregate's context, 16 bytes a point; the points may
 * come in any order.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#define FIRST_CAPACITY	256
#define POINTS_MAX		1000000

typedef struct Point
{
	TimestampTz ts;
	double		value;
} Point;

typedef struct LttbState
{
	int			wanted;
	int64		count;
	int64		capacity;
	Point	   *points;
} LttbState;

PG_FUNCTION_INFO_V1(iot_lttb_transition_sql);
PG_FUNCTION_INFO_V1(iot_lttb_final_sql);

static LttbState *
make_state(MemoryContext context, int wanted)
{
	LttbState  *state;

	if (wanted < 2 || wanted > POINTS_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid number of points for iot.lttb(): %d", wanted),
				 errhint("Give 2 to %d; a plot shows no more than it has pixels.", POINTS_MAX)));
	state = MemoryContextAlloc(context, sizeof(LttbState));
	state->wanted = wanted;
	state->count = 0;
	state->capacity = FIRST_CAPACITY;
	state->points = MemoryContextAlloc(context, sizeof(Point) * state->capacity);
	return state;
}

/* iot_internal.lttb_transition(internal, timestamptz, double precision, integer) returns internal */
Datum
iot_lttb_transition_sql(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	LttbState  *state = PG_ARGISNULL(0) ? NULL : (LttbState *) PG_GETARG_POINTER(0);
	Point	   *point;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate function called in non-aggregate context");
	if (PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("number of points for iot.lttb() must not be null"),
				 errhint("Give as many points as the plot is wide.")));
	if (state == NULL)
		state = make_state(context, PG_GETARG_INT32(3));
	else if (state->wanted != PG_GETARG_INT32(3))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of points for iot.lttb() must be the same in all rows"),
				 errhint("Give a constant.")));
	/* a gap is no point */
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_POINTER(state);
	if (TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(1)) || !isfinite(PG_GETARG_FLOAT8(2)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("points for iot.lttb() must be finite"),
				 errhint("Leave out NaN and infinite values, or make them NULL.")));
	if (state->count == state->capacity)
	{
		state->capacity *= 2;
		state->points = repalloc_huge(state->points, sizeof(Point) * state->capacity);
	}
	point = &state->points[state->count++];
	point->ts = PG_GETARG_TIMESTAMPTZ(1);
	point->value = PG_GETARG_FLOAT8(2);
	PG_RETURN_POINTER(state);
}

static int
compare_points(const void *a, const void *b)
{
	const Point *left = a;
	const Point *right = b;

	if (left->ts != right->ts)
		return left->ts < right->ts ? -1 : 1;
	if (left->value != right->value)
		return left->value < right->value ? -1 : 1;
	return 0;
}

static bool
in_order(const LttbState *state)
{
	for (int64 i = 1; i < state->count; i++)
	{
		if (compare_points(&state->points[i - 1], &state->points[i]) > 0)
			return false;
	}
	return true;
}

/*
 * Where bucket number starts among the points; the first has number 0 and starts at the second
 * point.  The last of all ends before the last point.
 */
static int64
bucket_start(const LttbState *state, int number)
{
	return number * (state->count - 2) / (state->wanted - 2) + 1;
}

/*
 * Chooses the point of one bucket.  before is the one chosen last; places are relative to it, and
 * long double holds the area of any finite points.
 */
static int64
choose_from_bucket(const LttbState *state, int number, int64 before)
{
	const Point *points = state->points;
	const Point *origin = &points[before];
	int64		start = bucket_start(state, number);
	int64		end = bucket_start(state, number + 1);
	int64		next_end = Min(bucket_start(state, number + 2), state->count);
	long double mean_x = 0;
	long double mean_y = 0;
	long double largest = -1;
	int64		chosen = start;

	for (int64 i = end; i < next_end; i++)
	{
		mean_x += (long double) points[i].ts - origin->ts;
		mean_y += (long double) points[i].value - origin->value;
	}
	mean_x /= next_end - end;
	mean_y /= next_end - end;
	for (int64 i = start; i < end; i++)
	{
		long double x = (long double) points[i].ts - origin->ts;
		long double y = (long double) points[i].value - origin->value;
		long double area = fabsl(mean_x * y - x * mean_y);

		if (area > largest)
		{
			largest = area;
			chosen = i;
		}
	}
	return chosen;
}

/* Indexes of the points that stay, in order; returns how many these are. */
static int64
choose(const LttbState *state, int64 *chosen)
{
	int64		count = 0;

	if (state->count <= state->wanted)
	{
		for (int64 i = 0; i < state->count; i++)
			chosen[count++] = i;
		return count;
	}
	chosen[count++] = 0;
	for (int number = 0; number < state->wanted - 2; number++)
	{
		CHECK_FOR_INTERRUPTS();
		chosen[count] = choose_from_bucket(state, number, chosen[count - 1]);
		count++;
	}
	chosen[count++] = state->count - 1;
	return count;
}

static void
push_string(JsonbParseState **parse, JsonbIteratorToken token, char *text)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = text;
	value.val.string.len = strlen(text);
	(void) pushJsonbValue(parse, token, &value);
}

/* {"ts": …, "value": …}, both such that reading them gives the same point again. */
static void
push_point(JsonbParseState **parse, const Point *point)
{
	char		ts[MAXDATELEN + 1];
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];
	JsonbValue	value;

	JsonEncodeDateTime(ts, TimestampTzGetDatum(point->ts), TIMESTAMPTZOID, NULL);
	double_to_shortest_decimal_buf(point->value, digits);
	value.type = jbvNumeric;
	value.val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
															ObjectIdGetDatum(InvalidOid),
															Int32GetDatum(-1)));
	(void) pushJsonbValue(parse, WJB_BEGIN_OBJECT, NULL);
	push_string(parse, WJB_KEY, "ts");
	push_string(parse, WJB_VALUE, pstrdup(ts));
	push_string(parse, WJB_KEY, "value");
	(void) pushJsonbValue(parse, WJB_VALUE, &value);
	(void) pushJsonbValue(parse, WJB_END_OBJECT, NULL);
}

/*
 * iot_internal.lttb_final(internal) returns jsonb: an array of points in order of time, empty
 * without any.  Sorts the state, which changes nothing for whoever adds to it afterwards.
 */
Datum
iot_lttb_final_sql(PG_FUNCTION_ARGS)
{
	LttbState  *state = PG_ARGISNULL(0) ? NULL : (LttbState *) PG_GETARG_POINTER(0);
	JsonbParseState *parse = NULL;
	int64	   *chosen = NULL;
	int64		count = 0;

	(void) pushJsonbValue(&parse, WJB_BEGIN_ARRAY, NULL);
	if (state != NULL)
	{
		if (!in_order(state))
			qsort(state->points, state->count, sizeof(Point), compare_points);
		chosen = palloc(sizeof(int64) * state->wanted);
		count = choose(state, chosen);
	}
	for (int64 i = 0; i < count; i++)
		push_point(&parse, &state->points[chosen[i]]);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&parse, WJB_END_ARRAY, NULL)));
}
