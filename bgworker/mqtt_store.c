/*
 * mqtt_store.c
 *		The transactions of an MQTT adapter that take in what came.
 *
 * No socket is touched here.  What a transaction decided is told to the commands in memory only
 * after its commit.  A batch that the database refuses is halved until the guilty message is
 * alone; that one becomes a dead letter.  Whatever else goes wrong is no message's fault: the
 * batch is tried again where another transaction was in the way, else handed back to the broker.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "bgworker/mqtt_store.h"
#include "bgworker/worker.h"
#include "dead_letter.h"
#include "iot.h"
#include "plan.h"

#define RETRIES			3		/* of a transaction that met another one */
#define ERROR_LOG_SIZE	200

typedef enum Outcome
{
	OUTCOME_APPLIED,
	OUTCOME_LATE,
	OUTCOME_DUPLICATE,
	OUTCOME_UNKNOWN
} Outcome;

/* An answer to a command, by its device or found by ourselves, and what the saga made of it. */
typedef struct Answer
{
	char		device[IOT_DEVICE_NAME_MAX + 1];
	pg_uuid_t	command_id;
	bool		ok;
	char	   *error;
	int			message;		/* index in the batch, -1 for our own */
	Outcome		outcome;
} Answer;

typedef struct StoreJob
{
	const IotMqttConfig *config;
	const pg_uuid_t *adapter_id;
	const IotIngestMessage *messages;
	int			count;
	const IotCommandEnd *ends;
	int			nends;
	MemoryContext context;		/* for what outlives the transaction */
	IotIngestCounters counters;
	bool		announced;		/* devices announced themselves in what is committed */
	Answer	   *answers;
	int			nanswers;
} StoreJob;

typedef struct LetterJob
{
	const IotMqttConfig *config;
	const IotIngestMessage *message;
	const char *error;
} LetterJob;

static IotPlan record_answers = {
	"SELECT r.outcome FROM iot_internal.adapter_result($1, $2, $3, $4) r",
	4, {TEXTARRAYOID, UUIDARRAYOID, BOOLARRAYOID, TEXTARRAYOID}
};

static void
store_dead_letter(const IotMqttConfig *config, const IotIngestMessage *message,
				  const char *device, IotReason reason, const char *error)
{
	IotDeadLetter letter = {
		.adapter = config->name,
		.device = device,
		.topic = message->topic,
		.topic_len = message->topic_len,
		.payload = message->payload,
		.payload_len = message->payload_len,
		.received_at = message->received_at,
		.retained = message->retained,
		.reason = reason,
		.error = error,
		.count = 1
	};

	iot_dead_letter_store(&letter, 1);
}

static Answer *
add_answer(StoreJob *job, const char *device, const pg_uuid_t *command_id, bool ok,
		   const char *error, int message)
{
	Answer	   *answer = &job->answers[job->nanswers++];

	strlcpy(answer->device, device, sizeof(answer->device));
	answer->command_id = *command_id;
	answer->ok = ok;
	answer->error = error == NULL ? NULL : MemoryContextStrdup(job->context, error);
	answer->message = message;
	return answer;
}

static Outcome
parse_outcome(const char *text)
{
	return strcmp(text, "applied") == 0 ? OUTCOME_APPLIED :
		strcmp(text, "late") == 0 ? OUTCOME_LATE :
		strcmp(text, "duplicate") == 0 ? OUTCOME_DUPLICATE : OUTCOME_UNKNOWN;
}

/* Tells the saga how commands ended; it says of each whether that still counted. */
static void
record(StoreJob *job)
{
	int			count = job->nanswers;
	int			lower = 1;
	Datum	   *devices = palloc(sizeof(Datum) * count);
	Datum	   *command_ids = palloc(sizeof(Datum) * count);
	Datum	   *oks = palloc(sizeof(Datum) * count);
	bool	   *ok_nulls = palloc(sizeof(bool) * count);
	Datum	   *errors = palloc(sizeof(Datum) * count);
	bool	   *error_nulls = palloc(sizeof(bool) * count);
	Datum		values[4];

