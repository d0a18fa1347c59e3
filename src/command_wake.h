/*
 * command_wake.h
 *		Waking whoever waits for a command when it is final.
 */
#ifndef IOT_COMMAND_WAKE_H
#define IOT_COMMAND_WAKE_H

#include "storage/condition_variable.h"
#include "utils/uuid.h"

extern void iot_command_wake_request(void);
extern void iot_command_wake_start(void);
extern void iot_command_wake_init(void);
extern ConditionVariable *iot_command_final_told(const pg_uuid_t *command_id);
extern void iot_command_final(const pg_uuid_t *command_id);

#endif							/* IOT_COMMAND_WAKE_H */
