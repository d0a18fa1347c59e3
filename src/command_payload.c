/*
 * command_payload.c
 *		What goes to the device: a command in the words of its type.
 *
 * Runs wherever a command is taken up; computes only.
 */
#include "postgres.h"

#include "common/shortest_dec.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/uuid.h"

#include "compat.h"
#include "core/body.h"
#include "core/template.h"
#include "event.h"

PG_FUNCTION_INFO_V1(iot_command_payload);

/* Values of the placeholders of a command template. */
typedef struct PayloadValues
{
	char		id[IOT_UUID_TEXT_SIZE];
	char	   *device;
	char	   *parameter;
	char		value[DOUBLE_SHORTEST_DECIMAL_LEN];
	char	   *version;
	char	   *word;			/* the number where the value has no label */
} PayloadValues;

static const char *
payload_lookup(void *arg, const char *name, size_t name_len, size_t *len)
{
	const PayloadValues *values = arg;
	const struct
	{
		const char *name;
		const char *value;
	}			known[] = {
		{"id", values->id},
		{"device", values->device},
		{"parameter", values->parameter},
		{"action", "set"},
		{"value", values->value},
		{"version", values->version},
		{"word", values->word}
	};

	for (size_t i = 0; i < lengthof(known); i++)
	{
		if (strlen(known[i].name) == name_len && memcmp(known[i].name, name, name_len) == 0 &&
			known[i].value != NULL)
		{
			*len = strlen(known[i].value);
			return known[i].value;
		}
	}
	return NULL;
}

/* The label that stands for the value, or NULL. */
static char *
find_word(Jsonb *labels, double value)
{
	JsonbIterator *iterator = JsonbIteratorInit(&labels->root);
	JsonbIteratorToken token;
	JsonbValue	item;
	char	   *word = NULL;

	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			word = pnstrdup(item.val.string.val, item.val.string.len);
		else if (token == WJB_VALUE && item.type == jbvNumeric && word != NULL &&
				 DatumGetFloat8(DirectFunctionCall1(numeric_float8,
													NumericGetDatum(item.val.numeric))) == value)
			return word;
	}
	return NULL;
}

/*
 * The template with {json} put in terms of the others: a label goes between quotation marks, a
 * number does not.
 */
static void
expand_json(const char *template, size_t len, bool labelled, StringInfo out)
{
	const char *name;
	size_t		name_len;
	size_t		offset = 0;
	size_t		copied = 0;

	initStringInfo(out);
	while (iot_template_next(template, len, &offset, &name, &name_len))
	{
		if (name_len != strlen("json") || memcmp(name, "json", name_len) != 0)
			continue;
		appendBinaryStringInfo(out, template + copied, (int) (name - 1 - (template + copied)));
		appendStringInfoString(out, labelled ? "\"{word}\"" : "{value}");
		copied = offset;
	}
	appendBinaryStringInfo(out, template + copied, (int) (len - copied));
}

/*
 * iot_internal.command_payload(template text, command_id uuid, device text, parameter text,
 * value double precision, version bigint, labels jsonb, scale double precision,
 * shift double precision) returns text: what goes to the device.  A command on the wire is always a
 * "set" of the resulting value, so that a repeat does no harm.  A value without a label goes in the
 * device's own measure.
 */
Datum
iot_command_payload(PG_FUNCTION_ARGS)
{
	static const char standard[] = "{\"id\":\"{id}\",\"parameter\":\"{parameter}\","
		"\"action\":\"set\",\"value\":{value},\"version\":{version}}";
	const char *template = standard;
	size_t		template_len = sizeof(standard) - 1;
	PayloadValues values = {0};
	StringInfoData expanded;
	IotTemplateMode mode;
	bool		labelled;
	double		value;
	size_t		len;
	char	   *out;

	for (int i = 1; i < 6; i++)
	{
		if (PG_ARGISNULL(i))
			PG_RETURN_NULL();
	}
	if (!PG_ARGISNULL(0))
	{
		text	   *own = PG_GETARG_TEXT_PP(0);

		template = VARDATA_ANY(own);
		template_len = VARSIZE_ANY_EXHDR(own);
	}
	iot_uuid_text(PG_GETARG_UUID_P(1), values.id);
	values.device = text_to_cstring(PG_GETARG_TEXT_PP(2));
	values.parameter = text_to_cstring(PG_GETARG_TEXT_PP(3));
	value = iot_scale_to_device(PG_GETARG_FLOAT8(4), PG_ARGISNULL(7) ? 1 : PG_GETARG_FLOAT8(7),
								PG_ARGISNULL(8) ? 0 : PG_GETARG_FLOAT8(8));
	double_to_shortest_decimal_buf(value, values.value);
	values.version = psprintf(INT64_FORMAT, PG_GETARG_INT64(5));
	if (!PG_ARGISNULL(6) && JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(6)))
		values.word = find_word(PG_GETARG_JSONB_P(6), PG_GETARG_FLOAT8(4));
	labelled = values.word != NULL;
	if (!labelled)
		values.word = values.value;

	expand_json(template, template_len, labelled, &expanded);
	template = expanded.data;
	template_len = expanded.len;
	mode = iot_template_is_json(template, template_len) ? IOT_TEMPLATE_JSON : IOT_TEMPLATE_TEXT;
	len = iot_template_render(template, template_len, mode, payload_lookup, &values, NULL, 0);
	out = palloc(len + 1);
	(void) iot_template_render(template, template_len, mode, payload_lookup, &values, out, len + 1);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out, len));
}
