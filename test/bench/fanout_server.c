/*
 * fanout_server.c
 *		What the push daemon's fan-out is held against: the same library, one thread, broadcasting
 *		one buffer per message from memory to every socket, a frame each, and nothing else.
 *
 *		fanout_server port sockets messages bytes
 *
 * Answers the daemon's protocol as far as the clients ask; sends one message to each when that
 * many are subscribed, and the others at SIGUSR1.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libwebsockets.h>

typedef struct Session
{
	int			stage;			/* 0: awaits auth, 1: says ready, 2: awaits subscribe, 3: says
								 * subscribed, 4: gets the messages */
	uint64_t	next;
} Session;

static struct lws_context *context;
static const struct lws_protocols protocols[];
static int	sockets;
static int	subscribed;
static uint64_t messages;		/* to send by now */
static uint64_t all_messages;
static volatile sig_atomic_t go;
static unsigned char *buffer;	/* LWS_PRE bytes, then the message */
static size_t buffer_len;

/* The library's wait ends with it. */
static void
start(int signo)
{
	(void) signo;
	go = 1;
}

static int
say(struct lws *wsi, const char *text)
{
	unsigned char out[LWS_PRE + 128];
	size_t		len = strlen(text);

	memcpy(out + LWS_PRE, text, len);
	return lws_write(wsi, out + LWS_PRE, len, LWS_WRITE_TEXT) < 0 ? -1 : 0;
}

static int
writable(struct lws *wsi, Session *session)
{
	switch (session->stage)
	{
		case 1:
			session->stage = 2;
			return say(wsi, "{\"op\":\"ready\",\"user\":\"bench\",\"epoch\":\"0\",\"seq\":0}");
		case 3:
			session->stage = 4;
			if (say(wsi, "{\"op\":\"subscribed\",\"id\":1}") != 0)
				return -1;
			if (++subscribed == sockets)
			{
				messages = 1;
				lws_callback_on_writable_all_protocol(context, &protocols[0]);
			}
			return 0;
		case 4:
			if (session->next >= messages)
				return 0;
			session->next++;
			if (lws_write(wsi, buffer + LWS_PRE, buffer_len, LWS_WRITE_TEXT) < 0)
				return -1;
			if (session->next < messages)
				lws_callback_on_writable(wsi);
			return 0;
	}
	return 0;
}

static int
callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
	Session    *session = user;

	(void) in;
	(void) len;
	switch (reason)
	{
		case LWS_CALLBACK_RECEIVE:
			if (lws_is_final_fragment(wsi) && (session->stage == 0 || session->stage == 2))
			{
				session->stage++;
				lws_callback_on_writable(wsi);
			}
			return 0;
		case LWS_CALLBACK_SERVER_WRITEABLE:
			return writable(wsi, session);
		default:
			return 0;
	}
}

static const struct lws_protocols protocols[] = {
	{"iot", callback, sizeof(Session), 4096, 0, NULL, 0},
	{NULL, NULL, 0, 0, 0, NULL, 0}
};

int
main(int argc, char **argv)
{
	struct lws_context_creation_info info = {0};
	const char *head = "{\"op\":\"event\",\"seq\":1,\"event\":\"bench\",\"data\":\"";

	if (argc != 5)
	{
		fprintf(stderr, "usage: fanout_server port sockets messages bytes\n");
		return 2;
	}
	sockets = atoi(argv[2]);
	all_messages = strtoull(argv[3], NULL, 10) + 1;
	buffer_len = strtoul(argv[4], NULL, 10);
	if (buffer_len < strlen(head) + 2)
		buffer_len = strlen(head) + 2;
	buffer = malloc(LWS_PRE + buffer_len);
	if (buffer == NULL)
		return 1;
	memset(buffer + LWS_PRE, 'x', buffer_len);
	memcpy(buffer + LWS_PRE, head, strlen(head));
	memcpy(buffer + LWS_PRE + buffer_len - 2, "\"}", 2);
	lws_set_log_level(LLL_ERR, NULL);
	info.port = atoi(argv[1]);
	info.iface = "127.0.0.1";
	info.protocols = protocols;
	info.max_http_header_pool = 1024;
	info.fd_limit_per_thread = (unsigned int) sockets + 64;
	context = lws_create_context(&info);
	if (context == NULL)
		return 1;
	signal(SIGUSR1, start);
	while (lws_service(context, 0) >= 0)
	{
		if (go && messages < all_messages)
		{
			messages = all_messages;
			lws_callback_on_writable_all_protocol(context, &protocols[0]);
		}
	}
	return 0;
}
