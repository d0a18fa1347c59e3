/*
 * transfer.h
 *		What the notifier sends over the network: a few things at a time, driven from its loop.
 */
#ifndef IOT_TRANSFER_H
#define IOT_TRANSFER_H

#include <curl/curl.h>

typedef enum IotChannel
{
	IOT_CHANNEL_WEBHOOK, IOT_CHANNEL_EMAIL
} IotChannel;

/* Transfers under way at a time: of a channel, and to one receiver. */
#define IOT_WEBHOOK_MAX			16
#define IOT_EMAIL_MAX			4
#define IOT_TRANSFER_MAX		(IOT_WEBHOOK_MAX + IOT_EMAIL_MAX)
#define IOT_TRANSFER_MAX_PER_RECEIVER 4

#define IOT_RECEIVER_NAME_SIZE	65	/* 64 characters, by constraint */
#define IOT_RECIPIENT_SIZE		513 /* 128 characters, by constraint */
#define IOT_TRANSFER_ERROR_SIZE	256

/* What is sent, and how it ended. */
typedef struct IotTransferResult
{
	IotChannel	channel;
	int64		seq;
	char		receiver[IOT_RECEIVER_NAME_SIZE];	/* the webhook, or the mail server */
	char		recipient[IOT_RECIPIENT_SIZE];	/* the webhook, or the user */
	bool		ok;
	bool		final;			/* refused for good: not to be tried again */
	bool		unreachable;	/* the fault is the receiver's, not what was sent */
	char		error[IOT_TRANSFER_ERROR_SIZE];
} IotTransferResult;

typedef struct IotTransfer IotTransfer;

/* Says how a transfer ended, in its result: ok, final, unreachable, error. */
typedef void (*IotTransferJudge) (IotTransfer *transfer, CURLcode code);

/* A slot.  Everything in it is malloc's, and freed with it. */
struct IotTransfer
{
	CURL	   *easy;			/* NULL: the slot is free */
	struct curl_slist *list;	/* headers, or recipients */
	char	   *body;
	size_t		body_len;
	size_t		sent;			/* of the body */
	size_t		received;
	IotTransferJudge judge;
	IotTransferResult result;
	char		message[CURL_ERROR_SIZE];
	char		reply[128];		/* the last line of the receiver's answer, printable */
};

extern void iot_transfer_init(void);
extern IotTransfer *iot_transfer_new(IotChannel channel, int64 seq, const char *receiver,
									 const char *recipient, const char *body,
									 IotTransferJudge judge);
extern bool iot_transfer_configure(IotTransfer *transfer, const char *url, const char *protocols,
								   int timeout_ms, const char *ca_file);
extern bool iot_transfer_add_line(IotTransfer *transfer, const char *format, const char *value);
extern bool iot_transfer_begin(IotTransfer *transfer, bool ok);
extern int	iot_transfer_turn(IotTransferResult *results);
extern int	iot_transfer_under_way(IotChannel channel, const char **names);
extern pgsocket iot_transfer_socket(void);
extern long iot_transfer_timeout_ms(void);

#endif							/* IOT_TRANSFER_H */
