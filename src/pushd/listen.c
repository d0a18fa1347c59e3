/*
 * listen.c
 *		The listening sockets, and what is accepted from them.
 *
 * Accepting is ours: the library's own way spins at the descriptor limit.  A connection over the
 * limit is taken and closed, so that none waits in the kernel for a place that may never come.
 */
#define _GNU_SOURCE
#include "pushd/pushd.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_LISTENERS		8
#define ACCEPTS_PER_TURN	64
#define BACKLOG				1024
#define PAUSE_MS			100

static struct lws *listeners[MAX_LISTENERS];
static int	n_listeners;
static lws_sorted_usec_list_t resume_timer;

/* Splits "host:port", "[v6]:port" or ":port"; false where it is none of these. */
static bool
split_address(const char *address, char *host, size_t host_size, const char **port)
{
	const char *colon = strrchr(address, ':');
	const char *start = address;
	size_t		len;

	if (colon == NULL || colon[1] == '\0' || strspn(colon + 1, "0123456789") != strlen(colon + 1))
		return false;
	len = (size_t) (colon - address);
	if (len >= 2 && address[0] == '[' && address[len - 1] == ']')
	{
		start++;
		len -= 2;
	}
	else if (memchr(address, ':', len) != NULL)
		return false;
	if (len >= host_size)
		return false;
	memcpy(host, start, len);
	host[len] = '\0';
	*port = colon + 1;
	return true;
}

static void
log_address(const struct addrinfo *info, int fd)
{
	struct sockaddr_storage address;
	socklen_t	len = sizeof(address);
	char		host[128];
	char		port[16];

	if (getsockname(fd, (struct sockaddr *) &address, &len) == 0 &&
		getnameinfo((struct sockaddr *) &address, len, host, sizeof(host), port, sizeof(port),
					NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		log_line(info->ai_family == AF_INET6 ? "listening on [%s]:%s" : "listening on %s:%s",
				 host, port);
}

static bool
listen_on(const struct addrinfo *info, const char *address)
{
	int			fd = socket(info->ai_family, info->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int			on = 1;
	lws_sock_file_fd_type file;

	if (fd < 0)
		return false;
	(void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (info->ai_family == AF_INET6)
		(void) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, info->ai_addr, info->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0)
	{
		log_line("could not listen on \"%s\": %s", address, strerror(errno));
		close(fd);
		return false;
	}
	log_address(info, fd);
	file.filefd = fd;
	listeners[n_listeners] = lws_adopt_descriptor_vhost(vhost, LWS_ADOPT_RAW_FILE_DESC, file,
														"iot-listen", NULL);
	if (listeners[n_listeners] == NULL)
		return false;
	n_listeners++;
	return true;
}

/* Listens on every address that "host:port" stands for; false, and logged, where it cannot. */
bool
listen_open(const char *address)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	struct addrinfo *list = NULL;
	char		host[256];
	const char *port;
	bool		good = true;
	int			error;

	if (!split_address(address, host, sizeof(host), &port))
	{
		log_line("\"%s\" is not an address to listen on; write host:port", address);
		return false;
	}
	error = getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &list);
	if (error != 0)
	{
		log_line("could not look up \"%s\": %s", host, gai_strerror(error));
		return false;
	}
	for (const struct addrinfo *info = list; info != NULL && good; info = info->ai_next)
	{
		if (n_listeners < MAX_LISTENERS)
			good = listen_on(info, address);
	}
	freeaddrinfo(list);
	return good && n_listeners > 0;
}

void
listen_close(void)
{
	for (int i = 0; i < n_listeners; i++)
		lws_set_timeout(listeners[i], PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
	n_listeners = 0;
}

static void
resume_listening(lws_sorted_usec_list_t *timer)
{
	for (int i = 0; i < n_listeners; i++)
		lws_rx_flow_control(listeners[i], 1);
}

/* Without descriptors, accept would fail over and over: look away for a moment. */
static void
pause_listening(void)
{
	for (int i = 0; i < n_listeners; i++)
		lws_rx_flow_control(listeners[i], 0);
	lws_sul_schedule(context, 0, &resume_timer, resume_listening, PAUSE_MS * LWS_US_PER_MS);
}

static void
take(int fd)
{
	int			on = 1;
	int			size = SOCKET_BUFFER;
	lws_sock_file_fd_type file;

	metrics.accepted++;
	if (client_total() >= options.max_connections)
	{
		metrics.refused++;
		log_limited("too many connections: one was closed at the door");
		close(fd);
		return;
	}
	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* what the kernel holds for a client that does not read is part of what it may cost */
	(void) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	file.sockfd = fd;
	/* where this fails, the library has closed the descriptor */
	if (lws_adopt_descriptor_vhost(vhost,
								   (lws_adoption_type) (LWS_ADOPT_SOCKET |
														(options.tls_cert != NULL ?
														 LWS_ADOPT_ALLOW_SSL : 0)),
								   file, "iot-client", NULL) == NULL)
		metrics.refused++;
}

int
listen_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
				size_t len)
{
	if (reason != LWS_CALLBACK_RAW_RX_FILE || stopping)
		return 0;
	for (int i = 0; i < ACCEPTS_PER_TURN; i++)
	{
		int			fd = accept4(lws_get_socket_fd(wsi), NULL, NULL,
								 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0)
			take(fd);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
		{
			log_limited("could not accept a connection: %s", strerror(errno));
			pause_listening();
			break;
		}
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			break;
	}
	return 0;
}
