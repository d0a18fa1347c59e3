/*
 * delivery.c
 *		From rows of iot.delivery to webhooks and back: taking, sending, recording.
 *
 * Runs in the notifier.  Take in one transaction, send in none, record in another: a receiver that
 * hangs holds no snapshot and no lock.  An attempt whose outcome could not be recorded is kept and
 * recorded later; one that dies with the process is made again by its successor, so that receivers
 * get a notification at least once and can tell repeats by its Idempotency-Key.
 *
 * A receiver that does not answer at all is held: one attempt at a time finds out whether it is
 * back, instead of one per waiting notification.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "bgworker/delivery.h"
#include "bgworker/webhook.h"
#include "bgworker/worker.h"
#include "core/backoff.h"
#include "plan.h"

#define LOOK_INTERVAL_MS	250
#define RECORD_RETRY_MS		1000
#define HOLD_BASE_MS		1000
#define HOLD_CAP_MS			30000
#define RECEIVERS_MAX		64

/* What is remembered of a receiver that fails; others have no entry. */
typedef struct Receiver
{
	char		name[IOT_WEBHOOK_NAME_SIZE];
	IotBackoff	backoff;
	TimestampTz held_until;		/* 0: not held */
	TimestampTz used_at;
} Receiver;

/* A row of webhook_take(), in the caller's memory context. */
typedef struct Taken
{
	IotWebhookRequest request;
	char	   *problem;
} Taken;

typedef struct TakeArgs
{
	MemoryContext context;
	int			free;
	Taken	   *rows;
	int			count;
} TakeArgs;

static Receiver receivers[RECEIVERS_MAX];
static int	receiver_count = 0;

/* Outcomes that are not recorded yet.  With those under way never more than IOT_WEBHOOK_MAX. */
static IotWebhookResult outcomes[IOT_WEBHOOK_MAX];
static int	outcome_count = 0;
static TimestampTz record_after = 0;
static TimestampTz looked_at = 0;

static IotPlan recover = {"SELECT iot_internal.webhook_recover()", 0, {0}};
static IotPlan take = {
	"SELECT t.seq, t.webhook, t.url, t.timeout_ms, t.ca_file, t.secret, t.problem, t.event_id,"
	" t.body FROM iot_internal.webhook_take($1, $2, $3, $4) t",
	4, {TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID}
};
static IotPlan record = {
	"SELECT r.seq, r.webhook, r.status, r.attempts"
	" FROM iot_internal.webhook_result($1, $2, $3, $4) r",
	4, {INT8ARRAYOID, TEXTARRAYOID, BOOLARRAYOID, TEXTARRAYOID}
};

static Receiver *
find_receiver(const char *name)
{
	for (int i = 0; i < receiver_count; i++)
	{
		if (strcmp(receivers[i].name, name) == 0)
			return &receivers[i];
	}
	return NULL;
}

/* The entry of a receiver that fails; the one that was quiet for longest makes room. */
static Receiver *
add_receiver(const char *name)
{
	Receiver   *receiver = &receivers[0];

	if (receiver_count < RECEIVERS_MAX)
		receiver = &receivers[receiver_count++];
	else
	{
		for (int i = 1; i < receiver_count; i++)
		{
			if (receivers[i].used_at < receiver->used_at)
				receiver = &receivers[i];
		}
	}
	memset(receiver, 0, sizeof(*receiver));
	strlcpy(receiver->name, name, sizeof(receiver->name));
	iot_backoff_init(&receiver->backoff, HOLD_BASE_MS, HOLD_CAP_MS,
					 (uint64) GetCurrentTimestamp());
	return receiver;
}

