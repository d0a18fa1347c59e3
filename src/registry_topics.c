/*
 * registry_topics.c
 *		Which topics the device types have, and what a message's topic is.
 *
 * Part of the cache of the registry, see registry_cache.c: runs where that does, its memory is the
 * cache's, and what is found stays valid as long.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"

#include "plan.h"
#include "registry_topics.h"

/* One template of one kind, however many device types have it. */
typedef struct TopicEntry
{
	IotTopicKind kind;
	IotTopicTemplate parsed;
	const IotMapping *gateway;	/* where messages name the devices; else NULL */
} TopicEntry;

/* A topic without placeholders, of the only device of a type. */
typedef struct OwnedTopic
{
	const char *topic;
	size_t		len;
	IotTopicKind kind;
	const IotMapping *mapping;
} OwnedTopic;

typedef struct TypeEntry
{
	pg_uuid_t	device_type_id;
	const char *templates[IOT_TOPIC_KINDS];
	int			topics[IOT_TOPIC_KINDS];
	int64		offline_after;
	bool		send_when_awake;
	IotMapping *mapping;		/* NULL where it speaks our own way */
} TypeEntry;

static struct
{
	TypeEntry  *types;
	int			type_count;
	TopicEntry *topics;
	int			topic_count;
	int			gateway_count;	/* topics of gateways among them */
	OwnedTopic *owned;			/* by topic */
	int			owned_count;
} cache;

/* Topics in the order of IotTopicKind. */
static IotPlan select_types = {
	"SELECT t.device_type_id, t.telemetry_topic, t.attributes_topic, t.status_topic, t.ack_topic,"
	" coalesce((extract(epoch FROM t.offline_after) * 1000000)::bigint, 0),"
	" t.send_when = 'awake'"
	" FROM iot.device_type t"
};

static Datum
column(int row, int number)
{
	bool		isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &isnull);
}

/*
 * Templates in the order in which topics are held against them: those that leave most open come last,
 * so that "{device}/{parameter}" does not take what is for "{device}/status".
 */
static int
rank_of(const IotTopicTemplate *parsed)
{
	return parsed->plain ? 0 : parsed->spans ? 3 : parsed->has_parameter ? 2 : 1;
}

#define RANKS 4

/*
 * Index of the template into *index, added where it is new, if it has that rank.  One that cannot be
 * used has none.
 */
static void
add_topic(int rank, IotTopicKind kind, const char *text, const IotMapping *mapping, int *index)
{
	TopicEntry	entry;

	entry.kind = kind;
	entry.gateway = NULL;
	if (!iot_topic_template_parse(text, strlen(text), IOT_TOPIC_MAY_ALL, &entry.parsed, NULL) ||
		rank_of(&entry.parsed) != rank)
		return;
	/* see own_topics() */
	if (!entry.parsed.has_device && mapping != NULL && mapping->only_device != NULL)
		return;
	for (int i = 0; i < cache.topic_count; i++)
	{
		if (cache.topics[i].kind == kind && strcmp(cache.topics[i].parsed.text, text) == 0)
		{
			*index = i;
			return;
		}
	}
	if (!entry.parsed.has_device && mapping != NULL && mapping->device_path != NULL)
	{
		entry.gateway = mapping;
		cache.gateway_count++;
	}
	cache.topics[cache.topic_count] = entry;
	*index = cache.topic_count++;
}

static void
add_topics(int rank)
{
	for (int i = 0; i < cache.type_count; i++)
	{
		TypeEntry  *type = &cache.types[i];
		int			ignored;

		for (int kind = 0; kind < IOT_TOPIC_KINDS; kind++)
			add_topic(rank, (IotTopicKind) kind, type->templates[kind], type->mapping,
					  &type->topics[kind]);
		if (type->mapping == NULL)
			continue;
		for (int j = 0; j < type->mapping->more_count; j++)
			add_topic(rank, IOT_TOPIC_TELEMETRY, type->mapping->more_templates[j], type->mapping,
					  &type->mapping->more_topics[j]);
		for (int j = 0; j < type->mapping->ignored_count; j++)
			add_topic(rank, IOT_TOPIC_IGNORED, type->mapping->ignored_templates[j], NULL, &ignored);
	}
}

