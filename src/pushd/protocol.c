/*
 * protocol.c
 *		What clients say, and what they are told (doc/push.md).
 *
 * Every message is a JSON object with "op".  A mistake costs the client an error message, not the
 * connection; only what comes before it has said who it is must be right.
 */
#define _GNU_SOURCE
#include "pushd/pushd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "pushd/feed.h"
#include "pushd/request.h"
#include "pushd/telemetry.h"

#define MAX_ID			INT64_C(9007199254740991)	/* what a double holds exactly */

/* Sends a JSON object and frees it. */
static void
send_object(Client *client, cJSON *object)
{
	char	   *text = object != NULL ? cJSON_PrintUnformatted(object) : NULL;

	cJSON_Delete(object);
	if (text == NULL)
	{
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return;
	}
	client_reply(client, text);
	free(text);
}

static cJSON *
new_object(const char *op, const int64_t *id)
{
	cJSON	   *object = cJSON_CreateObject();

	cJSON_AddStringToObject(object, "op", op);
	if (id != NULL)
		cJSON_AddNumberToObject(object, "id", (double) *id);
	return object;
}

void
protocol_error(Client *client, const int64_t *id, const char *code, const char *message)
{
	cJSON	   *object = new_object("error", id);

	cJSON_AddStringToObject(object, "code", code);
	cJSON_AddStringToObject(object, "message", message);
	send_object(client, object);
}

/* Says how far the cell has come. */
static void
add_head(cJSON *object, const Cell *cell)
{
	cJSON_AddStringToObject(object, "epoch", cell->epoch);
	cJSON_AddNumberToObject(object, "seq", (double) cell->cursor);
}

/* Says whether the cell is there for the client. */
static void
add_state(cJSON *object, const Place *place)
{
	bool		here = place->allowed && place->cell->ready;

	cJSON_AddStringToObject(object, "state", place->refused ? "refused" : here ? "here" : "away");
	if (here)
		add_head(object, place->cell);
}

void
protocol_ready(Client *client)
{
	cJSON	   *object = new_object("ready", NULL);
	cJSON	   *list;

	cJSON_AddStringToObject(object, "user", client->user->name);
	if (!cells_named())
		add_head(object, &cells[0]);
	else
	{
		list = cJSON_AddObjectToObject(object, "cells");
		for (int i = 0; i < n_cells; i++)
			add_state(cJSON_AddObjectToObject(list, cells[i].name), &client->places[i]);
	}
	send_object(client, object);
}

/* A cell has come or gone, or takes the client no longer. */
void
protocol_cell(const Place *place)
{
	cJSON	   *object = new_object("cell", NULL);

	cJSON_AddStringToObject(object, "cell", place->cell->name);
	add_state(object, place);
	send_object(place->client, object);
}

/* The position of a subscription, or of all, means nothing: the client goes on from this one. */
void
protocol_reset(const Place *place, const Subscription *subscription, const char *reason)
{
	cJSON	   *object = new_object("reset", subscription != NULL ? &subscription->id : NULL);

	metrics.resets++;
	if (cells_named())
		cJSON_AddStringToObject(object, "cell", place->cell->name);
	cJSON_AddStringToObject(object, "reason", reason);
	add_head(object, place->cell);
	send_object(place->client, object);
}

/* A whole number from min up to MAX_ID; false where the item is none. */
bool
protocol_integer(const cJSON *item, int64_t min, int64_t *value)
{
	if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble) ||
		item->valuedouble != floor(item->valuedouble) ||
		item->valuedouble < (double) min || item->valuedouble > (double) MAX_ID)
		return false;
	*value = (int64_t) item->valuedouble;
	return true;
}

static Subscription *
find_subscription(Client *client, int64_t id)
{
	Subscription *subscription = client->subscriptions;

	while (subscription != NULL && subscription->id != id)
		subscription = subscription->next;
	return subscription;
}

