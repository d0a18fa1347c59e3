/*
 * http.c
 *		Requests: /ws becomes a WebSocket, /healthz, /metrics and files are answered plainly.
 *
 * One request per connection, GET or HEAD, no body.  What is refused is refused before the
 * upgrade: a wrong path, a foreign origin, a database that is away.
 */
#define _GNU_SOURCE
#include "pushd/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "pushd/feed.h"

#define SUBPROTOCOL		"iot"
#define WEBSOCKET_GUID	"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

static void
refuse(Client *client, const Request *request, const char *status, const char *more,
	   const char *body)
{
	metrics.refused++;
	answer_text(client, request, status, more, body);
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
		answer_health(client, &request, NULL);
	else if (strncmp(request.path, "/healthz/", 9) == 0)
		answer_health(client, &request, request.path + 9);
	else if (strcmp(request.path, "/metrics") == 0)
		answer_metrics(client, &request);
	else if (strcmp(request.path, "/ws") == 0)
		refuse(client, &request, "426 Upgrade Required", "Upgrade: websocket\r\n",
			   "this is a WebSocket\n");
	else
		answer_file(client, &request);
	return false;
}
