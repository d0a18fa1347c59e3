/*
 * options.c
 *		The simulator's command line, and the list of devices it asks for.
 */
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static const char *const usage_text =
"iot-sim plays devices that speak MQTT.\n"
"\n"
"Broker:    --host NAME  --port N  --user NAME  --password-file FILE\n"
"           --ca-file FILE  --cert-file FILE  --key-file FILE\n"
"           --protocol 5|3.1.1  --client-id ID  --persistent  --keepalive S  --qos 0|1\n"
"           --connection-per-device    one connection, and one last will, for each;\n"
"           user \"{device}\" means the device's name then\n"
"           --credentials FILE    the same, with lines of DEVICE USER PASSWORD\n"
"Devices:   --devices A,B,C    or    --prefix NAME --count N\n"
"Topics:    --telemetry-topic T  --attributes-topic T  --status-topic T\n"
"           --command-topic T  --ack-topic T    with {device} for the name\n"
"Telemetry: --parameters NAME[=VALUE],...  --rate MESSAGES_PER_S|max  --messages N\n"
"           --jitter STEP  --attributes JSON  --exit-when-done\n"
"Commands:  --refuse-above X  --refuse-below X  --silent  --silent-share 0..1\n"
"           --ignore-first N    the first N deliveries of each command get no answer\n"
"           --delay-ms N  --delay-max-ms N  --answers N  --reorder N\n"
"           --drop-seen    an id that was carried out is only answered again\n"
"           --state FILE    remembers those ids over a restart\n"
"           --echo    reports the new value instead of answering\n"
"           --answer-as DEVICE\n"
"Run:       --seed N  --duration S  --log FILE    one JSON object a line\n"
"           --log-telemetry\n";

static void fail(const char *format,...) __attribute__((noreturn, format(printf, 1, 2)));

