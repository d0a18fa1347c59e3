/*
 * registry_sensors.c
 *		Sensors of devices, and the words of their parameters.
 *
 * Part of the cache of the registry, see registry_cache.c: runs where that does, its memory is the
 * cache's, and what is found stays valid as long.
 *
 * Most devices of a fleet have the same parameters, and nothing of their own to say about them: they
 * share one array of sensors, so that what a device costs does not depend on how many it has.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "column.h"
#include "plan.h"
#include "registry_sensors.h"

typedef struct ParameterEntry
{
	pg_uuid_t	parameter_id;	/* key */
	const char *name;
	const IotLabels *labels;
} ParameterEntry;

/* Sensors as devices have them, padding included: compared as bytes. */
typedef struct SensorSet
{
	IotSensor  *sensors;
	int			count;
} SensorSet;

typedef struct SetEntry
{
	SensorSet	key;
	uint32		hash;
	char		status;
} SetEntry;

#define SH_PREFIX		set_table
#define SH_ELEMENT_TYPE	SetEntry
#define SH_KEY_TYPE		SensorSet
#define SH_KEY			key
#define SH_HASH_KEY(tb, key) \
	hash_bytes((const unsigned char *) (key).sensors, sizeof(IotSensor) * (key).count)
#define SH_EQUAL(tb, a, b) ((a).count == (b).count && \
							memcmp((a).sensors, (b).sensors, sizeof(IotSensor) * (a).count) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		(a)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static struct
{
	MemoryContext cxt;			/* of parameters */
	MemoryContext devices_cxt;	/* within it: of sensors */
	HTAB	   *parameters;
	set_table_hash *sets;
} cache;

static IotPlan select_sensors = {
	"SELECT s.device_id, s.parameter_id, p.name, p.labels, s.labels"
	" FROM iot.sensor s JOIN iot.parameter p ON p.parameter_id = s.parameter_id"
	" WHERE s.device_id = ANY ($1)"
	" ORDER BY s.device_id, p.name COLLATE \"C\"",
	1, {UUIDARRAYOID}
};

