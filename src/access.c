/*
 * access.c
 *		Who is asking: the user behind a call, for every permission check and every "who".
 *
 * A session of one of iot.authenticators speaks for the user in "sub" of request.jwt.claims, where
 * that user is known and enabled and the token has not been revoked; any other session is its role,
 * whatever that setting holds, so that nobody names himself.  Both look past SECURITY DEFINER to
 * the role that called.
 *
 * The claims are judged once a statement: what is revoked meanwhile counts from the next.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "access.h"
#include "iot.h"
#include "plan.h"

PG_FUNCTION_INFO_V1(iot_current_username_sql);
PG_FUNCTION_INFO_V1(iot_is_admin_sql);
PG_FUNCTION_INFO_V1(iot_reads_files_sql);
PG_FUNCTION_INFO_V1(iot_is_authenticator_sql);
PG_FUNCTION_INFO_V1(iot_check_request);

/* What the claims came to; claims NULL: not judged yet. */
static char *judged_claims = NULL;
static TimestampTz judged_at = 0;	/* the begin of the statement that asked */
static char *judged_username = NULL;	/* NULL: nobody */
static bool forget_registered = false;

/* Whether names in this session are claims. */
bool
iot_is_authenticator(void)
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

/* A claim of this type, or NULL. */
static JsonbValue *
find_claim(Jsonb *claims, const char *name, enum jbvType type)
{
	JsonbValue *claim = getKeyJsonValueFromContainer(&claims->root, name, strlen(name), NULL);

	return claim != NULL && claim->type == type ? claim : NULL;
}

/*
 * Whether the user is known and enabled, and the token not revoked.  Asks as the owner of the tables,
 * since callers need not be able to read them; the statement names no operator and no type that a
 * caller's search_path could give another meaning.
 */
static bool
token_counts(const char *username, JsonbValue *issued_at, JsonbValue *token_id)
{
	static IotPlan ask = {
		"SELECT iot_internal.token_counts($1, $2, $3)", 3, {TEXTOID, NUMERICOID, TEXTOID}
	};
	Datum		values[3];
	char		nulls[] = "   ";
	Oid			user;
	int			context;
	bool		isnull = true;
	bool		counts = false;

	values[0] = CStringGetTextDatum(username);
	if (issued_at != NULL)
		values[1] = NumericGetDatum(issued_at->val.numeric);
	else
		nulls[1] = 'n';
	if (token_id != NULL)
		values[2] = PointerGetDatum(cstring_to_text_with_len(token_id->val.string.val,
															 token_id->val.string.len));
	else
		nulls[2] = 'n';
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(get_role_oid("iot_owner", false),
						   context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	/* read-only: also where a query is under way, on its snapshot */
	if (SPI_execute_plan(iot_plan_get(&ask), values, nulls, true, 1) == SPI_OK_SELECT &&
		SPI_processed == 1)
		counts = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											&isnull));
	SPI_finish();
	SetUserIdAndSecContext(user, context);
	return !isnull && counts;
}

/*
 * The user that these claims speak for, in the current memory context, or NULL; raises an error
 * where they are not JSON.
 */
static char *
judge_claims(const char *text)
{
	Jsonb	   *claims = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	JsonbValue *sub;
	char	   *username;

	if (!JB_ROOT_IS_OBJECT(claims))
		return NULL;
	sub = find_claim(claims, "sub", jbvString);
	if (sub == NULL || sub->val.string.len == 0)
		return NULL;
	username = pnstrdup(sub->val.string.val, sub->val.string.len);
	return token_counts(username, find_claim(claims, "iat", jbvNumeric),
						find_claim(claims, "jti", jbvString)) ? username : NULL;
}

/* What is remembered lies in the transaction's memory and ends with it. */
static void
forget_claims(XactEvent event, void *arg)
{
	judged_claims = NULL;
	judged_username = NULL;
}

/* The claims' user, in the current memory context, or NULL. */
static char *
claimed_username(void)
{
	const char *claims = GetConfigOption("request.jwt.claims", true, false);

	if (claims == NULL || claims[0] == '\0')
		return NULL;
	if (judged_claims == NULL || judged_at != GetCurrentStatementStartTimestamp() ||
		strcmp(judged_claims, claims) != 0)
	{
		char	   *username = judge_claims(claims);

		if (!forget_registered)
		{
			RegisterXactCallback(forget_claims, NULL);
			forget_registered = true;
		}
		/* a transaction may have any number of statements */
		if (judged_claims != NULL)
			pfree(judged_claims);
		if (judged_username != NULL)
			pfree(judged_username);
		judged_claims = judged_username = NULL;
		judged_at = GetCurrentStatementStartTimestamp();
		judged_username = username ? MemoryContextStrdup(TopTransactionContext, username) : NULL;
		judged_claims = MemoryContextStrdup(TopTransactionContext, claims);
	}
	return judged_username ? pstrdup(judged_username) : NULL;
}

/* The acting user, in the current memory context; NULL where an authenticator's claims name none. */
char *
iot_current_username(void)
{
	if (iot_is_authenticator())
		return claimed_username();
	return GetUserNameFromId(GetOuterUserId(), false);
}

/*
 * Whether the calling role is a superuser or a member of iot_admin.  A token that no longer counts
 * gives nobody the powers of the role that it names.
 */
bool
iot_is_admin(void)
{
	Oid			caller = GetOuterUserId();
	Oid			admin = get_role_oid("iot_admin", true);

	return (superuser_arg(caller) ||
			(OidIsValid(admin) && has_privs_of_role(caller, admin))) &&
		(!iot_is_authenticator() || claimed_username() != NULL);
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
	PG_RETURN_BOOL(iot_is_authenticator());
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

/*
 * iot.check_request() returns void; VOLATILE.  What PostgREST calls before each request: refuses
 * tokens that no longer count before anything is read with the role that they name.
 */
Datum
iot_check_request(PG_FUNCTION_ARGS)
{
	if (!iot_is_authenticator())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("role \"%s\" speaks for itself, not for users",
						GetUserNameFromId(GetSessionUserId(), false)),
				 errhint("Add it to \"iot.authenticators\" where its claims are to count.")));
	if (claimed_username() == NULL &&
		strcmp(GetUserNameFromId(GetOuterUserId(), false), "iot_anon") != 0)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE('P', 'T', '4', '0', '1')),
				 errmsg("the token does not count"),
				 errdetail("Its user is unknown or disabled, or the token was revoked."),
				 errhint("Log in again: iot.login().")));
	PG_RETURN_VOID();
}
