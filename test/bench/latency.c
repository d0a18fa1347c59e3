/*
 * latency.c
 *		How long a command takes from iot.send_command() to the frame that tells of its success, and
 *		what that is made of: commits, and a way through the broker.
 *
 *		latency conninfo host port token-file mqtt-port user password-file rounds
 *
 * Prints three medians in milliseconds: the whole way, one commit of a single row, and a message
 * through the broker and back.  And the 99th percentile of the whole way.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libpq-fe.h>
#include <mosquitto.h>

#include "ws_client.h"

#define ROUND_TIMEOUT_NS	(UINT64_C(10) * 1000000000)

typedef struct Awaited
{
	char		id[64];
	bool		came;
	char		frame[65536];
	size_t		len;
} Awaited;

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

static double
percentile(double *values, int count, double share)
{
	qsort(values, (size_t) count, sizeof(double), compare);
	return values[(int) (share * (count - 1))];
}

static void
receive(void *arg, int socket, const char *text, size_t len, bool last)
{
	Awaited    *awaited = arg;

	(void) socket;
	if (awaited->len + len < sizeof(awaited->frame))
	{
		memcpy(awaited->frame + awaited->len, text, len);
		awaited->len += len;
	}
	if (!last)
		return;
	awaited->frame[awaited->len] = '\0';
	awaited->len = 0;
	if (awaited->id[0] != '\0' && strstr(awaited->frame, awaited->id) != NULL &&
		strstr(awaited->frame, "adapter.value_set_sent") != NULL)
		awaited->came = true;
}

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "latency: %s: %s\n", what, why);
	exit(1);
}

/* First field of a command's only row, into out. */
static void
ask(PGconn *conn, const char *sql, char *out, size_t size)
{
	PGresult   *result = PQexec(conn, sql);

	if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK)
		die(sql, PQerrorMessage(conn));
	if (out != NULL)
		snprintf(out, size, "%s", PQgetvalue(result, 0, 0));
	PQclear(result);
}

static void
measure_commands(PGconn *conn, WsPool *pool, Awaited *awaited, double *times, int rounds)
{
	for (int i = -5; i < rounds; i++)
	{
		char		sql[128];
		uint64_t	start;

		(void) poll(NULL, 0, 10);	/* workers fall asleep again: the system is idle */
		snprintf(sql, sizeof(sql), "SELECT iot.send_command('bench-1', 'level', %d)", 20 + i % 50);
		awaited->id[0] = '\0';
		awaited->came = false;
		start = ws_now_ns();
		ask(conn, sql, awaited->id, sizeof(awaited->id));
		while (!awaited->came)
		{
			ws_run(pool);
			if (ws_broken(pool) || ws_now_ns() - start > ROUND_TIMEOUT_NS)
				die("command", "no notification came");
		}
		/* the first few warm caches up */
		if (i >= 0)
			times[i] = (double) (ws_now_ns() - start) / 1e6;
	}
}

static void
measure_commits(PGconn *conn, double *times, int rounds)
{
	ask(conn, "CREATE TABLE IF NOT EXISTS public.bench_commit (n integer)", NULL, 0);
	for (int i = 0; i < rounds; i++)
	{
		uint64_t	start = ws_now_ns();

		ask(conn, "INSERT INTO public.bench_commit VALUES (1)", NULL, 0);
		times[i] = (double) (ws_now_ns() - start) / 1e6;
	}
}

static bool message_came;

static void
on_message(struct mosquitto *mosq, void *arg, const struct mosquitto_message *message)
{
	(void) mosq;
	(void) arg;
	(void) message;
	message_came = true;
}

static void
on_subscribe(struct mosquitto *mosq, void *arg, int mid, int count, const int *granted)
{
	(void) mosq;
	(void) mid;
	(void) count;
	(void) granted;
	*(bool *) arg = true;
}

static void
spin(struct mosquitto *mosq, const bool *flag)
{
	uint64_t	end = ws_now_ns() + ROUND_TIMEOUT_NS;

	while (!*flag)
	{
		int			rc = mosquitto_loop(mosq, 100, 1);

		if (rc != MOSQ_ERR_SUCCESS || ws_now_ns() > end)
			die("broker", mosquitto_strerror(rc));
	}
}

static void
measure_broker(int port, const char *user, const char *password, double *times, int rounds)
{
	bool		subscribed = false;
	struct mosquitto *mosq;
	int			rc;

	mosquitto_lib_init();
	mosq = mosquitto_new("iot-bench-latency", true, &subscribed);
	mosquitto_username_pw_set(mosq, user, password);
	mosquitto_int_option(mosq, MOSQ_OPT_TCP_NODELAY, 1);
	mosquitto_message_callback_set(mosq, on_message);
	mosquitto_subscribe_callback_set(mosq, on_subscribe);
	rc = mosquitto_connect(mosq, "127.0.0.1", port, 60);
	if (rc != MOSQ_ERR_SUCCESS)
		die("broker", mosquitto_strerror(rc));
	mosquitto_subscribe(mosq, NULL, "iot/bench/loop", 1);
	spin(mosq, &subscribed);
	for (int i = 0; i < rounds; i++)
	{
		uint64_t	start = ws_now_ns();

		message_came = false;
		mosquitto_publish(mosq, NULL, "iot/bench/loop", 64,
						  "0123456789012345678901234567890123456789012345678901234567890123", 1,
						  false);
		spin(mosq, &message_came);
		times[i] = (double) (ws_now_ns() - start) / 1e6;
	}
	mosquitto_disconnect(mosq);
	mosquitto_destroy(mosq);
	mosquitto_lib_cleanup();
}

static void
read_line(const char *path, char *line, int size)
{
	FILE	   *file = fopen(path, "r");

	if (file == NULL || fgets(line, size, file) == NULL)
		die(path, "cannot be read");
	fclose(file);
	line[strcspn(line, "\n")] = '\0';
}

int
main(int argc, char **argv)
{
	static Awaited awaited;
	char		token[4096];
	char		password[256];
	PGconn	   *conn;
	WsPool	   *pool;
	double	   *times;
	double		whole;
	double		whole_99;
	double		commit;
	int			rounds;

	if (argc != 9)
	{
		fprintf(stderr, "usage: latency conninfo host port token-file mqtt-port user"
				" password-file rounds\n");
		return 2;
	}
	rounds = atoi(argv[8]);
	times = calloc((size_t) rounds, sizeof(double));
	read_line(argv[4], token, sizeof(token));
	read_line(argv[7], password, sizeof(password));
	conn = PQconnectdb(argv[1]);
	if (times == NULL || PQstatus(conn) != CONNECTION_OK)
		die("database", PQerrorMessage(conn));
	pool = ws_open(argv[2], atoi(argv[3]), token,
				   "{\"op\":\"subscribe\",\"id\":1,\"events\":[\"adapter.*\"]}", 1, receive, &awaited);
	if (pool == NULL)
		return 1;
	measure_commands(conn, pool, &awaited, times, rounds);
	whole = percentile(times, rounds, 0.5);
	whole_99 = percentile(times, rounds, 0.99);
	ws_close(pool);
	measure_commits(conn, times, rounds);
	commit = percentile(times, rounds, 0.5);
	PQfinish(conn);
	measure_broker(atoi(argv[5]), argv[6], password, times, rounds);
	printf("%.3f %.3f %.3f %.3f\n", whole, commit, percentile(times, rounds, 0.5), whole_99);
	free(times);
	return 0;
}
