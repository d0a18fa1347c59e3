/*
 * login.c
 *		Logging in: how often, how many at once, and what failed.
 *
 * Runs in any backend.  A login that fails raises, and takes everything back that it wrote: so its
 * failures are counted in shared memory, and wait there to become events in a transaction of the
 * notifier, or of the next login that is good.
 *
 * The counters are a fixed array, and a name's place in it is a keyed hash: nobody can push out the
 * counter of one name by trying many, names that do not exist count like others, and memory is
 * bounded.  Two names that share a place, a matter of chance, share its failures.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "iot.h"
#include "login.h"
#include "password.h"
#include "worker_slot.h"

#define COUNTERS		8192
#define FAILURES		256		/* that wait to become events */
#define NAME_SIZE		513		/* 128 characters, as long as a user's name can be */
#define AT_ONCE			8		/* hashes, of 32 MB each */

typedef struct LoginCounter
{
	TimestampTz began_at;		/* of the window, which the first failure opens */
	int			failures;		/* in it, tries that are still computing included */
} LoginCounter;

typedef struct LoginFailure
{
	Oid			database;
	TimestampTz failed_at;
	char		username[NAME_SIZE];
} LoginFailure;

typedef struct LoginShared
{
	uint64		seed;
	int			computing;
	int			nfailures;
	LoginFailure failures[FAILURES];
	LoginCounter counters[COUNTERS];
} LoginShared;

static LoginShared *shared = NULL;
static LWLock *login_lock = NULL;

PG_FUNCTION_INFO_V1(iot_login_check);
PG_FUNCTION_INFO_V1(iot_login_hash_password);
PG_FUNCTION_INFO_V1(iot_login_take_failures);

/* Called by the postmaster before it makes shared memory. */
void
iot_login_request(void)
{
	RequestAddinShmemSpace(sizeof(LoginShared));
	RequestNamedLWLockTranche("iot login", 1);
}

/* Called by the postmaster as it makes shared memory, with AddinShmemInitLock held. */
void
iot_login_start(void)
{
	bool		found;

	shared = ShmemInitStruct("iot login", sizeof(LoginShared), &found);
	login_lock = &GetNamedLWLockTranche("iot login")->lock;
	if (!found)
	{
		memset(shared, 0, sizeof(LoginShared));
		if (!pg_strong_random(&shared->seed, sizeof(shared->seed)))
			elog(FATAL, "could not generate random values");
	}
}

static LoginCounter *
counter_of(const char *username)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) username, strlen(username),
										   shared->seed ^ MyDatabaseId);

	return &shared->counters[hash % COUNTERS];
}

/* Caller holds the lock, which is given up where this raises. */
static void
begin_computing(void)
{
	if (shared->computing >= AT_ONCE)
	{
		LWLockRelease(login_lock);
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not check a password: too many others are being checked"),
				 errhint("Try again in a moment.")));
	}
	shared->computing++;
}

static void
raise_too_many(const LoginCounter *counter)
{
	TimestampTz ends_at = counter->began_at + (TimestampTz) iot_login_window * USECS_PER_SEC;
	long		seconds = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), ends_at) / 1000 + 1;

	LWLockRelease(login_lock);
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'T', '4', '2', '9')),
			 errmsg("too many failed logins"),
			 errhint("Try again in %ld seconds.", seconds)));
}

static void
note_failure(const char *username)
{
	LoginFailure *failure;

	/* beyond that the server's log has them alone */
	if (shared->nfailures == FAILURES)
		return;
	failure = &shared->failures[shared->nfailures++];
	failure->database = MyDatabaseId;
	failure->failed_at = GetCurrentTimestamp();
	strlcpy(failure->username, username, NAME_SIZE);
}

/*
 * iot_internal.check_login(username text, password text, hash text) returns boolean; VOLATILE.
 * Whether the password is the one that the hash is of; hash is null where there is none to be
 * right.  A failure counts, is logged and becomes an event, whatever becomes of this transaction.
 * Raises where the name has failed too often, and where too many are checked at once.
 */
