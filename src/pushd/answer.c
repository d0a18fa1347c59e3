/*
 * answer.c
 *		Plain answers: texts, figures and files.
 *
 * Files are opened below one folder, part by part, never through a symbolic link and never with a
 * name that begins with a dot.
 */
#define _GNU_SOURCE
#include "pushd/http.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pushd/feed.h"
#include "pushd/telemetry.h"

#define FILE_CHUNK		16384
#define REPLY_DEADLINE_MS 15000
#define HOST_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:[]"

struct HttpReply
{
	int			fd;				/* -1, or the file that follows the text */
	off_t		left;			/* of the file */
	size_t		len;
	size_t		at;
	char	   *text;			/* malloc'ed */
};

static int	www = -1;

/*
 * Remembers the folder whose files are served: the one that was asked for, or the one that came with
 * the installation, which need not be there.  An empty path is none at all.
 */
bool
http_open_www(const char *path)
{
	const char *folder = path != NULL ? path : DEFAULT_WWW;

	if (folder[0] == '\0')
		return true;
	www = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (www < 0 && path != NULL)
		log_line("could not open folder \"%s\": %s", path, strerror(errno));
	return www >= 0 || path == NULL;
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
void
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

void
answer_text(Client *client, const Request *request, const char *status, const char *more,
			const char *body)
{
	bool		head = request->method != NULL && strcmp(request->method, "HEAD") == 0;

	answer_head(client, status, "text/plain; charset=utf-8", more, (off_t) strlen(body), -1,
				head ? "" : body);
}

/* Whether a database is there: the cell of that name, or any where name is NULL. */
void
answer_health(Client *client, const Request *request, const char *name)
{
	const Cell *cell = name != NULL ? cell_by_name(name) : NULL;
	bool		there = cell != NULL ? cell->ready : feed_ready();

	if (name != NULL && cell == NULL)
		answer_text(client, request, "404 Not Found", "", "not found\n");
	else
		answer_text(client, request, there ? "200 OK" : "503 Service Unavailable", "",
					there ? "ok\n" : "the database is away\n");
}

/* A figure that each cell has of its own; without names there is one. */
static void
write_gauge(FILE *out, const char *name, const char *help, int64_t (*figure) (const Cell *cell))
{
	fprintf(out, "# HELP iot_pushd_%s %s\n# TYPE iot_pushd_%s gauge\n", name, help, name);
	for (int i = 0; i < n_cells; i++)
	{
		fprintf(out, "iot_pushd_%s", name);
		if (cells_named())
			fprintf(out, "{cell=\"%s\"}", cells[i].name);
		fprintf(out, " %lld\n", (long long) figure(&cells[i]));
	}
}

static int64_t
figure_up(const Cell *cell)
{
	return cell->ready;
}

static int64_t
figure_paused(const Cell *cell)
{
	return cell->paused;
}

static int64_t
figure_unrecorded(const Cell *cell)
{
	return (int64_t) feed_waiting_records(cell);
}

static int64_t
figure_seq(const Cell *cell)
{
	return cell->cursor;
}

void
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
	write_gauge(out, "database_up", "1 while the database answers.", figure_up);
	write_gauge(out, "paused", "1 while deliveries are paused, as on a copy of a database.",
				figure_paused);
	GAUGE("connections", "Open connections.", client_total());
	GAUGE("ready_sockets", "WebSockets whose user is known.", client_count(CLIENT_READY));
	GAUGE("subscriptions", "Subscriptions of all sockets.", subscriptions);
	GAUGE("live_subscriptions", "Those of them for live measurements.", telemetry_total());
	GAUGE("queued_bytes", "Bytes that wait for sockets.", queued);
	write_gauge(out, "unrecorded_deliveries", "Deliveries taken by a socket and not yet recorded.",
				figure_unrecorded);
	write_gauge(out, "seq", "Highest sequence number that was offered to live sockets.",
				figure_seq);
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
	COUNTER("requests_total", "Questions and orders of users.", metrics.requests);
	COUNTER("hints_total", "Wake-ups by NOTIFY.", metrics.hints);
	COUNTER("value_polls_total", "Statements about live measurements.", metrics.value_polls);
	COUNTER("values_sent_total", "Live measurements taken by sockets.", metrics.values_sent);
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

void
answer_file(Client *client, const Request *request)
{
	char		sockets[512] = "";
	char	   *policy;
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
	/* not every browser takes 'self' to mean the WebSocket beside the page */
	if (strspn(request->host, HOST_CHARACTERS) == strlen(request->host))
		snprintf(sockets, sizeof(sockets), " ws://%.200s wss://%.200s", request->host,
				 request->host);
	if (asprintf(&policy,
				 "Content-Security-Policy: default-src 'none'; script-src 'self'; "
				 "style-src 'self'; img-src 'self'; font-src 'self'; manifest-src 'self'; "
				 "connect-src 'self'%s; frame-ancestors 'none'; base-uri 'none'; "
				 "form-action 'none'\r\n"
				 "X-Frame-Options: DENY\r\n"
				 "Cross-Origin-Opener-Policy: same-origin\r\n"
				 "Permissions-Policy: camera=(), geolocation=(), microphone=()\r\n"
				 "Referrer-Policy: no-referrer\r\n", sockets) < 0)
	{
		if (fd >= 0)
			close(fd);
		client_kill(client);
		return;
	}
	answer_head(client, "200 OK", content_type(name), policy, size, fd, "");
	free(policy);
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
