/*
 * registry_mapping.c
 *		Reading how the devices of each type speak, where that is not our own way.
 *
 * Part of reading the registry: runs within SPI, in the memory context of the cache, which owns what
 * is read.  Paths and topics were judged when they were written; one that cannot be used all the
 * same finds nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "column.h"
#include "mapping.h"
#include "plan.h"

enum
{
	COL_TYPE = 1, COL_MORE_TOPICS, COL_IGNORED_TOPICS, COL_STATUS_PATH, COL_ONLINE_WORD, COL_OFFLINE_WORD,
	COL_DEVICE_PATH, COL_ONLY_DEVICE, COL_TIME_PATH, COL_TIME_UNIT, COL_TIME_ZONE, COL_PARAMETER, COL_NAME,
	COL_PATH, COL_SCALE, COL_SHIFT, COL_LABELS, COL_TOPIC
};

/* In the order of types; one row for each parameter, or one without for a type that has none. */
static IotPlan select_mappings = {
	"SELECT t.device_type_id, t.more_telemetry_topics, t.ignored_topics, t.status_path, t.online_word,"
	" t.offline_word, t.device_path, t.only_device, t.time_path, t.time_unit, t.time_zone, p.name,"
	" coalesce(m.name, p.name), m.path, m.scale, m.shift, m.labels, m.telemetry_topic"
	" FROM iot.device_type t"
	" LEFT JOIN iot.device_type_mapping m ON m.device_type_id = t.device_type_id"
	" LEFT JOIN iot.parameter p ON p.parameter_id = m.parameter_id"
	" WHERE m.device_type_id IS NOT NULL OR t.more_telemetry_topics IS NOT NULL"
	" OR t.status_path IS NOT NULL OR t.online_word IS NOT NULL OR t.offline_word IS NOT NULL"
	" OR t.device_path IS NOT NULL OR t.only_device IS NOT NULL OR t.ignored_topics IS NOT NULL"
	" ORDER BY t.device_type_id, p.name COLLATE \"C\""
};

/* A text as devices encode it, or NULL. */
static char *
text_column(int row, int number)
{
	char	   *string = iot_text_column(row, number);

	return string == NULL ? NULL : pg_server_to_any(string, strlen(string), PG_UTF8);
}

static char **
array_column(int row, int number, int *count)
{
	bool		isnull;
	Datum		array = iot_column(row, number, &isnull);
	Datum	   *elements;
	char	  **strings;

	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  NULL, count);
	strings = palloc(sizeof(char *) * (*count + 1));
	for (int i = 0; i < *count; i++)
		strings[i] = TextDatumGetCString(elements[i]);
	return strings;
}

static void
read_topics(IotMapping *mapping, int row)
{
	mapping->more_templates = array_column(row, COL_MORE_TOPICS, &mapping->more_count);
	mapping->more_topics = palloc(sizeof(int) * (mapping->more_count + 1));
	for (int i = 0; i < mapping->more_count; i++)
		mapping->more_topics[i] = -1;
	mapping->ignored_templates = array_column(row, COL_IGNORED_TOPICS, &mapping->ignored_count);
}

/* A path of its own, or NULL. */
static IotPath *
path_column(int row, int number)
{
	char	   *string = text_column(row, number);
	IotPath    *path;

	if (string == NULL)
		return NULL;
	path = palloc(sizeof(IotPath));
	(void) iot_path_parse(string, strlen(string), path, NULL);
	return path;
}

/* A path that ends in "*" leads to an object whose keys are the devices. */
static void
read_device_path(IotMapping *mapping, int row)
{
	IotPath    *path = path_column(row, COL_DEVICE_PATH);

	mapping->device_path = path;
	mapping->device_keys = path != NULL && path->count > 0 &&
		path->steps[path->count - 1].kind == IOT_PATH_ANY;
	if (mapping->device_keys)
		path->count--;
}

