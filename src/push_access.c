/*
 * push_access.c
 *		Who of the users that are connected may be sent a notification: iot_internal.may_receive() for
 *		many at once.  Tests hold the two equal.
 *
 * Runs between SPI_connect and SPI_finish, until which memory lives, in functions that a push daemon
 * or the notifier calls as the owner of the tables.  All of it reads on the caller's snapshot.
 *
 * One statement asks for all users, by their keys.  The rest is asked only where there is something to
 * ask: of groups as audiences, of notifications that follow others, of those that are held.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "plan.h"
#include "push.h"

PG_FUNCTION_INFO_V1(iot_push_viewers);

static IotPlan find_users = {
	"SELECT a.place, u.enabled AND u.role IS NOT DISTINCT FROM 'iot_admin', u.language,"
	" u.time_zone, CASE WHEN u.enabled THEN ARRAY(SELECT g.device_group_id"
	" FROM iot.user_group_member m JOIN iot.access_grant g ON g.user_group_id = m.user_group_id"
	" WHERE m.app_user_id = u.app_user_id AND g.device_group_id = ANY ($2)) END"
	" FROM unnest($1) WITH ORDINALITY AS a(username, place)"
	IOT_EACH("app_user", "k.username = a.username", "u"),
	2, {TEXTARRAYOID, UUIDARRAYOID}
};
static IotPlan find_devices = {
	"SELECT a.device_id, d.device_group_id FROM (SELECT DISTINCT q.device_id FROM unnest($1) AS q(device_id)) a"
	IOT_EACH("device", "k.device_id = a.device_id", "d"),
	1, {UUIDARRAYOID}
};
static IotPlan in_audience = {
	"SELECT iot_internal.in_audience($1, $2, $3)", 3, {TEXTOID, TEXTOID, TEXTOID}
};
static IotPlan find_earlier = {
	"SELECT e.audience, e.username FROM iot.notification n JOIN iot.notification e"
	" ON e.event_id = n.event_id AND e.channel = 'push' AND e.seq < n.seq WHERE n.seq = $1",
	1, {INT8OID}
};
static IotPlan find_held = {
	"SELECT d.recipient FROM iot.delivery d"
	" WHERE d.seq = $1 AND d.channel = 'push' AND d.not_before > statement_timestamp()",
	1, {INT8OID}
};

/* Superusers and members of iot_admin, whether they are users of ours or not. */
static bool
is_admin_role(const char *name)
{
	Oid			role = get_role_oid(name, true);
	Oid			admin = get_role_oid("iot_admin", true);

	return OidIsValid(role) &&
		(superuser_arg(role) || (OidIsValid(admin) && has_privs_of_role(role, admin)));
}

/* Who these users are, and which of the device groups (uuid[]) they may view. */
void
iot_push_users(ArrayType *usernames, Datum device_groups, IotPushUsers *users)
{
	Datum	   *names;
	bool	   *nulls;
	Datum		values[2] = {PointerGetDatum(usernames), device_groups};

	deconstruct_array(usernames, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &users->count);
	users->users = palloc0(sizeof(IotPushUser) * Max(users->count, 1));
	for (int i = 0; i < users->count; i++)
	{
		IotPushUser *user = &users->users[i];

		user->name = nulls[i] ? pstrdup("") : TextDatumGetCString(names[i]);
		user->is_admin = is_admin_role(user->name);
		user->no_groups = user->no_language = user->no_time_zone = true;
	}
	iot_plan_read(&find_users, values, NULL);
	for (uint64 i = 0; i < SPI_tuptable->numvals; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		int64		place = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		IotPushUser *user = &users->users[place - 1];

		user->is_admin |= DatumGetBool(SPI_getbinval(row, desc, 2, &isnull));
		user->language = SPI_getbinval(row, desc, 3, &user->no_language);
		user->time_zone = SPI_getbinval(row, desc, 4, &user->no_time_zone);
		user->groups = SPI_getbinval(row, desc, 5, &user->no_groups);
	}
}

static bool
may_view(const IotPushUser *user, const pg_uuid_t *device_group)
{
	ArrayType  *groups;
	const pg_uuid_t *ids;
	int			count;

	if (user->is_admin || user->no_groups)
		return user->is_admin;
	groups = DatumGetArrayTypeP(user->groups);
	ids = (const pg_uuid_t *) ARR_DATA_PTR(groups);
	count = ArrayGetNItems(ARR_NDIM(groups), ARR_DIMS(groups));
	for (int i = 0; i < count; i++)
	{
		if (memcmp(&ids[i], device_group, UUID_LEN) == 0)
			return true;
	}
	return false;
}