Datum
iot_login_check(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(0);
	text	   *password = PG_GETARG_TEXT_PP(1);
	char	   *hash = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	char		username[NAME_SIZE];
	LoginCounter *counter;
	TimestampTz now = GetCurrentTimestamp();
	bool		good;
	int			len;

	if (shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("iot is not preloaded, and cannot count failed logins"),
				 errhint("Add \"iot\" to \"shared_preload_libraries\" and restart.")));
	len = pg_mbcliplen(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), NAME_SIZE - 1);
	memcpy(username, VARDATA_ANY(name), len);
	username[len] = '\0';

	LWLockAcquire(login_lock, LW_EXCLUSIVE);
	counter = counter_of(username);
	if (TimestampDifferenceExceeds(counter->began_at, now, iot_login_window * 1000) ||
		counter->began_at > now)
		counter->failures = 0;
	if (counter->failures >= iot_login_max_failures)
		raise_too_many(counter);
	begin_computing();
	/* a failure until it is known to be none, so that tries at once do not pass all together */
	if (counter->failures++ == 0)
		counter->began_at = now;
	LWLockRelease(login_lock);

	/* raises nothing, so that it always comes back to count down */
	good = iot_password_verify(VARDATA_ANY(password), VARSIZE_ANY_EXHDR(password), hash);

	LWLockAcquire(login_lock, LW_EXCLUSIVE);
	shared->computing--;
	if (good)
		counter->failures = 0;
	else
		note_failure(username);
	LWLockRelease(login_lock);
	if (!good)
		ereport(LOG,
				(errmsg("login of user \"%s\" failed", username)));
	PG_RETURN_BOOL(good);
}

/* iot_internal.hash_password(password text) returns text; VOLATILE STRICT. */
Datum
iot_login_hash_password(PG_FUNCTION_ARGS)
{
	text	   *password = PG_GETARG_TEXT_PP(0);
	char		hash[IOT_PASSWORD_HASH_SIZE];

	if (shared == NULL)
	{
		iot_password_hash(VARDATA_ANY(password), VARSIZE_ANY_EXHDR(password), hash);
		PG_RETURN_TEXT_P(cstring_to_text(hash));
	}
	LWLockAcquire(login_lock, LW_EXCLUSIVE);
	begin_computing();
	LWLockRelease(login_lock);
	PG_TRY();
	{
		iot_password_hash(VARDATA_ANY(password), VARSIZE_ANY_EXHDR(password), hash);
	}
	PG_FINALLY();
	{
		LWLockAcquire(login_lock, LW_EXCLUSIVE);
		shared->computing--;
		LWLockRelease(login_lock);
	}
	PG_END_TRY();
	PG_RETURN_TEXT_P(cstring_to_text(hash));
}

/* Whether there is something for iot_internal.record_login_failures() in this database. */
bool
iot_login_failures_waiting(void)
{
	bool		waiting = false;

	if (shared == NULL)
		return false;
	LWLockAcquire(login_lock, LW_SHARED);
	for (int i = 0; i < shared->nfailures && !waiting; i++)
		waiting = shared->failures[i].database == MyDatabaseId;
	LWLockRelease(login_lock);
	return waiting;
}

/*
 * iot_internal.take_login_failures() returns setof (username text, failed_at timestamptz).  Those of
 * this database, oldest first; who takes them must record them.
 */
Datum
iot_login_take_failures(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LoginFailure *taken;
	int			ntaken = 0;
	int			nkept = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (!iot_login_failures_waiting())
		return (Datum) 0;
	taken = palloc(sizeof(LoginFailure) * FAILURES);
	LWLockAcquire(login_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nfailures; i++)
	{
		if (shared->failures[i].database == MyDatabaseId)
			taken[ntaken++] = shared->failures[i];
		else
			shared->failures[nkept++] = shared->failures[i];
	}
	shared->nfailures = nkept;
	LWLockRelease(login_lock);
	for (int i = 0; i < ntaken; i++)
	{
		Datum		values[2];
		bool		nulls[2] = {0};

		values[0] = CStringGetTextDatum(taken[i].username);
		values[1] = TimestampTzGetDatum(taken[i].failed_at);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