static void
read_time(IotMapping *mapping, int row)
{
	char	   *unit = text_column(row, COL_TIME_UNIT);
	char	   *zone = text_column(row, COL_TIME_ZONE);

	mapping->time_path = path_column(row, COL_TIME_PATH);
	mapping->time_unit_ms = strcmp(unit, "s") == 0 ? 1000 : 1;
	mapping->time_zone = zone == NULL ? NULL : pg_tzset(zone);
}

static void
read_status_words(IotMapping *mapping, int row)
{
	IotStatusWords words = {
		.path = path_column(row, COL_STATUS_PATH),
		.online = text_column(row, COL_ONLINE_WORD),
		.offline = text_column(row, COL_OFFLINE_WORD)
	};

	if (words.path == NULL && words.online == NULL && words.offline == NULL)
		return;
	mapping->status = palloc(sizeof(words));
	*mapping->status = words;
}

/* Adds the row's parameter; false where the row has none. */
static bool
read_value(IotMappedValue *value, int row)
{
	bool		isnull;
	char	   *path = text_column(row, COL_PATH);
	Datum		labels;

	if (path == NULL || !iot_path_parse(path, strlen(path), &value->path, NULL))
		return false;
	value->parameter = text_column(row, COL_PARAMETER);
	value->parameter_len = strlen(value->parameter);
	value->name = text_column(row, COL_NAME);
	value->name_len = strlen(value->name);
	value->scale = DatumGetFloat8(iot_column(row, COL_SCALE, &isnull));
	value->shift = DatumGetFloat8(iot_column(row, COL_SHIFT, &isnull));
	labels = iot_column(row, COL_LABELS, &isnull);
	value->labels = isnull ? NULL : iot_labels_make(labels);
	value->topic = text_column(row, COL_TOPIC);
	value->topic_len = value->topic == NULL ? 0 : strlen(value->topic);
	return true;
}

/* The mappings of all device types that have one, in the current memory context. */
IotMapping *
iot_mapping_read(int *count)
{
	int			rows = (int) iot_plan_execute(&select_mappings, NULL, NULL);
	IotMapping *mappings = palloc0(sizeof(IotMapping) * (rows + 1));
	IotMappedValue *values = palloc0(sizeof(IotMappedValue) * (rows + 1));
	IotMapping *mapping = NULL;

	*count = 0;
	for (int row = 0; row < rows; row++)
	{
		bool		isnull;
		pg_uuid_t  *device_type_id = DatumGetUUIDP(iot_column(row, COL_TYPE, &isnull));

		if (mapping == NULL ||
			memcmp(&mapping->device_type_id, device_type_id, sizeof(pg_uuid_t)) != 0)
		{
			mapping = &mappings[(*count)++];
			mapping->device_type_id = *device_type_id;
			mapping->values = &values[row];
			read_topics(mapping, row);
			read_status_words(mapping, row);
			read_device_path(mapping, row);
			mapping->only_device = text_column(row, COL_ONLY_DEVICE);
			read_time(mapping, row);
		}
		if (read_value(&mapping->values[mapping->value_count], row))
			mapping->value_count++;
	}
	SPI_freetuptable(SPI_tuptable);
	return mappings;
}

/* Whether the topic of that index is one of the further ones; mapping may be NULL. */
bool
iot_mapping_has_topic(const IotMapping *mapping, int topic)
{
	for (int i = 0; mapping != NULL && i < mapping->more_count; i++)
	{
		if (mapping->more_topics[i] == topic)
			return true;
	}
	return false;
}

/* Whether a parameter of it has that topic for itself. */
bool
iot_mapping_has_own_topic(const IotMapping *mapping, const char *topic, size_t len)
{
	for (int i = 0; i < mapping->value_count; i++)
	{
		const IotMappedValue *value = &mapping->values[i];

		if (value->topic != NULL && value->topic_len == len &&
			memcmp(value->topic, topic, len) == 0)
			return true;
	}
	return false;
}
