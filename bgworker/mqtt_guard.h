/*
 * mqtt_guard.h
 *		The MQTT library ends this process where it gives up, and not the server.
 */
#ifndef IOT_MQTT_GUARD_H
#define IOT_MQTT_GUARD_H

extern void iot_guard_init(void (*abandon) (void));
extern void iot_guard_begin(void);
extern void iot_guard_end(void);

#endif							/* IOT_MQTT_GUARD_H */
