/*
 * mqtt_outage.h
 *		What the log says of an adapter's connection, and when it is tried again.
 */
#ifndef IOT_MQTT_OUTAGE_H
#define IOT_MQTT_OUTAGE_H

#include "bgworker/mqtt_config.h"

extern void iot_outage_init(void);
extern void iot_outage_configure(const IotMqttConfig *config);
extern void iot_outage_begin(bool was_up, const char *reason);
extern void iot_outage_end(void);
extern void iot_outage_give_back(void);
extern void iot_outage_prove(void);
extern int64 iot_outage_wait_ms(void);

#endif							/* IOT_MQTT_OUTAGE_H */
