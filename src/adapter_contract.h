/*
 * adapter_contract.h
 *		Sets of commands, and whether adapters may act.
 */
#ifndef IOT_ADAPTER_CONTRACT_H
#define IOT_ADAPTER_CONTRACT_H

#include "fmgr.h"

#define COMMAND_OF(from) "k.device_id = " from ".device_id AND k.command_id = " from ".command_id"
#define IOT_EACH_COMMAND(from, alias) IOT_EACH("command", COMMAND_OF(from), alias)

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
extern PGDLLEXPORT void iot_adapters_known_active(void);
extern void iot_require_not_null(FunctionCallInfo fcinfo, int count);

#endif							/* IOT_ADAPTER_CONTRACT_H */
