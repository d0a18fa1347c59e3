/*
 * epoch.h
 *		Whether the tables are at home on this server.
 */
#ifndef IOT_EPOCH_H
#define IOT_EPOCH_H

#include "access/htup.h"
#include "access/tupdesc.h"

/* What iot_epoch_state_of() expects first in a row, of iot.schema_version v and iot.epoch e. */
#define IOT_EPOCH_COLUMNS \
	"v.version, iot_internal.schema_version(), e.system_identifier, e.database_oid, e.timeline, e.paused"
#define IOT_EPOCH_NCOLUMNS 6

extern bool iot_epoch_tables_complete(void);
extern const char *iot_epoch_state_of(HeapTuple row, TupleDesc desc);

#endif							/* IOT_EPOCH_H */
