/*
 * http.c
 *		Requests: /ws becomes a WebSocket, /healthz, /metrics and files are answered plainly.
 *
 * One request per connection, GET or HEAD, no body.  What is refused is refused before the
 * upgrade: a wrong path, a foreign origin, a database that is away.  Files are opened below one
 * folder, part by part, never through a symbolic link and never with a name that begins with a
 * dot.
 */
#define _GNU_SOURCE
#include "pushd/pushd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pushd/feed.h"

#define SUBPROTOCOL		"iot"
#define WEBSOCKET_GUID	"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#define FILE_CHUNK		16384
#define REPLY_DEADLINE_MS 15000

struct HttpReply
{
	int			fd;				/* -1, or the file that follows the text */
	off_t		left;			/* of the file */
	size_t		len;
	size_t		at;
	char	   *text;			/* malloc'ed */
};

typedef struct Request
{
	char	   *method;
	char	   *path;
	char	   *version;
	char	   *host;
	char	   *origin;
	char	   *upgrade;
	char	   *connection;
	char	   *key;
	char	   *websocket_version;
	char		protocols[AUTH_MAX_TOKEN + 256];	/* of all such headers */
	bool		bad;
} Request;

static int	www = -1;

/* Remembers the folder whose files are served. */
bool
http_open_www(const char *path)
{
	www = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (www < 0)
		log_line("could not open folder \"%s\": %s", path, strerror(errno));
	return www >= 0;
}

void
http_free(Client *client)
{
	HttpReply  *reply = client->reply;

	if (reply == NULL)
		return;
	if (reply->fd >= 0)
		close(reply->fd);
	free(reply->text);
	free(reply);
	client->reply = NULL;
}

/* Sets the answer, whose text it takes over, and begins to write it. */
static void
answer(Client *client, char *text, size_t len, int fd, off_t file_size)
{
	HttpReply  *reply = text != NULL ? calloc(1, sizeof(HttpReply)) : NULL;

	if (reply == NULL)
	{
		free(text);
		if (fd >= 0)
			close(fd);
		client_kill(client);
		return;
	}
	reply->text = text;
	reply->len = len;
	reply->fd = fd;
	reply->left = file_size;
	client->reply = reply;
	if (client->state == CLIENT_HEAD)
	{
		client->state = CLIENT_REPLY;
		client->deadline = now_ms() + REPLY_DEADLINE_MS;
	}
	lws_callback_on_writable(client->wsi);
}

static void
answer_head(Client *client, const char *status, const char *type, const char *more, off_t size,
			int fd, const char *body)
{
	char	   *text = NULL;
	int			len = asprintf(&text,
							   "HTTP/1.1 %s\r\n"
							   "Content-Type: %s\r\n"
							   "Content-Length: %lld\r\n"
							   "Cache-Control: no-cache\r\n"
							   "X-Content-Type-Options: nosniff\r\n"
							   "%s"
							   "Connection: close\r\n\r\n%s",
							   status, type, (long long) size, more, body);

	answer(client, len < 0 ? NULL : text, len < 0 ? 0 : (size_t) len, fd, fd >= 0 ? size : 0);
}

static void
answer_text(Client *client, const Request *request, const char *status, const char *more,
			const char *body)
{
	bool		head = request->method != NULL && strcmp(request->method, "HEAD") == 0;

	answer_head(client, status, "text/plain; charset=utf-8", more, (off_t) strlen(body), -1,
				head ? "" : body);
}

static void
refuse(Client *client, const Request *request, const char *status, const char *more,
	   const char *body)
{
	metrics.refused++;
	answer_text(client, request, status, more, body);
}

