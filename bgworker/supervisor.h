/*
 * supervisor.h
 *		Keeping the wanted workers running.
 */
#ifndef IOT_SUPERVISOR_H
#define IOT_SUPERVISOR_H

#include "worker_slot.h"

extern void iot_supervisor_begin(void);
extern void iot_supervisor_want(const IotWorkerKey *key, const char *name, const char *title);
extern void iot_supervisor_keep(const IotWorkerKey *key);
extern void iot_supervisor_end(IotWorkerKind kind, Oid database);

/* The notifier's part: called each turn, outside a transaction. */
extern void supervisor_tick(void);

#endif							/* IOT_SUPERVISOR_H */
