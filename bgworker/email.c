/*
 * email.c
 *		Notifications as e-mail: one message to one address, over SMTP.
 *
 * Runs in the notifier, outside transactions; memory is that of the transfer, see transfer.c.
 * libcurl connects, comes to TLS, whose certificate is always checked, and logs in; all of that
 * without waiting.  What follows is said here, since libcurl would wait for the last answer and for
 * that to QUIT.  The message comes ready from the database, all of it ASCII.
 *
 * What a server answers decides what becomes of the delivery: 4xx is tried again, 5xx is final,
 * but for those that speak of us and not of the message; until somebody mends the mail server's
 * row, they hold everything for that server.
 */
#include "postgres.h"

#include "bgworker/email.h"

/* Bytes that a server may say in all. */
#define RESPONSE_MAX (64 * 1024)

/* Keeps a byte of an answer's line; nothing but printable ASCII goes into a table or the log. */
static void
keep_byte(IotTransfer *transfer, char byte)
{
	if (transfer->reply_len < sizeof(transfer->reply) - 1)
	{
		transfer->reply[transfer->reply_len++] = byte >= ' ' && byte <= '~' ? byte : '?';
		transfer->reply[transfer->reply_len] = '\0';
	}
}

/* libcurl: what the server says until we are logged in, line by line. */
static size_t
note_reply(char *data, size_t size, size_t count, void *userp)
{
	IotTransfer *transfer = userp;
	size_t		len = size * count;

	transfer->received += len;
	transfer->reply_len = 0;
	for (size_t i = 0; i < len && data[i] != '\r' && data[i] != '\n'; i++)
		keep_byte(transfer, data[i]);
	return transfer->received > RESPONSE_MAX ? 0 : len;
}

/* Answers that are about how we come, not about what we bring. */
static bool
is_about_us(int status)
{
	return status == 421 || status == 454 || status == 530 || status == 534 || status == 535 ||
		status == 538;
}

/* Ends with the server's refusal, which is in reply. */
static void
refuse(IotTransferResult *result, int status, const char *reply)
{
	result->unreachable = is_about_us(status);
	result->final = status >= 500 && !result->unreachable;
	snprintf(result->error, sizeof(result->error), "SMTP: %s", reply);
}

/* Ends where libcurl could not connect or log in, or time ran out. */
static void
judge(IotTransfer *transfer, CURLcode code)
{
	IotTransferResult *result = &transfer->result;
	long		status = 0;

	(void) curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	if (status >= 400 && code != CURLE_OPERATION_TIMEDOUT)
		refuse(result, (int) status, transfer->reply);
	else if (code == CURLE_OPERATION_TIMEDOUT)
		strlcpy(result->error, "no answer in time", sizeof(result->error));
	else if (code == CURLE_USE_SSL_FAILED)
		strlcpy(result->error, "the server does not offer STARTTLS", sizeof(result->error));
	else
		strlcpy(result->error,
				transfer->message[0] != '\0' ? transfer->message : curl_easy_strerror(code),
				sizeof(result->error));
	/* whatever it was, it was not the message */
	result->unreachable = true;
	result->final = false;
}

static void
say(IotTransfer *transfer, const char *what, size_t len)
{
	transfer->out = what;
	transfer->out_left = len;
	transfer->reply_len = 0;
}

/* Says the next thing: the commands, one by one, and then the message. */
static void
say_next(IotTransfer *transfer)
{
	if (transfer->next != NULL)
	{
		say(transfer, transfer->next->data, strlen(transfer->next->data));
		transfer->next = transfer->next->next;
		return;
	}
	say(transfer, transfer->body, transfer->body_len);
	transfer->last = true;
}

/* Takes the answer to what was said; true where it was the last one. */
static bool
take_answer(IotTransfer *transfer)
{
	int			status = atoi(transfer->reply);
	static const char quit[] = "QUIT\r\n";
	size_t		sent;

	/* 354 answers DATA, which comes before the message */
	if (status >= 200 && status < 400 && !transfer->last)
	{
		say_next(transfer);
		return false;
	}
	transfer->result.ok = status >= 200 && status < 300;
	if (!transfer->result.ok)
		refuse(&transfer->result, status, transfer->reply);
	/* politely, and without waiting for what it is answered by */
	(void) curl_easy_send(transfer->easy, quit, sizeof(quit) - 1, &sent);
	return true;
}

