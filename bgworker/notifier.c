/*
 * notifier.c
 *		One process per database: turns events into notifications, has them delivered, and keeps
 *		the clock for the rest of the platform.
 *
 * Started by the launcher, which starts it again wherever it ends.  Memory of a turn is in the
 * cycle context.  Each duty has transactions of its own, so that one that fails is logged and
 * delays no other; the order within a turn is what a user waits for first.
 *
 * Cursor and notifications share a transaction.  The hint to the push daemons goes out in another,
 * after it, with nothing else in it: a NOTIFY makes its commit wait for every other one's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "bgworker/delivery.h"
#include "bgworker/supervisor.h"
#include "bgworker/transfer.h"
#include "bgworker/worker.h"
#include "iot.h"
#include "login.h"
#include "plan.h"

#define WINDOW_MAX			200		/* events of a transaction */
#define WINDOW_SLOW_MS		400		/* a transaction that takes longer has too many of them */
#define WINDOW_FAST_MS		100
#define NOTIFY_TURN_MS		300		/* then the other duties get their turn */
#define SWEEP_INTERVAL_MS	400		/* deadlines and push deliveries */
#define EXPIRE_MAX			1000	/* commands of a sweep */
#define ROLL_OUT_MAX		200		/* commands of batches, in a transaction */
#define SILENCE_MAX			1000	/* devices of a sweep */
#define ALARM_SWEEP_MAX		1000	/* alarm states of a sweep */
#define ORPHANS_INTERVAL_MS	10000	/* alarms that were opened beside a change of their rule */
#define ESCALATE_MAX		100		/* steps and reminders, in a transaction */
#define PUSH_DUE_MAX		100		/* push deliveries: each is a write for nobody who listens */
#define RETRY_MS			1000	/* after a duty failed */
#define EPOCH_INTERVAL_MS	1000
#define CLOCK_MAX			1000	/* rows of each kind, in a transaction */
#define MAINTAIN_LOOK_MS	5000
#define TRIM_INTERVAL_MS	5000	/* dead letters */
#define TRIM_MAX			5000	/* of them in a transaction */
#define ROLLUP_INTERVAL_MS	10000
#define PACE_MS				5		/* pause between turns where commits come thick */
#define BUSY_MS				20		/* woken again within this time: they may */
#define EMPTY_TURNS			3		/* so many for nothing: they do, and are not for us */

typedef struct Window
{
	IotPlan    *plan;
	int			max;
	int			events;
	int			notifications;
	int			pushes;
	int			transfers;
} Window;

typedef struct Notifier
{
	MemoryContext cycle_cxt;
	int			window;			/* events to read at a time: less after one that was refused */
	int64		notify_after;	/* of the worker's clock, like the others */
	bool		backlog;		/* the log was not read to its end */
	bool		hint;			/* push daemons are to be told */
	bool		transfers;		/* new deliveries to webhooks or by e-mail were written */
	int64		swept_at;
	bool		sweep_again;
	int64		orphans_at;
	int64		epoch_at;
	bool		clock_set;		/* or may have been while no notifier ran */
	int64		clock_set_by;	/* ms */
	int64		clock_after;
	int64		maintain_looked_at;
	bool		maintaining;
	int64		trimmed_at;
	bool		trim_again;
	int64		rolled_up_at;
	bool		rolling_up;		/* more is pending */
	int			found;			/* events of the last turn */
	int			empty_turns;	/* that followed at once on each other and found none */
} Notifier;

