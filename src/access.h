/*
 * access.h
 *		Who is asking.
 */
#ifndef IOT_ACCESS_H
#define IOT_ACCESS_H

#include "utils/uuid.h"

extern bool iot_is_authenticator(void);
extern PGDLLEXPORT char *iot_current_username(void);
extern PGDLLEXPORT bool iot_is_admin(void);
extern PGDLLEXPORT char *iot_require_operate(const pg_uuid_t *device_id, const char *device);

#endif							/* IOT_ACCESS_H */
