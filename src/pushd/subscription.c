/*
 * subscription.c
 *		What a subscription wants, and from where on.
 */
#include "pushd/pushd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "core/glob.h"
#include "pushd/feed.h"

#define MAX_WORDS		1024	/* of one subscription */
#define MAX_WORD		256		/* bytes */

void
subscription_free(Subscription *subscription)
{
	free(subscription->words);
	free(subscription);
}

/* Whether the subscription wants the event; devices and groups add up, none of both means all. */
bool
subscription_matches(const Subscription *subscription, const char *event, const char *device,
					 const char *device_group)
{
	char	  **word = subscription->words;
	size_t		event_len = strlen(event);
	bool		matches = subscription->n_events == 0;

	for (int i = 0; i < subscription->n_events && !matches; i++)
		matches = iot_glob_match(word[i], strlen(word[i]), event, event_len);
	if (!matches || (subscription->n_devices == 0 && subscription->n_groups == 0))
		return matches;
	word += subscription->n_events;
	for (int i = 0; i < subscription->n_devices; i++)
	{
		if (strcmp(word[i], device) == 0)
			return true;
	}
	word += subscription->n_devices;
	for (int i = 0; i < subscription->n_groups; i++)
	{
		if (strcmp(word[i], device_group) == 0)
			return true;
	}
	return false;
}

/* Checks one list of words and adds up what it needs; NULL, or what is wrong. */
static const char *
measure_words(const cJSON *list, bool patterns, int *n, size_t *bytes)
{
	const cJSON *item;

	*n = 0;
	if (list == NULL || cJSON_IsNull(list))
		return NULL;
	if (!cJSON_IsArray(list))
		return "events, devices and groups must be arrays of strings of 1 to 256 bytes";
	cJSON_ArrayForEach(item, list)
	{
		size_t		len = cJSON_IsString(item) ? strlen(item->valuestring) : 0;

		if (len == 0 || len > MAX_WORD)
			return "events, devices and groups must be arrays of strings of 1 to 256 bytes";
		if (patterns && !iot_glob_valid(item->valuestring, len))
			return "an event pattern is not valid";
		*bytes += sizeof(char *) + len + 1;
		if (++*n > MAX_WORDS)
			return "too many events, devices or groups";
	}
	return NULL;
}

static char **
copy_words(const cJSON *list, char **word, char **text)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, list)
	{
		size_t		size = strlen(item->valuestring) + 1;

		memcpy(*text, item->valuestring, size);
		*word++ = *text;
		*text += size;
	}
	return word;
}

/* Takes the lists over; NULL, or what is wrong. */
static const char *
read_words(Subscription *subscription, const cJSON *request)
{
	const cJSON *events = cJSON_GetObjectItemCaseSensitive(request, "events");
	const cJSON *devices = cJSON_GetObjectItemCaseSensitive(request, "devices");
	const cJSON *groups = cJSON_GetObjectItemCaseSensitive(request, "groups");
	size_t		bytes = 0;
	const char *why;
	char	  **word;
	char	   *text;

	if ((why = measure_words(events, true, &subscription->n_events, &bytes)) != NULL ||
		(why = measure_words(devices, false, &subscription->n_devices, &bytes)) != NULL ||
		(why = measure_words(groups, false, &subscription->n_groups, &bytes)) != NULL)
		return why;
	if (bytes == 0)
		return NULL;
	subscription->words = malloc(bytes);
	if (subscription->words == NULL)
		return "out of memory";
	text = (char *) (subscription->words + subscription->n_events + subscription->n_devices +
					 subscription->n_groups);
	word = copy_words(events, subscription->words, &text);
	word = copy_words(devices, word, &text);
	(void) copy_words(groups, word, &text);
	return NULL;
}

/* Takes over the position, if the object has one; NULL, or what is wrong. */
static const char *
read_position(Position *position, const cJSON *object, const char *name)
{
	const cJSON *after_seq = cJSON_GetObjectItemCaseSensitive(object, name);
	const cJSON *epoch = cJSON_GetObjectItemCaseSensitive(object, "epoch");

	if (epoch != NULL && !cJSON_IsNull(epoch))
	{
		if (!cJSON_IsString(epoch))
			return "epoch must be a string";
		/* one that is too long is cut, and is as wrong as it was */
		snprintf(position->epoch, sizeof(position->epoch), "%s", epoch->valuestring);
	}
	if (after_seq == NULL || cJSON_IsNull(after_seq))
		return NULL;
	if (!protocol_integer(after_seq, 0, &position->after_seq))
		return "a position must be a whole number";
	position->resumes = true;
	return NULL;
}

/* The same of each cell, from "after"; NULL, or what is wrong. */
static const char *
read_after(Subscription *subscription, const cJSON *request)
{
	const cJSON *after = cJSON_GetObjectItemCaseSensitive(request, "after");
	const cJSON *item;

	if (cJSON_HasObjectItem(request, "after_seq") || cJSON_HasObjectItem(request, "epoch"))
		return "several cells are served here; name positions by \"after\"";
	if (after == NULL || cJSON_IsNull(after))
		return NULL;
	if (!cJSON_IsObject(after))
		return "after must be an object, with a position by cell";
	cJSON_ArrayForEach(item, after)
	{
		const Cell *cell = cell_by_name(item->string);
		const char *why;

		if (cell == NULL || !cJSON_IsObject(item))
			return "after must name cells that are served here, with a position each";
		why = read_position(&subscription->positions[cell->index], item, "seq");
		if (why != NULL)
			return why;
	}
	return NULL;
}

/* Takes over where the subscription begins; NULL, or what is wrong. */
static const char *
read_positions(const Client *client, Subscription *subscription, const cJSON *request)
{
	const char *why;

	if (cells_named())
		why = read_after(subscription, request);
	else if (cJSON_HasObjectItem(request, "after"))
		why = "there are no cells here; name a position by after_seq and epoch";
	else
		why = read_position(&subscription->positions[0], request, "after_seq");
	for (int i = 0; i < n_cells && why == NULL; i++)
	{
		if (subscription->positions[i].resumes && client->places[i].seen_overflow)
			why = "resume with a position first, on a connection that has not received too much else";
	}
	return why;
}

/* Fills a new subscription of the client from its request; NULL, or what is wrong. */
const char *
subscription_read(const Client *client, Subscription *subscription, const cJSON *request)
{
	const char *why = read_words(subscription, request);

	return why != NULL ? why : read_positions(client, subscription, request);
}
