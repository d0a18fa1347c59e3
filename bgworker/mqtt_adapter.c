/*
 * mqtt_adapter.c
 *		The process behind one row of iot.adapter: reads, stores, acknowledges, sends commands.
 *
 * Started by the notifier's supervisor and connected to one database.  It watches its own row:
 * a change is taken into use at once, and where the row is gone or disabled the process ends with
 * status 0.  While it may not work (no extension, tables of another version, a copy that nobody
 * resumed) it has no connection to the broker at all.
 *
 * A turn: network first, outside of transactions; then one transaction for what came in; then one
 * for what goes out; then the network sends, acknowledgements and commands alike.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "bgworker/mqtt_command.h"
#include "bgworker/mqtt_config.h"
#include "bgworker/mqtt_dynsec.h"
#include "bgworker/mqtt_inbox.h"
#include "bgworker/mqtt_link.h"
#include "bgworker/mqtt_outage.h"
#include "bgworker/mqtt_store.h"
#include "bgworker/mqtt_take.h"
#include "bgworker/worker.h"
#include "device_state.h"
#include "event.h"
#include "iot.h"
#include "plan.h"

#define CONFIG_CHECK_MS		1000
#define IDLE_CHECK_MS		2000
#define RETRY_MS			1000	/* after a transaction that failed */
#define QUIET_ROUNDS		2		/* without a message: a session is empty */
#define REMINDER_MS			60000
#define QUIET_MS			1000	/* without announcements: they are all there */
#define TOPICS_WAIT_MS		10000

static struct
{
	IotWorkerKey key;
	IotMqttConfig *config;
	int64		config_checked_at;	/* of the worker's clock, like the others */
	int64		error_told_at;
	bool		working;		/* may work, and knows what was in flight */
	IotLinkState link_state;
	bool		take_wanted;
	int64		taken_at;
	int64		retry_at;		/* of what failed in the database */
	int64		stored_at;		/* the last batch of messages */
	bool		unsettled;		/* the broker has more subscriptions than wanted, or may have */
	int			quiet_rounds;	/* of a session that is given up */
	int64		announced_at;	/* the last batch in which devices announced themselves */
	int64		topics_since;	/* new topics wait to be subscribed to; 0 where none do */
	char		greeted[IOT_TOPIC_MAX];	/* where devices were asked to announce themselves */
}			adapter;

static IotPlan record_session = {
	"SELECT iot_internal.adapter_session($1, $2, $3)",
	3, {UUIDOID, INT4OID, TEXTARRAYOID}
};

typedef struct ConfigJob
{
	IotMqttConfig *config;
} ConfigJob;

static void
config_body(void *arg)
{
	const char *known = adapter.config == NULL ? NULL : adapter.config->fingerprint;

	((ConfigJob *) arg)->config = iot_mqtt_config_read(&adapter.key.adapter_id,
														adapter.key.number, known);
}

/* before_shmem_exit: a broker that is told keeps our session without a doubt. */
static void
say_goodbye(int code, Datum arg)
{
	iot_link_close();
}

/* Ends the connection; nothing is lost by it, since the broker keeps our session. */
static void
stop_working(void)
{
	iot_link_configure(NULL);
	iot_command_link_down();
	iot_dynsec_link_down();
	adapter.link_state = IOT_LINK_DOWN;
	adapter.working = false;
	iot_mqtt_config_free(adapter.config);
	adapter.config = NULL;
}

/* Writes down what the session is subscribed to: what is wanted, and what is on its way out. */
static void
session_body(void *arg)
{
	const IotMqttConfig *config = adapter.config;
	bool		with_stale = *(bool *) arg;
	int			count = config->nfilters + (with_stale ? config->nstale : 0);
	Datum	   *filters = palloc(sizeof(Datum) * (count + 1));
	Datum		values[3];
	char		nulls[] = "   ";

	for (int i = 0; i < count; i++)
		filters[i] = CStringGetTextDatum(i < config->nfilters ? config->filters[i].filter :
										 config->stale[i - config->nfilters]);
	values[0] = UUIDPGetDatum(&adapter.key.adapter_id);
	values[1] = Int32GetDatum(adapter.key.number);
	values[2] = PointerGetDatum(construct_array(filters, count, TEXTOID, -1, false,
												TYPALIGN_INT));
	if (config->clean)
		nulls[2] = 'n';
	iot_plan_execute(&record_session, values, nulls);
}

static bool
record_filters(bool with_stale)
{
	return iot_try_xact("record subscriptions", 0, session_body, &with_stale, NULL) ==
		IOT_XACT_DONE;
}

