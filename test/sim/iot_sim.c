/*
 * iot_sim.c
 *		A program that plays devices: it reports values, carries out commands, and misbehaves as
 *		it is told to.
 *
 * For tests, the demo and benchmarks.  Prints "ready" whenever all devices are subscribed to their
 * commands, and a line of counters at its end.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim.h"

Sim			sim;

static void
stop_by_signal(int signo)
{
	(void) signo;
	sim.stop = true;
}

/* Microseconds on a clock that never jumps. */
uint64_t
sim_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

/* Milliseconds since 1970, as devices stamp what they report. */
int64_t
sim_wall_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Next number in [0, 1) of a xorshift64* sequence; the state must not be 0. */
double
sim_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (double) ((*state * UINT64_C(2685821657736338717)) >> 11) / 9007199254740992.0;
}

int
main(int argc, char **argv)
{
	struct sigaction action = {0};
	uint64_t	end_us;
	bool		told_ready = false;

	sim_parse_options(argc, argv);
	action.sa_handler = stop_by_signal;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);

	sim_record_open();
	sim_command_init();
	mosquitto_lib_init();
	sim_links_make();
	sim_telemetry_init();
	end_us = sim.opt.duration > 0 ? sim_now_us() + (uint64_t) (sim.opt.duration * 1e6) : 0;

	while (!sim.stop)
	{
		uint32_t	wait_ms = 1000;
		bool		ready = sim_links_ready();

		if (ready && !told_ready)
			puts("ready");
		told_ready = ready;
		if (end_us != 0)
		{
			uint64_t	now = sim_now_us();

			if (now >= end_us)
				break;
			if ((end_us - now) / 1000 < wait_ms)
				wait_ms = (uint32_t) ((end_us - now) / 1000) + 1;
		}
		wait_ms = sim_command_run(wait_ms);
		if (ready)
			wait_ms = sim_telemetry_run(wait_ms);
		if (sim.opt.exit_when_done && sim_telemetry_done())
			break;
		sim_links_run(wait_ms);
	}

	sim_command_flush();
	sim_links_end();
	mosquitto_lib_cleanup();
	sim_record_close();
	printf("received %llu executed %llu refused %llu dropped %llu answered %llu"
		   " published %llu acked %llu\n",
		   (unsigned long long) sim.count.received, (unsigned long long) sim.count.executed,
		   (unsigned long long) sim.count.refused, (unsigned long long) sim.count.dropped,
		   (unsigned long long) sim.count.answered, (unsigned long long) sim.count.published,
		   (unsigned long long) sim.count.acked);
	for (int i = 0; i < sim.device_count; i++)
	{
		free(sim.devices[i].user);
		free(sim.devices[i].password);
	}
	free(sim.devices);
	free(sim.links);
	free(sim.opt.password);
	return 0;
}
