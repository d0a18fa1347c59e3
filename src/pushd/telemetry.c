/*
 * telemetry.c
 *		Live measurements: who listens to which sensors, and what they are told.
 *
 * As with events, the table is the queue.  A watch ("op":"live") remembers where it stands, not
 * values: each time it falls due it asks for the sensors whose row is newer than that, and is given
 * what they hold by then.  A client that lags is not asked for, and finds the newest values once
 * it has read; what came in between was never kept for it.  One statement asks for all that is due,
 * of whichever clients, and judges anew what each user may view; while nobody listens, nothing is
 * asked.  Which cell has a sensor is not known here: a client has a watch of the same id in each.
 *
 * "Newer" is told by the transaction that wrote the row: all that may have been under way at the
 * last answer, and all later ones.  Among the first are some whose rows were in that answer; the
 * watch keeps the marks of its rows, so that no row is told twice.
 */
#include "pushd/telemetry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pushd/feed_internal.h"

#define MAX_SENSORS			1000	/* that one client listens to */
#define MAX_SENSORS_TEXT	"1000"
#define MAX_WORDS			1024	/* devices, or groups, or parameters of one watch */
#define MAX_WORD			256		/* bytes */
#define INTERVAL_MS			250
#define MIN_INTERVAL_MS		100
#define MAX_INTERVAL_MS		60000
#define LAG_MS				50		/* until a client that had not read is looked at again */
#define MAX_ASKED			256		/* watches of one statement */
#define MAX_ASKED_SENSORS	4000	/* ... and about so many sensors */

/* Columns of push_values(). */
enum
{
	COL_WATCH, COL_SENSORS, COL_SINCE, COL_MARK, COL_VALUE
};

struct Watch
{
	Watch	   *next;			/* of the cell's, those that waited longest first */
	Watch	   *prev;
	Watch	   *client_next;	/* of the client's */
	Client	   *client;
	Cell	   *cell;
	int64_t		id;
	int64_t		interval;		/* in ms, as the next */
	int64_t		due;
	int			n_sensors;		/* at the last answer; before the first, as many as may be */
	bool		counted;		/* there was an answer */
	int64_t		devices;		/* mark of those that it was about */
	int			asked_at;		/* place in the statement under way, or -1 */
	char		since[16];		/* the oldest transaction that may be news; empty: all is */
	uint64_t   *marks;			/* of the rows that were answered since then, sorted */
	int			n_marks;
	char	   *question;		/* JSON object without its end: what push_values() is asked */
};

/* Those of a cell. */
typedef struct Watches
{
	Watch	   *first;
	Watch	   *last;
	int64_t		next_look;		/* nothing is due before */
	Watch	   *asked[MAX_ASKED];	/* of the statement under way; NULL once they have gone */
	int			n_asked;
} Watches;

static Watches watches[MAX_CELLS];
static int	n_subscriptions;

static void telemetry_done(const PGresult *rows, void *arg);

static void
list_append(Watch *watch)
{
	Watches    *w = &watches[watch->cell->index];

	watch->next = NULL;
	watch->prev = w->last;
	if (w->last != NULL)
		w->last->next = watch;
	else
		w->first = watch;
	w->last = watch;
}

static void
list_remove(Watch *watch)
{
	Watches    *w = &watches[watch->cell->index];

	if (watch->prev != NULL)
		watch->prev->next = watch->next;
	else
		w->first = watch->next;
	if (watch->next != NULL)
		watch->next->prev = watch->prev;
	else
		w->last = watch->prev;
}

/* Frees a watch that no client knows any more. */
static void
watch_free(Watch *watch)
{
	list_remove(watch);
	if (watch->asked_at >= 0)
		watches[watch->cell->index].asked[watch->asked_at] = NULL;
	free(watch->marks);
	free(watch->question);
	free(watch);
}

static Watch **
find_watch(Client *client, int64_t id)
{
	Watch	  **link = &client->watches;

	while (*link != NULL && (*link)->id != id)
		link = &(*link)->client_next;
	return link;
}

/* Subscriptions of all clients. */
int
telemetry_total(void)
{
	return n_subscriptions;
}

