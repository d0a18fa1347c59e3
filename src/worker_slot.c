/*
 * worker_slot.c
 *		What every process of the server knows about our workers, and how it wakes them.
 *
 * Shared memory, made by the postmaster where iot is preloaded: a slot per wanted worker, with
 * its latch while it runs.  Who starts workers reserves and releases slots; a worker attaches to
 * the slot that bears its key and clears it when it exits.  A worker that is killed takes the
 * whole server through a restart, which makes this memory anew, so no slot outlives its process.
 *
 * Where iot is not preloaded there are no slots: nothing is woken and nothing is listed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "iot.h"
#include "worker_slot.h"

typedef struct IotWorkerSlot
{
	IotWorkerInfo info;			/* kind IOT_WORKER_NONE: free */
	Latch	   *latch;			/* of the running worker; NULL without one */
} IotWorkerSlot;

typedef struct IotWorkerShared
{
	int			nslots;
	IotWorkerSlot slots[FLEXIBLE_ARRAY_MEMBER];
} IotWorkerShared;

static const char *const counter_names[IOT_COUNT_REASON] = {
	"received", "stored", "duplicate", "conflict", "rejected", "messages", "given_back",
	"connected", "commands_taken", "commands_published", "commands_completed", "commands_failed",
	"commands_late", "events", "notifications", "delivered", "undelivered", "commands_expired",
	"errors"
};

static IotWorkerShared *shared = NULL;
static LWLock *slots_lock = NULL;
static IotWorkerSlot *my_slot = NULL;
static bool wake_registered = false;
static bool wake_wanted = false;

PG_FUNCTION_INFO_V1(iot_worker_slots_sql);

/* One more than the setting: the launcher's own. */
static Size
shared_size(void)
{
	return add_size(offsetof(IotWorkerShared, slots),
					mul_size(iot_max_workers + 1, sizeof(IotWorkerSlot)));
}

/* Called by the postmaster before it makes shared memory. */
void
iot_worker_slot_request(void)
{
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("iot", 1);
}

/* Called by the postmaster as it makes shared memory, with AddinShmemInitLock held. */
void
iot_worker_slot_start(void)
{
	bool		found;

	shared = ShmemInitStruct("iot workers", shared_size(), &found);
	slots_lock = &GetNamedLWLockTranche("iot")->lock;
	if (!found)
	{
		memset(shared, 0, shared_size());
		shared->nslots = iot_max_workers + 1;
	}
}

/* Sets the latch of each running worker of this database, ourselves excepted. */
static void
wake_workers(void)
{
	LWLockAcquire(slots_lock, LW_SHARED);
	for (int i = 0; i < shared->nslots; i++)
	{
		IotWorkerSlot *slot = &shared->slots[i];

		if (slot->latch != NULL && slot->latch != MyLatch &&
			slot->info.key.database == MyDatabaseId)
			SetLatch(slot->latch);
	}
	LWLockRelease(slots_lock);
}

/*
 * At XACT_EVENT_COMMIT the transaction is visible to everybody, so that a worker that looks now
 * finds what it was woken for.  A prepared transaction is left to polling.
 */
static void
wake_on_commit(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (wake_wanted)
				wake_workers();
			wake_wanted = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			wake_wanted = false;
			break;
		default:
			break;
	}
}

/*
 * Has the workers of this database look for work as soon as the current transaction has
 * committed.  A hint: they look by themselves within iot.poll_interval.  Cannot fail.
 */
void
iot_wake_at_commit(void)
{
	if (shared == NULL || !iot_wakeups)
		return;
	if (!wake_registered)
	{
		RegisterXactCallback(wake_on_commit, NULL);
		wake_registered = true;
	}
	wake_wanted = true;
}

const char *
iot_worker_kind_name(IotWorkerKind kind)
{
	switch (kind)
	{
		case IOT_WORKER_LAUNCHER:
			return "launcher";
		case IOT_WORKER_NOTIFIER:
			return "notifier";
		case IOT_WORKER_ADAPTER:
			return "mqtt adapter";
		case IOT_WORKER_NONE:
			break;
	}
	return "none";
}