static IotPlan notify = {
	"SELECT n.events, n.notifications, n.pushes, n.transfers"
	" FROM iot_internal.notify_events($1) n",
	1, {INT4OID}
};
static IotPlan escalate = {
	"SELECT n.events, n.notifications, n.pushes, n.transfers"
	" FROM iot_internal.escalate(clock_timestamp(), $1) n",
	1, {INT4OID}
};
static IotPlan skip = {"SELECT iot_internal.notify_skip($1)", 1, {TEXTOID}};
static IotPlan push_due = {"SELECT iot_internal.push_due($1)", 1, {INT4OID}};
static IotPlan alarm_sweep = {"SELECT iot_internal.alarm_sweep($1)", 1, {INT4OID}};
static IotPlan close_orphaned = {"SELECT iot_internal.close_orphaned_alarms()", 0, {0}};
static IotPlan expire = {"SELECT iot_internal.expire_commands($1)", 1, {INT4OID}};
static IotPlan record_failed_logins = {"SELECT iot_internal.record_login_failures()", 0, {0}};
static IotPlan list_expired = {
	"SELECT e.aggregateid, e.payload ->> 'device' FROM iot.event e"
	" WHERE e.xid = pg_current_xact_id() AND e.type = 'adapter.value_set_error'",
	0, {0}
};
static IotPlan clock_was_set = {
	"SELECT iot_internal.clock_was_set($1 * interval '1 ms', $2)", 2, {INT8OID, INT4OID}
};
static IotPlan check_epoch = {"SELECT iot_internal.check_epoch()", 0, {0}};
static IotPlan maintain_due = {
	"SELECT coalesce(bool_and(m.last_run_at < clock_timestamp() - interval '1 hour'"
	" OR m.last_run_at IS NULL), false) FROM iot.maintenance m",
	0, {0}
};
static IotPlan maintain_step = {"SELECT iot_internal.maintain_step()", 0, {0}};
static IotPlan rollup_step = {"SELECT iot_internal.rollup_step()", 0, {0}};

static IotPlan roll_out = {"SELECT iot_internal.roll_out($1)", 1, {INT4OID}};
static IotPlan sweep_silence = {"SELECT iot_internal.sweep_silence($1)", 1, {INT4OID}};
static IotPlan trim_dead_letters = {
	"SELECT iot_internal.trim_dead_letters($1)", 1, {INT4OID}
};

/* A statement that answers with one value, and that value. */
typedef struct Question
{
	IotPlan    *plan;
	Datum		argument;
	Datum		answer;
	bool		isnull;
} Question;

static void
ask_body(void *arg)
{
	Question   *question = arg;

	iot_plan_execute(question->plan, &question->argument, NULL);
	if (SPI_processed != 1)
		elog(ERROR, "statement gave no answer: %s", question->plan->sql);
	question->answer = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
									 &question->isnull);
}

typedef struct ClockSet
{
	int64		set_by;			/* ms; 0: not known to have been set */
	bool		more;			/* than fit into one transaction */
} ClockSet;

static void
clock_body(void *arg)
{
	ClockSet   *job = arg;
	Datum		values[] = {Int64GetDatum(job->set_by), Int32GetDatum(CLOCK_MAX)};
	bool		isnull;

	iot_plan_execute(&clock_was_set, values, NULL);
	job->more = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
										   &isnull));
}

/* For answers that are passed by value; false where there was none. */
static bool
ask(const char *activity, int flags, IotPlan *plan, Datum argument, Datum *answer)
{
	Question	question = {.plan = plan, .argument = argument};

	if (iot_try_xact(activity, flags, ask_body, &question, NULL) != IOT_XACT_DONE ||
		question.isnull)
		return false;
	*answer = question.answer;
	return true;
}

static void
notify_body(void *arg)
{
	Window	   *window = arg;
	int		   *fields[] = {
		&window->events, &window->notifications, &window->pushes, &window->transfers
	};
	Datum		max = Int32GetDatum(window->max);

	iot_plan_execute(window->plan, &max, NULL);
	for (int i = 0; i < lengthof(fields); i++)
	{
		bool		isnull;

		*fields[i] = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
												 i + 1, &isnull));
	}
}

/* What was written is to be delivered. */
static void
take_written(Notifier *notifier, const Window *window)
{
	iot_worker_slot_count(IOT_COUNT_NOTIFICATIONS, window->notifications);
	notifier->hint |= window->pushes > 0;
	notifier->transfers |= window->transfers > 0;
}

static void
skip_body(void *arg)
{
	Datum		error = CStringGetTextDatum((char *) arg);
	bool		isnull;
	int64		id;

	iot_plan_execute(&skip, &error, NULL);
	id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	if (!isnull)
		ereport(LOG,
				(errmsg("event %lld could not be notified of and went to the dead letters: %s",
						(long long) id, (char *) arg)));
}

