/*
 * mqtt_dynsec.c
 *		Talking with a broker's dynamic security plugin about device credentials.
 *
 * Runs in an adapter's process whose row asks for it.  What is said, and what an answer means, is
 * decided in SQL (sql/20_dynsec.sql); here is one request at a time over the plugin's control topic,
 * until its answer has come or is overdue.  Nothing waits for it: commands and telemetry go on.
 *
 * The plugin sends its answers to whoever is subscribed, so that those to other administrators come
 * too: ours holds the tag of our request.  An answer may confirm a password, and a request may hold
 * one: neither is logged.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "bgworker/mqtt_dynsec.h"
#include "bgworker/mqtt_link.h"
#include "bgworker/worker.h"
#include "core/backoff.h"
#include "iot.h"
#include "plan.h"

#define CONTROL_TOPIC		"$CONTROL/dynamic-security/v1"
#define RESPONSE_TOPIC		CONTROL_TOPIC "/response"
#define WAKE_SPACING_MS		100		/* others are woken by what wakes us */
#define ANSWER_TIMEOUT_MS	10000
#define REQUEST_EXPIRY_S	10
#define BACKOFF_BASE_MS		1000
#define BACKOFF_CAP_MS		60000
#define COMMANDS_MAX		100
#define COMMANDS_START		20
#define ANSWER_GOAL_MS		100
#define TAG_SIZE			40

typedef enum DynsecState
{
	DYNSEC_OFF,					/* not wanted, or no connection */
	DYNSEC_SUBSCRIBING,
	DYNSEC_READY,				/* the next turn may ask */
	DYNSEC_ASKED,
	DYNSEC_RESTING				/* after a failure */
} DynsecState;

static struct
{
	DynsecState state;
	int			mid;			/* of the subscription or the request on its way */
	int64		since;			/* when that began; by the worker's clock, like the others */
	int64		looked_at;
	int64		rest_until;		/* 0: no rest has begun */
	bool		begins;			/* the next turn is the first of a talk */
	bool		again;			/* and should come at once */
	bool		woken;			/* since the last look */
	bool		failing;		/* said in the log */
	int			max_commands;
	char		tag[TAG_SIZE];
	IotBackoff	backoff;

	/* written by callbacks */
	bool		subscribed;
	const char *refused;
	char	   *answer;			/* malloc'ed, NUL-terminated */
}			dynsec;

typedef struct TurnJob
{
	const pg_uuid_t *adapter_id;
	bool		begins;
	const char *answer;
	const char *error;
	int			max_commands;
	MemoryContext context;
	char	   *request;		/* NULL: nothing to ask */
} TurnJob;

static IotPlan turn = {
	"SELECT iot_internal.dynsec_turn($1, $2, $3, $4, $5)",
	5, {UUIDOID, BOOLOID, TEXTOID, TEXTOID, INT4OID}
};

bool
iot_dynsec_message(const char *topic, const void *payload, size_t payload_len)
{
	char	   *text;

	if (strcmp(topic, RESPONSE_TOPIC) != 0)
		return false;
	if (dynsec.state != DYNSEC_ASKED || dynsec.answer != NULL)
		return true;
	text = malloc(payload_len + 1);
	if (text == NULL)
		return true;			/* overdue, then */
	memcpy(text, payload, payload_len);
	text[payload_len] = '\0';
	if (strstr(text, dynsec.tag) != NULL)
		dynsec.answer = text;
	else
		free(text);
	return true;
}

bool
iot_dynsec_subscribed(int mid, int granted)
{
	if (dynsec.state != DYNSEC_SUBSCRIBING || mid != dynsec.mid)
		return false;
	dynsec.mid = 0;
	if (granted >= 0x80)
		dynsec.refused = "the adapter's user may not read the plugin's answers";
	else
		dynsec.subscribed = true;
	return true;
}

bool
iot_dynsec_published(int mid, int reason)
{
	if (dynsec.state != DYNSEC_ASKED || mid != dynsec.mid)
		return false;
	dynsec.mid = 0;				/* the number is free for a command */
	/* "nobody is subscribed" is the usual answer: the broker itself takes these */
	if (reason == 0x87)
		dynsec.refused = "the adapter's user may not write to the plugin";
	else if (reason >= 0x80)
		dynsec.refused = "the broker does not take the request; is the plugin loaded?";
	return true;
}

