/*
 * mqtt_socket.c
 *		What the library does not do at its socket.
 *
 * Runs in an adapter's process.  The descriptor stays the library's; nothing here raises.
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "bgworker/mqtt_socket.h"
#include "bgworker/worker.h"

#define GOODBYE_TIMEOUT_MS	1000

/* Whether a connection that is being made has reached the other side; sets *error where it failed. */
bool
iot_socket_connected(int fd, int *error)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
	socklen_t	size = sizeof(*error);

	*error = 0;
	if (fd < 0 || poll(&poll_fd, 1, 0) <= 0)
		return false;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, error, &size) != 0 || *error == 0;
}

/* Whether there is something to read. */
bool
iot_socket_readable(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	return poll(&poll_fd, 1, 0) > 0;
}

/*
 * Has the kernel tell the broker at once that its bytes came.  A broker that gathers small writes
 * (mosquitto does, unless set_tcp_nodelay is set) holds a device's answer back until then, behind
 * its own acknowledgement of our command: 40 ms.  The kernel forgets this, so it is said each turn.
 */
void
iot_socket_confirm_reading(int fd)
{
#ifdef TCP_QUICKACK
	int			on = 1;

	(void) setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
#endif
}

/*
 * Waits until the broker has closed the connection too.  A broker that is behind has our last
 * acknowledgements still before it; closing on what it sends meanwhile would reset the connection
 * and make it forget them, and all of that would be delivered again.
 */
void
iot_socket_wait_for_end(int fd)
{
	int64		start = iot_worker_clock_ms();
	char		discarded[4096];

	(void) shutdown(fd, SHUT_WR);
	for (;;)
	{
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
		int64		left = start + GOODBYE_TIMEOUT_MS - iot_worker_clock_ms();
		ssize_t		size;

		if (left <= 0)
			return;
		if (poll(&poll_fd, 1, (int) left) <= 0)
			continue;			/* a signal may end the wait early */
		size = recv(fd, discarded, sizeof(discarded), MSG_DONTWAIT);
		if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR))
			return;
	}
}
