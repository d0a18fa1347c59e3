/*
 * transfer.c
 *		What the notifier sends over the network: a few things at a time, driven from its loop.
 *
 * Runs in the notifier process, outside transactions.  libcurl's multi interface never blocks: its
 * sockets are gathered in one epoll descriptor, which the notifier waits on beside its latch, and
 * its timer bounds that wait.  All memory is malloc's, owned by the slot of its transfer; nothing
 * here raises an error or takes memory of the server, since libcurl's frames may be on the stack.
 *
 * libcurl resolves names in a thread of its own.  Signals of the server must never be handled
 * there, so they are blocked whenever libcurl may start one: a thread inherits its maker's mask.
 * That thread calls getaddrinfo and nothing of ours, and libcurl is told not to wait for it.
 *
 * What is particular to a channel is in webhook.c and email.c.  A channel may have libcurl make the
 * connection, and talk over it itself: a dialog, whose socket is in the same epoll descriptor.
 */
#include "postgres.h"

#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "bgworker/transfer.h"
#include "bgworker/worker.h"

static CURLM *multi = NULL;
static int	epoll_fd = -1;
static IotTransfer transfers[IOT_TRANSFER_MAX];
static int	under_way = 0;
static int64 wakeup_at = 0;		/* when libcurl wants to be called, by the worker's clock; 0: never */

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
	wakeup_at = timeout_ms < 0 ? 0 : iot_worker_clock_ms() + timeout_ms;
	return 0;
}

/* Once per process.  Raises an error where libcurl cannot start; the caller is not in it yet. */
void
iot_transfer_init(void)
{
	sigset_t	saved;

	if (multi != NULL)
		return;
	if (!AcquireExternalFD())
		ereport(ERROR, (errmsg("could not watch transfers: %m")));
	block_signals(&saved);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd >= 0 && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK)
		multi = curl_multi_init();
	restore_signals(&saved);
	if (multi == NULL)
		ereport(ERROR, (errmsg("could not start the HTTP and mail client")));
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) IOT_WEBHOOK_MAX);
}

static void
release(IotTransfer *transfer)
{
	if (transfer->easy != NULL)
		curl_easy_cleanup(transfer->easy);
	curl_slist_free_all(transfer->list);
	free(transfer->body);
	memset(transfer, 0, sizeof(*transfer));
}

/* Takes a free slot, with a copy of the body; NULL where no slot or no memory is free. */
IotTransfer *
iot_transfer_new(IotChannel channel, int64 seq, const char *receiver, const char *recipient,
				 const char *body, IotTransferJudge judge)
{
	for (int i = 0; i < IOT_TRANSFER_MAX; i++)
	{
		IotTransfer *transfer = &transfers[i];

		if (transfer->easy != NULL)
			continue;
		memset(transfer, 0, sizeof(*transfer));
		transfer->socket = CURL_SOCKET_BAD;
		transfer->judge = judge;
		transfer->result.channel = channel;
		transfer->result.seq = seq;
		strlcpy(transfer->result.receiver, receiver, sizeof(transfer->result.receiver));
		strlcpy(transfer->result.recipient, recipient, sizeof(transfer->result.recipient));
		transfer->body = strdup(body);
		transfer->easy = transfer->body != NULL ? curl_easy_init() : NULL;
		if (transfer->easy != NULL)
		{
			transfer->body_len = strlen(body);
			return transfer;
		}
		release(transfer);
		return NULL;
	}
	return NULL;
}

/* Adds a line to the transfer's list; longer ones than anything of ours are cut. */
bool
iot_transfer_add_line(IotTransfer *transfer, const char *format, const char *value)
{
	char		line[512];
	struct curl_slist *longer;

	snprintf(line, sizeof(line), format, value);
	longer = curl_slist_append(transfer->list, line);
	if (longer == NULL)
		return false;
	transfer->list = longer;
	return true;
}

/* What is alike for all channels: where to, for how long, and nothing from the environment. */
bool
iot_transfer_configure(IotTransfer *transfer, const char *url, const char *protocols,
					   int timeout_ms, const char *ca_file)
{
	CURL	   *easy = transfer->easy;
	bool		ok = true;

	transfer->timeout_ms = timeout_ms;
	ok = ok && curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK;
#if LIBCURL_VERSION_NUM >= 0x075500
	ok = ok && curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, protocols) == CURLE_OK;
#else
	ok = ok && curl_easy_setopt(easy, CURLOPT_PROTOCOLS,
								(long) (strncmp(protocols, "http", 4) == 0 ?
										CURLPROTO_HTTP | CURLPROTO_HTTPS :
										CURLPROTO_SMTP | CURLPROTO_SMTPS)) == CURLE_OK;
#endif
	ok = ok && curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) timeout_ms) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) timeout_ms) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->message) == CURLE_OK;
	ok = ok && curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer) == CURLE_OK;
	if (ca_file != NULL)
		ok = ok && curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file) == CURLE_OK;
#if LIBCURL_VERSION_NUM >= 0x075700
	/* ending a transfer never waits for a resolver that hangs */
	ok = ok && curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L) == CURLE_OK;
#endif
	return ok;
}

