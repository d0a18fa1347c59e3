/*
 * email.c
 *		Notifications as e-mail: one message to one address, over SMTP.
 *
 * Runs in the notifier, outside transactions; memory is that of the transfer, see transfer.c.  The
 * message comes ready from the database, all of it ASCII; libcurl doubles full stops where SMTP
 * wants it.  Certificates are always checked.
 *
 * What a server answers decides what becomes of the delivery: 4xx is tried again, 5xx is final,
 * but for those that speak of us and not of the message; until somebody mends the mail server's
 * row, they hold everything for that server.
 */
#include "postgres.h"

#include "bgworker/email.h"

/* Lines that a server may say in all. */
#define RESPONSE_MAX (64 * 1024)

static size_t
read_message(char *buffer, size_t size, size_t count, void *userp)
{
	IotTransfer *transfer = userp;
	size_t		len = Min(size * count, transfer->body_len - transfer->sent);

	memcpy(buffer, transfer->body + transfer->sent, len);
	transfer->sent += len;
	return len;
}

/* Keeps the last line that the server said, of which nothing but ASCII goes into a table. */
static size_t
note_reply(char *data, size_t size, size_t count, void *userp)
{
	IotTransfer *transfer = userp;
	size_t		len = size * count;
	size_t		kept = 0;

	transfer->received += len;
	for (size_t i = 0; i < len && kept < sizeof(transfer->reply) - 1; i++)
	{
		if (data[i] == '\r' || data[i] == '\n')
			break;
		transfer->reply[kept++] = data[i] >= ' ' && data[i] <= '~' ? data[i] : '?';
	}
	transfer->reply[kept] = '\0';
	return transfer->received > RESPONSE_MAX ? 0 : len;
}

/* Answers that are about how we come, not about what we bring. */
static bool
is_about_us(long status)
{
	return status == 421 || status == 454 || status == 530 || status == 534 || status == 535 ||
		status == 538;
}

static void
judge(IotTransfer *transfer, CURLcode code)
{
	IotTransferResult *result = &transfer->result;
	long		status = 0;

	(void) curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	result->ok = code == CURLE_OK;
	if (result->ok)
		return;
	/* an answer that was no refusal is none to what failed */
	result->unreachable = status < 400 || code == CURLE_LOGIN_DENIED || is_about_us(status);
	result->final = status >= 500 && !result->unreachable;
	if (status >= 400)
		snprintf(result->error, sizeof(result->error), "SMTP: %s", transfer->reply);
	else if (code == CURLE_OPERATION_TIMEDOUT)
		strlcpy(result->error, "no answer in time", sizeof(result->error));
	else if (code == CURLE_USE_SSL_FAILED)
		strlcpy(result->error, "the server does not offer STARTTLS", sizeof(result->error));
	else
		strlcpy(result->error,
				transfer->message[0] != '\0' ? transfer->message : curl_easy_strerror(code),
				sizeof(result->error));
}

static bool
configure(IotTransfer *transfer, const IotEmail *wanted)
{
	CURL	   *easy = transfer->easy;
	char		sender[300];
	bool		ok = iot_transfer_configure(transfer, wanted->url, "smtp,smtps", wanted->timeout_ms,
											wanted->ca_file);

	snprintf(sender, sizeof(sender), "<%s>", wanted->sender);
	ok = ok && curl_easy_setopt(easy, CURLOPT_MAIL_FROM, sender) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_MAIL_RCPT, transfer->list) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_USE_SSL,
								(long) (wanted->starttls ? CURLUSESSL_ALL : CURLUSESSL_NONE)) == CURLE_OK;
	if (wanted->username != NULL)
	{
		ok = ok && curl_easy_setopt(easy, CURLOPT_USERNAME, wanted->username) == CURLE_OK;
		ok = ok && curl_easy_setopt(easy, CURLOPT_PASSWORD, wanted->password) == CURLE_OK;
	}
	ok = ok && curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE,
								(curl_off_t) transfer->body_len) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_message) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_READDATA, transfer) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, note_reply) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, note_reply) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer) == CURLE_OK;
	return ok;
}

/* Starts to send; false where no slot or no memory is free, or libcurl refuses. */
bool
iot_email_start(const IotEmail *wanted)
{
	IotTransfer *transfer = iot_transfer_new(IOT_CHANNEL_EMAIL, wanted->seq, wanted->server,
											 wanted->recipient, wanted->message, judge);

	return transfer != NULL &&
		iot_transfer_begin(transfer,
						   iot_transfer_add_line(transfer, "<%s>", wanted->address) &&
						   configure(transfer, wanted));
}
