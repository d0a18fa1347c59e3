/*
 * webhook.h
 *		HTTP requests of the notifier: a few at a time, driven from its loop.
 */
#ifndef IOT_WEBHOOK_H
#define IOT_WEBHOOK_H

/* Requests under way at a time, in all and to one receiver. */
#define IOT_WEBHOOK_MAX			16
#define IOT_WEBHOOK_MAX_PER_NAME 4

#define IOT_WEBHOOK_NAME_SIZE	65	/* 64 characters, by constraint */
#define IOT_WEBHOOK_ERROR_SIZE	256

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

typedef struct IotWebhookResult
{
	int64		seq;
	char		webhook[IOT_WEBHOOK_NAME_SIZE];
	bool		ok;
	bool		unreachable;	/* failed without an HTTP answer */
	char		error[IOT_WEBHOOK_ERROR_SIZE];
} IotWebhookResult;

extern void iot_webhook_init(void);
extern bool iot_webhook_start(const IotWebhookRequest *request);
extern int	iot_webhook_turn(IotWebhookResult *results);
extern int	iot_webhook_under_way(const char **names);
extern pgsocket iot_webhook_socket(void);
extern long iot_webhook_timeout_ms(void);

#endif							/* IOT_WEBHOOK_H */
