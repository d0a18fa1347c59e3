/*
 * mqtt_dynsec.h
 *		Talking with a broker's dynamic security plugin about device credentials.
 */
#ifndef IOT_MQTT_DYNSEC_H
#define IOT_MQTT_DYNSEC_H

#include "bgworker/mqtt_config.h"

/* for callbacks: these raise nothing, and say whether it was for us */
extern bool iot_dynsec_message(const char *topic, const void *payload, size_t payload_len);
extern bool iot_dynsec_subscribed(int mid, int granted);
extern bool iot_dynsec_published(int mid, int reason);

extern void iot_dynsec_link_up(const IotMqttConfig *config);
extern void iot_dynsec_link_down(void);
extern void iot_dynsec_turn(const IotMqttConfig *config, const pg_uuid_t *adapter_id, bool woken);
extern long iot_dynsec_timeout_ms(void);

#endif							/* IOT_MQTT_DYNSEC_H */
