/*
 * delivery.c
 *		From rows of iot.delivery to webhooks and mail servers and back: taking, sending, recording.
 *
 * Runs in the notifier.  Take in one transaction, send in none, record in another: a receiver that
 * hangs holds no snapshot and no lock.  An attempt whose outcome could not be recorded is kept and
 * recorded later; one that dies with the process is made again by its successor, so that receivers
 * get a notification at least once and can tell repeats by its Idempotency-Key or Message-ID.
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
#include "bgworker/email.h"
#include "bgworker/transfer.h"
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
	IotChannel	channel;
	char		name[IOT_RECEIVER_NAME_SIZE];
	IotBackoff	backoff;
	int64		held_until;		/* of the worker's clock, like the next; 0: not held */
	int64		used_at;
} Receiver;

/* A row of webhook_take() or email_take(), in the caller's memory context. */
typedef struct Taken
{
	IotChannel	channel;
	IotWebhookRequest webhook;
	IotEmail	email;
	char	   *problem;
} Taken;

typedef struct TakeArgs
{
	MemoryContext context;
	int			free[2];		/* per channel */
	Taken	   *rows;
	int			count;
} TakeArgs;

static const char *const channel_names[] = {"webhook", "email"};
static const char *const receiver_kinds[] = {"webhook", "mail server"};
static const int channel_max[] = {IOT_WEBHOOK_MAX, IOT_EMAIL_MAX};

static Receiver receivers[RECEIVERS_MAX];
static int	receiver_count = 0;

/* Outcomes that are not recorded yet.  With those under way never more than IOT_TRANSFER_MAX. */
static IotTransferResult outcomes[IOT_TRANSFER_MAX];
static int	outcome_count = 0;
static int64 record_after = 0;	/* of the worker's clock, like the next */
static int64 looked_at = 0;

static IotPlan recover = {"SELECT iot_internal.delivery_recover()", 0, {0}};
static IotPlan take_webhooks = {
	"SELECT t.seq, t.webhook, t.url, t.timeout_ms, t.ca_file, t.secret, t.problem, t.event_id,"
	" t.body FROM iot_internal.webhook_take($1, $2, $3, $4) t",
	4, {TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID}
};
static IotPlan take_emails = {
	"SELECT t.seq, t.recipient, t.server, t.url, t.timeout_ms, t.ca_file, t.starttls, t.username,"
	" t.password, t.problem, t.sender, t.address, t.message"
	" FROM iot_internal.email_take($1, $2, $3, $4) t",
	4, {TEXTARRAYOID, TEXTARRAYOID, INT4OID, INT4OID}
};
static IotPlan record = {
	"SELECT r.seq, r.channel, r.recipient, r.status, r.attempts"
	" FROM iot_internal.delivery_result($1, $2, $3, $4, $5, $6) r",
	6, {INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, BOOLARRAYOID, BOOLARRAYOID, TEXTARRAYOID}
};

static Receiver *
find_receiver(IotChannel channel, const char *name)
{
	for (int i = 0; i < receiver_count; i++)
	{
		if (receivers[i].channel == channel && strcmp(receivers[i].name, name) == 0)
			return &receivers[i];
	}
	return NULL;
}

/* The entry of a receiver that fails; the one that was quiet for longest makes room. */
static Receiver *
add_receiver(IotChannel channel, const char *name)
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
	receiver->channel = channel;
	strlcpy(receiver->name, name, sizeof(receiver->name));
	iot_backoff_init(&receiver->backoff, HOLD_BASE_MS, HOLD_CAP_MS,
					 (uint64) GetCurrentTimestamp());
	return receiver;
}

/* Learns from an outcome whether its receiver works; one line of log per change. */
static void
note_outcome(const IotTransferResult *result)
{
	Receiver   *receiver = find_receiver(result->channel, result->receiver);
	int64		now = iot_worker_clock_ms();

	if (result->ok)
	{
		if (receiver != NULL)
		{
			ereport(LOG, (errmsg("%s \"%s\" works again", receiver_kinds[result->channel],
								 result->receiver)));
			*receiver = receivers[--receiver_count];
		}
		return;
	}
	if (receiver == NULL)
	{
		receiver = add_receiver(result->channel, result->receiver);
		ereport(LOG, (errmsg("%s \"%s\" fails: %s", receiver_kinds[result->channel],
							 result->receiver, result->error)));
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
		receiver->held_until = now + iot_backoff_next(&receiver->backoff);
	}
}

static void
keep_outcome(const IotTransferResult *result)
{
	Assert(outcome_count < IOT_TRANSFER_MAX);
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
		ereport(LOG, (errmsg("%d deliveries were interrupted and are due again",
							 recovered)));
}

/* Starts the client, and makes due what a predecessor left under way. */
void
iot_delivery_start(void)
{
	static bool recovered = false;

	if (recovered)
		return;
	iot_transfer_init();
	recovered = iot_try_xact("recover deliveries", 0, recover_body, NULL,
							 NULL) == IOT_XACT_DONE;
}

