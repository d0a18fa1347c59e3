/*
 * mqtt_command.h
 *		The commands that an adapter has taken up: whose turn it is, and what became of them.
 */
#ifndef IOT_MQTT_COMMAND_H
#define IOT_MQTT_COMMAND_H

#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "lib/pairingheap.h"
#include "utils/uuid.h"

#include "core/topic.h"
#include "ingest.h"

typedef enum IotAckMode
{
	IOT_ACK_DEVICE,				/* the device says so on its own topic */
	IOT_ACK_ECHO,				/* the value comes back as a measurement */
	IOT_ACK_BROKER				/* the broker has it and knows a subscriber */
} IotAckMode;

typedef enum IotCommandState
{
	IOT_COMMAND_WAITING,		/* behind another one of its sensor */
	IOT_COMMAND_READY,			/* to be sent */
	IOT_COMMAND_SENT			/* until answered, or due again */
} IotCommandState;

/* A command as taken up; strings belong to whoever holds it. */
typedef struct IotCommand
{
	pg_uuid_t	command_id;		/* first: key of the table */
	pg_uuid_t	device_id;
	pg_uuid_t	parameter_id;
	char		device[IOT_DEVICE_NAME_MAX + 1];
	char	   *parameter;
	double		value;
	int64		version;
	int			attempts;
	int			max_attempts;
	int			ack_timeout_ms;
	IotAckMode	ack_mode;
	TimestampTz deadline;
	char	   *topic;
	char	   *payload;

	/* kept by mqtt_command.c */
	IotCommandState state;
	int			mid;			/* 0: not on this connection */
	bool		accepted;		/* the broker has it */
	bool		allowed;		/* its next attempt is committed */
	bool		ended;			/* its end is among the results to be recorded */
	int64		ends_at;		/* its deadline by the worker's clock, which nobody sets */
	int64		due_at;			/* while SENT: to be looked at again, by the worker's clock */
	dlist_node	link;			/* in the list of its state, or of its sensor */
	pairingheap_node due;
} IotCommand;

/* An end that the adapter itself found. */
typedef struct IotCommandEnd
{
	IotCommand *command;
	bool		ok;
	const char *error;			/* NULL where ok */
} IotCommandEnd;

/* What stands for no answer; the saga knows an answer after it as late. */
#define IOT_TIMED_OUT	"timed out"

extern void iot_command_init(void);
extern void iot_command_reset(void);
extern int	iot_command_count(void);
extern int	iot_command_room(void);
extern void iot_command_add(const IotCommand *row, bool resumed);
extern bool iot_command_sensor_free(const pg_uuid_t *device_id, const pg_uuid_t *parameter_id);
extern IotCommand *iot_command_find(const pg_uuid_t *command_id);
extern int	iot_command_ready(IotCommand **commands, int max, int max_in_flight);
extern void iot_command_sent(IotCommand *command, int mid);
extern void iot_command_unsendable(IotCommand *command);
extern void iot_command_published(int mid, int reason);
extern void iot_command_link_down(void);
extern void iot_command_link_up(void);
extern long iot_command_left_ms(const IotCommand *command);
extern void iot_command_clock_set(void);
extern void iot_command_look_at_due(bool link_up);
extern IotCommand *iot_command_echoed(const IotIngestValue *value);
extern int	iot_command_ends(const IotCommandEnd **ends);
extern void iot_command_forget_ends(int count);
extern void iot_command_finish(IotCommand *command);
extern bool iot_command_has_ready(int max_in_flight);
extern long iot_command_timeout_ms(void);

#endif							/* IOT_MQTT_COMMAND_H */
