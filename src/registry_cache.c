/*
 * registry_cache.c
 *		What a backend knows of the registry while it takes in messages.
 *
 * Runs in workers and in backends that call iot.ingest(), between SPI_connect and SPI_finish.
 * Devices are read when they are first heard of, all new ones of a batch in one query, so that a
 * short session pays for its own device only and a long one for those that speak.  Names that do
 * not exist are never kept: strangers must not fill our memory.
 *
 * Statement triggers on the registry's tables send relcache invalidations; of new devices they send
 * none, since nobody keeps anything of those (see registry_changed.c).  A batch first takes in what
 * invalidations there are, and then lives with one state of the cache to its end; what it looked up
 * stays valid until iot_registry_end().  What was read under a transaction's snapshot ends with that
 * transaction, for invalidations that came before the reading may have been about rows which that
 * snapshot does not show.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "column.h"
#include "plan.h"
#include "registry_cache.h"
#include "registry_sensors.h"
#include "registry_topics.h"

/* Beyond this devices are forgotten and read again as needed. */
#define CACHE_MAX_BYTES		(24 * 1024 * 1024)

typedef struct DeviceName
{
	const char *name;
	size_t		len;
} DeviceName;

typedef struct DeviceEntry
{
	DeviceName	key;
	IotDevice  *device;
	uint32		hash;
	char		status;
} DeviceEntry;

#define SH_PREFIX		device_table
#define SH_ELEMENT_TYPE	DeviceEntry
#define SH_KEY_TYPE		DeviceName
#define SH_KEY			key
#define SH_HASH_KEY(tb, key)	hash_bytes((const unsigned char *) (key).name, (key).len)
#define SH_EQUAL(tb, a, b)		((a).len == (b).len && memcmp((a).name, (b).name, (a).len) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		(a)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static struct
{
	MemoryContext cxt;			/* holds all that follows */
	MemoryContext devices_cxt;	/* within it: devices, and what hangs on them */
	device_table_hash *devices;
	Interval   *keep;			/* of measurements; NULL is for ever */
} cache;

static bool cache_built = false;
static bool cache_stale = false;
static bool devices_stale = false;	/* and nothing else */
static bool cache_ends_with_xact = false;
static bool cache_used = false;	/* in this transaction */
static int	user_levels[16];	/* nesting level of transactions where each open batch began */
static int	user_count = 0;

/* Tables whose rows the cache holds, devices first; all zero until the cache is first built. */
static const char *const watched_names[] = {
	"device", "sensor", "device_type", "device_type_mapping", "parameter", "retention"
};
#define WATCHED_DEVICES 2
static Oid	watched[lengthof(watched_names)];

static IotPlan select_retention = {
	"SELECT r.keep FROM iot.retention r WHERE r.relation = 'measurement'"
};
static IotPlan select_devices = {
	"SELECT d.name, d.device_id, d.adapter_id, d.enabled, d.device_type_id,"
	" coalesce(d.external_id, d.name)"
	" FROM iot.device d WHERE coalesce(d.external_id, d.name) = ANY ($1)",
	1, {TEXTARRAYOID}
};
static IotPlan select_name_by_id = {
	"SELECT coalesce(d.external_id, d.name) FROM iot.device d WHERE d.device_id = $1",
	1, {UUIDOID}
};
static IotPlan select_name_by_name = {
	"SELECT coalesce(d.external_id, d.name) FROM iot.device d WHERE d.name = $1",
	1, {TEXTOID}
};
/* May run anywhere, in the middle of a lookup too: sets a flag and frees nothing. */
static void
on_relcache_change(Datum arg, Oid relid)
{
	/* no relation in particular means all of them */
	cache_stale = cache_stale || !OidIsValid(relid);
	for (int i = 0; i < WATCHED_DEVICES; i++)
		devices_stale = devices_stale || watched[i] == relid;
	for (int i = WATCHED_DEVICES; i < lengthof(watched); i++)
		cache_stale = cache_stale || watched[i] == relid;
}

static void
on_xact_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	/* an error may have left a batch without iot_registry_end() */
	user_count = 0;
	/* after an abort, what the cache says was written was not */
	if (cache_ends_with_xact || (cache_used && event == XACT_EVENT_ABORT))
		cache_stale = true;
	cache_ends_with_xact = false;
	cache_used = false;
}

