/*
 * mqtt_load.c
 *		Telemetry for the benchmarks: devices that speak as fast as the broker takes it, a client
 *		that only receives, and one lone message after another.
 *
 *		mqtt_load publish PORT USER PASSWORD-FILE DEVICES MESSAGES FIRST POISON
 *		mqtt_load receive PORT USER PASSWORD-FILE FILTER MESSAGES WINDOW
 *		mqtt_load lone PORT USER PASSWORD-FILE CONNINFO ROUNDS
 *
 * publish sends messages of three values each, QoS 1, from devices bench-1 on, whose clocks are right;
 * FIRST is the number of the first, on which the values depend.  Every POISONth is no JSON (0: none).
 * receive prints "ready" when it is subscribed, and at the end the seconds between its first and its
 * last message.  lone prints the median and the 99th percentile, in milliseconds, from publishing a
 * message to seeing its row.
 */
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libpq-fe.h>
#include <mosquitto.h>
#if LIBMOSQUITTO_VERSION_NUMBER < 2001000
#include <mqtt_protocol.h>		/* part of mosquitto.h since */
#endif

#define WINDOW			1000	/* of messages that the broker has not confirmed */
#define TIMEOUT_NS		(UINT64_C(10) * 1000000000)

static struct
{
	uint64_t	published;
	uint64_t	confirmed;
	uint64_t	received;
	uint64_t	expected;
	uint64_t	first_ns;
	bool		connected;
	bool		subscribed;
}			load;

static uint64_t
now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
}

/* The devices' clock. */
static uint64_t
wall_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t) now.tv_sec * 1000 + (uint64_t) now.tv_nsec / 1000000;
}

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "mqtt_load: %s: %s\n", what, why);
	exit(1);
}

static void
check(const char *what, int rc)
{
	if (rc != MOSQ_ERR_SUCCESS)
		die(what, mosquitto_strerror(rc));
}

static void
on_connect(struct mosquitto *mosq, void *arg, int rc)
{
	if (rc != 0)
		die("connect", mosquitto_connack_string(rc));
	load.connected = true;
}

static void
on_disconnect(struct mosquitto *mosq, void *arg, int rc)
{
	if (rc != 0)
		die("connection lost", mosquitto_strerror(rc));
}

static void
on_publish(struct mosquitto *mosq, void *arg, int mid)
{
	load.confirmed++;
}

static void
on_subscribe(struct mosquitto *mosq, void *arg, int mid, int count, const int *granted)
{
	load.subscribed = count == 1 && granted[0] == 1;
}

static void
on_message(struct mosquitto *mosq, void *arg, const struct mosquitto_message *message)
{
	if (load.received++ == 0)
		load.first_ns = now_ns();
}

/* Connects with a window of that many messages on their way to us, as the adapter does. */
static struct mosquitto *
connect_to(const char *port, const char *user, const char *password_file, int window)
{
	struct mosquitto *mosq;
	char		password[256] = "";
	FILE	   *file = fopen(password_file, "r");

	if (file == NULL || fgets(password, sizeof(password), file) == NULL)
		die("password file", password_file);
	fclose(file);
	password[strcspn(password, "\r\n")] = '\0';
	mosquitto_lib_init();
	mosq = mosquitto_new(NULL, true, NULL);
	if (mosq == NULL)
		die("client", "out of memory");
	check("protocol", mosquitto_int_option(mosq, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5));
	check("window", mosquitto_int_option(mosq, MOSQ_OPT_RECEIVE_MAXIMUM, window));
	check("delay", mosquitto_int_option(mosq, MOSQ_OPT_TCP_NODELAY, 1));
	check("user", mosquitto_username_pw_set(mosq, user, password));
	mosquitto_connect_callback_set(mosq, on_connect);
	mosquitto_disconnect_callback_set(mosq, on_disconnect);
	mosquitto_publish_callback_set(mosq, on_publish);
	mosquitto_subscribe_callback_set(mosq, on_subscribe);
	mosquitto_message_callback_set(mosq, on_message);
	mosquitto_max_inflight_messages_set(mosq, 0);
	check("connect", mosquitto_connect(mosq, "127.0.0.1", atoi(port), 60));
	while (!load.connected)
		check("connect", mosquitto_loop(mosq, 1000, 1));
	return mosq;
}

