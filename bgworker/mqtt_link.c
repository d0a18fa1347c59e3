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
 * Callbacks run under the library's locks: they copy bytes into memory of malloc, set flags, and
 * raise nothing.  That memory is bounded: where it is full, reading stops, and the pressure goes
 * back to the broker through TCP and the receive maximum.
 */
#include "postgres.h"

#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "bgworker/mqtt_link.h"
#include "bgworker/worker.h"
#include "core/backoff.h"
#include "iot.h"

#define BUFFER_LIMIT		(4 * 1024 * 1024)	/* bytes held between two commits */
#define CONNECT_TIMEOUT_MS	10000
#define GOODBYE_TIMEOUT_MS	1000
#define BACKOFF_BASE_MS		200
#define BACKOFF_CAP_MS		5000
#define SESSION_EXPIRY_S	(7 * 24 * 3600)
#define REASON_SIZE			160
#define PASSWORD_SIZE		1024

static struct
{
	const IotMqttConfig *config;
	struct mosquitto *mosq;		/* NULL while down */
	IotLinkState state;
	bool		tcp_up;
	bool		subscribed;		/* subscriptions are on their way */
	int64		connect_started_at; /* of the worker's clock, like the others */
	int64		retry_at;
	int64		outage_since;	/* 0: none */
	int			outage_attempts;
	int64		giving_back_since;	/* 0: the database takes what we read */
	IotBackoff	backoff;

	/* written by callbacks */
	bool		accepted;
	bool		lost;
	char		reason[REASON_SIZE];
	bool		out_of_memory;
	int			unanswered_subscriptions;
	int			refused_subscriptions;
	unsigned	progress;		/* callbacks that fired */
	char	   *buffer;
	size_t		buffer_used;
	size_t		buffer_size;
	IotIngestMessage *messages;
	size_t	   *offsets;		/* of topic and payload in the buffer, which may move */
	int			nmessages;
	int			messages_size;
	IotLinkPublished *published;
	int			npublished;
	int			published_size;
	size_t		payload_limit;
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

/* Grows an array of malloc to hold one element more; false where there is no memory. */
static bool
grow(void **array, int *size, int used, size_t element)
{
	int			wanted = Max(*size * 2, 64);
	void	   *grown;

	if (used < *size)
		return true;
	grown = realloc(*array, wanted * element);
	if (grown == NULL)
		return false;
	*array = grown;
	*size = wanted;
	return true;
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
	set_lost("%s", rc < 0x80 ? mosquitto_strerror(rc) : mosquitto_reason_string(rc));
}

static void
on_subscribe(struct mosquitto *mosq, void *arg, int mid, int count, const int *granted,
			 const mosquitto_property *properties)
{
	conn.progress++;
	conn.unanswered_subscriptions--;
	for (int i = 0; i < count; i++)
	{
		if (granted[i] >= 0x80)
			conn.refused_subscriptions++;
	}
}

static void
on_publish(struct mosquitto *mosq, void *arg, int mid, int reason,
		   const mosquitto_property *properties)
{
	conn.progress++;
	if (!grow((void **) &conn.published, &conn.published_size, conn.npublished,
			  sizeof(IotLinkPublished)))
	{
		conn.out_of_memory = true;
		return;
	}
	conn.published[conn.npublished].mid = mid;
	conn.published[conn.npublished].reason = reason;
	conn.npublished++;
}

static void
on_message(struct mosquitto *mosq, void *arg, const struct mosquitto_message *message,
		   const mosquitto_property *properties)
{
	size_t		topic_len = strlen(message->topic);
	size_t		payload_len = Max(message->payloadlen, 0);
	size_t		needed;
	int			offsets_size = conn.messages_size;
	IotIngestMessage *copy;

	conn.progress++;
	/* one byte over the limit is enough to be told as too large */
	if (payload_len > conn.payload_limit)
		payload_len = conn.payload_limit + 1;
	if (!grow((void **) &conn.messages, &conn.messages_size, conn.nmessages,
			  sizeof(IotIngestMessage)))
	{
		conn.out_of_memory = true;
		return;
	}
	if (conn.messages_size != offsets_size || conn.offsets == NULL)
	{
		size_t	   *grown = realloc(conn.offsets, conn.messages_size * sizeof(size_t));

		if (grown == NULL)
		{
			conn.out_of_memory = true;
			return;
		}
		conn.offsets = grown;
	}
	needed = conn.buffer_used + topic_len + payload_len;
	if (needed > conn.buffer_size)
	{
		size_t		size = Max(needed, Max(conn.buffer_size * 2, 65536));
		char	   *grown = realloc(conn.buffer, size);

		if (grown == NULL)
		{
			conn.out_of_memory = true;
			return;
		}
		conn.buffer = grown;
		conn.buffer_size = size;
	}
	copy = &conn.messages[conn.nmessages];
	memset(copy, 0, sizeof(*copy));
	copy->topic_len = topic_len;
	copy->payload_len = payload_len;
	copy->received_at = GetCurrentTimestamp();
	copy->retained = message->retain;
	conn.offsets[conn.nmessages] = conn.buffer_used;
	memcpy(conn.buffer + conn.buffer_used, message->topic, topic_len);
	if (payload_len > 0)
		memcpy(conn.buffer + conn.buffer_used + topic_len, message->payload, payload_len);
	conn.buffer_used = needed;
	conn.nmessages++;
}

/* A key that asks for a passphrase is refused: nobody is there to type one. */
static int
no_passphrase(char *buf, int size, int rwflag, void *userdata)
{
	return 0;
}

/* To be called once in the process. */
void
iot_link_init(void)
{
	/* names are looked up while everything else waits: a dead resolver must not hold us long */
	setenv("RES_OPTIONS", "timeout:1 attempts:1", 0);
	mosquitto_lib_init();
	iot_backoff_init(&conn.backoff, BACKOFF_BASE_MS, BACKOFF_CAP_MS,
					 (uint64) MyProcPid << 32 ^ (uint64) GetCurrentTimestamp());
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
	conn.nmessages = 0;
	conn.buffer_used = 0;
	conn.npublished = 0;
	conn.lost = false;
}

/* One line at the start of an outage; how long it was is told at its end. */
static void
go_down(void)
{
	int64		now = iot_worker_clock_ms();
	bool		was_up = conn.state == IOT_LINK_UP;
	uint32_t	delay = iot_backoff_next(&conn.backoff);

	if (conn.giving_back_since != 0)
		 /* said when it began */ ;
	else if (was_up)
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("adapter \"%s\" lost its connection to MQTT broker \"%s\": %s",
						conn.config->name, conn.config->url, conn.reason)));
	else if (conn.outage_attempts == 0)
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("adapter \"%s\" could not connect to MQTT broker \"%s\": %s",
						conn.config->name, conn.config->url, conn.reason)));
	if (conn.outage_since == 0)
		conn.outage_since = now;
	if (!was_up)
		conn.outage_attempts++;
	iot_worker_state("disconnected", conn.reason);
	discard();
	conn.retry_at = now + delay;
}

