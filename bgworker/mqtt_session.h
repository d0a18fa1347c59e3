/*
 * mqtt_session.h
 *		A library object as an adapter's configuration wants it.
 */
#ifndef IOT_MQTT_SESSION_H
#define IOT_MQTT_SESSION_H

#include "bgworker/mqtt_config.h"

struct mosquitto;

extern struct mosquitto *iot_session_make(const IotMqttConfig *config, size_t payload_limit,
										  char *error, size_t error_size);

#endif							/* IOT_MQTT_SESSION_H */
