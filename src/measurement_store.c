/*
 * measurement_store.c
 *		Writing measurements, each once.
 *
 * Runs in workers and in backends that call iot.ingest(), inside their transaction and between
 * SPI_connect and SPI_finish.  All points of a batch go in with one statement, in the order of
 * (device_id, parameter_id, ts), in which every writer takes its locks.  The first value of a key
 * stays; who comes later with the same value is a duplicate, with another a conflict.
 *
 * Looking before each row whether its key is taken costs a third of writing it, and keys are taken only
 * where something was delivered again.  So a large batch is written as if all of it were new, in a
 * subtransaction; where that meets a key that is taken, it is written again row by row, and so are the
 * next batches, until for some time nothing was there already.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "measurement_store.h"
#include "plan.h"

#define BOLD_MIN		64		/* points, from which on a subtransaction costs less */
#define CAREFUL_BATCHES	32		/* after one of which something was there already */

#define INSERT_POINTS \
	"INSERT INTO iot.measurement (device_id, parameter_id, ts, value)" \
	" SELECT u.device_id, u.parameter_id, u.ts, u.value" \
	" FROM unnest($1, $2, $3, $4) AS u (device_id, parameter_id, ts, value)"

static IotPlan insert_new_points = {
	INSERT_POINTS, 4, {UUIDARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID, FLOAT8ARRAYOID}
};
static IotPlan insert_points = {
	INSERT_POINTS " ON CONFLICT (device_id, parameter_id, ts) DO NOTHING",
	4, {UUIDARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID, FLOAT8ARRAYOID}
};

/* The range of times lets the executor pass over all partitions that cannot hold any of them. */
static IotPlan select_conflicts = {
	"SELECT u.place"
	" FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS u (device_id, parameter_id, ts, value, place)"
	" JOIN iot.measurement m ON m.device_id = u.device_id AND m.parameter_id = u.parameter_id"
	" AND m.ts = u.ts"
	" WHERE m.ts BETWEEN $5 AND $6 AND m.value <> u.value",
	6, {UUIDARRAYOID, UUIDARRAYOID, TIMESTAMPTZARRAYOID, FLOAT8ARRAYOID,
	TIMESTAMPTZOID, TIMESTAMPTZOID}
};

/* Set while rows are on their way whose sensors the registry has just named. */
static bool resolved = false;

/* So many batches more are written row by row. */
static int	careful = 0;

/* Whether the rows that the trigger sees came from here; asking takes the answer away. */
bool
iot_measurement_take_resolved(void)
{
	bool		result = resolved;

	resolved = false;
	return result;
}

static int
compare_sensors(const IotPoint *a, const IotPoint *b)
{
	int			order = memcmp(a->device_id.data, b->device_id.data, UUID_LEN);

	if (order == 0)
		order = memcmp(a->parameter_id.data, b->parameter_id.data, UUID_LEN);
	return order;
}

static int
compare_points(const void *a, const void *b)
{
	const IotPoint *left = a;
	const IotPoint *right = b;
	int			order = compare_sensors(left, right);

	if (order == 0 && left->ts != right->ts)
		order = left->ts < right->ts ? -1 : 1;
	if (order == 0)
		order = left->sequence < right->sequence ? -1 : 1;
	return order;
}

/*
 * Brings the points in order and judges those that meet within the batch.  Times of arrival are
 * ours to give: where two of them meet, the later one moves on by a microsecond.
 */
static int
settle_within_batch(IotPoint *points, int count)
{
	IotPoint   *last = NULL;	/* the last that is to be written */
	int			kept = 0;

	qsort(points, count, sizeof(IotPoint), compare_points);
	for (int i = 0; i < count; i++)
	{
		IotPoint   *point = &points[i];
		bool		same_sensor = last != NULL && compare_sensors(last, point) == 0;

		if (same_sensor && point->arrival_time && point->ts <= last->ts)
			point->ts = last->ts + 1;
		if (same_sensor && point->ts == last->ts)
		{
			point->state = point->value == last->value ? IOT_POINT_DUPLICATE : IOT_POINT_CONFLICT;
			continue;
		}
		point->state = IOT_POINT_STORED;
		last = point;
		kept++;
	}
	return kept;
}