/* The cell that a message is for; else the client is told what is wrong, and it is NULL. */
static Cell *
read_cell(Client *client, const cJSON *request, const int64_t *id)
{
	const cJSON *name = cJSON_GetObjectItemCaseSensitive(request, "cell");
	Cell	   *cell = &cells[0];

	if (!cells_named())
		return cell;
	if (!cJSON_IsString(name))
	{
		protocol_error(client, id, "invalid", "several cells are served here; name one by \"cell\"");
		return NULL;
	}
	cell = cell_by_name(name->valuestring);
	if (cell == NULL)
		protocol_error(client, id, "unknown", "there is no cell of this name");
	return cell;
}

/* Whether the client may have another subscription, of that id; else it is told why not. */
static bool
may_subscribe(Client *client, int64_t id)
{
	if (find_subscription(client, id) != NULL || telemetry_watches(client, id))
		protocol_error(client, &id, "duplicate", "there is a subscription with this id");
	else if (client->n_subscriptions >= options.max_subscriptions)
		protocol_error(client, &id, "limit", "too many subscriptions on this connection");
	else
		return true;
	return false;
}

static void
take_subscribe(Client *client, const cJSON *request, int64_t id)
{
	Subscription *subscription;
	Subscription **last;
	const char *why;
	cJSON	   *object;

	if (!may_subscribe(client, id))
		return;
	subscription = calloc(1, sizeof(Subscription) + (size_t) n_cells * sizeof(Position));
	if (subscription == NULL)
	{
		client_close(client, CLOSE_INTERNAL, "out of memory");
		return;
	}
	subscription->id = id;
	why = subscription_read(client, subscription, request);
	if (why != NULL)
	{
		protocol_error(client, &id, "invalid", why);
		subscription_free(subscription);
		return;
	}
	for (last = &client->subscriptions; *last != NULL; last = &(*last)->next)
		;
	*last = subscription;
	client->n_subscriptions++;
	object = new_object("subscribed", &id);
	send_object(client, object);
	if (client->state == CLIENT_READY)
		feed_subscribed(client, subscription);
}

static void
take_live(Client *client, const cJSON *request, int64_t id)
{
	Cell	   *only = NULL;
	const char *why;

	if (!may_subscribe(client, id))
		return;
	/* without a name, of whichever cells the devices are in */
	if (cells_named() && cJSON_HasObjectItem(request, "cell") &&
		(only = read_cell(client, request, &id)) == NULL)
		return;
	why = telemetry_watch(client, only, id, request);
	if (why != NULL)
	{
		protocol_error(client, &id, "invalid", why);
		return;
	}
	send_object(client, new_object("subscribed", &id));
	feed_pump();
}

static void
take_unsubscribe(Client *client, int64_t id)
{
	Subscription **link = &client->subscriptions;
	Subscription *subscription;

	if (telemetry_unwatch(client, id))
	{
		send_object(client, new_object("unsubscribed", &id));
		return;
	}
	while (*link != NULL && (*link)->id != id)
		link = &(*link)->next;
	subscription = *link;
	if (subscription == NULL)
	{
		protocol_error(client, &id, "unknown", "there is no subscription with this id");
		return;
	}
	*link = subscription->next;
	client->n_subscriptions--;
	subscription_free(subscription);
	if (client->subscriptions == NULL)
		feed_unsubscribed(client);
	send_object(client, new_object("unsubscribed", &id));
}

static void
take_ack(Client *client, const cJSON *request)
{
	const Cell *cell = read_cell(client, request, NULL);
	Place	   *place = cell != NULL ? &client->places[cell->index] : NULL;
	int64_t		seq;

	if (place == NULL)
		return;
	if (!protocol_integer(cJSON_GetObjectItemCaseSensitive(request, "seq"), 0, &seq) ||
		seq > place->last_seq)
		protocol_error(client, NULL, "invalid", "seq must be one that this connection received");
	else if (seq > place->acked)
		place->acked = seq;
}

static void
take_auth(Client *client, const cJSON *request)
{
	const char *token = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "token"));

	if (token == NULL)
		client_close(client, CLOSE_UNAUTHORIZED, "authentication failed");
	else
		client_check_token(client, token, strlen(token));
}

