/*
 * push.h
 *		Notifications on their way to sockets, and who may have them.
 */
#ifndef IOT_PUSH_H
#define IOT_PUSH_H

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/uuid.h"

/* A user whom the daemon asks for, in the order in which it names them. */
typedef struct IotPushUser
{
	char	   *name;
	bool		is_admin;		/* views every device */
	Datum		groups;			/* uuid[]: of the device groups in question, those that he views */
	bool		no_groups;
	Datum		language;
	bool		no_language;
	Datum		time_zone;
	bool		no_time_zone;
} IotPushUser;

typedef struct IotPushUsers
{
	int			count;
	IotPushUser *users;
} IotPushUsers;

/* A notification; pointers live until SPI_finish. */
typedef struct IotPushNotice
{
	int64		seq;
	char	   *audience;
	char	   *author;			/* NULL: none */
	bool		has_device;
	pg_uuid_t  *device_group;	/* NULL: the device is gone, or there was none */
	bool		told_before;	/* an earlier notification tells of the same event */
	bool		held;			/* for somebody, who has muted it or has quiet hours */
	int		   *recipients;		/* ordinals, from 1 on */
	int			nrecipients;
} IotPushNotice;

extern void iot_push_users(ArrayType *usernames, Datum device_groups, IotPushUsers *users);
extern void iot_push_choose(const IotPushUsers *users, IotPushNotice *notice);
extern Datum iot_push_ordinals(const int *ordinals, int count);

#endif							/* IOT_PUSH_H */
