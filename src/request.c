/*
 * request.c
 *		What a request over REST says besides its arguments.
 *
 * PostgREST sets request.headers for each request, with names in lower case.  They count in sessions
 * of an authenticator only, like the claims.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "access.h"
#include "event.h"
#include "request.h"

/*
 * The request's own id, from the header X-Request-Id; false where it has none.  Raises where it is no
 * uuid: ignoring it would make a second command of a repeated request.
 */
bool
iot_request_id(pg_uuid_t *request_id)
{
	const char *headers = GetConfigOption("request.headers", true, false);
	Jsonb	   *object;
	JsonbValue *header;

	if (headers == NULL || headers[0] == '\0' || !iot_is_authenticator())
		return false;
	object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(headers)));
	if (!JB_ROOT_IS_OBJECT(object))
		return false;
	header = getKeyJsonValueFromContainer(&object->root, "x-request-id", strlen("x-request-id"),
										  NULL);
	if (header == NULL || header->type != jbvString)
		return false;
	if (!iot_uuid_parse(header->val.string.val, header->val.string.len, request_id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid X-Request-Id \"%.*s\"", Min(header->val.string.len, 64),
						header->val.string.val),
				 errhint("It names the request so that it can be repeated, and must be a uuid.")));
	return true;
}
