/*
 * mqtt_outage.c
 *		What the log says of an adapter's connection, and when it is tried again.
 *
 * Runs in an adapter's process.  An outage is one line at its start and one at its end, which tells
 * how long it was, however often the connection was tried meanwhile.  Giving messages back is an
 * outage of the database's, which reconnecting does not end: only what goes all the way does.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "bgworker/mqtt_outage.h"
#include "bgworker/worker.h"
#include "core/backoff.h"

#define BACKOFF_BASE_MS		200
#define BACKOFF_CAP_MS		5000

static struct
{
	const IotMqttConfig *config;
	int64		since;			/* of the worker's clock, like the others; 0: none */
	int			attempts;
	int64		giving_back_since;	/* 0: the database takes what we read */
	int64		retry_at;
	IotBackoff	backoff;
}			outage;

/* To be called once in the process. */
void
iot_outage_init(void)
{
	iot_backoff_init(&outage.backoff, BACKOFF_BASE_MS, BACKOFF_CAP_MS,
					 (uint64) MyProcPid << 32 ^ (uint64) GetCurrentTimestamp());
}

/* What there was with another configuration says nothing of this one. */
void
iot_outage_configure(const IotMqttConfig *config)
{
	outage.config = config;
	outage.since = 0;
	outage.attempts = 0;
	outage.retry_at = 0;
	iot_backoff_reset(&outage.backoff);
}

/* A connection that was up is lost, or one could not be made. */
void
iot_outage_begin(bool was_up, const char *reason)
{
	int64		now = iot_worker_clock_ms();

	if (outage.giving_back_since != 0)
		 /* said when it began */ ;
	else if (was_up)
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("adapter \"%s\" lost its connection to MQTT broker \"%s\": %s",
						outage.config->name, outage.config->url, reason)));
	else if (outage.attempts == 0)
		ereport(LOG,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("adapter \"%s\" could not connect to MQTT broker \"%s\": %s",
						outage.config->name, outage.config->url, reason)));
	iot_worker_state("disconnected", reason);
	if (outage.since == 0)
		outage.since = now;
	if (!was_up)
		outage.attempts++;
	outage.retry_at = now + iot_backoff_next(&outage.backoff);
}

/* The connection is up. */
void
iot_outage_end(void)
{
	if (outage.giving_back_since != 0)
		 /* the broker was not the trouble */ ;
	else if (outage.since != 0)
		ereport(LOG,
				(errmsg("adapter \"%s\" connected to MQTT broker \"%s\" after %d s and %d failed attempts",
						outage.config->name, outage.config->url,
						(int) (iot_worker_clock_ms() - outage.since) / 1000,
						outage.attempts)));
	else
		ereport(LOG,
				(errmsg("adapter \"%s\" connected to MQTT broker \"%s\"",
						outage.config->name, outage.config->url)));
	outage.since = 0;
	outage.attempts = 0;
}

/* The database did not take what was read, and the broker gets it back. */
void
iot_outage_give_back(void)
{
	if (outage.giving_back_since != 0)
		return;
	outage.giving_back_since = iot_worker_clock_ms();
	ereport(LOG,
			(errmsg("adapter \"%s\" gives messages back to MQTT broker \"%s\": the database did not take them",
					outage.config->name, outage.config->url)));
}

/* Something went all the way: the next failure starts a new series. */
void
iot_outage_prove(void)
{
	iot_backoff_reset(&outage.backoff);
	if (outage.giving_back_since != 0)
		ereport(LOG,
				(errmsg("adapter \"%s\": the database takes messages again after %d s",
						outage.config->name,
						(int) (iot_worker_clock_ms() - outage.giving_back_since) / 1000)));
	outage.giving_back_since = 0;
}

/* How long to wait before the next attempt. */
int64
iot_outage_wait_ms(void)
{
	return Max(outage.retry_at - iot_worker_clock_ms(), 0);
}