static Datum
bool_array(Datum *elements, int count)
{
	return PointerGetDatum(construct_array(elements, count, BOOLOID, sizeof(bool), true,
										   TYPALIGN_CHAR));
}

static void
record_body(void *arg)
{
	Datum		seqs[IOT_TRANSFER_MAX];
	Datum		oks[IOT_TRANSFER_MAX];
	Datum		finals[IOT_TRANSFER_MAX];
	const char *channels[IOT_TRANSFER_MAX];
	const char *recipients[IOT_TRANSFER_MAX];
	const char *errors[IOT_TRANSFER_MAX];
	Datum		values[6];
	uint64		rows;

	for (int i = 0; i < outcome_count; i++)
	{
		seqs[i] = Int64GetDatum(outcomes[i].seq);
		oks[i] = BoolGetDatum(outcomes[i].ok);
		finals[i] = BoolGetDatum(outcomes[i].final);
		channels[i] = channel_names[outcomes[i].channel];
		recipients[i] = pg_any_to_server(outcomes[i].recipient, strlen(outcomes[i].recipient),
										 PG_UTF8);
		errors[i] = outcomes[i].error;
	}
	values[0] = PointerGetDatum(construct_array(seqs, outcome_count, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = text_array(channels, outcome_count);
	values[2] = text_array(recipients, outcome_count);
	values[3] = bool_array(oks, outcome_count);
	values[4] = bool_array(finals, outcome_count);
	values[5] = text_array(errors, outcome_count);
	rows = iot_plan_execute(&record, values, NULL);
	for (uint64 i = 0; i < rows; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		const char *status = SPI_getvalue(row, desc, 4);

		ereport(strcmp(status, "FAILED") == 0 ? LOG : DEBUG1,
				(errmsg("notification %s for %s \"%s\" is %s after attempt %s",
						SPI_getvalue(row, desc, 1), SPI_getvalue(row, desc, 2),
						SPI_getvalue(row, desc, 3), status, SPI_getvalue(row, desc, 5))));
	}
}

static void
record_outcomes(void)
{
	int64		now = iot_worker_clock_ms();
	int			delivered = 0;

	if (outcome_count == 0 || now < record_after)
		return;
	/* what was sent was sent, though the copy was paused meanwhile */
	if (iot_try_xact("record deliveries", IOT_XACT_WHILE_PAUSED, record_body, NULL,
					 NULL) != IOT_XACT_DONE)
	{
		record_after = now + RECORD_RETRY_MS;
		return;
	}
	record_after = 0;
	for (int i = 0; i < outcome_count; i++)
		delivered += outcomes[i].ok ? 1 : 0;
	iot_worker_slot_count(IOT_COUNT_DELIVERED, delivered);
	iot_worker_slot_count(IOT_COUNT_UNDELIVERED, outcome_count - delivered);
	outcome_count = 0;
}

/* In UTF-8, whatever the database's encoding, since it leaves; with nothing that the row lacks. */
static char *
copy_column(TakeArgs *args, HeapTuple row, TupleDesc desc, int column)
{
	char	   *value = SPI_getvalue(row, desc, column);

	if (value == NULL)
		return NULL;
	return MemoryContextStrdup(args->context,
							   pg_server_to_any(value, (int) strlen(value), PG_UTF8));
}

static int32
int_column(HeapTuple row, TupleDesc desc, int column)
{
	bool		isnull;

	return DatumGetInt32(SPI_getbinval(row, desc, column, &isnull));
}

/* A row of either function, whose first column is seq. */
static void
take_row(TakeArgs *args, IotChannel channel, HeapTuple row, TupleDesc desc)
{
	Taken	   *taken = &args->rows[args->count++];
	bool		isnull;
	int64		seq = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));

	taken->channel = channel;
	if (channel == IOT_CHANNEL_WEBHOOK)
	{
		taken->webhook.seq = seq;
		taken->webhook.webhook = copy_column(args, row, desc, 2);
		taken->webhook.url = copy_column(args, row, desc, 3);
		taken->webhook.timeout_ms = int_column(row, desc, 4);
		taken->webhook.ca_file = copy_column(args, row, desc, 5);
		taken->webhook.secret = copy_column(args, row, desc, 6);
		taken->problem = copy_column(args, row, desc, 7);
		taken->webhook.event_id = copy_column(args, row, desc, 8);
		taken->webhook.body = copy_column(args, row, desc, 9);
		return;
	}
	taken->email.seq = seq;
	taken->email.recipient = copy_column(args, row, desc, 2);
	taken->email.server = copy_column(args, row, desc, 3);
	taken->email.url = copy_column(args, row, desc, 4);
	taken->email.timeout_ms = int_column(row, desc, 5);
	taken->email.ca_file = copy_column(args, row, desc, 6);
	taken->email.starttls = DatumGetBool(SPI_getbinval(row, desc, 7, &isnull));
	taken->email.username = copy_column(args, row, desc, 8);
	taken->email.password = copy_column(args, row, desc, 9);
	taken->problem = copy_column(args, row, desc, 10);
	taken->email.sender = copy_column(args, row, desc, 11);
	taken->email.address = copy_column(args, row, desc, 12);
	taken->email.message = copy_column(args, row, desc, 13);
}