/* Learns from an outcome whether its receiver works; one line of log per change. */
static void
note_outcome(const IotWebhookResult *result)
{
	Receiver   *receiver = find_receiver(result->webhook);
	TimestampTz now = GetCurrentTimestamp();

	if (result->ok)
	{
		if (receiver != NULL)
		{
			ereport(LOG, (errmsg("webhook \"%s\" works again", result->webhook)));
			*receiver = receivers[--receiver_count];
		}
		return;
	}
	if (receiver == NULL)
	{
		receiver = add_receiver(result->webhook);
		ereport(LOG, (errmsg("webhook \"%s\" fails: %s", result->webhook, result->error)));
	}
	receiver->used_at = now;
	if (!result->unreachable)
	{
		/* it answered: what it refuses may be this notification alone */
		iot_backoff_reset(&receiver->backoff);
		receiver->held_until = 0;
	}
	else if (now >= receiver->held_until)
	{
		/* of several that were under way together, the first counts */
		receiver->held_until = TimestampTzPlusMilliseconds(now,
														   iot_backoff_next(&receiver->backoff));
	}
}

static void
keep_outcome(const IotWebhookResult *result)
{
	Assert(outcome_count < IOT_WEBHOOK_MAX);
	outcomes[outcome_count++] = *result;
	note_outcome(result);
}

static Datum
text_array(const char **values, int count)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		elements[i] = CStringGetTextDatum(values[i]);
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
recover_body(void *arg)
{
	bool		isnull;
	int			recovered;

	iot_plan_execute(&recover, NULL, NULL);
	recovered = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											&isnull));
	if (recovered > 0)
		ereport(LOG, (errmsg("%d webhook deliveries were interrupted and are due again",
							 recovered)));
}

/* Starts the client, and makes due what a predecessor left under way. */
void
iot_delivery_start(void)
{
	static bool recovered = false;

	if (recovered)
		return;
	iot_webhook_init();
	recovered = iot_try_xact("recover webhook deliveries", 0, recover_body, NULL,
							 NULL) == IOT_XACT_DONE;
}