/* Whether this process is one too many, and only there to empty its session at the broker. */
static bool
is_surplus(void)
{
	return adapter.config != NULL && adapter.config->number > adapter.config->processes;
}

/*
 * Whether the configuration brings nothing but topics while devices are announcing theirs: those come in
 * hundreds, and for each new subscription the broker would have to tell us all of them again.
 */
static bool
topics_may_wait(const IotMqttConfig *config)
{
	const IotMqttConfig *old = adapter.config;

	if (old == NULL || old->error != NULL || old->settings_len != config->settings_len ||
		memcmp(old->fingerprint, config->fingerprint, old->settings_len) != 0 ||
		iot_worker_passed(adapter.announced_at, QUIET_MS))
		return false;
	if (adapter.topics_since == 0)
		adapter.topics_since = iot_worker_clock_ms();
	return !iot_worker_passed(adapter.topics_since, TOPICS_WAIT_MS);
}

static void
use_config(IotMqttConfig *config)
{
	IotMqttConfig *old = adapter.config;
	char		name[IOT_WORKER_NAME_SIZE];
	char		title[IOT_WORKER_NAME_SIZE + 4] = "iot ";

	if (old != NULL && strcmp(old->fingerprint, config->fingerprint) == 0)
	{
		if (old->error != NULL && iot_worker_passed(adapter.error_told_at, REMINDER_MS))
		{
			ereport(LOG,
					(errmsg("adapter \"%s\" cannot be used: %s", old->name, old->error)));
			adapter.error_told_at = iot_worker_clock_ms();
		}
		iot_mqtt_config_free(config);
		return;
	}
	if (topics_may_wait(config))
	{
		iot_mqtt_config_free(config);
		return;
	}
	adapter.topics_since = 0;
	iot_worker_adapter_names(config->name, config->number, name, title + strlen(title));
	iot_worker_slot_rename(name);
	iot_worker_subject(title);
	if (old != NULL)
		ereport(LOG, (errmsg("adapter \"%s\" was changed: connecting anew", config->name)));
	iot_link_configure(NULL);
	iot_command_link_down();
	iot_dynsec_link_down();
	adapter.link_state = IOT_LINK_DOWN;
	adapter.config = config;
	iot_mqtt_config_free(old);
	if (config->error != NULL)
	{
		ereport(LOG,
				(errmsg("adapter \"%s\" cannot be used: %s", config->name, config->error)));
		adapter.error_told_at = iot_worker_clock_ms();
		iot_worker_state("misconfigured", config->error);
		adapter.unsettled = false;
	}
	else
	{
		adapter.unsettled = true;
		adapter.quiet_rounds = 0;
	}
}

/*
 * Connects with the configuration once the tables know which subscriptions the session will have, and
 * forgets those that the broker has taken away.
 */
static void
settle_session(void)
{
	if (!adapter.unsettled || adapter.config->error != NULL ||
		iot_worker_clock_ms() < adapter.retry_at)
		return;
	if (iot_link_configured() && (iot_link_state() != IOT_LINK_UP || !iot_link_answered()))
		return;
	if ((!iot_link_configured() || adapter.config->nstale > 0) &&
		!record_filters(!iot_link_configured()))
		adapter.retry_at = iot_worker_clock_ms() + RETRY_MS;
	else if (iot_link_configured())
		adapter.unsettled = false;
	else
		iot_link_configure(adapter.config);
}

/*
 * A session that nobody will come back to is left when all it held is stored: the broker answers in
 * order, so an answer without a message before it, twice, means that it has no more.  Connecting once
 * more without a session has the broker forget it.
 */
static void
leave_session(bool stored)
{
	if (!is_surplus() || iot_link_state() != IOT_LINK_UP || adapter.unsettled)
		return;
	if (adapter.config->clean)
	{
		iot_link_close();
		if (record_filters(false))
			iot_worker_leave("its session at the broker is empty");
		return;
	}
	if (stored)
		adapter.quiet_rounds = 0;
	if (!iot_link_answered())
		return;
	if (adapter.quiet_rounds++ < QUIET_ROUNDS)
	{
		iot_link_ask();
		return;
	}
	adapter.config->clean = true;
	iot_link_configure(adapter.config);
	adapter.link_state = IOT_LINK_DOWN;
}