/* Starts over with nothing; both contexts are empty. */
void
iot_registry_sensors_begin(MemoryContext cxt, MemoryContext devices_cxt)
{
	HASHCTL		ctl = {0};

	cache.cxt = cxt;
	cache.devices_cxt = devices_cxt;
	ctl.keysize = sizeof(pg_uuid_t);
	ctl.entrysize = sizeof(ParameterEntry);
	ctl.hcxt = cxt;
	cache.parameters = hash_create("iot parameters", 64, &ctl,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	iot_registry_sensors_forget();
}

/* Starts over without sensors, where the context of devices has just been emptied. */
void
iot_registry_sensors_forget(void)
{
	cache.sets = set_table_create(cache.devices_cxt, 16, NULL);
}

/* The parameter of a row of select_sensors, kept once for all its sensors. */
static const ParameterEntry *
keep_parameter(int row)
{
	pg_uuid_t	parameter_id = iot_uuid_column(row, 2);
	bool		found;
	bool		isnull;
	Datum		labels;
	ParameterEntry *entry;

	entry = hash_search(cache.parameters, &parameter_id, HASH_FIND, NULL);
	if (entry == NULL)
	{
		MemoryContext previous = MemoryContextSwitchTo(cache.cxt);
		char	   *name = TextDatumGetCString(iot_column(row, 3, &isnull));
		const IotLabels *made = NULL;

		labels = iot_column(row, 4, &isnull);
		if (!isnull)
			made = iot_labels_make(labels);
		entry = hash_search(cache.parameters, &parameter_id, HASH_ENTER, &found);
		entry->name = name;
		entry->labels = made;
		MemoryContextSwitchTo(previous);
	}
	return entry;
}

static int
compare_device_ids(const void *a, const void *b)
{
	const IotDevice *const *left = a;
	const IotDevice *const *right = b;

	return memcmp((*left)->device_id.data, (*right)->device_id.data, UUID_LEN);
}

/* Gives a device the sensors of these rows, those of another device where it has the same. */
static void
share_sensors(IotDevice *device, int first, int end)
{
	int			count = end - first;
	Size		size = sizeof(IotSensor) * count;
	SensorSet	set = {palloc0(size + 1), count};
	SetEntry   *entry;
	bool		found;

	for (int i = 0; i < count; i++)
	{
		const ParameterEntry *parameter = keep_parameter(first + i);
		IotSensor  *sensor = &set.sensors[i];
		bool		isnull;
		Datum		labels = iot_column(first + i, 5, &isnull);

		sensor->parameter_id = parameter->parameter_id;
		sensor->name = parameter->name;
		sensor->name_len = strlen(parameter->name);
		sensor->labels = parameter->labels;
		if (!isnull)
		{
			MemoryContext previous = MemoryContextSwitchTo(cache.devices_cxt);

			sensor->labels = iot_labels_make(labels);
			MemoryContextSwitchTo(previous);
		}
	}
	entry = set_table_lookup(cache.sets, set);
	if (entry == NULL)
	{
		/* complete before it can be found */
		SensorSet	kept = {MemoryContextAlloc(cache.devices_cxt, size + 1), count};

		memcpy(kept.sensors, set.sensors, size);
		entry = set_table_insert(cache.sets, kept, &found);
	}
	pfree(set.sensors);
	device->sensors = entry->key.sensors;
	device->sensor_count = count;
}

/*
 * Gives new devices their sensors; both are read in the order of device_id.  Between begin and end of the
 * cache, with SPI; may raise.
 */
void
iot_registry_load_sensors(IotDevice **devices, int count)
{
	Datum	   *ids = palloc(sizeof(Datum) * count);
	Datum		arg;
	int			rows;
	int			row = 0;

	qsort(devices, count, sizeof(IotDevice *), compare_device_ids);
	for (int i = 0; i < count; i++)
		ids[i] = UUIDPGetDatum(&devices[i]->device_id);
	arg = PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	rows = (int) iot_plan_execute(&select_sensors, &arg, NULL);
	for (int i = 0; i < count; i++)
	{
		IotDevice  *device = devices[i];
		int			first;

		/* rows of a device that is not ours cannot be; still, never run out of step */
		while (row < rows)
		{
			pg_uuid_t	device_id = iot_uuid_column(row, 1);

			if (memcmp(device_id.data, device->device_id.data, UUID_LEN) >= 0)
				break;
			row++;
		}
		for (first = row; row < rows; row++)
		{
			pg_uuid_t	device_id = iot_uuid_column(row, 1);

			if (memcmp(device_id.data, device->device_id.data, UUID_LEN) != 0)
				break;
		}
		share_sensors(device, first, row);
	}
	SPI_freetuptable(SPI_tuptable);
}

static int
compare_name(const IotSensor *sensor, const char *name, size_t len)
{
	size_t		common = Min(sensor->name_len, len);
	int			order = memcmp(sensor->name, name, common);

	if (order == 0 && sensor->name_len != len)
		order = sensor->name_len < len ? -1 : 1;
	return order;
}

/* The device's sensor of that parameter, or NULL. */
const IotSensor *
iot_device_sensor(IotDevice *device, const char *name, size_t len)
{
	int			low = 0;
	int			high = device->sensor_count;
	int			hint = device->sensor_hint;

	/* devices say their parameters in the same order each time */
	if (hint < high && compare_name(&device->sensors[hint], name, len) == 0)
	{
		device->sensor_hint = hint + 1 < high ? hint + 1 : 0;
		return &device->sensors[hint];
	}
	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		int			order = compare_name(&device->sensors[middle], name, len);

		if (order == 0)
		{
			device->sensor_hint = middle + 1 < device->sensor_count ? middle + 1 : 0;
			return &device->sensors[middle];
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