static void
record_body(void *arg)
{
	Datum		seqs[IOT_WEBHOOK_MAX];
	Datum		oks[IOT_WEBHOOK_MAX];
	const char *names[IOT_WEBHOOK_MAX];
	const char *errors[IOT_WEBHOOK_MAX];
	Datum		values[4];
	uint64		rows;

	for (int i = 0; i < outcome_count; i++)
	{
		seqs[i] = Int64GetDatum(outcomes[i].seq);
		oks[i] = BoolGetDatum(outcomes[i].ok);
		names[i] = outcomes[i].webhook;
		errors[i] = outcomes[i].error;
	}
	values[0] = PointerGetDatum(construct_array(seqs, outcome_count, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = text_array(names, outcome_count);
	values[2] = PointerGetDatum(construct_array(oks, outcome_count, BOOLOID, sizeof(bool),
												true, TYPALIGN_CHAR));
	values[3] = text_array(errors, outcome_count);
	rows = iot_plan_execute(&record, values, NULL);
	for (uint64 i = 0; i < rows; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		const char *status = SPI_getvalue(row, desc, 3);

		ereport(strcmp(status, "FAILED") == 0 ? LOG : DEBUG1,
				(errmsg("notification %s for webhook \"%s\" is %s after attempt %s",
						SPI_getvalue(row, desc, 1), SPI_getvalue(row, desc, 2), status,
						SPI_getvalue(row, desc, 4))));
	}
}

static void
record_outcomes(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int			delivered = 0;

	if (outcome_count == 0 || now < record_after)
		return;
	/* what was sent was sent, though the copy was paused meanwhile */
	if (iot_try_xact("record webhook deliveries", IOT_XACT_WHILE_PAUSED, record_body, NULL,
					 NULL) != IOT_XACT_DONE)
	{
		record_after = TimestampTzPlusMilliseconds(now, RECORD_RETRY_MS);
		return;
	}
	record_after = 0;
	for (int i = 0; i < outcome_count; i++)
		delivered += outcomes[i].ok ? 1 : 0;
	iot_worker_slot_count(IOT_COUNT_DELIVERED, delivered);
	iot_worker_slot_count(IOT_COUNT_UNDELIVERED, outcome_count - delivered);
	outcome_count = 0;
}

/* In UTF-8, whatever the database's encoding: it is JSON that leaves. */
static char *
copy_column(TakeArgs *args, HeapTuple row, TupleDesc desc, int column)
{
	char	   *value = SPI_getvalue(row, desc, column);

	if (value == NULL)
		return NULL;
	return MemoryContextStrdup(args->context,
							   pg_server_to_any(value, (int) strlen(value), PG_UTF8));
}

static void
take_body(void *arg)
{
	TakeArgs   *args = arg;
	const char *busy[IOT_WEBHOOK_MAX + RECEIVERS_MAX * IOT_WEBHOOK_MAX_PER_NAME];
	const char *held[RECEIVERS_MAX];
	int			busy_count;
	int			held_count = 0;
	TimestampTz now = GetCurrentTimestamp();
	Datum		values[4];
	uint64		rows;

	busy_count = iot_webhook_under_way(busy);
	for (int i = 0; i < receiver_count; i++)
	{
		if (now < receivers[i].held_until)
			held[held_count++] = receivers[i].name;
		else if (receivers[i].backoff.attempt > 0)
		{
			/* all places but one are taken */
			for (int k = 1; k < IOT_WEBHOOK_MAX_PER_NAME; k++)
				busy[busy_count++] = receivers[i].name;
		}
	}
	values[0] = text_array(busy, busy_count);
	values[1] = text_array(held, held_count);
	values[2] = Int32GetDatum(args->free);
	values[3] = Int32GetDatum(IOT_WEBHOOK_MAX_PER_NAME);
	rows = iot_plan_execute(&take, values, NULL);
	args->rows = MemoryContextAllocZero(args->context, sizeof(Taken) * Max(rows, 1));
	for (uint64 i = 0; i < rows; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Taken	   *taken = &args->rows[i];
		bool		isnull;

		taken->request.seq = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		taken->request.webhook = copy_column(args, row, desc, 2);
		taken->request.url = copy_column(args, row, desc, 3);
		taken->request.timeout_ms = DatumGetInt32(SPI_getbinval(row, desc, 4, &isnull));
		taken->request.ca_file = copy_column(args, row, desc, 5);
		taken->request.secret = copy_column(args, row, desc, 6);
		taken->problem = copy_column(args, row, desc, 7);
		taken->request.event_id = copy_column(args, row, desc, 8);
		taken->request.body = copy_column(args, row, desc, 9);
	}
	args->count = (int) rows;
}

static void
start_due(void)
{
	TakeArgs	args = {.context = CurrentMemoryContext};

	args.free = IOT_WEBHOOK_MAX - iot_webhook_under_way(NULL) - outcome_count;
	if (args.free <= 0 ||
		iot_try_xact("take webhook deliveries", 0, take_body, &args, NULL) != IOT_XACT_DONE)
		return;
	for (int i = 0; i < args.count; i++)
	{
		Taken	   *taken = &args.rows[i];
		IotWebhookResult failed = {.seq = taken->request.seq};

		if (taken->problem == NULL && iot_webhook_start(&taken->request))
			continue;
		strlcpy(failed.webhook, taken->request.webhook, sizeof(failed.webhook));
		strlcpy(failed.error,
				taken->problem != NULL ? taken->problem : "the request could not be started",
				sizeof(failed.error));
		keep_outcome(&failed);
	}
}

/*
 * One turn: carries on what is under way, records what ended, and starts what is due, now and then
 * or when asked to.  Outside transactions; memory is the caller's context's.
 */
void
iot_delivery_turn(bool look_now)
{
	IotWebhookResult results[IOT_WEBHOOK_MAX];
	int			ended = iot_webhook_turn(results);
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < ended; i++)
		keep_outcome(&results[i]);
	record_outcomes();
	if (look_now || ended > 0 || TimestampDifferenceExceeds(looked_at, now, LOOK_INTERVAL_MS))
	{
		looked_at = now;
		start_due();
		/* a request that could not start is an outcome as well */
		record_outcomes();
		/* libcurl asks to be called once for each that did */
		ended = iot_webhook_turn(results);
		for (int i = 0; i < ended; i++)
			keep_outcome(&results[i]);
	}
}

/* Longest time until iot_delivery_turn() wants to be called; -1: no limit of its own. */
long
iot_delivery_timeout_ms(void)
{
	return outcome_count > 0 && record_after == 0 ? 0 : iot_webhook_timeout_ms();
}