/* Whether the client has a watch of that id. */
bool
telemetry_watches(const Client *client, int64_t id)
{
	return *find_watch((Client *) client, id) != NULL;
}

/* Ends the client's watches of that id; false where there is none. */
bool
telemetry_unwatch(Client *client, int64_t id)
{
	Watch	  **link = find_watch(client, id);

	if (*link == NULL)
		return false;
	/* those of one subscription lie side by side */
	while (*link != NULL && (*link)->id == id)
	{
		Watch	   *watch = *link;

		*link = watch->client_next;
		watch_free(watch);
	}
	client->n_subscriptions--;
	n_subscriptions--;
	return true;
}

/* The client goes. */
void
telemetry_forget(Client *client)
{
	while (client->watches != NULL)
		(void) telemetry_unwatch(client, client->watches->id);
}

/* Adds a list of the request to the question; NULL, or what is wrong. */
static const char *
take_words(cJSON *question, const cJSON *request, const char *name, bool *given)
{
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(request, name);
	const cJSON *item;

	*given = false;
	if (list == NULL || cJSON_IsNull(list))
		return NULL;
	if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > MAX_WORDS)
		return "devices, groups and parameters must be arrays of at most 1024 strings of 1 to 256 bytes";
	cJSON_ArrayForEach(item, list)
	{
		if (!cJSON_IsString(item) || item->valuestring[0] == '\0' ||
			strlen(item->valuestring) > MAX_WORD)
			return "devices, groups and parameters must be arrays of at most 1024 strings of 1 to 256 bytes";
		*given = true;
	}
	if (*given)
		cJSON_AddItemToObject(question, name, cJSON_Duplicate(list, true));
	return NULL;
}

/* Reads what is asked for, and how often; NULL, or what is wrong.  The text is the caller's to free. */
static const char *
read_request(const Client *client, int64_t id, const cJSON *request, char **text,
			 int64_t *interval_ms)
{
	const cJSON *interval = cJSON_GetObjectItemCaseSensitive(request, "interval");
	cJSON	   *question = cJSON_CreateObject();
	bool		devices = false;
	bool		groups = false;
	bool		parameters = false;
	const char *why;

	if ((why = take_words(question, request, "devices", &devices)) == NULL &&
		(why = take_words(question, request, "groups", &groups)) == NULL &&
		(why = take_words(question, request, "parameters", &parameters)) == NULL &&
		!devices && !groups)
		why = "live needs devices or groups";
	*interval_ms = INTERVAL_MS;
	if (why == NULL && interval != NULL && !cJSON_IsNull(interval))
	{
		if (!cJSON_IsNumber(interval) || !(interval->valuedouble >= MIN_INTERVAL_MS) ||
			!(interval->valuedouble <= MAX_INTERVAL_MS))
			why = "interval must be a number of milliseconds from 100 to 60000";
		else
			*interval_ms = (int64_t) ceil(interval->valuedouble);
	}
	if (why == NULL)
	{
		cJSON_AddStringToObject(question, "username", client->user->name);
		cJSON_AddNumberToObject(question, "id", (double) id);
		*text = cJSON_PrintUnformatted(question);
		if (*text == NULL)
			why = "out of memory";
		else
			(*text)[strlen(*text) - 1] = '\0';	/* more is to come */
	}
	cJSON_Delete(question);
	return why;
}

/* Adds a watch to the client's; false without memory. */
static bool
add_watch(Client *client, Cell *cell, int64_t id, const char *question, int64_t interval)
{
	Watch	   *watch = calloc(1, sizeof(Watch));

	if (watch == NULL || (watch->question = strdup(question)) == NULL)
	{
		free(watch);
		return false;
	}
	watch->client = client;
	watch->cell = cell;
	watch->id = id;
	watch->interval = interval;
	watch->asked_at = -1;
	watch->n_sensors = MAX_SENSORS;
	list_append(watch);
	watch->client_next = client->watches;
	client->watches = watch;
	watches[cell->index].next_look = 0;
	return true;
}