/* Takes what the server says; true when it was the last answer. */
static bool
take_bytes(IotTransfer *transfer, const char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (bytes[i] == '\r')
			continue;
		if (bytes[i] != '\n')
		{
			keep_byte(transfer, bytes[i]);
			continue;
		}
		/* "250-" is followed by more */
		if (transfer->reply_len < 4 || transfer->reply[3] != '-')
		{
			if (transfer->out_left > 0)
			{
				strlcpy(transfer->result.error, "the server answers what it was not asked",
						sizeof(transfer->result.error));
				transfer->result.unreachable = true;
				return true;
			}
			if (take_answer(transfer))
				return true;
		}
		transfer->reply_len = 0;
	}
	return false;
}

/* The dialog of transfer.h. */
static bool
converse(IotTransfer *transfer)
{
	CURLcode	code;
	char		buffer[1024];
	size_t		len;

	if (transfer->out == NULL)
		say_next(transfer);
	do
	{
		if (transfer->out_left > 0)
		{
			code = curl_easy_send(transfer->easy, transfer->out, transfer->out_left, &len);
			if (code == CURLE_OK)
			{
				transfer->out += len;
				transfer->out_left -= len;
			}
			continue;
		}
		code = curl_easy_recv(transfer->easy, buffer, sizeof(buffer), &len);
		if (code == CURLE_OK && len == 0)
			code = CURLE_GOT_NOTHING;
		if (code == CURLE_OK)
		{
			transfer->received += len;
			if (transfer->received > RESPONSE_MAX)
				code = CURLE_WEIRD_SERVER_REPLY;
			else if (take_bytes(transfer, buffer, len))
				return true;
		}
	} while (code == CURLE_OK);
	if (code == CURLE_AGAIN)
		return false;
	strlcpy(transfer->result.error, "the connection was lost", sizeof(transfer->result.error));
	transfer->result.unreachable = true;
	return true;
}

/*
 * The message as SMTP wants it: full stops at the begin of a line doubled, and one alone at the end.
 * malloc'ed; NULL without memory.
 */
static char *
stuff_dots(const char *message)
{
	size_t		len = strlen(message);
	char	   *stuffed = malloc(2 * len + 6);
	char	   *to = stuffed;

	if (stuffed == NULL)
		return NULL;
	for (size_t i = 0; i < len; i++)
	{
		if (message[i] == '.' && (i == 0 || message[i - 1] == '\n'))
			*to++ = '.';
		*to++ = message[i];
	}
	strcpy(to, len >= 2 && message[len - 1] == '\n' ? ".\r\n" : "\r\n.\r\n");
	return stuffed;
}

static bool
configure(IotTransfer *transfer, const IotEmail *wanted)
{
	CURL	   *easy = transfer->easy;
	bool		ok = iot_transfer_configure(transfer, wanted->url, "smtp,smtps", wanted->timeout_ms,
											wanted->ca_file);

	ok = ok && iot_transfer_add_line(transfer, "MAIL FROM:<%s>\r\n", wanted->sender);
	ok = ok && iot_transfer_add_line(transfer, "RCPT TO:<%s>\r\n", wanted->address);
	ok = ok && iot_transfer_add_line(transfer, "%s", "DATA\r\n");
	transfer->next = transfer->list;
	transfer->dialog = converse;
	ok = ok && curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_USE_SSL,
								(long) (wanted->starttls ? CURLUSESSL_ALL : CURLUSESSL_NONE)) == CURLE_OK;
	if (wanted->username != NULL)
	{
		ok = ok && curl_easy_setopt(easy, CURLOPT_USERNAME, wanted->username) == CURLE_OK;
		ok = ok && curl_easy_setopt(easy, CURLOPT_PASSWORD, wanted->password) == CURLE_OK;
	}
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
	char	   *message = stuff_dots(wanted->message);
	IotTransfer *transfer = message == NULL ? NULL :
		iot_transfer_new(IOT_CHANNEL_EMAIL, wanted->seq, wanted->server, wanted->recipient, message,
						 judge);

	free(message);
	return transfer != NULL && iot_transfer_begin(transfer, configure(transfer, wanted));
}
