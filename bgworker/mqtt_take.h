/*
 * mqtt_take.h
 *		The transactions of an MQTT adapter that take up what goes out.
 */
#ifndef IOT_MQTT_TAKE_H
#define IOT_MQTT_TAKE_H

#include "bgworker/mqtt_command.h"
#include "bgworker/mqtt_config.h"

extern bool iot_take_load(const pg_uuid_t *adapter_id);
extern bool iot_take_commands(const IotMqttConfig *config, const pg_uuid_t *adapter_id, bool take,
							  bool *more, IotCommand ***chosen, int *nchosen);

#endif							/* IOT_MQTT_TAKE_H */