/*
 * Reads the log, a window after the other.  A window that is refused is halved until the guilty
 * event stands alone, and that one is passed over; then windows grow again.  So is one that takes
 * long, as where each event has thousands of recipients: its snapshot must not grow old.
 */
static void
notify_of_events(Notifier *notifier)
{
	int64		turn_began = iot_worker_clock_ms();

	notifier->backlog = false;
	notifier->found = 0;
	if (turn_began < notifier->notify_after)
		return;
	do
	{
		Window		window = {.plan = &notify, .max = notifier->window};
		IotXactError error;
		int64		began = iot_worker_clock_ms();
		IotXactOutcome outcome = iot_try_xact("notify of events", 0, notify_body, &window, &error);
		int64		took = iot_worker_clock_ms() - began;

		if (outcome == IOT_XACT_REFUSED && notifier->window > 1)
		{
			notifier->window /= 2;
			notifier->backlog = true;
			continue;
		}
		if (outcome == IOT_XACT_REFUSED)
			outcome = iot_try_xact("pass over an event", 0, skip_body, error.message, NULL);
		else if (outcome == IOT_XACT_DONE)
		{
			notifier->found += window.events;
			iot_worker_slot_count(IOT_COUNT_EVENTS, window.events);
			take_written(notifier, &window);
			notifier->backlog = window.events == window.max;
			if (took > WINDOW_SLOW_MS)
				notifier->window = Max(notifier->window / 2, 1);
			else if (took < WINDOW_FAST_MS)
				notifier->window = Min(notifier->window * 2, WINDOW_MAX);
			if (!notifier->backlog)
				return;
			iot_worker_check_interrupts();
			continue;
		}
		if (outcome != IOT_XACT_DONE)
		{
			/* nothing that another try at once would mend */
			notifier->backlog = false;
			notifier->notify_after = iot_worker_clock_ms() + RETRY_MS;
			return;
		}
		notifier->backlog = true;
	} while (!iot_worker_passed(turn_began, NOTIFY_TURN_MS));
}

static void
hint_body(void *arg)
{
	Async_Notify("iot_push", NULL);
}

/* Tells the push daemons to look. */
static void
send_hint(Notifier *notifier)
{
	if (notifier->hint &&
		iot_try_xact("hint at notifications", IOT_XACT_NO_TABLES, hint_body, NULL, NULL) == IOT_XACT_DONE)
		notifier->hint = false;
}

typedef struct Expired
{
	MemoryContext context;
	int			count;
	int			listed;
	char	  **commands;		/* what the log is to say of each */
} Expired;

static void
expire_body(void *arg)
{
	Expired    *expired = arg;
	Datum		max = Int32GetDatum(EXPIRE_MAX);
	bool		isnull;

	iot_plan_execute(&expire, &max, NULL);
	expired->count = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
												 &isnull));
	if (expired->count == 0)
		return;
	expired->listed = (int) iot_plan_execute(&list_expired, NULL, NULL);
	expired->commands = MemoryContextAlloc(expired->context,
										   sizeof(char *) * Max(expired->listed, 1));
	for (int i = 0; i < expired->listed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *text = psprintf("command %s failed at device \"%s\": its deadline has passed",
									SPI_getvalue(row, desc, 1), SPI_getvalue(row, desc, 2));

		expired->commands[i] = MemoryContextStrdup(expired->context, text);
	}
}

/*
 * What falls due by time alone: commands at their deadline, the next ones of batches, devices that
 * say nothing, alarms, whom to tell of alarms that nobody acknowledges, push deliveries nobody took.
 */