bool
iot_worker_key_equal(const IotWorkerKey *a, const IotWorkerKey *b)
{
	return a->kind == b->kind && a->database == b->database && a->number == b->number &&
		memcmp(&a->adapter_id, &b->adapter_id, sizeof(pg_uuid_t)) == 0;
}

/* The slot of this key, else a free one made into it, else -1.  Caller holds the lock. */
static int
find_or_make(const IotWorkerKey *key, const char *name)
{
	int			unused = -1;

	for (int i = 0; i < shared->nslots; i++)
	{
		IotWorkerSlot *slot = &shared->slots[i];

		if (slot->info.key.kind == IOT_WORKER_NONE)
		{
			if (unused < 0)
				unused = i;
		}
		else if (iot_worker_key_equal(&slot->info.key, key))
			return i;
	}
	if (unused >= 0)
	{
		IotWorkerSlot *slot = &shared->slots[unused];

		memset(slot, 0, sizeof(*slot));
		slot->info.key = *key;
		strlcpy(slot->info.name, name, sizeof(slot->info.name));
		strlcpy(slot->info.state, "starting", sizeof(slot->info.state));
	}
	return unused;
}

/* Number of slots, free ones included; 0 where iot is not preloaded. */
int
iot_worker_slots(void)
{
	return shared == NULL ? 0 : shared->nslots;
}

/* Copies a slot; false where it is free. */
bool
iot_worker_slot_read(int slot, IotWorkerInfo *info)
{
	LWLockAcquire(slots_lock, LW_SHARED);
	*info = shared->slots[slot].info;
	LWLockRelease(slots_lock);
	return info->key.kind != IOT_WORKER_NONE;
}

/* A slot for a wanted worker, the same one each time it is asked for; -1 where none is free. */
int
iot_worker_slot_reserve(const IotWorkerKey *key, const char *name)
{
	int			slot;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	slot = find_or_make(key, name);
	if (slot >= 0)
		shared->slots[slot].info.stop = false;
	LWLockRelease(slots_lock);
	return slot;
}

/* Says why a wanted worker does not run; nothing where it runs after all. */
void
iot_worker_slot_explain(int slot, const char *state, const char *detail)
{
	IotWorkerInfo *info = &shared->slots[slot].info;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	if (info->pid == 0)
	{
		strlcpy(info->state, state, sizeof(info->state));
		strlcpy(info->detail, detail, sizeof(info->detail));
	}
	LWLockRelease(slots_lock);
}

/* Asks the worker to exit at its next turn. */
void
iot_worker_slot_stop(int slot)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	shared->slots[slot].info.stop = true;
	if (shared->slots[slot].latch != NULL)
		SetLatch(shared->slots[slot].latch);
	LWLockRelease(slots_lock);
}

/* Frees the slot of a worker that is no longer wanted; false while it still runs. */
bool
iot_worker_slot_release(int slot)
{
	bool		released = false;

	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	if (shared->slots[slot].info.pid == 0)
	{
		memset(&shared->slots[slot], 0, sizeof(IotWorkerSlot));
		released = true;
	}
	LWLockRelease(slots_lock);
	return released;
}

/* before_shmem_exit: whoever comes after us may hold the slot already. */
static void
detach(int code, Datum arg)
{
	IotWorkerSlot *slot = my_slot;

	my_slot = NULL;
	if (slot == NULL)
		return;
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	if (slot->info.pid == MyProcPid)
	{
		slot->info.pid = 0;
		slot->latch = NULL;
		strlcpy(slot->info.state, "stopped", sizeof(slot->info.state));
	}
	LWLockRelease(slots_lock);
}

/*
 * Makes the calling process the worker of this key.  False where another process is, or where no
 * slot is free: the caller should exit.
 */
