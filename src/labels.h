/*
 * labels.h
 *		Words that devices say instead of numbers.
 */
#ifndef IOT_LABELS_H
#define IOT_LABELS_H

typedef struct IotLabels
{
	int			count;
	struct
	{
		const char *word;
		uint32		len;
		double		value;
	}			labels[FLEXIBLE_ARRAY_MEMBER];
} IotLabels;

extern const IotLabels *iot_labels_make(Datum jsonb);
extern bool iot_labels_find(const IotLabels *labels, const char *word, size_t len,
							double *value);

#endif							/* IOT_LABELS_H */
