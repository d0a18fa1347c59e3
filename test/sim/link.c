/*
 * link.c
 *		Connections of simulated devices to the broker, all driven by one poll loop.
 *
 * A connection that breaks comes back with back-off and subscribes again; the library keeps what
 * was published at QoS 1 meanwhile.  By default all devices share one connection, and its last
 * will speaks for the first device alone: MQTT has one will a connection.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "sim.h"

/* Above this many devices a connection subscribes once, with a wildcard, and picks out its own. */
#define SUBSCRIBE_EACH_MAX	32

static struct pollfd *poll_entries;
static SimDevice **by_name;		/* sorted */
static uint64_t misc_at_us;

static int
compare_devices(const void *a, const void *b)
{
	return strcmp((*(SimDevice *const *) a)->name, (*(SimDevice *const *) b)->name);
}

static SimDevice *
find_device(const SimLink *link, const char *name, size_t len)
{
	size_t		low = 0;
	size_t		high = (size_t) sim.device_count;

	while (low < high)
	{
		size_t		middle = (low + high) / 2;
		SimDevice  *device = by_name[middle];
		int			order = strncmp(name, device->name, len);

		if (order == 0 && device->name[len] != '\0')
			order = -1;
		if (order == 0)
			return device->link == link ? device : NULL;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

/* Publishes below a device's name; false where the library did not take it. */
bool
sim_link_publish(SimLink *link, const IotTopicTemplate *topic, const char *device,
				 const char *payload, int qos, bool retain, int *mid)
{
	char		name[IOT_TOPIC_MAX + 1];
	size_t		len = iot_topic_template_render(topic, device, strlen(device), name, sizeof(name));
	int			rc;
	int			message_id = 0;

	if (len == 0 || len >= sizeof(name))
		return false;
	name[len] = '\0';
	rc = mosquitto_publish(link->mosq, &message_id, name, (int) strlen(payload), payload, qos,
						   retain);
	/* while disconnected the library queues a QoS 1 message and says so by this error */
	if (rc != MOSQ_ERR_SUCCESS && !(rc == MOSQ_ERR_NO_CONN && qos > 0))
		return false;
	if (mid != NULL)
		*mid = message_id;
	return true;
}

static void
announce(SimLink *link)
{
	for (int i = 0; i < link->device_count; i++)
	{
		const char *name = link->devices[i].name;

		(void) sim_link_publish(link, &sim.opt.status_topic, name, "online", sim.opt.qos, true,
								NULL);
		if (sim.opt.attributes != NULL)
			(void) sim_link_publish(link, &sim.opt.attributes_topic, name, sim.opt.attributes,
									sim.opt.qos, false, NULL);
	}
}

static void
on_connect(struct mosquitto *mosq, void *arg, int rc)
{
	SimLink    *link = arg;
	char		filter[IOT_TOPIC_MAX + 1];

	if (rc != 0)
	{
		fprintf(stderr, "iot-sim: the broker refused the connection: %s\n",
				sim.opt.v5 ? mosquitto_reason_string(rc) : mosquitto_connack_string(rc));
		return;
	}
	link->connected = true;
	link->ready = false;
	iot_backoff_reset(&link->backoff);
	if (link->device_count > SUBSCRIBE_EACH_MAX)
	{
		size_t		len = iot_topic_template_filter(&sim.opt.command_topic, filter, sizeof(filter));

		filter[len] = '\0';
		link->subscriptions_due = 1;
		mosquitto_subscribe(mosq, NULL, filter, 1);
		return;
	}
	link->subscriptions_due = link->device_count;
	for (int i = 0; i < link->device_count; i++)
	{
		const char *name = link->devices[i].name;
		size_t		len = iot_topic_template_render(&sim.opt.command_topic, name, strlen(name),
													filter, sizeof(filter));

		filter[len] = '\0';
		mosquitto_subscribe(mosq, NULL, filter, 1);
	}
}

static void
on_subscribe(struct mosquitto *mosq, void *arg, int mid, int count, const int *granted)
{
	SimLink    *link = arg;

	(void) mosq;
	(void) mid;
	if (count > 0 && granted[0] >= 128)
		fprintf(stderr, "iot-sim: the broker refused a subscription\n");
	if (--link->subscriptions_due == 0)
	{
		link->ready = true;
		announce(link);
	}
}

static void
on_message(struct mosquitto *mosq, void *arg, const struct mosquitto_message *message)
{
	SimLink    *link = arg;
	IotTopicMatch match;
	SimDevice  *device;

	(void) mosq;
	if (!iot_topic_template_match(&sim.opt.command_topic, message->topic, strlen(message->topic),
								  &match))
		return;
	device = find_device(link, match.device, match.device_len);
	if (device != NULL)
		sim_command_received(device, message->payload ? message->payload : "",
							 (size_t) message->payloadlen, message->qos, message->retain);
}

static void
on_publish(struct mosquitto *mosq, void *arg, int mid)
{
	(void) mosq;
	sim_telemetry_acked(arg, mid);
}

static void
make_link(SimLink *link, int at, SimDevice *devices, int count)
{
	const SimOptions *opt = &sim.opt;
	char		will_topic[IOT_TOPIC_MAX + 1];
	size_t		len;
	int			rc;

	link->devices = devices;
	link->device_count = count;
	for (int i = 0; i < count; i++)
		devices[i].link = link;
	if (opt->link_per_device)
		snprintf(link->client_id, sizeof(link->client_id), "%s", devices[0].name);
	else if (opt->client_id != NULL)
		snprintf(link->client_id, sizeof(link->client_id), "%s", opt->client_id);
	else
		snprintf(link->client_id, sizeof(link->client_id), "iot-sim-%ld-%d", (long) getpid(), at);
	iot_backoff_init(&link->backoff, 50, 2000, opt->seed + (uint64_t) at + 1);
	link->mosq = mosquitto_new(link->client_id, !opt->persistent, link);
	if (link->mosq == NULL)
	{
		perror("iot-sim: mosquitto_new");
		exit(1);
	}
	/* a version 5 session ends with its connection unless told otherwise; 3.1.1 keeps it */
	mosquitto_int_option(link->mosq, MOSQ_OPT_PROTOCOL_VERSION,
						 opt->v5 && !opt->persistent ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311);
	mosquitto_int_option(link->mosq, MOSQ_OPT_SEND_MAXIMUM, 2000);
	mosquitto_int_option(link->mosq, MOSQ_OPT_RECEIVE_MAXIMUM, 2000);
	mosquitto_int_option(link->mosq, MOSQ_OPT_TCP_NODELAY, 1);
	if (devices[0].user != NULL)
		mosquitto_username_pw_set(link->mosq, devices[0].user, devices[0].password);
	else if (opt->user != NULL)
	{
		bool		own = opt->link_per_device && strcmp(opt->user, "{device}") == 0;

		mosquitto_username_pw_set(link->mosq, own ? devices[0].name : opt->user, opt->password);
	}
	if (opt->ca_file != NULL)
	{
		rc = mosquitto_tls_set(link->mosq, opt->ca_file, NULL, opt->cert_file, opt->key_file, NULL);
		if (rc != MOSQ_ERR_SUCCESS)
		{
			fprintf(stderr, "iot-sim: TLS: %s\n", mosquitto_strerror(rc));
			exit(2);
		}
	}
	len = iot_topic_template_render(&opt->status_topic, devices[0].name, strlen(devices[0].name),
									will_topic, sizeof(will_topic));
	will_topic[len] = '\0';
	mosquitto_will_set(link->mosq, will_topic, 7, "offline", opt->qos, true);
	mosquitto_connect_callback_set(link->mosq, on_connect);
	mosquitto_subscribe_callback_set(link->mosq, on_subscribe);
	mosquitto_message_callback_set(link->mosq, on_message);
	mosquitto_publish_callback_set(link->mosq, on_publish);
	rc = mosquitto_connect(link->mosq, opt->host, opt->port, opt->keepalive);
	if (rc != MOSQ_ERR_SUCCESS)
		link->retry_at_us = sim_now_us() + iot_backoff_next(&link->backoff) * UINT64_C(1000);
}

/* One connection for all devices, or one each; those that fail are tried again later. */
void
sim_links_make(void)
{
	int			count = sim.opt.link_per_device ? sim.device_count : 1;

	by_name = malloc((size_t) sim.device_count * sizeof(SimDevice *));
	sim.links = calloc((size_t) count, sizeof(SimLink));
	poll_entries = calloc((size_t) count, sizeof(struct pollfd));
	if (by_name == NULL || sim.links == NULL || poll_entries == NULL)
	{
		fputs("iot-sim: out of memory\n", stderr);
		exit(1);
	}
	for (int i = 0; i < sim.device_count; i++)
		by_name[i] = &sim.devices[i];
	qsort(by_name, (size_t) sim.device_count, sizeof(SimDevice *), compare_devices);
	sim.link_count = count;
	for (int i = 0; i < count; i++)
	{
		if (sim.opt.link_per_device)
			make_link(&sim.links[i], i, &sim.devices[i], 1);
		else
			make_link(&sim.links[i], i, sim.devices, sim.device_count);
	}
}

static void
link_lost(SimLink *link)
{
	link->connected = false;
	link->ready = false;
	link->retry_at_us = sim_now_us() + iot_backoff_next(&link->backoff) * UINT64_C(1000);
}

static void
link_retry(SimLink *link)
{
	int			rc;

	if (link->retry_at_us == 0 || link->retry_at_us > sim_now_us())
		return;
	link->retry_at_us = 0;
	rc = mosquitto_reconnect(link->mosq);
	if (rc != MOSQ_ERR_SUCCESS)
		link_lost(link);
}

static void
link_read(SimLink *link)
{
	/* one packet a call: go on while the socket holds more, but let others have their turn */
	for (int i = 0; i < 100; i++)
	{
		int			more = 0;
		int			rc = mosquitto_loop_read(link->mosq, 1);

		if (rc != MOSQ_ERR_SUCCESS)
		{
			link_lost(link);
			return;
		}
		if (mosquitto_socket(link->mosq) < 0 ||
			ioctl(mosquitto_socket(link->mosq), FIONREAD, &more) != 0 || more == 0)
			return;
	}
}

/* Waits for traffic at most that long, and handles it. */
void
sim_links_run(uint32_t timeout_ms)
{
	uint64_t	now = sim_now_us();

	for (int i = 0; i < sim.link_count; i++)
	{
		SimLink    *link = &sim.links[i];

		link_retry(link);
		if (link->retry_at_us != 0)
		{
			uint64_t	wait_ms = link->retry_at_us <= now ? 0 :
				(link->retry_at_us - now) / 1000 + 1;

			if (wait_ms < timeout_ms)
				timeout_ms = (uint32_t) wait_ms;
		}
		poll_entries[i].fd = link->retry_at_us != 0 ? -1 : mosquitto_socket(link->mosq);
		poll_entries[i].events = POLLIN;
		if (mosquitto_want_write(link->mosq))
			poll_entries[i].events |= POLLOUT;
		poll_entries[i].revents = 0;
	}
	if (poll(poll_entries, (nfds_t) sim.link_count, (int) timeout_ms) > 0)
	{
		for (int i = 0; i < sim.link_count; i++)
		{
			SimLink    *link = &sim.links[i];
			short		events = poll_entries[i].revents;

			if (events & POLLOUT)
			{
				if (mosquitto_loop_write(link->mosq, 1) != MOSQ_ERR_SUCCESS)
				{
					link_lost(link);
					continue;
				}
			}
			/* before CONNACK a TLS handshake may be waiting to write, and reading drives it */
			if ((events & (POLLIN | POLLHUP | POLLERR)) || (events != 0 && !link->connected))
				link_read(link);
		}
	}
	now = sim_now_us();
	if (now >= misc_at_us)
	{
		misc_at_us = now + 1000000;
		for (int i = 0; i < sim.link_count; i++)
			if (sim.links[i].retry_at_us == 0 &&
				mosquitto_loop_misc(sim.links[i].mosq) != MOSQ_ERR_SUCCESS)
				link_lost(&sim.links[i]);
	}
}

/* Every device is subscribed to its commands. */
bool
sim_links_ready(void)
{
	for (int i = 0; i < sim.link_count; i++)
		if (!sim.links[i].ready)
			return false;
	return true;
}

/* Says goodbye: devices are offline, by message since a clean end keeps the will back. */
void
sim_links_end(void)
{
	uint64_t	end_us = sim_now_us() + 2000000;
	bool		busy = true;

	for (int i = 0; i < sim.link_count; i++)
	{
		SimLink    *link = &sim.links[i];

		for (int j = 0; link->connected && j < link->device_count; j++)
			(void) sim_link_publish(link, &sim.opt.status_topic, link->devices[j].name,
									"offline", sim.opt.qos, true, NULL);
	}
	while (busy && sim_now_us() < end_us)
	{
		busy = false;
		sim_links_run(10);
		for (int i = 0; i < sim.link_count; i++)
			if (sim.links[i].connected && mosquitto_want_write(sim.links[i].mosq))
				busy = true;
	}
	for (int i = 0; i < sim.link_count; i++)
	{
		if (sim.links[i].connected)
			mosquitto_disconnect(sim.links[i].mosq);
		mosquitto_destroy(sim.links[i].mosq);
		free(sim.links[i].unconfirmed);
	}
	free(by_name);
	free(poll_entries);
}
