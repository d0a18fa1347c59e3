/*
 * labels.c
 *		Words that devices say instead of numbers.
 *
 * Part of what a backend knows of the registry; made when that is read, and owned by its cache.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "labels.h"

/*
 * Words, as devices encode them, and numbers of a labels object, in the current memory context; NULL
 * where it has none of use.
 */
const IotLabels *
iot_labels_make(Datum datum)
{
	Jsonb	   *jsonb = DatumGetJsonbP(datum);
	int			size = JB_ROOT_COUNT(jsonb);
	IotLabels  *labels;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *word = NULL;
	uint32		len = 0;

	if (!JB_ROOT_IS_OBJECT(jsonb) || size == 0)
		return NULL;
	labels = palloc(offsetof(IotLabels, labels) + sizeof(labels->labels[0]) * size);
	labels->count = 0;
	iterator = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			word = pnstrdup(value.val.string.val, value.val.string.len);
			word = pg_server_to_any(word, value.val.string.len, PG_UTF8);
			len = strlen(word);
		}
		else if (token == WJB_VALUE && value.type == jbvNumeric)
		{
			labels->labels[labels->count].word = word;
			labels->labels[labels->count].len = len;
			labels->labels[labels->count].value =
				DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
												   NumericGetDatum(value.val.numeric)));
			labels->count++;
		}
	}
	return labels;
}

/* Number that the word stands for; labels may be NULL. */
bool
iot_labels_find(const IotLabels *labels, const char *word, size_t len, double *value)
{
	if (labels == NULL)
		return false;
	for (int i = 0; i < labels->count; i++)
	{
		if (labels->labels[i].len == len && memcmp(labels->labels[i].word, word, len) == 0)
		{
			*value = labels->labels[i].value;
			return true;
		}
	}
	return false;
}