/*
 * Takes a request of a client that is ready, for one cell or, where only is NULL, for all; NULL, or
 * what is wrong.
 */
const char *
telemetry_watch(Client *client, Cell *only, int64_t id, const cJSON *request)
{
	char	   *question = NULL;
	int64_t		interval;
	bool		complete = true;
	const char *why = read_request(client, id, request, &question, &interval);

	for (int i = 0; i < n_cells && why == NULL && complete; i++)
	{
		if (only == NULL || only == &cells[i])
			complete = add_watch(client, &cells[i], id, question, interval);
	}
	free(question);
	if (why != NULL)
		return why;
	client->n_subscriptions++;
	n_subscriptions++;
	if (complete)
		return NULL;
	if (!telemetry_unwatch(client, id))
	{
		client->n_subscriptions--;
		n_subscriptions--;
	}
	return "out of memory";
}

/* Whether there is anybody to ask for. */
bool
telemetry_due(const Cell *cell)
{
	return watches[cell->index].first != NULL && now_ms() >= watches[cell->index].next_look;
}

/* The cell let a client in, whose watches may be due. */
void
telemetry_joined(const Cell *cell)
{
	watches[cell->index].next_look = 0;
}

/* Chooses whom the next statement is about, and writes its parameter; false for nobody. */
static bool
write_question(const Cell *cell, FILE *out, int64_t now)
{
	Watches    *w = &watches[cell->index];
	int			sensors = 0;

	w->next_look = INT64_MAX;
	fputc('[', out);
	for (Watch *watch = w->first; watch != NULL; watch = watch->next)
	{
		if (!watch->client->places[cell->index].allowed)
			continue;
		if (watch->due > now)
		{
			if (watch->due < w->next_look)
				w->next_look = watch->due;
			continue;
		}
		/* who has yet to read is asked for later, and so is what is too much for one statement */
		if (watch->client->queue_bytes > LOW_WATER)
		{
			if (w->next_look > now + LAG_MS)
				w->next_look = now + LAG_MS;
			continue;
		}
		if (w->n_asked == MAX_ASKED || sensors >= MAX_ASKED_SENSORS)
		{
			w->next_look = now;
			break;
		}
		sensors += watch->n_sensors + 1;
		fprintf(out, "%s%s,\"watch\":%d,\"since\":", w->n_asked > 0 ? "," : "", watch->question,
				w->n_asked);
		fprintf(out, watch->since[0] != '\0' ? "\"%s\"}" : "null}", watch->since);
		watch->asked_at = w->n_asked;
		w->asked[w->n_asked++] = watch;
	}
	fputc(']', out);
	return w->n_asked > 0;
}

bool
telemetry_send(Cell *cell)
{
	char	   *question = NULL;
	size_t		len = 0;
	FILE	   *out = open_memstream(&question, &len);
	const char *values[2];
	bool		any;
	bool		sent = false;

	if (out == NULL)
		return false;
	any = write_question(cell, out, now_ms());
	if (fclose(out) == 0 && any)
	{
		metrics.value_polls++;
		values[0] = question;
		values[1] = MAX_SENSORS_TEXT;
		sent = pg_send(cell->pg, "SELECT * FROM iot_internal.push_values($1, $2)", 2, values,
					   telemetry_done, cell);
	}
	else if (any)
		telemetry_done(NULL, cell);
	free(question);
	return sent;
}

static int
compare_marks(const void *a, const void *b)
{
	uint64_t	left = *(const uint64_t *) a;
	uint64_t	right = *(const uint64_t *) b;

	return (left > right) - (left < right);
}

/*
 * Takes the rows of one watch, from row up to end; the first counts its sensors.  What does
 * not fit into the client's queue is asked for again: then the watch stays where it stands.
 */