static void
answer_metrics(Client *client, const Request *request)
{
	char	   *text = NULL;
	size_t		len = 0;
	FILE	   *out = open_memstream(&text, &len);
	int64_t		queued = 0;
	int			subscriptions = 0;

	if (out == NULL)
	{
		client_kill(client);
		return;
	}
	for (const Client *c = client_first(); c != NULL; c = c->next)
	{
		queued += c->queue_bytes;
		subscriptions += c->n_subscriptions;
	}
#define GAUGE(name, help, value) \
	fprintf(out, "# HELP iot_pushd_" name " " help "\n# TYPE iot_pushd_" name " gauge\n" \
			"iot_pushd_" name " %lld\n", (long long) (value))
#define COUNTER(name, help, value) \
	fprintf(out, "# HELP iot_pushd_" name " " help "\n# TYPE iot_pushd_" name " counter\n" \
			"iot_pushd_" name " %llu\n", (unsigned long long) (value))
	GAUGE("database_up", "1 while the database answers.", feed_ready());
	GAUGE("paused", "1 while deliveries are paused, as on a copy of a database.", feed_paused());
	GAUGE("connections", "Open connections.", client_total());
	GAUGE("ready_sockets", "WebSockets whose user is known.", client_count(CLIENT_READY));
	GAUGE("subscriptions", "Subscriptions of all sockets.", subscriptions);
	GAUGE("queued_bytes", "Bytes that wait for sockets.", queued);
	GAUGE("unrecorded_deliveries", "Deliveries taken by a socket and not yet recorded.",
		  feed_waiting_records());
	GAUGE("seq", "Highest sequence number that was offered to live sockets.", feed_cursor());
	COUNTER("accepted_total", "Connections accepted.", metrics.accepted);
	COUNTER("refused_total", "Connections refused before they became a WebSocket.",
			metrics.refused);
	COUNTER("auth_failures_total", "WebSockets closed for want of a good token.",
			metrics.auth_failures);
	COUNTER("notifications_total", "New notifications with a connected recipient.",
			metrics.notifications);
	COUNTER("events_sent_total", "Events taken by sockets.", metrics.events_sent);
	COUNTER("frames_sent_total", "Frames written.", metrics.frames_sent);
	COUNTER("sent_bytes_total", "Bytes of frames written.", metrics.bytes_sent);
	COUNTER("messages_received_total", "Messages of clients.", metrics.messages_received);
	COUNTER("deliveries_recorded_total", "Deliveries recorded by this daemon.",
			metrics.deliveries_recorded);
	COUNTER("pages_total", "Pages of missed or pending notifications read.", metrics.replay_pages);
	COUNTER("resets_total", "Positions of clients that could not be honoured.", metrics.resets);
	COUNTER("closed_slow_total", "Sockets closed with 4008.", metrics.closed_slow);
	COUNTER("closed_expired_total", "Sockets closed with 4001.", metrics.closed_expired);
	COUNTER("closed_error_total", "Sockets closed for what they sent.", metrics.closed_error);
	COUNTER("database_connects_total", "Connections made to the database.",
			metrics.database_connects);
	COUNTER("hints_total", "Wake-ups by NOTIFY.", metrics.hints);
#undef GAUGE
#undef COUNTER
	if (fclose(out) != 0)
	{
		free(text);
		client_kill(client);
		return;
	}
	answer_head(client, "200 OK", "text/plain; version=0.0.4; charset=utf-8", "", (off_t) len, -1,
				strcmp(request->method, "HEAD") == 0 ? "" : text);
	free(text);
}

static const char *
content_type(const char *name)
{
	static const char *const types[][2] = {
		{".html", "text/html; charset=utf-8"},
		{".js", "text/javascript; charset=utf-8"},
		{".mjs", "text/javascript; charset=utf-8"},
		{".css", "text/css; charset=utf-8"},
		{".json", "application/json"},
		{".svg", "image/svg+xml"},
		{".png", "image/png"},
		{".jpg", "image/jpeg"},
		{".webp", "image/webp"},
		{".ico", "image/x-icon"},
		{".woff2", "font/woff2"},
		{".wasm", "application/wasm"},
		{".txt", "text/plain; charset=utf-8"},
		{".webmanifest", "application/manifest+json"},
	};
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; dot != NULL && i < sizeof(types) / sizeof(types[0]); i++)
	{
		if (strcmp(dot, types[i][0]) == 0)
			return types[i][1];
	}
	return "application/octet-stream";
}

/*
 * Opens the regular file that an absolute path names below the folder, or -1.  The path is cut up.
 * Every part is opened from the one before and must be what it seems: no link leads out.
 */
