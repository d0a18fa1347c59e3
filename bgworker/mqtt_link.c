/*
 * mqtt_link.c
 *		One connection to an MQTT broker, driven from the worker's own loop.
 *
 * Runs in an adapter's process, outside of transactions.  The library is used in its "threaded"
 * mode without a thread: whatever it wants to send, acknowledgements of what we received above
 * all, waits in its queue until iot_link_write().  That is called only when everything read
 * before is committed, so no acknowledgement leaves before its COMMIT has returned.
 *
 * Each connection has a library object of its own.  Dropping it drops the acknowledgements in its
 * queue, and the broker, which keeps our session, delivers those messages again; it also drops
 * publishes that were not sent, which must not leave later on their own: their commands may have
 * expired meanwhile.
 *
 * Callbacks only set flags here and put what came into mqtt_inbox.c, which is bounded: where it
 * is full, reading stops, and the pressure goes back to the broker through TCP and the receive
 * maximum.
 */
#include "postgres.h"

#include <mosquitto.h>
#if LIBMOSQUITTO_VERSION_NUMBER < 2001000
#include <mqtt_protocol.h>		/* part of mosquitto.h since */
#endif
#include <unistd.h>

#include "storage/fd.h"
#include "storage/latch.h"

#include "bgworker/mqtt_dynsec.h"
#include "bgworker/mqtt_guard.h"
#include "bgworker/mqtt_inbox.h"
#include "bgworker/mqtt_link.h"
#include "bgworker/mqtt_outage.h"
#include "bgworker/mqtt_session.h"
#include "bgworker/mqtt_socket.h"
#include "bgworker/worker.h"
#include "iot.h"

#define CONNECT_TIMEOUT_MS	10000
#define SINGLE_FILTERS		16
#define PACKET_FILTERS		50		/* of at most 1024 bytes each */
#define ANNOUNCEMENT_WEIGHT	1000	/* in values; making a device takes tens of milliseconds */
#define REASON_SIZE			160

static struct
{
	const IotMqttConfig *config;
	struct mosquitto *mosq;		/* NULL while down */
	IotLinkState state;
	bool		tcp_up;
	bool		subscribed;		/* subscriptions are on their way */
	int64		connect_started_at; /* of the worker's clock */

	/* written by callbacks */
	bool		accepted;
	bool		lost;
	char		reason[REASON_SIZE];
	int			unanswered_subscriptions;
	int			refused_subscriptions;
	int64		answered_at;	/* the last of those that were answered */
	unsigned	progress;		/* callbacks that fired */
}			conn;

static void set_lost(const char *fmt,...) pg_attribute_printf(1, 2);

/* Keeps the first reason: later ones follow from it. */
static void
set_lost(const char *fmt,...)
{
	va_list		args;
	size_t		length;

	if (conn.lost)
		return;
	conn.lost = true;
	va_start(args, fmt);
	vsnprintf(conn.reason, sizeof(conn.reason), fmt, args);
	va_end(args);
	/* the library ends its sentences, and we do not */
	length = strlen(conn.reason);
	if (length > 0 && conn.reason[length - 1] == '.')
		conn.reason[length - 1] = '\0';
}

/* The library's own words for an error of its own; it has none for this one. */
static const char *
error_text(int rc)
{
	return rc == MOSQ_ERR_KEEPALIVE ? "no answer within the keepalive time" :
		mosquitto_strerror(rc);
}

static void
on_connect(struct mosquitto *mosq, void *arg, int reason, int flags,
		   const mosquitto_property *properties)
{
	conn.progress++;
	if (reason == 0)
		conn.accepted = true;
	else
		set_lost("%s", conn.config->v5 ? mosquitto_reason_string(reason) :
				 mosquitto_connack_string(reason));
}

static void
on_disconnect(struct mosquitto *mosq, void *arg, int rc, const mosquitto_property *properties)
{
	conn.progress++;
	set_lost("%s", rc < 0x80 ? error_text(rc) : mosquitto_reason_string(rc));
}