static void
take_rows(Watch *watch, const PGresult *rows, int row, int end)
{
	Client	   *client = watch->client;
	uint64_t   *marks = end > row + 1 ? malloc((size_t) (end - row - 1) * sizeof(uint64_t)) : NULL;
	const char *since = PQgetvalue(rows, row, COL_SINCE);
	int			n_marks = 0;
	bool		complete = true;

	for (int i = row + 1; i < end && marks != NULL && client_is_open(client); i++)
	{
		uint64_t	mark = (uint64_t) feed_int(rows, i, COL_MARK);
		Message    *message;

		if (watch->n_marks == 0 || bsearch(&mark, watch->marks, (size_t) watch->n_marks,
										   sizeof(uint64_t), compare_marks) == NULL)
		{
			if (client->queue_bytes > HIGH_WATER ||
				(message = message_of_cell(watch->cell, PQgetvalue(rows, i, COL_VALUE),
										   (size_t) PQgetlength(rows, i, COL_VALUE))) == NULL)
			{
				complete = false;
				continue;
			}
			message->is_value = true;
			client_enqueue(client, message, false);
			message_release(message);
		}
		marks[n_marks++] = mark;
	}
	if (!client_is_open(client))
	{
		free(marks);			/* and the watch is gone with it */
		return;
	}
	if (n_marks > 1)
		qsort(marks, (size_t) n_marks, sizeof(uint64_t), compare_marks);
	if (marks != NULL || end == row + 1)
	{
		free(watch->marks);
		watch->marks = marks;
		watch->n_marks = n_marks;
		if (complete)
			snprintf(watch->since, sizeof(watch->since), "%s", since);
	}
}

/* What the client listens to, all its watches together. */
static int
count_sensors(const Client *client)
{
	int			sensors = 0;

	for (const Watch *watch = client->watches; watch != NULL; watch = watch->client_next)
		sensors += watch->counted ? watch->n_sensors : 0;
	return sensors;
}

static void
take_answer(Watch *watch, const PGresult *rows, int row, int end)
{
	Client	   *client = watch->client;
	int64_t		now = now_ms();
	int64_t		id = watch->id;
	int64_t		devices = feed_int(rows, row, COL_MARK);
	bool		others = watch->counted && devices != watch->devices;

	watch->n_sensors = (int) feed_int(rows, row, COL_SENSORS);
	watch->devices = devices;
	watch->counted = true;
	if (count_sensors(client) > MAX_SENSORS)
	{
		(void) telemetry_unwatch(client, id);
		protocol_error(client, &id, "limit", "a connection listens to " MAX_SENSORS_TEXT
					   " sensors at most; this subscription is ended");
		return;
	}
	watch->asked_at = -1;
	watch->due = now + watch->interval;
	if (watch->due < watches[watch->cell->index].next_look)
		watches[watch->cell->index].next_look = watch->due;
	/* behind those that have waited longer */
	list_remove(watch);
	list_append(watch);
	if (others)
	{
		/* who comes in by a grant or a change of the registry may hold an old value, which is news */
		watch->since[0] = '\0';
		watch->n_marks = 0;
	}
	else
		take_rows(watch, rows, row, end);
}

static void
telemetry_done(const PGresult *rows, void *arg)
{
	Cell	   *cell = arg;
	Watches    *w = &watches[cell->index];
	int			n_rows = rows != NULL ? PQntuples(rows) : 0;

	for (int row = 0; row < n_rows;)
	{
		int			place = (int) feed_int(rows, row, COL_WATCH);
		int			end = row + 1;

		while (end < n_rows && PQgetisnull(rows, end, COL_SENSORS))
			end++;
		if (place >= 0 && place < w->n_asked && w->asked[place] != NULL)
			take_answer(w->asked[place], rows, row, end);
		row = end;
	}
	for (int i = 0; i < w->n_asked; i++)
	{
		if (w->asked[i] != NULL)
			w->asked[i]->asked_at = -1;
	}
	w->n_asked = 0;
	if (rows == NULL && pg_connected(cell->pg))
		pg_fail(cell->pg, "could not read live values");
}

/* What the next connection answers may come from another server: all is news there. */
void
telemetry_disconnected(const Cell *cell)
{
	for (Watch *watch = watches[cell->index].first; watch != NULL; watch = watch->next)
	{
		watch->since[0] = '\0';
		watch->n_marks = 0;
		watch->due = 0;
	}
	watches[cell->index].next_look = 0;
}
