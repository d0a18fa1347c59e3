/*
 * iot.c
 *		Loading of iot.so: settings, shared memory, and registration of the launcher.
 *
 * Runs in the postmaster when preloaded, else in the first backend that calls one of our
 * functions.  It starts no library and opens nothing: what a postmaster owns, every child
 * inherits.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "command_wake.h"
#include "compat.h"
#include "iot.h"
#include "login.h"
#include "worker_slot.h"

PG_MODULE_MAGIC;

char	   *iot_databases = NULL;
char	   *iot_authenticators = NULL;
int			iot_max_workers = 32;
int			iot_poll_interval = 500;
bool		iot_wakeups = true;
int			iot_command_ttl = 60;
int			iot_max_payload_size = 64;
bool		iot_log_commands = true;
char	   *iot_jwt_key_file = NULL;
int			iot_login_max_failures = 5;
int			iot_login_window = 900;
bool		iot_preloaded = false;

/* read by SQL functions alone */
static char *jwt_audience = NULL;
static int	token_ttl = 12 * 3600;
static bool self_registration = false;

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

PGDLLEXPORT void _PG_init(void);

/* Refuses what cannot be read as a list of identifiers, so that a typing error is told at reload. */
static bool
check_name_list(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval ? *newval : "");
	List	   *names = NIL;
	bool		valid = SplitIdentifierString(copy, ',', &names);

	if (!valid)
		GUC_check_errdetail("List syntax is invalid.");
	list_free(names);
	pfree(copy);
	return valid;
}

static void
request_shared_memory(void)
{
	if (previous_request_hook)
		previous_request_hook();
	iot_worker_slot_request();
	iot_login_request();
	iot_command_wake_request();
}

static void
start_shared_memory(void)
{
	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	iot_worker_slot_start();
	iot_login_start();
	iot_command_wake_start();
	LWLockRelease(AddinShmemInitLock);
}

static void
register_launcher(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "iot_worker", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "iot_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "iot launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "iot launcher", BGW_MAXLEN);
	/* the servers that pg_upgrade starts are nobody's: no device may hear of them, no row may move */
	if (!IsBinaryUpgrade)
		RegisterBackgroundWorker(&worker);
}

void
_PG_init(void)
{
	DefineCustomStringVariable("iot.databases",
							   "Databases whose iot workers run.",
							   "Comma-separated names. Follows a reload.",
							   &iot_databases,
							   "",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   check_name_list, NULL, NULL);
	DefineCustomStringVariable("iot.authenticators",
							   "Login roles whose request.jwt.claims name the acting user.",
							   "Comma-separated roles, such as PostgREST's authenticator.",
							   &iot_authenticators,
							   "",
							   PGC_SUSET, GUC_LIST_INPUT,
							   check_name_list, NULL, NULL);
	/* a server that is up refuses a new variable that only a start may set */
	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("iot.max_workers",
								"Most iot workers of all databases together.",
								"Each also takes one of max_worker_processes.",
								&iot_max_workers,
								32, 2, 1024,
								PGC_POSTMASTER, 0,
								NULL, NULL, NULL);
	DefineCustomIntVariable("iot.poll_interval",
							"Longest time a worker waits before it looks for work unasked.",
							"Wake-ups make latency short; polling makes it bounded.",
							&iot_poll_interval,
							500, 10, 1000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("iot.wakeups",
							 "Wakes workers, and whoever waits for a command, at commit.",
							 "Off leaves polling alone; for tests.",
							 &iot_wakeups,
							 true,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("iot.command_ttl",
							"Time a command has to reach its device and be answered.",
							"Used where neither the call nor the device type says another.",
							&iot_command_ttl,
							60, 1, 30 * 24 * 3600,
							PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("iot.max_payload_size",
							"Largest payload that is taken from a device or from iot.ingest().",
							NULL,
							&iot_max_payload_size,
							64, 1, 16 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("iot.log_commands",
							 "Logs each attempt and each end of a command.",
							 NULL,
							 &iot_log_commands,
							 true,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomStringVariable("iot.jwt_key_file",
							   "File with the secret that signs tokens, as one line of text.",
							   "The first one signs; iot-pushd takes tokens by any of them.",
							   &iot_jwt_key_file,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("iot.jwt_audience",
							   "Audience that tokens name, empty for none.",
							   NULL,
							   &jwt_audience,
							   "",
							   PGC_SUSET, 0,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("iot.token_ttl",
							"Time for which a token is good.",
							NULL,
							&token_ttl,
							12 * 3600, 1, 30 * 24 * 3600,
							PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("iot.self_registration",
							 "Lets anybody who may connect register a user.",
							 "Such a user may nothing until a group takes him in.",
							 &self_registration,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("iot.login_max_failures",
							"Failed logins of a name after which it has to wait.",
							NULL,
							&iot_login_max_failures,
							5, 1, 1000,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("iot.login_window",
							"Time after its first failed login for which a name's failures count.",
							NULL,
							&iot_login_window,
							900, 1, 24 * 3600,
							PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("iot");

	if (process_shared_preload_libraries_in_progress)
	{
		iot_preloaded = true;
		previous_request_hook = shmem_request_hook;
		shmem_request_hook = request_shared_memory;
		previous_startup_hook = shmem_startup_hook;
		shmem_startup_hook = start_shared_memory;
		iot_command_wake_init();
		register_launcher();
	}
}
