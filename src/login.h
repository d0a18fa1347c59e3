/*
 * login.h
 *		Logging in: how often, how many at once, and what failed.
 */
#ifndef IOT_LOGIN_H
#define IOT_LOGIN_H

extern void iot_login_request(void);
extern void iot_login_start(void);
extern PGDLLEXPORT bool iot_login_failures_waiting(void);

#endif							/* IOT_LOGIN_H */
