/*
 * mqtt_guard.c
 *		The MQTT library ends this process where it gives up, and not the server.
 *
 * Runs in an adapter's process.  Up to 2.0.17 libmosquitto takes a property that it does not know for
 * impossible and calls abort(): whatever speaks to us as a broker could have the whole server start
 * anew, which is what follows when a process of its dies by a signal.  While the library reads, the
 * signal is taken here and ends the adapter alone, as an error would; its link is left as it is, since
 * the library may have locked it.  The adapter is started again some seconds later.
 *
 * The signal comes from within the library's own code and never while ours runs, so that all may be
 * done that may be done there.  At any other time it means what it always does.
 */
#include "postgres.h"

#include <signal.h>

#include "bgworker/mqtt_guard.h"

static volatile sig_atomic_t guarded;
static void (*abandon_link) (void);

static void
on_abort(int number)
{
	/* without the guard: abort() goes on, and ends the process */
	if (!guarded)
		return;
	guarded = 0;
	abandon_link();
	ereport(FATAL,
			(errcode(ERRCODE_CONNECTION_EXCEPTION),
			 errmsg("the MQTT library gave up on what it received"),
			 errdetail("The broker, or what speaks in its place, violates the protocol."),
			 errhint("libmosquitto 2.0.18 and later refuse such packets and go on.")));
}

/* To be called once; abandon makes the process forget its link without touching the library. */
void
iot_guard_init(void (*abandon) (void))
{
	abandon_link = abandon;
	pqsignal(SIGABRT, on_abort);
}

void
iot_guard_begin(void)
{
	guarded = 1;
}

void
iot_guard_end(void)
{
	guarded = 0;
}