/* A caught error leaves the outer batches open, and the inner ones not. */
static void
on_subxact_end(SubXactEvent event, SubTransactionId subxact, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (user_count > 0 && user_levels[user_count - 1] >= GetCurrentTransactionNestLevel())
		user_count--;
	if (cache_used)
		cache_stale = true;
}

static void
load_retention(void)
{
	cache.keep = NULL;
	if (iot_plan_execute(&select_retention, NULL, NULL) > 0)
	{
		bool		isnull;

		cache.keep = palloc(sizeof(Interval));
		*cache.keep = *DatumGetIntervalP(iot_column(0, 1, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Starts over without devices.  Where this raises, the next batch starts over again. */
static void
forget_devices(void)
{
	cache_built = false;
	MemoryContextReset(cache.devices_cxt);
	/* from here on an invalidation is about what we are going to read */
	devices_stale = false;
	cache.devices = device_table_create(cache.devices_cxt, 64, NULL);
	iot_registry_sensors_forget();
	cache_built = true;
}

/* Starts over with an empty cache.  Where this raises, the next batch starts over again. */
static void
rebuild(void)
{
	Oid			schema = get_namespace_oid("iot", false);
	MemoryContext previous;

	if (cache.cxt == NULL)
		cache.cxt = AllocSetContextCreate(TopMemoryContext, "iot registry",
										  ALLOCSET_DEFAULT_SIZES);
	/* with the context of devices */
	MemoryContextReset(cache.cxt);
	/* rows are kept until all are forgotten, and take no more than they are long */
	cache.devices_cxt = GenerationContextCreate(cache.cxt, "iot devices", ALLOCSET_DEFAULT_MINSIZE,
												ALLOCSET_DEFAULT_INITSIZE, 256 * 1024);
	previous = MemoryContextSwitchTo(cache.cxt);
	for (int i = 0; i < lengthof(watched); i++)
		watched[i] = get_relname_relid(watched_names[i], schema);

	/* from here on an invalidation is about what we are reading, and must not be lost */
	cache_built = false;
	cache_stale = false;
	devices_stale = false;
	cache.devices = device_table_create(cache.devices_cxt, 64, NULL);
	iot_registry_sensors_begin(cache.cxt, cache.devices_cxt);
	iot_registry_topics_load();
	load_retention();
	cache_built = true;
	MemoryContextSwitchTo(previous);
}

/*
 * Opens the cache for a batch: takes in what has changed.  Needs SPI, may raise.  Batches nest (a
 * trigger of the user's may call iot.ingest()), and an inner one shares the outer one's state.
 */
void
iot_registry_begin(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(on_relcache_change, (Datum) 0);
		RegisterXactCallback(on_xact_end, NULL);
		RegisterSubXactCallback(on_subxact_end, NULL);
		registered = true;
	}
	AcceptInvalidationMessages();
	if (user_count == lengthof(user_levels))
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
				 errmsg("iot.ingest() is called by too many triggers within each other")));
	if (user_count == 0 && (!cache_built || cache_stale))
		rebuild();
	else if (user_count == 0 &&
			 (devices_stale || MemoryContextMemAllocated(cache.devices_cxt, true) > CACHE_MAX_BYTES))
		forget_devices();
	user_levels[user_count++] = GetCurrentTransactionNestLevel();
	cache_used = true;
	if (IsolationUsesXactSnapshot())
		cache_ends_with_xact = true;
}

void
iot_registry_end(void)
{
	Assert(user_count > 0);
	user_count--;
}

static char *
as_spoken(char *name)
{
	return pg_server_to_any(name, strlen(name), PG_UTF8);
}

/*
 * Reads the devices that are called so (text datums), those that exist.  Between begin and end, with
 * SPI; may raise.
 */
void
iot_registry_load(List *names)
{
	int			count = 0;
	int			rows;
	Datum	   *datums;
	Datum		arg;
	ListCell   *lc;
	IotDevice **devices;

	if (names == NIL)
		return;
	datums = palloc(sizeof(Datum) * list_length(names));
	foreach(lc, names)
		datums[count++] = PointerGetDatum(lfirst(lc));
	arg = PointerGetDatum(construct_array(datums, count, TEXTOID, -1, false, TYPALIGN_INT));
	rows = (int) iot_plan_execute(&select_devices, &arg, NULL);
	devices = palloc(sizeof(IotDevice *) * (rows + 1));
	for (int row = 0; row < rows; row++)
	{
		char	   *name = iot_text_column(row, 1);
		char	   *spoken = as_spoken(iot_text_column(row, 6));
		Size		size = strlen(spoken) + 1;
		IotDevice  *device = MemoryContextAllocZero(cache.devices_cxt, sizeof(IotDevice) + size);
		pg_uuid_t	device_type_id = iot_uuid_column(row, 5);
		bool		isnull;

		/* names are behind, and mostly one */
		device->spoken_name = memcpy(device + 1, spoken, size);
		device->name = strcmp(name, spoken) == 0 ? device->spoken_name :
			MemoryContextStrdup(cache.devices_cxt, name);
		device->device_id = iot_uuid_column(row, 2);
		device->adapter_id = iot_uuid_column(row, 3);
		device->enabled = DatumGetBool(iot_column(row, 4, &isnull));
		iot_registry_set_type(device, &device_type_id);
		devices[row] = device;
	}
	SPI_freetuptable(SPI_tuptable);
	if (rows == 0)
		return;
	iot_registry_load_sensors(devices, rows);

	/* only what is complete can be found */
	for (int i = 0; i < rows; i++)
	{
		DeviceName	key = {devices[i]->spoken_name, strlen(devices[i]->spoken_name)};
		bool		found;
		DeviceEntry *entry = device_table_insert(cache.devices, key, &found);

		entry->device = devices[i];
		entry->key.name = devices[i]->spoken_name;
	}
}

/* A device that is loaded, by what it is called in topics and messages; NULL where none is. */
IotDevice *
iot_registry_device(const char *name, size_t len)
{
	DeviceName	key = {name, len};
	DeviceEntry *entry = device_table_lookup(cache.devices, key);

	return entry != NULL ? entry->device : NULL;
}

/* Whether a device is loaded that is called so in the database's encoding, in a batch or outside. */
bool
iot_registry_knows(char *spoken_name)
{
	char	   *name = as_spoken(spoken_name);

	return cache_built && iot_registry_device(name, strlen(name)) != NULL;
}

/* Whether a device can be called so, here or elsewhere. */
bool
iot_spoken_name_valid(const char *name, size_t len)
{
	if (iot_device_name_valid(name, len))
		return true;
	if (!iot_external_name_valid(name, len))
		return false;
	/* what the database's encoding may lack, it has no device for */
	for (size_t i = 0; i < len && GetDatabaseEncoding() != PG_UTF8; i++)
	{
		if (IS_HIGHBIT_SET(name[i]))
			return false;
	}
	return true;
}

/* The device that the statement finds, loaded where it was not; NULL where there is none. */
static IotDevice *
find_device(IotPlan *plan, Datum arg)
{
	char	   *name;
	char	   *spoken;
	IotDevice  *device;

	if (iot_plan_execute(plan, &arg, NULL) == 0)
		return NULL;
	name = iot_text_column(0, 1);
	SPI_freetuptable(SPI_tuptable);
	spoken = as_spoken(name);
	device = iot_registry_device(spoken, strlen(spoken));
	if (device != NULL)
		return device;
	iot_registry_load(list_make1(cstring_to_text(name)));
	return iot_registry_device(spoken, strlen(spoken));
}

IotDevice *
iot_registry_device_by_id(const pg_uuid_t *device_id)
{
	return find_device(&select_name_by_id, UUIDPGetDatum(device_id));
}

IotDevice *
iot_registry_device_by_name(text *name)
{
	char	   *wanted = text_to_cstring(name);
	IotDevice  *device = iot_registry_device(wanted, strlen(wanted));

	/* another one may be called so where it comes from */
	if (device != NULL && strcmp(device->name, wanted) == 0)
		return device;
	return find_device(&select_name_by_name, PointerGetDatum(name));
}

/* Start of the time for which measurements are kept. */
TimestampTz
iot_registry_oldest(TimestampTz now)
{
	if (cache.keep == NULL)
		return DT_NOBEGIN;
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
												   TimestampTzGetDatum(now),
												   IntervalPGetDatum(cache.keep)));
}