/* Looks at the adapter's row, and with it whether work is allowed at all. */
static void
check_config(void)
{
	ConfigJob	job = {0};

	if (!iot_worker_passed(adapter.config_checked_at,
						   adapter.working ? CONFIG_CHECK_MS : IDLE_CHECK_MS))
		return;
	adapter.config_checked_at = iot_worker_clock_ms();
	switch (iot_try_xact("read configuration", 0, config_body, &job, NULL))
	{
		case IOT_XACT_DONE:
			break;
		case IOT_XACT_IDLE:
			if (adapter.working)
				stop_working();
			return;
		default:
			return;				/* what is known stays in use */
	}
	if (job.config == NULL)
		iot_worker_leave("the adapter is disabled or gone");
	if (!adapter.working)
	{
		if (adapter.key.number == 1 && !iot_take_load(&adapter.key.adapter_id))
		{
			iot_mqtt_config_free(job.config);
			return;
		}
		adapter.working = true;
		adapter.take_wanted = true;
	}
	use_config(job.config);
}

/*
 * Says what Home Assistant says when it starts, once for each start of ours: devices answer with what
 * they have, and those need it whose announcements the broker does not keep.
 */
static void
greet(void)
{
	const char *prefix = adapter.config->strangers.discovery_prefix;
	char		topic[IOT_TOPIC_MAX];
	int			mid;

	if (prefix == NULL || adapter.key.number > 1)
		return;
	snprintf(topic, sizeof(topic), "%s/status", prefix);
	if (strcmp(topic, adapter.greeted) != 0 &&
		iot_link_publish(topic, "online", 60, &mid) == IOT_PUBLISH_QUEUED)
		strlcpy(adapter.greeted, topic, sizeof(adapter.greeted));
}

/* Tells the commands of a connection that came or went. */
static void
follow_link(void)
{
	IotLinkState state = iot_link_state();

	if (state == adapter.link_state)
		return;
	if (state == IOT_LINK_UP)
	{
		iot_command_link_up();
		iot_dynsec_link_up(adapter.config);
		greet();
		adapter.take_wanted = true;
	}
	else if (adapter.link_state == IOT_LINK_UP)
	{
		iot_command_link_down();
		iot_dynsec_link_down();
	}
	adapter.link_state = state;
}

/*
 * Gathers more of a stream, so that it is not committed message by message.  The first message after a
 * pause never waits, and nothing does that may answer a command.
 */
static void
gather(void)
{
	while (iot_inbox_message_count() > 0 && !iot_link_full() && iot_link_healthy() &&
		   iot_command_count() == 0)
	{
		int64		left = adapter.stored_at + adapter.config->batch_time - iot_worker_clock_ms();
		uint32		occurred;

		if (adapter.stored_at == 0 || left <= 0)
			return;
		occurred = iot_worker_wait(WL_SOCKET_READABLE, iot_link_socket(), left);
		iot_worker_check_interrupts();
		if (occurred & WL_LATCH_SET)
		{
			/* whoever has set it waits for the rest of the turn */
			SetLatch(MyLatch);
			return;
		}
		iot_link_read();
	}
}

/* Commits what came in, or hands it back; true where something came. */
static bool
store(void)
{
	const IotPublished *published;
	const IotCommandEnd *ends;
	IotIngestMessage *messages;
	int			npublished = iot_inbox_published(&published);
	int			count;
	int			nends;
	bool		announced;

	for (int i = 0; i < npublished; i++)
		iot_command_published(published[i].mid, published[i].reason);
	iot_inbox_forget_published();
	iot_command_look_at_due(iot_link_state() == IOT_LINK_UP);
	count = iot_inbox_messages(&messages);
	nends = iot_command_ends(&ends);
	if (count == 0 && (nends == 0 || iot_worker_clock_ms() < adapter.retry_at))
		return false;
	if (iot_store(adapter.config, &adapter.key.adapter_id, messages, count, &announced) ==
		IOT_STORE_DONE)
	{
		if (announced)
			adapter.announced_at = iot_worker_clock_ms();
		iot_inbox_forget_messages();
		iot_outage_prove();
		if (iot_device_state_released())
			adapter.take_wanted = true;
		if (count > 0)
			adapter.stored_at = iot_worker_clock_ms();
		return count > 0;
	}
	adapter.retry_at = iot_worker_clock_ms() + RETRY_MS;
	if (count > 0)
	{
		iot_link_give_back();
		follow_link();
	}
	return count > 0;
}

static void
log_attempt(const IotCommand *command)
{
	ereport(LOG,
			(errmsg("command %s sent to device \"%s\": %s = %s, attempt %d",
					DatumGetCString(DirectFunctionCall1(uuid_out,
														UUIDPGetDatum(&command->command_id))),
					command->device, command->parameter, iot_number_text(command->value),
					command->attempts)));
}

