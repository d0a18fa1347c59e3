/*
 * record.c
 *		The simulator's log: a JSON object a line, flushed at once, so that a test that kills the
 *		program still reads all that happened.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "sim.h"

static FILE *record_file;

/* Appends, so that a program started again goes on in the same file. */
void
sim_record_open(void)
{
	if (sim.opt.log_file == NULL)
		return;
	record_file = fopen(sim.opt.log_file, "a");
	if (record_file == NULL)
	{
		perror(sim.opt.log_file);
		exit(2);
	}
}

static void
write_record(cJSON *record)
{
	char	   *text = cJSON_PrintUnformatted(record);

	if (text != NULL)
	{
		fputs(text, record_file);
		fputc('\n', record_file);
		fflush(record_file);
		free(text);
	}
	cJSON_Delete(record);
}

static cJSON *
new_record(const char *kind, const SimDevice *device)
{
	cJSON	   *record = cJSON_CreateObject();

	cJSON_AddStringToObject(record, "kind", kind);
	cJSON_AddNumberToObject(record, "at", (double) sim_wall_ms());
	cJSON_AddStringToObject(record, "device", device->name);
	return record;
}

/* A number with all its digits: cJSON would round what is close to a shorter one. */
static void
add_number(cJSON *record, const char *name, double value)
{
	char		text[32];

	snprintf(text, sizeof(text), "%.17g", value);
	cJSON_AddRawToObject(record, name, text);
}

/* A step of a command; parameter and error may be NULL, value and version NaN where unknown. */
void
sim_record_command(const char *kind, const SimDevice *device, const char *id,
				   const char *parameter, double value, double version, const char *error,
				   bool retained)
{
	cJSON	   *record;

	if (record_file == NULL)
		return;
	record = new_record(kind, device);
	cJSON_AddStringToObject(record, "id", id);
	if (parameter != NULL)
		cJSON_AddStringToObject(record, "parameter", parameter);
	if (isfinite(value))
		add_number(record, "value", value);
	if (isfinite(version))
		cJSON_AddNumberToObject(record, "version", version);
	if (error != NULL)
		cJSON_AddStringToObject(record, "error", error);
	if (retained)
		cJSON_AddTrueToObject(record, "retained");
	write_record(record);
}

/* A value that a device tells to confirm a command; the library may still have to send it. */
void
sim_record_echo(const SimDevice *device, const char *id, const char *parameter, double value,
				int64_t ts)
{
	cJSON	   *record;

	if (record_file == NULL)
		return;
	record = new_record("echoed", device);
	cJSON_AddStringToObject(record, "id", id);
	cJSON_AddStringToObject(record, "parameter", parameter);
	add_number(record, "value", value);
	cJSON_AddNumberToObject(record, "ts", (double) ts);
	write_record(record);
}

/* A telemetry message that left ("published"), or that the broker confirmed ("acked"). */
void
sim_record_telemetry(const char *kind, const SimDevice *device, int64_t ts, int mid)
{
	cJSON	   *record;

	if (record_file == NULL || !sim.opt.log_telemetry)
		return;
	record = new_record(kind, device);
	cJSON_AddNumberToObject(record, "ts", (double) ts);
	cJSON_AddNumberToObject(record, "mid", mid);
	write_record(record);
}

void
sim_record_close(void)
{
	if (record_file != NULL)
		fclose(record_file);
	record_file = NULL;
}
