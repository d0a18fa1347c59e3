/*
 * mqtt_config.c
 *		What a row of iot.adapter says, checked and ready for use.
 *
 * Rows are validated when written; what is checked here again is what a worker could not live
 * with.  A configuration that cannot be used is no error: it says why, and the worker idles.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "bgworker/mqtt_config.h"
#include "core/topic.h"
#include "plan.h"

enum
{
	COL_NAME = 1, COL_URL, COL_USERNAME, COL_PASSWORD_FILE, COL_PASSWORD, COL_CLIENT_ID,
	COL_KEEPALIVE, COL_CA_FILE, COL_CERT_FILE, COL_KEY_FILE, COL_PROTOCOL, COL_QOS,
	COL_BATCH_SIZE, COL_BATCH_TIME, COL_MAX_IN_FLIGHT, COL_DEVICE_CREDENTIALS, COL_PROCESSES,
	COL_REGISTERS, COL_DISCOVERY_PREFIX, COL_TOPICS, COL_SHARED_TOPICS, COL_OWN_TOPICS,
	COL_STATE_TOPICS, COL_SESSION_FILTERS
};

static IotPlan read_config = {
	"SELECT c.* FROM iot_internal.adapter_config($1, $2) c",
	2, {UUIDOID, INT4OID}
};

/* Notes the first thing that is wrong; later ones may only follow from it. */
static void
set_error(IotMqttConfig *config, const char *fmt,...) pg_attribute_printf(2, 3);

static void
set_error(IotMqttConfig *config, const char *fmt,...)
{
	char		buffer[256];
	va_list		args;

	if (config->error != NULL)
		return;
	va_start(args, fmt);
	vsnprintf(buffer, sizeof(buffer), fmt, args);
	va_end(args);
	config->error = pstrdup(buffer);
}

/* mqtt://host[:port] or mqtts://host[:port], the host a name, an address or [an IPv6 address]. */
static void
parse_url(IotMqttConfig *config)
{
	const char *rest;
	const char *end;
	const char *port = NULL;

	if (config->url != NULL && strncmp(config->url, "mqtt://", 7) == 0)
		rest = config->url + 7;
	else if (config->url != NULL && strncmp(config->url, "mqtts://", 8) == 0)
	{
		rest = config->url + 8;
		config->tls = true;
	}
	else
	{
		set_error(config, "the url is neither mqtt:// nor mqtts://");
		return;
	}
	if (strchr(rest, '@') != NULL)
	{
		set_error(config, "the url holds user information");
		return;
	}
	if (rest[0] == '[')
	{
		rest++;
		end = strchr(rest, ']');
		if (end != NULL && end[1] == ':')
			port = end + 2;
		else if (end != NULL && end[1] != '\0' && end[1] != '/')
			end = NULL;
	}
	else
	{
		end = rest + strcspn(rest, ":/");
		if (*end == ':')
			port = end + 1;
	}
	if (end == NULL || end == rest)
	{
		set_error(config, "the url names no host");
		return;
	}
	config->host = pnstrdup(rest, end - rest);
	config->port = config->tls ? 8883 : 1883;
	if (port != NULL)
	{
		char	   *tail;
		long		number = strtol(port, &tail, 10);

		if (tail == port || (*tail != '\0' && strcmp(tail, "/") != 0) ||
			number < 1 || number > 65535)
			set_error(config, "the url has no usable port");
		else
			config->port = (int) number;
	}
}

static int
parse_number(IotMqttConfig *config, const char *key, const char *text, int from, int to,
			 int otherwise)
{
	char	   *end;
	long		number;

	if (text == NULL)
		return otherwise;
	number = strtol(text, &end, 10);
	if (end == text || *end != '\0' || number < from || number > to)
	{
		set_error(config, "option \"%s\" must be between %d and %d", key, from, to);
		return otherwise;
	}
	return (int) number;
}

/* Elements of a text array of the row, as strings. */
static char **
text_array(HeapTuple row, TupleDesc desc, int column, int *count)
{
	bool		isnull;
	Datum		array = SPI_getbinval(row, desc, column, &isnull);
	Datum	   *elements;
	char	  **texts;

	*count = 0;
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, count);
	texts = palloc(sizeof(char *) * (*count + 1));
	for (int i = 0; i < *count; i++)
		texts[i] = TextDatumGetCString(elements[i]);
	return texts;
}