/* First line of the file into the buffer; false (and lost) where it cannot be read. */
static bool
read_password(char *buffer)
{
	FILE	   *file = AllocateFile(conn.config->password_file, "r");

	if (file == NULL || fgets(buffer, PASSWORD_SIZE, file) == NULL)
	{
		if (file != NULL)
			FreeFile(file);
		set_lost("could not read password file \"%.100s\"", conn.config->password_file);
		return false;
	}
	FreeFile(file);
	buffer[strcspn(buffer, "\r\n")] = '\0';
	return true;
}

static int
set_credentials(struct mosquitto *mosq)
{
	char		password[PASSWORD_SIZE];
	int			rc;

	if (conn.config->username == NULL)
		return MOSQ_ERR_SUCCESS;
	if (conn.config->password_file == NULL)
		return mosquitto_username_pw_set(mosq, conn.config->username, conn.config->password);
	if (!read_password(password))
		return MOSQ_ERR_AUTH;
	rc = mosquitto_username_pw_set(mosq, conn.config->username, password);
	explicit_bzero(password, sizeof(password));
	return rc;
}

static int
set_tls(struct mosquitto *mosq)
{
	const IotMqttConfig *config = conn.config;
	int			rc = MOSQ_ERR_SUCCESS;

	if (!config->tls)
		return rc;
	if (config->ca_file == NULL)
		rc = mosquitto_int_option(mosq, MOSQ_OPT_TLS_USE_OS_CERTS, 1);
	if (rc == MOSQ_ERR_SUCCESS && (config->ca_file != NULL || config->cert_file != NULL))
		rc = mosquitto_tls_set(mosq, config->ca_file,
							   config->ca_file == NULL ? "/etc/ssl/certs" : NULL,
							   config->cert_file, config->key_file, no_passphrase);
	if (rc != MOSQ_ERR_SUCCESS)
		set_lost("could not use the certificates: %s", mosquitto_strerror(rc));
	return rc;
}

