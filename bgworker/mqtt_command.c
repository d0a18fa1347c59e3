/*
 * mqtt_command.c
 *		The commands that an adapter has taken up: whose turn it is, and what became of them.
 *
 * Runs in an adapter's process, in memory of its own; it reads and writes no table and no socket.
 * Everything here can be lost: the tables know which commands are taken up, and a worker that
 * starts again loads them.
 *
 * Of a sensor's commands the one with the lowest version has its turn; the others wait until that
 * one's end is recorded.  A command that was handed to a connection which broke before the broker
 * had it may be sent once more than its attempts allow, since that attempt reached nobody.
 *
 * A command's time is over when the system's clock says so or the worker's, which nobody sets:
 * where the former is set back, nothing reaches a device later than it was allowed to.
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "bgworker/mqtt_command.h"
#include "bgworker/mqtt_link.h"
#include "bgworker/worker.h"
#include "iot.h"

#define COMMANDS_MAX	20000	/* taken up at a time; some 10 MB */
#define RESUME_GRACE_MS	1000	/* for answers that the broker kept for us meanwhile */
#define MIDS			65536

typedef struct SensorKey
{
	pg_uuid_t	device_id;
	pg_uuid_t	parameter_id;
} SensorKey;

typedef struct Sensor
{
	SensorKey	key;
	IotCommand *turn;
	dlist_head	waiting;		/* by version */
} Sensor;

static MemoryContext context = NULL;
static HTAB *commands = NULL;
static HTAB *sensors = NULL;
static dlist_head ready;		/* READY, first come first served */
static int	nready = 0;
static int	nsent = 0;
static pairingheap *due_heap = NULL;	/* SENT, by due_at */
static IotCommand **by_mid = NULL;
static IotCommandEnd *ends = NULL;
static int	nends = 0;
static int	ends_size = 0;

static int
compare_due(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	int64		at = pairingheap_const_container(IotCommand, due, a)->due_at;
	int64		bt = pairingheap_const_container(IotCommand, due, b)->due_at;

	return at < bt ? 1 : at > bt ? -1 : 0;
}

/* An empty table, whatever was in it. */
void
iot_command_reset(void)
{
	HASHCTL		info = {0};

	if (context != NULL)
		MemoryContextReset(context);
	else
		context = AllocSetContextCreate(TopMemoryContext, "iot commands",
										ALLOCSET_DEFAULT_SIZES);
	info.keysize = sizeof(pg_uuid_t);
	info.entrysize = sizeof(IotCommand);
	info.hcxt = context;
	commands = hash_create("iot commands", 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	info.keysize = sizeof(SensorKey);
	info.entrysize = sizeof(Sensor);
	sensors = hash_create("iot sensors", 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	dlist_init(&ready);
	nready = nsent = nends = ends_size = 0;
	ends = NULL;
	due_heap = MemoryContextAllocZero(context, sizeof(pairingheap));
	due_heap->ph_compare = compare_due;
	by_mid = MemoryContextAllocZero(context, sizeof(IotCommand *) * MIDS);
}

void
iot_command_init(void)
{
	iot_command_reset();
}

int
iot_command_count(void)
{
	return hash_get_num_entries(commands);
}

/* How many more may be taken up. */
int
iot_command_room(void)
{
	return Max(COMMANDS_MAX - iot_command_count(), 0);
}

static Sensor *
sensor_of(const pg_uuid_t *device_id, const pg_uuid_t *parameter_id, HASHACTION action,
		  bool *found)
{
	SensorKey	key;

	memset(&key, 0, sizeof(key));
	key.device_id = *device_id;
	key.parameter_id = *parameter_id;
	return hash_search(sensors, &key, action, found);
}

/* Whether a new command of this sensor would have its turn at once. */
bool
iot_command_sensor_free(const pg_uuid_t *device_id, const pg_uuid_t *parameter_id)
{
	return sensor_of(device_id, parameter_id, HASH_FIND, NULL) == NULL;
}

IotCommand *
iot_command_find(const pg_uuid_t *command_id)
{
	return hash_search(commands, command_id, HASH_FIND, NULL);
}

static void
waiting_to_ready(IotCommand *command)
{
	Assert(command->state == IOT_COMMAND_WAITING);
	command->state = IOT_COMMAND_READY;
	dlist_push_tail(&ready, &command->link);
	nready++;
}

static void
ready_to_sent(IotCommand *command, int64 due_at)
{
	Assert(command->state == IOT_COMMAND_READY);
	dlist_delete(&command->link);
	nready--;
	command->state = IOT_COMMAND_SENT;
	command->due_at = due_at;
	pairingheap_add(due_heap, &command->due);
	nsent++;
}

static void
forget_mid(IotCommand *command)
{
	if (command->mid != 0)
		by_mid[command->mid] = NULL;
	command->mid = 0;
}

static void
sent_to_ready(IotCommand *command)
{
	Assert(command->state == IOT_COMMAND_SENT);
	pairingheap_remove(due_heap, &command->due);
	nsent--;
	forget_mid(command);
	command->state = IOT_COMMAND_READY;
	dlist_push_tail(&ready, &command->link);
	nready++;
}

static void
set_due(IotCommand *command, int64 due_at)
{
	pairingheap_remove(due_heap, &command->due);
	command->due_at = due_at;
	pairingheap_add(due_heap, &command->due);
}

/* How much of its time a command has left, by whichever clock leaves it less; never below 0. */
long
iot_command_left_ms(const IotCommand *command)
{
	int64		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), command->deadline);

	return Max(Min(left, command->ends_at - iot_worker_clock_ms()), 0);
}

