/*
 * mqtt_link.h
 *		One connection to an MQTT broker, driven from the worker's own loop.
 */
#ifndef IOT_MQTT_LINK_H
#define IOT_MQTT_LINK_H

#include "bgworker/mqtt_config.h"

typedef enum IotLinkState
{
	IOT_LINK_DOWN,
	IOT_LINK_CONNECTING,		/* until the broker has accepted us and our subscriptions */
	IOT_LINK_UP
} IotLinkState;

typedef enum IotPublishOutcome
{
	IOT_PUBLISH_QUEUED,
	IOT_PUBLISH_NO_LINK,
	IOT_PUBLISH_IMPOSSIBLE		/* this topic or payload will never do */
} IotPublishOutcome;

extern void iot_link_init(void);
extern void iot_link_configure(const IotMqttConfig *config);
extern bool iot_link_configured(void);
extern bool iot_link_healthy(void);
extern IotLinkState iot_link_state(void);
extern void iot_link_read(void);
extern void iot_link_write(void);
extern void iot_link_turn(void);
extern void iot_link_give_back(void);
extern void iot_link_close(void);
extern void iot_link_ask(void);
extern bool iot_link_answered(void);

extern pgsocket iot_link_socket(void);
extern uint32 iot_link_events(void);
extern long iot_link_timeout_ms(void);

extern bool iot_link_full(void);
extern IotPublishOutcome iot_link_publish(const char *topic, const char *payload,
										  uint32 expiry_s, int *mid);
extern bool iot_link_subscribe(const char *topic, int *mid);
extern const char *iot_link_reason_text(int reason);

#endif							/* IOT_MQTT_LINK_H */
