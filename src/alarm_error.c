/*
 * alarm_error.c
 *		Rules that fail: whatever goes wrong with one costs no measurement.
 *
 * Runs where alarms are judged.  What a rule evaluates and what is written for it runs in a
 * subtransaction.  Failures in a row are counted in iot.alarm_rule_error, in the transaction that
 * met them; the sweep disables a rule that has too many.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "alarm.h"
#include "plan.h"

static IotPlan add_failures = {
	"INSERT INTO iot.alarm_rule_error AS e"
	" (alarm_rule_id, errors, error, device_id, failed_at)"
	" SELECT $1, $2, $3, $4, now() FROM iot.alarm_rule r WHERE r.alarm_rule_id = $1"
	" ON CONFLICT (alarm_rule_id) DO UPDATE SET"
	" errors = CASE WHEN $5 THEN 0 ELSE e.errors END + excluded.errors,"
	" error = excluded.error, device_id = excluded.device_id, failed_at = excluded.failed_at",
	5, {UUIDOID, INT4OID, TEXTOID, UUIDOID, BOOLOID}
};
static IotPlan forget_failures = {
	"DELETE FROM iot.alarm_rule_error e WHERE e.alarm_rule_id = ANY ($1)",
	1, {UUIDARRAYOID}
};

/* Whether an error says something of what was done, and nothing of the server or the session. */
static bool
may_be_swallowed(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_PLPGSQL_ERROR:
		case ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION:
		case ERRCODE_EXTERNAL_ROUTINE_EXCEPTION:
		case ERRCODE_FEATURE_NOT_SUPPORTED:
			return true;
		default:
			return false;
	}
}

/*
 * Runs something in a subtransaction: NULL where it is done, else why it is not, in the current
 * memory context; errors that are nobody's fault go on to the caller.
 */
ErrorData *
iot_alarm_try(void (*body) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		body(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL && !may_be_swallowed(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/* Notes that a rule has failed, once more. */
void
iot_alarm_failed(IotAlarmBatch *batch, IotAlarmRun *run, const ErrorData *error)
{
	run->failures++;
	run->error = MemoryContextStrdup(batch->cxt, error->message);
	batch->outcomes = true;
}

/* Notes that a rule did what it could have failed at. */
void
iot_alarm_worked(IotAlarmBatch *batch, IotAlarmRun *run)
{
	run->failures = 0;
	run->worked = true;
	batch->outcomes = true;
}

/* How a rule fared in a statement, on all its devices. */
typedef struct Outcome
{
	const IotAlarmRule *rule;
	const IotAlarmRun *failed;	/* the last that did; NULL for none */
	int			failures;
	bool		worked;
} Outcome;

static int
compare_outcomes(const ListCell *a, const ListCell *b)
{
	const Outcome *left = lfirst(a);
	const Outcome *right = lfirst(b);

	return memcmp(&left->rule->alarm_rule_id, &right->rule->alarm_rule_id, UUID_LEN);
}

static void
add_outcome(List **outcomes, const IotAlarmRun *run)
{
	Outcome    *outcome = NULL;
	ListCell   *lc;

	foreach(lc, *outcomes)
	{
		if (((Outcome *) lfirst(lc))->rule == run->rule)
			outcome = lfirst(lc);
	}
	if (outcome == NULL)
	{
		outcome = palloc0(sizeof(Outcome));
		outcome->rule = run->rule;
		*outcomes = lappend(*outcomes, outcome);
	}
	outcome->failures += run->failures;
	outcome->worked |= run->worked;
	if (run->failures > 0)
		outcome->failed = run;
}

static void
store_failures(const Outcome *outcome)
{
	Datum		args[5];

	args[0] = UUIDPGetDatum(&outcome->rule->alarm_rule_id);
	args[1] = Int32GetDatum(outcome->failures);
	args[2] = CStringGetTextDatum(outcome->failed->error);
	args[3] = UUIDPGetDatum(&outcome->failed->device_id);
	args[4] = BoolGetDatum(outcome->worked);
	(void) iot_plan_execute(&add_failures, args, NULL);
}

/* Counts what failed in a row, and forgets it where the rule works again. */
void
iot_alarm_store_errors(IotAlarmBatch *batch)
{
	List	   *outcomes = NIL;
	ListCell   *lc;
	Datum	   *working;
	int			count = 0;

	if (!batch->outcomes)
		return;
	foreach(lc, batch->watches)
	{
		IotAlarmWatch *watch = lfirst(lc);

		for (int i = 0; i < watch->run_count; i++)
		{
			if (watch->runs[i].failures > 0 || watch->runs[i].worked)
				add_outcome(&outcomes, &watch->runs[i]);
		}
	}
	/* in the order in which every writer locks them */
	list_sort(outcomes, compare_outcomes);
	working = palloc(sizeof(Datum) * (list_length(outcomes) + 1));
	foreach(lc, outcomes)
	{
		Outcome    *outcome = lfirst(lc);

		if (outcome->failures > 0)
			store_failures(outcome);
		else
			working[count++] = UUIDPGetDatum(&outcome->rule->alarm_rule_id);
	}
	if (count > 0)
	{
		Datum		arg = PointerGetDatum(construct_array(working, count, UUIDOID, UUID_LEN, false,
														  TYPALIGN_CHAR));

		(void) iot_plan_execute(&forget_failures, &arg, NULL);
	}
}