/* Starts a transfer that is configured; false, and the slot is free again, where ok is or it fails. */
bool
iot_transfer_begin(IotTransfer *transfer, bool ok)
{
	sigset_t	saved;

	if (ok)
	{
		block_signals(&saved);
		ok = curl_multi_add_handle(multi, transfer->easy) == CURLM_OK;
		restore_signals(&saved);
	}
	if (!ok)
	{
		release(transfer);
		return false;
	}
	transfer->deadline = iot_worker_clock_ms() + transfer->timeout_ms;
	under_way++;
	return true;
}

/* The connection is there: what follows is the channel's to say.  False where it cannot be. */
static bool
begin_dialog(IotTransfer *transfer)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT};

	if (curl_easy_getinfo(transfer->easy, CURLINFO_ACTIVESOCKET, &transfer->socket) != CURLE_OK ||
		transfer->socket == CURL_SOCKET_BAD)
		return false;
	event.data.fd = transfer->socket;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, transfer->socket, &event) != 0 &&
		(errno != EEXIST || epoll_ctl(epoll_fd, EPOLL_CTL_MOD, transfer->socket, &event) != 0))
		return false;
	return true;
}

/* Ends a transfer, and frees its slot. */
static void
end_transfer(IotTransfer *transfer, IotTransferResult *result)
{
	*result = transfer->result;
	if (transfer->socket != CURL_SOCKET_BAD)
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, transfer->socket, NULL);
	(void) curl_multi_remove_handle(multi, transfer->easy);
	release(transfer);
	under_way--;
}

/* Carries on the dialogs; returns how many ended. */
static int
turn_dialogs(IotTransferResult *results)
{
	int			ended = 0;
	int64		now = iot_worker_clock_ms();

	for (int i = 0; i < IOT_TRANSFER_MAX; i++)
	{
		IotTransfer *transfer = &transfers[i];
		struct epoll_event event = {0};

		if (transfer->easy == NULL || transfer->socket == CURL_SOCKET_BAD)
			continue;
		if (transfer->dialog(transfer))
			end_transfer(transfer, &results[ended++]);
		else if (now >= transfer->deadline)
		{
			transfer->judge(transfer, CURLE_OPERATION_TIMEDOUT);
			end_transfer(transfer, &results[ended++]);
		}
		else
		{
			event.data.fd = transfer->socket;
			event.events = EPOLLIN | (transfer->out_left > 0 ? EPOLLOUT : 0);
			(void) epoll_ctl(epoll_fd, EPOLL_CTL_MOD, transfer->socket, &event);
		}
	}
	return ended;
}

static bool
is_dialog(curl_socket_t socket)
{
	for (int i = 0; i < IOT_TRANSFER_MAX; i++)
	{
		if (transfers[i].easy != NULL && transfers[i].socket == socket)
			return true;
	}
	return false;
}

/*
 * Lets all of them do what they can without waiting; returns how many transfers ended, their results
 * in results, which has room for IOT_TRANSFER_MAX.
 */
int
iot_transfer_turn(IotTransferResult *results)
{
	struct epoll_event events[2 * IOT_TRANSFER_MAX];
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

		if (is_dialog(events[i].data.fd))
			continue;
		if (events[i].events & (EPOLLIN | EPOLLHUP))
			what |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			what |= CURL_CSELECT_OUT;
		if (events[i].events & EPOLLERR)
			what |= CURL_CSELECT_ERR;
		(void) curl_multi_socket_action(multi, events[i].data.fd, what, &running);
	}
	if (wakeup_at != 0 && iot_worker_clock_ms() >= wakeup_at)
	{
		wakeup_at = 0;
		(void) curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	while ((message = curl_multi_info_read(multi, &pending)) != NULL)
	{
		char	   *owner = NULL;
		IotTransfer *transfer;
		CURLcode	code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		(void) curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &owner);
		transfer = (IotTransfer *) owner;
		if (code == CURLE_OK && transfer->dialog != NULL)
		{
			if (begin_dialog(transfer))
				continue;
			code = CURLE_COULDNT_CONNECT;
		}
		transfer->judge(transfer, code);
		end_transfer(transfer, &results[ended++]);
	}
	ended += turn_dialogs(results + ended);
	restore_signals(&saved);
	return ended;
}

/* Number of transfers of a channel under way; names, where given, is filled with their receivers. */
int
iot_transfer_under_way(IotChannel channel, const char **names)
{
	int			count = 0;

	for (int i = 0; i < IOT_TRANSFER_MAX; i++)
	{
		if (transfers[i].easy == NULL || transfers[i].result.channel != channel)
			continue;
		if (names != NULL)
			names[count] = transfers[i].result.receiver;
		count++;
	}
	return count;
}

/* Readable whenever iot_transfer_turn() has something to do; PGINVALID_SOCKET while idle. */
pgsocket
iot_transfer_socket(void)
{
	return under_way > 0 ? epoll_fd : PGINVALID_SOCKET;
}

/* Longest time until iot_transfer_turn() wants to be called; -1: no limit. */
long
iot_transfer_timeout_ms(void)
{
	int64		first = wakeup_at;

	if (under_way == 0)
		return -1;
	for (int i = 0; i < IOT_TRANSFER_MAX; i++)
	{
		if (transfers[i].easy != NULL && transfers[i].socket != CURL_SOCKET_BAD &&
			(first == 0 || transfers[i].deadline < first))
			first = transfers[i].deadline;
	}
	return first == 0 ? -1 : Max(first - iot_worker_clock_ms(), 0);
}