static void
forget_answer(void)
{
	free(dynsec.answer);
	dynsec.answer = NULL;
	dynsec.refused = NULL;
	dynsec.subscribed = false;
}

/* Begins a talk with the plugin by subscribing to its answers. */
static void
start_talk(void)
{
	forget_answer();
	dynsec.begins = true;
	dynsec.again = true;
	dynsec.since = iot_worker_clock_ms();
	dynsec.state = iot_link_subscribe(RESPONSE_TOPIC, &dynsec.mid) ?
		DYNSEC_SUBSCRIBING : DYNSEC_OFF;
}

void
iot_dynsec_link_up(const IotMqttConfig *config)
{
	if (!config->dynsec)
		return;
	iot_backoff_init(&dynsec.backoff, BACKOFF_BASE_MS, BACKOFF_CAP_MS,
					 (uint64) MyProcPid << 32 ^ (uint64) GetCurrentTimestamp());
	dynsec.max_commands = COMMANDS_START;
	start_talk();
}

void
iot_dynsec_link_down(void)
{
	forget_answer();
	dynsec.state = DYNSEC_OFF;
}

static void
turn_body(void *arg)
{
	TurnJob    *job = arg;
	Datum		values[5];
	char		nulls[] = "     ";
	bool		isnull;
	Datum		request;

	values[0] = UUIDPGetDatum(job->adapter_id);
	values[1] = BoolGetDatum(job->begins);
	values[2] = values[3] = (Datum) 0;
	if (job->answer != NULL)
		/* raises where it is not UTF-8 */
		values[2] = CStringGetTextDatum(pg_any_to_server(job->answer, strlen(job->answer),
														 PG_UTF8));
	else
		nulls[2] = 'n';
	if (job->error != NULL)
		values[3] = CStringGetTextDatum(job->error);
	else
		nulls[3] = 'n';
	values[4] = Int32GetDatum(job->max_commands);
	iot_plan_execute(&turn, values, nulls);
	request = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(job->context);
		char	   *string = TextDatumGetCString(request);

		job->request = pg_server_to_any(string, strlen(string), PG_UTF8);
		MemoryContextSwitchTo(old);
	}
}

/* Gives the talk up for a while: once in the log, and in iot.dynsec for iot.check(). */
static void
fail(const IotMqttConfig *config, const pg_uuid_t *adapter_id, const char *error)
{
	TurnJob		job = {.adapter_id = adapter_id, .error = error};

	if (!dynsec.failing)
		ereport(LOG,
				(errmsg("adapter \"%s\" cannot keep device credentials at its broker: %s",
						config->name, error)));
	dynsec.failing = true;
	(void) iot_try_xact("note failure of dynamic security", 0, turn_body, &job, NULL);
	forget_answer();
	dynsec.state = DYNSEC_RESTING;
	dynsec.rest_until = iot_worker_clock_ms() + iot_backoff_next(&dynsec.backoff);
}

/*
 * So many commands at a time that the broker is not held up for long, since the plugin writes its
 * whole file for each; and then as long a rest, in which the broker is there for the others.
 */
static void
give_way(void)
{
	int64		now = iot_worker_clock_ms();
	int64		took = now - dynsec.since;

	dynsec.rest_until = now + took;
	if (took > ANSWER_GOAL_MS)
		dynsec.max_commands = Max(dynsec.max_commands / 2, 1);
	else if (took < ANSWER_GOAL_MS / 2)
		dynsec.max_commands = Min(dynsec.max_commands + 5, COMMANDS_MAX);
}

