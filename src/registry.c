/*
 * registry.c
 *		What the registry's checks need from plain C: the same code that later reads topics and
 *		templates says whether they can be read.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "compat.h"
#include "core/path.h"
#include "core/template.h"
#include "core/topic.h"
#include "iot.h"

PG_FUNCTION_INFO_V1(iot_topic_template_error_sql);
PG_FUNCTION_INFO_V1(iot_topic_filter_error_sql);
PG_FUNCTION_INFO_V1(iot_command_template_unknown_sql);
PG_FUNCTION_INFO_V1(iot_path_error_sql);

/* What a command's payload can say; as adapter_take() fills it in. */
static const char *const command_names[] = {
	"id", "device", "parameter", "action", "value", "version", "word", "json"
};

/* What the template of a column of iot.device_type may have beside {device}, or in its place. */
static int
placeholders_of(text *column, bool may_lack_device)
{
	char	   *name = text_to_cstring(column);
	int			may = IOT_TOPIC_MAY_SPAN | (may_lack_device ? IOT_TOPIC_MAY_LACK_DEVICE : 0);

	if (strcmp(name, "ignored_topics") == 0)
		return IOT_TOPIC_MAY_ALL;
	if (strcmp(name, "telemetry_topic") == 0 || strcmp(name, "more_telemetry_topics") == 0)
		return may | IOT_TOPIC_MAY_PARAMETER | IOT_TOPIC_MAY_ANY_LEVEL;
	if (strcmp(name, "command_topic") == 0)
		return may | IOT_TOPIC_MAY_PARAMETER;
	return may | IOT_TOPIC_MAY_ANY_LEVEL;
}

/*
 * iot_internal.topic_template_error(template text, column_name text, may_lack_device boolean) returns
 * text; STRICT IMMUTABLE PARALLEL SAFE.  NULL where the template is sound, else why it is not.
 */
Datum
iot_topic_template_error_sql(PG_FUNCTION_ARGS)
{
	text	   *template = PG_GETARG_TEXT_PP(0);
	int			may = placeholders_of(PG_GETARG_TEXT_PP(1), PG_GETARG_BOOL(2));
	IotTopicTemplate parsed;
	const char *error;

	if (iot_topic_template_parse(VARDATA_ANY(template), VARSIZE_ANY_EXHDR(template), may, &parsed,
								 &error))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(error));
}

/*
 * iot_internal.topic_filter_error(filter text) returns text; STRICT IMMUTABLE PARALLEL SAFE.  As the
 * one for templates.
 */
Datum
iot_topic_filter_error_sql(PG_FUNCTION_ARGS)
{
	text	   *filter = PG_GETARG_TEXT_PP(0);
	const char *error;

	if (iot_topic_filter_valid(VARDATA_ANY(filter), VARSIZE_ANY_EXHDR(filter), &error))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(error));
}

/*
 * iot_internal.command_template_unknown(template text) returns text; STRICT IMMUTABLE PARALLEL SAFE.
 * The placeholders that no command has a value for, or NULL.
 */
Datum
iot_command_template_unknown_sql(PG_FUNCTION_ARGS)
{
	text	   *template = PG_GETARG_TEXT_PP(0);
	char		names[256];
	size_t		count;

	count = iot_template_unknown(VARDATA_ANY(template), VARSIZE_ANY_EXHDR(template),
								 command_names, lengthof(command_names), names, sizeof(names));
	if (count == 0)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(names));
}

/*
 * iot_internal.path_error(path text) returns text; STRICT IMMUTABLE PARALLEL SAFE.  As the one for
 * templates.
 */
Datum
iot_path_error_sql(PG_FUNCTION_ARGS)
{
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	IotPath		parsed;
	const char *error;

	path = pg_server_to_any(path, strlen(path), PG_UTF8);
	if (iot_path_parse(path, strlen(path), &parsed, &error))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(error));
}