	for (int i = 0; i < count; i++)
	{
		Answer	   *answer = &job->answers[i];

		devices[i] = CStringGetTextDatum(answer->device);
		command_ids[i] = UUIDPGetDatum(&answer->command_id);
		oks[i] = BoolGetDatum(answer->ok);
		/* that we give up is not the device's answer */
		ok_nulls[i] = answer->message < 0 && !answer->ok;
		error_nulls[i] = answer->error == NULL;
		errors[i] = answer->error == NULL ? (Datum) 0 : CStringGetTextDatum(answer->error);
	}
	values[0] = PointerGetDatum(construct_array(devices, count, TEXTOID, -1, false,
												TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(command_ids, count, UUIDOID, UUID_LEN, false,
												TYPALIGN_CHAR));
	values[2] = PointerGetDatum(construct_md_array(oks, ok_nulls, 1, &count, &lower,
												   BOOLOID, 1, true, TYPALIGN_CHAR));
	values[3] = PointerGetDatum(construct_md_array(errors, error_nulls, 1, &count, &lower,
												   TEXTOID, -1, false, TYPALIGN_INT));
	if (iot_plan_execute(&record_answers, values, NULL) != count)
		elog(ERROR, "not every answer has an outcome");
	for (int i = 0; i < count; i++)
		job->answers[i].outcome =
			parse_outcome(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
}

static void
store_body(void *arg)
{
	StoreJob   *job = arg;
	IotIngestResult result = {0};
	int			most;

	if (job->count > 0)
		iot_ingest_batch(job->config->name, job->adapter_id, &job->config->strangers,
						 job->messages, job->count, &result);
	job->counters = result.counters;
	job->nanswers = 0;
	most = result.nacks + job->nends + result.nvalues;
	if (most == 0)
		return;
	job->answers = MemoryContextAllocHuge(job->context, sizeof(Answer) * most);
	for (int i = 0; i < result.nacks; i++)
	{
		IotIngestAck *ack = &result.acks[i];

		add_answer(job, ack->device, &ack->command_id, ack->ok, ack->error, ack->message);
	}
	for (int i = 0; i < result.nvalues; i++)
	{
		IotCommand *command = iot_command_echoed(&result.values[i]);

		if (command != NULL)
			add_answer(job, command->device, &command->command_id, true, NULL, -1);
	}
	for (int i = 0; i < job->nends; i++)
	{
		const IotCommandEnd *end = &job->ends[i];

		if (end->command != NULL)
			add_answer(job, end->command->device, &end->command->command_id, end->ok,
					   end->error, -1);
	}
	if (job->nanswers == 0)
		return;
	record(job);
	for (int i = 0; i < job->nanswers; i++)
	{
		Answer	   *answer = &job->answers[i];

		if (answer->outcome == OUTCOME_UNKNOWN && answer->message >= 0)
			store_dead_letter(job->config, &job->messages[answer->message], answer->device,
							  IOT_REASON_UNKNOWN_COMMAND, "the device has no such command");
	}
}

static void
letter_body(void *arg)
{
	LetterJob  *job = arg;

	store_dead_letter(job->config, job->message, NULL, IOT_REASON_REFUSED_BY_DATABASE, job->error);
}

/* One line per command that ended; an error text is the device's own and is kept short. */
static void
log_answer(const Answer *answer)
{
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out,
														 UUIDPGetDatum(&answer->command_id)));

	if (answer->outcome == OUTCOME_LATE)
		ereport(LOG,
				(errmsg("command %s was answered late by device \"%s\"", id, answer->device)));
	else if (answer->ok)
		ereport(LOG,
				(errmsg("command %s completed by device \"%s\"", id, answer->device)));
	else
		ereport(LOG,
				(errmsg("command %s failed at device \"%s\": %.*s", id, answer->device,
						answer->error == NULL ? 0 :
						pg_mbcliplen(answer->error, strlen(answer->error), ERROR_LOG_SIZE),
						answer->error == NULL ? "" : answer->error)));
}