/* When a command that is left alone for so long is due, its deadline at the latest. */
static int64
due_after(const IotCommand *command, int64 ms)
{
	return iot_worker_clock_ms() + Min(ms, iot_command_left_ms(command));
}

/*
 * Takes a command in.  One that is resumed and was tried before may have reached its device: it
 * is left some time for the answer before it is tried again.
 */
void
iot_command_add(const IotCommand *row, bool resumed)
{
	bool		found;
	IotCommand *command = hash_search(commands, &row->command_id, HASH_ENTER, &found);
	Sensor	   *sensor;
	dlist_iter	iter;

	if (found)
		return;
	*command = *row;
	command->parameter = MemoryContextStrdup(context, row->parameter);
	command->topic = MemoryContextStrdup(context, row->topic);
	command->payload = MemoryContextStrdup(context, row->payload);
	command->state = IOT_COMMAND_WAITING;
	command->mid = 0;
	command->accepted = command->ended = command->allowed = false;
	command->ends_at = iot_worker_clock_ms() + (command->deadline - GetCurrentTimestamp()) / 1000 + 1;
	sensor = sensor_of(&row->device_id, &row->parameter_id, HASH_ENTER, &found);
	if (!found)
	{
		dlist_init(&sensor->waiting);
		sensor->turn = command;
		waiting_to_ready(command);
		if (resumed && command->attempts > 0)
			ready_to_sent(command, due_after(command, RESUME_GRACE_MS));
		return;
	}
	dlist_reverse_foreach(iter, &sensor->waiting)
	{
		IotCommand *before = dlist_container(IotCommand, link, iter.cur);

		if (before->version <= command->version)
		{
			dlist_insert_after(&before->link, &command->link);
			return;
		}
	}
	dlist_push_head(&sensor->waiting, &command->link);
}

/*
 * Forgets a command that is final in the tables, and gives the turn to the next of its sensor.
 */
void
iot_command_finish(IotCommand *command)
{
	Sensor	   *sensor = sensor_of(&command->device_id, &command->parameter_id, HASH_FIND, NULL);

	switch (command->state)
	{
		case IOT_COMMAND_WAITING:
		case IOT_COMMAND_READY:
			dlist_delete(&command->link);
			if (command->state == IOT_COMMAND_READY)
				nready--;
			break;
		case IOT_COMMAND_SENT:
			pairingheap_remove(due_heap, &command->due);
			forget_mid(command);
			nsent--;
			break;
	}
	if (command->ended)
	{
		for (int i = 0; i < nends; i++)
		{
			if (ends[i].command == command)
				ends[i].command = NULL;
		}
	}
	if (sensor->turn == command)
	{
		if (dlist_is_empty(&sensor->waiting))
			(void) hash_search(sensors, &sensor->key, HASH_REMOVE, NULL);
		else
		{
			sensor->turn = dlist_container(IotCommand, link,
										   dlist_pop_head_node(&sensor->waiting));
			waiting_to_ready(sensor->turn);
		}
	}
	pfree(command->parameter);
	pfree(command->topic);
	pfree(command->payload);
	(void) hash_search(commands, &command->command_id, HASH_REMOVE, NULL);
}

/* Whether something could be sent now. */
bool
iot_command_has_ready(int max_in_flight)
{
	return nready > 0 && nsent < max_in_flight;
}

/* The commands whose turn it is, as many as may be in flight; they stay READY. */
int
iot_command_ready(IotCommand **chosen, int max, int max_in_flight)
{
	int			count = 0;
	dlist_iter	iter;

	max = Min(max, max_in_flight - nsent);
	dlist_foreach(iter, &ready)
	{
		IotCommand *command = dlist_container(IotCommand, link, iter.cur);

		if (count >= max)
			break;
		if (!command->ended)
			chosen[count++] = command;
	}
	return count;
}

/* The attempt is committed and with the connection (mid 0: the connection broke before that). */
void
iot_command_sent(IotCommand *command, int mid)
{
	ready_to_sent(command, due_after(command, command->ack_timeout_ms));
	command->accepted = false;
	command->mid = mid;
	if (mid != 0)
		by_mid[mid] = command;
}

