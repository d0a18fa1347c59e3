/*
 * telemetry.c
 *		What simulated devices report by themselves: values that wander from where they are, with
 *		the device's own time, at a steady rate.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "sim.h"

/* With "--rate max": telemetry that may wait for the broker's confirmation, per connection. */
#define WINDOW		1000
/* At most this many messages in one turn of the loop, so that commands never wait long. */
#define BURST		256

static int	next_device;
static uint64_t finished;		/* devices that sent all their messages */

/* Device time in ms; each is used once, since (device, parameter, time) is a measurement's key. */
static int64_t
device_time(SimDevice *device)
{
	int64_t		now = sim_wall_ms();

	if (now <= device->last_ts)
		now = device->last_ts + 1;
	device->last_ts = now;
	return now;
}

/* Devices start one after the other, so that they do not all speak at once. */
void
sim_telemetry_init(void)
{
	uint64_t	now = sim_now_us();

	if (sim.opt.rate > 0)
	{
		uint64_t	period_us = (uint64_t) (1e6 / sim.opt.rate);

		for (int i = 0; i < sim.device_count; i++)
			sim.devices[i].next_due_us =
				now + period_us * (uint64_t) i / (uint64_t) sim.device_count;
	}
}

/* Notes that the broker has to confirm this message. */
static void
expect_confirmation(SimLink *link, SimDevice *device, int64_t ts, int mid)
{
	if (link->unconfirmed == NULL)
	{
		link->unconfirmed = calloc(SIM_MESSAGE_IDS, sizeof(SimConfirmation));
		if (link->unconfirmed == NULL)
		{
			fputs("iot-sim: out of memory\n", stderr);
			exit(1);
		}
	}
	link->unconfirmed[mid & (SIM_MESSAGE_IDS - 1)] = (SimConfirmation) {device, ts};
	link->unconfirmed_count++;
}

/* The broker confirmed a message; answers and status are confirmed too, and are not counted. */
void
sim_telemetry_acked(SimLink *link, int mid)
{
	SimConfirmation *entry;

	if (link->unconfirmed == NULL)
		return;
	entry = &link->unconfirmed[mid & (SIM_MESSAGE_IDS - 1)];
	if (entry->device == NULL)
		return;
	sim.count.acked++;
	link->unconfirmed_count--;
	sim_record_telemetry("acked", entry->device, entry->ts, mid);
	entry->device = NULL;
}

static bool
send_values(SimDevice *device)
{
	int64_t		ts = device_time(device);
	cJSON	   *message = cJSON_CreateObject();
	cJSON	   *values = cJSON_AddObjectToObject(message, "values");
	char	   *text;
	int			mid = 0;
	bool		sent;

	cJSON_AddNumberToObject(message, "ts", (double) ts);
	for (int i = 0; i < sim.opt.parameter_count; i++)
	{
		double		step = (sim_random(&device->random) - 0.5) * 2 * sim.opt.jitter;

		cJSON_AddNumberToObject(values, sim.opt.parameters[i],
								round((device->values[i] + step) * 1000) / 1000);
	}
	text = cJSON_PrintUnformatted(message);
	cJSON_Delete(message);
	if (text == NULL)
		return false;
	sent = sim_link_publish(device->link, &sim.opt.telemetry_topic, device->name, text,
							sim.opt.qos, false, &mid);
	free(text);
	if (sent)
	{
		device->sent++;
		sim.count.published++;
		if (sim.opt.qos > 0)
			expect_confirmation(device->link, device, ts, mid);
		sim_record_telemetry("published", device, ts, mid);
		if (device->sent == sim.opt.messages)
			finished++;
	}
	return sent;
}

static bool
is_finished(const SimDevice *device)
{
	return sim.opt.messages > 0 && device->sent >= sim.opt.messages;
}

/* As fast as the broker confirms. */
static uint32_t
run_flood(uint32_t most_ms)
{
	int			sent = 0;

	for (int looked = 0; looked < sim.device_count && sent < BURST; looked++)
	{
		SimDevice  *device = &sim.devices[next_device];

		next_device = (next_device + 1) % sim.device_count;
		if (is_finished(device) || device->link->unconfirmed_count >= WINDOW)
			continue;
		if (send_values(device))
			sent++;
	}
	return sent > 0 ? 0 : most_ms;
}

/* Sends what is due; milliseconds until the next, at most most_ms. */
uint32_t
sim_telemetry_run(uint32_t most_ms)
{
	uint64_t	period_us;
	uint64_t	now;
	int			sent = 0;

	if (sim.opt.rate == 0)
		return most_ms;
	if (sim.opt.rate < 0)
		return run_flood(most_ms);
	period_us = (uint64_t) (1e6 / sim.opt.rate);
	now = sim_now_us();
	for (int i = 0; i < sim.device_count; i++)
	{
		SimDevice  *device = &sim.devices[i];
		uint64_t	wait_ms;

		if (is_finished(device))
			continue;
		if (device->next_due_us <= now && sent < BURST)
		{
			send_values(device);
			sent++;
			/* after a pause (the broker was away) go on from now; do not catch up in a burst */
			device->next_due_us += period_us;
			if (device->next_due_us + 1000000 < now)
				device->next_due_us = now + period_us;
		}
		wait_ms = device->next_due_us <= now ? 0 : (device->next_due_us - now) / 1000 + 1;
		if (wait_ms < most_ms)
			most_ms = (uint32_t) wait_ms;
	}
	return most_ms;
}

/* All messages that were asked for are sent, and with QoS 1 confirmed by the broker. */
bool
sim_telemetry_done(void)
{
	if (sim.opt.messages == 0 || finished < (uint64_t) sim.device_count)
		return false;
	return sim.opt.qos == 0 || sim.count.acked >= sim.count.published;
}

/* One value that is told at once, after a command; the time that it is given. */
int64_t
sim_telemetry_report(SimDevice *device, const char *parameter, double value)
{
	int64_t		ts = device_time(device);
	cJSON	   *message = cJSON_CreateObject();
	cJSON	   *values = cJSON_AddObjectToObject(message, "values");
	char	   *text;

	cJSON_AddNumberToObject(message, "ts", (double) ts);
	cJSON_AddNumberToObject(values, parameter, value);
	text = cJSON_PrintUnformatted(message);
	cJSON_Delete(message);
	if (text == NULL)
		return ts;
	(void) sim_link_publish(device->link, &sim.opt.telemetry_topic, device->name, text,
							sim.opt.qos, false, NULL);
	free(text);
	return ts;
}