/* The same of templates, as the filters that cover all devices. */
static char **
filter_array(IotMqttConfig *config, HeapTuple row, TupleDesc desc, int column, int *count)
{
	int			size;
	char	  **templates = text_array(row, desc, column, &size);

	*count = 0;
	for (int i = 0; i < size; i++)
	{
		IotTopicTemplate parsed;
		char		filter[IOT_TOPIC_MAX + 1];

		if (!iot_topic_template_parse(templates[i], strlen(templates[i]), IOT_TOPIC_MAY_ALL, &parsed,
									  NULL) ||
			iot_topic_template_filter(&parsed, filter, sizeof(filter)) >= sizeof(filter))
			set_error(config, "topic \"%.100s\" cannot be subscribed to", templates[i]);
		else
			templates[(*count)++] = pstrdup(filter);
	}
	return templates;
}

static bool
overlaps(const char *filter, char **others, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (iot_topic_filters_overlap(filter, strlen(filter), others[i], strlen(others[i])))
			return true;
	}
	return false;
}

static bool
has_filter(const IotMqttConfig *config, const char *filter)
{
	for (int i = 0; i < config->nfilters; i++)
	{
		if (strcmp(config->filters[i].filter, filter) == 0)
			return true;
	}
	return false;
}

/*
 * Says what this process subscribes to.  Several processes share what is telemetry alone; what else
 * may come by a filter, answers to commands above all, is the first one's.
 */
static void
choose_filters(IotMqttConfig *config, const pg_uuid_t *adapter_id, HeapTuple row, TupleDesc desc)
{
	enum
	{
		GIVEN, SHARED, OWN, STATE, SOURCES
	};
	char	  **sources[SOURCES];
	int			counts[SOURCES];
	char	  **recorded;
	int			nrecorded;
	int			size = 1;
	bool		isnull;

	(void) SPI_getbinval(row, desc, COL_TOPICS, &isnull);
	sources[GIVEN] = text_array(row, desc, COL_TOPICS, &counts[GIVEN]);
	sources[SHARED] = filter_array(config, row, desc, COL_SHARED_TOPICS, &counts[SHARED]);
	sources[OWN] = filter_array(config, row, desc, COL_OWN_TOPICS, &counts[OWN]);
	sources[STATE] = filter_array(config, row, desc, COL_STATE_TOPICS, &counts[STATE]);
	for (int source = 0; source < SOURCES; source++)
		size += counts[source];
	config->filters = palloc0(sizeof(IotMqttFilter) * size);
	for (int source = 0; source < SOURCES; source++)
	{
		/* filters that are given replace those of the device types */
		if ((source == GIVEN) == isnull || config->number > config->processes)
			continue;
		for (int i = 0; i < counts[source]; i++)
		{
			char	   *filter = sources[source][i];
			bool		retained;
			bool		own;

			CHECK_FOR_INTERRUPTS();
			retained = overlaps(filter, sources[STATE], counts[STATE]);
			own = retained || config->processes == 1 ||
				overlaps(filter, sources[OWN], counts[OWN]);

			if (own && config->number > 1)
				continue;
			if (!own)
				filter = psprintf("$share/iot-%s/%s",
								  DatumGetCString(DirectFunctionCall1(uuid_out,
																	  UUIDPGetDatum(adapter_id))),
								  filter);
			if (has_filter(config, filter))
				continue;
			config->filters[config->nfilters].filter = filter;
			config->filters[config->nfilters].retained = retained;
			config->nfilters++;
		}
	}
	recorded = text_array(row, desc, COL_SESSION_FILTERS, &nrecorded);
	config->stale = palloc(sizeof(char *) * (nrecorded + 1));
	for (int i = 0; i < nrecorded; i++)
	{
		if (!has_filter(config, recorded[i]))
			config->stale[config->nstale++] = recorded[i];
	}
}

/*
 * The adapter's configuration in a memory context of its own below TopMemoryContext, or NULL.
 * Called within a transaction, connected to SPI.  Of one whose fingerprint is known, the filters are left
 * out: there may be thousands, and this is called each second.
 */