/* An array without nulls, its elements to be filled in: all of one width, and never toasted. */
static ArrayType *
new_array(Oid type, Size width, int count, void *elements)
{
	Size		size = ARR_OVERHEAD_NONULLS(1) + width * count;
	ArrayType  *array = palloc(size);

	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->dataoffset = 0;
	array->elemtype = type;
	ARR_DIMS(array)[0] = count;
	ARR_LBOUND(array)[0] = 1;
	*(char **) elements = ARR_DATA_PTR(array);
	return array;
}

/* Marks the points whose keys hold another value; place counts the points that are written. */
static void
find_conflicts(IotPoint *points, int count, int kept, Datum *args)
{
	int		   *index = palloc(sizeof(int) * kept);
	uint64		rows;
	int			place = 0;

	for (int i = 0; i < count; i++)
	{
		if (points[i].state == IOT_POINT_STORED)
			index[place++] = i;
	}
	rows = iot_plan_execute(&select_conflicts, args, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		bool		isnull;
		int64		number = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row],
														 SPI_tuptable->tupdesc, 1, &isnull));

		Assert(number >= 1 && number <= kept);
		points[index[number - 1]].state = IOT_POINT_CONFLICT;
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Writes points that are all new; false, with nothing written, where one of them is not. */
static bool
insert_boldly(Datum *args, uint64 *stored)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		*stored = iot_plan_execute(&insert_new_points, args, NULL);
		ReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (edata->sqlerrcode != ERRCODE_UNIQUE_VIOLATION)
			ReThrowError(edata);
		FreeErrorData(edata);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

/* Writes points, and says how many of them were not there yet. */
static uint64
insert(Datum *args, int count)
{
	uint64		stored = 0;

	PG_TRY();
	{
		resolved = true;
		if (careful > 0 || count < BOLD_MIN || !insert_boldly(args, &stored))
		{
			resolved = true;
			stored = iot_plan_execute(&insert_points, args, NULL);
		}
	}
	PG_FINALLY();
	{
		resolved = false;
	}
	PG_END_TRY();
	if (stored < count)
		careful = CAREFUL_BATCHES;
	else if (careful > 0)
		careful--;
	return stored;
}

/*
 * Writes the points, which it sorts, and says of each what became of it.  May raise: then the
 * caller's transaction is over anyway.
 */
void
iot_points_store(IotPoint *points, int count, IotPointCounts *counts)
{
	int			kept;
	pg_uuid_t  *device_ids;
	pg_uuid_t  *parameter_ids;
	TimestampTz *times;
	float8	   *values;
	TimestampTz first = DT_NOEND;
	TimestampTz last = DT_NOBEGIN;
	Datum		args[6];
	int			place = 0;

	memset(counts, 0, sizeof(*counts));
	if (count == 0)
		return;
	kept = settle_within_batch(points, count);
	args[0] = PointerGetDatum(new_array(UUIDOID, UUID_LEN, kept, &device_ids));
	args[1] = PointerGetDatum(new_array(UUIDOID, UUID_LEN, kept, &parameter_ids));
	args[2] = PointerGetDatum(new_array(TIMESTAMPTZOID, sizeof(TimestampTz), kept, &times));
	args[3] = PointerGetDatum(new_array(FLOAT8OID, sizeof(float8), kept, &values));
	for (int i = 0; i < count; i++)
	{
		const IotPoint *point = &points[i];

		if (point->state != IOT_POINT_STORED)
			continue;
		device_ids[place] = point->device_id;
		parameter_ids[place] = point->parameter_id;
		times[place] = point->ts;
		values[place] = point->value;
		place++;
		first = Min(first, point->ts);
		last = Max(last, point->ts);
	}
	args[4] = TimestampTzGetDatum(first);
	args[5] = TimestampTzGetDatum(last);

	counts->stored = insert(args, kept);
	if (counts->stored < kept)
		find_conflicts(points, count, kept, args);
	for (int i = 0; i < count; i++)
		counts->conflict += points[i].state == IOT_POINT_CONFLICT;
	/* a user's row trigger that changes values makes its own rows look like conflicts */
	counts->conflict = Min(counts->conflict, count - counts->stored);
	counts->duplicate = count - counts->conflict - counts->stored;
}