static int
open_file(char *path, const char **name, off_t *size)
{
	int			dir = fcntl(www, F_DUPFD_CLOEXEC, 0);
	char	   *part = path + 1;
	struct stat st;

	if (*part == '\0')
		part = (char *) "index.html";
	for (;;)
	{
		char	   *slash = strchr(part, '/');
		int			next;

		if (slash != NULL)
			*slash = '\0';
		if (dir < 0 || *part == '\0' || *part == '.' || strchr(part, '%') != NULL)
			break;
		next = openat(dir, part, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK |
					  (slash != NULL ? O_DIRECTORY : 0));
		close(dir);
		dir = next;
		if (slash == NULL)
		{
			if (dir < 0 || fstat(dir, &st) != 0 || !S_ISREG(st.st_mode))
				break;
			*name = part;
			*size = st.st_size;
			return dir;
		}
		part = slash + 1;
	}
	if (dir >= 0)
		close(dir);
	return -1;
}

static void
answer_file(Client *client, const Request *request)
{
	const char *name;
	off_t		size;
	int			fd = www >= 0 ? open_file(request->path, &name, &size) : -1;

	if (fd < 0)
	{
		answer_text(client, request, "404 Not Found", "", "not found\n");
		return;
	}
	if (strcmp(request->method, "HEAD") == 0)
	{
		close(fd);
		fd = -1;
	}
	answer_head(client, "200 OK", content_type(name),
				"Content-Security-Policy: default-src 'self'; connect-src 'self' ws: wss:; "
				"img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'\r\n"
				"Referrer-Policy: no-referrer\r\n", size, fd, "");
}

/* Whether a comma-separated header holds the word, whatever its case. */
static bool
has_word(const char *list, const char *word)
{
	size_t		len = strlen(word);

	while (list != NULL && *list != '\0')
	{
		size_t		n = strcspn(list, ",");
		size_t		skip = strspn(list, " \t");

		if (n >= skip + len && strncasecmp(list + skip, word, len) == 0 &&
			strspn(list + skip + len, " \t") == n - skip - len)
			return true;
		list += n + (list[n] == ',');
	}
	return false;
}

/* Whether a page of that origin may connect: same host and port, or on the list. */
static bool
origin_allowed(const char *origin, const char *host)
{
	const char *authority;
	const char *default_port;
	size_t		origin_len;
	size_t		host_len;

	if (origin == NULL)
		return true;			/* no browser */
	for (int i = 0; i < options.n_allow_origins; i++)
	{
		if (strcmp(options.allow_origins[i], "*") == 0 ||
			strcasecmp(options.allow_origins[i], origin) == 0)
			return true;
	}
	if (strncasecmp(origin, "https://", 8) == 0)
	{
		authority = origin + 8;
		default_port = ":443";
	}
	else if (strncasecmp(origin, "http://", 7) == 0)
	{
		authority = origin + 7;
		default_port = ":80";
	}
	else
		return false;
	/* "host" and "host:80" are the same place */
	origin_len = strlen(authority);
	host_len = strlen(host);
	if (origin_len > strlen(default_port) &&
		strcmp(authority + origin_len - strlen(default_port), default_port) == 0)
		origin_len -= strlen(default_port);
	if (host_len > strlen(default_port) &&
		strcmp(host + host_len - strlen(default_port), default_port) == 0)
		host_len -= strlen(default_port);
	return origin_len == host_len && strncasecmp(authority, host, host_len) == 0;
}

/*
 * Finds what was offered as subprotocols: ours, and a token.  Tokens are made of characters that
 * the header allows, so that pages, which can set no other header, can bring one.
 */
static void
read_protocols(char *list, const char **selected, const char **token)
{
	char	   *save = NULL;

	*selected = NULL;
	*token = NULL;
	for (char *item = strtok_r(list, ", \t", &save); item != NULL;
		 item = strtok_r(NULL, ", \t", &save))
	{
		if (strcmp(item, SUBPROTOCOL) == 0)
			*selected = SUBPROTOCOL;
		else if (*token == NULL && strncmp(item, "bearer.", 7) == 0)
			*token = item + 7;
		else if (*token == NULL && auth_looks_like_token(item, strlen(item)))
			*token = item;
	}
	/* a browser gives up where nothing that it offered is chosen */
	if (*selected == NULL && *token != NULL)
		*selected = *token;
}