static int
publish_all(struct mosquitto *mosq, char **argv)
{
	int			devices = atoi(argv[0]);
	uint64_t	messages = strtoull(argv[1], NULL, 10);
	uint64_t	first = strtoull(argv[2], NULL, 10);
	uint64_t	poison = strtoull(argv[3], NULL, 10);
	uint64_t	start_ms = wall_ms();

	while (load.confirmed < messages)
	{
		while (load.published < messages && load.published - load.confirmed < WINDOW)
		{
			uint64_t	n = first + load.published++;
			uint64_t	round = (n - first) / (uint64_t) devices;
			char		topic[64];
			char		payload[160];
			int			len;

			/* now and then a device is too hot for a while */
			snprintf(topic, sizeof(topic), "iot/bench-%d/telemetry", (int) (n % (uint64_t) devices) + 1);
			if (poison > 0 && n % poison == 0)
				len = snprintf(payload, sizeof(payload), "{\"temperature\":");
			else
				len = snprintf(payload, sizeof(payload),
							   "{\"ts\":%llu,\"values\":{\"temperature\":%.2f,\"pressure\":%.1f,\"humidity\":%.1f}}",
							   (unsigned long long) (start_ms + round),
							   (n * 7919 % 997 == 0 ? 45.0 : 20.0) + (double) (n * 31 % 1000) / 100,
							   980 + (double) (n * 17 % 500) / 10, 30 + (double) (n * 13 % 400) / 10);
			check("publish", mosquitto_publish(mosq, NULL, topic, len, payload, 1, false));
		}
		check("publish", mosquitto_loop(mosq, 1000, 1));
	}
	return 0;
}

static int
receive_all(struct mosquitto *mosq, char **argv)
{
	check("subscribe", mosquitto_subscribe(mosq, NULL, argv[0], 1));
	load.expected = strtoull(argv[1], NULL, 10);
	while (load.received < load.expected)
	{
		check("receive", mosquitto_loop(mosq, 1000, 1));
		if (load.subscribed)
		{
			puts("ready");
			fflush(stdout);
			load.subscribed = false;
		}
	}
	printf("%.3f\n", (double) (now_ns() - load.first_ns) / 1e9);
	return 0;
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

/* Milliseconds from publishing a message to seeing its row. */
static double
one_lone(struct mosquitto *mosq, PGconn *conn, int round)
{
	uint64_t	ms = wall_ms();
	char		payload[96];
	char		number[24];
	const char *params[1] = {number};
	uint64_t	start = now_ns();
	bool		there = false;

	snprintf(number, sizeof(number), "%llu", (unsigned long long) ms);
	snprintf(payload, sizeof(payload), "{\"ts\":%s,\"values\":{\"temperature\":%d}}", number,
			 20 + round % 10);
	check("publish", mosquitto_publish(mosq, NULL, "iot/bench-1/telemetry", (int) strlen(payload),
									   payload, 1, false));
	while (!there)
	{
		PGresult   *result;

		check("publish", mosquitto_loop(mosq, 0, 1));
		result = PQexecPrepared(conn, "look", 1, params, NULL, NULL, 0);
		if (PQresultStatus(result) != PGRES_TUPLES_OK)
			die("look", PQerrorMessage(conn));
		there = PQntuples(result) == 1;
		PQclear(result);
		if (now_ns() - start > TIMEOUT_NS)
			die("lone message", "no row came");
	}
	return (double) (now_ns() - start) / 1e6;
}

static int
send_lone(struct mosquitto *mosq, char **argv)
{
	PGconn	   *conn = PQconnectdb(argv[0]);
	int			rounds = atoi(argv[1]);
	double	   *times = calloc((size_t) rounds, sizeof(double));
	PGresult   *result;

	if (times == NULL || PQstatus(conn) != CONNECTION_OK)
		die("database", PQerrorMessage(conn));
	result = PQprepare(conn, "look", "SELECT FROM iot.measurement AS m JOIN iot.sensor AS s"
					   " USING (device_id, parameter_id) JOIN iot.device AS d USING (device_id)"
					   " WHERE d.name = 'bench-1' AND m.ts = pg_catalog.to_timestamp($1::float8 / 1000)",
					   1, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die("prepare", PQerrorMessage(conn));
	PQclear(result);
	/* the first few warm caches up; between them everybody falls asleep */
	for (int round = -10; round < rounds; round++)
	{
		double		ms;

		(void) poll(NULL, 0, 20);
		ms = one_lone(mosq, conn, round + 10);
		if (round >= 0)
			times[round] = ms;
	}
	qsort(times, (size_t) rounds, sizeof(double), compare);
	printf("%.2f %.2f\n", times[rounds / 2], times[rounds * 99 / 100]);
	free(times);
	PQfinish(conn);
	return 0;
}

int
main(int argc, char **argv)
{
	bool		receive = argc == 8 && strcmp(argv[1], "receive") == 0;
	struct mosquitto *mosq;

	if (!receive && !(argc == 9 && strcmp(argv[1], "publish") == 0) &&
		!(argc == 7 && strcmp(argv[1], "lone") == 0))
		die("usage", "see the head of its source");
	mosq = connect_to(argv[2], argv[3], argv[4], receive ? atoi(argv[7]) : 20);
	if (receive)
		return receive_all(mosq, argv + 5);
	if (argc == 9)
		return publish_all(mosq, argv + 5);
	return send_lone(mosq, argv + 5);
}
