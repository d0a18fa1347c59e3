/*
 * webhook.c
 *		HTTP requests of the notifier: a few at a time, driven from its loop.
 *
 * Runs in the notifier process, outside transactions.  libcurl's multi interface never blocks: its
 * sockets are gathered in one epoll descriptor, which the notifier waits on beside its latch, and
 * its timer bounds that wait.  All memory is malloc's, owned by the slot of its request; nothing
 * here raises an error or takes memory of the server, since libcurl's frames may be on the stack.
 *
 * libcurl resolves names in a thread of its own.  Signals of the server must never be handled
 * there, so they are blocked whenever libcurl may start one: a thread inherits its maker's mask.
 * That thread calls getaddrinfo and nothing of ours, and libcurl is told not to wait for it.
 */
#include "postgres.h"

#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <signal.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#include "bgworker/webhook.h"

/* What a receiver answers is of no interest beyond its status; more than this ends the request. */
#define RESPONSE_MAX (64 * 1024)

typedef struct Request
{
	CURL	   *easy;			/* NULL: the slot is free */
	struct curl_slist *headers;
	char	   *body;
	size_t		received;
	IotWebhookResult result;
	char		message[CURL_ERROR_SIZE];
} Request;

static CURLM *multi = NULL;
static int	epoll_fd = -1;
static Request requests[IOT_WEBHOOK_MAX];
static int	under_way = 0;
static TimestampTz wakeup_at = 0;	/* when libcurl wants to be called; 0: never */

static void
block_signals(sigset_t *saved)
{
	sigset_t	all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	sigprocmask(SIG_SETMASK, saved, NULL);
}

/* libcurl: "watch this socket so".  Its sockets are closed by libcurl, which drops them from epoll. */
static int
watch_socket(CURL *easy, curl_socket_t socket, int what, void *userp, void *socketp)
{
	struct epoll_event event = {0};

	event.data.fd = socket;
	if (what == CURL_POLL_REMOVE)
	{
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, socket, &event);
		return 0;
	}
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, socket, &event) != 0 && errno == ENOENT)
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_ADD, socket, &event);
	return 0;
}

/* libcurl: "call me after so many milliseconds"; -1: no need to. */
static int
set_timer(CURLM *handle, long timeout_ms, void *userp)
{
	wakeup_at = timeout_ms < 0 ? 0 :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	return 0;
}

static size_t
discard_response(char *data, size_t size, size_t count, void *userp)
{
	Request    *request = userp;

	request->received += size * count;
	return request->received > RESPONSE_MAX ? 0 : size * count;
}

/* Once per process.  Raises an error where libcurl cannot start; the caller is not in it yet. */
void
iot_webhook_init(void)
{
	sigset_t	saved;

	if (multi != NULL)
		return;
	if (!AcquireExternalFD())
		ereport(ERROR, (errmsg("could not watch webhooks: %m")));
	block_signals(&saved);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd >= 0 && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK)
		multi = curl_multi_init();
	restore_signals(&saved);
	if (multi == NULL)
		ereport(ERROR, (errmsg("could not start the HTTP client")));
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) IOT_WEBHOOK_MAX);
}

static void
release(Request *request)
{
	if (request->easy != NULL)
		curl_easy_cleanup(request->easy);
	curl_slist_free_all(request->headers);
	free(request->body);
	memset(request, 0, sizeof(*request));
}

static bool
add_header(Request *request, const char *format, const char *value)
{
	char		line[256];
	struct curl_slist *longer;

	snprintf(line, sizeof(line), format, value);
	longer = curl_slist_append(request->headers, line);
	if (longer == NULL)
		return false;
	request->headers = longer;
	return true;
}

/*
 * "t=<seconds>,v1=<hex of HMAC-SHA256 over seconds, a full stop and the body>": with the time in
 * what is signed, a receiver can refuse what somebody recorded and plays back.
 */
static bool
add_signature(Request *request, const char *secret)
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
	signed_size = strlen(seconds) + 1 + strlen(request->body) + 1;
	signed_text = malloc(signed_size);
	if (signed_text == NULL)
		return false;
	snprintf(signed_text, signed_size, "%s.%s", seconds, request->body);
	ok = HMAC(EVP_sha256(), secret, (int) strlen(secret), (unsigned char *) signed_text,
			  signed_size - 1, mac, &mac_len) != NULL;
	free(signed_text);
	if (!ok)
		return false;
	used = snprintf(value, sizeof(value), "t=%s,v1=", seconds);
	for (unsigned int i = 0; i < mac_len; i++)
		used += snprintf(value + used, sizeof(value) - used, "%02x", mac[i]);
	return add_header(request, "X-Iot-Signature: %s", value);
}