/* Takes up commands and hands those whose turn it is to the connection. */
static void
send_commands(void)
{
	bool		more;
	IotCommand **chosen;
	int			count;

	if (adapter.key.number > 1 || iot_link_state() != IOT_LINK_UP ||
		iot_worker_clock_ms() < adapter.retry_at)
		return;
	if (iot_worker_passed(adapter.taken_at, iot_poll_interval))
		adapter.take_wanted = true;
	if (!adapter.take_wanted && !iot_command_has_ready(adapter.config->max_in_flight))
		return;
	if (!iot_take_commands(adapter.config, &adapter.key.adapter_id, adapter.take_wanted, &more,
						   &chosen, &count))
	{
		adapter.retry_at = iot_worker_clock_ms() + RETRY_MS;
		return;
	}
	if (adapter.take_wanted)
		adapter.taken_at = iot_worker_clock_ms();
	adapter.take_wanted = more;
	for (int i = 0; i < count; i++)
	{
		IotCommand *command = chosen[i];
		uint32		expiry_s = (uint32) Min(iot_command_left_ms(command) / 1000 + 1, 0x7fffffff);
		int			mid = 0;

		switch (iot_link_publish(command->topic, command->payload, expiry_s, &mid))
		{
			case IOT_PUBLISH_QUEUED:
				if (iot_log_commands)
					log_attempt(command);
				iot_worker_slot_count(IOT_COUNT_PUBLISHED, 1);
				iot_command_sent(command, mid);
				break;
			case IOT_PUBLISH_NO_LINK:
				iot_command_sent(command, 0);
				break;
			case IOT_PUBLISH_IMPOSSIBLE:
				iot_command_unsendable(command);
				break;
		}
	}
}

static long
until(int64 at)
{
	return Max(at - iot_worker_clock_ms(), 0);
}

/* How long nothing will have to be done unless something happens. */
static long
sleep_ms(void)
{
	const IotCommandEnd *ends;
	long		ms;

	if (!adapter.working)
		return until(adapter.config_checked_at + IDLE_CHECK_MS);
	ms = until(adapter.config_checked_at + CONFIG_CHECK_MS);
	ms = Min(ms, iot_link_timeout_ms());
	ms = Min(ms, iot_command_timeout_ms());
	ms = Min(ms, iot_dynsec_timeout_ms());
	if (iot_command_ends(&ends) > 0 ||
		(adapter.unsettled && (!iot_link_configured() || iot_link_state() == IOT_LINK_UP)))
		ms = Min(ms, until(adapter.retry_at));
	if (is_surplus() && iot_link_state() == IOT_LINK_UP && iot_link_answered())
		ms = 0;
	if (iot_link_state() == IOT_LINK_UP && adapter.key.number == 1)
	{
		if (adapter.take_wanted || iot_command_has_ready(adapter.config->max_in_flight))
			ms = Min(ms, until(adapter.retry_at));
		ms = Min(ms, Max(until(adapter.retry_at),
						 until(adapter.taken_at + iot_poll_interval)));
	}
	return ms;
}

void
iot_mqtt_adapter_main(Datum arg)
{
	MemoryContext cycle;
	char		name[IOT_WORKER_NAME_SIZE];
	bool		woken = true;

	memcpy(&adapter.key, MyBgworkerEntry->bgw_extra, sizeof(IotWorkerKey));
	/* until the row is read; the slot keeps its own name from who started us */
	strlcpy(name, MyBgworkerEntry->bgw_name + strlen("iot "), sizeof(name));
	iot_worker_start(&adapter.key, name);
	before_shmem_exit(say_goodbye, (Datum) 0);
	iot_link_init();
	iot_command_init();
	cycle = AllocSetContextCreate(TopMemoryContext, "iot mqtt adapter cycle",
								  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(cycle);
	for (;;)
	{
		bool		full = false;

		Assert(CurrentMemoryContext == cycle && !IsTransactionState());
		iot_worker_check_interrupts();
		check_config();
		if (adapter.working)
		{
			bool		stored;

			if (iot_worker_clock_set_by() != 0)
				iot_command_clock_set();
			settle_session();
			iot_link_turn();
			gather();
			full = iot_link_full();
			follow_link();
			stored = store();
			send_commands();
			iot_dynsec_turn(adapter.config, &adapter.key.adapter_id, woken);
			iot_link_write();
			leave_session(stored);
		}
		iot_worker_heartbeat();
		MemoryContextReset(cycle);
		woken = (iot_worker_wait(iot_link_events(), iot_link_socket(), full ? 0 : sleep_ms()) &
				 WL_LATCH_SET) != 0;
		if (woken)
			adapter.take_wanted = true;
	}
}
