/*
 * webhook.h
 *		Notifications as HTTP requests.
 */
#ifndef IOT_WEBHOOK_H
#define IOT_WEBHOOK_H

#include "bgworker/transfer.h"

/* What to send; everything is copied. */
typedef struct IotWebhookRequest
{
	int64		seq;
	const char *webhook;
	const char *url;
	const char *ca_file;		/* NULL: the system's authorities */
	const char *secret;			/* NULL: not signed */
	const char *event_id;
	const char *body;
	int			timeout_ms;
} IotWebhookRequest;

extern bool iot_webhook_start(const IotWebhookRequest *wanted);

#endif							/* IOT_WEBHOOK_H */