/* Properties of MQTT 5 that have no call of their own for an asynchronous connection. */
static int
set_connect_properties(struct mosquitto *mosq)
{
	mosquitto_property *properties = NULL;
	uint32		max_packet = Max(4 * conn.payload_limit, 262144) + 65536;
	int			rc;

	rc = mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL,
									  SESSION_EXPIRY_S);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_property_add_int32(&properties, MQTT_PROP_MAXIMUM_PACKET_SIZE, max_packet);
	/* fails for want of a host, but keeps the properties for the connection to come */
	if (rc == MOSQ_ERR_SUCCESS)
		(void) mosquitto_connect_bind_v5(mosq, "", 0, conn.config->keepalive, NULL, properties);
	mosquitto_property_free_all(&properties);
	return rc;
}

/* Begins a connection; the rest happens in iot_link_turn(). */
static void
start_connecting(void)
{
	const IotMqttConfig *config = conn.config;
	struct mosquitto *mosq;
	int			rc;

	conn.lost = conn.accepted = conn.subscribed = conn.tcp_up = false;
	conn.out_of_memory = false;
	conn.unanswered_subscriptions = conn.refused_subscriptions = 0;
	conn.payload_limit = (size_t) iot_max_payload_size * 1024;
	conn.connect_started_at = iot_worker_clock_ms();
	conn.state = IOT_LINK_CONNECTING;
	if (!AcquireExternalFD())
	{
		set_lost("no file descriptor is free");
		go_down();
		return;
	}
	mosq = mosquitto_new(config->client_id, false, NULL);
	if (mosq == NULL)
	{
		ReleaseExternalFD();
		set_lost("the client id cannot be used, or no memory is left");
		go_down();
		return;
	}
	conn.mosq = mosq;
	mosquitto_threaded_set(mosq, true);
	mosquitto_connect_v5_callback_set(mosq, on_connect);
	mosquitto_disconnect_v5_callback_set(mosq, on_disconnect);
	mosquitto_subscribe_v5_callback_set(mosq, on_subscribe);
	mosquitto_publish_v5_callback_set(mosq, on_publish);
	mosquitto_message_v5_callback_set(mosq, on_message);
	rc = mosquitto_int_option(mosq, MOSQ_OPT_PROTOCOL_VERSION,
							  config->v5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311);
	/* an acknowledgement and a command after it are two small writes */
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_int_option(mosq, MOSQ_OPT_TCP_NODELAY, 1);
	/* room for the batch that is being committed and for the next */
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_int_option(mosq, MOSQ_OPT_RECEIVE_MAXIMUM,
								  Min(config->batch_size * 2, 65535));
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_max_inflight_messages_set(mosq, 0);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = set_credentials(mosq);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = set_tls(mosq);
	if (rc == MOSQ_ERR_SUCCESS && config->v5)
		rc = set_connect_properties(mosq);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_connect_async(mosq, config->host, config->port, config->keepalive);
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
	conn.retry_at = 0;
	conn.outage_since = 0;
	conn.outage_attempts = 0;
	iot_backoff_reset(&conn.backoff);
}

/*
 * Waits until the broker has closed the connection too.  A broker that is behind has our last
 * acknowledgements still before it; closing on what it sends meanwhile would reset the connection
 * and make it forget them, and all of that would be delivered again.
 */
static void
wait_for_end(int fd)
{
	int64		start = iot_worker_clock_ms();
	char		discarded[4096];

	(void) shutdown(fd, SHUT_WR);
	for (;;)
	{
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
		int64		left = start + GOODBYE_TIMEOUT_MS - iot_worker_clock_ms();
		ssize_t		size;

		if (left <= 0)
			return;
		if (poll(&poll_fd, 1, (int) left) <= 0)
			continue;			/* a signal may end the wait early */
		size = recv(fd, discarded, sizeof(discarded), MSG_DONTWAIT);
		if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR))
			return;
	}
}

