/*
 * adapter_contract.h
 *		Sets of commands, and whether adapters may act.
 */
#ifndef IOT_ADAPTER_CONTRACT_H
#define IOT_ADAPTER_CONTRACT_H

#include "fmgr.h"

/*
 * Joins of the statements here: a row of a table, called k inside, for each row before it.  A subquery
 * with OFFSET is never merged into the query around it, and what is LATERAL comes after what it names.
 * So each row is looked up by its key, whatever the statistics said when the plan was made: for a table
 * of one row it is as cheap to read all of it for each key, and the plan is kept when it has grown.
 */
#define EACH(table, condition, alias) \
	" CROSS JOIN LATERAL (SELECT k.* FROM iot." table " k WHERE " condition " OFFSET 0) " alias
#define EACH_OR_NULL(table, condition, alias) \
	" LEFT JOIN LATERAL (SELECT k.* FROM iot." table " k WHERE " condition " OFFSET 0) " alias " ON true"
#define COMMAND_OF(from) "k.device_id = " from ".device_id AND k.command_id = " from ".command_id"
#define EACH_COMMAND(from, alias) EACH("command", COMMAND_OF(from), alias)

/*
 * The same for the table that an UPDATE writes, c here, which no subquery can hold: a comparison with an
 * array can be looked up in an index, but gives no order to read all of it in.
 */
#define BY_COMMAND(from) \
	"c.device_id = ANY (ARRAY[" from ".device_id]) AND c.command_id = ANY (ARRAY[" from ".command_id])"

/* Parallel arrays of keys, and of errors where there are any. */
typedef struct IotKeyList
{
	int			count;
	Datum	   *device_ids;
	Datum	   *command_ids;
	Datum	   *errors;
	bool	   *error_nulls;
} IotKeyList;

extern void iot_key_list_init(IotKeyList *list, int size);
extern void iot_key_list_add(IotKeyList *list, Datum device_id, Datum command_id, Datum error,
							 bool error_null);
extern void iot_key_list_values(const IotKeyList *list, Datum *values);
extern Datum iot_uuid_array(Datum *elements, int count);
extern bool iot_adapters_active(void);
extern void iot_require_not_null(FunctionCallInfo fcinfo, int count);

#endif							/* IOT_ADAPTER_CONTRACT_H */