static bool
accept_websocket(Client *client, Request *request)
{
	char		joined[64 + sizeof(WEBSOCKET_GUID)];
	unsigned char hash[20];
	char		accept[32];
	const char *selected;
	const char *token;
	char	   *text = NULL;
	int			len;

	snprintf(joined, sizeof(joined), "%s" WEBSOCKET_GUID, request->key);
	lws_SHA1((unsigned char *) joined, strlen(joined), hash);
	lws_b64_encode_string((char *) hash, sizeof(hash), accept, sizeof(accept));
	read_protocols(request->protocols, &selected, &token);
	len = asprintf(&text,
				   "HTTP/1.1 101 Switching Protocols\r\n"
				   "Upgrade: websocket\r\n"
				   "Connection: Upgrade\r\n"
				   "Sec-WebSocket-Accept: %s\r\n"
				   "%s%s%s\r\n", accept,
				   selected != NULL ? "Sec-WebSocket-Protocol: " : "",
				   selected != NULL ? selected : "", selected != NULL ? "\r\n" : "");
	if (len < 0)
	{
		client_kill(client);
		return false;
	}
	client->is_websocket = true;
	client->state = CLIENT_ANONYMOUS;
	answer(client, text, (size_t) len, -1, 0);
	client_upgraded(client, token, token != NULL ? strlen(token) : 0);
	return true;
}

/* A key is 16 bytes in base64. */
static bool
key_valid(const char *key)
{
	return key != NULL && strlen(key) == 24 &&
		strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") == 22 &&
		strcmp(key + 22, "==") == 0;
}

static bool
upgrade(Client *client, Request *request)
{
	if (strcmp(request->path, "/ws") != 0)
		refuse(client, request, "404 Not Found", "", "the WebSocket is at /ws\n");
	else if (request->websocket_version == NULL || strcmp(request->websocket_version, "13") != 0)
		refuse(client, request, "426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n",
			   "version 13 of the protocol is spoken here\n");
	else if (strcmp(request->method, "GET") != 0 || strcmp(request->version, "HTTP/1.1") != 0 ||
			 !has_word(request->connection, "upgrade") || !key_valid(request->key))
		refuse(client, request, "400 Bad Request", "", "not a WebSocket handshake\n");
	else if (!origin_allowed(request->origin, request->host))
		refuse(client, request, "403 Forbidden", "", "this origin is not allowed\n");
	else if (!feed_ready() || stopping)
		refuse(client, request, "503 Service Unavailable", "Retry-After: 1\r\n",
			   "the database is away\n");
	else
		return accept_websocket(client, request);
	return false;
}

static void
set_once(Request *request, char **field, char *value)
{
	if (*field != NULL)
		request->bad = true;
	*field = value;
}

static void
read_header(Request *request, char *name, char *value)
{
	if (strcasecmp(name, "Host") == 0)
		set_once(request, &request->host, value);
	else if (strcasecmp(name, "Origin") == 0)
		set_once(request, &request->origin, value);
	else if (strcasecmp(name, "Upgrade") == 0)
		set_once(request, &request->upgrade, value);
	else if (strcasecmp(name, "Connection") == 0)
		set_once(request, &request->connection, value);
	else if (strcasecmp(name, "Sec-WebSocket-Key") == 0)
		set_once(request, &request->key, value);
	else if (strcasecmp(name, "Sec-WebSocket-Version") == 0)
		set_once(request, &request->websocket_version, value);
	else if (strcasecmp(name, "Sec-WebSocket-Protocol") == 0)
	{
		size_t		len = strlen(request->protocols);
		int			n = snprintf(request->protocols + len, sizeof(request->protocols) - len,
								 "%s%s", len > 0 ? "," : "", value);

		/* too long for a token: it must not pass as a shorter one */
		if (n < 0 || (size_t) n >= sizeof(request->protocols) - len)
			request->bad = true;
	}
}

