/*
 * command_wake.c
 *		Waking whoever waits for a command when it is final.
 *
 * Shared memory, made by the postmaster where iot is preloaded: a fixed number of condition
 * variables, and a command's is that of its hash.  Who waits sleeps on it; a transaction that makes
 * commands final broadcasts theirs once it has committed.  Two commands that share one, a matter of
 * chance, wake each other's waiters, who look and sleep on.
 *
 * Nobody registers, so that nothing is left behind: the server takes a sleeper off the list when his
 * (sub)transaction aborts and when his process exits.  However many wait, memory is the same.
 *
 * A hint, as every wake-up: COMMIT PREPARED, another server's commit and a restored row tell nobody,
 * and who waits looks by himself as well.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "command_wake.h"
#include "iot.h"

/* As many as there may be waiters on a large server, so that few share one; 64 kB. */
#define BUCKETS			4096

static ConditionVariableMinimallyPadded *buckets = NULL;

/* Those of the commands that the current transaction has made final; any_final says whether one is. */
static uint64 final_buckets[BUCKETS / 64];
static bool any_final = false;

/* Called by the postmaster before it makes shared memory. */
void
iot_command_wake_request(void)
{
	RequestAddinShmemSpace(BUCKETS * sizeof(*buckets));
}

/* Called by the postmaster as it makes shared memory, with AddinShmemInitLock held. */
void
iot_command_wake_start(void)
{
	bool		found;

	buckets = ShmemInitStruct("iot command waiters", BUCKETS * sizeof(*buckets), &found);
	for (int i = 0; !found && i < BUCKETS; i++)
		ConditionVariableInit(&buckets[i].cv);
}

/* Where nobody sleeps it takes and gives back a spinlock that nobody else wants, and cannot raise. */
static void
broadcast(void)
{
	for (int word = 0; word < lengthof(final_buckets); word++)
	{
		for (uint64 rest = final_buckets[word]; rest != 0; rest &= rest - 1)
			ConditionVariableBroadcast(&buckets[word * 64 + pg_rightmost_one_pos64(rest)].cv);
	}
}

/*
 * At XACT_EVENT_COMMIT the transaction is visible to everybody, and a standby that it had to wait for
 * has it, so that whoever looks now finds the command final.  Who comes to sleep only after the
 * broadcast looks after it, too.
 */
static void
wake_on_commit(XactEvent event, void *arg)
{
	if (!any_final || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
					   event != XACT_EVENT_PREPARE))
		return;
	if (event == XACT_EVENT_COMMIT)
		broadcast();
	memset(final_buckets, 0, sizeof(final_buckets));
	any_final = false;
}

static uint32
bucket_of(const pg_uuid_t *command_id)
{
	return hash_bytes(command_id->data, UUID_LEN) % BUCKETS;
}

/*
 * Has whoever waits for the command look at it as soon as the current transaction has committed.
 * Cannot fail.  A subtransaction that rolls back leaves the mark, and has them look for nothing.
 */
void
iot_command_final(const pg_uuid_t *command_id)
{
	uint32		bucket;

	if (buckets == NULL || !iot_wakeups)
		return;
	bucket = bucket_of(command_id);
	final_buckets[bucket / 64] |= UINT64CONST(1) << (bucket % 64);
	any_final = true;
}

/* What is broadcast when the command is final; NULL where that cannot be expected. */
ConditionVariable *
iot_command_final_told(const pg_uuid_t *command_id)
{
	if (buckets == NULL || !iot_wakeups || RecoveryInProgress())
		return NULL;
	return &buckets[bucket_of(command_id)].cv;
}

/* Called by _PG_init in the postmaster. */
void
iot_command_wake_init(void)
{
	/* every process inherits it, so that marking has nothing to allocate */
	RegisterXactCallback(wake_on_commit, NULL);
}
