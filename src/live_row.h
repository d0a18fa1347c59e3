/*
 * live_row.h
 *		Rows that are written anew all the time, and what that costs while somebody holds a snapshot.
 */
#ifndef IOT_LIVE_ROW_H
#define IOT_LIVE_ROW_H

#include "utils/uuid.h"

/* How many columns of a table its writer may name. */
#define IOT_LIVE_COLUMNS_MAX	16

typedef struct IotLiveColumn
{
	const char *name;
	Oid			type;
} IotLiveColumn;

typedef struct IotLiveRows IotLiveRows;

extern IotLiveRows *iot_live_rows_open(const char *table, const IotLiveColumn *columns, int count);
extern void iot_live_rows_close(IotLiveRows *rows);
extern bool iot_live_row_find(IotLiveRows *rows, const pg_uuid_t *first, const pg_uuid_t *second);
extern Datum iot_live_row_get(const IotLiveRows *rows, int column, bool *isnull);
extern void iot_live_row_set(IotLiveRows *rows, int column, Datum value, bool isnull);
extern bool iot_live_row_update(IotLiveRows *rows);

#endif							/* IOT_LIVE_ROW_H */
