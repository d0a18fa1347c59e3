/*
 * compat.h
 *		Differences between the supported server versions, and nothing else.
 */
#ifndef IOT_COMPAT_H
#define IOT_COMPAT_H

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "iot supports PostgreSQL 15 to 18"
#endif

/* VARDATA_ANY() and its kin, which were part of postgres.h before */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* before the declaration, where it was an attribute behind it */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

#endif							/* IOT_COMPAT_H */