/* Whether he belongs to the audience, permissions aside. */
static bool
belongs(const IotPushUser *user, const char *audience, const char *author)
{
	Datum		values[3];
	bool		isnull;

	if (strcmp(audience, "viewers") == 0)
		return true;
	if (strcmp(audience, "author") == 0)
		return author != NULL && strcmp(author, user->name) == 0;
	values[0] = CStringGetTextDatum(user->name);
	values[1] = CStringGetTextDatum(audience);
	values[2] = author == NULL ? (Datum) 0 : CStringGetTextDatum(author);
	iot_plan_read(&in_audience, values, author == NULL ? "  n" : NULL);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Leaves out whom the notification is held for. */
static void
leave_out_held(const IotPushUsers *users, IotPushNotice *notice)
{
	Datum		seq = Int64GetDatum(notice->seq);
	int			count = (int) iot_plan_read(&find_held, &seq, NULL);
	char	  **names = palloc(sizeof(char *) * Max(count, 1));
	int			kept = 0;

	for (int i = 0; i < count; i++)
		names[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
	qsort(names, count, sizeof(char *), compare_names);
	for (int i = 0; i < notice->nrecipients; i++)
	{
		char	   *name = users->users[notice->recipients[i] - 1].name;

		if (bsearch(&name, names, count, sizeof(char *), compare_names) == NULL)
			notice->recipients[kept++] = notice->recipients[i];
	}
	notice->nrecipients = kept;
}

/* Leaves out whom an earlier notification tells of the same event. */
static void
leave_out_told(const IotPushUsers *users, IotPushNotice *notice)
{
	Datum		seq = Int64GetDatum(notice->seq);
	uint64		count = iot_plan_read(&find_earlier, &seq, NULL);
	SPITupleTable *earlier = SPI_tuptable;

	for (uint64 i = 0; i < count; i++)
	{
		char	   *audience = SPI_getvalue(earlier->vals[i], earlier->tupdesc, 1);
		char	   *author = SPI_getvalue(earlier->vals[i], earlier->tupdesc, 2);
		int			kept = 0;

		for (int r = 0; r < notice->nrecipients; r++)
		{
			if (!belongs(&users->users[notice->recipients[r] - 1], audience, author))
				notice->recipients[kept++] = notice->recipients[r];
		}
		notice->nrecipients = kept;
	}
}

/* Chooses the notification's recipients among the users. */
void
iot_push_choose(const IotPushUsers *users, IotPushNotice *notice)
{
	notice->recipients = palloc(sizeof(int) * Max(users->count, 1));
	notice->nrecipients = 0;
	if (notice->has_device && notice->device_group == NULL)
		return;					/* what cannot be viewed is told to nobody */
	for (int i = 0; i < users->count; i++)
	{
		const IotPushUser *user = &users->users[i];

		/* events of no device are for administrators */
		if ((notice->has_device ? may_view(user, notice->device_group) : user->is_admin) &&
			belongs(user, notice->audience, notice->author))
			notice->recipients[notice->nrecipients++] = i + 1;
	}
	if (notice->held && notice->nrecipients > 0)
		leave_out_held(users, notice);
	if (notice->told_before && notice->nrecipients > 0)
		leave_out_told(users, notice);
}

/* As an array of SQL. */
Datum
iot_push_ordinals(const int *ordinals, int count)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		values[i] = Int32GetDatum(ordinals[i]);
	return PointerGetDatum(construct_array(values, count, INT4OID, sizeof(int32), true,
										   TYPALIGN_INT));
}

/*
 * iot_internal.push_viewers(device_ids uuid[], usernames text[]) returns (device_id, ordinal,
 * username): who of the users may view which of the devices, by the rule of iot.may().
 */
Datum
iot_push_viewers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		device_ids = PG_GETARG_DATUM(0);
	SPITupleTable *devices;
	Datum	   *groups;
	IotPushUsers users;
	int			count;
	bool		isnull;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	count = (int) iot_plan_read(&find_devices, &device_ids, NULL);
	devices = SPI_tuptable;
	groups = palloc(sizeof(Datum) * Max(count, 1));
	for (int d = 0; d < count; d++)
		groups[d] = SPI_getbinval(devices->vals[d], devices->tupdesc, 2, &isnull);
	iot_push_users(PG_GETARG_ARRAYTYPE_P(1),
				   PointerGetDatum(construct_array(groups, count, UUIDOID, UUID_LEN, false,
												   TYPALIGN_CHAR)), &users);
	for (int d = 0; d < count; d++)
	{
		for (int i = 0; i < users.count; i++)
		{
			Datum		values[3];
			bool		nulls[3] = {false};

			if (!may_view(&users.users[i], DatumGetUUIDP(groups[d])))
				continue;
			values[0] = SPI_getbinval(devices->vals[d], devices->tupdesc, 1, &isnull);
			values[1] = Int32GetDatum(i + 1);
			values[2] = CStringGetTextDatum(users.users[i].name);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	SPI_finish();
	return (Datum) 0;
}
