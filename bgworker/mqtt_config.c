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
	COL_BATCH_SIZE, COL_MAX_IN_FLIGHT, COL_DEVICE_CREDENTIALS,
	COL_LIVE_TOPICS, COL_STATE_TOPICS
};

static IotPlan read_config = {
	"SELECT c.* FROM iot_internal.adapter_config($1) c",
	1, {UUIDOID}
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

/* Adds a filter per topic template; retained copies are wanted where any template wants them. */
static void
add_filters(IotMqttConfig *config, HeapTuple row, TupleDesc desc, int column, bool retained)
{
	bool		isnull;
	Datum		array = SPI_getbinval(row, desc, column, &isnull);
	Datum	   *templates;
	int			count;

	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &templates, NULL, &count);
	if (config->filters == NULL)
		config->filters = palloc0(sizeof(IotMqttFilter) * Max(count, 1));
	else
		config->filters = repalloc(config->filters,
								   sizeof(IotMqttFilter) * (config->nfilters + count + 1));
	for (int i = 0; i < count; i++)
	{
		char	   *template = TextDatumGetCString(templates[i]);
		IotTopicTemplate parsed;
		const char *why = NULL;
		char		filter[IOT_TOPIC_MAX + 1];

		if (!iot_topic_template_parse(template, strlen(template), &parsed, &why) ||
			iot_topic_template_filter(&parsed, filter, sizeof(filter)) >= sizeof(filter))
		{
			set_error(config, "topic \"%.100s\" cannot be subscribed to", template);
			continue;
		}
		if (has_filter(config, filter))
			continue;
		config->filters[config->nfilters].filter = pstrdup(filter);
		config->filters[config->nfilters].retained = retained;
		config->nfilters++;
	}
}

/*
 * The adapter's configuration in a memory context of its own below TopMemoryContext, or NULL.
 * Called within a transaction, connected to SPI.
 */
IotMqttConfig *
iot_mqtt_config_read(const pg_uuid_t *adapter_id)
{
	Datum		values[1] = {UUIDPGetDatum(adapter_id)};
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
	/* below a minute, a batch held up by the database could cost the connection */
	config->keepalive = parse_number(config, "keepalive",
									 SPI_getvalue(row, desc, COL_KEEPALIVE), 60, 3600, 60);
	config->ca_file = SPI_getvalue(row, desc, COL_CA_FILE);
	config->cert_file = SPI_getvalue(row, desc, COL_CERT_FILE);
	config->key_file = SPI_getvalue(row, desc, COL_KEY_FILE);
	protocol = SPI_getvalue(row, desc, COL_PROTOCOL);
	config->v5 = protocol == NULL || strcmp(protocol, "3.1.1") != 0;
	if (protocol != NULL && config->v5 && strcmp(protocol, "5") != 0)
		set_error(config, "option \"protocol\" must be \"5\" or \"3.1.1\"");
	config->qos = parse_number(config, "qos", SPI_getvalue(row, desc, COL_QOS), 0, 1, 1);
	config->batch_size = parse_number(config, "batch_size",
									  SPI_getvalue(row, desc, COL_BATCH_SIZE), 1, 10000, 1000);
	config->max_in_flight = parse_number(config, "max_in_flight",
										 SPI_getvalue(row, desc, COL_MAX_IN_FLIGHT),
										 1, 10000, 1000);
	credentials = SPI_getvalue(row, desc, COL_DEVICE_CREDENTIALS);
	config->dynsec = credentials != NULL && strcmp(credentials, "dynsec") == 0;
	add_filters(config, row, desc, COL_STATE_TOPICS, true);
	add_filters(config, row, desc, COL_LIVE_TOPICS, false);
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
