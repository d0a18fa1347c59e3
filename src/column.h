/*
 * column.h
 *		Columns of the rows that the last statement gave, in SPI_tuptable.
 */
#ifndef IOT_COLUMN_H
#define IOT_COLUMN_H

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

static inline Datum
iot_column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, isnull);
}

/* Zeros for NULL. */
static inline pg_uuid_t
iot_uuid_column(uint64 row, int number)
{
	pg_uuid_t	none = {0};
	bool		isnull;
	Datum		datum = iot_column(row, number, &isnull);

	return isnull ? none : *DatumGetUUIDP(datum);
}

/* In the current memory context; NULL for NULL. */
static inline char *
iot_text_column(uint64 row, int number)
{
	bool		isnull;
	Datum		datum = iot_column(row, number, &isnull);

	return isnull ? NULL : TextDatumGetCString(datum);
}

#endif							/* IOT_COLUMN_H */
