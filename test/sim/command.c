/*
 * command.c
 *		What simulated devices do with commands: carry out, refuse, stay silent, answer late, twice
 *		or out of order.
 *
 * A table of ids remembers each command for the life of the program (and beyond, with a state
 * file); answers wait in a list sorted by the time they are due.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "sim.h"

/* A held-back answer leaves after this long even where the group it waits for never fills. */
#define REORDER_WAIT_US		5000000

typedef struct Seen
{
	char		id[SIM_ID_MAX + 1];
	int			deliveries;
	bool		executed;
} Seen;

typedef struct Answer
{
	SimDevice  *device;
	char		id[SIM_ID_MAX + 1];
	char		parameter[IOT_DEVICE_NAME_MAX + 1];
	double		value;
	char		error[160];		/* empty: carried out */
	uint64_t	due_us;
} Answer;

typedef struct AnswerList
{
	Answer	   *items;
	size_t		count;
	size_t		room;
} AnswerList;

static Seen *seen_table;
static size_t seen_size;
static size_t seen_count;
static FILE *state_file;
static AnswerList waiting;		/* by due time */
static AnswerList held;			/* for --reorder, as they came */
static uint64_t held_since_us;

static void *
allocate(void *old, size_t size)
{
	void	   *memory = realloc(old, size);

	if (memory == NULL)
	{
		fputs("iot-sim: out of memory\n", stderr);
		exit(1);
	}
	return memory;
}

static size_t
seen_slot(const char *id)
{
	uint64_t	hash = UINT64_C(14695981039346656037);
	size_t		at;

	for (const char *p = id; *p; p++)
		hash = (hash ^ (unsigned char) *p) * UINT64_C(1099511628211);
	at = (size_t) hash & (seen_size - 1);
	while (seen_table[at].id[0] != '\0' && strcmp(seen_table[at].id, id) != 0)
		at = (at + 1) & (seen_size - 1);
	return at;
}

/* Entry of an id, made where it is new. */
static Seen *
seen(const char *id)
{
	Seen	   *entry;

	if (seen_count * 2 >= seen_size)
	{
		Seen	   *old = seen_table;
		size_t		old_size = seen_size;

		seen_size = old_size == 0 ? 1024 : old_size * 2;
		seen_table = calloc(seen_size, sizeof(Seen));
		if (seen_table == NULL)
			allocate(NULL, SIZE_MAX / 2);
		for (size_t i = 0; i < old_size; i++)
			if (old[i].id[0] != '\0')
				seen_table[seen_slot(old[i].id)] = old[i];
		free(old);
	}
	entry = &seen_table[seen_slot(id)];
	if (entry->id[0] == '\0')
	{
		strcpy(entry->id, id);
		seen_count++;
	}
	return entry;
}

/* Reads what an earlier run carried out. */
void
sim_command_init(void)
{
	char		line[SIM_ID_MAX + 2];
	FILE	   *file;

	if (sim.opt.state_file == NULL)
		return;
	file = fopen(sim.opt.state_file, "r");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
	{
		line[strcspn(line, "\n")] = '\0';
		if (line[0] != '\0')
			seen(line)->executed = true;
	}
	if (file != NULL)
		fclose(file);
	state_file = fopen(sim.opt.state_file, "a");
	if (state_file == NULL)
	{
		perror(sim.opt.state_file);
		exit(2);
	}
}

static void
list_insert(AnswerList *list, size_t at, const Answer *answer)
{
	if (list->count == list->room)
	{
		list->room = list->room == 0 ? 64 : list->room * 2;
		list->items = allocate(list->items, list->room * sizeof(Answer));
	}
	memmove(&list->items[at + 1], &list->items[at], (list->count - at) * sizeof(Answer));
	list->items[at] = *answer;
	list->count++;
}

/* By due time; those that are due together keep their order. */
static void
answer_later(const Answer *answer)
{
	size_t		at = waiting.count;

	while (at > 0 && waiting.items[at - 1].due_us > answer->due_us)
		at--;
	list_insert(&waiting, at, answer);
}

/* Publishes an answer, or the new value where devices confirm by echo. */
static void
give(const Answer *answer)
{
	SimDevice  *device = answer->device;
	cJSON	   *json;
	char	   *text;

	if (sim.opt.echo)
	{
		if (answer->error[0] == '\0')
			sim_record_echo(device, answer->id, answer->parameter, answer->value,
							sim_telemetry_report(device, answer->parameter, answer->value));
		return;
	}
	json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "id", answer->id);
	cJSON_AddBoolToObject(json, "ok", answer->error[0] == '\0');
	if (answer->error[0] != '\0')
		cJSON_AddStringToObject(json, "error", answer->error);
	text = cJSON_PrintUnformatted(json);
	cJSON_Delete(json);
	if (text == NULL)
		return;
	if (sim_link_publish(device->link, &sim.opt.ack_topic,
						 sim.opt.answer_as ? sim.opt.answer_as : device->name,
						 text, sim.opt.qos, false, NULL))
	{
		sim.count.answered++;
		sim_record_command("answered", device, answer->id, answer->parameter, answer->value, NAN,
						   answer->error[0] ? answer->error : NULL, false);
	}
	free(text);
}

static void
release_held(void)
{
	while (held.count > 0)
		give(&held.items[--held.count]);
}