static void
on_subscribe(struct mosquitto *mosq, void *arg, int mid, int count, const int *granted,
			 const mosquitto_property *properties)
{
	conn.progress++;
	if (count == 1 && iot_dynsec_subscribed(mid, granted[0]))
		return;
	conn.unanswered_subscriptions--;
	conn.answered_at = iot_worker_clock_ms();
	for (int i = 0; i < count; i++)
	{
		if (granted[i] >= 0x80)
			conn.refused_subscriptions++;
	}
}

static void
on_unsubscribe(struct mosquitto *mosq, void *arg, int mid, const mosquitto_property *properties)
{
	conn.progress++;
	conn.unanswered_subscriptions--;
	conn.answered_at = iot_worker_clock_ms();
}

static void
on_publish(struct mosquitto *mosq, void *arg, int mid, int reason,
		   const mosquitto_property *properties)
{
	conn.progress++;
	if (!iot_dynsec_published(mid, reason))
		iot_inbox_add_published(mid, reason);
}

static void
on_message(struct mosquitto *mosq, void *arg, const struct mosquitto_message *message,
		   const mosquitto_property *properties)
{
	const char *prefix = conn.config->strangers.discovery_prefix;
	bool		announcement = prefix != NULL &&
		iot_topic_is_announcement(message->topic, strlen(message->topic), prefix);

	conn.progress++;
	if (!iot_dynsec_message(message->topic, message->payload, Max(message->payloadlen, 0)))
		iot_inbox_add_message(message->topic, message->payload, Max(message->payloadlen, 0),
							  message->retain, announcement ? ANNOUNCEMENT_WEIGHT : 1);
}

/* The process ends with the library in some state or other: nothing of it is touched any more. */
static void
abandon(void)
{
	conn.mosq = NULL;
	conn.state = IOT_LINK_DOWN;
}

/* To be called once in the process. */
void
iot_link_init(void)
{
	iot_guard_init(abandon);
	/* names are looked up while everything else waits: a dead resolver must not hold us long */
	setenv("RES_OPTIONS", "timeout:1 attempts:1", 0);
	mosquitto_lib_init();
	iot_outage_init();
}

/* Whether there is something to connect to. */
bool
iot_link_configured(void)
{
	return conn.config != NULL;
}

/* Whether reading on makes sense. */
bool
iot_link_healthy(void)
{
	return conn.state == IOT_LINK_UP && !conn.lost && !iot_inbox_failed();
}

IotLinkState
iot_link_state(void)
{
	return conn.state;
}

/* Ends the library object and with it whatever waited in its queue. */
static void
discard(void)
{
	if (conn.mosq != NULL)
	{
		mosquitto_destroy(conn.mosq);
		ReleaseExternalFD();
	}
	conn.mosq = NULL;
	conn.state = IOT_LINK_DOWN;
	conn.tcp_up = false;
	iot_inbox_clear();
	conn.lost = false;
}

static void
go_down(void)
{
	iot_outage_begin(conn.state == IOT_LINK_UP, conn.reason);
	discard();
}

/* Begins a connection; the rest happens in iot_link_turn(). */
static void
start_connecting(void)
{
	const IotMqttConfig *config = conn.config;
	size_t		payload_limit = (size_t) iot_max_payload_size * 1024;
	char		error[REASON_SIZE] = "";
	int			rc;

	conn.lost = conn.accepted = conn.subscribed = conn.tcp_up = false;
	conn.unanswered_subscriptions = conn.refused_subscriptions = 0;
	conn.answered_at = 0;
	conn.connect_started_at = iot_worker_clock_ms();
	conn.state = IOT_LINK_CONNECTING;
	iot_inbox_clear();
	iot_inbox_set_payload_limit(payload_limit);
	if (!AcquireExternalFD())
	{
		set_lost("no file descriptor is free");
		go_down();
		return;
	}
	conn.mosq = iot_session_make(config, payload_limit, error, sizeof(error));
	if (conn.mosq == NULL)
	{
		ReleaseExternalFD();
		set_lost("%s", error);
		go_down();
		return;
	}
	mosquitto_connect_v5_callback_set(conn.mosq, on_connect);
	mosquitto_disconnect_v5_callback_set(conn.mosq, on_disconnect);
	mosquitto_subscribe_v5_callback_set(conn.mosq, on_subscribe);
	mosquitto_unsubscribe_v5_callback_set(conn.mosq, on_unsubscribe);
	mosquitto_publish_v5_callback_set(conn.mosq, on_publish);
	mosquitto_message_v5_callback_set(conn.mosq, on_message);
	rc = mosquitto_connect_async(conn.mosq, config->host, config->port, config->keepalive);
	if (rc != MOSQ_ERR_SUCCESS)
	{
		set_lost("%s", rc == MOSQ_ERR_ERRNO ? strerror(errno) :
				 rc == MOSQ_ERR_EAI ? "the host's name cannot be resolved" :
				 mosquitto_strerror(rc));
		go_down();
	}
	else
		iot_worker_state("connecting", config->url);
}

