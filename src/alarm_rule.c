/*
 * alarm_rule.c
 *		Alarm rules as a backend knows them: compiled once, found by what they are about.
 *
 * Runs in any backend that writes measurements, between SPI_connect and SPI_finish.  All enabled
 * rules are read at once and hashed by parameter and scope, so that a measurement costs what its
 * own rules cost, however many others there are.  Of devices, type and group are read when a rule
 * could depend on them.
 *
 * Statement triggers on iot.alarm_rule and iot.device send relcache invalidations.  A statement
 * first takes in what invalidations there are; what it finds is good until iot_alarm_rules_end(),
 * even where a trigger of the user's writes measurements too and begins anew in the midst of it.
 * What was read under a transaction's snapshot ends with that transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "alarm_rule.h"
#include "column.h"
#include "plan.h"

/* Beyond this devices are forgotten, and read again as needed. */
#define CACHE_MAX_DEVICES	200000

typedef struct ScopeKey
{
	pg_uuid_t	parameter_id;
	pg_uuid_t	scope_id;
} ScopeKey;

typedef struct ScopeEntry
{
	ScopeKey	key;
	IotAlarmRule *rules;
	uint32		hash;
	char		status;
} ScopeEntry;

#define SH_PREFIX		scope
#define SH_ELEMENT_TYPE	ScopeEntry
#define SH_KEY_TYPE		ScopeKey
#define SH_KEY			key
#define SH_HASH_KEY(tb, key)	hash_bytes((const unsigned char *) &(key), sizeof(ScopeKey))
#define SH_EQUAL(tb, a, b)		(memcmp(&(a), &(b), sizeof(ScopeKey)) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		(a)->hash
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* A parameter that has rules; all conditions are of one that does not exist. */
typedef struct ParameterEntry
{
	pg_uuid_t	parameter_id;	/* key */
	bool		by_device;		/* some are for single devices */
	bool		by_place;		/* some are for types or groups */
	IotAlarmRule *for_all;
} ParameterEntry;

typedef struct DeviceEntry
{
	pg_uuid_t	device_id;		/* key */
	pg_uuid_t	device_type_id;
	pg_uuid_t	device_group_id;
} DeviceEntry;

static struct
{
	MemoryContext cxt;			/* holds all that follows */
	scope_hash *scopes;
	HTAB	   *parameters;
	HTAB	   *devices;
} cache;

/* What conditions are hashed by, since they see all parameters of their device. */
static const pg_uuid_t conditions = {{0}};

static bool cache_built = false;
static bool cache_stale = false;
static bool devices_stale = false;	/* where they belong, and nothing else */
static bool cache_ends_with_xact = false;
static int	user_count = 0;		/* statements that hold rules of ours */

/* Tables whose rows the cache holds; zero until it is first built. */
static Oid	rule_relid;
static Oid	device_relid;

static IotPlan select_devices = {
	"SELECT d.device_id, d.device_type_id, d.device_group_id"
	" FROM iot.device d WHERE d.device_id = ANY ($1)",
	1, {UUIDARRAYOID}
};

/* May run anywhere: sets a flag and frees nothing. */
static void
on_relcache_change(Datum arg, Oid relid)
{
	/* no relation in particular means all of them */
	cache_stale = cache_stale || !OidIsValid(relid) || relid == rule_relid;
	devices_stale = devices_stale || relid == device_relid;
}

static void
on_xact_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (cache_ends_with_xact)
		cache_stale = true;
	cache_ends_with_xact = false;
	/* an error may have left a statement without iot_alarm_rules_end() */
	user_count = 0;
}

static void
add_rule(IotAlarmRule *rule)
{
	bool		found;
	pg_uuid_t	parameter_id = rule->kind == IOT_ALARM_CONDITION ? conditions : rule->parameter_id;
	ParameterEntry *parameter = hash_search(cache.parameters, &parameter_id, HASH_ENTER, &found);

	if (!found)
	{
		parameter->by_device = false;
		parameter->by_place = false;
		parameter->for_all = NULL;
	}
	if (rule->scope == 'a')
	{
		rule->next = parameter->for_all;
		parameter->for_all = rule;
	}
	else
	{
		ScopeKey	key = {parameter_id, rule->scope_id};
		ScopeEntry *entry = scope_insert(cache.scopes, key, &found);

		rule->next = found ? entry->rules : NULL;
		entry->rules = rule;
		if (rule->scope == 'd')
			parameter->by_device = true;
		else
			parameter->by_place = true;
	}
}

static HTAB *
make_table(const char *name, Size entrysize)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(pg_uuid_t);
	ctl.entrysize = entrysize;
	ctl.hcxt = cache.cxt;
	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Reads all rules.  Where this raises, the next statement starts over. */