/* Plans the answers to a command: how many, when, in which order. */
static void
plan_answers(SimDevice *device, const char *id, const char *parameter, double value,
			 const char *error)
{
	Answer		answer = {.device = device, .value = value};

	snprintf(answer.id, sizeof(answer.id), "%s", id);
	snprintf(answer.parameter, sizeof(answer.parameter), "%s", parameter);
	snprintf(answer.error, sizeof(answer.error), "%s", error ? error : "");
	for (int i = 0; i < sim.opt.answers; i++)
	{
		uint32_t	span = sim.opt.delay_max_ms - sim.opt.delay_ms;
		uint32_t	delay = sim.opt.delay_ms;

		if (span > 0)
			delay += (uint32_t) (sim_random(&device->random) * (span + 1));
		if (sim.opt.reorder > 1)
		{
			if (held.count == 0)
				held_since_us = sim_now_us();
			list_insert(&held, held.count, &answer);
			if (held.count >= (size_t) sim.opt.reorder)
				release_held();
		}
		else if (delay == 0)
			give(&answer);
		else
		{
			answer.due_us = sim_now_us() + (uint64_t) delay * 1000;
			answer_later(&answer);
		}
	}
}

static void
execute(SimDevice *device, Seen *entry, const char *parameter, double value, double version,
		bool retained)
{
	entry->executed = true;
	if (state_file != NULL)
	{
		/* before the answer: a device that forgot what it did would do it twice */
		fprintf(state_file, "%s\n", entry->id);
		fflush(state_file);
	}
	for (int i = 0; i < sim.opt.parameter_count; i++)
		if (strcmp(sim.opt.parameters[i], parameter) == 0)
			device->values[i] = value;
	sim.count.executed++;
	sim_record_command("executed", device, entry->id, parameter, value, version, NULL, retained);
}

static void
carry_out(SimDevice *device, Seen *entry, const char *parameter, double value, double version,
		  bool retained)
{
	const char *id = entry->id;
	char		error[160] = "";

	entry->deliveries++;
	if (entry->deliveries <= sim.opt.ignore_first ||
		(sim.opt.silent_share > 0 && sim_random(&device->random) < sim.opt.silent_share))
	{
		sim_record_command("silent", device, id, parameter, value, version, NULL, retained);
		return;
	}
	if (value > sim.opt.refuse_above)
		snprintf(error, sizeof(error), "value %g is above the device's limit of %g", value,
				 sim.opt.refuse_above);
	else if (value < sim.opt.refuse_below)
		snprintf(error, sizeof(error), "value %g is below the device's limit of %g", value,
				 sim.opt.refuse_below);
	if (error[0] != '\0')
	{
		sim.count.refused++;
		sim_record_command("refused", device, id, parameter, value, version, error, retained);
		plan_answers(device, id, parameter, value, error);
		return;
	}
	if (entry->executed && sim.opt.drop_seen)
	{
		sim.count.dropped++;
		sim_record_command("dropped", device, id, parameter, value, version, NULL, retained);
	}
	else
		execute(device, entry, parameter, value, version, retained);
	plan_answers(device, id, parameter, value, NULL);
}

/* A message on the command topic of a device of ours. */
void
sim_command_received(SimDevice *device, const char *payload, size_t len, int qos, bool retained)
{
	cJSON	   *json = cJSON_ParseWithLength(payload, len);
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(json, "id");
	const cJSON *parameter = cJSON_GetObjectItemCaseSensitive(json, "parameter");
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(json, "value");
	const cJSON *version = cJSON_GetObjectItemCaseSensitive(json, "version");

	sim.count.received++;
	if (!cJSON_IsString(id) || !cJSON_IsString(parameter) || !cJSON_IsNumber(value) ||
		id->valuestring[0] == '\0' || strlen(id->valuestring) > SIM_ID_MAX ||
		strlen(parameter->valuestring) > IOT_DEVICE_NAME_MAX)
		sim_record_command("malformed", device, "", NULL, NAN, NAN, NULL, retained);
	else
	{
		double		number = cJSON_IsNumber(version) ? version->valuedouble : NAN;

		sim_record_command(qos == 1 ? "received" : "received_qos0", device, id->valuestring,
						   parameter->valuestring, value->valuedouble, number, NULL, retained);
		carry_out(device, seen(id->valuestring), parameter->valuestring, value->valuedouble,
				  number, retained);
	}
	cJSON_Delete(json);
}

/* Gives the answers that are due; milliseconds until the next, at most most_ms. */
uint32_t
sim_command_run(uint32_t most_ms)
{
	uint64_t	now = sim_now_us();
	size_t		due = 0;

	while (due < waiting.count && waiting.items[due].due_us <= now)
		give(&waiting.items[due++]);
	if (due > 0)
	{
		waiting.count -= due;
		memmove(waiting.items, &waiting.items[due], waiting.count * sizeof(Answer));
	}
	if (held.count > 0)
	{
		if (now - held_since_us >= REORDER_WAIT_US)
			release_held();
		else if (most_ms > 50)
			most_ms = 50;
	}
	if (waiting.count > 0)
	{
		uint64_t	wait_ms = (waiting.items[0].due_us - now) / 1000 + 1;

		if (wait_ms < most_ms)
			most_ms = (uint32_t) wait_ms;
	}
	return most_ms;
}

/* The program ends: what is held back leaves, what is late is forgotten. */
void
sim_command_flush(void)
{
	release_held();
	free(held.items);
	free(waiting.items);
	free(seen_table);
	if (state_file != NULL)
		fclose(state_file);
}
