/*
 * mqtt_inbox.h
 *		What the library's callbacks bring, until it is committed.
 */
#ifndef IOT_MQTT_INBOX_H
#define IOT_MQTT_INBOX_H

#include "ingest.h"

/* What became of a publish: the broker's answer, or that it needs none. */
typedef struct IotPublished
{
	int			mid;
	int			reason;			/* MQTT 5 reason code; 0 with 3.1.1 */
} IotPublished;

/* for callbacks: these raise nothing and take memory from malloc alone */
extern void iot_inbox_add_message(const char *topic, const void *payload, size_t payload_len,
								  bool retained, size_t weight);
extern void iot_inbox_add_published(int mid, int reason);

extern void iot_inbox_set_payload_limit(size_t bytes);
extern void iot_inbox_clear(void);
extern bool iot_inbox_failed(void);
extern bool iot_inbox_full(int messages);
extern int	iot_inbox_messages(IotIngestMessage **messages);
extern int	iot_inbox_message_count(void);
extern void iot_inbox_forget_messages(void);
extern int	iot_inbox_published(const IotPublished **published);
extern void iot_inbox_forget_published(void);

#endif							/* IOT_MQTT_INBOX_H */