bool
iot_worker_slot_attach(const IotWorkerKey *key, const char *name)
{
	bool		attached = false;
	int			slot;

	if (shared == NULL)
		return false;
	before_shmem_exit(detach, (Datum) 0);
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	slot = find_or_make(key, name);
	if (slot >= 0 && shared->slots[slot].info.pid == 0)
	{
		IotWorkerInfo *info = &shared->slots[slot].info;

		my_slot = &shared->slots[slot];
		info->pid = MyProcPid;
		info->starts++;
		info->started_at = info->beat_at = GetCurrentTimestamp();
		strlcpy(info->name, name, sizeof(info->name));
		strlcpy(info->state, "starting", sizeof(info->state));
		info->detail[0] = '\0';
		memset(info->counters, 0, sizeof(info->counters));
		my_slot->latch = MyLatch;
		attached = true;
	}
	LWLockRelease(slots_lock);
	return attached;
}

void
iot_worker_slot_rename(const char *name)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	strlcpy(my_slot->info.name, name, sizeof(my_slot->info.name));
	LWLockRelease(slots_lock);
}

void
iot_worker_slot_state(const char *state, const char *detail)
{
	LWLockAcquire(slots_lock, LW_EXCLUSIVE);
	strlcpy(my_slot->info.state, state, sizeof(my_slot->info.state));
	strlcpy(my_slot->info.detail, detail, sizeof(my_slot->info.detail));
	LWLockRelease(slots_lock);
}

/* Only the worker writes its counters; a reader may see one a moment old. */
void
iot_worker_slot_count(IotWorkerCounter counter, int64 count)
{
	my_slot->info.counters[counter] += count;
}

/* Says that the worker is alive. */
void
iot_worker_slot_beat(void)
{
	my_slot->info.beat_at = GetCurrentTimestamp();
}

bool
iot_worker_slot_stop_requested(void)
{
	return my_slot != NULL && ((volatile IotWorkerSlot *) my_slot)->info.stop;
}

/* Copies the calling worker's own slot; false where the process is no worker. */
bool
iot_worker_slot_self(IotWorkerInfo *info)
{
	if (my_slot == NULL)
		return false;
	*info = my_slot->info;
	return true;
}

/* The counters that are not zero, as the text of a JSON object in the current memory context. */
char *
iot_worker_counters_json(const int64 *counters)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < IOT_COUNTERS; i++)
	{
		bool		reason = i >= IOT_COUNT_REASON;

		if (counters[i] != 0)
			appendStringInfo(&json, "%s\"%s%s\":" INT64_FORMAT, json.len > 1 ? "," : "",
							 reason ? "rejected_" : "",
							 reason ? iot_reason_name(i - IOT_COUNT_REASON) : counter_names[i],
							 counters[i]);
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

/*
 * iot_internal.worker_slots() returns setof (name, kind, adapter_id, pid, state, detail, starts,
 * started_at, beat_at, counters); the launcher, and the workers of this database.
 */
Datum
iot_worker_slots_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < iot_worker_slots(); i++)
	{
		IotWorkerInfo info;
		Datum		values[10];
		bool		nulls[10] = {0};

		if (!iot_worker_slot_read(i, &info))
			continue;
		if (info.key.kind != IOT_WORKER_LAUNCHER && info.key.database != MyDatabaseId)
			continue;
		values[0] = CStringGetTextDatum(info.name);
		values[1] = CStringGetTextDatum(iot_worker_kind_name(info.key.kind));
		values[2] = UUIDPGetDatum(&info.key.adapter_id);
		nulls[2] = info.key.kind != IOT_WORKER_ADAPTER;
		values[3] = Int32GetDatum(info.pid);
		nulls[3] = info.pid == 0;
		values[4] = CStringGetTextDatum(info.state);
		values[5] = CStringGetTextDatum(info.detail);
		nulls[5] = info.detail[0] == '\0';
		values[6] = Int32GetDatum(info.starts);
		values[7] = TimestampTzGetDatum(info.started_at);
		nulls[7] = info.started_at == 0;
		values[8] = TimestampTzGetDatum(info.beat_at);
		nulls[8] = info.beat_at == 0;
		values[9] = DirectFunctionCall1(jsonb_in,
										CStringGetDatum(iot_worker_counters_json(info.counters)));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
