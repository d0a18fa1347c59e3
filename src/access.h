/*
 * access.h
 *		Who is asking.
 */
#ifndef IOT_ACCESS_H
#define IOT_ACCESS_H

extern PGDLLEXPORT char *iot_current_username(void);
extern PGDLLEXPORT bool iot_is_admin(void);

#endif							/* IOT_ACCESS_H */