/*
 * Takes what is due on one channel.  Receivers that are held are left alone, and of one that was
 * and may be back, all places but one are called busy.
 */
static void
take_channel(TakeArgs *args, IotChannel channel)
{
	const char *busy[IOT_TRANSFER_MAX + RECEIVERS_MAX * IOT_TRANSFER_MAX_PER_RECEIVER];
	const char *held[RECEIVERS_MAX];
	int			busy_count = iot_transfer_under_way(channel, busy);
	int			held_count = 0;
	int64		now = iot_worker_clock_ms();
	Datum		values[4];
	uint64		rows;

	if (args->free[channel] <= 0)
		return;
	for (int i = 0; i < receiver_count; i++)
	{
		if (receivers[i].channel != channel)
			continue;
		if (now < receivers[i].held_until)
			held[held_count++] = receivers[i].name;
		else if (receivers[i].backoff.attempt > 0)
		{
			for (int k = 1; k < IOT_TRANSFER_MAX_PER_RECEIVER; k++)
				busy[busy_count++] = receivers[i].name;
		}
	}
	values[0] = text_array(busy, busy_count);
	values[1] = text_array(held, held_count);
	values[2] = Int32GetDatum(args->free[channel]);
	values[3] = Int32GetDatum(IOT_TRANSFER_MAX_PER_RECEIVER);
	rows = iot_plan_execute(channel == IOT_CHANNEL_WEBHOOK ? &take_webhooks : &take_emails, values,
							NULL);
	for (uint64 i = 0; i < rows; i++)
		take_row(args, channel, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
}

static void
take_body(void *arg)
{
	TakeArgs   *args = arg;

	args->rows = MemoryContextAllocZero(args->context, sizeof(Taken) * IOT_TRANSFER_MAX);
	args->count = 0;
	take_channel(args, IOT_CHANNEL_WEBHOOK);
	take_channel(args, IOT_CHANNEL_EMAIL);
}

static bool
start_one(const Taken *taken)
{
	return taken->problem == NULL && (taken->channel == IOT_CHANNEL_WEBHOOK ?
									  iot_webhook_start(&taken->webhook) :
									  iot_email_start(&taken->email));
}

static void
start_due(void)
{
	TakeArgs	args = {.context = CurrentMemoryContext};

	for (int channel = 0; channel < lengthof(args.free); channel++)
	{
		args.free[channel] = channel_max[channel] - iot_transfer_under_way(channel, NULL);
		for (int i = 0; i < outcome_count; i++)
			args.free[channel] -= outcomes[i].channel == channel ? 1 : 0;
	}
	if ((args.free[IOT_CHANNEL_WEBHOOK] <= 0 && args.free[IOT_CHANNEL_EMAIL] <= 0) ||
		iot_try_xact("take deliveries", 0, take_body, &args, NULL) != IOT_XACT_DONE)
		return;
	for (int i = 0; i < args.count; i++)
	{
		Taken	   *taken = &args.rows[i];
		bool		webhook = taken->channel == IOT_CHANNEL_WEBHOOK;
		IotTransferResult failed = {.channel = taken->channel};

		if (start_one(taken))
			continue;
		failed.seq = webhook ? taken->webhook.seq : taken->email.seq;
		strlcpy(failed.receiver, webhook ? taken->webhook.webhook : taken->email.server,
				sizeof(failed.receiver));
		strlcpy(failed.recipient, webhook ? taken->webhook.webhook : taken->email.recipient,
				sizeof(failed.recipient));
		strlcpy(failed.error,
				taken->problem != NULL ? taken->problem : "the transfer could not be started",
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
	IotTransferResult results[IOT_TRANSFER_MAX];
	int			ended = iot_transfer_turn(results);

	for (int i = 0; i < ended; i++)
		keep_outcome(&results[i]);
	record_outcomes();
	if (look_now || ended > 0 || iot_worker_passed(looked_at, LOOK_INTERVAL_MS))
	{
		looked_at = iot_worker_clock_ms();
		start_due();
		/* a transfer that could not start is an outcome as well */
		record_outcomes();
		/* libcurl asks to be called once for each that did */
		ended = iot_transfer_turn(results);
		for (int i = 0; i < ended; i++)
			keep_outcome(&results[i]);
	}
}

/* Longest time until iot_delivery_turn() wants to be called; -1: no limit of its own. */
long
iot_delivery_timeout_ms(void)
{
	return outcome_count > 0 && record_after == 0 ? 0 : iot_transfer_timeout_ms();
}