static void
own_topic(IotTopicKind kind, const char *topic, const IotMapping *mapping)
{
	OwnedTopic *owned = &cache.owned[cache.owned_count++];

	owned->topic = topic;
	owned->len = strlen(topic);
	owned->kind = kind;
	owned->mapping = mapping;
}

static int
compare_topics(const char *a, size_t a_len, const char *b, size_t b_len)
{
	int			order = memcmp(a, b, Min(a_len, b_len));

	return order != 0 ? order : a_len < b_len ? -1 : a_len > b_len;
}

static int
compare_owned(const void *a, const void *b)
{
	const OwnedTopic *left = a;
	const OwnedTopic *right = b;
	int			order = compare_topics(left->topic, left->len, right->topic, right->len);

	if (order == 0 && left->kind != right->kind)
		order = left->kind < right->kind ? -1 : 1;
	/* of one device, values of a topic come together */
	if (order == 0)
		order = memcmp(&left->mapping->device_type_id, &right->mapping->device_type_id,
					   sizeof(pg_uuid_t));
	return order;
}

/*
 * Gathers the topics that do not name their device.  They are looked up by themselves, since there are
 * many of them where devices announce theirs, while templates are held against each topic in turn.
 */
static void
own_topics(void)
{
	int			kept = 0;

	for (int i = 0; i < cache.type_count; i++)
	{
		const TypeEntry *type = &cache.types[i];
		const IotMapping *mapping = type->mapping;

		if (mapping == NULL || mapping->only_device == NULL)
			continue;
		for (int kind = 0; kind < IOT_TOPIC_KINDS; kind++)
		{
			if (strchr(type->templates[kind], '{') == NULL)
				own_topic((IotTopicKind) kind, type->templates[kind], mapping);
		}
		for (int j = 0; j < mapping->more_count; j++)
		{
			if (strchr(mapping->more_templates[j], '{') == NULL)
				own_topic(IOT_TOPIC_TELEMETRY, mapping->more_templates[j], mapping);
		}
		for (int j = 0; j < mapping->value_count; j++)
		{
			if (mapping->values[j].topic != NULL)
				own_topic(IOT_TOPIC_TELEMETRY, mapping->values[j].topic, mapping);
		}
	}
	qsort(cache.owned, cache.owned_count, sizeof(OwnedTopic), compare_owned);
	for (int i = 0; i < cache.owned_count; i++)
	{
		if (kept == 0 || compare_owned(&cache.owned[kept - 1], &cache.owned[i]) != 0)
			cache.owned[kept++] = cache.owned[i];
	}
	cache.owned_count = kept;
}

static IotMapping *
find_mapping(IotMapping *mappings, int count, const pg_uuid_t *device_type_id)
{
	for (int i = 0; i < count; i++)
	{
		if (memcmp(&mappings[i].device_type_id, device_type_id, sizeof(pg_uuid_t)) == 0)
			return &mappings[i];
	}
	return NULL;
}

/*
 * Reads the types in the current memory context, in which they live until they are read again.  Where
 * this raises, they must be read again before anything is asked.
 */
void
iot_registry_topics_load(void)
{
	int			mapping_count;
	IotMapping *mappings = iot_mapping_read(&mapping_count);
	int			rows = (int) iot_plan_execute(&select_types, NULL, NULL);
	int			size = rows * IOT_TOPIC_KINDS + 1;
	int			owned_size = size;

	for (int i = 0; i < mapping_count; i++)
	{
		size += mappings[i].more_count + mappings[i].ignored_count;
		owned_size += mappings[i].more_count + mappings[i].value_count;
	}
	cache.owned = palloc(sizeof(OwnedTopic) * owned_size);
	cache.topic_count = cache.gateway_count = cache.owned_count = 0;
	cache.type_count = rows;
	cache.types = palloc(sizeof(TypeEntry) * (rows + 1));
	cache.topics = palloc(sizeof(TopicEntry) * size);
	for (int row = 0; row < rows; row++)
	{
		TypeEntry  *type = &cache.types[row];

		type->device_type_id = *DatumGetUUIDP(column(row, 1));
		type->offline_after = DatumGetInt64(column(row, 6));
		type->send_when_awake = DatumGetBool(column(row, 7));
		type->mapping = find_mapping(mappings, mapping_count, &type->device_type_id);
		for (int kind = 0; kind < IOT_TOPIC_KINDS; kind++)
		{
			type->templates[kind] = TextDatumGetCString(column(row, kind + 2));
			type->topics[kind] = -1;
		}
	}
	SPI_freetuptable(SPI_tuptable);
	own_topics();
	for (int rank = 0; rank < RANKS; rank++)
		add_topics(rank);
}

