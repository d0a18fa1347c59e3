/*
 * access.c
 *		Who is asking: the user behind a call, for every permission check and every "who".
 *
 * A session of one of iot.authenticators speaks for the user in "sub" of request.jwt.claims; any
 * other session is its role, whatever that setting holds, so that nobody names himself.  Both
 * look past SECURITY DEFINER to the role that called.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/varlena.h"

#include "access.h"
#include "iot.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_current_username_sql);
PG_FUNCTION_INFO_V1(iot_is_admin_sql);
PG_FUNCTION_INFO_V1(iot_reads_files_sql);
PG_FUNCTION_INFO_V1(iot_is_authenticator_sql);

static bool
session_is_authenticator(void)
{
	char	   *names;
	List	   *list = NIL;
	ListCell   *lc;
	char	   *session_user;

	if (iot_authenticators == NULL || iot_authenticators[0] == '\0')
		return false;
	names = pstrdup(iot_authenticators);
	if (!SplitIdentifierString(names, ',', &list))
		return false;
	session_user = GetUserNameFromId(GetSessionUserId(), false);
	foreach(lc, list)
	{
		if (strcmp((char *) lfirst(lc), session_user) == 0)
			return true;
	}
	return false;
}

/* Name in "sub" of the claims, or NULL; raises an error where the claims are not JSON. */
static char *
claimed_username(void)
{
	const char *claims = GetConfigOption("request.jwt.claims", true, false);
	Jsonb	   *object;
	JsonbValue	buffer;
	JsonbValue *sub;

	if (claims == NULL || claims[0] == '\0')
		return NULL;
	object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(claims)));
	if (!JB_ROOT_IS_OBJECT(object))
		return NULL;
	sub = getKeyJsonValueFromContainer(&object->root, "sub", 3, &buffer);
	if (sub == NULL || sub->type != jbvString || sub->val.string.len == 0)
		return NULL;
	return pnstrdup(sub->val.string.val, sub->val.string.len);
}

/* The acting user, in the current memory context; NULL where an authenticator names none. */
char *
iot_current_username(void)
{
	if (session_is_authenticator())
		return claimed_username();
	return GetUserNameFromId(GetOuterUserId(), false);
}

/* Whether the calling role is a superuser or a member of iot_admin. */
bool
iot_is_admin(void)
{
	Oid			caller = GetOuterUserId();
	Oid			admin = get_role_oid("iot_admin", true);

	return superuser_arg(caller) ||
		(OidIsValid(admin) && has_privs_of_role(caller, admin));
}

/*
 * Raises where the acting user may not operate the device, whose name is for the message.  Returns
 * that user, in the current memory context.  Needs SPI.
 */
char *
iot_require_operate(const pg_uuid_t *device_id, const char *device)
{
	static IotPlan may_operate = {
		"SELECT iot.may($1, $2, 'operate')", 2, {TEXTOID, UUIDOID}
	};
	char	   *username = iot_current_username();
	Datum		values[2];
	bool		isnull = true;
	bool		allowed = false;

	if (username != NULL)
	{
		if (iot_is_admin())
			return username;
		values[0] = CStringGetTextDatum(username);
		values[1] = UUIDPGetDatum(device_id);
		if (iot_plan_execute(&may_operate, values, NULL) == 1)
			allowed = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
												 &isnull));
	}
	if (isnull || !allowed)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for device \"%s\"", device),
				 username
				 ? errdetail("User \"%s\" lacks level \"operate\" on the device's group.", username)
				 : errdetail("The session names no user."),
				 errhint("Levels are granted in iot.access_grant, from user group to device group.")));
	return username;
}

/* iot_internal.current_username() returns text; STABLE PARALLEL RESTRICTED. */
Datum
iot_current_username_sql(PG_FUNCTION_ARGS)
{
	char	   *username = iot_current_username();

	if (username == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(username));
}

/* iot_internal.is_admin() returns boolean; STABLE PARALLEL RESTRICTED. */
Datum
iot_is_admin_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(iot_is_admin());
}

/*
 * iot_internal.is_authenticator() returns boolean; STABLE PARALLEL RESTRICTED.  Whether names in
 * this session are claims, which may be spelt like a role's.
 */
Datum
iot_is_authenticator_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(session_is_authenticator());
}

/*
 * iot_internal.reads_files() returns boolean; STABLE PARALLEL RESTRICTED.  Whether the calling role
 * may read any file of the server, which is what naming one to a worker amounts to.
 */
Datum
iot_reads_files_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(has_privs_of_role(GetOuterUserId(), ROLE_PG_READ_SERVER_FILES));
}
