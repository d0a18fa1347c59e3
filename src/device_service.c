/*
 * device_service.c
 *		Device Service: what a command does to the value of a sensor, and how it is undone.
 *
 * A trigger on the event log, so it runs in the transaction of whoever announced the event: in the
 * sender's for command.value_set, in the adapter's for adapter.value_set_error.  It announces its
 * own outcome in turn.  A refusal is an event and a state, never an exception.
 *
 * It also has those woken who wait for a command: at adapter.value_set_sent, and at its own rollback.
 * What it rejects at once was never there for anybody to wait for.
 *
 * Locks are taken in the order sensor_value, then command.  The row of sensor_value is the
 * sensor's turnstile: whoever holds it may give out versions.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "command_row.h"
#include "command_wake.h"
#include "event.h"
#include "plan.h"
#include "sensor_value.h"

PG_FUNCTION_INFO_V1(iot_device_service);

/*
 * A command with its sensor's state, the sensor locked.  No row where the sensor has no state.  The
 * newest version of that is looked for first, since a foreign snapshot may hold many (see live_row.c):
 * "between" itself and itself, for an order by what is equal to something would be none.
 */
static IotPlan lock_new_command = {
	"SELECT " COMMAND_ROW_COLUMNS ", " SENSOR_STATE_COLUMNS
	" FROM iot.command c" COMMAND_ROW_JOINS
	" CROSS JOIN LATERAL (SELECT " SENSOR_STATE_COLUMNS " FROM iot.sensor_value v"
	" WHERE v.device_id = c.device_id AND v.parameter_id BETWEEN c.parameter_id AND c.parameter_id"
	" ORDER BY v.parameter_id DESC LIMIT 1 FOR UPDATE) v"
	" WHERE c.device_id = $1 AND c.command_id = $2",
	2, {UUIDOID, UUIDOID}
};
static IotPlan insert_sensor_value = {
	"INSERT INTO iot.sensor_value (device_id, parameter_id)"
	" SELECT c.device_id, c.parameter_id FROM iot.command c"
	" WHERE c.device_id = $1 AND c.command_id = $2"
	" ON CONFLICT (device_id, parameter_id) DO NOTHING",
	2, {UUIDOID, UUIDOID}
};
static IotPlan approve_command = {
	"UPDATE iot.command c SET status = 'COMMITTED', target_value = $3, version = $4,"
	" previous_value = $5, previous_value_at = $6, previous_source = $7, previous_version = $8,"
	" previous_desired = $9, previous_desired_version = $10"
	" WHERE c.device_id = $1 AND c.command_id = $2",
	10, {UUIDOID, UUIDOID, FLOAT8OID, INT8OID, FLOAT8OID, TIMESTAMPTZOID, TEXTOID, INT8OID,
	FLOAT8OID, INT8OID}
};
static IotPlan fail_command = {
	"UPDATE iot.command c SET status = 'FAILED', error = $3, previous_value = $4,"
	" finished_at = clock_timestamp()"
	" WHERE c.device_id = $1 AND c.command_id = $2",
	4, {UUIDOID, UUIDOID, TEXTOID, FLOAT8OID}
};
static IotPlan insert_step = {
	"INSERT INTO iot.saga_step (device_id, command_id, service, status, error, created_at,"
	" updated_at) VALUES ($1, $2, 'device', $3, $4, $5, $5)",
	5, {UUIDOID, UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
};

static IotPlan lock_sensor_value = {
	"SELECT " SENSOR_STATE_COLUMNS " FROM iot.sensor_value v"
	" JOIN iot.command c ON c.device_id = v.device_id AND c.parameter_id = v.parameter_id"
	" WHERE c.device_id = $1 AND c.command_id = $2 FOR UPDATE OF v",
	2, {UUIDOID, UUIDOID}
};
static IotPlan lock_command = {
	"SELECT " COMMAND_ROW_COLUMNS " FROM iot.command c" COMMAND_ROW_JOINS
	" WHERE c.device_id = $1 AND c.command_id = $2 FOR NO KEY UPDATE OF c",
	2, {UUIDOID, UUIDOID}
};
static IotPlan restore_sensor_value = {
	"UPDATE iot.sensor_value v SET value = $3, value_at = $4, source = $5, version = $6,"
	" desired = $7, desired_version = $8"
	" WHERE v.device_id = $1 AND v.parameter_id = $2",
	8, {UUIDOID, UUIDOID, FLOAT8OID, TIMESTAMPTZOID, TEXTOID, INT8OID, FLOAT8OID, INT8OID}
};

/*
 * Commands still under way that wrote right over the refused one: what they would put back is a
 * value that never held, so they take over what it would have put back.
 */
static IotPlan inherit_previous = {
	"UPDATE iot.command c SET"
	" previous_value = CASE WHEN c.previous_version = $3 THEN $4 ELSE c.previous_value END,"
	" previous_value_at = CASE WHEN c.previous_version = $3 THEN $5 ELSE c.previous_value_at END,"
	" previous_source = CASE WHEN c.previous_version = $3 THEN $6 ELSE c.previous_source END,"
	" previous_version = CASE WHEN c.previous_version = $3 THEN $7 ELSE c.previous_version END,"
	" previous_desired = CASE WHEN c.previous_desired_version = $3 THEN $8"
	" ELSE c.previous_desired END,"
	" previous_desired_version = CASE WHEN c.previous_desired_version = $3 THEN $9"
	" ELSE c.previous_desired_version END"
	" WHERE c.device_id = $1 AND c.parameter_id = $2 AND c.finished_at IS NULL"
	" AND c.status = 'COMMITTED'"
	" AND c.version > $3 AND (c.previous_version = $3 OR c.previous_desired_version = $3)",
	9, {UUIDOID, UUIDOID, INT8OID, FLOAT8OID, TIMESTAMPTZOID, TEXTOID, INT8OID, FLOAT8OID, INT8OID}
};
static IotPlan cancel_command = {
	"UPDATE iot.command c SET status = 'CANCELLED', error = $3, superseded = $4,"
	" finished_at = clock_timestamp() WHERE c.device_id = $1 AND c.command_id = $2",
	4, {UUIDOID, UUIDOID, TEXTOID, BOOLOID}
};
static IotPlan cancel_step = {
	"UPDATE iot.saga_step t SET status = 'CANCELLED', error = $3, updated_at = clock_timestamp()"
	" WHERE t.device_id = $1 AND t.command_id = $2 AND t.service = 'device'",
	3, {UUIDOID, UUIDOID, TEXTOID}
};

/* Six values of a sensor's state, in the order of SENSOR_STATE_COLUMNS. */
static void
state_values(const SensorState *state, Datum *values, char *nulls)
{
	values[0] = Float8GetDatum(state->value.value);
	nulls[0] = state->value.isnull ? 'n' : ' ';
	values[1] = TimestampTzGetDatum(state->value_at);
	nulls[1] = state->value_at_null ? 'n' : ' ';
	values[2] = state->source ? CStringGetTextDatum(state->source) : (Datum) 0;
	nulls[2] = state->source ? ' ' : 'n';
	values[3] = Int64GetDatum(state->version);
	nulls[3] = ' ';
	values[4] = Float8GetDatum(state->desired.value);
	nulls[4] = state->desired.isnull ? 'n' : ' ';
	values[5] = Int64GetDatum(state->desired_version);
	nulls[5] = ' ';
}

/*
 * The value that the command asks for, or NULL in which case *error says why there is none.
 * Bounds are inclusive; an absent one is open.
 */
static const char *
compute_target(const CommandRow *command, const SensorState *current, double *target)
{
	const char *unit = command->unit ? command->unit : "";
	const char *space = command->unit ? " " : "";

	*target = command->value;
	if (!command->expected.isnull)
	{
		if (current->value.isnull)
			return psprintf("no current value, %s expected",
							iot_number_text(command->expected.value));
		if (current->value.value != command->expected.value)
			return psprintf("current value is %s, not %s as expected",
							iot_number_text(current->value.value),
							iot_number_text(command->expected.value));
	}
	if (strcmp(command->action, "add") == 0)
	{
		if (current->value.isnull)
			return "no current value to add to";
		*target = current->value.value + command->value;
		if (!isfinite(*target))
			return "result is out of range";
	}
	if (!command->value_min.isnull && *target < command->value_min.value)
		return psprintf("value %s is below the minimum %s%s%s", iot_number_text(*target),
						iot_number_text(command->value_min.value), space, unit);
	if (!command->value_max.isnull && *target > command->value_max.value)
		return psprintf("value %s is above the maximum %s%s%s", iot_number_text(*target),
						iot_number_text(command->value_max.value), space, unit);
	return NULL;
}

static void
append_step(const CommandRow *command, const char *status, const char *error)
{
	Datum		values[5];

	values[0] = UUIDPGetDatum(&command->device_id);
	values[1] = UUIDPGetDatum(&command->command_id);
	values[2] = CStringGetTextDatum(status);
	values[3] = error ? CStringGetTextDatum(error) : (Datum) 0;
	values[4] = TimestampTzGetDatum(GetCurrentTimestamp());
	iot_plan_execute(&insert_step, values, error ? NULL : "   n ");
}

static void
announce(const char *type, const CommandRow *command, IotPayload *payload)
{
	char		aggregateid[IOT_UUID_TEXT_SIZE];

	iot_uuid_text(&command->command_id, aggregateid);
	iot_event_append(type, "command", aggregateid, &command->device_id, iot_payload_end(payload));
}

/* PROCESSING to FAILED: final at once, nothing was written to the sensor. */
static void
processing_to_failed(CommandRow *command, const SensorState *current, const char *error)
{
	IotPayload	payload;
	Datum		values[4];

	Assert(strcmp(command->status, "PROCESSING") == 0);
	values[0] = UUIDPGetDatum(&command->device_id);
	values[1] = UUIDPGetDatum(&command->command_id);
	values[2] = CStringGetTextDatum(error);
	values[3] = Float8GetDatum(current->value.value);
	iot_plan_execute(&fail_command, values, current->value.isnull ? "   n" : NULL);
	append_step(command, "FAILED", error);

	command_payload_begin(command, &payload);
	if (!current->value.isnull)
		iot_payload_float8(&payload, "previous_value", current->value.value);
	iot_payload_text(&payload, "error", error);
	announce("dm.value_set_error", command, &payload);
}

/* PROCESSING to COMMITTED: the sensor holds the new value, the command what to put back. */
static void
processing_to_committed(CommandRow *command, const SensorState *current, double target)
{
	IotPayload	payload;
	Datum		values[10];
	char		nulls[10];

	Assert(strcmp(command->status, "PROCESSING") == 0);
	command->version = iot_sensor_value_command(&command->device_id, &command->parameter_id, target,
												GetCurrentTimestamp());
	command->target_value.isnull = false;
	command->target_value.value = target;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = UUIDPGetDatum(&command->device_id);
	values[1] = UUIDPGetDatum(&command->command_id);
	values[2] = Float8GetDatum(target);
	values[3] = Int64GetDatum(command->version);
	state_values(current, values + 4, nulls + 4);
	iot_plan_execute(&approve_command, values, nulls);
	append_step(command, "COMMITTED", NULL);

	command_payload_begin(command, &payload);
	if (!current->value.isnull)
		iot_payload_float8(&payload, "previous_value", current->value.value);
	announce("dm.value_set_approved", command, &payload);
}

/*
 * COMMITTED to CANCELLED: compare-and-set back.  The value is restored only where it is still the
 * one that this command wrote, desired likewise by its own version.
 */
static void
committed_to_cancelled(CommandRow *command, const SensorState *current, const char *error)
{
	bool		owns_value = current != NULL && current->version == command->version;
	bool		owns_desired = current != NULL && current->desired_version == command->version;
	IotPayload	payload;
	Datum		values[9];
	char		nulls[9];

	Assert(strcmp(command->status, "COMMITTED") == 0);
	memset(nulls, ' ', sizeof(nulls));
	values[0] = UUIDPGetDatum(&command->device_id);
	values[1] = UUIDPGetDatum(&command->parameter_id);
	if (owns_value || owns_desired)
	{
		SensorState restored = *current;

		if (owns_value)
		{
			restored.value = command->previous.value;
			restored.value_at_null = command->previous.value_at_null;
			restored.value_at = command->previous.value_at;
			restored.source = command->previous.source;
			restored.version = command->previous.version;
		}
		if (owns_desired)
		{
			restored.desired = command->previous.desired;
			restored.desired_version = command->previous.desired_version;
		}
		state_values(&restored, values + 2, nulls + 2);
		iot_plan_execute(&restore_sensor_value, values, nulls);
	}
	if (!owns_value || !owns_desired)
	{
		values[2] = Int64GetDatum(command->version);
		nulls[2] = ' ';
		state_values(&command->previous, values + 3, nulls + 3);
		iot_plan_execute(&inherit_previous, values, nulls);
	}

	values[1] = UUIDPGetDatum(&command->command_id);
	values[2] = CStringGetTextDatum(error);
	values[3] = BoolGetDatum(!owns_value);
	iot_plan_execute(&cancel_command, values, NULL);
	iot_plan_execute(&cancel_step, values, NULL);

	command_payload_begin(command, &payload);
	if (!command->previous.value.isnull)
		iot_payload_float8(&payload, "previous_value", command->previous.value.value);
	iot_payload_text(&payload, "error", error);
	iot_payload_bool(&payload, "superseded", !owns_value);
	announce("dm.value_set_cancelled", command, &payload);
	iot_command_final(&command->command_id);
}

static void
on_value_set(Datum device_id, const pg_uuid_t *command_id)
{
	Datum		values[2] = {device_id, UUIDPGetDatum(command_id)};
	CommandRow	command;
	SensorState current;
	double		target;
	const char *error;

	if (iot_plan_execute(&lock_new_command, values, NULL) == 0)
	{
		/* The sensor's first value ever; a concurrent first one may be faster. */
		iot_plan_execute(&insert_sensor_value, values, NULL);
		if (iot_plan_execute(&lock_new_command, values, NULL) == 0)
			return;				/* not a command */
	}
	command_row_read(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &command);
	sensor_state_read(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, COMMAND_ROW_NCOLUMNS + 1,
					  &current);
	if (strcmp(command.status, "PROCESSING") != 0)
		return;					/* decided already */

	error = compute_target(&command, &current, &target);
	if (error != NULL)
		processing_to_failed(&command, &current, error);
	else
		processing_to_committed(&command, &current, target);
}

static void
on_adapter_error(Datum device_id, const pg_uuid_t *command_id, Datum payload, bool payload_null)
{
	Datum		values[2] = {device_id, UUIDPGetDatum(command_id)};
	CommandRow	command;
	SensorState state;
	SensorState *current = NULL;
	const char *error = "refused";
	JsonbValue	buffer;
	JsonbValue *value;

	if (iot_plan_execute(&lock_sensor_value, values, NULL) > 0)
	{
		current = &state;
		sensor_state_read(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, current);
	}
	if (iot_plan_execute(&lock_command, values, NULL) == 0)
		return;					/* not a command */
	command_row_read(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &command);
	if (strcmp(command.status, "COMMITTED") != 0)
		return;					/* final is final */

	if (!payload_null && JB_ROOT_IS_OBJECT(DatumGetJsonbP(payload)))
	{
		value = getKeyJsonValueFromContainer(&DatumGetJsonbP(payload)->root, "error", 5, &buffer);
		if (value != NULL && value->type == jbvString)
			error = pnstrdup(value->val.string.val, value->val.string.len);
	}
	committed_to_cancelled(&command, current, error);
}

/* A column of the new row, by name: a partition may keep its columns in another order. */
static Datum
new_column(TriggerData *trigdata, const char *name, bool *isnull)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	int			column = SPI_fnumber(desc, name);

	if (column <= 0)
		elog(ERROR, "column \"%s\" of the event log is missing", name);
	return heap_getattr(trigdata->tg_trigtuple, column, desc, isnull);
}

