/*
 * email.h
 *		Notifications as e-mail.
 */
#ifndef IOT_EMAIL_H
#define IOT_EMAIL_H

#include "bgworker/transfer.h"

/* What to send, and through whom; everything is copied. */
typedef struct IotEmail
{
	int64		seq;
	const char *recipient;		/* the user */
	const char *server;
	const char *url;
	const char *ca_file;		/* NULL: the system's authorities */
	const char *username;		/* NULL: without logging in */
	const char *password;
	const char *sender;
	const char *address;
	const char *message;
	bool		starttls;		/* what smtp:// must come to before anything is said */
	int			timeout_ms;
} IotEmail;

extern bool iot_email_start(const IotEmail *wanted);

#endif							/* IOT_EMAIL_H */
