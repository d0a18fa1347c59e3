/*
 * worker_slot.h
 *		What every process of the server knows about our workers, and how it wakes them.
 */
#ifndef IOT_WORKER_SLOT_H
#define IOT_WORKER_SLOT_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "ingest.h"

typedef enum IotWorkerKind
{
	IOT_WORKER_NONE = 0,
	IOT_WORKER_LAUNCHER,
	IOT_WORKER_NOTIFIER,
	IOT_WORKER_ADAPTER
} IotWorkerKind;

/* Counted since the process started; names for SQL are in worker_slot.c. */
typedef enum IotWorkerCounter
{
	IOT_COUNT_RECEIVED,			/* values that came in; a message without one counts 1 */
	IOT_COUNT_STORED,
	IOT_COUNT_DUPLICATE,
	IOT_COUNT_CONFLICT,
	IOT_COUNT_REJECTED,
	IOT_COUNT_MESSAGES,			/* MQTT messages taken from the broker */
	IOT_COUNT_GIVEN_BACK,		/* of these, handed back to be delivered again */
	IOT_COUNT_CONNECTED,		/* times the link came up */
	IOT_COUNT_TAKEN,			/* commands taken up */
	IOT_COUNT_PUBLISHED,		/* attempts that were sent */
	IOT_COUNT_COMPLETED,
	IOT_COUNT_FAILED,
	IOT_COUNT_LATE,
	IOT_COUNT_EVENTS,			/* events that the notifier read */
	IOT_COUNT_NOTIFICATIONS,
	IOT_COUNT_DELIVERED,
	IOT_COUNT_UNDELIVERED,		/* delivery attempts that failed */
	IOT_COUNT_EXPIRED,			/* commands swept at their deadline */
	IOT_COUNT_ERRORS,			/* transactions that failed */
	IOT_COUNT_REASON,			/* of what was rejected: this one and IOT_REASONS - 1 more */
	IOT_COUNTERS = IOT_COUNT_REASON + IOT_REASONS
} IotWorkerCounter;

#define IOT_WORKER_NAME_SIZE	96
#define IOT_WORKER_STATE_SIZE	24
#define IOT_WORKER_DETAIL_SIZE	256

/* Which worker: the launcher has no database, and only adapters have an adapter. */
typedef struct IotWorkerKey
{
	IotWorkerKind kind;
	Oid			database;
	pg_uuid_t	adapter_id;		/* zeros where there is none */
	int			number;			/* of an adapter's process, from 1 on; 0 for others */
} IotWorkerKey;

/* A copy of a slot, taken under the lock. */
typedef struct IotWorkerInfo
{
	IotWorkerKey key;
	char		name[IOT_WORKER_NAME_SIZE];
	char		state[IOT_WORKER_STATE_SIZE];
	char		detail[IOT_WORKER_DETAIL_SIZE];
	int			pid;			/* 0: wanted, not running */
	int			starts;
	TimestampTz started_at;
	TimestampTz beat_at;
	bool		stop;
	int64		counters[IOT_COUNTERS];
} IotWorkerInfo;

extern void iot_worker_slot_request(void);
extern void iot_worker_slot_start(void);
extern PGDLLEXPORT bool iot_worker_key_equal(const IotWorkerKey *a, const IotWorkerKey *b);

/* any process */
extern PGDLLEXPORT void iot_wake_at_commit(void);
extern PGDLLEXPORT const char *iot_worker_kind_name(IotWorkerKind kind);
extern PGDLLEXPORT char *iot_worker_counters_json(const int64 *counters);

/* who starts workers */
extern PGDLLEXPORT int iot_worker_slots(void);
extern PGDLLEXPORT bool iot_worker_slot_read(int slot, IotWorkerInfo *info);
extern PGDLLEXPORT int iot_worker_slot_reserve(const IotWorkerKey *key, const char *name);
extern PGDLLEXPORT void iot_worker_slot_explain(int slot, const char *state, const char *detail);
extern PGDLLEXPORT void iot_worker_slot_stop(int slot);
extern PGDLLEXPORT bool iot_worker_slot_release(int slot);

/* the worker itself */
extern PGDLLEXPORT bool iot_worker_slot_attach(const IotWorkerKey *key, const char *name);
extern PGDLLEXPORT void iot_worker_slot_rename(const char *name);
extern PGDLLEXPORT void iot_worker_slot_state(const char *state, const char *detail);
extern PGDLLEXPORT void iot_worker_slot_count(IotWorkerCounter counter, int64 count);
extern PGDLLEXPORT void iot_worker_slot_beat(void);
extern PGDLLEXPORT bool iot_worker_slot_stop_requested(void);
extern PGDLLEXPORT bool iot_worker_slot_self(IotWorkerInfo *info);

#endif							/* IOT_WORKER_SLOT_H */