IotMqttConfig *
iot_mqtt_config_read(const pg_uuid_t *adapter_id, int number, const char *known)
{
	Datum		values[2] = {UUIDPGetDatum(adapter_id), Int32GetDatum(number)};
	MemoryContext context;
	MemoryContext old;
	IotMqttConfig *config;
	HeapTuple	row;
	TupleDesc	desc;
	StringInfoData fingerprint;
	char	   *protocol;
	char	   *credentials;

	if (iot_plan_execute(&read_config, values, NULL) != 1)
		return NULL;
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	context = AllocSetContextCreate(CurrentMemoryContext, "iot mqtt configuration",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	config = palloc0(sizeof(IotMqttConfig));
	config->context = context;

	initStringInfo(&fingerprint);
	for (int column = COL_NAME; column <= COL_STATE_TOPICS; column++)
	{
		char	   *text = SPI_getvalue(row, desc, column);

		if (column == COL_SHARED_TOPICS)
			config->settings_len = fingerprint.len;
		appendStringInfo(&fingerprint, "%c%s", text == NULL ? '-' : '+', text ? text : "");
		appendStringInfoChar(&fingerprint, '\x1f');
	}
	config->fingerprint = fingerprint.data;
	config->name = SPI_getvalue(row, desc, COL_NAME);
	config->url = SPI_getvalue(row, desc, COL_URL);
	parse_url(config);
	config->username = SPI_getvalue(row, desc, COL_USERNAME);
	config->password_file = SPI_getvalue(row, desc, COL_PASSWORD_FILE);
	config->password = SPI_getvalue(row, desc, COL_PASSWORD);
	config->client_id = SPI_getvalue(row, desc, COL_CLIENT_ID);
	if (config->client_id == NULL)
		config->client_id = psprintf("iot-%s", DatumGetCString(DirectFunctionCall1(uuid_out,
																values[0])));
	if (number > 1)
		config->client_id = psprintf("%s-%d", config->client_id, number);
	config->number = number;
	config->processes = parse_number(config, "processes", SPI_getvalue(row, desc, COL_PROCESSES),
									 1, 16, 1);
	config->strangers.register_themselves = SPI_getvalue(row, desc, COL_REGISTERS) != NULL;
	config->strangers.discovery_prefix = SPI_getvalue(row, desc, COL_DISCOVERY_PREFIX);
	/* the broker waits 1.5 times as long for a batch that the database holds up: hence a minute */
	config->keepalive = parse_number(config, "keepalive",
									 SPI_getvalue(row, desc, COL_KEEPALIVE), 10, 3600, 60);
	config->ca_file = SPI_getvalue(row, desc, COL_CA_FILE);
	config->cert_file = SPI_getvalue(row, desc, COL_CERT_FILE);
	config->key_file = SPI_getvalue(row, desc, COL_KEY_FILE);
	protocol = SPI_getvalue(row, desc, COL_PROTOCOL);
	config->v5 = protocol == NULL || strcmp(protocol, "3.1.1") != 0;
	if (protocol != NULL && config->v5 && strcmp(protocol, "5") != 0)
		set_error(config, "option \"protocol\" must be \"5\" or \"3.1.1\"");
	config->qos = parse_number(config, "qos", SPI_getvalue(row, desc, COL_QOS), 0, 1, 1);
	config->batch_size = parse_number(config, "batch_size",
									  SPI_getvalue(row, desc, COL_BATCH_SIZE), 1, 10000,
									  IOT_BATCH_SIZE);
	config->batch_time = parse_number(config, "batch_time",
									  SPI_getvalue(row, desc, COL_BATCH_TIME), 0, 10000,
									  IOT_BATCH_TIME_MS);
	config->max_in_flight = parse_number(config, "max_in_flight",
										 SPI_getvalue(row, desc, COL_MAX_IN_FLIGHT),
										 1, 10000, 1000);
	credentials = SPI_getvalue(row, desc, COL_DEVICE_CREDENTIALS);
	config->dynsec = number == 1 && credentials != NULL && strcmp(credentials, "dynsec") == 0;
	if (known == NULL || strcmp(known, config->fingerprint) != 0)
		choose_filters(config, adapter_id, row, desc);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, TopMemoryContext);
	return config;
}

void
iot_mqtt_config_free(IotMqttConfig *config)
{
	if (config != NULL)
		MemoryContextDelete(config->context);
}