static void
end(IotCommand *command, bool ok, const char *error)
{
	if (command->ended)
		return;
	if (nends >= ends_size)
	{
		ends_size = Max(ends_size * 2, 64);
		ends = ends == NULL ? MemoryContextAlloc(context, ends_size * sizeof(IotCommandEnd)) :
			repalloc(ends, ends_size * sizeof(IotCommandEnd));
	}
	command->ended = true;
	ends[nends].command = command;
	ends[nends].ok = ok;
	ends[nends].error = error;
	nends++;
}

/* The library will never take this message. */
void
iot_command_unsendable(IotCommand *command)
{
	end(command, false, "the message cannot be sent over MQTT");
}

/* The broker answered a publish. */
void
iot_command_published(int mid, int reason)
{
	IotCommand *command = mid > 0 && mid < MIDS ? by_mid[mid] : NULL;

	if (command == NULL)
		return;
	forget_mid(command);
	command->accepted = true;
	if (reason >= 0x80)
		end(command, false, iot_link_reason_text(reason));
	else if (command->ack_mode != IOT_ACK_BROKER)
		return;
	else if (reason == 0)
		end(command, true, NULL);
	else
		end(command, false, iot_link_reason_text(reason));
}

/* Message ids mean nothing on the next connection. */
void
iot_command_link_down(void)
{
	memset(by_mid, 0, sizeof(IotCommand *) * MIDS);
}

/*
 * A new connection: what the broker of the last one never confirmed may not have arrived.  The
 * device's answer to it may be waiting in our session, so it is given a moment.
 */
void
iot_command_link_up(void)
{
	HASH_SEQ_STATUS scan;
	IotCommand *command;

	hash_seq_init(&scan, commands);
	while ((command = hash_seq_search(&scan)) != NULL)
	{
		command->mid = 0;
		if (command->state != IOT_COMMAND_SENT || command->accepted || command->ended)
			continue;
		command->max_attempts = Max(command->max_attempts, command->attempts + 1);
		set_due(command, due_after(command, Min(command->ack_timeout_ms, RESUME_GRACE_MS)));
	}
}

/* The system's clock was set: what is over by now is looked at at once, and gives its turn away. */
void
iot_command_clock_set(void)
{
	HASH_SEQ_STATUS scan;
	IotCommand *command;

	hash_seq_init(&scan, commands);
	while ((command = hash_seq_search(&scan)) != NULL)
	{
		if (command->state == IOT_COMMAND_SENT && !command->ended)
			set_due(command, Min(command->due_at, due_after(command, PG_INT32_MAX)));
	}
}

/* Decides about commands that nobody answered in time: once more, or not answered at all. */
void
iot_command_look_at_due(bool link_up)
{
	int64		now = iot_worker_clock_ms();

	while (!pairingheap_is_empty(due_heap))
	{
		IotCommand *command = pairingheap_container(IotCommand, due, pairingheap_first(due_heap));

		if (command->due_at > now)
			break;
		if (command->ended)
			set_due(command, now + 1000);	/* being recorded */
		else if (iot_command_left_ms(command) == 0 ||
				 (command->attempts >= command->max_attempts && command->accepted))
			end(command, false, IOT_TIMED_OUT);
		else if (command->attempts >= command->max_attempts && link_up)
			end(command, false, IOT_TIMED_OUT);
		else if (command->attempts >= command->max_attempts)
			set_due(command, Max(due_after(command, PG_INT32_MAX), now + 1));	/* or a new link */
		else
			sent_to_ready(command);
	}
}

/* The command that this value confirms, or NULL; doubles may have travelled as floats. */
IotCommand *
iot_command_echoed(const IotIngestValue *value)
{
	Sensor	   *sensor = sensor_of(&value->device_id, &value->parameter_id, HASH_FIND, NULL);
	IotCommand *command = sensor == NULL ? NULL : sensor->turn;

	if (command == NULL || command->ack_mode != IOT_ACK_ECHO || command->ended ||
		command->attempts == 0)
		return NULL;
	return fabs(value->value - command->value) <= 1e-6 * Max(1.0, fabs(command->value)) ?
		command : NULL;
}

/* Ends that wait to be recorded; entries whose command is NULL are recorded already. */
int
iot_command_ends(const IotCommandEnd **list)
{
	*list = ends;
	return nends;
}

/* The first so many are recorded, and their commands finished. */
void
iot_command_forget_ends(int count)
{
	/* without any there may be no array yet */
	if (count == 0)
		return;
	memmove(ends, ends + count, sizeof(IotCommandEnd) * (nends - count));
	nends -= count;
}

/* How long until a command has to be looked at. */
long
iot_command_timeout_ms(void)
{
	IotCommand *command;

	if (pairingheap_is_empty(due_heap))
		return 60000;
	command = pairingheap_container(IotCommand, due, pairingheap_first(due_heap));
	return Max(command->due_at - iot_worker_clock_ms(), 0);
}
