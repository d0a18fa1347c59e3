/*
 * mqtt_store.h
 *		The transactions of an MQTT adapter that take in what came.
 */
#ifndef IOT_MQTT_STORE_H
#define IOT_MQTT_STORE_H

#include "bgworker/mqtt_command.h"
#include "bgworker/mqtt_config.h"

typedef enum IotStoreOutcome
{
	IOT_STORE_DONE,				/* all is committed, or is a dead letter */
	IOT_STORE_GIVE_BACK			/* nothing may be acknowledged */
} IotStoreOutcome;

extern IotStoreOutcome iot_store(const IotMqttConfig *config, const pg_uuid_t *adapter_id,
								 const IotIngestMessage *messages, int count, bool *announced);

#endif							/* IOT_MQTT_STORE_H */