/*
 * Takes a configuration into use, or with NULL none: a connection that stands is closed, and
 * unless there is none to be, the next begins at once.
 */
void
iot_link_configure(const IotMqttConfig *config)
{
	iot_link_close();
	conn.config = config;
	iot_outage_configure(config);
}

/* Says goodbye where nothing is held that the broker must not take as done, and ends the link. */
void
iot_link_close(void)
{
	if (conn.state == IOT_LINK_UP && iot_inbox_message_count() == 0 && !conn.lost)
	{
		/* the library closes its own descriptor as soon as it has said goodbye */
		int			fd = dup(mosquitto_socket(conn.mosq));

		mosquitto_disconnect(conn.mosq);
		(void) mosquitto_loop_write(conn.mosq, 1);
		if (fd >= 0)
		{
			iot_socket_wait_for_end(fd);
			close(fd);
		}
	}
	discard();
}

/* Drops the link with all that was read and not acknowledged; the broker will deliver it again. */
void
iot_link_give_back(void)
{
	if (conn.state == IOT_LINK_DOWN)
		return;
	iot_worker_slot_count(IOT_COUNT_GIVEN_BACK, iot_inbox_message_count());
	iot_outage_give_back();
	conn.lost = false;
	set_lost("the database did not take a batch");
	go_down();
}

/* Errors of the library that say more in errno. */
static void
note_error(int rc)
{
	if (rc == MOSQ_ERR_SUCCESS || rc == MOSQ_ERR_CONN_PENDING)
		return;
	set_lost("%s", rc == MOSQ_ERR_ERRNO && errno != 0 ? strerror(errno) : error_text(rc));
}

static void
unsubscribe(const char *filter)
{
	int			rc = mosquitto_unsubscribe_v5(conn.mosq, NULL, filter, NULL);

	if (rc == MOSQ_ERR_SUCCESS)
		conn.unanswered_subscriptions++;
	note_error(rc);
}

/* Filters from the first on that go into one packet: such as want the same of what the broker retains. */
static int
packet_of_filters(const IotMqttConfig *config, int first)
{
	int			count = 1;

	if (config->nfilters <= SINGLE_FILTERS)
		return 1;
	while (count < PACKET_FILTERS && first + count < config->nfilters &&
		   config->filters[first + count].retained == config->filters[first].retained)
		count++;
	return count;
}

/*
 * Asks for all topics.  Many filters go several to a packet: a broker that writes its state down at each
 * packet would take seconds for a thousand.
 */
static void
subscribe(void)
{
	const IotMqttConfig *config = conn.config;
	char	   *filters[PACKET_FILTERS];
	int			count;

	conn.subscribed = true;
	for (int i = 0; i < config->nfilters; i += count)
	{
		int			options = config->v5 && !config->filters[i].retained ?
			MQTT_SUB_OPT_SEND_RETAIN_NEVER : 0;
		int			rc;

		count = packet_of_filters(config, i);
		for (int j = 0; j < count; j++)
			filters[j] = config->filters[i + j].filter;
		rc = mosquitto_subscribe_multiple(conn.mosq, NULL, count, filters, config->qos, options, NULL);
		if (rc != MOSQ_ERR_SUCCESS)
		{
			note_error(rc);
			return;
		}
		conn.unanswered_subscriptions++;
	}
	for (int i = 0; i < config->nstale && !conn.lost; i++)
		unsubscribe(config->stale[i]);
}