static void
sweep(Notifier *notifier)
{
	Expired		expired = {.context = notifier->cycle_cxt};
	Window		due = {.plan = &escalate, .max = ESCALATE_MAX};
	Datum		answer;

	if (!notifier->sweep_again &&
		!iot_worker_passed(notifier->swept_at, Min(SWEEP_INTERVAL_MS, iot_poll_interval)))
		return;
	notifier->swept_at = iot_worker_clock_ms();
	notifier->sweep_again = false;
	if (iot_try_xact("expire commands", 0, expire_body, &expired, NULL) == IOT_XACT_DONE)
	{
		iot_worker_slot_count(IOT_COUNT_EXPIRED, expired.count);
		notifier->sweep_again = expired.count >= EXPIRE_MAX;
		for (int i = 0; i < expired.listed; i++)
			ereport(LOG, (errmsg_internal("%s", expired.commands[i])));
	}
	if (ask("roll out commands", 0, &roll_out, Int32GetDatum(ROLL_OUT_MAX), &answer))
		notifier->sweep_again |= DatumGetInt32(answer) >= ROLL_OUT_MAX;
	if (ask("look for silent devices", 0, &sweep_silence, Int32GetDatum(SILENCE_MAX), &answer))
		notifier->sweep_again |= DatumGetInt32(answer) != 0;
	if (ask("judge alarms in silence", 0, &alarm_sweep, Int32GetDatum(ALARM_SWEEP_MAX), &answer))
		notifier->sweep_again |= DatumGetInt32(answer) >= ALARM_SWEEP_MAX;
	if (iot_worker_passed(notifier->orphans_at, ORPHANS_INTERVAL_MS))
	{
		notifier->orphans_at = iot_worker_clock_ms();
		(void) ask("close alarms without a rule", 0, &close_orphaned, (Datum) 0, &answer);
	}
	/* they could write nothing themselves; told of in memory, so that mostly nothing is asked */
	if (iot_login_failures_waiting())
		(void) ask("record failed logins", 0, &record_failed_logins, (Datum) 0, &answer);
	if (iot_try_xact("remind and escalate", 0, notify_body, &due, NULL) == IOT_XACT_DONE)
	{
		take_written(notifier, &due);
		notifier->sweep_again |= due.events >= ESCALATE_MAX;
	}
	if (ask("look for waiting push deliveries", 0, &push_due, Int32GetDatum(PUSH_DUE_MAX), &answer))
		notifier->hint |= DatumGetInt32(answer) > 0;
}

/* Has the tables told where they are a copy, or where this server was promoted. */
static void
look_at_epoch(Notifier *notifier)
{
	Datum		answer;

	if (!iot_worker_passed(notifier->epoch_at, EPOCH_INTERVAL_MS))
		return;
	notifier->epoch_at = iot_worker_clock_ms();
	(void) ask("check the epoch", IOT_XACT_WHILE_PAUSED, &check_epoch, (Datum) 0, &answer);
}

/*
 * Puts rows right that were written by a clock which has been set since, before anything is judged by
 * them; once at the start, too, since nobody may have been there to see it.
 */
static void
follow_clock(Notifier *notifier)
{
	int64		set_by = iot_worker_clock_set_by();
	ClockSet	job = {0};

	if (set_by != 0)
		ereport(LOG,
				(errmsg("the system's clock was set %s by %lld s", set_by < 0 ? "back" : "forward",
						(long long) (set_by < 0 ? -set_by : set_by) / 1000)));
	notifier->clock_set |= set_by != 0;
	notifier->clock_set_by += set_by;
	if (!notifier->clock_set || iot_worker_clock_ms() < notifier->clock_after)
		return;
	job.set_by = notifier->clock_set_by;
	if (iot_try_xact("follow the clock", 0, clock_body, &job, NULL) != IOT_XACT_DONE)
		notifier->clock_after = iot_worker_clock_ms() + RETRY_MS;
	else if (!job.more)
	{
		notifier->clock_set = false;
		notifier->clock_set_by = 0;
	}
}

/* A step of maintenance a turn, where nobody else has seen to it for an hour. */
static void
maintain(Notifier *notifier)
{
	Datum		answer;

	if (!notifier->maintaining)
	{
		if (!iot_worker_passed(notifier->maintain_looked_at, MAINTAIN_LOOK_MS))
			return;
		notifier->maintain_looked_at = iot_worker_clock_ms();
		if (!ask("look for maintenance", IOT_XACT_WHILE_PAUSED, &maintain_due, (Datum) 0,
				 &answer) || !DatumGetBool(answer))
			return;
		ereport(LOG, (errmsg("iot notifier maintains the tables: the last run is over an hour old")));
	}
	notifier->maintaining = ask("maintain", IOT_XACT_WHILE_PAUSED, &maintain_step, (Datum) 0,
								&answer) && DatumGetBool(answer);
}