/* What is committed becomes true in memory. */
static void
apply(const StoreJob *job)
{
	iot_worker_slot_count(IOT_COUNT_MESSAGES, job->count);
	iot_worker_slot_count(IOT_COUNT_RECEIVED, job->counters.received);
	iot_worker_slot_count(IOT_COUNT_STORED, job->counters.stored);
	iot_worker_slot_count(IOT_COUNT_DUPLICATE, job->counters.duplicate);
	iot_worker_slot_count(IOT_COUNT_CONFLICT, job->counters.conflict);
	iot_worker_slot_count(IOT_COUNT_REJECTED, job->counters.rejected);
	for (int reason = 0; reason < IOT_REASONS; reason++)
	{
		/* a conflict has a counter of its own */
		if (reason != IOT_REASON_CONFLICT)
			iot_worker_slot_count(IOT_COUNT_REASON + reason, job->counters.reasons[reason]);
	}
	for (int i = 0; i < job->nanswers; i++)
	{
		const Answer *answer = &job->answers[i];
		IotCommand *command;

		if (answer->outcome == OUTCOME_APPLIED)
			iot_worker_slot_count(answer->ok ? IOT_COUNT_COMPLETED : IOT_COUNT_FAILED, 1);
		if (answer->outcome == OUTCOME_LATE)
			iot_worker_slot_count(IOT_COUNT_LATE, 1);
		if (iot_log_commands && answer->outcome != OUTCOME_DUPLICATE &&
			answer->outcome != OUTCOME_UNKNOWN)
			log_answer(answer);
		/* who answers another device's command changes nothing about it */
		if (answer->outcome == OUTCOME_UNKNOWN && answer->message >= 0)
			continue;
		command = iot_command_find(&answer->command_id);
		if (command != NULL)
			iot_command_finish(command);
	}
	iot_command_forget_ends(job->nends);
}

static IotStoreOutcome
store_range(StoreJob *job, int first, int count, bool with_ends, const IotIngestMessage *messages)
{
	IotXactError error = {0};
	IotXactOutcome outcome;
	LetterJob	letter;
	int			half = count / 2;

	job->messages = messages + first;
	job->count = count;
	job->nends = with_ends ? iot_command_ends(&job->ends) : 0;
	for (int retry = 0;; retry++)
	{
		iot_worker_check_interrupts();
		outcome = iot_try_xact("store messages", 0, store_body, job, &error);
		if (outcome != IOT_XACT_FAILED || retry >= RETRIES ||
			(ERRCODE_TO_CATEGORY(error.sqlerrcode) != ERRCODE_TRANSACTION_ROLLBACK &&
			 error.sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE))
			break;
	}
	if (outcome == IOT_XACT_DONE)
	{
		apply(job);
		job->announced = job->announced || job->counters.announcements > 0;
		return IOT_STORE_DONE;
	}
	if (outcome != IOT_XACT_REFUSED)
		return IOT_STORE_GIVE_BACK;
	if (job->nends > 0)
		return count == 0 ? IOT_STORE_GIVE_BACK :
			store_range(job, first, count, false, messages);
	if (count > 1)
	{
		if (store_range(job, first, half, false, messages) == IOT_STORE_GIVE_BACK)
			return IOT_STORE_GIVE_BACK;
		return store_range(job, first + half, count - half, false, messages);
	}
	letter.config = job->config;
	letter.message = messages + first;
	letter.error = error.message;
	if (iot_try_xact("store dead letter", 0, letter_body, &letter, NULL) != IOT_XACT_DONE)
		return IOT_STORE_GIVE_BACK;
	iot_worker_slot_count(IOT_COUNT_MESSAGES, 1);
	iot_worker_slot_count(IOT_COUNT_RECEIVED, 1);
	iot_worker_slot_count(IOT_COUNT_REJECTED, 1);
	iot_worker_slot_count(IOT_COUNT_REASON + IOT_REASON_REFUSED_BY_DATABASE, 1);
	return IOT_STORE_DONE;
}

/*
 * Commits the messages and the ends of commands that wait to be recorded.  Where part of a batch
 * is committed and the rest is given back, the broker delivers all of it again, and what was
 * stored is found to be a duplicate.  *announced: devices were among the senders that announced themselves.
 */
IotStoreOutcome
iot_store(const IotMqttConfig *config, const pg_uuid_t *adapter_id,
		  const IotIngestMessage *messages, int count, bool *announced)
{
	IotStoreOutcome outcome;
	StoreJob	job = {
		.config = config,
		.adapter_id = adapter_id,
		.context = CurrentMemoryContext
	};

	outcome = store_range(&job, 0, count, true, messages);
	*announced = job.announced;
	return outcome;
}
