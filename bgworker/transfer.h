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

/*
 * Talks over a connection that libcurl has made, as far as that goes without waiting; true when it
 * has ended, with the result filled in.
 */
typedef bool (*IotTransferDialog) (IotTransfer *transfer);

/* A slot.  Everything in it is malloc's, and freed with it. */
struct IotTransfer
{
	CURL	   *easy;			/* NULL: the slot is free */
	struct curl_slist *list;	/* headers, or commands */
	char	   *body;
	size_t		body_len;
	size_t		received;
	IotTransferJudge judge;
	IotTransferResult result;
	char		message[CURL_ERROR_SIZE];
	/* of a dialog */
	IotTransferDialog dialog;	/* NULL: libcurl does it all */
	curl_socket_t socket;		/* while it goes on, else CURL_SOCKET_BAD */
	int			timeout_ms;
	int64		deadline;		/* of all of it, by the worker's clock; libcurl keeps it itself until
								 * the dialog begins */
	const struct curl_slist *next;	/* what to say after this */
	const char *out;			/* what is being said, and how much of it is left */
	size_t		out_left;
	bool		last;			/* of what there is to say */
	char		reply[128];		/* the line that comes, or the last one, printable */
	size_t		reply_len;
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