static bool
configure(Request *request, const IotWebhookRequest *wanted)
{
	CURL	   *easy = request->easy;
	bool		ok = true;

	ok = ok && curl_easy_setopt(easy, CURLOPT_URL, wanted->url) == CURLE_OK;
#if LIBCURL_VERSION_NUM >= 0x075500
	ok = ok && curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
#else
	ok = ok && curl_easy_setopt(easy, CURLOPT_PROTOCOLS,
								(long) (CURLPROTO_HTTP | CURLPROTO_HTTPS)) == CURLE_OK;
#endif
	/* where a notification goes is for the webhook's row alone to say */
	ok = ok && curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) wanted->timeout_ms) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
								(long) wanted->timeout_ms) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_USERAGENT, "iot") == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
								(curl_off_t) strlen(request->body)) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->headers) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard_response) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_WRITEDATA, request) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, request->message) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_PRIVATE, request) == CURLE_OK;
	if (wanted->ca_file != NULL)
		ok = ok && curl_easy_setopt(easy, CURLOPT_CAINFO, wanted->ca_file) == CURLE_OK;
#if LIBCURL_VERSION_NUM >= 0x075700
	/* ending a request never waits for a resolver that hangs */
	ok = ok && curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L) == CURLE_OK;
#endif
	return ok;
}

/* Starts a request; false where no slot or no memory is free, or libcurl refuses. */
bool
iot_webhook_start(const IotWebhookRequest *wanted)
{
	Request    *request = NULL;
	sigset_t	saved;
	bool		ok;

	for (int i = 0; i < IOT_WEBHOOK_MAX && request == NULL; i++)
	{
		if (requests[i].easy == NULL)
			request = &requests[i];
	}
	if (request == NULL)
		return false;

	memset(request, 0, sizeof(*request));
	request->result.seq = wanted->seq;
	strlcpy(request->result.webhook, wanted->webhook, sizeof(request->result.webhook));
	request->easy = curl_easy_init();
	request->body = strdup(wanted->body);
	ok = request->easy != NULL && request->body != NULL &&
		add_header(request, "%s", "Content-Type: application/json") &&
		add_header(request, "%s", "Expect:") &&
		add_header(request, "Idempotency-Key: %s", wanted->event_id) &&
		(wanted->secret == NULL || add_signature(request, wanted->secret)) &&
		configure(request, wanted);
	if (ok)
	{
		block_signals(&saved);
		ok = curl_multi_add_handle(multi, request->easy) == CURLM_OK;
		restore_signals(&saved);
	}
	if (!ok)
	{
		release(request);
		return false;
	}
	under_way++;
	return true;
}

/* How it ended, in words that hold no url: urls carry tokens. */
static void
judge(Request *request, CURLcode code)
{
	IotWebhookResult *result = &request->result;
	long		status = 0;

	(void) curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
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
				request->message[0] != '\0' ? request->message : curl_easy_strerror(code),
				sizeof(result->error));
}

/*
 * Lets libcurl do what it can without waiting; returns how many requests ended, their results in
 * results, which has room for IOT_WEBHOOK_MAX.
 */
int
iot_webhook_turn(IotWebhookResult *results)
{
	struct epoll_event events[2 * IOT_WEBHOOK_MAX];
	int			ready;
	int			running = 0;
	int			pending = 0;
	int			ended = 0;
	CURLMsg    *message;
	sigset_t	saved;

	if (under_way == 0)
		return 0;

	block_signals(&saved);
	ready = epoll_wait(epoll_fd, events, lengthof(events), 0);
	for (int i = 0; i < ready; i++)
	{
		int			what = 0;

		if (events[i].events & (EPOLLIN | EPOLLHUP))
			what |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			what |= CURL_CSELECT_OUT;
		if (events[i].events & EPOLLERR)
			what |= CURL_CSELECT_ERR;
		(void) curl_multi_socket_action(multi, events[i].data.fd, what, &running);
	}
	if (wakeup_at != 0 && GetCurrentTimestamp() >= wakeup_at)
	{
		wakeup_at = 0;
		(void) curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	while ((message = curl_multi_info_read(multi, &pending)) != NULL)
	{
		char	   *owner = NULL;
		Request    *request;
		CURLcode	code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		(void) curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &owner);
		request = (Request *) owner;
		judge(request, code);
		results[ended++] = request->result;
		(void) curl_multi_remove_handle(multi, request->easy);
		release(request);
		under_way--;
	}
	restore_signals(&saved);
	return ended;
}

/* Number of requests under way; names, where given, is filled with the webhook of each. */
int
iot_webhook_under_way(const char **names)
{
	int			count = 0;

	for (int i = 0; i < IOT_WEBHOOK_MAX && names != NULL; i++)
	{
		if (requests[i].easy != NULL)
			names[count++] = requests[i].result.webhook;
	}
	return under_way;
}

/* Readable whenever iot_webhook_turn() has something to do; PGINVALID_SOCKET while idle. */
pgsocket
iot_webhook_socket(void)
{
	return under_way > 0 ? epoll_fd : PGINVALID_SOCKET;
}

/* Longest time until iot_webhook_turn() wants to be called; -1: no limit. */
long
iot_webhook_timeout_ms(void)
{
	if (under_way == 0 || wakeup_at == 0)
		return -1;
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wakeup_at);
}
