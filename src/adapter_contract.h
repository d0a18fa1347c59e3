/*
 * adapter_contract.h
 *		Sets of commands, and whether adapters may act.
 */
#ifndef IOT_ADAPTER_CONTRACT_H
#define IOT_ADAPTER_CONTRACT_H

#include "fmgr.h"

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
