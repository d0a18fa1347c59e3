/*
 * worker.h
 *		What every worker process does alike: start, transactions, waiting, saying how it is.
 */
#ifndef IOT_WORKER_H
#define IOT_WORKER_H

#include "compat.h"
#include "worker_slot.h"

typedef enum IotXactOutcome
{
	IOT_XACT_DONE,				/* committed */
	IOT_XACT_IDLE,				/* body not run: no extension, tables of another version, paused */
	IOT_XACT_REFUSED,			/* SQLSTATE class 22 or 23: what the body was given is guilty */
	IOT_XACT_FAILED				/* anything else: worth another try later */
} IotXactOutcome;

/* Details of a failure, in the memory context of iot_try_xact's caller. */
typedef struct IotXactError
{
	int			sqlerrcode;
	char	   *message;
} IotXactError;

typedef void (*IotXactBody) (void *arg);

/* What a transaction may do that others may not. */
#define IOT_XACT_WHILE_PAUSED	0x01	/* run though this copy is paused until iot.resume() */
#define IOT_XACT_LONG			0x02	/* no limit of time */
#define IOT_XACT_NO_TABLES		0x04	/* touches none, so that nothing can keep it out */

extern IotXactOutcome iot_try_xact(const char *activity, int flags, IotXactBody body, void *arg,
								   IotXactError *error);
extern const char *iot_worker_idle_reason(void);
extern bool iot_sqlstate_is_refusal(int sqlerrcode);

extern void iot_worker_start(const IotWorkerKey *key, const char *name);
extern void iot_worker_adapter_names(const char *adapter, int number,
									 char name[IOT_WORKER_NAME_SIZE],
									 char title[IOT_WORKER_NAME_SIZE]);
extern int64 iot_worker_clock_ms(void);
extern bool iot_worker_passed(int64 since, int64 ms);
extern int64 iot_worker_clock_set_by(void);
extern void iot_worker_check_interrupts(void);
extern uint32 iot_worker_wait(uint32 socket_events, pgsocket socket, long timeout_ms);
extern void iot_worker_subject(const char *subject);
extern void iot_worker_state(const char *state, const char *detail);
extern void iot_worker_heartbeat(void);
pg_noreturn extern void iot_worker_leave(const char *reason);

/* Entry points, by name in the server's list of background workers. */
extern PGDLLEXPORT void iot_launcher_main(Datum arg);
extern PGDLLEXPORT void iot_notifier_main(Datum arg);
extern PGDLLEXPORT void iot_mqtt_adapter_main(Datum arg);

#endif							/* IOT_WORKER_H */
