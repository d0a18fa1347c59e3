/*
 * delivery.h
 *		From rows of iot.delivery to webhooks and mail servers and back: taking, sending, recording.
 */
#ifndef IOT_DELIVERY_H
#define IOT_DELIVERY_H

extern void iot_delivery_start(void);
extern void iot_delivery_turn(bool look_now);
extern long iot_delivery_timeout_ms(void);

#endif							/* IOT_DELIVERY_H */
