/*
 * webhook.c
 *		Notifications as HTTP requests.
 *
 * Runs in the notifier, outside transactions; memory is that of the transfer, see transfer.c.
 */
#include "postgres.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <time.h>

#include "bgworker/webhook.h"

/* What a receiver answers is of no interest beyond its status; more than this ends the request. */
#define RESPONSE_MAX (64 * 1024)

static size_t
discard_response(char *data, size_t size, size_t count, void *userp)
{
	IotTransfer *transfer = userp;

	transfer->received += size * count;
	return transfer->received > RESPONSE_MAX ? 0 : size * count;
}

/*
 * "t=<seconds>,v1=<hex of HMAC-SHA256 over seconds, a full stop and the body>": with the time in
 * what is signed, a receiver can refuse what somebody recorded and plays back.
 */
static bool
add_signature(IotTransfer *transfer, const char *secret)
{
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned int mac_len = 0;
	char		value[2 * EVP_MAX_MD_SIZE + 64];
	size_t		used;
	char		seconds[32];
	size_t		signed_size;
	char	   *signed_text;
	bool		ok;

	snprintf(seconds, sizeof(seconds), "%lld", (long long) time(NULL));
	signed_size = strlen(seconds) + 1 + strlen(transfer->body) + 1;
	signed_text = malloc(signed_size);
	if (signed_text == NULL)
		return false;
	snprintf(signed_text, signed_size, "%s.%s", seconds, transfer->body);
	ok = HMAC(EVP_sha256(), secret, (int) strlen(secret), (unsigned char *) signed_text,
			  signed_size - 1, mac, &mac_len) != NULL;
	free(signed_text);
	if (!ok)
		return false;
	used = snprintf(value, sizeof(value), "t=%s,v1=", seconds);
	for (unsigned int i = 0; i < mac_len; i++)
		used += snprintf(value + used, sizeof(value) - used, "%02x", mac[i]);
	return iot_transfer_add_line(transfer, "X-Iot-Signature: %s", value);
}

static bool
configure(IotTransfer *transfer, const IotWebhookRequest *wanted)
{
	CURL	   *easy = transfer->easy;
	bool		ok = iot_transfer_configure(transfer, wanted->url, "http,https", wanted->timeout_ms,
											wanted->ca_file);

	/* where a notification goes is for the webhook's row alone to say */
	ok = ok && curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_USERAGENT, "iot") == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_POSTFIELDS, transfer->body) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
								(curl_off_t) transfer->body_len) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->list) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard_response) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer) == CURLE_OK;
	return ok;
}

/* How it ended, in words that hold no url: urls carry tokens. */
static void
judge(IotTransfer *transfer, CURLcode code)
{
	IotTransferResult *result = &transfer->result;
	long		status = 0;

	(void) curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	result->ok = status >= 200 && status < 300 &&
		(code == CURLE_OK || code == CURLE_WRITE_ERROR);
	result->unreachable = status == 0;
	if (result->ok)
		return;
	if (status >= 300 && status < 400)
		snprintf(result->error, sizeof(result->error),
				 "HTTP status %ld: redirections are not followed", status);
	else if (status != 0 && (code == CURLE_OK || code == CURLE_WRITE_ERROR))
		snprintf(result->error, sizeof(result->error), "HTTP status %ld", status);
	else if (code == CURLE_OPERATION_TIMEDOUT)
		strlcpy(result->error, "no answer in time", sizeof(result->error));
	else
		strlcpy(result->error,
				transfer->message[0] != '\0' ? transfer->message : curl_easy_strerror(code),
				sizeof(result->error));
}

/* Starts a request; false where no slot or no memory is free, or libcurl refuses. */
bool
iot_webhook_start(const IotWebhookRequest *wanted)
{
	IotTransfer *transfer = iot_transfer_new(IOT_CHANNEL_WEBHOOK, wanted->seq, wanted->webhook,
											 wanted->webhook, wanted->body, judge);

	return transfer != NULL &&
		iot_transfer_begin(transfer,
						   iot_transfer_add_line(transfer, "%s", "Content-Type: application/json") &&
						   iot_transfer_add_line(transfer, "%s", "Expect:") &&
						   iot_transfer_add_line(transfer, "Idempotency-Key: %s", wanted->event_id) &&
						   (wanted->secret == NULL || add_signature(transfer, wanted->secret)) &&
						   configure(transfer, wanted));
}
