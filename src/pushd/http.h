/*
 * http.h
 *		Requests and answers: what http.c and answer.c share.
 */
#ifndef IOT_PUSHD_HTTP_H
#define IOT_PUSHD_HTTP_H

#include "pushd/pushd.h"

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

/* answer.c */
extern void answer(Client *client, char *text, size_t len, int fd, off_t file_size);
extern void answer_text(Client *client, const Request *request, const char *status,
						const char *more, const char *body);
extern void answer_health(Client *client, const Request *request, const char *name);
extern void answer_metrics(Client *client, const Request *request);
extern void answer_file(Client *client, const Request *request);

#endif							/* IOT_PUSHD_HTTP_H */