static void
come_up(void)
{
	const IotMqttConfig *config = conn.config;

	conn.state = IOT_LINK_UP;
	iot_worker_slot_count(IOT_COUNT_CONNECTED, 1);
	iot_outage_end();
	if (conn.refused_subscriptions > 0)
	{
		ereport(LOG,
				(errmsg("adapter \"%s\": the broker refused %d of %d subscriptions",
						config->name, conn.refused_subscriptions, config->nfilters),
				 errhint("Let the adapter's user read those topics.")));
		iot_worker_state("connected", "the broker refused subscriptions");
	}
	else
		iot_worker_state("connected", config->url);
}

/*
 * Moves the connection on: begins, completes or gives it up, keeps it alive.  To be called each
 * turn, when nothing that was read waits for its commit.
 */
void
iot_link_turn(void)
{
	int			error = 0;

	if (conn.config == NULL)
		return;
	if (conn.state == IOT_LINK_DOWN)
	{
		if (iot_outage_wait_ms() > 0)
			return;
		start_connecting();
		if (conn.state == IOT_LINK_DOWN)
			return;
	}
	Assert(iot_inbox_message_count() == 0);
	if (conn.state == IOT_LINK_CONNECTING && !conn.tcp_up)
		conn.tcp_up = iot_socket_connected(mosquitto_socket(conn.mosq), &error);
	if (error != 0)
		set_lost("%s", strerror(error));
	iot_link_write();
	if (conn.tcp_up)
		iot_link_read();
	if (!conn.lost && conn.state == IOT_LINK_CONNECTING)
	{
		if (conn.accepted && !conn.subscribed)
		{
			/*
			 * Reading stopped at the acceptance; but a library that reads several packets at once
			 * (2.1 does) may have brought messages with it, whose acknowledgements wait for their
			 * commit, and what we ask for with them.
			 */
			subscribe();
			if (iot_inbox_message_count() == 0)
				iot_link_write();
		}
		if (conn.subscribed && conn.unanswered_subscriptions <= 0 && !conn.lost)
			come_up();
		else if (iot_worker_passed(Max(conn.connect_started_at, conn.answered_at), CONNECT_TIMEOUT_MS))
			set_lost("no answer within %d s", CONNECT_TIMEOUT_MS / 1000);
	}
	if (!conn.lost && conn.tcp_up)
		note_error(mosquitto_loop_misc(conn.mosq));
	if (iot_inbox_failed())
		set_lost("out of memory");
	if (conn.lost)
	{
		iot_worker_slot_count(IOT_COUNT_GIVEN_BACK, iot_inbox_message_count());
		go_down();
	}
}

/*
 * Asks the broker for something that it answers and that changes nothing.  It answers in order: what
 * it had for us before has come when iot_link_answered().
 */
void
iot_link_ask(void)
{
	if (conn.state == IOT_LINK_UP && !conn.lost)
		unsubscribe("iot/nothing");
}

bool
iot_link_answered(void)
{
	return conn.unanswered_subscriptions <= 0;
}

/* Whether as much is held as may be: commit before reading on. */
bool
iot_link_full(void)
{
	return conn.config != NULL && iot_inbox_full(conn.config->batch_size);
}

/*
 * Reads what is there, up to a batch.  The library handles one packet a call and does not say
 * whether it did; under TLS the socket may look empty while it holds a decoded one.  So reading
 * ends when two calls in a row brought nothing and the socket is empty.  It is asked only after a call
 * that brought nothing: in a stream that would be one system call in six.
 */