static void
fail(const char *format,...)
{
	va_list		args;

	fputs("iot-sim: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs("\n", stderr);
	exit(2);
}

static double
number(const char *name, const char *text)
{
	char	   *end;
	double		value = strtod(text, &end);

	if (end == text || *end != '\0' || !isfinite(value))
		fail("--%s: \"%s\" is not a number", name, text);
	return value;
}

static long
integer(const char *name, const char *text, long low, long high)
{
	char	   *end;
	long		value = strtol(text, &end, 10);

	if (end == text || *end != '\0' || value < low || value > high)
		fail("--%s: \"%s\" is not a whole number from %ld to %ld", name, text, low, high);
	return value;
}

static void
topic(const char *name, const char *text, IotTopicTemplate *parsed)
{
	const char *error = NULL;

	if (!iot_topic_template_parse(text, strlen(text), 0, parsed, &error))
		fail("--%s: %s", name, error ? error : "not a topic");
}

/* First line of the file. */
static char *
read_password(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char		line[1024];

	if (file == NULL || fgets(line, sizeof(line), file) == NULL)
		fail("could not read the password from \"%s\"", path);
	fclose(file);
	line[strcspn(line, "\r\n")] = '\0';
	return strdup(line);
}

/* Gives each device what the file says it logs in with; every one must be there. */
static void
read_credentials(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char		name[IOT_DEVICE_NAME_MAX + 1];
	char		user[256];
	char		password[256];

	if (file == NULL)
		fail("could not read credentials from \"%s\"", path);
	while (fscanf(file, "%64s %255s %255s", name, user, password) == 3)
	{
		for (int i = 0; i < sim.device_count; i++)
		{
			SimDevice  *device = &sim.devices[i];

			if (strcmp(device->name, name) != 0)
				continue;
			device->user = strdup(user);
			device->password = strdup(password);
		}
	}
	fclose(file);
	for (int i = 0; i < sim.device_count; i++)
	{
		if (sim.devices[i].user == NULL)
			fail("\"%s\" has no credential for device \"%s\"", path, sim.devices[i].name);
	}
}

static void
add_device(const char *name)
{
	SimDevice  *device;

	if (!iot_device_name_valid(name, strlen(name)))
		fail("\"%s\" is not a device name", name);
	if ((sim.device_count & (sim.device_count - 1)) == 0)
	{
		size_t		room = sim.device_count == 0 ? 1 : (size_t) sim.device_count * 2;

		sim.devices = realloc(sim.devices, room * sizeof(SimDevice));
		if (sim.devices == NULL)
			fail("out of memory");
	}
	device = &sim.devices[sim.device_count++];
	memset(device, 0, sizeof(*device));
	strcpy(device->name, name);
}

/* "temperature=21,humidity" */
static void
parse_parameters(char *text)
{
	char	   *next = text;
	char	   *item;

	while ((item = strsep(&next, ",")) != NULL)
	{
		char	   *value = strchr(item, '=');

		if (sim.opt.parameter_count == SIM_PARAMETERS_MAX)
			fail("more than %d parameters", SIM_PARAMETERS_MAX);
		if (value != NULL)
			*value++ = '\0';
		sim.opt.initial[sim.opt.parameter_count] = value ? number("parameters", value) : 20.0;
		sim.opt.parameters[sim.opt.parameter_count++] = item;
	}
}

enum
{
	O_HOST = 256, O_PORT, O_USER, O_PASSWORD_FILE, O_CA_FILE, O_CERT_FILE, O_KEY_FILE, O_PROTOCOL,
	O_CLIENT_ID, O_PERSISTENT, O_KEEPALIVE, O_QOS, O_LINKS, O_CREDENTIALS, O_DEVICES, O_PREFIX, O_COUNT,
	O_TELEMETRY_TOPIC, O_ATTRIBUTES_TOPIC, O_STATUS_TOPIC, O_COMMAND_TOPIC, O_ACK_TOPIC,
	O_PARAMETERS, O_RATE, O_MESSAGES, O_JITTER, O_ATTRIBUTES, O_EXIT_WHEN_DONE, O_REFUSE_ABOVE,
	O_REFUSE_BELOW, O_SILENT, O_SILENT_SHARE, O_IGNORE_FIRST, O_DELAY, O_DELAY_MAX, O_ANSWERS,
	O_REORDER, O_DROP_SEEN, O_STATE, O_ECHO, O_ANSWER_AS, O_SEED, O_DURATION, O_LOG,
	O_LOG_TELEMETRY, O_HELP
};

static const struct option long_options[] = {
	{"host", required_argument, NULL, O_HOST},
	{"port", required_argument, NULL, O_PORT},
	{"user", required_argument, NULL, O_USER},
	{"password-file", required_argument, NULL, O_PASSWORD_FILE},
	{"ca-file", required_argument, NULL, O_CA_FILE},
	{"cert-file", required_argument, NULL, O_CERT_FILE},
	{"key-file", required_argument, NULL, O_KEY_FILE},
	{"protocol", required_argument, NULL, O_PROTOCOL},
	{"client-id", required_argument, NULL, O_CLIENT_ID},
	{"persistent", no_argument, NULL, O_PERSISTENT},
	{"keepalive", required_argument, NULL, O_KEEPALIVE},
	{"qos", required_argument, NULL, O_QOS},
	{"connection-per-device", no_argument, NULL, O_LINKS},
	{"credentials", required_argument, NULL, O_CREDENTIALS},
	{"devices", required_argument, NULL, O_DEVICES},
	{"prefix", required_argument, NULL, O_PREFIX},
	{"count", required_argument, NULL, O_COUNT},
	{"telemetry-topic", required_argument, NULL, O_TELEMETRY_TOPIC},
	{"attributes-topic", required_argument, NULL, O_ATTRIBUTES_TOPIC},
	{"status-topic", required_argument, NULL, O_STATUS_TOPIC},
	{"command-topic", required_argument, NULL, O_COMMAND_TOPIC},
	{"ack-topic", required_argument, NULL, O_ACK_TOPIC},
	{"parameters", required_argument, NULL, O_PARAMETERS},
	{"rate", required_argument, NULL, O_RATE},
	{"messages", required_argument, NULL, O_MESSAGES},
	{"jitter", required_argument, NULL, O_JITTER},
	{"attributes", required_argument, NULL, O_ATTRIBUTES},
	{"exit-when-done", no_argument, NULL, O_EXIT_WHEN_DONE},
	{"refuse-above", required_argument, NULL, O_REFUSE_ABOVE},
	{"refuse-below", required_argument, NULL, O_REFUSE_BELOW},
	{"silent", no_argument, NULL, O_SILENT},
	{"silent-share", required_argument, NULL, O_SILENT_SHARE},
	{"ignore-first", required_argument, NULL, O_IGNORE_FIRST},
	{"delay-ms", required_argument, NULL, O_DELAY},
	{"delay-max-ms", required_argument, NULL, O_DELAY_MAX},
	{"answers", required_argument, NULL, O_ANSWERS},
	{"reorder", required_argument, NULL, O_REORDER},
	{"drop-seen", no_argument, NULL, O_DROP_SEEN},
	{"state", required_argument, NULL, O_STATE},
	{"echo", no_argument, NULL, O_ECHO},
	{"answer-as", required_argument, NULL, O_ANSWER_AS},
	{"seed", required_argument, NULL, O_SEED},
	{"duration", required_argument, NULL, O_DURATION},
	{"log", required_argument, NULL, O_LOG},
	{"log-telemetry", no_argument, NULL, O_LOG_TELEMETRY},
	{"help", no_argument, NULL, O_HELP},
	{NULL, 0, NULL, 0}
};

static void
set_defaults(SimOptions *opt)
{
	opt->host = "127.0.0.1";
	opt->port = 1883;
	opt->v5 = true;
	opt->qos = 1;
	opt->keepalive = 60;
	opt->jitter = 0.1;
	opt->seed = 1;
	opt->refuse_above = INFINITY;
	opt->refuse_below = -INFINITY;
	opt->answers = 1;
	topic("telemetry-topic", "iot/{device}/telemetry", &opt->telemetry_topic);
	topic("attributes-topic", "iot/{device}/attributes", &opt->attributes_topic);
	topic("status-topic", "iot/{device}/status", &opt->status_topic);
	topic("command-topic", "iot/{device}/command", &opt->command_topic);
	topic("ack-topic", "iot/{device}/command/ack", &opt->ack_topic);
}

/* Options that take no value or a plain one; false where it is another's. */
static bool
parse_behaviour(SimOptions *opt, int option, const char *name, const char *value)
{
	switch (option)
	{
		case O_REFUSE_ABOVE:
			opt->refuse_above = number(name, value);
			return true;
		case O_REFUSE_BELOW:
			opt->refuse_below = number(name, value);
			return true;
		case O_SILENT:
			opt->silent_share = 1;
			return true;
		case O_SILENT_SHARE:
			opt->silent_share = number(name, value);
			return true;
		case O_IGNORE_FIRST:
			opt->ignore_first = (int) integer(name, value, 0, 1000);
			return true;
		case O_DELAY:
			opt->delay_ms = (uint32_t) integer(name, value, 0, 86400000);
			return true;
		case O_DELAY_MAX:
			opt->delay_max_ms = (uint32_t) integer(name, value, 0, 86400000);
			return true;
		case O_ANSWERS:
			opt->answers = (int) integer(name, value, 0, 100);
			return true;
		case O_REORDER:
			opt->reorder = (int) integer(name, value, 0, 1000);
			return true;
		case O_DROP_SEEN:
			opt->drop_seen = true;
			return true;
		case O_STATE:
			opt->state_file = value;
			return true;
		case O_ECHO:
			opt->echo = true;
			return true;
		case O_ANSWER_AS:
			opt->answer_as = value;
			return true;
		default:
			return false;
	}
}

static bool
parse_telemetry(SimOptions *opt, int option, const char *name, char *value)
{
	switch (option)
	{
		case O_PARAMETERS:
			parse_parameters(value);
			return true;
		case O_RATE:
			opt->rate = strcmp(value, "max") == 0 ? -1 : number(name, value);
			return true;
		case O_MESSAGES:
			opt->messages = (uint64_t) integer(name, value, 0, 1000000000);
			return true;
		case O_JITTER:
			opt->jitter = number(name, value);
			return true;
		case O_ATTRIBUTES:
			opt->attributes = value;
			return true;
		case O_EXIT_WHEN_DONE:
			opt->exit_when_done = true;
			return true;
		case O_TELEMETRY_TOPIC:
			topic(name, value, &opt->telemetry_topic);
			return true;
		case O_ATTRIBUTES_TOPIC:
			topic(name, value, &opt->attributes_topic);
			return true;
		case O_STATUS_TOPIC:
			topic(name, value, &opt->status_topic);
			return true;
		case O_COMMAND_TOPIC:
			topic(name, value, &opt->command_topic);
			return true;
		case O_ACK_TOPIC:
			topic(name, value, &opt->ack_topic);
			return true;
		default:
			return false;
	}
}

static bool
parse_broker(SimOptions *opt, int option, const char *name, const char *value)
{
	switch (option)
	{
		case O_HOST:
			opt->host = value;
			return true;
		case O_PORT:
			opt->port = (int) integer(name, value, 1, 65535);
			return true;
		case O_USER:
			opt->user = value;
			return true;
		case O_PASSWORD_FILE:
			opt->password = read_password(value);
			return true;
		case O_CA_FILE:
			opt->ca_file = value;
			return true;
		case O_CERT_FILE:
			opt->cert_file = value;
			return true;
		case O_KEY_FILE:
			opt->key_file = value;
			return true;
		case O_PROTOCOL:
			if (strcmp(value, "5") != 0 && strcmp(value, "3.1.1") != 0)
				fail("--protocol: \"%s\" is neither 5 nor 3.1.1", value);
			opt->v5 = strcmp(value, "5") == 0;
			return true;
		case O_CLIENT_ID:
			opt->client_id = value;
			return true;
		case O_PERSISTENT:
			opt->persistent = true;
			return true;
		case O_KEEPALIVE:
			opt->keepalive = (int) integer(name, value, 5, 3600);
			return true;
		case O_QOS:
			opt->qos = (int) integer(name, value, 0, 1);
			return true;
		case O_LINKS:
			opt->link_per_device = true;
			return true;
		case O_CREDENTIALS:
			opt->credentials = value;
			opt->link_per_device = true;
			return true;
		default:
			return false;
	}
}

/* Fills sim.opt and sim.devices, or explains and ends the program. */
void
sim_parse_options(int argc, char **argv)
{
	SimOptions *opt = &sim.opt;
	const char *prefix = "device-";
	long		count = 0;
	int			option;
	int			at = 0;

	set_defaults(opt);
	while ((option = getopt_long(argc, argv, "", long_options, &at)) != -1)
	{
		const char *name = option == '?' ? "" : long_options[at].name;
		char	   *next = optarg;
		char	   *item;

		if (option == '?')
			exit(2);
		if (parse_broker(opt, option, name, optarg) || parse_telemetry(opt, option, name, optarg) ||
			parse_behaviour(opt, option, name, optarg))
			continue;
		switch (option)
		{
			case O_DEVICES:
				while ((item = strsep(&next, ",")) != NULL)
					add_device(item);
				break;
			case O_PREFIX:
				prefix = optarg;
				break;
			case O_COUNT:
				count = integer(name, optarg, 1, 1000000);
				break;
			case O_SEED:
				opt->seed = (uint64_t) integer(name, optarg, 0, 1000000000);
				break;
			case O_DURATION:
				opt->duration = number(name, optarg);
				break;
			case O_LOG:
				opt->log_file = optarg;
				break;
			case O_LOG_TELEMETRY:
				opt->log_telemetry = true;
				break;
			case O_HELP:
				fputs(usage_text, stdout);
				exit(0);
		}
	}
	if (optind < argc)
		fail("unexpected argument \"%s\"", argv[optind]);
	for (long i = 1; i <= count; i++)
	{
		char		name[128];

		snprintf(name, sizeof(name), "%s%ld", prefix, i);
		add_device(name);
	}
	if (sim.device_count == 0)
		fail("no devices: give --devices, or --prefix and --count");
	if (opt->credentials != NULL)
		read_credentials(opt->credentials);
	if (opt->parameter_count == 0)
	{
		opt->initial[0] = 20.0;
		opt->parameters[opt->parameter_count++] = "temperature";
	}
	if (opt->delay_max_ms < opt->delay_ms)
		opt->delay_max_ms = opt->delay_ms;
	if (opt->silent_share < 0 || opt->silent_share > 1)
		fail("--silent-share is a share from 0 to 1");
	for (int i = 0; i < sim.device_count; i++)
	{
		SimDevice  *device = &sim.devices[i];

		/* spread the seed, and never start at 0, where the sequence would stay */
		device->random = (opt->seed * UINT64_C(0x9E3779B97F4A7C15)) ^
			((uint64_t) (i + 1) * UINT64_C(0xBF58476D1CE4E5B9));
		if (device->random == 0)
			device->random = 1;
		memcpy(device->values, opt->initial, sizeof(device->values));
	}
}