/* Says goodbye where nothing is held that the broker must not take as done, and ends the link. */
void
iot_link_close(void)
{
	if (conn.state == IOT_LINK_UP && conn.nmessages == 0 && !conn.lost)
	{
		/* the library closes its own descriptor as soon as it has said goodbye */
		int			fd = dup(mosquitto_socket(conn.mosq));

		mosquitto_disconnect(conn.mosq);
		(void) mosquitto_loop_write(conn.mosq, 1);
		if (fd >= 0)
		{
			wait_for_end(fd);
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
	iot_worker_slot_count(IOT_COUNT_GIVEN_BACK, conn.nmessages);
	if (conn.giving_back_since == 0)
	{
		conn.giving_back_since = iot_worker_clock_ms();
		ereport(LOG,
				(errmsg("adapter \"%s\" gives messages back to MQTT broker \"%s\": the database did not take them",
						conn.config->name, conn.config->url)));
	}
	conn.lost = false;
	set_lost("the database did not take a batch");
	go_down();
}

/* Something went all the way: the next failure starts a new series. */
void
iot_link_prove(void)
{
	iot_backoff_reset(&conn.backoff);
	if (conn.giving_back_since != 0)
		ereport(LOG,
				(errmsg("adapter \"%s\": the database takes messages again after %d s",
						conn.config->name,
						(int) (iot_worker_clock_ms() - conn.giving_back_since) / 1000)));
	conn.giving_back_since = 0;
}

/* Errors of the library that say more in errno. */
static void
note_error(int rc)
{
	if (rc == MOSQ_ERR_SUCCESS || rc == MOSQ_ERR_CONN_PENDING)
		return;
	set_lost("%s", rc == MOSQ_ERR_ERRNO && errno != 0 ? strerror(errno) :
			 mosquitto_strerror(rc));
}

static void
subscribe(void)
{
	const IotMqttConfig *config = conn.config;

	conn.subscribed = true;
	for (int i = 0; i < config->nfilters; i++)
	{
		int			options = config->v5 && !config->filters[i].retained ?
			MQTT_SUB_OPT_SEND_RETAIN_NEVER : 0;
		int			rc = mosquitto_subscribe_v5(conn.mosq, NULL, config->filters[i].filter,
												config->qos, options, NULL);

		if (rc != MOSQ_ERR_SUCCESS)
		{
			note_error(rc);
			return;
		}
		conn.unanswered_subscriptions++;
	}
}

static void
come_up(void)
{
	conn.state = IOT_LINK_UP;
	iot_worker_slot_count(IOT_COUNT_CONNECTED, 1);
	if (conn.giving_back_since != 0)
		 /* the broker was not the trouble */ ;
	else if (conn.outage_since != 0)
		ereport(LOG,
				(errmsg("adapter \"%s\" connected to MQTT broker \"%s\" after %d s and %d failed attempts",
						conn.config->name, conn.config->url,
						(int) (iot_worker_clock_ms() - conn.outage_since) / 1000,
						conn.outage_attempts)));
	else
		ereport(LOG,
				(errmsg("adapter \"%s\" connected to MQTT broker \"%s\"",
						conn.config->name, conn.config->url)));
	if (conn.refused_subscriptions > 0)
	{
		ereport(LOG,
				(errmsg("adapter \"%s\": the broker refused %d of %d subscriptions",
						conn.config->name, conn.refused_subscriptions, conn.config->nfilters),
				 errhint("Let the adapter's user read those topics.")));
		iot_worker_state("connected", "the broker refused subscriptions");
	}
	else
		iot_worker_state("connected", conn.config->url);
	conn.outage_since = 0;
	conn.outage_attempts = 0;
}

/* Whether a connection that is being made has reached the other side. */
static void
check_tcp(void)
{
	struct pollfd fd = {.fd = mosquitto_socket(conn.mosq), .events = POLLOUT};
	int			error = 0;
	socklen_t	size = sizeof(error);

	if (conn.tcp_up || fd.fd < 0 || poll(&fd, 1, 0) <= 0)
		return;
	if (getsockopt(fd.fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error != 0)
		set_lost("%s", strerror(error));
	else
		conn.tcp_up = true;
}

/*
 * Moves the connection on: begins, completes or gives it up, keeps it alive.  To be called each
 * turn, when nothing that was read waits for its commit.
 */
void
iot_link_turn(void)
{
	if (conn.config == NULL)
		return;
	if (conn.state == IOT_LINK_DOWN)
	{
		if (iot_worker_clock_ms() < conn.retry_at)
			return;
		start_connecting();
		if (conn.state == IOT_LINK_DOWN)
			return;
	}
	Assert(conn.nmessages == 0);
	if (conn.state == IOT_LINK_CONNECTING)
		check_tcp();
	iot_link_write();
	if (conn.tcp_up)
		iot_link_read();
	if (!conn.lost && conn.state == IOT_LINK_CONNECTING)
	{
		if (conn.accepted && !conn.subscribed)
		{
			/* reading stopped at the acceptance, so this sends no acknowledgement */
			subscribe();
			iot_link_write();
		}
		if (conn.subscribed && conn.unanswered_subscriptions <= 0 && !conn.lost)
			come_up();
		else if (iot_worker_passed(conn.connect_started_at, CONNECT_TIMEOUT_MS))
			set_lost("no answer within %d s", CONNECT_TIMEOUT_MS / 1000);
	}
	if (!conn.lost && conn.tcp_up)
		note_error(mosquitto_loop_misc(conn.mosq));
	if (conn.out_of_memory)
		set_lost("out of memory");
	if (conn.lost)
	{
		iot_worker_slot_count(IOT_COUNT_GIVEN_BACK, conn.nmessages);
		go_down();
	}
}

/* Whether as much is held as may be: commit before reading on. */
bool
iot_link_full(void)
{
	return conn.config != NULL &&
		(conn.nmessages >= conn.config->batch_size || conn.buffer_used >= BUFFER_LIMIT);
}

/*
 * Has the kernel tell the broker at once that its bytes came.  A broker that gathers small writes
 * (mosquitto does, unless set_tcp_nodelay is set) holds a device's answer back until then, behind
 * its own acknowledgement of our command: 40 ms.  The kernel forgets this, so it is said each turn.
 */
static void
confirm_reading(void)
{
#ifdef TCP_QUICKACK
	int			on = 1;

	(void) setsockopt(mosquitto_socket(conn.mosq), IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
#endif
}

/*
 * Reads what is there, up to a batch.  The library handles one packet a call and does not say
 * whether it did; under TLS the socket may look empty while it holds a decoded one.  So reading
 * ends when the socket is empty and two calls in a row brought nothing.
 */
void
iot_link_read(void)
{
	int			fruitless = 0;

	while (!conn.lost && !conn.out_of_memory && !iot_link_full() && fruitless < 2)
	{
		unsigned	progress = conn.progress;
		struct pollfd fd = {.fd = mosquitto_socket(conn.mosq), .events = POLLIN};

		if (fd.fd < 0)
		{
			set_lost("connection closed");
			break;
		}
		if (poll(&fd, 1, 0) <= 0)
		{
			if (!conn.config->tls)
				break;
			fruitless++;
		}
		else if (fruitless > 0)
			fruitless = 0;
		errno = 0;
		note_error(mosquitto_loop_read(conn.mosq, 1));
		if (conn.progress != progress)
			fruitless = 0;
		if (!conn.subscribed && (conn.accepted || conn.progress == progress))
			break;				/* the next step is ours */
	}
	if (!conn.lost)
		confirm_reading();
}

/*
 * Sends what waits, as far as the socket takes it.  Acknowledgements of everything read so far
 * leave here, so everything read so far must be committed.
 */
void
iot_link_write(void)
{
	Assert(conn.nmessages == 0);
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
		return Max(conn.retry_at - iot_worker_clock_ms(), 0);
	return 1000;
}

/* What was read; the array is the link's and stays until iot_link_forget_messages(). */
int
iot_link_messages(IotIngestMessage **messages)
{
	for (int i = 0; i < conn.nmessages; i++)
	{
		conn.messages[i].topic = conn.buffer + conn.offsets[i];
		conn.messages[i].payload = conn.messages[i].topic + conn.messages[i].topic_len;
	}
	*messages = conn.messages;
	return conn.nmessages;
}

/* They are committed: the next iot_link_write() acknowledges them. */
void
iot_link_forget_messages(void)
{
	conn.nmessages = 0;
	conn.buffer_used = 0;
}

int
iot_link_published(const IotLinkPublished **published)
{
	*published = conn.published;
	return conn.npublished;
}

void
iot_link_forget_published(void)
{
	conn.npublished = 0;
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

/* Words for a reason code of a broker's PUBACK. */
const char *
iot_link_reason_text(int reason)
{
	return reason == MQTT_RC_NO_MATCHING_SUBSCRIBERS ? "nobody is subscribed" :
		mosquitto_reason_string(reason);
}