void
iot_link_read(void)
{
	int			fruitless = 0;

	while (!conn.lost && !iot_inbox_failed() && !iot_link_full() && fruitless < 2)
	{
		unsigned	progress = conn.progress;
		int			fd = mosquitto_socket(conn.mosq);

		if (fd < 0)
		{
			set_lost("connection closed");
			break;
		}
		errno = 0;
		iot_guard_begin();
		note_error(mosquitto_loop_read(conn.mosq, 1));
		iot_guard_end();
		if (conn.progress != progress)
			fruitless = 0;
		else if (conn.lost || iot_socket_readable(mosquitto_socket(conn.mosq)))
			fruitless = 0;
		else
			fruitless += conn.config->tls ? 1 : 2;
		if (!conn.subscribed && (conn.accepted || conn.progress == progress))
			break;				/* the next step is ours */
	}
	if (!conn.lost)
		iot_socket_confirm_reading(mosquitto_socket(conn.mosq));
}

/*
 * Sends what waits, as far as the socket takes it.  Acknowledgements of everything read so far
 * leave here, so everything read so far must be committed.
 */
void
iot_link_write(void)
{
	Assert(iot_inbox_message_count() == 0);
	if (!conn.tcp_up || conn.lost || !mosquitto_want_write(conn.mosq))
		return;
	errno = 0;
	note_error(mosquitto_loop_write(conn.mosq, 1));
}

pgsocket
iot_link_socket(void)
{
	int			fd = conn.mosq == NULL ? -1 : mosquitto_socket(conn.mosq);

	return fd < 0 ? PGINVALID_SOCKET : fd;
}

/* What to wait for on the socket. */
uint32
iot_link_events(void)
{
	uint32		events = WL_SOCKET_READABLE;

	if (conn.mosq == NULL)
		return 0;
	if ((conn.state == IOT_LINK_CONNECTING && !conn.tcp_up) || mosquitto_want_write(conn.mosq))
		events |= WL_SOCKET_WRITEABLE;
	return events;
}

/* How long the link can be left alone. */
long
iot_link_timeout_ms(void)
{
	if (conn.config == NULL)
		return 60000;
	if (conn.lost)
		return 0;
	if (conn.state == IOT_LINK_DOWN)
		return (long) iot_outage_wait_ms();
	return 1000;
}

/* Puts a message into the queue; it leaves with the next iot_link_write(). */
IotPublishOutcome
iot_link_publish(const char *topic, const char *payload, uint32 expiry_s, int *mid)
{
	mosquitto_property *properties = NULL;
	int			rc;

	if (conn.state != IOT_LINK_UP || conn.lost)
		return IOT_PUBLISH_NO_LINK;
	/* so that a broker which keeps it for a sleeping device does not keep it for too long */
	if (conn.config->v5)
		(void) mosquitto_property_add_int32(&properties, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL,
											expiry_s);
	rc = mosquitto_publish_v5(conn.mosq, mid, topic, strlen(payload), payload, conn.config->qos,
							  false, properties);
	mosquitto_property_free_all(&properties);
	switch (rc)
	{
		case MOSQ_ERR_SUCCESS:
			return IOT_PUBLISH_QUEUED;
		case MOSQ_ERR_INVAL:
		case MOSQ_ERR_PAYLOAD_SIZE:
		case MOSQ_ERR_MALFORMED_UTF8:
		case MOSQ_ERR_OVERSIZE_PACKET:
		case MOSQ_ERR_QOS_NOT_SUPPORTED:
			return IOT_PUBLISH_IMPOSSIBLE;
		default:
			note_error(rc);
			return IOT_PUBLISH_NO_LINK;
	}
}

/* Subscribes to one topic more, at QoS 0; the answer comes to mqtt_dynsec.c. */
bool
iot_link_subscribe(const char *topic, int *mid)
{
	int			rc;

	if (conn.state != IOT_LINK_UP || conn.lost)
		return false;
	rc = mosquitto_subscribe_v5(conn.mosq, mid, topic, 0, 0, NULL);
	note_error(rc);
	return rc == MOSQ_ERR_SUCCESS;
}

/* Words for a reason code of a broker's PUBACK. */
const char *
iot_link_reason_text(int reason)
{
	return reason == MQTT_RC_NO_MATCHING_SUBSCRIBERS ? "nobody is subscribed" :
		mosquitto_reason_string(reason);
}