/* Cuts the head, each line of which ends with CR LF, into the request's fields. */
static void
parse_head(Request *request, char *head, size_t len)
{
	char	   *line = head;
	char	   *end = head + len;
	bool		first = true;

	memset(request, 0, sizeof(*request));
	if (memchr(head, '\0', len) != NULL)
	{
		request->bad = true;
		return;
	}
	while (line < end && !request->bad)
	{
		char	   *newline = memmem(line, (size_t) (end - line), "\r\n", 2);
		char	   *colon;
		char	   *value;

		if (newline == NULL)
			break;
		*newline = '\0';
		if (strpbrk(line, "\r\n") != NULL)
			request->bad = true;
		else if (first)
		{
			char	   *save = NULL;

			request->method = strtok_r(line, " ", &save);
			request->path = strtok_r(NULL, " ", &save);
			request->version = strtok_r(NULL, "", &save);
			if (request->version == NULL || request->path[0] != '/' ||
				strncmp(request->version, "HTTP/1.", 7) != 0)
				request->bad = true;
			else
				request->path[strcspn(request->path, "?#")] = '\0';
			first = false;
		}
		else if ((colon = strchr(line, ':')) == NULL || colon == line ||
				 strcspn(line, " \t") < (size_t) (colon - line))
			request->bad = true;
		else
		{
			*colon = '\0';
			value = colon + 1 + strspn(colon + 1, " \t");
			for (char *last = newline; last > value && (last[-1] == ' ' || last[-1] == '\t');)
				*--last = '\0';
			read_header(request, line, value);
		}
		line = newline + 2;
	}
	if (request->version == NULL || request->host == NULL)
		request->bad = true;
}

/*
 * Judges the head in the client's inbox, len bytes (0: it is too large).  True where the
 * connection became a WebSocket; then and otherwise an answer is on its way.
 */
bool
http_read_head(Client *client, size_t len)
{
	static Request request;		/* large, and used by nobody else meanwhile */

	if (len == 0)
	{
		memset(&request, 0, sizeof(request));
		refuse(client, &request, "431 Request Header Fields Too Large", "", "request too large\n");
		return false;
	}
	parse_head(&request, client->inbox, len);
	if (request.bad)
		refuse(client, &request, "400 Bad Request", "", "bad request\n");
	else if (request.upgrade != NULL && strcasecmp(request.upgrade, "websocket") == 0)
		return upgrade(client, &request);
	else if (strcmp(request.method, "GET") != 0 && strcmp(request.method, "HEAD") != 0)
		refuse(client, &request, "405 Method Not Allowed", "Allow: GET, HEAD\r\n",
			   "method not allowed\n");
	else if (strcmp(request.path, "/healthz") == 0)
		answer_text(client, &request, feed_ready() ? "200 OK" : "503 Service Unavailable", "",
					feed_ready() ? "ok\n" : "the database is away\n");
	else if (strcmp(request.path, "/metrics") == 0)
		answer_metrics(client, &request);
	else if (strcmp(request.path, "/ws") == 0)
		refuse(client, &request, "426 Upgrade Required", "Upgrade: websocket\r\n",
			   "this is a WebSocket\n");
	else
		answer_file(client, &request);
	return false;
}

/* Writes the next part of the answer.  Nonzero closes the connection at once. */
int
http_write(Client *client)
{
	HttpReply  *reply = client->reply;
	static unsigned char chunk[LWS_PRE + FILE_CHUNK];

	if (reply->at < reply->len)
	{
		size_t		n = reply->len - reply->at;

		if (n > FILE_CHUNK)
			n = FILE_CHUNK;
		memcpy(chunk + LWS_PRE, reply->text + reply->at, n);
		if (lws_write(client->wsi, chunk + LWS_PRE, n, LWS_WRITE_RAW) < 0)
			return -1;
		reply->at += n;
	}
	else if (reply->left > 0)
	{
		ssize_t		n = read(reply->fd, chunk + LWS_PRE,
							 reply->left < FILE_CHUNK ? (size_t) reply->left : FILE_CHUNK);

		/* a file that shrank: the length that was promised cannot be kept */
		if (n <= 0 || lws_write(client->wsi, chunk + LWS_PRE, (size_t) n, LWS_WRITE_RAW) < 0)
			return -1;
		reply->left -= n;
		client->deadline = now_ms() + REPLY_DEADLINE_MS;
	}
	else
	{
		http_free(client);
		if (client->is_websocket)
			lws_callback_on_writable(client->wsi);
		else
			client_finish(client);
		return 0;
	}
	lws_callback_on_writable(client->wsi);
	return 0;
}