/*
 * iot_internal.device_service(): AFTER INSERT row trigger on iot.event, for command.value_set,
 * adapter.value_set_sent and adapter.value_set_error.  An event that names no command is nobody's and
 * passes.
 */
Datum
iot_device_service(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Datum		device_id;
	Datum		payload;
	char	   *aggregateid;
	char	   *type;
	pg_uuid_t	command_id;
	bool		isnull;
	bool		payload_null;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) || !TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("Device Service must be called as a row trigger after insert")));
	device_id = new_column(trigdata, "device_id", &isnull);
	if (isnull)
		return PointerGetDatum(NULL);
	type = TextDatumGetCString(new_column(trigdata, "type", &isnull));
	aggregateid = TextDatumGetCString(new_column(trigdata, "aggregateid", &isnull));
	payload = new_column(trigdata, "payload", &payload_null);
	if (!iot_uuid_parse(aggregateid, strlen(aggregateid), &command_id))
		return PointerGetDatum(NULL);
	if (strcmp(type, "adapter.value_set_sent") == 0)
	{
		iot_command_final(&command_id);
		return PointerGetDatum(NULL);
	}

	SPI_connect();
	if (strcmp(type, "command.value_set") == 0)
		on_value_set(device_id, &command_id);
	else if (strcmp(type, "adapter.value_set_error") == 0)
		on_adapter_error(device_id, &command_id, payload, payload_null);
	SPI_finish();
	return PointerGetDatum(NULL);
}