static void
rebuild(void)
{
	Oid			schema = get_namespace_oid("iot", false);
	MemoryContext previous;
	int			rows;

	/* what a statement around this one holds lives on with the transaction */
	if (cache.cxt != NULL && user_count > 0)
		MemoryContextSetParent(cache.cxt, TopTransactionContext);
	else if (cache.cxt != NULL)
		MemoryContextDelete(cache.cxt);
	cache_built = false;
	cache.cxt = NULL;
	cache.cxt = AllocSetContextCreate(TopMemoryContext, "iot alarm rules",
									  ALLOCSET_DEFAULT_SIZES);
	rule_relid = get_relname_relid("alarm_rule", schema);
	device_relid = get_relname_relid("device", schema);

	/* from here on an invalidation is about what we are reading, and must not be lost */
	cache_stale = false;
	devices_stale = false;
	rows = (int) iot_alarm_rules_read();
	previous = MemoryContextSwitchTo(cache.cxt);
	cache.scopes = scope_create(cache.cxt, Max(rows, 16), NULL);
	cache.parameters = make_table("iot alarm parameters", sizeof(ParameterEntry));
	cache.devices = make_table("iot alarm devices", sizeof(DeviceEntry));
	for (int row = 0; row < rows; row++)
	{
		IotAlarmRule *rule = palloc(sizeof(IotAlarmRule));

		if (iot_alarm_rule_compile(rule, row))
			add_rule(rule);
		else
			ereport(WARNING,
					(errmsg("alarm rule \"%s\" cannot be used", rule->name),
					 errhint("Update its row in iot.alarm_rule, and the check says what is wrong.")));
	}
	MemoryContextSwitchTo(previous);
	SPI_freetuptable(SPI_tuptable);
	cache_built = true;
}

/*
 * Takes in what has changed; false where there is no rule at all, and then nothing is to be ended.
 * Needs SPI, may raise.
 */
bool
iot_alarm_rules_begin(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(on_relcache_change, (Datum) 0);
		RegisterXactCallback(on_xact_end, NULL);
		registered = true;
	}
	AcceptInvalidationMessages();
	if (!cache_built || cache_stale || hash_get_num_entries(cache.devices) > CACHE_MAX_DEVICES)
		rebuild();
	else if (devices_stale)
	{
		HTAB	   *forgotten = cache.devices;

		/* a device that moves changes no rule, of which there may be thousands */
		devices_stale = false;
		cache.devices = make_table("iot alarm devices", sizeof(DeviceEntry));
		hash_destroy(forgotten);
	}
	if (IsolationUsesXactSnapshot())
		cache_ends_with_xact = true;
	if (hash_get_num_entries(cache.parameters) == 0)
		return false;
	user_count++;
	return true;
}

/* Whether some rule is a condition over several parameters. */
bool
iot_alarm_rules_have_conditions(void)
{
	return hash_search(cache.parameters, &conditions, HASH_FIND, NULL) != NULL;
}

void
iot_alarm_rules_end(void)
{
	Assert(user_count > 0);
	user_count--;
}

/*
 * Reads where devices belong, of those for which it matters.  To be called before
 * iot_alarm_rules_find(), with all sensors that a statement is about.
 */
void
iot_alarm_rules_load_devices(const pg_uuid_t *device_ids, const pg_uuid_t *parameter_ids,
							 int count)
{
	ParameterEntry *any = hash_search(cache.parameters, &conditions, HASH_FIND, NULL);
	bool		for_conditions = any != NULL && any->by_place;
	Datum	   *missing = palloc_extended(sizeof(Datum) * (count + 1), MCXT_ALLOC_HUGE);
	int			nmissing = 0;
	Datum		arg;
	uint64		rows;

	for (int i = 0; i < count; i++)
	{
		ParameterEntry *parameter = hash_search(cache.parameters, &parameter_ids[i], HASH_FIND,
												NULL);

		if ((for_conditions || (parameter != NULL && parameter->by_place)) &&
			hash_search(cache.devices, &device_ids[i], HASH_FIND, NULL) == NULL)
			missing[nmissing++] = UUIDPGetDatum(&device_ids[i]);
	}
	if (nmissing == 0)
		return;
	arg = PointerGetDatum(construct_array(missing, nmissing, UUIDOID, UUID_LEN, false,
										  TYPALIGN_CHAR));
	rows = iot_plan_execute(&select_devices, &arg, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		pg_uuid_t	device_id = iot_uuid_column(row, 1);
		bool		found;
		DeviceEntry *device = hash_search(cache.devices, &device_id, HASH_ENTER, &found);

		device->device_type_id = iot_uuid_column(row, 2);
		device->device_group_id = iot_uuid_column(row, 3);
	}
	SPI_freetuptable(SPI_tuptable);
}

static List *
add_scope(List *rules, const pg_uuid_t *parameter_id, char scope, const pg_uuid_t *scope_id)
{
	ScopeKey	key = {*parameter_id, *scope_id};
	ScopeEntry *entry = scope_lookup(cache.scopes, key);

	for (IotAlarmRule *rule = entry != NULL ? entry->rules : NULL; rule != NULL; rule = rule->next)
	{
		/* ids are unique in their own tables only */
		if (rule->scope == scope)
			rules = lappend(rules, rule);
	}
	return rules;
}

/* The rules about a sensor but conditions, in the cache's own memory; mostly NIL. */
List *
iot_alarm_rules_find(const pg_uuid_t *device_id, const pg_uuid_t *parameter_id)
{
	ParameterEntry *parameter = hash_search(cache.parameters, parameter_id, HASH_FIND, NULL);
	List	   *rules = NIL;

	if (parameter == NULL)
		return NIL;
	for (IotAlarmRule *rule = parameter->for_all; rule != NULL; rule = rule->next)
		rules = lappend(rules, rule);
	if (parameter->by_device)
		rules = add_scope(rules, parameter_id, 'd', device_id);
	if (parameter->by_place)
	{
		DeviceEntry *device = hash_search(cache.devices, device_id, HASH_FIND, NULL);

		if (device != NULL)
		{
			rules = add_scope(rules, parameter_id, 't', &device->device_type_id);
			rules = add_scope(rules, parameter_id, 'g', &device->device_group_id);
		}
	}
	return rules;
}

/* The conditions about a device, likewise. */
List *
iot_alarm_rules_find_conditions(const pg_uuid_t *device_id)
{
	return iot_alarm_rules_find(device_id, &conditions);
}