/* Takes in what has come, and asks what is to be asked next. */
static void
ask(const IotMqttConfig *config, const pg_uuid_t *adapter_id)
{
	IotXactError error = {0};
	TurnJob		job = {
		.adapter_id = adapter_id,
		.begins = dynsec.begins,
		.answer = dynsec.answer,
		.max_commands = dynsec.max_commands,
		.context = CurrentMemoryContext
	};
	IotXactOutcome outcome = iot_try_xact("keep device credentials", 0, turn_body, &job, &error);
	char	   *payload;

	if (outcome == IOT_XACT_IDLE)
	{
		/* the connection is about to be closed, too */
		iot_dynsec_link_down();
		return;
	}
	if (outcome != IOT_XACT_DONE)
	{
		fail(config, adapter_id, error.message);
		return;
	}
	if (dynsec.answer != NULL)
	{
		/* the plugin speaks with us */
		iot_backoff_reset(&dynsec.backoff);
		if (dynsec.failing)
			ereport(LOG,
					(errmsg("adapter \"%s\" keeps device credentials at its broker again",
							config->name)));
		dynsec.failing = false;
	}
	forget_answer();
	dynsec.begins = false;
	dynsec.again = false;
	dynsec.woken = false;
	dynsec.state = DYNSEC_READY;
	dynsec.looked_at = iot_worker_clock_ms();
	if (job.request == NULL)
		return;
	payload = strchr(job.request, '\n');
	if (payload == NULL)
	{
		dynsec.again = true;
		return;
	}
	*payload++ = '\0';
	strlcpy(dynsec.tag, job.request, sizeof(dynsec.tag));
	dynsec.since = iot_worker_clock_ms();
	dynsec.rest_until = 0;
	dynsec.state = DYNSEC_ASKED;
	if (iot_link_publish(CONTROL_TOPIC, payload, REQUEST_EXPIRY_S, &dynsec.mid) !=
		IOT_PUBLISH_QUEUED)
		dynsec.refused = "the request could not be sent";
	explicit_bzero(payload, strlen(payload));
}

static int64
look_interval(void)
{
	return dynsec.woken ? Min(WAKE_SPACING_MS, iot_poll_interval) : iot_poll_interval;
}

/* To be called each turn of the worker's loop, before what waits is written to the broker. */
void
iot_dynsec_turn(const IotMqttConfig *config, const pg_uuid_t *adapter_id, bool woken)
{
	if (dynsec.state == DYNSEC_OFF || iot_link_state() != IOT_LINK_UP)
		return;
	dynsec.woken |= woken;
	if (dynsec.refused != NULL)
		fail(config, adapter_id, dynsec.refused);
	switch (dynsec.state)
	{
		case DYNSEC_OFF:
			break;
		case DYNSEC_SUBSCRIBING:
			if (dynsec.subscribed)
				ask(config, adapter_id);
			else if (iot_worker_passed(dynsec.since, ANSWER_TIMEOUT_MS))
				fail(config, adapter_id, "the broker does not answer a subscription");
			break;
		case DYNSEC_READY:
			if (dynsec.again || iot_worker_passed(dynsec.looked_at, look_interval()))
				ask(config, adapter_id);
			break;
		case DYNSEC_ASKED:
			if (dynsec.answer != NULL)
			{
				if (dynsec.rest_until == 0)
					give_way();
				if (iot_worker_clock_ms() >= dynsec.rest_until)
					ask(config, adapter_id);
			}
			else if (iot_worker_passed(dynsec.since, ANSWER_TIMEOUT_MS))
				fail(config, adapter_id, "the dynamic security plugin does not answer; is it loaded?");
			break;
		case DYNSEC_RESTING:
			if (iot_worker_clock_ms() >= dynsec.rest_until)
				start_talk();
			break;
	}
}

/* How long nothing will have to be done unless something comes. */
long
iot_dynsec_timeout_ms(void)
{
	int64		now = iot_worker_clock_ms();

	switch (dynsec.state)
	{
		case DYNSEC_SUBSCRIBING:
		case DYNSEC_ASKED:
			if (dynsec.subscribed || dynsec.refused != NULL)
				return 0;
			if (dynsec.answer != NULL)
				return Max(dynsec.rest_until - now, 0);
			return Max(dynsec.since + ANSWER_TIMEOUT_MS - now, 0);
		case DYNSEC_READY:
			return dynsec.again ? 0 : Max(dynsec.looked_at + look_interval() - now, 0);
		case DYNSEC_RESTING:
			return Max(dynsec.rest_until - now, 0);
		default:
			return 60000;
	}
}