/* Strangers can write dead letters faster than maintenance comes by. */
static void
trim(Notifier *notifier)
{
	Datum		answer;

	if (!notifier->trim_again && !iot_worker_passed(notifier->trimmed_at, TRIM_INTERVAL_MS))
		return;
	notifier->trimmed_at = iot_worker_clock_ms();
	notifier->trim_again = ask("delete dead letters beyond their number", 0, &trim_dead_letters,
							   Int32GetDatum(TRIM_MAX), &answer) && DatumGetBool(answer);
}

/* Measurements by the minute and the hour, a step a turn; readers do not depend on it. */
static void
roll_up(Notifier *notifier)
{
	Datum		answer;

	if (!notifier->rolling_up &&
		!iot_worker_passed(notifier->rolled_up_at, ROLLUP_INTERVAL_MS))
		return;
	notifier->rolled_up_at = iot_worker_clock_ms();
	notifier->rolling_up = ask("roll up measurements", IOT_XACT_WHILE_PAUSED, &rollup_step,
							   (Datum) 0, &answer) && DatumGetBool(answer);
}

static void
show_state(void)
{
	const char *reason = iot_worker_idle_reason();

	if (reason == NULL)
		iot_worker_state("running", NULL);
	iot_worker_heartbeat();
}

static long
next_wakeup_ms(const Notifier *notifier)
{
	long		timeout = iot_poll_interval;
	long		transfers = iot_delivery_timeout_ms();

	if (notifier->backlog || notifier->sweep_again || notifier->maintaining ||
		notifier->trim_again || notifier->rolling_up ||
		(notifier->clock_set && iot_worker_passed(notifier->clock_after, 0)))
		return 0;
	return transfers >= 0 ? Min(timeout, transfers) : timeout;
}

/*
 * Sleeps until there may be something to do.  Where commits come thick, turns are spaced, so that
 * each finds more and costs the committers less.  One command at a time never pays for that: its
 * turns find one event, or none now and then.
 */
static void
rest(Notifier *notifier)
{
	int64		began = iot_worker_clock_ms();
	uint32		woken = iot_worker_wait(WL_SOCKET_READABLE, iot_transfer_socket(),
										next_wakeup_ms(notifier));

	notifier->empty_turns = notifier->found == 0 ? notifier->empty_turns + 1 : 0;
	if (!(woken & WL_LATCH_SET) ||
		iot_worker_passed(began, BUSY_MS))
		notifier->empty_turns = 0;
	else if (!notifier->backlog &&
			 (notifier->found > 1 || notifier->empty_turns > EMPTY_TURNS))
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, PACE_MS, PG_WAIT_EXTENSION);
}

void
iot_notifier_main(Datum arg)
{
	Notifier	notifier = {.window = WINDOW_MAX, .clock_set = true};
	IotWorkerKey key = {.kind = IOT_WORKER_NOTIFIER, .database = DatumGetObjectId(arg)};

	iot_worker_start(&key, "notifier");
	notifier.cycle_cxt = AllocSetContextCreate(TopMemoryContext, "iot notifier cycle",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(notifier.cycle_cxt);
	for (;;)
	{
		Assert(CurrentMemoryContext == notifier.cycle_cxt && !IsTransactionState());
		iot_worker_check_interrupts();

		look_at_epoch(&notifier);
		follow_clock(&notifier);
		notify_of_events(&notifier);
		send_hint(&notifier);
		iot_delivery_start();
		iot_delivery_turn(notifier.transfers);
		notifier.transfers = false;
		sweep(&notifier);
		send_hint(&notifier);
		supervisor_tick();
		maintain(&notifier);
		trim(&notifier);
		roll_up(&notifier);
		show_state();
		MemoryContextReset(notifier.cycle_cxt);

		rest(&notifier);
	}
}
