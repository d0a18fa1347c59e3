/*
 * uuidv7.h
 *		Time-ordered uuids.
 */
#ifndef IOT_UUIDV7_H
#define IOT_UUIDV7_H

#include "utils/uuid.h"

extern PGDLLEXPORT void iot_uuidv7(pg_uuid_t *uuid);

#endif							/* IOT_UUIDV7_H */