/* The cell where a name and a password are judged: any will do, but where the client names one. */
static Cell *
log_in_cell(const cJSON *request)
{
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "cell"));

	if (cells_named() && name != NULL)
		return cell_by_name(name);
	for (int i = 0; i < n_cells; i++)
	{
		if (cells[i].ready)
			return &cells[i];
	}
	return &cells[0];
}

static void
take_log_in(Client *client, const cJSON *request)
{
	Cell	   *cell = log_in_cell(request);
	const char *username =
		cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "username"));
	const char *password =
		cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "password"));

	if (cell == NULL || username == NULL || password == NULL)
		client_close(client, CLOSE_UNAUTHORIZED, "authentication failed");
	else
		request_log_in(client, cell, username, password);
}

/* Hands a question or an order to the cell that it names. */
static void
take_question(Client *client, const cJSON *request, int64_t id, const char *text, size_t len)
{
	Cell	   *cell = read_cell(client, request, &id);

	if (cell == NULL)
		return;
	if (client->places[cell->index].refused)
		protocol_error(client, &id, "unavailable", "the cell does not take this token");
	else if (cells_named() && !(client->places[cell->index].allowed && cell->ready))
		protocol_error(client, &id, "unavailable", "the cell is away");
	else
		request_send(client, cell, id, text, len);
}

static void
take_request(Client *client, const cJSON *request, const char *text, size_t len)
{
	const char *op = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "op"));
	const cJSON *id_item = cJSON_GetObjectItemCaseSensitive(request, "id");
	int64_t		id = 0;
	bool		has_id = id_item != NULL && protocol_integer(id_item, -MAX_ID, &id);

	if (op == NULL)
		protocol_error(client, NULL, "invalid", "message has no op");
	else if (id_item != NULL && !has_id)
		protocol_error(client, NULL, "invalid", "id must be a whole number");
	else if (strcmp(op, "ack") == 0)
		take_ack(client, request);
	else if (strcmp(op, "auth") == 0)
		protocol_error(client, NULL, "invalid", "this connection has its user already");
	else if (!request_is_op(op) && strcmp(op, "subscribe") != 0 &&
			 strcmp(op, "unsubscribe") != 0 && strcmp(op, "live") != 0)
		protocol_error(client, has_id ? &id : NULL, "unsupported", "unknown op");
	else if (!has_id)
		protocol_error(client, NULL, "invalid", "id is missing");
	else if (request_is_op(op))
		take_question(client, request, id, text, len);
	else if (strcmp(op, "subscribe") == 0)
		take_subscribe(client, request, id);
	else if (strcmp(op, "live") == 0)
		take_live(client, request, id);
	else
		take_unsubscribe(client, id);
}

/* Takes one message of an open WebSocket; len bytes of UTF-8, followed by anything. */
void
protocol_message(Client *client, const char *text, size_t len)
{
	const char *end = NULL;
	/* names with a zero in them would be read as shorter ones */
	cJSON	   *request = memmem(text, len, "\\u0000", 6) != NULL ? NULL :
		cJSON_ParseWithLengthOpts(text, len, &end, 0);

	while (request != NULL && end < text + len && memchr(" \t\r\n", *end, 4) != NULL)
		end++;
	if (request != NULL && end < text + len)
	{
		cJSON_Delete(request);
		request = NULL;
	}
	if (client->state == CLIENT_ANONYMOUS)
	{
		const char *op = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(request, "op"));

		if (op != NULL && strcmp(op, "auth") == 0)
			take_auth(client, request);
		else if (op != NULL && strcmp(op, "login") == 0)
			take_log_in(client, request);
		else
			client_close(client, CLOSE_UNAUTHORIZED, "authentication failed");
	}
	else if (!cJSON_IsObject(request))
		protocol_error(client, NULL, "invalid", "message is not a JSON object");
	else
		take_request(client, request, text, len);
	cJSON_Delete(request);
}