/* What the device's type says goes into the device. */
void
iot_registry_set_type(IotDevice *device, const pg_uuid_t *device_type_id)
{
	for (int i = 0; i < IOT_TOPIC_KINDS; i++)
		device->topics[i] = -1;
	for (int i = 0; i < cache.type_count; i++)
	{
		if (memcmp(&cache.types[i].device_type_id, device_type_id, sizeof(pg_uuid_t)) != 0)
			continue;
		memcpy(device->topics, cache.types[i].topics, sizeof(device->topics));
		device->offline_after = cache.types[i].offline_after;
		device->send_when_awake = cache.types[i].send_when_awake;
		device->mapping = cache.types[i].mapping;
	}
}

/*
 * Index of the next template, from that index on, which the topic is one of; -1 where there is
 * none.  Whether the device's type has this template, iot_device_has_topic() says.
 */
int
iot_registry_topic_match(int from, const char *topic, size_t len, IotTopicKind *kind,
						 IotTopicMatch *match)
{
	for (int i = from; i < cache.topic_count; i++)
	{
		if (iot_topic_template_match(&cache.topics[i].parsed, topic, len, match))
		{
			*kind = cache.topics[i].kind;
			return i;
		}
	}
	return -1;
}

/*
 * How the message of a gateway names its devices, where its topic is of one, and the index of its
 * template; else NULL.
 */
const IotMapping *
iot_registry_gateway_match(const char *topic, size_t len, int *at, IotTopicKind *kind,
						   IotTopicMatch *match)
{
	for (*at = 0; cache.gateway_count > 0 && *at < cache.topic_count; (*at)++)
	{
		const TopicEntry *entry = &cache.topics[*at];

		if (entry->gateway == NULL || !iot_topic_template_match(&entry->parsed, topic, len, match))
			continue;
		*kind = entry->kind;
		return entry->gateway;
	}
	return NULL;
}

bool
iot_registry_has_gateways(void)
{
	return cache.gateway_count > 0;
}

bool
iot_registry_has_owned_topics(void)
{
	return cache.owned_count > 0;
}

/* Index of the first who owns the topic, for iot_registry_owner(). */
int
iot_registry_owned_topic(const char *topic, size_t len)
{
	int			low = 0;
	int			high = cache.owned_count;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		const OwnedTopic *owned = &cache.owned[middle];

		if (compare_topics(owned->topic, owned->len, topic, len) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* How the only device of a type speaks that owns the topic, at that index; NULL where none does. */
const IotMapping *
iot_registry_owner(int at, const char *topic, size_t len, IotTopicKind *kind)
{
	const OwnedTopic *owned = &cache.owned[at];

	if (at >= cache.owned_count || compare_topics(owned->topic, owned->len, topic, len) != 0)
		return NULL;
	*kind = owned->kind;
	return owned->mapping;
}

/* Whether the device's type has the template of that index. */
bool
iot_device_has_topic(const IotDevice *device, IotTopicKind kind, int at)
{
	if (kind == IOT_TOPIC_IGNORED)
		return false;
	return device->topics[kind] == at ||
		(kind == IOT_TOPIC_TELEMETRY && iot_mapping_has_topic(device->mapping, at));
}

/* How a device speaks that has the template of that index for its telemetry; NULL: our own way. */
const IotMapping *
iot_registry_topic_mapping(int at)
{
	for (int i = 0; i < cache.type_count; i++)
	{
		if (cache.types[i].topics[IOT_TOPIC_TELEMETRY] == at)
			return cache.types[i].mapping;
	}
	return NULL;
}

/* The text of the template of that index. */
const char *
iot_registry_topic_template(int at)
{
	return cache.topics[at].parsed.text;
}
