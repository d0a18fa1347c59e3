/*
 * notification.c
 *		What notification rules are made of: event patterns and message templates, and how times are
 *		written; for SQL.
 *
 * Runs in any backend; results are in the caller's memory context.  The parsing itself is in
 * src/core, where it is tested alone.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "core/glob.h"
#include "core/template.h"

PG_FUNCTION_INFO_V1(iot_event_matches);
PG_FUNCTION_INFO_V1(iot_event_pattern_valid);
PG_FUNCTION_INFO_V1(iot_template_names);
PG_FUNCTION_INFO_V1(iot_template_render_sql);
PG_FUNCTION_INFO_V1(iot_utc_text);

/* iot_internal.event_matches(pattern text, event text) returns boolean; STRICT IMMUTABLE. */
Datum
iot_event_matches(PG_FUNCTION_ARGS)
{
	text	   *pattern = PG_GETARG_TEXT_PP(0);
	text	   *event = PG_GETARG_TEXT_PP(1);

	PG_RETURN_BOOL(iot_glob_match(VARDATA_ANY(pattern), VARSIZE_ANY_EXHDR(pattern),
								  VARDATA_ANY(event), VARSIZE_ANY_EXHDR(event)));
}

/* iot_internal.event_pattern_valid(pattern text) returns boolean; STRICT IMMUTABLE. */
Datum
iot_event_pattern_valid(PG_FUNCTION_ARGS)
{
	text	   *pattern = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(iot_glob_valid(VARDATA_ANY(pattern), VARSIZE_ANY_EXHDR(pattern)));
}

/* iot_internal.template_names(template text) returns text[]; STRICT IMMUTABLE.  In their order. */
Datum
iot_template_names(PG_FUNCTION_ARGS)
{
	text	   *template = PG_GETARG_TEXT_PP(0);
	size_t		offset = 0;
	const char *name;
	size_t		name_len;
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext, false);

	while (iot_template_next(VARDATA_ANY(template), VARSIZE_ANY_EXHDR(template), &offset,
							 &name, &name_len))
	{
		text	   *element = cstring_to_text_with_len(name, (int) name_len);

		names = accumArrayResult(names, PointerGetDatum(element), false, TEXTOID,
								 CurrentMemoryContext);
	}
	PG_RETURN_DATUM(makeArrayResult(names, CurrentMemoryContext));
}

/*
 * A value as people write it: no quotes around strings.  What is missing or null is NULL, that
 * is, leaves no trace: most events have only some of the keys.
 */
static const char *
lookup_value(void *arg, const char *name, size_t name_len, size_t *len)
{
	Jsonb	   *values = (Jsonb *) arg;
	JsonbValue *value = getKeyJsonValueFromContainer(&values->root, name, (int) name_len, NULL);
	const char *result;

	if (value == NULL)
		return NULL;
	switch (value->type)
	{
		case jbvString:
			*len = value->val.string.len;
			return value->val.string.val;
		case jbvNumeric:
			result = DatumGetCString(DirectFunctionCall1(numeric_out,
														 NumericGetDatum(value->val.numeric)));
			break;
		case jbvBool:
			result = value->val.boolean ? "true" : "false";
			break;
		case jbvBinary:
			result = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
			break;
		default:
			return NULL;
	}
	*len = strlen(result);
	return result;
}

/*
 * iot_internal.render_template(template text, vals jsonb) returns text; STRICT IMMUTABLE.  Each
 * {name} becomes the value of that key.
 */
Datum
iot_template_render_sql(PG_FUNCTION_ARGS)
{
	text	   *template = PG_GETARG_TEXT_PP(0);
	Jsonb	   *values = PG_GETARG_JSONB_P(1);
	size_t		size;
	text	   *result;

	if (!JB_ROOT_IS_OBJECT(values))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("values of a template must be a JSON object")));
	size = iot_template_render(VARDATA_ANY(template), VARSIZE_ANY_EXHDR(template),
							   IOT_TEMPLATE_TEXT, lookup_value, values, NULL, 0);
	/* one byte more, for the end that the renderer writes; the text does not count it */
	if (size > MaxAllocSize - VARHDRSZ - 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("rendered template is too large")));
	result = (text *) palloc(VARHDRSZ + size + 1);
	(void) iot_template_render(VARDATA_ANY(template), VARSIZE_ANY_EXHDR(template),
							   IOT_TEMPLATE_TEXT, lookup_value, values, VARDATA(result), size + 1);
	SET_VARSIZE(result, VARHDRSZ + size);
	PG_RETURN_TEXT_P(result);
}

/*
 * iot_internal.utc_text(at timestamptz) returns text; STRICT IMMUTABLE.  A time as machines read it, with
 * milliseconds; NULL for what is none.
 */
Datum
iot_utc_text(PG_FUNCTION_ARGS)
{
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(0);
	struct pg_tm tm;
	fsec_t		fsec;

	if (TIMESTAMP_NOT_FINITE(at) || timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year,
											  tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min,
											  tm.tm_sec, (int) (fsec / 1000))));
}
